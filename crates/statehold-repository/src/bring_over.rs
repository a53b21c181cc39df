//! What the first store got after its copy's log parted from it: listed, and brought over.
//!
//! Each push goes over whole or not at all, under its own nonce, so that doing it again finds it landed. Where the
//! new log has something else by now than the push was made on, the push collides, and nobody decides but
//! people.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use statehold_core::bands::Band;
use statehold_core::collection::Moves;
use statehold_core::entry::{Chunk, Entry, Location, Signature};
use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::{APPEND_RACES_MAX, LOG_RANGE_RECORDS_MAX, LOOKS_MAX};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Body, DraftHead, Kind, PushBody, RecordRef, SnapshotBody, Upsert};
use statehold_core::state::{Applied, State};
use statehold_core::time::Timestamp;

use crate::content::{ContentWriter, open_chunk};
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::remote::{Remote, advance, load, load_at};
use crate::repository::Repository;
use crate::whereabouts::moves_at;

/// Stored bytes of content that are read at once.
const READ_BYTES: u64 = 8 * 1024 * 1024;

/// A record of the first store that its copy does not have.
#[derive(Debug)]
pub struct Lost {
    /// Its number there.
    pub number: u64,
    /// Its time.
    pub time: Timestamp,
    /// The machine that wrote it.
    pub machine: MachineId,
    /// What it does.
    pub kind: Kind,
    /// What becomes of it.
    pub end: End,
}

/// What becomes of such a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It can be brought over.
    Wanted,
    /// It stands in the new log, since now or before.
    Landed(RecordRef),
    /// What it says is there already: a machine pushed it again.
    Same,
    /// The new log says something else by now: at these paths, or for these reasons.
    Collides(Vec<String>),
    /// It says something of the first store that means nothing here.
    LeftOut,
}

/// Lists what `old` got after `new` parted from it and, if asked to, brings it over. Records that are not in
/// effect, and those that say only that something was copied, are not listed.
pub async fn bring_over(
    old: &dyn Remote,
    new: &Repository,
    entropy: &dyn Entropy,
    apply: bool,
) -> Result<Vec<Lost>> {
    let target = Target::open(old, new).await?;
    let content = OldContent::of(old).await?;
    let mut follower = Follower::new(old, Arc::clone(&target.fork));
    let mut over = Over {
        new,
        entropy,
        content,
        target,
        apply,
    };
    let mut found = Vec::new();
    loop {
        let batch = old.records(follower.state().head.number).await?;
        for stored in &batch.records {
            let before = touched(follower.state(), stored);
            let applied = follower.take_in(stored).await;
            let applied = applied.map_err(|error| let_go(over.target.fork.head.number, error))?;
            if applied != Applied::Changed {
                continue;
            }
            if matches!(stored.record.body, Body::Backup(_) | Body::Fence(_)) {
                continue;
            }
            let change = Change {
                stored,
                before,
                after: follower.state(),
            };
            let envelope = &stored.record.envelope;
            found.push(Lost {
                number: envelope.number,
                time: envelope.time,
                machine: envelope.draft.machine,
                kind: envelope.draft.kind.clone(),
                end: over.bring(&change).await?,
            });
        }
        if !batch.more {
            return Ok(found);
        }
    }
}

/// What stands at some paths; nothing at those that aren't there.
type Stands = BTreeMap<RepoPath, Option<Signature>>;

fn stands(state: &State, path: &RepoPath) -> Option<Signature> {
    state.tree.get(path.as_str()).map(Entry::signature)
}

/// What stands at the paths that a record touches.
fn touched(state: &State, stored: &StoredRecord) -> Stands {
    let paths = stored.record.body.changes().into_iter();
    let paths = paths.flat_map(PushBody::paths);
    paths
        .map(|path| (path.clone(), stands(state, path)))
        .collect()
}

/// A record of the old log, and what it made of the paths it touches.
struct Change<'a> {
    stored: &'a StoredRecord,
    before: Stands,
    after: &'a State,
}

/// The log that goes on.
struct Target {
    /// Its newest state.
    state: Arc<State>,
    /// The state where the logs part.
    fork: Arc<State>,
    /// The nonces that it has got since, with their records.
    landed: BTreeMap<Nonce, RecordRef>,
    /// What would stand at paths if everything had been brought over that can be.
    planned: Stands,
}

/// The state of the old log where the new one parted from it.
pub async fn fork_of(old: &dyn Remote, new: &Repository) -> Result<Arc<State>> {
    let refused = |reason: &str| Err(Error::refused(reason));
    if old.description() != new.description() {
        return refused("the two places hold different repositories");
    }
    let last = load(old).await?.state;
    let Some(fork) = load(new).await?.state.fork_since(&last) else {
        return refused(
            "the log to bring over to has not gone on from a copy of the other one; `statehold \
             promote` makes it go on",
        );
    };
    let found = match load_at(old, Point::Then(fork.number)).await {
        Err(Error::Retired { .. }) => load_at(new, Point::Then(fork.number)).await,
        found => found,
    };
    let found = found.map_err(|error| let_go(fork.number, error))?;
    if found.head != fork {
        return Err(Error::Diverged {
            number: fork.number,
            expected: fork.id,
            found: found.head.id,
        });
    }
    Ok(found)
}

/// What to say where a record is retired.
fn let_go(after: u64, error: Error) -> Error {
    match error {
        Error::Retired { number } => Error::refused(format!(
            "the first store has retired record {number}, and the logs part behind record {after}: what it got \
             since can't be told one by one; `statehold link` an empty folder to it, pull, and push what is missing \
             from there"
        )),
        error => error,
    }
}

/// The newest state of a log, and the nonces of everything since its epoch began.
pub async fn landed(new: &Repository) -> Result<(Arc<State>, BTreeMap<Nonce, RecordRef>)> {
    let state = load(new).await?.state;
    let (mut landed, mut last) = (BTreeMap::new(), state.epoch_began());
    // Of those that are retired by now, what is left says the nonce.
    while last < state.head.number {
        let until = state.head.number.min(last + LOG_RANGE_RECORDS_MAX);
        landed.extend(nonces(&new.records_until(last, until).await?));
        last = until;
    }
    Ok((state, landed))
}

fn nonces(records: &[StoredRecord]) -> impl Iterator<Item = (Nonce, RecordRef)> {
    let records = records.iter().map(|stored| &stored.record);
    records.map(|record| (record.envelope.draft.nonce, record.reference()))
}

impl Target {
    async fn open(old: &dyn Remote, new: &Repository) -> Result<Self> {
        let fork = fork_of(old, new).await?;
        let (state, landed) = landed(new).await?;
        let planned = Stands::new();
        Ok(Self {
            state,
            fork,
            landed,
            planned,
        })
    }

    /// Takes in what the log has got since.
    async fn catch_up(&mut self, new: &Repository) -> Result<()> {
        let (state, came) = new.catch_up(&self.state).await?;
        self.landed.extend(nonces(&came));
        self.state = state;
        Ok(())
    }

    fn stands(&self, path: &RepoPath) -> Option<Signature> {
        match self.planned.get(path) {
            Some(planned) => *planned,
            None => stands(&self.state, path),
        }
    }
}

struct Over<'a> {
    new: &'a Repository,
    entropy: &'a dyn Entropy,
    content: OldContent<'a>,
    target: Target,
    apply: bool,
}

/// The content of the old log, also while somebody collects there. Its records say where it lay when they were
/// written; the newest compaction says where that lies now, whether the states of those records are kept or not.
struct OldContent<'a> {
    remote: &'a dyn Remote,
    /// The newest state that was seen.
    newest: Arc<State>,
    moves: Moves,
}

impl<'a> OldContent<'a> {
    async fn of(remote: &'a dyn Remote) -> Result<Self> {
        let newest = load(remote).await?.state;
        let moves = moves_at(remote, &newest).await?;
        Ok(Self {
            remote,
            newest,
            moves,
        })
    }

    fn is_collected(&self) -> bool {
        self.newest.collection.compacted > 0
    }

    /// Looks where content lies now; `false` where nobody has collected since the last look.
    async fn look(&mut self) -> Result<bool> {
        let newest = advance(self.remote, &self.newest).await?;
        if newest.collection.collected == self.newest.collection.collected {
            return Ok(false);
        }
        self.moves = moves_at(self.remote, &newest).await?;
        self.newest = newest;
        Ok(true)
    }

    /// The stored frames of chunks, in order. Who finds nothing at a place looks again, as every reader does.
    async fn read(&mut self, chunks: &[Chunk]) -> Result<Vec<Bytes>> {
        let mut looks = 0;
        loop {
            let places = chunks.iter().map(|chunk| self.moves.moved(chunk.at));
            let places: Vec<Location> = places.collect();
            let error = match self.remote.read(&places).await {
                Err(error @ (Error::NotFound { .. } | Error::Damaged { .. })) => error,
                read => return read,
            };
            if looks < LOOKS_MAX && self.look().await? {
                looks += 1;
                continue;
            }
            // What no kept state names has gone with what it lay in.
            let collection = &self.newest.collection;
            let is_let_go = |place: &Location| {
                let object = place.object;
                object.is_none_or(|object| !collection.may_name(object))
            };
            return Err(match places.iter().find(|place| is_let_go(place)) {
                Some(_) => Error::NotFound {
                    object: "content that was let go".into(),
                },
                None => error,
            });
        }
    }
}

impl Over<'_> {
    async fn bring(&mut self, change: &Change<'_>) -> Result<End> {
        for _ in 0..APPEND_RACES_MAX {
            let head = &change.stored.record.envelope.draft;
            if let Some(landed) = self.target.landed.get(&head.nonce) {
                return Ok(End::Landed(*landed));
            }
            let paths = match self.judge(change) {
                Ok(paths) => paths,
                Err(end) => return Ok(end),
            };
            if !self.apply {
                let after = paths
                    .iter()
                    .map(|path| (path.clone(), stands(change.after, path)));
                self.target.planned.extend(after);
                return Ok(End::Wanted);
            }
            let draft = match self.draft(change, &paths).await {
                // A collector took it away, as what was superseded long ago.
                Err(Error::NotFound { .. }) if self.content.is_collected() => {
                    return Ok(End::LeftOut);
                }
                draft => draft?,
            };
            match self.new.append_as(&draft, &self.target.state, None).await {
                Ok((stored, _)) => {
                    self.target.catch_up(self.new).await?;
                    if let Err(error) = self.new.tend(&self.target.state).await {
                        tracing::warn!(%error, "a segment or checkpoint was not written");
                    }
                    return Ok(End::Landed(stored.record.reference()));
                }
                // Somebody was first: it is judged anew.
                Err(Error::Conflict { .. }) => self.target.catch_up(self.new).await?,
                Err(error) => return Err(error),
            }
        }
        let what = format!("a place in the log after {APPEND_RACES_MAX} lost races");
        let source = "others write faster; try again".into();
        Err(Error::Unavailable { what, source })
    }

    /// The paths that a record has to change in the new log, or why it is not brought over.
    fn judge(&self, change: &Change<'_>) -> Result<Vec<RepoPath>, End> {
        match &change.stored.record.body {
            Body::Push(_) | Body::Rollback(_) => {}
            Body::Snapshot(snapshot) => {
                let is_shared = snapshot.at <= self.target.fork.head.number;
                let is_there = self.target.state.snapshots.contains_key(&snapshot.id);
                return match (is_shared, is_there) {
                    (_, true) => Err(End::Same),
                    (true, false) => Ok(Vec::new()),
                    (false, false) => Err(End::LeftOut),
                };
            }
            _ => return Err(End::LeftOut),
        }
        let (mut wanted, mut colliding) = (Vec::new(), Vec::new());
        for (path, before) in &change.before {
            let there = self.target.stands(path);
            if there == stands(change.after, path) {
                continue;
            }
            if there == *before {
                wanted.push(path.clone());
            } else {
                colliding.push(path.to_string());
            }
        }
        if !colliding.is_empty() {
            return Err(End::Collides(colliding));
        }
        if wanted.is_empty() {
            return Err(End::Same);
        }
        Ok(wanted)
    }

    /// The record's draft in the new log, its packs written.
    async fn draft(&mut self, change: &Change<'_>, paths: &[RepoPath]) -> Result<StoredDraft> {
        let from = &change.stored.record.envelope.draft;
        let base = self.target.state.head;
        if let Body::Snapshot(snapshot) = &change.stored.record.body {
            let body = Body::Snapshot(SnapshotBody {
                base,
                ..snapshot.clone()
            });
            let head = DraftHead::new(Kind::Snapshot, from.machine, from.nonce, Vec::new());
            return StoredDraft::new(head, body, &[]);
        }
        let mut writer = ContentWriter::new(
            &self.target.state.tree,
            &self.target.state.collection,
            self.entropy,
        );
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        for path in paths {
            match change.after.tree.get(path.as_str()) {
                None => deletes.push(path.clone()),
                Some(entry) => {
                    let entry = self.carry(entry, &mut writer).await?;
                    let (path, keep) = (path.clone(), 0);
                    upserts.push(Upsert { path, entry, keep });
                }
            }
        }
        let content = writer.finish();
        for upsert in &mut upserts {
            content.settle(&mut upsert.entry);
        }
        if let Some(pack) = &content.pack {
            self.new
                .put_checked_pack(pack.id, pack.bytes.clone())
                .await?;
        }
        let body = Body::Push(PushBody {
            base,
            upserts,
            deletes,
        });
        let introduced = content.introduced;
        let head = DraftHead::new(Kind::Push, from.machine, from.nonce, introduced);
        StoredDraft::new(head, body, &content.inline)
    }

    /// An entry with its content where the new store can have it.
    async fn carry(&mut self, entry: &Entry, writer: &mut ContentWriter) -> Result<Entry> {
        let Entry::File(file) = entry else {
            return Ok(entry.clone());
        };
        let mut carried = file.clone();
        carried.chunks.clear();
        for batch in batches(&file.chunks) {
            let frames = self.content.read(batch).await?;
            for (chunk, frame) in batch.iter().zip(&frames) {
                let raw = open_chunk(chunk, frame)?;
                carried
                    .chunks
                    .push(writer.add(chunk.digest, &raw, Band::Compressed)?);
                if let Some(pack) = writer.take_full_pack(self.entropy) {
                    self.new.put_checked_pack(pack.id, pack.bytes).await?;
                }
            }
        }
        Ok(Entry::File(carried))
    }
}

/// Runs of chunks that are little enough to be read at once.
fn batches(chunks: &[Chunk]) -> impl Iterator<Item = &[Chunk]> {
    let mut bytes = 0;
    chunks.chunk_by(move |before, _| {
        bytes += u64::from(before.at.stored);
        let goes_on = bytes < READ_BYTES;
        if !goes_on {
            bytes = 0;
        }
        goes_on
    })
}
