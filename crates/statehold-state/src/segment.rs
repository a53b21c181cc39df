//! One file of a node's log: a header, then records, each of one or more frames that became durable
//! together, with the link of the hash chain after the last.
//!
//! The header is flushed before the first record is written, and each record before the next one,
//! so only what comes last can be half there. What else does not fit is damage, and never cut off
//! silently.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::codec::{Malformed, Reader, Writer};
use crate::durable;
use crate::error::{Error, IoContext as _, Result};
use crate::frame::{Frame, Link, Mark};
use crate::limits::BATCH_BYTES_MAX;
use crate::node::NodeId;

const MAGIC: &[u8; 8] = b"SHSTATE1";
/// Magic, node, first sequence number, link before it, check.
const HEADER_BYTES: usize = 8 + 16 + 8 + 16 + 8;
/// Length, the same with all bits flipped, link.
const RECORD_HEADER_BYTES: usize = 4 + 4 + 16;

/// The header of a segment that begins after this mark.
fn header(node: NodeId, before: Mark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(node.as_bytes());
    bytes.extend_from_slice(&(before.sequence + 1).to_le_bytes());
    bytes.extend_from_slice(&before.link);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..8]);
    bytes
}

/// Frames as they stand in a file: one record, with the link after them.
fn record(frames: &[Frame], after: Link) -> Vec<u8> {
    let room = frames.iter().map(|frame| frame.bytes().len() + 10);
    let mut record = Writer(Vec::with_capacity(
        RECORD_HEADER_BYTES + room.sum::<usize>(),
    ));
    record.raw(&[0; RECORD_HEADER_BYTES]);
    for frame in frames {
        record.bytes(frame.bytes());
    }
    let mut bytes = record.0;
    // A record is cut long before it has 4 GiB.
    let length = u32::try_from(bytes.len() - RECORD_HEADER_BYTES).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&(!length).to_le_bytes());
    bytes[8..RECORD_HEADER_BYTES].copy_from_slice(&after);
    bytes
}

/// A segment that frames are appended to.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: File,
    path: PathBuf,
    /// Bytes of whole records.
    pub length: u64,
}

impl SegmentWriter {
    /// Creates a segment of this node's log after this mark, durably.
    pub(crate) fn create(path: &Path, node: NodeId, before: Mark) -> Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)
            .on("create", path)?;
        file.write_all(&header(node, before)).on("write", path)?;
        file.sync_all().on("flush", path)?;
        path.parent().map_or(Ok(()), durable::sync_folder)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length: HEADER_BYTES as u64,
        })
    }

    /// Goes on with a segment, after so many bytes of whole records. What follows is cut off.
    pub(crate) fn resume(path: &Path, length: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .on("open", path)?;
        if file.metadata().on("look at", path)?.len() > length {
            file.set_len(length).on("shorten", path)?;
            file.sync_all().on("flush", path)?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// Appends frames as one record: all of them are durable when this returns.
    pub(crate) fn append(&mut self, frames: &[Frame]) -> Result<u64> {
        let Some(last) = frames.last() else {
            return Ok(0);
        };
        let bytes = record(frames, last.link());
        self.file.write_all(&bytes).on("write", &self.path)?;
        self.file.sync_data().on("flush", &self.path)?;
        self.length += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }
}

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Up to where the log was in earlier segments; nothing if the header is half written.
    pub before: Option<Mark>,
    /// Its whole frames.
    pub frames: Vec<Frame>,
    /// How many bytes those and the header take.
    pub length: u64,
    /// Whether something half written follows.
    pub is_torn: bool,
}

impl Contents {
    /// Up to where the log is known after this segment.
    pub(crate) fn end(&self) -> Result<Option<Mark>, Malformed> {
        match self.frames.last() {
            Some(last) => Ok(Some(Mark {
                sequence: last.sequences()?.1,
                link: last.link(),
            })),
            None => Ok(self.before),
        }
    }

    /// Whether the log in it goes through a mark, as far as it tells.
    pub(crate) fn goes_through(&self, mark: Mark) -> Result<bool, Malformed> {
        let is_other = |there: Mark| there.sequence == mark.sequence && there.link != mark.link;
        if self.before.is_some_and(is_other) {
            return Ok(false);
        }
        for frame in &self.frames {
            let (first, sequence) = frame.sequences()?;
            let link = frame.link();
            let is_across = first <= mark.sequence && mark.sequence < sequence;
            if is_across || is_other(Mark { sequence, link }) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads a segment. In the last one of a log, what was half written at its end is left out.
pub(crate) fn read(path: &Path, node: NodeId, is_last: bool) -> Result<Contents> {
    let bytes = durable::read(path)?.unwrap_or_default();
    parse(&bytes, path, node, is_last)
}

/// Takes the content of a segment apart, which was read from this path.
pub(crate) fn parse(bytes: &[u8], path: &Path, node: NodeId, is_last: bool) -> Result<Contents> {
    let damaged = |offset: usize, why: &str| {
        Err(Error::Damaged {
            path: path.to_owned(),
            offset: offset as u64,
            why: why.to_owned(),
        })
    };
    let mut contents = Contents {
        before: None,
        frames: Vec::new(),
        length: 0,
        is_torn: false,
    };
    let header = bytes
        .split_at_checked(HEADER_BYTES)
        .map(|(header, _)| header);
    let is_whole = |header: &&[u8]| {
        let (checked, check) = header.split_at(HEADER_BYTES - 8);
        checked.starts_with(MAGIC) && blake3::hash(checked).as_bytes()[..8] == *check
    };
    let Some(checked) = header.filter(is_whole) else {
        // No frame was written before the header was there.
        if is_last && bytes.len() <= HEADER_BYTES {
            contents.is_torn = true;
            return Ok(contents);
        }
        return damaged(0, "this is no header of a log");
    };
    if checked[8..24] != *node.as_bytes() {
        return damaged(8, "it is the log of another node");
    }
    let mut previous = Link::default();
    previous.copy_from_slice(&checked[32..48]);
    let first = checked[24..32].try_into().unwrap_or_default();
    contents.before = Some(Mark {
        sequence: u64::from_le_bytes(first).saturating_sub(1),
        link: previous,
    });
    let mut offset = HEADER_BYTES;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        match next_record(rest, node, previous) {
            Next::Record(frames, link, length) => {
                previous = link;
                contents.frames.extend(frames);
                offset += length;
            }
            Next::Torn if is_last => {
                contents.is_torn = true;
                break;
            }
            Next::Torn => return damaged(offset, "it ends in the middle of a record"),
            Next::Damaged(why) => return damaged(offset, why),
        }
    }
    contents.length = offset as u64;
    Ok(contents)
}

enum Next {
    /// Frames, the link after them, and the length of their record.
    Record(Vec<Frame>, Link, usize),
    Torn,
    Damaged(&'static str),
}

/// The record at the beginning of what is left of a segment.
fn next_record(rest: &[u8], node: NodeId, previous: Link) -> Next {
    // What a file system adds to a file before the content has come is blank.
    if rest.len() < RECORD_HEADER_BYTES || is_blank(rest) {
        return Next::Torn;
    }
    let number = |place: usize| {
        let bytes = rest[place..place + 4].try_into().unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let length = number(0);
    if length != !number(4) {
        return Next::Damaged("the length of a record is wrong");
    }
    let end = RECORD_HEADER_BYTES + usize::try_from(length).unwrap_or(usize::MAX);
    let Some(body) = rest.get(RECORD_HEADER_BYTES..end) else {
        return Next::Torn;
    };
    match frames_in(body, node, previous) {
        Ok((frames, link)) if link == rest[8..RECORD_HEADER_BYTES] => {
            Next::Record(frames, link, end)
        }
        _ if end == rest.len() => Next::Torn,
        _ => Next::Damaged("the content of a record is not what was written"),
    }
}

fn frames_in(
    body: &[u8],
    node: NodeId,
    mut previous: Link,
) -> Result<(Vec<Frame>, Link), Malformed> {
    let mut reader = Reader::new("a record", body);
    let mut frames = Vec::new();
    while reader.remaining() > 0 {
        let bytes = reader.bytes("the length of a batch", BATCH_BYTES_MAX)?;
        let frame = Frame::new(node, previous, bytes);
        previous = frame.link();
        frames.push(frame);
    }
    Ok((frames, previous))
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
