//! The engine on real folders, over a repository in memory.

mod engine;
mod secrets;
