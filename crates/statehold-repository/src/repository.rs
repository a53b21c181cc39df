//! A repository in a store: reading, appending, and the caches beside the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use statehold_core::collection::Collection;
use statehold_core::digest::Digest;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{KeyId, Nonce, PackId, RepositoryId, TreeId};
use statehold_core::limits::{
    APPEND_RACES_MAX, CHECKPOINT_RECORDS_MAX, HEAD_WINDOW_MAX, LOG_BATCH_BYTES, PACK_BYTES_MAX,
    SEGMENT_BYTES_MAX, SEGMENT_RECORDS,
};
use statehold_core::point::Point;
use statehold_core::rebase::{Overlap, may_follow};
use statehold_core::record::RecordRef;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;
use tokio::sync::OnceCell;

use crate::content::read_pack;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::format::checkpoint::{Checkpoint, EarlierCheckpoint};
use crate::format::description::Description;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::format::{segment, tree};
use crate::layout;
use crate::ranges::{Run, runs};
use crate::remote::{Batch, Opening, Remote, check_range, load, object_of, state_of};
use crate::store::{Creation, Store};

/// Requests under way at once for one caller.
const PARALLEL: usize = 16;
/// Stored bytes of records kept in memory.
const RECENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// So many records of a segment are worth reading all of it.
const SEGMENT_WORTH_RECORDS: u64 = 4;
/// As much of a record as holds its envelope, unless it introduces hundreds of packs.
const BEGINNING_BYTES: u64 = 16 * 1024;

/// A repository in a store.
#[derive(Debug)]
pub struct Repository {
    store: Store,
    description: Description,
    /// The description as it is stored; its digest is the id of record 0.
    described: Bytes,
    genesis: Digest,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    recent: Mutex<Recent>,
    /// Set once the description was seen in the store.
    seen: OnceCell<()>,
}

/// The newest records, by number. Records never change, so nothing in here goes stale.
#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<StoredRecord>,
    bytes: usize,
}

impl Recent {
    fn get(&self, number: u64) -> Option<&StoredRecord> {
        let first = self.records.front()?.record.envelope.number;
        self.records
            .get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn push(&mut self, stored: &StoredRecord) {
        let number = stored.record.envelope.number;
        match self.records.back() {
            Some(last) if last.record.envelope.number + 1 != number => {
                if last.record.envelope.number >= number {
                    return;
                }
                *self = Self::default();
            }
            _ => {}
        }
        self.bytes += stored.bytes.len();
        self.records.push_back(stored.clone());
        while self.bytes > RECENT_BYTES_MAX {
            match self.records.pop_front() {
                Some(old) => self.bytes -= old.bytes.len(),
                None => return,
            }
        }
    }
}

impl Repository {
    /// Opens the repository in a store; `None` when there is none.
    pub async fn open_existing(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Option<Self>> {
        let Some(bytes) = store.read(layout::REPOSITORY).await? else {
            return Ok(None);
        };
        let mut found = Self::described(store, bytes, clock, entropy)?;
        found.seen = OnceCell::new_with(Some(()));
        Ok(Some(found))
    }

    /// Opens the repository in a store by its description, which was read there once and never
    /// changes. The store isn't asked before [`Remote::confirm`] or the first reading does.
    pub fn described(
        store: Store,
        description: Bytes,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let described = description;
        let (description, genesis) = Description::from_bytes(&described)?;
        Ok(Self {
            store,
            description,
            described,
            genesis,
            clock,
            entropy,
            recent: Mutex::default(),
            seen: OnceCell::new(),
        })
    }

    /// Opens the repository in a store, and makes it first if there is none.
    pub async fn open_or_create(
        store: Store,
        id: RepositoryId,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let (clock_, entropy_) = (Arc::clone(&clock), Arc::clone(&entropy));
        if let Some(found) = Self::open_existing(store.clone(), clock_, entropy_).await? {
            return Ok(found);
        }
        store.check_clock(&*clock).await?;
        // A log without its description is one that lost it, and another one would not fit.
        if !store.list_first(layout::LOG, layout::LOG).await?.is_empty() {
            let reason = "it is missing, and the log has records";
            return Err(Error::damaged(layout::REPOSITORY, reason));
        }
        let description = Description::new(id, clock.now());
        store
            .create(layout::REPOSITORY, description.to_bytes().into())
            .await?;
        // Whoever won the race: what stands there now is the repository.
        let found = Self::open_existing(store, clock, entropy).await?;
        found.ok_or_else(|| Error::NotFound {
            object: layout::REPOSITORY.into(),
        })
    }

    /// What it lies in.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The description as it is stored, for [`Self::described`].
    pub const fn stored_description(&self) -> &Bytes {
        &self.described
    }

    /// Looks for the description in the store, once.
    async fn see(&self) -> Result<()> {
        let look = async || {
            let unavailable = |source: &str| Error::Unavailable {
                what: "the repository".into(),
                source: source.into(),
            };
            match self.store.read(layout::REPOSITORY).await? {
                Some(bytes) if bytes == self.described => Ok(()),
                Some(_) => Err(Error::refused(
                    "the store holds another repository than the workspace is linked with; \
                     `statehold unlink`, then `statehold link` if that is meant",
                )),
                None => Err(unavailable("the store holds none; is it mounted?")),
            }
        };
        self.seen.get_or_try_init(look).await.map(drop)
    }

    /// Makes sure that a record stands in the log, unless it was met here before.
    async fn see_record(&self, known: RecordRef) -> Result<()> {
        let RecordRef { number, id } = known;
        let met = self.recent().get(number).map(|stored| stored.record.id);
        if number == 0 || met == Some(id) {
            return Ok(());
        }
        let key = layout::record(number);
        let found = match self.store.read_beginning(&key, BEGINNING_BYTES).await? {
            None => None,
            Some(beginning) => match StoredRecord::read_id(number, &beginning)? {
                Some(found) => Some(found),
                None => self.record(number).await?.map(|stored| stored.record.id),
            },
        };
        match found {
            Some(found) if found == id => Ok(()),
            Some(found) => Err(Error::Diverged {
                number,
                expected: id,
                found,
            }),
            None => {
                self.see().await?;
                let reason = "it was there before; the store seems to have been set back to an \
                              older copy. If that is meant, `statehold unlink`, then `statehold \
                              link` joins what it holds now";
                Err(Error::damaged(key, reason))
            }
        }
    }

    /// What ages are reckoned by where the store has no clock of its own.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// What names are drawn from.
    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// What the newest checkpoint says of collecting.
    pub(crate) async fn newest_collection(&self) -> Result<Collection> {
        let newest = self.checkpoint(None).await?;
        Ok(newest.map(|newest| newest.collection).unwrap_or_default())
    }

    /// What the newest checkpoint at or before a record says of collecting.
    pub(crate) async fn collection_at(&self, number: u64) -> Result<Option<Collection>> {
        let found = self.checkpoint(Some(number)).await?;
        Ok(found.map(|found| found.collection))
    }

    /// The checkpoint at a record, with its key.
    pub(crate) async fn checkpoint_at(&self, number: u64) -> Result<Option<(String, Checkpoint)>> {
        for (found, key) in self.checkpoint_keys(Some(number)).await? {
            if found == number
                && let Some(checkpoint) = self.read_checkpoint(number, &key).await?
            {
                return Ok(Some((key, checkpoint)));
            }
        }
        Ok(None)
    }

    /// The state at a record as it was then: content lies where it lay.
    pub(crate) async fn state_then(&self, number: u64) -> Result<State> {
        if number == 0 {
            return Ok(self.empty_state());
        }
        let opening = self
            .opening_from(Some(number), Until::Record(number))
            .await?;
        let state = state_of(self, opening, Point::Record(number)).await?;
        let found = state.head.number;
        if found != number {
            let reason = format!("it leads to record {found} instead of {number}");
            return Err(Error::damaged("the log", reason));
        }
        Ok(Arc::unwrap_or_clone(state))
    }

    /// The state that the checkpoint at a record stands for.
    pub(crate) async fn state_from_checkpoint(&self, number: u64) -> Result<State> {
        let missing = || Error::NotFound {
            object: layout::checkpoint(number, 0),
        };
        let (_, checkpoint) = self.checkpoint_at(number).await?.ok_or_else(missing)?;
        let tree = self.tree_of(&checkpoint.tree).await?;
        Ok(checkpoint.into_state(tree))
    }

    /// A stored tree.
    pub(crate) async fn tree_of(&self, reference: &tree::TreeRef) -> Result<Tree> {
        tree::read(reference, &self.tree_objects(reference).await?)
    }

    /// Writes a tree, sharing these pages of an earlier one.
    pub(crate) async fn write_tree(
        &self,
        tree: &Tree,
        pages: &[(TreeId, tree::PageLine)],
    ) -> Result<tree::TreeRef> {
        let id = TreeId::random(&*self.entropy);
        let (reference, bytes) = tree::write(id, tree, pages);
        self.store.create(&layout::tree(id), bytes).await?;
        Ok(reference)
    }

    /// The state of the repository before its first record.
    pub fn empty_state(&self) -> State {
        State::empty(self.genesis)
    }

    /// Writes a pack that the caller has checked, as [`Remote::put_pack`] does one that nobody has.
    pub async fn put_checked_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        if bytes.len() > PACK_BYTES_MAX {
            let found = bytes.len();
            return Err(Error::refused(format!(
                "the pack has {found} bytes, {PACK_BYTES_MAX} is the limit"
            )));
        }
        self.see().await?;
        let key = layout::pack(id);
        if self.store.create(&key, bytes.clone()).await? == Creation::Exists {
            // Names are never drawn twice, so this is the same pack sent again.
            let there = self.store.read(&key).await?;
            if there.as_ref() != Some(&bytes) {
                return Err(Error::refused(format!("{key} exists with other content")));
            }
        }
        Ok(())
    }

    /// Appends a draft in the name of a key, and gives the state after it as well. After any error
    /// but [`Error::Unknown`], this call has not appended it and will not.
    pub async fn append_as(
        &self,
        draft: &StoredDraft,
        known: &Arc<State>,
        key: Option<KeyId>,
    ) -> Result<(StoredRecord, Arc<State>)> {
        let mut state = Arc::clone(known);
        let head = &draft.draft.head;
        let base = draft
            .draft
            .body
            .base()
            .ok_or_else(|| Error::refused("a draft without a base"))?;
        if draft.draft.body.kind().as_ref() != Some(&head.kind) {
            return Err(Error::refused("the draft's kind is not that of its body"));
        }
        if base.number > state.head.number {
            state = self.catch_up(&state).await?.0;
        }
        // Everything since the base may be our own earlier attempt, or in our way.
        let since = self.since_in_epoch(base, &state, head.nonce).await?;
        if let Some(landed) = landed(draft, since, &state)? {
            return Ok((landed, state));
        }
        for _ in 0..APPEND_RACES_MAX {
            self.store.check_clock(&*self.clock).await?;
            let time = state.time.max(self.clock.now());
            let stored = draft.at(state.head, time, key);
            let number = stored.record.envelope.number;
            let checked = state.check(&stored.record.envelope, &stored.record.body);
            checked.map_err(|violation| {
                // Planned on this very state it would break the rule again.
                if violation.is_overtaken() && base.number < state.head.number {
                    let (number, paths) = (state.head.number, Vec::new());
                    let overlap = Overlap { paths };
                    return Error::Conflict { number, overlap };
                }
                Error::refused(violation)
            })?;
            let key_name = layout::record(number);
            match self.store.create(&key_name, stored.bytes.clone()).await {
                Ok(Creation::New) => {
                    self.remember(&stored);
                    let mut follower = Follower::new(self, state);
                    follower.take_in(&stored).await?;
                    return Ok((stored, follower.into_state()));
                }
                Ok(Creation::Exists) => {}
                Err(error @ Error::Unavailable { .. }) => {
                    return Err(self.unknown_unless_absent(number, error).await);
                }
                Err(error) => return Err(error),
            }
            // Somebody was first, or we were and the answer was lost: until what stands there has
            // been read, it is open which.
            let (next, came_first) = match self.catch_up(&state).await {
                Err(Error::Unavailable { .. } | Error::Denied { .. }) => {
                    return Err(Error::Unknown { number });
                }
                caught_up => caught_up?,
            };
            // S3 answers 409 to a create beside another under way, which may come to nothing.
            if came_first.is_empty() {
                return Err(Error::Unknown { number });
            }
            let came_first = if next.epoch() == state.epoch() {
                came_first
            } else {
                self.since_in_epoch(base, &next, head.nonce).await?
            };
            if let Some(landed) = landed(draft, came_first, &next)? {
                return Ok((landed, next));
            }
            state = next;
        }
        let what = format!("a place in the log after {APPEND_RACES_MAX} lost races");
        Err(Error::Unavailable {
            what,
            source: "others write faster; try again".into(),
        })
    }

    /// What to say of a record whose create failed. Nothing is under way to a folder once an attempt
    /// has ended, so there a look tells, and the cause, such as a full disk, can be named.
    async fn unknown_unless_absent(&self, number: u64, error: Error) -> Error {
        let is_absent = self.store.is_folder()
            && matches!(self.store.read(&layout::record(number)).await, Ok(None));
        if is_absent {
            return error;
        }
        tracing::warn!(number, %error, "nobody knows whether a record landed");
        Error::Unknown { number }
    }

    /// The state with every further record taken in, and those records.
    pub async fn catch_up(&self, state: &Arc<State>) -> Result<(Arc<State>, Vec<StoredRecord>)> {
        let mut follower = Follower::new(self, Arc::clone(state));
        let mut came: Vec<StoredRecord> = Vec::new();
        let mut is_retired = false;
        loop {
            let last = came.last().map(|stored| stored.record.envelope.number);
            let batch = self.records(last.unwrap_or(state.head.number)).await?;
            for stored in &batch.records {
                if is_retired {
                    break;
                }
                match follower.take_in(stored).await {
                    Err(Error::Retired { .. }) => is_retired = true,
                    taken => drop(taken?),
                }
            }
            came.extend(batch.records);
            if !batch.more {
                break;
            }
        }
        if is_retired {
            // Their envelopes are all that whoever looks for a nonce needs; the state is in a checkpoint.
            let state = load(self).await?.state;
            let last = came.last().map(|stored| stored.record.envelope.number);
            let last = last.unwrap_or(state.head.number);
            came.extend(self.range(last + 1, state.head.number).await?);
            return Ok((state, came));
        }
        Ok((follower.into_state(), came))
    }

    /// The records after the base of a draft, which has to be of this epoch. One of an earlier epoch has
    /// landed only if somebody brought it over; its base may be of another log, so it is looked for from
    /// where this one began. Otherwise what it introduces lies in another store, and it is made anew.
    async fn since_in_epoch(
        &self,
        base: RecordRef,
        state: &State,
        nonce: Nonce,
    ) -> Result<Vec<StoredRecord>> {
        let Some(epoch) = state.epochs.last() else {
            return self.since(base, state.head).await;
        };
        if base.number >= epoch.by.number {
            match self.since(base, state.head).await {
                Err(Error::Diverged { .. } | Error::Refused { .. }) => {}
                since => return since,
            }
        }
        let since = self.since(epoch.by, state.head).await?;
        let landed = since
            .into_iter()
            .find(|stored| stored.record.envelope.draft.nonce == nonce);
        landed.map(|stored| vec![stored]).ok_or(Error::Conflict {
            number: epoch.by.number,
            overlap: Overlap { paths: Vec::new() },
        })
    }

    /// The records after `base` up to `head`, checked to descend from the base.
    async fn since(&self, base: RecordRef, head: RecordRef) -> Result<Vec<StoredRecord>> {
        let diverged = |found| Error::Diverged {
            number: base.number,
            expected: base.id,
            found,
        };
        if base.number > head.number {
            return Err(Error::refused(format!(
                "the base is record {} and the log ends at {}",
                base.number, head.number
            )));
        }
        if base.number == head.number {
            return if base.id == head.id {
                Ok(Vec::new())
            } else {
                Err(diverged(head.id))
            };
        }
        let records = self.range(base.number + 1, head.number).await?;
        match records.first().map(|stored| stored.record.envelope.parent) {
            Some(parent) if parent != base.id => Err(diverged(parent)),
            _ => Ok(records),
        }
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        // A panic elsewhere leaves at worst fewer records in here than there could be.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, stored: &StoredRecord) {
        self.recent().push(stored);
    }

    /// A record, from memory or the store.
    pub async fn record(&self, number: u64) -> Result<Option<StoredRecord>> {
        if let Some(found) = self.recent().get(number) {
            return Ok(Some(found.clone()));
        }
        let bytes = self.store.read(&layout::record(number)).await?;
        bytes
            .map(|bytes| StoredRecord::read(number, bytes))
            .transpose()
    }

    /// The records of a range that is known to exist. What lies in a whole segment comes out of it.
    async fn range(&self, from: u64, to: u64) -> Result<Vec<StoredRecord>> {
        let mut parts = Vec::new();
        let mut next = from;
        while next <= to {
            let (_, end) = segment_of(next);
            let worth_it = end - next + 1 >= SEGMENT_WORTH_RECORDS;
            let last = if worth_it && end <= to { end } else { next };
            parts.push((next, last));
            next = last + 1;
        }
        let read = |(from, to): (u64, u64)| async move {
            let (begin, end) = segment_of(from);
            if to == end
                && from < to
                && self.recent().get(from).is_none()
                && let Some(mut records) = self.segment(begin, end).await?
            {
                records.retain(|stored| stored.record.envelope.number >= from);
                return Ok((records, true));
            }
            Ok::<_, Error>((self.one_by_one(from, to).await?, false))
        };
        // What vouches for the last segment is read meanwhile.
        let ends_in_segment = parts.last().is_some_and(|(from, to)| from < to);
        let end = async {
            match ends_in_segment {
                true => self.record(to).await,
                false => Ok(None),
            }
        };
        let parts = stream::iter(parts).map(read).buffered(PARALLEL);
        let (mut parts, end): (Vec<(Vec<StoredRecord>, bool)>, _) =
            futures::try_join!(parts.try_collect(), end)?;
        // A segment is a cache. Its last record has to be the one that the log names, and then the
        // chain vouches for the others; one that doesn't match is passed over.
        let mut next_parent = None;
        for (records, from_segment) in parts.iter_mut().rev() {
            let number = |stored: &StoredRecord| stored.record.envelope.number;
            let (Some(from), Some(to)) = (records.first().map(number), records.last().map(number))
            else {
                continue;
            };
            if *from_segment {
                let end = next_parent.or_else(|| end.as_ref().map(|end| end.record.id));
                if !is_chain(records) || records.last().map(|stored| stored.record.id) != end {
                    tracing::warn!(from, to, "a segment is not the log's; reading its records");
                    *records = self.one_by_one(from, to).await?;
                }
            }
            next_parent = records.first().map(|stored| stored.record.envelope.parent);
        }
        let records: Vec<StoredRecord> =
            parts.into_iter().flat_map(|(records, _)| records).collect();
        // Their content is likely to be asked for next.
        records.iter().for_each(|stored| self.remember(stored));
        Ok(records)
    }

    /// The records of a range that is known to exist, from the log itself.
    async fn one_by_one(&self, from: u64, to: u64) -> Result<Vec<StoredRecord>> {
        let one = |number| async move {
            let missing = || Error::NotFound {
                object: layout::record(number),
            };
            self.record(number).await?.ok_or_else(missing)
        };
        stream::iter(from..=to)
            .map(one)
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    /// A segment; `None` when it is missing or of no use, since the records themselves remain.
    async fn segment(&self, from: u64, to: u64) -> Result<Option<Vec<StoredRecord>>> {
        let key = layout::segment(from, to);
        let Some(bytes) = self.store.read(&key).await? else {
            return Ok(None);
        };
        match segment::read(&key, bytes, from, to) {
            Ok(records) => Ok(Some(records)),
            Err(error) => {
                tracing::warn!(%error, "a segment cannot be used; reading its records");
                Ok(None)
            }
        }
    }

    /// The newest usable checkpoint at or before a record.
    async fn checkpoint(&self, at_most: Option<u64>) -> Result<Option<Checkpoint>> {
        for (number, key) in self.checkpoint_keys(at_most).await? {
            if let Some(checkpoint) = self.read_checkpoint(number, &key).await? {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// The newest checkpoints at or before a record, the best first.
    async fn checkpoint_keys(&self, at_most: Option<u64>) -> Result<Vec<(u64, String)>> {
        // Sorts after every copy of the next newer checkpoint, and before the one asked for.
        let after = match at_most.and_then(|number| number.checked_add(1)) {
            Some(newer) => format!("{}z", layout::checkpoint(newer, 0)),
            None => layout::CHECKPOINTS.to_owned(),
        };
        let keys = self.store.list_first(layout::CHECKPOINTS, &after).await?;
        let mut found: Vec<(u64, u32, String)> = keys
            .into_iter()
            .filter_map(|key| layout::parse_checkpoint(&key).map(|(at, copy)| (at, copy, key)))
            .collect();
        // A later copy was written because the earlier ones turned out to be of no use.
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(at, _, key)| (at, key)).collect())
    }

    /// A checkpoint; `None` when it is gone or of no use.
    pub(crate) async fn read_checkpoint(
        &self,
        number: u64,
        key: &str,
    ) -> Result<Option<Checkpoint>> {
        let Some(bytes) = self.store.read(key).await? else {
            return Ok(None);
        };
        match Checkpoint::read(key, &bytes) {
            Ok(checkpoint) if checkpoint.at.number == number => return Ok(Some(checkpoint)),
            Ok(_) => tracing::warn!(key, "a checkpoint stands under another's name"),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "a checkpoint cannot be read");
            }
            // That is no damage: the records after it can't be understood either.
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// The objects of a tree, as far as they are there: reading the tree says what is missing.
    async fn tree_objects(&self, reference: &tree::TreeRef) -> Result<HashMap<TreeId, Bytes>> {
        let mut ids = vec![reference.id];
        ids.extend(&reference.others);
        let read = |id| async move {
            let bytes = self.store.read(&layout::tree(id)).await?;
            Ok(bytes.map(|bytes| (id, bytes)))
        };
        stream::iter(ids)
            .map(read)
            .buffer_unordered(PARALLEL)
            .try_filter_map(async |found| Ok(found))
            .try_collect()
            .await
    }

    /// Whether a checkpoint stands for this state and its listing can be read.
    async fn is_usable(&self, found: &Checkpoint, state: &State) -> Result<bool> {
        if found.at != state.head {
            return Ok(false);
        }
        match self.shareable_pages(&found.tree).await {
            Ok(_) => Ok(true),
            Err(Error::Damaged { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pages of a tree, proven to be readable.
    pub(crate) async fn shareable_pages(
        &self,
        reference: &tree::TreeRef,
    ) -> Result<Vec<(TreeId, tree::PageLine)>> {
        let objects = self.tree_objects(reference).await?;
        tree::read(reference, &objects)?;
        let main = objects.get(&reference.id).cloned().unwrap_or_default();
        tree::page_table(reference.id, main)
    }

    /// The numbers of the records after one, by listing.
    async fn numbers_after(&self, after: u64) -> Result<Vec<u64>> {
        let keys = self.store.list(layout::LOG, &layout::record(after)).await?;
        Ok(keys
            .iter()
            .filter_map(|key| layout::parse_record(key))
            .collect())
    }

    /// Whether a record is lost: those after it were found, and it isn't there even now.
    async fn check_gap(&self, from: u64, found: &[Option<StoredRecord>]) -> Result<()> {
        let Some(gap) = found.iter().position(Option::is_none) else {
            return Ok(());
        };
        if found[gap..].iter().all(Option::is_none) {
            return Ok(());
        }
        let number = from + gap as u64;
        match self.record(number).await? {
            Some(_) => Ok(()),
            None => Err(Error::NotFound {
                object: layout::record(number),
            }),
        }
    }

    /// Records from `from` on, as far as the listing says and a batch holds. A record is only made
    /// when the one before it is there. So all up to the highest number are there, and one that the
    /// listing lacks was made while it went on, or is lost: reading it tells.
    /// `bytes` of the batch are taken already.
    async fn listed(&self, from: u64, numbers: &[u64], mut bytes: usize) -> Result<Batch> {
        let end = match numbers.last() {
            Some(highest) if *highest >= from => *highest,
            _ => return Ok(Batch::default()),
        };
        let (mut records, mut next) = (Vec::new(), from);
        while next <= end && bytes < LOG_BATCH_BYTES {
            // Up to the end of a segment, so that the next round begins with a whole one.
            let aligned = (next / SEGMENT_RECORDS + 4) * SEGMENT_RECORDS;
            let last = aligned.min(end);
            for stored in self.range(next, last).await? {
                bytes += stored.bytes.len();
                records.push(stored);
            }
            next = last + 1;
        }
        let more = next <= end;
        Ok(Batch { records, more })
    }

    /// What a reader without a state begins with.
    async fn opening(&self, at: Point) -> Result<Opening> {
        match at {
            Point::Newest => self.opening_from(None, Until::TheEnd).await,
            Point::Record(number) => self.opening_at(number).await,
            Point::Time(time) => self.opening_at_time(time).await,
        }
    }

    /// What leads to a moment: the newest checkpoint knows where the earlier ones stand in time, and where
    /// their listings are.
    async fn opening_at_time(&self, time: Timestamp) -> Result<Opening> {
        let keys = self.checkpoint_keys(None).await?;
        let Some((number, key)) = keys.first() else {
            return self.opening_from(None, Until::TheEnd).await;
        };
        let numbers = self.numbers_after(number.saturating_sub(1));
        let newest = self.read_checkpoint(*number, key);
        let (newest, numbers) = futures::try_join!(newest, numbers)?;
        let Some(newest) = newest else {
            return self.opening_from(None, Until::TheEnd).await;
        };
        if newest.time <= time {
            let trees = self.tree_objects(&newest.tree);
            let records = self.listed_of(newest.at.number, &numbers);
            let (trees, batch) = futures::try_join!(trees, records)?;
            let checkpoint = Some((newest, trees));
            return Ok(Opening {
                checkpoint,
                batch,
                moves: None,
            });
        }
        let number = newest.at.number;
        let at = newest
            .earlier
            .partition_point(|earlier| earlier.time <= time);
        let until = newest.earlier.get(at).map_or(number, |next| next.number);
        let from = at.checked_sub(1).and_then(|last| newest.earlier.get(last));
        if newest.collection.collected > 0 {
            // What is left of a record says what time it was, also where it is retired.
            let from = from.map_or(0, |earlier| earlier.number);
            let records = self.range(from + 1, until).await?;
            let is_past = |stored: &StoredRecord| stored.record.envelope.time > time;
            let past = records.iter().position(is_past).unwrap_or(records.len());
            return self.opening_at(from + past as u64).await;
        }
        let Some(from) = from else {
            return self.opening_from(Some(0), Until::Record(until)).await;
        };
        let key = layout::checkpoint(from.number, 0);
        let (checkpoint, trees, batch) = futures::try_join!(
            self.read_checkpoint(from.number, &key),
            self.tree_objects(&from.tree),
            self.records_from(from.number, Until::Record(until)),
        )?;
        match checkpoint.filter(|found| found.tree == from.tree) {
            Some(found) => Ok(Opening {
                checkpoint: Some((found, trees)),
                batch,
                moves: None,
            }),
            // Another one was written in its place.
            None => {
                self.opening_from(Some(from.number), Until::Record(until))
                    .await
            }
        }
    }

    /// What a reader begins with who wants the state at an earlier record. The newest checkpoint knows
    /// whether that is kept, and by which way it is reached.
    async fn opening_at(&self, number: u64) -> Result<Opening> {
        let opening = self.opening_from(Some(number), Until::Record(number));
        let (newest, opening) = futures::join!(self.checkpoint(None), opening);
        let Some(newest) = newest?.filter(|newest| newest.at.number > number) else {
            return opening;
        };
        let collection = &newest.collection;
        if let (before, after) = collection.nearest(number)
            && before != Some(number)
        {
            return Err(Error::Expired {
                number,
                before,
                after,
            });
        }
        let mut opening = match collection
            .listing(number)
            .filter(|_| number < collection.cut)
        {
            Some(listing) => self.listed_opening(number, &listing.tree).await?,
            None => opening?,
        };
        if collection.compacted > number {
            opening.moves = self.record(collection.compacted).await?;
        }
        Ok(opening)
    }

    /// An opening out of the listing that stands in for a record that is retired: a checkpoint that knows
    /// of nothing but the directory.
    async fn listed_opening(&self, number: u64, tree: &tree::TreeRef) -> Result<Opening> {
        let (record, trees) = futures::try_join!(self.record(number), self.tree_objects(tree))?;
        let record = record.ok_or_else(|| Error::NotFound {
            object: layout::record(number),
        })?;
        let mut state = self.empty_state();
        state.head = record.record.reference();
        state.time = record.record.envelope.time;
        let checkpoint = Checkpoint::of(&state, tree.clone(), Vec::new());
        Ok(Opening {
            checkpoint: Some((checkpoint, trees)),
            batch: Batch {
                records: vec![record],
                more: false,
            },
            moves: None,
        })
    }

    /// The newest usable checkpoint at or before a record, and the records that follow it.
    async fn opening_from(&self, at_most: Option<u64>, until: Until) -> Result<Opening> {
        // A checkpoint's name says where it stands, so the log is read meanwhile.
        for (number, key) in self.checkpoint_keys(at_most).await? {
            let checkpoint = async {
                let Some(checkpoint) = self.read_checkpoint(number, &key).await? else {
                    return Ok(None);
                };
                // Without all of its tree it is of no use; the reader takes an older one.
                let trees = self.tree_objects(&checkpoint.tree).await?;
                Ok::<_, Error>(Some((checkpoint, trees)))
            };
            let (checkpoint, batch) = futures::join!(checkpoint, self.records_from(number, until));
            let checkpoint = checkpoint?;
            if checkpoint.is_some() {
                let batch = batch?;
                return Ok(Opening {
                    checkpoint,
                    batch,
                    moves: None,
                });
            }
        }
        let batch = self.records_from(0, until).await?;
        Ok(Opening {
            checkpoint: None,
            batch,
            moves: None,
        })
    }

    /// The records after one that a checkpoint stands at, or its own where there is none.
    async fn records_from(&self, own: u64, until: Until) -> Result<Batch> {
        if let Until::Record(until) = until
            && let Some(more) = until.checked_sub(own)
            && more <= 2 * CHECKPOINT_RECORDS_MAX
        {
            let from = if more == 0 { own.max(1) } else { own + 1 };
            return match self.range(from, until).await {
                Ok(records) => Ok(Batch {
                    records,
                    more: false,
                }),
                // Past the end of the log, unless something is lost: the listing tells.
                Err(Error::NotFound { .. }) => self.listed_from(own).await,
                Err(error) => Err(error),
            };
        }
        self.listed_from(own).await
    }

    async fn listed_from(&self, own: u64) -> Result<Batch> {
        let numbers = self.numbers_after(own.saturating_sub(1)).await?;
        self.listed_of(own, &numbers).await
    }

    /// The same by a listing that was taken.
    async fn listed_of(&self, own: u64, numbers: &[u64]) -> Result<Batch> {
        match numbers.split_first() {
            Some((first, rest)) if *first == own && !rest.is_empty() => {
                self.listed(own + 1, rest, 0).await
            }
            _ => self.listed(own.max(1), numbers, 0).await,
        }
    }

    async fn write_segment(&self, to: u64) -> Result<()> {
        let from = to - (SEGMENT_RECORDS - 1);
        let records = self.one_by_one(from, to).await?;
        let bytes: usize = records.iter().map(|stored| stored.bytes.len()).sum();
        // It would stand there for good, without what it is for.
        if bytes > SEGMENT_BYTES_MAX || records.iter().any(StoredRecord::is_retired) {
            return Ok(());
        }
        self.store
            .create(&layout::segment(from, to), segment::write(&records))
            .await
            .map(drop)
    }

    /// Writes the checkpoint at a state, unless there is one of use.
    pub(crate) async fn write_checkpoint(&self, state: &State) -> Result<()> {
        let number = state.head.number;
        let mut before = self.checkpoint(Some(number)).await?;
        if let Some(found) = before.take_if(|found| found.at.number == number) {
            if self.is_usable(&found, state).await? {
                return Ok(());
            }
            before = match number.checked_sub(1) {
                Some(earlier) => self.checkpoint(Some(earlier)).await?,
                None => None,
            };
        }
        let (mut earlier, mut pages) = (Vec::new(), Vec::new());
        if let Some(before) = before {
            earlier = before.earlier;
            let Checkpoint { at, time, tree, .. } = before;
            // Pages of a tree that can't be read would make this checkpoint useless as well, and
            // every one after it.
            pages = match self.shareable_pages(&tree).await {
                Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => {
                    tracing::warn!(%error, "an earlier listing cannot be used; writing all pages");
                    Vec::new()
                }
                pages => pages?,
            };
            earlier.push(EarlierCheckpoint {
                number: at.number,
                time,
                tree,
            });
        }
        let reference = self.write_tree(&state.tree, &pages).await?;
        let checkpoint = Checkpoint::of(state, reference, earlier);
        let bytes = checkpoint.write();
        for copy in 0.. {
            let key = layout::checkpoint(number, copy);
            if self.store.create(&key, bytes.clone()).await? == Creation::New {
                break;
            }
            // Another's is as good as ours, unless it is of no use.
            let found = self.store.read(&key).await?.unwrap_or_default();
            match Checkpoint::read(&key, &found) {
                Ok(found) if self.is_usable(&found, state).await? => break,
                _ => tracing::warn!(key, "a checkpoint that cannot be used is replaced"),
            }
        }
        Ok(())
    }
}

/// How far a reader wants the log.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// As far as it goes.
    TheEnd,
    /// Up to this record.
    Record(u64),
}

/// The first and the last record of the segment that a record lies in.
const fn segment_of(number: u64) -> (u64, u64) {
    let before = number.saturating_sub(1) / SEGMENT_RECORDS * SEGMENT_RECORDS;
    (before + 1, before + SEGMENT_RECORDS)
}

/// Whether each record names the one before it as its parent.
fn is_chain(records: &[StoredRecord]) -> bool {
    records
        .windows(2)
        .all(|pair| pair[1].record.envelope.parent == pair[0].record.id)
}

/// The record among these that a draft became. Otherwise it has to be able to follow all of them, but for what a
/// zombie appended after a fence: that has not landed, and is in nobody's way.
fn landed(
    draft: &StoredDraft,
    records: Vec<StoredRecord>,
    state: &State,
) -> Result<Option<StoredRecord>> {
    for stored in records {
        let envelope = &stored.record.envelope;
        if state.fenced.is_some_and(|by| envelope.number > by) {
            break;
        }
        if envelope.draft.nonce == draft.draft.head.nonce {
            return Ok(Some(stored));
        }
        may_follow(&draft.draft.body, &stored.record.body).map_err(|overlap| Error::Conflict {
            number: envelope.number,
            overlap,
        })?;
    }
    Ok(None)
}

#[async_trait]
impl Remote for Repository {
    fn description(&self) -> (&Description, Digest) {
        (&self.description, self.genesis)
    }

    async fn confirm(&self, known: RecordRef) -> Result<()> {
        if known.number == 0 {
            return self.see().await;
        }
        // Its id vouches for everything before it, the description included.
        self.see_record(known).await?;
        self.seen.get_or_init(async || ()).await;
        Ok(())
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        futures::try_join!(self.see(), self.opening(at)).map(|((), opening)| opening)
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        let Some(first) = self.record(after + 1).await? else {
            return Ok(Batch::default());
        };
        self.remember(&first);
        let mut records = vec![first];
        let mut window = 1;
        loop {
            let from = after + 1 + records.len() as u64;
            let found: Vec<Option<StoredRecord>> = stream::iter(from..from + window)
                .map(|number| self.record(number))
                .buffered(PARALLEL)
                .try_collect()
                .await?;
            let complete = found.iter().all(Option::is_some);
            self.check_gap(from, &found).await?;
            for stored in found.into_iter().map_while(|found| found) {
                self.remember(&stored);
                records.push(stored);
            }
            if !complete {
                return Ok(Batch {
                    records,
                    more: false,
                });
            }
            if window >= HEAD_WINDOW_MAX {
                break;
            }
            window *= 2;
        }
        // Far behind: the listing says how far, and segments make it few reads.
        let last = after + records.len() as u64;
        let numbers = self.numbers_after(last).await?;
        let bytes = records.iter().map(|stored| stored.bytes.len()).sum();
        let rest = self.listed(last + 1, &numbers, bytes).await?;
        records.extend(rest.records);
        Ok(Batch {
            records,
            more: rest.more,
        })
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        check_range(after, until)?;
        self.range(after + 1, until).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = vec![None; places.len()];
        for (place, found) in places.iter().zip(&mut found) {
            if let ContentObject::Record(number) = object_of(place)? {
                *found = self
                    .recent()
                    .get(number)
                    .and_then(|record| cut(record, place));
            }
        }
        let missing = found
            .iter()
            .enumerate()
            .filter(|(_, found)| found.is_none());
        let read = |run: Run| async move {
            let key = run.object.to_string();
            let bytes = self.store.read_range(&key, run.span.clone()).await?;
            Ok::<_, Error>(run.split(places, &bytes))
        };
        let parts: Vec<Vec<(usize, Bytes)>> = stream::iter(runs(places, missing.map(|(i, _)| i))?)
            .map(read)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        for (index, bytes) in parts.into_iter().flatten() {
            found[index] = Some(bytes);
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        read_pack(id, bytes.clone())?;
        self.put_checked_pack(id, bytes).await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        self.see().await?;
        self.append_as(draft, known, None)
            .await
            .map(|(stored, _)| stored)
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        let number = state.head.number;
        if number > 0 && number.is_multiple_of(SEGMENT_RECORDS) {
            self.write_segment(number).await?;
        }
        if state.checkpoint_due() {
            self.write_checkpoint(state).await?;
            // Seldom enough for a walk through the folder, often enough for it to stay clean.
            match self.store.sweep(self.clock.now()).await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "removed what unfinished writes left behind"),
                Err(error) => tracing::warn!(%error, "unfinished writes may have left something"),
            }
        }
        Ok(())
    }
}

/// A content frame of a record that is in memory.
fn cut(stored: &StoredRecord, place: &Location) -> Option<Bytes> {
    if !stored.has_content() {
        return None;
    }
    let start = usize::try_from(place.offset).ok()?;
    let end = start.checked_add(place.stored as usize)?;
    (end <= stored.bytes.len()).then(|| stored.bytes.slice(start..end))
}
