//! Switching to a replica: `promote` opens the next epoch on it, `fence` ends a log.
//!
//! Each is one record, so a crash leaves it done or not done, and doing it again changes nothing.

use std::sync::Arc;

use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::APPEND_RACES_MAX;
use statehold_core::record::{Body, DraftHead, FenceBody, PromoteBody, RecordRef};
use statehold_core::state::State;
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::format::record::StoredDraft;
use crate::layout;
use crate::remote::{Remote as _, load};
use crate::replicate::position;
use crate::repository::Repository;

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

/// Says what a `promote` would do now, or what the one did that opened this epoch.
pub async fn plan_promotion(repository: &Repository) -> Result<Promotion> {
    let state = load(repository).await?.state;
    plan(repository, &state).await
}

async fn plan(repository: &Repository, state: &State) -> Result<Promotion> {
    let began = state.epoch_began();
    let mark = position(repository.store()).await?;
    let mark = mark.filter(|mark| mark.number >= began);
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
        let state = load(repository).await?.state;
        let mut promotion = plan(repository, &state).await?;
        if promotion.by.is_some() {
            return Ok(promotion);
        }
        let body = Body::Promote(PromoteBody {
            base: state.head,
            epoch: promotion.epoch,
            from: promotion.from,
        });
        match append(repository, machine, entropy, body, &state).await {
            Ok(by) => {
                promotion.by = Some(by);
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
    let by = append(repository, machine, entropy, body, &state).await?;
    Ok(by.number)
}

async fn append(
    repository: &Repository,
    machine: MachineId,
    entropy: &dyn Entropy,
    body: Body,
    state: &Arc<State>,
) -> Result<RecordRef> {
    let kind = body.kind().ok_or_else(|| Error::refused("no kind"))?;
    let head = DraftHead::new(kind, machine, Nonce::random(entropy), Vec::new());
    let draft = StoredDraft::new(head, body, &[])?;
    let (stored, state) = repository.append_as(&draft, state, None).await?;
    // The record stands; what is due beside it is a cache.
    if let Err(error) = repository.tend(&state).await {
        tracing::warn!(%error, "a segment or checkpoint could not be written");
    }
    Ok(stored.record.reference())
}
