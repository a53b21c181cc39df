//! Which paths and snapshots need what is damaged. Only where something is: the log is read a second
//! time for it, so that a sound repository costs neither the time nor the memory.

use std::collections::{BTreeMap, BTreeSet};

use statehold_core::entry::{Chunk, Entry};
use statehold_core::path::RepoPath;
use statehold_core::snapshot::SnapshotId;
use statehold_core::tree::Tree;

use super::collected::tree_of;
use super::inventory::Inventory;
use super::report::{Report, Version};
use super::walk::Walk;
use super::{Facts, Findings, Options};
use crate::error::Result;
use crate::store::Store;

/// Places in files that are remembered for one lost piece of content.
const PLACES_MAX: usize = 8;

/// Says of each damaged object which versions, snapshots and files of the newest state need it. What only
/// states need that were let go is not said.
pub(super) async fn find_affected(
    store: &Store,
    inventory: &Inventory,
    options: &Options,
    found: &mut Findings,
) -> Result<()> {
    let Findings { report, facts } = found;
    if facts.lost.0.is_empty() && report.gaps.is_empty() {
        return Ok(());
    }
    let mut snapshots = BTreeMap::<u64, Vec<SnapshotId>>::new();
    for (id, snapshot) in &facts.snapshots {
        snapshots.entry(snapshot.at).or_default().push(id.clone());
    }
    let is_lost = |at: u64| {
        report
            .gaps
            .iter()
            .any(|gap| (gap.from..=gap.to).contains(&at))
    };
    let lost = snapshots.iter().filter(|(at, _)| is_lost(**at));
    let lost = lost.flat_map(|(_, ids)| ids.iter().cloned()).collect();
    report.lost_snapshots = lost;
    let mut versions = Versions::default();
    for listing in facts.collection.listings.clone() {
        let Some(mut tree) = tree_of(store, &listing.tree).await? else {
            continue;
        };
        tree.follow(&facts.moves);
        versions.go_on(&tree, listing.from, true, report, facts);
        for (_, ids) in snapshots.range(listing.from..=listing.to) {
            note_snapshots(&tree, ids, report, facts);
        }
    }
    let mut walk = Walk::new(store, inventory, facts.genesis, &options.known);
    let mut head = 0;
    // What retired records put there, nothing tells but the state after them.
    let mut is_told = facts.collection.cut == 0;
    while let Some(step) = walk.next().await? {
        head = step.number;
        let Some(state) = &walk.state else {
            continue;
        };
        if walk.is_resumed {
            let mut tree = state.tree.clone();
            tree.follow(&facts.moves);
            versions.go_on(&tree, head, !is_told, report, facts);
        } else if let Some(stored) = &step.stored
            && let Some(changes) = stored.record.body.changes()
        {
            for path in changes.paths() {
                versions.end(path, head, report, facts);
            }
            for upsert in &changes.upserts {
                if let Some(entry) = state.tree.get(upsert.path.as_str()) {
                    let mut entry = entry.clone();
                    facts.moves.apply(&mut entry);
                    versions.begin(&upsert.path, &entry, head, facts);
                }
            }
        }
        is_told = true;
        if let Some(ids) = snapshots.get(&head) {
            let mut tree = state.tree.clone();
            tree.follow(&facts.moves);
            note_snapshots(&tree, ids, report, facts);
        }
    }
    versions.finish(head, report, facts);
    let Some(state) = &walk.state else {
        return Ok(());
    };
    for (path, entry) in state.tree.iter() {
        for object in facts.lost.of_entry(entry) {
            if let Some(damaged) = report.of(&object.to_string()) {
                damaged.paths.push(path.clone());
            }
        }
    }
    Ok(())
}

fn note_snapshots(tree: &Tree, ids: &[SnapshotId], report: &mut Report, facts: &Facts) {
    let entries = tree.iter();
    let objects: BTreeSet<_> = entries
        .flat_map(|(_, entry)| facts.lost.of_entry(entry))
        .collect();
    for object in objects {
        if let Some(damaged) = report.of(&object.to_string()) {
            damaged.snapshots.extend(ids.iter().cloned());
        }
    }
}

/// Versions of files that can't be had and were not superseded yet.
#[derive(Debug, Default)]
struct Versions(BTreeMap<RepoPath, Open>);

#[derive(Debug)]
struct Open {
    record: u64,
    /// What of it can't be had.
    lost: Vec<Chunk>,
}

impl Versions {
    /// Goes on from a listing that does not follow from the state before. What is new in it is a version of
    /// that record, where no record tells.
    fn go_on(
        &mut self,
        tree: &Tree,
        record: u64,
        is_told_here: bool,
        report: &mut Report,
        facts: &mut Facts,
    ) {
        let lost_of = |path: &RepoPath| {
            let entry = tree.get(path.as_str());
            entry.map(|entry| lost_in(entry, facts)).unwrap_or_default()
        };
        let over = self
            .0
            .iter()
            .filter(|(path, open)| open.lost != lost_of(path));
        let over: Vec<RepoPath> = over.map(|(path, _)| path.clone()).collect();
        for path in over {
            self.end(&path, record, report, facts);
        }
        for (path, entry) in tree.iter().filter(|_| is_told_here) {
            if !self.0.contains_key(path) {
                self.begin(path, entry, record, facts);
            }
        }
    }

    /// A record puts a version at a path.
    fn begin(&mut self, path: &RepoPath, entry: &Entry, record: u64, facts: &mut Facts) {
        for (begin, chunk) in facts.lost.chunks_of(entry) {
            let wanted = facts.wanted.entry(chunk.digest).or_default();
            wanted.raw = chunk.raw;
            let place = (path.clone(), begin);
            if wanted.places.len() < PLACES_MAX && !wanted.places.contains(&place) {
                wanted.places.push(place);
            }
        }
        let lost = lost_in(entry, facts);
        if !lost.is_empty() {
            self.0.insert(path.clone(), Open { record, lost });
        }
    }

    /// A record supersedes what is at a path, which is told unless all states that had it were let go.
    fn end(&mut self, path: &RepoPath, record: u64, report: &mut Report, facts: &Facts) {
        let Some(version) = self.0.remove(path) else {
            return;
        };
        let first = version.record;
        if facts
            .collection
            .expired
            .covers(first..=record.saturating_sub(1))
        {
            return;
        }
        let objects = version.lost.iter().filter_map(|chunk| chunk.at.object);
        for object in objects.collect::<BTreeSet<_>>() {
            if let Some(damaged) = report.of(&object.to_string()) {
                let (path, record) = (path.clone(), first);
                damaged.versions.push(Version { path, record });
            }
        }
    }

    fn finish(&mut self, head: u64, report: &mut Report, facts: &Facts) {
        let paths: Vec<RepoPath> = self.0.keys().cloned().collect();
        for path in paths {
            self.end(&path, head.saturating_add(1), report, facts);
        }
    }
}

fn lost_in(entry: &Entry, facts: &Facts) -> Vec<Chunk> {
    let lost = facts.lost.chunks_of(entry);
    lost.map(|(_, chunk)| *chunk).collect()
}
