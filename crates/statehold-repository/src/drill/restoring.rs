//! A tree's content, written to scratch space, read back from there and compared with the digests of the
//! tree.
//!
//! Files have numbers there and no names: what a listing calls them is proven by the listing's own
//! digest, and no path of a repository has to fit into the scratch space. Each goes when it has been
//! compared, so the largest file says how much space is needed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use statehold_core::digest::{Digest, FileHasher};
use statehold_core::entry::{Chunk, Entry, FileEntry};
use statehold_core::path::RepoPath;
use statehold_core::state::State;

use super::receipt::Restore;
use super::scratch::{Scratch, unusable};
use crate::batches::{Batch, CHUNKS_AT_ONCE, TOGETHER_BYTES_MAX, batches, stored_bytes};
use crate::content::open_chunk;
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::verify::Watch;
use crate::whereabouts::Whereabouts;

/// Bytes of a file that are read back at once.
const READ_BACK: usize = 1 << 20;

/// Restores trees of one store.
pub(super) struct Restorer<'a> {
    remote: &'a dyn Remote,
    scratch: &'a Scratch,
    watch: &'a dyn Watch,
    /// Content that was good, each at its place in the store.
    good: HashSet<Digest>,
    files: u64,
}

/// Content at its place in the store, and the paths that have it.
type Wanted<'t> = HashMap<Digest, (&'t FileEntry, Vec<&'t RepoPath>)>;

impl<'a> Restorer<'a> {
    pub(super) fn new(remote: &'a dyn Remote, scratch: &'a Scratch, watch: &'a dyn Watch) -> Self {
        Self {
            remote,
            scratch,
            watch,
            good: HashSet::new(),
            files: 0,
        }
    }

    /// Restores a state's tree. What differs is noted; an error says that a store did not answer, or that the
    /// scratch space can't be used.
    pub(super) async fn run(&mut self, state: &State, restore: &mut Restore) -> Result<()> {
        let (tree, whereabouts) = (&state.tree, Whereabouts::of(state.head));
        restore.entries = tree.len() as u64;
        let mut wanted = Wanted::new();
        for (path, entry) in tree.iter() {
            let Entry::File(file) = entry else { continue };
            if entry.is_purged() {
                restore.purged += 1;
                continue;
            }
            let place = place_of(file);
            if self.good.contains(&place) {
                restore.restored_before += 1;
            } else {
                let (_, paths) = wanted.entry(place).or_insert_with(|| (file, Vec::new()));
                paths.push(path);
            }
        }
        self.watch.expect(wanted.len() as u64);
        let files = wanted.values().map(|(file, _)| *file).collect();
        for batch in batches(files) {
            self.bring(&batch, &wanted, &whereabouts, restore).await?;
        }
        Ok(())
    }

    /// Restores the files of a batch.
    async fn bring(
        &mut self,
        batch: &Batch<'_>,
        wanted: &Wanted<'_>,
        whereabouts: &Whereabouts,
        restore: &mut Restore,
    ) -> Result<()> {
        let is_small = |file: &FileEntry| stored_bytes(file) <= TOGETHER_BYTES_MAX;
        let together = batch.iter().filter(|file| is_small(file));
        let chunks: Vec<_> = together.flat_map(|file| &file.chunks).copied().collect();
        let frames = match whereabouts.read(self.remote, &chunks).await {
            Ok(frames) => Some(frames),
            // File by file it shows which ones that concerns.
            Err(Error::Damaged { .. } | Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut frames = frames.map(Vec::into_iter);
        for file in batch {
            let own = match &mut frames {
                Some(frames) if is_small(file) => {
                    Some(frames.by_ref().take(file.chunks.len()).collect())
                }
                _ => None,
            };
            let place = place_of(file);
            let paths = wanted.get(&place).map(|(_, paths)| paths.as_slice());
            let paths = paths.unwrap_or_default();
            match self.bring_one(file, own, whereabouts).await {
                Ok(()) => {
                    self.good.insert(place);
                    restore.files += paths.len() as u64;
                    restore.bytes += file.size;
                }
                Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => {
                    paths
                        .iter()
                        .for_each(|path| restore.note(Some(path), &error));
                }
                Err(error) => return Err(error),
            }
            self.watch.done(1);
        }
        Ok(())
    }

    /// Restores a file whose frames are at hand, or have to be read.
    async fn bring_one(
        &mut self,
        file: &FileEntry,
        frames: Option<Vec<Bytes>>,
        whereabouts: &Whereabouts,
    ) -> Result<()> {
        self.files += 1;
        let path = self.scratch.file(self.files);
        let mut writing = off_thread(move || Writing::begin(path)).await?;
        match frames {
            Some(frames) => writing = writing.add(&file.chunks, frames).await?,
            None => {
                for group in file.chunks.chunks(CHUNKS_AT_ONCE) {
                    let frames = whereabouts.read(self.remote, group).await?;
                    writing = writing.add(group, frames).await?;
                }
            }
        }
        let found = off_thread(move || writing.read_back()).await?;
        if found == (file.size, file.digest) {
            return Ok(());
        }
        let object = file.chunks.first().and_then(|chunk| chunk.at.object);
        let object = object.map_or_else(|| "the listing".to_owned(), |object| object.to_string());
        let (bytes, digest) = found;
        let reason = format!(
            "a file restored from it has {bytes} bytes and is {digest}, not {} and {}",
            file.size, file.digest
        );
        Err(Error::damaged(object, reason))
    }
}

/// Stands for content and all its places in the store.
fn place_of(file: &FileEntry) -> Digest {
    let mut bytes = file.digest.as_bytes().to_vec();
    for chunk in &file.chunks {
        let object = chunk.at.object.map(|object| object.to_string());
        bytes.extend_from_slice(object.unwrap_or_default().as_bytes());
        bytes.extend_from_slice(&chunk.at.offset.to_be_bytes());
        bytes.extend_from_slice(&chunk.at.stored.to_be_bytes());
    }
    Digest::of(&bytes)
}

/// A file in scratch space, which is gone when this is.
struct Writing {
    path: PathBuf,
    file: File,
}

impl Writing {
    fn begin(path: PathBuf) -> Result<Self> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(unusable(&path, error)),
        }
    }

    /// Adds what these frames hold.
    async fn add(mut self, chunks: &[Chunk], frames: Vec<Bytes>) -> Result<Self> {
        let chunks = chunks.to_vec();
        off_thread(move || {
            for (chunk, frame) in chunks.iter().zip(&frames) {
                let piece = open_chunk(chunk, frame)?;
                let written = self.file.write_all(&piece);
                written.map_err(|error| unusable(&self.path, error))?;
            }
            Ok(self)
        })
        .await
    }

    /// Length and digest of what lies there now.
    fn read_back(mut self) -> Result<(u64, Digest)> {
        let mut read = || -> io::Result<(u64, Digest)> {
            self.file.flush()?;
            let mut file = File::open(&self.path)?;
            let (mut bytes, mut hasher) = (0, FileHasher::default());
            let mut buffer = vec![0; READ_BACK];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok((bytes, hasher.finish().0)),
                    got => {
                        bytes += got as u64;
                        hasher.update(buffer.get(..got).unwrap_or_default());
                    }
                }
            }
        };
        read().map_err(|error| unusable(&self.path, error))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a file in scratch space stays");
        }
    }
}

/// Expanding, writing and hashing keep no thread from answering others.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Error::Unavailable {
            what: "restoring into scratch space".into(),
            source: error.into(),
        })
    })
}
