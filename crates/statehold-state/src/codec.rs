//! Bytes of batches, bounded in every direction.
//!
//! A batch is: first sequence number, number of events, first stamp, a table of nodes, a table of
//! collections, the events. Numbers are varints (7 bits a byte, low bits first), texts have their
//! length in front. `docs/state.md` describes all of it.

use std::sync::Arc;

use crate::canonical::Canonical;
use crate::hybrid_clock::Stamp;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, CLOCK_NODES_MAX, COLLECTION_BYTES_MAX, COMPRESS_BYTES_MIN,
    FIELDS_MAX, ID_BYTES_MAX, SEQUENCE_MAX, VALUE_BYTES_MAX,
};
use crate::node::{Dot, Key, NodeId};
use crate::revision::{Batch, Content, Event, Origins, Revision};
use crate::vector_clock::VectorClock;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is damaged or hostile: {why}")]
pub struct Malformed {
    /// Which thing.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            why: why.into(),
        }
    }
}

/// Collects bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(low_byte(number) | 0x80);
            number >>= 7;
        }
        self.0.push(low_byte(number));
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }
}

/// The lowest eight bits.
const fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Takes bytes apart, never past the end and never past a bound.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn wrong<T>(&self, why: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed::new(self.what, why))
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn raw(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return self.wrong("it ends too early");
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.raw(N)?;
        <[u8; N]>::try_from(bytes).or_else(|_| self.wrong("it ends too early"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for place in 0..10 {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if place == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        self.wrong("a number has more than 64 bits")
    }

    /// A number that may be at most so large.
    pub(crate) fn bounded(&mut self, name: &str, most: u64) -> Result<u64, Malformed> {
        let number = self.number()?;
        if number > most {
            return self.wrong(format!("{name} is {number}, and {most} is the most"));
        }
        Ok(number)
    }

    /// A count of things that each take at least one byte, so it never promises more memory than
    /// the bytes at hand.
    pub(crate) fn count(&mut self, name: &str, most: usize) -> Result<usize, Malformed> {
        let most = most.min(self.rest.len());
        let number = self.bounded(name, most as u64)?;
        Ok(usize::try_from(number).unwrap_or(most))
    }

    pub(crate) fn bytes(&mut self, name: &str, most: usize) -> Result<&'a [u8], Malformed> {
        let length = self.count(name, most)?;
        self.raw(length)
    }

    pub(crate) fn text(&mut self, name: &str, most: usize) -> Result<&'a str, Malformed> {
        let bytes = self.bytes(name, most)?;
        std::str::from_utf8(bytes).or_else(|_| self.wrong(format!("{name} is not UTF-8")))
    }

    /// What a collection or a state is called: a text of one byte at least.
    pub(crate) fn name(&mut self, name: &str, most: usize) -> Result<&'a str, Malformed> {
        match self.text(name, most)? {
            "" => self.wrong(format!("{name} is empty")),
            text => Ok(text),
        }
    }

    pub(crate) fn sequence(&mut self, name: &str) -> Result<u64, Malformed> {
        match self.bounded(name, SEQUENCE_MAX)? {
            0 => self.wrong(format!("{name} is 0, and numbers begin at 1")),
            number => Ok(number),
        }
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            return Ok(());
        }
        self.wrong(format!("{} bytes follow its end", self.rest.len()))
    }
}

/// Puts bytes into a container: a byte that says how, then the bytes, compressed where it helps.
pub(crate) fn pack(bytes: Vec<u8>, level: i32) -> Vec<u8> {
    let compressed = (bytes.len() >= COMPRESS_BYTES_MIN)
        .then(|| zstd::bulk::compress(&bytes, level).ok())
        .flatten()
        .filter(|compressed| compressed.len() < bytes.len());
    let (how, body) = compressed.map_or((0, bytes), |compressed| (1, compressed));
    let mut packed = Vec::with_capacity(body.len() + 1);
    packed.push(how);
    packed.extend_from_slice(&body);
    packed
}

/// Takes bytes out of their container, never more than `most`.
pub(crate) fn unpack(what: &'static str, packed: &[u8], most: usize) -> Result<Vec<u8>, Malformed> {
    let too_large = || Malformed::new(what, format!("it is larger than {most} bytes"));
    match packed.split_first() {
        Some((0, body)) if body.len() > most => Err(too_large()),
        Some((0, body)) => Ok(body.to_vec()),
        Some((1, body)) => {
            let promised = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
            let promised = promised.ok_or_else(|| Malformed::new(what, "its length is missing"))?;
            let room = usize::try_from(promised).unwrap_or(usize::MAX);
            if room > most {
                return Err(too_large());
            }
            zstd::bulk::decompress(body, room)
                .map_err(|error| Malformed::new(what, error.to_string()))
        }
        Some((how, _)) => Err(Malformed::new(
            what,
            format!("container kind {how} is unknown; a newer version wrote it"),
        )),
        None => Err(Malformed::new(what, "it is empty")),
    }
}

const KIND_VALUE: u8 = 0;
const KIND_GRAVE: u8 = 1;
const KIND_DELETED: u8 = 2;
const KIND_BITS: u8 = 0b0000_0011;
const RESOLVES: u8 = 0b0000_0100;
const HAS_CONTEXT: u8 = 0b0000_1000;
const HAS_ORIGINS: u8 = 0b0001_0000;
const KNOWN_FLAGS: u8 = KIND_BITS | RESOLVES | HAS_CONTEXT | HAS_ORIGINS;

/// Nodes that are named by their place in a table. The author is node 0 without being written down.
#[derive(Debug)]
struct Nodes {
    author: NodeId,
    others: Vec<NodeId>,
}

impl Nodes {
    /// The place of a node, which is added if it is new. Searched from the end: tables are short,
    /// and what was named last is named again.
    fn place(&mut self, node: &NodeId) -> usize {
        if *node == self.author {
            return 0;
        }
        match self.others.iter().rposition(|known| known == node) {
            Some(place) => place + 1,
            None => {
                self.others.push(*node);
                self.others.len()
            }
        }
    }

    /// Adds all that an event names.
    fn add(&mut self, revision: &Revision) {
        for (node, _) in revision.context.iter().flat_map(|context| context.iter()) {
            self.place(node);
        }
        if let Content::Value { origins, .. } = &revision.content {
            for (dot, _) in origins.iter().flat_map(|origins| &origins.events) {
                self.place(&dot.node);
            }
        }
    }
}

/// The place of a collection in a table of them, if it is there.
fn place_of(collections: &[&Arc<str>], name: &Arc<str>) -> Option<usize> {
    collections
        .iter()
        .rposition(|known| Arc::ptr_eq(known, name) || *known == name)
}

/// About how many bytes events take.
fn room_for(events: &[Event]) -> usize {
    let value = |event: &Event| {
        event
            .revision
            .value()
            .map_or(0, |value| value.as_str().len())
    };
    events
        .iter()
        .map(|event| event.key.id.len() + value(event) + 8)
        .sum()
}

/// The bytes of a batch, with others in front of them.
pub(crate) fn encode(batch: &Batch, front: &[u8]) -> Vec<u8> {
    let mut nodes = Nodes {
        author: batch.node,
        others: Vec::new(),
    };
    let mut collections: Vec<&Arc<str>> = Vec::with_capacity(1);
    for event in &batch.events {
        nodes.add(&event.revision);
        if place_of(&collections, &event.key.collection).is_none() {
            collections.push(&event.key.collection);
        }
    }
    let mut stamp = batch
        .events
        .first()
        .map_or_else(Stamp::default, |event| event.revision.stamp);
    let tables = (nodes.others.len() + 1) * 24 + collections.len() * 16;
    let room = front.len() + tables + room_for(&batch.events);
    let mut bytes = Writer(Vec::with_capacity(room));
    bytes.raw(front);
    bytes.number(batch.first);
    bytes.count(batch.events.len());
    bytes.number(stamp.as_u64());
    bytes.count(nodes.others.len());
    for node in &nodes.others {
        bytes.raw(node.as_bytes());
    }
    bytes.count(collections.len());
    for collection in &collections {
        bytes.bytes(collection.as_bytes());
    }
    for event in &batch.events {
        let collection = place_of(&collections, &event.key.collection).unwrap_or_default();
        bytes.count(collection);
        bytes.bytes(event.key.id.as_bytes());
        let after = event.revision.stamp.as_u64().saturating_sub(stamp.as_u64());
        stamp = event.revision.stamp;
        bytes.number(after);
        write_revision(&mut bytes, &event.revision, &mut nodes);
    }
    bytes.0
}

fn write_revision(body: &mut Writer, revision: &Revision, nodes: &mut Nodes) {
    let (kind, origins) = match &revision.content {
        Content::Value { origins, .. } => (KIND_VALUE, origins.as_deref()),
        Content::Grave => (KIND_GRAVE, None),
        Content::Deleted => (KIND_DELETED, None),
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    body.0.push(
        kind | flag(revision.resolves, RESOLVES)
            | flag(revision.context.is_some(), HAS_CONTEXT)
            | flag(origins.is_some(), HAS_ORIGINS),
    );
    body.number(u64::from(revision.version));
    if let Some(context) = &revision.context {
        body.count(context.len());
        for (node, sequence) in context.iter() {
            body.count(nodes.place(node));
            body.number(sequence);
        }
    }
    if let Content::Value { value, .. } = &revision.content {
        body.bytes(value.as_str().as_bytes());
    }
    if let Some(origins) = origins {
        body.count(origins.events.len());
        for (dot, stamp) in &origins.events {
            body.count(nodes.place(&dot.node));
            body.number(dot.sequence);
            body.number(stamp.as_u64());
        }
        body.count(origins.fields.len());
        for field in &origins.fields {
            body.number(u64::from(*field));
        }
    }
}

const BATCH: &str = "a batch of events";

/// The first and the last sequence number of a batch, without reading the rest of it.
pub(crate) fn sequences(bytes: &[u8]) -> Result<(u64, u64), Malformed> {
    let (first, count) = read_sequences(&mut Reader::new(BATCH, bytes))?;
    Ok((first, first + count as u64 - 1))
}

fn read_sequences(reader: &mut Reader<'_>) -> Result<(u64, usize), Malformed> {
    let first = reader.sequence("the first sequence number")?;
    let count = reader.count("the number of events", BATCH_EVENTS_MAX)?;
    if count == 0 {
        return reader.wrong("it has no events");
    }
    if first + count as u64 > SEQUENCE_MAX {
        return reader.wrong("its sequence numbers are too high");
    }
    Ok((first, count))
}

/// Reads the events of a batch of this node, and adds them to others.
pub(crate) fn decode(node: NodeId, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Malformed> {
    let mut reader = Reader::new(BATCH, bytes);
    if bytes.len() > BATCH_BYTES_MAX {
        return reader.wrong(format!("it is larger than {BATCH_BYTES_MAX} bytes"));
    }
    let (first, count) = read_sequences(&mut reader)?;
    let mut stamp = reader.number()?;
    let nodes = read_nodes(&mut reader, node)?;
    let collection_count = reader.count("the number of collections", BATCH_EVENTS_MAX)?;
    let mut collections = Vec::with_capacity(collection_count);
    for _ in 0..collection_count {
        let name: Arc<str> = reader
            .name("the name of a collection", COLLECTION_BYTES_MAX)?
            .into();
        collections.push(name);
    }
    events.reserve(count);
    for index in 0..count {
        let place = reader.number()?;
        let collection = usize::try_from(place)
            .ok()
            .and_then(|place| collections.get(place));
        let Some(collection) = collection else {
            return reader.wrong("an event names an unknown collection");
        };
        let id = reader.name("an id", ID_BYTES_MAX)?;
        let Some(next) = stamp.checked_add(reader.number()?) else {
            return reader.wrong("a stamp has more than 64 bits");
        };
        stamp = next;
        let dot = Dot {
            node,
            sequence: first + index as u64,
        };
        events.push(Event {
            key: Key {
                collection: Arc::clone(collection),
                id: id.into(),
            },
            revision: read_revision(&mut reader, dot, Stamp::from_u64(stamp), &nodes)?,
        });
    }
    reader.finish()
}

/// A table of nodes of which the first is not written down.
fn read_nodes(reader: &mut Reader<'_>, author: NodeId) -> Result<Vec<NodeId>, Malformed> {
    let count = reader.count("the number of nodes", CLOCK_NODES_MAX)?;
    let mut nodes = Vec::with_capacity(count + 1);
    nodes.push(author);
    for _ in 0..count {
        nodes.push(NodeId::from_bytes(reader.array()?));
    }
    Ok(nodes)
}

fn read_node(reader: &mut Reader<'_>, nodes: &[NodeId]) -> Result<NodeId, Malformed> {
    let place = reader.number()?;
    match usize::try_from(place)
        .ok()
        .and_then(|place| nodes.get(place))
    {
        Some(node) => Ok(*node),
        None => reader.wrong("it names an unknown node"),
    }
}

fn read_revision(
    reader: &mut Reader<'_>,
    dot: Dot,
    stamp: Stamp,
    nodes: &[NodeId],
) -> Result<Revision, Malformed> {
    let flags = reader.byte()?;
    if flags & !KNOWN_FLAGS != 0 {
        return reader.wrong("an event has unknown flags; a newer version wrote it");
    }
    let version = reader.bounded("a version", u64::from(u32::MAX))?;
    let context = if flags & HAS_CONTEXT == 0 {
        None
    } else {
        Some(Box::new(read_context(reader, dot, nodes)?))
    };
    let content = match flags & KIND_BITS {
        KIND_VALUE => {
            let value = reader.bytes("the length of a value", VALUE_BYTES_MAX)?;
            let value =
                Canonical::from_bytes(value).or_else(|error| reader.wrong(error.to_string()))?;
            let origins = if flags & HAS_ORIGINS == 0 {
                None
            } else {
                Some(Box::new(read_origins(reader, nodes)?))
            };
            Content::Value { value, origins }
        }
        KIND_GRAVE => Content::Grave,
        KIND_DELETED => Content::Deleted,
        _ => return reader.wrong("an event is of an unknown kind; a newer version wrote it"),
    };
    Ok(Revision {
        dot,
        stamp,
        version: u32::try_from(version).unwrap_or(u32::MAX),
        resolves: flags & RESOLVES != 0,
        context,
        content,
    })
}

fn read_context(
    reader: &mut Reader<'_>,
    dot: Dot,
    nodes: &[NodeId],
) -> Result<VectorClock, Malformed> {
    let mut context = VectorClock::new();
    for _ in 0..reader.count("the length of a clock", CLOCK_NODES_MAX)? {
        let node = read_node(reader, nodes)?;
        let sequence = reader.sequence("a number of a clock")?;
        if node == dot.node || context.get(&node) != 0 {
            return reader.wrong("a clock names a node twice");
        }
        context.observe(node, sequence);
    }
    if context.is_empty() {
        return reader.wrong("a clock names no node");
    }
    Ok(context)
}

fn read_origins(reader: &mut Reader<'_>, nodes: &[NodeId]) -> Result<Origins, Malformed> {
    let mut origins = Origins::default();
    for _ in 0..reader.count("the number of origins", FIELDS_MAX)? {
        let node = read_node(reader, nodes)?;
        let sequence = reader.sequence("the number of an origin")?;
        let stamp = Stamp::from_u64(reader.number()?);
        origins.events.push((Dot { node, sequence }, stamp));
    }
    let most = origins.events.len() as u64;
    for _ in 0..reader.count("the number of fields", FIELDS_MAX)? {
        let field = reader.bounded("the origin of a field", most)?;
        origins.fields.push(u32::try_from(field).unwrap_or(0));
    }
    Ok(origins)
}
