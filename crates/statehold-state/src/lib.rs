//! Application state that converges: settings, sessions and models across devices.
//!
//! Several devices change structured values, offline too, and end up equal everywhere, with every
//! conflict visible and nothing lost. Begin with [`Manager`], which keeps typed values in a folder
//! and exchanges plain bytes with others by any transport. Beneath it lies [`Replica`], a pure
//! value that is a function of the set of events it knows, and beneath that the clocks.
//!
//! Three rules to know first:
//!
//! - **Causality first.** An edit that was made after seeing another one wins over it, whatever
//!   the clocks say. Only edits that did not see each other are a conflict.
//! - **Updates win over deletes** unless the collection says otherwise ([`DeleteRule`]): a delete
//!   takes away what it had seen, so an edit made meanwhile stays. Nothing is kept of what was
//!   deleted, and nobody can bring it back by being late.
//! - **Every strategy converges**, those of the application's own too ([`Strategy`]).

pub mod limits;

mod alarm;
mod arrival;
mod auto_sync;
mod bulk;
mod canonical;
mod canonical_text;
mod carried;
mod codec;
mod collection;
mod conflict;
mod draft;
mod durable;
mod error;
mod exchange;
mod fields;
mod fork;
mod frame;
mod hybrid_clock;
mod identity;
mod journal;
mod manager;
mod message;
mod node;
mod node_folder;
mod notice;
mod operation;
mod replica;
mod revision;
mod root;
mod segment;
mod several;
mod shared;
mod siblings;
mod snapshot;
mod states;
mod store;
mod strategy;
mod transaction;
mod vector_clock;

pub use alarm::Alarm;
pub use arrival::{Arrival, Change, ChangeKind, ConflictKind, Refused};
pub use auto_sync::{AutoSync, AutoSyncOptions};
pub use canonical::{Canonical, ContentHash, InvalidValue};
pub use carried::{CarriedFolder, CarriedNode, Received, RefusedFile};
pub use codec::Malformed;
pub use collection::{Collection, Reason, State, Why};
pub use conflict::{Conflict, FoundConflict, Resolution, Side};
pub use draft::Draft;
pub use error::{Error, Result};
pub use exchange::Reconciled;
pub use frame::{Frame, Link};
pub use hybrid_clock::{HybridClock, Stamp};
pub use identity::Origin;
pub use manager::{Manager, Options};
pub use node::{Dot, InvalidNodeId, Key, NodeId};
pub use notice::{Notice, Notices, Status};
pub use operation::{Operation, OperationKind};
pub use replica::Replica;
pub use revision::{Batch, Content, Event, Origins, Revision};
pub use root::Root;
pub use strategy::{
    Candidate, CustomStrategy, DeleteRule, Rules, Shown, Strategy, UnknownStrategy,
};
pub use transaction::Transaction;
pub use vector_clock::{Causality, VectorClock};
