//! `repository.json`: what makes a prefix a repository. Written once, as plain JSON.

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::id::RepositoryId;
use statehold_core::limits::{
    CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_WHOLE_FILE_BYTES_MAX,
};
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::layout;

/// The format this program writes and the highest it reads.
pub const FORMAT: u32 = 1;

/// What every reader has to know before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Version of the format.
    pub format: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// How content is named: `blake3`.
    pub ids: String,
    /// How content is encoded: `zstd`.
    pub codec: String,
    /// How objects are encrypted: `none`.
    pub cipher: String,
    /// Where files are cut.
    pub chunking: Chunking,
}

/// Where files are cut, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// Files up to this size are one chunk.
    pub whole: u64,
    /// Smallest chunk of a larger file.
    pub min: u64,
    /// Average chunk.
    pub average: u64,
    /// Largest chunk.
    pub max: u64,
}

impl Description {
    /// The description of a new repository.
    pub fn new(repository: RepositoryId, created: Timestamp) -> Self {
        let chunking = Chunking {
            whole: CHUNK_WHOLE_FILE_BYTES_MAX,
            min: CHUNK_BYTES_MIN as u64,
            average: CHUNK_BYTES_AVERAGE as u64,
            max: CHUNK_BYTES_MAX as u64,
        };
        let [ids, codec, cipher] = ["blake3", "zstd", "none"].map(str::to_owned);
        Self {
            format: FORMAT,
            repository,
            created,
            ids,
            codec,
            cipher,
            chunking,
        }
    }

    /// The stored bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a description has a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Reads stored bytes and computes their digest, which is the parent of the first record.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, Digest)> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |error: serde_json::Error| Error::damaged(layout::REPOSITORY, error);
        let Version { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(Error::TooNew {
                what: format!("a repository of format {format}"),
            });
        }
        if format != FORMAT {
            return Err(Error::damaged(layout::REPOSITORY, "there is no format 0"));
        }
        let description: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        let known = ["blake3", "zstd", "none"];
        if [&description.ids, &description.codec, &description.cipher] != known {
            return Err(Error::TooNew {
                what: "the repository's way of encoding".into(),
            });
        }
        Ok((description, Digest::of(bytes)))
    }
}
