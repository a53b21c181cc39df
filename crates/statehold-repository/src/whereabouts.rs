//! Where the content of one state lies, also while a collector moves it.
//!
//! A listing says where each piece of content lay when it was read. A compaction may have moved it since, and a
//! removal deleted it there. Who finds nothing at a place therefore looks again: the same state, read
//! anew, says where its content lies now, and reading goes on from there. Only what is not found
//! there either is missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use statehold_core::collection::Moves;
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, Entry, FileEntry, Location};
use statehold_core::limits::LOOKS_MAX;
use statehold_core::point::Point;
use statehold_core::record::{Body, Kind, RecordRef};
use statehold_core::state::State;
use tokio::sync::{Mutex, Semaphore};

use crate::error::{Error, Result};
use crate::layout;
use crate::remote::{Remote, load_at, object_of};

/// Where the content of a state lies, as far as that is known. Many may read by it at once; one of them
/// looks again for all. After a look it takes about 100 bytes for each piece of content.
#[derive(Debug)]
pub struct Whereabouts {
    /// The record whose state it is.
    of: RecordRef,
    /// What it is asked for; everything of the state if that isn't said.
    wanted: Option<HashSet<Digest>>,
    /// Each look holds a whole listing in memory, so few are at once where many read.
    permits: Option<Arc<Semaphore>>,
    found: Mutex<Found>,
}

/// What the looks so far have shown.
#[derive(Debug, Default)]
struct Found {
    /// Where content lies, by the newest look.
    places: HashMap<Digest, Location>,
    /// The newest record at that look, or one not long before it; `None` before the first.
    newest: Option<u64>,
    /// How many there were.
    looks: u64,
}

impl Whereabouts {
    /// Of everything in the state at a record.
    pub fn of(record: RecordRef) -> Self {
        Self {
            of: record,
            wanted: None,
            permits: None,
            found: Mutex::default(),
        }
    }

    /// Of one file in the state at a record. Looks wait for one of these permits.
    pub fn of_file(record: RecordRef, file: &FileEntry, permits: Arc<Semaphore>) -> Self {
        let wanted = file.chunks.iter().map(|chunk| chunk.digest).collect();
        Self {
            wanted: Some(wanted),
            permits: Some(permits),
            ..Self::of(record)
        }
    }

    /// The stored frames of these chunks, in the same order: by where the listing says that they lie, or by
    /// where they lie now. The caller bounds their total. It looks again at most [`LOOKS_MAX`] times, and only
    /// where somebody has collected since.
    ///
    /// [`Error::NotFound`] and [`Error::Damaged`] mean that the content is not where it should be now
    /// either, [`Error::Expired`] that the state was let go meanwhile.
    pub async fn read(&self, remote: &dyn Remote, chunks: &[Chunk]) -> Result<Vec<Bytes>> {
        let (mut places, mut looks) = self.places(chunks).await;
        for _ in 0..LOOKS_MAX {
            // What was purged lies nowhere, and no look finds it.
            places
                .iter()
                .try_for_each(|place| object_of(place).map(drop))?;
            let error = match remote.read(&places).await {
                Err(error @ (Error::NotFound { .. } | Error::Damaged { .. })) => error,
                read => return read,
            };
            if !self.look(remote, looks).await? {
                return Err(error);
            }
            let before = std::mem::take(&mut places);
            (places, looks) = self.places(chunks).await;
            if places == before {
                return Err(error);
            }
            tracing::info!(%error, record = self.of.number, "content was moved meanwhile; going on");
        }
        remote.read(&places).await
    }

    /// Where a chunk lies, as far as is known by now.
    pub(crate) async fn place(&self, chunk: &Chunk) -> Location {
        let found = self.found.lock().await;
        found.places.get(&chunk.digest).copied().unwrap_or(chunk.at)
    }

    /// Where chunks lie, and by how many looks that is known.
    async fn places(&self, chunks: &[Chunk]) -> (Vec<Location>, u64) {
        let found = self.found.lock().await;
        let place = |chunk: &Chunk| found.places.get(&chunk.digest).copied();
        let places = chunks
            .iter()
            .map(|chunk| place(chunk).unwrap_or(chunk.at))
            .collect();
        (places, found.looks)
    }

    /// Reads the state anew, unless somebody has done so since `looks`. Says whether more is known now.
    async fn look(&self, remote: &dyn Remote, looks: u64) -> Result<bool> {
        let mut found = self.found.lock().await;
        if found.looks > looks {
            return Ok(true);
        }
        if !found.is_behind(remote).await? {
            return Ok(false);
        }
        let _permit = match &self.permits {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        let state = match load_at(remote, Point::Record(self.of.number)).await {
            Ok(state) if state.head == self.of => state,
            // Another log stands there now, or its listing is damaged as well: no more is to be learned.
            Ok(_)
            | Err(
                Error::NotFound { .. }
                | Error::Damaged { .. }
                | Error::Refused { .. }
                | Error::Diverged { .. },
            ) => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_wanted = |chunk: &&Chunk| {
            let wanted = self.wanted.as_ref();
            wanted.is_none_or(|wanted| wanted.contains(&chunk.digest))
        };
        let files = state.tree.iter().filter_map(|(_, entry)| match entry {
            Entry::File(file) => Some(&file.chunks),
            Entry::Symlink { .. } | Entry::Directory => None,
        });
        let chunks = files.flatten().filter(is_wanted);
        found.places = chunks.map(|chunk| (chunk.digest, chunk.at)).collect();
        found.looks += 1;
        Ok(true)
    }
}

/// What the newest compaction of a state says of where content lies now.
pub(crate) async fn moves_at(remote: &dyn Remote, state: &State) -> Result<Moves> {
    let number = state.collection.compacted;
    let Some(before) = number.checked_sub(1) else {
        return Ok(Moves::default());
    };
    let mut records = remote.records_until(before, number).await?;
    match records.pop().map(|stored| stored.record.body) {
        Some(Body::Compact(compact)) => Ok(compact.moves),
        _ => {
            let reason = "it is not the compaction that it should be";
            Err(Error::damaged(layout::record(number), reason))
        }
    }
}

impl Found {
    /// Whether anybody may have collected since the newest look: one read when nothing is new, so that
    /// damage costs no more than that for each time it is met.
    async fn is_behind(&mut self, remote: &dyn Remote) -> Result<bool> {
        let Some(mut newest) = self.newest else {
            let opening = remote.open(Point::Newest).await?;
            let last = opening.batch.records.last();
            let last = last.map(|stored| stored.record.envelope.number);
            let checkpoint = opening.checkpoint.as_ref();
            let checkpoint = checkpoint.map(|(checkpoint, _)| checkpoint.at.number);
            self.newest = Some(last.or(checkpoint).unwrap_or(0));
            return Ok(true);
        };
        let mut is_behind = false;
        loop {
            let batch = remote.records(newest).await?;
            for stored in &batch.records {
                let envelope = &stored.record.envelope;
                newest = envelope.number;
                is_behind |= matches!(
                    envelope.draft.kind,
                    Kind::Compact | Kind::Remove | Kind::Promote
                );
            }
            self.newest = Some(newest);
            if !batch.more {
                return Ok(is_behind);
            }
        }
    }
}
