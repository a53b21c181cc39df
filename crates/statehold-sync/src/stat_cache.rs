//! The stat cache: digests of files by their stamps, so that unchanged files are not read again.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use statehold_core::digest::{Digest, Sha256};
use statehold_core::path::RepoPath;

use crate::folder::Stamp;

/// What was found out about a file when it was last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedFile {
    /// Its stamp at that time.
    pub stamp: Stamp,
    /// Digest of its content.
    pub digest: Digest,
    /// SHA-256 of its content.
    pub sha256: Sha256,
    /// Whether any change since is sure to show in the stamp. A file that was written in the same
    /// step of the clock in which it was read may have been written again within it.
    pub settled: bool,
}

impl CachedFile {
    /// Notes what a file holds. `read_at_ns` is the moment just before its content was read, or
    /// at which its stamp was seen to be the one it got when it was written by this program.
    pub const fn new(stamp: Stamp, digest: Digest, sha256: Sha256, read_at_ns: i64) -> Self {
        Self {
            stamp,
            digest,
            sha256,
            settled: stamp.is_settled(read_at_ns),
        }
    }
}

/// What is known about files, by path. Copies share the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatCache {
    /// In order of paths, each once. A plain list, since a scan goes through it from end to end.
    files: Arc<Vec<(RepoPath, CachedFile)>>,
    /// Under which rules all of these files may travel.
    rules: Option<Digest>,
}

impl StatCache {
    /// The cache after a scan that went by the rules of this digest.
    pub(crate) fn under(mut self, rules: Digest) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Whether every file in it may travel under the rules of this digest. A file is in it because
    /// it may.
    pub(crate) fn is_under(&self, rules: Digest) -> bool {
        self.rules == Some(rules)
    }

    /// Whether it is known, without a look at each file, to be equal to another.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let both_empty = self.is_empty() && other.is_empty();
        self.rules == other.rules && (both_empty || Arc::ptr_eq(&self.files, &other.files))
    }

    /// The files at these places, which are in order.
    pub(crate) fn at<'a>(
        &'a self,
        places: &'a [usize],
    ) -> impl Iterator<Item = (RepoPath, CachedFile)> + 'a {
        places
            .iter()
            .filter_map(|place| self.files.get(*place).cloned())
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What is known about a file.
    pub fn get(&self, path: &str) -> Option<&CachedFile> {
        let found = self
            .files
            .binary_search_by(|(known, _)| known.as_str().cmp(path));
        found.ok().map(|index| &self.files[index].1)
    }

    /// All files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&RepoPath, &CachedFile)> {
        self.files.iter().map(|(path, file)| (path, file))
    }

    /// Takes over newer knowledge, file by file.
    pub fn merge(&mut self, newer: impl IntoIterator<Item = (RepoPath, CachedFile)>) {
        let files = Arc::make_mut(&mut self.files);
        files.extend(newer);
        if files.is_sorted_by(|(left, _), (right, _)| left < right) {
            return;
        }
        // The sort keeps the order of equal paths, so of two the newer one stands last; reversed
        // around `dedup`, which keeps the first.
        files.sort_by(|(left, _), (right, _)| left.cmp(right));
        files.reverse();
        files.dedup_by(|later, kept| later.0 == kept.0);
        files.reverse();
    }

    /// Whether the order is as it must be; for what comes from a file.
    pub(crate) fn is_in_order(&self) -> bool {
        self.files
            .is_sorted_by(|(left, _), (right, _)| left < right)
    }

    pub(crate) fn cursor(&self) -> Cursor<'_> {
        let (files, next) = (&self.files[..], 0);
        Cursor { files, next }
    }
}

impl FromIterator<(RepoPath, CachedFile)> for StatCache {
    fn from_iter<T: IntoIterator<Item = (RepoPath, CachedFile)>>(files: T) -> Self {
        let mut cache = Self::default();
        cache.merge(files);
        cache
    }
}

/// Answers for paths that are asked in order, in constant time each.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    files: &'a [(RepoPath, CachedFile)],
    next: usize,
}

/// A file that a cursor came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known<'a> {
    /// Its place in the list.
    pub(crate) place: usize,
    pub(crate) path: &'a RepoPath,
    pub(crate) file: &'a CachedFile,
}

impl<'a> Cursor<'a> {
    /// What is known about a file, which comes after all that were asked about before.
    pub(crate) fn seek(&mut self, path: &str) -> Option<Known<'a>> {
        while let Some((known, file)) = self.files.get(self.next) {
            match known.as_str().cmp(path) {
                Ordering::Less => self.next += 1,
                Ordering::Equal => {
                    let place = self.next;
                    self.next += 1;
                    return Some(Known {
                        place,
                        path: known,
                        file,
                    });
                }
                Ordering::Greater => break,
            }
        }
        None
    }

    /// Whether a file beneath this directory is known; all that were asked about come before it.
    pub(crate) fn knows_beneath(&mut self, directory: &str) -> bool {
        let order = |path: &str| match path.strip_prefix(directory) {
            Some(rest) => rest
                .as_bytes()
                .first()
                .map_or(Ordering::Less, |next| next.cmp(&b'/')),
            None => path.cmp(directory),
        };
        while let Some((known, _)) = self.files.get(self.next) {
            match order(known.as_str()) {
                Ordering::Less => self.next += 1,
                Ordering::Equal => return true,
                Ordering::Greater => break,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> CachedFile {
        let stamp = Stamp {
            size,
            mtime_ns: 1,
            ctime_ns: 1,
            inode: 1,
        };
        CachedFile::new(stamp, Digest::of(b""), Sha256::of(b""), i64::MAX)
    }

    #[test]
    fn a_cursor_knows_whether_there_is_anything_beneath_a_directory() {
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let names = ["a", "b-c/x", "b/x", "b0"];
        let cache: StatCache = names
            .map(|name| (path(name), file(1)))
            .into_iter()
            .collect();
        let mut cursor = cache.cursor();
        assert!(!cursor.knows_beneath("a"));
        assert!(cursor.knows_beneath("b-c"));
        assert!(cursor.seek("b-c/x").is_some());
        assert!(cursor.knows_beneath("b"));
        assert!(cursor.seek("b/x").is_some());
        assert!(cursor.seek("b0").is_some());
        assert!(!cursor.knows_beneath("c"));
    }

    #[test]
    fn merging_keeps_order_and_the_newer_of_two() {
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let mut cache: StatCache = [(path("b"), file(1)), (path("a.b"), file(2))]
            .into_iter()
            .collect();
        cache.merge([(path("b"), file(3)), (path("a/b"), file(4))]);
        assert!(cache.is_in_order());
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.get("b"), Some(&file(3)));
        let mut cursor = cache.cursor();
        let mut seek = |path: &str| cursor.seek(path).map(|known| (known.place, *known.file));
        assert_eq!(seek("a"), None);
        assert_eq!(seek("a/b"), Some((1, file(4))));
        assert_eq!(seek("b"), Some((2, file(3))));
        assert_eq!(seek("c"), None);
    }
}
