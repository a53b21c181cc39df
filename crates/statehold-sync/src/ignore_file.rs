//! `.stateholdignore`: what a user leaves out of a workspace, in the syntax of `.gitignore`.

use std::io::Read as _;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use statehold_core::digest::Digest;
use statehold_core::path::RepoPath;

use crate::folder::{Folder, FolderError};

/// Where it lies, in the workspace's root. It travels like any other file.
pub const IGNORE_FILE: &str = ".stateholdignore";

/// Largest ignore file that is read, in bytes.
const IGNORE_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// An ignore file that cannot be used. It is never passed over: that would send what its owner
/// meant to keep.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreFileError {
    /// It can't be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Reading it failed.
    #[error("could not read {IGNORE_FILE}")]
    Read {
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is larger than makes sense.
    #[error("{IGNORE_FILE} has {bytes} bytes, {IGNORE_FILE_BYTES_MAX} is the limit")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// It is not UTF-8.
    #[error("{IGNORE_FILE} is not UTF-8")]
    NotText,
    /// A line is no pattern.
    #[error("line {line} of {IGNORE_FILE} is no pattern: {message}")]
    Pattern {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// Patterns made ready to match paths.
#[derive(Debug, Clone)]
pub struct IgnoreFile {
    patterns: Gitignore,
    text: Digest,
}

impl Default for IgnoreFile {
    fn default() -> Self {
        Self {
            patterns: Gitignore::empty(),
            text: Digest::of(b""),
        }
    }
}

impl IgnoreFile {
    /// Reads the ignore file of a folder; without one, nothing is ignored.
    pub fn read(folder: &Folder) -> Result<Self, IgnoreFileError> {
        let Ok(path) = RepoPath::parse(IGNORE_FILE) else {
            return Ok(Self::default());
        };
        let Some(found) = folder.stat(&path)? else {
            return Ok(Self::default());
        };
        let bytes = found.stamp.size;
        if bytes > IGNORE_FILE_BYTES_MAX {
            return Err(IgnoreFileError::TooLarge { bytes });
        }
        let mut content = Vec::new();
        let file = folder.open_file(&path)?;
        file.take(IGNORE_FILE_BYTES_MAX)
            .read_to_end(&mut content)
            .map_err(|source| IgnoreFileError::Read { source })?;
        let text = String::from_utf8(content).map_err(|_| IgnoreFileError::NotText)?;
        Self::parse(&text)
    }

    /// Reads patterns, one a line.
    pub fn parse(text: &str) -> Result<Self, IgnoreFileError> {
        let mut builder = GitignoreBuilder::new("");
        let invalid = |line: usize, error: ignore::Error| IgnoreFileError::Pattern {
            line,
            message: error.to_string(),
        };
        for (index, line) in text.lines().enumerate() {
            builder
                .add_line(None, line)
                .map_err(|error| invalid(index + 1, error))?;
        }
        let patterns = builder.build().map_err(|error| invalid(1, error))?;
        let text = Digest::of(text.as_bytes());
        Ok(Self { patterns, text })
    }

    /// Digest of the text that the patterns were read from.
    pub(crate) const fn digest(&self) -> Digest {
        self.text
    }

    /// Whether this path, or a folder it lies in, is ignored. For paths that may not be on disk;
    /// a walk, which doesn't enter ignored folders, asks about each path alone.
    pub fn ignores(&self, path: &RepoPath, is_directory: bool) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let ancestor = |text: &str| self.patterns.matched(text, true).is_ignore();
        path.ancestors().any(ancestor) || self.ignores_alone(path, is_directory)
    }

    /// The pattern that keeps this path, or a folder it lies in, out, as it stands in the file.
    pub fn ignoring_line(&self, path: &RepoPath, is_directory: bool) -> Option<String> {
        let ancestors = path.ancestors().map(|folder| (folder, true));
        let mut places = ancestors.chain([(path.as_str(), is_directory)]);
        places.find_map(|(place, is_directory)| {
            let matched = self.patterns.matched(place, is_directory);
            let is_ignore = matched.is_ignore();
            let line = matched.inner().map(|glob| glob.original().to_owned());
            line.filter(|_| is_ignore)
        })
    }

    /// Whether a pattern names this very path.
    pub(crate) fn ignores_alone(&self, path: &RepoPath, is_directory: bool) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let path = Path::new(path.as_str());
        self.patterns.matched(path, is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let ignore = IgnoreFile::parse("# comment\n*.tmp\n!keep.tmp\n/top\ncache/\n").unwrap();
        let ignores = |path: &str| ignore.ignores(&RepoPath::parse(path).unwrap(), false);
        assert!(ignores("a/b.tmp"));
        assert!(!ignores("a/keep.tmp"));
        assert!(ignores("top"));
        assert!(ignores("top/x"));
        assert!(!ignores("a/top"));
        assert!(ignores("a/cache/x/y"));
        assert!(!ignores("a/cache"));
        assert!(ignore.ignores(&RepoPath::parse("a/cache").unwrap(), true));
        let line = |path: &str| ignore.ignoring_line(&RepoPath::parse(path).unwrap(), false);
        assert_eq!(line("a/cache/x/y").as_deref(), Some("cache/"));
        assert_eq!(line("a/b.tmp").as_deref(), Some("*.tmp"));
        assert_eq!(line("a/keep.tmp"), None);
    }

    #[test]
    fn a_line_that_is_no_pattern_is_an_error() {
        let error = IgnoreFile::parse("fine\n{a\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2 "), "{error}");
    }
}
