//! A batch in the making: what a node is about to do, on top of what its replica knows.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};

use crate::frame::Frame;
use crate::hybrid_clock::HybridClock;
use crate::node::{Dot, Key, NodeId};
use crate::replica::Replica;
use crate::revision::{Batch, Content, Event, Revision};
use crate::vector_clock::VectorClock;

/// Hashes numbers that are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A batch in the making: events of one node on top of what its replica knows.
#[derive(Debug)]
pub struct Draft<'a> {
    replica: &'a Replica,
    node: NodeId,
    first: u64,
    clock: HybridClock,
    now: u64,
    events: Vec<Event>,
    /// Where the last event of a key stands in `events`, by the key's hash; keys of one hash stand
    /// at the next free numbers. Empty as long as there are few events to look through.
    places: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    hashes: RandomState,
}

/// So many events are quicker looked through than found by a hash.
const SCANNED_EVENTS_MAX: usize = 8;

impl<'a> Draft<'a> {
    pub(crate) fn new(replica: &'a Replica, node: NodeId, clock: HybridClock, now: u64) -> Self {
        Self {
            replica,
            node,
            first: replica.mark(node).sequence + 1,
            clock,
            now,
            events: Vec::new(),
            places: HashMap::default(),
            hashes: RandomState::new(),
        }
    }

    /// The live revisions of a state, with what this draft has done to it.
    pub fn siblings(&self, key: &Key) -> &[Revision] {
        match self.earlier(key) {
            Some(revision) if revision.content == Content::Deleted => &[],
            Some(revision) => std::slice::from_ref(revision),
            None => self.replica.siblings(&key.collection, &key.id),
        }
    }

    /// What this draft did to a state last.
    fn earlier(&self, key: &Key) -> Option<&Revision> {
        let event = if self.events.len() <= SCANNED_EVENTS_MAX {
            self.events.iter().rfind(|event| event.key == *key)
        } else {
            let place = self.places.get(&self.slot(key));
            place.map(|place| &self.events[*place])
        };
        event.map(|event| &event.revision)
    }

    /// Adds an event, and notes where it stands.
    fn add(&mut self, event: Event) {
        self.events.push(event);
        let count = self.events.len();
        let new = match count {
            ..=SCANNED_EVENTS_MAX => count..count,
            // Now all that were looked through so far.
            _ if self.places.is_empty() => 0..count,
            _ => count - 1..count,
        };
        for place in new {
            let slot = self.slot(&self.events[place].key);
            self.places.insert(slot, place);
        }
    }

    /// The number under which a key's place is or would be found.
    fn slot(&self, key: &Key) -> u64 {
        let mut slot = self.hashes.hash_one(&*key.id);
        while let Some(place) = self.places.get(&slot)
            && self.events[*place].key != *key
        {
            slot = slot.wrapping_add(1);
        }
        slot
    }

    /// Adds an event that supersedes everything this node knows of the key.
    pub fn push(&mut self, key: Key, content: Content, resolves: bool) -> Dot {
        let mut context = VectorClock::new();
        let version = if let Some(earlier) = self.earlier(&key) {
            if let Some(earlier) = &earlier.context {
                context.merge(earlier);
            }
            (earlier.content != Content::Deleted).then_some(earlier.version)
        } else {
            let siblings = self.replica.siblings(&key.collection, &key.id);
            for sibling in siblings {
                if let Some(earlier) = &sibling.context {
                    context.merge(earlier);
                }
                context.observe(sibling.dot.node, sibling.dot.sequence);
            }
            siblings.iter().map(|sibling| sibling.version).max()
        };
        // One's own earlier events are superseded without being named.
        context.forget(&self.node);
        let dot = Dot {
            node: self.node,
            sequence: self.first + self.events.len() as u64,
        };
        let revision = Revision {
            dot,
            stamp: self.clock.tick(self.now),
            version: version.unwrap_or(0).saturating_add(1),
            resolves,
            context: (!context.is_empty()).then(|| Box::new(context)),
            content,
        };
        self.add(Event { key, revision });
        dot
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it has no events.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The batch and the clock after it; nothing if there were no events.
    pub fn finish(self) -> Option<(Batch, HybridClock)> {
        (!self.events.is_empty()).then(|| {
            let batch = Batch {
                node: self.node,
                first: self.first,
                events: self.events,
            };
            (batch, self.clock)
        })
    }

    /// The batch as a frame that continues this node's log.
    pub fn seal(self) -> Option<(Frame, HybridClock)> {
        let previous = self.replica.mark(self.node).link;
        let (batch, clock) = self.finish()?;
        Some((Frame::of(&batch, previous), clock))
    }
}
