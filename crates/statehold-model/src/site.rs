//! One store: its log, its packs, its checkpoints, and the requests that are on their way to it.

use crate::fold::State;
use crate::object::{Draft, Few, Id, Kind, Nonce, Number, Record};
use crate::rule::{Rule, Rules};

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Where {
    /// The one that everybody works on at first.
    Primary,
    /// The one that it is copied to.
    Replica,
}

/// What is left of a record in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// All of it.
    Whole,
    /// Its envelope: number, parent, nonce and what it names, but not what it says.
    Envelope,
    /// Nothing, so its number can be taken again. Happens only without [`Rule::EnvelopeStub`].
    Free,
    /// Another record, by this nonce. Happens only without [`Rule::EnvelopeStub`].
    Retaken(Nonce),
}

/// A place in the log that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The record that took it first: what the chain and every checkpoint say, whatever is there now.
    pub record: Record,
    /// What is there now.
    pub form: Form,
}

/// A create request on its way. It may take effect at any later time, whatever becomes of who sent it, or
/// never; the number it is for is in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// What it creates.
    pub record: Record,
    /// In which form: a replicator copies retired records as it finds them.
    pub form: Form,
}

/// One store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Site {
    /// `log/`.
    pub log: Vec<Slot>,
    /// `packs/`.
    pub packs: Few,
    /// `checkpoints/`. Each is the fold up to its number, or it would be passed over.
    pub checkpoints: Few,
    /// `complete/<n>`, the highest; replicas have them.
    pub complete: Number,
    /// Requests on their way, in the order they were sent.
    pub flight: Vec<Request>,
    folded: Folded,
}

/// The state at the newest record: says nothing that the log doesn't, so it counts in no comparison.
#[derive(Debug, Clone)]
struct Folded(State);

impl Default for Folded {
    fn default() -> Self {
        Self(State::EMPTY)
    }
}

impl PartialEq for Folded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Folded {}

impl std::hash::Hash for Folded {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Site {
    /// The number of the newest record.
    pub fn head(&self) -> Number {
        u8::try_from(self.log.len()).unwrap_or(u8::MAX)
    }

    /// What is at a number.
    pub fn slot(&self, number: Number) -> Option<&Slot> {
        self.log.get(usize::from(number.checked_sub(1)?))
    }

    /// The id of the record that took a number.
    pub fn id(&self, number: Number) -> Id {
        self.slot(number)
            .map_or_else(Id::default, |slot| slot.record.id)
    }

    /// Whether a record is in this log's chain.
    pub fn holds(&self, id: Id) -> bool {
        id.number <= self.head() && self.id(id.number) == id
    }

    /// The nonce of what stands at a number now.
    pub fn nonce(&self, number: Number) -> Option<Nonce> {
        let slot = self.slot(number)?;
        match slot.form {
            Form::Whole | Form::Envelope => Some(slot.record.draft.nonce),
            Form::Free => None,
            Form::Retaken(nonce) => Some(nonce),
        }
    }

    /// How far somebody gets who has read up to a number and asks for the next until there is none.
    pub fn seen_from(&self, number: Number) -> Number {
        let after = self.log.iter().skip(usize::from(number));
        let there = after.take_while(|slot| matches!(slot.form, Form::Whole | Form::Envelope));
        number + u8::try_from(there.count()).unwrap_or(u8::MAX)
    }

    /// The state at a record.
    pub fn state_at(&self, number: Number, rules: Rules) -> State {
        let log = self.log.get(..usize::from(number)).unwrap_or(&self.log);
        State::fold(log, rules)
    }

    /// The state at the newest record.
    pub const fn state(&self) -> &State {
        &self.folded.0
    }

    /// Sends a request that creates the record after a number. Sending the same bytes to the same number
    /// again is one request.
    pub fn send(&mut self, after: Number, draft: Draft, epoch: u8) {
        let id = Id {
            number: after + 1,
            nonce: draft.nonce,
            epoch,
        };
        let record = Record {
            id,
            parent: self.id(after),
            draft,
        };
        self.send_copy(Request {
            record,
            form: Form::Whole,
        });
    }

    /// Sends a request that is already made.
    pub fn send_copy(&mut self, request: Request) {
        let is_same = |other: &Request| other.record == request.record;
        if !self.flight.iter().any(is_same) {
            self.flight.push(request);
            self.flight
                .sort_by_key(|request| (request.record.id, request.record.parent));
        }
    }

    /// Whether a request would create its object now: the create-only rule of the store.
    pub fn may_land(&self, request: &Request) -> bool {
        let number = request.record.id.number;
        number == self.head() + 1
            || self
                .slot(number)
                .is_some_and(|slot| slot.form == Form::Free)
    }

    /// A request takes effect. What its record allows to delete is deleted at once: the earlier the
    /// worse, so no later moment has to be looked at.
    pub fn land(&mut self, index: usize, collects: bool, rules: Rules) {
        if index >= self.flight.len() {
            return;
        }
        let Request { record, form } = self.flight.remove(index);
        let number = record.id.number;
        if let Some(slot) = self.log.get_mut(usize::from(number - 1)) {
            slot.form = Form::Retaken(record.draft.nonce);
        } else {
            let is_void = self.state().check(&record.draft, rules).is_err();
            self.log.push(Slot { record, form });
            self.folded = Folded(self.state_at(number, rules));
            if collects && !is_void {
                self.collect(&record, rules);
            }
        }
        self.drop_refused(rules);
    }

    /// Appends without an interleaving: for records whose sending holds nothing of interest.
    pub fn append(&mut self, draft: Draft, epoch: u8, rules: Rules) {
        let after = self.head();
        self.send(after, draft, epoch);
        let is_it = |request: &Request| {
            request.record.draft == draft && request.record.id.number == after + 1
        };
        if let Some(index) = self.flight.iter().position(is_it) {
            self.land(index, false, rules);
        }
    }

    fn collect(&mut self, record: &Record, rules: Rules) {
        match record.draft.kind {
            Kind::Compact { condemn, .. } if !rules.hold(Rule::SecondRecord) => {
                self.packs = self.packs.minus(condemn);
            }
            Kind::Remove { packs, cut, .. } => {
                self.packs = self.packs.minus(packs);
                self.retire(cut, rules);
            }
            _ => {}
        }
    }

    /// Cuts records down to their envelopes, up to a number.
    pub fn retire(&mut self, cut: Number, rules: Rules) {
        let form = if rules.hold(Rule::EnvelopeStub) {
            Form::Envelope
        } else {
            Form::Free
        };
        for slot in self.log.iter_mut().take(usize::from(cut)) {
            if slot.form == Form::Whole {
                slot.form = form;
            }
        }
    }

    /// A request for a number that is taken and stays so can only be refused: it is forgotten.
    fn drop_refused(&mut self, rules: Rules) {
        if rules.hold(Rule::EnvelopeStub) {
            let head = self.head();
            self.flight
                .retain(|request| request.record.id.number > head);
        }
    }
}
