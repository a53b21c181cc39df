//! What a reader without a state begins with: a checkpoint, its listing, and the records that follow.

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
            // What is left of a record says what time it was, also where it is retired.
            let from = from.map_or(0, |earlier| earlier.number);
            let records = self.range(from + 1, until).await?;
            let is_past = |stored: &StoredRecord| stored.record.envelope.time > time;
            let past = records.iter().position(is_past).unwrap_or(records.len());
            return self.opening_at(from + past as u64).await;
        }
        let Some(from) = from else {
            return self.opening_from(Some(0), Until::Record(until)).await;
        };
        let key = layout::checkpoint(from.number, 0);
        let (checkpoint, trees, batch) = futures::try_join!(
            self.read_checkpoint(from.number, &key),
            self.tree_objects(&from.tree),
            self.records_from(from.number, Until::Record(until)),
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

    /// What a reader begins with who wants the state at an earlier record. The newest checkpoint knows
    /// whether that is kept, and by which way it is reached.
    pub(super) async fn opening_at(&self, number: u64) -> Result<Opening> {
        let opening = self.opening_from(Some(number), Until::Record(number));
        let (newest, opening) = futures::join!(self.checkpoint(None), opening);
        let Some(newest) = newest?.filter(|newest| newest.at.number > number) else {
            return opening;
        };
        let collection = &newest.collection;
        if let (before, after) = collection.nearest(number)
            && before != Some(number)
        {
            return Err(Error::Expired {
                number,
                before,
                after,
            });
        }
        let mut opening = match collection
            .listing(number)
            .filter(|_| number < collection.cut)
        {
            Some(listing) => self.listed_opening(number, &listing.tree).await?,
            None => opening?,
        };
        if collection.compacted > number {
            opening.moves = self.record(collection.compacted).await?;
        }
        Ok(opening)
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
                more: false,
            },
            moves: None,
        })
    }

    /// The newest usable checkpoint at or before a record, and the records that follow it.
    pub(super) async fn opening_from(&self, at_most: Option<u64>, until: Until) -> Result<Opening> {
        // A checkpoint's name says where it stands, so the log is read meanwhile.
        for (number, key) in self.checkpoint_keys(at_most).await? {
            let checkpoint = async {
                let Some(checkpoint) = self.read_checkpoint(number, &key).await? else {
                    return Ok(None);
                };
                // Without all of its tree it is of no use; the reader takes an older one.
                let trees = self.tree_objects(&checkpoint.tree).await?;
                Ok::<_, Error>(Some((checkpoint, trees)))
            };
            let (checkpoint, batch) = futures::join!(checkpoint, self.records_from(number, until));
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
        let batch = self.records_from(0, until).await?;
        Ok(Opening {
            checkpoint: None,
            batch,
            moves: None,
        })
    }

    /// The records after one that a checkpoint stands at, or its own where there is none.
    pub(super) async fn records_from(&self, own: u64, until: Until) -> Result<Batch> {
        if let Until::Record(until) = until
            && let Some(more) = until.checked_sub(own)
            && more <= 2 * CHECKPOINT_RECORDS_MAX
        {
            let from = if more == 0 { own.max(1) } else { own + 1 };
            return match self.range(from, until).await {
                Ok(records) => Ok(Batch {
                    records,
                    more: false,
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
