//! Epochs: how a log ends on one store and goes on from another.
//!
//! A `fence` ends a log: every record after it is void, but for a `promote`. A `promote` opens the next epoch
//! on a replica and continues from an earlier record of it, the newest one up to which the replica is known to
//! be whole. The records between the two are *left behind*: they keep their numbers and are not in effect.

use serde::{Deserialize, Serialize};

use crate::limits::EPOCHS_MAX;
use crate::record::{Body, PromoteBody, Record, RecordRef};
use crate::state::{Applied, FoldError, State, Violation};

/// An epoch after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The record that it continues from.
    pub from: RecordRef,
    /// The `promote` that opened it.
    pub by: RecordRef,
}

impl Epoch {
    /// Whether it left a record behind.
    pub const fn leaves(&self, number: u64) -> bool {
        self.from.number < number && number < self.by.number
    }
}

impl State {
    /// The epoch that the log is in; 0 until somebody promotes.
    pub const fn epoch(&self) -> u64 {
        self.epochs.len() as u64
    }

    /// The number of the `promote` that opened this epoch; 0 in the first.
    pub fn epoch_began(&self) -> u64 {
        self.epochs.last().map_or(0, |epoch| epoch.by.number)
    }

    /// Whether a `promote` left a record behind, so that it is not in effect.
    pub fn is_left_behind(&self, number: u64) -> bool {
        self.epochs.iter().any(|epoch| epoch.leaves(number))
    }

    /// Where the log of this state and the log of an earlier one part, if a later epoch is the reason. Both
    /// have the same epochs up to the earlier one's. `None` where no later epoch came, or another history.
    pub fn fork_since(&self, known: &Self) -> Option<RecordRef> {
        let (same, later) = self.epochs.split_at_checked(known.epochs.len())?;
        let next = later.first()?;
        (same == known.epochs).then_some(next.from)
    }

    /// Moves the head over a record that a `promote` left behind, or is going to: what it says does not
    /// count, and of one that is retired nobody knows it. Nothing else of the state is of use from then on,
    /// but to take in that `promote`.
    pub fn pass_over(&mut self, record: &Record) -> Result<(), FoldError> {
        self.check_follows(record)?;
        self.move_head(record);
        Ok(())
    }

    /// Checks what epochs ask of a record that stands on this state.
    pub(crate) fn check_epoch(&self, body: &Body) -> Result<(), Violation> {
        if let Body::Promote(promote) = body {
            return self.check_promote(promote);
        }
        if let Some(by) = self.fenced {
            return Err(Violation::Fenced { by });
        }
        // What a draft of an earlier epoch introduces was uploaded to another store.
        let began = self.epoch_began();
        match body.base() {
            Some(RecordRef { number: base, .. }) if base < began => {
                Err(Violation::EarlierEpoch { base, began })
            }
            _ => Ok(()),
        }
    }

    /// A `promote` opens the next epoch and continues from a record of this one.
    fn check_promote(&self, promote: &PromoteBody) -> Result<(), Violation> {
        let PromoteBody { epoch, from, .. } = promote;
        let is_next = *epoch == self.epoch() + 1 && *epoch <= EPOCHS_MAX;
        let is_of_this_epoch = from.number >= self.epoch_began() && from.number <= self.head.number;
        let is_here = from.number < self.head.number || *from == self.head;
        if is_next && is_of_this_epoch && is_here {
            Ok(())
        } else {
            Err(Violation::Epoch)
        }
    }

    /// Takes in a `promote` that [`State::apply`] said continues from an earlier record, given the state
    /// there. It is void where that is another record than the one it names.
    pub fn continue_from(&mut self, earlier: Self, record: &Record) -> Applied {
        let from = match &record.body {
            Body::Promote(promote) if promote.from == earlier.head => promote.from,
            _ => {
                self.move_head(record);
                return Applied::Void(Violation::Epoch);
            }
        };
        let time = self.time;
        *self = earlier;
        self.time = self.time.max(time);
        self.open_epoch(from, record.reference());
        self.move_head(record);
        Applied::Changed
    }

    /// Opens the next epoch.
    pub(crate) fn open_epoch(&mut self, from: RecordRef, by: RecordRef) {
        self.epochs.push(Epoch { from, by });
        self.fenced = None;
    }
}

#[cfg(test)]
mod tests;
