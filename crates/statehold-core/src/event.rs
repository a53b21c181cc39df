//! One row per call in `sync-events.ndjson`, whatever the call came to.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::time::Timestamp;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Something was sent or received.
    Done,
    /// Both sides were equal.
    Nothing,
    /// Asked only what would be done.
    Dry,
    /// Left to a later call.
    Deferred,
    /// Turned down by a rule or the gateway.
    Refused,
    /// Both sides changed the same path.
    Conflict,
    /// Done but for what the row's `error` names.
    Partial,
    /// It didn't get through.
    Failed,
}

/// A row of the event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When the call began.
    pub ts: Timestamp,
    /// The verb.
    pub op: String,
    /// The repository's name.
    pub repo: String,
    /// The group of paths it worked on.
    pub scope: String,
    /// Number of files that moved, or would.
    pub files: u64,
    /// Stored bytes that moved.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub dur_ms: u64,
    /// Id of the record that the workspace knew before; none if it knew none or, in a deferred row,
    /// if nobody looked.
    pub manifest_before: Option<Digest>,
    /// Id of the record that it knew after; the one before when nothing landed.
    pub manifest_after: Option<Digest>,
    /// What set it off: `manual`, or the runtime whose hook did.
    pub trigger: String,
    /// The machine's name.
    pub machine: String,
    /// What it came to.
    pub outcome: Outcome,
    /// What went wrong.
    pub error: Option<String>,
    /// In a dry row: what would move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
}
