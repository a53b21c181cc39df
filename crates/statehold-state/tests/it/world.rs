//! A few nodes, the frames that each of them logged, and an oracle that knows nothing of how
//! replicas work: a revision is live if no known event of its key had seen it.

use std::collections::BTreeMap;

use statehold_state::{
    Arrival, Batch, Canonical, Content, Frame, HybridClock, Key, NodeId, Refused, Replica,
    Revision, Rules,
};

/// What is live, by key.
pub(crate) type Live = BTreeMap<Key, Vec<Revision>>;

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number + 1; 16])
}

pub(crate) fn key(number: u8) -> Key {
    Key::new("settings", &format!("key-{number}"))
}

pub(crate) fn text(value: &str) -> Canonical {
    Canonical::of(value).unwrap()
}

/// One node: what it knows, and the frames by which it came to know it, in that order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) replica: Replica,
    pub(crate) clock: HybridClock,
    pub(crate) log: Vec<Frame>,
}

impl Node {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            id: node(number),
            replica: Replica::new(),
            clock: HybridClock::default(),
            log: Vec::new(),
        }
    }

    /// Makes a frame of one event; nothing if there is nothing to do.
    pub(crate) fn draft(&self, key: &Key, content: Content, now: u64) -> (Frame, HybridClock) {
        let mut draft = self.replica.draft(self.id, self.clock, now);
        draft.push(key.clone(), content, false);
        draft.seal().unwrap()
    }

    /// Writes an event: first the log, then the replica.
    pub(crate) fn write(&mut self, key: &Key, content: Content, now: u64) {
        let (frame, clock) = self.draft(key, content, now);
        self.clock = clock;
        self.receive(&frame).unwrap();
    }

    pub(crate) fn put(&mut self, key: &Key, value: &str, rules: &Rules, now: u64) {
        let siblings = self.replica.siblings(&key.collection, &key.id);
        let content = rules.content(text(value), siblings).unwrap();
        self.write(key, content, now);
    }

    pub(crate) fn put_json(
        &mut self,
        key: &Key,
        json: &serde_json::Value,
        rules: &Rules,
        now: u64,
    ) {
        let siblings = self.replica.siblings(&key.collection, &key.id);
        let content = rules
            .content(Canonical::of(json).unwrap(), siblings)
            .unwrap();
        self.write(key, content, now);
    }

    pub(crate) fn delete(&mut self, key: &Key, rules: &Rules, now: u64) {
        if !self.replica.siblings(&key.collection, &key.id).is_empty() {
            self.write(key, rules.delete(), now);
        }
    }

    /// Settles what the rules let this node settle. Whether there was anything.
    pub(crate) fn settle(&mut self, rules: &Rules, now: u64) -> bool {
        let Some((key, content)) = self.first_to_settle(rules) else {
            return false;
        };
        let mut draft = self.replica.draft(self.id, self.clock, now);
        draft.push(key, content, true);
        let (frame, clock) = draft.seal().unwrap();
        self.clock = clock;
        self.receive(&frame).unwrap();
        true
    }

    fn first_to_settle(&self, rules: &Rules) -> Option<(Key, Content)> {
        self.replica.states("settings").find_map(|(id, siblings)| {
            let settled = rules.settle(self.id, siblings.iter())?;
            Some((Key::new("settings", id), settled.content.clone()))
        })
    }

    /// Takes a frame and logs it if it was new.
    pub(crate) fn receive(&mut self, frame: &Frame) -> Result<bool, Refused> {
        match self.replica.accept(frame)? {
            Arrival::Known => Ok(false),
            Arrival::New(_) => {
                self.log.push(frame.clone());
                Ok(true)
            }
        }
    }

    /// What a restart makes of the log.
    pub(crate) fn restarted(&self) -> Replica {
        let mut replica = Replica::new();
        for frame in &self.log {
            replica.accept(frame).unwrap();
        }
        replica
    }

    pub(crate) fn live(&self) -> Live {
        live_of(&self.replica)
    }

    /// Every event this node knows.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        self.log
            .iter()
            .map(|frame| frame.batch().unwrap())
            .collect()
    }

    /// What is shown, as text.
    pub(crate) fn shown(&self, key: &Key, rules: &Rules) -> Option<String> {
        let siblings = self.replica.siblings(&key.collection, &key.id);
        let shown = rules.show(siblings.iter())?;
        Some(shown.value.as_str().to_owned())
    }
}

pub(crate) fn live_of(replica: &Replica) -> Live {
    replica
        .collections()
        .flat_map(|collection| {
            replica
                .states(collection)
                .map(|(id, siblings)| (Key::new(collection, id), siblings.to_vec()))
        })
        .collect()
}

/// What is live when these events are known, by definition.
pub(crate) fn oracle(batches: &[Batch]) -> Live {
    let mut by_key: BTreeMap<Key, Vec<Revision>> = BTreeMap::new();
    for event in batches.iter().flat_map(|batch| &batch.events) {
        let revisions = by_key.entry(event.key.clone()).or_default();
        // The same event may have come by several ways.
        if !revisions.contains(&event.revision) {
            revisions.push(event.revision.clone());
        }
    }
    let mut live = Live::new();
    for (key, revisions) in by_key {
        let mut kept: Vec<Revision> = revisions
            .iter()
            .filter(|one| {
                let is_seen =
                    |other: &Revision| other.dot != one.dot && other.clock().contains(one.dot);
                one.content != Content::Deleted && !revisions.iter().any(is_seen)
            })
            .cloned()
            .collect();
        kept.sort_by_key(|revision| revision.dot);
        if !kept.is_empty() {
            live.insert(key, kept);
        }
    }
    live
}

/// Exchanges everything between all nodes until nothing is new any more.
pub(crate) fn quiet(nodes: &mut [Node], rules: &Rules, now: u64) {
    for _ in 0..100 {
        let mut is_new = false;
        for to in 0..nodes.len() {
            for from in 0..nodes.len() {
                for frame in nodes[from].log.clone() {
                    is_new |= nodes[to].receive(&frame).unwrap_or(false);
                }
            }
            while nodes[to].settle(rules, now) {
                is_new = true;
            }
        }
        if !is_new {
            return;
        }
    }
    panic!("the nodes do not come to rest");
}
