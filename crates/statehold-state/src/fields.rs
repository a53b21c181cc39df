//! Merging field by field: edits of different fields never conflict, and the same field falls to
//! the later edit.
//!
//! A value knows which event wrote each of its fields. A field that one sibling holds and another
//! does not was removed by that other if it had seen the event that wrote it, and was added
//! otherwise. The result is a pure function of the set of siblings, so it does not depend on who
//! merges, or in what order. Arrays are taken as one field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::canonical::{Canonical, InvalidValue};
use crate::hybrid_clock::Stamp;
use crate::limits::FIELDS_MAX;
use crate::node::Dot;
use crate::revision::{Content, Origins, Revision};

/// The names on the way to a field; none for a value that is no object.
type Path = Vec<String>;
/// The event that wrote a field, with its time.
type Origin = (Stamp, Dot);

/// A field, with the event that wrote it.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    origin: Origin,
    value: Value,
}

/// No field of an object takes less, in bytes: a name, a value, and what stands between them.
const FIELD_BYTES_MIN: usize = 5;

/// The fields of a value in canonical order. An object without fields is a field itself.
fn flatten(value: Value) -> Vec<(Path, Value)> {
    fn walk(value: Value, path: &mut Path, fields: &mut Vec<(Path, Value)>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                let members: BTreeMap<String, Value> = members.into_iter().collect();
                for (name, member) in members {
                    path.push(name);
                    walk(member, path, fields);
                    path.pop();
                }
            }
            other => fields.push((path.clone(), other)),
        }
    }
    let mut fields = Vec::new();
    walk(value, &mut Path::new(), &mut fields);
    fields
}

/// The value that has these fields. Where one is an ancestor of another, the later one stays.
fn assemble(fields: Vec<(Path, Field)>) -> Value {
    let mut fields = fields;
    fields.sort_by_key(|(_, field)| std::cmp::Reverse(field.origin));
    let mut whole = None;
    for (path, field) in fields {
        place(&mut whole, &path, field.value);
    }
    whole.unwrap_or_else(|| Value::Object(Map::new()))
}

/// Puts a field where nothing stands yet that excludes it.
fn place(slot: &mut Option<Value>, path: &[String], value: Value) {
    let Some((name, rest)) = path.split_first() else {
        // An object without fields is what the object around other fields already is.
        slot.get_or_insert(value);
        return;
    };
    if let Value::Object(members) = slot.get_or_insert_with(|| Value::Object(Map::new())) {
        let mut inner = members.remove(name);
        place(&mut inner, rest, value);
        members.extend(inner.map(|inner| (name.clone(), inner)));
    }
}

/// The fields of one sibling, each with its origin.
fn fields_of(
    revision: &Revision,
    value: &Canonical,
    origins: Option<&Origins>,
) -> Vec<(Path, Field)> {
    let own = (revision.stamp, revision.dot);
    let fields = flatten(value.json());
    // A table of another length is no table of these fields.
    let origins = origins.filter(|origins| origins.fields.len() == fields.len());
    let origin = |index: usize| {
        let place = origins.and_then(|origins| {
            let place = usize::try_from(origins.fields[index])
                .ok()?
                .checked_sub(1)?;
            origins.events.get(place)
        });
        place.map_or(own, |(dot, stamp)| (*stamp, *dot))
    };
    fields
        .into_iter()
        .enumerate()
        .map(|(index, (path, value))| {
            let origin = origin(index);
            (path, Field { origin, value })
        })
        .collect()
}

/// The fields that are left when siblings are merged.
fn survivors<'a>(siblings: impl Iterator<Item = &'a Revision>) -> BTreeMap<Path, Field> {
    let sides: Vec<(&Revision, BTreeMap<Path, Field>)> = siblings
        .filter_map(|revision| match &revision.content {
            Content::Value { value, origins } => {
                let fields = fields_of(revision, value, origins.as_deref());
                Some((revision, fields.into_iter().collect()))
            }
            Content::Grave | Content::Deleted => None,
        })
        .collect();
    let paths: BTreeSet<&Path> = sides.iter().flat_map(|(_, fields)| fields.keys()).collect();
    let mut left = BTreeMap::new();
    for path in paths {
        let held = || sides.iter().filter_map(|(_, fields)| fields.get(path));
        let is_current = |field: &&Field| {
            sides.iter().all(|(revision, fields)| {
                let has_it = fields
                    .get(path)
                    .is_some_and(|other| other.origin == field.origin);
                has_it || !revision.has_seen(field.origin.1)
            })
        };
        if let Some(field) = held().filter(is_current).max_by_key(|field| field.origin) {
            left.insert(path.clone(), field.clone());
        }
    }
    left
}

/// The value that siblings come to when they are merged field by field.
pub(crate) fn merge<'a>(siblings: impl Iterator<Item = &'a Revision>) -> Value {
    assemble(survivors(siblings).into_iter().collect())
}

/// A new value with the origins of the fields that it leaves as the siblings had them.
///
/// # Errors
/// The value has more fields than can be kept apart.
pub(crate) fn content<'a>(
    value: Canonical,
    siblings: impl Iterator<Item = &'a Revision>,
) -> Result<Content, InvalidValue> {
    let known = survivors(siblings);
    if known.is_empty() && value.as_str().len() < FIELDS_MAX * FIELD_BYTES_MIN {
        return Ok(Content::whole(value));
    }
    let fields = flatten(value.json());
    if fields.len() > FIELDS_MAX {
        return Err(InvalidValue::TooManyFields {
            fields: fields.len(),
        });
    }
    let mut events: BTreeMap<Dot, Stamp> = BTreeMap::new();
    let origins: Vec<Option<Dot>> = fields
        .into_iter()
        .map(|(path, value)| {
            let (stamp, dot) = known
                .get(&path)
                .filter(|field| field.value == value)?
                .origin;
            events.insert(dot, stamp);
            Some(dot)
        })
        .collect();
    let events: Vec<(Dot, Stamp)> = events.into_iter().collect();
    if events.is_empty() {
        return Ok(Content::whole(value));
    }
    let fields = origins
        .into_iter()
        .map(|origin| {
            let place = origin
                .and_then(|origin| events.binary_search_by_key(&origin, |(dot, _)| *dot).ok());
            place.map_or(0, |place| u32::try_from(place + 1).unwrap_or(0))
        })
        .collect();
    Ok(Content::Value {
        value,
        origins: Some(Box::new(Origins { events, fields })),
    })
}
