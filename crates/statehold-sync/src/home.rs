//! What Statehold keeps outside of workspaces: access keys, and the locks of running commands.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use statehold_core::id::WorkspaceId;
use statehold_repository::wire::key::{InvalidKey, Key};
use zeroize::Zeroizing;

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

/// Where a first start left the operator's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorKey {
    /// Its file.
    pub path: PathBuf,
    /// Where the key of an earlier gateway's first start lies now, if there was one.
    pub earlier: Option<PathBuf>,
}

/// A key that cannot be kept or used. No message holds any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no key.
    #[error("this is no access key")]
    Invalid(#[from] InvalidKey),
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

    /// The folder for what tells copies of application state apart, outside of all workspaces.
    pub fn witnesses(&self) -> PathBuf {
        self.config.join("statehold").join("witnesses")
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
        write_key_file(&self.key_file(workspace), key)
    }

    /// The access key of a workspace. Refused if other users may have read it.
    pub fn read_key(&self, workspace: WorkspaceId) -> Result<Key, KeyError> {
        read_key_file(&self.key_file(workspace))
    }

    /// Where the first gateway on this machine leaves its operator's key.
    pub fn operator_key_file(&self) -> PathBuf {
        self.keys().join("operator")
    }

    /// Keeps an operator's key, and says where. One that is there already is put aside, never lost.
    pub fn write_operator_key(&self, key: &Key) -> Result<OperatorKey, KeyError> {
        let path = self.operator_key_file();
        let mut earlier = None;
        if let Ok(there) = read_key_file(&path) {
            let aside = self.keys().join(format!("operator-{}", there.id()));
            fs::rename(&path, &aside).map_err(io_error("put aside", &path))?;
            earlier = Some(aside);
        }
        write_key_file(&path, key)?;
        Ok(OperatorKey { path, earlier })
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

/// Writes a key to a file that its owner alone can read, and makes the folder it lies in.
pub fn write_key_file(path: &Path, key: &Key) -> Result<(), KeyError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    make_private_folders(folder)
        .and_then(|()| replace_file(path, key.reveal().as_bytes(), Readers::Owner, folder))
        .map_err(io_error("write", path))
}

/// The key in the first line of a file of one's own. Refused if other users may have read it.
pub fn read_key_file(path: &Path) -> Result<Key, KeyError> {
    let read = || -> io::Result<Result<Zeroizing<String>, KeyError>> {
        let metadata = fs::metadata(path)?;
        let mode = mode_for_others(&metadata);
        if mode != 0 {
            return Ok(Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            }));
        }
        let mut text = Zeroizing::new(String::new());
        fs::File::open(path)?
            .take(KEY_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(Ok(text))
    };
    match read() {
        Ok(text) => Ok(text?.lines().next().unwrap_or_default().trim().parse()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeyError::Absent),
        Err(error) => Err(io_error("read", path)(error)),
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

    use statehold_testkit::environment::SeededEntropy;

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
        let key = Key::random(&SeededEntropy::new(1));
        home.write_key(workspace, &key).unwrap();
        home.write_key(workspace, &key).unwrap();
        let secret = key.reveal();
        assert_eq!(home.read_key(workspace).unwrap().reveal(), secret);
        assert!(!format!("{key:?}").contains(&secret[40..]));

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
