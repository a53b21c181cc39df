//! What one node knows: the heart of the crate. Pure values, no files, no clock, no threads.
//!
//! A replica is a function of the *set* of events it knows: for each key the revisions that no
//! known event supersedes. Order, repetition and the way events came do not matter, and nothing is
//! kept of what was deleted. [`Replica::accept`] takes events, [`Replica::join`] another replica.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use smol_str::SmolStr;

use crate::arrival::{Arrival, Change, ChangeKind, ConflictKind, Refused};
use crate::bulk::Bulk;
use crate::codec::Malformed;
use crate::draft::Draft;
use crate::frame::{Frame, Mark, first_link};
use crate::hybrid_clock::HybridClock;
use crate::limits::{CLOCK_NODES_MAX, PENDING_MAX};
use crate::node::{Dot, Key, NodeId};
use crate::revision::{Content, Event, Revision};
use crate::root::{Digester, Root};
use crate::several::Several;
use crate::siblings::{Siblings, is_contested};
use crate::snapshot::{self, Source};
use crate::states::States;
use crate::vector_clock::VectorClock;

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
    several: Several,
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

    /// Up to which number this node's log is known.
    pub(crate) fn reached(&self, node: NodeId) -> u64 {
        self.marks.get(&node).map_or(0, |mark| mark.sequence)
    }

    pub(crate) const fn marks(&self) -> &BTreeMap<NodeId, Mark> {
        &self.marks
    }

    /// The live revisions of a state, in the order of their dots.
    pub fn siblings(&self, collection: &str, id: &str) -> &[Revision] {
        self.collections
            .get(collection)
            .map_or(&[], |states| states.get(id))
    }

    /// The names of all collections, in order.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<str>> {
        self.collections.keys()
    }

    /// The states of a collection with their live revisions, in the order of their ids.
    pub fn states(&self, collection: &str) -> impl Iterator<Item = (&str, &[Revision])> {
        self.entries(collection)
            .map(|(id, siblings)| (&**id, siblings))
    }

    /// Those of a collection's states whose ids begin with this, in the order of their ids.
    pub fn states_starting_with<'a>(
        &'a self,
        collection: &str,
        start: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [Revision])> {
        let states = self.collections.get(collection).into_iter();
        states
            .flat_map(move |states| states.iter_from(start))
            .map(|(id, siblings)| (&**id, siblings))
            .take_while(move |(id, _)| id.starts_with(start))
    }

    /// The states of a collection with ids that can be shared.
    pub(crate) fn entries(
        &self,
        collection: &str,
    ) -> impl Iterator<Item = (&SmolStr, &[Revision])> {
        let states = self.collections.get(collection).into_iter();
        states.flat_map(States::iter)
    }

    /// All live revisions, in no order.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = &Revision> {
        let states = self.collections.values().flat_map(States::unordered);
        states.flat_map(|(_, siblings)| siblings)
    }

    /// How many states a collection has, graves included.
    pub fn count(&self, collection: &str) -> usize {
        self.collections.get(collection).map_or(0, States::len)
    }

    /// How many states have more than one live revision.
    pub const fn conflicts(&self) -> usize {
        self.several.len()
    }

    /// Those of a collection, in the order of their ids, with their live revisions. Takes time in
    /// proportion to these alone.
    pub(crate) fn several(&self, collection: &str) -> Vec<(&str, &[Revision])> {
        let mut ids: Vec<&str> = self.several.of(collection).map(SmolStr::as_str).collect();
        ids.sort_unstable();
        let found = ids.into_iter();
        found
            .map(|id| (id, self.siblings(collection, id)))
            .collect()
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = (NodeId, &Key, u64)> {
        self.pending
            .iter()
            .flat_map(|(node, keys)| keys.iter().map(|(key, sequence)| (*node, key, *sequence)))
    }

    /// Up to which number a node's events of a key are superseded before they came; 0 if they are not.
    pub(crate) fn announced(&self, node: NodeId, key: &Key) -> u64 {
        let keys = self.pending.get(&node);
        keys.and_then(|keys| keys.get(key)).copied().unwrap_or(0)
    }

    /// Takes events of some node. Events may come in any order of nodes, again and again; those of
    /// one node have to come in theirs.
    ///
    /// # Errors
    /// The frame is not taken, and nothing has changed.
    pub fn accept(&mut self, frame: &Frame) -> Result<Arrival, Refused> {
        if !self.mark(frame.node()).is_followed_by(frame)? {
            return Ok(Arrival::Known);
        }
        let mut events = Vec::new();
        frame.read_into(&mut events)?;
        self.check_room(std::iter::once((frame.node(), events.as_slice())))?;
        let mut changes = Vec::with_capacity(events.len());
        let changed = |change| changes.push(change);
        self.take(frame.node(), Mark::after(frame)?, events, changed);
        Ok(Arrival::New(changes))
    }

    /// Takes events of one node that continue its log, up to this mark. Says what each changed.
    pub(crate) fn take(
        &mut self,
        node: NodeId,
        mark: Mark,
        events: Vec<Event>,
        mut changed: impl FnMut(Change),
    ) {
        let mut collections = std::mem::take(&mut self.collections);
        let mut digester = Digester::new();
        if events.len() < BULK_EVENTS_MIN {
            for event in events {
                let digest = digester.digest(&event.key, &event.revision);
                let name = Arc::clone(&event.key.collection);
                let states = collections.entry(name).or_default();
                let id = event.key.id.clone();
                let change = states.change(&id, |siblings| {
                    self.apply(siblings, event, digest, &mut digester)
                });
                if states.is_empty() {
                    collections.remove(&change.key.collection);
                }
                changed(change);
            }
        } else {
            let mut bulk = Bulk::new(events, &mut digester);
            for (collection, order) in bulk.orders() {
                let states = collections.entry(Arc::clone(&collection)).or_default();
                states.expect(order.len());
                states.change_all(bulk.take(order), |siblings, (event, digest)| {
                    changed(self.apply(siblings, event, digest, &mut digester));
                });
                if states.is_empty() {
                    collections.remove(&collection);
                }
            }
        }
        self.collections = collections;
        self.marks.insert(node, mark);
        self.forget_pending(node, mark.sequence);
    }

    /// Whether there is room for new events of these nodes.
    pub(crate) fn check_room<'e>(
        &self,
        events: impl Iterator<Item = (NodeId, &'e [Event])> + Clone,
    ) -> Result<(), Refused> {
        let mut named = 0;
        let mut strangers = BTreeSet::new();
        for (node, events) in events.clone() {
            if !self.marks.contains_key(&node) {
                strangers.insert(node);
            }
            let contexts = events.iter().filter_map(|e| e.revision.context.as_ref());
            named += contexts.map(|context| context.len()).sum::<usize>();
        }
        if self.marks.len() + strangers.len() > CLOCK_NODES_MAX {
            return Err(Refused::TooManyNodes);
        }
        let waiting = || self.pending.values().map(BTreeMap::len).sum::<usize>();
        // Most of what is named is known, or named again and again: counted only where it matters.
        if named > 0
            && waiting() + named > PENDING_MAX
            && waiting() + self.count_announced(events) > PENDING_MAX
        {
            return Err(Refused::TooMuchPending);
        }
        Ok(())
    }

    /// How many keys these events supersede, by node, of which neither that is known yet nor what is
    /// superseded.
    fn count_announced<'e>(&self, events: impl Iterator<Item = (NodeId, &'e [Event])>) -> usize {
        let mut announced: HashSet<(NodeId, &Key)> = HashSet::new();
        let mut come: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (author, events) in events {
            for Event { key, revision } in events {
                for (node, sequence) in revision.context.iter().flat_map(|context| context.iter()) {
                    let known = self
                        .reached(*node)
                        .max(come.get(node).copied().unwrap_or(0));
                    if sequence > known && self.announced(*node, key) == 0 {
                        announced.insert((*node, key));
                    }
                }
                come.insert(author, revision.dot.sequence);
            }
        }
        announced.len()
    }

    /// What one event makes of its state.
    fn apply(
        &mut self,
        siblings: &mut Siblings,
        event: Event,
        digest: Root,
        digester: &mut Digester,
    ) -> Change {
        let Event { key, revision } = event;
        let dot = revision.dot;
        let was_superseded = self.announced(dot.node, &key) >= dot.sequence;
        let knew_more = self.announce(&key, &revision);
        let is_live = !was_superseded && revision.content != Content::Deleted;
        let is_put = revision.value().is_some();
        let has_predecessor = revision.version > 1;
        let was_there = !siblings.is_empty();
        let was_several = siblings.as_slice().len() > 1;
        let root = &mut self.root;
        siblings.retain(|sibling| {
            let is_seen = revision.has_seen(sibling.dot);
            if is_seen {
                root.subtract(digester.digest(&key, sibling));
            }
            !is_seen
        });
        let left_alive = !siblings.is_empty();
        if is_live {
            root.add(digest);
            siblings.add(revision);
        }
        let is_there = !siblings.is_empty();
        let is_several = siblings.as_slice().len() > 1;
        if was_several != is_several {
            self.several.note(&key, is_several);
        }
        let conflict = match (is_put, left_alive) {
            _ if was_superseded => None,
            (true, true) => {
                is_contested(siblings.as_slice()).then_some(ConflictKind::ConcurrentUpdate)
            }
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
            if sequence > self.reached(*node) {
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
        *self = if self.knows_nothing() {
            other.clone()
        } else {
            self.joined(other)?
        };
        Ok(())
    }

    /// Whether no event has come.
    pub(crate) fn knows_nothing(&self) -> bool {
        self.marks.is_empty()
    }

    /// What knowing both comes to.
    pub(crate) fn joined(&self, other: &Self) -> Result<Self, Refused> {
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
        let names: BTreeSet<&Arc<str>> = self
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
            if sequence > joined.reached(node) {
                let keys = joined.pending.entry(node).or_default();
                let number = keys.entry(key.clone()).or_default();
                *number = sequence.max(*number);
            }
        }
        joined.find_several();
        joined.recount();
        Ok(joined)
    }

    fn joined_states(&self, other: &Self, name: &Arc<str>) -> Result<States, Refused> {
        let none = States::default();
        let mine = self.collections.get(name).unwrap_or(&none);
        let theirs = other.collections.get(name).unwrap_or(&none);
        let ids: BTreeSet<&SmolStr> = mine.iter().chain(theirs.iter()).map(|(id, _)| id).collect();
        let mut states = Vec::with_capacity(ids.len());
        for id in ids {
            let (mine, theirs) = (mine.get(id), theirs.get(id));
            let key = Key {
                collection: Arc::clone(name),
                id: id.clone(),
            };
            let mut kept = Vec::new();
            for revision in mine {
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
                    kept.push(revision.clone());
                }
            }
            states.extend(Siblings::from_vec(kept).map(|siblings| (id.clone(), siblings)));
        }
        Ok(States::of(states))
    }

    /// Whether an event that is not live here was seen, or is superseded before it came.
    fn knows_gone(&self, key: &Key, dot: Dot) -> bool {
        self.reached(dot.node) >= dot.sequence || self.announced(dot.node, key) >= dot.sequence
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
                replica.collections.insert(name, States::of(states));
            }
        }
        for (node, key, sequence) in pending {
            replica
                .pending
                .entry(node)
                .or_default()
                .insert(key, sequence);
        }
        replica.find_several();
        replica
    }

    /// Takes the root from where it was kept.
    pub(crate) const fn set_root(&mut self, root: Root) {
        self.root = root;
    }

    /// Finds anew which states have several live revisions.
    fn find_several(&mut self) {
        let mut several = Several::default();
        for (collection, states) in &self.collections {
            for (id, _) in states.unordered().filter(|(_, live)| live.len() > 1) {
                let (collection, id) = (Arc::clone(collection), id.clone());
                several.note(&Key { collection, id }, true);
            }
        }
        self.several = several;
    }

    /// Computes the root anew from all live revisions.
    pub(crate) fn recount(&mut self) {
        let mut root = Root::default();
        let mut digester = Digester::new();
        for (collection, states) in &self.collections {
            for (id, siblings) in states.unordered() {
                for revision in siblings {
                    root.add(digester.digest_of(collection, id, revision));
                }
            }
        }
        self.root = root;
    }

    /// Begins a batch of this node's own.
    pub fn draft(&self, node: NodeId, clock: HybridClock, now: u64) -> Draft<'_> {
        Draft::new(self, node, clock, now)
    }
}

/// From so many events on it pays to put them in order.
const BULK_EVENTS_MIN: usize = 256;
