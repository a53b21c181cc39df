//! Bringing back what stands in for retired records: trees of kept states, and the checkpoint where the log goes
//! on. Nothing in the log says it a second time, so it comes out of a copy, and is proven all the same: a
//! tree by its root, which stands in the removal, and a state by what the log makes of it.

use std::collections::{BTreeMap, BTreeSet};

use statehold_core::collection::Moves;
use statehold_core::digest::Digest;
use statehold_core::record::{Body, RecordRef};
use statehold_core::state::State;
use statehold_core::tree::Tree;

use super::inventory::Inventory;
use super::walk::{Walk, read_checkpoint};
use crate::error::Result;
use crate::layout;
use crate::store::Store;

/// What a copy that was not collected yet, or not so far, still tells.
#[derive(Debug, Default)]
pub(super) struct Copy {
    /// States that were asked for, each with whether records alone lead to it.
    states: BTreeMap<u64, (State, bool)>,
    /// What compactions moved, by their records.
    moves: BTreeMap<u64, Moves>,
}

impl Copy {
    /// Reads the states at these records out of a copy, up to the last of them.
    pub(super) async fn read(
        store: &Store,
        genesis: Option<Digest>,
        wanted: &BTreeSet<u64>,
    ) -> Result<Self> {
        let mut found = Self::default();
        if wanted.is_empty() {
            return Ok(found);
        }
        let inventory = Inventory::take(store).await?;
        let mut walk = Walk::new(store, &inventory, genesis, &[]);
        let mut is_folded = true;
        while let Some(step) = walk.next().await? {
            is_folded &= walk.state.is_some() && !walk.is_resumed;
            if let Some(state) = walk
                .state
                .as_ref()
                .filter(|_| wanted.contains(&step.number))
            {
                found.states.insert(step.number, (state.clone(), is_folded));
            }
            if let Some(stored) = step.stored
                && let Body::Compact(compact) = stored.record.body
            {
                found.moves.insert(step.number, compact.moves);
            }
        }
        Ok(found)
    }

    /// What the listing of a state may have been when a collector wrote it: as it was then, as each later
    /// compaction has it, and as the newest one does.
    pub(super) fn listings_of<'a>(
        &'a self,
        number: u64,
        newest: &'a Moves,
    ) -> impl Iterator<Item = Tree> + 'a {
        let then = self.states.get(&number).map(|(state, _)| &state.tree);
        let later = self.moves.range(number.saturating_add(1)..);
        let later = later.map(|(_, moves)| moves).chain([newest]);
        then.into_iter().flat_map(move |then| {
            let moved = later.clone().map(|moves| {
                let mut tree = then.clone();
                tree.follow(moves);
                tree
            });
            moved.chain([then.clone()])
        })
    }

    /// The state where the log is cut, if it is proven: records alone lead to it in the copy, or those
    /// of the log lead from it to what a later checkpoint says, here or in the copy.
    pub(super) async fn state_at(
        &self,
        cut: u64,
        store: &Store,
        copy: &Store,
        genesis: Option<Digest>,
        known: &[RecordRef],
    ) -> Result<Option<State>> {
        let Some((state, is_folded)) = self.states.get(&cut) else {
            return Ok(None);
        };
        if *is_folded {
            return Ok(Some(state.clone()));
        }
        let inventory = Inventory::take(store).await?;
        let mut walk = Walk::new(store, &inventory, genesis, known).beginning_at(state.clone());
        let mut later: BTreeMap<u64, Vec<(&Store, String)>> = BTreeMap::new();
        for store in [store, copy] {
            for (number, copies) in Inventory::take(store).await?.checkpoints {
                let keys = copies.iter().map(|copy| layout::checkpoint(number, *copy));
                let there = later.entry(number).or_default();
                there.extend(keys.map(|key| (store, key)));
            }
        }
        while let Some(step) = walk.next().await? {
            let Some(there) = walk.state.as_ref().filter(|_| step.number > cut) else {
                continue;
            };
            for (store, key) in later.remove(&step.number).unwrap_or_default() {
                if let Some((found, tree)) = read_checkpoint(store, &key).await? {
                    let is_it = found.at == there.head && found.into_state(tree) == *there;
                    return Ok(is_it.then(|| state.clone()));
                }
            }
        }
        Ok(None)
    }
}
