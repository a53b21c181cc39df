//! Reading the files whose content a scan doesn't know, side by side where that pays.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use statehold_core::digest::FileHasher;
use statehold_core::path::RepoPath;

use crate::folder::{Folder, FolderError, Found, stamp_clock_ns};
use crate::stat_cache::CachedFile;

/// How much of a file is read at once, in bytes.
pub(super) const READ_BYTES: usize = 1024 * 1024;
/// How often a file that changes while it is read is read before it is left for the next time.
const READ_ATTEMPTS_MAX: usize = 3;
/// Below this many bytes to hash, other threads cost more than they bring.
const PARALLEL_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Past this many files to hash, other threads pay however small the files are.
pub(super) const PARALLEL_FILES_MIN: usize = 512;
/// The largest file that is kept, in bytes: for small ones opening costs more than reading.
const KEPT_FILE_BYTES_MAX: usize = 64 * 1024;

/// A file whose content is not known.
pub(super) struct Unknown {
    pub(super) path: RepoPath,
    pub(super) size: u64,
}

/// What reading a file came to.
pub(super) enum Reading {
    Done(Read),
    /// It didn't hold still, or is no file any more.
    Busy,
    Failed(io::Error),
}

/// A file that was read from beginning to end while it held still.
pub(super) struct Read {
    pub(super) found: Found,
    pub(super) cached: CachedFile,
    /// All of it, if it was small and there was room.
    pub(super) kept: Option<Box<[u8]>>,
}

/// Reads files, computes their digests, and keeps what they hold as far as there is room for it, in
/// bytes.
pub(super) fn read_all(
    folder: &Folder,
    unknown: Vec<Unknown>,
    room: usize,
) -> Vec<(RepoPath, Reading)> {
    let bytes: u64 = unknown.iter().map(|file| file.size).sum();
    let worth_it = bytes >= PARALLEL_BYTES_MIN || unknown.len() >= PARALLEL_FILES_MIN;
    let threads = if worth_it {
        std::thread::available_parallelism().map_or(1, |count| count.get().min(unknown.len()))
    } else {
        1
    };
    let reader = || Reader {
        folder,
        buffer: Vec::new(),
        room: room / threads.max(1),
    };
    if threads <= 1 {
        let mut reader = reader();
        let read = |file: Unknown| {
            let reading = reader.read(&file.path);
            (file.path, reading)
        };
        return unknown.into_iter().map(read).collect();
    }
    let next = AtomicUsize::new(0);
    let readings = Mutex::new(Vec::with_capacity(unknown.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut reader = reader();
                let mut own = Vec::new();
                while let Some(file) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
                    own.push((file.path.clone(), reader.read(&file.path)));
                }
                let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
                readings.append(&mut own);
            });
        }
    });
    let mut readings = readings
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    readings.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    readings
}

/// One of those that read side by side.
struct Reader<'a> {
    folder: &'a Folder,
    buffer: Vec<u8>,
    /// What it may still keep, in bytes.
    room: usize,
}

impl Reader<'_> {
    /// Reads a file until it holds still from beginning to end.
    fn read(&mut self, path: &RepoPath) -> Reading {
        for _ in 0..READ_ATTEMPTS_MAX {
            match self.try_read(path) {
                Ok(Some(read)) => return Reading::Done(read),
                Ok(None) => {}
                Err(FolderError::Io { source, .. }) => return Reading::Failed(source),
                // Replaced by something else since it was listed.
                Err(_) => return Reading::Busy,
            }
        }
        Reading::Busy
    }

    fn try_read(&mut self, path: &RepoPath) -> Result<Option<Read>, FolderError> {
        let io = |source| FolderError::Io {
            action: "read",
            path: self.folder.path().join(path.as_str()),
            source,
        };
        let mut file = self.folder.open_file(path)?;
        let read_at_ns = stamp_clock_ns();
        let before = Found::of_open(&file).map_err(io)?;
        let buffer = &mut self.buffer;
        buffer.resize(READ_BYTES, 0);
        let mut hasher = FileHasher::default();
        let (mut length, mut reads) = (0_u64, 0);
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    length += count as u64;
                    reads += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
            // Grows as fast as it is read: no use in following it to its end.
            if length > before.stamp.size {
                return Ok(None);
            }
        }
        let after = Found::of_open(&file).map_err(io)?;
        if after.stamp != before.stamp || length != after.stamp.size {
            return Ok(None);
        }
        let (digest, sha256) = hasher.finish();
        let cached = CachedFile::new(after.stamp, digest, sha256, read_at_ns);
        // Read in one piece, so the buffer still holds all of it.
        let whole = usize::try_from(length)
            .ok()
            .filter(|length| reads == 1 && *length <= KEPT_FILE_BYTES_MAX.min(self.room));
        let kept = whole.and_then(|length| self.buffer.get(..length));
        let kept = kept.map(Box::<[u8]>::from);
        self.room -= kept.as_ref().map_or(0, |kept| kept.len());
        Ok(Some(Read {
            found: after,
            cached,
            kept,
        }))
    }
}
