//! The state root: a digest of everything that is live, kept up to date with each event.
//!
//! It is the sum of the digests of all live revisions, so adding one and taking one away cost the
//! same whatever the number of states. It finds damage and bugs; it is no defence against somebody
//! who may write anyway, so the digests need not be cryptographic ones.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::codec::Writer;
use crate::node::{Key, hex};
use crate::revision::{Content, Origins, Revision};

/// A digest of everything that is live. Replicas that know the same events have the same root.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Root(u128);

impl Root {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// The root as bytes, least significant first.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    pub(crate) const fn subtract(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }

    /// Takes in anything else that has to be equal.
    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        self.0 = xxh3_128(&[&self.to_bytes(), bytes].concat());
    }
}

/// Digests live revisions, one after the other in the same memory.
#[derive(Debug)]
pub(crate) struct Digester(Writer);

impl Digester {
    pub(crate) fn new() -> Self {
        // Most revisions take less.
        Self(Writer(Vec::with_capacity(256)))
    }

    /// The digest of one live revision of a state.
    pub(crate) fn digest(&mut self, key: &Key, revision: &Revision) -> Root {
        self.digest_of(&key.collection, &key.id, revision)
    }

    /// The digest of one live revision, with everything that later events depend on.
    pub(crate) fn digest_of(&mut self, collection: &str, id: &str, revision: &Revision) -> Root {
        self.0.0.clear();
        write(&mut self.0, collection, id, revision);
        Root(xxh3_128(&self.0.0))
    }
}

fn write(bytes: &mut Writer, collection: &str, id: &str, revision: &Revision) {
    bytes.bytes(collection.as_bytes());
    bytes.bytes(id.as_bytes());
    bytes.raw(revision.dot.node.as_bytes());
    bytes.number(revision.dot.sequence);
    bytes.number(revision.stamp.as_u64());
    bytes.number(u64::from(revision.version));
    bytes.number(u64::from(revision.resolves));
    if let Some(context) = &revision.context {
        bytes.count(context.len());
        for (node, sequence) in context.iter() {
            bytes.raw(node.as_bytes());
            bytes.number(sequence);
        }
    } else {
        bytes.count(0);
    }
    match &revision.content {
        Content::Value { value, origins } => {
            bytes.number(0);
            bytes.bytes(value.as_str().as_bytes());
            let none = Origins::default();
            let origins = origins.as_deref().unwrap_or(&none);
            bytes.count(origins.events.len());
            for (dot, stamp) in &origins.events {
                bytes.raw(dot.node.as_bytes());
                bytes.number(dot.sequence);
                bytes.number(stamp.as_u64());
            }
            bytes.count(origins.fields.len());
            for field in &origins.fields {
                bytes.number(u64::from(*field));
            }
        }
        Content::Grave => bytes.number(1),
        Content::Deleted => bytes.number(2),
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.to_bytes()))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({self})")
    }
}
