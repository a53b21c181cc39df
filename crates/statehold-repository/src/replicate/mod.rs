//! A copy of a repository in another store: another region, another cloud, a folder.
//!
//! The log is followed, never a listing: envelopes name the packs that came with them. Packs are
//! copied before the record that names them, and records one after the other, so the copy is a valid
//! repository at every moment; trees come before the checkpoints that name them. Then a mark says
//! that everything up to a record is there ([`layout::complete`]), and the next run begins behind it.
//!
//! Nothing is overwritten. What stands there already has to be the same, so a run that was killed is
//! simply done again, and two may go on at once. Whatever is copied is checked first, so that damage
//! is named and not passed on: the copy stays at the last good record.

mod collected;
pub mod plan;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce, TreeId};
use statehold_core::limits::{BACKUPS_MAX, INLINE_BYTES_MAX};
use statehold_core::record::{BackupBody, Body, DraftHead, Kind, NewPack, RecordRef};
use statehold_core::state::State;
use tokio::sync::{OnceCell, Semaphore};

use crate::content::read_pack;
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::format::{complete, segment, tree};
use crate::layout;
use crate::remote::{Batch, Remote as _, load};
use crate::repository::Repository;
use crate::store::{Creation, Store};

use collected::Collected;
use plan::{
    CACHES_BACK, Row, RowNeed, check_follows, crosses_segment, is_news, packs_of, row_need, same,
    segments,
};

/// Packs and caches under way at once, over all repositories of a replicator: each is in memory.
const TRANSFERS_MAX: usize = 8;
/// Records whose packs are fetched ahead of the one that is written.
const AHEAD: usize = 16;

/// Sees what is copied, and may slow it down.
#[async_trait]
pub trait Watch: Send + Sync + fmt::Debug {
    /// So many bytes more are known to be on their way.
    fn found(&self, _bytes: u64) {}
    /// Waits until so many bytes may move.
    async fn pace(&self, _bytes: u64) {}
    /// So many bytes have arrived.
    fn copied(&self, _bytes: u64) {}
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Copied {
    /// The record that the replica was complete up to before; `None` where there was no replica.
    pub before: Option<RecordRef>,
    /// The record that the replica is complete up to now; `None` where the source has no repository.
    pub at: Option<RecordRef>,
    /// Records written.
    pub records: u64,
    /// Those of them that say more than that something was copied.
    pub news: u64,
    /// Packs written.
    pub packs: u64,
    /// Objects written, of all kinds.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments, checkpoints and trees that are of no use and were left out, with the reason. The
    /// log is complete without them.
    pub passed_over: Vec<String>,
    /// Why the run ended before the end of the source's log, if it did.
    pub stopped: Option<Error>,
    /// The source's newest record, where it was read to see that nothing is new.
    newest: Option<StoredRecord>,
}

/// Copies repositories.
#[derive(Debug)]
pub struct Replicator {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    watch: Arc<dyn Watch>,
    machine: MachineId,
    transfers: Semaphore,
}

impl Replicator {
    /// A replicator that is watched.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, watch: Arc<dyn Watch>) -> Self {
        let machine = MachineId::random(&*entropy);
        Self {
            clock,
            entropy,
            watch,
            machine,
            transfers: Semaphore::new(TRANSFERS_MAX),
        }
    }

    /// Brings the replica in `to` up to the end of the log in `from`, or up to record `until`.
    /// `known` spares the look at the newest mark: where this process left it complete.
    pub async fn copy(
        &self,
        from: &Store,
        to: &Store,
        known: Option<RecordRef>,
        until: Option<u64>,
    ) -> Copied {
        let mut run = Run {
            by: self,
            from,
            to,
            copied: Copied::default(),
            collected: Collected::default(),
        };
        if let Err(error) = run.go(known, until.unwrap_or(u64::MAX)).await {
            run.copied.stopped = Some(error);
        }
        run.copied
    }

    /// Leaves a row in the source's log that says what a run did, if one is due, and gives the record
    /// that it became. A run that stopped early leaves none, so that it is seen to be overdue.
    pub async fn leave_row(
        &self,
        from: &Store,
        row: &Row,
        copied: &Copied,
    ) -> Result<Option<RecordRef>> {
        let (Some(at), None) = (copied.at, &copied.stopped) else {
            return Ok(None);
        };
        if at.number == 0 || (copied.news == 0 && !self.is_row_due(from, at, row, copied).await?) {
            return Ok(None);
        }
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let repository = Repository::open_existing(from.clone(), clock, entropy).await?;
        let repository = repository.ok_or_else(|| Error::NotFound {
            object: layout::REPOSITORY.into(),
        })?;
        let loaded = load(&repository).await?;
        // A log that was ended takes no row, and needs none; a copy would part from where it comes from.
        if loaded.state.fenced.is_some() || !repository.is_opened_here(&loaded.state).await? {
            return Ok(None);
        }
        let nonce = Nonce::random(&*self.entropy);
        let head = DraftHead::new(Kind::Backup, self.machine, nonce, Vec::new());
        let body = Body::Backup(BackupBody {
            base: loaded.state.head,
            label: row.label.clone(),
            to: row.to.clone(),
            at: at.number,
            objects: copied.objects,
            bytes: copied.bytes,
        });
        let draft = StoredDraft::new(head, body, &[])?;
        let (stored, state) = repository.append_as(&draft, &loaded.state, None).await?;
        // The row stands; what is due beside it is a cache.
        for due in loaded.overdue.into_iter().chain([state]) {
            if let Err(error) = repository.tend(&due).await {
                tracing::warn!(%error, "a segment or checkpoint could not be written");
            }
        }
        Ok(Some(stored.record.reference()))
    }

    /// Whether a row is due although nothing new was copied: the run before may have died before it
    /// left one, or the newest one may be old.
    async fn is_row_due(
        &self,
        from: &Store,
        at: RecordRef,
        row: &Row,
        copied: &Copied,
    ) -> Result<bool> {
        let now = self.clock.now();
        let oldest = at.number.saturating_sub(BACKUPS_MAX as u64);
        for number in (oldest + 1..=at.number).rev() {
            let is_known = |stored: &&StoredRecord| stored.record.envelope.number == number;
            let stored = match copied.newest.as_ref().filter(is_known) {
                Some(newest) => newest.clone(),
                None => read_record(from, number).await?,
            };
            match row_need(&stored.record, row, now) {
                RowNeed::Due => return Ok(true),
                RowNeed::NotDue => return Ok(false),
                RowNeed::LookFurther => {}
            }
        }
        Ok(true)
    }
}

/// A record that has to be there.
async fn read_record(store: &Store, number: u64) -> Result<StoredRecord> {
    let key = layout::record(number);
    match store.read(&key).await? {
        Some(bytes) => StoredRecord::read(number, bytes),
        None => Err(Error::NotFound { object: key }),
    }
}

/// Completes a replica in which a replicator died, as far as it goes without the source: what came and was not marked
/// is read back, and marked.
pub(crate) async fn complete(replica: &Repository) -> Copied {
    let (clock, entropy) = replica.surroundings();
    let replicator = Replicator::new(clock, entropy, Arc::new(Unwatched));
    let store = replica.store();
    replicator.copy(store, store, None, None).await
}

/// How far a replica is complete: one listing and one read. `None` where nothing was finished yet.
pub async fn position(replica: &Store) -> Result<Option<RecordRef>> {
    let keys = replica
        .list_first(layout::COMPLETE, layout::COMPLETE)
        .await?;
    for key in keys {
        let Some(number) = layout::parse_complete(&key) else {
            continue;
        };
        let Some(bytes) = replica.read(&key).await? else {
            continue;
        };
        match complete::read(&key, number, &bytes) {
            Ok(at) => return Ok(Some(at)),
            // An older one is true as well; what follows it is compared again.
            Err(error) => tracing::warn!(%error, "a mark cannot be used; taking an older one"),
        }
    }
    Ok(None)
}

/// What stood where something was to be written.
enum Stood {
    /// Nothing; it was written.
    New,
    /// The same.
    Same,
    /// Something else.
    Other(Bytes),
}

struct Run<'a> {
    by: &'a Replicator,
    from: &'a Store,
    to: &'a Store,
    copied: Copied,
    collected: Collected,
}

impl Run<'_> {
    async fn go(&mut self, known: Option<RecordRef>, until: u64) -> Result<()> {
        let known = match known {
            Some(known) => Some(known),
            None => position(self.to).await?,
        };
        (self.copied.before, self.copied.at) = (known, known);
        if let Some(at) = known
            && (at.number >= until || self.is_unchanged(at).await?)
        {
            return Ok(());
        }
        let (clock, entropy) = (Arc::clone(&self.by.clock), Arc::clone(&self.by.entropy));
        let source = Repository::open_existing(self.from.clone(), clock, entropy).await?;
        let Some(source) = source else {
            return match known {
                None => Ok(()),
                Some(_) => Err(Error::NotFound {
                    object: layout::REPOSITORY.into(),
                }),
            };
        };
        let mut at = match known {
            Some(at) => at,
            None => self.begin(&source).await?,
        };
        // What is wrong somewhere further on, while the records before it are taken one by one.
        let mut ahead = None;
        loop {
            let batch = next_batch(&source, at.number, &mut ahead).await?;
            let records: Vec<_> = batch
                .records
                .into_iter()
                .take_while(|stored| stored.record.envelope.number <= until)
                .collect();
            let more = batch.more && records.len() as u64 + at.number < until;
            let before = at;
            let copied = self.copy_records(&source, &mut at, records).await;
            if at != before {
                // What is there is marked, whatever stopped the rest.
                if crosses_segment(before.number, at.number) {
                    self.copy_caches(&source, before.number, at.number).await?;
                }
                if self.is_whole(&source, at).await? {
                    self.mark(at).await?;
                }
                // What was sent just now stands behind the mark that the run began with.
                if let Some(mark) = known {
                    self.tidy(mark, before, at).await;
                }
            }
            copied?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether the source still ends at the record that the replica ends at.
    async fn is_unchanged(&mut self, at: RecordRef) -> Result<bool> {
        // A listing, since it shows a record that is lost while later ones are there.
        let own = layout::record(at.number);
        let later = self.from.list_first(layout::LOG, &own).await?;
        let mut later = later.iter().filter_map(|key| layout::parse_record(key));
        match later.find(|number| *number > at.number) {
            None => {}
            Some(next) if next == at.number + 1 => return Ok(false),
            Some(_) => {
                let object = layout::record(at.number + 1);
                return Err(Error::NotFound { object });
            }
        }
        let set_back = |object: String| {
            let reason = "the replica holds it and the source does not; the source seems to have \
                          been set back to an older copy, or emptied";
            Error::damaged(object, reason)
        };
        let in_source = if at.number == 0 {
            let found = self.from.read(layout::REPOSITORY).await?;
            Digest::of(&found.ok_or_else(|| set_back(layout::REPOSITORY.into()))?)
        } else {
            let stored = read_record(self.from, at.number).await;
            let stored = stored.map_err(|error| match error {
                Error::NotFound { object } => set_back(object),
                error => error,
            })?;
            let id = stored.record.id;
            self.copied.newest = Some(stored);
            id
        };
        same(at, in_source).map(|()| true)
    }

    /// Makes the replica: its description, and the mark that nothing is missing before record 1.
    async fn begin(&mut self, source: &Repository) -> Result<RecordRef> {
        let description = source.stored_description().clone();
        if let Stood::Other(_) = self.put(layout::REPOSITORY, description).await? {
            return Err(Error::refused(
                "the place to copy to holds another repository; choose an empty prefix, or the \
                 replica of this one",
            ));
        }
        let genesis = RecordRef {
            number: 0,
            id: source.description().1,
        };
        self.mark(genesis).await?;
        Ok(genesis)
    }

    /// Copies records in order, each after its packs, and keeps `at` at the last that is there.
    async fn copy_records(
        &mut self,
        source: &Repository,
        at: &mut RecordRef,
        records: Vec<StoredRecord>,
    ) -> Result<()> {
        let (by, from, to) = (self.by, self.from, self.to);
        let newest = Arc::clone(&self.collected.newest);
        let newest = &*newest;
        for stored in &records {
            let (_, pack_bytes) = packs_of(&stored.record);
            by.watch.found(stored.bytes.len() as u64 + pack_bytes);
        }
        let with_packs = |stored: StoredRecord| async move {
            let packs = copy_packs(by, (from, to), &stored, (source, newest)).await?;
            if stored.record.envelope.draft.content_bytes as usize <= INLINE_BYTES_MAX {
                stored.check_content()?;
                return Ok((stored, packs));
            }
            // More than rides in a push takes a processor for a while.
            let checked = tokio::task::spawn_blocking(move || {
                stored.check_content()?;
                Ok::<_, Error>(stored)
            });
            let stored = checked.await.map_err(|error| Error::Unavailable {
                what: "checking a record".into(),
                source: error.into(),
            })??;
            Ok::<_, Error>((stored, packs))
        };
        let mut ready = std::pin::pin!(stream::iter(records).map(with_packs).buffered(AHEAD));
        while let Some(next) = ready.next().await {
            let (stored, packs) = next?;
            check_follows(*at, &stored.record)?;
            for bytes in packs {
                self.copied.packs += 1;
                self.count(bytes);
            }
            let number = stored.record.envelope.number;
            let key = layout::record(number);
            let mut is_retired = stored.is_retired();
            match self.put(&key, stored.bytes.clone()).await? {
                Stood::New => {
                    self.copied.records += 1;
                }
                Stood::Same => {}
                Stood::Other(there) => match StoredRecord::read(number, there.clone()) {
                    // The same one, of which one side has the envelope alone.
                    Ok(other)
                        if other.record.id == stored.record.id
                            && other.is_retired() != is_retired =>
                    {
                        is_retired = other.is_retired();
                    }
                    _ => return Err(other_record(number, stored.record.id, there)),
                },
            }
            if is_retired {
                self.collected.retired.insert(number..=number);
            }
            self.collected.is_met |= is_retired || matches!(stored.record.body, Body::Remove(_));
            self.copied.news += u64::from(is_news(&stored.record));
            *at = stored.record.reference();
        }
        Ok(())
    }

    /// Copies the caches of a stretch of the log, as far as they are there and of use. What the last
    /// runs may have come too early for is looked for again.
    async fn copy_caches(&mut self, source: &Repository, before: u64, at: u64) -> Result<()> {
        let after = before.saturating_sub(CACHES_BACK);
        let from_key = format!("{}/{after:020}", layout::SEGMENTS);
        let there = self.to.list(layout::SEGMENTS, &from_key).await?;
        let there: BTreeSet<_> = there
            .iter()
            .filter_map(|key| layout::parse_segment(key))
            .collect();
        let missing = segments(after, at).filter(|segment| !there.contains(segment));
        let (by, store) = (self.by, self.from);
        let read = |(from, to): (u64, u64)| async move {
            let _turn = turn(by).await?;
            read_segment(source, store, from, to).await
        };
        let mut found = std::pin::pin!(stream::iter(missing).map(read).buffered(AHEAD));
        while let Some(next) = found.next().await {
            match next {
                Ok(None) => {}
                Ok(Some((key, bytes))) => self.put_cache(key, bytes).await?,
                Err(error) => self.pass_over(error)?,
            }
        }
        let there: BTreeSet<_> = checkpoints(self.to, after, at).await?.into_iter().collect();
        let wanted = checkpoints(self.from, after, at).await?;
        // The oldest first, so that newer ones find the pages that they share.
        for (number, key) in wanted.into_iter().rev() {
            if there.contains(&(number, key.clone())) {
                continue;
            }
            match self.read_checkpoint(source, number, &key).await {
                Ok(None) => {}
                Ok(Some((bytes, trees))) => {
                    for (id, bytes) in trees {
                        self.put_cache(layout::tree(id), bytes).await?;
                    }
                    self.put_cache(key, bytes).await?;
                }
                Err(error) => self.pass_over(error)?,
            }
        }
        // Seldom enough for a walk through a folder, often enough for it to stay clean.
        if let Err(error) = self.to.sweep(self.by.clock.now()).await {
            tracing::warn!(%error, "unfinished writes may have left something in the replica");
        }
        Ok(())
    }

    /// A checkpoint that matches the chain, with the tree that it names, read whole.
    async fn read_checkpoint(
        &self,
        source: &Repository,
        number: u64,
        key: &str,
    ) -> Result<Option<(Bytes, HashMap<TreeId, Bytes>)>> {
        let Some(bytes) = self.from.read(key).await? else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::read(key, &bytes)?;
        let own = source.record(number).await?.map(|stored| stored.record.id);
        if checkpoint.at.number != number || own != Some(checkpoint.at.id) {
            return Err(Error::damaged(key, "it does not match the log"));
        }
        let mut ids = vec![checkpoint.tree.id];
        ids.extend(&checkpoint.tree.others);
        let read = |id| async move {
            let key = layout::tree(id);
            let bytes = self.from.read(&key).await?;
            Ok::<_, Error>((id, bytes.ok_or(Error::NotFound { object: key })?))
        };
        let trees: HashMap<TreeId, Bytes> = stream::iter(ids)
            .map(read)
            .buffer_unordered(TRANSFERS_MAX)
            .try_collect()
            .await?;
        tree::read(&checkpoint.tree, &trees)?;
        Ok(Some((bytes, trees)))
    }

    /// Writes a cache. Another one in its place is as good as this one, unless it is damaged, and
    /// then readers pass it over.
    async fn put_cache(&mut self, key: String, bytes: Bytes) -> Result<()> {
        if let Stood::Other(_) = self.put(&key, bytes).await? {
            self.copied
                .passed_over
                .push(format!("{key}: another one stands in the replica"));
        }
        Ok(())
    }

    /// Goes on without a cache that is of no use; anything else ends the run.
    fn pass_over(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Damaged { .. } | Error::NotFound { .. } => {
                tracing::warn!(%error, "a cache is of no use and is not copied");
                self.copied.passed_over.push(error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Says that everything up to a record is there.
    async fn mark(&mut self, at: RecordRef) -> Result<()> {
        let key = layout::complete(at.number);
        match self.put(&key, complete::write(at)).await? {
            Stood::New | Stood::Same => {
                self.copied.at = Some(at);
                Ok(())
            }
            Stood::Other(there) => match complete::read(&key, at.number, &there) {
                Ok(there) => same(there, at.id),
                Err(_) => Err(in_replica(&key, "it is no mark")),
            },
        }
    }

    async fn put(&mut self, key: &str, bytes: Bytes) -> Result<Stood> {
        let len = bytes.len() as u64;
        let stood = put(self.by, self.to, key, bytes).await?;
        if let Stood::New = stood {
            self.count(len);
        }
        Ok(stood)
    }

    const fn count(&mut self, bytes: u64) {
        self.copied.objects += 1;
        self.copied.bytes += bytes;
    }
}

async fn put(by: &Replicator, to: &Store, key: &str, bytes: Bytes) -> Result<Stood> {
    let len = bytes.len() as u64;
    by.watch.pace(len).await;
    let stood = match to.create(key, bytes.clone()).await? {
        Creation::New => Stood::New,
        Creation::Exists => match to.read(key).await? {
            Some(there) if there == bytes => Stood::Same,
            Some(there) => Stood::Other(there),
            None => return Err(in_replica(key, "it is there and cannot be read")),
        },
    };
    by.watch.copied(len);
    Ok(stood)
}

fn in_replica(key: &str, reason: &str) -> Error {
    Error::damaged(format!("{key} in the replica"), reason)
}

/// What to say of a record that stands in the replica and isn't the source's.
fn other_record(number: u64, in_source: Digest, there: Bytes) -> Error {
    match StoredRecord::read(number, there) {
        Ok(there) if there.record.id != in_source => Error::Diverged {
            number,
            expected: in_source,
            found: there.record.id,
        },
        Ok(_) => in_replica(&layout::record(number), "its content is not the source's"),
        Err(error) => in_replica(&layout::record(number), &error.to_string()),
    }
}

async fn turn(by: &Replicator) -> Result<tokio::sync::SemaphorePermit<'_>> {
    by.transfers
        .acquire()
        .await
        .map_err(|error| Error::Unavailable {
            what: "a turn".into(),
            source: error.into(),
        })
}

/// The source's newest state.
async fn newest_of(source: &Repository) -> Result<Arc<State>> {
    Ok(load(source).await?.state)
}

/// Copies the packs that a record names first, but for those that were removed since or left behind, and gives
/// the lengths of those that were written.
async fn copy_packs(
    by: &Replicator,
    (from, to): (&Store, &Store),
    stored: &StoredRecord,
    (source, newest): (&Repository, &OnceCell<Arc<State>>),
) -> Result<Vec<u64>> {
    let (packs, _) = packs_of(&stored.record);
    let copy = |pack: NewPack| async move {
        let _turn = turn(by).await?;
        let key = layout::pack(pack.id);
        let Some(bytes) = from.read(&key).await? else {
            let newest = newest.get_or_try_init(|| newest_of(source)).await?;
            let condemned = newest.collection.condemned.get(&pack.id);
            let is_removed = condemned.is_some_and(|condemned| condemned.removed);
            return match is_removed || newest.is_left_behind(stored.record.envelope.number) {
                true => Ok(None),
                false => Err(Error::NotFound { object: key }),
            };
        };
        if bytes.len() as u64 != pack.bytes {
            let reason = format!("it has {} bytes instead of {}", bytes.len(), pack.bytes);
            return Err(Error::damaged(&key, reason));
        }
        read_pack(pack.id, bytes.clone())?;
        match put(by, to, &key, bytes).await? {
            Stood::New => Ok(Some(pack.bytes)),
            Stood::Same => Ok(None),
            Stood::Other(_) => Err(in_replica(&key, "it is another one than the source's")),
        }
    };
    let copied: Vec<Option<u64>> = stream::iter(packs.iter().copied())
        .map(copy)
        .buffer_unordered(TRANSFERS_MAX)
        .try_collect()
        .await?;
    Ok(copied.into_iter().flatten().collect())
}

/// The next records of the source. Where one of them is damaged or lost, those before it come one by
/// one; `ahead` keeps the reason, since a log without the lost one looks as if it ended before it.
async fn next_batch(source: &Repository, after: u64, ahead: &mut Option<Error>) -> Result<Batch> {
    if ahead.is_none() {
        match source.records(after).await {
            Err(error @ (Error::Damaged { .. } | Error::NotFound { .. })) => *ahead = Some(error),
            batch => return batch,
        }
    }
    match source.record(after + 1).await? {
        Some(stored) => Ok(Batch {
            records: vec![stored],
            more: true,
            ..Batch::default()
        }),
        None => ahead.take().map_or_else(|| Ok(Batch::default()), Err),
    }
}

/// A segment that is the log's; `None` where there is none.
async fn read_segment(
    source: &Repository,
    store: &Store,
    from: u64,
    to: u64,
) -> Result<Option<(String, Bytes)>> {
    let key = layout::segment(from, to);
    let Some(bytes) = store.read(&key).await? else {
        return Ok(None);
    };
    let records = segment::read(&key, bytes.clone(), from, to)?;
    let last = records.last().map(|stored| stored.record.id);
    let is_chain = records
        .windows(2)
        .all(|pair| pair[1].record.envelope.parent == pair[0].record.id);
    let own = source.record(to).await?.map(|stored| stored.record.id);
    if !is_chain || last != own {
        return Err(Error::damaged(&key, "it does not match the log"));
    }
    Ok(Some((key, bytes)))
}

/// The checkpoints after one record and not after another, the newest first.
async fn checkpoints(store: &Store, after: u64, at: u64) -> Result<Vec<(u64, String)>> {
    // Sorts after every copy of the next newer checkpoint.
    let mut from = format!("{}z", layout::checkpoint(at.saturating_add(1), 0));
    let mut found = Vec::new();
    loop {
        let keys = store.list_first(layout::CHECKPOINTS, &from).await?;
        let Some(last) = keys.last().cloned() else {
            return Ok(found);
        };
        for key in keys {
            match layout::parse_checkpoint(&key) {
                Some((number, _)) if number <= after => return Ok(found),
                Some((number, _)) => found.push((number, key)),
                None => {}
            }
        }
        from = last;
    }
}
