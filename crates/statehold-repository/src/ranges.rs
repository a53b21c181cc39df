//! Which stored frames are fetched together: neighbours in one object, gaps included, as long as
//! the gaps don't outweigh what is wanted.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::limits::RANGE_GAP_BYTES_MAX;

use crate::error::Result;
use crate::remote::object_of;

/// Most bytes read for each byte wanted, the first gap apart. Without it a reader could make a
/// gateway fetch gigabytes by asking for single bytes.
const SPAN_FACTOR_MAX: u64 = 4;

/// Frames of one object that one request brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The object.
    pub(crate) object: ContentObject,
    /// The bytes that are read.
    pub(crate) span: Range<u64>,
    /// Bytes in it that were asked for.
    wanted: u64,
    /// Which of the places asked for lie in it.
    members: Vec<usize>,
}

/// Puts the places of these indexes together into as few requests as is sensible.
pub(crate) fn runs(places: &[Location], indexes: impl Iterator<Item = usize>) -> Result<Vec<Run>> {
    let mut by_object: BTreeMap<ContentObject, Vec<usize>> = BTreeMap::new();
    for index in indexes {
        by_object
            .entry(object_of(&places[index])?)
            .or_default()
            .push(index);
    }
    let mut runs = Vec::new();
    for (object, mut indexes) in by_object {
        indexes.sort_by_key(|index| places[*index].offset);
        let first = runs.len();
        for index in indexes {
            let stored = u64::from(places[index].stored);
            let start = places[index].offset;
            let end = start.saturating_add(stored);
            let last = runs.len().checked_sub(1).filter(|last| *last >= first);
            let last: Option<&mut Run> = last.and_then(|last| runs.get_mut(last));
            match last {
                Some(run) if run.may_take(start, end, stored) => {
                    run.span.end = run.span.end.max(end);
                    run.wanted = run.wanted.saturating_add(stored);
                    run.members.push(index);
                }
                _ => {
                    let members = vec![index];
                    runs.push(Run {
                        object,
                        span: start..end,
                        wanted: stored,
                        members,
                    });
                }
            }
        }
    }
    Ok(runs)
}

impl Run {
    fn may_take(&self, start: u64, end: u64, stored: u64) -> bool {
        let near = start <= self.span.end.saturating_add(RANGE_GAP_BYTES_MAX);
        let span = end.max(self.span.end) - self.span.start;
        let wanted = self.wanted.saturating_add(stored);
        near && span
            <= wanted
                .saturating_mul(SPAN_FACTOR_MAX)
                .saturating_add(RANGE_GAP_BYTES_MAX)
    }

    /// The frames asked for, out of the bytes of the span.
    pub(crate) fn split(&self, places: &[Location], bytes: &Bytes) -> Vec<(usize, Bytes)> {
        // A slice keeps all of the bytes in memory; where most are gaps, a copy is cheaper.
        let sparse = self.wanted < (self.span.end - self.span.start) / 2;
        let part = |index: usize| {
            let place = &places[index];
            let from = usize::try_from(place.offset - self.span.start).unwrap_or(usize::MAX);
            let range = from..from.saturating_add(place.stored as usize);
            let part = match sparse {
                true => Bytes::copy_from_slice(&bytes[range]),
                false => bytes.slice(range),
            };
            (index, part)
        };
        self.members.iter().map(|index| part(*index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(record: u64, offset: u64, stored: u32) -> Location {
        Location {
            object: Some(ContentObject::Record(record)),
            offset,
            stored,
        }
    }

    fn spans(places: &[Location]) -> Vec<Range<u64>> {
        runs(places, 0..places.len())
            .unwrap()
            .into_iter()
            .map(|run| run.span)
            .collect()
    }

    #[test]
    fn neighbours_are_read_together_and_strangers_apart() {
        let near = spans(&[place(1, 100, 50), place(1, 0, 100), place(1, 1_000, 10)]);
        assert_eq!((near.len(), near.first()), (1, Some(&(0..1_010))));
        assert_eq!(spans(&[place(1, 0, 10), place(2, 10, 10)]), [0..10, 10..20]);
        assert_eq!(spans(&[place(1, 0, 10), place(1, 10_000_000, 10)]).len(), 2);
    }

    #[test]
    fn single_bytes_far_apart_do_not_bring_all_between_them() {
        let places: Vec<_> = (0..1_000)
            .map(|i| place(1, i * RANGE_GAP_BYTES_MAX, 1))
            .collect();
        let read: u64 = spans(&places)
            .iter()
            .map(|span| span.end - span.start)
            .sum();
        assert!(read <= 1_000 * RANGE_GAP_BYTES_MAX / 2 + 10_000, "{read}");
        let runs = runs(&places, 0..places.len()).unwrap();
        let bytes = Bytes::from(vec![7; usize::try_from(RANGE_GAP_BYTES_MAX).unwrap() + 1]);
        let parts = runs[0].split(&places, &bytes);
        assert!(parts.iter().all(|(_, part)| part.as_ref() == [7]));
    }
}
