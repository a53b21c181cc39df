//! `sync-manifest.json` on disk: written whole, and one of a higher version refused.

use std::io;
use std::path::{Path, PathBuf};

use statehold_core::manifest::{InvalidManifest, SyncManifest};

use crate::atomic::{Readers, replace_file};

/// A manifest that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFileError {
    /// Its content can't be used, or a newer program wrote it.
    #[error("could not use the manifest {}", path.display())]
    Content {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        source: InvalidManifest,
    },
    /// The operating system refused.
    #[error("could not {action} the manifest {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where it lies.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Reads a manifest; `None` if there is none.
pub fn read_manifest(path: &Path) -> Result<Option<SyncManifest>, ManifestFileError> {
    match std::fs::read(path) {
        Ok(text) => {
            SyncManifest::from_json(&text)
                .map(Some)
                .map_err(|source| ManifestFileError::Content {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ManifestFileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether the manifest may be replaced: one that a newer program wrote may not. What else is wrong
/// with it is no matter, since no part of the program reads it.
pub fn check_replaceable(path: &Path) -> Result<(), ManifestFileError> {
    match read_manifest(path) {
        Ok(_)
        | Err(ManifestFileError::Content {
            source: InvalidManifest::Syntax { .. },
            ..
        }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a manifest in place of the earlier one. One that a newer program wrote is left alone.
pub fn write_manifest(
    path: &Path,
    manifest: &SyncManifest,
    staging: &Path,
) -> Result<(), ManifestFileError> {
    check_replaceable(path)?;
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::from);
    let written = text.and_then(|mut text| {
        text.push(b'\n');
        replace_file(path, &text, Readers::Everybody, staging)
    });
    written.map_err(|source| ManifestFileError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use statehold_core::time::Timestamp;
    use statehold_core::tree::Tree;

    use super::*;

    #[test]
    fn a_manifest_is_replaced_unless_a_newer_program_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sync-manifest.json");
        assert!(read_manifest(&path).unwrap().is_none());
        let manifest = SyncManifest::of(&Tree::default(), Timestamp::from_millis(0));
        std::fs::write(&path, "{").unwrap();
        assert!(read_manifest(&path).is_err());
        write_manifest(&path, &manifest, folder.path()).unwrap();
        assert_eq!(read_manifest(&path).unwrap(), Some(manifest.clone()));

        std::fs::write(&path, r#"{"version": 2}"#).unwrap();
        assert!(write_manifest(&path, &manifest, folder.path()).is_err());
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, r#"{"version": 2}"#);
    }
}
