//! Batches as they are stored and sent, chained by hashes, and how far a log of them is known.

use crate::arrival::Refused;
use crate::codec::{self, Malformed};
use crate::node::NodeId;
use crate::revision::{Batch, Event};

/// How far a node's log is known, with the link that stands for everything in it up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub sequence: u64,
    pub link: Link,
}

impl Mark {
    /// The end of a log that ends with this frame.
    pub(crate) fn after(frame: &Frame) -> Result<Self, Malformed> {
        let (_, sequence) = frame.sequences()?;
        let link = frame.link();
        Ok(Self { sequence, link })
    }

    /// Whether a frame of this node continues its log here; not if it is known already.
    pub(crate) fn is_followed_by(self, frame: &Frame) -> Result<bool, Refused> {
        let node = frame.node();
        let forked = |sequence| Err(Refused::Forked { node, sequence });
        let (first, last) = frame.sequences()?;
        if last <= self.sequence {
            if last == self.sequence && frame.link() != self.link {
                return forked(self.sequence);
            }
            return Ok(false);
        }
        if first > self.sequence + 1 {
            return Err(Refused::Gap {
                node,
                known: self.sequence,
                first,
            });
        }
        if first <= self.sequence || frame.previous() != self.link {
            return forked(first);
        }
        Ok(true)
    }
}

/// A link of the hash chain that a node's log is. Two logs with the same link are the same log.
pub type Link = [u8; 16];

const LINK_BYTES: usize = 16;

/// The link before a node's first batch.
pub(crate) fn first_link(node: NodeId) -> Link {
    link_of(&[*b"statehold  state", *node.as_bytes()].concat())
}

/// The link after what lies here: the link before, and a batch.
fn link_of(chained: &[u8]) -> Link {
    let mut link = Link::default();
    link.copy_from_slice(&blake3::hash(chained).as_bytes()[..LINK_BYTES]);
    link
}

/// A batch as it is stored and sent: the bytes, and between which links of its node's log they stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    node: NodeId,
    /// The link before, and the batch: what the link after is made of.
    chained: Vec<u8>,
    /// Found out once: whoever stores, sends or takes a frame asks for it.
    link: Link,
}

impl Frame {
    /// The batch in these bytes, which continues this node's log after this link.
    pub fn new(node: NodeId, previous: Link, bytes: &[u8]) -> Self {
        Self::chained(node, [&previous, bytes].concat())
    }

    /// A batch that continues its node's log after this link.
    pub(crate) fn of(batch: &Batch, previous: Link) -> Self {
        Self::chained(batch.node, codec::encode(batch, &previous))
    }

    fn chained(node: NodeId, chained: Vec<u8>) -> Self {
        let link = link_of(&chained);
        Self {
            node,
            chained,
            link,
        }
    }

    /// Whose batch it is.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The link before it.
    pub fn previous(&self) -> Link {
        let mut previous = Link::default();
        previous.copy_from_slice(&self.chained[..LINK_BYTES]);
        previous
    }

    /// The batch, encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.chained[LINK_BYTES..]
    }

    /// The link after it.
    pub const fn link(&self) -> Link {
        self.link
    }

    /// The first and the last sequence number in it.
    pub(crate) fn sequences(&self) -> Result<(u64, u64), Malformed> {
        codec::sequences(self.bytes())
    }

    /// The batch in it.
    ///
    /// # Errors
    /// The bytes are damaged or hostile.
    pub fn batch(&self) -> Result<Batch, Malformed> {
        let (first, _) = self.sequences()?;
        let mut events = Vec::new();
        self.read_into(&mut events)?;
        Ok(Batch {
            node: self.node,
            first,
            events,
        })
    }

    /// Adds the events in it to others.
    pub(crate) fn read_into(&self, events: &mut Vec<Event>) -> Result<(), Malformed> {
        codec::decode(self.node, self.bytes(), events)
    }
}
