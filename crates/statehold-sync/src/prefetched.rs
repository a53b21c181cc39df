//! Content that came along with records, until somebody reads it.

use std::collections::BTreeMap;

use bytes::Bytes;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::limits::LOG_BATCH_BYTES;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::wire::PULL_CONTENT_BYTES_MAX;

/// Most bytes that are kept: the content of one answer, and records that carry their own.
pub(crate) const PREFETCHED_BYTES_MAX: u64 = LOG_BATCH_BYTES as u64 + PULL_CONTENT_BYTES_MAX;

/// Parts of objects, by where they begin. What doesn't fit is left out: it can be read again.
#[derive(Debug, Default)]
pub(crate) struct Prefetched {
    parts: BTreeMap<(ContentObject, u64), Bytes>,
    bytes: u64,
}

impl Prefetched {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            parts: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Takes in a stored frame of content.
    pub(crate) fn insert(&mut self, object: ContentObject, offset: u64, bytes: Bytes) {
        let len = bytes.len() as u64;
        if self.bytes + len <= PREFETCHED_BYTES_MAX
            && self.parts.insert((object, offset), bytes).is_none()
        {
            self.bytes += len;
        }
    }

    /// Takes in what a record carries itself.
    pub(crate) fn insert_record(&mut self, stored: &StoredRecord) {
        let envelope = &stored.record.envelope;
        if stored.has_content() && envelope.draft.content_bytes > 0 {
            self.insert(
                ContentObject::Record(envelope.number),
                0,
                stored.bytes.clone(),
            );
        }
    }

    /// The stored frame at a place, if it is here.
    pub(crate) fn get(&self, place: &Location) -> Option<Bytes> {
        let object = place.object?;
        let ((found, start), part) = self.parts.range(..=(object, place.offset)).next_back()?;
        if *found != object {
            return None;
        }
        let from = usize::try_from(place.offset - start).ok()?;
        let to = from.checked_add(place.stored as usize)?;
        (to <= part.len()).then(|| part.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64, offset: u64, stored: u32) -> Location {
        Location {
            object: Some(ContentObject::Record(number)),
            offset,
            stored,
        }
    }

    #[test]
    fn what_lies_within_a_part_is_found_and_nothing_else() {
        let mut found = Prefetched::new();
        found.insert(
            ContentObject::Record(1),
            10,
            Bytes::from_static(b"0123456789"),
        );
        found.insert(ContentObject::Record(1), 30, Bytes::from_static(b"abc"));
        let get = |place| found.get(&place);
        assert_eq!(get(place(1, 10, 10)).unwrap(), "0123456789");
        assert_eq!(get(place(1, 13, 2)).unwrap(), "34");
        assert_eq!(get(place(1, 30, 3)).unwrap(), "abc");
        for (number, offset, stored) in [
            (1, 9, 1),
            (1, 10, 11),
            (1, 20, 1),
            (1, 30, 4),
            (1, 33, 1),
            (2, 10, 1),
            (0, 10, 1),
        ] {
            assert_eq!(get(place(number, offset, stored)), None);
        }
        let nowhere = Location {
            object: None,
            ..place(1, 10, 1)
        };
        assert_eq!(found.get(&nowhere), None);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut found = Prefetched::new();
        let large = Bytes::from(vec![0; 1 << 20]);
        for number in 0..100 {
            found.insert(ContentObject::Record(number), 0, large.clone());
            // Again is no more.
            found.insert(ContentObject::Record(number), 0, large.clone());
        }
        assert_eq!(found.bytes, PREFETCHED_BYTES_MAX);
        assert!(found.get(&place(0, 0, 1)).is_some());
        assert!(found.get(&place(99, 0, 1)).is_none());
    }
}
