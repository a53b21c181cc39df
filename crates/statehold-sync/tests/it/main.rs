//! The engine on real folders, over a repository in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod engine;
