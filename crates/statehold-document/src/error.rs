//! What can go wrong, by what the caller can do about it.

use crate::document::DOCUMENT_BYTES_MAX;
use crate::editor::NAME_BYTES_MAX;

/// Why something was not done. Nothing of it was, then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The states beneath say no.
    #[error(transparent)]
    State(#[from] statehold_state::Error),
    /// Bytes from outside are no edits of this document.
    #[error("these are no updates that the document can take: {why}; export them again")]
    Refused {
        /// What is wrong with them.
        why: String,
    },
    /// Bytes from outside build on edits that are not there.
    #[error(
        "these updates build on earlier ones that are missing; import those first, or a snapshot"
    )]
    Incomplete,
    /// The document would grow beyond its bound.
    #[error(
        "the document would have {bytes} bytes with its history; {DOCUMENT_BYTES_MAX} is the most, go on in another one"
    )]
    TooLarge {
        /// What it would have.
        bytes: usize,
    },
    /// No text, list or map can be called that.
    #[error(
        "{name:?} is no name: they have 1 to {NAME_BYTES_MAX} bytes, no slash and no control characters"
    )]
    InvalidName {
        /// What was asked for, cut to 80 characters.
        name: String,
    },
    /// A place in a text or list that is not there.
    #[error("{name:?} has {len} places, and {at} is beyond them")]
    OutOfBounds {
        /// The text or list.
        name: String,
        /// The place that was asked for.
        at: usize,
        /// How many there are.
        len: usize,
    },
    /// A value that cannot be part of a document.
    #[error("{name:?}: {source}")]
    Value {
        /// The text, list or map.
        name: String,
        /// Why.
        source: statehold_state::InvalidValue,
    },
    /// An edit that the document does not allow.
    #[error("{name:?} cannot be edited so: {why}")]
    Edit {
        /// The text, list or map.
        name: String,
        /// Why.
        why: String,
    },
    /// A later version of this crate wrote the document.
    #[error("document {id:?} has format {format}; a newer version of this program reads it")]
    NewerFormat {
        /// The document.
        id: String,
        /// Its format.
        format: u32,
    },
    /// What the caller's own code returned.
    #[error("{0}")]
    Caller(Box<dyn std::error::Error + Send + Sync>),
}

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
