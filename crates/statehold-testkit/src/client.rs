//! A client in the simulated world: random pushes and pulls at the level of [`Remote`], with a
//! durable part that survives a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use statehold_core::bands::Band;
use statehold_core::chunking::{chunks_to_keep, cut};
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, Entry, FileEntry};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{
    Body, DraftHead, ForgetBody, Kind, NoteBody, PushBody, RollbackBody, SnapshotBody, Upsert,
};
use statehold_core::rollback::WayBack;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Mtime;
use statehold_repository::content::{ContentWriter, Pack, open_chunk};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{Remote, advance, load, load_at};
use statehold_repository::{Error, Result, Whereabouts};

use crate::environment::{EPOCH, SeededEntropy};
use crate::invariants::{Auditor, Changes, Intention, Violation};
use crate::locked;
use crate::trace::Trace;

/// Where clients write. Some lie beneath others, and some differ in case alone, so that pushes get
/// in each other's way in every manner there is.
const PATHS: [&str; 24] = [
    "memory.md",
    "MEMORY.md",
    "notes",
    "notes/a.md",
    "notes/b.md",
    "notes/deep/c.md",
    "notes/deep/d.md",
    "skills/review/SKILL.md",
    "skills/review/run.sh",
    "skills/write/SKILL.md",
    "skills/Write/SKILL.md",
    "state/log/one.ndjson",
    "state/log/two.ndjson",
    "state/log/three.ndjson",
    "state/a.json",
    "state/b.json",
    "state/c.json",
    "state/d.json",
    "state/e.json",
    "state/f.json",
    "sessions/1",
    "sessions/2",
    "sessions/3",
    "sessions/4",
];

/// Which client the simulation runs. All but the first have a bug that it has to find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variant {
    /// Keeps the protocol.
    #[default]
    Right,
    /// Draws a new nonce when it tries again, so nobody can tell that its draft has landed.
    NewNonceOnRetry,
    /// Takes "unknown" for "no", and forgets the draft.
    AmbiguousIsFailure,
    /// Forgets the draft in a crash, and takes that for a failure.
    NoJournal,
}

/// What all clients of a world share.
#[derive(Debug)]
pub struct Surroundings {
    /// Whom they tell what they do and hear.
    pub auditor: Auditor,
    /// What happens.
    pub trace: Trace,
    /// Every content that anybody ever wrote, by digest: what a folder on disk would hold.
    pub contents: Mutex<BTreeMap<Digest, Bytes>>,
    /// The next intention's number.
    pub intentions: AtomicU64,
    /// How often a draft was turned away by what came first.
    pub conflicts: AtomicU64,
    /// Earlier states that were read whole.
    pub restored: AtomicU64,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    name: String,
    machine: MachineId,
    direct: Arc<dyn Remote>,
    gateways: Vec<Arc<dyn Remote>>,
    entropy: SeededEntropy,
    around: Arc<Surroundings>,
    variant: Variant,
    durable: Mutex<Durable>,
}

/// What survives a crash.
#[derive(Debug)]
struct Durable {
    known: Arc<State>,
    /// One of the states it knew before, to roll back to.
    remembered: Arc<State>,
    journal: Option<Journal>,
}

#[derive(Debug, Clone)]
struct Journal {
    intention: Intention,
    draft: Bytes,
    /// An append of it began and its outcome isn't known.
    unsure: bool,
}

/// What became of a step: `Err` only for what must not happen.
pub type Step = std::result::Result<(), Violation>;

impl Client {
    /// A client that knows a state, and reaches the repository straight and over gateways.
    pub fn new(
        name: String,
        known: State,
        direct: Arc<dyn Remote>,
        gateways: Vec<Arc<dyn Remote>>,
        entropy: SeededEntropy,
        around: Arc<Surroundings>,
        variant: Variant,
    ) -> Self {
        let known = Arc::new(known);
        let durable = Mutex::new(Durable {
            remembered: Arc::clone(&known),
            known,
            journal: None,
        });
        let machine = MachineId::random(&entropy);
        Self {
            name,
            machine,
            direct,
            gateways,
            entropy,
            around,
            variant,
            durable,
        }
    }

    /// Its own randomness.
    pub const fn entropy(&self) -> &SeededEntropy {
        &self.entropy
    }

    /// The state it knows.
    pub fn known(&self) -> Arc<State> {
        Arc::clone(&locked(&self.durable).known)
    }

    /// Whether a draft waits to be settled.
    pub fn has_journal(&self) -> bool {
        locked(&self.durable).journal.is_some()
    }

    /// Comes back from a crash with what is durable.
    pub fn restart(&self) {
        self.note("restarts");
        let mut durable = locked(&self.durable);
        if self.variant == Variant::NoJournal
            && let Some(journal) = durable.journal.take()
        {
            self.around.auditor.failed(journal.intention);
        }
    }

    fn note(&self, what: &str) {
        self.around.trace.line(format!("{}: {what}", self.name));
    }

    /// One of its ways to the repository, straight in a third of all cases.
    fn remote(&self) -> &Arc<dyn Remote> {
        let gateway = self.entropy.pick(&self.gateways);
        match gateway.filter(|_| self.entropy.below(3) > 0) {
            Some(gateway) => gateway,
            None => &self.direct,
        }
    }

    /// An error that faults explain ends the step; any other is a violation.
    fn excuse<T>(
        &self,
        doing: &str,
        result: Result<T>,
    ) -> std::result::Result<Option<T>, Violation> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (Error::Unavailable { .. } | Error::Denied { .. } | Error::Unknown { .. }),
            ) => {
                self.note(&format!("{doing}: {error}"));
                Ok(None)
            }
            Err(error) => Err(Violation(format!("{}, {doing}: {error}", self.name))),
        }
    }

    fn learn(&self, state: Arc<State>) {
        let mut durable = locked(&self.durable);
        if state.head.number > durable.known.head.number {
            durable.known = state;
        }
    }

    /// Looks whether a state that was read is the log's, and new enough.
    async fn compare(&self, state: &State, floor: u64) -> Step {
        self.around.auditor.check().await?;
        self.around.auditor.check_view(state, floor)
    }

    /// Takes in what is new, and does the tending that this makes due.
    pub async fn advance(&self) -> Step {
        let remote = self.remote();
        let floor = self.around.auditor.floor();
        let read = advance(&**remote, &self.known()).await;
        let Some(state) = self.excuse("advancing", read)? else {
            return Ok(());
        };
        self.note(&format!("advances to {}", state.head.number));
        self.compare(&state, floor).await?;
        self.learn(state);
        self.tend().await
    }

    /// Reads the state from nothing.
    pub async fn load(&self) -> Step {
        let remote = self.remote();
        let floor = self.around.auditor.floor();
        let Some(loaded) = self.excuse("loading", load(&**remote).await)? else {
            return Ok(());
        };
        self.note(&format!("loads {}", loaded.state.head.number));
        self.compare(&loaded.state, floor).await?;
        self.learn(loaded.state);
        if let Some(overdue) = loaded.overdue {
            self.excuse("tending what is overdue", remote.tend(&overdue).await)?;
        }
        Ok(())
    }

    /// Writes what is due at the state it knows.
    pub async fn tend(&self) -> Step {
        let remote = self.remote();
        let tended = remote.tend(&self.known()).await;
        self.excuse("tending", tended).map(drop)
    }

    /// Reads an earlier state with all its content, if it is kept.
    pub async fn restore(&self) -> Step {
        let remote = self.remote();
        let newest = self.known().head.number;
        // Few of the old ones are kept, so mostly one of the newest.
        let number = match self.entropy.below(3) {
            0 => 1 + self.entropy.below(newest),
            _ => newest.saturating_sub(self.entropy.below(40)).max(1),
        };
        if newest == 0 {
            return Ok(());
        }
        let auditor = &self.around.auditor;
        let state = match load_at(&**remote, Point::Record(number)).await {
            Err(Error::Expired { .. }) => {
                auditor.check().await?;
                return auditor.check_expired(number);
            }
            // Retired again and again while it read.
            Err(Error::Retired { .. }) => return Ok(()),
            loaded => loaded,
        };
        let Some(state) = self.excuse(&format!("restoring {number}"), state)? else {
            return Ok(());
        };
        auditor.check_earlier(&state)?;
        let whereabouts = Whereabouts::of(state.head);
        for (path, entry) in state.tree.iter() {
            let Entry::File(file) = entry else { continue };
            let read = match content(&**remote, &whereabouts, file).await {
                // Let go while it read.
                Err(Error::Expired { .. }) => {
                    auditor.check().await?;
                    return auditor.check_expired(number);
                }
                Err(Error::Retired { .. }) => return Ok(()),
                read => read,
            };
            let what = format!("restoring {path} at {number}");
            match self.excuse(&what, read)? {
                Some(digest) if digest == file.digest => {}
                Some(_) => return Err(Violation(format!("{what}: another content"))),
                None => return Ok(()),
            }
        }
        self.note(&format!("restores {number}"));
        self.around.restored.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a file of the tree it knows.
    pub async fn read_file(&self) -> Step {
        let remote = self.remote();
        let known = self.known();
        let files: Vec<(&RepoPath, &FileEntry)> = known
            .tree
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::File(file) => Some((path, file)),
                Entry::Symlink { .. } | Entry::Directory => None,
            })
            .collect();
        let Some((path, file)) = self.entropy.pick(&files) else {
            return Ok(());
        };
        let whereabouts = Whereabouts::of(known.head);
        let read = match content(&**remote, &whereabouts, file).await {
            // What it knows is so old that it was let go.
            Err(Error::Expired { .. }) => {
                let auditor = &self.around.auditor;
                auditor.check().await?;
                auditor.check_expired(known.head.number)?;
                return Box::pin(self.advance()).await;
            }
            Err(Error::Retired { .. }) => return Ok(()),
            read => read,
        };
        match self.excuse(&format!("reading {path}"), read)? {
            Some(digest) if digest != file.digest => {
                let what = format!("{} read another content of {path}", self.name);
                Err(Violation(what))
            }
            _ => Ok(()),
        }
    }

    /// Settles the journaled draft, or makes a new one, journals it and appends it.
    pub async fn push(&self) -> Step {
        if self.has_journal() {
            return self.settle().await;
        }
        let remote = self.remote();
        let intention = Intention(self.around.intentions.fetch_add(1, Ordering::Relaxed));
        let drafted = self.draft();
        let drafted = drafted.map_err(|error| Violation(format!("{}: {error}", self.name)))?;
        let (draft, changes, packs) = drafted;
        let nonce = draft.draft.head.nonce;
        self.note(&format!("means {intention:?} with {nonce}: {changes:?}"));
        for pack in packs {
            let put = remote.put_pack(pack.id, pack.bytes).await;
            if self.excuse("putting a pack", put)?.is_none() {
                return Ok(());
            }
        }
        let auditor = &self.around.auditor;
        auditor.intended(intention, nonce, changes);
        locked(&self.durable).journal = Some(Journal {
            intention,
            draft: draft.bytes,
            unsure: false,
        });
        self.settle().await
    }

    /// Hands in the journaled draft, and acts on the answer.
    pub async fn settle(&self) -> Step {
        let remote = self.remote();
        let Some(journal) = locked(&self.durable).journal.clone() else {
            return Ok(());
        };
        let auditor = &self.around.auditor;
        let draft = StoredDraft::read(journal.draft.clone())
            .map_err(|error| Violation(format!("{}, its journal: {error}", self.name)))?;
        let draft = if self.variant == Variant::NewNonceOnRetry && journal.unsure {
            self.redraw(&journal, &draft)?
        } else {
            draft
        };
        // From here on a crash leaves it open whether the record landed.
        self.mark(true);
        let answer = remote.append(&draft, &self.known()).await;
        self.note(&format!(
            "hears about {:?}: {}",
            journal.intention,
            match &answer {
                Ok(stored) => format!("record {}", stored.record.envelope.number),
                Err(error) => error.to_string(),
            }
        ));
        match answer {
            Ok(stored) => {
                auditor.acknowledged(journal.intention, stored.record.reference());
                self.forget();
                self.advance().await
            }
            // Of two snapshots with one name, or two forgettings of one, the second is turned away.
            Err(Error::Refused { .. }) if names_snapshots(&draft.draft.body) => {
                auditor.failed(journal.intention);
                self.forget();
                self.advance().await
            }
            Err(Error::Conflict { .. }) => {
                self.around.conflicts.fetch_add(1, Ordering::Relaxed);
                auditor.failed(journal.intention);
                self.forget();
                self.advance().await
            }
            Err(Error::Unknown { .. }) => {
                if self.variant == Variant::AmbiguousIsFailure {
                    auditor.failed(journal.intention);
                    self.forget();
                }
                Ok(())
            }
            // Straight at the store that is definite about this attempt, though not about earlier
            // ones. Over a connection that may deliver a request twice it says nothing.
            Err(Error::Unavailable { .. } | Error::Denied { .. }) => {
                if !journal.unsure && Arc::ptr_eq(remote, &self.direct) {
                    self.mark(false);
                    if self.entropy.chance(500) {
                        auditor.failed(journal.intention);
                        self.forget();
                    }
                }
                Ok(())
            }
            Err(error) => Err(Violation(format!("{}, appending: {error}", self.name))),
        }
    }

    /// The same changes under a new nonce: the bug of [`Variant::NewNonceOnRetry`].
    fn redraw(
        &self,
        journal: &Journal,
        draft: &StoredDraft,
    ) -> std::result::Result<StoredDraft, Violation> {
        let mut head = draft.draft.head.clone();
        head.nonce = Nonce::random(&self.entropy);
        let changes = changes_of(&draft.draft.body);
        let auditor = &self.around.auditor;
        auditor.intended(journal.intention, head.nonce, changes);
        let content = draft.bytes.len() - head.content_bytes as usize;
        StoredDraft::new(head, draft.draft.body.clone(), &draft.bytes[content..])
            .map_err(|error| Violation(error.to_string()))
    }

    fn mark(&self, unsure: bool) {
        if let Some(journal) = &mut locked(&self.durable).journal {
            journal.unsure = unsure;
        }
    }

    fn forget(&self) {
        locked(&self.durable).journal = None;
    }

    /// A record that brings no content: a snapshot, a way back to what it knew once, or a note.
    fn history(&self, known: &Arc<State>) -> (Kind, Body) {
        let base = known.head;
        // Two clients may well draw the same name.
        let name = || -> Option<SnapshotId> {
            let label = format!("s{}", self.entropy.below(40)).parse().ok()?;
            SnapshotId::new(EPOCH, &label)
        };
        let (files, bytes) = (known.tree.len() as u64, 0);
        let remembered = {
            let mut durable = locked(&self.durable);
            let remembered = Arc::clone(&durable.remembered);
            if self.entropy.below(4) == 0 {
                durable.remembered = Arc::clone(known);
            }
            remembered
        };
        match (self.entropy.below(4), name()) {
            (0, Some(id)) => {
                let at = self.entropy.below(base.number + 1);
                let snapshot = SnapshotBody {
                    base,
                    id,
                    at,
                    files,
                    bytes,
                };
                (Kind::Snapshot, Body::Snapshot(snapshot))
            }
            (1, _) if !known.snapshots.is_empty() => {
                let snapshots = known.snapshots.keys().take(1).cloned().collect();
                (
                    Kind::Forget,
                    Body::Forget(ForgetBody {
                        base,
                        snapshots,
                        policy: None,
                    }),
                )
            }
            (2, Some(before)) => {
                let back = WayBack::between(&known.tree, &remembered.tree, |_| true);
                let rollback = RollbackBody {
                    to: remembered.head.number,
                    before,
                    files,
                    bytes,
                    changes: PushBody {
                        base,
                        upserts: back.upserts,
                        deletes: back.deletes,
                    },
                };
                (Kind::Rollback, Body::Rollback(rollback))
            }
            _ => {
                let text = format!("{} was here", self.name);
                (Kind::Note, Body::Note(NoteBody { base, text }))
            }
        }
    }

    /// A draft of random changes to the tree it knows, and the packs that it needs.
    fn draft(&self) -> Result<(StoredDraft, Changes, Vec<Pack>)> {
        let known = self.known();
        let mut drafting = Drafting {
            client: self,
            after: known.tree.clone(),
            known: &known,
            content: ContentWriter::new(&known.tree, &known.collection, &self.entropy),
            push: PushBody {
                base: known.head,
                upserts: Vec::new(),
                deletes: Vec::new(),
            },
        };
        for _ in 0..self.entropy.below(4) {
            drafting.change()?;
        }
        let Drafting {
            content, mut push, ..
        } = drafting;
        let finished = content.finish();
        for upsert in &mut push.upserts {
            finished.settle(&mut upsert.entry);
        }
        let (kind, body) = if !(push.upserts.is_empty() && push.deletes.is_empty()) {
            (Kind::Push, Body::Push(push))
        } else {
            self.history(&known)
        };
        let nonce = Nonce::random(&self.entropy);
        let head = DraftHead::new(kind, self.machine, nonce, finished.introduced.clone());
        let changes = changes_of(&body);
        let draft = StoredDraft::new(head, body, &finished.inline)?;
        Ok((draft, changes, finished.pack.into_iter().collect()))
    }
}

fn names_snapshots(body: &Body) -> bool {
    matches!(
        body,
        Body::Snapshot(_) | Body::Rollback(_) | Body::Forget(_)
    )
}

fn changes_of(body: &Body) -> Changes {
    let Some(push) = body.changes() else {
        return Changes::new();
    };
    let put = push
        .upserts
        .iter()
        .map(|upsert| (upsert.path.clone(), Some(upsert.entry.signature())));
    let taken = push.deletes.iter().map(|path| (path.clone(), None));
    put.chain(taken).collect()
}

/// The digest of a file's content, read chunk by chunk.
async fn content(
    remote: &dyn Remote,
    whereabouts: &Whereabouts,
    file: &FileEntry,
) -> Result<Digest> {
    let mut whole = Vec::new();
    let frames = whereabouts.read(remote, &file.chunks).await?;
    for (chunk, frame) in file.chunks.iter().zip(frames) {
        whole.extend_from_slice(&open_chunk(chunk, &frame)?);
    }
    Ok(Digest::of(&whole))
}

/// A push in the making.
struct Drafting<'a> {
    client: &'a Client,
    known: &'a State,
    after: statehold_core::tree::Tree,
    content: ContentWriter,
    push: PushBody,
}

impl Drafting<'_> {
    fn is_touched(&self, path: &str) -> bool {
        self.push.paths().any(|touched| touched.as_str() == path)
    }

    fn change(&mut self) -> Result<()> {
        let entropy = &self.client.entropy;
        match entropy.below(10) {
            0..=1 => {
                let paths: Vec<&RepoPath> = self.known.tree.iter().map(|(path, _)| path).collect();
                if let Some(path) = entropy.pick(&paths)
                    && !self.is_touched(path.as_str())
                {
                    self.after.remove(path.as_str());
                    self.push.deletes.push((*path).clone());
                }
                Ok(())
            }
            2..=4 => self.grow(),
            _ => self.put(),
        }
    }

    /// Puts an entry at a path, unless something is in the way there.
    fn put_entry(&mut self, text: &str, entry: Entry, keep: u32) -> Result<()> {
        let path = RepoPath::parse(text).map_err(Error::refused)?;
        let before = self.after.insert(path.clone(), entry.clone());
        if self.after.check_place(&path).is_err() {
            match before {
                Some(before) => self.after.insert(path, before),
                None => self.after.remove(path.as_str()),
            };
            return Ok(());
        }
        self.push.upserts.push(Upsert { path, entry, keep });
        Ok(())
    }

    /// Takes content in, cut into chunks.
    fn store(&mut self, content: &[u8]) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for range in cut(content) {
            let piece = &content[range];
            chunks.push(
                self.content
                    .add(Digest::of(piece), piece, Band::Compressed)?,
            );
        }
        Ok(chunks)
    }

    fn put(&mut self) -> Result<()> {
        let entropy = &self.client.entropy;
        let Some(path) = entropy.pick(&PATHS) else {
            return Ok(());
        };
        if self.is_touched(path) {
            return Ok(());
        }
        let size = |below| usize::try_from(entropy.below(below)).unwrap_or_default();
        let content = match entropy.below(100) {
            0..=2 => return self.put_entry(path, Entry::Directory, 0),
            3..=5 => {
                let target = "memory.md".into();
                return self.put_entry(path, Entry::Symlink { target }, 0);
            }
            6..=8 => Vec::new(),
            // Too much to ride in a record, even with what else is in the push.
            9..=13 => entropy.bytes(260_000 + size(100_000)),
            14..=40 => entropy.bytes(1 + size(4_000)),
            41..=50 => b"the same for everybody".to_vec(),
            _ => {
                let line = format!(
                    "{{\"by\":{:?},\"n\":{}}}\n",
                    self.client.name,
                    entropy.number()
                );
                line.repeat(1 + size(20)).into_bytes()
            }
        };
        let chunks = self.store(&content)?;
        self.put_entry(path, self.client.file(content, chunks), 0)
    }

    /// Appends to a file, whose chunks but the last few are kept.
    fn grow(&mut self) -> Result<()> {
        let entropy = &self.client.entropy;
        let files: Vec<(&RepoPath, &FileEntry)> = self
            .known
            .tree
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::File(file) => Some((path, file)),
                Entry::Symlink { .. } | Entry::Directory => None,
            })
            .collect();
        let Some((path, file)) = entropy.pick(&files).copied() else {
            return Ok(());
        };
        let contents = &self.client.around.contents;
        let old = locked(contents).get(&file.digest).cloned();
        let Some(old) = old.filter(|_| !self.is_touched(path.as_str())) else {
            return Ok(());
        };
        let tail = entropy.bytes(1 + usize::try_from(entropy.below(6_000)).unwrap_or_default());
        let sizes: Vec<u32> = file.chunks.iter().map(|chunk| chunk.raw).collect();
        let keep = chunks_to_keep(&sizes, tail.len() as u64);
        let kept: usize = sizes[..keep].iter().map(|size| *size as usize).sum();
        let whole = [&old[..], &tail].concat();
        let chunks = self.store(&whole[kept..])?;
        let entry = self.client.file(whole, chunks);
        let keep = u32::try_from(keep).map_err(Error::refused)?;
        self.put_entry(path.as_str(), entry, keep)
    }
}

impl Client {
    fn file(&self, content: Vec<u8>, chunks: Vec<Chunk>) -> Entry {
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        locked(&self.around.contents).insert(digest, content.into());
        Entry::File(FileEntry {
            size,
            mtime: Mtime::new(1_776_000_000, 5),
            executable: self.entropy.chance(100),
            digest,
            sha256: None,
            chunks,
        })
    }
}
