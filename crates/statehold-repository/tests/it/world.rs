//! A repository that grows, is collected and replicated, and what it held at each record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::id::RepositoryId;
use statehold_core::point::Point;
use statehold_core::record::{Body, ForgetBody, PushBody, RollbackBody, SnapshotBody};
use statehold_core::retention::Policy;
use statehold_core::rollback::WayBack;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::replicate::{Replicator, Unwatched as NobodyLooks};
use statehold_repository::store::{Listing, Store};
use statehold_repository::verify::subset::{Day, Share};
use statehold_repository::verify::{Options, Unwatched, verify};
use statehold_repository::{Error, Remote as _, Repository};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::dated_store::DatedStore;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::{Faults, FaultyStore};
use statehold_testkit::trace::Trace;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing waits.
pub(crate) const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A gateway runs them on any of its threads.
pub(crate) fn sendable<T: Send>(future: T) -> T {
    future
}

/// A repository that grows, and what it held at each record.
pub(crate) struct World {
    pub(crate) memory: Arc<InMemory>,
    pub(crate) dated: Arc<DatedStore>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) store: Store,
    pub(crate) author: Author,
    pub(crate) entropy: SeededEntropy,
    pub(crate) state: Arc<State>,
    pub(crate) at: Vec<Files>,
}

pub(crate) async fn open(
    store: &Store,
    clock: &Arc<SimulatedClock>,
    entropy: &SeededEntropy,
) -> Repository {
    let clock: Arc<SimulatedClock> = Arc::clone(clock);
    let id = RepositoryId::from_bytes([7; 16]);
    let entropy = Arc::new(entropy.branch());
    let opened = Repository::open_or_create(store.clone(), id, clock, entropy).await;
    opened.unwrap()
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let memory = Arc::new(InMemory::new());
        let objects: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&memory);
        let dated = DatedStore::new(objects, Arc::<SimulatedClock>::clone(&clock));
        let dated = Arc::new(dated);
        let store = Store::new(Arc::<DatedStore>::clone(&dated), Listing::Sorted);
        let entropy = SeededEntropy::new(seed);
        let repository = open(&store, &clock, &entropy).await;
        Self {
            memory,
            dated,
            clock,
            store,
            author: Author::new(seed + 1),
            state: Arc::new(repository.empty_state()),
            entropy,
            at: vec![Files::new()],
        }
    }

    /// The same world once more, which goes its own way from here.
    pub(crate) fn fork(&self) -> Self {
        let memory = Arc::new(self.memory.fork());
        let objects: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&memory);
        let dated = Arc::new(self.dated.fork(objects));
        Self {
            memory,
            store: Store::new(Arc::<DatedStore>::clone(&dated), Listing::Sorted),
            dated,
            clock: Arc::clone(&self.clock),
            author: Author::new(self.entropy.number()),
            entropy: self.entropy.branch(),
            state: Arc::clone(&self.state),
            at: self.at.clone(),
        }
    }

    /// The same store, where every request is waited for.
    pub(crate) fn slow(&self) -> Store {
        let objects: Arc<dyn ObjectStore> = Arc::<DatedStore>::clone(&self.dated);
        let (entropy, faults) = (self.entropy.branch(), Faults::default());
        let slow = FaultyStore::new(objects, entropy, faults, Trace::default());
        Store::new(Arc::new(slow), Listing::Sorted)
    }

    /// The repository, as a program that has just started sees it.
    pub(crate) async fn open(&self) -> Repository {
        open(&self.store, &self.clock, &self.entropy).await
    }

    pub(crate) fn files(&self) -> Files {
        self.at.last().cloned().unwrap_or_default()
    }

    pub(crate) async fn follow(&mut self, files: Files) {
        let repository = self.open().await;
        let before = self.state.head.number;
        self.state = advance(&repository, &self.state).await.unwrap();
        repository.tend(&self.state).await.unwrap();
        for _ in before..self.state.head.number {
            self.at.push(files.clone());
        }
    }

    pub(crate) async fn push(&mut self, changes: &[(&str, Option<&[u8]>)]) {
        let repository = self.open().await;
        let drafted = changes.iter().copied();
        let pushed = self.author.push(&repository, &self.state, drafted).await;
        pushed.unwrap();
        let mut files = self.files();
        for (path, content) in changes {
            match content {
                Some(content) => drop(files.insert((*path).to_owned(), content.to_vec())),
                None => drop(files.remove(*path)),
            }
        }
        self.follow(files).await;
    }

    pub(crate) async fn append(&mut self, body: Body, files: Files) {
        let kind = body.kind().unwrap();
        let draft = StoredDraft::new(self.author.head(kind, Vec::new()), body, &[]).unwrap();
        let repository = self.open().await;
        repository.append(&draft, &self.state).await.unwrap();
        self.follow(files).await;
    }

    pub(crate) fn free_id(&self) -> SnapshotId {
        let label = format!("s{}", self.state.head.number);
        SnapshotId::new(self.state.time, &label.parse().unwrap()).unwrap()
    }

    pub(crate) async fn snapshot(&mut self, at: u64) {
        let body = Body::Snapshot(SnapshotBody {
            base: self.state.head,
            id: self.free_id(),
            at,
            files: 1,
            bytes: 1,
        });
        self.append(body, self.files()).await;
    }

    pub(crate) async fn keep(&mut self, policy: Policy) {
        let body = Body::Forget(ForgetBody {
            base: self.state.head,
            snapshots: Vec::new(),
            policy: Some(policy),
        });
        self.append(body, self.files()).await;
    }

    pub(crate) async fn roll_back(&mut self, to: u64) {
        let repository = self.open().await;
        let past = load_at(&repository, Point::Record(to)).await.unwrap();
        let back = WayBack::between(&self.state.tree, &past.tree, |_| true);
        let body = Body::Rollback(RollbackBody {
            to,
            before: self.free_id(),
            files: 1,
            bytes: 1,
            changes: PushBody {
                base: self.state.head,
                upserts: back.upserts,
                deletes: back.deletes,
            },
        });
        let files = self.at[usize::try_from(to).unwrap()].clone();
        self.append(body, files).await;
    }

    /// A push of random changes: some contents ride in the record, some fill a pack together.
    pub(crate) async fn push_something(&mut self) {
        let mut changes: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        for number in 0..=self.entropy.below(3) {
            let path = format!("d{number}/f{}", self.entropy.below(5));
            let large = self.entropy.chance(400);
            let content = self.entropy.bytes(if large { 140_000 } else { 200 });
            let is_there = self.files().contains_key(&path);
            let goes = is_there && self.entropy.chance(300);
            changes.push((path, (!goes).then_some(content)));
        }
        let changes: Vec<(&str, Option<&[u8]>)> = changes
            .iter()
            .map(|(path, content)| (path.as_str(), content.as_deref()))
            .collect();
        self.push(&changes).await;
    }

    /// Every record whose state is kept reads back byte for byte, by a program without memory; of another
    /// one it is said that it is kept no longer. Gives how many of each there are.
    pub(crate) async fn check(&self, what: &str) -> (u64, u64) {
        self.check_in(&self.store, what).await
    }

    pub(crate) async fn check_in(&self, store: &Store, what: &str) -> (u64, u64) {
        let repository = open(store, &self.clock, &self.entropy).await;
        let newest = load(&repository).await.unwrap().state;
        let report = verify(store, &everything(), &Unwatched).await.unwrap();
        assert!(report.damaged.is_empty(), "{what}: {:?}", report.damaged);
        assert!(report.gaps.is_empty(), "{what}: {:?}", report.gaps);
        let up_to = usize::try_from(newest.head.number).unwrap();
        let (mut kept, mut gone) = (0, 0);
        for (number, files) in (0_u64..).zip(&self.at[..=up_to]).skip(1) {
            let loaded = load_at(&repository, Point::Record(number)).await;
            let state = match loaded {
                Ok(state) => state,
                Err(Error::Expired { after, .. }) => {
                    assert!(newest.collection.expired.contains(number), "{what}");
                    assert!(after > number, "{what}");
                    gone += 1;
                    continue;
                }
                Err(error) => panic!("{what}: record {number}: {error}"),
            };
            kept += 1;
            let paths: Vec<&str> = state.tree.iter().map(|(path, _)| path.as_str()).collect();
            assert!(
                paths.iter().copied().eq(files.keys()),
                "{what}: record {number}"
            );
            for (path, content) in files {
                let read = read_file(&repository, &state, path).await;
                let read =
                    read.unwrap_or_else(|error| panic!("{what}: {path} at {number}: {error}"));
                assert_eq!(read, content, "{what}: {path} at record {number}");
            }
        }
        (kept, gone)
    }

    pub(crate) async fn compact(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let collector = Collector::new(&repository, AT_ONCE);
        let done = sendable(collector.compact(true)).await.unwrap();
        self.follow(self.files()).await;
        done.record
    }

    pub(crate) async fn remove(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let collector = Collector::new(&repository, AT_ONCE);
        let done = sendable(collector.remove()).await.unwrap();
        self.follow(self.files()).await;
        done.record
    }

    /// Brings a replica up to the head.
    pub(crate) async fn replicate(&self, replica: &Store) {
        let clock: Arc<SimulatedClock> = Arc::clone(&self.clock);
        let entropy = Arc::new(self.entropy.branch());
        let replicator = Replicator::new(clock, entropy, Arc::new(NobodyLooks));
        let copied = replicator.copy(&self.store, replica, None, None).await;
        assert!(copied.stopped.is_none(), "{copied:?}");
        assert_eq!(copied.at, Some(self.state.head));
    }

    pub(crate) async fn keys(&self, folder: &str) -> Vec<String> {
        self.store.list(folder, folder).await.unwrap()
    }
}

/// All content is read.
pub(crate) fn everything() -> Options {
    Options {
        read: Some(Share::WHOLE),
        day: Day::default(),
        known: Vec::new(),
        packs: BTreeSet::new(),
    }
}

pub(crate) const NOTHING: Policy = Policy {
    within_days: 0,
    last: 1,
    hourly: 0,
    daily: 0,
    weekly: 0,
    monthly: 0,
    yearly: 0,
};

/// A history with points that expire, packs that are half empty, and content that rides in records that
/// are going to be retired.
pub(crate) async fn grown(seed: u64) -> World {
    let mut world = World::new(seed).await;
    world.keep(Policy { last: 6, ..NOTHING }).await;
    for _ in 0..40 {
        world.clock.advance(DAY / 4);
        world.push_something().await;
    }
    world.snapshot(7).await;
    world
}
