//! Every bound in the product, with its unit and the reason for it.
//!
//! Edges of user-visible sizes are decimal (the sources speak of KB and MB), internal ones binary.

/// Longest path inside a workspace, in bytes of UTF-8. Linux refuses longer ones in one call.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Longest single name in a path, in bytes. The limit of every common file system.
pub const PATH_NAME_BYTES_MAX: usize = 255;
/// Deepest nesting of a path, in names. Bounds recursion and open directory handles.
pub const PATH_DEPTH_MAX: usize = 128;
/// Longest target of a symbolic link, in bytes.
pub const SYMLINK_TARGET_BYTES_MAX: usize = 4_096;

/// Below this many bytes a file travels raw in profile `classic`.
pub const RAW_BYTES_BELOW: u64 = 100_000;
/// The largest ordinary file, in bytes, inclusive, measured before compression.
pub const FILE_BYTES_MAX: u64 = 10_000_000;
/// The largest file under `sources/` or of an append-only log named by the rules, in bytes.
pub const LARGE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// How much of a file is searched for secrets, in bytes from its beginning. Long transcripts are
/// searched whole; past this, a push would spend more time on searching than on sending.
pub const SECRET_SEARCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most findings that are listed for one file.
pub const SECRET_FINDINGS_MAX: usize = 16;

/// New content up to this many stored bytes rides inside the record, so that a push is one write.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;
/// A pack is closed when it reaches this many stored bytes.
pub const PACK_BYTES_TARGET: usize = 16 * 1024 * 1024;
/// A push of many files is cut into packs of at least this many stored bytes, so that the first is
/// sent while further files are read.
pub const PACK_BYTES_EARLY: usize = 4 * 1024 * 1024;
/// How many packs such a push is cut into, as long as none has to be over its target: with the record
/// that is four writes.
pub const PACKS_EARLY: u64 = 3;
/// Reading this many files takes longer than a request, so that sending meanwhile is worth some more of
/// them.
pub const EARLY_FILES_MIN: usize = 1_000;
/// A larger pack is refused, in stored bytes. One chunk above the target fits.
pub const PACK_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Files up to this many bytes are one chunk.
pub const CHUNK_WHOLE_FILE_BYTES_MAX: u64 = 512 * 1024;
/// Smallest chunk of a file cut by content, in bytes.
pub const CHUNK_BYTES_MIN: usize = 256 * 1024;
/// Average chunk of a file cut by content, in bytes.
pub const CHUNK_BYTES_AVERAGE: usize = 1024 * 1024;
/// Largest chunk, in bytes before compression; also the bound on what one frame may expand to.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most chunks in one file.
pub const FILE_CHUNKS_MAX: usize = 1 << 20;

/// Largest record body, in bytes before compression: about a million and a half files in one push.
pub const BODY_RAW_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Largest record object, in stored bytes.
pub const RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest envelope, in bytes before compression: 100,000 pack ids and some room.
pub const ENVELOPE_RAW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest draft, in stored bytes: leaves room for the envelope it gets, so that no draft becomes a
/// record that nobody can read.
pub const DRAFT_BYTES_MAX: usize = RECORD_BYTES_MAX - 2 * ENVELOPE_RAW_BYTES_MAX;
/// Largest head of a draft, in bytes before compression: an envelope without number, parent, time
/// and key, which take less than 512.
pub const DRAFT_HEAD_RAW_BYTES_MAX: usize = ENVELOPE_RAW_BYTES_MAX - 512;
/// Largest checkpoint, in bytes before compression.
pub const CHECKPOINT_RAW_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest listing page of a tree, in bytes before compression.
pub const PAGE_RAW_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest table of a container object (pack, tree, segment), in bytes before compression.
pub const TABLE_RAW_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest label of a snapshot, in characters: with its time a file name on every system.
pub const LABEL_CHARS_MAX: usize = 64;
/// Most snapshots that a repository has at once.
pub const SNAPSHOTS_MAX: usize = 10_000;
/// Most copies elsewhere that a repository knows of.
pub const BACKUPS_MAX: usize = 64;
/// Most snapshots that one record takes away.
pub const FORGOTTEN_MAX: usize = 10_000;
/// How often a log may go on from another store. Each time is a record's name in every state.
pub const EPOCHS_MAX: u64 = 1_000;

/// How long points are kept unless the owner decides otherwise, in days.
pub const RETENTION_DAYS: u32 = 30;
/// Nothing is deleted, and no point expires by count, before this many days have passed.
pub const RETENTION_FLOOR_DAYS: u32 = 7;
/// What no record knows may be an upload under way for this many hours.
pub const UPLOAD_HOURS_MAX: u32 = 24;
/// What a record holds may be an upload under way for so many hours after that record: a machine may be switched
/// off over some days, and need not send again what it has sent.
pub const HOLD_HOURS_MAX: u32 = 7 * 24;
/// An upload that has lasted for so many hours holds its packs, and once more after as many: long before
/// anybody takes them for garbage.
pub const HOLD_HOURS: u32 = 6;
/// With fewer points than this, no expiry needs approval.
pub const APPROVAL_POINTS_MIN: usize = 20;
/// Most packs that one record condemns, removes or holds.
pub const COLLECTED_PACKS_MAX: usize = 100_000;
/// Most frames that the moves of one record name: about 24 bytes each in memory and in its body.
pub const MOVES_MAX: usize = 4_000_000;
/// Most listings that stand in for retired records.
pub const LISTINGS_MAX: usize = 100_000;

/// Records per segment; segments are aligned to this.
pub const SEGMENT_RECORDS: u64 = 16;
/// A larger segment is not written, in stored bytes: its records are read one by one.
pub const SEGMENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A checkpoint is due after this many records at the latest.
pub const CHECKPOINT_RECORDS_MAX: u64 = 64;
/// A checkpoint is never due before this many records: it keeps segments and checkpoints together
/// within one extra write per eight pushes (1/16 for segments, 2/32 for tree and checkpoint).
pub const CHECKPOINT_RECORDS_MIN: u64 = 32;
/// A tree's pages lie in at most this many objects; past it, the tree is written anew. Loading a
/// state takes at most 24 requests: the description, two listings, the checkpoint, these objects,
/// and for 63 records 3 segments and 15 single ones.
pub const TREE_OBJECTS_MAX: usize = 2;
/// Entries per listing page on average; page borders depend on paths alone, so pages are shared.
pub const PAGE_ENTRIES_AVERAGE: u16 = 1_024;
/// Most entries in one listing page.
pub const PAGE_ENTRIES_MAX: usize = 4_096;

/// Whoever is more records behind than this begins with a checkpoint instead of reading them: those up to it are
/// fewer reads than a checkpoint, its listing and what follows it.
pub const FAR_BEHIND_RECORDS: usize = 64;
/// Stored bytes that one answer of the log may hold before the reader asks again.
pub const LOG_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Most records that are asked for by their numbers at once.
pub const LOG_RANGE_RECORDS_MAX: u64 = 64;
/// How often a reader looks again for content that collectors move while it reads, for each batch of it. One
/// is enough unless several collect without a pause.
pub const LOOKS_MAX: u32 = 4;
/// Most ranges in one batched read.
pub const READ_RANGES_MAX: usize = 16_384;
/// Ranges closer than this many bytes are fetched as one.
pub const RANGE_GAP_BYTES_MAX: u64 = 256 * 1024;

/// Nobody appends whose clock is ahead of the store's by more than this, in milliseconds: time in
/// records never goes back, so every later one would have to keep what that clock said.
pub const CLOCK_AHEAD_MS_MAX: i64 = 5 * 60 * 1000;

/// How often a lost race is rebased before the appender gives up and says so.
pub const APPEND_RACES_MAX: u32 = 64;
/// How often an ambiguous store answer is tried again, with backoff, before it is reported.
pub const STORE_ATTEMPTS_MAX: u32 = 8;
/// First wait between store attempts, in milliseconds; doubled each time.
pub const STORE_BACKOFF_MS_MIN: u64 = 50;
/// Longest wait between store attempts, in milliseconds.
pub const STORE_BACKOFF_MS_MAX: u64 = 5_000;
/// How long a cloud may take to answer, in seconds, besides the time for the bytes themselves.
pub const STORE_PATIENCE_SECONDS: u64 = 30;
/// The slowest connection on which transfers are not given up, in bytes per second.
pub const STORE_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// How many writers race for one object when a store is probed. More than a burst of clients, and
/// enough for a server that checks before it writes to let two through.
pub const PROBE_WRITERS: usize = 32;
/// Races held at least, however slow the store is.
pub const PROBE_ROUNDS_MIN: usize = 8;
/// Races held at most.
pub const PROBE_ROUNDS_MAX: usize = 40;
/// After this many seconds of races no further one begins.
pub const PROBE_RACE_SECONDS: u64 = 3;
/// A probe that takes longer than this, in seconds, is given up.
pub const PROBE_SECONDS_MAX: u64 = 90;
/// What a folder store was writing for longer than this, in seconds, nobody is writing any more.
pub const STAGING_SECONDS: u64 = 24 * 60 * 60;

/// A debounced call within this many seconds of the last one ends silently.
pub const DEBOUNCE_SECONDS: u64 = 60;
/// The event log is rotated at this many bytes.
pub const EVENT_LOG_BYTES_MAX: u64 = 10_000_000;
/// Rotated event logs that are kept.
pub const EVENT_LOGS_KEPT: usize = 5;

// Relations that the code relies on, checked where the numbers stand.
const _: () =
    assert!(CHUNK_BYTES_MIN < CHUNK_BYTES_AVERAGE && CHUNK_BYTES_AVERAGE < CHUNK_BYTES_MAX);
const _: () = assert!(2 * HOLD_HOURS <= UPLOAD_HOURS_MAX && UPLOAD_HOURS_MAX <= HOLD_HOURS_MAX);
const _: () = assert!(HOLD_HOURS_MAX.is_multiple_of(UPLOAD_HOURS_MAX));
const _: () = assert!(PACK_BYTES_TARGET + CHUNK_BYTES_MAX + (1 << 20) < PACK_BYTES_MAX);
const _: () = assert!(CHECKPOINT_RECORDS_MIN <= CHECKPOINT_RECORDS_MAX);
const _: () = assert!(CHECKPOINT_RECORDS_MAX.is_multiple_of(SEGMENT_RECORDS));
const _: () = assert!(INLINE_BYTES_MAX < RECORD_BYTES_MAX);
