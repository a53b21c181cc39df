//! Content that a workspace still holds, by digest: what a repository has lost may stand in its files.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use statehold_core::chunking::cut;
use statehold_core::digest::Digest;
use statehold_core::path::RepoPath;
use statehold_repository::verify::Wanted;
use statehold_repository::verify::repair::Held;

use crate::folder::Folder;
use crate::index::Index;
use crate::scan::{ScanOptions, scan};
use crate::workspace::{Workspace, WorkspaceError};

/// Files up to this many bytes are searched for content that is not where it was; each is held whole
/// meanwhile. Larger ones are looked into where the repository says that the content stood.
const SEARCHED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A workspace as a source of content.
#[derive(Debug)]
pub struct HeldContent {
    folder: Folder,
    /// The files that travel, with their lengths.
    files: Vec<(RepoPath, u64)>,
    description: Option<Bytes>,
    /// Where content was found.
    found: Mutex<HashMap<Digest, (RepoPath, u64)>>,
}

impl HeldContent {
    /// Goes through a workspace's folder. Files that its rules leave out are not looked at.
    pub fn of(workspace: &Workspace) -> Result<Self, WorkspaceError> {
        let folder = workspace.folder()?;
        let rules = workspace.rules(&folder)?;
        let ignore = workspace.ignore_file(&folder)?;
        let index = Index::read(&workspace.index_files(), |_| {});
        let options = ScanOptions {
            rules: &rules,
            ignore: &ignore,
            cache: &index.cache,
            known_directories: &|_| false,
            keep_bytes: 0,
        };
        let scan = scan(&folder, &options)?;
        let files = scan.entries.iter();
        let files = files.filter(|(_, entry)| entry.sha256.is_some());
        let files = files.map(|(path, entry)| (path.clone(), entry.size));
        Ok(Self {
            files: files.collect(),
            folder,
            description: std::fs::read(workspace.repository_path())
                .ok()
                .map(Bytes::from),
            found: Mutex::default(),
        })
    }

    /// A stretch of a file, if it is there.
    fn read(&self, path: &RepoPath, begin: u64, length: usize) -> Option<Vec<u8>> {
        let mut file = self.folder.open_file(path).ok()?;
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn remember(&self, digest: Digest, path: &RepoPath, begin: u64) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(digest, (path.clone(), begin));
    }

    fn place(&self, digest: &Digest) -> Option<(RepoPath, u64)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(digest).cloned()
    }

    /// Whether a place in a file holds the content.
    fn holds(&self, path: &RepoPath, begin: u64, digest: &Digest, raw: u32) -> bool {
        self.read(path, begin, raw as usize)
            .is_some_and(|bytes| Digest::of(&bytes) == *digest)
    }
}

impl Held for HeldContent {
    fn description(&self) -> Option<Bytes> {
        self.description.clone()
    }

    fn look_for(&self, wanted: &HashMap<Digest, Wanted>) {
        let mut left: HashMap<&Digest, u32> = HashMap::new();
        for (digest, wanted) in wanted {
            if self.place(digest).is_some() {
                continue;
            }
            let mut places = wanted.places.iter();
            match places.find(|(path, begin)| self.holds(path, *begin, digest, wanted.raw)) {
                Some((path, begin)) => self.remember(*digest, path, *begin),
                None => drop(left.insert(digest, wanted.raw)),
            }
        }
        // It may have moved, and files that only grew are cut elsewhere than a new one would be.
        for (path, size) in &self.files {
            if left.is_empty() {
                return;
            }
            if *size > SEARCHED_BYTES_MAX {
                continue;
            }
            let Some(content) = usize::try_from(*size)
                .ok()
                .and_then(|size| self.read(path, 0, size))
            else {
                continue;
            };
            for range in cut(&content) {
                let begin = range.start as u64;
                let digest = content.get(range).map(Digest::of);
                if let Some((digest, _)) = digest.and_then(|digest| left.remove_entry(&digest)) {
                    self.remember(*digest, path, begin);
                }
            }
        }
    }

    fn chunk(&self, digest: &Digest, raw: u32) -> Option<Vec<u8>> {
        let (path, begin) = self.place(digest)?;
        let bytes = self.read(&path, begin, raw as usize)?;
        // The file may have changed since.
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }
}
