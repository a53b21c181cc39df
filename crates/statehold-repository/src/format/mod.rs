//! The bytes of each object kind. `docs/format.md` is the same in prose.
//!
//! Everything is zstd frames. An object begins with a skippable frame that says what it is, so
//! `zstd -d` prints any object's content and offsets in listings are plain file offsets.

pub mod checkpoint;
pub mod complete;
pub mod container;
pub mod description;
pub mod epoch;
pub mod frame;
pub mod header;
pub mod record;
pub mod segment;
pub mod tree;
