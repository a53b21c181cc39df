//! The way in: fetching content, staging it, and switching files one by one.
//!
//! Nothing half-written ever has a real name: content is staged in full, checked and flushed with
//! one barrier, and only then renamed into place. Each switch first checks that the local file is
//! still what the plan saw. The staging names are digests, so a killed pull finds what it had.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use statehold_core::digest::{Digest, FileHasher};
use statehold_core::entry::{Chunk, ContentObject, Entry, FileEntry};
use statehold_core::limits::PACK_BYTES_TARGET;
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::tree::Tree;
use statehold_repository::Remote;
use statehold_repository::content::open_chunk;

use super::{EngineError, Result};
use crate::folder::{Attributes, Folder, FolderError, Stamp, stamp_clock_ns};
use crate::progress::{Phase, Progress};
use crate::scan::Scan;
use crate::stat_cache::CachedFile;

/// What carrying out the incoming half of a plan needs.
pub(super) struct Incoming<'a> {
    pub(super) folder: &'a Folder,
    pub(super) scan: &'a Scan,
    /// The tree that is taken over.
    pub(super) tree: &'a Tree,
    pub(super) remote: &'a dyn Remote,
    pub(super) staging: &'a Path,
    /// A folder of this run's own for local content that gives way and exists nowhere else.
    pub(super) aside: PathBuf,
    /// Whether the local content at a path is in nobody's history.
    pub(super) is_unsaved: &'a (dyn Fn(&RepoPath) -> bool + Sync),
    pub(super) progress: &'a dyn Progress,
}

/// What became of the incoming half.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Paths that are now as the tree says.
    pub(super) paths: Vec<RepoPath>,
    /// Paths that changed under way and were left alone.
    pub(super) changed: Vec<RepoPath>,
    /// Paths that could not be put in place, and why.
    pub(super) failed: Vec<(RepoPath, String)>,
    /// Local content that was set aside.
    pub(super) set_aside: Vec<PathBuf>,
    /// What is known about the files that were placed.
    pub(super) cache: Vec<(RepoPath, CachedFile)>,
    /// Stored bytes that were fetched.
    pub(super) bytes: u64,
    /// Files whose content was fetched or placed.
    pub(super) files: u64,
    /// How many paths still wait for each staged content.
    uses: BTreeMap<Digest, usize>,
}

impl Incoming<'_> {
    /// Carries out the incoming actions.
    pub(super) async fn run(&self, actions: &[&Action]) -> Result<Placed> {
        let mut placed = Placed::default();
        let wanted: Vec<&FileEntry> = actions
            .iter()
            .filter_map(
                |action| match (action, self.tree.get(action.path().as_str())) {
                    (Action::Download(_), Some(Entry::File(file))) => Some(file),
                    _ => None,
                },
            )
            .collect();
        placed.bytes = self.stage(&wanted).await?;
        for file in &wanted {
            *placed.uses.entry(file.digest).or_default() += 1;
        }
        // Content first, names after: a crash can leave neither half a file nor an empty one.
        self.folder.barrier()?;
        self.progress.begin(Phase::Place, actions.len() as u64);
        // Deletions go first and inside out, so that files can become folders and the reverse.
        let deletes = actions
            .iter()
            .rev()
            .filter(|action| matches!(action, Action::DeleteLocal(_)));
        let downloads = actions
            .iter()
            .filter(|action| matches!(action, Action::Download(_)));
        for action in deletes.chain(downloads) {
            self.switch(action, &mut placed)?;
            self.progress.advance(1);
        }
        self.folder.barrier()?;
        self.progress.end();
        Ok(placed)
    }

    fn switch(&self, action: &Action, placed: &mut Placed) -> Result<()> {
        let path = action.path();
        let done = match action {
            Action::DeleteLocal(_) => self.delete(path, placed),
            _ => self.place(path, placed),
        };
        match done {
            Ok(()) => placed.paths.push(path.clone()),
            Err(EngineError::Folder(FolderError::Changed { .. })) => {
                placed.changed.push(path.clone());
            }
            // One path that can't be must not keep the others from arriving.
            Err(EngineError::Folder(error)) => placed.failed.push((path.clone(), cause(&error))),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn delete(&self, path: &RepoPath, placed: &mut Placed) -> Result<()> {
        let Some(local) = self.scan.entries.get(path) else {
            return Ok(());
        };
        if self.give_way(path, &local.stamp, placed)? {
            match self.folder.remove(path, &local.stamp) {
                // What keeps the directory there is ignored or not yet pushed, and is no entry of
                // the directory's own.
                Ok(_) | Err(FolderError::DirectoryInTheWay { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let keep = |folder: &RepoPath| self.tree.get(folder.as_str()).is_some();
        self.folder.prune_empty_parents(path, &keep)?;
        placed.files += 1;
        Ok(())
    }

    fn place(&self, path: &RepoPath, placed: &mut Placed) -> Result<()> {
        let Some(entry) = self.tree.get(path.as_str()) else {
            return Ok(());
        };
        let mut expected = self.scan.entries.get(path).map(|local| local.stamp);
        if let Some(stamp) = expected
            && !self.give_way(path, &stamp, placed)?
        {
            expected = None;
        }
        match entry {
            Entry::Directory => self.folder.make_directory(path)?,
            Entry::Symlink { target } => {
                let staged = self.staging.join("link");
                // A link that an earlier, killed run left behind.
                match std::fs::remove_file(&staged) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(staging_error("clear", &staged, error));
                    }
                    _ => {}
                }
                self.folder
                    .place_link(&staged, target, path, expected.as_ref())?;
            }
            Entry::File(file) => {
                let attributes = Attributes {
                    executable: file.executable,
                    mtime: file.mtime,
                };
                let staged = self.take_staged(file, placed)?;
                let stamp = self
                    .folder
                    .place(&staged, path, expected.as_ref(), attributes)?;
                if let Some(sha256) = file.sha256 {
                    let known = CachedFile::new(stamp, file.digest, sha256, stamp_clock_ns());
                    placed.cache.push((path.clone(), known));
                }
            }
        }
        placed.files += 1;
        Ok(())
    }

    /// Moves local content that is in nobody's history out of the way. Returns whether something is
    /// still there.
    fn give_way(&self, path: &RepoPath, stamp: &Stamp, placed: &mut Placed) -> Result<bool> {
        if !(self.is_unsaved)(path) {
            return Ok(true);
        }
        let into = self.aside.join(path.as_str());
        if let Some(folder) = into.parent() {
            let failed = |error| staging_error("make", folder, error);
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        self.folder.set_aside(path, stamp, &into)?;
        placed.set_aside.push(into);
        Ok(false)
    }

    fn staged(&self, digest: Digest) -> PathBuf {
        self.staging.join(digest.to_string())
    }

    /// A staged file for one placement: the staged content itself for the last path that holds it,
    /// a copy for those before.
    fn take_staged(&self, file: &FileEntry, placed: &mut Placed) -> Result<PathBuf> {
        let staged = self.staged(file.digest);
        let uses = placed.uses.entry(file.digest).or_insert(1);
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            return Ok(staged);
        }
        let copy = staged.with_extension("copy");
        std::fs::copy(&staged, &copy).map_err(|error| staging_error("copy", &staged, error))?;
        Ok(copy)
    }

    /// Fetches the content of these files into the staging folder, each content once.
    async fn stage(&self, files: &[&FileEntry]) -> Result<u64> {
        let mut missing: BTreeMap<Digest, &FileEntry> = BTreeMap::new();
        for file in files {
            if !self.is_staged(file) {
                missing.insert(file.digest, file);
            }
        }
        let mut missing: Vec<&FileEntry> = missing.into_values().collect();
        // In the order in which the content lies in the store, so that reads are few and long.
        missing.sort_by_key(|file| file.chunks.first().map(place_of));
        let total = missing.iter().map(|file| stored_bytes(file)).sum();
        self.progress.begin(Phase::Receive, total);
        let mut batch: Vec<&FileEntry> = Vec::new();
        let (mut bytes, mut object) = (0, None);
        for file in missing {
            let next = file.chunks.first().and_then(|chunk| chunk.at.object);
            let large = bytes + stored_bytes(file) > PACK_BYTES_TARGET as u64;
            // A pack is read in one go even if it is a little over the target.
            if large
                && (next != object || bytes > 2 * PACK_BYTES_TARGET as u64)
                && !batch.is_empty()
            {
                self.fetch(&std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            object = next;
            bytes += stored_bytes(file);
            batch.push(file);
        }
        self.fetch(&batch).await?;
        self.progress.end();
        Ok(total)
    }

    /// Whether an earlier run staged this content in full.
    fn is_staged(&self, file: &FileEntry) -> bool {
        let Ok(staged) = File::open(self.staged(file.digest)) else {
            return false;
        };
        let mut hasher = FileHasher::default();
        let mut staged = BufReader::with_capacity(1 << 20, staged);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match staged.read(&mut buffer) {
                Ok(0) => return hasher.finish().0 == file.digest,
                Ok(got) => hasher.update(&buffer[..got]),
                Err(_) => return false,
            }
        }
    }

    async fn fetch(&self, files: &[&FileEntry]) -> Result<()> {
        let small = |file: &&&FileEntry| stored_bytes(file) <= 2 * PACK_BYTES_TARGET as u64;
        let together: Vec<&FileEntry> = files.iter().filter(small).copied().collect();
        let places: Vec<_> = together
            .iter()
            .flat_map(|file| &file.chunks)
            .map(|c| c.at)
            .collect();
        let frames = if places.is_empty() {
            Vec::new()
        } else {
            self.remote.read(&places).await?
        };
        let mut frames = frames.into_iter();
        for file in together {
            let mut staged = Staged::create(self.staging, file)?;
            for chunk in &file.chunks {
                let frame = frames.next().unwrap_or_default();
                staged.write(&open_chunk(chunk, &frame)?)?;
            }
            staged.finish()?;
            self.progress.advance(stored_bytes(file));
        }
        for file in files.iter().filter(|file| !small(file)) {
            let mut staged = Staged::create(self.staging, file)?;
            for group in file.chunks.chunks(8) {
                let places: Vec<_> = group.iter().map(|chunk| chunk.at).collect();
                let frames = self.remote.read(&places).await?;
                for (chunk, frame) in group.iter().zip(&frames) {
                    staged.write(&open_chunk(chunk, frame)?)?;
                    self.progress.advance(u64::from(chunk.at.stored));
                }
            }
            staged.finish()?;
        }
        Ok(())
    }
}

fn stored_bytes(file: &FileEntry) -> u64 {
    file.chunks
        .iter()
        .map(|chunk| u64::from(chunk.at.stored))
        .sum()
}

fn place_of(chunk: &Chunk) -> (Option<ContentObject>, u64) {
    (chunk.at.object, chunk.at.offset)
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn staging_error(action: &'static str, path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Own {
        action,
        path: path.to_owned(),
        source,
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
        let whole = staging.join(entry.digest.to_string());
        let partial = whole.with_extension("partial");
        let file =
            File::create(&partial).map_err(|error| staging_error("make", &partial, error))?;
        Ok(Self {
            partial,
            whole,
            file,
            hasher: FileHasher::default(),
            entry,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|error| staging_error("write", &self.partial, error))
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
            return Err(statehold_repository::Error::damaged(object, reason).into());
        }
        std::fs::rename(&self.partial, &self.whole)
            .map_err(|error| staging_error("name", &self.whole, error))
    }
}
