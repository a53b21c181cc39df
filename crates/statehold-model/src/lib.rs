//! The protocol of the log, as a model that a checker explores.
#![allow(dead_code)]

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

pub use configuration::{Configuration, Outcome, Size};
pub use rule::{Rule, Rules};
pub use world::{Action, World};
