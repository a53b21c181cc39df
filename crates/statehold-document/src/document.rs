//! One document: read, edited, watched, and exchanged with other programs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use loro::TextDelta;
use serde::Serialize;
use serde_json::Value;
use statehold_state::limits::VALUE_BYTES_MAX;
use statehold_state::{Canonical, Error as StateError, NodeId};

use crate::changes::Changes;
use crate::documents::{Documents, births, updates_of};
use crate::editor::{Editor, checked_name};
use crate::error::{Error, Result};
use crate::merged::{Checked, Merged};
use crate::version::Version;

/// Largest document with its history, in bytes: what fits into one value as text.
pub const DOCUMENT_BYTES_MAX: usize = VALUE_BYTES_MAX / 4 * 3 - 1024;
/// How much of a digest names an update, in hexadecimal digits.
const NAME_DIGITS: usize = 32;

/// One document. A handle: clones are the same document, and share what is in memory. Other handles
/// of the same document hold it in memory once more, and see each other's edits.
#[derive(Clone)]
pub struct Document {
    documents: Documents,
    id: Arc<str>,
    merged: Arc<Mutex<Merged>>,
}

/// A run of characters with the same marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The characters.
    pub text: String,
    /// Their marks by key.
    pub marks: BTreeMap<String, Value>,
}

/// A saved update: one edit, or several that were put together later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Who saved it.
    pub by: NodeId,
    /// When, in milliseconds since 1970, by that node's clock.
    pub timestamp: u64,
    /// How long it is in bytes.
    pub bytes: usize,
}

/// An update that somebody wrote and no document can take. It is left out, on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedUpdate {
    /// Who wrote it.
    pub by: NodeId,
    /// What is wrong with it.
    pub why: String,
}

impl Document {
    pub(crate) fn new(documents: Documents, id: &str) -> Self {
        Self {
            documents,
            id: id.into(),
            merged: Arc::new(Mutex::new(Merged::new())),
        }
    }

    /// What it is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Edits the document. All of it is one change: durable when this returns, and seen by others
    /// whole or not at all. If the function fails, nothing has happened. An edit that changes
    /// nothing writes nothing. Using this document otherwise within the function would wait for ever.
    ///
    /// ```
    /// # use statehold_document::Documents;
    /// # use statehold_state::Manager;
    /// # let notes = Documents::open(&Manager::in_memory()?, "notes")?;
    /// let plan = notes.create("plan")?;
    /// plan.edit(|editor| {
    ///     let body = editor.text("body")?;
    ///     body.insert(0, "Buy the milk")?;
    ///     body.delete(4..8)?;
    ///     body.mark(4..8, "bold", true)?;
    ///     let tasks = editor.list("tasks")?;
    ///     tasks.push("second")?;
    ///     tasks.insert(0, "first")?;
    ///     editor.map("meta")?.insert("due", "Monday")
    /// })?;
    /// assert_eq!(plan.text("body")?, "Buy milk");
    /// assert_eq!(plan.spans("body")?[1].marks["bold"], true);
    /// assert_eq!(plan.list("tasks")?, ["first", "second"]);
    /// assert_eq!(plan.map("meta")?["due"], "Monday");
    /// // A failed edit leaves nothing behind.
    /// assert!(plan.edit(|editor| {
    ///     editor.text("body")?.insert(0, "?")?;
    ///     editor.text("body")?.delete(0..100)
    /// }).is_err());
    /// assert_eq!(plan.text("body")?, "Buy milk");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The function's; the document is gone or too large; or it could not be made durable.
    pub fn edit<R>(&self, change: impl FnOnce(&Editor<'_>) -> Result<R>) -> Result<R> {
        let mut merged = self.current()?;
        let before = merged.doc.oplog_vv();
        // Until it is saved: a panic of the caller's leaves it standing.
        merged.is_torn = true;
        let result = change(&Editor::new(&merged.doc))?;
        merged.doc.commit();
        if merged.doc.oplog_vv() != before {
            let update = merged.since(&before)?;
            self.save(&mut merged, update)?;
        }
        merged.is_torn = false;
        Ok(result)
    }

    /// The characters of a text.
    ///
    /// # Errors
    /// The document is gone, or the name is none.
    pub fn text(&self, name: &str) -> Result<String> {
        checked_name(name)?;
        Ok(self.current()?.doc.get_text(name).to_string())
    }

    /// A text with its marks.
    ///
    /// # Errors
    /// The document is gone, or the name is none.
    pub fn spans(&self, name: &str) -> Result<Vec<Span>> {
        checked_name(name)?;
        let delta = self.current()?.doc.get_text(name).to_delta();
        let spans = delta.into_iter().filter_map(|part| match part {
            TextDelta::Insert { insert, attributes } => {
                let marks = attributes.into_iter().flatten();
                Some(Span {
                    text: insert,
                    marks: marks.map(|(key, value)| (key, value.into())).collect(),
                })
            }
            TextDelta::Retain { .. } | TextDelta::Delete { .. } => None,
        });
        Ok(spans.collect())
    }

    /// The items of a list.
    ///
    /// # Errors
    /// The document is gone, or the name is none.
    pub fn list(&self, name: &str) -> Result<Vec<Value>> {
        checked_name(name)?;
        let value = self.current()?.doc.get_movable_list(name).get_deep_value();
        match Value::from(value) {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// The values of a map by key.
    ///
    /// # Errors
    /// The document is gone, or the name is none.
    pub fn map(&self, name: &str) -> Result<BTreeMap<String, Value>> {
        checked_name(name)?;
        let value = self.current()?.doc.get_map(name).get_deep_value();
        match Value::from(value) {
            Value::Object(values) => Ok(values.into_iter().collect()),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Everything in it that is not empty: texts without their marks, lists and maps, by name.
    ///
    /// # Errors
    /// The document is gone.
    pub fn to_json(&self) -> Result<Value> {
        Ok(self.current()?.doc.get_deep_value().into())
    }

    /// How far it has come.
    ///
    /// # Errors
    /// The document is gone.
    pub fn version(&self) -> Result<Version> {
        Ok(Version(self.current()?.doc.oplog_vv()))
    }

    /// What came since a version, as updates in Loro's own form, for a program that exchanges them
    /// by itself. Nodes of [`statehold_state`] need none of this.
    ///
    /// ```
    /// # use statehold_document::{Documents, Version};
    /// # use statehold_state::Manager;
    /// # let notes = Documents::open(&Manager::in_memory()?, "notes")?;
    /// # let elsewhere = Documents::open(&Manager::in_memory()?, "notes")?;
    /// let plan = notes.create("plan")?;
    /// plan.edit(|editor| editor.text("body")?.insert(0, "Buy milk"))?;
    /// let copy = elsewhere.create("copy")?;
    /// copy.import(&plan.snapshot()?)?;
    ///
    /// let known = copy.version()?.to_bytes();
    /// plan.edit(|editor| editor.text("body")?.insert(8, " and bread"))?;
    /// copy.import(&plan.updates_since(&Version::from_bytes(&known)?)?)?;
    /// assert_eq!(copy.text("body")?, "Buy milk and bread");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The document is gone, or the version is none of a document.
    pub fn updates_since(&self, version: &Version) -> Result<Vec<u8>> {
        self.current()?.since(&version.0)
    }

    /// Everything with its history, in Loro's own form.
    ///
    /// # Errors
    /// The document is gone.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        self.current()?.snapshot()
    }

    /// Takes in updates or a snapshot of some program that uses Loro, as one edit. What is known
    /// already does no harm.
    ///
    /// # Errors
    /// The bytes are damaged or hostile, they build on updates that are missing, or it is too much.
    /// Nothing has changed.
    pub fn import(&self, bytes: &[u8]) -> Result<()> {
        let refused = |why| Error::Refused { why };
        let checked = Checked::new(bytes).map_err(refused)?;
        let mut merged = self.current()?;
        let before = merged.doc.oplog_vv();
        merged.is_torn = true;
        if !checked.import(&merged.doc).map_err(refused)? {
            return Err(Error::Incomplete);
        }
        if merged.doc.oplog_vv() != before {
            let update = merged.since(&before)?;
            self.save(&mut merged, update)?;
        }
        merged.is_torn = false;
        Ok(())
    }

    /// Everything that happens to it from now on.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use statehold_document::{Change, Documents};
    /// # use statehold_state::Manager;
    /// # let notes = Documents::open(&Manager::in_memory()?, "notes")?;
    /// let plan = notes.create("plan")?;
    /// let mut changes = plan.watch();
    /// plan.edit(|editor| editor.text("body")?.insert(0, "Buy milk"))?;
    /// assert_eq!(changes.next_within(Duration::from_secs(5)), Some(Change::Edited));
    /// notes.delete("plan")?;
    /// assert_eq!(changes.next_within(Duration::from_secs(5)), Some(Change::Deleted));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self) -> Changes {
        Changes::new(self.documents.clone(), &self.id)
    }

    /// The saved updates that it is made of, oldest first.
    ///
    /// # Errors
    /// The document is gone.
    pub fn updates(&self) -> Result<Vec<Update>> {
        let merged = self.current()?;
        let mut updates = Vec::with_capacity(merged.taken.len());
        for (name, bytes) in &merged.taken {
            updates.extend(self.documents.updates.get(name)?.map(|state| Update {
                by: state.last_modified_by,
                timestamp: state.timestamp,
                bytes: *bytes,
            }));
        }
        updates.sort_by_key(|update| (update.timestamp, update.by));
        Ok(updates)
    }

    /// Updates that came from somewhere and no document can take, in no particular order. They
    /// are left out; none is the usual case.
    ///
    /// # Errors
    /// The document is gone.
    pub fn refused(&self) -> Result<Vec<RefusedUpdate>> {
        let merged = self.current()?;
        let mut refused = Vec::new();
        for (name, why) in &merged.refused {
            refused.extend(
                self.documents
                    .updates
                    .get(name)?
                    .map(|state| RefusedUpdate {
                        by: state.last_modified_by,
                        why: why.clone(),
                    }),
            );
        }
        Ok(refused)
    }

    /// What is in memory, with everything that has come.
    fn current(&self) -> Result<MutexGuard<'_, Merged>> {
        let mut merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        if merged.is_torn {
            merged.abandon();
        }
        let root = self.documents.manager.root();
        if merged.root == Some(root) {
            return Ok(merged);
        }
        let born = self.documents.births_of(&self.id)?;
        if born.is_empty() {
            let key = self.documents.key(&self.id);
            return Err(StateError::Absent { key }.into());
        }
        let mut names = Vec::new();
        for birth in born {
            names.extend(
                self.documents
                    .updates
                    .ids_starting_with(&updates_of(birth))?,
            );
        }
        // Others may have put updates together, and what was deleted may have been created again:
        // what is not there any more is not counted any more, and not shown unless another holds it.
        let known = merged.taken.len();
        merged
            .taken
            .retain(|name, _| names.binary_search(name).is_ok());
        if known > 0 && merged.taken.is_empty() {
            merged.abandon();
        }
        loop {
            let mut new = Vec::new();
            for name in &names {
                if !merged.taken.contains_key(name) && !merged.refused.contains_key(name) {
                    match self.read(name)? {
                        Some(Ok(bytes)) => new.push((name.clone(), bytes)),
                        Some(Err(why)) => {
                            merged.refused.insert(name.clone(), why);
                        }
                        None => {}
                    }
                }
            }
            if new.is_empty() {
                break;
            }
            merged.take(new);
        }
        let waiting = self.read_all(&merged.waiting.iter().cloned().collect::<Vec<_>>())?;
        merged.recheck(&waiting);
        merged.root = Some(root);
        Ok(merged)
    }

    fn read_all(&self, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut updates = Vec::with_capacity(names.len());
        for name in names {
            if let Some(Ok(bytes)) = self.read(name)? {
                updates.push((name.clone(), bytes));
            }
        }
        Ok(updates)
    }

    /// The bytes of a saved update, if they are what its name says.
    fn read(&self, name: &str) -> Result<Option<Result<Vec<u8>, String>>> {
        let state = match self.documents.updates.get(name) {
            Ok(state) => state,
            Err(StateError::Value { source, .. }) => return Ok(Some(Err(source.to_string()))),
            Err(other) => return Err(other.into()),
        };
        Ok(state.map(|state| {
            let digest = state.hash.to_string();
            if !name.ends_with(&digest[..NAME_DIGITS]) {
                return Err("it is not what its name says".to_owned());
            }
            BASE64
                .decode(&state.data)
                .map_err(|error| error.to_string())
        }))
    }

    /// Makes an edit durable: its update, or the whole document in place of many updates.
    fn save(&self, merged: &mut Merged, update: Vec<u8>) -> Result<()> {
        let mut replaced = Vec::new();
        let mut bytes = update;
        if merged.is_compaction_due(bytes.len()) {
            bytes = merged.snapshot()?;
            let settled = merged.taken.keys();
            let settled = settled.filter(|name| !merged.waiting.contains(*name));
            replaced = settled.cloned().collect();
        }
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        let text = BASE64.encode(&bytes);
        let value = Canonical::of(&text).map_err(|source| Error::Value {
            name: self.id.to_string(),
            source,
        })?;
        let digest = value.hash().to_string();
        let name = self.documents.manager.batch(|batch| {
            // It may have been deleted since it was read.
            let state = batch.get(&self.documents.births, &self.id)?;
            let born = births(&self.id, state).unwrap_or_default();
            let Some(birth) = born.first() else {
                let key = self.documents.key(&self.id);
                return Err(StateError::Absent { key });
            };
            let name = format!("{}{}", updates_of(birth), &digest[..NAME_DIGITS]);
            batch.put(&self.documents.updates, &name, &text)?;
            for old in replaced.iter().filter(|old| **old != name) {
                batch.delete(&self.documents.updates, old)?;
            }
            Ok(name)
        })?;
        for old in replaced {
            merged.taken.remove(&old);
        }
        merged.taken.insert(name, bytes.len());
        Ok(())
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.id).finish()
    }
}
