//! Which paths and snapshots need what is damaged. Only where something is: the log is read a second
//! time for it, so that a sound repository costs neither the time nor the memory.

use std::collections::{BTreeMap, BTreeSet};

use statehold_core::entry::Entry;
use statehold_core::snapshot::SnapshotId;

use super::inventory::Inventory;
use super::report::Version;
use super::walk::Walk;
use super::{Findings, Options};
use crate::error::Result;
use crate::store::Store;

/// Places in files that are remembered for one lost piece of content.
const PLACES_MAX: usize = 8;

/// Says of each damaged object which versions, snapshots and files of the newest state need it.
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
    let mut walk = Walk::new(store, inventory, facts.genesis, &options.known);
    while let Some(step) = walk.next().await? {
        let number = step.number;
        if let Some(stored) = &step.stored
            && let Some(changes) = stored.record.body.changes()
            && let Some(state) = &walk.state
        {
            for upsert in &changes.upserts {
                let path = &upsert.path;
                let Some(entry) = state.tree.get(path.as_str()) else {
                    continue;
                };
                for (begin, chunk) in facts.lost.chunks_of(entry) {
                    let wanted = facts.wanted.entry(chunk.digest).or_default();
                    wanted.raw = chunk.raw;
                    let place = (path.clone(), begin);
                    if wanted.places.len() < PLACES_MAX && !wanted.places.contains(&place) {
                        wanted.places.push(place);
                    }
                }
                for object in facts.lost.of_entry(entry) {
                    if let Some(damaged) = report.of(&object.to_string()) {
                        let (path, record) = (path.clone(), number);
                        damaged.versions.push(Version { path, record });
                    }
                }
            }
        }
        if let Some(ids) = snapshots.get(&number)
            && let Some(state) = &walk.state
        {
            let entries = state.tree.iter();
            let objects: BTreeSet<_> = entries
                .flat_map(|(_, entry)| facts.lost.of_entry(entry))
                .collect();
            for object in objects {
                if let Some(damaged) = report.of(&object.to_string()) {
                    damaged.snapshots.extend(ids.iter().cloned());
                }
            }
        }
    }
    let Some(state) = &walk.state else {
        return Ok(());
    };
    for (path, entry) in state.tree.iter() {
        if !matches!(entry, Entry::File(_)) {
            continue;
        }
        for object in facts.lost.of_entry(entry) {
            if let Some(damaged) = report.of(&object.to_string()) {
                damaged.paths.push(path.clone());
            }
        }
    }
    Ok(())
}
