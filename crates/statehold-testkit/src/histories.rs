//! Random histories of application state on five nodes: edits, deletes, deliveries in any order,
//! lost and repeated, snapshots, crashes, restored backups, copied folders, and clocks that are
//! years apart. After each history everything is exchanged, and then all nodes have to be equal to
//! the byte, to show the same, and to know every operation that was acknowledged.
//!
//! The replicas are those that ship; what they have to come to is computed by a definition of one
//! line: a revision is live if no known event of its key had seen it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use statehold_state::{
    Arrival, Candidate, Canonical, Content, DeleteRule, Frame, HybridClock, Key, NodeId, Replica,
    Revision, Rules, Strategy,
};

/// Nodes of a history.
pub const NODES: usize = 5;
/// Things that happen in a history.
const STEPS: usize = 48;
/// States that the nodes contend for.
const KEYS: usize = 3;
/// Rounds of exchange in which all has to come to rest.
const ROUNDS_MAX: usize = 64;
const COLLECTION: &str = "settings";
const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
const NOW_MS: u64 = 50 * YEAR_MS;

/// What histories came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Histories {
    /// Histories that ended as they have to.
    pub histories: u64,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// Settlements among them.
    pub settlements: u64,
    /// States that several nodes had written at once when the exchange began.
    pub conflicts: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Backups that were put back, and folders that were copied.
    pub new_nodes: u64,
    /// Snapshots that were joined.
    pub snapshots: u64,
}

impl Histories {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.settlements += other.settlements;
        self.conflicts += other.conflicts;
        self.crashes += other.crashes;
        self.new_nodes += other.new_nodes;
        self.snapshots += other.snapshots;
    }
}

/// A history that ended as none may.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}: {what}; replay it with: cargo xtask show histories --seed {seed}")]
pub struct Diverged {
    /// Which history.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
}

/// One node: what it knows, and the frames that are on its disk, in the order in which they came.
struct Node {
    id: NodeId,
    replica: Replica,
    clock: HybridClock,
    /// What its clock shows.
    now: u64,
    log: Vec<Arc<Frame>>,
    backup: Vec<Arc<Frame>>,
}

struct World {
    random: ChaCha8Rng,
    rules: Rules,
    nodes: Vec<Node>,
    names: u64,
    counts: Histories,
}

/// Runs the history of this seed.
///
/// # Errors
/// It ended as none may.
pub fn run(seed: u64) -> Result<Histories, Diverged> {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish().map_err(|what| Diverged { seed, what })
}

fn longest(values: &[Candidate<Value>]) -> Option<Value> {
    let values = values.iter().map(|value| &value.data);
    values
        .max_by_key(|data| (data.to_string().len(), data.to_string()))
        .cloned()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            rules: Rules::default(),
            nodes: Vec::new(),
            names: 0,
            counts: Histories::default(),
        };
        world.rules.strategy = match world.below(6) {
            0 => Strategy::LastWriteWins,
            1 => Strategy::LocalWins,
            2 => Strategy::RemoteWins,
            3 => Strategy::Merge,
            4 => Strategy::Manual,
            _ => Strategy::custom("longest", 1, longest),
        };
        if world.below(3) == 0 {
            world.rules.deletes = DeleteRule::DeleteWins;
        }
        for _ in 0..NODES {
            let id = world.new_name();
            let now = world.any_time();
            world.nodes.push(Node {
                id,
                replica: Replica::new(),
                clock: HybridClock::default(),
                now,
                log: Vec::new(),
                backup: Vec::new(),
            });
        }
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        // Bounds are tiny, so the bias is as well.
        usize::try_from(self.random.next_u64() % bound as u64).unwrap_or(0)
    }

    fn new_name(&mut self) -> NodeId {
        self.names += 1;
        let mut bytes = [0; 16];
        // The order of names is not the order in which they were given.
        bytes[..8].copy_from_slice(&self.random.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&self.names.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    /// Up to ten years off, in both directions.
    fn any_time(&mut self) -> u64 {
        NOW_MS - 10 * YEAR_MS + self.random.next_u64() % (20 * YEAR_MS)
    }

    fn key(&mut self) -> Key {
        let number = self.below(KEYS);
        Key::new(COLLECTION, ["a", "b", "c"][number])
    }

    fn step(&mut self) {
        let (node, other) = (self.below(NODES), self.below(NODES));
        self.nodes[node].now += 1;
        match self.below(20) {
            0..=4 => self.put(node),
            5..=6 => self.delete(node),
            7..=11 => self.deliver_one(other, node),
            12..=13 => self.deliver_all(other, node),
            14 => self.join(other, node),
            15 => {
                self.settle(node);
            }
            16 => self.crash(node),
            17 => self.nodes[node].backup = self.nodes[node].log.clone(),
            18 => self.restore_or_copy(other, node),
            _ => self.nodes[node].now = self.any_time(),
        }
    }

    /// A new value on top of what the node shows: an object of which one field changes.
    fn edited(&mut self, node: usize, key: &Key) -> Option<Content> {
        let siblings = self.nodes[node]
            .replica
            .siblings(&key.collection, &key.id)
            .to_vec();
        let shown = self.rules.show(siblings.iter());
        let mut value: Value = shown
            .and_then(|shown| shown.value.parse().ok())
            .unwrap_or_else(|| json!({}));
        let field = ["x", "y", "z"][self.below(3)];
        let number = self.below(4);
        match value.as_object_mut() {
            Some(fields) if number == 0 => {
                fields.remove(field);
            }
            Some(fields) => {
                fields.insert(field.to_owned(), json!({ "n": number }));
            }
            None => value = json!({}),
        }
        // Now and then another shape altogether.
        if self.below(12) == 0 {
            value = json!(number);
        }
        let value = Canonical::of(&value).ok()?;
        self.rules.content(value, &siblings).ok()
    }

    fn put(&mut self, node: usize) {
        let key = self.key();
        if let Some(content) = self.edited(node, &key) {
            let mut events = vec![(key, content)];
            // Several states at once, now and then.
            if self.below(4) == 0 {
                let key = self.key();
                events.extend(self.edited(node, &key).map(|content| (key, content)));
            }
            self.write(node, events, false);
        }
    }

    fn delete(&mut self, node: usize) {
        let key = self.key();
        let replica = &self.nodes[node].replica;
        if !replica.siblings(&key.collection, &key.id).is_empty() {
            let content = self.rules.delete();
            self.write(node, vec![(key, content)], false);
        }
    }

    /// Logs a frame, then shows it: the order in which the folder does it. A crash in between
    /// leaves the frame or nothing, and nobody was told of it.
    fn write(&mut self, node: usize, events: Vec<(Key, Content)>, resolves: bool) {
        let count = events.len() as u64;
        let dies = !resolves && self.below(16) == 0;
        let is_written = self.below(2) == 0;
        let node = &mut self.nodes[node];
        let mut draft = node.replica.draft(node.id, node.clock, node.now);
        for (key, content) in events {
            draft.push(key, content, resolves);
        }
        let Some((frame, clock)) = draft.seal() else {
            return;
        };
        let frame = Arc::new(frame);
        if dies {
            if is_written {
                node.log.push(frame);
            }
            node.restart();
            self.counts.crashes += 1;
            return;
        }
        node.clock = clock;
        node.take(&frame);
        self.counts.operations += count;
        self.counts.settlements += if resolves { count } else { 0 };
    }

    fn deliver_one(&mut self, from: usize, to: usize) {
        let count = self.nodes[from].log.len();
        if count > 0 {
            let place = self.below(count);
            let frame = Arc::clone(&self.nodes[from].log[place]);
            self.nodes[to].take(&frame);
        }
    }

    fn deliver_all(&mut self, from: usize, to: usize) {
        for frame in self.nodes[from].log.clone() {
            self.nodes[to].take(&frame);
        }
    }

    /// A snapshot comes instead of events. Beside it the frames are noted, as if they had come, so
    /// that the node can pass them on.
    fn join(&mut self, from: usize, to: usize) {
        self.counts.snapshots += 1;
        let bytes = self.nodes[from].replica.to_bytes();
        let mut joined = self.nodes[to].replica.clone();
        let is_joined = Replica::from_bytes(&bytes).is_ok_and(|other| joined.join(&other).is_ok());
        self.deliver_all(from, to);
        // What it comes to is checked once more when everything has been exchanged.
        assert!(
            is_joined && joined == self.nodes[to].replica,
            "a snapshot is not what its events come to"
        );
    }

    fn settle(&mut self, node: usize) -> bool {
        let own = &self.nodes[node];
        let found = own.replica.states(COLLECTION).find_map(|(id, siblings)| {
            let settled = self.rules.settle(own.id, siblings.iter())?;
            Some((Key::new(COLLECTION, id), settled.content.clone()))
        });
        let Some(event) = found else {
            return false;
        };
        self.write(node, vec![event], true);
        true
    }

    fn crash(&mut self, node: usize) {
        self.counts.crashes += 1;
        self.nodes[node].restart();
    }

    /// A backup is put back, or the folder of another node is copied: either way the node takes a
    /// new name before it writes. What only this node had and the backup lacks is gone.
    fn restore_or_copy(&mut self, from: usize, node: usize) {
        self.counts.new_nodes += 1;
        let log = if from == node || self.below(2) == 0 {
            self.nodes[node].backup.clone()
        } else {
            self.nodes[from].log.clone()
        };
        let id = self.new_name();
        let node = &mut self.nodes[node];
        node.id = id;
        node.log = log;
        node.restart();
    }

    /// Exchanges everything until nothing is new, and checks what has to be true then.
    fn finish(mut self) -> Result<Histories, String> {
        let conflicts = self.nodes.iter().map(|node| node.replica.conflicts());
        self.counts.conflicts = conflicts.sum::<usize>() as u64;
        // Everything that anybody still has.
        let mut known: BTreeMap<(NodeId, Vec<u8>), Arc<Frame>> = BTreeMap::new();
        for frame in self.nodes.iter().flat_map(|node| &node.log) {
            known.insert((frame.node(), frame.bytes().to_vec()), Arc::clone(frame));
        }
        let mut rounds = 0;
        loop {
            let mut is_new = false;
            for to in 0..NODES {
                for from in 0..NODES {
                    for frame in self.nodes[from].log.clone() {
                        is_new |= self.nodes[to].take(&frame);
                    }
                }
                while self.settle(to) {
                    is_new = true;
                }
            }
            if !is_new {
                break;
            }
            rounds += 1;
            if rounds > ROUNDS_MAX {
                return Err("the nodes do not come to rest".to_owned());
            }
        }
        self.check(known.into_values())?;
        self.counts.histories = 1;
        Ok(self.counts)
    }

    fn check(&self, known: impl Iterator<Item = Arc<Frame>>) -> Result<(), String> {
        let first = &self.nodes[0];
        for frame in known {
            if !first.log.contains(&frame) {
                return Err(format!("a batch of node {} is lost", frame.node()));
            }
        }
        let bytes = first.replica.to_bytes();
        let expected = expected(&first.log)?;
        for node in &self.nodes {
            if node.replica.to_bytes() != bytes || node.replica.root() != first.replica.root() {
                return Err(format!("nodes {} and {} differ", first.id, node.id));
            }
            for (id, siblings) in node.replica.states(COLLECTION) {
                let same = first.replica.siblings(COLLECTION, id);
                if self.rules.show(siblings.iter()) != self.rules.show(same.iter()) {
                    return Err(format!(
                        "nodes {} and {} show different values",
                        first.id, node.id
                    ));
                }
            }
        }
        let live: BTreeMap<Key, Vec<Revision>> = first
            .replica
            .states(COLLECTION)
            .map(|(id, siblings)| (Key::new(COLLECTION, id), siblings.to_vec()))
            .collect();
        if live != expected {
            return Err("what is live is not what follows from the events".to_owned());
        }
        Ok(())
    }
}

impl Node {
    /// Takes a frame and logs it if it was new. One that does not fit yet is left.
    fn take(&mut self, frame: &Arc<Frame>) -> bool {
        let is_new = matches!(self.replica.accept(frame), Ok(Arrival::New(_)));
        if is_new {
            self.log.push(Arc::clone(frame));
        }
        is_new
    }

    /// Forgets everything but what is on the disk.
    fn restart(&mut self) {
        self.replica = Replica::new();
        self.clock = HybridClock::default();
        let log = std::mem::take(&mut self.log);
        for frame in log {
            self.take(&frame);
        }
    }
}

/// What has to be live when these frames are known, by definition.
fn expected(frames: &[Arc<Frame>]) -> Result<BTreeMap<Key, Vec<Revision>>, String> {
    let mut revisions: BTreeMap<Key, Vec<Revision>> = BTreeMap::new();
    for frame in frames {
        let batch = frame.batch().map_err(|error| error.to_string())?;
        for event in batch.events {
            revisions.entry(event.key).or_default().push(event.revision);
        }
    }
    for all in revisions.values_mut() {
        let clocks: Vec<_> = all.iter().map(|one| (one.dot, one.clock())).collect();
        all.retain(|one| {
            let is_seen = |(dot, clock): &(statehold_state::Dot, statehold_state::VectorClock)| {
                *dot != one.dot && clock.contains(one.dot)
            };
            one.content != Content::Deleted && !clocks.iter().any(is_seen)
        });
        all.sort_by_key(|one| one.dot);
    }
    revisions.retain(|_, all| !all.is_empty());
    Ok(revisions)
}

impl fmt::Display for Histories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} histories of {NODES} nodes: all ended equal to the byte and nothing acknowledged \
             was lost; {} operations, {} settlements, {} conflicts, {} crashes, {} restored or \
             copied folders, {} snapshots",
            self.histories,
            self.operations,
            self.settlements,
            self.conflicts,
            self.crashes,
            self.new_nodes,
            self.snapshots
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_histories_end_equal() {
        let mut sum = Histories::default();
        for seed in 0..2_000 {
            sum.add(run(seed).unwrap_or_else(|diverged| panic!("{diverged}")));
        }
        assert_eq!(sum.histories, 2_000);
        let counts = [
            sum.conflicts,
            sum.settlements,
            sum.crashes,
            sum.new_nodes,
            sum.snapshots,
        ];
        assert!(counts.iter().all(|count| *count > 100), "{sum}");
    }
}
