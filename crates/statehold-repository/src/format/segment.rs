//! Sixteen aligned records in one object, so that an old range of the log, content included, is one
//! read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::container::{Container, ContainerWriter};
use super::header::ObjectKind;
use super::record::StoredRecord;
use crate::error::{Error, Result};

#[derive(Debug, Serialize, Deserialize)]
struct SegmentLine {
    number: u64,
    offset: u64,
    bytes: u64,
}

/// The segment of these records.
pub fn write(records: &[StoredRecord]) -> Bytes {
    let mut writer = ContainerWriter::new(ObjectKind::Segment);
    let mut table = Vec::new();
    for stored in records {
        let bytes = stored.bytes.len() as u64;
        let number = stored.record.envelope.number;
        table.push(SegmentLine {
            number,
            offset: writer.push(&stored.bytes),
            bytes,
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
    let record = |line: &SegmentLine| {
        StoredRecord::read(line.number, container.frames(line.offset, line.bytes)?)
    };
    container.table.iter().map(record).collect()
}
