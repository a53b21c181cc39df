//! What follows a record that a reader knows: the next ones or, where it missed very many, what leads to the newest
//! state in as few rounds as a clone takes.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use statehold_core::limits::{FAR_BEHIND_RECORDS, LOG_BATCH_BYTES, SEGMENT_RECORDS};
use statehold_core::record::RecordRef;
use statehold_core::time::Timestamp;

use super::opening::Until;
use super::{PARALLEL_RECORDS, Repository, segment_of};
use crate::error::{Error, Result};
use crate::format::record::StoredRecord;
use crate::layout;
use crate::remote::{Batch, Opening, Remote as _};

/// A record that is younger was met by a reader who looks often, in milliseconds.
const RECENT_MS: i64 = 3 * 60 * 1_000;
/// How many of the next segments such a reader looks for before it takes a listing.
const SEGMENTS_LOOKED_FOR: u64 = 2;
/// Whoever has not looked for so long may be far behind, in milliseconds. For a machine that looks no more often it
/// is a listing each time, for everybody else none: 2,880 listings a month at most.
const AWAY_MS: i64 = 15 * 60 * 1_000;

/// When a log was last looked at, by the clock of who looks. It says how the next look begins, never what it finds.
#[derive(Debug)]
pub(super) struct LastLook(AtomicI64);

impl Default for LastLook {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl LastLook {
    fn note(&self, at: Timestamp) {
        self.0.store(at.as_millis(), Ordering::Relaxed);
    }

    /// Whether it was long ago, or never. A clock that was set back says nothing, so then, too.
    fn is_long_ago(&self, now: Timestamp) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let since = now.as_millis().checked_sub(last);
        !since.is_some_and(|since| (0..AWAY_MS).contains(&since))
    }
}

impl Repository {
    /// Says when whoever goes on here last looked, before this was opened. Without it a first look counts as the
    /// first in a long time: it takes a listing more, and few rounds however much is new.
    pub fn looked_at(&self, time: Timestamp) {
        self.last_look.note(time);
    }

    /// Whether a look may find more than is read record by record. In a folder rounds cost nothing, and listings do.
    pub(super) fn begins_wide(&self, after: u64) -> bool {
        !self.store.is_folder()
            && (self.last_look.is_long_ago(self.clock.now()) || self.is_known_far(after))
    }

    /// Whether the log is known to have gone on far past a record, and what follows that one is not in memory.
    fn is_known_far(&self, after: u64) -> bool {
        let recent = self.recent();
        let newest = recent.records.back();
        recent.get(after.saturating_add(1)).is_none()
            && newest.is_some_and(|newest| newest.record.envelope.number > far_from(after))
    }

    /// The records after one that has to stand in the log, or the first of them and what leads to the newest state.
    /// The newest checkpoint is looked for beside the next record, as a fresh clone does, so that either way
    /// is three rounds. Where a record follows, the chain shows whether it follows this one.
    pub(super) async fn look_wide(&self, known: RecordRef) -> Result<Batch> {
        let (now, after) = (self.clock.now(), known.number);
        let (first, keys) = futures::try_join!(
            self.record(after.saturating_add(1)),
            self.checkpoint_keys(None)
        )?;
        let Some(first) = first else {
            self.confirm(known).await?;
            self.looked_at(now);
            return Ok(Batch::default());
        };
        if first.record.envelope.parent == known.id {
            self.seen.get_or_init(async || ()).await;
        }
        self.remember(&first);
        let newest = keys.first().map_or(0, |(number, _)| *number);
        let batch = if first.is_retired() || newest > far_from(after) {
            let opening = self.opening_of(keys, Until::TheEnd, 0).await;
            far(first, if_of_use(opening)?)
        } else {
            self.near_a_checkpoint(first, after, keys).await?
        };
        self.looked_at(now);
        Ok(batch)
    }

    /// The same where the records up to the newest checkpoint are few. A listing says how many follow it; it is
    /// read meanwhile, should they be too many.
    async fn near_a_checkpoint(
        &self,
        first: StoredRecord,
        after: u64,
        keys: Vec<(u64, String)>,
    ) -> Result<Batch> {
        let newest = keys
            .into_iter()
            .next()
            .filter(|(number, _)| *number > after);
        let checkpoint = async {
            match &newest {
                Some((number, key)) => self.read_checkpoint(*number, key).await,
                None => Ok(None),
            }
        };
        let next = first.record.envelope.number;
        let (numbers, checkpoint) = futures::try_join!(self.first_numbers_after(next), checkpoint)?;
        if numbers.len() < FAR_BEHIND_RECORDS {
            return self.with_listed(Next::of(first), after, &numbers).await;
        }
        // As many as a listing holds may be followed by more.
        let checkpoint = checkpoint.filter(|_| numbers.len() < 2 * FAR_BEHIND_RECORDS);
        let Some(checkpoint) = checkpoint else {
            return Ok(far(first, None));
        };
        let own = checkpoint.at.number;
        let numbers: Vec<u64> = numbers
            .into_iter()
            .filter(|number| *number >= own)
            .collect();
        let trees = self.tree_objects(&checkpoint.tree);
        let both = futures::try_join!(trees, self.listed_of(own, &numbers));
        let opening = both.map(|(trees, batch)| Opening {
            checkpoint: Some((checkpoint, trees)),
            batch,
            moves: None,
        });
        Ok(far(first, if_of_use(opening)?))
    }

    /// The records after one, or how to get to the newest state sooner, as [`crate::Remote::records_since`] has it, for
    /// who makes sure of that record in another way.
    pub async fn records_if_near(&self, after: u64) -> Result<Batch> {
        let now = self.clock.now();
        let is_known_far = self.is_known_far(after);
        let next = self.next_records(after).await?;
        let batch = if next.is_all || next.is_retired() {
            next.batch()
        } else if is_known_far {
            next.far()
        } else {
            let numbers = self.first_numbers_after(next.last(after)).await?;
            match numbers.len() > FAR_BEHIND_RECORDS {
                true => next.far(),
                false => self.with_listed(next, after, &numbers).await?,
            }
        };
        self.looked_at(now);
        Ok(batch)
    }

    /// The records after one, all that a batch holds.
    pub(super) async fn all_records(&self, after: u64) -> Result<Batch> {
        let now = self.clock.now();
        let next = self.next_records(after).await?;
        let batch = if next.is_all || next.is_retired() {
            next.batch()
        } else {
            let numbers = self.numbers_after(next.last(after)).await?;
            self.with_listed(next, after, &numbers).await?
        };
        self.looked_at(now);
        Ok(batch)
    }

    /// At least the first of them, in one request.
    async fn first_numbers_after(&self, after: u64) -> Result<Vec<u64>> {
        let after = layout::record(after);
        let keys = self.store.list_first(layout::LOG, &after).await?;
        Ok(keys
            .iter()
            .filter_map(|key| layout::parse_record(key))
            .collect())
    }

    /// The records after one that are in memory, and the first few that the store has to be asked for. Who finds
    /// none there knows all for one read. Who finds one that is not of the last minutes has missed many, as a
    /// rule, and goes on by a listing at once: it tells how many, so that they are read in one round. So does who
    /// has just started. Otherwise a few are looked for first, since a listing costs as much as a write; and in a
    /// folder, where it goes through all of the log.
    async fn next_records(&self, after: u64) -> Result<Next> {
        let mut next = Next::default();
        let is_met = after == 0 || self.recent().get(after).is_some();
        while next.bytes < LOG_BATCH_BYTES {
            let number = next.last(after) + 1;
            let Some(kept) = self.recent().get(number).cloned() else {
                break;
            };
            next.push(kept);
        }
        if next.bytes >= LOG_BATCH_BYTES {
            return Ok(next);
        }
        let Some(first) = self.record(next.last(after) + 1).await? else {
            next.is_all = true;
            return Ok(next);
        };
        self.remember(&first);
        let now = self.store.time(&*self.clock).as_millis();
        let age = now.saturating_sub(first.record.envelope.time.as_millis());
        next.push(first);
        if !next.is_retired() && (self.store.is_folder() || (is_met && age < RECENT_MS)) {
            self.look_ahead(after, &mut next).await?;
        }
        Ok(next)
    }

    /// Looks for one more record, and for the ones that the next segments begin with. If there is one more, the end
    /// of the log lies between two of them: all between them is read at once, the last segment's one by one.
    async fn look_ahead(&self, after: u64, next: &mut Next) -> Result<()> {
        let from = next.last(after) + 1;
        let (_, end) = segment_of(from);
        let starts = (0..SEGMENTS_LOOKED_FOR).map(|ahead| end + 1 + ahead * SEGMENT_RECORDS);
        let marks: Vec<u64> = std::iter::once(from).chain(starts).collect();
        let (found, is_clean) = self.prefix_of(&marks).await?;
        let Some(last) = found.last() else {
            next.is_all = is_clean;
            return Ok(());
        };
        let last = last.record.reference();
        let Some(until) = marks.get(found.len()).filter(|_| is_clean) else {
            next.take(self, found.into_iter().take(1));
            return Ok(());
        };
        let parent = found.last().map(|stored| stored.record.envelope.parent);
        let between = async {
            match last.number > from + 1 {
                true => {
                    let end = last.number - 1;
                    self.range_before(from + 1, end, last.number, parent).await
                }
                false => Ok(Vec::new()),
            }
        };
        let ahead: Vec<u64> = (last.number + 1..*until).collect();
        let (between, (ahead, is_clean)) = futures::try_join!(between, self.prefix_of(&ahead))?;
        let mut found = found.into_iter();
        next.take(self, found.next());
        next.take(self, between);
        next.take(self, found.next_back());
        next.take(self, ahead);
        next.is_all = is_clean;
        Ok(())
    }

    /// Those of these records that are there, up to the first that is not. Whether none is there after that one,
    /// which tells a lost one from the end of the log.
    async fn prefix_of(&self, numbers: &[u64]) -> Result<(Vec<StoredRecord>, bool)> {
        let found: Vec<Option<StoredRecord>> = stream::iter(numbers.to_vec())
            .map(|number| self.record(number))
            .buffered(PARALLEL_RECORDS)
            .try_collect()
            .await?;
        let end = found
            .iter()
            .position(Option::is_none)
            .unwrap_or(found.len());
        let is_clean = found[end..].iter().all(Option::is_none);
        Ok((
            found.into_iter().map_while(|found| found).collect(),
            is_clean,
        ))
    }

    /// Records, and those after them that a listing found, as far as a batch holds.
    async fn with_listed(&self, next: Next, after: u64, numbers: &[u64]) -> Result<Batch> {
        let from = next.last(after) + 1;
        let rest = self.listed(from, numbers, next.bytes).await?;
        let mut records = next.records;
        records.extend(rest.records);
        Ok(Batch { records, ..rest })
    }
}

/// The last record that whoever knows this one reads one by one.
const fn far_from(after: u64) -> u64 {
    after.saturating_add(FAR_BEHIND_RECORDS as u64)
}

/// The next record alone, with what leads to the newest state.
fn far(first: StoredRecord, opening: Option<Opening>) -> Batch {
    Batch {
        opening: opening.map(Box::new),
        ..Next::of(first).far()
    }
}

/// An opening, unless a collector came between: whoever begins anew finds what it left.
fn if_of_use(opening: Result<Opening>) -> Result<Option<Opening>> {
    match opening {
        Ok(opening) => Ok(Some(opening)),
        Err(error @ (Error::NotFound { .. } | Error::Damaged { .. } | Error::Retired { .. })) => {
            tracing::debug!(%error, "what was looked for beside the next record is of no use");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What [`Repository::next_records`] finds.
#[derive(Debug, Default)]
struct Next {
    records: Vec<StoredRecord>,
    bytes: usize,
    /// Whether there are no more.
    is_all: bool,
}

impl Next {
    fn of(first: StoredRecord) -> Self {
        let mut next = Self::default();
        next.push(first);
        next
    }

    fn push(&mut self, stored: StoredRecord) {
        self.bytes += stored.bytes.len();
        self.records.push(stored);
    }

    /// Takes further records, which their reader is likely to ask content of.
    fn take(&mut self, repository: &Repository, records: impl IntoIterator<Item = StoredRecord>) {
        for stored in records {
            repository.remember(&stored);
            self.push(stored);
        }
    }

    /// The number of the last, or of the one that they are after.
    const fn last(&self, after: u64) -> u64 {
        after + self.records.len() as u64
    }

    /// Whether the last is retired. Whoever meets such records goes on from a checkpoint, so few are enough.
    fn is_retired(&self) -> bool {
        self.records.last().is_some_and(StoredRecord::is_retired)
    }

    fn batch(self) -> Batch {
        Batch {
            more: !self.is_all,
            records: self.records,
            ..Batch::default()
        }
    }

    /// The same for who is so far behind that a checkpoint gets it further.
    fn far(self) -> Batch {
        Batch {
            more: true,
            far: true,
            records: self.records,
            opening: None,
        }
    }
}
