//! The state root: a digest of everything that is live, kept up to date with each event.
//!
//! It is the sum of the digests of all live revisions, so adding one and taking one away cost the
//! same whatever the number of states. It finds damage and bugs; it is no defence against somebody
//! who may write anyway.

use std::fmt;

use crate::codec::Writer;
use crate::node::hex;
use crate::revision::{Content, Origins, Revision};

/// A digest of everything that is live. Replicas that know the same events have the same root.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Root([u64; 4]);

impl Root {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(part.try_into().unwrap_or_default());
        }
        Self(words)
    }

    /// The root as bytes, least significant first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn add(&mut self, other: Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = first || second;
        }
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (difference, first) = word.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            *word = difference;
            borrow = first || second;
        }
    }

    /// Takes in anything else that has to be equal.
    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.to_bytes());
        hasher.update(bytes);
        *self = Self::from_bytes(*hasher.finalize().as_bytes());
    }
}

/// Digests live revisions, one after the other in the same memory.
#[derive(Debug, Default)]
pub(crate) struct Digester(Writer);

impl Digester {
    /// The digest of one live revision, with everything that later events depend on.
    pub(crate) fn digest(&mut self, collection: &str, id: &str, revision: &Revision) -> Root {
        self.0.0.clear();
        write(&mut self.0, collection, id, revision);
        Root::from_bytes(*blake3::hash(&self.0.0).as_bytes())
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
