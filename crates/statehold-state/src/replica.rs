//! What one node knows: the heart of the crate. Pure values, no files, no clock, no threads.
//!
//! A replica is a function of the *set* of events it knows: for each key the revisions that no
//! known event supersedes. Order, repetition and the way events came do not matter, and nothing is
//! kept of what was deleted. [`Replica::accept`] takes events, [`Replica::join`] another replica.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::codec::{self, Malformed};
use crate::draft::Draft;
use crate::hybrid_clock::HybridClock;
use crate::limits::{CLOCK_NODES_MAX, PENDING_MAX};
use crate::node::{Dot, Key, NodeId};
use crate::revision::{Batch, Content, Event, Revision};
use crate::root::{Digester, Root};
use crate::snapshot::{self, Source};
use crate::vector_clock::VectorClock;

/// How far a node's log is known, with the link that stands for everything in it up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub sequence: u64,
    pub link: Link,
}

impl Mark {
    /// Whether a batch of this node continues its log here; not if it is known already.
    pub(crate) fn is_followed_by(
        self,
        batch: &Batch,
        previous: Link,
        link: Link,
    ) -> Result<bool, Refused> {
        let node = batch.node;
        let forked = |sequence| Err(Refused::Forked { node, sequence });
        if batch.last() <= self.sequence {
            if batch.last() == self.sequence && link != self.link {
                return forked(self.sequence);
            }
            return Ok(false);
        }
        if batch.first > self.sequence + 1 {
            return Err(Refused::Gap {
                node,
                known: self.sequence,
                first: batch.first,
            });
        }
        if batch.first <= self.sequence || previous != self.link {
            return forked(batch.first);
        }
        Ok(true)
    }
}

/// A link of the hash chain that a node's log is. Two logs with the same link are the same log.
pub type Link = [u8; 16];

/// The link before a node's first batch.
pub(crate) fn first_link(node: NodeId) -> Link {
    link(*b"statehold  state", node.as_bytes())
}

/// The link after these bytes.
fn link(previous: Link, bytes: &[u8]) -> Link {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&previous);
    hasher.update(bytes);
    let mut link = Link::default();
    link.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    link
}

/// A batch as it is stored and sent: the bytes and what they continue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Whose batch it is.
    pub node: NodeId,
    /// The link before it.
    pub previous: Link,
    /// The batch, encoded.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A batch that continues its node's log after this link.
    pub(crate) fn of(batch: &Batch, previous: Link) -> Self {
        Self {
            node: batch.node,
            previous,
            bytes: codec::encode(batch),
        }
    }

    /// The link after it.
    pub fn link(&self) -> Link {
        link(self.previous, &self.bytes)
    }

    /// The first and the last sequence number in it.
    pub(crate) fn sequences(&self) -> Result<(u64, u64), Malformed> {
        codec::sequences(&self.bytes)
    }

    /// The batch in it.
    ///
    /// # Errors
    /// The bytes are damaged or hostile.
    pub fn batch(&self) -> Result<Batch, Malformed> {
        codec::decode(self.node, &self.bytes)
    }
}

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
    /// What it was in conflict with, if it was.
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

/// The live revisions of one key, in the order of their dots: nearly always one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Siblings {
    One(Revision),
    /// Never exactly one, so that equal siblings are equal values.
    Many(Vec<Revision>),
}

impl Default for Siblings {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Siblings {
    fn as_slice(&self) -> &[Revision] {
        match self {
            Self::One(revision) => std::slice::from_ref(revision),
            Self::Many(revisions) => revisions,
        }
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&Revision) -> bool) {
        match self {
            Self::One(revision) => {
                if !is_kept(revision) {
                    *self = Self::default();
                }
            }
            Self::Many(revisions) => {
                revisions.retain(is_kept);
                if revisions.len() == 1 {
                    *self = revisions.pop().map_or_else(Self::default, Self::One);
                }
            }
        }
    }

    pub(crate) fn add(&mut self, revision: Revision) {
        *self = match std::mem::take(self) {
            Self::Many(none) if none.is_empty() => Self::One(revision),
            Self::One(other) if other.dot < revision.dot => Self::Many(vec![other, revision]),
            Self::One(other) => Self::Many(vec![revision, other]),
            Self::Many(mut revisions) => {
                let place = revisions.partition_point(|other| other.dot < revision.dot);
                revisions.insert(place, revision);
                Self::Many(revisions)
            }
        };
    }

    /// In the order of dots; nothing if there is none.
    fn from_vec(revisions: Vec<Revision>) -> Option<Self> {
        let mut siblings = Self::default();
        for revision in revisions {
            siblings.add(revision);
        }
        (!siblings.as_slice().is_empty()).then_some(siblings)
    }
}

/// Short ids lie in the map itself: looking at them elsewhere would be most of what a look costs.
type States = BTreeMap<SmolStr, Siblings>;
/// The states of a collection as they were read: ids in order, with their live revisions.
pub(crate) type ReadStates = Vec<(SmolStr, Siblings)>;

/// What one node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    marks: BTreeMap<NodeId, Mark>,
    collections: BTreeMap<Arc<str>, States>,
    /// What is superseded before it came: for each node its keys, each up to a number.
    pending: BTreeMap<NodeId, BTreeMap<Key, u64>>,
    root: Root,
    conflicts: usize,
}

impl Replica {
    /// A replica that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much of each node's log is known.
    pub fn clock(&self) -> VectorClock {
        self.marks
            .iter()
            .map(|(node, mark)| (*node, mark.sequence))
            .collect()
    }

    /// The digest of everything that is live. Replicas with equal clocks have equal roots.
    pub const fn root(&self) -> Root {
        self.root
    }

    /// How far this node's log is known, with its link.
    pub(crate) fn mark(&self, node: NodeId) -> Mark {
        self.marks.get(&node).copied().unwrap_or_else(|| Mark {
            sequence: 0,
            link: first_link(node),
        })
    }

    pub(crate) const fn marks(&self) -> &BTreeMap<NodeId, Mark> {
        &self.marks
    }

    /// The live revisions of a state, in the order of their dots.
    pub fn siblings(&self, collection: &str, id: &str) -> &[Revision] {
        self.collections
            .get(collection)
            .and_then(|states| states.get(id))
            .map_or(&[], Siblings::as_slice)
    }

    /// The names of all collections, in order.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<str>> {
        self.collections.keys()
    }

    /// The states of a collection with their live revisions, in the order of their ids.
    pub fn states(&self, collection: &str) -> impl Iterator<Item = (&str, &[Revision])> {
        self.collections
            .get(collection)
            .into_iter()
            .flatten()
            .map(|(id, siblings)| (&**id, siblings.as_slice()))
    }

    /// Those of a collection's states whose ids begin with this, in the order of their ids.
    pub fn states_starting_with<'a>(
        &'a self,
        collection: &str,
        start: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [Revision])> {
        let states = self.collections.get(collection).into_iter();
        states
            .flat_map(move |states| {
                states.range::<str, _>((Bound::Included(start), Bound::Unbounded))
            })
            .map(|(id, siblings)| (&**id, siblings.as_slice()))
            .take_while(move |(id, _)| id.starts_with(start))
    }

    /// The same with ids that can be shared.
    pub(crate) fn entries(
        &self,
        collection: &str,
    ) -> impl Iterator<Item = (&SmolStr, &[Revision])> {
        let states = self.collections.get(collection).into_iter().flatten();
        states.map(|(id, siblings)| (id, siblings.as_slice()))
    }

    /// How many states a collection has, graves included.
    pub fn count(&self, collection: &str) -> usize {
        self.collections.get(collection).map_or(0, BTreeMap::len)
    }

    /// How many states have more than one live revision.
    pub const fn conflicts(&self) -> usize {
        self.conflicts
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = (NodeId, &Key, u64)> {
        self.pending
            .iter()
            .flat_map(|(node, keys)| keys.iter().map(|(key, sequence)| (*node, key, *sequence)))
    }

    /// Takes events of some node. Events may come in any order of nodes, again and again; those of
    /// one node have to come in theirs.
    ///
    /// # Errors
    /// The frame is not taken, and nothing has changed.
    pub fn accept(&mut self, frame: &Frame) -> Result<Arrival, Refused> {
        // Most of what comes twice needs no closer look.
        let (_, last) = frame.sequences()?;
        if last < self.mark(frame.node).sequence {
            return Ok(Arrival::Known);
        }
        let batch = frame.batch()?;
        let link = frame.link();
        self.accept_batch(batch, frame.previous, link)
    }

    /// Takes a batch that is at hand already, with the links around it.
    pub(crate) fn accept_batch(
        &mut self,
        batch: Batch,
        previous: Link,
        link: Link,
    ) -> Result<Arrival, Refused> {
        if !self
            .mark(batch.node)
            .is_followed_by(&batch, previous, link)?
        {
            return Ok(Arrival::Known);
        }
        self.check_room(std::iter::once(&batch))?;
        let (node, sequence) = (batch.node, batch.last());
        let mut events = batch.events;
        sort_roughly(&mut events);
        let mut digester = Digester::default();
        let changes = events
            .into_iter()
            .map(|event| self.apply(event, &mut digester))
            .collect();
        self.marks.insert(node, Mark { sequence, link });
        self.forget_pending(node, sequence);
        Ok(Arrival::New(changes))
    }

    /// Whether there is room for batches that are new.
    pub(crate) fn check_room<'b>(
        &self,
        batches: impl Iterator<Item = &'b Batch>,
    ) -> Result<(), Refused> {
        let mut announced = 0;
        let mut strangers = std::collections::BTreeSet::new();
        for batch in batches {
            if !self.marks.contains_key(&batch.node) {
                strangers.insert(batch.node);
            }
            let contexts = batch.events.iter();
            announced += contexts
                .filter_map(|event| event.revision.context.as_ref())
                .map(|context| context.len())
                .sum::<usize>();
        }
        if self.marks.len() + strangers.len() > CLOCK_NODES_MAX {
            return Err(Refused::TooManyNodes);
        }
        let waiting = || self.pending.values().map(BTreeMap::len).sum::<usize>();
        if announced > 0 && waiting() + announced > PENDING_MAX {
            return Err(Refused::TooMuchPending);
        }
        Ok(())
    }

    /// Takes one event that has not been seen, after all earlier ones of its node.
    fn apply(&mut self, event: Event, digester: &mut Digester) -> Change {
        let Event { key, revision } = event;
        let dot = revision.dot;
        let was_superseded = self
            .pending
            .get(&dot.node)
            .and_then(|keys| keys.get(&key))
            .is_some_and(|sequence| *sequence >= dot.sequence);
        let knew_more = self.announce(&key, &revision);
        let states = match self.collections.get_mut(&key.collection) {
            Some(states) => states,
            None => self
                .collections
                .entry(Arc::clone(&key.collection))
                .or_default(),
        };
        let is_live = !was_superseded && revision.content != Content::Deleted;
        let is_put = revision.value().is_some();
        let has_predecessor = revision.version > 1;
        let mut left_alive = false;
        let was_there;
        let mut is_there = is_live;
        let place = states.entry(key.id.clone());
        if let Entry::Occupied(mut place) = place {
            was_there = true;
            let mut all = std::mem::take(place.get_mut());
            self.conflicts -= usize::from(all.as_slice().len() > 1);
            let root = &mut self.root;
            all.retain(|sibling| {
                let is_seen = revision.has_seen(sibling.dot);
                if is_seen {
                    root.subtract(digester.digest(&key.collection, &key.id, sibling));
                }
                !is_seen
            });
            left_alive = !all.as_slice().is_empty();
            if is_live {
                root.add(digester.digest(&key.collection, &key.id, &revision));
                all.add(revision);
            }
            is_there = !all.as_slice().is_empty();
            self.conflicts += usize::from(all.as_slice().len() > 1);
            *place.get_mut() = all;
            if !is_there {
                place.remove();
            }
        } else {
            was_there = false;
            if is_live {
                let digest = digester.digest(&key.collection, &key.id, &revision);
                self.root.add(digest);
                place.or_insert(Siblings::One(revision));
            }
        }
        if states.is_empty() {
            self.collections.remove(&key.collection);
        }
        let conflict = match (is_put, left_alive) {
            _ if was_superseded => None,
            (true, true) => Some(ConflictKind::ConcurrentUpdate),
            (false, true) => Some(ConflictKind::UpdateDelete),
            // It had a predecessor, all that its author knew is known, and it is gone.
            (true, false) if !was_there && has_predecessor && !knew_more => {
                Some(ConflictKind::DeleteUpdate)
            }
            _ => None,
        };
        let kind = match (was_there, is_there) {
            _ if was_superseded => ChangeKind::Superseded,
            (false, true) => ChangeKind::Created,
            (true, true) => ChangeKind::Updated,
            (true, false) => ChangeKind::Deleted,
            (false, false) => ChangeKind::Superseded,
        };
        Change {
            key,
            dot,
            kind,
            conflict,
        }
    }

    /// Notes what a revision supersedes that has not come yet. Whether there was any.
    fn announce(&mut self, key: &Key, revision: &Revision) -> bool {
        let Some(context) = &revision.context else {
            return false;
        };
        let mut knew_more = false;
        for (node, sequence) in context.iter() {
            if sequence > self.marks.get(node).map_or(0, |mark| mark.sequence) {
                let keys = self.pending.entry(*node).or_default();
                let number = keys.entry(key.clone()).or_default();
                *number = sequence.max(*number);
                knew_more = true;
            }
        }
        knew_more
    }

    /// What has come is not waited for any more.
    fn forget_pending(&mut self, node: NodeId, sequence: u64) {
        if let Some(keys) = self.pending.get_mut(&node) {
            keys.retain(|_, number| *number > sequence);
            if keys.is_empty() {
                self.pending.remove(&node);
            }
        }
    }

    /// Takes over everything that another replica knows. Commutative, associative and idempotent:
    /// the result is what knowing both sets of events comes to.
    ///
    /// # Errors
    /// The two contradict each other, and nothing has changed.
    pub fn join(&mut self, other: &Self) -> Result<(), Refused> {
        if *self == Self::default() {
            *self = other.clone();
            return Ok(());
        }
        for (node, mark) in &other.marks {
            let known = self.mark(*node);
            if known.sequence == mark.sequence && known.link != mark.link {
                return Err(Refused::Forked {
                    node: *node,
                    sequence: mark.sequence,
                });
            }
        }
        let mut joined = Self {
            marks: self.marks.clone(),
            ..Self::default()
        };
        for (node, mark) in &other.marks {
            let known = joined.marks.entry(*node).or_insert(*mark);
            if known.sequence < mark.sequence {
                *known = *mark;
            }
        }
        if joined.marks.len() > CLOCK_NODES_MAX {
            return Err(Refused::TooManyNodes);
        }
        let names: std::collections::BTreeSet<&Arc<str>> = self
            .collections
            .keys()
            .chain(other.collections.keys())
            .collect();
        for name in names {
            let states = self.joined_states(other, name)?;
            if !states.is_empty() {
                joined.collections.insert(Arc::clone(name), states);
            }
        }
        for (node, key, sequence) in self.pending().chain(other.pending()) {
            if sequence > joined.marks.get(&node).map_or(0, |mark| mark.sequence) {
                let keys = joined.pending.entry(node).or_default();
                let number = keys.entry(key.clone()).or_default();
                *number = sequence.max(*number);
            }
        }
        joined.recount();
        *self = joined;
        Ok(())
    }

    fn joined_states(&self, other: &Self, name: &Arc<str>) -> Result<States, Refused> {
        let none = States::new();
        let mine = self.collections.get(name).unwrap_or(&none);
        let theirs = other.collections.get(name).unwrap_or(&none);
        let ids: std::collections::BTreeSet<&SmolStr> = mine.keys().chain(theirs.keys()).collect();
        let mut states = Vec::with_capacity(ids.len());
        for id in ids {
            let of = |states: &'_ States| -> Vec<Revision> {
                states
                    .get(id)
                    .map_or_else(Vec::new, |siblings| siblings.as_slice().to_vec())
            };
            let (mine, theirs) = (of(mine), of(theirs));
            let key = Key {
                collection: Arc::clone(name),
                id: id.clone(),
            };
            let mut kept = Vec::new();
            for revision in &mine {
                match theirs.iter().find(|their| their.dot == revision.dot) {
                    Some(same) if same != revision => {
                        return Err(Refused::Forked {
                            node: revision.dot.node,
                            sequence: revision.dot.sequence,
                        });
                    }
                    Some(_) => kept.push(revision.clone()),
                    None if !other.knows_gone(&key, revision.dot) => kept.push(revision.clone()),
                    None => {}
                }
            }
            for revision in theirs {
                let is_mine = mine.iter().any(|own| own.dot == revision.dot);
                if !is_mine && !self.knows_gone(&key, revision.dot) {
                    kept.push(revision);
                }
            }
            states.extend(Siblings::from_vec(kept).map(|siblings| (id.clone(), siblings)));
        }
        Ok(states.into_iter().collect())
    }

    /// Whether an event that is not live here was seen, or is superseded before it came.
    fn knows_gone(&self, key: &Key, dot: Dot) -> bool {
        let waiting = || self.pending.get(&dot.node)?.get(key).copied();
        self.mark(dot.node).sequence >= dot.sequence
            || waiting().is_some_and(|sequence| sequence >= dot.sequence)
    }

    /// Everything this replica knows, as bytes that any other can [`join`](Self::join).
    pub fn to_bytes(&self) -> Vec<u8> {
        snapshot::encode(self)
    }

    /// Reads a replica that somebody sent.
    ///
    /// # Errors
    /// The bytes are damaged or hostile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        snapshot::decode(bytes, Source::Elsewhere)
    }

    /// A replica from its parts, as they were read.
    pub(crate) fn from_parts(
        marks: BTreeMap<NodeId, Mark>,
        collections: Vec<(Arc<str>, ReadStates)>,
        pending: Vec<(NodeId, Key, u64)>,
    ) -> Self {
        let mut replica = Self {
            marks,
            ..Self::default()
        };
        for (name, states) in collections {
            if !states.is_empty() {
                let states = states.into_iter().collect();
                replica.collections.insert(name, states);
            }
        }
        for (node, key, sequence) in pending {
            replica
                .pending
                .entry(node)
                .or_default()
                .insert(key, sequence);
        }
        replica
    }

    /// Takes the root and the number of conflicts from where they were kept.
    pub(crate) fn set_totals(&mut self, root: Root, conflicts: usize) {
        self.root = root;
        self.conflicts = conflicts;
    }

    /// Computes the root and the number of conflicts anew from all live revisions.
    pub(crate) fn recount(&mut self) {
        let mut root = Root::default();
        let mut digester = Digester::default();
        let mut conflicts = 0;
        for (collection, states) in &self.collections {
            for (id, siblings) in states {
                let siblings = siblings.as_slice();
                conflicts += usize::from(siblings.len() > 1);
                for revision in siblings {
                    root.add(digester.digest(collection, id, revision));
                }
            }
        }
        self.set_totals(root, conflicts);
    }

    /// Begins a batch of this node's own.
    pub fn draft(&self, node: NodeId, clock: HybridClock, now: u64) -> Draft<'_> {
        Draft::new(self, node, clock, now)
    }
}

/// From so many events on it pays to sort them.
const SORT_EVENTS_MIN: usize = 256;

/// Puts the events of a large batch into about the order in which their keys stand in the map: each
/// then finds its neighbours at hand, which is most of what taking it costs. Events of one key stay
/// in their order.
fn sort_roughly(events: &mut [Event]) {
    let Some((first, rest)) = events.split_first() else {
        return;
    };
    if rest.len() < SORT_EVENTS_MIN {
        return;
    }
    let first = first.key.id.as_bytes();
    let shared = rest.iter().fold(first.len(), |shared, event| {
        let both = first[..shared].iter().zip(event.key.id.as_bytes());
        both.take_while(|(one, other)| one == other).count()
    });
    events.sort_by_cached_key(|event| {
        let mut word = [0; 8];
        let differing = event.key.id.as_bytes().iter().skip(shared);
        for (byte, differing) in word.iter_mut().zip(differing) {
            *byte = *differing;
        }
        u64::from_be_bytes(word)
    });
}
