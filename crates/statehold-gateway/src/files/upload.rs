//! New content that came as the body of a request: expanding it within its bound, searching it for
//! secrets, and making of it what a push consists of.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::Read;
use std::ops::Range;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use statehold_core::bands::{Band, Profile, TOO_LARGE, band};
use statehold_core::chunking::cut;
use statehold_core::digest::{Digest, FileHasher};
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::SECRET_SEARCH_BYTES_MAX;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, DraftHead, Kind, NewPack, PushBody, RecordRef, Upsert};
use statehold_core::secrets::{Finding, Search};
use statehold_core::state::State;
use statehold_core::time::{Mtime, Timestamp};
use statehold_core::tree::Tree;
use statehold_repository::Result;
use statehold_repository::content::{ContentWriter, Finished, Pack};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::wire::FILE_BODY_BYTES_MAX;
use statehold_repository::wire::problem::{Fault, Problem};

use super::negotiation::Coding;
use crate::refusal::Refusal;

/// Largest window that a compressed body may ask for, as a power of two: what RFC 9659 lets the
/// coding have, 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// How much is searched for secrets at once, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// The largest file that one request may bring to a path, in bytes before compression.
pub(crate) fn limit(may_be_large: bool) -> u64 {
    match band(FILE_BODY_BYTES_MAX, may_be_large, Profile::default()) {
        Band::Refused { limit } => limit,
        Band::Raw | Band::Compressed => FILE_BODY_BYTES_MAX,
    }
}

/// Says that a file is over the limit, and which way leads round it.
pub(crate) fn too_large(path: &RepoPath, size: impl Display, limit: u64) -> Refusal {
    let way_round = if limit < FILE_BODY_BYTES_MAX {
        TOO_LARGE
    } else {
        "this is the most that one request may bring; `statehold push` sends larger files"
    };
    let detail = format!("{path}: {size} bytes, the limit is {limit}; {way_round}");
    Problem::new(Fault::TooLarge { limit }, detail).into()
}

/// The content of a body, of at most `limit` bytes; never more than that is held.
pub(crate) fn expand(
    path: &RepoPath,
    body: &Bytes,
    coding: Coding,
    limit: u64,
) -> Result<Bytes, Refusal> {
    let mut content = Vec::new();
    let mut read = |decoder: &mut dyn Read| decoder.take(limit + 1).read_to_end(&mut content);
    let done = match coding {
        Coding::Identity => return Ok(body.clone()),
        Coding::Gzip => read(&mut MultiGzDecoder::new(body.as_ref())),
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(body.as_ref());
            decoder.and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                read(&mut decoder)
            })
        }
    };
    done.map_err(|error| Problem::refused(format!("the body does not expand: {error}")))?;
    if content.len() as u64 > limit {
        return Err(too_large(path, format!("more than {limit}"), limit));
    }
    Ok(content.into())
}

/// What looks like a secret in some content.
pub(crate) fn find_secrets(content: &[u8]) -> Vec<Finding> {
    let len = usize::try_from(SECRET_SEARCH_BYTES_MAX).unwrap_or(usize::MAX);
    let mut search = Search::default();
    for piece in content[..content.len().min(len)].chunks(PIECE_BYTES) {
        if !search.add(piece) {
            break;
        }
    }
    search.finish()
}

/// Content that is ready to be stored, whatever else its record will say.
#[derive(Debug)]
pub(crate) struct Upload {
    entry: FileEntry,
    inline: Vec<u8>,
    introduced: Vec<NewPack>,
    /// What has to be written before the record.
    pub(crate) packs: Vec<Pack>,
}

impl Upload {
    /// Cuts and compresses content. What the repository holds already is not stored again.
    pub(crate) fn new(
        content: &[u8],
        state: &State,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        let mut hasher = FileHasher::default();
        hasher.update(content);
        let (digest, sha256) = hasher.finish();
        let pieces: Vec<(Range<usize>, Digest)> = cut(content)
            .into_iter()
            .map(|range| (range.clone(), Digest::of(&content[range])))
            .collect();
        let known = holding(
            &state.tree,
            pieces.iter().map(|(_, digest)| *digest).collect(),
        );
        let mut writer = ContentWriter::new(&known, &state.collection, entropy);
        let (mut chunks, mut packs) = (Vec::new(), Vec::new());
        for (range, digest) in pieces {
            chunks.push(writer.add(digest, &content[range], Band::Compressed)?);
            packs.extend(writer.take_full_pack(entropy));
        }
        let millis = now.as_millis();
        let nanoseconds = u32::try_from(millis.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
        let mut entry = Entry::File(FileEntry {
            size: content.len() as u64,
            mtime: Mtime::new(millis.div_euclid(1_000), nanoseconds),
            executable: false,
            digest,
            sha256: Some(sha256),
            chunks,
        });
        let finished = writer.finish();
        finished.settle(&mut entry);
        let Finished {
            pack,
            inline,
            introduced,
            ..
        } = finished;
        packs.extend(pack);
        let Entry::File(entry) = entry else {
            unreachable!("it was made a file above")
        };
        Ok(Self {
            entry,
            inline,
            introduced,
            packs,
        })
    }

    pub(crate) const fn file(&self) -> &FileEntry {
        &self.entry
    }

    /// The push that puts the content at a path. A file keeps its executability.
    pub(crate) fn draft(
        &self,
        path: &RepoPath,
        executable: bool,
        origin: Origin,
        base: RecordRef,
    ) -> Result<StoredDraft> {
        let entry = Entry::File(FileEntry {
            executable,
            ..self.entry.clone()
        });
        let upserts = vec![Upsert {
            path: path.clone(),
            entry,
            keep: 0,
        }];
        let body = PushBody {
            base,
            upserts,
            deletes: Vec::new(),
        };
        let head = origin.head(self.introduced.clone());
        StoredDraft::new(head, Body::Push(body), &self.inline)
    }
}

/// The part of a tree that holds these chunks, as far as it does. A table of all its chunks would be
/// much for one file, and many may be written at once.
fn holding(tree: &Tree, mut wanted: HashSet<Digest>) -> Tree {
    let mut found = Tree::default();
    for (path, entry) in tree.iter() {
        let Entry::File(file) = entry else { continue };
        let before = wanted.len();
        for chunk in &file.chunks {
            wanted.remove(&chunk.digest);
        }
        if wanted.len() < before {
            found.insert(path.clone(), entry.clone());
        }
        if wanted.is_empty() {
            break;
        }
    }
    found
}

/// The push that takes a path away.
pub(crate) fn removal(path: &RepoPath, origin: Origin, base: RecordRef) -> Result<StoredDraft> {
    let body = PushBody {
        base,
        upserts: Vec::new(),
        deletes: vec![path.clone()],
    };
    StoredDraft::new(origin.head(Vec::new()), Body::Push(body), &[])
}

/// By what a record is known as the work of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) machine: MachineId,
    pub(crate) nonce: Nonce,
}

impl Origin {
    fn head(self, packs: Vec<NewPack>) -> DraftHead {
        DraftHead::new(Kind::Push, self.machine, self.nonce, packs)
    }
}
