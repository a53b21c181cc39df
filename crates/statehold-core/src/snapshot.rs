//! Snapshots: names for the repository as it was at a record.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::LABEL_CHARS_MAX;
use crate::time::Timestamp;

/// What a user calls a snapshot: letters, digits, dots, hyphens and underscores, the first one a
/// letter or digit, so that it can be part of a file's name on every system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// A text that can't be a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} cannot be a label: it takes 1 to {LABEL_CHARS_MAX} letters (a-z, A-Z), digits, dots, \
     hyphens and underscores, the first one a letter or digit, like before-the-rewrite"
)]
pub struct InvalidLabel {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl FromStr for Label {
    type Err = InvalidLabel;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if begins_well && text.len() <= LABEL_CHARS_MAX && text.bytes().all(is_fine) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidLabel {
            found: text.chars().take(80).collect(),
        })
    }
}

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot's name, `<time>-<label>`, like `2026-04-16T09-30-00Z-before-the-rewrite`. The time is
/// that of whoever made it, to the second, and written without colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    text: String,
}

/// Length of `2026-04-16T09-30-00Z`.
const TIME_CHARS: usize = 20;

/// A text that is no snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a name like 2026-04-16T09-30-00Z-label, found {found:?}")]
pub struct InvalidSnapshotId {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl SnapshotId {
    /// The name of a snapshot made at a moment; `None` outside of the years 0 to 9999.
    pub fn new(time: Timestamp, label: &Label) -> Option<Self> {
        let text = format!("{}-{label}", time.to_file_name());
        text.parse().ok()
    }

    /// What its maker called it.
    pub fn label(&self) -> &str {
        self.text.get(TIME_CHARS + 1..).unwrap_or_default()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSnapshotId {
            found: text.chars().take(80).collect(),
        };
        let (time, rest) = text.split_at_checked(TIME_CHARS).ok_or_else(invalid)?;
        let label = rest.strip_prefix('-').ok_or_else(invalid)?;
        let known = Timestamp::from_file_name(time).ok_or_else(invalid)?;
        if known.to_file_name() != time || label.parse::<Label>().is_err() {
            return Err(invalid());
        }
        let text = text.to_owned();
        Ok(Self { text })
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A string in JSON and everywhere else.
macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_text!(Label);
as_text!(SnapshotId);

/// What the log says about a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The record that the repository is named at.
    pub at: u64,
    /// The record that named it.
    pub by: u64,
    /// That record's time.
    pub time: Timestamp,
    /// Files there were, as its maker counted.
    pub files: u64,
    /// Their bytes, as its maker counted.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_into_file_names() {
        let longest = "x".repeat(LABEL_CHARS_MAX);
        for good in [
            "a",
            "7",
            "pre-quorum-rewrite-2026-04-16",
            "V1.2_final",
            &longest,
        ] {
            assert_eq!(good.parse::<Label>().map(|label| label.0), Ok(good.into()));
        }
        let too_long = "x".repeat(LABEL_CHARS_MAX + 1);
        for bad in ["", "-a", ".a", "a b", "a/b", "a:b", "ä", "a\n", &too_long] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_time_and_label() {
        let time: Timestamp = "2026-04-16T09:30:00.999Z".parse().unwrap();
        let label: Label = "before-the-rewrite".parse().unwrap();
        let id = SnapshotId::new(time, &label).unwrap();
        assert_eq!(id.as_str(), "2026-04-16T09-30-00Z-before-the-rewrite");
        assert_eq!(id.label(), label.as_str());
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in [
            "",
            "before-the-rewrite",
            "2026-04-16T09:30:00Z-x",
            "2026-04-16T09-30-00Z",
            "2026-04-16T09-30-00Z-",
            "2026-04-16T09-30-00Z-a/b",
            "2026-13-16T09-30-00Z-a",
            "2026-04-16T09-30-60Z-a",
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?}");
        }
    }
}
