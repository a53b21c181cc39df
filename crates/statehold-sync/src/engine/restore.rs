//! Bringing back what was: into a holding folder, `_restore/<name>-<time>`, never over what is live.
//!
//! What a holding folder is of stands in `.statehold/restoring/<its name>/of.json`, so that the same
//! restore goes on in it and another one of the same name takes a folder of its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::path::RepoPath;
use statehold_core::state::State;
use statehold_core::time::{Mtime, Timestamp};
use statehold_repository::Whereabouts;

use super::retrieve::{Retrieval, Retrieved};
use super::{Engine, EngineError, Result, own_error};
use crate::atomic::{Readers, replace_file};
use crate::folder::Attributes;
use crate::home::make_private_folders;
use crate::locks::{Lock, Wait};
use crate::workspace::RESTORED;

/// Bytes of a path's last name that go into the name of its holding folder.
const NAME_BYTES_MAX: usize = 200;
/// Holding folders of one name and time.
const TWINS_MAX: usize = 1_000;
/// Largest note of what a holding folder is of, in bytes: a path and a little more.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// What was restored, and where it is.
#[derive(Debug)]
pub struct Restored {
    /// The holding folder, in the workspace.
    pub holding: RepoPath,
    /// What became of the entries.
    pub entries: Retrieved,
}

/// What a holding folder is of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The path, or everything.
    path: Option<RepoPath>,
    /// The record's number.
    record: u64,
    /// The record's id.
    id: Digest,
}

/// Where the entry of a path lies in the holding folder of what was asked for: a folder's content
/// and everything as they are, a file or link by its name. `None` for the folder itself.
pub fn place_in_holding(
    path: &RepoPath,
    asked: Option<&RepoPath>,
) -> Option<Result<RepoPath, statehold_core::path::InvalidPath>> {
    let Some(asked) = asked else {
        return Some(Ok(path.clone()));
    };
    let rest = path.as_str().strip_prefix(asked.as_str())?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(RepoPath::parse(rest)),
        None => Some(RepoPath::parse(path.file_name())),
    }
}

impl Engine {
    /// Brings a path, or everything, as it is in a state into a holding folder named after it and a
    /// moment. What is live is not touched. A run that was killed is gone on with by the same call.
    ///
    /// Damaged content keeps nothing else from coming. A path that the state doesn't have is refused,
    /// and so is a workspace in which `_restore` is a link.
    pub async fn restore(
        &self,
        state: &State,
        path: Option<&RepoPath>,
        moment: Timestamp,
    ) -> Result<Restored> {
        let entries: Vec<(&RepoPath, &Entry)> = match path {
            Some(path) => state.tree.beneath(path.as_str()).collect(),
            None => state.tree.iter().collect(),
        };
        if let (Some(path), true) = (path, entries.is_empty()) {
            let reason = format!("{path} is not in record {}", state.head.number);
            return Err(statehold_repository::Error::refused(reason).into());
        }
        let restoring = self.workspace.restoring();
        make_private_folders(&restoring)
            .map_err(|error| own_error("make the folder", &restoring, error))?;
        let _lock = Lock::take(&restoring.join("lock"), "restore", Wait::Yes)?;
        self.forget_removed(&restoring);
        let note = Note {
            path: path.cloned(),
            record: state.head.number,
            id: state.head.id,
        };
        let (holding, own) = self.claim(&restoring, &note, moment)?;
        let staging = own.join("staging");
        make_private_folders(&staging)
            .map_err(|error| own_error("make the folder", &staging, error))?;
        self.keep_out_of_git(&staging)?;
        let folder = self.folder.folder_inside(&holding)?;

        let (mut wanted, mut failed) = (Vec::new(), Vec::new());
        for (full, entry) in entries {
            // A folder that was empty is the holding folder itself.
            if path == Some(full) && matches!(entry, Entry::Directory) {
                continue;
            }
            if entry.is_purged() {
                let reason = "its content was purged: it is gone for good";
                failed.push((full.to_string(), reason.to_owned()));
                continue;
            }
            match place_in_holding(full, path) {
                Some(Ok(place)) => wanted.push((place, entry)),
                Some(Err(error)) => failed.push((full.to_string(), error.to_string())),
                None => {}
            }
        }
        let retrieval = Retrieval {
            remote: &*self.remote,
            whereabouts: &Whereabouts::of(state.head),
            folder: &folder,
            staging: &staging,
            progress: &*self.progress,
        };
        let mut entries = retrieval.run(&wanted).await?;
        entries.failed.extend(failed);
        if let Err(error) = std::fs::remove_dir_all(&staging) {
            tracing::debug!(%error, "staged content was not removed");
        }
        Ok(Restored { holding, entries })
    }

    /// The holding folder for this, and the folder of its note: one that is of the same already, or a
    /// new one.
    fn claim(
        &self,
        restoring: &Path,
        note: &Note,
        moment: Timestamp,
    ) -> Result<(RepoPath, PathBuf)> {
        let name = note.path.as_ref().map_or("all", RepoPath::file_name);
        let name = cut(name, NAME_BYTES_MAX);
        for twin in 1..=TWINS_MAX {
            let mut name = format!("{name}-{}", moment.to_file_name());
            if twin > 1 {
                name = format!("{name}-{twin}");
            }
            let own = restoring.join(&name);
            let holding = RepoPath::parse(&format!("{RESTORED}/{name}"))
                .map_err(statehold_repository::Error::refused)?;
            let there = self.folder.stat(&holding)?;
            match read_note(&own.join("of.json")) {
                Some(found) if found == *note => return Ok((holding, own)),
                // A folder that is nobody's, or another's.
                _ if there.is_some() => continue,
                _ => {}
            }
            let failed = |error| own_error("write", &own, error);
            make_private_folders(&own).map_err(failed)?;
            let text = serde_json::to_vec(note).map_err(|error| failed(error.into()))?;
            replace_file(&own.join("of.json"), &text, Readers::Owner, &own).map_err(failed)?;
            return Ok((holding, own));
        }
        let reason = format!("{RESTORED} holds {TWINS_MAX} folders of {name}; remove some first");
        Err(statehold_repository::Error::refused(reason).into())
    }

    /// Throws away notes and staged content of holding folders that are there no longer.
    fn forget_removed(&self, restoring: &Path) {
        for item in std::fs::read_dir(restoring).into_iter().flatten().flatten() {
            let Ok(name) = item.file_name().into_string() else {
                continue;
            };
            let Ok(holding) = RepoPath::parse(&format!("{RESTORED}/{name}")) else {
                continue;
            };
            let is_folder = item.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder
                && matches!(self.folder.stat(&holding), Ok(None))
                && let Err(error) = std::fs::remove_dir_all(item.path())
            {
                tracing::debug!(%error, "what an earlier restore left was not removed");
            }
        }
    }

    /// Nobody commits what is restored: the folder says so to Git itself, and no file of the user's
    /// has to change for it.
    fn keep_out_of_git(&self, staging: &Path) -> Result<()> {
        let Ok(path) = RepoPath::parse(&format!("{RESTORED}/.gitignore")) else {
            return Ok(());
        };
        if self.folder.stat(&path)?.is_some() {
            return Ok(());
        }
        let staged = staging.join("gitignore");
        std::fs::write(&staged, "*\n").map_err(|error| own_error("write", &staged, error))?;
        let now = self.clock.now().as_millis();
        let attributes = Attributes {
            executable: false,
            mtime: Mtime::new(now.div_euclid(1_000), 0),
        };
        match self.folder.place(&staged, &path, None, attributes) {
            Ok(_) | Err(crate::folder::FolderError::Changed { .. }) => Ok(()),
            Err(error) => Err(EngineError::Folder(error)),
        }
    }
}

fn read_note(path: &Path) -> Option<Note> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
