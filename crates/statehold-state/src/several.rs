//! Which states have several live revisions: found without a look at all the others.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smol_str::SmolStr;

use crate::node::Key;

/// States with more than one live revision, by collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Several {
    by_collection: BTreeMap<Arc<str>, HashSet<SmolStr>>,
    count: usize,
}

impl Several {
    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Notes whether a state is one of them.
    pub(crate) fn note(&mut self, key: &Key, is_one: bool) {
        if is_one {
            let ids = self.by_collection.entry(Arc::clone(&key.collection));
            self.count += usize::from(ids.or_default().insert(key.id.clone()));
        } else if let Some(ids) = self.by_collection.get_mut(&key.collection) {
            self.count -= usize::from(ids.remove(&key.id));
            if ids.is_empty() {
                self.by_collection.remove(&key.collection);
            }
        }
    }

    /// Those of a collection, in no order.
    pub(crate) fn of(&self, collection: &str) -> impl Iterator<Item = &SmolStr> {
        self.by_collection.get(collection).into_iter().flatten()
    }
}

impl Hash for Several {
    /// They follow from the states, which are hashed; so it is enough that equal ones are equal.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.count);
    }
}
