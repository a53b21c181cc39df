//! Following a log: each record folded into the state before it, also where a `promote` goes on from an
//! earlier record than the one before it.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use statehold_core::limits::LOG_RANGE_RECORDS_MAX;
use statehold_core::point::Point;
use statehold_core::record::{Body, Kind, RecordRef};
use statehold_core::state::{Applied, FoldError, State};

use crate::error::{Error, Result};
use crate::format::record::StoredRecord;
use crate::remote::{Remote, load, load_at};

/// A state that moves along a log.
#[derive(Debug)]
pub struct Follower<'a> {
    remote: &'a dyn Remote,
    state: Arc<State>,
    /// The state where this epoch began, if that was on the way: from there on the next `promote` continues, so
    /// no record is read more than once for each epoch.
    began: Option<Arc<State>>,
}

impl<'a> Follower<'a> {
    /// Goes on from a state.
    pub const fn new(remote: &'a dyn Remote, state: Arc<State>) -> Self {
        Self {
            remote,
            state,
            began: None,
        }
    }

    /// What it follows.
    pub const fn remote(&self) -> &'a dyn Remote {
        self.remote
    }

    /// The state after the last record.
    pub const fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The same, at the end of the way.
    pub fn into_state(self) -> Arc<State> {
        self.state
    }

    /// Takes in the next record, and says in the log what became of it.
    pub async fn take_in(&mut self, stored: &StoredRecord) -> Result<Applied> {
        let epoch = self.state.epoch();
        let mut applied = apply(Arc::make_mut(&mut self.state), stored)?;
        if let Applied::ContinuesFrom(from) = applied {
            let earlier = Arc::unwrap_or_clone(self.earlier(from).await?);
            applied = Arc::make_mut(&mut self.state).continue_from(earlier, &stored.record);
            say(&self.state, &applied);
        }
        if self.state.epoch() != epoch {
            self.began = Some(Arc::clone(&self.state));
        }
        Ok(applied)
    }

    /// Moves the head over a record that a `promote` left behind, or is going to.
    pub(crate) fn pass_over(&mut self, stored: &StoredRecord) -> Result<()> {
        let passed = Arc::make_mut(&mut self.state).pass_over(&stored.record);
        passed.map_err(|error| Error::damaged("the log", error))
    }

    /// The state at an earlier record of this epoch.
    fn earlier(&self, at: RecordRef) -> BoxFuture<'_, Result<Arc<State>>> {
        async move {
            let Some(began) = &self.began else {
                return load_at(self.remote, Point::Then(at.number)).await;
            };
            let mut state = Arc::clone(began);
            while state.head.number < at.number {
                let after = state.head.number;
                let until = at.number.min(after + LOG_RANGE_RECORDS_MAX);
                for stored in self.remote.records_until(after, until).await? {
                    if let Applied::ContinuesFrom(_) = apply(Arc::make_mut(&mut state), &stored)? {
                        return Err(Error::damaged(
                            "the log",
                            "it has another epoch in the middle",
                        ));
                    }
                }
            }
            Ok(state)
        }
        .boxed()
    }
}

/// Folds a record, and says in the log what became of it.
fn apply(state: &mut State, stored: &StoredRecord) -> Result<Applied> {
    match state.apply(&stored.record) {
        Ok(applied) => {
            say(state, &applied);
            Ok(applied)
        }
        Err(FoldError::Chain {
            number,
            parent,
            head_number,
            head,
        }) => {
            if number == head_number + 1 {
                return Err(Error::Diverged {
                    number: head_number,
                    expected: head,
                    found: parent,
                });
            }
            let reason = format!("it follows record {head_number} and says that it is {number}");
            Err(Error::damaged("the log", reason))
        }
        Err(FoldError::Retired { number }) => Err(Error::Retired { number }),
        Err(FoldError::UnknownKind { number, kind }) => Err(Error::TooNew {
            what: format!("record {number} of kind {kind:?}"),
        }),
    }
}

fn say(state: &State, applied: &Applied) {
    let number = state.head.number;
    match applied {
        Applied::Changed | Applied::ContinuesFrom(_) => {}
        Applied::Void(violation) => tracing::warn!(number, %violation, "a record is void"),
        Applied::Skipped(kind) => {
            tracing::info!(number, kind, "a record of an unknown kind is skipped");
        }
    }
}

/// The state at the `promote` that left behind a record of which the envelope alone is there; `None` where none
/// did. A replicator that died leaves such a record: the source had retired it, and what stands in for it had
/// not come yet.
pub(crate) async fn past_left_behind(
    remote: &dyn Remote,
    retired: u64,
) -> Result<Option<Arc<State>>> {
    let Some(before) = retired.checked_sub(1) else {
        return Ok(None);
    };
    let before = match load_at(remote, Point::Then(before)).await {
        // A checkpoint behind it came meanwhile.
        Err(Error::Retired { .. }) => return Ok(None),
        before => before?,
    };
    let epoch = before.epoch();
    let mut follower = Follower::new(remote, before);
    loop {
        let batch = remote.records(follower.state.head.number).await?;
        for stored in &batch.records {
            match &stored.record.body {
                Body::Promote(promote) if promote.from.number < retired => {
                    follower.take_in(stored).await?;
                    if follower.state.epoch() > epoch {
                        return Ok(Some(follower.into_state()));
                    }
                }
                // It goes on from what nobody can read any more, or nobody knows from where.
                _ if stored.record.envelope.draft.kind == Kind::Promote => return Ok(None),
                _ => follower.pass_over(stored)?,
            }
        }
        if !batch.more {
            return Ok(None);
        }
    }
}

/// What stands in the place of a log that a reader knew up to a record and that does not go on from
/// there: the newest state of one of a later epoch, which parted from it before that record. `None` where
/// no `promote` is the reason, or what stands there cannot be read; an error where it could be another time.
pub(crate) async fn later_epoch(remote: &dyn Remote, known: &State) -> Result<Option<Arc<State>>> {
    let found = match load(remote).await {
        Ok(loaded) => loaded.state,
        Err(error @ (Error::Unavailable { .. } | Error::Denied { .. })) => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "no later epoch could be looked for");
            return Ok(None);
        }
    };
    let fork = found.fork_since(known);
    Ok(fork
        .filter(|fork| fork.number < known.head.number)
        .map(|_| found))
}
