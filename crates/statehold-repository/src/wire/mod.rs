//! What crosses the network between a client and a gateway. Both sides use these types, so neither
//! can drift away from the other.
//!
//! - [`frames`]: the stream that records, listings and content travel in.
//! - [`problem`]: errors, as `application/problem+json`, one code per [`crate::Error`] variant.
//! - [`key`]: the text form of access keys and invites.
//! - [`bodies`]: the JSON bodies of requests and answers.
//! - [`push`]: a push in one piece.
//! - [`version`]: which programs understand each other.

pub mod bodies;
pub mod frames;
pub mod key;
pub mod problem;
pub mod push;
pub mod version;

/// Media type of a frame stream.
pub const MEDIA_FRAMES: &str = "application/vnd.statehold.frames";
/// Media type of a draft.
pub const MEDIA_DRAFT: &str = "application/vnd.statehold.draft";
/// Media type of a pack.
pub const MEDIA_PACK: &str = "application/vnd.statehold.pack";
/// Media type of an error.
pub const MEDIA_PROBLEM: &str = "application/problem+json";

/// Media type of a stream of heads.
pub const MEDIA_HEADS: &str = "text/event-stream";
/// How often a stream of heads says something although nothing happened, in seconds. One that is
/// silent for much longer is dead.
pub const HEADS_PULSE_SECONDS: u64 = 5;
/// What an event of a stream of heads is called.
pub const HEADS_EVENT: &str = "head";

/// Names the repository meant, where a key reaches several: an id among the key's own.
pub const HEADER_REPOSITORY: &str = "x-statehold-repository";
/// The sender's version.
pub const HEADER_VERSION: &str = "x-statehold-version";
/// The record that an answer about a plain file speaks of.
pub const HEADER_RECORD: &str = "x-statehold-record";
/// With the value `1`, lets content through that looks like a secret.
pub const HEADER_ALLOW_SECRET: &str = "x-statehold-allow-secret";

/// Largest record that a gateway takes, in bytes as sent. Larger pushes put their content in packs.
pub const DRAFT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest JSON body, in bytes, the list of a batched read included.
pub const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest plain file that is taken in one request, in bytes before compression, where the path may
/// be large. The whole of it is in memory; a client sends larger ones in packs.
pub const FILE_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most stored bytes that one batched read may ask for.
pub const READ_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Largest push in one piece, in bytes as sent: packs, draft and what frames them.
pub const PUSH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most stored bytes of content that come along with the records of one pull.
pub const PULL_CONTENT_BYTES_MAX: u64 = 32 * 1024 * 1024;
