//! Whether a repository in a store is whole, and what to do where it is not.
//!
//! Reading order:
//!
//! 1. [`places`]: which repositories lie in a store.
//! 2. `inventory`: what lies under a repository's prefix.
//! 3. `walk`: the log, record by record, judged by the chain and folded.
//! 4. `caches`: segments, checkpoints and trees, against the fold; `collected`: what stands in for what was
//!    collected, and where content lies since.
//! 5. `content`: packs, and the content that rides in records; [`subset`]: which packs on which day.
//! 6. `affected`: which paths and snapshots need what is damaged.
//! 7. [`report`]: what was found.
//! 8. [`repair`]: bringing damaged objects back; `rebuild`: content made anew; `anew`: caches; `stand_ins`: what
//!    stands in for retired records.
//! 9. [`over_remote`]: as much of this as can be seen through a gateway.
//!
//! Nothing here writes but [`repair`]. The memory that a verification takes grows with the listing, the
//! number of objects and the frames that records name, never with the content: of that, a few
//! objects are held at a time.

mod affected;
mod anew;
mod caches;
mod collected;
mod content;
mod inventory;
pub mod over_remote;
pub mod places;
mod rebuild;
pub mod repair;
pub mod report;
mod stand_ins;
pub mod subset;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::StreamExt as _;
use futures::stream;
use statehold_core::collection::{Collection, Moves};
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, Entry};
use statehold_core::id::PackId;
use statehold_core::limits::LOOKS_MAX;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind as RecordKind, RecordRef};
use statehold_core::snapshot::{Snapshot, SnapshotId};
use statehold_core::state::State;

use self::affected::find_affected;
use self::caches::Caches;
use self::content::{Frame, Lost, LostContent, check_content, chunks_in, wrong_length};
use self::inventory::Inventory;
use self::report::{Kind, Report};
use self::subset::{Day, Share};
use self::walk::{Flaw, Step, Walk, read_object};
use crate::error::{Error, Result};
use crate::format::description::Description;
use crate::format::record::StoredRecord;
use crate::layout;
use crate::store::Store;

/// Packs read at once; 32 MiB each at most.
const PACKS_AT_ONCE: usize = 4;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much content is read; none if only the structure is looked at.
    pub read: Option<Share>,
    /// The day that decides which content that is.
    pub day: Day,
    /// Records that were in the log before, by whatever remembers them: nothing else can tell that the
    /// newest ones are lost.
    pub known: Vec<RecordRef>,
    /// Packs whose content is read in any case.
    pub packs: BTreeSet<PackId>,
}

impl Options {
    fn is_due(&self, id: PackId) -> bool {
        let share = self.read;
        self.packs.contains(&id)
            || share.is_some_and(|share| share.includes(&layout::pack(id), self.day))
    }
}

/// Told how far a verification is. Every method may do nothing.
pub trait Watch: Send + Sync {
    /// So many more objects will be looked at.
    fn expect(&self, objects: u64);
    /// So many of them have been.
    fn done(&self, objects: u64);
}

/// Nobody is watching.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn expect(&self, _: u64) {}
    fn done(&self, _: u64) {}
}

/// A report, and what repair needs to know besides.
pub(crate) struct Findings {
    report: Report,
    facts: Facts,
}

/// What the log says of damaged objects.
#[derive(Debug, Default)]
struct Facts {
    /// The digest that the description has to have.
    genesis: Option<Digest>,
    /// What the chain says of each damaged record: the ids of its parent and of itself.
    records: BTreeMap<u64, Neighbours>,
    /// Length and frames of each damaged pack.
    packs: BTreeMap<PackId, (u64, BTreeSet<Frame>)>,
    lost: LostContent,
    /// The snapshots of the newest state that can be told.
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Where in the workspace's files content that is lost may be.
    wanted: HashMap<Digest, Wanted>,
    /// What the log says of collecting, as far as it can be told.
    collection: Collection,
    /// Where content lies now that lay elsewhere before.
    moves: Moves,
}

/// Content that is lost, and where it stood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Length in bytes.
    pub raw: u32,
    /// Files that held it, and where it began in them.
    pub places: Vec<(RepoPath, u64)>,
}

/// What the chain says of a record.
#[derive(Debug, Clone, Copy, Default)]
struct Neighbours {
    parent: Option<Digest>,
    id: Option<Digest>,
    /// Whether the record itself is sound but for the content that rides in it.
    is_content_only: bool,
}

impl Neighbours {
    fn of(step: &Step) -> Self {
        let is_whole = matches!(step.flaw, Some(Flaw::Whole(_)));
        let own = step.stored.as_ref().filter(|_| !is_whole);
        Self {
            parent: step.parent,
            id: own.map(|stored| stored.record.id).or(step.id),
            is_content_only: false,
        }
    }
}

/// Verifies the repository in a store. An error means that the store did not answer or that a newer
/// program is needed; damage is what the report is for.
pub async fn verify(store: &Store, options: &Options, watch: &dyn Watch) -> Result<Report> {
    look(store, options, watch).await.map(|found| found.report)
}

/// Looks, and once more where what is not there may have been collected while it looked.
async fn look(store: &Store, options: &Options, watch: &dyn Watch) -> Result<Findings> {
    for _ in 0..LOOKS_MAX {
        let (found, last) = look_once(store, options, watch).await?;
        if found.report.damaged.is_empty() || !is_collected_after(store, last).await? {
            return Ok(found);
        }
        tracing::info!("somebody has collected meanwhile; looking again");
    }
    look_once(store, options, watch)
        .await
        .map(|(found, _)| found)
}

/// Whether anybody has collected after a record.
async fn is_collected_after(store: &Store, last: u64) -> Result<bool> {
    for number in last + 1.. {
        let Some(bytes) = store.read(&layout::record(number)).await? else {
            break;
        };
        let kind =
            StoredRecord::read(number, bytes).map(|stored| stored.record.envelope.draft.kind);
        if let Ok(RecordKind::Compact | RecordKind::Remove) = kind {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is found by one look, and the newest record when it began.
async fn look_once(store: &Store, options: &Options, watch: &dyn Watch) -> Result<(Findings, u64)> {
    let inventory = Inventory::take(store).await?;
    let objects = inventory.objects() - inventory.packs.len() - inventory.trees.len();
    watch.expect(objects as u64);
    let last = inventory.last();
    let mut found = Findings {
        report: Report::default(),
        facts: Facts::default(),
    };
    let first = first_parent(store, &inventory).await?;
    check_description(store, first, &mut found).await?;
    let mut packs = Packs::new(options);
    follow(store, &inventory, options, &mut packs, &mut found, watch).await?;
    check_packs(store, &inventory, packs, &mut found, watch).await?;
    find_affected(store, &inventory, options, &mut found).await?;
    let Findings { report, .. } = &mut found;
    report.unknown = inventory.unknown;
    report.leftovers.aside = inventory.aside;
    report.sort();
    Ok((found, last))
}

/// What record 1 says that the description has to be, if that can be told.
async fn first_parent(store: &Store, inventory: &Inventory) -> Result<Option<Digest>> {
    let mut walk = Walk::new(store, inventory, None, &[]);
    let step = walk.next().await?;
    let first = step.and_then(|step| step.stored);
    Ok(first.map(|stored| stored.record.envelope.parent))
}

async fn check_description(
    store: &Store,
    first: Option<Digest>,
    found: &mut Findings,
) -> Result<()> {
    let (key, kind) = (layout::REPOSITORY, Kind::Description);
    found.facts.genesis = first;
    let bytes = match read_object(store, key).await? {
        Ok(bytes) => bytes,
        Err(reason) => {
            found.report.note(key.to_owned(), kind, reason);
            return Ok(());
        }
    };
    if first.is_some_and(|first| first != Digest::of(&bytes)) {
        let reason = "it is not the one that record 1 follows".to_owned();
        found.report.note(key.to_owned(), kind, reason);
        return Ok(());
    }
    match Description::from_bytes(&bytes) {
        Ok((description, genesis)) => {
            found.report.repository = Some(description.repository);
            found.facts.genesis = Some(genesis);
            Ok(())
        }
        Err(Error::Damaged { reason, .. }) => {
            found.report.note(key.to_owned(), kind, reason);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The packs that records name, and the frames of those that are to be read.
struct Packs<'a> {
    options: &'a Options,
    bytes: BTreeMap<PackId, u64>,
    frames: BTreeMap<PackId, BTreeSet<Frame>>,
}

impl<'a> Packs<'a> {
    const fn new(options: &'a Options) -> Self {
        Self {
            options,
            bytes: BTreeMap::new(),
            frames: BTreeMap::new(),
        }
    }

    fn introduce(&mut self, id: PackId, bytes: u64, inventory: &Inventory) {
        if self.options.is_due(id) || inventory.packs.get(&id) != Some(&bytes) {
            self.frames.entry(id).or_default();
        }
        self.bytes.insert(id, bytes);
    }

    /// Takes in what records have said that are lost, as far as a state tells.
    fn resume(&mut self, state: Option<&State>, inventory: &Inventory) {
        for (id, pack) in state.iter().flat_map(|state| &state.packs) {
            if !self.bytes.contains_key(id) {
                self.introduce(*id, pack.bytes, inventory);
            }
        }
        for (_, entry) in state.iter().flat_map(|state| state.tree.iter()) {
            if let Entry::File(file) = entry {
                file.chunks.iter().for_each(|chunk| self.name(chunk));
            }
        }
    }

    /// What a `remove` named need not be there.
    fn leave_out_removed(&mut self, collection: &Collection) {
        let removed = collection.condemned.iter().filter(|(_, one)| one.removed);
        for (id, _) in removed {
            self.bytes.remove(id);
            self.frames.remove(id);
        }
    }

    /// Nor what records introduced that a `promote` left behind: the log that goes on does not know it.
    fn leave_out_left_behind(&mut self, newest: &State) {
        self.bytes.retain(|id, _| newest.packs.contains_key(id));
        self.frames.retain(|id, _| newest.packs.contains_key(id));
    }

    /// Whether anything of a pack is looked at.
    fn reads(&self, id: PackId) -> bool {
        self.frames.contains_key(&id)
    }

    fn name(&mut self, chunk: &Chunk) {
        if let Some(ContentObject::Pack(id)) = chunk.at.object
            && let Some(frames) = self.frames.get_mut(&id)
        {
            frames.insert(Frame::of(chunk));
        }
    }

    fn step(&mut self, step: &Step, inventory: &Inventory) {
        let Some(stored) = &step.stored else {
            return;
        };
        for pack in &stored.record.envelope.draft.packs {
            if !self.bytes.contains_key(&pack.id) {
                self.introduce(pack.id, pack.bytes, inventory);
            }
        }
        chunks_in(stored).for_each(|chunk| self.name(chunk));
    }
}

/// Goes through the log.
async fn follow(
    store: &Store,
    inventory: &Inventory,
    options: &Options,
    packs: &mut Packs<'_>,
    found: &mut Findings,
    watch: &dyn Watch,
) -> Result<()> {
    let mut walk = Walk::new(store, inventory, found.facts.genesis, &options.known);
    let mut caches = Caches::new(store, inventory);
    let mut untold = Vec::new();
    let mut retired = Vec::new();
    let mut collection = Collection::default();
    loop {
        let had_state = walk.state.is_some();
        let Some(step) = walk.next().await? else {
            break;
        };
        let Findings { report, facts } = &mut *found;
        report.counts.records += u64::from(step.stored.is_some());
        note_record(&step, report, facts);
        let goes_on = !had_state || step.stored.is_none();
        if let Some(state) = &walk.state
            && (goes_on || names_snapshots(&step))
        {
            facts.snapshots.clone_from(&state.snapshots);
        }
        if goes_on {
            // What a lost record introduced is told by the next checkpoint.
            packs.resume(walk.state.as_ref(), inventory);
        }
        collected::note(&mut collection, &step, &walk);
        packs.step(&step, inventory);
        caches.step(&step, walk.state.as_ref(), report).await?;
        if let Some(stored) = &step.stored {
            report.head = Some(stored.record.reference());
        }
        if walk.state.is_none() {
            untold.push(step.number);
        }
        if step.stored.as_ref().is_some_and(StoredRecord::is_retired) {
            retired.push((step.number, Neighbours::of(&step)));
        }
        watch.done(1);
    }
    let newest = walk.state;
    let is_told = newest.is_some();
    let is_left = |number: u64| {
        let newest = newest.as_ref();
        newest.is_some_and(|newest| newest.is_left_behind(number))
    };
    let is_kept = |number: &u64| {
        *number >= collection.cut.max(1)
            && !collection.expired.contains(*number)
            && !is_left(*number)
    };
    collected::check_listings(store, &collection, packs, found).await?;
    for number in untold.into_iter().filter(is_kept) {
        found.report.note_gap(number);
    }
    // Where the state can't be told, a removal may have been lost that says so.
    for (number, neighbours) in retired.into_iter().filter(|_| is_told) {
        if number > collection.cut && !is_left(number) {
            let reason = "its body was cut away, and the log does not say so".to_owned();
            let key = layout::record(number);
            found.report.note(key, Kind::Record, reason);
            found.facts.records.insert(number, neighbours);
        }
    }
    packs.leave_out_removed(&collection);
    if let Some(newest) = newest.filter(|newest| newest.epoch() > 0) {
        packs.leave_out_left_behind(&newest);
    }
    caches.finish(&collection, &mut found.report).await?;
    found.facts.collection = collection;
    collected::name_moved(store, inventory, options, packs, &found.facts).await
}

/// Whether a record may give or take the name of a snapshot.
fn names_snapshots(step: &Step) -> bool {
    let body = step.stored.as_ref().map(|stored| &stored.record.body);
    matches!(
        body,
        Some(Body::Snapshot(_) | Body::Rollback(_) | Body::Forget(_) | Body::Promote(_))
    )
}

fn note_record(step: &Step, report: &mut Report, facts: &mut Facts) {
    let Some(flaw) = &step.flaw else {
        return;
    };
    let (reason, lost, is_content_only) = match flaw {
        Flaw::Whole(reason) => (reason, Lost::Whole, false),
        Flaw::Content(broken) => (&broken.reason, Lost::At(broken.lost.clone()), true),
        Flaw::Other => {
            // Both may be acknowledged, so which of them counts is for people to decide.
            let reason = "another record was seen there before; the store seems to have been set \
                          back to an older copy and to have gone on from there";
            report.note(layout::record(step.number), Kind::Record, reason.into());
            return;
        }
    };
    report.note(layout::record(step.number), Kind::Record, reason.clone());
    facts
        .lost
        .0
        .insert(ContentObject::Record(step.number), lost);
    let mut neighbours = Neighbours::of(step);
    neighbours.is_content_only = is_content_only;
    facts.records.insert(step.number, neighbours);
}

/// Looks at packs: all by the listing, and at the content of those that are due.
async fn check_packs(
    store: &Store,
    inventory: &Inventory,
    packs: Packs<'_>,
    found: &mut Findings,
    watch: &dyn Watch,
) -> Result<()> {
    let Packs {
        options,
        bytes,
        mut frames,
    } = packs;
    let Findings { report, facts } = found;
    report.counts.packs = bytes.len() as u64;
    report.counts.pack_bytes = bytes.values().sum();
    let unnamed = inventory.packs.keys().filter(|id| !bytes.contains_key(id));
    report.leftovers.packs = unnamed.count() as u64;
    let mut due = Vec::new();
    for (id, announced) in bytes {
        let Some(frames) = frames.remove(&id) else {
            continue;
        };
        // Pushed since the listing, perhaps.
        let key = layout::pack(id);
        let length = match inventory.packs.get(&id) {
            Some(length) => Some(*length),
            None => store.length(&key).await?,
        };
        let is_due = options.is_due(id);
        match length {
            None => {
                report.note(key, Kind::Pack, String::new());
                facts.lost.0.insert(ContentObject::Pack(id), Lost::Whole);
                facts.packs.insert(id, (announced, frames));
            }
            Some(length) if is_due || length != announced => due.push((id, announced, frames)),
            Some(_) => {}
        }
    }
    watch.expect(due.len() as u64);
    let check = |(id, announced, frames): (PackId, u64, BTreeSet<Frame>)| async move {
        let (bytes, answer) = match read_object(store, &layout::pack(id)).await? {
            Ok(bytes) => {
                let answer = check_content(id, &bytes, announced, &frames);
                (
                    bytes.len() as u64,
                    answer.map_err(|broken| (broken.reason, Lost::At(broken.lost))),
                )
            }
            Err(reason) => (0, Err((reason, Lost::Whole))),
        };
        Ok::<_, Error>((id, announced, frames, bytes, answer))
    };
    let mut checks = stream::iter(due).map(check).buffer_unordered(PACKS_AT_ONCE);
    while let Some(checked) = checks.next().await {
        let (id, announced, frames, bytes, answer) = checked?;
        report.counts.packs_read += 1;
        report.counts.bytes_read += bytes;
        if let Err((mut reason, lost)) = answer {
            if reason.is_empty() && bytes > 0 {
                reason = wrong_length(announced, bytes);
            }
            report.note(layout::pack(id), Kind::Pack, reason);
            facts.lost.0.insert(ContentObject::Pack(id), lost);
            facts.packs.insert(id, (announced, frames));
        }
        watch.done(1);
    }
    Ok(())
}
