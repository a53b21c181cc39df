//! Operations as an application sees them: who did what to which state.

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::hybrid_clock::Stamp;
use crate::manager::Manager;
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

impl Manager {
    /// This node's operations that no other node is known to have, in order. They are consumed
    /// when a head comes that covers them.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn pending(&self) -> Result<Vec<Operation>> {
        let writer = self.writer();
        let known = self.known()?;
        let mark = known.replica.mark(known.node);
        let acknowledged = known.acknowledged();
        let frames = writer.journal.own_frames(known.node, acknowledged, mark)?;
        let mut operations = Vec::new();
        for frame in frames {
            let events = frame.batch()?.events;
            let events = events.iter();
            operations.extend(
                events
                    .filter(|event| event.revision.dot.sequence > acknowledged)
                    .map(Operation::of),
            );
        }
        Ok(operations)
    }

    /// Everything that was done to any state, by whichever node, oldest first, as far as history is
    /// kept.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn history(&self) -> Result<Vec<Operation>> {
        self.history_of(|_| true)
    }

    /// The same of states that are wanted.
    pub(crate) fn history_of(&self, is_wanted: impl Fn(&Key) -> bool) -> Result<Vec<Operation>> {
        let writer = self.writer();
        let mut operations = Vec::new();
        for frame in writer.journal.history()? {
            let events = frame.batch()?.events;
            let events = events.iter().filter(|event| is_wanted(&event.key));
            operations.extend(events.map(Operation::of));
        }
        operations.sort_by_key(|operation| (operation.stamp, operation.dot));
        Ok(operations)
    }
}
