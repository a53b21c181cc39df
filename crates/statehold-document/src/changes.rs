//! Being told when a document is another one.

use std::fmt;
use std::time::{Duration, Instant};

use statehold_state::{Notice, Notices};

use crate::documents::{Documents, updates_of};

/// What happened to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It was edited, here or elsewhere.
    Edited,
    /// It does not exist any more.
    Deleted,
}

/// What happens to one document, as it happens. Ends when its manager is closed.
pub struct Changes {
    documents: Documents,
    id: String,
    notices: Notices,
}

impl Changes {
    pub(crate) fn new(documents: Documents, id: &str) -> Self {
        Self {
            notices: documents.listen(),
            documents,
            id: id.to_owned(),
        }
    }

    /// The next change, waited for at most this long.
    pub fn next_within(&mut self, patience: Duration) -> Option<Change> {
        let end = Instant::now().checked_add(patience);
        loop {
            let left = end.map_or(Duration::MAX, |end| {
                end.saturating_duration_since(Instant::now())
            });
            let notice = self.notices.next_within(left)?;
            if let Some(change) = self.change(&notice) {
                return Some(change);
            }
        }
    }

    fn change(&self, notice: &Notice) -> Option<Change> {
        let (key, is_gone) = match notice {
            // Whatever they were about: better once too often.
            Notice::StateImported { .. } | Notice::Lagged { .. } => return Some(Change::Edited),
            Notice::StateCreated { key } | Notice::StateUpdated { key } => (key, false),
            Notice::StateDeleted { key } => (key, true),
            Notice::StateSynced {
                key, is_deleted, ..
            } => (key, *is_deleted),
            _ => return None,
        };
        if *key.collection == *self.documents.births.name() {
            return (is_gone && *key.id == *self.id).then_some(Change::Deleted);
        }
        // An update goes when it is replaced by one that holds it, which is no change.
        if is_gone || *key.collection != *self.documents.updates.name() {
            return None;
        }
        let births = self.documents.births_of(&self.id).ok()?;
        let is_own = births
            .iter()
            .any(|birth| key.id.starts_with(&updates_of(birth)));
        is_own.then_some(Change::Edited)
    }
}

impl Iterator for Changes {
    type Item = Change;

    /// Waits for the next change; nothing once the manager is closed.
    fn next(&mut self) -> Option<Change> {
        loop {
            let notice = self.notices.next()?;
            if let Some(change) = self.change(&notice) {
                return Some(change);
            }
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Changes").field(&self.id).finish()
    }
}
