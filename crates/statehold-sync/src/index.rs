//! What a workspace remembers between runs: the stat cache, and what both sides last agreed on.
//!
//! All of it can be lost: without a cache every file is read again, and without a base both sides
//! are united. So a damaged file is an error value, and whoever gets it goes on with
//! [`Index::default`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, Signature};
use statehold_core::path::RepoPath;
use statehold_core::state::State;

use crate::atomic::{Readers, replace_file};
use crate::stat_cache::StatCache;

/// What the file begins with.
const MAGIC: [u8; 8] = *b"SHINDEX\n";
/// Raised by every change of the file's content, since an old index is cheap to do without.
const VERSION: u32 = 1;
/// Magic, version, digest of the rest.
const HEADER_BYTES: usize = 8 + 4 + 32;

/// An index that cannot be used. Going on without one is safe.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It can't be read.
    #[error("could not read the index {}", path.display())]
    Read {
        /// Where it lies.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It can't be written.
    #[error("could not write the index {}", path.display())]
    Write {
        /// Where it lies.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is no index.
    #[error("the index is no index")]
    Foreign,
    /// Another version of the program wrote it.
    #[error("the index has version {found}, this program understands {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Its content is not what was written.
    #[error("the index is damaged")]
    Damaged,
    /// It cannot be put into bytes.
    #[error("could not encode the index: {message}")]
    Encode {
        /// Why.
        message: String,
    },
}

/// The content of `.statehold/index`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// What the last scan found out.
    pub cache: StatCache,
    /// Where the workspace stands; `None` before the first push or pull.
    pub checkout: Option<Checkout>,
}

/// Where a workspace stands towards its repository.
///
/// The base is what both sides last agreed on, path by path. It equals the tree of `state` but for
/// the paths in `pending`, so that an ordinary index holds one tree and not two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// The repository at the last record seen.
    pub state: Arc<State>,
    /// The base where it differs from the state's tree; `None` where it has nothing.
    pub pending: BTreeMap<RepoPath, Option<Signature>>,
}

impl Checkout {
    /// A workspace that has taken over nothing of this state yet: its base is empty.
    pub fn joining(state: Arc<State>) -> Self {
        let pending = state
            .tree
            .iter()
            .map(|(path, _)| (path.clone(), None))
            .collect();
        Self { state, pending }
    }

    /// A workspace that agrees with this state on every path.
    pub const fn settled(state: Arc<State>) -> Self {
        Self {
            state,
            pending: BTreeMap::new(),
        }
    }

    /// What both sides last agreed on at a path; `None` if on nothing being there.
    pub fn base_of(&self, path: &RepoPath) -> Option<Signature> {
        match self.pending.get(path) {
            Some(base) => *base,
            None => self.state.tree.get(path.as_str()).map(Entry::signature),
        }
    }

    /// What both sides last agreed on, by path.
    pub fn base(&self) -> BTreeMap<RepoPath, Signature> {
        let settled = self
            .state
            .tree
            .iter()
            .filter(|(path, _)| !self.pending.contains_key(*path))
            .map(|(path, entry)| (path.clone(), entry.signature()));
        let pending = self
            .pending
            .iter()
            .filter_map(|(path, base)| base.map(|base| (path.clone(), base)));
        settled.chain(pending).collect()
    }

    /// Moves on to a later state of the repository without agreeing to any of it: the base of
    /// every path stays what it was.
    pub fn move_to(&mut self, state: Arc<State>) {
        let mut pending = BTreeMap::new();
        for (path, entry) in state.tree.iter() {
            let base = self.base_of(path);
            if base != Some(entry.signature()) {
                pending.insert(path.clone(), base);
            }
        }
        let gone = |path: &RepoPath| state.tree.get(path.as_str()).is_none();
        for (path, entry) in self.state.tree.iter() {
            if gone(path) && !self.pending.contains_key(path) {
                pending.insert(path.clone(), Some(entry.signature()));
            }
        }
        for (path, base) in &self.pending {
            if gone(path) && base.is_some() {
                pending.insert(path.clone(), *base);
            }
        }
        *self = Self { state, pending };
    }

    /// Notes that both sides agree on a path: its base becomes what the state has there.
    pub fn agree(&mut self, path: &RepoPath) {
        self.pending.remove(path);
    }

    /// Notes what both sides agreed on at a path, whatever the state has there now. For a path
    /// that was taken over while the repository moved on.
    pub fn set_base(&mut self, path: &RepoPath, base: Option<Signature>) {
        let entry = self.state.tree.get(path.as_str());
        if entry.map(Entry::signature) == base {
            self.pending.remove(path);
        } else {
            self.pending.insert(path.clone(), base);
        }
    }
}

impl Index {
    /// Reads an index. One that isn't there is an empty one.
    pub fn read(path: &Path) -> Result<Self, IndexError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::decode(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(IndexError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Writes an index, whole or not at all.
    pub fn write(&self, path: &Path, staging: &Path) -> Result<(), IndexError> {
        let bytes = self.encode()?;
        replace_file(path, &bytes, Readers::Owner, staging).map_err(|source| IndexError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// The index as bytes.
    pub fn encode(&self) -> Result<Vec<u8>, IndexError> {
        let encode_error = |error: postcard::Error| IndexError::Encode {
            message: error.to_string(),
        };
        let mut bytes = vec![0; HEADER_BYTES];
        bytes = postcard::to_extend(self, bytes).map_err(encode_error)?;
        let digest = Digest::of(&bytes[HEADER_BYTES..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..HEADER_BYTES].copy_from_slice(digest.as_bytes());
        Ok(bytes)
    }

    /// The index that these bytes hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(IndexError::Foreign)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(IndexError::Damaged)?;
        let found = u32::from_le_bytes(*version);
        if found != VERSION {
            return Err(IndexError::Version { found });
        }
        let (digest, content) = rest.split_first_chunk::<32>().ok_or(IndexError::Damaged)?;
        if Digest::of(content) != Digest::from_bytes(*digest) {
            return Err(IndexError::Damaged);
        }
        let (index, left) =
            postcard::take_from_bytes::<Self>(content).map_err(|_| IndexError::Damaged)?;
        if !left.is_empty() || !index.cache.is_in_order() {
            return Err(IndexError::Damaged);
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests;
