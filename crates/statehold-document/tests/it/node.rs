//! A node with its documents, and how nodes exchange what they know.

use statehold_document::{Document, Documents};
use statehold_state::{Manager, Reconciled};

/// A node with its documents.
pub(crate) struct Node {
    pub(crate) manager: Manager,
    pub(crate) notes: Documents,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::on(Manager::in_memory().unwrap())
    }

    pub(crate) fn on(manager: Manager) -> Self {
        let notes = Documents::open(&manager, "notes").unwrap();
        Self { manager, notes }
    }

    pub(crate) fn get(&self, id: &str) -> Document {
        self.notes.get(id).unwrap().unwrap()
    }
}

/// What the second node lacks comes to it.
pub(crate) fn send(from: &Node, to: &Node) -> Reconciled {
    let head = to.manager.head().unwrap();
    let delta = from.manager.answer(&head).unwrap();
    to.manager.reconcile(&delta).unwrap()
}

/// Both know what either knew.
pub(crate) fn exchange(one: &Node, other: &Node) {
    send(one, other);
    send(other, one);
}
