//! What stands in for records that are going to be retired: a checkpoint where they end, and a listing of
//! each state before that is kept. All of it is read back before anything is deleted.

use std::sync::Arc;

use statehold_core::collection::{Listing, Moves};
use statehold_core::numbers::Numbers;
use statehold_core::state::{Applied, State};
use statehold_core::tree::Tree;

use super::along::Along;
use super::look::Look;
use crate::Remote as _;
use crate::error::{Error, Result};
use crate::format::tree::PageLine;
use crate::repository::Repository;
use statehold_core::id::TreeId;

/// Writes the listings of what is kept before `cut`. Those that are there already stay.
pub(super) async fn write(repository: &Repository, look: &Look, cut: u64) -> Result<Vec<Listing>> {
    let collection = &look.state.collection;
    let is_kept = |listing: &&Listing| !collection.expired.contains(listing.from);
    let mut listings: Vec<Listing> = collection
        .listings
        .iter()
        .filter(is_kept)
        .cloned()
        .collect();
    let points = look.points.iter();
    let new = points.filter(|point| point.from >= collection.cut && point.from < cut);
    let new: Numbers = new
        .map(|point| (point.from, point.to.min(cut - 1)))
        .collect();
    let state = repository.state_then(collection.cut).await?;
    let mut along = Along::new(Arc::new(look.state.clone()), state);
    let mut pages: Vec<(TreeId, PageLine)> = Vec::new();
    let mut point = collection.cut.max(1);
    // The state at the cut itself may be kept, and the records after it are whole.
    if collection.cut > 0 && new.contains(point) {
        listings.push(list(repository, &along.state, &look.moves, &mut pages).await?);
    }
    while along.state.head.number < cut - 1 {
        let head = along.state.head.number;
        let until = (head + 64).min(cut - 1);
        for stored in repository.records_until(head, until).await? {
            let number = stored.record.envelope.number;
            let changes = stored.record.body.changes().is_some();
            let applied = along.step(&stored)?;
            let is_point = changes && applied == Some(Applied::Changed) || number == 1;
            if is_point {
                point = number;
            }
            if !new.contains(number) {
                continue;
            }
            match listings
                .last_mut()
                .filter(|last| !is_point && last.from == point)
            {
                Some(last) => last.to = number,
                None => {
                    listings.push(list(repository, &along.state, &look.moves, &mut pages).await?);
                }
            }
        }
    }
    Ok(listings)
}

/// Writes the directory of a state with where its content lies now, and reads it back.
async fn list(
    repository: &Repository,
    state: &State,
    moves: &Moves,
    pages: &mut Vec<(TreeId, PageLine)>,
) -> Result<Listing> {
    let mut tree: Tree = state.tree.clone();
    tree.follow(moves);
    let reference = repository.write_tree(&tree, pages).await?;
    let there = repository.tree_of(&reference).await?;
    if there != tree {
        let reason = "it is not what was written";
        return Err(Error::damaged(crate::layout::tree(reference.id), reason));
    }
    *pages = repository.shareable_pages(&reference).await?;
    let number = state.head.number;
    Ok(Listing {
        from: number,
        to: number,
        time: state.time,
        tree: reference,
    })
}

/// Writes the checkpoint at a record and proves that a reader who begins there comes to this state.
pub(super) async fn write_checkpoint(
    repository: &Repository,
    cut: u64,
    head: &State,
) -> Result<()> {
    let at_cut = repository.state_then(cut).await?;
    repository.write_checkpoint(&at_cut).await?;
    let state = repository.state_from_checkpoint(cut).await?;
    if state != at_cut {
        let reason = "it does not stand for the state at its record";
        return Err(Error::damaged(crate::layout::checkpoint(cut, 0), reason));
    }
    let mut along = Along::new(Arc::new(head.clone()), state);
    while along.state.head.number < head.head.number {
        let from = along.state.head.number;
        let until = (from + 64).min(head.head.number);
        for stored in repository.records_until(from, until).await? {
            along.step(&stored)?;
        }
    }
    if along.state != *head {
        let reason = "the records after it do not lead to the newest state";
        return Err(Error::damaged(crate::layout::checkpoint(cut, 0), reason));
    }
    Ok(())
}
