//! A repository in a store: reading, appending, and the caches beside the log.

mod appending;
mod checkpoints;
mod looking;
mod opening;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use statehold_core::digest::Digest;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{PackId, RepositoryId};
use statehold_core::limits::{LOG_BATCH_BYTES, PACK_BYTES_MAX, SEGMENT_RECORDS};
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use tokio::sync::OnceCell;

use crate::content::read_pack;
use crate::error::{Error, Result};
use crate::format::description::Description;
use crate::format::epoch;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::format::segment;
use crate::layout;
use crate::ranges::{Run, runs};
use crate::remote::{Batch, Opening, Remote, check_range, object_of};
use crate::store::{Creation, Store};

use self::looking::LastLook;

/// Requests under way at once for one caller.
const PARALLEL: usize = 16;
/// The same where records are read: whoever is not far behind reads all in one round.
const PARALLEL_RECORDS: usize = 24;
/// Stored bytes of records kept in memory.
const RECENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// So many records of a segment are worth reading all of it.
const SEGMENT_WORTH_RECORDS: u64 = 3;
/// How often a pack is written that is gone when it is looked for.
const PACK_ATTEMPTS_MAX: u32 = 3;
/// As much of a record as holds its envelope, unless it introduces hundreds of packs.
const BEGINNING_BYTES: u64 = 16 * 1024;

/// A repository in a store.
#[derive(Debug)]
pub struct Repository {
    store: Store,
    description: Description,
    /// The description as it is stored; its digest is the id of record 0.
    described: Bytes,
    genesis: Digest,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    recent: Mutex<Recent>,
    /// Set once the description was seen in the store.
    seen: OnceCell<()>,
    /// The newest epoch that is known to have been opened in this store.
    opened: AtomicU64,
    last_look: LastLook,
}

/// The newest records, by number. Records never change, so nothing in here goes stale.
#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<StoredRecord>,
    bytes: usize,
}

impl Recent {
    fn get(&self, number: u64) -> Option<&StoredRecord> {
        let first = self.records.front()?.record.envelope.number;
        self.records
            .get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn push(&mut self, stored: &StoredRecord) {
        let number = stored.record.envelope.number;
        match self.records.back() {
            Some(last) if last.record.envelope.number + 1 != number => {
                if last.record.envelope.number >= number {
                    return;
                }
                *self = Self::default();
            }
            _ => {}
        }
        self.bytes += stored.bytes.len();
        self.records.push_back(stored.clone());
        while self.bytes > RECENT_BYTES_MAX {
            match self.records.pop_front() {
                Some(old) => self.bytes -= old.bytes.len(),
                None => return,
            }
        }
    }
}

impl Repository {
    /// Opens the repository in a store; `None` when there is none.
    pub async fn open_existing(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Option<Self>> {
        let Some(bytes) = store.read(layout::REPOSITORY).await? else {
            return Ok(None);
        };
        let mut found = Self::described(store, bytes, clock, entropy)?;
        found.seen = OnceCell::new_with(Some(()));
        Ok(Some(found))
    }

    /// Opens the repository in a store by its description, which was read there once and never
    /// changes. The store isn't asked before [`Remote::confirm`] or the first reading does.
    pub fn described(
        store: Store,
        description: Bytes,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let described = description;
        let (description, genesis) = Description::from_bytes(&described)?;
        Ok(Self {
            store,
            description,
            described,
            genesis,
            clock,
            entropy,
            recent: Mutex::default(),
            seen: OnceCell::new(),
            opened: AtomicU64::new(0),
            last_look: LastLook::default(),
        })
    }

    /// Opens the repository in a store, and makes it first if there is none.
    pub async fn open_or_create(
        store: Store,
        id: RepositoryId,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let (clock_, entropy_) = (Arc::clone(&clock), Arc::clone(&entropy));
        if let Some(found) = Self::open_existing(store.clone(), clock_, entropy_).await? {
            return Ok(found);
        }
        store.check_clock(&*clock).await?;
        // A log without its description is one that lost it, and another one would not fit.
        if !store.list_first(layout::LOG, layout::LOG).await?.is_empty() {
            let reason = "it is missing, and the log has records";
            return Err(Error::damaged(layout::REPOSITORY, reason));
        }
        let description = Description::new(id, clock.now());
        store
            .create(layout::REPOSITORY, description.to_bytes().into())
            .await?;
        // Whoever won the race: what stands there now is the repository.
        let found = Self::open_existing(store, clock, entropy).await?;
        found.ok_or_else(|| Error::NotFound {
            object: layout::REPOSITORY.into(),
        })
    }

    /// What it lies in.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The description as it is stored, for [`Self::described`].
    pub const fn stored_description(&self) -> &Bytes {
        &self.described
    }

    /// Looks for the description in the store, once.
    async fn see(&self) -> Result<()> {
        let look = async || {
            let unavailable = |source: &str| Error::Unavailable {
                what: "the repository".into(),
                source: source.into(),
            };
            match self.store.read(layout::REPOSITORY).await? {
                Some(bytes) if bytes == self.described => Ok(()),
                Some(_) => Err(Error::refused(
                    "the store holds another repository than the workspace is linked with; \
                     `statehold unlink`, then `statehold link` if that is meant",
                )),
                None => Err(unavailable("the store holds none; is it mounted?")),
            }
        };
        self.seen.get_or_try_init(look).await.map(drop)
    }

    /// Makes sure that a record stands in the log, unless it was met here before.
    async fn see_record(&self, known: RecordRef) -> Result<()> {
        let RecordRef { number, id } = known;
        let met = self.recent().get(number).map(|stored| stored.record.id);
        if number == 0 || met == Some(id) {
            return Ok(());
        }
        let key = layout::record(number);
        let found = match self.store.read_beginning(&key, BEGINNING_BYTES).await? {
            None => None,
            Some(beginning) => match StoredRecord::read_id(number, &beginning)? {
                Some(found) => Some(found),
                None => self.record(number).await?.map(|stored| stored.record.id),
            },
        };
        match found {
            Some(found) if found == id => Ok(()),
            Some(found) => Err(Error::Diverged {
                number,
                expected: id,
                found,
            }),
            None => {
                self.see().await?;
                let reason = "it was there before; the store seems to have been set back to an \
                              older copy. If that is meant, `statehold unlink`, then `statehold \
                              link` joins what it holds now";
                Err(Error::damaged(key, reason))
            }
        }
    }

    /// Whether the log's epoch began in this store. One that was copied into it goes on elsewhere, and would part
    /// from that if anybody appended here: also where a fence kept them off before the copy came.
    pub(crate) async fn is_opened_here(&self, state: &State) -> Result<bool> {
        let (epoch, Some(last)) = (state.epoch(), state.epochs.last()) else {
            return Ok(true);
        };
        if self.opened.load(Ordering::Relaxed) == epoch {
            return Ok(true);
        }
        let key = layout::epoch(epoch);
        let Some(bytes) = self.store.read(&key).await? else {
            return Ok(false);
        };
        let stored = self.record(last.by.number).await?;
        let nonce = stored.map(|stored| stored.record.envelope.draft.nonce);
        let is_here = nonce == Some(epoch::read(&key, &bytes)?);
        if is_here {
            self.opened.store(epoch, Ordering::Relaxed);
        }
        Ok(is_here)
    }

    /// What ages are reckoned by where the store has no clock of its own.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// What names are drawn from.
    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// Both, for something else that works on the same store.
    pub(crate) fn surroundings(&self) -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
        (Arc::clone(&self.clock), Arc::clone(&self.entropy))
    }

    /// The state of the repository before its first record.
    pub fn empty_state(&self) -> State {
        State::empty(self.genesis)
    }

    /// Writes a pack that the caller has checked, as [`Remote::put_pack`] does one that nobody has.
    pub async fn put_checked_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        if bytes.len() > PACK_BYTES_MAX {
            let found = bytes.len();
            return Err(Error::refused(format!(
                "the pack has {found} bytes, {PACK_BYTES_MAX} is the limit"
            )));
        }
        self.see().await?;
        let key = layout::pack(id);
        for _ in 0..PACK_ATTEMPTS_MAX {
            if self.store.create(&key, bytes.clone()).await? == Creation::New {
                return Ok(());
            }
            // Names are never drawn twice, so this is the same pack sent again.
            match self.store.read(&key).await? {
                Some(there) if there == bytes => return Ok(()),
                Some(_) => {
                    return Err(Error::refused(format!("{key} exists with other content")));
                }
                // A collector took it for garbage just then; whoever names it is told so.
                None => {}
            }
        }
        Err(Error::NotFound { object: key })
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        // A panic elsewhere leaves at worst fewer records in here than there could be.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, stored: &StoredRecord) {
        self.recent().push(stored);
    }

    /// Forgets the records up to one, so that what was cut away in the store is had from nowhere here.
    pub(crate) fn forget(&self, last: u64) {
        let mut recent = self.recent();
        let first = recent.records.front();
        if first.is_some_and(|first| first.record.envelope.number <= last) {
            *recent = Recent::default();
        }
    }

    /// A record, from memory or the store.
    pub async fn record(&self, number: u64) -> Result<Option<StoredRecord>> {
        if let Some(found) = self.recent().get(number) {
            return Ok(Some(found.clone()));
        }
        let bytes = self.store.read(&layout::record(number)).await?;
        bytes
            .map(|bytes| StoredRecord::read(number, bytes))
            .transpose()
    }

    /// The records of a range that is known to exist. What lies in a whole segment comes out of it.
    async fn range(&self, from: u64, to: u64) -> Result<Vec<StoredRecord>> {
        self.range_of(from, to, to).await
    }

    /// The same of a log that is known to go on up to a record: then a segment has what of it is wanted, also
    /// where it goes past the range.
    async fn range_of(&self, from: u64, to: u64, known: u64) -> Result<Vec<StoredRecord>> {
        self.range_before(from, to, known, None).await
    }

    /// The same, where the record after the range may have told the id of its last.
    async fn range_before(
        &self,
        from: u64,
        to: u64,
        known: u64,
        last: Option<Digest>,
    ) -> Result<Vec<StoredRecord>> {
        let mut parts = Vec::new();
        let mut next = from;
        while next <= to {
            let (_, end) = segment_of(next);
            let there = end.min(to);
            let worth_it = there - next + 1 >= SEGMENT_WORTH_RECORDS && (end <= to || end <= known);
            let last = if worth_it { there } else { next };
            parts.push((next, last, worth_it));
            next = last + 1;
        }
        let read = |(from, to, worth_it): (u64, u64, bool)| async move {
            let (begin, end) = segment_of(from);
            if worth_it
                && self.recent().get(from).is_none()
                && let Some(mut records) = self.segment(begin, end).await?
            {
                records.retain(|stored| (from..=to).contains(&stored.record.envelope.number));
                return Ok((records, true));
            }
            Ok::<_, Error>((self.one_by_one(from, to).await?, false))
        };
        // What vouches for the last segment is read meanwhile.
        let ends_in_segment = parts.last().is_some_and(|(_, _, worth_it)| *worth_it);
        let end = async {
            match ends_in_segment && last.is_none() {
                true => Ok(self.record(to).await?.map(|end| end.record.id)),
                false => Ok(last),
            }
        };
        let parts = stream::iter(parts).map(read).buffered(PARALLEL_RECORDS);
        let (mut parts, end): (Vec<(Vec<StoredRecord>, bool)>, _) =
            futures::try_join!(parts.try_collect(), end)?;
        // A segment is a cache. Its last record has to be the one that the log names, and then the
        // chain vouches for the others; one that doesn't match is passed over.
        let mut next_parent = None;
        for (records, from_segment) in parts.iter_mut().rev() {
            let number = |stored: &StoredRecord| stored.record.envelope.number;
            let (Some(from), Some(to)) = (records.first().map(number), records.last().map(number))
            else {
                continue;
            };
            if *from_segment {
                let end = next_parent.or(end);
                if !is_chain(records) || records.last().map(|stored| stored.record.id) != end {
                    tracing::warn!(from, to, "a segment is not the log's; reading its records");
                    *records = self.one_by_one(from, to).await?;
                }
            }
            next_parent = records.first().map(|stored| stored.record.envelope.parent);
        }
        let records: Vec<StoredRecord> =
            parts.into_iter().flat_map(|(records, _)| records).collect();
        // Their content is likely to be asked for next.
        records.iter().for_each(|stored| self.remember(stored));
        Ok(records)
    }

    /// The records of a range that is known to exist, from the log itself.
    async fn one_by_one(&self, from: u64, to: u64) -> Result<Vec<StoredRecord>> {
        let one = |number| async move {
            let missing = || Error::NotFound {
                object: layout::record(number),
            };
            self.record(number).await?.ok_or_else(missing)
        };
        stream::iter(from..=to)
            .map(one)
            .buffered(PARALLEL_RECORDS)
            .try_collect()
            .await
    }

    /// A segment; `None` when it is missing or of no use, since the records themselves remain.
    async fn segment(&self, from: u64, to: u64) -> Result<Option<Vec<StoredRecord>>> {
        let key = layout::segment(from, to);
        let Some(bytes) = self.store.read(&key).await? else {
            return Ok(None);
        };
        match segment::read(&key, bytes, from, to) {
            Ok(records) => Ok(Some(records)),
            Err(error) => {
                tracing::warn!(%error, "a segment cannot be used; reading its records");
                Ok(None)
            }
        }
    }

    /// The numbers of the records after one, by listing.
    async fn numbers_after(&self, after: u64) -> Result<Vec<u64>> {
        let keys = self.store.list(layout::LOG, &layout::record(after)).await?;
        Ok(keys
            .iter()
            .filter_map(|key| layout::parse_record(key))
            .collect())
    }

    /// Records from `from` on, as far as the listing says and a batch holds. A record is only made
    /// when the one before it is there. So all up to the highest number are there, and one that the
    /// listing lacks was made while it went on, or is lost: reading it tells.
    /// `bytes` of the batch are taken already.
    async fn listed(&self, from: u64, numbers: &[u64], mut bytes: usize) -> Result<Batch> {
        let end = match numbers.last() {
            Some(highest) if *highest >= from => *highest,
            _ => return Ok(Batch::default()),
        };
        let (mut records, mut next) = (Vec::new(), from);
        while next <= end && bytes < LOG_BATCH_BYTES {
            // Up to the end of a segment, so that the next round begins with a whole one.
            let aligned = (next / SEGMENT_RECORDS + 5) * SEGMENT_RECORDS;
            let last = aligned.min(end);
            for stored in self.range(next, last).await? {
                bytes += stored.bytes.len();
                records.push(stored);
            }
            next = last + 1;
        }
        let more = next <= end;
        Ok(Batch {
            records,
            more,
            ..Batch::default()
        })
    }
}

/// The first and the last record of the segment that a record lies in.
const fn segment_of(number: u64) -> (u64, u64) {
    let before = number.saturating_sub(1) / SEGMENT_RECORDS * SEGMENT_RECORDS;
    (before + 1, before + SEGMENT_RECORDS)
}

/// Whether each record names the one before it as its parent.
fn is_chain(records: &[StoredRecord]) -> bool {
    records
        .windows(2)
        .all(|pair| pair[1].record.envelope.parent == pair[0].record.id)
}

#[async_trait]
impl Remote for Repository {
    fn description(&self) -> (&Description, Digest) {
        (&self.description, self.genesis)
    }

    async fn confirm(&self, known: RecordRef) -> Result<()> {
        if known.number == 0 {
            return self.see().await;
        }
        // Its id vouches for everything before it, the description included.
        self.see_record(known).await?;
        self.seen.get_or_init(async || ()).await;
        Ok(())
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        let now = self.clock.now();
        let ((), opening) = futures::try_join!(self.see(), self.opening(at))?;
        if at == Point::Newest {
            self.looked_at(now);
        }
        Ok(opening)
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        self.all_records(after).await
    }

    async fn records_since(&self, known: RecordRef, _content: Option<Scope>) -> Result<Batch> {
        if self.begins_wide(known.number) {
            return self.look_wide(known).await;
        }
        // A store that lost its newest records has nothing new to tell either.
        let both = futures::try_join!(self.records_if_near(known.number), self.confirm(known));
        both.map(|(batch, ())| batch)
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        check_range(after, until)?;
        self.range(after + 1, until).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = vec![None; places.len()];
        for (place, found) in places.iter().zip(&mut found) {
            if let ContentObject::Record(number) = object_of(place)? {
                *found = self
                    .recent()
                    .get(number)
                    .and_then(|record| cut(record, place));
            }
        }
        let missing = found
            .iter()
            .enumerate()
            .filter(|(_, found)| found.is_none());
        let read = |run: Run| async move {
            let key = run.object.to_string();
            let bytes = self.store.read_range(&key, run.span.clone()).await?;
            Ok::<_, Error>(run.split(places, &bytes))
        };
        let parts: Vec<Vec<(usize, Bytes)>> = stream::iter(runs(places, missing.map(|(i, _)| i))?)
            .map(read)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        for (index, bytes) in parts.into_iter().flatten() {
            found[index] = Some(bytes);
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn time(&self) -> Option<Timestamp> {
        Some(self.store.time(&*self.clock))
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        read_pack(id, bytes.clone())?;
        self.put_checked_pack(id, bytes).await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        self.see().await?;
        self.append_as(draft, known, None)
            .await
            .map(|(stored, _)| stored)
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        let number = state.head.number;
        if number > 0 && number.is_multiple_of(SEGMENT_RECORDS) {
            self.write_segment(number).await?;
        }
        if state.checkpoint_due() {
            self.write_checkpoint(state).await?;
            // Seldom enough for a walk through the folder, often enough for it to stay clean.
            match self.store.sweep(self.clock.now()).await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "removed what unfinished writes left behind"),
                Err(error) => tracing::warn!(%error, "unfinished writes may have left something"),
            }
        }
        Ok(())
    }
}

/// A content frame of a record that is in memory.
fn cut(stored: &StoredRecord, place: &Location) -> Option<Bytes> {
    if !stored.has_content() {
        return None;
    }
    let start = usize::try_from(place.offset).ok()?;
    let end = start.checked_add(place.stored as usize)?;
    (end <= stored.bytes.len()).then(|| stored.bytes.slice(start..end))
}
