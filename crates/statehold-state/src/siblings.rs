//! The live revisions of one state.

use crate::arrival::ConflictKind;
use crate::revision::Revision;
use crate::strategy::is_settled;

/// The live revisions of one key, in the order of their dots: nearly always one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Siblings {
    One(Revision),
    /// Never exactly one, so that equal siblings are equal values.
    Many(Vec<Revision>),
}

impl Default for Siblings {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Siblings {
    pub(crate) fn as_slice(&self) -> &[Revision] {
        match self {
            Self::One(revision) => std::slice::from_ref(revision),
            Self::Many(revisions) => revisions,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&Revision) -> bool) {
        match self {
            Self::One(revision) => {
                if !is_kept(revision) {
                    *self = Self::default();
                }
            }
            Self::Many(revisions) => {
                revisions.retain(is_kept);
                if revisions.len() == 1 {
                    *self = revisions.pop().map_or_else(Self::default, Self::One);
                }
            }
        }
    }

    pub(crate) fn add(&mut self, revision: Revision) {
        *self = match std::mem::take(self) {
            Self::Many(none) if none.is_empty() => Self::One(revision),
            Self::One(other) if other.dot < revision.dot => Self::Many(vec![other, revision]),
            Self::One(other) => Self::Many(vec![revision, other]),
            Self::Many(mut revisions) => {
                let place = revisions.partition_point(|other| other.dot < revision.dot);
                revisions.insert(place, revision);
                Self::Many(revisions)
            }
        };
    }

    /// In the order of dots; nothing if there is none.
    pub(crate) fn from_vec(revisions: Vec<Revision>) -> Option<Self> {
        let mut siblings = Self::default();
        for revision in revisions {
            siblings.add(revision);
        }
        (!siblings.is_empty()).then_some(siblings)
    }
}

/// Whether siblings say different things and nobody has settled it.
pub(crate) fn is_contested(siblings: &[Revision]) -> bool {
    siblings.len() > 1 && !is_settled(siblings.iter())
}

/// How siblings that say different things contradict each other.
pub(crate) fn kind_of(siblings: &[Revision]) -> ConflictKind {
    if siblings.iter().any(|sibling| sibling.value().is_none()) {
        return ConflictKind::UpdateDelete;
    }
    ConflictKind::ConcurrentUpdate
}
