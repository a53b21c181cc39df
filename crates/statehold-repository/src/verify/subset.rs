//! Which part of the content is read on which day: a pure function of an object's key and the date,
//! so that daily readings of N% have seen everything after 100/N days, whoever makes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::time::Timestamp;

/// Parts that objects fall into by their keys; one of them is 1% of the objects.
pub const PARTS: u8 = 100;

/// A day of the UTC calendar, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(i64);

impl Day {
    /// The day that a moment falls on.
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_millis().div_euclid(24 * 60 * 60 * 1_000))
    }

    /// The day so many days later.
    #[must_use]
    pub const fn later(self, days: i64) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// How many days after another one it is.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A share of the objects, in whole percent from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u8);

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no share: it is a whole number of percent from 1% to 100%, like 5%")]
pub struct InvalidShare {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let share = number
            .parse()
            .ok()
            .filter(|share| (1..=PARTS).contains(share));
        share.map(Self).ok_or_else(|| InvalidShare {
            found: text.chars().take(80).collect(),
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Share {
    /// Everything.
    pub const WHOLE: Self = Self(PARTS);

    /// The parts that are due on a day. The windows of following days follow one another round the
    /// circle of all parts, so none is left out.
    pub fn parts_on(self, day: Day) -> impl Iterator<Item = u8> {
        let parts = i64::from(PARTS);
        let first = (day.0.rem_euclid(parts) * i64::from(self.0)).rem_euclid(parts);
        (0..i64::from(self.0)).filter_map(move |step| u8::try_from((first + step) % parts).ok())
    }

    /// Whether the object with this key is due on a day.
    pub fn includes(self, key: &str, day: Day) -> bool {
        let part = part_of(key);
        self.parts_on(day).any(|due| due == part)
    }
}

/// The part that an object falls into.
pub fn part_of(key: &str) -> u8 {
    let digest = Digest::of(key.as_bytes());
    let [a, b, c, d, ..] = *digest.as_bytes();
    let part = u32::from_le_bytes([a, b, c, d]) % u32::from(PARTS);
    u8::try_from(part).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_is_due_within_a_hundred_days_by_the_share() {
        for share in 1..=PARTS {
            let days = i64::from(PARTS.div_ceil(share));
            for first in [0, 1, 99, 100, 20_000, 20_399] {
                let due: BTreeSet<u8> = (first..first + days)
                    .flat_map(|day| Share(share).parts_on(Day(day)))
                    .collect();
                assert_eq!(due.len(), usize::from(PARTS), "{share}% from day {first}");
            }
            let once: BTreeSet<u8> = Share(share).parts_on(Day(20_777)).collect();
            assert_eq!(once.len(), usize::from(share));
        }
    }

    #[test]
    fn it_depends_on_key_and_date_alone() {
        let keys: Vec<String> = (0..5_000).map(|i| format!("packs/{i:032x}")).collect();
        let share: Share = "10%".parse().unwrap();
        let day = Day::of("2026-11-21T00:00:00Z".parse().unwrap());
        assert_eq!(day, Day::of("2026-11-21T23:59:59.999Z".parse().unwrap()));
        let due = |day| keys.iter().filter(|key| share.includes(key, day)).count();
        assert!((400..600).contains(&due(day)), "{}", due(day));
        let later: usize = (0..10).map(|days| due(day.later(days))).sum();
        assert_eq!(later, keys.len());
        assert!(Share::WHOLE.includes("packs/x", day));
        for bad in ["", "0", "101%", "1.5%", "%", "-1", "300"] {
            assert!(bad.parse::<Share>().is_err(), "{bad:?}");
        }
    }
}
