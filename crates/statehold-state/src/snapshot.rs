//! A whole replica as bytes: what a late joiner starts from, and what a folder is loaded from.
//!
//! Equal replicas have equal bytes before compression. Values stand in columns (all keys, all
//! stamps, all values), which is what makes them small.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::canonical::Canonical;
use crate::codec::{Malformed, Reader, Writer, pack, unpack};
use crate::frame::Mark;
use crate::hybrid_clock::Stamp;
use crate::limits::{
    CLOCK_NODES_MAX, COLLECTION_BYTES_MAX, FIELDS_MAX, ID_BYTES_MAX, PENDING_MAX,
    SNAPSHOT_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::node::{Dot, Key, NodeId};
use crate::replica::{ReadStates, Replica};
use crate::revision::{Content, Origins, Revision};
use crate::root::Root;
use crate::siblings::Siblings;
use crate::vector_clock::VectorClock;

const WHAT: &str = "a snapshot";
/// Level of compression: what takes no noticeable time.
const SNAPSHOT_LEVEL: i32 = 3;
const GRAVE: u8 = 1;
const RESOLVES: u8 = 2;
const HAS_CONTEXT: u8 = 4;
const HAS_ORIGINS: u8 = 8;
/// Another sibling of the same key follows.
const HAS_NEXT: u8 = 16;
const KNOWN_FLAGS: u8 = 31;

/// Where the bytes of a snapshot come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// This program wrote them, and a checksum was compared.
    Own,
    /// Anybody may have written them: everything is checked, and the root computed anew.
    Elsewhere,
}

/// One column for each kind of thing that a revision is made of.
#[derive(Debug, Default)]
struct Columns {
    flags: Writer,
    ids: Writer,
    nodes: Writer,
    sequences: Writer,
    stamps: Writer,
    versions: Writer,
    contexts: Writer,
    lengths: Writer,
    values: Writer,
    origins: Writer,
}

const COLUMNS: usize = 10;

impl Columns {
    fn all(&self) -> [&Writer; COLUMNS] {
        [
            &self.flags,
            &self.ids,
            &self.nodes,
            &self.sequences,
            &self.stamps,
            &self.versions,
            &self.contexts,
            &self.lengths,
            &self.values,
            &self.origins,
        ]
    }
}

/// The replica as bytes, before they are compressed: equal for equal replicas.
pub(crate) fn canonical_bytes(replica: &Replica) -> Vec<u8> {
    let mut whole = Writer::default();
    let marks = replica.marks();
    let places: BTreeMap<NodeId, usize> = marks.keys().copied().zip(0..).collect();
    whole.count(marks.len());
    for (node, mark) in marks {
        whole.raw(node.as_bytes());
        whole.number(mark.sequence);
        whole.raw(&mark.link);
    }
    whole.raw(&replica.root().to_bytes());
    whole.count(replica.conflicts());
    let pending: Vec<_> = replica.pending().collect();
    whole.count(pending.len());
    for (node, key, sequence) in pending {
        whole.raw(node.as_bytes());
        whole.bytes(key.collection.as_bytes());
        whole.bytes(key.id.as_bytes());
        whole.number(sequence);
    }
    whole.count(replica.collections().count());
    for collection in replica.collections() {
        whole.bytes(collection.as_bytes());
        whole.count(replica.count(collection));
        let columns = columns(replica, collection, &places);
        for column in columns.all() {
            whole.bytes(&column.0);
        }
    }
    whole.0
}

/// The replica as bytes, in their container.
pub(crate) fn encode(replica: &Replica) -> Vec<u8> {
    pack(canonical_bytes(replica), SNAPSHOT_LEVEL)
}

fn columns(replica: &Replica, collection: &str, places: &BTreeMap<NodeId, usize>) -> Columns {
    let mut columns = Columns::default();
    let mut last_id = "";
    let mut last_stamp = 0;
    let mut last_sequences = vec![0; places.len()];
    for (id, siblings) in replica.states(collection) {
        let shared = shared_bytes(last_id, id);
        columns.ids.count(shared);
        columns.ids.bytes(&id.as_bytes()[shared..]);
        last_id = id;
        for (index, revision) in siblings.iter().enumerate() {
            let has_next = index + 1 < siblings.len();
            let place = places.get(&revision.dot.node).copied().unwrap_or_default();
            columns.nodes.count(place);
            if let Some(last) = last_sequences.get_mut(place) {
                columns
                    .sequences
                    .number(difference(*last, revision.dot.sequence));
                *last = revision.dot.sequence;
            }
            let stamp = revision.stamp.as_u64();
            columns.stamps.number(difference(last_stamp, stamp));
            last_stamp = stamp;
            write_revision(&mut columns, revision, has_next);
        }
    }
    columns
}

fn write_revision(columns: &mut Columns, revision: &Revision, has_next: bool) {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let origins = match &revision.content {
        Content::Value { value, origins } => {
            columns.lengths.count(value.as_str().len());
            columns.values.raw(value.as_str().as_bytes());
            origins.as_deref()
        }
        Content::Grave | Content::Deleted => None,
    };
    columns.flags.0.push(
        flag(revision.value().is_none(), GRAVE)
            | flag(revision.resolves, RESOLVES)
            | flag(revision.context.is_some(), HAS_CONTEXT)
            | flag(origins.is_some(), HAS_ORIGINS)
            | flag(has_next, HAS_NEXT),
    );
    columns.versions.number(u64::from(revision.version));
    if let Some(context) = &revision.context {
        columns.contexts.count(context.len());
        for (node, sequence) in context.iter() {
            columns.contexts.raw(node.as_bytes());
            columns.contexts.number(sequence);
        }
    }
    if let Some(origins) = origins {
        columns.origins.count(origins.events.len());
        for (dot, stamp) in &origins.events {
            columns.origins.raw(dot.node.as_bytes());
            columns.origins.number(dot.sequence);
            columns.origins.number(stamp.as_u64());
        }
        columns.origins.count(origins.fields.len());
        for field in &origins.fields {
            columns.origins.number(u64::from(*field));
        }
    }
}

/// How many bytes at the beginning two texts share, at a border of characters.
fn shared_bytes(one: &str, other: &str) -> usize {
    let mut shared = one
        .bytes()
        .zip(other.bytes())
        .take_while(|(one, other)| one == other)
        .count();
    while !other.is_char_boundary(shared) {
        shared -= 1;
    }
    shared
}

/// A difference that is small in both directions: even numbers go up, odd ones down.
const fn difference(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from);
    (difference << 1) ^ if difference >> 63 == 1 { u64::MAX } else { 0 }
}

const fn follow(from: u64, difference: u64) -> u64 {
    let step = (difference >> 1) ^ if difference & 1 == 1 { u64::MAX } else { 0 };
    from.wrapping_add(step)
}

/// Reads a replica from its bytes.
pub(crate) fn decode(packed: &[u8], source: Source) -> Result<Replica, Malformed> {
    let most = match source {
        // Whatever was kept has to be loaded again.
        Source::Own => usize::MAX,
        Source::Elsewhere => SNAPSHOT_BYTES_MAX,
    };
    let bytes = unpack(WHAT, packed, most)?;
    let mut reader = Reader::new(WHAT, &bytes);
    let mut marks = BTreeMap::new();
    let mut nodes = Vec::new();
    for _ in 0..reader.count("the number of nodes", CLOCK_NODES_MAX)? {
        let node = NodeId::from_bytes(reader.array()?);
        let sequence = reader.sequence("a number of the clock")?;
        let link = reader.array()?;
        if nodes.last().is_some_and(|last| *last >= node) {
            return reader.wrong("its nodes are out of order");
        }
        nodes.push(node);
        marks.insert(node, Mark { sequence, link });
    }
    let root = Root::from_bytes(reader.array()?);
    let conflicts = reader.number()?;
    let pending = read_pending(&mut reader, &marks)?;
    let mut collections: Vec<(Arc<str>, ReadStates)> = Vec::new();
    for _ in 0..reader.count("the number of collections", usize::MAX)? {
        let name: Arc<str> = reader.name("a collection", COLLECTION_BYTES_MAX)?.into();
        if collections.last().is_some_and(|(last, _)| *last >= name) {
            return reader.wrong("its collections are out of order");
        }
        let states = read_states(&mut reader, &nodes, &marks, source)?;
        collections.push((name, states));
    }
    reader.finish()?;
    let mut replica = Replica::from_parts(marks, collections, pending);
    replica.set_root(root);
    if source == Source::Elsewhere {
        check_announced(&replica)?;
        replica.recount();
        if replica.root() != root {
            return Err(Malformed::new(
                WHAT,
                "its state root is not that of its states",
            ));
        }
        if replica.conflicts() as u64 != conflicts {
            return Err(Malformed::new(
                WHAT,
                "its number of states with several siblings is wrong",
            ));
        }
    }
    Ok(replica)
}

/// What is superseded before it came, by node and key.
fn read_pending(
    reader: &mut Reader<'_>,
    marks: &BTreeMap<NodeId, Mark>,
) -> Result<Vec<(NodeId, Key, u64)>, Malformed> {
    let mut pending: Vec<(NodeId, Key, u64)> = Vec::new();
    for _ in 0..reader.count("the number of announced keys", PENDING_MAX)? {
        let node = NodeId::from_bytes(reader.array()?);
        let collection: Arc<str> = reader.name("a collection", COLLECTION_BYTES_MAX)?.into();
        let id = reader.name("an id", ID_BYTES_MAX)?.into();
        let sequence = reader.sequence("an announced number")?;
        let key = Key { collection, id };
        let is_in_order =
            |(last_node, last_key, _): &(NodeId, Key, u64)| (last_node, last_key) < (&node, &key);
        if !pending.last().is_none_or(is_in_order) {
            return reader.wrong("its announced keys are out of order");
        }
        if sequence <= marks.get(&node).map_or(0, |mark| mark.sequence) {
            return reader.wrong("it announces an event that its clock covers");
        }
        pending.push((node, key, sequence));
    }
    Ok(pending)
}

/// Checks what whoever took the same events one by one would have: no sibling that another one
/// supersedes, and everything that is superseded before it came is announced.
fn check_announced(replica: &Replica) -> Result<(), Malformed> {
    let wrong = |why: &str| Err(Malformed::new(WHAT, why));
    for collection in replica.collections() {
        for (id, siblings) in replica.entries(collection) {
            let mut superseded = VectorClock::new();
            for context in siblings.iter().filter_map(|s| s.context.as_deref()) {
                superseded.merge(context);
            }
            // In the order of their dots, and a node's later event supersedes its earlier ones.
            let is_by_one = |pair: &[Revision]| pair[0].dot.node == pair[1].dot.node;
            if siblings.windows(2).any(is_by_one)
                || siblings.iter().any(|s| superseded.contains(s.dot))
            {
                return wrong("a sibling is superseded by another one");
            }
            for (node, sequence) in superseded.iter() {
                let key = || Key {
                    collection: Arc::clone(collection),
                    id: id.clone(),
                };
                if replica.reached(*node) < sequence && replica.announced(*node, &key()) < sequence
                {
                    return wrong("a state supersedes an event that it does not announce");
                }
            }
        }
    }
    Ok(())
}

fn read_states(
    reader: &mut Reader<'_>,
    nodes: &[NodeId],
    marks: &BTreeMap<NodeId, Mark>,
    source: Source,
) -> Result<ReadStates, Malformed> {
    let count = reader.count("the number of states", usize::MAX)?;
    let mut columns = Vec::with_capacity(COLUMNS);
    for _ in 0..COLUMNS {
        columns.push(Reader::new(WHAT, reader.bytes("a column", usize::MAX)?));
    }
    let columns: [Reader<'_>; COLUMNS] = columns
        .try_into()
        .map_err(|_| Malformed::new(WHAT, "a column is missing"))?;
    let [
        flags,
        mut ids,
        node_places,
        sequences,
        stamps,
        versions,
        contexts,
        lengths,
        values,
        origins,
    ] = columns;
    let mut fields = RevisionReader {
        flags,
        nodes: node_places,
        sequences,
        stamps,
        versions,
        contexts,
        lengths,
        values,
        origins,
        last_stamp: 0,
        last_sequences: vec![0; nodes.len()],
        source,
    };
    // Each state has a flag at least, and takes much more room than its bytes.
    let mut states: ReadStates = Vec::with_capacity(count.min(fields.flags.remaining()));
    let mut id = String::new();
    for _ in 0..count {
        let shared = ids.bounded("the shared part of an id", ID_BYTES_MAX as u64)?;
        let shared = usize::try_from(shared).unwrap_or(usize::MAX);
        let rest = ids.text("an id", ID_BYTES_MAX)?;
        if shared + rest.len() == 0
            || !id.is_char_boundary(shared)
            || shared + rest.len() > ID_BYTES_MAX
        {
            return ids.wrong("an id is damaged");
        }
        id.truncate(shared);
        id.push_str(rest);
        if states.last().is_some_and(|(last, _)| **last >= *id) {
            return ids.wrong("its ids are out of order");
        }
        let mut siblings = Siblings::default();
        let mut last = None;
        loop {
            let (revision, has_next) = fields.next(nodes, marks)?;
            if last.is_some_and(|last| last >= revision.dot) {
                return ids.wrong("siblings are out of order");
            }
            last = Some(revision.dot);
            siblings.add(revision);
            if !has_next {
                break;
            }
        }
        states.push((id.as_str().into(), siblings));
    }
    ids.finish()?;
    fields.finish()?;
    Ok(states)
}

/// Reads revisions off their columns.
#[derive(Debug)]
struct RevisionReader<'a> {
    flags: Reader<'a>,
    nodes: Reader<'a>,
    sequences: Reader<'a>,
    stamps: Reader<'a>,
    versions: Reader<'a>,
    contexts: Reader<'a>,
    lengths: Reader<'a>,
    values: Reader<'a>,
    origins: Reader<'a>,
    last_stamp: u64,
    last_sequences: Vec<u64>,
    source: Source,
}

impl RevisionReader<'_> {
    /// Nothing may follow in any column.
    fn finish(self) -> Result<(), Malformed> {
        let columns = [
            self.flags,
            self.nodes,
            self.sequences,
            self.stamps,
            self.versions,
            self.contexts,
            self.lengths,
            self.values,
            self.origins,
        ];
        columns.into_iter().try_for_each(Reader::finish)
    }

    /// The next revision, and whether another one of the same key follows.
    fn next(
        &mut self,
        nodes: &[NodeId],
        marks: &BTreeMap<NodeId, Mark>,
    ) -> Result<(Revision, bool), Malformed> {
        let flags = self.flags.byte()?;
        if flags & !KNOWN_FLAGS != 0 {
            return self
                .flags
                .wrong("it has unknown flags; a newer version wrote it");
        }
        let place = self.nodes.number()?;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let (Some(node), Some(last)) = (nodes.get(place), self.last_sequences.get_mut(place))
        else {
            return self
                .nodes
                .wrong("a state is by a node that its clock does not name");
        };
        let dot = Dot {
            node: *node,
            sequence: follow(*last, self.sequences.number()?),
        };
        *last = dot.sequence;
        let known = marks.get(node).map_or(0, |mark| mark.sequence);
        if dot.sequence == 0 || dot.sequence > known {
            return self
                .sequences
                .wrong("a state is by an event that its clock does not cover");
        }
        self.last_stamp = follow(self.last_stamp, self.stamps.number()?);
        let version = self.versions.bounded("a version", u64::from(u32::MAX))?;
        let context = if flags & HAS_CONTEXT == 0 {
            None
        } else {
            Some(Box::new(self.context(dot)?))
        };
        let content = if flags & GRAVE == 0 {
            self.value(flags & HAS_ORIGINS != 0)?
        } else {
            Content::Grave
        };
        let revision = Revision {
            dot,
            stamp: Stamp::from_u64(self.last_stamp),
            version: u32::try_from(version).unwrap_or(u32::MAX),
            resolves: flags & RESOLVES != 0,
            context,
            content,
        };
        Ok((revision, flags & HAS_NEXT != 0))
    }

    fn context(&mut self, dot: Dot) -> Result<VectorClock, Malformed> {
        let mut context = VectorClock::new();
        for _ in 0..self
            .contexts
            .count("the length of a clock", CLOCK_NODES_MAX)?
        {
            let node = NodeId::from_bytes(self.contexts.array()?);
            let sequence = self.contexts.sequence("a number of a clock")?;
            if node == dot.node || context.get(&node) != 0 {
                return self.contexts.wrong("a clock names a node twice");
            }
            context.observe(node, sequence);
        }
        if context.is_empty() {
            return self.contexts.wrong("a clock names no node");
        }
        Ok(context)
    }

    fn value(&mut self, has_origins: bool) -> Result<Content, Malformed> {
        let length = self
            .lengths
            .bounded("the length of a value", VALUE_BYTES_MAX as u64)?;
        let bytes = self
            .values
            .raw(usize::try_from(length).unwrap_or(usize::MAX))?;
        let value = match self.source {
            Source::Own => std::str::from_utf8(bytes)
                .map(Canonical::trusted)
                .or_else(|_| self.values.wrong("a value is not UTF-8"))?,
            Source::Elsewhere => Canonical::from_bytes(bytes)
                .or_else(|error| self.values.wrong(error.to_string()))?,
        };
        let mut origins = None;
        if has_origins {
            let reader = &mut self.origins;
            let mut read = Origins::default();
            for _ in 0..reader.count("the number of origins", FIELDS_MAX)? {
                let node = NodeId::from_bytes(reader.array()?);
                let sequence = reader.sequence("the number of an origin")?;
                let stamp = Stamp::from_u64(reader.number()?);
                read.events.push((Dot { node, sequence }, stamp));
            }
            let most = read.events.len() as u64;
            for _ in 0..reader.count("the number of fields", FIELDS_MAX)? {
                let field = reader.bounded("the origin of a field", most)?;
                read.fields.push(u32::try_from(field).unwrap_or(0));
            }
            origins = Some(Box::new(read));
        }
        Ok(Content::Value { value, origins })
    }
}
