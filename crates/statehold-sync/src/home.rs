//! What Statehold keeps outside of workspaces: access keys, and the locks of running commands.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

use statehold_core::id::WorkspaceId;

use crate::atomic::{Readers, replace_file};

/// Longest access key, in bytes.
const KEY_BYTES_MAX: u64 = 4_096;

/// Where a user's own files lie. Handed in, since this crate reads no environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// For what lasts; `~/.config` on Linux.
    pub config: PathBuf,
    /// For what lasts as long as the machine runs; `$XDG_RUNTIME_DIR` on Linux.
    pub runtime: PathBuf,
}

/// The secret that opens a repository. Neither shown nor written anywhere by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Box<str>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Takes a key as it was typed or pasted; space around it is cut off.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain && text.len() as u64 <= KEY_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(KeyError::Invalid)
        }
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A key that cannot be kept or used. No message holds any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no key.
    #[error("this is no access key: it is empty, too long, or holds spaces or odd characters")]
    Invalid,
    /// There is none.
    #[error("there is no access key for this workspace on this machine")]
    Absent,
    /// Other users may read the file.
    #[error("other users may read the access key in {} (mode {mode:o}); set it to 600 and replace the key", path.display())]
    Exposed {
        /// Where it lies.
        path: PathBuf,
        /// The file's permissions.
        mode: u32,
    },
    /// The operating system refused.
    #[error("could not {action} the access key in {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Home {
    fn keys(&self) -> PathBuf {
        self.config.join("statehold").join("keys")
    }

    fn key_file(&self, workspace: WorkspaceId) -> PathBuf {
        self.keys().join(workspace.to_string())
    }

    /// The folder for locks; made on first use, for this user alone.
    pub(crate) fn make_runtime_folder(&self) -> io::Result<PathBuf> {
        let folder = self.runtime.join("statehold");
        make_private_folders(&folder)?;
        check_is_private(&folder)?;
        Ok(folder)
    }

    /// Keeps the access key of a workspace, in place of any earlier one.
    pub fn write_key(&self, workspace: WorkspaceId, key: &Key) -> Result<(), KeyError> {
        let path = self.key_file(workspace);
        let keys = self.keys();
        make_private_folders(&keys)
            .and_then(|()| replace_file(&path, key.0.as_bytes(), Readers::Owner, &keys))
            .map_err(io_error("write", &path))
    }

    /// The access key of a workspace. Refused if other users may have read it.
    pub fn read_key(&self, workspace: WorkspaceId) -> Result<Key, KeyError> {
        let path = self.key_file(workspace);
        let text = match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = mode_for_others(&metadata);
                if mode != 0 {
                    return Err(KeyError::Exposed { path, mode });
                }
                if metadata.len() > KEY_BYTES_MAX {
                    return Err(KeyError::Invalid);
                }
                fs::read_to_string(&path)
            }
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Key::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeyError::Absent),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Forgets the access key of a workspace. Says whether there was one.
    pub fn remove_key(&self, workspace: WorkspaceId) -> Result<bool, KeyError> {
        let path = self.key_file(workspace);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyError {
    move |source| KeyError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Makes a folder, and those above it, for this user alone. What exists keeps its permissions.
pub(crate) fn make_private_folders(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Refuses a folder in which other users could lay out files: a lock's file is written to, and
/// where there is no runtime folder of the user's own, it may be beneath a shared one.
#[cfg(unix)]
fn check_is_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::symlink_metadata(folder)?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_own && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the folder for locks belongs to, or may be written by, other users",
        ))
    }
}

#[cfg(not(unix))]
fn check_is_private(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The whole mode of a file that others than its owner may do anything with, otherwise 0.
#[cfg(unix)]
fn mode_for_others(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { 0 } else { mode }
}

#[cfg(not(unix))]
fn mode_for_others(_metadata: &fs::Metadata) -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_kept_for_their_owner_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home {
            config: folder.path().join("config"),
            runtime: folder.path().join("runtime"),
        };
        let workspace = WorkspaceId::from_bytes([7; 16]);
        assert!(matches!(home.read_key(workspace), Err(KeyError::Absent)));
        let key = Key::parse(" shk_secret\n").unwrap();
        home.write_key(workspace, &key).unwrap();
        home.write_key(workspace, &key).unwrap();
        assert_eq!(home.read_key(workspace).unwrap().expose(), "shk_secret");
        assert_eq!(format!("{key:?}"), "Key(…)");

        let path = home.key_file(workspace);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&home.keys())), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = home.read_key(workspace);
        assert!(matches!(
            exposed,
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));

        assert!(home.remove_key(workspace).unwrap());
        assert!(!home.remove_key(workspace).unwrap());
        for bad in ["", " ", "two words", "umläut"] {
            assert!(Key::parse(bad).is_err());
        }
    }

    #[test]
    fn locks_are_not_kept_where_others_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home {
            config: folder.path().to_owned(),
            runtime: folder.path().to_owned(),
        };
        let locks = home.make_runtime_folder().unwrap();
        fs::set_permissions(&locks, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(home.make_runtime_folder().is_err());
    }
}
