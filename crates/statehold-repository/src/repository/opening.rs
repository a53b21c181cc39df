//! What a reader without a state begins with: a checkpoint, its listing, and the records that follow.

use statehold_core::collection::Collection;
use statehold_core::limits::CHECKPOINT_RECORDS_MAX;
use statehold_core::point::Point;
use statehold_core::time::Timestamp;

use super::Repository;
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::record::StoredRecord;
use crate::format::tree;
use crate::layout;
use crate::remote::{Batch, Opening};

/// How far a reader wants the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// As far as it goes.
    TheEnd,
    /// Up to this record.
    Record(u64),
}

impl Repository {
    /// What a reader without a state begins with.
    pub(super) async fn opening(&self, at: Point) -> Result<Opening> {
        match at {
            Point::Newest => self.opening_from(None, Until::TheEnd).await,
            Point::Record(number) => self.opening_at(number).await,
            Point::Then(number) => {
                let until = Until::Record(number);
                self.opening_from(Some(number), until).await
            }
            Point::Time(time) => self.opening_at_time(time).await,
        }
    }

    /// What leads to a moment: the newest checkpoint knows where the earlier ones stand in time, and where
    /// their listings are.
    pub(super) async fn opening_at_time(&self, time: Timestamp) -> Result<Opening> {
        let keys = self.checkpoint_keys(None).await?;
        let Some((number, key)) = keys.first() else {
            return self.opening_from(None, Until::TheEnd).await;
        };
        let numbers = self.numbers_after(number.saturating_sub(1));
        let newest = self.read_checkpoint(*number, key);
        let (newest, numbers) = futures::try_join!(newest, numbers)?;
        let Some(newest) = newest else {
            return self.opening_from(None, Until::TheEnd).await;
        };
        if newest.time <= time {
            let trees = self.tree_objects(&newest.tree);
            let records = self.listed_of(newest.at.number, &numbers);
            let (trees, batch) = futures::try_join!(trees, records)?;
            let checkpoint = Some((newest, trees));
            return Ok(Opening {
                checkpoint,
                batch,
                moves: None,
            });
        }
        let number = newest.at.number;
        let at = newest
            .earlier
            .partition_point(|earlier| earlier.time <= time);
        let until = newest.earlier.get(at).map_or(number, |next| next.number);
        let from = at.checked_sub(1).and_then(|last| newest.earlier.get(last));
        if newest.collection.collected > 0 {
            return self.opening_at_kept_time(&newest, time).await;
        }
        let Some(from) = from else {
            return self.opening_from(Some(0), Until::Record(until)).await;
        };
        let key = layout::checkpoint(from.number, 0);
        let (checkpoint, trees, batch) = futures::try_join!(
            self.read_checkpoint(from.number, &key),
            self.tree_objects(&from.tree),
            self.records_from(from.number, Until::Record(until), newest.at.number),
        )?;
        match checkpoint.filter(|found| found.tree == from.tree) {
            Some(found) => Ok(Opening {
                checkpoint: Some((found, trees)),
                batch,
                moves: None,
            }),
            // Another one was written in its place.
            None => {
                self.opening_from(Some(from.number), Until::Record(until))
                    .await
            }
        }
    }

    /// The same where somebody has collected: what was let go is refused, and listings stand in for records
    /// that are retired.
    async fn opening_at_kept_time(&self, newest: &Checkpoint, time: Timestamp) -> Result<Opening> {
        let collection = &newest.collection;
        let cut = collection.cut;
        let compaction = async {
            match collection.compacted {
                0 => Ok(None),
                number => self.record(number).await,
            }
        };
        let earlier = newest.earlier.iter();
        let at_cut = earlier.clone().find(|earlier| earlier.number == cut);
        let listings = collection.listings.iter();
        let listing = listings.rev().find(|listing| listing.time <= time);
        match (at_cut, listing) {
            (Some(at_cut), Some(listing)) if time < at_cut.time => {
                // The next record says until when it was so.
                let (opening, next, moves) = futures::try_join!(
                    self.listed_opening(listing.from, &listing.tree),
                    self.record(listing.to + 1),
                    compaction,
                )?;
                if next.is_some_and(|next| next.record.envelope.time <= time) {
                    check_kept(collection, listing.to + 1)?;
                }
                Ok(Opening { moves, ..opening })
            }
            (Some(at_cut), _) if time < at_cut.time => self.opening_by_times(0, cut, time).await,
            (None, _) if cut > 0 => {
                let from = earlier.rev().find(|earlier| earlier.time <= time);
                let from = from.map_or(0, |earlier| earlier.number);
                self.opening_by_times(from, newest.at.number, time).await
            }
            _ => {
                let from = earlier.clone().rev().find(|earlier| earlier.time <= time);
                let number = from.map_or(0, |from| from.number);
                let until = earlier.clone().find(|earlier| earlier.time > time);
                let until = until.map_or(newest.at.number, |next| next.number);
                let checkpoint = async {
                    let Some(from) = from else { return Ok(None) };
                    let key = layout::checkpoint(number, 0);
                    let (found, trees) = futures::try_join!(
                        self.read_checkpoint(number, &key),
                        self.tree_objects(&from.tree)
                    )?;
                    let found = found.filter(|found| found.tree == from.tree);
                    Ok::<_, Error>(found.map(|found| (found, trees)))
                };
                let records = self.records_from(number, Until::Record(until), newest.at.number);
                let (checkpoint, batch, moves) =
                    futures::try_join!(checkpoint, records, compaction)?;
                let is_before = |stored: &&StoredRecord| stored.record.envelope.time <= time;
                let last = batch.records.iter().rev().find(is_before);
                let at = last.map_or(number, |last| last.record.envelope.number);
                check_kept(collection, at)?;
                if from.is_some() && checkpoint.is_none() {
                    // Another one was written in its place.
                    return self.opening_at(at).await;
                }
                Ok(Opening {
                    checkpoint,
                    batch,
                    moves,
                })
            }
        }
    }

    /// What leads to a moment between two records: what is left of a record says what time it was, also where it
    /// is retired.
    async fn opening_by_times(&self, from: u64, until: u64, time: Timestamp) -> Result<Opening> {
        let mut at = from;
        while at < until {
            let last = until.min(at + 2 * CHECKPOINT_RECORDS_MAX);
            let records = self.range(at + 1, last).await?;
            let is_past = |stored: &StoredRecord| stored.record.envelope.time > time;
            match records.iter().position(is_past) {
                Some(past) => {
                    at += past as u64;
                    break;
                }
                None => at = last,
            }
        }
        self.opening_at(at).await
    }

    /// What a reader begins with who wants the state at an earlier record. The newest checkpoint knows
    /// whether that is kept, and by which way it is reached.
    pub(super) async fn opening_at(&self, number: u64) -> Result<Opening> {
        let keys = self.checkpoint_keys(None);
        let (keys, before) = futures::try_join!(keys, self.checkpoint_keys(Some(number)))?;
        // Where none is left before it, the newest one says whether records lead there.
        let known = keys.first().map_or(0, |(newest, _)| *newest);
        let is_told_later = before.is_empty() && !keys.is_empty();
        let opening = async {
            match is_told_later {
                true => Ok(None),
                false => self
                    .opening_of(before, Until::Record(number), known)
                    .await
                    .map(Some),
            }
        };
        let (later, opening) = futures::join!(self.later(keys, number), opening);
        let (listed, moves) = later?;
        let opening = match (listed, opening) {
            (Some(listed), _) => listed,
            (None, Ok(Some(opening))) => opening,
            (None, Ok(None)) => {
                self.opening_of(Vec::new(), Until::Record(number), known)
                    .await?
            }
            (None, Err(error)) => return Err(error),
        };
        Ok(Opening { moves, ..opening })
    }

    /// What the newest checkpoint says of an earlier record: the listing that stands in for it, and the
    /// compaction that says where content lies now.
    async fn later(
        &self,
        keys: Vec<(u64, String)>,
        number: u64,
    ) -> Result<(Option<Opening>, Option<StoredRecord>)> {
        let mut newest = None;
        for (at, key) in keys {
            newest = self.read_checkpoint(at, &key).await?;
            if newest.is_some() {
                break;
            }
        }
        let Some(newest) = newest.filter(|newest| newest.at.number > number) else {
            return Ok((None, None));
        };
        let collection = &newest.collection;
        check_kept(collection, number)?;
        let listing = collection.listing(number);
        let listed = async {
            match listing.filter(|_| number < collection.cut) {
                Some(listing) => self.listed_opening(number, &listing.tree).await.map(Some),
                None => Ok(None),
            }
        };
        let moves = async {
            match collection.compacted > number {
                true => self.record(collection.compacted).await,
                false => Ok(None),
            }
        };
        futures::try_join!(listed, moves)
    }

    /// An opening out of the listing that stands in for a record that is retired: a checkpoint that knows
    /// of nothing but the directory.
    pub(super) async fn listed_opening(
        &self,
        number: u64,
        tree: &tree::TreeRef,
    ) -> Result<Opening> {
        let (record, trees) = futures::try_join!(self.record(number), self.tree_objects(tree))?;
        let record = record.ok_or_else(|| Error::NotFound {
            object: layout::record(number),
        })?;
        let mut state = self.empty_state();
        state.head = record.record.reference();
        state.time = record.record.envelope.time;
        let checkpoint = Checkpoint::of(&state, tree.clone(), Vec::new());
        Ok(Opening {
            checkpoint: Some((checkpoint, trees)),
            batch: Batch {
                records: vec![record],
                ..Batch::default()
            },
            moves: None,
        })
    }

    /// The newest usable checkpoint at or before a record, and the records that follow it.
    pub(super) async fn opening_from(&self, at_most: Option<u64>, until: Until) -> Result<Opening> {
        let keys = self.checkpoint_keys(at_most).await?;
        self.opening_of(keys, until, 0).await
    }

    /// The first usable of these checkpoints, and the records that follow it. The log is known to go on up to a
    /// record.
    pub(super) async fn opening_of(
        &self,
        keys: Vec<(u64, String)>,
        until: Until,
        known: u64,
    ) -> Result<Opening> {
        // A checkpoint's name says where it stands, so the log is read meanwhile.
        for (number, key) in keys {
            let checkpoint = async {
                let Some(checkpoint) = self.read_checkpoint(number, &key).await? else {
                    return Ok(None);
                };
                // Without all of its tree it is of no use; the reader takes an older one.
                let trees = self.tree_objects(&checkpoint.tree).await?;
                Ok::<_, Error>(Some((checkpoint, trees)))
            };
            let (checkpoint, batch) =
                futures::join!(checkpoint, self.records_from(number, until, known));
            let checkpoint = checkpoint?;
            if checkpoint.is_some() {
                let batch = batch?;
                return Ok(Opening {
                    checkpoint,
                    batch,
                    moves: None,
                });
            }
        }
        let batch = self.records_from(0, until, known).await?;
        Ok(Opening {
            checkpoint: None,
            batch,
            moves: None,
        })
    }

    /// The records after one that a checkpoint stands at, or its own where there is none, of a log that is known
    /// to go on up to a record.
    pub(super) async fn records_from(&self, own: u64, until: Until, known: u64) -> Result<Batch> {
        if let Until::Record(until) = until
            && let Some(more) = until.checked_sub(own)
            && more <= 2 * CHECKPOINT_RECORDS_MAX
        {
            let from = if more == 0 { own.max(1) } else { own + 1 };
            return match self.range_of(from, until, known).await {
                Ok(records) => Ok(Batch {
                    records,
                    ..Batch::default()
                }),
                // Past the end of the log, unless something is lost: the listing tells.
                Err(Error::NotFound { .. }) => self.listed_from(own).await,
                Err(error) => Err(error),
            };
        }
        self.listed_from(own).await
    }

    pub(super) async fn listed_from(&self, own: u64) -> Result<Batch> {
        let numbers = self.numbers_after(own.saturating_sub(1)).await?;
        self.listed_of(own, &numbers).await
    }

    /// The same by a listing that was taken.
    pub(super) async fn listed_of(&self, own: u64, numbers: &[u64]) -> Result<Batch> {
        match numbers.split_first() {
            Some((first, rest)) if *first == own && !rest.is_empty() => {
                self.listed(own + 1, rest, 0).await
            }
            _ => self.listed(own.max(1), numbers, 0).await,
        }
    }
}

/// Refuses a record whose state was let go.
fn check_kept(collection: &Collection, number: u64) -> Result<()> {
    match collection.nearest(number) {
        (Some(before), _) if before == number => Ok(()),
        // Before the first record there is nothing.
        _ if number == 0 => Ok(()),
        (before, after) => Err(Error::Expired {
            number,
            before,
            after,
        }),
    }
}
