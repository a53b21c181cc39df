//! Which files' content is read in one go: in the order in which it lies in the store, so that reads are
//! few and long, and so little at once that it fits into memory.

use statehold_core::entry::{Chunk, ContentObject, FileEntry};
use statehold_core::limits::PACK_BYTES_TARGET;

/// Stored bytes of files that are read in one go, unless they lie in one pack.
pub const BATCH_BYTES: u64 = PACK_BYTES_TARGET as u64;
/// Stored bytes up to which a file is read together with others, and a batch of one pack goes on.
pub const TOGETHER_BYTES_MAX: u64 = 2 * BATCH_BYTES;
/// Chunks of a larger file that are read in one go.
pub const CHUNKS_AT_ONCE: usize = 8;

/// Files to be read in one go.
pub type Batch<'f> = Vec<&'f FileEntry>;

/// Stored bytes of a file.
pub fn stored_bytes(file: &FileEntry) -> u64 {
    file.chunks
        .iter()
        .map(|chunk| u64::from(chunk.at.stored))
        .sum()
}

/// Stored bytes of all batches.
pub fn stored_bytes_of(batches: &[Batch<'_>]) -> u64 {
    batches
        .iter()
        .flatten()
        .map(|file| stored_bytes(file))
        .sum()
}

/// Puts files into batches. A file of more than [`TOGETHER_BYTES_MAX`] is to be read by
/// [`CHUNKS_AT_ONCE`], whatever batch it is in.
pub fn batches(mut files: Vec<&FileEntry>) -> Vec<Batch<'_>> {
    files.sort_by_key(|file| file.chunks.first().map(place_of));
    let mut batches = Vec::new();
    let mut batch = Batch::new();
    let (mut bytes, mut object) = (0, None);
    for file in files {
        let next = file.chunks.first().and_then(|chunk| chunk.at.object);
        let is_full = bytes + stored_bytes(file) > BATCH_BYTES;
        // A pack is read in one go even if it is a little over the target.
        if is_full && (next != object || bytes > TOGETHER_BYTES_MAX) && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        object = next;
        bytes += stored_bytes(file);
        batch.push(file);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn place_of(chunk: &Chunk) -> (Option<ContentObject>, u64) {
    (chunk.at.object, chunk.at.offset)
}
