//! A writer: a client or a gateway that carries out one push or rollback for a user.
//!
//! What it has journaled survives a crash, so a run that dies after its first attempt goes on where it
//! was. Requests that it sent are on their way whatever becomes of it.

use crate::fold::State;
use crate::object::{Draft, Kind, Nonce, Number, Object, Pack, Path, Place, Record};
use crate::rule::{Rule, Rules};
use crate::site::{Form, Site, Where};

/// What a writer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// New content at a path, in a pack that is uploaded first.
    Upload(Path),
    /// New content at a path, in the record itself.
    Inline(Path),
    /// Content at a path that the repository had elsewhere at a point; named where it lies, if the point is
    /// still retained, and uploaded otherwise.
    Reuse {
        /// The path.
        path: Path,
        /// The point.
        point: Number,
        /// The path at that point.
        of: Path,
    },
    /// Everything as it was at a point.
    Rollback(Number),
    /// The draft of another writer, handed in a second time through another gateway, while the first one
    /// goes on.
    Again {
        /// The other writer.
        of: usize,
        /// The path of its push.
        path: Path,
    },
}

/// A task and how often it may be planned anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Work {
    /// What to do.
    pub task: Task,
    /// Plans it may make, at most [`PLANS_MAX`].
    pub plans: u8,
}

/// Each plan has a pack and a nonce of its own; there are so many.
pub const PLANS_MAX: u8 = 3;

/// Where a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// It has no draft.
    Idle,
    /// It has one; what it needs is uploaded. Once it was sent it is in the journal.
    Planned {
        /// The draft.
        draft: Draft,
        /// Whether it was sent before.
        is_journaled: bool,
    },
    /// It sent the draft to a number and has no answer.
    Sent {
        /// The draft.
        draft: Draft,
        /// The number.
        number: Number,
    },
    /// It told its user that the push landed.
    Acknowledged,
    /// It told its user that the push did not happen and why.
    Refused,
}

/// A writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The store it works on.
    pub at: Where,
    /// Which of its plans it is at.
    pub plan: u8,
    /// A nonce it has to keep, since a draft with it may have landed in another epoch.
    pub keeps: Option<Nonce>,
    /// Where it is.
    pub step: Step,
}

/// What came of an attempt.
pub(crate) enum Attempt {
    /// The nonce is in the log.
    Landed,
    /// It cannot land as it is.
    PlanAgain,
    /// The same in another epoch than it was made in.
    PlanAgainBehindPromote,
    /// It was sent to this number.
    Sent(Number),
}

/// The first nonce and pack of actors; what is before belongs to the history that every check begins with.
const FIRST_NONCE: Nonce = 10;
const FIRST_PACK: Pack = 1;

/// The nonce of an actor's plan.
pub(crate) fn nonce_of(actor: usize, plan: u8) -> Nonce {
    FIRST_NONCE + u8::try_from(actor).unwrap_or(0) * (PLANS_MAX + 1) + plan
}

/// The pack of an actor's plan.
pub(crate) fn pack_of(actor: usize, plan: u8) -> Pack {
    FIRST_PACK + u8::try_from(actor).unwrap_or(0) * PLANS_MAX + plan
}

impl Writer {
    /// A writer that has done nothing yet.
    pub const NEW: Self = Self {
        at: Where::Primary,
        plan: 0,
        keeps: None,
        step: Step::Idle,
    };

    /// Its draft, if it has one.
    pub const fn draft(&self) -> Option<Draft> {
        match self.step {
            Step::Planned { draft, .. } | Step::Sent { draft, .. } => Some(draft),
            _ => None,
        }
    }

    /// Makes a plan from the head as it is now: uploads, then writes the draft.
    pub(crate) fn make_plan(&mut self, actor: usize, task: Task, site: &mut Site) {
        let state = *site.state();
        let upload = |path, site: &mut Site| {
            let pack = pack_of(actor, self.plan);
            site.packs.insert(pack);
            let object = Object::Pack(pack);
            Kind::Push {
                path,
                place: Place { object, chunk: 0 },
                introduces: Some(pack),
            }
        };
        let kind = match task {
            Task::Upload(path) | Task::Again { path, .. } => upload(path, site),
            Task::Inline(path) => {
                let object = Object::Own;
                Kind::Push {
                    path,
                    place: Place { object, chunk: 0 },
                    introduces: None,
                }
            }
            Task::Reuse { path, point, of } => {
                match state.point(point).and_then(|tree| *tree.get(of)?) {
                    Some(place) => Kind::Push {
                        path,
                        place,
                        introduces: None,
                    },
                    None => upload(path, site),
                }
            }
            Task::Rollback(to) => match state.point(to) {
                Some(tree) => Kind::Rollback { to, tree },
                None => {
                    self.step = Step::Refused;
                    return;
                }
            },
        };
        let intent = match task {
            Task::Again { of, .. } => of,
            _ => actor,
        };
        let draft = Draft {
            nonce: self.keeps.unwrap_or_else(|| nonce_of(actor, self.plan)),
            intent: u8::try_from(intent).unwrap_or(u8::MAX),
            base: site.id(site.head()),
            kind,
        };
        self.step = Step::Planned {
            draft,
            is_journaled: false,
        };
    }

    /// Gives up its draft and goes back to planning, as often as it may.
    pub(crate) fn plan_again(&mut self, work: Work) {
        self.plan += 1;
        self.step = if self.plan < work.plans.min(PLANS_MAX) {
            Step::Idle
        } else {
            Step::Refused
        };
    }
}

/// Hands a draft in: looks at every record since its base, then sends it to the next number. One whose nonce
/// comes from another epoch is looked for from where the logs part, whatever its base is by now.
pub(crate) fn attempt(site: &mut Site, draft: &Draft, keeps_nonce: bool, rules: Rules) -> Attempt {
    let state = *site.state();
    let is_of_this_log = site.holds(draft.base);
    // A base of another epoch says nothing here, least of all by its number.
    let since = if is_of_this_log {
        draft.base.number
    } else if rules.hold(Rule::SearchFromFork) {
        state.fork
    } else {
        draft.base.number.min(site.head())
    };
    let seen = site.seen_from(since);
    let looked_for_since = if keeps_nonce && rules.hold(Rule::SearchFromFork) {
        since.min(state.fork)
    } else {
        since
    };
    if rules.hold(Rule::NonceSearch) {
        // A retired record keeps its nonce. What a promote left behind has not landed.
        let counts = |number: Number| {
            state.effective.contains(number) || !rules.hold(Rule::LeftBehindIsNotLanded)
        };
        let is_ours = |number: Number| counts(number) && site.nonce(number) == Some(draft.nonce);
        if (looked_for_since + 1..=seen).any(is_ours) {
            return Attempt::Landed;
        }
    }
    // What it introduces was uploaded to another store, and may not have come here.
    let is_of_this_epoch = draft.base.epoch == state.epoch || !rules.hold(Rule::BaseOfThisEpoch);
    if !is_of_this_log || !is_of_this_epoch {
        return Attempt::PlanAgainBehindPromote;
    }
    for number in since + 1..=seen {
        let Some(slot) = site.slot(number) else { break };
        // Whether two pushes are disjoint cannot be told from an envelope.
        let is_unreadable = slot.form != Form::Whole;
        let is_in_the_way = state.effective.contains(number) && !may_follow(draft, &slot.record);
        if is_unreadable || is_in_the_way {
            return Attempt::PlanAgain;
        }
    }
    let parent: State = site.state_at(seen, rules);
    if parent.check(draft, rules).is_err() {
        return Attempt::PlanAgain;
    }
    site.send(seen, *draft, parent.epoch);
    Attempt::Sent(seen + 1)
}

/// Whether a draft made without knowledge of a record may be appended after it.
fn may_follow(draft: &Draft, record: &Record) -> bool {
    match (draft.kind, record.draft.kind) {
        (Kind::Push { path: ours, .. }, Kind::Push { path: theirs, .. }) => ours != theirs,
        (Kind::Push { .. }, Kind::Rollback { .. })
        | (Kind::Rollback { .. }, Kind::Push { .. } | Kind::Rollback { .. }) => false,
        // A compact is not computed again. What came since may name what it condemns; the remove looks.
        _ => true,
    }
}
