//! Switching to a replica: `promote` opens the next epoch on it, `fence` ends a log.
//!
//! Each is one record, so a crash leaves it done or not done, and doing it again changes nothing.

use std::sync::Arc;

use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::APPEND_RACES_MAX;
use statehold_core::point::Point;
use statehold_core::record::{Body, DraftHead, FenceBody, Kind, PromoteBody, RecordRef};
use statehold_core::state::State;
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::format::epoch;
use crate::format::record::StoredDraft;
use crate::layout;
use crate::remote::{Remote as _, load, load_at};
use crate::replicate::{complete, position};
use crate::repository::Repository;
use crate::store::Creation;

/// What a `promote` does, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promotion {
    /// The epoch that it opens.
    pub epoch: u64,
    /// The record that the epoch continues from: up to here the replica is known to be whole.
    pub from: RecordRef,
    /// That record's time; `None` before the first.
    pub time: Option<Timestamp>,
    /// How many records stand behind it in the replica. They are left behind.
    pub left_behind: u64,
    /// Whether the log that was copied had come to its end there, so that nothing is lost.
    pub is_end: bool,
    /// The `promote` that did it.
    pub by: Option<RecordRef>,
}

/// Says what a `promote` would do now, or what the one did that opened this epoch. It writes nothing, but for a mark
/// where a replicator died before it set the one that this takes.
pub async fn plan_promotion(repository: &Repository) -> Result<Promotion> {
    let state = standing(repository).await?;
    plan(repository, &state).await
}

/// The state that a `promote` would stand on. A replicator that died may have left records behind its mark of which
/// the envelope alone is there, and nothing that stands in for them: the head moves over those, since what they said is
/// left behind in any case.
async fn standing(repository: &Repository) -> Result<Arc<State>> {
    let retired = match load(repository).await {
        Err(error @ Error::Retired { .. }) => error,
        loaded => return Ok(loaded?.state),
    };
    let Some(mark) = position(repository.store()).await? else {
        return Err(retired);
    };
    let mut follower = Follower::new(
        repository,
        load_at(repository, Point::Then(mark.number)).await?,
    );
    loop {
        let batch = repository.records(follower.state().head.number).await?;
        for stored in &batch.records {
            if stored.record.envelope.draft.kind == Kind::Promote {
                return Err(in_the_middle(stored.record.envelope.number, &retired));
            }
            follower.pass_over(stored)?;
        }
        if !batch.more {
            return Ok(follower.into_state());
        }
    }
}

fn in_the_middle(began: u64, reason: &Error) -> Error {
    Error::refused(format!(
        "the epoch that began with record {began} was opened in another store, and its copy here is not \
         complete: {reason}; finish it with `statehold replicate`, or promote a copy that is complete"
    ))
}

async fn plan(repository: &Repository, state: &State) -> Result<Promotion> {
    let began = state.epoch_began();
    let marked = async || {
        let mark = position(repository.store()).await?;
        Ok::<_, Error>(mark.filter(|mark| mark.number >= began))
    };
    let mut mark = marked().await?;
    if mark.is_none() && state.epoch() > 0 && !repository.is_opened_here(state).await? {
        // A replicator died between the promote that it copied and the next mark. What came with it is looked at as
        // a replicator would, which compares what stands there with the source: here, with itself.
        let stopped = complete(repository).await.stopped;
        mark = marked().await?;
        if mark.is_none() {
            let lacks = || Error::damaged("the log", "it ends too early");
            return Err(in_the_middle(began, &stopped.unwrap_or_else(lacks)));
        }
    }
    let (from, epoch, by) = match (mark, state.fenced, state.epochs.last()) {
        (Some(mark), _, _) => (mark, state.epoch() + 1, None),
        // A log that is no replica's is whole up to its end, and a fence is one.
        (None, Some(fence), _) => {
            let fence = reference(repository, fence).await?;
            (fence, state.epoch() + 1, None)
        }
        (None, None, Some(last)) => (last.from, state.epoch(), Some(last.by)),
        // A replicator was killed before its first mark, or nobody has used the repository yet.
        (None, None, None) if state.head.number == 0 => (state.head, 1, None),
        (None, None, None) => {
            return Err(Error::refused(
                "the store holds no replica: only what `statehold replicate` or `serve \
                 --replicate-to` wrote can be promoted",
            ));
        }
    };
    let found = match from.number {
        0 => repository.description().1,
        number => reference(repository, number).await?.id,
    };
    if found != from.id {
        return Err(Error::Diverged {
            number: from.number,
            expected: from.id,
            found,
        });
    }
    let (mut time, mut is_end) = (None, false);
    if let Some(stored) = repository.record(from.number).await? {
        time = Some(stored.record.envelope.time);
        is_end = matches!(stored.record.body, Body::Fence(_));
    }
    let end = by.map_or(state.head.number + 1, |by| by.number);
    Ok(Promotion {
        epoch,
        from,
        time,
        left_behind: end.saturating_sub(from.number + 1),
        is_end,
        by,
    })
}

/// The nonce of the `promote` that opens an epoch here: that of a run before, if one was killed.
async fn nonce_of(repository: &Repository, epoch: u64, entropy: &dyn Entropy) -> Result<Nonce> {
    let (key, nonce) = (layout::epoch(epoch), Nonce::random(entropy));
    let store = repository.store();
    match store.create(&key, epoch::write(nonce)).await? {
        Creation::New => Ok(nonce),
        Creation::Exists => match store.read(&key).await? {
            Some(bytes) => epoch::read(&key, &bytes),
            None => Err(Error::NotFound { object: key }),
        },
    }
}

async fn reference(repository: &Repository, number: u64) -> Result<RecordRef> {
    let stored = repository.record(number).await?;
    let stored = stored.ok_or_else(|| Error::NotFound {
        object: layout::record(number),
    })?;
    Ok(stored.record.reference())
}

/// Opens the next epoch on a replica, from its newest mark, unless that was done before. When this
/// returns, the record is durable. After an error it may stand there all the same; the next call tells.
pub async fn promote(
    repository: &Repository,
    machine: MachineId,
    entropy: &dyn Entropy,
) -> Result<Promotion> {
    for _ in 0..APPEND_RACES_MAX {
        let state = standing(repository).await?;
        let mut promotion = plan(repository, &state).await?;
        if promotion.by.is_some() {
            spare_what_was_left(repository, &promotion, &state).await;
            return Ok(promotion);
        }
        // A replicator wrote on and marked that since.
        if promotion.from.number > state.head.number {
            continue;
        }
        let body = Body::Promote(PromoteBody {
            base: state.head,
            epoch: promotion.epoch,
            from: promotion.from,
        });
        let nonce = nonce_of(repository, promotion.epoch, entropy).await?;
        match append(repository, machine, nonce, body, &state).await {
            Ok((by, state)) => {
                promotion.by = Some(by);
                spare_what_was_left(repository, &promotion, &state).await;
                return Ok(promotion);
            }
            // A replicator or another promote was first, so there may be a newer mark.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let what = format!("a place in the log after {APPEND_RACES_MAX} lost races");
    let source = "something else writes to the replica; stop it first".into();
    Err(Error::Unavailable { what, source })
}

/// Writes the checkpoint at a `promote`, so that nobody has to read what it left behind, nor may find something there
/// that cannot be read.
async fn spare_what_was_left(repository: &Repository, promotion: &Promotion, state: &State) {
    if promotion.left_behind == 0 || promotion.by != Some(state.head) {
        return;
    }
    if let Err(error) = repository.write_checkpoint(state).await {
        tracing::warn!(%error, "the checkpoint at a promote could not be written");
    }
}

/// Ends a log, unless that was done before, and says with which record. Every later one is void, and whoever
/// tries to append one is told so.
pub async fn fence(
    repository: &Repository,
    machine: MachineId,
    entropy: &dyn Entropy,
) -> Result<u64> {
    let state = load(repository).await?.state;
    if let Some(by) = state.fenced {
        return Ok(by);
    }
    let body = Body::Fence(FenceBody { base: state.head });
    let nonce = Nonce::random(entropy);
    let (by, _) = append(repository, machine, nonce, body, &state).await?;
    Ok(by.number)
}

async fn append(
    repository: &Repository,
    machine: MachineId,
    nonce: Nonce,
    body: Body,
    state: &Arc<State>,
) -> Result<(RecordRef, Arc<State>)> {
    let kind = body.kind().ok_or_else(|| Error::refused("no kind"))?;
    let head = DraftHead::new(kind, machine, nonce, Vec::new());
    let draft = StoredDraft::new(head, body, &[])?;
    let (stored, state) = repository.append_as(&draft, state, None).await?;
    // The record stands; what is due beside it is a cache.
    if let Err(error) = repository.tend(&state).await {
        tracing::warn!(%error, "a segment or checkpoint could not be written");
    }
    Ok((stored.record.reference(), state))
}
