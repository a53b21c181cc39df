//! What can go wrong, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::arrival::Refused;
use crate::canonical::InvalidValue;
use crate::codec::Malformed;
use crate::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, COLLECTION_BYTES_MAX, ID_BYTES_MAX};
use crate::node::{Key, NodeId};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("{} is in use by another process; end it, or share its manager", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file holds what nobody wrote.
    #[error("{} is damaged at byte {offset}: {why}; move the file away, open again, and what is missing comes back from the other nodes", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// An earlier write failed, so what is on disk is not known any more.
    #[error("an earlier write to {} failed; open the folder again", path.display())]
    Broken {
        /// The folder.
        path: PathBuf,
    },
    /// A value cannot be kept, or not be read as asked.
    #[error("the value of {key} cannot be kept, or not be read as asked")]
    Value {
        /// Whose value.
        key: Key,
        /// Why.
        source: InvalidValue,
    },
    /// No state can be called that.
    #[error(
        "{name:?} is no name: ids have 1 to {ID_BYTES_MAX} bytes, collections 1 to {COLLECTION_BYTES_MAX}"
    )]
    InvalidName {
        /// What was asked for, cut to 80 characters.
        name: String,
    },
    /// There is a state of this id already.
    #[error("{key} exists already; update it, or choose another id")]
    Exists {
        /// The state.
        key: Key,
    },
    /// There is no state of this id.
    #[error("there is no {key}")]
    Absent {
        /// The state.
        key: Key,
    },
    /// The state has no conflict to resolve, or not the side that was chosen.
    #[error("{key} has no conflict, or no such side to choose; list its conflict and choose again")]
    NoSuchSide {
        /// The state.
        key: Key,
    },
    /// More at once than one batch holds.
    #[error(
        "one batch holds {BATCH_EVENTS_MAX} events and {BATCH_BYTES_MAX} bytes at most; make several"
    )]
    BatchTooLarge,
    /// A collection is in use with other rules.
    #[error(
        "collection {collection:?} is open with other rules: {open} and not {asked}; use the same everywhere"
    )]
    OtherRules {
        /// The collection.
        collection: String,
        /// Its rules.
        open: String,
        /// Those asked for.
        asked: String,
    },
    /// What came from outside is not what it should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What came from outside does not fit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A node cannot retire itself.
    #[error("a node cannot retire itself; whoever stays retires those that leave")]
    OwnNode,
    /// A node knows of events that have not come here.
    #[error(
        "node {node} knows of events that have not come here; bring them here before it is retired"
    )]
    Ahead {
        /// Which node.
        node: NodeId,
    },
    /// Two copies of a machine wrote as one node, and it is not known any more where they parted.
    #[error(
        "where the two logs of node {node} parted is not kept any more; write again what only this machine has"
    )]
    PartedTooLongAgo {
        /// Whose logs.
        node: NodeId,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    NoRandomness(String),
    /// The manager was closed or reset.
    #[error("this manager was closed; open the folder again")]
    Closed,
    /// What the caller's own code returned.
    #[error("{0}")]
    Caller(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub(crate) fn value(key: &Key, source: InvalidValue) -> Self {
        Self::Value {
            key: key.clone(),
            source,
        }
    }

    pub(crate) fn invalid_name(name: &str) -> Self {
        Self::InvalidName {
            name: name.chars().take(80).collect(),
        }
    }
}

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says on what an operation failed.
pub(crate) trait IoContext<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}
