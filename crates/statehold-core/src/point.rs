//! Points in a repository's history.

use crate::time::Timestamp;

/// Which state of a repository is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Point {
    /// The newest.
    #[default]
    Newest,
    /// The one after this record.
    Record(u64),
    /// The one after this record as it was then, whether it is kept or not: content lies where it lay. A
    /// `promote` continues from such a state.
    Then(u64),
    /// The one at this moment: after the last record that was not appended later.
    Time(Timestamp),
}

impl Point {
    /// Whether a record with this number and time lies past the point.
    pub fn is_before(self, number: u64, time: Timestamp) -> bool {
        match self {
            Self::Newest => false,
            Self::Record(last) | Self::Then(last) => number > last,
            Self::Time(last) => time > last,
        }
    }
}
