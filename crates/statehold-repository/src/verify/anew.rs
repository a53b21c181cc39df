//! Making caches anew, and bringing back what stands in for retired records: one pass over the log, as
//! [`super::repair`] has left it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use statehold_core::environment::Entropy;
use statehold_core::id::TreeId;
use statehold_core::limits::SEGMENT_RECORDS;
use statehold_core::state::State;
use statehold_core::tree::{Tree, root_of};

use super::caches::check_tree;
use super::inventory::Inventory;
use super::repair::{Healing, Origin};
use super::report::{Kind, Report};
use super::stand_ins::Copy;
use super::walk::{Walk, read_checkpoint, read_object, read_trees};
use super::{Facts, Options};
use crate::error::Result;
use crate::format::checkpoint::{Checkpoint, EarlierCheckpoint};
use crate::format::record::StoredRecord;
use crate::format::tree::{PageLine, TreeRef};
use crate::format::{segment, tree};
use crate::layout;

impl Healing<'_> {
    /// Makes caches anew while the log goes by.
    pub(super) async fn caches(
        &mut self,
        report: &Report,
        facts: &Facts,
        options: &Options,
        entropy: &dyn Entropy,
    ) -> Result<()> {
        let damaged = report
            .damaged
            .iter()
            .filter(|damaged| damaged.kind.is_cache());
        let wanted: BTreeSet<&str> = damaged
            .map(|damaged| damaged.key.as_str())
            .chain(report.missing_caches.iter().map(String::as_str))
            .collect();
        let has_trees = report
            .damaged
            .iter()
            .any(|damaged| damaged.kind == Kind::Tree);
        let inventory = Inventory::take(self.store).await?;
        let given = self.stand_ins(&inventory, facts, options, &wanted).await?;
        let mut listings = self.listings(&inventory).await?;
        let mut earlier: Vec<EarlierCheckpoint> = Vec::new();
        let walk = Walk::new(self.store, &inventory, facts.genesis, &options.known);
        let mut walk = walk.knowing(given);
        let mut records = Vec::new();
        while let Some(step) = walk.next().await? {
            records.extend(step.stored.filter(|_| step.flaw.is_none()));
            if step.number.is_multiple_of(SEGMENT_RECORDS) {
                self.segment(step.number, &records, &wanted).await?;
                records.clear();
            }
            let known = listings.remove(&step.number);
            let Some(state) = &walk.state else {
                earlier.extend(known);
                continue;
            };
            let mut known = known.map(|known| known.tree);
            let copies = inventory.checkpoints.get(&step.number);
            let copies = copies.map_or(&[0][..], Vec::as_slice);
            let keys: Vec<String> = copies
                .iter()
                .map(|copy| layout::checkpoint(step.number, *copy))
                .collect();
            let is_wanted = keys.iter().any(|key| wanted.contains(key.as_str()));
            if known.is_none() && !is_wanted {
                continue;
            }
            if known.is_none() {
                known = self.find_listing(&keys, state, &inventory).await?;
            }
            let reference = match known {
                Some(reference) if has_trees => {
                    let before = earlier.last().map(|earlier| earlier.tree.id);
                    self.tree(&reference, &state.tree, before, &wanted).await?;
                    reference
                }
                Some(reference) => reference,
                None => {
                    let id = TreeId::random(entropy);
                    let (reference, bytes) = tree::write(id, &state.tree, &[]);
                    self.note(layout::tree(id), bytes, Origin::Log, true)
                        .await?;
                    reference
                }
            };
            let cut = state.collection.cut;
            let before = earlier.iter().filter(|one| one.number >= cut);
            let before = before.cloned().collect();
            let checkpoint = Checkpoint::of(state, reference.clone(), before);
            for key in keys.into_iter().filter(|key| wanted.contains(key.as_str())) {
                self.checkpoint(key, &checkpoint).await?;
            }
            earlier.push(EarlierCheckpoint {
                number: step.number,
                time: state.time,
                tree: reference,
            });
        }
        Ok(())
    }

    /// The listing at each number, by the checkpoints that can be read.
    async fn listings(&self, inventory: &Inventory) -> Result<BTreeMap<u64, EarlierCheckpoint>> {
        let mut found = BTreeMap::new();
        for (number, copies) in &inventory.checkpoints {
            for copy in copies {
                let key = layout::checkpoint(*number, *copy);
                let Ok(bytes) = read_object(self.store, &key).await? else {
                    continue;
                };
                let Ok(checkpoint) = Checkpoint::read(&key, &bytes) else {
                    continue;
                };
                if checkpoint.at.number == *number {
                    for earlier in checkpoint.earlier {
                        found.entry(earlier.number).or_insert(earlier);
                    }
                    let own = EarlierCheckpoint {
                        number: *number,
                        time: checkpoint.time,
                        tree: checkpoint.tree,
                    };
                    found.insert(*number, own);
                }
            }
        }
        Ok(found)
    }

    /// The listing of a state whose checkpoints can't be read: by the copy's checkpoint, or among the
    /// objects that are there.
    async fn find_listing(
        &self,
        keys: &[String],
        state: &State,
        inventory: &Inventory,
    ) -> Result<Option<TreeRef>> {
        let root = state.tree.root();
        for key in keys {
            if let Some(copy) = self.in_replica(key).await?
                && let Ok(copy) = Checkpoint::read(key, &copy)
                && copy.tree.root == root
                && inventory.trees.contains_key(&copy.tree.id)
            {
                return Ok(Some(copy.tree));
            }
        }
        for id in inventory.trees.keys() {
            let Ok(bytes) = read_object(self.store, &layout::tree(*id)).await? else {
                continue;
            };
            let Ok(pages) = tree::page_table(*id, bytes) else {
                continue;
            };
            if root_of(pages.iter().map(|(_, page)| page.blake3)) != root {
                continue;
            }
            let others: BTreeSet<TreeId> = pages.iter().map(|(holder, _)| *holder).collect();
            let reference = TreeRef {
                id: *id,
                others: others.into_iter().filter(|holder| holder != id).collect(),
                root,
            };
            if check_tree(self.store, &reference).await?.is_empty() {
                return Ok(Some(reference));
            }
        }
        Ok(None)
    }

    async fn segment(
        &mut self,
        to: u64,
        records: &[StoredRecord],
        wanted: &BTreeSet<&str>,
    ) -> Result<()> {
        let from = to - (SEGMENT_RECORDS - 1);
        let key = layout::segment(from, to);
        if !wanted.contains(key.as_str()) || records.len() as u64 != SEGMENT_RECORDS {
            return Ok(());
        }
        if let Some(copy) = self.in_replica(&key).await?
            && let Ok(copies) = segment::read(&key, copy.clone(), from, to)
            && copies
                .iter()
                .map(|copy| &copy.bytes)
                .eq(records.iter().map(|record| &record.bytes))
        {
            return self.note(key, copy, Origin::Replica, true).await;
        }
        self.note(key, segment::write(records), Origin::Log, true)
            .await
    }

    async fn checkpoint(&mut self, key: String, made: &Checkpoint) -> Result<()> {
        if let Some(copy) = self.in_replica(&key).await?
            && Checkpoint::read(&key, &copy).is_ok_and(|copy| copy == *made)
        {
            return self.note(key, copy, Origin::Replica, true).await;
        }
        self.note(key, made.write(), Origin::Log, true).await
    }

    /// Brings back the trees that stand in for retired records, and the state where the log is cut, where its
    /// checkpoint doesn't tell it.
    async fn stand_ins(
        &mut self,
        inventory: &Inventory,
        facts: &Facts,
        options: &Options,
        wanted: &BTreeSet<&str>,
    ) -> Result<Option<State>> {
        let (Some(replica), cut) = (self.sources.replica, facts.collection.cut) else {
            return Ok(None);
        };
        let mut lost = BTreeSet::new();
        for listing in &facts.collection.listings {
            let is_lost = !check_tree(self.store, &listing.tree).await?.is_empty();
            if is_lost && !self.copy_tree(&listing.tree, wanted).await? {
                lost.insert(listing.from);
            }
        }
        let mut asked = lost.clone();
        if cut > 0 && !self.tells(inventory, cut, wanted).await? {
            asked.insert(cut);
        }
        let copy = Copy::read(replica, facts.genesis, &asked).await?;
        let listings = facts.collection.listings.iter();
        for listing in listings.filter(|listing| lost.contains(&listing.from)) {
            for tree in copy.listings_of(listing.from, &facts.moves) {
                if tree.root() == listing.tree.root {
                    self.make_tree(&listing.tree, &tree, None).await?;
                    break;
                }
            }
        }
        let (genesis, known) = (facts.genesis, &options.known);
        copy.state_at(cut, self.store, replica, genesis, known)
            .await
    }

    /// Whether a checkpoint at a record can be used, which is none that is to be brought back.
    async fn tells(
        &self,
        inventory: &Inventory,
        number: u64,
        wanted: &BTreeSet<&str>,
    ) -> Result<bool> {
        for copy in inventory.checkpoints.get(&number).into_iter().flatten() {
            let key = layout::checkpoint(number, *copy);
            if !wanted.contains(key.as_str()) && read_checkpoint(self.store, &key).await?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the objects of a listing back.
    async fn tree(
        &mut self,
        reference: &TreeRef,
        tree: &Tree,
        before: Option<TreeId>,
        wanted: &BTreeSet<&str>,
    ) -> Result<()> {
        if check_tree(self.store, reference).await?.is_empty()
            || self.copy_tree(reference, wanted).await?
        {
            return Ok(());
        }
        self.make_tree(reference, tree, before).await
    }

    /// Takes the objects of a listing from the copy. False where that does not make it whole.
    async fn copy_tree(&mut self, reference: &TreeRef, wanted: &BTreeSet<&str>) -> Result<bool> {
        let mut objects = read_trees(self.store, reference).await?;
        let mut copies: Vec<(String, Bytes)> = Vec::new();
        for id in std::iter::once(&reference.id).chain(&reference.others) {
            let key = layout::tree(*id);
            if wanted.contains(key.as_str())
                && let Some(copy) = self.in_replica(&key).await?
            {
                objects.insert(*id, copy.clone());
                copies.push((key, copy));
            }
        }
        if tree::read(reference, &objects).is_err() {
            return Ok(false);
        }
        for (key, copy) in copies {
            self.note(key, copy, Origin::Replica, true).await?;
        }
        Ok(true)
    }

    /// Writes a listing anew. The same pages shared with the same listing before give the same object.
    async fn make_tree(
        &mut self,
        reference: &TreeRef,
        tree: &Tree,
        before: Option<TreeId>,
    ) -> Result<()> {
        let mut pages: Vec<(TreeId, PageLine)> = Vec::new();
        if let Some(before) = before
            && let Ok(bytes) = read_object(self.store, &layout::tree(before)).await?
        {
            pages = tree::page_table(before, bytes).unwrap_or_default();
        }
        for pages in [pages, Vec::new()] {
            let (made, bytes) = tree::write(reference.id, tree, &pages);
            let mut objects = read_trees(self.store, reference).await?;
            objects.insert(reference.id, bytes.clone());
            if made.root == reference.root && tree::read(reference, &objects).is_ok() {
                let key = layout::tree(reference.id);
                return self.note(key, bytes, Origin::Log, true).await;
            }
        }
        Ok(())
    }
}
