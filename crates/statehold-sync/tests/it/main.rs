//! The engine on real folders, over a repository in memory.

mod bandwidth;
mod engine;
mod secrets;
