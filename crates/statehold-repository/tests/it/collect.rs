//! Collecting: whatever goes, every point that is kept reads back byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::id::RepositoryId;
use statehold_core::point::Point;
use statehold_core::record::{Body, ForgetBody, Kind, PushBody, RollbackBody, SnapshotBody};
use statehold_core::retention::Policy;
use statehold_core::rollback::WayBack;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Error, Remote as _, Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::crash::after_polls;
use statehold_testkit::dated_store::DatedStore;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing waits.
const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

type Files = BTreeMap<String, Vec<u8>>;

/// A repository that grows, and what it held at each record.
struct World {
    clock: Arc<SimulatedClock>,
    store: Store,
    author: Author,
    entropy: SeededEntropy,
    state: Arc<State>,
    at: Vec<Files>,
}

async fn open(store: &Store, clock: &Arc<SimulatedClock>, entropy: &SeededEntropy) -> Repository {
    let clock: Arc<SimulatedClock> = Arc::clone(clock);
    let id = RepositoryId::from_bytes([7; 16]);
    let entropy = Arc::new(entropy.branch());
    let opened = Repository::open_or_create(store.clone(), id, clock, entropy).await;
    opened.unwrap()
}

impl World {
    async fn new(seed: u64) -> Self {
        Self::over(seed, Arc::new(InMemory::new())).await
    }

    async fn over(seed: u64, objects: Arc<dyn ObjectStore>) -> Self {
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let dated = DatedStore::new(objects, Arc::<SimulatedClock>::clone(&clock));
        let store = Store::new(Arc::new(dated), Listing::Sorted);
        let entropy = SeededEntropy::new(seed);
        let repository = open(&store, &clock, &entropy).await;
        Self {
            clock,
            store,
            author: Author::new(seed + 1),
            state: Arc::new(repository.empty_state()),
            entropy,
            at: vec![Files::new()],
        }
    }

    /// The repository, as a program that has just started sees it.
    async fn open(&self) -> Repository {
        open(&self.store, &self.clock, &self.entropy).await
    }

    fn files(&self) -> Files {
        self.at.last().cloned().unwrap_or_default()
    }

    async fn follow(&mut self, files: Files) {
        let repository = self.open().await;
        let before = self.state.head.number;
        self.state = advance(&repository, &self.state).await.unwrap();
        repository.tend(&self.state).await.unwrap();
        for _ in before..self.state.head.number {
            self.at.push(files.clone());
        }
    }

    async fn push(&mut self, changes: &[(&str, Option<&[u8]>)]) {
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

    async fn append(&mut self, body: Body, files: Files) {
        let kind = body.kind().unwrap();
        let draft = StoredDraft::new(self.author.head(kind, Vec::new()), body, &[]).unwrap();
        let repository = self.open().await;
        repository.append(&draft, &self.state).await.unwrap();
        self.follow(files).await;
    }

    fn free_id(&self) -> SnapshotId {
        let label = format!("s{}", self.state.head.number);
        SnapshotId::new(self.state.time, &label.parse().unwrap()).unwrap()
    }

    async fn snapshot(&mut self, at: u64) {
        let body = Body::Snapshot(SnapshotBody {
            base: self.state.head,
            id: self.free_id(),
            at,
            files: 1,
            bytes: 1,
        });
        self.append(body, self.files()).await;
    }

    async fn keep(&mut self, policy: Policy) {
        let body = Body::Forget(ForgetBody {
            base: self.state.head,
            snapshots: Vec::new(),
            policy: Some(policy),
        });
        self.append(body, self.files()).await;
    }

    async fn roll_back(&mut self, to: u64) {
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
    async fn push_something(&mut self) {
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

    /// Every record whose state is kept reads back byte for byte, by a program without memory, and every
    /// other one is said to be kept no longer.
    async fn check(&self, what: &str) -> (u64, u64) {
        let repository = self.open().await;
        let newest = load(&repository).await.unwrap().state;
        let (mut kept, mut gone) = (0, 0);
        for (number, files) in (0_u64..).zip(&self.at).skip(1) {
            let loaded = load_at(&repository, Point::Record(number)).await;
            if newest.collection.expired.contains(number) {
                gone += 1;
                match loaded {
                    Err(Error::Expired { after, .. }) => assert!(after > number, "{what}"),
                    other => panic!("{what}: record {number} has expired: {other:?}"),
                }
                continue;
            }
            kept += 1;
            let state = loaded.unwrap_or_else(|error| panic!("{what}: record {number}: {error}"));
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

    async fn compact(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let done = Collector::new(&repository, AT_ONCE)
            .compact(true)
            .await
            .unwrap();
        self.follow(self.files()).await;
        done.record
    }

    async fn remove(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let done = Collector::new(&repository, AT_ONCE).remove().await.unwrap();
        self.follow(self.files()).await;
        done.record
    }

    async fn keys(&self, folder: &str) -> Vec<String> {
        self.store.list(folder, folder).await.unwrap()
    }

    async fn bytes(&self) -> u64 {
        let listed = self.store.list_objects().await.unwrap();
        listed.iter().map(|one| one.bytes).sum()
    }
}

const NOTHING: Policy = Policy {
    within_days: 0,
    last: 1,
    hourly: 0,
    daily: 0,
    weekly: 0,
    monthly: 0,
    yearly: 0,
};

#[tokio::test]
async fn random_histories_keep_what_they_keep() {
    let (mut kept, mut gone, mut retired, mut removed) = (0, 0, 0, 0);
    for seed in 0..6 {
        let mut world = World::new(seed).await;
        world
            .keep(Policy {
                last: 4,
                daily: 3,
                ..NOTHING
            })
            .await;
        for step in 0..48 {
            let what = format!("seed {seed}, step {step}");
            world.clock.advance(DAY / 4);
            let head = world.state.head.number;
            match world.entropy.below(20) {
                0 => world.snapshot(head).await,
                1 => {
                    let (_, to) = world
                        .state
                        .collection
                        .nearest(world.entropy.below(head) + 1);
                    world.roll_back(to).await;
                }
                2..=3 => {
                    world.compact().await;
                    world.check(&format!("{what}, compacted")).await;
                }
                4..=5 => {
                    removed += u64::from(world.remove().await.is_some());
                    world.check(&format!("{what}, removed")).await;
                }
                _ => world.push_something().await,
            }
        }
        let (some, others) = world.check(&format!("seed {seed}, at the end")).await;
        (kept, gone) = (kept + some, gone + others);
        retired += world.state.collection.cut;
    }
    assert!(
        kept > 60 && gone > 60 && retired > 16 && removed > 3,
        "{kept} {gone} {retired} {removed}"
    );
}
