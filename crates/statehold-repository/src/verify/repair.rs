//! Bringing damaged and missing objects back. Nothing is deleted and nothing sound is touched.
//!
//! An object is replaced only by one that is proven: a record by the chain, content by its digests, a
//! cache by the fold of the log. What stood there is kept aside, under `damaged/`.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use serde::Serialize;
use statehold_core::digest::Digest;
use statehold_core::entry::ContentObject;
use statehold_core::environment::Entropy;
use statehold_core::limits::SEGMENT_RECORDS;
use statehold_core::record::RecordRef;

use super::content::{Frame, check_content, chunks_in, inline_frames};
use super::inventory::Inventory;
use super::report::Report;
use super::subset::{Day, Share};
use super::walk::{is_proven, read_checkpoint, read_object, read_segment};
use super::{Facts, Findings, Neighbours, Options, Wanted, Watch, look, rebuild};
use crate::error::{Error, Result};
use crate::format::record::StoredRecord;
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
    fn look_for(&self, wanted: &HashMap<Digest, Wanted>);

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
    let mut cut = 0;
    if let Some(replica) = sources.replica
        && let Some(further) = further_record(store, replica).await?
    {
        options.known.push(further);
        cut = newest_cut(replica).await?;
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
            cut: cut.max(found.facts.collection.cut),
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

/// Content that was found in another place.
#[derive(Debug, Default)]
struct Elsewhere {
    content: HashMap<Digest, Vec<u8>>,
    /// Whether any of it lies in the copy.
    is_in_replica: bool,
}

/// Up to which record a copy is retired, by its newest checkpoint.
async fn newest_cut(replica: &Store) -> Result<u64> {
    let inventory = Inventory::take(replica).await?;
    for (number, copies) in inventory.checkpoints.iter().rev() {
        for copy in copies.iter().rev() {
            if let Some((found, _)) =
                read_checkpoint(replica, &layout::checkpoint(*number, *copy)).await?
            {
                return Ok(found.collection.cut);
            }
        }
    }
    Ok(0)
}

/// One round of bringing objects back.
pub(super) struct Healing<'a> {
    pub(super) store: &'a Store,
    pub(super) sources: Sources<'a>,
    /// Objects that are there and damaged; nothing else is replaced.
    there: BTreeSet<String>,
    /// Records up to this one are retired: only their envelopes come back.
    cut: u64,
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
    pub(super) async fn note(
        &mut self,
        key: String,
        bytes: Bytes,
        from: Origin,
        whole: bool,
    ) -> Result<()> {
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

    fn held(&self, digest: &Digest, raw: u32) -> Option<Vec<u8>> {
        self.sources.held.and_then(|held| held.chunk(digest, raw))
    }

    pub(super) async fn in_replica(&self, key: &str) -> Result<Option<Bytes>> {
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
            let object = ContentObject::Pack(*id);
            let elsewhere = self.elsewhere(object, left.as_ref(), frames, facts).await?;
            let is_held = Cell::new(false);
            let held = |digest: &Digest, raw: u32| {
                elsewhere.content.get(digest).cloned().or_else(|| {
                    let content = self.held(digest, raw);
                    is_held.set(is_held.get() || content.is_some());
                    content
                })
            };
            let made = rebuild::pack(*id, left.as_ref(), *announced, frames, &held);
            if let Some(made) = made {
                let from = match (made.has_filled && is_held.get(), elsewhere.is_in_replica) {
                    (true, _) => Origin::Workspace,
                    (false, true) => Origin::Replica,
                    (false, false) => Origin::Log,
                };
                self.note(key, made.bytes, from, made.is_whole).await?;
            }
        }
        Ok(())
    }

    /// Content of lost frames that lies in another place too, because a compaction has copied it: here, or
    /// in a copy that does not have the pack.
    async fn elsewhere(
        &self,
        object: ContentObject,
        left: Option<&Bytes>,
        frames: &BTreeSet<Frame>,
        facts: &Facts,
    ) -> Result<Elsewhere> {
        let mut found = Elsewhere::default();
        let left = left.map(AsRef::as_ref).unwrap_or_default();
        let lost = frames.iter();
        let lost: Vec<&Frame> = lost
            .filter(|frame| frame.open(object, left).is_err())
            .collect();
        if lost.is_empty() || facts.moves.is_empty() {
            return Ok(found);
        }
        let places = facts.moves.beside(object);
        for frame in lost {
            for (there, offset) in places.get(&frame.offset).into_iter().flatten() {
                let stores = [(self.sources.replica, true), (Some(self.store), false)];
                for (store, is_replica) in stores {
                    let Some(store) = store else { continue };
                    let range = *offset..offset.saturating_add(u64::from(frame.stored));
                    let Ok(bytes) = store.read_range(&there.to_string(), range).await else {
                        continue;
                    };
                    let own = Frame {
                        offset: 0,
                        ..*frame
                    };
                    if let Ok(content) = own.open(*there, &bytes) {
                        found.is_in_replica |= is_replica;
                        found.content.insert(frame.digest, content);
                    }
                }
            }
        }
        Ok(found)
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
        if let Some(copy) = copy.next().filter(|copy| self.is_proven(copy, neighbours)) {
            let bytes = self.left_of(&copy)?;
            self.note(key, bytes, Origin::Segment, true).await?;
            return Ok(Some(copy));
        }
        if let Some(bytes) = self.in_replica(&key).await?
            && let Ok(copy) = StoredRecord::read(number, bytes)
            && self.is_proven(&copy, neighbours)
        {
            if number > self.cut {
                self.bring_packs_of(&copy).await?;
            }
            let bytes = self.left_of(&copy)?;
            self.note(key, bytes, Origin::Replica, true).await?;
            return Ok(Some(copy));
        }
        if neighbours.is_content_only
            && let Ok(bytes) = read_object(self.store, &key).await?
            && let Ok(stored) = StoredRecord::read(number, bytes)
            && Some(stored.record.id) == id
        {
            debug_assert!(facts.lost.0.contains_key(&ContentObject::Record(number)));
            if number <= self.cut {
                self.note(key, stored.retired()?, Origin::Log, true).await?;
                return Ok(None);
            }
            let frames = inline_frames(&stored);
            let made = rebuild::record(&stored, &frames, &|digest, raw| self.held(digest, raw));
            if let Some(bytes) = made {
                let made = StoredRecord::read(number, bytes.clone());
                let is_whole = made.is_ok_and(|made| is_proven(&made, parent, id));
                self.note(key, bytes, Origin::Workspace, is_whole).await?;
            }
        }
        Ok(None)
    }

    /// Whether a copy of a record is proven, and all that has to be there: of a retired one that is the
    /// envelope, and of another one an envelope is not enough.
    fn is_proven(&self, copy: &StoredRecord, neighbours: Neighbours) -> bool {
        let is_retired = copy.record.envelope.number <= self.cut;
        (is_retired || !copy.is_retired()) && is_proven(copy, neighbours.parent, neighbours.id)
    }

    /// What has to stand in the log of a record.
    fn left_of(&self, copy: &StoredRecord) -> Result<Bytes> {
        match copy.record.envelope.number <= self.cut && !copy.is_retired() {
            true => copy.retired(),
            false => Ok(copy.bytes.clone()),
        }
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
