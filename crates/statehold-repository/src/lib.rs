//! What is in the store: an append-only log of numbered records, immutable packs of content and
//! immutable trees. Nothing is overwritten; the only act of concurrency control is *create this
//! object if it does not exist yet*.
//!
//! Reading order:
//!
//! 1. [`layout`]: every object key, built and parsed here only.
//! 2. [`mod@format`]: the bytes of each object kind.
//! 3. [`store`]: the few operations that a repository needs from an object store, with retries that
//!    know which answers are ambiguous; [`meter`] counts them. A [`location`] names a store, and
//!    [`probe`] finds out what it can be trusted with.
//! 4. [`content`]: new content on its way in: inline, or in packs; [`batches`]: how much of it is read
//!    at once on its way out.
//! 5. [`repository`]: a repository in a store: reading records, appending, checkpoints.
//! 6. [`remote`]: the seam. A client's engine runs over [`remote::Remote`], which a repository
//!    implements directly and a gateway's client over HTTP. [`follow`]: a state that moves along a log.
//!    [`whereabouts`]: content that a collector moves while it is read.
//! 7. [`wire`]: what crosses the network between a client and a gateway.
//! 8. [`verify`]: whether all of it is what it should be, and bringing it back where it is not.
//! 9. [`replicate`]: a copy of a repository in another store that is one at every moment.
//! 10. [`drill`]: whether it can be restored, tried out.
//! 11. [`collect`]: letting points go, and deleting what nothing needs any more.
//! 12. [`switch`]: going on with the copy. [`bring_over`]: what the first store has beyond it.
//! 13. [`error`]: what can go wrong, and what to do about it.
//!
//! # Invariants
//!
//! - Objects are written once. Nothing deletes one but [`collect::removal`], and the probe what it wrote
//!   itself; nothing overwrites one but repair, which puts a proven object in the place of a damaged one, and
//!   removal, which leaves a retired record its envelope.
//! - Content is durable before the record that names it is created.
//! - An ambiguous answer is never taken for a refusal: the same bytes are sent to the same key until
//!   it exists, and the writer's nonce says whose record stands there.

pub mod batches;
pub mod bring_over;
pub mod collect;
pub mod content;
pub mod credentials;
pub mod drill;
pub mod error;
mod folder_store;
pub mod follow;
pub mod format;
pub mod layout;
pub mod lease;
pub mod location;
pub mod meter;
pub mod probe;
mod ranges;
pub mod remote;
pub mod replicate;
pub mod repository;
pub mod store;
pub mod store_clock;
pub mod switch;
pub mod verify;
pub mod whereabouts;
pub mod wire;

pub use error::{Error, Result};
pub use remote::Remote;
pub use repository::Repository;
pub use whereabouts::Whereabouts;
