//! Frames, a table that says where they are, and a trailer that says where the table is.
//!
//! Packs, trees and segments are containers. The table is the last frame but one; the trailer is
//! a skippable frame of fixed length, so a reader finds everything from the end.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use statehold_core::limits::TABLE_RAW_BYTES_MAX;

use super::frame::{FrameWriter, expand};
use super::header::{HEADER_BYTES, ObjectKind, read, write};
use crate::error::{Error, Result};

/// Length of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 24;
/// What the trailer's skippable frame holds, in bytes: mark, offset and length of the table.
const TRAILER_PAYLOAD_BYTES: u32 = 16;
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const MARK: [u8; 4] = *b"SHTB";

/// Builds a container, frame after frame.
#[derive(Debug)]
pub struct ContainerWriter {
    bytes: Vec<u8>,
}

impl ContainerWriter {
    /// A container without frames.
    pub fn new(kind: ObjectKind) -> Self {
        Self {
            bytes: write(kind).to_vec(),
        }
    }

    /// A container without frames in a buffer that has been used before. It gets room for so many
    /// bytes, so that growing copies nothing.
    pub fn in_buffer(kind: ObjectKind, mut buffer: Vec<u8>, room: usize) -> Self {
        buffer.clear();
        buffer.reserve_exact(room);
        buffer.extend_from_slice(&write(kind));
        Self { bytes: buffer }
    }

    /// Adds stored frames and gives the offset of the first.
    pub fn push(&mut self, frames: &[u8]) -> u64 {
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(frames);
        offset
    }

    /// Length so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no frames were added.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER_BYTES
    }

    /// The frames alone, without header and table.
    pub fn into_frames(mut self) -> Vec<u8> {
        self.bytes.split_off(HEADER_BYTES)
    }

    /// Adds table and trailer. Each item of the table is one line of JSON.
    pub fn finish<T: Serialize>(mut self, table: impl IntoIterator<Item = T>) -> Bytes {
        let mut lines = Vec::new();
        for item in table {
            serde_json::to_writer(&mut lines, &item).expect("table lines have a JSON form");
            lines.push(b'\n');
        }
        let table = FrameWriter::default().compress(&lines);
        let offset = self.push(&table);
        let len = u32::try_from(table.len()).expect("a table is far below 4 GiB");
        self.bytes.extend_from_slice(&trailer_of(offset, len));
        self.bytes.into()
    }
}

/// The trailer for a table at this place.
pub fn trailer_of(offset: u64, length: u32) -> Vec<u8> {
    let mut trailer = SKIPPABLE.to_vec();
    trailer.extend_from_slice(&TRAILER_PAYLOAD_BYTES.to_le_bytes());
    trailer.extend_from_slice(&MARK);
    trailer.extend_from_slice(&offset.to_le_bytes());
    trailer.extend_from_slice(&length.to_le_bytes());
    trailer
}

/// A container that was read.
#[derive(Debug)]
pub struct Container<T> {
    object: String,
    bytes: Bytes,
    /// The lines of its table.
    pub table: Vec<T>,
}

impl<T: DeserializeOwned> Container<T> {
    /// Reads the table of a container of this kind.
    pub fn read(object: &str, bytes: Bytes, kind: ObjectKind) -> Result<Self> {
        read(object, &bytes, kind)?;
        let damaged = |reason: &str| Error::damaged(object, reason);
        let trailer = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .filter(|start| *start >= HEADER_BYTES)
            .map(|start| &bytes[start..])
            .ok_or_else(|| damaged("it is cut short"))?;
        let len = trailer[4..8] == TRAILER_PAYLOAD_BYTES.to_le_bytes();
        if trailer[..4] != SKIPPABLE || !len || trailer[8..12] != MARK {
            return Err(damaged("it does not end like a container"));
        }
        let number = |range: Range<usize>| {
            trailer[range]
                .iter()
                .rev()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (offset, len) = (number(12..20), number(20..24));
        let end = offset.saturating_add(len);
        if end != (bytes.len() - TRAILER_BYTES) as u64 {
            return Err(damaged("its table is not where its trailer says"));
        }
        let table = slice(object, &bytes, offset, len)?;
        let lines = expand(object, &table, TABLE_RAW_BYTES_MAX)?;
        let table = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(&format!("its table is not readable: {error}")))?;
        Ok(Self {
            object: object.to_owned(),
            bytes,
            table,
        })
    }

    /// The stored frames at a place that the table names.
    pub fn frames(&self, offset: u64, len: u64) -> Result<Bytes> {
        slice(&self.object, &self.bytes, offset, len)
    }
}

fn slice(object: &str, bytes: &Bytes, offset: u64, len: u64) -> Result<Bytes> {
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    range
        .and_then(|(offset, len)| Some(offset..offset.checked_add(len)?))
        .filter(|range| range.end <= bytes.len())
        .map(|range| bytes.slice(range))
        .ok_or_else(|| Error::damaged(object, "its table points past its end"))
}
