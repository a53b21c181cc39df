//! The way out: reading files, cutting them, and making a draft of the changes.

use std::io::Read as _;

use statehold_core::bands::{Profile, band};
use statehold_core::chunking::{chunks_to_keep, cut};
use statehold_core::digest::{Digest, FileHasher};
use statehold_core::entry::{Chunk, Entry, FileEntry, Signature};
use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::CHUNK_BYTES_MAX;
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::record::{Body, DraftHead, Kind, PushBody, Upsert};
use statehold_core::rules::RuleSet;
use statehold_core::state::State;
use statehold_repository::content::{ContentWriter, Finished, Pack};
use statehold_repository::format::record::StoredDraft;

use super::sending::Sending;
use super::{EngineError, Result};
use crate::folder::{Folder, FolderError};
use crate::scan::Scan;
use crate::uploads::Uploads;

/// How much of a file is in memory at once. Several of the largest chunks.
const READ_BYTES: usize = 4 * CHUNK_BYTES_MAX;

/// Turns outgoing actions into a draft, a file at a time, so that full packs can be sent while
/// further files are read.
pub(super) struct Outgoing<'a> {
    pub(super) folder: &'a Folder,
    pub(super) scan: &'a Scan,
    pub(super) rules: &'a RuleSet,
    pub(super) profile: Profile,
    pub(super) state: &'a State,
    pub(super) entropy: &'a dyn Entropy,
    writer: ContentWriter,
    upserts: Vec<Upsert>,
    deletes: Vec<RepoPath>,
    /// Files that were no longer what the scan saw.
    pub(super) changed: Vec<RepoPath>,
}

/// The changes of a push, ready to be appended once the last pack is written.
pub(super) struct Outbound {
    pub(super) draft: StoredDraft,
    pub(super) pack: Option<Pack>,
    /// Paths whose local state the draft holds.
    pub(super) paths: Vec<RepoPath>,
}

/// What reading a file came to.
enum Captured {
    Entry {
        entry: Entry,
        keep: u32,
    },
    /// It isn't what the scan saw any more.
    Changed,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(
        folder: &'a Folder,
        scan: &'a Scan,
        (rules, profile): (&'a RuleSet, Profile),
        state: &'a State,
        entropy: &'a dyn Entropy,
    ) -> Self {
        let writer = ContentWriter::new(&state.tree, &state.collection, entropy);
        let (upserts, deletes, changed) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            folder,
            scan,
            rules,
            profile,
            state,
            entropy,
            writer,
            upserts,
            deletes,
            changed,
        }
    }

    /// Uses again what an earlier attempt has written.
    pub(super) fn resume(&mut self, uploads: &Uploads) {
        for written in uploads.packs() {
            self.writer.resume(written.pack, &written.frames);
        }
    }

    /// Sends while files are read, of this many bytes in all.
    pub(super) fn send_early(&mut self, total: u64) {
        self.writer.send_early(total);
    }

    /// Takes in one action, and sends the packs that become full.
    pub(super) async fn take(&mut self, action: &Action, sending: &mut Sending<'_>) -> Result<()> {
        match action {
            Action::DeleteRemote(path) => self.deletes.push(path.clone()),
            Action::Upload(path) => match self.capture(path, sending).await? {
                Captured::Entry { entry, keep } => {
                    self.upserts.push(Upsert {
                        path: path.clone(),
                        entry,
                        keep,
                    });
                }
                Captured::Changed => self.changed.push(path.clone()),
            },
            Action::Download(_) | Action::DeleteLocal(_) => {}
        }
        Ok(())
    }

    /// Ends the push. `None` when there is nothing left to say. One that takes an earlier one's place has its
    /// nonce.
    pub(super) fn finish(
        self,
        machine: MachineId,
        carried: Option<Nonce>,
    ) -> Result<Option<Outbound>> {
        if self.upserts.is_empty() && self.deletes.is_empty() {
            return Ok(None);
        }
        let content = self.writer.finish();
        let mut upserts = self.upserts;
        for upsert in &mut upserts {
            content.settle(&mut upsert.entry);
        }
        let paths = upserts
            .iter()
            .map(|upsert| &upsert.path)
            .chain(&self.deletes)
            .cloned()
            .collect();
        let body = PushBody {
            base: self.state.head,
            upserts,
            deletes: self.deletes,
        };
        let Finished {
            pack,
            inline,
            introduced,
            ..
        } = content;
        let nonce = carried.unwrap_or_else(|| Nonce::random(self.entropy));
        let head = DraftHead::new(Kind::Push, machine, nonce, introduced);
        let draft = StoredDraft::new(head, Body::Push(body), &inline)?;
        Ok(Some(Outbound { draft, pack, paths }))
    }

    async fn capture(&mut self, path: &RepoPath, sending: &mut Sending<'_>) -> Result<Captured> {
        let Some(local) = self.scan.entries.get(path) else {
            return Ok(Captured::Changed);
        };
        let entry = match local.signature {
            Signature::Directory => Entry::Directory,
            Signature::Symlink { .. } => match &local.target {
                Some(target) => Entry::Symlink {
                    target: target.clone(),
                },
                None => return Ok(Captured::Changed),
            },
            Signature::File { digest, executable } => {
                let content = match self.read(path, (local.size, digest), sending).await {
                    Ok(content) => content,
                    Err(EngineError::Folder(
                        FolderError::NotAFile { .. } | FolderError::Io { .. },
                    )) => return Ok(Captured::Changed),
                    Err(error) => return Err(error),
                };
                if content.digest != digest {
                    return Ok(Captured::Changed);
                }
                let (size, mtime, sha256) = (content.size, local.mtime, local.sha256);
                let chunks = content.chunks;
                let file = FileEntry {
                    size,
                    mtime,
                    executable,
                    digest,
                    sha256,
                    chunks,
                };
                return Ok(Captured::Entry {
                    entry: Entry::File(file),
                    keep: content.keep,
                });
            }
        };
        Ok(Captured::Entry { entry, keep: 0 })
    }

    /// Reads a file from beginning to end, hands new pieces to the writer, and computes its digest.
    /// Packs are sent while it is read, so that a file of any length takes little memory. What the
    /// scan kept is not read a second time.
    async fn read(
        &mut self,
        path: &RepoPath,
        (size, digest): (u64, Digest),
        sending: &mut Sending<'_>,
    ) -> Result<ReadContent> {
        let band = band(size, self.rules.may_be_large(path), self.profile);
        let scan = self.scan;
        let kept = scan.kept(path);
        let mut file: Box<dyn std::io::Read + Send + '_> = match kept {
            Some(content) => Box::new(content),
            None => Box::new(self.folder.open_file(path)?),
        };
        let io = |source| FolderError::Io {
            action: "read",
            path: path.as_str().into(),
            source,
        };
        // What was kept is what the scan's digest was computed from.
        let mut hasher = kept.is_none().then(FileHasher::default);
        let digest_of = |piece: &[u8]| match kept {
            Some(content) if content.len() == piece.len() => digest,
            _ => Digest::of(piece),
        };
        let mut read = ReadContent::default();
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut buffer = Vec::with_capacity(room);
        let mut earlier = self.earlier_chunks(path, size);
        loop {
            let want = READ_BYTES.saturating_sub(buffer.len()) as u64;
            let got = (&mut file)
                .take(want)
                .read_to_end(&mut buffer)
                .map_err(io)?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&buffer[buffer.len() - got..]);
            }
            read.size += got as u64;
            sending.waiting += got as u64;
            let at_end = got == 0;

            // First the pieces that an earlier version had, as long as they are still the same.
            let mut used = 0;
            while let Some(chunk) = earlier.first() {
                let Some(piece) = buffer.get(used..used + chunk.raw as usize) else {
                    break;
                };
                if Digest::of(piece) != chunk.digest {
                    // It didn't only grow. What was kept so far is still right.
                    earlier = &[];
                    break;
                }
                used += piece.len();
                read.keep += 1;
                earlier = &earlier[1..];
            }
            // Then new ones. The last cut in the buffer may move once more is read.
            if earlier.is_empty() {
                let cuts = cut(&buffer[used..]);
                let complete = if at_end {
                    cuts.len()
                } else {
                    cuts.len().saturating_sub(1)
                };
                let start = used;
                for range in &cuts[..complete] {
                    let piece = &buffer[start + range.start..start + range.end];
                    read.chunks
                        .push(self.writer.add(digest_of(piece), piece, band)?);
                    if let Some(pack) = self.writer.take_full_pack(self.entropy) {
                        sending.add(pack).await?;
                        if let Some(buffer) = sending.spare.take() {
                            self.writer.reuse(buffer);
                        }
                    }
                    used = start + range.end;
                }
            }
            buffer.drain(..used);
            if at_end {
                break;
            }
        }
        read.digest = hasher.map_or(digest, |hasher| hasher.finish().0);
        Ok(read)
    }

    /// The leading chunks of the path's earlier version that a longer file may keep.
    fn earlier_chunks(&self, path: &RepoPath, size: u64) -> &'a [Chunk] {
        match self.state.tree.get(path.as_str()) {
            Some(Entry::File(earlier)) if earlier.size < size => {
                let lengths: Vec<u32> = earlier.chunks.iter().map(|chunk| chunk.raw).collect();
                let keep = chunks_to_keep(&lengths, size - earlier.size);
                &earlier.chunks[..keep]
            }
            _ => &[],
        }
    }
}

#[derive(Debug)]
struct ReadContent {
    size: u64,
    digest: Digest,
    keep: u32,
    chunks: Vec<Chunk>,
}

impl Default for ReadContent {
    fn default() -> Self {
        Self {
            size: 0,
            digest: Digest::of(b""),
            keep: 0,
            chunks: Vec::new(),
        }
    }
}
