//! The stat cache: digests of files by their stamps, so that unchanged files are not read again.

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

/// What is known about files, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatCache {
    /// In order of paths, each once. A plain list, since a scan goes through it from end to end.
    files: Vec<(RepoPath, CachedFile)>,
}

impl StatCache {
    /// Number of files.
    pub const fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it knows nothing.
    pub const fn is_empty(&self) -> bool {
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
        self.files.extend(newer);
        // The sort keeps the order of equal paths, so of two the newer one stands last; reversed
        // around `dedup`, which keeps the first.
        self.files.sort_by(|(left, _), (right, _)| left.cmp(right));
        self.files.reverse();
        self.files.dedup_by(|later, kept| later.0 == kept.0);
        self.files.reverse();
    }

    /// Whether the order is as it must be; for what comes from a file.
    pub(crate) fn is_in_order(&self) -> bool {
        self.files
            .is_sorted_by(|(left, _), (right, _)| left < right)
    }

    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { rest: &self.files }
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
    rest: &'a [(RepoPath, CachedFile)],
}

impl<'a> Cursor<'a> {
    pub(crate) fn seek(&mut self, path: &str) -> Option<&'a CachedFile> {
        while let Some(((known, file), rest)) = self.rest.split_first() {
            match known.as_str().cmp(path) {
                std::cmp::Ordering::Less => self.rest = rest,
                std::cmp::Ordering::Equal => {
                    self.rest = rest;
                    return Some(file);
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        None
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
        assert_eq!(cursor.seek("a"), None);
        assert_eq!(cursor.seek("a/b"), Some(&file(4)));
        assert_eq!(cursor.seek("b"), Some(&file(3)));
        assert_eq!(cursor.seek("c"), None);
    }
}
