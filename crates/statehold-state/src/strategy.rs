//! What is shown when several nodes wrote one state at once.
//!
//! Two kinds of strategy converge. A *pure* one is a function of the set of siblings alone, the
//! same on every node. A *settling* one makes an event that supersedes what it saw; when two nodes
//! settle at once, the two settlements fall to the order and never to a third event, so it ends.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::canonical::{Canonical, InvalidValue};
use crate::fields;
use crate::hybrid_clock::Stamp;
use crate::limits::VALUE_BYTES_MAX;
use crate::node::{Dot, NodeId};
use crate::revision::{Content, Revision};

/// What decides between siblings of one state.
#[derive(Clone, Default)]
pub enum Strategy {
    /// The latest edit is shown, by hybrid clock, then by node. Edits made after seeing another
    /// always win over it, whatever the clocks say. The others stay readable until the next edit.
    #[default]
    LastWriteWins,
    /// A node that wrote one of the siblings settles for its own. If several do so at once, the
    /// latest settlement counts everywhere.
    LocalWins,
    /// A node that wrote one of the siblings settles for the other's.
    RemoteWins,
    /// Field by field: edits of different fields are both kept, the same field falls to the later.
    Merge,
    /// The latest is shown and the conflict stays open until somebody resolves it.
    Manual,
    /// A function of the application's own.
    Custom(CustomStrategy),
}

/// What happens to an edit that was made while another node deleted the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeleteRule {
    /// The edit stays: a delete takes away what it had seen. Nothing is kept of a deleted state.
    #[default]
    UpdateWins,
    /// The state stays deleted. A mark is kept until every node has seen it and
    /// [`Manager::bury`](crate::Manager::bury) is called.
    DeleteWins,
}

/// One of several values of a state, as a strategy of the application's own sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate<T> {
    /// The event that wrote it.
    pub dot: Dot,
    /// When.
    pub stamp: Stamp,
    /// The how-manieth version of the state it was.
    pub version: u32,
    /// The value.
    pub data: T,
}

type Decide = dyn Fn(&[&Revision]) -> Option<Canonical> + Send + Sync;

/// A strategy of the application's own: a pure function of the siblings, with a name and a version
/// by which nodes notice that they do not use the same.
#[derive(Clone)]
pub struct CustomStrategy {
    name: Arc<str>,
    version: u32,
    decide: Arc<Decide>,
}

impl Strategy {
    /// A strategy of the application's own. The function gets the siblings in the order of their
    /// events' names and must depend on nothing else: no clock, no randomness, not the machine it
    /// runs on. It returns nothing where it can't decide; the latest is then shown, and the
    /// conflict stays open. Change the version with the function.
    ///
    /// ```
    /// use statehold_state::{Candidate, Strategy};
    /// let highest = Strategy::custom("highest", 1, |scores: &[Candidate<u64>]| {
    ///     scores.iter().map(|score| score.data).max()
    /// });
    /// assert_eq!(highest.name(), "highest");
    /// ```
    pub fn custom<T, F>(name: &str, version: u32, decide: F) -> Self
    where
        T: Serialize + DeserializeOwned,
        F: Fn(&[Candidate<T>]) -> Option<T> + Send + Sync + 'static,
    {
        let decide = move |siblings: &[&Revision]| {
            let candidates: Option<Vec<Candidate<T>>> = siblings
                .iter()
                .map(|revision| {
                    Some(Candidate {
                        dot: revision.dot,
                        stamp: revision.stamp,
                        version: revision.version,
                        data: revision.value()?.parse().ok()?,
                    })
                })
                .collect();
            Canonical::of(&decide(&candidates?)?).ok()
        };
        Self::Custom(CustomStrategy {
            name: name.into(),
            version,
            decide: Arc::new(decide),
        })
    }

    /// The name in settings and messages.
    pub fn name(&self) -> &str {
        match self {
            Self::LastWriteWins => "last-write-wins",
            Self::LocalWins => "local-wins",
            Self::RemoteWins => "remote-wins",
            Self::Merge => "merge",
            Self::Manual => "manual",
            Self::Custom(custom) => &custom.name,
        }
    }

    /// Whether all nodes must compute the same value from siblings, which is then compared.
    pub(crate) const fn computes(&self) -> bool {
        matches!(self, Self::Merge | Self::Custom(_))
    }

    /// Whether a conflict may wait for somebody to resolve it. Finding out for one takes time.
    pub(crate) const fn may_leave_open(&self) -> bool {
        matches!(self, Self::Manual) || self.computes()
    }
}

/// The strategy of this name; those of an application's own have no name that could be looked up.
impl std::str::FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        match name {
            "last-write-wins" => Ok(Self::LastWriteWins),
            "local-wins" => Ok(Self::LocalWins),
            "remote-wins" => Ok(Self::RemoteWins),
            "merge" => Ok(Self::Merge),
            "manual" => Ok(Self::Manual),
            other => Err(UnknownStrategy(other.to_owned())),
        }
    }
}

/// A name that no strategy has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no strategy is called {0:?}; there are last-write-wins, local-wins, remote-wins, merge and manual"
)]
pub struct UnknownStrategy(String);

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom(custom) => write!(f, "{custom:?}"),
            other => f.write_str(other.name()),
        }
    }
}

impl fmt::Debug for CustomStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {})", self.name, self.version)
    }
}

/// How the siblings of one collection are decided.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Between edits.
    pub strategy: Strategy,
    /// Between an edit and a delete.
    pub deletes: DeleteRule,
}

impl From<Strategy> for Rules {
    fn from(strategy: Strategy) -> Self {
        Self {
            strategy,
            deletes: DeleteRule::default(),
        }
    }
}

/// What is shown of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The value.
    pub value: Cow<'a, Canonical>,
    /// The sibling that is shown, or the latest of those that the value was computed from.
    pub revision: &'a Revision,
    /// Whether a conflict waits for somebody to resolve it.
    pub is_open: bool,
}

impl Rules {
    /// By this two nodes notice that they decide differently.
    pub fn fingerprint(&self) -> [u8; 8] {
        let version = match &self.strategy {
            Strategy::Custom(custom) => custom.version,
            _ => 0,
        };
        let is_custom = matches!(self.strategy, Strategy::Custom(_));
        let text = format!(
            "{}\n{version}\n{is_custom}\n{:?}",
            self.strategy.name(),
            self.deletes
        );
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
        fingerprint
    }

    /// What is shown of these siblings; nothing if the state counts as deleted. A pure function
    /// of the set: who asks, and in what order the siblings came, does not matter.
    pub fn show<'a>(
        &self,
        siblings: impl Iterator<Item = &'a Revision> + Clone,
    ) -> Option<Shown<'a>> {
        let mut values = siblings.clone().filter(|sibling| sibling.value().is_some());
        let is_grave = |sibling: &Revision| sibling.content == Content::Grave;
        if self.deletes == DeleteRule::DeleteWins && siblings.clone().any(is_grave) {
            return None;
        }
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(Shown {
                value: Cow::Borrowed(first.value()?),
                revision: first,
                is_open: false,
            });
        };
        let mut candidates: Vec<&Revision> = [first, second].into_iter().chain(values).collect();
        candidates.sort_by_key(|sibling| sibling.dot);
        let latest = candidates.iter().copied().max_by_key(|s| s.rank())?;
        let is_conflict = !is_settled(candidates.iter().copied());
        let (computed, is_open) = match &self.strategy {
            _ if !is_conflict => (None, false),
            Strategy::Merge => {
                let merged = fields::merge(candidates.iter().copied());
                // What two siblings come to may be larger than either, at worst too large.
                let merged = Canonical::of_json(&merged).ok();
                let is_open = merged.is_none();
                (merged, is_open)
            }
            Strategy::Custom(custom) => {
                let decided = (custom.decide)(&candidates);
                let is_open = decided.is_none();
                (decided, is_open)
            }
            Strategy::Manual => (None, true),
            Strategy::LastWriteWins | Strategy::LocalWins | Strategy::RemoteWins => (None, false),
        };
        let value = match computed {
            Some(value) => Cow::Owned(value),
            None => Cow::Borrowed(latest.value()?),
        };
        Some(Shown {
            value,
            revision: latest,
            is_open,
        })
    }

    /// Whether the conflict of these siblings waits for somebody to resolve it.
    pub(crate) fn leaves_open(&self, siblings: &[Revision]) -> bool {
        if siblings.len() < 2 || !self.strategy.may_leave_open() {
            return false;
        }
        // What is merged has the fields of all and no more, so it is too large only if these are.
        let bytes = siblings.iter().filter_map(Revision::value);
        let bytes = bytes.map(|value| value.as_str().len()).sum::<usize>();
        if matches!(self.strategy, Strategy::Merge) && bytes <= VALUE_BYTES_MAX {
            return false;
        }
        self.show(siblings.iter())
            .is_some_and(|shown| shown.is_open)
    }

    /// What a new value is stored as: with the origins of its fields where those are merged.
    ///
    /// # Errors
    /// The value has more fields than can be merged.
    pub fn content(
        &self,
        value: Canonical,
        siblings: &[Revision],
    ) -> Result<Content, InvalidValue> {
        match self.strategy {
            Strategy::Merge => fields::content(value, siblings.iter()),
            _ => Ok(Content::whole(value)),
        }
    }

    /// What a delete is stored as.
    pub const fn delete(&self) -> Content {
        match self.deletes {
            DeleteRule::UpdateWins => Content::Deleted,
            DeleteRule::DeleteWins => Content::Grave,
        }
    }

    /// The sibling for which this node settles a conflict, if it is one to settle: the node wrote
    /// one of the siblings, and that one is no settlement itself.
    pub fn settle<'a>(
        &self,
        me: NodeId,
        siblings: impl Iterator<Item = &'a Revision> + Clone,
    ) -> Option<&'a Revision> {
        let values: Vec<&Revision> = siblings.filter(|s| s.value().is_some()).collect();
        if values.len() < 2 || is_settled(values.iter().copied()) {
            return None;
        }
        let own = values.iter().find(|s| s.dot.node == me && !s.resolves)?;
        match self.strategy {
            Strategy::LocalWins => Some(own),
            Strategy::RemoteWins => values
                .iter()
                .filter(|sibling| sibling.dot.node != me)
                .max_by_key(|sibling| sibling.rank())
                .copied(),
            _ => None,
        }
    }
}

/// Whether siblings are no conflict: all say the same, or all are settlements.
pub(crate) fn is_settled<'a>(mut values: impl Iterator<Item = &'a Revision> + Clone) -> bool {
    let all_settle = values.clone().all(|sibling| sibling.resolves);
    let first = values.next().map(Revision::value);
    all_settle || values.all(|sibling| Some(sibling.value()) == first)
}
