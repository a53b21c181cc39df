//! Files that seem to hold secrets: searched before anything is sent, and allowed one by one.
//!
//! What was allowed is remembered by path and digest, so that a file that has changed since is
//! asked about again.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::limits::SECRET_SEARCH_BYTES_MAX;
use statehold_core::path::RepoPath;
use statehold_core::secrets::{Finding, Search};

use crate::atomic::{Readers, replace_file};
use crate::folder::{Folder, FolderError};
use crate::scan::Scan;
use crate::workspace::Workspace;

/// How much of a file is searched at once, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// Past this many files, a second thread pays.
const PARALLEL_FILES_MIN: usize = 64;
/// The version of the file that says what is allowed.
const VERSION: u32 = 1;

/// A file with content that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretFile {
    /// The file.
    pub path: RepoPath,
    /// What was found, by line; never the secret itself.
    pub findings: Vec<Finding>,
}

/// The files that somebody has said may be sent although they seem to hold secrets.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllowedSecrets {
    version: u32,
    files: BTreeMap<RepoPath, Digest>,
}

impl AllowedSecrets {
    /// What is allowed in a workspace. A file that can't be used allows nothing: then the question
    /// is asked again.
    pub(crate) fn read(workspace: &Workspace) -> Self {
        let Ok(text) = std::fs::read(workspace.allowed_secrets_path()) else {
            return Self::default();
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(allowed) if allowed.version == VERSION => allowed,
            _ => {
                tracing::warn!("the list of allowed secrets cannot be used; nothing is allowed");
                Self::default()
            }
        }
    }

    pub(crate) fn write(&mut self, workspace: &Workspace) -> io::Result<()> {
        self.version = VERSION;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let path = workspace.allowed_secrets_path();
        replace_file(&path, &text, Readers::Owner, &workspace.staging())
    }

    pub(crate) fn contains(&self, path: &RepoPath, digest: Digest) -> bool {
        self.files.get(path) == Some(&digest)
    }

    pub(crate) fn insert(&mut self, path: &RepoPath, digest: Digest) {
        self.files.insert(path.clone(), digest);
    }
}

/// What searching some files came to.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    /// Files that seem to hold secrets, by path.
    pub(crate) found: Vec<SecretFile>,
    /// Files that could not be read. They are not sent unsearched.
    pub(crate) unreadable: Vec<RepoPath>,
}

/// Searches these files of a folder: what a scan kept of them, otherwise what they hold now.
pub(crate) fn search(folder: &Folder, scan: &Scan, paths: &[&RepoPath]) -> Searched {
    let next = AtomicUsize::new(0);
    let searched = Mutex::new(Searched::default());
    let work = || {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = match scan.kept(path) {
                Some(content) => Ok(search_content(content)),
                None => search_file(folder, path, &mut buffer),
            };
            let mut searched = searched
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            match result {
                Ok(findings) if findings.is_empty() => {}
                Ok(findings) => searched.found.push(SecretFile {
                    path: (*path).clone(),
                    findings,
                }),
                Err(error) => {
                    tracing::debug!(%path, %error, "a file could not be searched");
                    searched.unreadable.push((*path).clone());
                }
            }
        }
    };
    if paths.len() < PARALLEL_FILES_MIN {
        work();
    } else {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let mut searched = searched
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    searched
        .found
        .sort_by(|left, right| left.path.cmp(&right.path));
    searched.unreadable.sort();
    searched
}

fn search_content(content: &[u8]) -> Vec<Finding> {
    let mut search = Search::default();
    for piece in content.chunks(PIECE_BYTES) {
        if !search.add(piece) {
            break;
        }
    }
    search.finish()
}

fn search_file(
    folder: &Folder,
    path: &RepoPath,
    buffer: &mut [u8],
) -> Result<Vec<Finding>, FolderError> {
    let file = folder.open_file(path)?;
    let mut file = file.take(SECRET_SEARCH_BYTES_MAX);
    let mut search = Search::default();
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => {
                if !search.add(&buffer[..count]) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(FolderError::Io {
                    action: "read",
                    path: folder.path().join(path.as_str()),
                    source,
                });
            }
        }
    }
    Ok(search.finish())
}
