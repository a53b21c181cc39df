//! States, events and their values as lines for people.

use serde_json::Value;
use statehold_core::time::Timestamp;
use statehold_state::{Dot, Key, NodeId, Side};

use crate::when::local;

/// Digits of a node's name that people see; the whole of it stands in JSON.
const NODE_DIGITS: usize = 8;
/// Most characters of a value on one line.
const VALUE_CHARS_MAX: usize = 60;

/// What a state is called.
pub(super) fn key(collection: &str, id: &str) -> String {
    Key::new(collection, id).to_string()
}

/// A node's name, cut short.
pub(super) fn node(node: NodeId) -> String {
    node.to_string().chars().take(NODE_DIGITS).collect()
}

/// An event's name, cut short.
pub(super) fn dot(dot: Dot) -> String {
    format!("{}:{}", node(dot.node), dot.sequence)
}

/// A value on one line.
pub(super) fn value(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "(deleted)".into();
    };
    let text = value.to_string();
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    let cut: String = text.chars().take(VALUE_CHARS_MAX).collect();
    format!("{cut}…")
}

/// A moment, of milliseconds since 1970.
pub(super) fn time(milliseconds: u64) -> String {
    local(Timestamp::from_millis(
        i64::try_from(milliseconds).unwrap_or(i64::MAX),
    ))
}

/// One of several values.
pub(super) fn side(side: &Side, what: &str) -> String {
    let data = side.data.as_ref().map(statehold_state::Canonical::json);
    format!(
        "  {:<12}  {}  {what:<8}{}",
        dot(side.dot),
        time(side.stamp.milliseconds()),
        value(data.as_ref())
    )
}
