//! As much of a verification as can be made through a gateway, which hands out records and content and
//! no objects: the chain, the fold, and the content of the newest state and of all snapshots.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, Entry, Location};
use statehold_core::record::RecordRef;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::tree::Tree;

use super::content::{Lost, LostContent, reason_of};
use super::report::{Kind, Report};
use super::subset::Share;
use super::{Options, Watch};
use crate::content::open_chunk;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::layout;
use crate::remote::Remote;

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
    let mut lost = LostContent::default();
    let mut seen = HashSet::new();
    let mut trees = vec![(head.tree, Vec::new())];
    trees.extend(snapshots);
    for (tree, _) in &trees {
        let chunks = due(tree, share, options, &mut seen);
        watch.expect(chunks.len() as u64);
        for batch in batches(&chunks) {
            read(remote, batch, &mut lost, &mut report).await?;
            watch.done(batch.len() as u64);
        }
    }
    for (index, (tree, ids)) in trees.iter().enumerate() {
        let mut objects = BTreeSet::new();
        for (path, entry) in tree.iter() {
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
                damaged.snapshots.extend(ids.iter().cloned());
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

/// A listing, and the snapshots that name it.
type Named = (Tree, Vec<SnapshotId>);

/// Folds the log. `None` when it can't be followed to its end.
async fn follow(
    remote: &dyn Remote,
    genesis: Digest,
    report: &mut Report,
    watch: &dyn Watch,
) -> Result<Option<(State, Vec<Named>)>> {
    let state = walk(remote, genesis, report, watch, |_| {}).await?;
    let Some(state) = state else {
        return Ok(None);
    };
    let mut names = BTreeMap::<u64, Vec<SnapshotId>>::new();
    for (id, snapshot) in &state.snapshots {
        names.entry(snapshot.at).or_default().push(id.clone());
    }
    let mut named = Vec::new();
    if !names.is_empty() {
        walk(
            remote,
            genesis,
            &mut Report::default(),
            &super::Unwatched,
            |state| {
                if let Some(ids) = names.remove(&state.head.number) {
                    named.push((state.tree.clone(), ids));
                }
            },
        )
        .await?;
    }
    Ok(Some((state, named)))
}

async fn walk(
    remote: &dyn Remote,
    genesis: Digest,
    report: &mut Report,
    watch: &dyn Watch,
    mut at: impl FnMut(&State) + Send,
) -> Result<Option<State>> {
    let mut follower = Follower::new(remote, Arc::new(State::empty(genesis)));
    at(follower.state());
    loop {
        let batch = match remote.records(follower.state().head.number).await {
            Ok(batch) => batch,
            Err(Error::Damaged { object, reason }) => {
                report.note(object, Kind::Record, reason);
                return Ok(None);
            }
            Err(Error::NotFound { object }) => {
                report.note(object, Kind::Record, String::new());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        watch.expect(batch.records.len() as u64);
        for stored in &batch.records {
            match follower.take_in(stored).await {
                Ok(_) => {}
                Err(error @ (Error::Diverged { .. } | Error::Damaged { .. })) => {
                    let key = layout::record(stored.record.envelope.number);
                    report.note(key, Kind::Record, reason_of(error));
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            at(follower.state());
            report.counts.records += 1;
            report.head = Some(follower.state().head);
            watch.done(1);
        }
        if !batch.more {
            return Ok(Some(Arc::unwrap_or_clone(follower.into_state())));
        }
    }
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
    lost: &mut LostContent,
    report: &mut Report,
) -> Result<()> {
    let places: Vec<Location> = batch.iter().map(|chunk| chunk.at).collect();
    let frames = match remote.read(&places).await {
        Ok(frames) => frames.into_iter().map(Ok).collect(),
        Err(Error::Damaged { .. } | Error::NotFound { .. }) => {
            // One of them spoils the answer for all.
            let mut frames = Vec::new();
            for place in &places {
                frames.push(
                    remote
                        .read(std::slice::from_ref(place))
                        .await
                        .map(|mut one| one.pop().unwrap_or_default()),
                );
            }
            frames
        }
        Err(error) => return Err(error),
    };
    for (chunk, frame) in batch.iter().zip(frames) {
        report.counts.bytes_read += u64::from(chunk.at.stored);
        let Some(object) = chunk.at.object else {
            continue;
        };
        match frame.and_then(|frame| open_chunk(chunk, &frame)) {
            Ok(_) => {}
            Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => {
                let kind = match object {
                    statehold_core::entry::ContentObject::Pack(_) => Kind::Pack,
                    statehold_core::entry::ContentObject::Record(_) => Kind::Record,
                };
                report.note(object.to_string(), kind, reason_of(error));
                let offsets = lost
                    .0
                    .entry(object)
                    .or_insert_with(|| Lost::At(BTreeSet::new()));
                if let Lost::At(offsets) = offsets {
                    offsets.insert(chunk.at.offset);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
