//! One look at the log: which points are kept, and for how long each frame of content was part of the
//! directory.
//!
//! It takes about 100 bytes of memory for each chunk that any kept point names, and besides the listing of
//! the newest state what a listing of the store takes.

use std::collections::{BTreeMap, HashMap, HashSet};

use statehold_core::collection::{Moves, Place};
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, Entry};
use statehold_core::id::PackId;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, PushBody};
use statehold_core::retention::PointAge;
use statehold_core::state::{Applied, State};
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;

use super::along::Along;
use crate::error::{Error, Result};
use crate::format::record::StoredRecord;
use crate::layout;
use crate::remote::load;
use crate::repository::Repository;
use crate::store::Listed;

/// What a collector sees.
#[derive(Debug)]
pub(super) struct Look {
    /// The state at the head.
    pub(super) state: State,
    /// The points that are kept, oldest first.
    pub(super) points: Vec<PointAge>,
    /// When each frame was part of the directory, at the place it had then.
    pub(super) spans: Vec<Span>,
    /// Where content lies now that lay elsewhere then.
    pub(super) moves: Moves,
    /// Every object of the repository, by key.
    pub(super) objects: BTreeMap<String, Listed>,
    /// Content of the path that was asked about.
    pub(super) wanted: HashSet<Digest>,
    /// What time it is at the store.
    pub(super) now: Timestamp,
}

/// A frame, from the first record at which the directory named it there to the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) place: Place,
    pub(super) stored: u32,
    pub(super) raw: u32,
    pub(super) digest: Digest,
    pub(super) from: u64,
    /// The head, if it is still there.
    pub(super) to: u64,
}

/// A frame that the directory names, at so many places.
#[derive(Debug, Clone, Copy)]
struct Open {
    chunk: Chunk,
    count: u32,
    from: u64,
}

/// Follows the directory from record to record.
#[derive(Debug, Default)]
struct Tracker {
    open: HashMap<Place, Open>,
    spans: Vec<Span>,
}

impl Tracker {
    fn add(&mut self, chunk: &Chunk, number: u64) {
        let Some(object) = chunk.at.object else {
            return;
        };
        let open = self.open.entry((object, chunk.at.offset)).or_insert(Open {
            chunk: *chunk,
            count: 0,
            from: number,
        });
        open.count += 1;
    }

    fn take(&mut self, chunk: &Chunk, number: u64) {
        let Some(object) = chunk.at.object else {
            return;
        };
        let place = (object, chunk.at.offset);
        if let Some(open) = self.open.get_mut(&place) {
            open.count -= 1;
            if open.count == 0 {
                let open = *open;
                self.open.remove(&place);
                self.close(place, open, number - 1);
            }
        }
    }

    fn close(&mut self, place: Place, open: Open, to: u64) {
        if open.from > to {
            return;
        }
        let Open { chunk, from, .. } = open;
        self.spans.push(Span {
            place,
            stored: chunk.at.stored,
            raw: chunk.raw,
            digest: chunk.digest,
            from,
            to,
        });
    }

    fn all(&mut self, tree: &Tree, number: u64) {
        for chunk in tree.iter().flat_map(|(_, entry)| chunks_of(entry)) {
            self.add(chunk, number);
        }
    }

    fn end(&mut self, head: u64) {
        for (place, open) in std::mem::take(&mut self.open) {
            self.close(place, open, head);
        }
    }
}

pub(super) fn chunks_of(entry: &Entry) -> &[Chunk] {
    match entry {
        Entry::File(file) => &file.chunks,
        Entry::Symlink { .. } | Entry::Directory => &[],
    }
}

/// Where the directory changed: the record, and its time.
type Change = (u64, Timestamp);

/// Looks at everything that is kept. Content that was ever at a path, or beneath it, is told apart.
pub(super) async fn look(repository: &Repository, path: Option<&RepoPath>) -> Result<Look> {
    let store = repository.store();
    let listed = store.list_objects().await?;
    let now = store.time(repository.clock());
    let objects: BTreeMap<String, Listed> = listed
        .into_iter()
        .map(|one| (one.key.clone(), one))
        .collect();
    let mut tracker = Tracker::default();
    let mut wanted = HashSet::new();
    let newest = repository.newest_collection().await?;
    let mut changes: Vec<Change> = Vec::new();
    for listing in &newest.listings {
        let tree = repository.tree_of(&listing.tree).await?;
        note_wanted(&tree, path, &mut wanted);
        tracker.all(&tree, listing.from);
        tracker.end(listing.to);
        changes.push((listing.from, listing.time));
    }
    let state = repository.state_then(newest.cut).await?;
    if newest.cut > 0 {
        changes.push((newest.cut, state.time));
        note_wanted(&state.tree, path, &mut wanted);
        tracker.all(&state.tree, newest.cut);
    }
    let mut along = Along::new(load(repository).await?.state, state);
    loop {
        let batch = crate::Remote::records(repository, along.state.head.number).await?;
        for stored in &batch.records {
            if step(&mut along, stored, &mut tracker)? || changes.is_empty() {
                changes.push((stored.record.envelope.number, stored.record.envelope.time));
                let touched = stored.record.body.changes().into_iter();
                for upsert in touched.flat_map(|push| &push.upserts) {
                    if let Some(entry) = along.state.tree.get(upsert.path.as_str()) {
                        note_entry(&upsert.path, entry, path, &mut wanted);
                    }
                }
            }
        }
        if !batch.more {
            break;
        }
    }
    let state = along.state;
    tracker.end(state.head.number);
    let moves = match state.collection.compacted {
        0 => Moves::default(),
        number => match repository
            .record(number)
            .await?
            .map(|stored| stored.record.body)
        {
            Some(Body::Compact(compact)) => compact.moves,
            _ => {
                let reason = "it is not the compaction that it should be";
                return Err(Error::damaged(layout::record(number), reason));
            }
        },
    };
    let points = points(&state, &changes, &objects);
    Ok(Look {
        state,
        points,
        spans: tracker.spans,
        moves,
        objects,
        wanted,
        now,
    })
}

fn note_wanted(tree: &Tree, wanted: Option<&RepoPath>, found: &mut HashSet<Digest>) {
    if let Some(path) = wanted {
        for (inner, entry) in tree.beneath(path.as_str()) {
            note_entry(inner, entry, wanted, found);
        }
    }
}

fn note_entry(
    at: &RepoPath,
    entry: &Entry,
    wanted: Option<&RepoPath>,
    found: &mut HashSet<Digest>,
) {
    if wanted.is_some_and(|path| at == path || at.is_inside(path.as_str())) {
        found.extend(chunks_of(entry).iter().map(|chunk| chunk.digest));
    }
}

/// Takes in a record, and says whether it changed the directory.
fn step(along: &mut Along, stored: &StoredRecord, tracker: &mut Tracker) -> Result<bool> {
    let number = stored.record.envelope.number;
    let mut before = Vec::new();
    let changes = stored.record.body.changes();
    let paths = || changes.into_iter().flat_map(PushBody::paths);
    for path in paths() {
        if let Some(entry) = along.state.tree.get(path.as_str()) {
            before.extend_from_slice(chunks_of(entry));
        }
    }
    let compact = match &stored.record.body {
        Body::Compact(compact) => Some(compact),
        _ => None,
    };
    if along.step(stored)? != Some(Applied::Changed) {
        return Ok(false);
    }
    if let Some(compact) = compact {
        // What it moved is named elsewhere from now on.
        let moved: Vec<Place> = tracker
            .open
            .keys()
            .filter(|place| compact.moves.of(**place).is_some())
            .copied()
            .collect();
        for place in moved {
            let Some(open) = tracker.open.remove(&place) else {
                continue;
            };
            tracker.close(place, open, number - 1);
            let mut chunk = open.chunk;
            chunk.at = compact.moves.moved(chunk.at);
            for _ in 0..open.count {
                tracker.add(&chunk, number);
            }
        }
        return Ok(false);
    }
    // First what comes, so that what stays has one span.
    for path in paths() {
        if let Some(entry) = along.state.tree.get(path.as_str()) {
            for chunk in chunks_of(entry) {
                tracker.add(chunk, number);
            }
        }
    }
    for chunk in &before {
        tracker.take(chunk, number);
    }
    Ok(changes.is_some())
}

/// The points that are kept, with when each was superseded as the store saw it.
fn points(state: &State, changes: &[Change], objects: &BTreeMap<String, Listed>) -> Vec<PointAge> {
    let named: HashSet<usize> = {
        let at = state.snapshots.values().map(|snapshot| snapshot.at);
        let begins = at.map(|at| changes.partition_point(|(from, _)| *from <= at));
        begins.collect()
    };
    let mut points = Vec::new();
    for (index, (from, time)) in changes.iter().enumerate() {
        let next = changes.get(index + 1);
        let to = next.map_or(state.head.number, |(next, _)| next - 1);
        if state.collection.expired.contains(*from) {
            continue;
        }
        let superseded = next.map(|(next, time)| {
            let seen = objects.get(&layout::record(*next));
            seen.map_or(*time, |listed| listed.modified.max(*time))
        });
        points.push(PointAge {
            from: *from,
            to,
            time: *time,
            superseded,
            is_named: named.contains(&(index + 1)),
        });
    }
    points
}

impl Look {
    /// Length of a pack in the store.
    pub(super) fn pack(&self, id: PackId) -> Option<&Listed> {
        self.objects.get(&layout::pack(id))
    }
}
