//! Entries of any tree, brought into a folder beside the live one.
//!
//! Nothing that is there is replaced: what is as the tree says is kept, so a killed run goes on
//! where it was, and anything else is somebody's work and left alone. Each file gets its name when
//! it is whole, so there is never half of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::path::RepoPath;
use statehold_repository::batches::stored_bytes_of;
use statehold_repository::{Remote, Whereabouts};

use super::fetch::{Fetcher, digest_of};
use super::incoming::cause;
use super::{EngineError, Result, own_error};
use crate::folder::{Attributes, Folder, FolderError, FoundKind};
use crate::progress::{Phase, Progress};

/// Up to so many files are flushed one by one; from there on the whole file system is, which may have
/// much else to write.
const FLUSHED_ALONE_MAX: usize = 8;

/// Where entries go, and where their content comes from.
pub(crate) struct Retrieval<'a> {
    pub(crate) remote: &'a dyn Remote,
    /// Where the content of their tree lies.
    pub(crate) whereabouts: &'a Whereabouts,
    /// The folder they go to.
    pub(crate) folder: &'a Folder,
    /// A folder of this run's own on the same file system.
    pub(crate) staging: &'a Path,
    pub(crate) progress: &'a dyn Progress,
}

/// What became of the entries.
#[derive(Debug, Default)]
pub struct Retrieved {
    /// Entries that were put in place.
    pub placed: u64,
    /// Entries that were there already, as an earlier run left them.
    pub kept: u64,
    /// Stored bytes that were fetched.
    pub bytes: u64,
    /// Paths at which something else stands, which was left alone.
    pub occupied: Vec<RepoPath>,
    /// Paths that could not be put in place, and why.
    pub failed: Vec<(String, String)>,
    /// Files whose content is damaged in the store, and how.
    pub damaged: Vec<(RepoPath, statehold_repository::Error)>,
}

/// What is at a path already.
enum There {
    Nothing,
    TheSame,
    SomethingElse,
}

impl Retrieval<'_> {
    /// Brings these entries, each to its path in the folder. The names may be lost again if the machine
    /// crashes at once; then they are what the next run brings.
    pub(crate) async fn run(&self, entries: &[(RepoPath, &Entry)]) -> Result<Retrieved> {
        let mut done = Retrieved::default();
        let mut files: BTreeMap<Digest, Vec<(&RepoPath, &FileEntry)>> = BTreeMap::new();
        let mut links = Vec::new();
        for (path, entry) in entries {
            match self.there(path, entry) {
                Ok(There::TheSame) => done.kept += 1,
                Ok(There::SomethingElse) => done.occupied.push(path.clone()),
                Ok(There::Nothing) => match entry {
                    Entry::File(file) => files.entry(file.digest).or_default().push((path, file)),
                    Entry::Symlink { target } => links.push((path, target)),
                    Entry::Directory => done.note(path, self.folder.make_directory(path))?,
                },
                Err(error) => done.note(path, Err(error))?,
            }
        }
        self.bring_files(&files, &mut done).await?;
        // Last, so that nothing has to be reached through one.
        for (path, target) in links {
            done.note(path, self.place_link(path, target))?;
        }
        Ok(done)
    }

    async fn bring_files(
        &self,
        files: &BTreeMap<Digest, Vec<(&RepoPath, &FileEntry)>>,
        done: &mut Retrieved,
    ) -> Result<()> {
        let fetcher = Fetcher {
            remote: self.remote,
            whereabouts: self.whereabouts,
            staging: self.staging,
            progress: self.progress,
        };
        let wanted: Vec<&FileEntry> = files
            .values()
            .filter_map(|places| places.first().map(|(_, file)| *file))
            .collect();
        let batches = fetcher.batches(&wanted);
        done.bytes = stored_bytes_of(&batches);
        self.progress.begin(Phase::Receive, done.bytes);
        // What a killed run had staged and not placed comes with the first round.
        let fetched: BTreeSet<Digest> = batches.iter().flatten().map(|file| file.digest).collect();
        let staged = wanted.iter().filter(|file| !fetched.contains(&file.digest));
        let mut ready: Vec<Digest> = staged.map(|file| file.digest).collect();
        for batch in &batches {
            for damage in fetcher.fetch(batch).await? {
                let places = files.get(&damage.digest).into_iter().flatten();
                let shared = |path: &&RepoPath| ((*path).clone(), again(&damage.error));
                let paths = places.map(|(path, _)| *path);
                done.damaged.extend(paths.map(|path| shared(&path)));
            }
            ready.extend(batch.iter().map(|file| file.digest));
            self.place_files(&fetcher, &ready, files, done)?;
            ready.clear();
        }
        self.place_files(&fetcher, &ready, files, done)?;
        self.progress.end();
        Ok(())
    }

    /// Gives staged content its names.
    fn place_files(
        &self,
        fetcher: &Fetcher<'_>,
        ready: &[Digest],
        files: &BTreeMap<Digest, Vec<(&RepoPath, &FileEntry)>>,
        done: &mut Retrieved,
    ) -> Result<()> {
        // Content first, names after: a crash can leave neither half a file nor an empty one.
        if ready.len() > FLUSHED_ALONE_MAX {
            self.folder.barrier()?;
        } else {
            for digest in ready {
                let staged = fetcher.staged(*digest);
                match File::open(&staged).and_then(|file| file.sync_all()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(own_error("flush", &staged, error));
                    }
                    _ => {}
                }
            }
        }
        for digest in ready {
            if !fetcher.staged(*digest).exists() {
                continue;
            }
            let places = files.get(digest).map(Vec::as_slice).unwrap_or_default();
            for (index, (path, file)) in places.iter().enumerate() {
                let staged = fetcher.take_staged(*digest, index + 1 == places.len())?;
                let attributes = Attributes {
                    executable: file.executable,
                    mtime: file.mtime,
                };
                let placed = self.folder.place(&staged, path, None, attributes);
                done.note(path, placed.map(drop))?;
            }
        }
        Ok(())
    }

    fn place_link(&self, path: &RepoPath, target: &str) -> Result<(), FolderError> {
        let staged = self.staging.join("link");
        // A link that an earlier, killed run left behind.
        match std::fs::remove_file(&staged) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(FolderError::Io {
                    action: "clear",
                    path: staged,
                    source,
                });
            }
            _ => {}
        }
        self.folder
            .place_link(&staged, target, path, None)
            .map(drop)
    }

    /// Compares what is at a path with what is to be there.
    fn there(&self, path: &RepoPath, entry: &Entry) -> Result<There, FolderError> {
        let Some(found) = self.folder.stat(path)? else {
            return Ok(There::Nothing);
        };
        let is_same = match (entry, found.kind) {
            (Entry::Directory, FoundKind::Directory) => true,
            (Entry::Symlink { target }, FoundKind::Symlink) => {
                found.target.as_ref() == Some(target)
            }
            (Entry::File(file), FoundKind::File) => {
                found.stamp.size == file.size
                    && found.executable == file.executable
                    && digest_of(self.folder.open_file(path)?)
                        .is_ok_and(|digest| digest == file.digest)
            }
            _ => false,
        };
        Ok(match is_same {
            true => There::TheSame,
            false => There::SomethingElse,
        })
    }
}

impl Retrieved {
    /// Notes what became of a path. Where the disk is full or can't be written to, nothing else
    /// would fare better, and the run ends.
    fn note(&mut self, path: &RepoPath, placed: Result<(), FolderError>) -> Result<()> {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match placed {
            Ok(()) => self.placed += 1,
            // Somebody was quicker.
            Err(FolderError::Changed { .. } | FolderError::DirectoryInTheWay { .. }) => {
                self.occupied.push(path.clone());
            }
            Err(FolderError::Io {
                action,
                path,
                source,
            }) if matches!(
                source.kind(),
                StorageFull | QuotaExceeded | ReadOnlyFilesystem
            ) =>
            {
                return Err(EngineError::Folder(FolderError::Io {
                    action,
                    path,
                    source,
                }));
            }
            Err(error) => self.failed.push((path.to_string(), cause(&error))),
        }
        Ok(())
    }

    /// Whether every entry is where it should be.
    pub fn is_whole(&self) -> bool {
        self.occupied.is_empty() && self.failed.is_empty() && self.damaged.is_empty()
    }
}

/// The same finding for another path that needs the object.
fn again(error: &statehold_repository::Error) -> statehold_repository::Error {
    use statehold_repository::Error;
    match error {
        Error::Damaged { object, reason } => Error::damaged(object.clone(), reason.clone()),
        Error::NotFound { object } => Error::NotFound {
            object: object.clone(),
        },
        other => Error::damaged("an object", other.to_string()),
    }
}
