//! What nodes tell each other, as plain bytes for any transport.
//!
//! A *head* says how far a node is. A *delta* carries the events that somebody lacks, a *snapshot*
//! everything at once. All have a magic number, a kind and a check over all of it.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Writer, pack, unpack};
use crate::frame::{Frame, Link, Mark};
use crate::limits::{
    BATCH_BYTES_MAX, CLOCK_NODES_MAX, COLLECTION_BYTES_MAX, DELTA_BYTES_MAX, HEAD_COLLECTIONS_MAX,
    MESSAGE_BYTES_MAX,
};
use crate::node::NodeId;
use crate::replica::Replica;
use crate::root::Root;
use crate::snapshot::{self, Source};
use crate::vector_clock::VectorClock;

const MAGIC: &[u8; 4] = b"SHM2";
const CHECK_BYTES: usize = 16;
const WHAT: &str = "a message";

/// Level of compression of deltas, which are made again for each node that asks.
const DELTA_LEVEL: i32 = 1;

const KIND_HEAD: u8 = 1;
const KIND_DELTA: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;

/// How far a node is, and by what rules it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Which node.
    pub(crate) node: NodeId,
    /// How far it knows each node's log, with the link there.
    pub(crate) marks: BTreeMap<NodeId, Mark>,
    /// The digest of everything that is live there.
    pub(crate) root: Root,
    /// The collections it has open.
    pub(crate) collections: BTreeMap<Box<str>, CollectionHead>,
}

/// What a head says about one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CollectionHead {
    /// Of its rules.
    pub fingerprint: [u8; 8],
    /// Of the values that its strategy computed from siblings.
    pub computed: Root,
}

impl Head {
    /// How much of each node's log is known there.
    pub(crate) fn clock(&self) -> VectorClock {
        let marks = self.marks.iter();
        marks.map(|(node, mark)| (*node, mark.sequence)).collect()
    }
}

/// What one node sends another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Head(Head),
    Delta(Vec<Frame>),
    Snapshot(Box<Replica>),
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Head(head) => sealed(KIND_HEAD, |writer| write_head(writer, head)),
            Self::Delta(frames) => sealed(KIND_DELTA, |writer| {
                let mut delta = Writer::default();
                write_delta(&mut delta, frames);
                writer.raw(&pack(delta.0, DELTA_LEVEL));
            }),
            Self::Snapshot(replica) => encode_snapshot(replica),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let wrong = |why: &str| Malformed::new(WHAT, why);
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(wrong("it is too large"));
        }
        let body_bytes = bytes.len().checked_sub(CHECK_BYTES);
        let (body, check) = body_bytes
            .map(|length| bytes.split_at(length))
            .ok_or_else(|| wrong("it ends too early"))?;
        let body = body
            .strip_prefix(MAGIC)
            .ok_or_else(|| wrong("it does not begin like one of this version"))?;
        let hash = blake3::hash(&bytes[..bytes.len() - CHECK_BYTES]);
        if hash.as_bytes()[..CHECK_BYTES] != *check {
            return Err(wrong("its hash is wrong"));
        }
        match body.split_first() {
            Some((&KIND_HEAD, body)) => read_head(body).map(Self::Head),
            Some((&KIND_DELTA, body)) => read_delta(body).map(Self::Delta),
            Some((&KIND_SNAPSHOT, body)) => snapshot::decode(body, Source::Elsewhere)
                .map(|replica| Self::Snapshot(Box::new(replica))),
            Some((kind, _)) => Err(wrong(&format!(
                "kind {kind} is unknown; a newer version sent it"
            ))),
            None => Err(wrong("it ends too early")),
        }
    }
}

/// A message that carries all of a replica.
pub(crate) fn encode_snapshot(replica: &Replica) -> Vec<u8> {
    sealed(KIND_SNAPSHOT, |writer| {
        writer.raw(&snapshot::encode(replica));
    })
}

/// A message with what is around its body.
fn sealed(kind: u8, write_body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.raw(MAGIC);
    writer.raw(&[kind]);
    write_body(&mut writer);
    let check = *blake3::hash(&writer.0).as_bytes();
    writer.raw(&check[..CHECK_BYTES]);
    writer.0
}

fn write_head(writer: &mut Writer, head: &Head) {
    writer.raw(head.node.as_bytes());
    writer.count(head.marks.len());
    for (node, mark) in &head.marks {
        writer.raw(node.as_bytes());
        writer.number(mark.sequence);
        writer.raw(&mark.link);
    }
    writer.raw(&head.root.to_bytes());
    writer.count(head.collections.len());
    for (name, collection) in &head.collections {
        writer.bytes(name.as_bytes());
        writer.raw(&collection.fingerprint);
        writer.raw(&collection.computed.to_bytes());
    }
}

fn read_head(body: &[u8]) -> Result<Head, Malformed> {
    let mut reader = Reader::new("a head", body);
    let node = NodeId::from_bytes(reader.array()?);
    let mut marks = BTreeMap::new();
    for _ in 0..reader.count("the number of nodes", CLOCK_NODES_MAX)? {
        let node = NodeId::from_bytes(reader.array()?);
        let sequence = reader.sequence("a number of the clock")?;
        let link = reader.array()?;
        if marks.insert(node, Mark { sequence, link }).is_some() {
            return reader.wrong("its clock names a node twice");
        }
    }
    let root = Root::from_bytes(reader.array()?);
    let mut collections = BTreeMap::new();
    for _ in 0..reader.count("the number of collections", HEAD_COLLECTIONS_MAX)? {
        let name = reader.name("a collection", COLLECTION_BYTES_MAX)?.into();
        let fingerprint = reader.array()?;
        let computed = Root::from_bytes(reader.array()?);
        let collection = CollectionHead {
            fingerprint,
            computed,
        };
        if collections.insert(name, collection).is_some() {
            return reader.wrong("it names a collection twice");
        }
    }
    reader.finish()?;
    Ok(Head {
        node,
        marks,
        root,
        collections,
    })
}

/// Frames of one node stand together, so that its name and the first link are sent once.
fn write_delta(writer: &mut Writer, frames: &[Frame]) {
    let groups: Vec<&[Frame]> = frames
        .chunk_by(|one, next| one.node() == next.node() && one.link() == next.previous())
        .collect();
    writer.count(groups.len());
    for group in groups {
        writer.raw(group[0].node().as_bytes());
        writer.raw(&group[0].previous());
        writer.count(group.len());
        for frame in group {
            writer.bytes(frame.bytes());
        }
    }
}

fn read_delta(body: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let body = unpack("a delta", body, DELTA_BYTES_MAX)?;
    let mut reader = Reader::new("a delta", &body);
    let mut frames = Vec::new();
    for _ in 0..reader.count("the number of logs", usize::MAX)? {
        let node = NodeId::from_bytes(reader.array()?);
        let mut previous: Link = reader.array()?;
        for _ in 0..reader.count("the number of frames", usize::MAX)? {
            let bytes = reader.bytes("the length of a frame", BATCH_BYTES_MAX)?;
            let frame = Frame::new(node, previous, bytes);
            previous = frame.link();
            frames.push(frame);
        }
    }
    reader.finish()?;
    Ok(frames)
}
