//! What can be done to a document: texts, lists and maps, each by its name.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use loro::{LoroDoc, LoroMap, LoroMovableList, LoroResult, LoroText, LoroValue};
use serde::Serialize;
use serde_json::Value;
use statehold_state::Canonical;

use crate::error::{Error, Result};

/// Longest name of a text, list or map, in bytes of UTF-8.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// A document that is being edited, see [`Document::edit`](crate::Document::edit).
///
/// Texts, lists and maps are there from the start, empty, under whatever name. Give each kind a name
/// of its own. What lists and maps hold are values: an edit replaces one as a whole. Whole numbers
/// that need more than 63 bits and a sign become floating.
pub struct Editor<'a> {
    doc: &'a LoroDoc,
}

/// A text. Places are counted in characters (Unicode scalar values).
pub struct Text<'a> {
    inner: LoroText,
    name: String,
    of: PhantomData<&'a LoroDoc>,
}

/// A list. Two nodes that insert at one place have both in the end, in one order; an item that one
/// node moves and another one sets is moved and set.
pub struct List<'a> {
    inner: LoroMovableList,
    name: String,
    of: PhantomData<&'a LoroDoc>,
}

/// A map. Edits of different keys are both kept; one key falls to one of its edits, the same
/// everywhere.
pub struct Map<'a> {
    inner: LoroMap,
    name: String,
    of: PhantomData<&'a LoroDoc>,
}

impl<'a> Editor<'a> {
    pub(crate) const fn new(doc: &'a LoroDoc) -> Self {
        Self { doc }
    }

    /// The text of this name.
    ///
    /// # Errors
    /// The name is none.
    pub fn text(&self, name: &str) -> Result<Text<'a>> {
        checked_name(name)?;
        Ok(Text {
            inner: self.doc.get_text(name),
            name: name.to_owned(),
            of: PhantomData,
        })
    }

    /// The list of this name.
    ///
    /// # Errors
    /// The name is none.
    pub fn list(&self, name: &str) -> Result<List<'a>> {
        checked_name(name)?;
        Ok(List {
            inner: self.doc.get_movable_list(name),
            name: name.to_owned(),
            of: PhantomData,
        })
    }

    /// The map of this name.
    ///
    /// # Errors
    /// The name is none.
    pub fn map(&self, name: &str) -> Result<Map<'a>> {
        checked_name(name)?;
        Ok(Map {
            inner: self.doc.get_map(name),
            name: name.to_owned(),
            of: PhantomData,
        })
    }
}

impl Text<'_> {
    /// Inserts before the character at this place, or at the end.
    ///
    /// # Errors
    /// The place is beyond the end.
    pub fn insert(&self, at: usize, text: &str) -> Result<()> {
        within(&self.name, at, self.len())?;
        done(&self.name, self.inner.insert(at, text))
    }

    /// Deletes these characters.
    ///
    /// # Errors
    /// Some of them are beyond the end.
    pub fn delete(&self, places: Range<usize>) -> Result<()> {
        within(&self.name, places.end, self.len())?;
        if places.is_empty() {
            return Ok(());
        }
        done(&self.name, self.inner.delete(places.start, places.len()))
    }

    /// Marks these characters, such as with `bold` and `true`. What is typed at the end of a mark
    /// belongs to it.
    ///
    /// # Errors
    /// Some of them are beyond the end.
    pub fn mark(&self, places: Range<usize>, key: &str, value: impl Serialize) -> Result<()> {
        within(&self.name, places.end, self.len())?;
        let value = loro_value(&self.name, &value)?;
        if places.is_empty() {
            return Ok(());
        }
        done(&self.name, self.inner.mark(places, key, value))
    }

    /// Takes a mark off these characters.
    ///
    /// # Errors
    /// Some of them are beyond the end.
    pub fn unmark(&self, places: Range<usize>, key: &str) -> Result<()> {
        within(&self.name, places.end, self.len())?;
        if places.is_empty() {
            return Ok(());
        }
        done(&self.name, self.inner.unmark(places, key))
    }

    /// How many characters it has.
    pub fn len(&self) -> usize {
        self.inner.len_unicode()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.to_string())
    }
}

impl List<'_> {
    /// Inserts before the item at this place, or at the end.
    ///
    /// # Errors
    /// The place is beyond the end, or the value cannot be kept.
    pub fn insert(&self, at: usize, value: impl Serialize) -> Result<()> {
        within(&self.name, at, self.len())?;
        let value = loro_value(&self.name, &value)?;
        done(&self.name, self.inner.insert(at, value))
    }

    /// Inserts at the end.
    ///
    /// # Errors
    /// The value cannot be kept.
    pub fn push(&self, value: impl Serialize) -> Result<()> {
        self.insert(self.len(), value)
    }

    /// Gives the item at this place another value.
    ///
    /// # Errors
    /// There is none, or the value cannot be kept.
    pub fn set(&self, at: usize, value: impl Serialize) -> Result<()> {
        within(&self.name, at.saturating_add(1), self.len())?;
        let value = loro_value(&self.name, &value)?;
        done(&self.name, self.inner.set(at, value))
    }

    /// Moves an item, so that it stands at the other place afterwards.
    ///
    /// # Errors
    /// There are no such places.
    pub fn move_item(&self, from: usize, to: usize) -> Result<()> {
        within(&self.name, from.max(to).saturating_add(1), self.len())?;
        done(&self.name, self.inner.mov(from, to))
    }

    /// Deletes these items.
    ///
    /// # Errors
    /// Some of them are beyond the end.
    pub fn delete(&self, places: Range<usize>) -> Result<()> {
        within(&self.name, places.end, self.len())?;
        if places.is_empty() {
            return Ok(());
        }
        done(&self.name, self.inner.delete(places.start, places.len()))
    }

    /// The item at this place, if there is one.
    pub fn get(&self, at: usize) -> Option<Value> {
        let item = self.inner.get(at)?;
        Some(item.get_deep_value().into())
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl Map<'_> {
    /// Gives a key a value.
    ///
    /// # Errors
    /// The value cannot be kept.
    pub fn insert(&self, key: &str, value: impl Serialize) -> Result<()> {
        let value = loro_value(&self.name, &value)?;
        done(&self.name, self.inner.insert(key, value))
    }

    /// Deletes a key, if it is there.
    ///
    /// # Errors
    /// The document does not allow it.
    pub fn delete(&self, key: &str) -> Result<()> {
        if self.inner.get(key).is_none() {
            return Ok(());
        }
        done(&self.name, self.inner.delete(key))
    }

    /// The value of a key, if it has one.
    pub fn get(&self, key: &str) -> Option<Value> {
        let value = self.inner.get(key)?;
        Some(value.get_deep_value().into())
    }
}

/// Loro keeps names that begin so, or hold a slash or a NUL, to itself.
const RESERVED_START: &str = "🤝:";

pub(crate) fn checked_name(name: &str) -> Result<()> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with(RESERVED_START)
        && !name.contains(|character: char| character == '/' || character.is_control());
    if is_name {
        return Ok(());
    }
    Err(Error::InvalidName {
        name: name.chars().take(80).collect(),
    })
}

/// Loro says when a place is beyond the end too, but not what to do.
fn within(name: &str, at: usize, len: usize) -> Result<()> {
    if at > len {
        return Err(Error::OutOfBounds {
            name: name.to_owned(),
            at,
            len,
        });
    }
    Ok(())
}

fn done(name: &str, result: LoroResult<()>) -> Result<()> {
    result.map_err(|error| Error::Edit {
        name: name.to_owned(),
        why: error.to_string(),
    })
}

/// A value within the bounds that hold for all states.
fn loro_value(name: &str, value: &impl Serialize) -> Result<LoroValue> {
    let invalid = |source| Error::Value {
        name: name.to_owned(),
        source,
    };
    let canonical = Canonical::of(value).map_err(invalid)?;
    Ok(canonical.json().into())
}

impl fmt::Debug for Editor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editor").finish_non_exhaustive()
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.name).finish()
    }
}

impl fmt::Debug for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("List").field(&self.name).finish()
    }
}

impl fmt::Debug for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Map").field(&self.name).finish()
    }
}
