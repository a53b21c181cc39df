//! A source that is collected while it is copied: what need not come, when the replica may be marked
//! complete all the same, and what is deleted in it.
//!
//! A mark is set once all that is kept there was read back. What the source removed is deleted in the
//! replica one record behind its mark: by then no `promote` that read an earlier mark can land any more.

use std::sync::Arc;

use statehold_core::collection::Collection;
use statehold_core::limits::CHECKPOINT_RECORDS_MAX;
use statehold_core::numbers::Numbers;
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::state::State;
use tokio::sync::OnceCell;

use super::{Run, newest_of};
use crate::collect::removal;
use crate::error::{Error, Result};
use crate::format::tree::TreeRef;
use crate::layout;
use crate::remote::load_at;
use crate::repository::Repository;

/// What a run has met of a collector's work.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// What the source's newest state says of it; read when something is met.
    pub(super) newest: Arc<OnceCell<Arc<State>>>,
    /// Whether a removal, or a record that is retired, was met.
    pub(super) is_met: bool,
    /// The records of which the replica has the envelope alone.
    pub(super) retired: Numbers,
}

impl Run<'_> {
    /// Whether all that is kept at a record is in the replica. Where nothing was removed, all came with
    /// the records.
    pub(super) async fn is_whole(&mut self, source: &Repository, at: RecordRef) -> Result<bool> {
        let newest = Arc::clone(&self.collected.newest);
        if !self.collected.is_met && newest.get().is_none() {
            return Ok(true);
        }
        let newest = newest.get_or_try_init(|| newest_of(source)).await?;
        let collection = &newest.collection;
        // What was left out is not missed where the state knows that it is gone, or was left behind.
        let is_past = |number: u64| at.number >= number;
        let is_told = is_past(collection.collected) && is_past(newest.epoch_began());
        if !is_told || self.retired_beyond(newest) {
            return Ok(false);
        }
        self.copy_stand_ins(source, collection).await?;
        let replica = self.replica().await?;
        let state = load_at(&replica, Point::Then(at.number)).await?;
        Ok(state.head == at)
    }

    /// Whether the replica lacks the body of a record that counts, and for which nothing stands in.
    fn retired_beyond(&self, newest: &State) -> bool {
        let ranges = self.collected.retired.ranges();
        let mut beyond = ranges.filter(|(_, last)| *last > newest.collection.cut);
        let first = newest.collection.cut + 1;
        beyond.any(|(from, to)| {
            let mut numbers = from.max(first)..=to;
            numbers.any(|number| !newest.is_left_behind(number))
        })
    }

    /// Copies what stands in for records that are retired.
    async fn copy_stand_ins(&mut self, source: &Repository, collection: &Collection) -> Result<()> {
        for listing in &collection.listings {
            self.copy_tree(&listing.tree).await?;
        }
        if collection.cut > 0 {
            let found = source.checkpoint_at(collection.cut).await?;
            let (key, checkpoint) = found.ok_or_else(|| Error::NotFound {
                object: layout::checkpoint(collection.cut, 0),
            })?;
            self.copy_tree(&checkpoint.tree).await?;
            let bytes = self.from.read(&key).await?;
            let bytes = bytes.ok_or_else(|| Error::NotFound {
                object: key.clone(),
            })?;
            self.put(&key, bytes).await?;
        }
        let replica = self.replica().await?;
        check_stand_ins(&replica, collection).await
    }

    async fn copy_tree(&mut self, reference: &TreeRef) -> Result<()> {
        for id in std::iter::once(&reference.id).chain(&reference.others) {
            let key = layout::tree(*id);
            if self.to.length(&key).await?.is_some() {
                continue;
            }
            let bytes = self.from.read(&key).await?;
            let bytes = bytes.ok_or_else(|| Error::NotFound {
                object: key.clone(),
            })?;
            self.put(&key, bytes).await?;
        }
        Ok(())
    }

    /// The replica, as whoever reads it sees it.
    async fn replica(&self) -> Result<Repository> {
        let (clock, entropy) = (Arc::clone(&self.by.clock), Arc::clone(&self.by.entropy));
        let replica = Repository::open_existing(self.to.clone(), clock, entropy).await?;
        replica.ok_or_else(|| Error::NotFound {
            object: layout::REPOSITORY.into(),
        })
    }

    /// Deletes what is removed at a mark, once for each checkpoint that the log goes past. Failing at it
    /// loses nothing: it is done again.
    pub(super) async fn tidy(&self, mark: RecordRef, before: RecordRef, at: RecordRef) {
        let checkpoints = |number: u64| number / CHECKPOINT_RECORDS_MAX;
        if checkpoints(before.number) == checkpoints(at.number) {
            return;
        }
        if let Err(error) = self.try_tidy(mark).await {
            tracing::warn!(%error, "what was removed is still in the replica");
        }
    }

    async fn try_tidy(&self, mark: RecordRef) -> Result<()> {
        let replica = self.replica().await?;
        let Some(collection) = replica.collection_at(mark.number).await? else {
            return Ok(());
        };
        if collection.collected == 0 {
            return Ok(());
        }
        check_stand_ins(&replica, &collection).await?;
        let listed = self.to.list_objects().await?;
        let keys = listed.iter().map(|listed| listed.key.as_str());
        removal::run(self.to, &collection, keys, &[]).await?;
        Ok(())
    }
}

/// Reads what stands in for records that are retired.
async fn check_stand_ins(repository: &Repository, collection: &Collection) -> Result<()> {
    if collection.cut > 0 {
        repository.state_from_checkpoint(collection.cut).await?;
    }
    for listing in &collection.listings {
        repository.tree_of(&listing.tree).await?;
    }
    Ok(())
}
