//! The protocol of the log, as one model that a checker explores: every order of everything that may
//! happen to a few writers, collectors, readers, a replicator and an owner who switches over.
//!
//! Compaction, removal and switching are here before they are in the code, which follows this. Read it in
//! this order:
//!
//! 1. [`rule`]: the rules that each promise rests on; a check can do without one, to show what breaks.
//! 2. [`object`] and [`site`]: what lies in a store, and requests that take effect when they like.
//! 3. [`fold`]: what each record makes of the state, and what makes it void.
//! 4. [`writer`], [`collector`], [`replication`]: what everybody does, step by step.
//! 5. [`properties`]: what may never be.
//! 6. [`configuration`]: the bounded worlds that are looked at. [`world`] puts everything together.
//!
//! **Invariant:** names no other crate of the project: it is what they are measured by.
//!
//! # Assumptions
//!
//! - A store creates an object at most once, and whoever reads after that sees it (grade A).
//! - A request takes effect at any later time or never, whoever sent it and whatever became of them.
//! - Names of packs and nonces are never drawn twice.
//! - What was deleted may be gone at once, what was cut is cut at once: later is never worse.

pub mod collector;
pub mod configuration;
pub mod fold;
pub mod object;
pub mod properties;
pub mod replication;
pub mod rule;
pub mod site;
pub mod world;
pub mod writer;

pub use configuration::{Configuration, Outcome, STEPS_MAX, Size};
pub use rule::{Rule, Rules};
pub use world::{Action, World};
