//! Conflicts as an application sees them: both sides, whole, until somebody has written again.

use serde::Serialize;

use crate::arrival::ConflictKind;
use crate::canonical::Canonical;
use crate::error::Result;
use crate::hybrid_clock::Stamp;
use crate::manager::Manager;
use crate::node::{Dot, Key, NodeId};
use crate::revision::Revision;
use crate::siblings::{is_contested, kind_of};
use crate::strategy::Rules;

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// The event.
    pub dot: Dot,
    /// When.
    pub stamp: Stamp,
    /// The how-manieth version of the state it is.
    pub version: u32,
    /// What it says; nothing if it is a delete.
    pub data: Option<Canonical>,
}

/// Several nodes wrote one state at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Which state.
    pub key: Key,
    /// What contradicts what.
    pub kind: ConflictKind,
    /// This node's own side, or the one that is shown if it has none. Nothing if it was deleted.
    pub local: Option<Side>,
    /// The latest of the others. Nothing if those deleted it.
    pub remote: Option<Side>,
    /// All sides that there are, in the order of their events.
    pub sides: Vec<Side>,
    /// The name of the strategy.
    pub strategy: String,
    /// Whether it waits for somebody to resolve it.
    pub is_open: bool,
}

/// That several nodes wrote one state at once: what [`Conflict`] tells all about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundConflict {
    /// Which state.
    pub key: Key,
    /// What contradicts what.
    pub kind: ConflictKind,
}

/// How somebody resolves a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution<T> {
    /// This node's side.
    Local,
    /// The other's.
    Remote,
    /// The side of this event.
    Side(Dot),
    /// What merging field by field comes to.
    Merge,
    /// Another value.
    Custom(T),
}

impl Side {
    pub(crate) fn of(revision: &Revision) -> Self {
        Self {
            dot: revision.dot,
            stamp: revision.stamp,
            version: revision.version,
            data: revision.value().cloned(),
        }
    }
}

/// The two sides that a choice between local and remote is about.
pub(crate) fn sides(me: NodeId, siblings: &[Revision]) -> (Option<&Revision>, Option<&Revision>) {
    let by_rank = |sibling: &&Revision| sibling.rank();
    let own = siblings.iter().find(|sibling| sibling.dot.node == me);
    let local = own.or_else(|| siblings.iter().max_by_key(by_rank));
    let remote = siblings
        .iter()
        .filter(|sibling| Some(sibling.dot) != local.map(|local| local.dot))
        .max_by_key(by_rank);
    (local, remote)
}

impl Conflict {
    pub(crate) fn of(
        key: Key,
        kind: ConflictKind,
        me: NodeId,
        siblings: &[Revision],
        rules: &Rules,
    ) -> Self {
        let (local, remote) = match kind {
            // One side is a delete of which nothing is left.
            ConflictKind::UpdateDelete => (sides(me, siblings).0, None),
            ConflictKind::DeleteUpdate => (None, sides(me, siblings).0),
            ConflictKind::ConcurrentUpdate | ConflictKind::DivergentHistory => sides(me, siblings),
        };
        Self {
            kind,
            local: local.map(Side::of),
            remote: remote.map(Side::of),
            sides: siblings.iter().map(Side::of).collect(),
            strategy: rules.strategy.name().to_owned(),
            is_open: rules.leaves_open(siblings),
            key,
        }
    }
}

impl Manager {
    /// A conflict that came to light, with all sides that there are now.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn conflict(&self, found: &FoundConflict) -> Result<Conflict> {
        let known = self.known()?;
        let FoundConflict { key, kind } = found;
        let siblings = known.replica.siblings(&key.collection, &key.id);
        let rules = known.rules(&key.collection);
        Ok(Conflict::of(
            key.clone(),
            *kind,
            known.node,
            siblings,
            rules,
        ))
    }

    /// All states that several nodes wrote at once and nobody has written since.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let known = self.known()?;
        let mut conflicts = Vec::new();
        for collection in known.replica.collections() {
            let rules = known.rules(collection);
            for (id, siblings) in known.replica.several(collection) {
                if is_contested(siblings) {
                    let key = Key::new(collection, id);
                    let kind = kind_of(siblings);
                    conflicts.push(Conflict::of(key, kind, known.node, siblings, rules));
                }
            }
        }
        Ok(conflicts)
    }
}
