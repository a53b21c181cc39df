//! What lies under a repository's prefix, by listing: every object by its kind, and what is of none.

use std::collections::BTreeMap;

use statehold_core::id::{PackId, TenantId, TreeId};

use crate::error::Result;
use crate::layout;
use crate::store::Store;
use crate::verify::places::CONTROL;

/// The objects of a repository with their lengths in bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory {
    pub(super) has_description: bool,
    /// By number.
    pub(super) records: BTreeMap<u64, u64>,
    pub(super) packs: BTreeMap<PackId, u64>,
    pub(super) trees: BTreeMap<TreeId, u64>,
    /// The first record by the last one.
    pub(super) segments: BTreeMap<u64, u64>,
    /// The copies at a number.
    pub(super) checkpoints: BTreeMap<u64, Vec<u32>>,
    /// What repair has put aside.
    pub(super) aside: u64,
    /// Keys that mean nothing.
    pub(super) unknown: Vec<String>,
}

impl Inventory {
    pub(super) async fn take(store: &Store) -> Result<Self> {
        let listed = store.list_objects().await?;
        Ok(Self::of(listed.into_iter().map(|one| (one.key, one.bytes))))
    }

    /// Sorts a listing.
    pub(super) fn of(listing: impl IntoIterator<Item = (String, u64)>) -> Self {
        let mut found = Self::default();
        for (key, bytes) in listing {
            if key == layout::REPOSITORY {
                found.has_description = true;
            } else if let Some(number) = layout::parse_record(&key) {
                found.records.insert(number, bytes);
            } else if let Some(id) = layout::parse_pack(&key) {
                found.packs.insert(id, bytes);
            } else if let Some(id) = layout::parse_tree(&key) {
                found.trees.insert(id, bytes);
            } else if let Some((from, to)) = layout::parse_segment(&key) {
                found.segments.insert(to, from);
            } else if let Some((number, copy)) = layout::parse_checkpoint(&key) {
                found.checkpoints.entry(number).or_default().push(copy);
            } else if layout::parse_complete(&key).is_some() {
                // A mark says of a replica how far it goes; the log says what it holds.
            } else if layout::parse_epoch(&key).is_some() {
                // Which store began an epoch; the log says how it goes on.
            } else if layout::is_drill(&key) {
                // Vouched for by the log, and needed by no reader.
            } else if key.starts_with("damaged/") {
                found.aside += 1;
            } else if !is_beside(&key) {
                found.unknown.push(key);
            }
        }
        found
    }

    /// The highest number that a record lies under.
    pub(super) fn last(&self) -> u64 {
        self.records.keys().next_back().copied().unwrap_or(0)
    }

    /// How many objects of the repository there are.
    pub(super) fn objects(&self) -> usize {
        let copies: usize = self.checkpoints.values().map(Vec::len).sum();
        let records = self.records.len() + self.packs.len();
        records
            + self.trees.len()
            + self.segments.len()
            + copies
            + usize::from(self.has_description)
    }
}

/// Whether a key is one of those that the store itself has, or a gateway's other repositories, where
/// a repository lies at the root of a store.
fn is_beside(key: &str) -> bool {
    let first = key.split('/').next().unwrap_or_default();
    key == layout::LEASE
        || [layout::PROBES, "probe", CONTROL].contains(&first)
        || first.parse::<TenantId>().is_ok()
}

#[cfg(test)]
mod tests {
    use statehold_core::digest::Digest;
    use statehold_core::time::Timestamp;

    use super::*;

    #[test]
    fn every_key_has_its_kind() {
        let id = "00112233445566778899aabbccddeeff";
        let keys = [
            "repository.json".to_owned(),
            layout::record(3),
            layout::record(2),
            format!("packs/{id}"),
            format!("trees/{id}"),
            layout::segment(1, 16),
            layout::checkpoint(48, 0),
            layout::checkpoint(48, 1),
            layout::damaged(&layout::record(2), 1),
            layout::complete(2),
            layout::epoch(1),
            layout::drill(Timestamp::default(), Digest::of(b"")),
            "probes/1".into(),
            "lease.json".into(),
            "README.md".into(),
            "log/17".into(),
            "packs/short".into(),
        ];
        let found = Inventory::of(keys.map(|key| (key, 5)));
        assert_eq!((found.last(), found.objects()), (3, 8));
        assert_eq!(found.checkpoints[&48], [0, 1]);
        assert_eq!(found.aside, 1);
        assert_eq!(found.unknown, ["README.md", "log/17", "packs/short"]);
    }
}
