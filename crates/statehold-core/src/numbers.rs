//! A set of record numbers, kept as ranges: what expires does so in long runs.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

/// A set of record numbers. Its ranges are in order and neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Numbers {
    /// First and last number of each range.
    ranges: Vec<(u64, u64)>,
}

impl Numbers {
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// First and last number of each range, in order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.ranges.iter().copied()
    }

    /// The highest of them.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|(_, last)| *last)
    }

    /// Whether a number is one of them.
    pub fn contains(&self, number: u64) -> bool {
        self.range_of(number).is_some()
    }

    /// The range that a number lies in.
    pub fn range_of(&self, number: u64) -> Option<(u64, u64)> {
        let at = self.ranges.partition_point(|(_, last)| *last < number);
        let range = self.ranges.get(at).copied();
        range.filter(|(first, _)| *first <= number)
    }

    /// Whether all of these are among them.
    pub fn covers(&self, numbers: RangeInclusive<u64>) -> bool {
        numbers.is_empty()
            || self
                .range_of(*numbers.start())
                .is_some_and(|(_, last)| *numbers.end() <= last)
    }

    /// Adds all from one to another. Nothing if the first is past the last.
    pub fn insert(&mut self, numbers: RangeInclusive<u64>) {
        let (mut first, mut last) = numbers.into_inner();
        if first > last {
            return;
        }
        let is_before = |range: &(u64, u64)| range.1.saturating_add(1) < first;
        let from = self.ranges.partition_point(is_before);
        let is_met = |range: &&(u64, u64)| range.0 <= last.saturating_add(1);
        let met = self.ranges.iter().skip(from).take_while(is_met).count();
        if let Some(begins) = self.ranges.get(from).filter(|_| met > 0) {
            first = first.min(begins.0);
        }
        if let Some(ends) = self.ranges.get((from + met).saturating_sub(1))
            && met > 0
        {
            last = last.max(ends.1);
        }
        self.ranges.splice(from..from + met, [(first, last)]);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        for (first, last) in other.ranges() {
            self.insert(first..=last);
        }
    }

    /// The numbers up to one, from 1, that are not among them, as ranges in order.
    pub fn gaps(&self, until: u64) -> impl Iterator<Item = (u64, u64)> {
        let begins =
            std::iter::once(1).chain(self.ranges().map(|(_, last)| last.saturating_add(1)));
        let ends = self
            .ranges()
            .map(|(first, _)| first.saturating_sub(1))
            .chain(std::iter::once(until));
        let gaps = begins.zip(ends.map(move |end| end.min(until)));
        gaps.filter(|(first, last)| first <= last)
    }
}

impl FromIterator<(u64, u64)> for Numbers {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut numbers = Self::default();
        for (first, last) in ranges {
            numbers.insert(first..=last);
        }
        numbers
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Whatever order they come in: the set is the same.
        let ranges = Vec::<(u64, u64)>::deserialize(deserializer)?;
        Ok(ranges.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It is what a plain set of the same numbers is, and its ranges stay apart.
        #[test]
        fn it_is_a_set(ranges in proptest::collection::vec((1..40_u64, 0..6_u64), 0..12)) {
            let mut numbers = Numbers::default();
            let mut plain = BTreeSet::new();
            for (first, length) in ranges {
                numbers.insert(first..=first + length);
                plain.extend(first..=first + length);
            }
            let all: Vec<u64> = numbers.ranges().flat_map(|(first, last)| first..=last).collect();
            prop_assert!(all.iter().eq(&plain));
            let bounds: Vec<_> = numbers.ranges().collect();
            prop_assert!(bounds.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            let gaps: Vec<u64> = numbers.gaps(50).flat_map(|(first, last)| first..=last).collect();
            let others: Vec<u64> = (1..=50).filter(|number| !plain.contains(number)).collect();
            prop_assert_eq!(gaps, others);
            for number in 0..50 {
                prop_assert_eq!(numbers.contains(number), plain.contains(&number));
                let three = plain.is_superset(&(number..=number + 2).collect());
                prop_assert_eq!(numbers.covers(number..=number + 2), three);
            }
            let text = serde_json::to_string(&numbers).unwrap();
            prop_assert_eq!(serde_json::from_str::<Numbers>(&text).unwrap(), numbers);
        }
    }
}
