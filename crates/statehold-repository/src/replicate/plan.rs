//! What a run of a replicator does, decided without any I/O: which records may follow, which packs
//! they bring, which caches may have come since, and whether the run leaves a row.

use std::time::Duration;

use statehold_core::digest::Digest;
use statehold_core::limits::SEGMENT_RECORDS;
use statehold_core::record::{Body, NewPack, Record, RecordRef};
use statehold_core::snapshot::Label;
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};

/// What rows are called unless whoever replicates says otherwise.
pub const DEFAULT_LABEL: &str = "cross-region-backup";
/// A copy is overdue when its newest row is older than this: a week, and a day of grace.
pub const OVERDUE: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// Where nothing has changed since, a row is left again after this long: sooner than a week, so that
/// a weekly run is always seen within seven days, and never with a shorter rhythm than this.
pub const ROW_AGAIN: Duration = Duration::from_secs(6 * 24 * 60 * 60);
/// How many records before a mark its caches may still have been missing, when the log was copied
/// before whoever appended had written them.
pub const CACHES_BACK: u64 = 256;

/// What a run leaves in the source's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What the copy is called.
    pub label: Label,
    /// Where it lies, without credentials.
    pub to: String,
}

/// Refuses a record that does not stand on the newest one that the replica holds.
pub fn check_follows(at: RecordRef, record: &Record) -> Result<()> {
    let envelope = &record.envelope;
    if envelope.number != at.number + 1 {
        let reason = format!("it says that it is record {}", envelope.number);
        return Err(Error::damaged(crate::layout::record(at.number + 1), reason));
    }
    same(at, envelope.parent)
}

/// Refuses a source whose record of this number is another one than the replica's.
pub fn same(at: RecordRef, in_source: Digest) -> Result<()> {
    if at.id == in_source {
        return Ok(());
    }
    Err(Error::Diverged {
        number: at.number,
        expected: in_source,
        found: at.id,
    })
}

/// The packs that have to be there before a record, and what has to be moved for them.
pub fn packs_of(record: &Record) -> (&[NewPack], u64) {
    let packs = &record.envelope.draft.packs;
    (packs, packs.iter().map(|pack| pack.bytes).sum())
}

/// Whether a record says something of its own. A row says that others were copied.
pub const fn is_news(record: &Record) -> bool {
    !matches!(record.body, Body::Backup(_))
}

/// The segments that end after `after` and not after `to`.
pub fn segments(after: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    let (first, last) = (after / SEGMENT_RECORDS, to / SEGMENT_RECORDS);
    (first..last).map(|k| (k * SEGMENT_RECORDS + 1, (k + 1) * SEGMENT_RECORDS))
}

/// Whether caches may have come between two records: they are all due where a segment ends.
pub const fn crosses_segment(before: u64, at: u64) -> bool {
    before / SEGMENT_RECORDS != at / SEGMENT_RECORDS
}

/// What a record, looked at from the newest back, says about the need of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowNeed {
    /// Something was copied that no row speaks of.
    Due,
    /// The row that was left last is good enough.
    NotDue,
    /// This one is another copy's row, which is no news: the record before it tells.
    LookFurther,
}

/// Decides on a row by one record, after everything was copied. Rows are records themselves, so a
/// run that finds nothing but rows leaves none; otherwise two replicators would keep a repository
/// busy for ever in which nothing happens.
pub fn row_need(record: &Record, row: &Row, now: Timestamp) -> RowNeed {
    let Body::Backup(backup) = &record.body else {
        return RowNeed::Due;
    };
    if backup.label != row.label || backup.to != row.to {
        return RowNeed::LookFurther;
    }
    if is_older(record.envelope.time, now, ROW_AGAIN) {
        RowNeed::Due
    } else {
        RowNeed::NotDue
    }
}

/// Whether a moment is longer ago than this.
pub fn is_older(time: Timestamp, now: Timestamp, than: Duration) -> bool {
    let age = now.as_millis().saturating_sub(time.as_millis());
    age > i64::try_from(than.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use statehold_core::id::{MachineId, Nonce};
    use statehold_core::record::{BackupBody, DraftHead, Envelope, Kind, NoteBody};

    use super::*;

    const AT: RecordRef = RecordRef {
        number: 7,
        id: Digest::from_bytes([7; 32]),
    };

    fn record(body: Body, millis: i64) -> Record {
        let envelope = Envelope {
            number: AT.number + 1,
            parent: AT.id,
            time: Timestamp::from_millis(millis),
            draft: DraftHead {
                kind: body.kind().unwrap_or(Kind::Note),
                critical: false,
                machine: MachineId::from_bytes([1; 16]),
                nonce: Nonce::from_bytes([2; 16]),
                body: Digest::of(b""),
                body_bytes: 0,
                content_bytes: 0,
                packs: Vec::new(),
            },
            key: None,
        };
        let id = Digest::of(&envelope.to_line());
        Record {
            envelope,
            id,
            body,
            content_start: 0,
        }
    }

    fn note() -> Body {
        Body::Note(NoteBody {
            base: AT,
            text: "x".into(),
        })
    }

    fn row(label: &str, to: &str) -> Row {
        Row {
            label: label.parse().unwrap(),
            to: to.into(),
        }
    }

    fn left(row: &Row) -> Body {
        Body::Backup(BackupBody {
            base: AT,
            label: row.label.clone(),
            to: row.to.clone(),
            at: AT.number,
            objects: 0,
            bytes: 0,
        })
    }

    #[test]
    fn rows_are_left_for_news_and_once_in_a_while() {
        let (own, other) = (row("copy", "s3://b"), row("copy", "s3://c"));
        let now = Timestamp::from_millis(0);
        let past = |than: Duration| i64::try_from(than.as_millis()).unwrap();
        assert_eq!(row_need(&record(note(), 0), &own, now), RowNeed::Due);
        let need = |body, millis| row_need(&record(body, millis), &own, now);
        assert_eq!(need(left(&own), 0), RowNeed::NotDue);
        assert_eq!(need(left(&own), -past(ROW_AGAIN)), RowNeed::NotDue);
        assert_eq!(need(left(&own), -past(ROW_AGAIN) - 1), RowNeed::Due);
        assert_eq!(need(left(&other), 0), RowNeed::LookFurther);
        assert_eq!(need(left(&row("x", "s3://b")), 0), RowNeed::LookFurther);
        assert!(is_news(&record(note(), 0)) && !is_news(&record(left(&other), 0)));
        assert!(ROW_AGAIN < OVERDUE);
    }

    #[test]
    fn another_parent_is_another_history() {
        let mut next = record(note(), 0);
        check_follows(AT, &next).unwrap();
        next.envelope.parent = Digest::of(b"another");
        let refused = check_follows(AT, &next).unwrap_err();
        assert!(matches!(refused, Error::Diverged { number: 7, .. }));
        next.envelope.number = 10;
        let refused = check_follows(AT, &next).unwrap_err();
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    }

    #[test]
    fn segments_are_those_that_end_in_between() {
        let all = |after, to| segments(after, to).collect::<Vec<_>>();
        assert_eq!(all(0, 15), []);
        assert_eq!(all(0, 16), [(1, 16)]);
        assert_eq!(all(15, 33), [(1, 16), (17, 32)]);
        assert_eq!(all(16, 33), [(17, 32)]);
        assert!(crosses_segment(15, 16) && !crosses_segment(16, 31));
    }
}
