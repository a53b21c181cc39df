//! Every object key of a repository, relative to its prefix. Keys are made of fixed words, numbers
//! and random ids only, so nothing that a user types reaches the store.

use statehold_core::digest::Digest;
use statehold_core::entry::parse_number;
use statehold_core::id::{PackId, TreeId};
use statehold_core::time::Timestamp;

/// The object that makes a prefix a repository.
pub const REPOSITORY: &str = "repository.json";
/// The folder of records.
pub const LOG: &str = "log";
/// The folder of segments.
pub const SEGMENTS: &str = "segments";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The object that the one writer of a store holds which can't keep two apart.
pub const LEASE: &str = "lease.json";

/// The folder of marks that say how far a replica goes.
pub const COMPLETE: &str = "complete";
/// The folder of what was opened here: one object for each epoch that began in this very store.
pub const EPOCHS: &str = "epochs";
/// The folder of claims of what gateways do on a schedule.
pub const JOBS: &str = "jobs";
/// The folder of receipts of drills.
pub const DRILLS: &str = "drills";
/// The folder of verdicts on the store.
pub const PROBES: &str = "probes";

/// The folder in which repair keeps what it replaced.
pub const DAMAGED: &str = "damaged";

/// Key under which a damaged object is kept aside. `copy` is 0 unless others are there already.
pub fn damaged(key: &str, copy: u32) -> String {
    match copy {
        0 => format!("{DAMAGED}/{key}"),
        copy => format!("{DAMAGED}/{key}-{copy:04}"),
    }
}

/// The id in a pack's key.
pub fn parse_pack(key: &str) -> Option<PackId> {
    key.strip_prefix("packs/")?.parse().ok()
}

/// The id in a tree object's key.
pub fn parse_tree(key: &str) -> Option<TreeId> {
    key.strip_prefix("trees/")?.parse().ok()
}

/// Key of a record.
pub fn record(number: u64) -> String {
    format!("{LOG}/{number:020}")
}

/// The number in a record's key.
pub fn parse_record(key: &str) -> Option<u64> {
    parse_number(key.strip_prefix(LOG)?.strip_prefix('/')?)
}

/// Key of a pack.
pub fn pack(id: PackId) -> String {
    format!("packs/{id}")
}

/// Key of a tree object.
pub fn tree(id: TreeId) -> String {
    format!("trees/{id}")
}

/// Key of the segment that holds records `from..=to`.
pub fn segment(from: u64, to: u64) -> String {
    format!("{SEGMENTS}/{from:020}-{to:020}")
}

/// 10^20 - 1 doesn't fit in 64 bits; this many nines and a complement of digits does the same.
fn complement(number: u64) -> String {
    format!("{number:020}")
        .bytes()
        .map(|digit| char::from(b'0' + (b'9' - digit)))
        .collect()
}

/// Key of the checkpoint at a record. Newer ones sort first. `copy` is 0 unless an earlier object at
/// this number turned out not to match the chain.
pub fn checkpoint(number: u64, copy: u32) -> String {
    match copy {
        0 => format!("{CHECKPOINTS}/{}", complement(number)),
        copy => format!("{CHECKPOINTS}/{}-{copy:04}", complement(number)),
    }
}

/// The number and copy in a checkpoint's key.
pub fn parse_checkpoint(key: &str) -> Option<(u64, u32)> {
    let name = key.strip_prefix(CHECKPOINTS)?.strip_prefix('/')?;
    let (digits, copy) = match name.split_once('-') {
        Some((digits, copy)) => (digits, copy.parse().ok().filter(|copy| *copy > 0)?),
        None => (name, 0),
    };
    Some((from_complement(digits)?, copy))
}

fn from_complement(digits: &str) -> Option<u64> {
    if digits.len() != 20 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: String = digits
        .bytes()
        .map(|digit| char::from(b'0' + (b'9' - digit)))
        .collect();
    number.parse().ok()
}

/// The number in a segment's key that it begins with, and the one that it ends with.
pub fn parse_segment(key: &str) -> Option<(u64, u64)> {
    let (from, to) = key
        .strip_prefix(SEGMENTS)?
        .strip_prefix('/')?
        .split_once('-')?;
    Some((parse_number(from)?, parse_number(to)?))
}

/// Key of the mark that a replica holds everything up to a record. Newer ones sort first, so that the
/// newest is found by one request however many there are.
pub fn complete(number: u64) -> String {
    format!("{COMPLETE}/{}", complement(number))
}

/// The number in the key of such a mark.
pub fn parse_complete(key: &str) -> Option<u64> {
    from_complement(key.strip_prefix(COMPLETE)?.strip_prefix('/')?)
}

/// Key of what says that an epoch was opened in this store, and not copied into it.
pub fn epoch(number: u64) -> String {
    format!("{EPOCHS}/{number:020}")
}

/// The number in such a key.
pub fn parse_epoch(key: &str) -> Option<u64> {
    parse_number(key.strip_prefix(EPOCHS)?.strip_prefix('/')?)
}

/// Key of the claim on one slot of a job: what is done on a schedule, by one gateway of many.
pub fn job(name: &str, slot: u64) -> String {
    format!("{JOBS}/{name}/{slot:020}")
}

/// Key of the receipt of a drill that was begun at a moment. Newer ones sort first.
pub fn drill(at: Timestamp, receipt: Digest) -> String {
    let millis = u64::try_from(at.as_millis()).unwrap_or_default();
    format!("{DRILLS}/{}-{receipt}", complement(millis))
}

/// Whether a key is that of a drill's receipt.
pub fn is_drill(key: &str) -> bool {
    let name = key.strip_prefix(DRILLS).and_then(|it| it.strip_prefix('/'));
    name.and_then(|name| name.split_once('-'))
        .is_some_and(|(time, receipt)| {
            from_complement(time).is_some() && receipt.parse::<Digest>().is_ok()
        })
}

/// Key of the verdict on the store that was found at a moment. Newer ones sort first.
pub fn verdict(at: Timestamp) -> String {
    let millis = u64::try_from(at.as_millis()).unwrap_or_default();
    format!("{PROBES}/{}", complement(millis))
}

/// The folder in which one run of the probe leaves its objects, for as long as it runs.
pub fn probe(run: &str) -> String {
    format!("probe/{run}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_newer_checkpoints_sort_first() {
        for number in [0, 1, 17, u64::MAX] {
            assert_eq!(parse_record(&record(number)), Some(number));
            assert_eq!(parse_complete(&complete(number)), Some(number));
            assert_eq!(parse_epoch(&epoch(number)), Some(number));
            assert_eq!(parse_segment(&segment(number, 7)), Some((number, 7)));
            for copy in [0, 1, 12] {
                assert_eq!(
                    parse_checkpoint(&checkpoint(number, copy)),
                    Some((number, copy))
                );
            }
        }
        assert!(checkpoint(100, 0) < checkpoint(99, 0));
        assert!(complete(100) < complete(99));
        let at = Timestamp::from_millis;
        assert!(verdict(at(1_776_000_000_001)) < verdict(at(1_776_000_000_000)));
        let receipt = Digest::of(b"");
        assert!(is_drill(&drill(at(1), receipt)) && !is_drill("drills/1"));
        assert!(drill(at(2), receipt) < drill(at(1), receipt));
        assert_eq!(checkpoint(1, 0), "checkpoints/99999999999999999998");
        for bad in [
            "log/1",
            "log/x",
            "trees/00000000000000000001",
            "checkpoints/1",
        ] {
            assert_eq!((parse_record(bad), parse_checkpoint(bad)), (None, None));
        }
    }
}
