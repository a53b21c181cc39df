//! Checkpoints: the state at a record, so that a reader need not begin at the first one.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::collection::{Collection, Condemned, Listing};
use statehold_core::epoch::Epoch;
use statehold_core::id::PackId;
use statehold_core::limits::CHECKPOINT_RAW_BYTES_MAX;
use statehold_core::numbers::Numbers;
use statehold_core::record::RecordRef;
use statehold_core::retention::Policy;
use statehold_core::snapshot::{Label, Snapshot, SnapshotId};
use statehold_core::state::{Backup, Growth, PackState, State};
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;

use super::frame::{FrameWriter, expand, frame_len};
use super::header::{ObjectKind, read as read_header, write as write_header};
use super::tree::TreeRef;
use crate::error::{Error, Result};

/// Everything about a state but its entries, which are in the tree it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The record it stands at.
    pub at: RecordRef,
    /// That record's time.
    pub time: Timestamp,
    /// The listing.
    pub tree: TreeRef,
    /// Counts towards the next checkpoint.
    pub growth: Growth,
    /// Packs that records have named.
    pub packs: BTreeMap<PackId, PackState>,
    /// Names for earlier states.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Copies elsewhere.
    pub backups: BTreeMap<Label, Backup>,
    /// What is expired, condemned, removed, retired and held.
    pub collection: Collection,
    /// Epochs after the first.
    pub epochs: Vec<Epoch>,
    /// The `fence` that ended the log.
    pub fenced: Option<u64>,
    /// Checkpoints before this one.
    pub earlier: Vec<EarlierCheckpoint>,
}

/// A checkpoint before another: enough to find the tree at any moment without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierCheckpoint {
    /// Where it stands.
    pub number: u64,
    /// Its record's time.
    pub time: Timestamp,
    /// Its listing.
    pub tree: TreeRef,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    at: RecordRef,
    time: Timestamp,
    tree: TreeRef,
    growth: Growth,
}

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Pack {
        id: PackId,
        #[serde(flatten)]
        state: PackState,
    },
    Snapshot {
        id: SnapshotId,
        #[serde(flatten)]
        snapshot: Snapshot,
    },
    Backup {
        label: Label,
        #[serde(flatten)]
        backup: Backup,
    },
    Collection(CollectionLine),
    Condemned {
        id: PackId,
        #[serde(flatten)]
        state: Condemned,
    },
    Held {
        id: PackId,
        by: u64,
    },
    Listing(Listing),
    Epoch(Epoch),
    Fence {
        by: u64,
    },
    Earlier(EarlierCheckpoint),
}

/// What is said of collecting apart from its tables. There is none in a repository that nobody
/// collected in, and none that decided on a policy.
#[derive(Debug, Serialize, Deserialize)]
struct CollectionLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Numbers::is_empty")]
    expired: Numbers,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    retiring: BTreeMap<u64, u64>,
    cut: u64,
    compacted: u64,
    collected: u64,
}

/// The lines of everything that has to do with collecting.
fn collection_lines(collection: &Collection) -> Vec<Line> {
    let mut lines = Vec::new();
    if *collection == Collection::default() {
        return lines;
    }
    lines.push(Line::Collection(CollectionLine {
        policy: collection.policy,
        expired: collection.expired.clone(),
        retiring: collection.retiring.clone(),
        cut: collection.cut,
        compacted: collection.compacted,
        collected: collection.collected,
    }));
    let condemned = collection.condemned.iter();
    lines.extend(condemned.map(|(id, state)| Line::Condemned {
        id: *id,
        state: *state,
    }));
    let held = collection.held.iter();
    lines.extend(held.map(|(id, by)| Line::Held { id: *id, by: *by }));
    lines.extend(collection.listings.iter().cloned().map(Line::Listing));
    lines
}

impl Checkpoint {
    /// The checkpoint of a state whose tree has been written.
    pub fn of(state: &State, tree: TreeRef, earlier: Vec<EarlierCheckpoint>) -> Self {
        let State {
            head,
            time,
            packs,
            snapshots,
            backups,
            growth,
            collection,
            epochs,
            fenced,
            ..
        } = state;
        Self {
            at: *head,
            time: *time,
            tree,
            growth: *growth,
            packs: packs.clone(),
            snapshots: snapshots.clone(),
            backups: backups.clone(),
            collection: collection.clone(),
            epochs: epochs.clone(),
            fenced: *fenced,
            earlier,
        }
    }

    /// The state it stands for, with the tree it names.
    pub fn into_state(self, tree: Tree) -> State {
        let Self {
            at,
            time,
            packs,
            snapshots,
            backups,
            growth,
            collection,
            epochs,
            fenced,
            ..
        } = self;
        State {
            head: at,
            time,
            tree,
            packs,
            snapshots,
            backups,
            growth,
            collection,
            epochs,
            fenced,
        }
    }

    /// The stored object.
    pub fn write(&self) -> Bytes {
        let mut lines = Vec::new();
        let mut line = |value: &dyn erased::Json| {
            value.write(&mut lines);
            lines.push(b'\n');
        };
        let Self {
            at,
            time,
            tree,
            growth,
            ..
        } = self;
        line(&Head {
            at: *at,
            time: *time,
            tree: tree.clone(),
            growth: *growth,
        });
        for (id, state) in &self.packs {
            line(&Line::Pack {
                id: *id,
                state: *state,
            });
        }
        for (id, snapshot) in &self.snapshots {
            line(&Line::Snapshot {
                id: id.clone(),
                snapshot: *snapshot,
            });
        }
        for (label, backup) in &self.backups {
            line(&Line::Backup {
                label: label.clone(),
                backup: backup.clone(),
            });
        }
        for collected in collection_lines(&self.collection) {
            line(&collected);
        }
        for epoch in &self.epochs {
            line(&Line::Epoch(*epoch));
        }
        if let Some(by) = self.fenced {
            line(&Line::Fence { by });
        }
        for earlier in &self.earlier {
            line(&Line::Earlier(earlier.clone()));
        }
        let mut bytes = write_header(ObjectKind::Checkpoint).to_vec();
        bytes.extend_from_slice(&FrameWriter::default().compress(&lines));
        bytes.into()
    }

    /// Reads a stored object.
    pub fn read(object: &str, bytes: &[u8]) -> Result<Self> {
        let frame = read_header(object, bytes, ObjectKind::Checkpoint)?;
        if frame_len(object, frame)? != frame.len() {
            return Err(Error::damaged(object, "it goes on after its end"));
        }
        let lines = expand(object, frame, CHECKPOINT_RAW_BYTES_MAX)?;
        let damaged = |error: serde_json::Error| Error::damaged(object, error);
        let mut lines = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let first = lines
            .next()
            .ok_or_else(|| Error::damaged(object, "it is empty"))?;
        let Head {
            at,
            time,
            tree,
            growth,
        } = serde_json::from_slice(first).map_err(damaged)?;
        let (packs, snapshots) = (BTreeMap::new(), BTreeMap::new());
        let (backups, epochs, earlier) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut checkpoint = Self {
            at,
            time,
            tree,
            growth,
            packs,
            snapshots,
            backups,
            collection: Collection::default(),
            epochs,
            fenced: None,
            earlier,
        };
        let collection = &mut checkpoint.collection;
        for line in lines {
            match serde_json::from_slice(line).map_err(damaged)? {
                Line::Pack { id, state } => drop(checkpoint.packs.insert(id, state)),
                Line::Snapshot { id, snapshot } => drop(checkpoint.snapshots.insert(id, snapshot)),
                Line::Backup { label, backup } => drop(checkpoint.backups.insert(label, backup)),
                Line::Collection(line) => {
                    collection.policy = line.policy;
                    collection.expired = line.expired;
                    collection.retiring = line.retiring;
                    collection.cut = line.cut;
                    collection.compacted = line.compacted;
                    collection.collected = line.collected;
                }
                Line::Condemned { id, state } => drop(collection.condemned.insert(id, state)),
                Line::Held { id, by } => drop(collection.held.insert(id, by)),
                Line::Listing(listing) => collection.listings.push(listing),
                Line::Epoch(epoch) => checkpoint.epochs.push(epoch),
                Line::Fence { by } => checkpoint.fenced = Some(by),
                Line::Earlier(earlier) => checkpoint.earlier.push(earlier),
            }
        }
        Ok(checkpoint)
    }
}

/// Lets lines of two types go through one writer.
mod erased {
    pub(super) trait Json {
        fn write(&self, lines: &mut Vec<u8>);
    }

    impl<T: serde::Serialize> Json for T {
        fn write(&self, lines: &mut Vec<u8>) {
            serde_json::to_writer(lines, self).expect("checkpoint lines have a JSON form");
        }
    }
}
