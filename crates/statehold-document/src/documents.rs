//! The documents of one collection, and how they lie in states.
//!
//! A document `plan` of `notes` is the state `plan` in the collection `notes`, which is written once,
//! when the document is created, and one state in `notes/updates` for each saved edit. The event
//! that created the document is its *birth*: updates are called `<birth>/<hash>`, so those of a
//! document that was deleted never become part of a later one of the same id.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use statehold_state::{Collection, Dot, Key, Manager, Notices, State, Strategy, Why};

use crate::document::Document;
use crate::error::{Error, Result};

/// The newest format of documents that this version reads.
const FORMAT: u32 = 1;

/// The state that says that a document exists. Never changed, so a delete and an edit inside never
/// contradict each other here: deleting takes away the births that its author knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birth {
    format: u32,
}

/// The documents of one collection. A handle: clones are the same collection.
///
/// ```
/// use statehold_document::Documents;
/// use statehold_state::Manager;
///
/// let notes = Documents::open(&Manager::in_memory()?, "notes")?;
/// notes.create("plan")?.edit(|editor| {
///     editor.text("body")?.insert(0, "Buy milk")?;
///     editor.list("tags")?.push("home")?;
///     editor.map("meta")?.insert("done", false)
/// })?;
/// let plan = notes.get("plan")?.ok_or("gone")?;
/// assert_eq!(
///     plan.to_json()?.to_string(),
///     r#"{"body":"Buy milk","meta":{"done":false},"tags":["home"]}"#
/// );
/// notes.delete("plan")?;
/// assert!(notes.get("plan")?.is_none() && notes.ids()?.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Documents {
    pub(crate) manager: Manager,
    pub(crate) births: Collection<Birth>,
    pub(crate) updates: Collection<String>,
}

impl Documents {
    /// The documents that are kept under this name. It takes up two collections, `name` and
    /// `name/updates`.
    ///
    /// # Errors
    /// The name is too long, or one of the collections is open with rules of its own.
    pub fn open(manager: &Manager, name: &str) -> Result<Self> {
        // Neither collection is ever edited in place, so nothing is left to a strategy.
        Ok(Self {
            manager: manager.clone(),
            births: manager.collection(name, Strategy::default())?,
            updates: manager.collection(&format!("{name}/updates"), Strategy::default())?,
        })
    }

    /// Creates an empty document. Two nodes that create one of the same id at once have one
    /// document in the end, with the edits of both.
    ///
    /// # Errors
    /// There is one already, or it could not be made durable.
    pub fn create(&self, id: &str) -> Result<Document> {
        self.births.insert(id, &Birth { format: FORMAT })?;
        Ok(Document::new(self.clone(), id))
    }

    /// The document of this id, if there is one.
    ///
    /// # Errors
    /// A newer version of this crate wrote it.
    pub fn get(&self, id: &str) -> Result<Option<Document>> {
        let born = births(id, self.births.get(id)?)?;
        Ok((!born.is_empty()).then(|| Document::new(self.clone(), id)))
    }

    /// The ids of all documents, in order.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn ids(&self) -> Result<Vec<String>> {
        Ok(self.births.ids()?)
    }

    /// Deletes a document with all its edits, in one write. Whether there was one. An edit inside
    /// that was made meanwhile is a difference to what is gone: it goes too, and stays in
    /// history. A document of the same id that was created meanwhile stays.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn delete(&self, id: &str) -> Result<bool> {
        let mut gone = Vec::new();
        for birth in births(id, self.births.get(id)?)? {
            gone.extend(self.updates.ids_starting_with(&updates_of(birth))?);
        }
        Ok(self.manager.batch(|batch| {
            for update in gone {
                batch.delete(&self.updates, &update)?;
            }
            batch.delete(&self.births, id)
        })?)
    }

    /// Removes edits of documents that somebody else deleted meanwhile. They are never shown; this
    /// frees their room. How many there were.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn sweep(&self) -> Result<usize> {
        let mut alive = BTreeSet::new();
        for state in self.births.states()? {
            let id = state.id.clone();
            alive.extend(births(&id, Some(state))?.iter().map(updates_of));
        }
        let clock = self.manager.clock();
        // An edit may come before the birth of its document does. Once the birth has come and is
        // not live, it never will be again.
        let is_dead = |update: &String| {
            update.split_once('/').is_some_and(|(birth, _)| {
                !alive.contains(&format!("{birth}/"))
                    && parse_dot(birth).is_some_and(|birth| clock.contains(birth))
            })
        };
        let dead: Vec<String> = self.updates.ids()?.into_iter().filter(is_dead).collect();
        let count = dead.len();
        self.manager.batch(|batch| {
            dead.iter()
                .try_for_each(|update| batch.delete(&self.updates, update).map(drop))
        })?;
        Ok(count)
    }

    /// How it came about that a document exists, or does not: who created and who deleted it.
    /// [`Document::updates`] says who edited it.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn why(&self, id: &str) -> Result<Why> {
        Ok(self.births.why(id)?)
    }

    pub(crate) fn listen(&self) -> Notices {
        self.manager.listen()
    }

    /// The births of a document; none if it does not exist.
    pub(crate) fn births_of(&self, id: &str) -> Result<Vec<Dot>> {
        births(id, self.births.get(id)?)
    }

    /// What it is called among states.
    pub(crate) fn key(&self, id: &str) -> Key {
        Key::new(self.births.name(), id)
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Documents")
            .field(&self.births.name())
            .finish()
    }
}

/// The events that created a document: several if nodes did so at once.
pub(crate) fn births(id: &str, state: Option<State<Birth>>) -> Result<Vec<Dot>> {
    let Some(state) = state else {
        return Ok(Vec::new());
    };
    if state.data.format > FORMAT {
        return Err(Error::NewerFormat {
            id: id.to_owned(),
            format: state.data.format,
        });
    }
    let clock = state.vector_clock.iter();
    Ok(clock
        .map(|(node, sequence)| Dot {
            node: *node,
            sequence,
        })
        .collect())
}

/// What the ids of the updates of a document begin with.
pub(crate) fn updates_of(birth: impl std::borrow::Borrow<Dot>) -> String {
    format!("{}/", birth.borrow())
}

fn parse_dot(text: &str) -> Option<Dot> {
    let (node, sequence) = text.split_once(':')?;
    Some(Dot {
        node: node.parse().ok()?,
        sequence: sequence.parse().ok()?,
    })
}
