//! Scratch space: a private folder that is gone when the drill is over, or is swept away by the next one
//! if the drill was killed.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};

/// How the names of scratch folders begin.
const PREFIX: &str = "statehold-drill-";
/// What is locked in one as long as its drill runs.
const LOCK: &str = "lock";
/// Another drill may take a folder that has no lock yet for a dead one's, so another is made.
const ATTEMPTS: u32 = 10;

/// A folder of a drill's own.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: TempDir,
    /// Held until the folder is gone.
    _lock: File,
}

impl Scratch {
    /// Makes a folder in another one, which exists, and removes there what killed drills of this user
    /// have left.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        let failed = |error| unusable(parent, error);
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
            let folder = folder.map_err(failed)?;
            if let Some(lock) = lock_new(folder.path()).map_err(failed)? {
                sweep(parent, folder.path()).map_err(failed)?;
                let _lock = lock;
                return Ok(Self { folder, _lock });
            }
        }
        Err(failed(io::ErrorKind::ResourceBusy.into()))
    }

    /// Where a file goes that has this number.
    pub(super) fn file(&self, number: u64) -> PathBuf {
        self.folder.path().join(number.to_string())
    }
}

/// What to say of a folder that can't be used.
pub(super) fn unusable(path: &Path, error: io::Error) -> Error {
    Error::Unavailable {
        what: format!("the scratch space {}", path.display()),
        source: error.into(),
    }
}

/// Locks a new folder; `None` when it has been taken for a dead drill's meanwhile.
fn lock_new(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(LOCK);
    let lock = match File::create_new(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock?,
    };
    match lock.try_lock() {
        // Whoever sweeps holds it until the folder is gone.
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(path.exists().then_some(lock)),
    }
}

/// Removes folders of this user's drills that nobody holds any more.
fn sweep(parent: &Path, own: &Path) -> io::Result<()> {
    let user = std::fs::symlink_metadata(own)?.uid();
    for item in std::fs::read_dir(parent)? {
        let item = item?;
        let path = item.path();
        let is_drills = item.file_name().to_string_lossy().starts_with(PREFIX);
        let is_dead = || {
            let found = std::fs::symlink_metadata(&path);
            found.is_ok_and(|found| found.is_dir() && found.uid() == user)
        };
        if !is_drills || path == own || !is_dead() {
            continue;
        }
        let removed = match File::open(path.join(LOCK)) {
            Ok(lock) if lock.try_lock().is_ok() => std::fs::remove_dir_all(&path),
            Ok(_) => continue,
            // Killed before it was locked.
            Err(_) => std::fs::remove_dir(&path),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %path.display(), %error, "scratch space was not removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> usize {
        std::fs::read_dir(parent).unwrap().count()
    }

    #[test]
    fn what_killed_drills_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let (dead, unlocked) = (at("statehold-drill-dead"), at("statehold-drill-new"));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(dead.join("1"), "half a file").unwrap();
        std::fs::create_dir(&unlocked).unwrap();
        std::fs::create_dir(at("somebody-elses")).unwrap();
        std::os::unix::fs::symlink(at("somebody-elses"), at("statehold-drill-link")).unwrap();

        let one = Scratch::make(parent.path()).unwrap();
        assert!(!dead.exists() && !unlocked.exists());
        std::fs::write(one.file(1), "in use").unwrap();
        let other = Scratch::make(parent.path()).unwrap();
        assert!(one.file(1).exists(), "one that runs is left alone");
        drop((one, other));
        assert_eq!(
            names(parent.path()),
            2,
            "the other folder and the link stay"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Scratch::make(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
