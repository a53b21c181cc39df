//! Content on its way from the repository to this machine: fetched in batches, checked, and staged
//! under its digest.
//!
//! Nothing half-written ever has a real name. The staging names are digests, so a killed run finds
//! what it had; of a large file the chunks that had come are kept too. Memory holds a batch, and of
//! a large file a few chunks, never more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use statehold_core::digest::{Digest, FileHasher};
use statehold_core::entry::FileEntry;
use statehold_repository::batches::{
    Batch, CHUNKS_AT_ONCE, TOGETHER_BYTES_MAX, batches, stored_bytes,
};
use statehold_repository::content::open_chunk;
use statehold_repository::{Error, Remote, Whereabouts};

use super::{EngineError, Result, own_error};
use crate::progress::Progress;

/// Fetches content into a staging folder.
pub(crate) struct Fetcher<'a> {
    pub(crate) remote: &'a dyn Remote,
    /// Where the content lies.
    pub(crate) whereabouts: &'a Whereabouts,
    /// A folder of our own, on the file system that the content will go to.
    pub(crate) staging: &'a Path,
    pub(crate) progress: &'a dyn Progress,
}

/// Content that the store has no longer, or not as it was.
#[derive(Debug)]
pub(crate) struct Damage {
    /// Which content.
    pub(crate) digest: Digest,
    /// What is wrong.
    pub(crate) error: Error,
}

impl Fetcher<'_> {
    /// What has to be fetched for these files, each content once, in the order in which it lies in
    /// the store, so that reads are few and long.
    pub(crate) fn batches<'f>(&self, files: &[&'f FileEntry]) -> Vec<Batch<'f>> {
        let mut missing: BTreeMap<Digest, &FileEntry> = BTreeMap::new();
        for file in files {
            if !missing.contains_key(&file.digest) && !self.is_staged(file) {
                missing.insert(file.digest, file);
            }
        }
        batches(missing.into_values().collect())
    }

    /// Where a content lies once it has been fetched.
    pub(crate) fn staged(&self, digest: Digest) -> PathBuf {
        self.staging.join(digest.to_string())
    }

    /// A staged file to be moved to one of the places that want this content: the staged content
    /// itself for the last one, a copy for those before.
    pub(crate) fn take_staged(&self, digest: Digest, is_last: bool) -> Result<PathBuf> {
        let staged = self.staged(digest);
        if is_last {
            return Ok(staged);
        }
        let copy = staged.with_extension("copy");
        std::fs::copy(&staged, &copy).map_err(|error| own_error("copy", &staged, error))?;
        Ok(copy)
    }

    /// Whether an earlier run staged this content in full.
    fn is_staged(&self, file: &FileEntry) -> bool {
        let Ok(staged) = File::open(self.staged(file.digest)) else {
            return false;
        };
        digest_of(staged).is_ok_and(|found| found == file.digest)
    }

    /// Fetches a batch. Damaged content is given back, and all else is staged.
    pub(crate) async fn fetch(&self, files: &[&FileEntry]) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let small = |file: &&&FileEntry| stored_bytes(file) <= TOGETHER_BYTES_MAX;
        let together: Batch<'_> = files.iter().filter(small).copied().collect();
        let chunks: Vec<_> = together
            .iter()
            .flat_map(|file| &file.chunks)
            .copied()
            .collect();
        let frames = match self.whereabouts.read(self.remote, &chunks).await {
            Ok(frames) => frames,
            // Something in there can't be read: file by file it shows which files that concerns.
            Err(Error::Damaged { .. } | Error::NotFound { .. }) => {
                for file in files {
                    keep_damage(file, self.fetch_alone(file).await, &mut damage)?;
                }
                return Ok(damage);
            }
            Err(error) => return Err(error.into()),
        };
        let mut frames = frames.into_iter();
        for file in together {
            let own: Vec<_> = frames.by_ref().take(file.chunks.len()).collect();
            let mut staged = Staged::create(self.staging, file)?;
            let put = file
                .chunks
                .iter()
                .zip(&own)
                .try_for_each(|(chunk, frame)| staged.write(&open_chunk(chunk, frame)?));
            keep_damage(file, put.and_then(|()| staged.finish()), &mut damage)?;
            self.progress.advance(stored_bytes(file));
        }
        for file in files.iter().filter(|file| !small(file)) {
            keep_damage(file, self.fetch_alone(file).await, &mut damage)?;
        }
        Ok(damage)
    }

    /// Fetches one file, some chunks at a time, so that it never has to be held in memory. Goes on
    /// after the chunks that a killed run had written.
    async fn fetch_alone(&self, file: &FileEntry) -> Result<()> {
        let (mut staged, there) = Staged::resume(self.staging, file)?;
        let (had, missing) = file.chunks.split_at(there.min(file.chunks.len()));
        let had = had.iter().map(|chunk| u64::from(chunk.at.stored)).sum();
        self.progress.advance(had);
        for group in missing.chunks(CHUNKS_AT_ONCE) {
            let frames = self.whereabouts.read(self.remote, group).await?;
            for (chunk, frame) in group.iter().zip(&frames) {
                staged.write(&open_chunk(chunk, frame)?)?;
                self.progress.advance(u64::from(chunk.at.stored));
            }
        }
        staged.finish()
    }
}

/// Sets damage aside, so that one bad object doesn't keep everything else from arriving.
fn keep_damage(file: &FileEntry, staged: Result<()>, damage: &mut Vec<Damage>) -> Result<()> {
    match staged {
        Err(EngineError::Remote(error @ (Error::Damaged { .. } | Error::NotFound { .. }))) => {
            tracing::warn!(%error, "a file is left as it was");
            let digest = file.digest;
            damage.push(Damage { digest, error });
            Ok(())
        }
        other => other,
    }
}

/// The digest of what a file holds.
pub(crate) fn digest_of(file: File) -> std::io::Result<Digest> {
    let mut hasher = FileHasher::default();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().0),
            got => hasher.update(&buffer[..got]),
        }
    }
}

/// A file in the making. It gets its name only when its digest is right.
struct Staged<'a> {
    partial: PathBuf,
    whole: PathBuf,
    file: File,
    hasher: FileHasher,
    entry: &'a FileEntry,
}

impl<'a> Staged<'a> {
    fn create(staging: &Path, entry: &'a FileEntry) -> Result<Self> {
        let (mut staged, _) = Self::open(staging, entry)?;
        staged.keep(0)?;
        Ok(staged)
    }

    /// What a killed run left of the file, and how many of its chunks that is.
    fn resume(staging: &Path, entry: &'a FileEntry) -> Result<(Self, usize)> {
        let (mut staged, length) = Self::open(staging, entry)?;
        let (mut kept, mut chunks) = (0, 0);
        for chunk in &entry.chunks {
            let end = kept + u64::from(chunk.raw);
            if end > length {
                break;
            }
            let mut piece = vec![0; chunk.raw as usize];
            let read = staged.file.read_exact(&mut piece);
            read.map_err(|error| own_error("read", &staged.partial, error))?;
            if Digest::of(&piece) != chunk.digest {
                break;
            }
            staged.hasher.update(&piece);
            (kept, chunks) = (end, chunks + 1);
        }
        staged.keep(kept)?;
        Ok((staged, chunks))
    }

    fn open(staging: &Path, entry: &'a FileEntry) -> Result<(Self, u64)> {
        let whole = staging.join(entry.digest.to_string());
        let partial = whole.with_extension("partial");
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial);
        let file = opened.map_err(|error| own_error("make", &partial, error))?;
        let length = file.metadata().map(|metadata| metadata.len());
        let length = length.map_err(|error| own_error("look at", &partial, error))?;
        let staged = Self {
            partial,
            whole,
            file,
            hasher: FileHasher::default(),
            entry,
        };
        Ok((staged, length))
    }

    /// Drops what lies after so many bytes, and goes on there.
    fn keep(&mut self, bytes: u64) -> Result<()> {
        let cut = self.file.set_len(bytes);
        let cut = cut.and_then(|()| self.file.seek(std::io::SeekFrom::Start(bytes)));
        cut.map(drop)
            .map_err(|error| own_error("write", &self.partial, error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|error| own_error("write", &self.partial, error))
    }

    fn finish(self) -> Result<()> {
        let found = self.hasher.finish().0;
        if found != self.entry.digest {
            let object = self.entry.chunks.first().and_then(|chunk| chunk.at.object);
            let object =
                object.map_or_else(|| "the listing".to_owned(), |object| object.to_string());
            let reason = format!(
                "a file put together from it is {found}, not {}",
                self.entry.digest
            );
            return Err(Error::damaged(object, reason).into());
        }
        std::fs::rename(&self.partial, &self.whole)
            .map_err(|error| own_error("name", &self.whole, error))
    }
}
