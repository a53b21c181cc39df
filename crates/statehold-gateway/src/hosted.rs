//! A repository as a gateway serves it: appends stand in a queue, the state at the head is kept, and
//! the caches beside the log are written after the answer.
//!
//! Other gateways may append to the same log at any time. The kept state is therefore never more
//! than a guess at the head: an append that finds its number taken catches up and goes on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, Location};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{KeyId, PackId, RepositoryId};
use statehold_core::limits::SNAPSHOTS_MAX;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Body, Kind, NewPack, RecordRef};
use statehold_core::rules::{RuleSet, SHARED_RULES_BYTES_MAX, SHARED_RULES_PATH};
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::collect::{Collected, Collector, Settings, Usage};
use statehold_repository::content::{check_pack, open_chunk};
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{self, Batch, Opening};
use statehold_repository::store::Store;
use statehold_repository::{Error, Remote, Repository, Result, Whereabouts, layout};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::auth::Granted;
use crate::replication::Changes;

/// Appends that may wait for one repository; the next one is asked to come back later.
pub const QUEUE_MAX: usize = 64;

/// Packs that are remembered to be in the store.
const PACKS_KNOWN_MAX: usize = 256;
/// Packs that are looked for at once.
const LOOKS_AT_ONCE: usize = 16;
/// How often the log is looked at while somebody watches, for what other gateways append.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same once nothing has come for [`QUIET_AFTER`]: what comes then is still seen within a second.
const LOOK_EVERY_IN_QUIET: Duration = Duration::from_millis(600);
/// Nothing came for so long, so nobody is likely to be at work.
const QUIET_AFTER: Duration = Duration::from_secs(10);
/// Longest wait between two looks while the store doesn't answer.
const LOOK_EVERY_AT_WORST: Duration = Duration::from_secs(4);
/// So many of all snapshots that there may be are for owners alone.
pub const SNAPSHOTS_KEPT: usize = 100;

/// A repository that is served.
#[derive(Debug, Clone)]
pub struct HostedRepository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    repository: Repository,
    /// The state at the newest record that was appended or read here. Whoever watches is told by it.
    state: watch::Sender<Option<Arc<State>>>,
    /// Whether the log is being looked at for those who watch.
    looking: Mutex<bool>,
    /// The record that somebody asked for last and that stands in the log. It stays there.
    confirmed: Mutex<Option<RecordRef>>,
    /// The rules that were read last, and the digest of their file.
    rules: Mutex<Option<(Digest, Arc<RuleSet>)>>,
    /// Held by the append under way.
    turn: tokio::sync::Mutex<()>,
    loading: tokio::sync::Mutex<()>,
    /// Held by the collector at work.
    collecting: tokio::sync::Mutex<()>,
    places: Semaphore,
    /// The packs that were written here last, so that a draft that names them needs no look at the store.
    packs: Mutex<VecDeque<NewPack>>,
    tasks: TaskTracker,
    /// Told of every append, if anybody wants to know.
    changes: Option<Arc<Changes>>,
}

impl HostedRepository {
    /// Serves a repository. What goes on after an answer runs in `tasks`.
    pub fn new(repository: Repository, tasks: TaskTracker) -> Self {
        Self::telling(repository, tasks, None)
    }

    fn telling(repository: Repository, tasks: TaskTracker, changes: Option<Arc<Changes>>) -> Self {
        let inner = Inner {
            repository,
            state: watch::Sender::new(None),
            looking: Mutex::default(),
            confirmed: Mutex::default(),
            rules: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            collecting: tokio::sync::Mutex::default(),
            places: Semaphore::new(QUEUE_MAX),
            packs: Mutex::default(),
            tasks,
            changes,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Appends a draft in the name of a key. The append is carried through even when the caller
    /// goes away, so that a broken connection doesn't leave it half tried.
    ///
    /// A draft that introduces packs which nobody wrote is refused: the log would say for ever that
    /// they are missing, and no copy could go past it.
    pub async fn append_as(&self, draft: &StoredDraft, key: Option<KeyId>) -> Result<StoredRecord> {
        self.inner.check_packs(&draft.draft.head.packs).await?;
        if let Body::Hold(hold) = &draft.draft.body {
            self.inner.check_held(&hold.packs).await?;
        }
        let (inner, draft) = (Arc::clone(&self.inner), draft.clone());
        let next = draft.draft.body.base().map_or(0, |base| base.number) + 1;
        let task = async move { inner.append(&draft, key).await };
        let done = self.inner.tasks.spawn(task).await;
        done.unwrap_or_else(|error| {
            // It ended somewhere on its way.
            tracing::error!(%error, "an append ended early");
            Err(Error::Unknown { number: next })
        })
    }

    /// What takes space.
    pub(crate) async fn usage(
        &self,
        settings: Settings,
        within_days: Option<u32>,
    ) -> Result<Usage> {
        let _alone = self.inner.collecting.lock().await;
        Collector::new(&self.inner.repository, settings)
            .usage(within_days)
            .await
    }

    /// What [`Self::compact`] would do.
    pub(crate) async fn compact_dry(&self, settings: Settings) -> Result<Collected> {
        let _alone = self.inner.collecting.lock().await;
        let compacted = Collector::new(&self.inner.repository, settings)
            .dry()
            .await?;
        Ok(Collected {
            compacted,
            removed: None,
            untold: None,
        })
    }

    /// Lets go of what the policy lets go, and deletes what was condemned long enough ago.
    pub(crate) async fn compact(&self, settings: Settings, is_approved: bool) -> Result<Collected> {
        self.collect(move |inner| {
            async move {
                Collector::new(&inner.repository, settings)
                    .collect(is_approved)
                    .await
            }
            .boxed()
        })
        .await
    }

    /// Makes what was ever at a path unreadable, and deletes it.
    pub(crate) async fn purge(&self, settings: Settings, path: RepoPath) -> Result<Collected> {
        self.collect(move |inner| {
            async move {
                Collector::new(&inner.repository, settings)
                    .purge(&path)
                    .await
            }
            .boxed()
        })
        .await
    }

    /// Collects when nobody else does here, and carries it through even when the caller goes away.
    async fn collect(
        &self,
        work: impl FnOnce(Arc<Inner>) -> BoxFuture<'static, Result<Collected>> + Send + 'static,
    ) -> Result<Collected> {
        let inner = Arc::clone(&self.inner);
        let task = async move {
            let _alone = inner.collecting.lock().await;
            work(Arc::clone(&inner)).await
        };
        let done = self.inner.tasks.spawn(task).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "a collector ended early");
            Err(Error::Unavailable {
                what: "collecting".into(),
                source: error.into(),
            })
        })
    }

    /// Refuses a snapshot for which there is no room but what is kept for owners, who else could not
    /// roll back what a machine did that took all the rest.
    pub(crate) async fn check_room(&self, draft: &StoredDraft) -> Result<()> {
        let (Kind::Snapshot | Kind::Rollback) = draft.draft.head.kind else {
            return Ok(());
        };
        let taken = self.inner.state().await?.snapshots.len();
        if taken < SNAPSHOTS_MAX - SNAPSHOTS_KEPT {
            return Ok(());
        }
        Err(Error::refused(format!(
            "there are {taken} snapshots, and the last {SNAPSHOTS_KEPT} are the owner's to make; ask an \
             owner to delete some"
        )))
    }

    /// The state at the head as of now: one read when nothing is new.
    pub(crate) async fn head(&self) -> Result<Arc<State>> {
        let known = self.inner.state().await?;
        let head = remote::advance(&self.inner.repository, &known).await?;
        self.inner.keep(&head);
        Ok(head)
    }

    /// The state at the head, as of now and from now on: what changes is seen in it at once if it is
    /// appended here, and after [`LOOK_EVERY`], or [`LOOK_EVERY_IN_QUIET`], if another gateway does. The log is looked at for as long
    /// as anybody has one of these, by one loop for all of them.
    pub(crate) async fn watch(&self) -> Result<watch::Receiver<Option<Arc<State>>>> {
        // Before the look, so that nothing is missed between the two.
        let seen = self.inner.state.subscribe();
        self.head().await?;
        let mut looking = self.inner.looking();
        if !*looking {
            *looking = true;
            let repository = self.clone();
            // Nobody waits for its end, since it writes nothing.
            tokio::spawn(async move { repository.look_while_watched().await });
        }
        Ok(seen)
    }

    async fn look_while_watched(&self) {
        let mut wait = LOOK_EVERY;
        let (mut seen, mut came) = (None, Instant::now());
        loop {
            tokio::time::sleep(wait).await;
            {
                let mut looking = self.inner.looking();
                if self.inner.state.receiver_count() == 0 {
                    *looking = false;
                    return;
                }
            }
            let Some(known) = self.inner.kept() else {
                continue;
            };
            // By way of what is confirmed already, this is one read.
            match remote::advance(self, &known).await {
                Ok(head) => {
                    self.inner.keep(&head);
                    if seen.replace(head.head) != Some(head.head) {
                        came = Instant::now();
                    }
                    wait = match came.elapsed() < QUIET_AFTER {
                        true => LOOK_EVERY,
                        false => LOOK_EVERY_IN_QUIET,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "the head cannot be looked at for those who watch");
                    wait = (wait * 2).min(LOOK_EVERY_AT_WORST);
                }
            }
        }
    }

    /// Reads the state in the background, if it has to be read, so that the first append finds it.
    pub(crate) fn get_ready(&self) {
        if self.inner.kept().is_some() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            if let Err(error) = inner.state().await {
                tracing::debug!(%error, "the state could not be read in advance");
            }
        });
    }

    /// The rules that pushes have to keep: those of the repository's own file, otherwise the
    /// default ones. A file that can't be used counts as none.
    pub(crate) async fn rules(&self) -> Result<Arc<RuleSet>> {
        let state = self.inner.state().await?;
        let found = state.tree.get(SHARED_RULES_PATH);
        let Some(Entry::File(file)) = found.filter(|entry| is_read(entry)) else {
            return Ok(default_rules());
        };
        let rules = &self.inner.rules;
        let known = rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((digest, known)) = known
            && digest == file.digest
        {
            return Ok(known);
        }
        let whereabouts = Whereabouts::of(state.head);
        let frames = whereabouts
            .read(&self.inner.repository, &file.chunks)
            .await?;
        let mut text = Vec::new();
        for (chunk, frame) in file.chunks.iter().zip(&frames) {
            text.extend(open_chunk(chunk, frame)?);
        }
        let read = RuleSet::from_json(&text).map_or_else(
            |error| {
                tracing::warn!(%error, "the rules in a repository cannot be used");
                default_rules()
            },
            Arc::new,
        );
        let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
        *rules = Some((file.digest, Arc::clone(&read)));
        Ok(read)
    }
}

/// Whether an entry is a file of a size that rules have.
fn is_read(entry: &Entry) -> bool {
    matches!(entry, Entry::File(file) if file.size <= SHARED_RULES_BYTES_MAX)
}

fn default_rules() -> Arc<RuleSet> {
    Arc::new(RuleSet::default())
}

impl Inner {
    async fn append(
        self: &Arc<Self>,
        draft: &StoredDraft,
        key: Option<KeyId>,
    ) -> Result<StoredRecord> {
        let _place = self.places.try_acquire().map_err(|_| Error::Unavailable {
            what: "a place in the queue".into(),
            source: "too many appends are waiting".into(),
        })?;
        let _turn = self.turn.lock().await;
        let known = self.state().await?;
        let (stored, state) = self.repository.append_as(draft, &known, key).await?;
        self.keep(&state);
        let moved = state.head.number > known.head.number;
        drop(known);
        if moved {
            if let Some(changes) = &self.changes {
                changes.note(self.repository.description().0.repository);
            }
            self.tend_later(state);
        }
        Ok(stored)
    }

    /// Makes sure that packs are in the store, as long as they are said to be.
    async fn check_packs(&self, named: &[NewPack]) -> Result<()> {
        let unknown: Vec<NewPack> = {
            let known = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
            let unknown = named.iter().filter(|pack| !known.contains(pack));
            unknown.copied().collect()
        };
        let look = |pack: NewPack| async move {
            let length = self.repository.store().length(&layout::pack(pack.id)).await;
            Ok::<_, Error>((pack, length?))
        };
        let mut looks = stream::iter(unknown).map(look).buffered(LOOKS_AT_ONCE);
        while let Some((NewPack { id, bytes }, length)) = looks.try_next().await? {
            let reason = match length {
                Some(length) if length == bytes => continue,
                Some(length) => format!("the pack {id} has {length} bytes, not {bytes}"),
                None => format!("the pack {id} is not in the store; it is sent before its draft"),
            };
            return Err(Error::refused(reason));
        }
        Ok(())
    }

    /// Makes sure that packs which are to be held are in the store: the table of all that are held is bounded,
    /// and nobody fills it with names alone.
    async fn check_held(&self, packs: &[PackId]) -> Result<()> {
        let look = |id: PackId| async move {
            let length = self.repository.store().length(&layout::pack(id)).await;
            Ok::<_, Error>((id, length?))
        };
        let mut looks = stream::iter(packs.to_vec())
            .map(look)
            .buffered(LOOKS_AT_ONCE);
        while let Some((id, length)) = looks.try_next().await? {
            if length.is_none() {
                let reason =
                    format!("the pack {id} is not in the store; it is sent before it is held");
                return Err(Error::refused(reason));
            }
        }
        Ok(())
    }

    /// Remembers that a pack has been written.
    fn note_pack(&self, pack: NewPack) {
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if packs.len() >= PACKS_KNOWN_MAX {
            packs.pop_front();
        }
        packs.push_back(pack);
    }

    fn confirmed(&self) -> MutexGuard<'_, Option<RecordRef>> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> Option<Arc<State>> {
        self.state.borrow().clone()
    }

    fn keep(&self, state: &Arc<State>) {
        self.state.send_if_modified(|kept| {
            let before = kept.as_ref().map(|kept| kept.head);
            if before.is_none_or(|before| before.number <= state.head.number) {
                *kept = Some(Arc::clone(state));
            }
            before != kept.as_ref().map(|kept| kept.head)
        });
    }

    fn looking(&self) -> MutexGuard<'_, bool> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A state that was at the head not long ago.
    async fn state(self: &Arc<Self>) -> Result<Arc<State>> {
        if let Some(state) = self.kept() {
            return Ok(state);
        }
        // Many may ask at once, and one reading is enough for all.
        let _loading = self.loading.lock().await;
        if let Some(state) = self.kept() {
            return Ok(state);
        }
        let loaded = remote::load(&self.repository).await?;
        self.keep(&loaded.state);
        if let Some(overdue) = loaded.overdue {
            self.tend_later(overdue);
        }
        Ok(loaded.state)
    }

    fn tend_later(self: &Arc<Self>, state: Arc<State>) {
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = inner.repository.tend(&state).await {
                tracing::warn!(%error, "a segment or checkpoint could not be written");
            }
        });
    }
}

#[async_trait]
impl Remote for HostedRepository {
    fn description(&self) -> (&Description, Digest) {
        self.inner.repository.description()
    }

    async fn confirm(&self, known: RecordRef) -> Result<()> {
        let is_known = |seen: Option<RecordRef>| seen == Some(known);
        let kept = self.inner.kept().map(|state| state.head);
        if is_known(kept) || is_known(*self.inner.confirmed()) {
            return Ok(());
        }
        self.inner.repository.confirm(known).await?;
        *self.inner.confirmed() = Some(known);
        Ok(())
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        self.inner.repository.open(at).await
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        // The one read that finds nothing new also settles that nothing is.
        self.inner.repository.records(after).await
    }

    async fn records_since(&self, known: RecordRef, _content: Option<Scope>) -> Result<Batch> {
        let batch = self.inner.repository.records_if_near(known.number).await?;
        // Where a record follows, the chain shows whether it follows this one.
        if batch.records.is_empty() {
            self.confirm(known).await?;
        }
        Ok(batch)
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        self.inner.repository.records_until(after, until).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        self.inner.repository.read(places).await
    }

    fn time(&self) -> Option<Timestamp> {
        self.inner.repository.time()
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        // A chunk that isn't what the pack says would stop every machine that needs it, so it is
        // turned away before anybody can name it. That takes a processor for some milliseconds.
        let checked = bytes.clone();
        tokio::task::spawn_blocking(move || check_pack(id, checked))
            .await
            .map_err(|error| Error::Unavailable {
                what: "checking a pack".into(),
                source: error.into(),
            })??;
        let pack = NewPack {
            id,
            bytes: bytes.len() as u64,
        };
        self.inner.repository.put_checked_pack(id, bytes).await?;
        self.inner.note_pack(pack);
        Ok(())
    }

    /// The state kept here stands in for the caller's.
    async fn append(&self, draft: &StoredDraft, _known: &Arc<State>) -> Result<StoredRecord> {
        self.append_as(draft, None).await
    }

    /// Nothing to do: the repository is tended after each append.
    async fn tend(&self, _state: &Arc<State>) -> Result<()> {
        Ok(())
    }
}

/// The repositories of a store that were asked for so far.
#[derive(Debug)]
pub(crate) struct Hosts {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tasks: TaskTracker,
    changes: Arc<Changes>,
    open: Mutex<HashMap<RepositoryId, Arc<OnceCell<HostedRepository>>>>,
}

impl Hosts {
    pub(crate) fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        tasks: TaskTracker,
        changes: Arc<Changes>,
    ) -> Self {
        Self {
            store,
            clock,
            entropy,
            tasks,
            changes,
            open: Mutex::default(),
        }
    }

    /// What they lie in.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the store is safe for one gateway at a time only.
    pub(crate) const fn has_one_writer(&self) -> bool {
        self.store.lease().is_some()
    }

    /// Whether the store may still be written to.
    pub(crate) fn check_lease(&self) -> Result<()> {
        self.store.lease().map_or(Ok(()), |lease| lease.check())
    }

    /// The repository that a request was granted. It is made at the first request.
    pub(crate) async fn get(&self, granted: &Granted) -> Result<HostedRepository> {
        let (tenant, id) = (granted.tenant(), granted.repository());
        let cell = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(id).or_default())
        };
        let make = || async {
            let store = self
                .store
                .inside(&tenant.to_string())
                .inside(&id.to_string());
            let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
            let repository = Repository::open_or_create(store, id, clock, entropy).await?;
            let (tasks, changes) = (self.tasks.clone(), Arc::clone(&self.changes));
            Ok(HostedRepository::telling(repository, tasks, Some(changes)))
        };
        cell.get_or_try_init(make).await.cloned()
    }
}
