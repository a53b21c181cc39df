//! Every bound of this crate, with its unit and the reason for it.

/// Longest id of a state, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 1_024;
/// Longest name of a collection, in bytes of UTF-8.
pub const COLLECTION_BYTES_MAX: usize = 255;
/// Largest value in its canonical form, in bytes. What is larger belongs in a file.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Deepest nesting of arrays and objects in a value. Bounds recursion, here and in readers.
pub const VALUE_DEPTH_MAX: usize = 64;
/// Most fields of a value of which it is recorded who wrote them.
pub const FIELDS_MAX: usize = 65_536;

/// Highest sequence number of a node: at a million events a second it is reached in nine years.
/// What is higher in a clock from outside is damage or malice.
pub const SEQUENCE_MAX: u64 = 1 << 48;
/// Most nodes that one clock may name.
pub const CLOCK_NODES_MAX: usize = 65_536;
/// Most events in one batch, which is what becomes durable at once.
pub const BATCH_EVENTS_MAX: usize = 1 << 20;
/// Largest batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A delta gets no further batch once it has this many bytes before compression. Whoever takes it
/// asks again.
pub const DELTA_BYTES_TARGET: usize = 64 * 1024 * 1024;
/// Largest delta, in bytes before compression: the target, one more batch, and what is around them.
pub const DELTA_BYTES_MAX: usize = DELTA_BYTES_TARGET + BATCH_BYTES_MAX + 16 * 1024 * 1024;
/// Largest snapshot, in bytes before compression.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// What is at least this long is compressed, in bytes; anything shorter gains nothing from it.
pub const COMPRESS_BYTES_MIN: usize = 512;
/// Largest message from another node, in bytes as sent.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// A segment of a log that is carried is closed at this many bytes.
pub const CARRIED_SEGMENT_BYTES: u64 = 1024 * 1024;
/// Largest such segment that is read, in bytes: one batch more, and what is around it.
pub const CARRIED_SEGMENT_BYTES_MAX: u64 =
    CARRIED_SEGMENT_BYTES + BATCH_BYTES_MAX as u64 + 1024 * 1024;
/// A snapshot takes the place of a log that is carried when this is this long, in bytes, and longer
/// than the snapshot before: so all snapshots together carry no more than the log did.
pub const CARRIED_LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest head, in bytes: 65,536 nodes, 4,096 collections with long names, and some room.
pub const HEAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most collections that one head may name.
pub const HEAD_COLLECTIONS_MAX: usize = 4_096;
/// Most nodes that never wrote anything and whose heads are remembered all the same.
pub const READERS_MAX: usize = 1_024;
/// Most keys that may be known to be superseded before what is superseded has arrived.
pub const PENDING_MAX: usize = 1 << 20;

/// How far the hybrid clock follows a clock that is ahead of this machine's, in milliseconds.
pub const CLOCK_FOLLOW_MS_MAX: u64 = 60 * 1000;
/// An event dated further ahead than this, in milliseconds, is taken and reported.
pub const CLOCK_AHEAD_MS_MAX: u64 = 5 * 60 * 1000;

/// A log segment is closed at this many bytes.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// A snapshot is due when the log since the last one is this long, in bytes, and as long as that
/// snapshot: so all snapshots together write less than the log does, twice over.
pub const SNAPSHOT_DUE_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// History that is kept behind the snapshot, in bytes of log.
pub const HISTORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Events that wait for one subscriber; past it the oldest are dropped and counted.
pub const EVENTS_WAITING_MAX: usize = 4_096;

const _: () = assert!(VALUE_BYTES_MAX < BATCH_BYTES_MAX);
