//! Many events at once: taken in the order of their keys, each finds its neighbours at hand. That is
//! most of what taking an event costs.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::revision::Event;
use crate::root::{Digester, Root};

/// Events that are taken together.
pub(crate) struct Bulk {
    /// In the order in which they were made, until they are taken.
    events: Vec<Option<Event>>,
    digests: Vec<Root>,
}

/// Places of events of one collection in the order of their ids; events of one id in their own.
type Order = Vec<usize>;

impl Bulk {
    pub(crate) fn new(events: Vec<Event>, digester: &mut Digester) -> Self {
        // In the order in which they lie in memory.
        let digests = events
            .iter()
            .map(|event| digester.digest(&event.key, &event.revision))
            .collect();
        Self {
            events: events.into_iter().map(Some).collect(),
            digests,
        }
    }

    /// The collections, in order, each with its events.
    pub(crate) fn orders(&self) -> Vec<(Arc<str>, Order)> {
        let mut orders: Vec<(Arc<str>, Order)> = Vec::new();
        for (place, event) in self.events.iter().enumerate() {
            let Some(name) = event.as_ref().map(|event| &event.key.collection) else {
                continue;
            };
            // Nearly always the one of the event before.
            match orders.iter_mut().rfind(|(other, _)| other == name) {
                Some((_, order)) => order.push(place),
                None => orders.push((Arc::clone(name), vec![place])),
            }
        }
        for (_, order) in &mut orders {
            self.sort(order);
        }
        orders.sort_unstable();
        orders
    }

    fn id(&self, place: usize) -> &str {
        self.events[place]
            .as_ref()
            .map_or("", |event| &event.key.id)
    }

    /// Sorts places by the ids of their events, which mostly differ in few bytes after those that all
    /// of them begin with.
    fn sort(&self, order: &mut Order) {
        let Some((first, rest)) = order.split_first() else {
            return;
        };
        let first = self.id(*first).as_bytes();
        let shared = rest.iter().fold(first.len(), |shared, place| {
            let both = first[..shared].iter().zip(self.id(*place).as_bytes());
            both.take_while(|(one, other)| one == other).count()
        });
        let word = |place: usize| {
            let mut word = [0; 8];
            let differing = self.id(place).as_bytes().iter().skip(shared);
            for (byte, differing) in word.iter_mut().zip(differing) {
                *byte = *differing;
            }
            u64::from_be_bytes(word)
        };
        let mut words: Vec<(u64, usize)> =
            order.iter().map(|place| (word(*place), *place)).collect();
        words.sort_unstable_by(|(one_word, one), (other_word, other)| {
            let by_id = || self.id(*one).cmp(self.id(*other));
            let by_word = one_word.cmp(other_word);
            by_word.then_with(by_id).then(one.cmp(other))
        });
        for (place, (_, sorted)) in order.iter_mut().zip(words) {
            *place = sorted;
        }
    }

    /// The events in these places, with the ids of their states.
    pub(crate) fn take(&mut self, order: Order) -> impl Iterator<Item = (SmolStr, (Event, Root))> {
        order.into_iter().filter_map(|place| {
            let event = self.events[place].take()?;
            Some((event.key.id.clone(), (event, self.digests[place])))
        })
    }
}
