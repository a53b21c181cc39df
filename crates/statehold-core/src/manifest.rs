//! The local manifest: what people and scripts read to see what is synchronised.
//!
//! It is written after each push and pull and read by nobody in the program: the base of a
//! comparison is kept apart, so a lost or edited manifest harms nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::entry::Entry;
use crate::path::RepoPath;
use crate::time::{Mtime, Timestamp};
use crate::tree::Tree;

/// The version this program writes and the highest it understands.
pub const MANIFEST_VERSION: u32 = 1;

/// The content of `sync-manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncManifest {
    /// Raised by incompatible changes only.
    pub version: u32,
    /// When it was written.
    pub generated_at: Timestamp,
    /// The synchronised files.
    pub files: BTreeMap<RepoPath, ManifestEntry>,
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Digest of the content.
    pub sha256: Sha256,
    /// Length in bytes.
    pub size: u64,
    /// When the content last changed.
    pub mtime: Mtime,
}

/// A manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// It is no manifest.
    #[error("the manifest is not valid: {message}")]
    Syntax {
        /// What is wrong.
        message: String,
    },
    /// A newer program wrote it.
    #[error("the manifest has version {found}, this program understands {MANIFEST_VERSION}")]
    TooNew {
        /// The version found.
        found: u64,
    },
}

impl SyncManifest {
    /// The manifest of a tree. Links and directories are not part of it.
    pub fn of(tree: &Tree, generated_at: Timestamp) -> Self {
        let file = |(path, entry): (&RepoPath, &Entry)| match entry {
            Entry::File(file) => {
                let sha256 = file.sha256?;
                let entry = ManifestEntry {
                    sha256,
                    size: file.size,
                    mtime: file.mtime,
                };
                Some((path.clone(), entry))
            }
            Entry::Symlink { .. } | Entry::Directory => None,
        };
        let files = tree.iter().filter_map(file).collect();
        Self {
            version: MANIFEST_VERSION,
            generated_at,
            files,
        }
    }

    /// Reads a manifest; one of a higher version is refused before anything else in it is read.
    pub fn from_json(text: &[u8]) -> Result<Self, InvalidManifest> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let syntax = |error: serde_json::Error| InvalidManifest::Syntax {
            message: error.to_string(),
        };
        let Version { version } = serde_json::from_slice(text).map_err(syntax)?;
        if version > u64::from(MANIFEST_VERSION) {
            return Err(InvalidManifest::TooNew { found: version });
        }
        serde_json::from_slice(text).map_err(syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_manifest_is_refused_whatever_else_it_holds() {
        let newer = br#"{"version": 2, "files": "elsewhere"}"#;
        assert_eq!(
            SyncManifest::from_json(newer),
            Err(InvalidManifest::TooNew { found: 2 })
        );
        let manifest = SyncManifest::of(&Tree::default(), Timestamp::from_millis(0));
        let text = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(SyncManifest::from_json(&text), Ok(manifest));
        assert!(SyncManifest::from_json(b"{").is_err());
    }
}
