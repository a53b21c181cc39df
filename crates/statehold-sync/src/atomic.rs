//! Replacing one of Statehold's own files whole or not at all, through a crash.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::path::Path;

/// Who may read a replaced file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner.
    Owner,
    /// Everybody who reaches it.
    Everybody,
}

/// Writes a file beside (in `staging`, on the same file system), flushes it, and moves it into
/// place; afterwards the path holds the old content or the new. Missing folders are not made.
pub fn replace_file(
    path: &Path,
    content: &[u8],
    readers: Readers,
    staging: &Path,
) -> io::Result<()> {
    let mut staged = tempfile::Builder::new()
        .prefix("replace-")
        .tempfile_in(staging)?;
    staged.write_all(content)?;
    if readers == Readers::Everybody {
        allow_everybody(staged.as_file())?;
    }
    staged.as_file().sync_all()?;
    staged.persist(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

#[cfg(unix)]
fn allow_everybody(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn allow_everybody(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Without this, a crash may bring the old name back.
#[cfg(unix)]
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder_of(_path: &Path) -> io::Result<()> {
    Ok(())
}
