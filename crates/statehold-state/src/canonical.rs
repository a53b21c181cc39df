//! Values in their one canonical form: JSON without spaces, with the keys of objects in order.
//!
//! Equal values have equal bytes and so equal hashes, on every node. The text `"{}"` and the
//! object `{}` differ, as do an absent value and any text.

use std::sync::Arc;
use std::{fmt, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::Formatter;

use crate::canonical_text::{self, NotCanonical};
use crate::limits::{FIELDS_MAX, VALUE_BYTES_MAX, VALUE_DEPTH_MAX};
use crate::node::{hex, unhex};

/// A value that can be kept: canonical JSON within the bounds.
///
/// ```
/// use serde_json::json;
/// use statehold_state::Canonical;
/// let value = Canonical::of(&json!({"theme": "dark", "font": {"size": 14, "face": "mono"}}))?;
/// assert_eq!(value.as_str(), r#"{"font":{"face":"mono","size":14},"theme":"dark"}"#);
/// assert_eq!(value.hash().to_string().len(), 64);
/// # Ok::<_, statehold_state::InvalidValue>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Canonical(Arc<str>);

/// A value that cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidValue {
    /// JSON has no form for it, such as a map whose keys are no texts, or a larger number.
    #[error("the value has no JSON form: keys of maps are texts, and whole numbers have 64 bits")]
    NotJson(#[source] serde_json::Error),
    /// It is stored in a form that the type asked for does not have.
    #[error("the stored value is no {expected}; read it as `serde_json::Value` to see it")]
    OtherShape {
        /// The type that was asked for.
        expected: &'static str,
        /// Where they differ.
        source: serde_json::Error,
    },
    /// It came from outside and is not JSON, or JSON in another form than the canonical one.
    #[error("the value is no canonical JSON from byte {byte} on")]
    NotCanonical {
        /// Where it is not, in bytes.
        byte: usize,
    },
    /// It is too large.
    #[error(
        "the value has {bytes} bytes; {VALUE_BYTES_MAX} is the most, larger ones belong in files"
    )]
    TooLarge {
        /// Its canonical length in bytes.
        bytes: usize,
    },
    /// It is nested too deeply.
    #[error("the value is nested deeper than {VALUE_DEPTH_MAX} levels")]
    TooDeep,
    /// It has too many fields to be merged field by field.
    #[error(
        "the value has {fields} fields; {FIELDS_MAX} is the most in a collection that merges them"
    )]
    TooManyFields {
        /// How many fields it has.
        fields: usize,
    },
}

impl Canonical {
    /// The canonical form of a value. What JSON has no number for (NaN, infinities) becomes null.
    ///
    /// # Errors
    /// The value has no JSON form, is too large or nested too deeply.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, InvalidValue> {
        let mut text = Vec::with_capacity(64);
        let mut writer = serde_json::Serializer::with_formatter(&mut text, Unordered);
        if value.serialize(&mut writer).is_ok() {
            return Self::of_text(text);
        }
        let value = serde_json::to_value(value).map_err(InvalidValue::NotJson)?;
        Self::of_json(&value)
    }

    pub(crate) fn of_json(value: &Value) -> Result<Self, InvalidValue> {
        let mut text = Vec::with_capacity(match value {
            Value::String(text) => text.len() + 2,
            Value::Array(_) | Value::Object(_) => 128,
            _ => 24,
        });
        write(value, 0, &mut text)?;
        Self::of_text(text)
    }

    /// Takes canonical JSON that is within the bounds of depth.
    fn of_text(text: Vec<u8>) -> Result<Self, InvalidValue> {
        if text.len() > VALUE_BYTES_MAX {
            return Err(InvalidValue::TooLarge { bytes: text.len() });
        }
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(Self(text.into())),
            Err(error) => Err(InvalidValue::NotJson(serde::de::Error::custom(error))),
        }
    }

    /// Takes bytes from outside: canonical JSON within the bounds.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidValue> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(InvalidValue::TooLarge { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| InvalidValue::NotJson(serde::de::Error::custom(error)))?;
        canonical_text::check(text).map_err(|wrong| match wrong {
            NotCanonical::TooDeep => InvalidValue::TooDeep,
            NotCanonical::At(byte) => InvalidValue::NotCanonical { byte },
        })?;
        Ok(Self(text.into()))
    }

    /// Takes bytes that this crate wrote and that a checksum covers.
    pub(crate) fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// The canonical JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value as a type of the application's own.
    ///
    /// # Errors
    /// The value does not have this type's form.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, InvalidValue> {
        serde_json::from_str(&self.0).map_err(|source| InvalidValue::OtherShape {
            expected: std::any::type_name::<T>(),
            source,
        })
    }

    /// The value as JSON.
    pub fn json(&self) -> Value {
        // It was checked when it came in.
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The digest of the canonical form.
    pub fn hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(self.0.as_bytes()).as_bytes())
    }
}

impl Serialize for Canonical {
    /// As the value that it is, not as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

impl fmt::Debug for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The BLAKE3 digest of a value's canonical form, all 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ContentHash([u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for ContentHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        unhex(&text)
            .map(Self)
            .ok_or("a hash has 64 lower-case hexadecimal digits")
    }
}

/// Writes texts, whole numbers and the like, which have one form. Gives up at anything else: arrays,
/// objects, whose keys have to be put in order, and numbers that become others as a [`Value`].
struct Unordered;

fn give_up() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Formatter for Unordered {
    fn begin_array<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        give_up()
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        give_up()
    }

    fn write_f32<W: io::Write + ?Sized>(&mut self, _: &mut W, _: f32) -> io::Result<()> {
        give_up()
    }

    fn write_i128<W: io::Write + ?Sized>(&mut self, _: &mut W, _: i128) -> io::Result<()> {
        give_up()
    }

    fn write_u128<W: io::Write + ?Sized>(&mut self, _: &mut W, _: u128) -> io::Result<()> {
        give_up()
    }
}

/// Writes the canonical form. Keys are sorted here, whatever order the map has them in.
fn write(value: &Value, depth: usize, text: &mut Vec<u8>) -> Result<(), InvalidValue> {
    match value {
        Value::Array(_) | Value::Object(_) if depth >= VALUE_DEPTH_MAX => {
            return Err(InvalidValue::TooDeep);
        }
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(item, depth + 1, text)?;
            }
            text.push(b']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push(b'{');
            for (index, (name, field)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_scalar(name, text)?;
                text.push(b':');
                write(field, depth + 1, text)?;
            }
            text.push(b'}');
        }
        scalar => write_scalar(scalar, text)?,
    }
    Ok(())
}

fn write_scalar<T: Serialize + ?Sized>(value: &T, text: &mut Vec<u8>) -> Result<(), InvalidValue> {
    serde_json::to_writer(text, value).map_err(InvalidValue::NotJson)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_equal_has_one_form_and_what_is_not_has_another() {
        let one: Value = serde_json::from_str(r#"{"b":1,"a":[1.5,null]}"#).unwrap();
        let other: Value = serde_json::from_str(r#" {"a" : [1.5, null], "b" : 1} "#).unwrap();
        let hash = |value: &Value| Canonical::of(value).unwrap().hash();
        assert_eq!(hash(&one), hash(&other));
        // The source's hash could not tell these apart.
        assert_ne!(hash(&json!({})), hash(&json!("{}")));
        assert_ne!(hash(&json!(null)), hash(&json!("null")));
        assert_ne!(hash(&json!("undefined")), hash(&json!(null)));
    }

    #[test]
    fn bounds_hold_for_values_from_inside_and_outside() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Canonical::from_bytes(nested(VALUE_DEPTH_MAX).as_bytes()).is_ok());
        for levels in [VALUE_DEPTH_MAX + 1, 1_000_000] {
            let refused = Canonical::from_bytes(nested(levels).as_bytes());
            assert!(matches!(refused, Err(InvalidValue::TooDeep)), "{levels}");
        }
        // What is kept here is taken elsewhere, and nothing else is.
        for levels in [1, VALUE_DEPTH_MAX, VALUE_DEPTH_MAX + 1] {
            for innermost in [json!([]), json!({}), json!([0])] {
                let mut deep = innermost;
                for _ in 1..levels {
                    deep = json!([deep]);
                }
                let is_kept = Canonical::of(&deep).is_ok();
                assert_eq!(is_kept, levels <= VALUE_DEPTH_MAX, "{levels}");
                let text = deep.to_string();
                assert_eq!(Canonical::from_bytes(text.as_bytes()).is_ok(), is_kept);
            }
        }
        assert!(Canonical::from_bytes(br#""[[[[ \" [[""#).is_ok());
        assert!(Canonical::from_bytes(b"\"\xff\"").is_err());
        assert!(Canonical::from_bytes(b"{} {}").is_err());
        assert!(Canonical::of(&"x".repeat(VALUE_BYTES_MAX)).is_err());
        let mut deep = json!(0);
        for _ in 0..=VALUE_DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(matches!(Canonical::of(&deep), Err(InvalidValue::TooDeep)));
    }
}
