//! A collector: expires points, compacts, and removes, in two records.
//!
//! A collector that crashes is one that never moves again; what it leaves behind is what the other one
//! finds.

use crate::object::{Draft, Few, Kind, MOVES, Moves, Number, Object, Place};
use crate::rule::{Rule, Rules};
use crate::site::Site;
use crate::writer::{Attempt, PLANS_MAX, attempt, nonce_of, pack_of};

/// No user's push.
pub(crate) const NO_INTENT: u8 = u8::MAX;

/// Where a collector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has not looked yet.
    Idle,
    /// It looked, moved chunks into a new pack, and wrote its `compact`.
    Planned(Draft),
    /// It sent that to a number.
    Compacting(Draft, Number),
    /// Its `compact` is in the log, or there was nothing to compact.
    Compacted,
    /// The checkpoint that stands in for what will be retired is stored and was read back.
    Checked,
    /// It sent its `remove` to a number.
    Removing(Number),
    /// It is done.
    Done,
}

/// A collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Which of its plans it is at.
    pub plan: u8,
    /// Where it is.
    pub phase: Phase,
}

/// Plans of a `compact` that a collector may make.
const PLANS: u8 = 2;

impl Collector {
    /// A collector that has done nothing yet.
    pub const NEW: Self = Self {
        plan: 0,
        phase: Phase::Idle,
    };

    /// Looks at the state and at a listing of the packs, and writes a `compact`: only the newest point is
    /// kept; whatever no record has named is condemned, uploads under way included; so is every pack that
    /// is not wholly alive, and what lives in it, and in records, is moved.
    pub(crate) fn plan(&mut self, actor: usize, site: &mut Site) {
        let state = *site.state();
        let newest = state.retained.iter().next_back();
        let expire = newest.map_or(Few::NONE, |newest| state.retained.minus(Few::of(newest)));
        let mut after = state;
        after.retained = state.retained.minus(expire);
        let mut live: Vec<Place> = after.named().collect();
        live.sort();
        live.dedup();
        let in_pack = |pack| {
            let is_in = move |place: &&Place| place.object == Object::Pack(pack);
            live.iter().filter(is_in).count()
        };
        let mut condemn = site.packs.minus(state.known).minus(state.condemned);
        for pack in state.known.iter() {
            let chunks = state.chunks.get(usize::from(pack)).copied().unwrap_or(0);
            let alive = in_pack(pack);
            let is_rescued = state.condemned.contains(pack) && alive > 0;
            if is_rescued || (alive < usize::from(chunks) && !state.condemned.contains(pack)) {
                condemn.insert(pack);
            }
        }
        let new = pack_of(actor, self.plan);
        let mut moves: Moves = [None; MOVES];
        let leaves = |place: &&Place| match place.object {
            Object::Pack(pack) => condemn.contains(pack),
            Object::Record(_) => true,
            Object::Own => false,
        };
        for ((chunk, place), moved) in (0..).zip(live.iter().filter(leaves)).zip(&mut moves) {
            let object = Object::Pack(new);
            *moved = Some((*place, Place { object, chunk }));
        }
        let introduces = moves[0].map(|_| new);
        if expire.is_empty() && condemn.is_empty() && introduces.is_none() {
            self.phase = Phase::Compacted;
            return;
        }
        if let Some(new) = introduces {
            site.packs.insert(new);
        }
        self.phase = Phase::Planned(Draft {
            nonce: nonce_of(actor, self.plan),
            intent: NO_INTENT,
            base: site.id(site.head()),
            kind: Kind::Compact {
                expire,
                condemn,
                moves,
                introduces,
            },
        });
    }

    /// Sends the `compact`, as any writer would. It is not computed again behind others.
    pub(crate) fn compact(&mut self, site: &mut Site, rules: Rules) {
        let (Phase::Planned(draft) | Phase::Compacting(draft, _)) = self.phase else {
            return;
        };
        self.phase = match attempt(site, &draft, false, rules) {
            Attempt::Landed => Phase::Compacted,
            Attempt::Sent(number) => Phase::Compacting(draft, number),
            Attempt::PlanAgain | Attempt::PlanAgainBehindPromote => {
                self.plan += 1;
                if self.plan < PLANS {
                    Phase::Idle
                } else {
                    Phase::Done
                }
            }
        };
    }

    /// Writes the checkpoint that will stand in for retired records, at the oldest point that is retained,
    /// and reads it back. Without the rule about points it does so at the head.
    pub(crate) fn check(&mut self, site: &mut Site, rules: Rules) {
        let state = *site.state();
        let at = match state.retained.iter().next() {
            Some(oldest) if rules.hold(Rule::PointsBeforeCut) => oldest,
            _ => state.head,
        };
        if rules.hold(Rule::CheckpointFirst) {
            site.checkpoints.insert(at);
        }
        self.phase = Phase::Checked;
    }

    /// Computes the `remove` from the head, and does so again each time another record was first.
    pub(crate) fn remove(&mut self, actor: usize, site: &mut Site, rules: Rules) {
        let nonce = nonce_of(actor, PLANS_MAX);
        if let Phase::Removing(number) = self.phase
            && site.nonce(number) == Some(nonce)
        {
            self.phase = Phase::Done;
            return;
        }
        let state = *site.state();
        let mut packs = state.condemned.minus(state.removed);
        let mut first_named = state.head + 1;
        for place in state.named() {
            match place.object {
                Object::Pack(pack) => packs = packs.minus(Few::of(pack)),
                Object::Record(number) => first_named = first_named.min(number),
                Object::Own => {}
            }
        }
        let oldest = state.retained.iter().next().unwrap_or(0);
        let may_stand_in = |at: &Number| *at <= oldest || !rules.hold(Rule::PointsBeforeCut);
        let checkpoint = if rules.hold(Rule::CheckpointFirst) {
            let stored = site.checkpoints.iter().filter(may_stand_in);
            stored.max().unwrap_or(0)
        } else {
            oldest
        };
        let cut = checkpoint.min(first_named - 1);
        if packs.is_empty() && cut <= state.cut {
            self.phase = Phase::Done;
            return;
        }
        let draft = Draft {
            nonce,
            intent: NO_INTENT,
            base: site.id(state.head),
            kind: Kind::Remove {
                packs,
                cut,
                checkpoint,
            },
        };
        if state.check(&draft, rules).is_err() {
            self.phase = Phase::Done;
            return;
        }
        site.send(state.head, draft, state.epoch);
        self.phase = Phase::Removing(state.head + 1);
    }
}
