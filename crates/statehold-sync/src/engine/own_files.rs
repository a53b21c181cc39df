//! What a run keeps beneath `.statehold` and shows in the log folder: the index, the manifest, the list of snapshots.

use statehold_core::manifest::SyncManifest;
use statehold_core::snapshot_index::{is_snapshot_index, snapshot_index_lines};
use statehold_core::state::State;

use super::situation::Situation;
use super::{Engine, Result, own_error};
use crate::atomic::{Readers, replace_file};
use crate::index::Index;
use crate::manifest_file::write_manifest;

impl Engine {
    /// The index, or none where it can't be used: then both sides are united and nothing is lost.
    pub(super) fn read_index(&self) -> Index {
        Index::read(&self.workspace.index_files(), |error| {
            tracing::warn!(%error, "a part of the index cannot be used; going on without it");
        })
    }

    pub(super) fn write_index(&self, index: &mut Index) -> Result<()> {
        Ok(index.write(&self.workspace.index_files(), &self.workspace.staging())?)
    }

    /// Throws away what killed runs staged and nobody needs any more.
    pub(super) fn clear_staging(&self) {
        let Ok(left) = std::fs::read_dir(self.workspace.staging()) else {
            return;
        };
        for item in left.flatten() {
            if let Err(error) = std::fs::remove_file(item.path()) {
                tracing::debug!(%error, "a staged file was not removed");
            }
        }
    }

    /// Shows the snapshots of a state in a file, for people and scripts to read. What lies there and
    /// is no such file is set aside.
    pub(super) fn write_snapshot_index(&self, state: &State) -> Result<()> {
        let path = self.workspace.snapshot_index_path();
        let wanted = snapshot_index_lines(state);
        let found = match std::fs::read(&path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(own_error("read", &path, error)),
        };
        if found
            .as_ref()
            .map_or(wanted.is_empty(), |found| *found == wanted)
        {
            return Ok(());
        }
        self.workspace.make_log_folder(&self.folder)?;
        if found.is_some_and(|found| !is_snapshot_index(&found)) {
            let aside = path.with_extension(format!("{}.ndjson", self.clock.now().to_file_name()));
            std::fs::rename(&path, aside).map_err(|error| own_error("set aside", &path, error))?;
        }
        replace_file(
            &path,
            &wanted,
            Readers::Everybody,
            &self.workspace.staging(),
        )
        .map_err(|error| own_error("write", &path, error))
    }

    pub(super) fn write_manifest(&self, now: &Situation) -> Result<()> {
        let Some(state) = now.state() else {
            return Ok(());
        };
        let manifest = SyncManifest::of(&state.tree, self.clock.now());
        self.workspace.make_log_folder(&self.folder)?;
        write_manifest(
            &self.workspace.manifest_path(),
            &manifest,
            &self.workspace.staging(),
        )?;
        Ok(())
    }
}
