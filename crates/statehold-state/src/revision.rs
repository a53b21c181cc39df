//! What one event says about one state, and the batches in which events become durable.

use crate::canonical::Canonical;
use crate::hybrid_clock::Stamp;
use crate::node::{Dot, Key, NodeId};
use crate::vector_clock::VectorClock;

/// What one event says about one state. Live revisions of one key are siblings; usually there is
/// exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    /// The event's name.
    pub dot: Dot,
    /// When it was made, by its author's hybrid clock. Orders siblings and nothing else.
    pub stamp: Stamp,
    /// One more than the largest version it supersedes; 1 for a new state.
    pub version: u32,
    /// Whether it settled a conflict. A set of settlements is no conflict any more.
    pub resolves: bool,
    /// What its author knew about the key by other nodes; none if nothing. It knew all its own.
    pub(crate) context: Option<Box<VectorClock>>,
    /// What it leaves.
    pub content: Content,
}

/// What an event leaves of a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A value.
    Value {
        /// The value.
        value: Canonical,
        /// Which fields were written by which event, where fields are merged.
        origins: Option<Box<Origins>>,
    },
    /// A delete that also takes effect on edits made at the same time. It stays until somebody
    /// buries it, when every node has seen it.
    Grave,
    /// A delete of what its author saw. Nothing stays of it.
    Deleted,
}

/// Which event wrote which field of a value. Fields stand in the order of the canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Origins {
    /// Earlier events that wrote fields which are still there.
    pub(crate) events: Vec<(Dot, Stamp)>,
    /// For each field 0 for this very event, else the place in `events`, from 1.
    pub(crate) fields: Vec<u32>,
}

impl Content {
    /// A value whose fields were all written at once.
    pub(crate) const fn whole(value: Canonical) -> Self {
        Self::Value {
            value,
            origins: None,
        }
    }
}

impl Revision {
    /// The value, if it is not a delete.
    pub fn value(&self) -> Option<&Canonical> {
        match &self.content {
            Content::Value { value, .. } => Some(value),
            Content::Grave | Content::Deleted => None,
        }
    }

    /// What its author knew about this key, this event included.
    pub fn clock(&self) -> VectorClock {
        let mut clock = self.context.as_deref().cloned().unwrap_or_default();
        clock.observe(self.dot.node, self.dot.sequence);
        clock
    }

    /// Whether its author had seen that event of the same key, or it is that event itself.
    pub(crate) fn has_seen(&self, dot: Dot) -> bool {
        if dot.node == self.dot.node {
            return dot.sequence <= self.dot.sequence;
        }
        self.context
            .as_ref()
            .is_some_and(|context| context.contains(dot))
    }

    /// The place in the total order of siblings: time, then name.
    pub(crate) const fn rank(&self) -> (Stamp, Dot) {
        (self.stamp, self.dot)
    }
}

/// One event: a revision of a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// Which state.
    pub key: Key,
    /// What it says.
    pub revision: Revision,
}

/// Events of one node that became durable at once, and that others take whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Whose events they are.
    pub node: NodeId,
    /// The sequence number of the first one; the others follow.
    pub first: u64,
    /// The events, at least one.
    pub events: Vec<Event>,
}

impl Batch {
    /// The sequence number of the last event.
    pub fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }
}
