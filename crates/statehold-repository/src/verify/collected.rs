//! What has to be known of a repository in which somebody has collected: which records are retired and what
//! stands in for them, and where content lies now that earlier states name elsewhere.

use std::collections::BTreeSet;

use statehold_core::collection::{Collection, Moves};
use statehold_core::entry::{Chunk, ContentObject, Entry, Location};
use statehold_core::id::PackId;
use statehold_core::record::Body;
use statehold_core::tree::{Tree, TreeRef};

use super::content::chunks_in;
use super::inventory::Inventory;
use super::walk::{Step, Walk, read_object, read_trees};
use super::{Facts, Findings, Options, Packs};
use crate::error::Result;
use crate::format::record::StoredRecord;
use crate::format::tree;
use crate::layout;
use crate::store::Store;

/// Takes in what a step says of collecting. Where the state can't be told, records say it themselves.
pub(super) fn note(collection: &mut Collection, step: &Step, walk: &Walk<'_>) {
    let body = step.stored.as_ref().map(|stored| &stored.record.body);
    let says = matches!(body, Some(Body::Compact(_) | Body::Remove(_)));
    match (&walk.state, body) {
        (Some(state), _) if says || walk.is_resumed => collection.clone_from(&state.collection),
        (None, Some(Body::Compact(compact))) => collection.compact(step.number, compact),
        (None, Some(Body::Remove(remove))) => collection.remove(step.number, remove),
        _ => {}
    }
}

/// Where content lies now, by the newest compaction: it is whole, since nothing retires a record that comes
/// after it. Where it can't be read, that is said of the record.
async fn newest_moves(store: &Store, collection: &Collection) -> Result<Moves> {
    let number = collection.compacted;
    if number == 0 {
        return Ok(Moves::default());
    }
    let Ok(bytes) = read_object(store, &layout::record(number)).await? else {
        return Ok(Moves::default());
    };
    let stored = StoredRecord::read(number, bytes);
    Ok(match stored.map(|stored| stored.record.body) {
        Ok(Body::Compact(compact)) => compact.moves,
        _ => Moves::default(),
    })
}

/// A tree, if it can be read.
pub(super) async fn tree_of(store: &Store, reference: &TreeRef) -> Result<Option<Tree>> {
    let objects = read_trees(store, reference).await?;
    Ok(tree::read(reference, &objects).ok())
}

/// Takes in what the trees name that stand in for retired records. Where one can't be read, the states
/// that it stands for are lost.
pub(super) async fn check_listings(
    store: &Store,
    collection: &Collection,
    packs: &mut Packs<'_>,
    found: &mut Findings,
) -> Result<()> {
    found.facts.moves = newest_moves(store, collection).await?;
    for listing in &collection.listings {
        // What is wrong with it is said of the tree.
        let Some(mut tree) = tree_of(store, &listing.tree).await? else {
            (listing.from..=listing.to).for_each(|number| found.report.note_gap(number));
            continue;
        };
        tree.follow(&found.facts.moves);
        tree.iter()
            .flat_map(|(_, entry)| chunks_of(entry))
            .for_each(|chunk| packs.name(chunk));
    }
    Ok(())
}

/// Takes in which frames lie in packs that a compaction wrote: what states before it name lies there now. The
/// log is read a second time for it, where content of such a pack is looked at.
pub(super) async fn name_moved(
    store: &Store,
    inventory: &Inventory,
    options: &Options,
    packs: &mut Packs<'_>,
    facts: &Facts,
) -> Result<()> {
    let arrives = facts.moves.iter().filter_map(|(_, to)| to);
    let arrives: BTreeSet<PackId> = arrives.map(|(pack, _)| pack).collect();
    if !arrives.iter().any(|pack| packs.reads(*pack)) {
        return Ok(());
    }
    let mut walk = Walk::new(store, inventory, facts.genesis, &options.known);
    while let Some(step) = walk.next().await? {
        if walk.is_resumed {
            let trees = walk.state.iter().map(|state| &state.tree);
            let entries = trees.flat_map(Tree::iter);
            for chunk in entries.flat_map(|(_, entry)| chunks_of(entry)) {
                packs.name(&moved(chunk, &facts.moves));
            }
        }
        if let Some(stored) = &step.stored {
            for chunk in chunks_in(stored) {
                let mut chunk = *chunk;
                if chunk.at.object.is_none() {
                    chunk.at = inline(stored, chunk.at);
                }
                packs.name(&moved(&chunk, &facts.moves));
            }
        }
    }
    Ok(())
}

fn moved(chunk: &Chunk, moves: &Moves) -> Chunk {
    Chunk {
        at: moves.moved(chunk.at),
        ..*chunk
    }
}

/// Where content lies that rides in a record.
fn inline(stored: &StoredRecord, at: Location) -> Location {
    Location {
        object: Some(ContentObject::Record(stored.record.envelope.number)),
        offset: at.offset.saturating_add(stored.record.content_start),
        ..at
    }
}

fn chunks_of(entry: &Entry) -> &[Chunk] {
    match entry {
        Entry::File(file) => &file.chunks,
        Entry::Symlink { .. } | Entry::Directory => &[],
    }
}
