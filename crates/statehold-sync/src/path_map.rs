//! Values by path in one piece of memory: quick to fill in order, to go through and to ask.

use std::borrow::Borrow;
use std::ops::Index;

use statehold_core::path::RepoPath;

/// Values by path, in order of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMap<V> {
    items: Vec<(RepoPath, V)>,
}

impl<V> Default for PathMap<V> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<V> PathMap<V> {
    /// The values of paths that are nearly in order, and each there once.
    pub(crate) fn of(mut items: Vec<(RepoPath, V)>) -> Self {
        if !items.is_sorted_by(|(left, _), (right, _)| left < right) {
            items.sort_by(|(left, _), (right, _)| left.cmp(right));
        }
        Self { items }
    }

    /// Number of paths.
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The value of a path.
    pub fn get(&self, path: &(impl Borrow<str> + ?Sized)) -> Option<&V> {
        let path = path.borrow();
        let found = self
            .items
            .binary_search_by(|(known, _)| known.as_str().cmp(path));
        found.ok().map(|index| &self.items[index].1)
    }

    /// Whether a path has a value.
    pub fn contains_key(&self, path: &(impl Borrow<str> + ?Sized)) -> bool {
        self.get(path).is_some()
    }

    /// All paths and values, in order of paths.
    pub fn iter(&self) -> impl Iterator<Item = (&RepoPath, &V)> {
        self.items.iter().map(|(path, value)| (path, value))
    }

    /// All paths, in order.
    pub fn keys(&self) -> impl Iterator<Item = &RepoPath> {
        self.items.iter().map(|(path, _)| path)
    }
}

impl<V> IntoIterator for PathMap<V> {
    type Item = (RepoPath, V);
    type IntoIter = std::vec::IntoIter<(RepoPath, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<V> Index<&str> for PathMap<V> {
    type Output = V;

    /// The value of a path that is known to have one.
    fn index(&self, path: &str) -> &V {
        self.get(path).expect("the path has a value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_whatever_order_they_came_in() {
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let map = PathMap::of(vec![(path("b"), 1), (path("c"), 2), (path("a/b"), 3)]);
        let paths: Vec<&str> = map.keys().map(RepoPath::as_str).collect();
        assert_eq!(paths, ["a/b", "b", "c"]);
        assert_eq!((map.get("c"), map.get("a")), (Some(&2), None));
        assert!(map.contains_key(&path("a/b")) && !map.is_empty());
        assert_eq!((map["b"], map.len()), (1, 3));
    }
}
