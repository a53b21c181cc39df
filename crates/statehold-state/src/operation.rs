//! Operations as an application sees them: who did what to which state.

use serde::Serialize;
use serde_json::Value;

use crate::hybrid_clock::Stamp;
use crate::node::{Dot, Key};
use crate::revision::{Content, Event};
use crate::vector_clock::VectorClock;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// It makes a state.
    Create,
    /// It gives a state another value.
    Update,
    /// It ends a state.
    Delete,
}

/// One thing that was done to a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its name: the node, and the number among that node's operations.
    pub dot: Dot,
    /// What it does.
    pub kind: OperationKind,
    /// To which state.
    pub key: Key,
    /// The value, unless it is a delete.
    pub data: Option<Value>,
    /// When.
    pub stamp: Stamp,
    /// The how-manieth version of the state it is.
    pub version: u32,
    /// Whether it settled a conflict.
    pub resolves: bool,
    /// What its author knew of the state, this operation included.
    pub clock: VectorClock,
}

impl Operation {
    pub(crate) fn of(event: &Event) -> Self {
        let revision = &event.revision;
        let kind = match revision.content {
            Content::Grave | Content::Deleted => OperationKind::Delete,
            Content::Value { .. } if revision.version <= 1 => OperationKind::Create,
            Content::Value { .. } => OperationKind::Update,
        };
        Self {
            dot: revision.dot,
            kind,
            key: event.key.clone(),
            data: revision.value().map(crate::Canonical::json),
            stamp: revision.stamp,
            version: revision.version,
            resolves: revision.resolves,
            clock: revision.clock(),
        }
    }
}
