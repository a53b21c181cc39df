//! How far a document has come, for asking what came since.

use loro::VersionVector;

use crate::error::{Error, Result};

/// How many edits of each writer a document holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Version(pub(crate) VersionVector);

impl Version {
    /// As bytes that any other program can hand to [`from_bytes`](Self::from_bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// A version that somebody sent.
    ///
    /// # Errors
    /// The bytes are no version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let decoded = VersionVector::decode(bytes);
        decoded.map(Self).map_err(|error| Error::Refused {
            why: error.to_string(),
        })
    }
}
