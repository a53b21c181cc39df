//! States of one type: read, written, watched, and their conflicts resolved.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::canonical::{Canonical, ContentHash};
use crate::conflict::{Conflict, Resolution, Side, sides};
use crate::error::{Error, Result};
use crate::fields;
use crate::identity::random;
use crate::manager::Manager;
use crate::node::{Key, NodeId, hex};
use crate::notice::{Notice, Notices};
use crate::operation::Operation;
use crate::revision::Revision;
use crate::siblings::{is_contested, kind_of};
use crate::strategy::{Rules, Strategy};
use crate::transaction::checked_id;
use crate::vector_clock::VectorClock;

/// One state, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State<T> {
    /// Its name in its collection.
    pub id: String,
    /// The value.
    pub data: T,
    /// Its version: 1 when it was created, and one more with each edit.
    pub version: u32,
    /// When it was last written, in milliseconds since 1970, by its author's clock.
    pub timestamp: u64,
    /// What its authors knew of it. Of two states of one id, the one whose clock is after the
    /// other's is the newer; concurrent ones are a conflict.
    pub vector_clock: VectorClock,
    /// The digest of the value's canonical form.
    pub hash: ContentHash,
    /// Who wrote it last.
    pub last_modified_by: NodeId,
    /// How many values there are of it; more than one if several nodes wrote at once.
    pub siblings: usize,
    /// Whether a conflict waits for somebody to resolve it.
    pub is_conflicted: bool,
}

impl<T: DeserializeOwned> State<T> {
    pub(crate) fn of(key: &Key, siblings: &[Revision], rules: &Rules) -> Result<Option<Self>> {
        let Some(shown) = rules.show(siblings.iter()) else {
            return Ok(None);
        };
        let mut vector_clock = VectorClock::new();
        for sibling in siblings {
            vector_clock.merge(&sibling.clock());
        }
        let value = shown.value;
        let data = value.parse().map_err(|source| Error::value(key, source))?;
        Ok(Some(Self {
            id: key.id.to_string(),
            data,
            version: siblings.iter().map(|s| s.version).max().unwrap_or(1),
            timestamp: shown.revision.stamp.milliseconds(),
            vector_clock,
            hash: value.hash(),
            last_modified_by: shown.revision.dot.node,
            siblings: siblings.len(),
            is_conflicted: shown.is_open,
        }))
    }
}

/// How a value came to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is none.
    Absent,
    /// It is the only one.
    Only,
    /// All say the same.
    Agreed,
    /// It is the latest of several.
    Latest,
    /// It is the latest of several settlements of one conflict.
    Settled,
    /// It was merged from several, field by field.
    Merged,
    /// The application's own strategy computed it from several.
    Computed,
    /// It is the latest of several, until somebody resolves the conflict.
    Unresolved,
    /// It was deleted while it was edited, and deletes win here.
    DeleteWins,
}

/// How a state came to be what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// Which state.
    pub key: Key,
    /// Why this value is shown.
    pub reason: Reason,
    /// The name of the strategy.
    pub strategy: String,
    /// The side that is shown, or that a computed value is dated by.
    pub shown: Option<Side>,
    /// All sides that there are.
    pub sides: Vec<Side>,
    /// Everything that was done to it, as far as history is kept, oldest first.
    pub history: Vec<Operation>,
}

/// States of one type, by their ids. A handle: clones are the same collection.
pub struct Collection<T> {
    manager: Manager,
    name: Arc<str>,
    of: PhantomData<fn() -> T>,
}

impl<T> Collection<T> {
    pub(crate) const fn new(manager: Manager, name: Arc<str>) -> Self {
        Self {
            manager,
            name,
            of: PhantomData,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self, id: &str) -> Result<Key> {
        checked_id(id)?;
        Ok(Key {
            collection: Arc::clone(&self.name),
            id: id.into(),
        })
    }

    /// Deletes a state. Whether there was one.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn delete(&self, id: &str) -> Result<bool> {
        self.manager
            .batch(|transaction| transaction.delete(self, id))
    }

    /// Everything that happens to one state from now on.
    ///
    /// # Errors
    /// The id is none.
    pub fn watch(&self, id: &str) -> Result<Notices> {
        Ok(self.manager.watch(self.key(id)?))
    }

    /// The ids of all states, in order.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn ids(&self) -> Result<Vec<String>> {
        self.ids_starting_with("")
    }

    /// The ids of those states whose ids begin with this, in order. Takes time in proportion to
    /// these alone.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn ids_starting_with(&self, start: &str) -> Result<Vec<String>> {
        let known = self.manager.known()?;
        let rules = known.rules(&self.name);
        let states = known.replica.states_starting_with(&self.name, start);
        Ok(states
            .filter(|(_, siblings)| rules.show(siblings.iter()).is_some())
            .map(|(id, _)| id.to_owned())
            .collect())
    }

    /// The conflict of a state, if it has one, settled by the strategy or not.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn conflict(&self, id: &str) -> Result<Option<Conflict>> {
        let known = self.manager.known()?;
        let siblings = known.replica.siblings(&self.name, id);
        if !is_contested(siblings) {
            return Ok(None);
        }
        let rules = known.rules(&self.name);
        let kind = kind_of(siblings);
        let key = self.key(id)?;
        Ok(Some(Conflict::of(key, kind, known.node, siblings, rules)))
    }

    /// How a state came to be what it is: which sides there are, which is shown and why, and what
    /// was done to it.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn why(&self, id: &str) -> Result<Why> {
        let key = self.key(id)?;
        let history = self.manager.history_of(|other| *other == key)?;
        let known = self.manager.known()?;
        let rules = known.rules(&self.name);
        let siblings = known.replica.siblings(&self.name, id);
        let shown = rules.show(siblings.iter());
        let values: Vec<&Revision> = siblings.iter().filter(|s| s.value().is_some()).collect();
        let all_settled = values.iter().all(|sibling| sibling.resolves);
        let reason = match (&shown, values.len(), &rules.strategy) {
            (None, 0, _) => Reason::Absent,
            (None, ..) => Reason::DeleteWins,
            (Some(_), 0 | 1, _) => Reason::Only,
            (Some(shown), ..) if shown.is_open => Reason::Unresolved,
            _ if all_settled => Reason::Settled,
            _ if !is_contested(siblings) => Reason::Agreed,
            (_, _, Strategy::Merge) => Reason::Merged,
            (_, _, Strategy::Custom(_)) => Reason::Computed,
            _ => Reason::Latest,
        };
        Ok(Why {
            key,
            reason,
            strategy: rules.strategy.name().to_owned(),
            shown: shown.map(|shown| Side::of(shown.revision)),
            sides: siblings.iter().map(Side::of).collect(),
            history,
        })
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    /// Creates a state under a new id, `state_` and 16 random digits.
    ///
    /// # Errors
    /// The value cannot be kept, or it could not be made durable.
    pub fn create(&self, value: &T) -> Result<State<T>> {
        let id = format!("state_{}", hex(&random::<8>()?));
        self.insert(&id, value)
    }

    /// Creates a state under an id of the application's own.
    ///
    /// # Errors
    /// There is one already, the value cannot be kept, or it could not be made durable.
    pub fn insert(&self, id: &str, value: &T) -> Result<State<T>> {
        self.manager.batch(|transaction| {
            if transaction.get(self, id)?.is_some() {
                return Err(Error::Exists { key: self.key(id)? });
            }
            transaction.put(self, id, value)?;
            self.written(transaction.get(self, id)?, id)
        })
    }

    /// Creates a state, or gives it another value.
    ///
    /// # Errors
    /// The value cannot be kept, or it could not be made durable.
    pub fn put(&self, id: &str, value: &T) -> Result<State<T>> {
        self.manager.batch(|transaction| {
            transaction.put(self, id, value)?;
            self.written(transaction.get(self, id)?, id)
        })
    }

    fn written(&self, state: Option<State<T>>, id: &str) -> Result<State<T>> {
        let key = self.key(id)?;
        state.ok_or(Error::Absent { key })
    }

    /// The state of this id, if there is one.
    ///
    /// # Errors
    /// It does not have the form of the type.
    pub fn get(&self, id: &str) -> Result<Option<State<T>>> {
        let known = self.manager.known()?;
        let siblings = known.replica.siblings(&self.name, id);
        if siblings.is_empty() {
            return Ok(None);
        }
        State::of(&self.key(id)?, siblings, known.rules(&self.name))
    }

    /// All states, in the order of their ids.
    ///
    /// # Errors
    /// One of them does not have the form of the type.
    pub fn states(&self) -> Result<Vec<State<T>>> {
        let known = self.manager.known()?;
        let rules = known.rules(&self.name);
        let mut states = Vec::with_capacity(known.replica.count(&self.name));
        for (id, siblings) in known.replica.states(&self.name) {
            let key = Key {
                collection: Arc::clone(&self.name),
                id: id.into(),
            };
            states.extend(State::of(&key, siblings, rules)?);
        }
        Ok(states)
    }

    /// Changes a state in place; nothing if there is none. Nobody else changes it in between, so
    /// calling the manager's own verbs in the function would wait for ever.
    ///
    /// # Errors
    /// The value cannot be kept, or it could not be made durable.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut T)) -> Result<Option<State<T>>> {
        self.manager.batch(|transaction| {
            let Some(mut state) = transaction.get(self, id)? else {
                return Ok(None);
            };
            change(&mut state.data);
            transaction.put(self, id, &state.data)?;
            transaction.get(self, id)
        })
    }

    /// Resolves the conflict of a state. The resolution supersedes all sides, so it counts
    /// everywhere; an edit that was made meanwhile opens the conflict again.
    ///
    /// # Errors
    /// The state has one value only, or not the side that was chosen; or it could not be made durable.
    pub fn resolve(&self, id: &str, resolution: &Resolution<T>) -> Result<State<T>> {
        let key = self.key(id)?;
        let me = self.manager.node();
        let resolved = self.manager.batch(|transaction| {
            let siblings = transaction.draft().siblings(&key);
            let no_such_side = || Error::NoSuchSide { key: key.clone() };
            // What settles nothing would hide a later conflict.
            if siblings.len() < 2 {
                return Err(no_such_side());
            }
            let (local, remote) = sides(me, siblings);
            let chosen = |side: Option<&Revision>| {
                side.and_then(Revision::value)
                    .cloned()
                    .ok_or_else(no_such_side)
            };
            let value = match resolution {
                Resolution::Local => chosen(local),
                Resolution::Remote => chosen(remote),
                Resolution::Side(dot) => chosen(siblings.iter().find(|side| side.dot == *dot)),
                Resolution::Merge => Canonical::of_json(&fields::merge(siblings.iter()))
                    .map_err(|source| Error::value(&key, source)),
                Resolution::Custom(value) => {
                    Canonical::of(value).map_err(|source| Error::value(&key, source))
                }
            }?;
            transaction.put_canonical(key.clone(), value, true)?;
            self.written(transaction.get(self, id)?, id)
        })?;
        self.manager.tell(&Notice::ConflictResolved { key });
        Ok(resolved)
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self::new(self.manager.clone(), Arc::clone(&self.name))
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collection").field(&self.name).finish()
    }
}
