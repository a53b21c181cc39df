//! The repository over real stores: what it promises, what it costs, and what damage does to it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests, helpers included: failing is what a panic is for"
)]

mod append;
mod collect;
mod collected;
mod damage;
mod drill;
mod golden;
mod history;
mod moved;
mod overtaken;
mod replicate;
mod requests;
mod rounds;
mod scene;
mod stores;
mod switch;
mod verify;
mod world;
