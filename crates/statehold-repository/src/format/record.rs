//! Record objects and drafts: header, envelope frame, body frame, content frames.

use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::id::KeyId;
use statehold_core::limits::{
    BODY_RAW_BYTES_MAX, DRAFT_BYTES_MAX, DRAFT_HEAD_RAW_BYTES_MAX, ENVELOPE_RAW_BYTES_MAX,
    RECORD_BYTES_MAX,
};
use statehold_core::record::{Body, Draft, DraftHead, Envelope, Record, RecordRef};
use statehold_core::time::Timestamp;

use super::frame::{FrameWriter, expand, expand_exact, frame_len};
use super::header::{HEADER_BYTES, ObjectKind, is_retired, read, write};
use crate::error::{Error, Result};
use crate::layout;

/// A record with its stored bytes.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// What it says.
    pub record: Record,
    /// The object, content frames included.
    pub bytes: Bytes,
}

/// A draft with its stored bytes: what a client journals, sends, and sends again.
#[derive(Debug, Clone)]
pub struct StoredDraft {
    /// What it says.
    pub draft: Draft,
    /// Envelope-less object: header, head frame, body frame, content frames.
    pub bytes: Bytes,
    /// Where the body frame begins.
    rest: usize,
}

impl StoredDraft {
    /// Makes a draft of a body and the content frames it refers to as "this record". The fields of
    /// `head` that follow from the body are filled in.
    pub fn new(mut head: DraftHead, body: Body, content: &[u8]) -> Result<Self> {
        let lines = body.to_lines();
        if lines.len() > BODY_RAW_BYTES_MAX {
            let (found, limit) = (lines.len(), BODY_RAW_BYTES_MAX);
            return Err(Error::refused(format!(
                "the push lists {found} bytes of changes, {limit} is the limit; push in parts"
            )));
        }
        let mut writer = FrameWriter::default();
        let frame = writer.compress(&lines);
        head.body = Digest::of(&frame);
        head.body_bytes = length(frame.len())?;
        head.content_bytes = length(content.len())?;
        let mut bytes = write(ObjectKind::Draft).to_vec();
        let line = json_line(&head);
        bytes.extend_from_slice(&writer.compress(&line));
        let rest = bytes.len();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(content);
        check_draft_fits(line.len(), bytes.len())?;
        Ok(Self {
            draft: Draft { head, body },
            bytes: bytes.into(),
            rest,
        })
    }

    /// Reads a draft from outside and checks everything that can be checked without the log.
    pub fn read(bytes: Bytes) -> Result<Self> {
        let parts = Parts::read("the draft", &bytes, ObjectKind::Draft)?;
        check_draft_fits(parts.line.len() + 1, bytes.len())?;
        let head: DraftHead = serde_json::from_slice(&parts.line)
            .map_err(|error| Error::damaged("the draft", error))?;
        let body = read_body("the draft", &head, &bytes[parts.rest..])?;
        let rest = parts.rest;
        let end = rest + head.body_bytes as usize + head.content_bytes as usize;
        if bytes.len() != end {
            return Err(Error::damaged(
                "the draft",
                "it is cut short or goes on after its end",
            ));
        }
        let content = &bytes[end - head.content_bytes as usize..];
        check_content("the draft", &body, content)?;
        Ok(Self {
            draft: Draft { head, body },
            bytes,
            rest,
        })
    }

    /// The record object that this draft becomes at a place in the log.
    pub fn at(&self, parent: RecordRef, time: Timestamp, key: Option<KeyId>) -> StoredRecord {
        let envelope = Envelope {
            number: parent.number + 1,
            parent: parent.id,
            time,
            draft: self.draft.head.clone(),
            key,
        };
        let line = envelope.to_line();
        let id = Digest::of(&line);
        let mut bytes = write(ObjectKind::Record).to_vec();
        bytes.extend_from_slice(&FrameWriter::default().compress(&with_newline(line)));
        let content_start = bytes.len() as u64 + u64::from(envelope.draft.body_bytes);
        bytes.extend_from_slice(&self.bytes[self.rest..]);
        let record = Record {
            envelope,
            id,
            body: self.draft.body.clone(),
            content_start,
        };
        StoredRecord {
            record,
            bytes: bytes.into(),
        }
    }
}

impl StoredRecord {
    /// Reads the record object of this number. Of one that is retired the envelope is all there is.
    pub fn read(number: u64, bytes: Bytes) -> Result<Self> {
        let object = layout::record(number);
        let is_retired = is_retired(&bytes);
        let parts = Parts::read(&object, &bytes, kind_of(&bytes))?;
        let (envelope, id) =
            Envelope::from_line(&parts.line).map_err(|error| Error::damaged(&object, error))?;
        if envelope.number != number {
            let found = envelope.number;
            return Err(Error::damaged(
                &object,
                format!("it says that it is record {found}"),
            ));
        }
        if is_retired {
            if parts.rest != bytes.len() {
                return Err(Error::damaged(&object, "it goes on after its end"));
            }
            let record = Record {
                envelope,
                id,
                body: Body::Retired,
                content_start: parts.rest as u64,
            };
            return Ok(Self { record, bytes });
        }
        let body = read_body(&object, &envelope.draft, &bytes[parts.rest..])?;
        let content_start = (parts.rest + envelope.draft.body_bytes as usize) as u64;
        let end = content_start + u64::from(envelope.draft.content_bytes);
        if bytes.len() as u64 > end {
            return Err(Error::damaged(&object, "it goes on after its end"));
        }
        Ok(Self {
            record: Record {
                envelope,
                id,
                body,
                content_start,
            },
            bytes,
        })
    }

    /// The id of the record object of this number, from its beginning alone. `None` when its envelope
    /// goes on past what is there.
    pub fn read_id(number: u64, beginning: &[u8]) -> Result<Option<Digest>> {
        let object = layout::record(number);
        let frames = read(&object, beginning, kind_of(beginning))?;
        if frame_len(&object, frames).is_err() {
            return Ok(None);
        }
        let parts = Parts::read(&object, beginning, kind_of(beginning))?;
        let (_, id) =
            Envelope::from_line(&parts.line).map_err(|error| Error::damaged(&object, error))?;
        Ok(Some(id))
    }

    /// Whether the envelope is all that is left of it.
    pub const fn is_retired(&self) -> bool {
        matches!(self.record.body, Body::Retired)
    }

    /// What is left of this record when its body is cut away: the envelope, as it is.
    pub fn retired(&self) -> Result<Bytes> {
        let object = layout::record(self.record.envelope.number);
        let frames = read(&object, &self.bytes, kind_of(&self.bytes))?;
        let envelope = frame_len(&object, frames)?;
        let mut bytes = write(ObjectKind::Retired).to_vec();
        bytes.extend_from_slice(frames.get(..envelope).unwrap_or(frames));
        Ok(bytes.into())
    }

    /// Checks that every chunk which rides in this record is what its digest says. Reading a record
    /// proves its envelope and body alone; this is for whoever passes it on.
    pub fn check_content(&self) -> Result<()> {
        if self.is_retired() {
            return Ok(());
        }
        let object = layout::record(self.record.envelope.number);
        let start = usize::try_from(self.record.content_start).unwrap_or(usize::MAX);
        let content = self.bytes.get(start..).filter(|_| self.has_content());
        let content = content.ok_or_else(|| Error::damaged(&object, "its content is cut short"))?;
        check_content(&object, &self.record.body, content)
    }

    /// Whether the content frames are here.
    pub fn has_content(&self) -> bool {
        let content = u64::from(self.record.envelope.draft.content_bytes);
        self.bytes.len() as u64 == self.record.content_start + content
    }
}

/// Length of the record that these bytes begin with, by its envelope.
pub fn stored_length(number: u64, bytes: &[u8]) -> Result<usize> {
    let object = layout::record(number);
    let frames = read(&object, bytes, ObjectKind::Record)?;
    let len = frame_len(&object, frames)?;
    let (envelope, rest) = frames.split_at_checked(len).unwrap_or((frames, &[]));
    let mut line = expand(&object, envelope, ENVELOPE_RAW_BYTES_MAX)?;
    line.pop();
    let (envelope, _) =
        Envelope::from_line(&line).map_err(|error| Error::damaged(&object, error))?;
    let head = &envelope.draft;
    let begin = bytes.len() - rest.len();
    Ok(begin + head.body_bytes as usize + head.content_bytes as usize)
}

/// The kind that a record object has to be read as.
fn kind_of(bytes: &[u8]) -> ObjectKind {
    if is_retired(bytes) {
        ObjectKind::Retired
    } else {
        ObjectKind::Record
    }
}

/// Header and first frame of a record or draft.
struct Parts {
    /// The JSON line of the first frame, without its newline.
    line: Vec<u8>,
    /// Where the body frame begins.
    rest: usize,
}

impl Parts {
    fn read(object: &str, bytes: &[u8], kind: ObjectKind) -> Result<Self> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(Error::damaged(object, "it is larger than records are"));
        }
        let frames = read(object, bytes, kind)?;
        let len = frame_len(object, frames)?;
        let mut line = expand(object, &frames[..len], ENVELOPE_RAW_BYTES_MAX)?;
        if line.pop() != Some(b'\n') {
            return Err(Error::damaged(object, "its first line does not end"));
        }
        Ok(Self {
            line,
            rest: HEADER_BYTES + len,
        })
    }
}

fn read_body(object: &str, head: &DraftHead, rest: &[u8]) -> Result<Body> {
    let frame = rest
        .get(..head.body_bytes as usize)
        .ok_or_else(|| Error::damaged(object, "its body is cut short"))?;
    if Digest::of(frame) != head.body {
        return Err(Error::damaged(
            object,
            "its body does not have the digest it should have",
        ));
    }
    let lines = expand(object, frame, BODY_RAW_BYTES_MAX)?;
    Body::from_lines(&head.kind, &lines).map_err(|error| Error::damaged(object, error))
}

fn json_line(value: &impl serde::Serialize) -> Vec<u8> {
    with_newline(serde_json::to_vec(value).expect("a draft head has a JSON form"))
}

fn with_newline(mut line: Vec<u8>) -> Vec<u8> {
    line.push(b'\n');
    line
}

/// Every chunk that rides in a draft or record is what its digest says, so that damage on the way is
/// found before the record that names it is written.
fn check_content(object: &str, body: &Body, content: &[u8]) -> Result<()> {
    let Some(push) = body.changes() else {
        return Ok(());
    };
    let files = push
        .upserts
        .iter()
        .filter_map(|upsert| match &upsert.entry {
            Entry::File(file) => Some(&file.chunks),
            Entry::Symlink { .. } | Entry::Directory => None,
        });
    for chunk in files.flatten().filter(|chunk| chunk.at.object.is_none()) {
        let frame = usize::try_from(chunk.at.offset)
            .ok()
            .and_then(|start| content.get(start..start.checked_add(chunk.at.stored as usize)?))
            .ok_or_else(|| Error::damaged(object, "a chunk lies outside of its content"))?;
        let raw = expand_exact(object, frame, chunk.raw as usize)?;
        if Digest::of(&raw) != chunk.digest {
            let reason = format!("it does not hold the chunk {}", chunk.digest);
            return Err(Error::damaged(object, reason));
        }
    }
    Ok(())
}

/// What is appended has to be readable, and the envelope comes on top.
fn check_draft_fits(head_line: usize, bytes: usize) -> Result<()> {
    if head_line <= DRAFT_HEAD_RAW_BYTES_MAX && bytes <= DRAFT_BYTES_MAX {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the push takes {bytes} bytes with a head of {head_line}, {DRAFT_BYTES_MAX} with \
         {DRAFT_HEAD_RAW_BYTES_MAX} is the limit; push in parts"
    )))
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes as usize <= RECORD_BYTES_MAX)
        .ok_or_else(|| Error::refused(format!("{bytes} bytes do not fit in a record")))
}
