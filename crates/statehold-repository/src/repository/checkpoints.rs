//! The caches beside the log: checkpoints with their listings, and segments.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use statehold_core::collection::Collection;
use statehold_core::id::TreeId;
use statehold_core::limits::{SEGMENT_BYTES_MAX, SEGMENT_RECORDS};
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_core::tree::Tree;

use super::opening::Until;
use super::{PARALLEL, Repository};
use crate::error::{Error, Result};
use crate::format::checkpoint::{Checkpoint, EarlierCheckpoint};
use crate::format::record::StoredRecord;
use crate::format::{segment, tree};
use crate::layout;
use crate::remote::state_of;
use crate::store::Creation;

impl Repository {
    /// What the newest checkpoint says of collecting.
    pub(crate) async fn newest_collection(&self) -> Result<Collection> {
        let newest = self.checkpoint(None).await?;
        Ok(newest.map(|newest| newest.collection).unwrap_or_default())
    }

    /// What the newest checkpoint at or before a record says of collecting.
    pub(crate) async fn collection_at(&self, number: u64) -> Result<Option<Collection>> {
        let found = self.checkpoint(Some(number)).await?;
        Ok(found.map(|found| found.collection))
    }

    /// The checkpoint at a record, with its key.
    pub(crate) async fn checkpoint_at(&self, number: u64) -> Result<Option<(String, Checkpoint)>> {
        for (found, key) in self.checkpoint_keys(Some(number)).await? {
            if found == number
                && let Some(checkpoint) = self.read_checkpoint(number, &key).await?
            {
                return Ok(Some((key, checkpoint)));
            }
        }
        Ok(None)
    }

    /// The state at a record as it was then: content lies where it lay.
    pub(crate) async fn state_then(&self, number: u64) -> Result<State> {
        if number == 0 {
            return Ok(self.empty_state());
        }
        let mut from = number;
        let state = loop {
            let until = Until::Record(number);
            let opening = self.opening_from(Some(from), until).await?;
            let checkpoint = opening.checkpoint.as_ref();
            let before = checkpoint.and_then(|(found, _)| found.at.number.checked_sub(1));
            match (state_of(self, opening, Point::Record(number)).await, before) {
                // It is a cache, and an older one leads there as well.
                (Err(error @ Error::Damaged { .. }), Some(before)) => {
                    tracing::warn!(%error, "a checkpoint cannot be used; taking an older one");
                    from = before;
                }
                (state, _) => break state?,
            }
        };
        let found = state.head.number;
        if found != number {
            let reason = format!("it leads to record {found} instead of {number}");
            return Err(Error::damaged("the log", reason));
        }
        Ok(Arc::unwrap_or_clone(state))
    }

    /// The state that the checkpoint at a record stands for.
    pub(crate) async fn state_from_checkpoint(&self, number: u64) -> Result<State> {
        let missing = || Error::NotFound {
            object: layout::checkpoint(number, 0),
        };
        let (_, checkpoint) = self.checkpoint_at(number).await?.ok_or_else(missing)?;
        let tree = self.tree_of(&checkpoint.tree).await?;
        Ok(checkpoint.into_state(tree))
    }

    /// A stored tree.
    pub(crate) async fn tree_of(&self, reference: &tree::TreeRef) -> Result<Tree> {
        tree::read(reference, &self.tree_objects(reference).await?)
    }

    /// Writes a tree, sharing these pages of an earlier one.
    pub(crate) async fn write_tree(
        &self,
        tree: &Tree,
        pages: &[(TreeId, tree::PageLine)],
    ) -> Result<tree::TreeRef> {
        let id = TreeId::random(&*self.entropy);
        let (reference, bytes) = tree::write(id, tree, pages);
        self.store.create(&layout::tree(id), bytes).await?;
        Ok(reference)
    }

    /// The newest usable checkpoint at or before a record.
    pub(super) async fn checkpoint(&self, at_most: Option<u64>) -> Result<Option<Checkpoint>> {
        for (number, key) in self.checkpoint_keys(at_most).await? {
            if let Some(checkpoint) = self.read_checkpoint(number, &key).await? {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// The newest checkpoints at or before a record, the best first.
    pub(super) async fn checkpoint_keys(&self, at_most: Option<u64>) -> Result<Vec<(u64, String)>> {
        // Sorts after every copy of the next newer checkpoint, and before the one asked for.
        let after = match at_most.and_then(|number| number.checked_add(1)) {
            Some(newer) => format!("{}z", layout::checkpoint(newer, 0)),
            None => layout::CHECKPOINTS.to_owned(),
        };
        let keys = self.store.list_first(layout::CHECKPOINTS, &after).await?;
        let mut found: Vec<(u64, u32, String)> = keys
            .into_iter()
            .filter_map(|key| layout::parse_checkpoint(&key).map(|(at, copy)| (at, copy, key)))
            .collect();
        // A later copy was written because the earlier ones turned out to be of no use.
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(at, _, key)| (at, key)).collect())
    }

    /// A checkpoint; `None` when it is gone or of no use.
    pub(crate) async fn read_checkpoint(
        &self,
        number: u64,
        key: &str,
    ) -> Result<Option<Checkpoint>> {
        let Some(bytes) = self.store.read(key).await? else {
            return Ok(None);
        };
        match Checkpoint::read(key, &bytes) {
            Ok(checkpoint) if checkpoint.at.number == number => return Ok(Some(checkpoint)),
            Ok(_) => tracing::warn!(key, "a checkpoint stands under another's name"),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "a checkpoint cannot be read");
            }
            // That is no damage: the records after it can't be understood either.
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// The objects of a tree, as far as they are there: reading the tree says what is missing.
    pub(super) async fn tree_objects(
        &self,
        reference: &tree::TreeRef,
    ) -> Result<HashMap<TreeId, Bytes>> {
        let mut ids = vec![reference.id];
        ids.extend(&reference.others);
        let read = |id| async move {
            let bytes = self.store.read(&layout::tree(id)).await?;
            Ok(bytes.map(|bytes| (id, bytes)))
        };
        stream::iter(ids)
            .map(read)
            .buffer_unordered(PARALLEL)
            .try_filter_map(async |found| Ok(found))
            .try_collect()
            .await
    }

    /// Whether a checkpoint stands for this state and its listing can be read.
    pub(super) async fn is_usable(&self, found: &Checkpoint, state: &State) -> Result<bool> {
        if found.at != state.head {
            return Ok(false);
        }
        match self.shareable_pages(&found.tree).await {
            Ok(_) => Ok(true),
            Err(Error::Damaged { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pages of a tree, proven to be readable.
    pub(crate) async fn shareable_pages(
        &self,
        reference: &tree::TreeRef,
    ) -> Result<Vec<(TreeId, tree::PageLine)>> {
        let objects = self.tree_objects(reference).await?;
        tree::read(reference, &objects)?;
        let main = objects.get(&reference.id).cloned().unwrap_or_default();
        tree::page_table(reference.id, main)
    }

    pub(super) async fn write_segment(&self, to: u64) -> Result<()> {
        let from = to - (SEGMENT_RECORDS - 1);
        let records = self.one_by_one(from, to).await?;
        let bytes: usize = records.iter().map(|stored| stored.bytes.len()).sum();
        // It would stand there for good, without what it is for.
        if bytes > SEGMENT_BYTES_MAX || records.iter().any(StoredRecord::is_retired) {
            return Ok(());
        }
        self.store
            .create(&layout::segment(from, to), segment::write(&records))
            .await
            .map(drop)
    }

    /// Leaves out the checkpoints that are deleted where the log is cut, and puts in the one at the cut, which
    /// is written later than some that come after it.
    async fn cut_earlier(&self, state: &State, earlier: &mut Vec<EarlierCheckpoint>) -> Result<()> {
        let cut = state.collection.cut;
        earlier.retain(|one| one.number >= cut);
        let is_named = earlier.first().is_some_and(|first| first.number == cut);
        if cut > 0
            && !is_named
            && let Some((_, found)) = self.checkpoint_at(cut).await?
        {
            let Checkpoint { at, time, tree, .. } = found;
            let at_cut = EarlierCheckpoint {
                number: at.number,
                time,
                tree,
            };
            earlier.insert(0, at_cut);
        }
        Ok(())
    }

    /// Writes the checkpoint at a state, unless there is one of use.
    pub(crate) async fn write_checkpoint(&self, state: &State) -> Result<()> {
        let number = state.head.number;
        let mut before = self.checkpoint(Some(number)).await?;
        if let Some(found) = before.take_if(|found| found.at.number == number) {
            if self.is_usable(&found, state).await? {
                return Ok(());
            }
            before = match number.checked_sub(1) {
                Some(earlier) => self.checkpoint(Some(earlier)).await?,
                None => None,
            };
        }
        let (mut earlier, mut pages) = (Vec::new(), Vec::new());
        if let Some(before) = before {
            earlier = before.earlier;
            let Checkpoint { at, time, tree, .. } = before;
            // Pages of a tree that can't be read would make this checkpoint useless as well, and
            // every one after it.
            pages = match self.shareable_pages(&tree).await {
                Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => {
                    tracing::warn!(%error, "an earlier listing cannot be used; writing all pages");
                    Vec::new()
                }
                pages => pages?,
            };
            earlier.push(EarlierCheckpoint {
                number: at.number,
                time,
                tree,
            });
        }
        self.cut_earlier(state, &mut earlier).await?;
        let reference = self.write_tree(&state.tree, &pages).await?;
        let checkpoint = Checkpoint::of(state, reference, earlier);
        let bytes = checkpoint.write();
        for copy in 0.. {
            let key = layout::checkpoint(number, copy);
            if self.store.create(&key, bytes.clone()).await? == Creation::New {
                break;
            }
            // Another's is as good as ours, unless it is of no use.
            let found = self.store.read(&key).await?.unwrap_or_default();
            match Checkpoint::read(&key, &found) {
                Ok(found) if self.is_usable(&found, state).await? => break,
                _ => tracing::warn!(key, "a checkpoint that cannot be used is replaced"),
            }
        }
        Ok(())
    }
}
