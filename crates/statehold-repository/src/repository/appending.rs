//! Appending: the draft behind the newest record, and what came first.

use std::sync::Arc;

use statehold_core::id::{KeyId, Nonce};
use statehold_core::limits::APPEND_RACES_MAX;
use statehold_core::rebase::{Overlap, may_follow};
use statehold_core::record::{Kind, RecordRef};
use statehold_core::state::State;

use super::Repository;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::layout;
use crate::remote::{Remote, load};
use crate::store::Creation;

impl Repository {
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
            let goes_on_here = head.kind == Kind::Promote || self.is_opened_here(&state).await?;
            if goes_on_here
                && let Some(appended) = self.append_to(draft, Arc::clone(&state), key).await?
            {
                return Ok(appended);
            }
            // Somebody was first, or we were and the answer was lost: until what stands there has
            // been read, it is open which.
            let number = state.head.number + 1;
            let (next, came_first) = match self.catch_up(&state).await {
                Err(Error::Unavailable { .. } | Error::Denied { .. }) => {
                    return Err(Error::Unknown { number });
                }
                caught_up => caught_up?,
            };
            match (came_first.is_empty(), goes_on_here) {
                (false, _) => {}
                // S3 answers 409 to a create beside another under way, which may come to nothing.
                (true, true) => return Err(Error::Unknown { number }),
                (true, false) => return Err(is_a_copy(&state)),
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

    /// Appends a draft right behind a state. `None` where something stands there already.
    async fn append_to(
        &self,
        draft: &StoredDraft,
        state: Arc<State>,
        key: Option<KeyId>,
    ) -> Result<Option<(StoredRecord, Arc<State>)>> {
        self.store.check_clock(&*self.clock).await?;
        let time = state.time.max(self.clock.now());
        let stored = draft.at(state.head, time, key);
        let number = stored.record.envelope.number;
        let base = draft.draft.body.base().map_or(0, |base| base.number);
        let checked = state.check(&stored.record.envelope, &stored.record.body);
        checked.map_err(|violation| {
            // Planned on this very state it would break the rule again.
            if violation.is_overtaken() && base < state.head.number {
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
                // Nothing came before it.
                self.looked_at(self.clock.now());
                let mut follower = Follower::new(self, state);
                follower.take_in(&stored).await?;
                Ok(Some((stored, follower.into_state())))
            }
            Ok(Creation::Exists) => Ok(None),
            Err(error @ Error::Unavailable { .. }) => {
                Err(self.unknown_unless_absent(number, error).await)
            }
            Err(error) => Err(error),
        }
    }

    /// What to say of a record whose create failed. Nothing is under way to a folder once an attempt
    /// has ended, so there a look tells, and the cause, such as a full disk, can be named.
    pub(super) async fn unknown_unless_absent(&self, number: u64, error: Error) -> Error {
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

    /// The records after the base of a draft, which has to be of this epoch. One of an earlier epoch may have landed
    /// before the log parted, or somebody brought it over: then that record is all there is. Otherwise what it
    /// introduces lies in another store, and it is made anew.
    pub(super) async fn since_in_epoch(
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
        let after = self.last_shared(base, state).await?;
        let since = self.range(after + 1, state.head.number).await?;
        let landed = since.into_iter().find(|stored| {
            let envelope = &stored.record.envelope;
            envelope.draft.nonce == nonce && !state.is_left_behind(envelope.number)
        });
        landed.map(|stored| vec![stored]).ok_or(Error::Conflict {
            number: epoch.by.number,
            overlap: Overlap { paths: Vec::new() },
        })
    }

    /// A record after which everything lies that a draft of this base, of another epoch, can have become: the base if it
    /// is of this log, else where the first epoch parted from what it may be of.
    async fn last_shared(&self, base: RecordRef, state: &State) -> Result<u64> {
        let there = match base.number {
            0 => Some(self.genesis),
            number if number > state.head.number => None,
            number => self.record(number).await?.map(|stored| stored.record.id),
        };
        if there == Some(base.id) {
            return Ok(base.number);
        }
        let mut epochs = state.epochs.iter().map(|epoch| epoch.from.number);
        let parted = epochs.find(|from| *from < base.number);
        Ok(parted.unwrap_or(state.epoch_began()))
    }

    /// The records after `base` up to `head`, checked to descend from the base.
    pub(super) async fn since(
        &self,
        base: RecordRef,
        head: RecordRef,
    ) -> Result<Vec<StoredRecord>> {
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
}

/// What to say to whoever would append to a copy.
fn is_a_copy(state: &State) -> Error {
    let epoch = state.epoch();
    Error::refused(format!(
        "this store is a copy of the one in which epoch {epoch} of the log began; `statehold link --moved` with the \
         other one goes on there, and once that is lost `statehold promote` goes on here"
    ))
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
