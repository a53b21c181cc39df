//! Bringing damaged and missing objects back. Nothing is deleted and nothing sound is touched.
//!
//! An object is replaced only by one that is proven: a record by the chain, content by its digests, a
//! cache by the fold of the log. What stood there is kept aside, under `damaged/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use statehold_core::digest::Digest;
use statehold_core::entry::ContentObject;
use statehold_core::environment::Entropy;
use statehold_core::id::TreeId;
use statehold_core::limits::SEGMENT_RECORDS;
use statehold_core::record::RecordRef;
use statehold_core::state::State;
use statehold_core::tree::root_of;

use super::caches::check_tree;
use super::content::{Frame, check_content, chunks_in, inline_frames};
use super::inventory::Inventory;
use super::report::{Kind, Report};
use super::subset::{Day, Share};
use super::walk::{Walk, is_proven, read_object, read_segment, read_trees};
use super::{Facts, Findings, Neighbours, Options, Wanted, Watch, look, rebuild};
use crate::error::{Error, Result};
use crate::format::checkpoint::{Checkpoint, EarlierCheckpoint};
use crate::format::record::StoredRecord;
use crate::format::tree::{PageLine, TreeRef};
use crate::format::{segment, tree};
use crate::layout;
use crate::store::{Creation, Store};

/// How often what was brought back is looked at again: a record that is back may show that a pack or
/// a checkpoint is damaged, and a checkpoint that a tree is.
const ROUNDS_MAX: usize = 4;
/// Versions of one damaged object that are kept aside.
const ASIDE_MAX: u32 = 9_999;

/// Content that a workspace still holds.
pub trait Held: Send + Sync {
    /// The repository's description as it was read when the workspace was linked.
    fn description(&self) -> Option<Bytes>;

    /// Looks for content, so that [`Self::chunk`] finds it.
    fn look_for(&self, wanted: &std::collections::HashMap<Digest, Wanted>);

    /// The content of this digest and length, read anew and checked.
    fn chunk(&self, digest: &Digest, raw: u32) -> Option<Vec<u8>>;
}

/// Where sound objects and content may come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// A copy of the repository.
    pub replica: Option<&'a Store>,
    /// A workspace of the repository.
    pub held: Option<&'a dyn Held>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("replica", &self.replica)
            .field("held", &self.held.is_some())
            .finish()
    }
}

/// Where an object came back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The copy, byte by byte.
    Replica,
    /// A segment of the same repository.
    Segment,
    /// Content of a workspace.
    Workspace,
    /// The log itself.
    Log,
}

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healed {
    /// Its key.
    pub key: String,
    /// Where it came from.
    pub from: Origin,
    /// Whether it is sound now; otherwise a part of its content is back.
    pub whole: bool,
}

/// What a repair came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What was damaged or missing before.
    pub found: Report,
    /// What was written, in order.
    pub healed: Vec<Healed>,
    /// What is still damaged or missing, and what needs it.
    pub left: Report,
}

/// Repairs the repository in a store. An error means that a store did not answer; what was brought
/// back until then is durable.
pub async fn repair(
    store: &Store,
    sources: Sources<'_>,
    known: &[RecordRef],
    entropy: &dyn Entropy,
    watch: &dyn Watch,
) -> Result<Outcome> {
    let mut options = Options {
        read: Some(Share::WHOLE),
        day: Day::default(),
        known: known.to_vec(),
        packs: BTreeSet::new(),
    };
    if let Some(replica) = sources.replica {
        options.known.extend(further_record(store, replica).await?);
    }
    let mut outcome = Outcome::default();
    for round in 0..=ROUNDS_MAX {
        let found = look(store, &options, watch).await?;
        if round == 0 {
            outcome.found = found.report.clone();
            // What is sound needn't be read again.
            options.read = None;
        }
        options.packs.extend(found.facts.packs.keys());
        let mut healing = Healing {
            store,
            sources,
            there: replaceable(&found.report),
            healed: Vec::new(),
        };
        if round < ROUNDS_MAX {
            healing.round(&found, &options, entropy).await?;
        }
        let has_healed = !healing.healed.is_empty();
        outcome.healed.append(&mut healing.healed);
        if !has_healed {
            outcome.left = found.report;
            break;
        }
    }
    Ok(outcome)
}

/// The newest record of a copy that has more than the log it was made of: the newest records were
/// lost here. A copy of another history says nothing.
async fn further_record(store: &Store, replica: &Store) -> Result<Option<RecordRef>> {
    let (own, there) = (
        Inventory::take(store).await?,
        Inventory::take(replica).await?,
    );
    if there.last() <= own.last() {
        return Ok(None);
    }
    let read = async |store: &Store, number: u64| {
        let read = read_object(store, &layout::record(number)).await?;
        Ok::<_, Error>(
            read.ok()
                .and_then(|bytes| StoredRecord::read(number, bytes).ok()),
        )
    };
    let (last, newest) = (own.last(), there.last());
    let both = (read(store, last).await?, read(replica, last).await?);
    if let (Some(here), Some(copy)) = both
        && here.record.id != copy.record.id
    {
        return Ok(None);
    }
    // From there on the copy has to be one chain.
    let mut before = None;
    for number in last.max(1)..=newest {
        let Some(stored) = read(replica, number).await? else {
            return Ok(None);
        };
        if before.is_some_and(|before| before != stored.record.envelope.parent) {
            return Ok(None);
        }
        before = Some(stored.record.id);
    }
    Ok(before.map(|id| RecordRef { number: newest, id }))
}

/// One round of bringing objects back.
struct Healing<'a> {
    store: &'a Store,
    sources: Sources<'a>,
    /// Objects that are there and damaged; nothing else is replaced.
    there: BTreeSet<String>,
    healed: Vec<Healed>,
}

impl Healing<'_> {
    async fn round(
        &mut self,
        found: &Findings,
        options: &Options,
        entropy: &dyn Entropy,
    ) -> Result<()> {
        let Findings { report, facts } = found;
        if let Some(held) = self.sources.held {
            held.look_for(&facts.wanted);
        }
        self.packs(facts).await?;
        let first = self.records(facts).await?;
        self.description(report, facts.genesis.or(first)).await?;
        let has_caches = report.damaged.iter().any(|damaged| damaged.kind.is_cache());
        // Caches are made of the log, so they come when nothing else does any more.
        if self.healed.is_empty() && (has_caches || !report.missing_caches.is_empty()) {
            self.caches(report, facts, options, entropy).await?;
        }
        Ok(())
    }

    /// Writes what was proven, and takes note of it.
    async fn note(&mut self, key: String, bytes: Bytes, from: Origin, whole: bool) -> Result<()> {
        let is_written = if self.there.contains(&key) {
            replace_damaged(self.store, &key, bytes).await?
        } else {
            // Somebody else may write there by now, and whoever is first is right.
            self.store.create(&key, bytes).await? == Creation::New
        };
        if is_written {
            tracing::info!(key, ?from, "brought back");
            self.healed.push(Healed { key, from, whole });
        }
        Ok(())
    }

    fn held(&self) -> impl Fn(&Digest, u32) -> Option<Vec<u8>> + use<'_> {
        let held = self.sources.held;
        move |digest, raw| held.and_then(|held| held.chunk(digest, raw))
    }

    async fn in_replica(&self, key: &str) -> Result<Option<Bytes>> {
        match self.sources.replica {
            Some(replica) => Ok(read_object(replica, key).await?.ok()),
            None => Ok(None),
        }
    }

    async fn packs(&mut self, facts: &Facts) -> Result<()> {
        for (id, (announced, frames)) in &facts.packs {
            let key = layout::pack(*id);
            if let Some(copy) = self.in_replica(&key).await?
                && check_content(*id, &copy, *announced, frames).is_ok()
            {
                self.note(key, copy, Origin::Replica, true).await?;
                continue;
            }
            let left = read_object(self.store, &key).await?.ok();
            let made = rebuild::pack(*id, left.as_ref(), *announced, frames, &self.held());
            if let Some(made) = made {
                let from = if made.has_filled {
                    Origin::Workspace
                } else {
                    Origin::Log
                };
                self.note(key, made.bytes, from, made.is_whole).await?;
            }
        }
        Ok(())
    }

    /// Brings records back, from the first to the last, so that each vouches for the next. Gives what
    /// record 1 says of the description, if it came back.
    async fn records(&mut self, facts: &Facts) -> Result<Option<Digest>> {
        let inventory = Inventory::take(self.store).await?;
        let mut healed: Option<(u64, Digest)> = None;
        let mut genesis = None;
        for (number, neighbours) in &facts.records {
            let mut neighbours = *neighbours;
            if let Some((before, id)) = healed
                && before + 1 == *number
            {
                neighbours.parent = Some(id);
            }
            if let Some(record) = self.record(*number, neighbours, facts, &inventory).await? {
                healed = Some((*number, record.record.id));
                if *number == 1 {
                    genesis = Some(record.record.envelope.parent);
                }
            }
        }
        Ok(genesis)
    }

    async fn record(
        &mut self,
        number: u64,
        neighbours: Neighbours,
        facts: &Facts,
        inventory: &Inventory,
    ) -> Result<Option<StoredRecord>> {
        let key = layout::record(number);
        let Neighbours { parent, id, .. } = neighbours;
        let to = number.div_ceil(SEGMENT_RECORDS) * SEGMENT_RECORDS;
        let copies = read_segment(self.store, inventory, to).await?;
        let copy = copies.into_iter().flatten();
        let mut copy = copy.filter(|copy| copy.record.envelope.number == number);
        if let Some(copy) = copy.next().filter(|copy| is_proven(copy, parent, id)) {
            self.note(key, copy.bytes.clone(), Origin::Segment, true)
                .await?;
            return Ok(Some(copy));
        }
        if let Some(bytes) = self.in_replica(&key).await?
            && let Ok(copy) = StoredRecord::read(number, bytes)
            && is_proven(&copy, parent, id)
        {
            self.bring_packs_of(&copy).await?;
            self.note(key, copy.bytes.clone(), Origin::Replica, true)
                .await?;
            return Ok(Some(copy));
        }
        if neighbours.is_content_only
            && let Ok(bytes) = read_object(self.store, &key).await?
            && let Ok(stored) = StoredRecord::read(number, bytes)
            && Some(stored.record.id) == id
        {
            debug_assert!(facts.lost.0.contains_key(&ContentObject::Record(number)));
            let frames = inline_frames(&stored);
            let made = rebuild::record(&stored, &frames, &self.held());
            if let Some(bytes) = made {
                let made = StoredRecord::read(number, bytes.clone());
                let is_whole = made.is_ok_and(|made| is_proven(&made, parent, id));
                self.note(key, bytes, Origin::Workspace, is_whole).await?;
            }
        }
        Ok(None)
    }

    /// Content is there before the record that names it is.
    async fn bring_packs_of(&mut self, record: &StoredRecord) -> Result<()> {
        for pack in &record.record.envelope.draft.packs {
            let key = layout::pack(pack.id);
            if self.store.length(&key).await?.is_some() {
                continue;
            }
            let object = Some(ContentObject::Pack(pack.id));
            let chunks = chunks_in(record).filter(|chunk| chunk.at.object == object);
            let frames: BTreeSet<Frame> = chunks.map(Frame::of).collect();
            if let Some(copy) = self.in_replica(&key).await?
                && check_content(pack.id, &copy, pack.bytes, &frames).is_ok()
            {
                self.note(key, copy, Origin::Replica, true).await?;
            }
        }
        Ok(())
    }

    async fn description(&mut self, report: &Report, genesis: Option<Digest>) -> Result<()> {
        let key = layout::REPOSITORY.to_owned();
        let is_damaged = report.damaged.iter().any(|damaged| damaged.key == key);
        let Some(genesis) = genesis.filter(|_| is_damaged) else {
            return Ok(());
        };
        let is_it = |bytes: &Bytes| Digest::of(bytes) == genesis;
        if let Some(copy) = self.in_replica(&key).await?.filter(is_it) {
            return self.note(key, copy, Origin::Replica, true).await;
        }
        let kept = self.sources.held.and_then(Held::description);
        match kept.filter(is_it) {
            Some(kept) => self.note(key, kept, Origin::Workspace, true).await,
            None => Ok(()),
        }
    }

    /// Makes caches anew while the log goes by.
    async fn caches(
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
        let mut listings = self.listings(&inventory).await?;
        let mut earlier: Vec<EarlierCheckpoint> = Vec::new();
        let mut walk = Walk::new(self.store, &inventory, facts.genesis, &options.known);
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
                    self.tree(&reference, state, &earlier, &wanted).await?;
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
            let checkpoint = Checkpoint::of(state, reference.clone(), earlier.clone());
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

    /// Brings the objects of a listing back.
    async fn tree(
        &mut self,
        reference: &TreeRef,
        state: &State,
        earlier: &[EarlierCheckpoint],
        wanted: &BTreeSet<&str>,
    ) -> Result<()> {
        if check_tree(self.store, reference).await?.is_empty() {
            return Ok(());
        }
        let mut objects = read_trees(self.store, reference).await?;
        let mut copies = Vec::new();
        for id in std::iter::once(&reference.id).chain(&reference.others) {
            let key = layout::tree(*id);
            if wanted.contains(key.as_str())
                && let Some(copy) = self.in_replica(&key).await?
            {
                objects.insert(*id, copy.clone());
                copies.push((key, copy));
            }
        }
        if tree::read(reference, &objects).is_ok() {
            for (key, copy) in copies {
                self.note(key, copy, Origin::Replica, true).await?;
            }
            return Ok(());
        }
        // The same pages shared with the same listing before give the same object.
        let mut pages: Vec<(TreeId, PageLine)> = Vec::new();
        if let Some(before) = earlier.last()
            && let Ok(bytes) = read_object(self.store, &layout::tree(before.tree.id)).await?
        {
            pages = tree::page_table(before.tree.id, bytes).unwrap_or_default();
        }
        for pages in [pages, Vec::new()] {
            let (made, bytes) = tree::write(reference.id, &state.tree, &pages);
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

/// The damaged objects that are there.
fn replaceable(report: &Report) -> BTreeSet<String> {
    let there = report.damaged.iter().filter(|damaged| !damaged.missing);
    there.map(|damaged| damaged.key.clone()).collect()
}

/// Puts a proven object in the place of a damaged one; says whether that changed anything. The one place in which an object of a repository is overwritten: what stands there can't be
/// read as what it has to be, and is kept aside first.
async fn replace_damaged(store: &Store, key: &str, proven: Bytes) -> Result<bool> {
    let Some(there) = store.read(key).await? else {
        return Ok(store.create(key, proven).await? == Creation::New);
    };
    if there == proven {
        return Ok(false);
    }
    keep_aside(store, key, there).await?;
    if let Some(lease) = store.lease() {
        lease.check()?;
    }
    store.replace(key, proven.clone()).await?;
    if store.read(key).await? == Some(proven) {
        return Ok(true);
    }
    let reason = "it is another object than the one just written; is somebody else repairing it?";
    Err(Error::damaged(key, reason))
}

/// Keeps damaged bytes under a name of their own.
async fn keep_aside(store: &Store, key: &str, bytes: Bytes) -> Result<()> {
    for copy in 0..=ASIDE_MAX {
        let aside = layout::damaged(key, copy);
        if store.create(&aside, bytes.clone()).await? == Creation::New
            || store.read(&aside).await?.as_ref() == Some(&bytes)
        {
            return Ok(());
        }
    }
    Err(Error::refused(format!(
        "{key} was replaced {ASIDE_MAX} times already; look for what keeps damaging it"
    )))
}
