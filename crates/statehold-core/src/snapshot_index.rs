//! `snapshots.ndjson`: the snapshots and copies of a repository for people and scripts to read, a line
//! each. It is computed from the state, so every machine at one record has the same bytes.

use serde::{Deserialize, Serialize};

use crate::snapshot::SnapshotId;
use crate::state::State;
use crate::time::Timestamp;
use crate::tree::write_line;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexedKind {
    /// A snapshot.
    Snapshot,
    /// A copy of the repository elsewhere.
    Backup,
}

/// A line of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedSnapshot {
    /// When the log got to know of it.
    pub ts: Timestamp,
    /// Its name.
    pub id: SnapshotId,
    /// What its maker called it.
    pub label: String,
    /// What it is.
    pub kind: IndexedKind,
    /// The record whose state it is.
    pub record: u64,
    /// Files in it; not known of copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of a snapshot's files, or those that the copying moved.
    pub bytes: u64,
    /// Where a copy lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// The snapshots and the newest copy of each label, in the order in which the log got to know them.
pub fn snapshot_index(state: &State) -> Vec<IndexedSnapshot> {
    let snapshots = state.snapshots.iter().map(|(id, snapshot)| {
        let indexed = IndexedSnapshot {
            ts: snapshot.time,
            id: id.clone(),
            label: id.label().to_owned(),
            kind: IndexedKind::Snapshot,
            record: snapshot.at,
            files: Some(snapshot.files),
            bytes: snapshot.bytes,
            to: None,
        };
        (snapshot.by, indexed)
    });
    let backups = state.backups.iter().filter_map(|(label, backup)| {
        let indexed = IndexedSnapshot {
            ts: backup.time,
            id: SnapshotId::new(backup.time, label)?,
            label: label.to_string(),
            kind: IndexedKind::Backup,
            record: backup.at,
            files: None,
            bytes: backup.bytes,
            to: Some(backup.to.clone()),
        };
        Some((backup.by, indexed))
    });
    let mut rows: Vec<(u64, IndexedSnapshot)> = snapshots.chain(backups).collect();
    rows.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The index as it stands in the file.
pub fn snapshot_index_lines(state: &State) -> Vec<u8> {
    let mut lines = Vec::new();
    for row in snapshot_index(state) {
        write_line(&mut lines, &row);
    }
    lines
}

/// Whether a text is an index, whatever state it is of. An empty one is.
pub fn is_snapshot_index(text: &[u8]) -> bool {
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines.all(|line| serde_json::from_slice::<IndexedSnapshot>(line).is_ok())
}
