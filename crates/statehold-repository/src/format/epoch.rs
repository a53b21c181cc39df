//! What a store says of an epoch that began in it: the nonce of the `promote`. One line of JSON, made once
//! and before the record, so that whoever opens the epoch after a run that was killed sends the same record
//! again. A copy of the log does not have it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::id::Nonce;

use crate::error::{Error, Result};

#[derive(Serialize, Deserialize)]
struct Opened {
    nonce: Nonce,
}

/// The stored bytes.
pub fn write(nonce: Nonce) -> Bytes {
    let mut line = serde_json::to_vec(&Opened { nonce }).expect("a nonce has a JSON form");
    line.push(b'\n');
    line.into()
}

/// Reads what stands under a key.
pub fn read(object: &str, bytes: &[u8]) -> Result<Nonce> {
    let opened: Opened =
        serde_json::from_slice(bytes).map_err(|error| Error::damaged(object, error))?;
    Ok(opened.nonce)
}
