//! The rules of the fold: what each record makes of the state, and what makes it void.
//!
//! This is the part that the code follows sentence by sentence. A record that breaks a rule is void: it
//! keeps its number and changes nothing, for every reader alike. As a writer knows everything up to the
//! number before the one it tries, it knows before it sends whether its record would be void, and a void
//! record is never acknowledged.

use crate::object::{Draft, Few, Kind, Moves, Number, Object, Pack, Place, Tree};
use crate::rule::{Rule, Rules};
use crate::site::Slot;

/// Everything that a log says at one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The record it is the state at.
    pub head: Number,
    /// The shared directory.
    pub tree: Tree,
    /// The tree at each point; only those of `retained` count.
    pub points: [Tree; POINTS],
    /// Points whose trees are kept. A push or rollback makes one; the newest never expires.
    pub retained: Few,
    /// Packs that a record introduced.
    pub known: Few,
    /// How many chunks each of them has.
    pub chunks: [u8; PACKS],
    /// Packs that no record may name any more, whether they were known or not.
    pub condemned: Few,
    /// Packs that a `remove` named.
    pub removed: Few,
    /// Records up to this one are cut down to their envelopes.
    pub cut: Number,
    /// Whether a `fence` ended the log.
    pub fenced: bool,
    /// Counts `promote` records.
    pub epoch: u8,
    /// Where this epoch continued from.
    pub fork: Number,
    /// Records that are not void and were not left behind by a `promote`.
    pub effective: Few,
    /// Records that a `promote` left behind: nobody needs their bodies.
    pub left_behind: Few,
}

/// Numbers are below this.
pub const POINTS: usize = 16;

/// Names of packs are below this.
pub const PACKS: usize = 32;

/// Why a record is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Void {
    /// A `fence` came before it.
    Fenced,
    /// Its base does not precede it, or is of an earlier epoch.
    Base,
    /// It names a pack that no record has introduced.
    UnknownPack,
    /// It introduces a pack that is known already.
    PackAgain,
    /// It names or introduces a pack that was condemned.
    Condemned,
    /// It names content in a record that is retired, or that doesn't precede it.
    Retired,
    /// It brings back a point that is not retained.
    NotRetained,
    /// A `compact` that expires the newest point, or a point after its base.
    TooNew,
    /// A `compact` that moves from where it doesn't condemn, or to where it doesn't introduce.
    Move,
    /// A `remove` of a pack that is not condemned.
    NotCondemned,
    /// A `remove` of a pack or record that a retained tree names.
    StillNamed,
    /// A `remove` that cuts records that a retained point needs, or that no checkpoint stands in for.
    StillNeeded,
    /// A `promote` that doesn't open the next epoch, or continues from what doesn't precede it.
    Epoch,
}

impl State {
    /// The state of a repository without records.
    pub const EMPTY: Self = Self {
        head: 0,
        tree: [None; crate::object::PATHS],
        points: [[None; crate::object::PATHS]; POINTS],
        retained: EMPTY,
        known: EMPTY,
        chunks: [0; PACKS],
        condemned: EMPTY,
        removed: EMPTY,
        cut: 0,
        fenced: false,
        epoch: 0,
        fork: 0,
        effective: EMPTY,
        left_behind: EMPTY,
    };

    /// `state = fold(log)`.
    pub fn fold(log: &[Slot], rules: Rules) -> Self {
        let mut state = Self::EMPTY;
        for Slot { record, .. } in log {
            // A promote goes on from an earlier state, which is the fold up to there.
            if let Kind::Promote { from, epoch } = record.draft.kind
                && state.check(&record.draft, rules).is_ok()
            {
                let number = state.head + 1;
                let before = log.get(..usize::from(from)).unwrap_or_default();
                state = Self::fold(before, rules);
                state.epoch = epoch;
                state.fork = from;
                state.fenced = false;
                state.head = number;
                state.effective.insert(number);
                for left in from + 1..number {
                    state.left_behind.insert(left);
                }
                continue;
            }
            state.apply(&record.draft, rules);
        }
        state
    }

    /// Takes in the next record. Void ones change nothing but the head.
    fn apply(&mut self, draft: &Draft, rules: Rules) {
        let is_void = self.check(draft, rules).is_err();
        self.head += 1;
        if is_void {
            return;
        }
        self.effective.insert(self.head);
        match draft.kind {
            // A push puts an entry at its path and makes a point.
            Kind::Push {
                path,
                place,
                introduces,
            } => {
                // A pack is named for the first time by its last chunk.
                self.introduce(introduces, place.chunk + 1);
                if let Some(entry) = self.tree.get_mut(path) {
                    *entry = Some(match place.object {
                        Object::Own => Place {
                            object: Object::Record(self.head),
                            ..place
                        },
                        _ => place,
                    });
                }
                self.make_point();
            }
            // A rollback makes the tree what its body says, and makes a point.
            Kind::Rollback { tree, .. } => {
                self.tree = tree;
                self.make_point();
            }
            // A compact forgets the points it expires, moves chunks in all that is retained, and condemns.
            // What came between its base and its place may name what it condemns: that stays where it is,
            // and is why nothing is deleted yet.
            Kind::Compact {
                expire,
                condemn,
                moves,
                introduces,
            } => {
                let moved = moves.iter().flatten().count();
                self.introduce(introduces, u8::try_from(moved).unwrap_or(u8::MAX));
                self.retained = self.retained.minus(expire);
                self.tree = moved_tree(self.tree, &moves);
                for point in &mut self.points {
                    *point = moved_tree(*point, &moves);
                }
                self.condemned = self.condemned.and(condemn);
                if !rules.hold(Rule::SecondRecord) {
                    self.removed = self.removed.and(condemn);
                }
            }
            // A remove takes packs out of the tables. Their ids stay condemned: somebody may still hold a
            // draft that introduces one.
            Kind::Remove { packs, cut, .. } => {
                self.removed = self.removed.and(packs);
                self.known = self.known.minus(packs);
                if !rules.hold(Rule::CondemnedForGood) {
                    self.condemned = self.condemned.minus(packs);
                }
                self.cut = self.cut.max(cut);
            }
            // A fence makes void whatever follows, in this log.
            Kind::Fence => self.fenced = true,
            Kind::Promote { .. } => {}
        }
    }

    /// Says whether a draft that came next would be void, and why.
    pub fn check(&self, draft: &Draft, rules: Rules) -> Result<(), Void> {
        let number = self.head + 1;
        let is_promote = matches!(draft.kind, Kind::Promote { .. });
        if self.fenced && !is_promote && rules.hold(Rule::FenceEndsLog) {
            return Err(Void::Fenced);
        }
        match draft.kind {
            Kind::Push {
                place, introduces, ..
            } => {
                self.check_base(draft, rules)?;
                self.check_introduced(introduces, rules)?;
                self.check_named(place, introduces, rules)
            }
            // A rollback names a point that is retained where it lands, and every entry that it changes
            // is named by it as a push would name it.
            Kind::Rollback { to, tree } => {
                self.check_base(draft, rules)?;
                if !self.retained.contains(to) {
                    return Err(Void::NotRetained);
                }
                let changed = tree.iter().zip(&self.tree).filter(|(new, old)| new != old);
                for place in changed.filter_map(|(new, _)| *new) {
                    self.check_named(place, None, rules)?;
                }
                Ok(())
            }
            // A compact is not void because it condemns what a retained tree names: it would never land
            // while others push. It may expire only what had been superseded at its base.
            Kind::Compact {
                expire,
                condemn,
                moves,
                introduces,
            } => {
                self.check_base(draft, rules)?;
                self.check_introduced(introduces, rules)?;
                let newest = self.retained.iter().next_back();
                let is_too_new = |point: Number| Some(point) == newest || point > draft.base.number;
                if expire.iter().any(is_too_new) {
                    return Err(Void::TooNew);
                }
                for (from, to) in moves.iter().flatten() {
                    let leaves = match from.object {
                        Object::Pack(pack) => condemn.contains(pack),
                        Object::Record(from) => from <= draft.base.number,
                        Object::Own => false,
                    };
                    if !leaves || introduces.map(Object::Pack) != Some(to.object) {
                        return Err(Void::Move);
                    }
                }
                Ok(())
            }
            // A remove lists what was condemned and what no tree names that is retained at its parent; it
            // cuts what no retained point needs, as a checkpoint stands in for it.
            Kind::Remove {
                packs,
                cut,
                checkpoint,
            } => {
                if !packs.minus(self.condemned).is_empty() {
                    return Err(Void::NotCondemned);
                }
                let names_removed = |place: Place| match place.object {
                    Object::Pack(pack) => packs.contains(pack),
                    Object::Record(number) => number <= cut,
                    Object::Own => false,
                };
                if self.named().any(names_removed) {
                    return Err(Void::StillNamed);
                }
                if cut > 0 && (cut > checkpoint || checkpoint >= number) {
                    return Err(Void::StillNeeded);
                }
                let oldest = self.retained.iter().next();
                if cut > 0
                    && rules.hold(Rule::PointsBeforeCut)
                    && oldest.is_some_and(|oldest| checkpoint > oldest)
                {
                    return Err(Void::StillNeeded);
                }
                Ok(())
            }
            Kind::Fence => Ok(()),
            // A promote opens the next epoch, once, and continues from an earlier record.
            Kind::Promote { from, epoch } => {
                if epoch == self.epoch + 1 && from < number {
                    Ok(())
                } else {
                    Err(Void::Epoch)
                }
            }
        }
    }

    /// A base precedes the record, in its own epoch: behind a `promote` everything is made anew.
    fn check_base(&self, draft: &Draft, rules: Rules) -> Result<(), Void> {
        let is_of_this_epoch = draft.base.epoch == self.epoch;
        if draft.base.number > self.head || !is_of_this_epoch && rules.hold(Rule::BaseOfThisEpoch) {
            return Err(Void::Base);
        }
        Ok(())
    }

    /// A pack that is introduced was not known, and was never condemned: a collector that found it
    /// unnamed may have condemned it, and may delete it at any time.
    fn check_introduced(&self, pack: Option<Pack>, rules: Rules) -> Result<(), Void> {
        let Some(pack) = pack else { return Ok(()) };
        if self.known.contains(pack) {
            return Err(Void::PackAgain);
        }
        if rules.hold(Rule::CondemnCheck) && self.condemned.contains(pack) {
            return Err(Void::Condemned);
        }
        Ok(())
    }

    /// Content that is named lies in a pack that is known, or introduced here, and not condemned; or in
    /// an earlier record that is not retired; or in the record itself.
    fn check_named(
        &self,
        place: Place,
        introduces: Option<Pack>,
        rules: Rules,
    ) -> Result<(), Void> {
        match place.object {
            Object::Pack(pack) if introduces == Some(pack) => Ok(()),
            Object::Pack(pack) => {
                if rules.hold(Rule::CondemnCheck) && self.condemned.contains(pack) {
                    return Err(Void::Condemned);
                }
                if !self.known.contains(pack) && rules.hold(Rule::CondemnCheck) {
                    return Err(Void::UnknownPack);
                }
                Ok(())
            }
            Object::Record(number) => {
                let is_retired = rules.hold(Rule::RetiredContent) && number <= self.cut;
                if is_retired || number > self.head {
                    return Err(Void::Retired);
                }
                Ok(())
            }
            Object::Own => Ok(()),
        }
    }

    fn introduce(&mut self, pack: Option<Pack>, chunks: u8) {
        let Some(pack) = pack else { return };
        self.known.insert(pack);
        if let Some(known) = self.chunks.get_mut(usize::from(pack)) {
            *known = chunks;
        }
    }

    fn make_point(&mut self) {
        self.retained.insert(self.head);
        if let Some(point) = self.points.get_mut(usize::from(self.head)) {
            *point = self.tree;
        }
    }

    /// The tree at a point, if it is retained.
    pub fn point(&self, number: Number) -> Option<Tree> {
        let is_retained = self.retained.contains(number);
        is_retained.then(|| self.points.get(usize::from(number)).copied())?
    }

    /// Every tree that is retained.
    pub fn trees(&self) -> impl Iterator<Item = Tree> {
        let points = self.retained.iter().filter_map(|number| self.point(number));
        points.chain(std::iter::once(self.tree))
    }

    /// Every place that a retained tree names.
    pub fn named(&self) -> impl Iterator<Item = Place> {
        self.trees().flatten().flatten()
    }
}

const EMPTY: Few = Few::NONE;

fn moved_tree(tree: Tree, moves: &Moves) -> Tree {
    tree.map(|place| {
        let place = place?;
        let moved = moves.iter().flatten().find(|(from, _)| *from == place);
        Some(moved.map_or(place, |(_, to)| *to))
    })
}
