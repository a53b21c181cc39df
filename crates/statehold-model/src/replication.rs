//! The replicator, and the owner who switches over to the replica.

use crate::collector::NO_INTENT;
use crate::fold::State;
use crate::object::{Draft, Kind, Nonce, Number, Object};
use crate::rule::{Rule, Rules};
use crate::site::{Form, Request, Site, Slot};

/// Where the replicator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copying {
    /// It has no aim.
    Idle,
    /// It means to make the replica whole at this record; no object of it is copied yet.
    Aimed(Number),
    /// Packs and checkpoints are there; records follow, one by one.
    Records(Number),
    /// The replica's log went another way, which the owner is told.
    Diverged,
}

/// The owner's part in a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// The number that the `promote` was last sent to.
    pub promoting: Option<Number>,
    /// Whether the old log was fenced.
    pub fenced: bool,
    /// The old log's record up to which everything was brought over.
    pub brought: Number,
    /// Whether all of a fenced log was brought over.
    pub finished: bool,
}

const PROMOTE: Nonce = 1;
const FENCE: Nonce = 2;

/// Copies what the replica lacks to be whole at a record: every pack that is known and not removed, and the
/// checkpoints. What was removed meanwhile is not there any more; then a newer record has to be aimed at.
pub(crate) fn copy_objects(
    primary: &Site,
    replica: &mut Site,
    aim: Number,
    rules: Rules,
) -> Copying {
    let known = primary.state_at(aim, rules).known;
    let there = |pack: &u8| primary.packs.contains(*pack);
    for pack in known.iter().filter(there) {
        replica.packs.insert(pack);
    }
    for checkpoint in primary.checkpoints.iter().filter(|at| *at <= aim) {
        replica.checkpoints.insert(checkpoint);
    }
    if known.minus(replica.packs).is_empty() {
        Copying::Records(aim)
    } else {
        Copying::Idle
    }
}

/// The numbers of the records that may be sent to the replica next: the one after its last, if that last one
/// is the primary's. `None` when the replica went another way.
pub(crate) fn next_records(
    primary: &Site,
    replica: &Site,
    aim: Number,
    rules: Rules,
) -> Option<Vec<Number>> {
    let head = replica.head();
    if !primary.holds(replica.id(head)) {
        return None;
    }
    let last = if rules.hold(Rule::CopyInOrder) {
        aim.min(head + 1)
    } else {
        aim
    };
    Some((head + 1..=last).collect())
}

/// Sends one record to the replica as it is at the primary now, whole or retired.
pub(crate) fn copy_record(primary: &Site, replica: &mut Site, number: Number) {
    if let Some(slot) = primary.slot(number) {
        replica.send_copy(Request {
            record: slot.record,
            form: slot.form,
        });
    }
}

/// Whether the replica may be marked complete at a record.
pub(crate) fn may_mark(primary: &Site, replica: &Site, aim: Number) -> bool {
    replica.head() >= aim && primary.holds(replica.id(aim)) && replica.complete < aim
}

/// Reads back what is retained at a record, and marks the replica complete there.
pub(crate) fn mark(replica: &mut Site, aim: Number, rules: Rules) {
    if is_whole_at(replica, aim, rules) || !rules.hold(Rule::MarkReadBack) {
        replica.complete = aim;
    }
}

/// Whether the replica may delete what is removed at its mark.
pub(crate) fn may_tidy(primary: &Site, replica: &Site, rules: Rules) -> bool {
    let state = replica.state_at(replica.complete, rules);
    let has_work = !state.removed.minus(replica.packs).eq(&state.removed);
    let behind = replica.complete + 1;
    let is_behind = replica.head() >= behind && primary.holds(replica.id(behind));
    has_work && (is_behind || !rules.hold(Rule::TidyBehindMark))
}

/// Deletes what is removed at the replica's mark, and retires what is retired there.
pub(crate) fn tidy(replica: &mut Site, rules: Rules) {
    let state = replica.state_at(replica.complete, rules);
    replica.packs = replica.packs.minus(state.removed);
    replica.retire(state.cut, rules);
}

impl Owner {
    /// Reads the replica's head, then its marks, and sends a `promote`; again whenever another record was
    /// first.
    pub(crate) fn promote(&mut self, replica: &mut Site, rules: Rules) {
        let head = replica.head();
        let from = if rules.hold(Rule::PromoteAtMark) {
            replica.complete
        } else {
            head
        };
        let epoch = replica.state().epoch;
        let draft = Draft {
            nonce: PROMOTE,
            intent: NO_INTENT,
            base: replica.id(from),
            kind: Kind::Promote {
                from,
                epoch: epoch + 1,
            },
        };
        replica.send(head, draft, epoch + 1);
        self.promoting = Some(head + 1);
    }

    /// Ends the old log.
    pub(crate) fn fence(&mut self, primary: &mut Site, rules: Rules) {
        let draft = Draft {
            nonce: FENCE,
            intent: NO_INTENT,
            base: primary.id(primary.head()),
            kind: Kind::Fence,
        };
        primary.append(draft, 0, rules);
        self.fenced = true;
    }

    /// Brings the next record of the old log over: its draft with its nonce, unless it is there already.
    pub(crate) fn bring(&mut self, primary: &Site, replica: &mut Site, rules: Rules) {
        let state = *replica.state();
        let number = self.brought.max(state.fork) + 1;
        self.brought = number;
        let Some(slot) = primary.slot(number) else {
            return;
        };
        let old = primary.state_at(number, rules);
        let draft = slot.record.draft;
        let Kind::Push { introduces, .. } = draft.kind else {
            return;
        };
        let counts =
            |at: Number| state.effective.contains(at) || !rules.hold(Rule::LeftBehindIsNotLanded);
        let is_there = (state.fork + 1..=state.head)
            .any(|at| counts(at) && replica.nonce(at) == Some(draft.nonce));
        if is_there || !old.effective.contains(number) {
            return;
        }
        if let Some(pack) = introduces {
            replica.packs.insert(pack);
        }
        let base = replica.id(state.head);
        replica.append(Draft { base, ..draft }, state.epoch, rules);
    }

    /// Whether everything up to the fence was brought over.
    pub(crate) fn may_finish(&self, primary: &Site) -> bool {
        let fence = primary
            .log
            .iter()
            .position(|slot| slot.record.draft.kind == Kind::Fence);
        self.fenced
            && fence.is_some_and(|before| usize::from(self.brought) > before)
            && primary.state().epoch == 0
    }
}

/// Whether an object is in a store, whole.
pub(crate) fn has(site: &Site, object: Object) -> bool {
    match object {
        Object::Pack(pack) => site.packs.contains(pack),
        Object::Record(number) => site
            .slot(number)
            .is_some_and(|slot| slot.form == Form::Whole),
        Object::Own => false,
    }
}

/// Whether a point can be folded from a checkpoint at or before it, or from the first record. The bodies of
/// records that a promote left behind are not needed.
pub(crate) fn is_readable(site: &Site, state: &State, point: Number) -> bool {
    let starts = site.checkpoints.iter().chain(std::iter::once(0));
    starts.filter(|start| *start <= point).any(|start| {
        (start + 1..=point).all(|number| {
            let is_whole = |slot: &Slot| slot.form == Form::Whole;
            state.left_behind.contains(number) || site.slot(number).is_some_and(is_whole)
        })
    })
}

/// Whether a store has everything that is retained at a record.
pub(crate) fn is_whole_at(site: &Site, number: Number, rules: Rules) -> bool {
    let state = site.state_at(number, rules);
    state.named().all(|place| has(site, place.object))
        && state
            .retained
            .iter()
            .all(|point| is_readable(site, &state, point))
}
