//! The frame stream: a kind byte, a length, a payload, over and over, and an end frame.
//!
//! ```text
//! kind     u8       1 record, 2 checkpoint, 3 tree, 4 chunk, 0xFF end
//! length   u32 LE   of the payload
//! payload           record: number u64 LE, stored bytes; tree: id (16 bytes), stored bytes;
//!                   checkpoint, chunk: stored bytes; end: JSON
//! ```
//!
//! A connection that breaks can look like a body that ended, so a stream without its end frame is
//! an error, and so is one whose end frame counts other frames than came.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use statehold_core::id::TreeId;
use statehold_core::limits::{CHUNK_BYTES_MAX, RECORD_BYTES_MAX};

use crate::error::{Error, Result};

const RECORD: u8 = 1;
const CHECKPOINT: u8 = 2;
const TREE: u8 = 3;
const CHUNK: u8 = 4;
const END: u8 = 0xFF;

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
}

fn limit(kind: u8) -> Option<usize> {
    match kind {
        RECORD => Some(8 + RECORD_BYTES_MAX),
        CHECKPOINT => Some(RECORD_BYTES_MAX),
        TREE => Some(16 + RECORD_BYTES_MAX),
        CHUNK => Some(CHUNK_STORED_BYTES_MAX),
        END => Some(END_BYTES_MAX),
        _ => None,
    }
}

impl Frame {
    /// The bytes on the wire: what goes first, and the payload as it is.
    pub fn encode(&self) -> [Bytes; 2] {
        let (kind, prefix, payload): (u8, Bytes, Bytes) = match self {
            Self::Record { number, bytes } => {
                let prefix = Bytes::copy_from_slice(&number.to_le_bytes());
                (RECORD, prefix, bytes.clone())
            }
            Self::Checkpoint(bytes) => (CHECKPOINT, Bytes::new(), bytes.clone()),
            Self::Tree { id, bytes } => {
                let prefix = Bytes::copy_from_slice(id.as_bytes());
                (TREE, prefix, bytes.clone())
            }
            Self::Chunk(bytes) => (CHUNK, Bytes::new(), bytes.clone()),
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

    fn decode(kind: u8, mut payload: Bytes) -> Result<Self> {
        let prefix = match kind {
            RECORD => 8,
            TREE => 16,
            _ => 0,
        };
        if payload.len() < prefix {
            return Err(damaged("a frame is shorter than its kind needs"));
        }
        Ok(match kind {
            RECORD => {
                let number = payload.get_u64_le();
                Self::Record {
                    number,
                    bytes: payload,
                }
            }
            TREE => {
                let mut id = [0; 16];
                payload.copy_to_slice(&mut id);
                Self::Tree {
                    id: TreeId::from_bytes(id),
                    bytes: payload,
                }
            }
            CHECKPOINT => Self::Checkpoint(payload),
            CHUNK => Self::Chunk(payload),
            _ => Self::End(serde_json::from_slice(&payload).map_err(damaged)?),
        })
    }
}

/// What stands for a stream in error messages.
const STREAM: &str = "the gateway's answer";

fn damaged(reason: impl ToString) -> Error {
    Error::damaged(STREAM, reason)
}

/// Takes a stream apart as it comes in. It never holds more than came in, whatever a frame
/// announces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    frames: u64,
    end: Option<End>,
}

impl Decoder {
    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame but the end, if it is complete. The end is kept for [`Self::finish`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        if self.end.is_some() {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(damaged("it goes on after its end")),
            };
        }
        let Some((&kind, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        let limit = limit(kind).ok_or_else(|| damaged(format!("a frame of kind {kind}")))?;
        let Some(len) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > limit {
            return Err(damaged(format!(
                "a frame of kind {kind} with {len} bytes, {limit} is the limit"
            )));
        }
        if self.buffer.len() < HEAD_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let frame = Frame::decode(kind, self.buffer.split_to(len).freeze())?;
        match frame {
            Frame::End(end) if end.frames != self.frames => Err(damaged(format!(
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
        match self.end {
            Some(end) if self.buffer.is_empty() => Ok(end),
            Some(_) => Err(damaged("it goes on after its end")),
            None => Err(damaged("it is cut short")),
        }
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

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), bytes()).prop_map(|(number, bytes)| Frame::Record { number, bytes }),
            bytes().prop_map(Frame::Checkpoint),
            (any::<[u8; 16]>(), bytes()).prop_map(|(id, bytes)| Frame::Tree {
                id: TreeId::from_bytes(id),
                bytes
            }),
            bytes().prop_map(Frame::Chunk),
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
        ] {
            assert!(decode(&bad, 1).is_err(), "{bad:?}");
        }
    }
}
