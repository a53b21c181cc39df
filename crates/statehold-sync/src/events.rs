//! The event log: one line per call, whatever the call came to, and a bounded number of bytes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use statehold_core::event::Event;
use statehold_core::limits::{EVENT_LOG_BYTES_MAX, EVENT_LOGS_KEPT};

/// A row that wasn't written.
#[derive(Debug, thiserror::Error)]
#[error("could not write to the event log {}", path.display())]
pub struct EventLogError {
    /// The log.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

/// `sync-events.ndjson` and its predecessors, `.1` being the latest of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    path: PathBuf,
    bytes_max: u64,
}

impl EventLog {
    /// The log at this path. Its folder has to exist.
    pub const fn at(path: PathBuf) -> Self {
        Self {
            path,
            bytes_max: EVENT_LOG_BYTES_MAX,
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a row in one write, so that rows of several processes don't mix. A log that the row
    /// would make too long is put aside first.
    pub fn append(&self, event: &Event) -> Result<(), EventLogError> {
        self.try_append(event).map_err(|source| EventLogError {
            path: self.path.clone(),
            source,
        })
    }

    /// The newest row that is wanted, from the log and those put aside. Lines that are no rows are
    /// passed over.
    pub fn newest(&self, wanted: impl Fn(&Event) -> bool) -> Result<Option<Event>, EventLogError> {
        let older = (1..=EVENT_LOGS_KEPT).map(|number| self.rotated(number));
        for path in std::iter::once(self.path.clone()).chain(older) {
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(EventLogError { path, source }),
            };
            let lines = text.rsplit(|byte| *byte == b'\n');
            let mut rows = lines.filter_map(|line| serde_json::from_slice(line).ok());
            if let Some(found) = rows.find(&wanted) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn try_append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = self.open_locked()?;
        // Whoever waits for the new log may find it full again.
        loop {
            let length = file.metadata()?.len();
            if length == 0 || length + line.len() as u64 <= self.bytes_max {
                break;
            }
            self.rotate()?;
            file = self.open_locked()?;
        }
        file.write_all(&line)
    }

    /// Opens and locks the file that is the log at that moment. The lock makes a rotation wait for
    /// rows that are being written, and two rotations for each other.
    fn open_locked(&self) -> io::Result<File> {
        loop {
            let flags = OFlags::WRONLY
                | OFlags::APPEND
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let file = rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o644))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            let locked = rustix::fs::fstat(&file)?;
            match rustix::fs::lstat(&self.path) {
                Ok(there) if (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino) => {
                    return Ok(file.into());
                }
                // Put aside between opening and locking.
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..EVENT_LOGS_KEPT).rev() {
            match fs::rename(self.rotated(number), self.rotated(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.rotated(1))
    }

    fn rotated(&self, number: usize) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use statehold_core::event::Outcome;
    use statehold_core::time::Timestamp;

    use super::*;

    fn event(files: u64) -> Event {
        Event {
            ts: Timestamp::from_millis(0),
            op: "push".into(),
            repo: "memory".into(),
            scope: "state".into(),
            files,
            bytes: 0,
            dur_ms: 1,
            manifest_before: None,
            manifest_after: None,
            trigger: "manual".into(),
            machine: "laptop\nname".into(),
            outcome: Outcome::Done,
            error: None,
            paths: None,
        }
    }

    fn rows(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let row = |line| serde_json::from_str::<Event>(line).unwrap().files;
        text.lines().map(row).collect()
    }

    #[test]
    fn rows_are_lines_and_old_logs_are_kept_up_to_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::at(folder.path().join("sync-events.ndjson"));
        log.append(&event(10)).unwrap();
        let length = fs::metadata(log.path()).unwrap().len();
        // Room for two rows a log.
        log.bytes_max = length * 2;
        for number in 11..30 {
            log.append(&event(number)).unwrap();
        }
        assert_eq!(rows(log.path()), [28, 29]);
        assert_eq!(rows(&log.rotated(1)), [26, 27]);
        assert_eq!(rows(&log.rotated(5)), [18, 19]);
        assert!(!log.rotated(6).exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }

    #[test]
    fn rows_of_several_writers_neither_mix_nor_get_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::at(folder.path().join("sync-events.ndjson"));
        log.append(&event(1000)).unwrap();
        log.bytes_max = fs::metadata(log.path()).unwrap().len() * 50;
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for row in 0..25 {
                        log.append(&event(1001 + writer * 25 + row)).unwrap();
                    }
                });
            }
        });
        let files = [log.rotated(2), log.rotated(1), log.path().to_owned()];
        let mut all: Vec<u64> = files.iter().flat_map(|file| rows(file)).collect();
        all.sort_unstable();
        assert_eq!(all, (1000..1101).collect::<Vec<_>>());
    }
}
