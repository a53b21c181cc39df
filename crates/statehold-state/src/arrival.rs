//! What becomes of events that come: what they change, or why they are not taken.

use crate::codec::Malformed;
use crate::limits::{CLOCK_NODES_MAX, PENDING_MAX};
use crate::node::{Dot, Key, NodeId};

/// Events or a replica that are not taken. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is not what it should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Events before these are missing; they have to come first.
    #[error(
        "of node {node} events {known} and before are known, and these begin with {first}; the ones between have to come first"
    )]
    Gap {
        /// Whose events.
        node: NodeId,
        /// The last one known.
        known: u64,
        /// The first one that came.
        first: u64,
    },
    /// The same numbers stand for different events: two programs wrote as one node.
    #[error(
        "node {node} has two different logs that both reach event {sequence}: two copies of its folder were written to, or it is damaged"
    )]
    Forked {
        /// Whose log.
        node: NodeId,
        /// Up to where they cannot both be true.
        sequence: u64,
    },
    /// More nodes than can be held.
    #[error("more than {CLOCK_NODES_MAX} nodes have written; retire some")]
    TooManyNodes,
    /// Too much is announced that never came.
    #[error(
        "more than {PENDING_MAX} keys are superseded by events of which the earlier ones never came"
    )]
    TooMuchPending,
}

/// What became of events that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// They were known already.
    Known,
    /// They are known now, and this changed.
    New(Vec<Change>),
}

/// What one event changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The state.
    pub key: Key,
    /// The event.
    pub dot: Dot,
    /// What happened to the state.
    pub kind: ChangeKind,
    /// What it contradicts that is live beside it, or was deleted meanwhile.
    pub conflict: Option<ConflictKind>,
}

/// What an event did to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It had not been there.
    Created,
    /// It was there and has a new revision.
    Updated,
    /// It is gone.
    Deleted,
    /// Nothing: a later event had superseded this one before it came.
    Superseded,
}

/// How two events contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// Both are edits.
    ConcurrentUpdate,
    /// Deleted here, edited there.
    DeleteUpdate,
    /// Edited here, deleted there.
    UpdateDelete,
    /// The same events with different content: damage, or two programs that wrote as one node.
    DivergentHistory,
}
