//! What can go wrong between a caller and a repository, and what the caller does about it.

use statehold_core::digest::Digest;
use statehold_core::limits::CLOCK_AHEAD_MS_MAX;
use statehold_core::rebase::Overlap;

/// The result of a repository operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Each variant says whether trying again is safe and useful.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object isn't there. Trying again is safe and rarely useful.
    #[error("{object} is not in the store")]
    NotFound {
        /// Its key.
        object: String,
    },
    /// The object is there and isn't what it should be. Trying again is useless; the object can be
    /// brought back from a replica or from a workspace that still holds the content.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else changed the same paths first. Pull, then push again.
    #[error("record {number} changed the same paths first")]
    Conflict {
        /// The record that came first.
        number: u64,
        /// Where the two overlap.
        overlap: Overlap,
    },
    /// The request breaks a rule. Trying again is useless.
    #[error("refused: {reason}")]
    Refused {
        /// Which rule.
        reason: String,
    },
    /// The credentials are missing, wrong, expired or don't reach this far.
    #[error("access denied: {reason}")]
    Denied {
        /// What is missing.
        reason: String,
    },
    /// The store or the gateway can't be reached or doesn't answer. Trying again later is safe.
    #[error("{what} is not available")]
    Unavailable {
        /// What was asked.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store stopped answering in the middle of an append: the record may or may not have
    /// landed. Handing in the same draft again settles it.
    #[error("no answer whether record {number} landed; the same draft handed in again settles it")]
    Unknown {
        /// The number it would have.
        number: u64,
    },
    /// Whoever appends has a clock that is too far ahead of the store's, so nothing was sent. Trying
    /// again is safe, and of use once that clock is right.
    #[error(
        "the clock of whoever writes to the store is {seconds} s ahead of the store's, and {limit} s \
         is the limit",
        limit = CLOCK_AHEAD_MS_MAX / 1_000
    )]
    ClockAhead {
        /// How far, in seconds.
        seconds: u64,
    },
    /// The record is retired: its envelope alone is left, and a checkpoint stands in for what it said.
    /// Loading the newest state goes on from there.
    #[error("record {number} is retired; load the newest state to go on from a checkpoint")]
    Retired {
        /// Its number.
        number: u64,
    },
    /// The state at a record is kept no longer. Another record has to be asked for.
    #[error(
        "the state at record {number} is kept no longer; the nearest that are: {}{after}",
        before.map(|before| format!("{before} and ")).unwrap_or_default()
    )]
    Expired {
        /// The record.
        number: u64,
        /// The nearest one before it whose state is kept.
        before: Option<u64>,
        /// The nearest one after it.
        after: u64,
    },
    /// The two sides don't share a history.
    #[error("record {number} is {found} here and {expected} there: the histories differ")]
    Diverged {
        /// Where they differ.
        number: u64,
        /// The id that the caller knows.
        expected: Digest,
        /// The id in this log.
        found: Digest,
    },
    /// A newer program wrote it.
    #[error("{what} needs a newer version of statehold")]
    TooNew {
        /// What was met.
        what: String,
    },
}

impl Error {
    /// A damaged object.
    pub fn damaged(object: impl ToString, reason: impl ToString) -> Self {
        Self::Damaged {
            object: object.to_string(),
            reason: reason.to_string(),
        }
    }

    /// A request that breaks a rule.
    pub fn refused(reason: impl ToString) -> Self {
        Self::Refused {
            reason: reason.to_string(),
        }
    }
}
