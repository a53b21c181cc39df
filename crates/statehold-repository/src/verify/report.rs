//! What a verification found, in the order in which people want to hear it.

use serde::Serialize;
use statehold_core::id::RepositoryId;
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_core::snapshot::SnapshotId;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What makes a prefix a repository.
    Description,
    /// A step of the history.
    Record,
    /// Content.
    Pack,
    /// A listing.
    Tree,
    /// A copy of sixteen records.
    Segment,
    /// The state at a record.
    Checkpoint,
}

impl Kind {
    /// Whether everything in it can be made anew from the log.
    pub const fn is_cache(self) -> bool {
        matches!(self, Self::Tree | Self::Segment | Self::Checkpoint)
    }
}

/// A damaged or missing object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its key.
    pub key: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it isn't there at all.
    pub missing: bool,
    /// What is wrong with it.
    pub reason: String,
    /// Files of the newest state that can't be had because of it.
    pub paths: Vec<RepoPath>,
    /// Snapshots that can't be had whole because of it.
    pub snapshots: Vec<SnapshotId>,
    /// Versions of files that can't be had because of it, those of the newest state included.
    pub versions: Vec<Version>,
}

/// A file as a record has put it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// The file.
    pub path: RepoPath,
    /// The record.
    pub record: u64,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Packs that records name.
    pub packs: u64,
    /// Stored bytes of these.
    pub pack_bytes: u64,
    /// Packs whose content was read.
    pub packs_read: u64,
    /// Stored bytes of these.
    pub bytes_read: u64,
    /// Segments.
    pub segments: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Tree objects.
    pub trees: u64,
}

/// Objects that nothing needs: of pushes that did not land, and what repair has put aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// Packs that no record names.
    pub packs: u64,
    /// Trees that no checkpoint names.
    pub trees: u64,
    /// Damaged objects that repair has put aside.
    pub aside: u64,
}

/// A run of records at which the state can't be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The repository, if its description can be read.
    pub repository: Option<RepositoryId>,
    /// The newest record, if it can be told.
    pub head: Option<RecordRef>,
    /// How much was looked at.
    pub counts: Counts,
    /// Damaged and missing objects, the truth before the caches.
    pub damaged: Vec<Damaged>,
    /// Caches that are due and not there. Nothing is lost with them but time.
    pub missing_caches: Vec<String>,
    /// Records at which the state can't be told, because one before is lost.
    pub gaps: Vec<Gap>,
    /// Snapshots of such states.
    pub lost_snapshots: Vec<SnapshotId>,
    /// Keys that mean nothing.
    pub unknown: Vec<String>,
    /// Objects that nothing needs.
    pub leftovers: Leftovers,
}

impl Report {
    /// Whether nothing is damaged.
    pub const fn is_well(&self) -> bool {
        self.damaged.is_empty()
    }

    pub(super) fn note(&mut self, key: String, kind: Kind, reason: String) {
        if self.damaged.iter().any(|damaged| damaged.key == key) {
            return;
        }
        let missing = reason.is_empty() || reason == MISSING;
        let reason = if missing { MISSING.to_owned() } else { reason };
        self.damaged.push(Damaged {
            key,
            kind,
            missing,
            reason,
            paths: Vec::new(),
            snapshots: Vec::new(),
            versions: Vec::new(),
        });
    }

    pub(super) fn of(&mut self, key: &str) -> Option<&mut Damaged> {
        self.damaged.iter_mut().find(|damaged| damaged.key == key)
    }

    pub(super) fn note_gap(&mut self, number: u64) {
        match self.gaps.last_mut() {
            Some(gap) if gap.to + 1 == number => gap.to = number,
            _ => self.gaps.push(Gap {
                from: number,
                to: number,
            }),
        }
    }

    pub(super) fn sort(&mut self) {
        self.damaged
            .sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        self.missing_caches.sort();
    }
}

/// What is said of an object that isn't there.
pub(super) const MISSING: &str = "it is missing";
