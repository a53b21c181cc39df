//! The whole: what there is, and every step that anybody may take next.

use stateright::{Model, Property};

use crate::collector::{Collector, NO_INTENT, Phase};
use crate::configuration::Configuration;
use crate::object::{Draft, Few, Kind, Number, Object, Place};
use crate::properties;
use crate::replication::{
    Copying, Owner, copy_objects, copy_record, mark, may_mark, may_tidy, next_records, tidy,
};
use crate::site::{Site, Where};
use crate::writer::{Attempt, Step, Task, Writer, attempt};

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The store that everybody works on at first.
    pub primary: Site,
    /// Its copy.
    pub replica: Site,
    /// Those who push.
    pub writers: Vec<Writer>,
    /// Those who collect.
    pub collectors: Vec<Collector>,
    /// The replicator, if there is one.
    pub copying: Option<Copying>,
    /// Whoever switches over.
    pub owner: Owner,
    /// The record up to which a reader has folded, if there is one.
    pub reader: Option<Number>,
    /// Users who were told that their push landed.
    pub acknowledged: Few,
    /// Crashes that may still happen.
    pub crashes: u8,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A writer uploads and makes its draft.
    Plan(usize),
    /// A writer hands its draft in, for the first time or as something stands at the number it tried.
    Attempt(usize),
    /// A writer is told that its request created the record. Where this answer is lost, it attempts again.
    Hear(usize),
    /// A writer crashes. What was sent is on its way all the same.
    Crash(usize),
    /// A writer goes over to the promoted replica.
    GoOver(usize),
    /// A request takes effect.
    Land(Where, usize),
    /// A collector looks, and makes its `compact`.
    PlanCompact(usize),
    /// A collector sends its `compact`.
    Compact(usize),
    /// A collector stores a checkpoint and reads it back.
    Check(usize),
    /// A collector sends its `remove`.
    Remove(usize),
    /// The reader takes in what it finds at the next number.
    Read,
    /// The replicator chooses a record at which the replica shall be whole next.
    Aim,
    /// The replicator copies packs and checkpoints.
    CopyObjects,
    /// The replicator sends a record.
    CopyRecord(Number),
    /// The replicator marks the replica complete.
    Mark,
    /// The replica deletes what is removed at its mark.
    Tidy,
    /// The owner sends a `promote`.
    Promote,
    /// The owner ends the old log.
    Fence,
    /// The owner brings the old log's next record over.
    Bring,
    /// The owner sees that nothing is left to bring over.
    Finish,
}

impl World {
    /// The store that a writer works on.
    pub fn site(&self, at: Where) -> &Site {
        match at {
            Where::Primary => &self.primary,
            Where::Replica => &self.replica,
        }
    }

    /// The three records that every check begins with: a pack of two chunks, one of which lives only at the
    /// second point, and content that rides in a record.
    fn first(configuration: &Configuration) -> Self {
        let rules = configuration.rules;
        let mut primary = Site::default();
        primary.packs.insert(0);
        let place = |object, chunk| Place { object, chunk };
        let history = [
            (0, place(Object::Pack(0), 1), Some(0)),
            (1, place(Object::Pack(0), 0), None),
            (1, place(Object::Own, 0), None),
        ];
        for (nonce, (path, place, introduces)) in (3..).zip(history) {
            let draft = Draft {
                nonce,
                intent: NO_INTENT,
                base: primary.id(primary.head()),
                kind: Kind::Push {
                    path,
                    place,
                    introduces,
                },
            };
            primary.append(draft, 0, rules);
        }
        let mut replica = Site::default();
        if configuration.replicator {
            replica = primary.clone();
            replica.complete = primary.head();
        }
        Self {
            primary,
            replica,
            writers: vec![Writer::NEW; configuration.work.len()],
            collectors: vec![Collector::NEW; configuration.collectors],
            copying: configuration.replicator.then_some(Copying::Idle),
            owner: Owner::default(),
            reader: configuration.reader.then_some(0),
            acknowledged: Few::NONE,
            crashes: configuration.crashes,
        }
    }

    fn writer_actions(&self, model: &Configuration, actions: &mut Vec<Action>) {
        for (index, writer) in self.writers.iter().enumerate() {
            let site = self.site(writer.at);
            match writer.step {
                Step::Idle => {
                    // The second gateway has a draft once the first one has it.
                    let is_ready = match model.work.get(index).map(|work| work.task) {
                        Some(Task::Again { of, .. }) if writer.plan == 0 => self
                            .writers
                            .get(of)
                            .is_some_and(|first| first.draft().is_some()),
                        _ => true,
                    };
                    if is_ready {
                        actions.push(Action::Plan(index));
                    }
                }
                Step::Planned { is_journaled, .. } => {
                    actions.push(Action::Attempt(index));
                    if !is_journaled && self.crashes > 0 {
                        actions.push(Action::Crash(index));
                    }
                }
                Step::Sent { draft, number } => {
                    match site.nonce(number) {
                        None => {}
                        Some(nonce) => {
                            if nonce == draft.nonce {
                                actions.push(Action::Hear(index));
                            }
                            actions.push(Action::Attempt(index));
                        }
                    }
                    if self.crashes > 0 {
                        actions.push(Action::Crash(index));
                    }
                }
                Step::Acknowledged | Step::Refused => continue,
            }
            if writer.at == Where::Primary && self.replica.state().epoch > 0 {
                actions.push(Action::GoOver(index));
            }
        }
    }

    fn collector_actions(&self, actions: &mut Vec<Action>) {
        for (index, collector) in self.collectors.iter().enumerate() {
            match collector.phase {
                // Collectors are alike, so they are numbered in the order in which they look first.
                Phase::Idle => {
                    let has_looked = |before: &Collector| *before != Collector::NEW;
                    if self.collectors.iter().take(index).all(has_looked) {
                        actions.push(Action::PlanCompact(index));
                    }
                }
                Phase::Planned(_) => actions.push(Action::Compact(index)),
                Phase::Compacting(_, number) => {
                    if self.primary.nonce(number).is_some() {
                        actions.push(Action::Compact(index));
                    }
                }
                Phase::Compacted => actions.push(Action::Check(index)),
                Phase::Checked => actions.push(Action::Remove(index)),
                Phase::Removing(number) => {
                    if self.primary.nonce(number).is_some() {
                        actions.push(Action::Remove(index));
                    }
                }
                Phase::Done => {}
            }
        }
    }

    fn replication_actions(&self, model: &Configuration, actions: &mut Vec<Action>) {
        let rules = model.rules;
        let Some(copying) = self.copying else { return };
        match copying {
            Copying::Idle => {
                if self.primary.head() > self.replica.complete {
                    actions.push(Action::Aim);
                }
            }
            Copying::Aimed(_) => actions.push(Action::CopyObjects),
            Copying::Records(aim) => {
                match next_records(&self.primary, &self.replica, aim, rules) {
                    None => actions.push(Action::CopyRecord(0)),
                    Some(numbers) => {
                        let is_sent = |number: &Number| {
                            self.replica
                                .flight
                                .iter()
                                .any(|request| request.record.id == self.primary.id(*number))
                        };
                        let unsent = numbers.into_iter().filter(|number| !is_sent(number));
                        actions.extend(unsent.map(Action::CopyRecord));
                    }
                }
                if may_mark(&self.primary, &self.replica, aim) {
                    actions.push(Action::Mark);
                }
            }
            Copying::Diverged => {}
        }
        if may_tidy(&self.primary, &self.replica, rules) {
            actions.push(Action::Tidy);
        }
        if !model.owner {
            return;
        }
        let is_promoted = self.replica.state().epoch > 0;
        let may_promote = match self.owner.promoting {
            None => true,
            Some(number) => self.replica.nonce(number).is_some(),
        };
        if !is_promoted && may_promote {
            actions.push(Action::Promote);
        }
        if !self.owner.fenced {
            actions.push(Action::Fence);
        }
        if is_promoted {
            let next = self.owner.brought.max(self.replica.state().fork) + 1;
            if next <= self.primary.head() && !self.owner.finished {
                actions.push(Action::Bring);
            }
            if !self.owner.finished && self.owner.may_finish(&self.primary) {
                actions.push(Action::Finish);
            }
        }
    }

    fn write(&mut self, model: &Configuration, index: usize, action: Action) -> Option<()> {
        let rules = model.rules;
        let work = *model.work.get(index)?;
        let handed = match work.task {
            Task::Again { of, .. } => self.writers.get(of).and_then(Writer::draft),
            _ => None,
        };
        let writer = self.writers.get_mut(index)?;
        let site = match writer.at {
            Where::Primary => &mut self.primary,
            Where::Replica => &mut self.replica,
        };
        let is_landed = match action {
            Action::Plan(_) => {
                if let Some(draft) = handed.filter(|_| writer.plan == 0) {
                    writer.step = Step::Planned {
                        draft,
                        is_journaled: true,
                    };
                } else {
                    writer.make_plan(index, work.task, site);
                }
                false
            }
            Action::Attempt(_) => {
                let draft = writer.draft()?;
                let keeps_nonce = writer.keeps == Some(draft.nonce);
                match attempt(site, &draft, keeps_nonce, rules) {
                    Attempt::Landed => true,
                    Attempt::Sent(number) => {
                        writer.step = Step::Sent { draft, number };
                        false
                    }
                    Attempt::PlanAgain => {
                        writer.plan_again(work);
                        false
                    }
                    Attempt::PlanAgainBehindPromote => {
                        if rules.hold(crate::Rule::NonceAcrossEpochs) {
                            writer.keeps = Some(draft.nonce);
                        }
                        writer.plan_again(work);
                        false
                    }
                }
            }
            Action::Hear(_) => true,
            Action::Crash(_) => {
                self.crashes -= 1;
                match writer.step {
                    // Nothing was sent and nothing journaled: what it uploaded is garbage.
                    Step::Planned { .. } => writer.plan_again(work),
                    // The next run finds the draft in the journal.
                    Step::Sent { draft, .. } => {
                        writer.step = Step::Planned {
                            draft,
                            is_journaled: true,
                        };
                    }
                    _ => return None,
                }
                false
            }
            Action::GoOver(_) => {
                writer.at = Where::Replica;
                if let Some(draft) = writer.draft() {
                    writer.step = Step::Planned {
                        draft,
                        is_journaled: true,
                    };
                }
                false
            }
            _ => return None,
        };
        if is_landed {
            let draft = writer.draft()?;
            writer.step = Step::Acknowledged;
            self.acknowledged.insert(draft.intent);
        }
        Some(())
    }

    fn replicate(&mut self, model: &Configuration, action: Action) -> Option<()> {
        let rules = model.rules;
        match (action, self.copying) {
            (Action::Aim, _) => self.copying = Some(Copying::Aimed(self.primary.head())),
            (Action::CopyObjects, Some(Copying::Aimed(aim))) => {
                self.copying = Some(copy_objects(&self.primary, &mut self.replica, aim, rules));
            }
            (Action::CopyRecord(0), _) => self.copying = Some(Copying::Diverged),
            (Action::CopyRecord(number), _) => {
                copy_record(&self.primary, &mut self.replica, number);
            }
            (Action::Mark, Some(Copying::Records(aim))) => {
                mark(&mut self.replica, aim, rules);
                self.copying = Some(Copying::Idle);
            }
            (Action::Tidy, _) => tidy(&mut self.replica, rules),
            (Action::Promote, _) => self.owner.promote(&mut self.replica, rules),
            (Action::Fence, _) => self.owner.fence(&mut self.primary, rules),
            (Action::Bring, _) => self.owner.bring(&self.primary, &mut self.replica, rules),
            (Action::Finish, _) => self.owner.finished = true,
            _ => return None,
        }
        Some(())
    }

    fn collect(&mut self, model: &Configuration, index: usize, action: Action) -> Option<()> {
        let rules = model.rules;
        let actor = model.work.len() + index;
        let collector = self.collectors.get_mut(index)?;
        match action {
            Action::PlanCompact(_) => collector.plan(actor, &mut self.primary),
            Action::Compact(_) => collector.compact(&mut self.primary, rules),
            Action::Check(_) => collector.check(&mut self.primary, rules),
            Action::Remove(_) => collector.remove(actor, &mut self.primary, rules),
            _ => return None,
        }
        Some(())
    }

    /// What a reader does next: it goes to the next number, or, where that is retired, loads a checkpoint and
    /// folds what comes after it; what a promote left behind
    /// is passed over. Gives where it is then; the same place if it finds nothing there.
    pub fn read_on(site: &Site, at: Number) -> Number {
        let Some(slot) = site.slot(at + 1) else {
            return at;
        };
        if site.state().left_behind.contains(at + 1) {
            return at + 1;
        }
        match slot.form {
            crate::site::Form::Whole => at + 1,
            crate::site::Form::Envelope => {
                let newest = site.checkpoints.iter().next_back();
                let Some(newest) = newest.filter(|newest| *newest > at) else {
                    return at;
                };
                let after = site.log.iter().skip(usize::from(newest));
                let whole = after.take_while(|slot| slot.form == crate::site::Form::Whole);
                newest + u8::try_from(whole.count()).unwrap_or(u8::MAX)
            }
            crate::site::Form::Free | crate::site::Form::Retaken(_) => at,
        }
    }
}

impl Model for Configuration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::first(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.writer_actions(self, actions);
        world.collector_actions(actions);
        world.replication_actions(self, actions);
        for at in [Where::Primary, Where::Replica] {
            let site = world.site(at);
            for (index, request) in site.flight.iter().enumerate() {
                if site.may_land(request) {
                    actions.push(Action::Land(at, index));
                }
            }
        }
        if let Some(at) = world.reader
            && World::read_on(&world.primary, at) != at
        {
            actions.push(Action::Read);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Plan(index)
            | Action::Attempt(index)
            | Action::Hear(index)
            | Action::Crash(index)
            | Action::GoOver(index) => world.write(self, index, action)?,
            Action::PlanCompact(index)
            | Action::Compact(index)
            | Action::Check(index)
            | Action::Remove(index) => world.collect(self, index, action)?,
            Action::Land(Where::Primary, index) => world.primary.land(index, true, self.rules),
            Action::Land(Where::Replica, index) => world.replica.land(index, false, self.rules),
            Action::Read => {
                world.reader = world.reader.map(|at| World::read_on(&world.primary, at));
            }
            _ => world.replicate(self, action)?,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
