//! What a tree records about one path: kind, digests, and where its content lies.
//!
//! Chunk locations stand beside the references to them, so there is no index to load, to keep in
//! memory or to corrupt: whoever has a listing can read any file in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Sha256};
use crate::id::PackId;
use crate::limits::{CHUNK_BYTES_MAX, FILE_CHUNKS_MAX, RECORD_BYTES_MAX, SYMLINK_TARGET_BYTES_MAX};
use crate::path::RepoPath;
use crate::time::Mtime;

/// An object that holds content frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContentObject {
    /// A pack.
    Pack(PackId),
    /// The record of this number, which carries small content itself.
    Record(u64),
}

/// The object's key below the repository's prefix, which is also its text form in listings.
impl fmt::Display for ContentObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pack(id) => write!(f, "packs/{id}"),
            Self::Record(number) => write!(f, "log/{number:020}"),
        }
    }
}

/// A text that names no content object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} names neither a pack nor a record")]
pub struct InvalidContentObject {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl FromStr for ContentObject {
    type Err = InvalidContentObject;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('/') {
            Some(("packs", id)) => id.parse().ok().map(Self::Pack),
            Some(("log", number)) => parse_number(number).map(Self::Record),
            _ => None,
        };
        parsed.ok_or_else(|| InvalidContentObject {
            found: text.chars().take(80).collect(),
        })
    }
}

/// Reads a record number in the one form that keys have: twenty digits.
pub fn parse_number(text: &str) -> Option<u64> {
    let digits = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Where the stored form of a chunk lies. In a draft, content that rides in the record itself has
/// no object yet: the record's number is known only once it has landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// The object, or `None` for "this record", counted from the start of its content section.
    pub object: Option<ContentObject>,
    /// First byte of the frame.
    pub offset: u64,
    /// Length of the frame, in bytes.
    pub stored: u32,
}

/// A piece of a file: one frame somewhere in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// Digest of the bytes before compression.
    pub digest: Digest,
    /// Number of bytes before compression.
    pub raw: u32,
    /// Where the frame lies.
    pub at: Location,
}

/// What a regular file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length in bytes; the sum of the chunks' raw lengths.
    pub size: u64,
    /// When its content last changed, as the machine that pushed it said.
    pub mtime: Mtime,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Digest of the whole content.
    pub digest: Digest,
    /// SHA-256 of the whole content, for the manifest. Backups leave it out.
    pub sha256: Option<Sha256>,
    /// The pieces, in order. Empty for an empty file.
    pub chunks: Vec<Chunk>,
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File(FileEntry),
    /// A symbolic link, kept as a link and never followed.
    Symlink {
        /// Its target, as the link has it.
        target: String,
    },
    /// A directory that was seen empty. Directories that hold files need no entry.
    Directory,
}

/// Everything about an entry that decides whether two sides are equal. Times are not part of it,
/// nor is where the content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Signature {
    /// A file of this content and executability.
    File {
        /// Digest of the whole content.
        digest: Digest,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A link with a target of this digest.
    Symlink {
        /// Digest of the target text.
        target: Digest,
    },
    /// An empty directory.
    Directory,
}

impl Signature {
    /// Whether nothing can lie beneath a path of this kind.
    pub const fn is_leaf(&self) -> bool {
        !matches!(self, Self::Directory)
    }
}

/// Why an entry cannot be part of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// The pieces don't add up to the file.
    #[error("the chunks of {path} add up to {chunks} bytes, the file has {size}")]
    SizeMismatch {
        /// The file.
        path: RepoPath,
        /// Sum of the chunks' raw lengths.
        chunks: u64,
        /// Length the entry states.
        size: u64,
    },
    /// A number in it is past its bound.
    #[error("the entry of {path} is past a bound: {what}")]
    PastBound {
        /// The path.
        path: RepoPath,
        /// Which bound.
        what: &'static str,
    },
    /// The link leads out of the workspace.
    #[error("the link {path} points outside the workspace, to {target:?}")]
    LinkOutside {
        /// The link.
        path: RepoPath,
        /// Its target.
        target: String,
    },
}

impl Entry {
    /// Whether content of it was purged, so that nobody gets it back. Said of entries of a state.
    pub fn is_purged(&self) -> bool {
        match self {
            Self::File(file) => file.chunks.iter().any(|chunk| chunk.at.object.is_none()),
            Self::Symlink { .. } | Self::Directory => false,
        }
    }

    /// What decides whether two sides are equal.
    pub fn signature(&self) -> Signature {
        match self {
            Self::File(file) => Signature::File {
                digest: file.digest,
                executable: file.executable,
            },
            Self::Symlink { target } => Signature::Symlink {
                target: Digest::of(target.as_bytes()),
            },
            Self::Directory => Signature::Directory,
        }
    }

    /// Length of the content in bytes; 0 for links and directories.
    pub const fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Symlink { .. } | Self::Directory => 0,
        }
    }

    /// Checks bounds, that the chunks add up, and that a link stays inside the workspace.
    pub fn check(&self, path: &RepoPath) -> Result<(), InvalidEntry> {
        let past_bound = |what| InvalidEntry::PastBound {
            path: path.clone(),
            what,
        };
        match self {
            Self::File(file) => {
                if file.chunks.len() > FILE_CHUNKS_MAX {
                    return Err(past_bound("chunks in a file"));
                }
                for chunk in &file.chunks {
                    if chunk.raw == 0 || chunk.raw as usize > CHUNK_BYTES_MAX {
                        return Err(past_bound("bytes in a chunk"));
                    }
                    if chunk.at.stored == 0 {
                        return Err(past_bound("bytes in a frame"));
                    }
                    let end = chunk.at.offset.checked_add(u64::from(chunk.at.stored));
                    if end.is_none_or(|end| end > RECORD_BYTES_MAX as u64) {
                        return Err(past_bound("offset in an object"));
                    }
                }
                let chunks = file.chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
                if chunks != file.size {
                    let (path, size) = (path.clone(), file.size);
                    return Err(InvalidEntry::SizeMismatch { path, chunks, size });
                }
            }
            Self::Symlink { target } => {
                if target.is_empty() || target.len() > SYMLINK_TARGET_BYTES_MAX {
                    return Err(past_bound("bytes in a link's target"));
                }
                if !link_stays_inside(path, target) {
                    let (path, target) = (path.clone(), target.clone());
                    return Err(InvalidEntry::LinkOutside { path, target });
                }
            }
            Self::Directory => {}
        }
        Ok(())
    }
}

/// Whether a link at `path` with this target leads to a place inside the workspace, judged by the
/// names alone: relative, and never more steps up than down.
pub fn link_stays_inside(path: &RepoPath, target: &str) -> bool {
    link_stays_within(path.ancestors().count(), target)
}

/// The same for a link that lies so many folders deep in what it may not lead out of.
pub fn link_stays_within(depth: usize, target: &str) -> bool {
    if target.starts_with('/') || target.contains('\0') || target.contains(':') {
        return false;
    }
    let mut depth = depth;
    for name in target.split(['/', '\\']) {
        match name {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// The form of an entry in listings: one flat JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EntryLine {
    pub(crate) path: RepoPath,
    #[serde(rename = "type")]
    pub(crate) kind: EntryKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime: Option<Mtime>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Chunks of the path's earlier entry that stand before `chunks`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) keep: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunks: Vec<ChunkLine>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EntryKind {
    File,
    Symlink,
    Directory,
    Delete,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChunkLine {
    /// The object's key; absent for "this record".
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    offset: u64,
    stored: u32,
    raw: u32,
    /// Absent when the file has this chunk alone: then it is the file's own digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<Digest>,
}

/// Why a line of a listing says nothing that can be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// It lacks something its type needs.
    #[error("the entry of {path} lacks {field:?}")]
    Missing {
        /// The path.
        path: RepoPath,
        /// The absent field.
        field: &'static str,
    },
    /// A chunk lies in something that holds no content.
    #[error("the entry of {path} is damaged")]
    Object {
        /// The path.
        path: RepoPath,
        /// What was found.
        #[source]
        source: InvalidContentObject,
    },
}

impl EntryLine {
    pub(crate) fn delete(path: &RepoPath) -> Self {
        Self::bare(path, EntryKind::Delete)
    }

    const fn bare_with(path: RepoPath, kind: EntryKind) -> Self {
        Self {
            path,
            kind,
            size: None,
            mtime: None,
            executable: false,
            blake3: None,
            sha256: None,
            target: None,
            keep: 0,
            chunks: Vec::new(),
        }
    }

    fn bare(path: &RepoPath, kind: EntryKind) -> Self {
        Self::bare_with(path.clone(), kind)
    }

    pub(crate) fn new(path: &RepoPath, entry: &Entry, keep: u32) -> Self {
        match entry {
            Entry::Directory => Self::bare(path, EntryKind::Directory),
            Entry::Symlink { target } => Self {
                target: Some(target.clone()),
                ..Self::bare(path, EntryKind::Symlink)
            },
            Entry::File(file) => {
                let single = keep == 0 && file.chunks.len() == 1;
                let line = |chunk: &Chunk| ChunkLine {
                    object: chunk.at.object.map(|object| object.to_string()),
                    offset: chunk.at.offset,
                    stored: chunk.at.stored,
                    raw: chunk.raw,
                    blake3: (!single || chunk.digest != file.digest).then_some(chunk.digest),
                };
                Self {
                    size: Some(file.size),
                    mtime: Some(file.mtime),
                    executable: file.executable,
                    blake3: Some(file.digest),
                    sha256: file.sha256,
                    keep,
                    chunks: file.chunks.iter().map(line).collect(),
                    ..Self::bare(path, EntryKind::File)
                }
            }
        }
    }

    /// The entry this line states; `None` for a deletion.
    pub(crate) fn into_entry(self) -> Result<(RepoPath, Option<Entry>), InvalidLine> {
        let Self { path, .. } = &self;
        let missing = |field| InvalidLine::Missing {
            path: path.clone(),
            field,
        };
        let entry = match self.kind {
            EntryKind::Delete => return Ok((self.path, None)),
            EntryKind::Directory => Entry::Directory,
            EntryKind::Symlink => Entry::Symlink {
                target: self.target.clone().ok_or_else(|| missing("target"))?,
            },
            EntryKind::File => {
                let digest = self.blake3.ok_or_else(|| missing("blake3"))?;
                let chunk = |line: &ChunkLine| {
                    let object = line.object.as_deref().map(str::parse).transpose();
                    let object = object.map_err(|source| InvalidLine::Object {
                        path: path.clone(),
                        source,
                    })?;
                    let at = Location {
                        object,
                        offset: line.offset,
                        stored: line.stored,
                    };
                    Ok(Chunk {
                        digest: line.blake3.unwrap_or(digest),
                        raw: line.raw,
                        at,
                    })
                };
                Entry::File(FileEntry {
                    size: self.size.ok_or_else(|| missing("size"))?,
                    mtime: self.mtime.ok_or_else(|| missing("mtime"))?,
                    executable: self.executable,
                    digest,
                    sha256: self.sha256,
                    chunks: self
                        .chunks
                        .iter()
                        .map(chunk)
                        .collect::<Result<_, InvalidLine>>()?,
                })
            }
        };
        Ok((self.path, Some(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_workspace_are_refused() {
        let path = RepoPath::parse("a/b/link").unwrap();
        for inside in ["c", "../c", "../../c", "./x/../y", "../../a/b/c"] {
            assert!(link_stays_inside(&path, inside), "{inside}");
        }
        for outside in [
            "/etc",
            "../../../c",
            "../../..",
            "x/../../../..",
            "C:\\x",
            "..\\..\\..\\x",
        ] {
            assert!(!link_stays_inside(&path, outside), "{outside}");
        }
    }

    #[test]
    fn content_objects_have_one_text_form() {
        let record = ContentObject::Record(17);
        assert_eq!(record.to_string(), "log/00000000000000000017");
        assert_eq!(record.to_string().parse(), Ok(record));
        for bad in [
            "",
            "log/17",
            "packs/x",
            "packs/../log/x",
            "trees/0",
            "log/+0000000000000000017",
        ] {
            assert!(bad.parse::<ContentObject>().is_err(), "{bad}");
        }
    }
}
