//! As much of a verification as can be made through a gateway, which hands out records and content and
//! no objects: the chain, the fold, and the content of the newest state and of all snapshots.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, Entry, Location};
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::tree::Tree;

use super::content::reason_of;
use super::report::{Kind, Report};
use super::subset::Share;
use super::{Options, Watch};
use crate::content::open_chunk;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::layout;
use crate::remote::{Remote, load, load_at, state_of};
use crate::replicate::plan::check_follows;
use crate::whereabouts::{Whereabouts, moves_at};

/// Stored bytes of content that are asked for at once.
const READ_BYTES: u64 = 8 * 1024 * 1024;
/// Pieces of content that are asked for at once.
const READ_PLACES: usize = 256;

/// Verifies what a remote hands out. An error means that it did not answer.
pub async fn verify(remote: &dyn Remote, options: &Options, watch: &dyn Watch) -> Result<Report> {
    let mut report = Report::default();
    let (description, genesis) = remote.description();
    report.repository = Some(description.repository);
    for known in &options.known {
        confirm(remote, *known, &mut report).await?;
    }
    let Some((head, snapshots)) = follow(remote, genesis, &mut report, watch).await? else {
        return Ok(report);
    };
    let Some(share) = options.read else {
        return Ok(report);
    };
    let mut lost = Lost::default();
    let mut seen = HashSet::new();
    let newest = Named {
        at: head.head,
        tree: head.tree,
        snapshots: Vec::new(),
    };
    let named: Vec<Named> = std::iter::once(newest).chain(snapshots).collect();
    for (index, one) in named.iter().enumerate() {
        let chunks = due(&one.tree, share, options, &mut seen);
        let whereabouts = Whereabouts::of(one.at);
        watch.expect(chunks.len() as u64);
        for batch in batches(&chunks) {
            match read(remote, batch, &whereabouts, &mut lost, &mut report).await {
                // A snapshot that was deleted meanwhile, and then let go: there is no more to look at.
                Err(Error::Expired { .. }) if index > 0 => break,
                read => read?,
            }
            watch.done(batch.len() as u64);
        }
    }
    for (index, one) in named.iter().enumerate() {
        let mut objects = BTreeSet::new();
        for (path, entry) in one.tree.iter() {
            for object in lost.of_entry(entry) {
                objects.insert(object);
                if index == 0
                    && let Some(damaged) = report.of(&object.to_string())
                {
                    damaged.paths.push(path.clone());
                }
            }
        }
        for object in objects {
            if let Some(damaged) = report.of(&object.to_string()) {
                damaged.snapshots.extend(one.snapshots.iter().cloned());
            }
        }
    }
    report.sort();
    Ok(report)
}

async fn confirm(remote: &dyn Remote, known: RecordRef, report: &mut Report) -> Result<()> {
    match remote.confirm(known).await {
        Ok(()) => Ok(()),
        Err(error @ (Error::Damaged { .. } | Error::NotFound { .. } | Error::Diverged { .. })) => {
            let key = layout::record(known.number);
            report.note(key, Kind::Record, reason_of(error));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A state whose content is looked at.
struct Named {
    at: RecordRef,
    tree: Tree,
    /// The snapshots that name it; none of the newest.
    snapshots: Vec<SnapshotId>,
}

/// Content that can't be had: where the listing has it, and the object that it lies in by now.
#[derive(Default)]
struct Lost(BTreeMap<(ContentObject, u64), ContentObject>);

impl Lost {
    /// The objects because of which an entry can't be had.
    fn of_entry<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = ContentObject> + 'a {
        let chunks = match entry {
            Entry::File(file) => &file.chunks[..],
            Entry::Symlink { .. } | Entry::Directory => &[],
        };
        let places = chunks.iter().map(|chunk| chunk.at);
        let places = places.filter_map(|at| Some((at.object?, at.offset)));
        places.filter_map(|place| self.0.get(&place).copied())
    }
}

/// Folds the log. `None` when it can't be followed to its end.
async fn follow(
    remote: &dyn Remote,
    genesis: Digest,
    report: &mut Report,
    watch: &dyn Watch,
) -> Result<Option<(State, Vec<Named>)>> {
    let mut begun = 0;
    let state = walk(remote, genesis, report, watch, |state| {
        if begun == 0 {
            begun = state.head.number;
        }
    });
    let Some(state) = state.await? else {
        return Ok(None);
    };
    let mut names = BTreeMap::<u64, Vec<SnapshotId>>::new();
    for (id, snapshot) in &state.snapshots {
        names.entry(snapshot.at).or_default().push(id.clone());
    }
    let mut named = Vec::new();
    let later = names.split_off(&begun);
    for (at, ids) in names {
        // What it was made by is retired.
        match told(load_at(remote, Point::Record(at)).await, report)? {
            Some(then) => named.push(Named {
                at: then.head,
                tree: then.tree.clone(),
                snapshots: ids,
            }),
            None => report.lost_snapshots.extend(ids),
        }
    }
    if !later.is_empty() {
        let moves = told(moves_at(remote, &state).await, report)?.unwrap_or_default();
        let (mut names, mut again) = (later, Report::default());
        walk(remote, genesis, &mut again, &super::Unwatched, |state| {
            if let Some(ids) = names.remove(&state.head.number) {
                let mut tree = state.tree.clone();
                tree.follow(&moves);
                named.push(Named {
                    at: state.head,
                    tree,
                    snapshots: ids,
                });
            }
        })
        .await?;
    }
    Ok(Some((state, named)))
}

/// What was read; damage is noted.
fn told<T>(read: Result<T>, report: &mut Report) -> Result<Option<T>> {
    let (object, reason) = match read {
        Ok(read) => return Ok(Some(read)),
        Err(Error::Damaged { object, reason }) => (object, reason),
        Err(Error::NotFound { object }) => (object, String::new()),
        Err(error) => return Err(error),
    };
    let kind = match object.split('/').next() {
        Some("trees") => Kind::Tree,
        Some("checkpoints") => Kind::Checkpoint,
        _ => Kind::Record,
    };
    report.note(object, kind, reason);
    Ok(None)
}

/// Folds the log from its beginning, or from the first state that is kept where records are retired; of those the
/// chain is followed.
async fn walk(
    remote: &dyn Remote,
    genesis: Digest,
    report: &mut Report,
    watch: &dyn Watch,
    mut at: impl FnMut(&State) + Send,
) -> Result<Option<State>> {
    let mut last = RecordRef {
        number: 0,
        id: genesis,
    };
    let mut follower = Some(Follower::new(remote, Arc::new(State::empty(genesis))));
    let mut goes_on_at = 0;
    loop {
        let Some(batch) = told(remote.records(last.number).await, report)? else {
            return Ok(None);
        };
        watch.expect(batch.records.len() as u64);
        for stored in &batch.records {
            if follower.is_some() && stored.is_retired() {
                let Some(newest) = told(load(remote).await, report)? else {
                    return Ok(None);
                };
                let collection = &newest.state.collection;
                (_, goes_on_at) = collection.nearest(collection.cut);
                follower = None;
            }
            let taken = match &mut follower {
                Some(follower) => follower.take_in(stored).await.map(drop),
                None => check_follows(last, &stored.record),
            };
            match taken {
                Ok(()) => {}
                Err(error @ (Error::Diverged { .. } | Error::Damaged { .. })) => {
                    let key = layout::record(stored.record.envelope.number);
                    report.note(key, Kind::Record, reason_of(error));
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            last = stored.record.reference();
            if follower.is_none() && last.number == goes_on_at {
                let Some(state) = state_then(remote, last, report).await? else {
                    return Ok(None);
                };
                follower = Some(Follower::new(remote, state));
            }
            if let Some(follower) = &follower {
                at(follower.state());
            }
            report.counts.records += 1;
            report.head = Some(last);
            watch.done(1);
        }
        if batch.more {
            continue;
        }
        // A record that is missing looks like the end of the log, and what comes after it doesn't.
        let newest = told(load(remote).await, report)?;
        if newest.is_some_and(|newest| newest.state.head.number > last.number) {
            if batch.records.is_empty() {
                let key = layout::record(last.number + 1);
                report.note(key, Kind::Record, String::new());
                return Ok(None);
            }
            continue;
        }
        let state = follower.map(Follower::into_state);
        return Ok(state.map(Arc::unwrap_or_clone));
    }
}

/// The state at a record as it was then, out of what stands in for the records before it.
async fn state_then(
    remote: &dyn Remote,
    at: RecordRef,
    report: &mut Report,
) -> Result<Option<Arc<State>>> {
    let point = Point::Record(at.number);
    let Some(opening) = told(remote.open(point).await, report)? else {
        return Ok(None);
    };
    let state = match state_of(remote, opening, point).await {
        Err(Error::Retired { .. }) => {
            let reason = format!("nothing leads to the state at record {}", at.number);
            Err(Error::damaged("checkpoints", reason))
        }
        state => state,
    };
    let state = told(state, report)?;
    if let Some(state) = &state
        && state.head != at
    {
        let reason = "what stands in for it is the state at another record".to_owned();
        report.note(layout::record(at.number), Kind::Record, reason);
        return Ok(None);
    }
    Ok(state)
}

/// The chunks of a listing that are due and were not read yet.
fn due(
    tree: &Tree,
    share: Share,
    options: &Options,
    seen: &mut HashSet<(Location, Digest)>,
) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for (_, entry) in tree.iter() {
        let Entry::File(file) = entry else { continue };
        let new = file.chunks.iter().filter(|chunk| {
            let object = chunk.at.object.map(|object| object.to_string());
            object.is_some_and(|object| share.includes(&object, options.day))
                && seen.insert((chunk.at, chunk.digest))
        });
        chunks.extend(new);
    }
    chunks.sort_by_key(|chunk| (chunk.at.object, chunk.at.offset));
    chunks
}

/// Runs of chunks that are little enough to be asked for at once.
fn batches(chunks: &[Chunk]) -> impl Iterator<Item = &[Chunk]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let length = rest
            .iter()
            .take(READ_PLACES)
            .take_while(|chunk| {
                let fits = bytes == 0 || bytes + u64::from(chunk.at.stored) <= READ_BYTES;
                bytes += u64::from(chunk.at.stored);
                fits
            })
            .count();
        let (batch, further) = rest.split_at_checked(length.max(1))?;
        rest = further;
        Some(batch)
    })
}

async fn read(
    remote: &dyn Remote,
    batch: &[Chunk],
    whereabouts: &Whereabouts,
    lost: &mut Lost,
    report: &mut Report,
) -> Result<()> {
    let frames = match whereabouts.read(remote, batch).await {
        Ok(frames) => frames.into_iter().map(Ok).collect(),
        Err(Error::Damaged { .. } | Error::NotFound { .. }) => {
            // One of them spoils the answer for all.
            let mut frames = Vec::new();
            for chunk in batch {
                let read = whereabouts.read(remote, std::slice::from_ref(chunk)).await;
                frames.push(read.map(|mut one| one.pop().unwrap_or_default()));
            }
            frames
        }
        Err(error) => return Err(error),
    };
    for (chunk, frame) in batch.iter().zip(frames) {
        report.counts.bytes_read += u64::from(chunk.at.stored);
        let Some(named) = chunk.at.object else {
            continue;
        };
        match frame.and_then(|frame| open_chunk(chunk, &frame)) {
            Ok(_) => {}
            Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => {
                // Nowhere, if it was purged meanwhile.
                let Some(object) = whereabouts.place(chunk).await.object else {
                    continue;
                };
                let kind = match object {
                    ContentObject::Pack(_) => Kind::Pack,
                    ContentObject::Record(_) => Kind::Record,
                };
                report.note(object.to_string(), kind, reason_of(error));
                lost.0.insert((named, chunk.at.offset), object);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
