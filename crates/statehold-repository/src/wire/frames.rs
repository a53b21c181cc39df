//! The frame stream: a kind byte, a length, a payload, over and over, and an end frame.
//!
//! ```text
//! kind     u8       1 record, 2 checkpoint, 3 tree, 4 chunk, 5 pack, 6 draft, 7 content, 8 moves,
//!                   0xFF end
//! length   u32 LE   of the payload
//! payload           record, moves: number u64 LE, stored bytes; tree, pack: id (16 bytes), stored bytes;
//!                   content: kind of its object u8 (1 pack, 2 record), id (16 bytes; of a record
//!                   its number u64 LE and zeros), offset u64 LE, stored bytes;
//!                   checkpoint, chunk, draft: stored bytes; end: JSON
//! ```
//!
//! A chunk answers a question and stands where that was; content says itself where it lies.
//!
//! A connection that breaks can look like a body that ended, so a stream without its end frame is
//! an error, and so is one whose end frame counts other frames than came.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use statehold_core::entry::ContentObject;
use statehold_core::id::{PackId, TreeId};
use statehold_core::limits::{CHUNK_BYTES_MAX, DRAFT_BYTES_MAX, PACK_BYTES_MAX, RECORD_BYTES_MAX};

use crate::error::{Error, Result};

const RECORD: u8 = 1;
const CHECKPOINT: u8 = 2;
const TREE: u8 = 3;
const CHUNK: u8 = 4;
const PACK: u8 = 5;
const DRAFT: u8 = 6;
const CONTENT: u8 = 7;
const MOVES: u8 = 8;
const END: u8 = 0xFF;

/// What a content frame says about its object.
const IN_PACK: u8 = 1;
const IN_RECORD: u8 = 2;
/// Length of what stands before the stored bytes of a content frame: kind, id and offset.
const CONTENT_PREFIX_BYTES: usize = 1 + 16 + 8;

/// Length of kind and length, in bytes.
const HEAD_BYTES: usize = 5;
/// Largest end frame, in bytes.
const END_BYTES_MAX: usize = 64 * 1024;
/// What a chunk may gain by being framed, in bytes. A stored frame gains far less.
const CHUNK_OVERHEAD_BYTES: usize = 64 * 1024;

/// Longest stored chunk, in bytes.
pub const CHUNK_STORED_BYTES_MAX: usize = CHUNK_BYTES_MAX + CHUNK_OVERHEAD_BYTES;

/// One piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A record's bytes as they are stored, its content included where it is at hand.
    Record {
        /// Its number.
        number: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A checkpoint's bytes.
    Checkpoint(Bytes),
    /// A tree object's bytes.
    Tree {
        /// Its id.
        id: TreeId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A stored frame of content.
    Chunk(Bytes),
    /// A pack.
    Pack {
        /// Its id.
        id: PackId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A draft.
    Draft(Bytes),
    /// A stored frame of content that nobody asked for by place.
    Content {
        /// The object it lies in.
        object: ContentObject,
        /// Its first byte there.
        offset: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The bytes of the record that says where content lies now.
    Moves {
        /// Its number.
        number: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The end.
    End(End),
}

/// What the end frame says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Frames before it.
    pub frames: u64,
    /// Whether there may be more to fetch.
    #[serde(default)]
    pub more: bool,
    /// Number of the newest record of the answer, or of the one it follows when it holds none.
    #[serde(default)]
    pub head: u64,
    /// Whether there is so much more that an opening is sooner had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub far: bool,
}

/// Bytes of a payload before the stored ones, and the most of it that there may be in all.
const fn bounds(kind: u8) -> Option<(usize, usize)> {
    let (prefix, stored) = match kind {
        RECORD | MOVES => (8, RECORD_BYTES_MAX),
        CHECKPOINT => (0, RECORD_BYTES_MAX),
        TREE => (16, RECORD_BYTES_MAX),
        CHUNK => (0, CHUNK_STORED_BYTES_MAX),
        PACK => (16, PACK_BYTES_MAX),
        DRAFT => (0, DRAFT_BYTES_MAX),
        CONTENT => (CONTENT_PREFIX_BYTES, CHUNK_STORED_BYTES_MAX),
        END => (0, END_BYTES_MAX),
        _ => return None,
    };
    Some((prefix, prefix + stored))
}

/// How a content frame names its object.
fn object_prefix(object: ContentObject) -> [u8; 17] {
    let mut prefix = [0; 17];
    match object {
        ContentObject::Pack(id) => {
            prefix[0] = IN_PACK;
            prefix[1..].copy_from_slice(id.as_bytes());
        }
        ContentObject::Record(number) => {
            prefix[0] = IN_RECORD;
            prefix[1..9].copy_from_slice(&number.to_le_bytes());
        }
    }
    prefix
}

impl Frame {
    /// The bytes on the wire: what goes first, and the payload as it is.
    pub fn encode(&self) -> [Bytes; 2] {
        let (kind, prefix, payload): (u8, Bytes, Bytes) = match self {
            Self::Record { number, bytes } => {
                let prefix = Bytes::copy_from_slice(&number.to_le_bytes());
                (RECORD, prefix, bytes.clone())
            }
            Self::Moves { number, bytes } => {
                let prefix = Bytes::copy_from_slice(&number.to_le_bytes());
                (MOVES, prefix, bytes.clone())
            }
            Self::Checkpoint(bytes) => (CHECKPOINT, Bytes::new(), bytes.clone()),
            Self::Tree { id, bytes } => {
                let prefix = Bytes::copy_from_slice(id.as_bytes());
                (TREE, prefix, bytes.clone())
            }
            Self::Chunk(bytes) => (CHUNK, Bytes::new(), bytes.clone()),
            Self::Pack { id, bytes } => {
                let prefix = Bytes::copy_from_slice(id.as_bytes());
                (PACK, prefix, bytes.clone())
            }
            Self::Draft(bytes) => (DRAFT, Bytes::new(), bytes.clone()),
            Self::Content {
                object,
                offset,
                bytes,
            } => {
                let prefix = [&object_prefix(*object)[..], &offset.to_le_bytes()].concat();
                (CONTENT, prefix.into(), bytes.clone())
            }
            Self::End(end) => {
                let line = serde_json::to_vec(end).expect("an end frame has a JSON form");
                (END, Bytes::new(), line.into())
            }
        };
        let len = u32::try_from(prefix.len() + payload.len())
            .expect("no object of a repository reaches 4 GiB");
        let mut head = BytesMut::with_capacity(HEAD_BYTES + prefix.len());
        head.extend_from_slice(&[kind]);
        head.extend_from_slice(&len.to_le_bytes());
        head.extend_from_slice(&prefix);
        [head.freeze(), payload]
    }

    /// The frame of a payload that is at least as long as its kind's prefix.
    fn decode(kind: u8, mut payload: Bytes) -> Result<Self, String> {
        let mut id = [0; 16];
        Ok(match kind {
            RECORD => {
                let number = payload.get_u64_le();
                Self::Record {
                    number,
                    bytes: payload,
                }
            }
            MOVES => {
                let number = payload.get_u64_le();
                Self::Moves {
                    number,
                    bytes: payload,
                }
            }
            TREE => {
                payload.copy_to_slice(&mut id);
                Self::Tree {
                    id: TreeId::from_bytes(id),
                    bytes: payload,
                }
            }
            PACK => {
                payload.copy_to_slice(&mut id);
                Self::Pack {
                    id: PackId::from_bytes(id),
                    bytes: payload,
                }
            }
            CONTENT => {
                let object = match payload.get_u8() {
                    IN_PACK => {
                        payload.copy_to_slice(&mut id);
                        ContentObject::Pack(PackId::from_bytes(id))
                    }
                    IN_RECORD => {
                        let number = payload.get_u64_le();
                        payload.advance(8);
                        ContentObject::Record(number)
                    }
                    other => return Err(format!("content in an object of kind {other}")),
                };
                let offset = payload.get_u64_le();
                Self::Content {
                    object,
                    offset,
                    bytes: payload,
                }
            }
            CHECKPOINT => Self::Checkpoint(payload),
            CHUNK => Self::Chunk(payload),
            DRAFT => Self::Draft(payload),
            _ => Self::End(serde_json::from_slice(&payload).map_err(|error| error.to_string())?),
        })
    }
}

/// Takes a stream apart as it comes in. It never holds more than came in, whatever a frame
/// announces.
#[derive(Debug)]
pub struct Decoder {
    /// What stands for the stream in error messages.
    name: &'static str,
    buffer: BytesMut,
    frames: u64,
    end: Option<End>,
}

impl Default for Decoder {
    /// Takes a gateway's answer apart.
    fn default() -> Self {
        Self {
            name: "the gateway's answer",
            buffer: BytesMut::new(),
            frames: 0,
            end: None,
        }
    }
}

impl Decoder {
    /// Takes apart a stream that is here as a whole. Its frames share the memory of the bytes.
    pub fn of(name: &'static str, bytes: Bytes) -> Self {
        Self {
            name,
            buffer: bytes.into(),
            ..Self::default()
        }
    }

    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame but the end, if it is complete. The end is kept for [`Self::finish`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        if self.end.is_some() {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(self.damaged("it goes on after its end")),
            };
        }
        let Some((&kind, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        let (prefix, limit) =
            bounds(kind).ok_or_else(|| self.damaged(format!("a frame of kind {kind}")))?;
        let Some(len) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > limit {
            return Err(self.damaged(format!(
                "a frame of kind {kind} with {len} bytes, {limit} is the limit"
            )));
        }
        if len < prefix {
            return Err(self.damaged(format!(
                "a frame of kind {kind} with {len} bytes, it begins with {prefix} of its own"
            )));
        }
        if self.buffer.len() < HEAD_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let payload = self.buffer.split_to(len).freeze();
        match Frame::decode(kind, payload).map_err(|reason| self.damaged(reason))? {
            Frame::End(end) if end.frames != self.frames => Err(self.damaged(format!(
                "{} frames came, {} were sent",
                self.frames, end.frames
            ))),
            Frame::End(end) => {
                self.end = Some(end);
                self.next_frame()
            }
            frame => {
                self.frames += 1;
                Ok(Some(frame))
            }
        }
    }

    /// What the end frame said; an error when it never came.
    pub fn finish(self) -> Result<End> {
        match &self.end {
            Some(_) if !self.buffer.is_empty() => Err(self.damaged("it goes on after its end")),
            Some(end) => Ok(end.clone()),
            None => Err(self.damaged("it is cut short")),
        }
    }

    fn damaged(&self, reason: impl ToString) -> Error {
        Error::damaged(self.name, reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<Frame>, End)> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(step.max(1)) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok((frames, decoder.finish()?))
    }

    fn encode(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(Frame::encode).flatten().collect()
    }

    fn end(frames: usize) -> Frame {
        Frame::End(End {
            frames: frames as u64,
            ..End::default()
        })
    }

    fn object() -> impl Strategy<Value = ContentObject> {
        prop_oneof![
            any::<[u8; 16]>().prop_map(|id| ContentObject::Pack(PackId::from_bytes(id))),
            any::<u64>().prop_map(ContentObject::Record),
        ]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), bytes()).prop_map(|(number, bytes)| Frame::Record { number, bytes }),
            (any::<u64>(), bytes()).prop_map(|(number, bytes)| Frame::Moves { number, bytes }),
            bytes().prop_map(Frame::Checkpoint),
            (any::<[u8; 16]>(), bytes()).prop_map(|(id, bytes)| Frame::Tree {
                id: TreeId::from_bytes(id),
                bytes
            }),
            bytes().prop_map(Frame::Chunk),
            (any::<[u8; 16]>(), bytes()).prop_map(|(id, bytes)| Frame::Pack {
                id: PackId::from_bytes(id),
                bytes
            }),
            bytes().prop_map(Frame::Draft),
            (object(), any::<u64>(), bytes()).prop_map(|(object, offset, bytes)| {
                Frame::Content {
                    object,
                    offset,
                    bytes,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn streams_round_trip_however_they_are_cut(
            frames in proptest::collection::vec(frame(), 0..6),
            step in 1_usize..300,
        ) {
            let mut all = frames.clone();
            all.push(end(frames.len()));
            let (found, _) = decode(&encode(&all), step).unwrap();
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn a_stream_that_is_cut_short_is_an_error(
            frames in proptest::collection::vec(frame(), 0..4),
        ) {
            let mut all = frames.clone();
            all.push(end(frames.len()));
            let bytes = encode(&all);
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut], 64).is_err(), "cut at {}", cut);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(decode(&bytes, 7));
        }
    }

    #[test]
    fn what_a_stream_must_not_be() {
        for bad in [
            // No end; an end that counts wrongly; something after the end; an unknown kind.
            encode(&[Frame::Chunk(Bytes::from_static(b"x"))]),
            encode(&[end(1)]),
            encode(&[end(0), end(0)]),
            vec![9, 0, 0, 0, 0],
            // A record without its number; a length past the bound.
            [&[RECORD, 3, 0, 0, 0, 1, 2, 3][..], &encode(&[end(1)])].concat(),
            vec![CHUNK, 0xFF, 0xFF, 0xFF, 0xFF],
            // Content that is too short to say where it lies, or lies in no kind of object.
            [&[CONTENT, 3, 0, 0, 0, 1, 2, 3][..], &encode(&[end(1)])].concat(),
            [&[CONTENT, 25, 0, 0, 0, 9][..], &[0; 24], &encode(&[end(1)])].concat(),
        ] {
            assert!(decode(&bad, 1).is_err(), "{bad:?}");
        }
    }
}
