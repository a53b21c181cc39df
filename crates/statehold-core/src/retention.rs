//! Which points a repository keeps, as a pure function of their ages.
//!
//! A *point* is what a push or rollback made of the directory, for as long as it was the newest. Its age
//! counts from the moment it was superseded, by the store's clock: what has just been replaced is new, however long it
//! stood.

use std::collections::HashSet;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::limits::{APPROVAL_POINTS_MIN, RETENTION_DAYS};
use crate::numbers::Numbers;
use crate::time::Timestamp;

/// What is kept. A point stays as long as any of these, or a snapshot, keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Every point that was superseded within so many days.
    pub within_days: u32,
    /// The newest so many points.
    #[serde(default)]
    pub last: u32,
    /// The last point of each of the newest so many hours that have one, in UTC.
    #[serde(default)]
    pub hourly: u32,
    /// The same of days.
    #[serde(default)]
    pub daily: u32,
    /// The same of weeks, which begin on Mondays.
    #[serde(default)]
    pub weekly: u32,
    /// The same of months.
    #[serde(default)]
    pub monthly: u32,
    /// The same of years.
    #[serde(default)]
    pub yearly: u32,
}

impl Default for Policy {
    /// Everything of the last 30 days, and after that what snapshots keep.
    fn default() -> Self {
        Self {
            within_days: RETENTION_DAYS,
            last: 0,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.within_days {
            1 => f.write_str("everything of the last day")?,
            days => write!(f, "everything of the last {days} days")?,
        }
        if self.last > 0 {
            write!(f, ", the newest {}", self.last)?;
        }
        let slots = [
            (self.hourly, "an hour"),
            (self.daily, "a day"),
            (self.weekly, "a week"),
            (self.monthly, "a month"),
            (self.yearly, "a year"),
        ];
        for (count, slot) in slots.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} times one {slot}")?;
        }
        f.write_str(", and what snapshots name")
    }
}

/// A point, as far as its expiry depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointAge {
    /// The record that made it.
    pub from: u64,
    /// The last record before the next point.
    pub to: u64,
    /// When it was made, by its record.
    pub time: Timestamp,
    /// When the next point was seen in the store; `None` for the newest.
    pub superseded: Option<Timestamp>,
    /// Whether a snapshot keeps it.
    pub is_named: bool,
}

/// What a policy lets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The records whose states are let go.
    pub numbers: Numbers,
    /// Points among them.
    pub points: usize,
    /// Points that there were.
    pub of: usize,
}

impl Expiry {
    /// Whether it is so much that somebody has to say that it is meant: over half of the points.
    pub const fn needs_approval(&self) -> bool {
        self.of >= APPROVAL_POINTS_MIN && self.points * 2 > self.of
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

impl Policy {
    /// What it lets go of these points, which are those that are kept now, oldest first. Nothing that
    /// was superseded less than `floor_ms` milliseconds ago goes, whatever the counts say.
    pub fn expiry(&self, points: &[PointAge], now: Timestamp, floor_ms: i64) -> Expiry {
        let within = i64::from(self.within_days)
            .saturating_mul(DAY_MS)
            .max(floor_ms);
        let newest_first = || points.iter().rev();
        let mut kept: HashSet<u64> = newest_first()
            .take(self.last.max(1) as usize)
            .map(|point| point.from)
            .collect();
        let mut keep = |count: u32, slot: fn(Timestamp) -> i64| {
            let mut slots = HashSet::new();
            let firsts = newest_first().filter(|point| is_first(&mut slots, slot(point.time)));
            kept.extend(firsts.take(count as usize).map(|point| point.from));
        };
        keep(self.hourly, |time| time.as_millis().div_euclid(DAY_MS / 24));
        keep(self.daily, day);
        // 1970 began on a Thursday.
        keep(self.weekly, |time| (day(time) + 3).div_euclid(7));
        keep(self.monthly, |time| i64::from(time.month()));
        keep(self.yearly, |time| i64::from(time.month()).div_euclid(12));
        let goes = |point: &&PointAge| {
            let age = |since: Timestamp| now.as_millis().saturating_sub(since.as_millis());
            let is_old = point.superseded.is_some_and(|since| age(since) >= within);
            is_old && !point.is_named && !kept.contains(&point.from)
        };
        let gone: Vec<&PointAge> = points.iter().filter(goes).collect();
        Expiry {
            numbers: gone.iter().map(|point| (point.from, point.to)).collect(),
            points: gone.len(),
            of: points.len(),
        }
    }
}

const fn day(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(DAY_MS)
}

fn is_first<T: Eq + Hash>(seen: &mut HashSet<T>, value: T) -> bool {
    seen.insert(value)
}

#[cfg(test)]
mod tests;
