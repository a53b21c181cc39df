//! Who may work at the same time, and how often.
//!
//! All locks are `flock`s on files that stay: the kernel lets go of them when their holder dies,
//! however it dies, so none is ever stale. What the files hold is for messages and for times.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::id::WorkspaceId;
use statehold_core::time::Timestamp;

use crate::home::Home;
use crate::workspace::Workspace;

/// Most of what is read from a lock's file, in bytes.
const NOTE_BYTES_MAX: u64 = 4_096;

/// A lock that wasn't taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Someone else has it. Try later, or wait for it.
    #[error("{} is held by {}", path.display(), describe(holder.as_ref()))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who says to have it.
        holder: Option<Holder>,
    },
    /// The operating system refused.
    #[error("could not lock {}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Who holds a lock, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// What it is doing.
    pub purpose: String,
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, purpose }) => format!("{purpose} (process {pid})"),
        None => "another process".into(),
    }
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Give up at once.
    No,
    /// As long as it takes.
    Yes,
}

impl Lock {
    /// Takes the lock of this file, and notes in it who has it.
    pub fn take(path: &Path, purpose: &str, wait: Wait) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut lock = Self {
            file: open(path).map_err(io)?,
        };
        if !lock.flock(wait).map_err(io)? {
            let holder = lock.note().ok();
            return Err(LockError::Held {
                path: path.to_owned(),
                holder: holder.and_then(|text| serde_json::from_str(&text).ok()),
            });
        }
        let holder = Holder {
            pid: std::process::id(),
            purpose: purpose.to_owned(),
        };
        let text = serde_json::to_string(&holder).map_err(|error| io(error.into()))?;
        lock.set_note(&text).map_err(io)?;
        Ok(lock)
    }

    /// Says whether the lock is had now.
    fn flock(&self, wait: Wait) -> io::Result<bool> {
        let operation = match wait {
            Wait::No => FlockOperation::NonBlockingLockExclusive,
            Wait::Yes => FlockOperation::LockExclusive,
        };
        loop {
            match rustix::fs::flock(&self.file, operation) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn note(&mut self) -> io::Result<String> {
        self.file.rewind()?;
        let mut text = String::new();
        (&self.file)
            .take(NOTE_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn set_note(&mut self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    Ok(file.into())
}

/// Takes the lock that a command holds while it works on a workspace's folder.
pub fn lock_workspace(workspace: &Workspace, purpose: &str, wait: Wait) -> Result<Lock, LockError> {
    Lock::take(&workspace.lock_path(), purpose, wait)
}

/// Takes the lock that whoever watches a workspace holds for as long as it does.
pub fn lock_watch(workspace: &Workspace) -> Result<Lock, LockError> {
    Lock::take(&workspace.watch_lock_path(), "a watch", Wait::No)
}

/// Takes the lock that is held while a workspace is uploaded.
pub fn lock_upload(home: &Home, workspace: WorkspaceId, wait: Wait) -> Result<Lock, LockError> {
    let path = runtime_file(home, &format!("upload-{workspace}.lock"))?;
    Lock::take(&path, "an upload", wait)
}

fn runtime_file(home: &Home, name: &str) -> Result<PathBuf, LockError> {
    match home.make_runtime_folder() {
        Ok(folder) => Ok(folder.join(name)),
        Err(source) => Err(LockError::Io {
            path: home.runtime.clone(),
            source,
        }),
    }
}

/// The file that stands for a workspace and an agent runtime, whose name may be anything.
fn paired_file(
    home: &Home,
    kind: &str,
    workspace: WorkspaceId,
    runtime: &str,
) -> Result<PathBuf, LockError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = if !runtime.is_empty() && runtime.len() <= 64 && runtime.bytes().all(is_plain) {
        runtime.to_owned()
    } else {
        // No plain name has a full stop in it.
        format!("{}.digest", Digest::of(runtime.as_bytes()))
    };
    runtime_file(home, &format!("{kind}-{workspace}-{name}"))
}

/// Whether a call that an agent's hook makes again and again should do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debounce {
    /// Yes. The window begins anew.
    Go,
    /// No: end silently.
    TooSoon {
        /// When the last call went through.
        seconds_ago: u64,
        /// How long the window still lasts.
        remaining: Duration,
    },
}

/// Decides whether a call goes through: one in a window ([`DEBOUNCE_SECONDS`] unless somebody says
/// otherwise) per workspace and runtime does. Of several at the same moment, one does.
///
/// A last call in the future comes from a clock that was set back: within two windows it counts as
/// just now, beyond that as long ago.
///
/// [`DEBOUNCE_SECONDS`]: statehold_core::limits::DEBOUNCE_SECONDS
pub fn debounce(
    home: &Home,
    workspace: WorkspaceId,
    runtime: &str,
    now: Timestamp,
    window: Duration,
) -> Result<Debounce, LockError> {
    let path = paired_file(home, "debounce", workspace, runtime)?;
    let decide = || -> io::Result<Debounce> {
        let mut lock = Lock { file: open(&path)? };
        // Held for as long as it takes to read and write a number.
        lock.flock(Wait::Yes)?;
        // A damaged note is no reason to leave edits unsent.
        let last = lock.note().ok().and_then(|text| text.parse::<i64>().ok());
        if let Some(last) = last {
            let since = now.as_millis().saturating_sub(last);
            let distance = Duration::from_millis(since.unsigned_abs());
            let (bound, elapsed) = if since < 0 {
                (window * 2, Duration::ZERO)
            } else {
                (window, distance)
            };
            if distance < bound {
                return Ok(Debounce::TooSoon {
                    seconds_ago: elapsed.as_secs(),
                    remaining: window.saturating_sub(elapsed),
                });
            }
        }
        lock.set_note(&now.as_millis().to_string())?;
        Ok(Debounce::Go)
    };
    decide().map_err(|source| LockError::Io {
        path: path.clone(),
        source,
    })
}

/// The one push that may wait for the end of a debounce window, so that the last edits before it
/// are sent. Held by the process that waits.
#[derive(Debug)]
pub struct DeferredPush {
    /// Held for as long as this lives.
    _lock: Lock,
    path: PathBuf,
    left_over: bool,
}

impl DeferredPush {
    /// Makes the calling process the one that waits; `None` if another one waits already.
    pub fn claim(
        home: &Home,
        workspace: WorkspaceId,
        runtime: &str,
    ) -> Result<Option<Self>, LockError> {
        let path = paired_file(home, "deferred", workspace, runtime)?;
        let claim = || -> io::Result<Option<Self>> {
            let mut lock = Lock { file: open(&path)? };
            if !lock.flock(Wait::No)? {
                return Ok(None);
            }
            let left_over = !lock.note().is_ok_and(|text| text.is_empty());
            lock.set_note(&std::process::id().to_string())?;
            Ok(Some(Self {
                _lock: lock,
                path: path.clone(),
                left_over,
            }))
        };
        claim().map_err(|source| LockError::Io {
            path: path.clone(),
            source,
        })
    }

    /// Whether an earlier process waited and died before it pushed, so that this one owes its push
    /// too.
    pub const fn is_left_over(&self) -> bool {
        self.left_over
    }

    /// Whether a push is owed that nobody is waiting to make.
    pub fn is_owed(home: &Home, workspace: WorkspaceId, runtime: &str) -> Result<bool, LockError> {
        let path = paired_file(home, "deferred", workspace, runtime)?;
        let look = || -> io::Result<bool> {
            let mut lock = Lock { file: open(&path)? };
            Ok(lock.flock(Wait::No)? && !lock.note()?.is_empty())
        };
        look().map_err(|source| LockError::Io {
            path: path.clone(),
            source,
        })
    }

    /// Ends the waiting and begins the push. From here on another process may wait for the next
    /// one: what is edited while this one reads the folder is that one's.
    pub fn begin(self) -> OwedPush {
        OwedPush { path: self.path }
    }
}

/// A push that is owed and under way. Dropped without being finished, it stays owed, and the next
/// call makes it.
#[derive(Debug)]
pub struct OwedPush {
    path: PathBuf,
}

impl OwedPush {
    /// Notes that the push is done, unless another process has come to owe one meanwhile.
    pub fn finish(self) -> Result<(), LockError> {
        let finish = || -> io::Result<()> {
            // Without the lock: holding it, even briefly, would turn away a process that comes to
            // wait, and with it the edits it was started for.
            let mut lock = Lock {
                file: open(&self.path)?,
            };
            if lock.note()? == std::process::id().to_string() {
                lock.set_note("")?;
            }
            Ok(())
        };
        finish().map_err(|source| LockError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([7; 16]);

    fn home(folder: &tempfile::TempDir) -> Home {
        Home {
            config: folder.path().join("config"),
            runtime: folder.path().join("run/user"),
        }
    }

    #[test]
    fn a_held_lock_says_who_has_it_and_is_free_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::take(&path, "a pull", Wait::No).unwrap();
        let error = Lock::take(&path, "a push", Wait::No).unwrap_err();
        let expected = format!("is held by a pull (process {})", std::process::id());
        assert!(error.to_string().ends_with(&expected), "{error}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&path, "a push", Wait::Yes));
            drop(lock);
            waiting.join().unwrap().unwrap();
        });

        let home = home(&folder);
        let _upload = lock_upload(&home, WORKSPACE, Wait::No).unwrap();
        let second = lock_upload(&home, WORKSPACE, Wait::No);
        assert!(matches!(second, Err(LockError::Held { .. })));
        let mode = std::os::unix::fs::MetadataExt::mode(&home.runtime.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn one_call_a_window_goes_through() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(&folder);
        let at = |runtime: &str, seconds: i64| {
            let now = Timestamp::from_millis(seconds * 1000);
            debounce(&home, WORKSPACE, runtime, now, Duration::from_secs(60)).unwrap()
        };
        let too_soon = |seconds_ago| Debounce::TooSoon {
            seconds_ago,
            remaining: Duration::from_secs(60 - seconds_ago),
        };
        assert_eq!(at("claude-code", 1000), Debounce::Go);
        assert_eq!(at("claude-code", 1000), too_soon(0));
        assert_eq!(at("claude-code", 1059), too_soon(59));
        // Another runtime has a window of its own, whatever its name.
        assert_eq!(at("../odd name", 1001), Debounce::Go);
        assert_eq!(at("../odd name", 1002), too_soon(1));
        assert_eq!(at("claude-code", 1060), Debounce::Go);
        // The clock is set back, a little and a lot.
        assert_eq!(at("claude-code", 1000), too_soon(0));
        assert_eq!(at("claude-code", 900), Debounce::Go);
        assert_eq!(at("claude-code", 901), too_soon(1));

        let path = paired_file(&home, "debounce", WORKSPACE, "claude-code").unwrap();
        std::fs::write(path, "damaged").unwrap();
        assert_eq!(at("claude-code", 902), Debounce::Go);
    }

    #[test]
    fn one_push_is_deferred_and_taken_over_from_the_dead() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(&folder);
        let claim = || DeferredPush::claim(&home, WORKSPACE, "codex").unwrap();
        let first = claim().unwrap();
        assert!(!first.is_left_over());
        assert!(claim().is_none());
        // Dropped without being finished, as by a process that died.
        drop(first);
        let second = claim().unwrap();
        assert!(second.is_left_over());
        second.begin().finish().unwrap();
        assert!(!claim().unwrap().is_left_over());
    }

    #[test]
    fn while_a_push_is_made_another_one_may_wait() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(&folder);
        let claim = || DeferredPush::claim(&home, WORKSPACE, "codex").unwrap();
        let owed = || DeferredPush::is_owed(&home, WORKSPACE, "codex").unwrap();
        assert!(!owed());
        let waiting = claim().unwrap();
        assert!(!owed(), "somebody is waiting");
        let under_way = waiting.begin();
        assert!(owed(), "if its process dies now, the push is not made");
        let next = claim().unwrap();
        under_way.finish().unwrap();
        next.begin().finish().unwrap();
        assert!(!owed());
        // A push that fails stays owed.
        drop(claim().unwrap().begin());
        assert!(owed());
    }
}
