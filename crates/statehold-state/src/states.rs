//! The states of one collection: found by their ids, and listed in the order of these.
//!
//! Edits look for one state after another, anywhere in the collection: a look at a hash table takes
//! a third of one at an ordered map. The order is kept beside it, and changes only with what is there.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher, RandomState};
use std::ops::Bound;

use indexmap::IndexMap;
use indexmap::map::Entry;
use smol_str::SmolStr;

use crate::revision::Revision;
use crate::siblings::Siblings;

/// States with their live revisions, of which each has at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct States {
    by_id: IndexMap<SmolStr, Siblings, RandomState>,
    order: BTreeSet<SmolStr>,
}

impl States {
    /// These states, whose ids are in order.
    pub(crate) fn of(states: Vec<(SmolStr, Siblings)>) -> Self {
        Self {
            order: states.iter().map(|(id, _)| id.clone()).collect(),
            by_id: states.into_iter().collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The live revisions of a state.
    pub(crate) fn get(&self, id: &str) -> &[Revision] {
        self.by_id.get(id).map_or(&[], Siblings::as_slice)
    }

    /// All states in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SmolStr, &[Revision])> {
        self.found(self.order.iter())
    }

    /// The same from this id on.
    pub(crate) fn iter_from(&self, start: &str) -> impl Iterator<Item = (&SmolStr, &[Revision])> {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.found(self.order.range::<str, _>(from))
    }

    /// These states. Those that follow each other in order mostly came so, and lie side by side.
    fn found<'s>(
        &'s self,
        ids: impl Iterator<Item = &'s SmolStr>,
    ) -> impl Iterator<Item = (&'s SmolStr, &'s [Revision])> {
        let mut next = 0;
        ids.filter_map(move |id| {
            let beside = self.by_id.get_index(next).filter(|(other, _)| *other == id);
            let (place, siblings) = match beside {
                Some((_, siblings)) => (next, siblings),
                None => self
                    .by_id
                    .get_full(id)
                    .map(|(place, _, siblings)| (place, siblings))?,
            };
            next = place + 1;
            Some((id, siblings.as_slice()))
        })
    }

    /// All states in no order.
    pub(crate) fn unordered(&self) -> impl Iterator<Item = (&SmolStr, &[Revision])> {
        self.by_id
            .iter()
            .map(|(id, siblings)| (id, siblings.as_slice()))
    }

    /// Makes room for so many states where there are none yet.
    pub(crate) fn expect(&mut self, count: usize) {
        if self.is_empty() {
            self.by_id.reserve_exact(count);
        }
    }

    /// Changes a state, which need not be there before or after.
    pub(crate) fn change<R>(&mut self, id: &SmolStr, change: impl FnOnce(&mut Siblings) -> R) -> R {
        let before = self.len();
        let result = self.change_unlisted(id, change);
        if self.len() > before {
            self.order.insert(id.clone());
        } else if self.len() < before {
            self.order.remove(id);
        }
        result
    }

    /// Changes states one after the other, whose ids come in order. Many new ones are listed at once.
    pub(crate) fn change_all<T>(
        &mut self,
        changes: impl Iterator<Item = (SmolStr, T)>,
        mut change: impl FnMut(&mut Siblings, T),
    ) {
        let mut new: Vec<SmolStr> = Vec::new();
        for (id, with) in changes {
            let before = self.len();
            self.change_unlisted(&id, |siblings| change(siblings, with));
            if self.len() > before {
                new.push(id);
            } else if self.len() < before && new.pop_if(|last| *last == id).is_none() {
                self.order.remove(&id);
            }
        }
        if new.len() < self.order.len() / LISTED_PER_NEW_MAX {
            self.order.extend(new);
        } else {
            self.order.append(&mut new.into_iter().collect());
        }
    }

    fn change_unlisted<R>(&mut self, id: &SmolStr, change: impl FnOnce(&mut Siblings) -> R) -> R {
        match self.by_id.entry(id.clone()) {
            Entry::Occupied(mut place) => {
                let result = change(place.get_mut());
                if place.get().is_empty() {
                    place.swap_remove();
                }
                result
            }
            Entry::Vacant(place) => {
                let mut siblings = Siblings::default();
                let result = change(&mut siblings);
                if !siblings.is_empty() {
                    place.insert(siblings);
                }
                result
            }
        }
    }
}

/// With at most so many listed ids for each new one, listing all anew is quicker than finding the
/// place of each.
const LISTED_PER_NEW_MAX: usize = 8;

impl Hash for States {
    /// Equal states have equal hashes, in whatever order they came.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        for entry in self.iter() {
            entry.hash(state);
        }
    }
}
