//! Where files are cut, and which tails are merged.
//!
//! Files up to 512 KiB are one chunk. Larger ones are cut by content (FastCDC, the 2020 variant of
//! Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems"), so that an insertion moves few borders. A file that only grew keeps its chunks and
//! gains one; small tails are merged in levels, so that a log appended line by line has few chunks
//! and re-uploads each byte a few times at most.

use std::ops::Range;

use fastcdc::v2020::FastCDC;

use crate::limits::{
    CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_WHOLE_FILE_BYTES_MAX,
};

/// Cuts a file's content; the ranges join to the whole. Empty content has no chunks.
pub fn cut(content: &[u8]) -> Vec<Range<usize>> {
    if content.is_empty() {
        return Vec::new();
    }
    if content.len() as u64 <= CHUNK_WHOLE_FILE_BYTES_MAX {
        return vec![Range {
            start: 0,
            end: content.len(),
        }];
    }
    FastCDC::new(
        content,
        CHUNK_BYTES_MIN,
        CHUNK_BYTES_AVERAGE,
        CHUNK_BYTES_MAX,
    )
    .map(|chunk| chunk.offset..chunk.offset + chunk.length)
    .collect()
}

/// Tails below this many bytes are merged once enough of a size have gathered.
const TAIL_BYTES_BELOW: u64 = CHUNK_WHOLE_FILE_BYTES_MAX;
/// How many tails of one level are merged into one of the next, and how much larger that is.
const TAIL_FANOUT: u64 = 8;
/// Tails up to this many bytes are of the lowest level.
const TAIL_BYTES_MIN: u64 = 4_096;

fn tail_level(bytes: u64) -> u32 {
    (bytes / TAIL_BYTES_MIN)
        .checked_ilog(TAIL_FANOUT)
        .map_or(0, |level| level + 1)
}

/// Says how many of a file's chunks stay when bytes are appended to it; what lies after them is
/// cut anew together with the appended bytes.
///
/// `chunks` are the raw lengths of the present chunks, `appended` is the number of new bytes.
///
/// ```
/// use statehold_core::chunking::chunks_to_keep;
/// // A line at the end of a 5 MB log leaves all of it in place.
/// assert_eq!(chunks_to_keep(&[2_500_000, 2_500_000], 1_000), 2);
/// ```
pub fn chunks_to_keep(chunks: &[u32], appended: u64) -> usize {
    let mut keep = chunks.len();
    let mut tail = appended;
    loop {
        // Tails are in falling order of size, so a run of one level stands at the end.
        let level = tail_level(tail);
        let run = chunks[..keep]
            .iter()
            .rev()
            .take_while(|bytes| {
                u64::from(**bytes) < TAIL_BYTES_BELOW && tail_level(u64::from(**bytes)) <= level
            })
            .count();
        if (run as u64) < TAIL_FANOUT - 1 {
            return keep;
        }
        tail += chunks[keep - run..keep]
            .iter()
            .map(|bytes| u64::from(*bytes))
            .sum::<u64>();
        keep -= run;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cuts_stand_at_the_stated_borders() {
        let content = vec![7; 512 * 1024 + 1];
        assert_eq!(cut(&content[..0]).len(), 0);
        assert_eq!(cut(&content[..1]), [Range { start: 0, end: 1 }]);
        assert_eq!(cut(&content[..512 * 1024]).len(), 1);
        assert!(
            cut(&content)
                .iter()
                .all(|range| range.len() <= CHUNK_BYTES_MAX)
        );
    }

    #[test]
    fn a_log_of_many_small_appends_has_few_chunks_and_little_traffic() {
        let mut chunks: Vec<u32> = vec![];
        let mut uploaded = 0_u64;
        for _ in 0..5_000 {
            let keep = chunks_to_keep(&chunks, 1_000);
            let merged = 1_000 + chunks[keep..].iter().sum::<u32>();
            chunks.truncate(keep);
            chunks.push(merged);
            uploaded += u64::from(merged);
        }
        assert_eq!(chunks.iter().sum::<u32>(), 5_000_000);
        assert!(chunks.len() < 64, "{} chunks", chunks.len());
        assert!(uploaded < 5 * 5_000_000, "{uploaded} bytes uploaded");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn joining_the_cuts_gives_the_content(seed in any::<u64>(), len in 0_usize..6_000_000) {
            let mut state = seed | 1;
            let content: Vec<u8> = (0..len).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[7]
            }).collect();
            let ranges = cut(&content);
            let mut at = 0;
            for range in &ranges {
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty());
                prop_assert!(range.len() <= CHUNK_BYTES_MAX);
                at = range.end;
            }
            prop_assert_eq!(at, len);
        }

        #[test]
        fn keeping_never_asks_for_more_than_there_is(
            chunks in proptest::collection::vec(1_u32..2_000_000, 0..200), appended in 0_u64..1 << 40,
        ) {
            prop_assert!(chunks_to_keep(&chunks, appended) <= chunks.len());
        }
    }
}
