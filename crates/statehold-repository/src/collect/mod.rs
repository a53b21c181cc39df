//! Collecting: points are let go, what is still needed of their content is moved together, and what
//! nothing names any more is deleted.
//!
//! It takes two records, days apart. A `compact` condemns; a `remove` lists what goes. Between the
//! two nobody names what is condemned, and every reader has time to notice. Nobody pauses, and any
//! number of collectors may be at it: one wins, the others look again. A collector may die anywhere; what it
//! leaves is found by the next one.
//!
//! 1. `look`: one pass over the log.
//! 2. `plan`: what is let go, condemned and moved, decided without I/O.
//! 3. `copy`: what is still needed, into new packs.
//! 4. `listings`: what stands in for records that are retired.
//! 5. [`removal`]: the only code that deletes.

mod along;
mod copy;
mod listings;
mod look;
mod plan;
pub mod removal;
mod usage;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use statehold_core::collection::{CompactBody, RemoveBody};
use statehold_core::entry::ContentObject;
use statehold_core::id::{MachineId, Nonce, PackId, TreeId};
use statehold_core::limits::{
    COLLECTED_PACKS_MAX, MOVES_MAX, RETENTION_FLOOR_DAYS, UPLOAD_HOURS_MAX,
};
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, DraftHead, Kind, NewPack};
use statehold_core::state::State;

use self::look::{Look, look};
use self::plan::{Plan, Wish, current, is_kept, plan, purged};
pub use self::removal::Deleted;
pub use self::usage::{Shorter, Usage};
use crate::error::{Error, Result};
use crate::format::record::StoredDraft;
use crate::layout;
use crate::repository::Repository;

/// How long a collector waits, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Nothing is deleted before so long after it was condemned, and no point expires that was superseded more recently.
    pub floor: Duration,
    /// What no record knows may be an upload under way for so long.
    pub upload: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3_600);
        Self {
            floor: hours(RETENTION_FLOOR_DAYS * 24),
            upload: hours(UPLOAD_HOURS_MAX),
        }
    }
}

/// What collecting came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// What was let go and condemned.
    pub compacted: Compacted,
    /// What was deleted, of what had been condemned before; `None` where nothing was done.
    pub removed: Option<Removed>,
    /// What a purge cannot tell; `None` where it could tell all, and of anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<Untold>,
}

/// What is still in the store and may hold content of any path: nothing that can be read by the log says what was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// Packs that are condemned and not deleted yet, or that no record in effect knows. They are deleted by a later
    /// compaction.
    pub packs: usize,
    /// Their length, in stored bytes.
    pub bytes: u64,
    /// Records that a promote left behind. They are cut down to their envelopes once the log is cut behind that
    /// promote.
    pub left_behind: u64,
}

/// What a compaction came to, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// Its record; `None` where there was nothing to say, or nothing was said.
    pub record: Option<u64>,
    /// Points that were kept before.
    pub points: usize,
    /// Points that the policy lets go.
    pub expired: usize,
    /// Whether they stay until somebody approves: they are over half of all.
    pub is_held: bool,
    /// Packs that are condemned.
    pub condemned: usize,
    /// Those of them that no record knows.
    pub orphans: usize,
    /// Their length, in stored bytes.
    pub condemned_bytes: u64,
    /// Content that rides in records up to this one is condemned; 0 for none.
    pub records: u64,
    /// Frames that are still needed and move.
    pub moved: usize,
    /// Their length, in stored bytes.
    pub moved_bytes: u64,
    /// Frames that are purged.
    pub purged: usize,
}

/// What a removal came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its record; `None` where nothing was due.
    pub record: Option<u64>,
    /// Packs that it names.
    pub packs: usize,
    /// Records up to this one are retired.
    pub cut: u64,
    /// Listings that stand in for what is kept of them.
    pub listings: usize,
    /// What was deleted, by this removal and by those before it that had not been finished.
    pub deleted: Deleted,
    /// Whether the store refuses to delete, or keeps what it said it deleted. Nothing is compacted from then on until
    /// it does, or somebody approves.
    #[serde(default)]
    pub is_refused: bool,
}

/// Collects in one repository.
#[derive(Debug)]
pub struct Collector<'a> {
    repository: &'a Repository,
    machine: MachineId,
    settings: Settings,
}

impl<'a> Collector<'a> {
    /// A collector, as itself.
    pub fn new(repository: &'a Repository, settings: Settings) -> Self {
        let machine = MachineId::random(repository.entropy());
        Self {
            repository,
            machine,
            settings,
        }
    }

    /// What [`Self::compact`] would do.
    pub async fn dry(&self) -> Result<Compacted> {
        let look = look(self.repository, None).await?;
        let wish = self.wish(true);
        Ok(report(&look, &plan(&look, wish)))
    }

    /// What takes space; and what keeping every point for so many days only would free, if that is asked.
    pub async fn usage(&self, within_days: Option<u32>) -> Result<Usage> {
        let look = look(self.repository, None).await?;
        Ok(usage::usage(&look, self.settings, within_days))
    }

    /// Lets go of what the policy lets go, and moves what is still needed of packs less than half alive.
    /// An expiry of over half of the points waits until it is approved. Where another collector comes first,
    /// this one looks again.
    pub async fn compact(&self, is_approved: bool) -> Result<Compacted> {
        let mut rounds = 0;
        loop {
            match self.try_compact(self.wish(is_approved), None).await {
                Err(error) => again(&mut rounds, error)?,
                compacted => return compacted,
            }
        }
    }

    /// Deletes what was condemned long enough ago and is named by nothing that is kept, what holds content that was
    /// purged at once, and finishes what an earlier collector began.
    pub async fn remove(&self) -> Result<Removed> {
        let mut rounds = 0;
        loop {
            match self.try_remove().await {
                Err(error) => again(&mut rounds, error)?,
                removed => return removed,
            }
        }
    }

    async fn try_remove(&self) -> Result<Removed> {
        let look = look(self.repository, None).await?;
        self.remove_after(&look).await
    }

    /// [`Self::compact`], and then [`Self::remove`]. Where the store still has what the log says is deleted, and goes
    /// on keeping it, nothing is compacted unless it is approved: content would be copied, and its old place stay.
    pub async fn collect(&self, is_approved: bool) -> Result<Collected> {
        if !is_approved && self.is_kept_back().await? {
            return Ok(Collected {
                removed: Some(Removed {
                    is_refused: true,
                    ..Removed::default()
                }),
                ..Collected::default()
            });
        }
        Ok(Collected {
            compacted: self.compact(is_approved).await?,
            removed: Some(self.remove().await?),
            untold: None,
        })
    }

    /// Whether the store has packs that the log says are deleted, and does not let go of them now either.
    async fn is_kept_back(&self) -> Result<bool> {
        let store = self.repository.store();
        let collection = self.repository.newest_collection().await?;
        if !collection.condemned.values().any(|one| one.removed) {
            return Ok(false);
        }
        for may_delete in [true, false] {
            let listed = store.list_objects().await?;
            let keys = || listed.iter().map(|listed| listed.key.as_str());
            if !keys().any(|key| removal::is_removed(&collection, key)) {
                return Ok(false);
            }
            if may_delete {
                let deleted = removal::run(store, &collection, keys(), &[]).await;
                if deleted.as_ref().is_err_and(is_refusal) {
                    return Ok(true);
                }
                deleted?;
            }
        }
        Ok(true)
    }

    /// Makes the content that was ever at a path, or beneath it, unreadable at every point, and deletes it
    /// at once. The directory must not have it any more. Killed between the two, it leaves the deleting to the
    /// next removal, by whomever.
    pub async fn purge(&self, path: &RepoPath) -> Result<Collected> {
        let wish = Wish {
            is_purge: true,
            ..self.wish(false)
        };
        let mut rounds = 0;
        let compacted = loop {
            match self.try_compact(wish, Some(path)).await {
                Err(error) => again(&mut rounds, error)?,
                Ok(compacted) => break compacted,
            }
        };
        let removed = self.remove().await?;
        if removed.is_refused {
            return Err(Error::Denied {
                reason: "the store deletes nothing, so what was purged is still in it".into(),
            });
        }
        Ok(Collected {
            untold: self.untold().await?,
            removed: Some(removed),
            compacted,
        })
    }

    /// What nothing that can be read by the log tells of, and is still there.
    async fn untold(&self) -> Result<Option<Untold>> {
        let state = crate::remote::load(self.repository).await?.state;
        let (mut untold, collection) = (Untold::default(), &state.collection);
        for listed in self.repository.store().list_objects().await? {
            let Some(id) = layout::parse_pack(&listed.key) else {
                continue;
            };
            let condemned = collection.condemned.get(&id);
            if condemned.is_some_and(|one| !one.removed)
                || condemned.is_none() && !state.packs.contains_key(&id)
            {
                untold.packs += 1;
                untold.bytes += listed.bytes;
            }
        }
        let epochs = state.epochs.iter();
        let epochs = epochs.filter(|epoch| epoch.by.number > collection.cut);
        untold.left_behind = epochs
            .map(|epoch| epoch.by.number - epoch.from.number.saturating_add(1))
            .sum();
        Ok(Some(untold).filter(|untold| untold.packs > 0 || untold.left_behind > 0))
    }

    /// One look, and what follows from it; with the content that was ever at a path, if that is to go.
    async fn try_compact(&self, wish: Wish, purged: Option<&RepoPath>) -> Result<Compacted> {
        let looked = look(self.repository, purged).await?;
        if let Some(path) = purged {
            check_absent(&looked, path)?;
        }
        self.carry_out(&looked, &plan(&looked, wish)).await
    }

    fn wish(&self, is_approved: bool) -> Wish {
        Wish {
            floor_ms: millis(self.settings.floor),
            upload_ms: millis(self.settings.upload),
            is_approved,
            is_purge: false,
        }
    }

    async fn carry_out(&self, look: &Look, plan: &Plan) -> Result<Compacted> {
        let mut compacted = report(look, plan);
        if plan.is_empty() {
            return Ok(compacted);
        }
        let copied = copy::copy(self.repository, &plan.copies).await?;
        let moves = plan.moves(&copied.places);
        if moves.len() > MOVES_MAX {
            let found = moves.len();
            return Err(Error::refused(format!(
                "earlier points name {found} frames that were moved, {MOVES_MAX} is the limit; let some \
                 of these points go first"
            )));
        }
        let body = Body::Compact(CompactBody {
            base: look.state.head,
            expired: plan.expired.clone(),
            condemned: plan.condemned.clone(),
            records: plan.records,
            moves,
        });
        let state = self
            .append(Kind::Compact, body, copied.packs, &look.state)
            .await?;
        // Readers of earlier points learn from it where content lies now.
        self.repository.write_checkpoint(&state).await?;
        compacted.record = Some(state.collection.compacted);
        compacted.moved_bytes = copied.bytes;
        Ok(compacted)
    }

    /// Removes what is due.
    async fn remove_after(&self, look: &Look) -> Result<Removed> {
        let (packs, cut) = self.due(look);
        let collection = &look.state.collection;
        let is_ended = look.state.fenced.is_some();
        if is_ended || packs.is_empty() && cut == collection.cut {
            let deleted = self.finish(&look.state, look, &[]).await?;
            return Ok(Removed {
                cut: collection.cut,
                listings: collection.listings.len(),
                is_refused: deleted.is_none(),
                deleted: deleted.unwrap_or_default(),
                ..Removed::default()
            });
        }
        let listings = if cut > collection.cut {
            listings::write_checkpoint(self.repository, cut, &look.state).await?;
            listings::write(self.repository, look, cut).await?
        } else {
            collection.listings.clone()
        };
        let named: HashSet<TreeId> = listings
            .iter()
            .flat_map(|listing| std::iter::once(&listing.tree.id).chain(&listing.tree.others))
            .copied()
            .collect();
        let trees = self.unnamed_trees(look, cut, named).await?;
        let body = Body::Remove(RemoveBody {
            base: look.state.head,
            packs: packs.clone(),
            cut,
            listings: listings.clone(),
        });
        let state = self
            .append(Kind::Remove, body, Vec::new(), &look.state)
            .await?;
        let deleted = self.finish(&state, look, &trees).await?;
        Ok(Removed {
            record: Some(state.collection.collected),
            packs: packs.len(),
            cut,
            listings: listings.len(),
            is_refused: deleted.is_none(),
            deleted: deleted.unwrap_or_default(),
        })
    }

    /// What was condemned long enough ago and is named by nothing that is kept: packs, and up to which
    /// record. What holds purged content is due at once, whoever condemned it and when.
    fn due(&self, look: &Look) -> (Vec<PackId>, u64) {
        let collection = &look.state.collection;
        let floor = millis(self.settings.floor);
        let is_old = |by: u64| {
            let key = layout::record(by);
            let age = |listed: &crate::store::Listed| {
                look.now
                    .as_millis()
                    .saturating_sub(listed.modified.as_millis())
            };
            let record = look.objects.get(&key);
            record.map(age).is_some_and(|age| age >= floor)
        };
        let purged: BTreeSet<ContentObject> =
            purged(&look.moves).map(|(object, _)| object).collect();
        let kept = look
            .spans
            .iter()
            .filter(|span| is_kept(span, &collection.expired));
        let named: BTreeSet<ContentObject> = kept
            .filter_map(|span| current(span, &look.moves))
            .map(|(object, _)| object)
            .collect();
        let packs = collection.condemned.iter().filter(|(id, condemned)| {
            let object = ContentObject::Pack(**id);
            let is_due = purged.contains(&object) || is_old(condemned.by);
            !condemned.removed && !named.contains(&object) && is_due
        });
        let packs = packs.map(|(id, _)| *id).take(COLLECTED_PACKS_MAX);
        let retiring = collection.retiring.iter().filter(|(by, _)| is_old(**by));
        let cut = retiring.map(|(_, records)| *records).max().unwrap_or(0);
        let record_of = |object: &ContentObject| match object {
            ContentObject::Record(number) => Some(*number),
            ContentObject::Pack(_) => None,
        };
        let cut = cut.max(purged.iter().filter_map(record_of).max().unwrap_or(0));
        let first_named = named.iter().filter_map(record_of).min();
        let before_named = first_named.map_or(u64::MAX, |first| first - 1);
        (packs.collect(), cut.min(before_named).max(collection.cut))
    }

    /// Trees that neither a listing nor a checkpoint at or after the cut names, as this collector saw it
    /// before its removal.
    async fn unnamed_trees(
        &self,
        look: &Look,
        cut: u64,
        mut named: HashSet<TreeId>,
    ) -> Result<Vec<TreeId>> {
        // Listed now: the one at the cut may be another's, written since the look.
        let store = self.repository.store();
        for key in store.list(layout::CHECKPOINTS, layout::CHECKPOINTS).await? {
            if let Some((number, _)) = layout::parse_checkpoint(&key).filter(|(at, _)| *at >= cut)
                && let Some(found) = self.repository.read_checkpoint(number, &key).await?
            {
                named.insert(found.tree.id);
                named.extend(found.tree.others);
            }
        }
        let upload = millis(self.settings.upload);
        let is_old = |listed: &&crate::store::Listed| {
            let age = look
                .now
                .as_millis()
                .saturating_sub(listed.modified.as_millis());
            age >= upload
        };
        let trees = look.objects.values().filter(is_old);
        let trees = trees.filter_map(|listed| layout::parse_tree(&listed.key));
        Ok(trees.filter(|id| !named.contains(id)).collect())
    }

    /// Deletes what the log says is deleted, once the newest checkpoint says so too: from it readers of
    /// earlier points learn what to read instead. `None` where the store refuses to.
    async fn finish(
        &self,
        state: &State,
        look: &Look,
        trees: &[TreeId],
    ) -> Result<Option<Deleted>> {
        let said = self.repository.newest_collection().await?.collected;
        if said < state.collection.collected {
            self.repository.write_checkpoint(state).await?;
        }
        let listed = look.objects.keys().map(String::as_str);
        let collection = &state.collection;
        match removal::run(self.repository.store(), collection, listed, trees).await {
            Err(error) if is_refusal(&error) => {
                tracing::error!(%error, "the store deletes nothing: what was collected is still there");
                Ok(None)
            }
            deleted => {
                let deleted = deleted?;
                self.repository.forget(collection.cut);
                Ok(Some(deleted))
            }
        }
    }

    async fn append(
        &self,
        kind: Kind,
        body: Body,
        packs: Vec<NewPack>,
        state: &State,
    ) -> Result<std::sync::Arc<State>> {
        let nonce = Nonce::random(self.repository.entropy());
        let head = DraftHead::new(kind, self.machine, nonce, packs);
        let draft = StoredDraft::new(head, body, &[])?;
        let known = std::sync::Arc::new(state.clone());
        let (stored, state) = self.repository.append_as(&draft, &known, None).await?;
        let number = stored.record.envelope.number;
        if state.collection.collected != number {
            // Its own answer was lost, and another collector has come since.
            let (state, _) = self.repository.catch_up(&state).await?;
            return Ok(state);
        }
        Ok(state)
    }
}

/// How often a collector looks again before it says why it cannot go on.
const ROUNDS_MAX: u32 = 4;

/// Lets another round begin where another collector came first, or took away what this one was reading. What
/// is still missing or cut short in the last one is damage.
fn again(rounds: &mut u32, error: Error) -> Result<()> {
    let is_overtaken = matches!(
        error,
        Error::Conflict { .. }
            | Error::Retired { .. }
            | Error::NotFound { .. }
            | Error::Damaged { .. }
    );
    if !is_overtaken || *rounds == ROUNDS_MAX {
        return Err(error);
    }
    *rounds += 1;
    Ok(())
}

/// Whether a store says that it does not delete: objects are locked, or the credentials do not reach that far.
const fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Denied { .. } | Error::Refused { .. })
}

/// Refuses to purge what the directory still has.
fn check_absent(look: &Look, path: &RepoPath) -> Result<()> {
    let has = |entry| {
        let mut chunks = look::chunks_of(entry).iter();
        chunks.any(|chunk| look.wanted.contains(&chunk.digest))
    };
    let mut entries = look.state.tree.iter();
    match entries.find(|(_, entry)| has(entry)) {
        Some((there, _)) => Err(Error::refused(format!(
            "{there} still has content that was at {path}; delete it first, then purge"
        ))),
        None => Ok(()),
    }
}

fn report(look: &Look, plan: &Plan) -> Compacted {
    let bytes = |id: &PackId| look.pack(*id).map_or(0, |listed| listed.bytes);
    Compacted {
        record: None,
        points: plan.expiry.of,
        expired: plan.expiry.points,
        is_held: plan.is_held,
        condemned: plan.condemned.len(),
        orphans: plan.orphans,
        condemned_bytes: plan.condemned.iter().map(bytes).sum(),
        records: plan.records,
        moved: plan.copies.len(),
        moved_bytes: plan.copies.iter().map(|span| u64::from(span.stored)).sum(),
        purged: plan.gone.len(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
