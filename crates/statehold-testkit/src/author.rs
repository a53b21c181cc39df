//! Pushes from plain lists of paths and contents, for tests that need a repository with something
//! in it.

use std::sync::Arc;

use bytes::Bytes;
use statehold_core::bands::Band;
use statehold_core::chunking::cut;
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, DraftHead, Kind, NewPack, PushBody, Upsert};
use statehold_core::state::State;
use statehold_core::time::Mtime;
use statehold_repository::content::{ContentWriter, Pack, open_chunk};
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::{Error, Remote, Result, Whereabouts};

use crate::environment::SeededEntropy;

/// A writer of pushes.
#[derive(Debug)]
pub struct Author {
    entropy: SeededEntropy,
    machine: MachineId,
}

/// A push that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Drafted {
    /// What to append.
    pub draft: StoredDraft,
    /// What to write before.
    pub packs: Vec<Pack>,
}

impl Author {
    /// An author whose names follow from a seed.
    pub fn new(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        let machine = MachineId::random(&entropy);
        Self { entropy, machine }
    }

    /// A push that puts these contents at these paths, and deletes where there is none.
    pub fn draft<'a>(
        &self,
        known: &State,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<Drafted> {
        let mut writer = ContentWriter::new(&known.tree, &known.collection, &self.entropy);
        let (mut upserts, mut deletes, mut packs) = (Vec::new(), Vec::new(), Vec::new());
        for (path, content) in changes {
            let path = RepoPath::parse(path).map_err(Error::refused)?;
            let Some(content) = content else {
                deletes.push(path);
                continue;
            };
            let mut chunks = Vec::new();
            for range in cut(content) {
                let piece = &content[range];
                chunks.push(writer.add(Digest::of(piece), piece, Band::Compressed)?);
                packs.extend(writer.take_full_pack(&self.entropy));
            }
            let entry = Entry::File(FileEntry {
                size: content.len() as u64,
                mtime: Mtime::new(1_776_000_000, 0),
                executable: false,
                digest: Digest::of(content),
                sha256: None,
                chunks,
            });
            upserts.push(Upsert {
                path,
                entry,
                keep: 0,
            });
        }
        let finished = writer.finish();
        for upsert in &mut upserts {
            finished.settle(&mut upsert.entry);
        }
        let body = Body::Push(PushBody {
            base: known.head,
            upserts,
            deletes,
        });
        let head = self.head(Kind::Push, finished.introduced.clone());
        let draft = StoredDraft::new(head, body, &finished.inline)?;
        packs.extend(finished.pack);
        Ok(Drafted { draft, packs })
    }

    /// The head of a draft with a new nonce; what follows from the body is filled in later.
    pub fn head(&self, kind: Kind, packs: Vec<NewPack>) -> DraftHead {
        DraftHead::new(kind, self.machine, Nonce::random(&self.entropy), packs)
    }

    /// Makes a push and sends it.
    pub async fn push<'a>(
        &self,
        remote: &dyn Remote,
        known: &Arc<State>,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<StoredRecord> {
        let drafted = self.draft(known, changes)?;
        for pack in drafted.packs {
            remote.put_pack(pack.id, pack.bytes).await?;
        }
        remote.append(&drafted.draft, known).await
    }
}

/// The content of a file in a state, read and checked.
pub async fn read_file(remote: &dyn Remote, state: &State, path: &str) -> Result<Bytes> {
    let Some(Entry::File(file)) = state.tree.get(path) else {
        return Err(Error::NotFound {
            object: path.to_owned(),
        });
    };
    let whereabouts = Whereabouts::of(state.head);
    let frames = whereabouts.read(remote, &file.chunks).await?;
    let mut content = Vec::new();
    for (chunk, frame) in file.chunks.iter().zip(frames) {
        content.extend_from_slice(&open_chunk(chunk, &frame)?);
    }
    Ok(content.into())
}
