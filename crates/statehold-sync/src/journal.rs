//! The journal of pushes: the exact bytes of a push that is under way, kept from before its first
//! attempt until its end is known. Packs that go together with the draft are part of it: until the
//! push has landed they may exist nowhere else, and it can be settled only whole.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use statehold_repository::content::Pack;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::wire::push;

use crate::workspace::Workspace;

/// What stands for a journal in error messages.
const JOURNAL: &str = "the journaled push";

/// A journal that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct JournalError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl JournalError {
    /// What an error becomes at a path.
    pub(crate) fn of(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}

/// A push that was under way when a run ended.
#[derive(Debug)]
pub struct Journaled {
    /// The packs that go together with the draft.
    pub packs: Vec<Pack>,
    /// The draft.
    pub draft: StoredDraft,
}

/// Where a workspace keeps a push that is under way.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal of a workspace.
    pub fn of(workspace: &Workspace) -> Self {
        Self {
            path: workspace.journal().join("push"),
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> JournalError {
        JournalError::of(&self.path, action)
    }

    /// The push that was under way when the last run ended. A journal that isn't whole was never
    /// acted on: its draft is sent only after it has been flushed.
    pub fn read(&self) -> Result<Option<Journaled>, JournalError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        match Journaled::read(bytes.into()) {
            Ok(journaled) => Ok(Some(journaled)),
            Err(error) => {
                tracing::warn!(%error, "the journaled push is damaged; its files are pushed anew");
                self.clear()?;
                Ok(None)
            }
        }
    }

    /// Keeps a push, durably.
    pub fn write(&self, packs: &[Pack], draft: &StoredDraft) -> Result<(), JournalError> {
        let staged = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&staged)?;
            for piece in push::write(packs, &draft.bytes) {
                file.write_all(&piece)?;
            }
            file.sync_data()?;
            std::fs::rename(&staged, &self.path)?;
            sync_folder(&self.path)
        };
        write().map_err(self.failed("write"))
    }

    /// Forgets the push: its end is known.
    pub fn clear(&self) -> Result<(), JournalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("clear")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Journaled {
    fn read(bytes: Bytes) -> statehold_repository::Result<Self> {
        let (packs, draft) = push::read(JOURNAL, bytes)?;
        let draft = StoredDraft::read(draft)?;
        Ok(Self { packs, draft })
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
