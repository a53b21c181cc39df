//! The repository over real stores: what it promises, what it costs, and what damage does to it.

mod append;
mod damage;
mod golden;
mod history;
mod requests;
mod scene;
mod stores;
