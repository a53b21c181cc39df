//! Marks of a replica: up to this record, everything is here. One line of JSON each, the same for
//! whoever writes it, so that two replicators at once never disagree.

use bytes::Bytes;
use statehold_core::record::RecordRef;

use crate::error::{Error, Result};

/// The stored bytes of the mark at a record.
pub fn write(at: RecordRef) -> Bytes {
    let mut line = serde_json::to_vec(&at).expect("a mark has a JSON form");
    line.push(b'\n');
    line.into()
}

/// Reads the mark that stands under the name of this number.
pub fn read(object: &str, number: u64, bytes: &[u8]) -> Result<RecordRef> {
    let at: RecordRef =
        serde_json::from_slice(bytes).map_err(|error| Error::damaged(object, error))?;
    if at.number != number {
        let found = at.number;
        return Err(Error::damaged(
            object,
            format!("it is the mark at record {found}"),
        ));
    }
    Ok(at)
}
