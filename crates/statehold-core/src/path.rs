//! Paths inside a workspace: platform-neutral, and safe to join to a folder.
//!
//! Every path from outside (a remote tree, a request, a file name on disk) becomes a
//! [`RepoPath`] first, and parsing is where hostile ones are turned away.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX, PATH_NAME_BYTES_MAX};

/// The folder in which a workspace keeps its own files. No path may lead into it.
pub const RESERVED_NAME: &str = ".statehold";

/// Why a text is not a path that a repository can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// There is nothing in it.
    #[error("the path is empty")]
    Empty,
    /// It begins with a slash.
    #[error("the path {path:?} is absolute")]
    Absolute {
        /// The path, cut to 200 characters.
        path: String,
    },
    /// One of its names is empty, `.` or `..`.
    #[error("the path {path:?} has a name that is empty, \".\" or \"..\"")]
    Relative {
        /// The path, cut to 200 characters.
        path: String,
    },
    /// It holds a NUL character.
    #[error("the path {path:?} holds a NUL character")]
    Nul {
        /// The path, cut to 200 characters.
        path: String,
    },
    /// It is longer than a repository can hold.
    #[error("the path {path:?}… has {bytes} bytes, {PATH_BYTES_MAX} is the limit")]
    TooLong {
        /// The path, cut to 200 characters.
        path: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// One of its names is longer than file systems hold.
    #[error("the path {path:?} has a name of {bytes} bytes, {PATH_NAME_BYTES_MAX} is the limit")]
    NameTooLong {
        /// The path, cut to 200 characters.
        path: String,
        /// Length of the name in bytes.
        bytes: usize,
    },
    /// It is nested too deeply.
    #[error("the path {path:?}… is nested {depth} deep, {PATH_DEPTH_MAX} is the limit")]
    TooDeep {
        /// The path, cut to 200 characters.
        path: String,
        /// Number of names in it.
        depth: usize,
    },
    /// It leads into the folder that belongs to Statehold itself.
    #[error("the path {path:?} leads into {RESERVED_NAME}, which belongs to statehold")]
    Reserved {
        /// The path, cut to 200 characters.
        path: String,
    },
}

/// A relative path of one or more names joined by `/`, in UTF-8.
///
/// It has no empty, `.` or `..` names, does not lead into `.statehold`, and is bounded in length
/// and depth, so it stays inside any folder it is joined to (as long as no symbolic link is
/// followed on the way). Order is by bytes, which is the order of listings. Copies share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RepoPath(Arc<str>);

impl RepoPath {
    /// Checks a text and makes it a path.
    ///
    /// ```
    /// use statehold_core::path::RepoPath;
    /// assert!(RepoPath::parse("skills/review/SKILL.md").is_ok());
    /// assert!(RepoPath::parse("../outside").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let path = || text.chars().take(200).collect::<String>();
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong {
                path: path(),
                bytes: text.len(),
            });
        }
        if text.starts_with('/') {
            return Err(InvalidPath::Absolute { path: path() });
        }
        if text.contains('\0') {
            return Err(InvalidPath::Nul { path: path() });
        }
        let mut depth = 0;
        for name in text.split('/') {
            depth += 1;
            if matches!(name, "" | "." | "..") {
                return Err(InvalidPath::Relative { path: path() });
            }
            if name.len() > PATH_NAME_BYTES_MAX {
                return Err(InvalidPath::NameTooLong {
                    path: path(),
                    bytes: name.len(),
                });
            }
            // Case folding, since `.STATEHOLD` is the same folder on Windows and macOS.
            if depth == 1 && is_reserved(name) {
                return Err(InvalidPath::Reserved { path: path() });
            }
        }
        if depth > PATH_DEPTH_MAX {
            return Err(InvalidPath::TooDeep {
                path: path(),
                depth,
            });
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names in it, outermost first.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The folders it lies in, outermost first, without itself.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }

    /// Whether this path lies inside `folder`.
    pub fn is_inside(&self, folder: &str) -> bool {
        self.0
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// The form in which two paths that some file system takes for one are equal: NFC, then full
    /// case folding, then NFC again.
    pub fn folded(&self) -> Cow<'_, str> {
        fold(&self.0)
    }
}

fn is_reserved(name: &str) -> bool {
    if name.is_ascii() {
        name.eq_ignore_ascii_case(RESERVED_NAME)
    } else {
        fold(name) == RESERVED_NAME
    }
}

fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text);
    }
    let nfc = ComposingNormalizerBorrowed::new_nfc();
    let composed = nfc.normalize(text);
    let folded = CaseMapper::new().fold_string(&composed).into_owned();
    Cow::Owned(nfc.normalize(&folded).into_owned())
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Borrow<str> for RepoPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RepoPath {
    type Err = InvalidPath;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for RepoPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Takes the text as it lies in the input, since an index has a path for every file.
        struct Text;

        impl Visitor<'_> for Text {
            type Value = RepoPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RepoPath, E> {
                RepoPath::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_paths_are_refused_and_odd_ones_taken() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
            ".statehold",
            ".statehold/config.json",
            ".StateHold/x",
        ] {
            assert!(RepoPath::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert!(RepoPath::parse(&"a/".repeat(2_500)).is_err());
        assert!(RepoPath::parse(&"é".repeat(128)).is_err());
        assert!(RepoPath::parse(&vec!["a"; 129].join("/")).is_err());
        for good in [
            "a",
            "a b/c'd\"e",
            "new\nline",
            "…",
            "a/.statehold/b",
            "..a",
            "C:x",
            "😀/e\u{301}",
        ] {
            assert_eq!(
                RepoPath::parse(good).map(|path| path.to_string()),
                Ok(good.to_string())
            );
        }
    }

    #[test]
    fn case_and_unicode_twins_fold_to_one() {
        let folded = |text| RepoPath::parse(text).unwrap().folded().into_owned();
        assert_eq!(folded("Straße/CAFE\u{301}"), folded("STRASSE/café"));
        assert_ne!(folded("a"), folded("b"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_safe_path_or_an_error(text in ".{0,40}|(\\.{0,3}/?){0,6}") {
            if let Ok(path) = RepoPath::parse(&text) {
                let joined = std::path::Path::new("root").join(path.as_str());
                let normal = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(joined.components().all(normal));
                prop_assert_eq!(path.as_str(), text);
            }
        }
    }
}
