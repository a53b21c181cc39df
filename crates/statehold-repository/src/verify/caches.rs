//! Whether segments, checkpoints and their trees are what the log says.

use std::collections::{BTreeMap, BTreeSet};

use statehold_core::collection::Collection;
use statehold_core::digest::Digest;
use statehold_core::id::TreeId;
use statehold_core::limits::{SEGMENT_BYTES_MAX, SEGMENT_RECORDS};
use statehold_core::state::State;
use statehold_core::time::Timestamp;

use super::content::reason_of;
use super::inventory::Inventory;
use super::report::{Kind, Report};
use super::walk::{Step, read_object, read_trees};
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::tree::TreeRef;
use crate::format::{segment, tree};
use crate::layout;
use crate::store::Store;

/// What is known of the records of the segment that is being walked through.
#[derive(Debug, Default)]
struct Met {
    number: u64,
    id: Option<Digest>,
    /// Digest of the whole object, where it is sound.
    object: Option<Digest>,
}

/// Looks at caches while the log goes by.
pub(super) struct Caches<'a> {
    store: &'a Store,
    inventory: &'a Inventory,
    met: Vec<Met>,
    /// Time and listing at each number where a checkpoint is or should be.
    roots: BTreeMap<u64, (Timestamp, Digest)>,
    /// Listings that checkpoints name, each with the newest number at which it stands.
    trees: BTreeMap<TreeId, (u64, TreeRef)>,
    /// Numbers at which later checkpoints say that there is one.
    numbers: BTreeSet<u64>,
    /// Tree objects that something names.
    named: BTreeSet<TreeId>,
    checked: BTreeSet<TreeId>,
}

impl<'a> Caches<'a> {
    pub(super) fn new(store: &'a Store, inventory: &'a Inventory) -> Self {
        Self {
            store,
            inventory,
            met: Vec::new(),
            roots: BTreeMap::new(),
            trees: BTreeMap::new(),
            numbers: BTreeSet::new(),
            named: BTreeSet::new(),
            checked: BTreeSet::new(),
        }
    }

    /// Looks at what is due at a record.
    pub(super) async fn step(
        &mut self,
        step: &Step,
        state: Option<&State>,
        report: &mut Report,
    ) -> Result<()> {
        let stored = step.stored.as_ref();
        let is_sound = step.flaw.is_none();
        self.met.push(Met {
            number: step.number,
            id: stored.map(|stored| stored.record.id).or(step.id),
            object: stored
                .filter(|stored| is_sound && !stored.is_retired())
                .map(|stored| Digest::of(&stored.bytes)),
        });
        let id = self.met.last().and_then(|met| met.id);
        if step.number.is_multiple_of(SEGMENT_RECORDS) {
            self.segment(step.number, report).await?;
            self.met.clear();
        }
        let copies = self.inventory.checkpoints.get(&step.number);
        let is_due = state.is_some_and(State::checkpoint_due);
        if let Some(state) = state
            && (is_due || copies.is_some())
        {
            let at = (state.time, state.tree.root());
            self.roots.insert(step.number, at);
        }
        for copy in copies.into_iter().flatten() {
            let key = layout::checkpoint(step.number, *copy);
            self.checkpoint(&key, step.number, id, state, report)
                .await?;
        }
        if is_due && copies.is_none() {
            let key = layout::checkpoint(step.number, 0);
            self.is_missing(key, report).await?;
        }
        Ok(())
    }

    /// Notes a cache that is due and not there, unless it was written meanwhile.
    async fn is_missing(&self, key: String, report: &mut Report) -> Result<()> {
        if self.store.length(&key).await?.is_none() {
            report.missing_caches.push(key);
        }
        Ok(())
    }

    async fn segment(&mut self, to: u64, report: &mut Report) -> Result<()> {
        let from = to - (SEGMENT_RECORDS - 1);
        if !self.inventory.segments.contains_key(&to) {
            let lengths = self
                .inventory
                .records
                .range(from..=to)
                .map(|(_, bytes)| bytes);
            if lengths.sum::<u64>() <= SEGMENT_BYTES_MAX as u64 {
                self.is_missing(layout::segment(from, to), report).await?;
            }
            return Ok(());
        }
        report.counts.segments += 1;
        let key = layout::segment(from, to);
        let bytes = match read_object(self.store, &key).await? {
            Ok(bytes) => bytes,
            Err(reason) => {
                report.note(key, Kind::Segment, reason);
                return Ok(());
            }
        };
        let records = match segment::read(&key, bytes, from, to) {
            Ok(records) => records,
            Err(error) => {
                report.note(key, Kind::Segment, reason_of(error));
                return Ok(());
            }
        };
        for (copy, met) in records.iter().zip(&self.met) {
            let is_other = met.id.is_some_and(|id| id != copy.record.id)
                || met
                    .object
                    .is_some_and(|object| object != Digest::of(&copy.bytes));
            if is_other {
                let reason = format!("its copy of record {} is not the log's", met.number);
                report.note(key, Kind::Segment, reason);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn checkpoint(
        &mut self,
        key: &str,
        number: u64,
        id: Option<Digest>,
        state: Option<&State>,
        report: &mut Report,
    ) -> Result<()> {
        report.counts.checkpoints += 1;
        let bytes = match read_object(self.store, key).await? {
            Ok(bytes) => bytes,
            Err(reason) => {
                report.note(key.to_owned(), Kind::Checkpoint, reason);
                return Ok(());
            }
        };
        let checkpoint = match Checkpoint::read(key, &bytes) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                report.note(key.to_owned(), Kind::Checkpoint, reason_of(error));
                return Ok(());
            }
        };
        let root = self.roots.get(&number).map(|(_, root)| *root);
        if let Err(reason) = self.matches(&checkpoint, number, id, state, root) {
            report.note(key.to_owned(), Kind::Checkpoint, reason);
            return Ok(());
        }
        for earlier in checkpoint.earlier {
            self.numbers.insert(earlier.number);
            self.stands(earlier.number, earlier.tree);
        }
        self.stands(number, checkpoint.tree);
        Ok(())
    }

    /// Takes note of a listing. Whether it is looked at depends on where the log is cut.
    fn stands(&mut self, number: u64, reference: TreeRef) {
        self.name(&reference);
        let stands = self.trees.entry(reference.id);
        let (at, _) = stands.or_insert((number, reference));
        *at = number.max(*at);
    }

    fn name(&mut self, reference: &TreeRef) {
        self.named.insert(reference.id);
        self.named.extend(&reference.others);
    }

    /// Whether a checkpoint says what the log says.
    fn matches(
        &self,
        found: &Checkpoint,
        number: u64,
        id: Option<Digest>,
        state: Option<&State>,
        root: Option<Digest>,
    ) -> Result<(), String> {
        if found.at.number != number {
            return Err(format!(
                "it is the checkpoint of record {}",
                found.at.number
            ));
        }
        if id.is_some_and(|id| id != found.at.id) {
            return Err("it is not the state at the log's record".into());
        }
        let Some(state) = state else {
            return Ok(());
        };
        let is_same = found.time == state.time
            && found.growth == state.growth
            && found.packs == state.packs
            && found.snapshots == state.snapshots
            && found.backups == state.backups
            && found.collection == state.collection;
        if !is_same || root.is_some_and(|root| root != found.tree.root) {
            return Err("it does not say what the records up to it say".into());
        }
        let wrong = found.earlier.iter().find(|earlier| {
            let there = self.roots.get(&earlier.number);
            there.is_some_and(|there| *there != (earlier.time, earlier.tree.root))
        });
        match wrong {
            None => Ok(()),
            Some(wrong) => Err(format!("what it says of record {} is wrong", wrong.number)),
        }
    }

    async fn tree(&mut self, reference: &TreeRef, report: &mut Report) -> Result<()> {
        if !self.checked.insert(reference.id) {
            return Ok(());
        }
        for (key, reason) in check_tree(self.store, reference).await? {
            report.note(key, Kind::Tree, reason);
        }
        Ok(())
    }

    /// Looks at listings, and counts what nothing names. What comes before the cut is gone or on its way,
    /// but for the listings that stand in for it.
    pub(super) async fn finish(
        mut self,
        collection: &Collection,
        report: &mut Report,
    ) -> Result<()> {
        let cut = collection.cut;
        self.numbers.retain(|number| *number > cut);
        let is_needed = |key: &str| {
            let segment = layout::parse_segment(key).is_some_and(|(from, _)| from <= cut);
            let checkpoint = layout::parse_checkpoint(key).is_some_and(|(at, _)| at < cut);
            !segment && !checkpoint
        };
        report.missing_caches.retain(|key| is_needed(key));
        report.damaged.retain(|damaged| is_needed(&damaged.key));
        for (number, reference) in std::mem::take(&mut self.trees).into_values() {
            if number >= cut {
                self.tree(&reference, report).await?;
            }
        }
        // The one at the cut is no cache: nothing else says what came before.
        if cut > 0 && !self.inventory.checkpoints.contains_key(&cut) {
            let key = layout::checkpoint(cut, 0);
            report.missing_caches.retain(|missing| *missing != key);
            report.note(key, Kind::Checkpoint, String::new());
        }
        for listing in &collection.listings {
            self.name(&listing.tree);
            self.tree(&listing.tree, report).await?;
        }
        // Where the state can't be told, nothing else says that one is due.
        for number in std::mem::take(&mut self.numbers) {
            let key = layout::checkpoint(number, 0);
            let is_there = self.inventory.checkpoints.contains_key(&number);
            if !is_there && !report.missing_caches.contains(&key) {
                self.is_missing(key, report).await?;
            }
        }
        report.counts.trees = self.inventory.trees.len() as u64;
        let trees = self.inventory.trees.keys();
        report.leftovers.trees = trees.filter(|id| !self.named.contains(id)).count() as u64;
        Ok(())
    }
}

/// What is wrong with the objects of a tree.
pub(super) async fn check_tree(
    store: &Store,
    reference: &TreeRef,
) -> Result<Vec<(String, String)>> {
    let mut wrong = Vec::new();
    for id in std::iter::once(&reference.id).chain(&reference.others) {
        let key = layout::tree(*id);
        // Its pages are looked at below, by whoever needs them.
        if store.length(&key).await?.is_none() {
            wrong.push((key, String::new()));
        }
    }
    if wrong.is_empty() {
        let objects = read_trees(store, reference).await?;
        match tree::read(reference, &objects) {
            Ok(_) => {}
            Err(Error::Damaged { object, reason }) => wrong.push((object, reason)),
            Err(error) => wrong.push((layout::tree(reference.id), error.to_string())),
        }
    }
    Ok(wrong)
}
