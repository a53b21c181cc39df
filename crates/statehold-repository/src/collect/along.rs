//! The fold along a log that a collector goes through record by record. It knows the epochs from the newest
//! state, so what a `promote` left behind is passed over on the way, also where it is retired.

use std::sync::Arc;

use statehold_core::state::{Applied, FoldError, State};

use crate::error::{Error, Result};
use crate::format::record::StoredRecord;
use crate::layout;

/// A state on its way to the newest one.
#[derive(Debug)]
pub(super) struct Along {
    newest: Arc<State>,
    pub(super) state: State,
    /// The state where an epoch parts from the records that it leaves behind, while those go past.
    fork: Option<State>,
}

impl Along {
    pub(super) const fn new(newest: Arc<State>, state: State) -> Self {
        Self {
            newest,
            state,
            fork: None,
        }
    }

    /// Takes in the next record; `None` for one that was left behind.
    pub(super) fn step(&mut self, stored: &StoredRecord) -> Result<Option<Applied>> {
        let number = stored.record.envelope.number;
        let failed = |error| match error {
            // By another collector, meanwhile: looking again begins behind it.
            FoldError::Retired { number } => Error::Retired { number },
            error => Error::damaged(layout::record(number), error),
        };
        if self.newest.is_left_behind(number) {
            self.fork.get_or_insert_with(|| self.state.clone());
            self.state.pass_over(&stored.record).map_err(failed)?;
            return Ok(None);
        }
        let mut applied = self.state.apply(&stored.record).map_err(failed)?;
        if let Applied::ContinuesFrom(_) = applied {
            let fork = self.fork.take().ok_or_else(|| {
                Error::damaged(layout::record(number), "nothing is known of its beginning")
            })?;
            applied = self.state.continue_from(fork, &stored.record);
        }
        Ok(Some(applied))
    }
}
