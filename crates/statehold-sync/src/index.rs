//! What a workspace remembers between runs: the stat cache, and what both sides last agreed on.
//!
//! They lie in two files, since they change at different times: an edit moves the one, a push or a
//! pull moves both, and a run in which nothing happened writes neither.
//!
//! All of it can be lost: without a cache every file is read again, and without a base both sides
//! are united. So a damaged file is an error value, and whoever gets it goes on with
//! [`Index::default`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, Signature};
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_core::state::State;

use crate::atomic::{Readers, replace_file};
use crate::stat_cache::StatCache;

/// What the file begins with.
const CHECKOUT_MAGIC: [u8; 8] = *b"SHINDEX\n";
const CACHE_MAGIC: [u8; 8] = *b"SHCACHE\n";
/// Raised by every change of the files' content, since an old index is cheap to do without.
const VERSION: u32 = 5;
/// Enough of a file to read the records it stands at.
const HEAD_BYTES: u64 = HEADER_BYTES as u64 + 128;
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

/// Where an index lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFiles {
    /// What both sides last agreed on.
    pub checkout: PathBuf,
    /// The stat cache, which is right whatever the workspace is linked with.
    pub cache: PathBuf,
}

/// What a workspace remembers.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// What the last scan found out.
    pub cache: StatCache,
    /// Where the workspace stands; `None` before the first push or pull.
    pub checkout: Option<Checkout>,
    /// What the files hold, so that what hasn't changed is not written again.
    stored: Stored,
}

/// All of a checkout that can change by itself: a state is told by its head.
type StoredCheckout = (RecordRef, Option<RecordRef>, BTreeMap<RepoPath, Lag>);

#[derive(Debug, Clone, Default)]
struct Stored {
    cache: StatCache,
    checkout: Option<StoredCheckout>,
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.cache == other.cache && self.checkout == other.checkout
    }
}

/// Where a workspace stands towards its repository.
///
/// The base is what both sides last agreed on, path by path. It equals the tree of `state` but for
/// the paths in `pending`, so that an ordinary index holds one tree and not two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// The repository at the last record seen.
    pub state: Arc<State>,
    /// The base where it differs from the state's tree.
    pub pending: BTreeMap<RepoPath, Lag>,
    /// The record that was the newest when the folder last changed by a pull or was pushed; `None`
    /// before. Who only looks moves the state and not this.
    pub landed: Option<RecordRef>,
}

/// A base that the repository has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// What both sides agreed on; `None` if on nothing being there.
    pub base: Option<Signature>,
    /// A record at which the repository had it, so that it is known which side of a fork it is on.
    pub at: u64,
}

/// The records that a workspace stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The newest that it has seen.
    pub seen: RecordRef,
    /// [`Checkout::landed`].
    pub landed: Option<RecordRef>,
}

impl Checkout {
    /// A workspace that has taken over nothing of this state yet: its base is empty.
    pub fn joining(state: Arc<State>) -> Self {
        let pending = state
            .tree
            .iter()
            .map(|(path, _)| (path.clone(), Lag { base: None, at: 0 }))
            .collect();
        Self {
            state,
            pending,
            landed: None,
        }
    }

    /// A workspace that agrees with this state on every path.
    pub fn settled(state: Arc<State>) -> Self {
        Self {
            landed: Some(state.head),
            state,
            pending: BTreeMap::new(),
        }
    }

    /// What both sides last agreed on at a path; `None` if on nothing being there.
    pub fn base_of(&self, path: &RepoPath) -> Option<Signature> {
        match self.pending.get(path) {
            Some(lag) => lag.base,
            None => self.state.tree.get(path.as_str()).map(Entry::signature),
        }
    }

    /// What both sides last agreed on, in order of paths.
    pub fn base(&self) -> impl Iterator<Item = (&RepoPath, Signature)> {
        let mut pending = self.pending.iter().peekable();
        let mut settled = self.state.tree.iter().peekable();
        let both = std::iter::from_fn(move || {
            let order = match (pending.peek(), settled.peek()) {
                (None, None) => return None,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some((pending, _)), Some((settled, _))) => pending.cmp(settled),
            };
            if order == Ordering::Greater {
                let (path, entry) = settled.next()?;
                return Some((path, Some(entry.signature())));
            }
            if order == Ordering::Equal {
                settled.next();
            }
            pending.next().map(|(path, lag)| (path, lag.base))
        });
        both.filter_map(|(path, base)| Some((path, base?)))
    }

    /// Moves on to a later state of the repository without agreeing to any of it: the base of
    /// every path stays what it was.
    pub fn move_to(&mut self, state: Arc<State>) {
        let at = self.state.head.number;
        let lag = |path: &RepoPath| match self.pending.get(path) {
            Some(lag) => *lag,
            None => Lag {
                base: self.base_of(path),
                at,
            },
        };
        let mut pending = BTreeMap::new();
        for (path, entry) in state.tree.iter() {
            let lag = lag(path);
            if lag.base != Some(entry.signature()) {
                pending.insert(path.clone(), lag);
            }
        }
        let known = self.state.tree.iter().map(|(path, _)| path);
        for path in known.chain(self.pending.keys()) {
            let lag = lag(path);
            if lag.base.is_some() && state.tree.get(path.as_str()).is_none() {
                pending.insert(path.clone(), lag);
            }
        }
        self.state = state;
        self.pending = pending;
    }

    /// Moves on to a state of a later epoch, whose log parted from the one known here before its newest
    /// record. What was agreed on since is not in that log, so what both sides last agreed on is what stood
    /// where they parted: what the folder has beyond that counts as its own change, and is pushed again.
    pub fn part(&mut self, fork: Arc<State>, state: Arc<State>) {
        let head = fork.head;
        self.pending.retain(|_, lag| lag.at <= head.number);
        self.landed = self.landed.map(|landed| {
            if landed.number > head.number {
                head
            } else {
                landed
            }
        });
        self.state = fork;
        self.move_to(state);
    }

    /// Notes that something was received or sent, up to the state at hand.
    pub fn land(&mut self) {
        self.landed = Some(self.state.head);
    }

    /// Notes that both sides agree on a path: its base becomes what the state has there.
    pub fn agree(&mut self, path: &RepoPath) {
        self.pending.remove(path);
    }

    /// Notes what both sides agreed on at a path with a record, whatever the state has there now. For a path
    /// that was taken over while the repository moved on.
    pub fn set_base(&mut self, path: &RepoPath, base: Option<Signature>, at: u64) {
        let entry = self.state.tree.get(path.as_str());
        if entry.map(Entry::signature) == base {
            self.pending.remove(path);
        } else {
            self.pending.insert(path.clone(), Lag { base, at });
        }
    }
}

impl Index {
    /// Reads an index. A file that isn't there or can't be used counts as empty, after a word to
    /// `complain`.
    pub fn read(files: &IndexFiles, complain: impl Fn(IndexError)) -> Self {
        let cache = read_file::<StatCache>(&files.cache, CACHE_MAGIC);
        let cache = match cache.map(Option::unwrap_or_default) {
            Ok(cache) if !cache.is_in_order() => Err(IndexError::Damaged),
            cache => cache,
        };
        let checkout = read_file::<CheckoutFile>(&files.checkout, CHECKOUT_MAGIC);
        let cache = cache.unwrap_or_else(|error| {
            complain(error);
            StatCache::default()
        });
        let checkout = checkout.unwrap_or_else(|error| {
            complain(error);
            None
        });
        let mut index = Self {
            cache,
            checkout: checkout.and_then(|file| file.checkout),
            stored: Stored::default(),
        };
        index.stored = index.as_stored();
        index
    }

    /// The records that the workspace stood at when its index was written, without reading the
    /// rest.
    pub fn read_heads(files: &IndexFiles) -> Option<Heads> {
        let mut bytes = Vec::new();
        let file = File::open(&files.checkout).ok()?;
        file.take(HEAD_BYTES).read_to_end(&mut bytes).ok()?;
        let (_, content) = open(&bytes, CHECKOUT_MAGIC).ok()?;
        let (heads, _) =
            postcard::take_from_bytes::<Option<(RecordRef, Option<RecordRef>)>>(content).ok()?;
        heads.map(|(seen, landed)| Heads { seen, landed })
    }

    /// Writes what has changed since it was read or written, each file whole or not at all.
    pub fn write(&mut self, files: &IndexFiles, staging: &Path) -> Result<(), IndexError> {
        let now = self.as_stored();
        let store = |path: &Path, bytes: &[u8]| {
            replace_file(path, bytes, Readers::Owner, staging).map_err(|source| IndexError::Write {
                path: path.to_owned(),
                source,
            })
        };
        if now.checkout != self.stored.checkout {
            let checkout = self.checkout.as_ref();
            let heads = checkout.map(|checkout| (checkout.state.head, checkout.landed));
            store(
                &files.checkout,
                &encode(CHECKOUT_MAGIC, &(heads, &self.checkout))?,
            )?;
        }
        if !now.cache.is_same(&self.stored.cache) {
            store(&files.cache, &encode(CACHE_MAGIC, &self.cache)?)?;
        }
        self.stored = now;
        Ok(())
    }

    fn as_stored(&self) -> Stored {
        let checkout = self.checkout.as_ref();
        Stored {
            cache: self.cache.clone(),
            checkout: checkout.map(|checkout| {
                let pending = checkout.pending.clone();
                (checkout.state.head, checkout.landed, pending)
            }),
        }
    }
}

/// The content of the checkout's file. What it stands at comes first.
#[derive(Deserialize)]
struct CheckoutFile {
    #[serde(rename = "heads")]
    _heads: Option<(RecordRef, Option<RecordRef>)>,
    checkout: Option<Checkout>,
}

fn read_file<T: DeserializeOwned>(path: &Path, magic: [u8; 8]) -> Result<Option<T>, IndexError> {
    match std::fs::read(path) {
        Ok(bytes) => decode(magic, &bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IndexError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// What a file of such content holds.
pub(crate) fn encode(magic: [u8; 8], content: &impl Serialize) -> Result<Vec<u8>, IndexError> {
    let encode_error = |error: postcard::Error| IndexError::Encode {
        message: error.to_string(),
    };
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(content, bytes).map_err(encode_error)?;
    let digest = Digest::of(&bytes[HEADER_BYTES..]);
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..HEADER_BYTES].copy_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// Takes off what a file begins with: the digest of its content, and the content.
fn open(bytes: &[u8], magic: [u8; 8]) -> Result<(Digest, &[u8]), IndexError> {
    let rest = bytes.strip_prefix(&magic).ok_or(IndexError::Foreign)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(IndexError::Damaged)?;
    let found = u32::from_le_bytes(*version);
    if found != VERSION {
        return Err(IndexError::Version { found });
    }
    let (digest, content) = rest.split_first_chunk::<32>().ok_or(IndexError::Damaged)?;
    Ok((Digest::from_bytes(*digest), content))
}

/// The content of such a file.
pub(crate) fn decode<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Result<T, IndexError> {
    let (digest, content) = open(bytes, magic)?;
    if Digest::of(content) != digest {
        return Err(IndexError::Damaged);
    }
    let (value, left) = postcard::take_from_bytes(content).map_err(|_| IndexError::Damaged)?;
    if left.is_empty() {
        Ok(value)
    } else {
        Err(IndexError::Damaged)
    }
}

#[cfg(test)]
mod tests;
