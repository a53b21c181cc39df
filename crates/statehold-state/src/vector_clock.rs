//! Vector clocks: how much of each node's log somebody knows.
//!
//! The laws, each with a property test: `merge` is commutative, associative and idempotent and is
//! the least clock that dominates both; `increment` makes a clock that is after the one before;
//! `compare` is a partial order, and a node that a clock does not name counts as 0.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::node::{Dot, NodeId};

/// How two clocks stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Causality {
    /// Everything that the first knows, the second knows, and more.
    Before,
    /// Everything that the second knows, the first knows, and more.
    After,
    /// Both know the same.
    Equal,
    /// Each knows something that the other does not.
    Concurrent,
}

/// How much of each node's log is known: its events from 1 up to a number.
///
/// ```
/// use statehold_state::{Causality, VectorClock};
/// let clock = VectorClock::<&str>::new();
/// let desk = clock.incremented("desk");
/// let phone = clock.incremented("phone");
/// assert_eq!(desk.compare(&phone), Causality::Concurrent);
/// let both = desk.merged(&phone);
/// assert_eq!(both.compare(&desk), Causality::After);
/// assert!(phone.is_dominated_by(&both));
/// assert_eq!(both.get(&"tablet"), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(
    from = "BTreeMap<N, u64>",
    bound(deserialize = "N: Ord + Clone + Deserialize<'de>")
)]
pub struct VectorClock<N: Ord = NodeId>(
    /// In the order of nodes, none of them at 0: there are few, and many clocks.
    Vec<(N, u64)>,
);

impl<N: Ord> Default for VectorClock<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N: Ord + Clone> VectorClock<N> {
    /// The clock that knows nothing. Every node stands at 0 in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number at which a node stands; 0 for a node that is not named.
    pub fn get(&self, node: &N) -> u64 {
        self.place(node).map_or(0, |place| self.0[place].1)
    }

    /// This clock with one more event of this node. The input is not changed.
    #[must_use]
    pub fn incremented(&self, node: N) -> Self {
        let mut clock = self.clone();
        clock.increment(node);
        clock
    }

    /// Counts one more event of this node.
    pub fn increment(&mut self, node: N) {
        let next = self.get(&node).saturating_add(1);
        self.observe(node, next);
    }

    /// Notes that a node's events up to this number are known. Never goes back.
    pub fn observe(&mut self, node: N, sequence: u64) {
        match self.place(&node) {
            Ok(place) => {
                let number = &mut self.0[place].1;
                *number = sequence.max(*number);
            }
            Err(place) if sequence > 0 => self.0.insert(place, (node, sequence)),
            Err(_) => {}
        }
    }

    /// The larger number for each node. The inputs are not changed.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut clock = self.clone();
        clock.merge(other);
        clock
    }

    /// Takes the larger number for each node.
    pub fn merge(&mut self, other: &Self) {
        for (node, number) in &other.0 {
            self.observe(node.clone(), *number);
        }
    }

    /// How this clock stands to another.
    pub fn compare(&self, other: &Self) -> Causality {
        match (other.covers(self), self.covers(other)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::Before,
            (false, true) => Causality::After,
            (false, false) => Causality::Concurrent,
        }
    }

    /// Whether this clock is after the other one or equal to it.
    pub fn dominates(&self, other: &Self) -> bool {
        self.covers(other)
    }

    /// Whether this clock is before the other one or equal to it.
    pub fn is_dominated_by(&self, other: &Self) -> bool {
        other.covers(self)
    }

    /// The nodes that are named, in order, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&N, u64)> {
        self.0.iter().map(|(node, number)| (node, *number))
    }

    /// How many nodes are named.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a node out.
    pub(crate) fn forget(&mut self, node: &N) {
        if let Ok(place) = self.place(node) {
            self.0.remove(place);
        }
    }

    /// Where a node stands, or would stand.
    fn place(&self, node: &N) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(node))
    }

    fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(node, number)| self.get(node) >= *number)
    }
}

impl VectorClock<NodeId> {
    /// Whether this event is known.
    pub fn contains(&self, dot: Dot) -> bool {
        self.get(&dot.node) >= dot.sequence
    }
}

impl<N: Ord + Serialize> Serialize for VectorClock<N> {
    /// As a map from nodes to numbers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(node, number)| (node, number)))
    }
}

impl<N: Ord + Clone> PartialOrd for VectorClock<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.compare(other) {
            Causality::Before => Some(Ordering::Less),
            Causality::After => Some(Ordering::Greater),
            Causality::Equal => Some(Ordering::Equal),
            Causality::Concurrent => None,
        }
    }
}

impl<N: Ord + Clone> From<BTreeMap<N, u64>> for VectorClock<N> {
    fn from(numbers: BTreeMap<N, u64>) -> Self {
        numbers.into_iter().collect()
    }
}

impl<N: Ord + Clone> FromIterator<(N, u64)> for VectorClock<N> {
    fn from_iter<I: IntoIterator<Item = (N, u64)>>(items: I) -> Self {
        let mut clock = Self::new();
        for (node, number) in items {
            clock.observe(node, number);
        }
        clock
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clocks() -> impl Strategy<Value = VectorClock<u8>> {
        prop::collection::vec((0_u8..5, 0_u64..4), 0..5)
            .prop_map(|items| items.into_iter().collect())
    }

    proptest! {
        #[test]
        fn merge_is_a_join(a in clocks(), b in clocks(), c in clocks()) {
            prop_assert_eq!(a.merged(&b), b.merged(&a));
            prop_assert_eq!(a.merged(&b).merged(&c), a.merged(&b.merged(&c)));
            prop_assert_eq!(a.merged(&a), a.clone());
            prop_assert!(a.merged(&b).dominates(&a) && a.merged(&b).dominates(&b));
            if c.dominates(&a) && c.dominates(&b) {
                prop_assert!(c.dominates(&a.merged(&b)), "a smaller one dominates both");
            }
        }

        #[test]
        fn compare_is_a_partial_order(a in clocks(), b in clocks(), c in clocks()) {
            let reversed = match b.compare(&a) {
                Causality::Before => Causality::After,
                Causality::After => Causality::Before,
                other => other,
            };
            prop_assert_eq!(a.compare(&b), reversed);
            if a.dominates(&b) && b.dominates(&c) {
                prop_assert!(a.dominates(&c));
            }
            prop_assert_eq!(a.compare(&b) == Causality::Equal, a == b);
        }

        #[test]
        fn increment_moves_on_and_leaves_the_input(a in clocks(), node in 0_u8..5) {
            let before = a.clone();
            let after = a.incremented(node);
            prop_assert_eq!(&a, &before);
            prop_assert_eq!(after.compare(&a), Causality::After);
            prop_assert_eq!(after.get(&node), a.get(&node) + 1);
        }
    }

    #[test]
    fn an_absent_node_counts_as_zero() {
        let clock = VectorClock::<u8>::new();
        let zero: VectorClock<u8> = [(1, 0)].into_iter().collect();
        assert_eq!(clock.compare(&zero), Causality::Equal);
        assert!(clock.is_dominated_by(&zero) && zero.is_dominated_by(&clock));
    }
}
