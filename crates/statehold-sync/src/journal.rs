//! The journal of pushes: the exact bytes of a draft, kept from before its first attempt until its
//! end is known.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use statehold_repository::format::record::StoredDraft;

use crate::workspace::Workspace;

/// A journal that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct JournalError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
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
        let path = self.path.clone();
        move |source| JournalError {
            action,
            path,
            source,
        }
    }

    /// The push that was under way when the last run ended. A journal that isn't whole was never
    /// acted on: its draft is sent only after it has been flushed.
    pub fn read(&self) -> Result<Option<StoredDraft>, JournalError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        match StoredDraft::read(bytes.into()) {
            Ok(draft) => Ok(Some(draft)),
            Err(error) => {
                tracing::warn!(%error, "the journaled push is damaged; its files are pushed anew");
                self.clear()?;
                Ok(None)
            }
        }
    }

    /// Keeps a draft, durably.
    pub fn write(&self, draft: &StoredDraft) -> Result<(), JournalError> {
        let staged = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&staged)?;
            file.write_all(&draft.bytes)?;
            file.sync_data()?;
            std::fs::rename(&staged, &self.path)?;
            sync_folder(&self.path)
        };
        write().map_err(self.failed("write"))
    }

    /// Forgets the draft: its end is known.
    pub fn clear(&self) -> Result<(), JournalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("clear")(error))
            }
            _ => Ok(()),
        }
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
