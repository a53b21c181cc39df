//! Whether stored content is what the log says of it: pure checks of bytes that were read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, Entry, Location};
use statehold_core::id::PackId;

use crate::content::{check_pack, open_chunk};
use crate::error::{Error, Result};
use crate::format::record::StoredRecord;

/// A frame of content that records name: where it lies in its object, and what it holds. About 48
/// bytes for each of a pack that is read are held while a repository is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) raw: u32,
    pub(super) digest: Digest,
}

impl Frame {
    pub(super) const fn of(chunk: &Chunk) -> Self {
        Self {
            offset: chunk.at.offset,
            stored: chunk.at.stored,
            raw: chunk.raw,
            digest: chunk.digest,
        }
    }

    /// Whether an object of these bytes holds the frame.
    pub(super) fn open(&self, object: ContentObject, bytes: &[u8]) -> Result<Vec<u8>> {
        let at = Location {
            object: Some(object),
            offset: self.offset,
            stored: self.stored,
        };
        let chunk = Chunk {
            digest: self.digest,
            raw: self.raw,
            at,
        };
        let frame = usize::try_from(self.offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(self.stored as usize)?))
            .ok_or_else(|| Error::damaged(object, "it is cut short"))?;
        open_chunk(&chunk, frame)
    }
}

/// What of an object's content can't be had from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// All of it.
    Whole,
    /// The frames that begin there.
    At(BTreeSet<u64>),
}

/// What can't be had, by object.
#[derive(Debug, Clone, Default)]
pub(super) struct LostContent(pub(super) BTreeMap<ContentObject, Lost>);

impl LostContent {
    /// Whether a chunk can't be had.
    pub(super) fn has(&self, at: &Location) -> bool {
        match at.object.and_then(|object| self.0.get(&object)) {
            None => false,
            Some(Lost::Whole) => true,
            Some(Lost::At(offsets)) => offsets.contains(&at.offset),
        }
    }

    /// The objects because of which an entry can't be had.
    pub(super) fn of_entry<'a>(
        &'a self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = ContentObject> + 'a {
        let lost = self.chunks_of(entry);
        let objects: BTreeSet<_> = lost.filter_map(|(_, chunk)| chunk.at.object).collect();
        objects.into_iter()
    }

    /// The chunks of an entry that can't be had, each with where it begins in the file.
    pub(super) fn chunks_of<'a>(
        &'a self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = (u64, &'a Chunk)> + 'a {
        let chunks = match entry {
            Entry::File(file) => &file.chunks[..],
            Entry::Symlink { .. } | Entry::Directory => &[],
        };
        let mut begin = 0;
        chunks.iter().filter_map(move |chunk| {
            let at = begin;
            begin += u64::from(chunk.raw);
            self.has(&chunk.at).then_some((at, chunk))
        })
    }
}

/// Why content is not what it should be, and which frames are lost with it.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) reason: String,
    pub(super) lost: BTreeSet<u64>,
}

/// The frames that a record names in an object; its own content if there is none.
pub(super) fn chunks_in(stored: &StoredRecord) -> impl Iterator<Item = &Chunk> {
    let upserts = stored.record.body.changes().into_iter();
    upserts
        .flat_map(|push| &push.upserts)
        .filter_map(|upsert| match &upsert.entry {
            Entry::File(file) => Some(&file.chunks),
            Entry::Symlink { .. } | Entry::Directory => None,
        })
        .flatten()
}

/// The frames that ride in a record, by their places in the object.
pub(super) fn inline_frames(stored: &StoredRecord) -> BTreeSet<Frame> {
    let inline = chunks_in(stored).filter(|chunk| chunk.at.object.is_none());
    let frames = inline.map(|chunk| {
        let frame = Frame::of(chunk);
        let offset = frame.offset.saturating_add(stored.record.content_start);
        Frame { offset, ..frame }
    });
    frames.collect()
}

/// Checks the content that rides in a record.
pub(super) fn check_inline(stored: &StoredRecord) -> Result<(), Broken> {
    let object = ContentObject::Record(stored.record.envelope.number);
    let broken = check_frames(object, &stored.bytes, &inline_frames(stored));
    if broken.is_ok() && !stored.has_content() && !stored.is_retired() {
        let reason = "it is cut short".into();
        let lost = BTreeSet::new();
        return Err(Broken { reason, lost });
    }
    broken
}

/// Checks frames one by one.
pub(super) fn check_frames(
    object: ContentObject,
    bytes: &[u8],
    frames: &BTreeSet<Frame>,
) -> Result<(), Broken> {
    let mut first = None;
    let mut lost = BTreeSet::new();
    for frame in frames {
        if let Err(error) = frame.open(object, bytes) {
            lost.insert(frame.offset);
            first.get_or_insert(error);
        }
    }
    match first {
        None => Ok(()),
        Some(error) => Err(Broken {
            reason: reason_of(error),
            lost,
        }),
    }
}

/// Checks a pack: its length, its own table, and every frame that records name.
pub(super) fn check_content(
    id: PackId,
    bytes: &Bytes,
    announced: u64,
    frames: &BTreeSet<Frame>,
) -> Result<(), Broken> {
    let named = check_frames(ContentObject::Pack(id), bytes, frames);
    if bytes.len() as u64 != announced {
        return Err(Broken {
            reason: wrong_length(announced, bytes.len() as u64),
            lost: named.err().map(|broken| broken.lost).unwrap_or_default(),
        });
    }
    named?;
    check_pack(id, bytes.clone()).map_err(|error| Broken {
        reason: reason_of(error),
        lost: BTreeSet::new(),
    })
}

pub(super) fn wrong_length(announced: u64, found: u64) -> String {
    format!("it has {found} bytes, and the log says {announced}")
}

/// What is wrong with an object, without its name.
pub(super) fn reason_of(error: Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason,
        Error::NotFound { .. } => "it is missing".into(),
        error => error.to_string(),
    }
}
