//! Whether two nodes can both be right: found out from their heads, at no cost in events.

use serde::Serialize;

use crate::message::Head;
use crate::node::NodeId;
use crate::vector_clock::Causality;

/// Two nodes that cannot both be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "alarm", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Alarm {
    /// Both know the same events and have different states: a bad disk, or a bug.
    Diverged {
        /// The other node.
        node: NodeId,
    },
    /// Both know the same number of some node's events, and they are different ones: two copies
    /// of that node's folder were written to.
    Forked {
        /// The other node.
        node: NodeId,
        /// Whose log it is.
        log: NodeId,
        /// The number of events.
        sequence: u64,
    },
    /// Both have the collection open and decide by different rules.
    OtherRules {
        /// The other node.
        node: NodeId,
        /// The collection.
        collection: String,
    },
    /// Both know the same, decide by the same strategy, and it came to different values: it is not
    /// a pure function of the siblings.
    Unstable {
        /// The other node.
        node: NodeId,
        /// The collection.
        collection: String,
    },
}

/// Everything that is wrong between two nodes.
pub(crate) fn compare(mine: &Head, other: &Head) -> Vec<Alarm> {
    let node = other.node;
    let mut alarms = Vec::new();
    for (log, mark) in &mine.marks {
        let theirs = other.marks.get(log);
        if theirs.is_some_and(|their| their.sequence == mark.sequence && their.link != mark.link) {
            alarms.push(Alarm::Forked {
                node,
                log: *log,
                sequence: mark.sequence,
            });
        }
    }
    let knows_the_same = mine.clock().compare(&other.clock()) == Causality::Equal;
    let is_comparable = knows_the_same && alarms.is_empty();
    if is_comparable && mine.root != other.root {
        alarms.push(Alarm::Diverged { node });
    }
    for (name, collection) in &mine.collections {
        let Some(theirs) = other.collections.get(name) else {
            continue;
        };
        let collection_name = name.to_string();
        if theirs.fingerprint != collection.fingerprint {
            alarms.push(Alarm::OtherRules {
                node,
                collection: collection_name,
            });
        } else if is_comparable && theirs.computed != collection.computed {
            alarms.push(Alarm::Unstable {
                node,
                collection: collection_name,
            });
        }
    }
    alarms
}
