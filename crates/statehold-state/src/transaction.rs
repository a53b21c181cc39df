//! Several changes that become durable and visible at once.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::canonical::Canonical;
use crate::collection::{Collection, State};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::hybrid_clock::HybridClock;
use crate::limits::{BATCH_EVENTS_MAX, ID_BYTES_MAX};
use crate::manager::Known;
use crate::node::Key;
use crate::revision::{Batch, Content};
use crate::strategy::{Rules, Strategy};

/// Changes in the making. Reads see what it has written so far.
pub struct Transaction<'a> {
    draft: Draft<'a>,
    known: &'a Known,
}

impl<'a> Transaction<'a> {
    pub(crate) const fn new(draft: Draft<'a>, known: &'a Known) -> Self {
        Self { draft, known }
    }

    /// A state, with what this transaction did to it.
    ///
    /// # Errors
    /// It does not have the form of the collection's type.
    pub fn get<T: DeserializeOwned>(
        &self,
        collection: &Collection<T>,
        id: &str,
    ) -> Result<Option<State<T>>> {
        let key = collection.key(id)?;
        State::of(&key, self.draft.siblings(&key), self.rules(&key))
    }

    /// Creates a state, or gives it another value.
    ///
    /// # Errors
    /// The value or the id cannot be kept, or it is too much for one batch.
    pub fn put<T: Serialize>(
        &mut self,
        collection: &Collection<T>,
        id: &str,
        value: &T,
    ) -> Result<()> {
        let key = collection.key(id)?;
        let value = Canonical::of(value).map_err(|source| Error::value(&key, source))?;
        self.put_canonical(key, value, false)
    }

    pub(crate) fn put_canonical(
        &mut self,
        key: Key,
        value: Canonical,
        resolves: bool,
    ) -> Result<()> {
        let rules = self.rules(&key);
        // Looking them up takes longer than the rest, and only merging needs them.
        let siblings = match rules.strategy {
            Strategy::Merge => self.draft.siblings(&key),
            _ => &[],
        };
        let content = rules
            .content(value, siblings)
            .map_err(|source| Error::value(&key, source))?;
        self.push(key, content, resolves)
    }

    /// Deletes a state. Whether there was one.
    ///
    /// # Errors
    /// The id is none, or it is too much for one batch.
    pub fn delete<T>(&mut self, collection: &Collection<T>, id: &str) -> Result<bool> {
        let key = collection.key(id)?;
        let rules = self.rules(&key);
        let is_there = rules.show(self.draft.siblings(&key).iter()).is_some();
        if is_there {
            self.push(key, rules.delete(), false)?;
        }
        Ok(is_there)
    }

    pub(crate) fn settle(&mut self, key: Key, content: Content) {
        self.draft.push(key, content, true);
    }

    pub(crate) fn bury(&mut self, key: Key) {
        self.draft.push(key, Content::Deleted, false);
    }

    pub(crate) const fn draft(&self) -> &Draft<'a> {
        &self.draft
    }

    pub(crate) fn rules(&self, key: &Key) -> &'a Rules {
        self.known.rules(&key.collection)
    }

    fn push(&mut self, key: Key, content: Content, resolves: bool) -> Result<()> {
        if self.draft.len() >= BATCH_EVENTS_MAX {
            return Err(Error::BatchTooLarge);
        }
        self.draft.push(key, content, resolves);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Option<(Batch, HybridClock)>> {
        Ok(self.draft.finish())
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("events", &self.draft.len())
            .finish_non_exhaustive()
    }
}

/// Checks that a state may be called this.
pub(crate) fn checked_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Error::invalid_name(id));
    }
    Ok(())
}
