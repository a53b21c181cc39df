//! The engine on real folders, over a repository in memory.

#[cfg(test)]
mod engine;
