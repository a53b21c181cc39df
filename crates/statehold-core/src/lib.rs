//! Values and decisions of Statehold: everything that can be computed without touching the world.
//!
//! This crate does no I/O, waits for nothing and reads no clock. It is the part to read first:
//!
//! 1. [`path`], [`digest`], [`id`], [`time`]: the small values everything else is made of.
//! 2. [`entry`], [`tree`]: what a directory looks like when it is recorded.
//! 3. [`record`]: one numbered step of a repository's history, and the draft it is made from.
//! 4. [`state`]: `state = fold(log)`, the heart of the program. [`snapshot`]: names for old states;
//!    [`point`]: which state is meant. [`epoch`]: how a log goes on from another store.
//!    [`collection`]: what is let go, and when it may be deleted; [`retention`] decides which points are, and
//!    [`numbers`] is how they are written down.
//! 5. [`rebase`]: which records may land although others came first. [`brought`]: the content that
//!    records bring.
//! 6. [`plan`]: base, local and remote tree in, list of actions out. [`rollback`]: the way back.
//!    [`agenda`]: when to do so without being asked.
//! 7. [`rules`], [`scope`], [`bands`]: what may travel and how. [`node_logs`]: what application state is
//!    carried in.
//! 8. [`secrets`]: what looks like a password or a key, and stays where it is.
//! 9. [`chunking`]: where files are cut, and which tails are merged.
//! 10. [`manifest`], [`event`], [`snapshot_index`]: the files people and scripts read.
//! 11. [`limits`]: every bound in the product, with its unit and reason.
//! 12. [`environment`]: the two traits through which time and randomness enter.
//!
//! # Invariants
//!
//! - No function here panics on any input; decoders return errors.
//! - A [`path::RepoPath`] that exists is safe to join to a folder: it cannot leave it.
//! - Folding the same records in the same order gives the same state on every machine.

pub mod agenda;
pub mod bands;
pub mod brought;
pub mod chunking;
pub mod collection;
pub mod digest;
pub mod entry;
pub mod environment;
pub mod epoch;
pub mod event;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod node_logs;
pub mod numbers;
pub mod path;
pub mod plan;
pub mod point;
pub mod rebase;
pub mod record;
pub mod retention;
pub mod rollback;
pub mod rules;
pub mod scope;
pub mod secrets;
pub mod snapshot;
pub mod snapshot_index;
pub mod state;
pub mod time;
pub mod tree;
