//! Sixteen aligned records in one object, so that an old range of the log, content included, is one
//! read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;

use super::container::{Container, ContainerWriter};
use super::header::{HEADER_BYTES, ObjectKind};
use super::record::{StoredRecord, stored_length};
use crate::error::{Error, Result};

#[derive(Debug, Serialize, Deserialize)]
struct SegmentLine {
    number: u64,
    offset: u64,
    bytes: u64,
    /// First half of the BLAKE3 digest of the object: nothing else vouches for its content frames
    /// until they are expanded.
    check: String,
}

fn check_of(object: &[u8]) -> String {
    let mut check = Digest::of(object).to_string();
    check.truncate(32);
    check
}

/// The segment of these records.
pub fn write(records: &[StoredRecord]) -> Bytes {
    let mut writer = ContainerWriter::new(ObjectKind::Segment);
    let mut table = Vec::new();
    for stored in records {
        let bytes = stored.bytes.len() as u64;
        let number = stored.record.envelope.number;
        let check = check_of(&stored.bytes);
        table.push(SegmentLine {
            number,
            offset: writer.push(&stored.bytes),
            bytes,
            check,
        });
    }
    writer.finish(table)
}

/// Reads a segment that must hold the records `from..=to`.
pub fn read(object: &str, bytes: Bytes, from: u64, to: u64) -> Result<Vec<StoredRecord>> {
    let container = Container::<SegmentLine>::read(object, bytes, ObjectKind::Segment)?;
    if !container.table.iter().map(|line| line.number).eq(from..=to) {
        return Err(Error::damaged(
            object,
            format!("it does not hold the records {from} to {to}"),
        ));
    }
    // What is wrong with a copy says nothing about the record itself.
    let record = |line: &SegmentLine| {
        let bytes = container.frames(line.offset, line.bytes)?;
        if check_of(&bytes) != line.check {
            let reason = format!("record {} does not have its checksum", line.number);
            return Err(Error::damaged(object, reason));
        }
        StoredRecord::read(line.number, bytes)
    };
    container.table.iter().map(record).collect()
}

/// The records of a damaged segment that can still be read, wherever the damage is. They are copies:
/// only the chain can tell whether they are the log's.
pub fn salvage(object: &str, bytes: &Bytes, from: u64, to: u64) -> Vec<StoredRecord> {
    match Container::<SegmentLine>::read(object, bytes.clone(), ObjectKind::Segment) {
        Ok(container) => {
            let lines = container.table.iter();
            let records = lines.filter_map(|line| {
                let bytes = container.frames(line.offset, line.bytes).ok()?;
                StoredRecord::read(line.number, bytes).ok()
            });
            records.collect()
        }
        // Without the table, each record says where the next one begins.
        Err(_) => {
            let mut records = Vec::new();
            let mut begin = HEADER_BYTES;
            for number in from..=to {
                let rest = bytes.slice(begin.min(bytes.len())..);
                let Ok(length) = stored_length(number, &rest) else {
                    break;
                };
                let own = rest.slice(..length.min(rest.len()));
                records.extend(StoredRecord::read(number, own));
                begin = begin.saturating_add(length);
            }
            records
        }
    }
}
