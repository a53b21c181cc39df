//! Hybrid logical clocks: stamps that look like the time of day and never go back.
//!
//! A stamp orders live siblings and nothing else, so a wrong clock cannot win against an edit
//! that was made after seeing its event. No event is refused or stamped anew because of its time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::CLOCK_FOLLOW_MS_MAX;

/// 48 bits of milliseconds since 1970 and 16 bits that count within one of them.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Stamp(u64);

impl Stamp {
    const COUNTER_BITS: u32 = 16;

    /// The first stamp of a millisecond. Times past the year 10000 count as the last there is.
    pub const fn at(milliseconds: u64) -> Self {
        let last = u64::MAX >> Self::COUNTER_BITS;
        let milliseconds = if milliseconds > last {
            last
        } else {
            milliseconds
        };
        Self(milliseconds << Self::COUNTER_BITS)
    }

    /// Milliseconds since 1970.
    pub const fn milliseconds(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The stamp as one number, in the same order.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The stamp of this number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.milliseconds(), self.0 & 0xffff)
    }
}

/// Makes stamps for one node. Follows other clocks only a little way ahead of its own.
///
/// ```
/// use statehold_state::{HybridClock, Stamp};
/// let mut clock = HybridClock::default();
/// let first = clock.tick(1_000);
/// assert!(clock.tick(1_000) > first);
/// assert!(clock.tick(900) > first, "a clock set back does not matter");
/// clock.observe(Stamp::at(u64::MAX), 1_000);
/// assert!(clock.tick(1_000).milliseconds() < 100_000, "nor does one far ahead");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct HybridClock(Stamp);

impl HybridClock {
    /// A clock that goes on after this stamp.
    pub const fn after(stamp: Stamp) -> Self {
        Self(stamp)
    }

    /// The last stamp that was made or followed.
    pub const fn last(self) -> Stamp {
        self.0
    }

    /// The next stamp, later than all before it. `now` is in milliseconds since 1970.
    pub fn tick(&mut self, now: u64) -> Stamp {
        self.0 = self.0.next().max(Stamp::at(now));
        self.0
    }

    /// Notes a stamp of another node, so that what is written from now on comes after it. A stamp
    /// too far ahead is followed only as far as is plausible.
    pub fn observe(&mut self, stamp: Stamp, now: u64) {
        let plausible = Stamp::at(now.saturating_add(CLOCK_FOLLOW_MS_MAX));
        self.0 = self.0.max(stamp.min(plausible));
    }
}
