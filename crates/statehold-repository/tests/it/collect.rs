//! Collecting: whatever goes, every point that is kept reads back byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::collection::HoldBody;
use statehold_core::id::RepositoryId;
use statehold_core::point::Point;
use statehold_core::record::{Body, ForgetBody, PushBody, RollbackBody, SnapshotBody};
use statehold_core::retention::Policy;
use statehold_core::rollback::WayBack;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_repository::collect::{Collected, Collector, Settings};
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::replicate::{Replicator, Unwatched as NobodyLooks};
use statehold_repository::store::{Listing, Store};
use statehold_repository::verify::subset::{Day, Share};
use statehold_repository::verify::{Options, Unwatched, verify};
use statehold_repository::{Error, Remote as _, Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::crash::{after_polls, overtaken};
use statehold_testkit::dated_store::DatedStore;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::{Faults, FaultyStore};
use statehold_testkit::trace::Trace;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing waits.
const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

type Files = BTreeMap<String, Vec<u8>>;

/// A gateway runs them on any of its threads.
fn sendable<T: Send>(future: T) -> T {
    future
}

/// A repository that grows, and what it held at each record.
struct World {
    memory: Arc<InMemory>,
    dated: Arc<DatedStore>,
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
    fn fork(&self) -> Self {
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
    fn slow(&self) -> Store {
        let objects: Arc<dyn ObjectStore> = Arc::<DatedStore>::clone(&self.dated);
        let (entropy, faults) = (self.entropy.branch(), Faults::default());
        let slow = FaultyStore::new(objects, entropy, faults, Trace::default());
        Store::new(Arc::new(slow), Listing::Sorted)
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

    /// Every record whose state is kept reads back byte for byte, by a program without memory; of another
    /// one it is said that it is kept no longer. Gives how many of each there are.
    async fn check(&self, what: &str) -> (u64, u64) {
        self.check_in(&self.store, what).await
    }

    async fn check_in(&self, store: &Store, what: &str) -> (u64, u64) {
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

    async fn compact(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let collector = Collector::new(&repository, AT_ONCE);
        let done = sendable(collector.compact(true)).await.unwrap();
        self.follow(self.files()).await;
        done.record
    }

    async fn remove(&mut self) -> Option<u64> {
        let repository = self.open().await;
        let collector = Collector::new(&repository, AT_ONCE);
        let done = sendable(collector.remove()).await.unwrap();
        self.follow(self.files()).await;
        done.record
    }

    /// Brings a replica up to the head.
    async fn replicate(&self, replica: &Store) {
        let clock: Arc<SimulatedClock> = Arc::clone(&self.clock);
        let entropy = Arc::new(self.entropy.branch());
        let replicator = Replicator::new(clock, entropy, Arc::new(NobodyLooks));
        let copied = replicator.copy(&self.store, replica, None, None).await;
        assert!(copied.stopped.is_none(), "{copied:?}");
        assert_eq!(copied.at, Some(self.state.head));
    }

    async fn keys(&self, folder: &str) -> Vec<String> {
        self.store.list(folder, folder).await.unwrap()
    }
}

/// All content is read.
fn everything() -> Options {
    Options {
        read: Some(Share::WHOLE),
        day: Day::default(),
        known: Vec::new(),
        packs: BTreeSet::new(),
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

/// A history with points that expire, packs that are half empty, and content that rides in records that
/// are going to be retired.
async fn grown(seed: u64) -> World {
    let mut world = World::new(seed).await;
    world.keep(Policy { last: 6, ..NOTHING }).await;
    for _ in 0..40 {
        world.clock.advance(DAY / 4);
        world.push_something().await;
    }
    world.snapshot(7).await;
    world
}

/// Killed at any moment, what a collector leaves is whole, and the next one goes on.
#[tokio::test(start_paused = true)]
async fn a_collector_may_die_anywhere() {
    let world = grown(90).await;
    let (mut crashes, mut left) = (0, BTreeSet::new());
    for polls in (0..).step_by(2) {
        let mut world = world.fork();
        let repository = open(&world.slow(), &world.clock, &world.entropy).await;
        let collector = Collector::new(&repository, AT_ONCE);
        let work = async {
            collector.compact(true).await.unwrap();
            collector.remove().await.unwrap();
        };
        let is_done = after_polls(polls, work).await.is_some();
        drop(repository);
        world.follow(world.files()).await;
        let what = format!("after {polls} polls");
        // Not at every place, since reading all of it takes longest.
        if polls % 5 == 0 || is_done {
            world.check(&what).await;
        }
        let objects = world.store.list_objects().await.unwrap().len();
        left.insert((world.state.collection.collected, objects));
        world.compact().await;
        world.remove().await;
        world.compact().await;
        world.remove().await;
        if polls % 5 == 0 || is_done {
            world.check(&format!("{what}, finished")).await;
        }
        // What came first is retired, and no pack is left that nothing names.
        let collection = &world.state.collection;
        assert!(collection.cut >= 32, "{what}");
        let known = world.state.packs.len();
        assert_eq!(world.keys("packs").await.len(), known, "{what}");
        let retired = world
            .store
            .read(&layout::record(32))
            .await
            .unwrap()
            .unwrap();
        assert!(
            StoredRecord::read(32, retired).unwrap().is_retired(),
            "{what}"
        );
        if is_done {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 40 && left.len() > 6, "{crashes} {left:?}");
}

#[tokio::test]
async fn nothing_is_deleted_before_its_time() {
    let mut world = grown(3).await;
    let settings = Settings::default();
    let repository = world.open().await;
    let collector = Collector::new(&repository, settings);
    // What was superseded within a week stays, whatever the policy says.
    let dry = collector.dry().await.unwrap();
    let proposed = collector.compact(false).await.unwrap();
    assert_eq!(proposed.expired, 40 - 28 - 1);
    assert_eq!(
        (dry.expired, dry.points),
        (proposed.expired, proposed.points)
    );
    world.clock.advance(settings.floor - DAY / 4);
    let packs = world.keys("packs").await.len();
    let early = collector.remove().await.unwrap();
    assert_eq!((early.record, early.cut), (None, 0));
    assert_eq!(world.keys("packs").await.len(), packs);
    world.clock.advance(DAY / 4);
    let due = collector.remove().await.unwrap();
    assert!(due.record.is_some() && due.deleted.packs > 0, "{due:?}");
    drop(repository);
    world.follow(world.files()).await;
    world.check("after its time").await;
}

/// An expiry of over half of the points waits for somebody to say that it is meant.
#[tokio::test]
async fn a_large_expiry_is_held() {
    let world = grown(4).await;
    let repository = world.open().await;
    let collector = Collector::new(&repository, AT_ONCE);
    let held = collector.compact(false).await.unwrap();
    assert!(held.is_held && held.expired * 2 > held.points, "{held:?}");
    let state = load(&repository).await.unwrap().state;
    assert!(state.collection.expired.is_empty());
    let meant = collector.compact(true).await.unwrap();
    assert!(!meant.is_held && meant.record.is_some());
}

/// A pack that nobody named may be an upload under way, for a day or as long as a record holds it.
#[tokio::test]
async fn uploads_under_way_are_left_alone() {
    let mut world = World::new(5).await;
    world.push(&[("a", Some(b"a"))]).await;
    let repository = world.open().await;
    let noise = world.entropy.bytes(300_000);
    let upload = |path: &'static str| {
        let content = [(path, Some(noise.as_slice()))];
        world.author.draft(&world.state, content).unwrap()
    };
    let (abandoned, held) = (upload("x"), upload("y"));
    for pack in abandoned.packs.iter().chain(&held.packs) {
        repository
            .put_pack(pack.id, pack.bytes.clone())
            .await
            .unwrap();
    }
    let collector = Collector::new(&repository, Settings::default());
    assert_eq!(collector.compact(true).await.unwrap().record, None);
    let body = Body::Hold(HoldBody {
        base: world.state.head,
        packs: held.packs.iter().map(|pack| pack.id).collect(),
    });
    world.append(body, world.files()).await;
    world.clock.advance(DAY);
    let compacted = collector.compact(true).await.unwrap();
    assert_eq!((compacted.orphans, compacted.condemned), (1, 1));
    // Whoever comes back with it has to upload it again; what was held lands.
    let late = repository.append(&abandoned.draft, &world.state).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    repository.append(&held.draft, &world.state).await.unwrap();
    world.clock.advance(8 * DAY);
    assert_eq!(collector.remove().await.unwrap().packs, 1);
    let state = load(&repository).await.unwrap().state;
    assert_eq!(read_file(&repository, &state, "y").await.unwrap(), noise);
}

/// A program that was away while its place in the log was retired goes on from a checkpoint, and finds what it
/// had sent by its nonce.
#[tokio::test]
async fn who_was_away_goes_on() {
    let mut world = World::new(6).await;
    world.keep(NOTHING).await;
    let away = Arc::clone(&world.state);
    let sent = world
        .author
        .draft(&away, [("mine", Some(&b"mine"[..]))])
        .unwrap()
        .draft;
    let unsent = world
        .author
        .draft(&away, [("other", Some(&b"other"[..]))])
        .unwrap()
        .draft;
    let repository = world.open().await;
    let landed = repository.append(&sent, &away).await.unwrap();
    let mut files = world.files();
    files.insert("mine".into(), b"mine".to_vec());
    world.follow(files).await;
    for _ in 0..40 {
        world.push_something().await;
    }
    world.compact().await;
    world.remove().await;
    assert!(world.state.collection.cut > landed.record.envelope.number);

    let repository = world.open().await;
    assert_eq!(*advance(&repository, &away).await.unwrap(), *world.state);
    let again = repository.append(&sent, &away).await.unwrap();
    assert_eq!(again.record.id, landed.record.id);
    assert!(again.is_retired());
    // What the records between changed nobody knows any more, so this one is planned anew.
    let planned = repository.append(&unsent, &away).await;
    assert!(
        matches!(planned, Err(Error::Conflict { .. })),
        "{planned:?}"
    );
    // The chain is unbroken, from the first envelope on.
    let mut parent = world.open().await.empty_state().head.id;
    for number in 1..=world.state.head.number {
        let stored = repository.record(number).await.unwrap().unwrap();
        assert_eq!(stored.record.envelope.parent, parent);
        assert_eq!(stored.is_retired(), number <= world.state.collection.cut);
        parent = stored.record.id;
    }
    // A moment is found by the envelopes.
    let kept = world.state.collection.expired.last().unwrap() + 1;
    let moment = Point::Time(world.state.time);
    assert_eq!(
        load_at(&repository, moment).await.unwrap().head,
        world.state.head
    );
    load_at(&repository, Point::Record(kept)).await.unwrap();
}

#[tokio::test]
async fn a_purge_takes_a_content_out_of_every_point() {
    let mut world = World::new(7).await;
    let large = world.entropy.bytes(200_000);
    world
        .push(&[("secret", Some(b"hunter2")), ("beside", Some(b"kept"))])
        .await;
    world
        .push(&[
            ("keys/large", Some(&large)),
            ("other", Some(&world.entropy.bytes(150_000))),
        ])
        .await;
    world.push(&[("secret", None), ("keys/large", None)]).await;
    let before = world.state.head.number;
    let repository = world.open().await;
    let collector = Collector::new(&repository, Settings::default());
    for path in ["secret", "keys"] {
        let path = path.parse().unwrap();
        let Collected { compacted, removed } = sendable(collector.purge(&path)).await.unwrap();
        let removed = removed.unwrap();
        assert!(
            compacted.purged == 1 && removed.record.is_some(),
            "{compacted:?} {removed:?}"
        );
    }
    let refused = collector
        .purge(&"beside".parse().unwrap())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("delete it first"), "{refused}");
    // No object has it any more, in whatever form.
    let repository = world.open().await;
    for number in 1..=before {
        let state = load_at(&repository, Point::Record(number)).await.unwrap();
        for (path, content) in &world.at[usize::try_from(number).unwrap()] {
            let read = read_file(&repository, &state, path).await;
            if path == "secret" || path == "keys/large" {
                let error = read.unwrap_err().to_string();
                assert!(error.contains("purged"), "{path} at {number}: {error}");
            } else {
                assert_eq!(read.unwrap(), content, "{path} at {number}");
            }
        }
    }
    let frame = &large[1_000..2_000];
    for listed in world.store.list_objects().await.unwrap() {
        let bytes = world.store.read(&listed.key).await.unwrap().unwrap();
        let has = bytes.windows(frame.len()).any(|window| window == frame);
        assert!(!has, "{} has it", listed.key);
    }
}

/// A world with content to be purged, in a record and in a pack, and some of its bytes as they are stored.
async fn leaky(seed: u64) -> (World, [Vec<u8>; 2]) {
    let mut world = World::new(seed).await;
    world.keep(Policy { last: 3, ..NOTHING }).await;
    let (small, large) = (world.entropy.bytes(2_000), world.entropy.bytes(200_000));
    let other = world.entropy.bytes(150_000);
    let changes: [(&str, Option<&[u8]>); 4] = [
        ("keys/small", Some(&small)),
        ("beside", Some(b"kept")),
        ("passing", Some(&other)),
        ("keys/large", None),
    ];
    world.push(&changes[..3]).await;
    let changes: [(&str, Option<&[u8]>); 2] = [
        ("keys/large", Some(&large)),
        ("other", Some(&other[..9_000])),
    ];
    world.push(&changes).await;
    let changes: [(&str, Option<&[u8]>); 3] = [
        ("keys/small", None),
        ("keys/large", None),
        ("passing", None),
    ];
    world.push(&changes).await;
    for _ in 0..6 {
        world.push_something().await;
    }
    (
        world,
        [small[500..532].to_vec(), large[1_000..1_032].to_vec()],
    )
}

async fn holds_any(world: &World, leaks: &[Vec<u8>]) -> bool {
    for listed in world.store.list_objects().await.unwrap() {
        let bytes = world.store.read(&listed.key).await.unwrap().unwrap();
        let has = |leak: &Vec<u8>| bytes.windows(leak.len()).any(|window| window == leak);
        if leaks.iter().any(has) {
            return true;
        }
    }
    false
}

/// Goal: a purge that was killed is finished at once by whoever comes next, and not after the floor: by the same
/// purge, or by a compaction once its record is there.
#[tokio::test(start_paused = true)]
async fn a_purge_may_die_anywhere() {
    let path = "keys".parse().unwrap();
    let (world, leaks) = leaky(31).await;
    let (mut crashes, mut between) = (0, 0);
    for polls in 0.. {
        let mut world = world.fork();
        let repository = open(&world.slow(), &world.clock, &world.entropy).await;
        let purging = Collector::new(&repository, Settings::default());
        let is_done = after_polls(polls, purging.purge(&path)).await.is_some();
        drop(repository);
        world.follow(world.files()).await;
        let collection = &world.state.collection;
        let is_between = collection.compacted > 0 && collection.collected == collection.compacted;
        between += u64::from(is_between);
        let repository = world.open().await;
        let next = Collector::new(&repository, Settings::default());
        if collection.compacted > 0 && polls % 2 == 0 {
            next.collect(false).await.unwrap();
        } else {
            next.purge(&path).await.unwrap();
        }
        let what = format!("after {polls} polls");
        assert!(!holds_any(&world, &leaks).await, "{what}");
        drop(repository);
        world.follow(world.files()).await;
        let repository = world.open().await;
        let kept = read_file(&repository, &world.state, "beside")
            .await
            .unwrap();
        assert_eq!(kept, "kept", "{what}");
        if is_done {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 20 && between > 5, "{crashes} {between}");
}

/// Goal: what is purged goes at once also where it was condemned before, and waits for its time.
#[tokio::test]
async fn a_purge_of_what_is_condemned_does_not_wait() {
    let (mut world, leaks) = leaky(32).await;
    let waits = Settings {
        floor: Settings::default().floor,
        upload: Duration::ZERO,
    };
    world.clock.advance(30 * DAY);
    let repository = world.open().await;
    let collector = Collector::new(&repository, waits);
    // What has it is let go, and deleted a week later.
    let compacted = collector.compact(true).await.unwrap();
    assert!(compacted.condemned > 0, "{compacted:?}");
    assert!(holds_any(&world, &leaks).await);
    let path = "keys".parse().unwrap();
    let before = world.keys("packs").await;
    collector.purge(&path).await.unwrap();
    drop(repository);
    world.follow(world.files()).await;
    let after = world.keys("packs").await;
    assert!(before != after);
    assert!(!holds_any(&world, &leaks).await);
}

/// Goal: a purge that another collector overtakes looks again, wherever that happens, and purges.
#[tokio::test(start_paused = true)]
async fn a_purge_that_is_overtaken_looks_again() {
    let path = "keys".parse().unwrap();
    let (world, leaks) = leaky(33).await;
    let mut both = 0;
    for polls in (0..160).step_by(4) {
        let mut world = world.fork();
        let repository = open(&world.slow(), &world.clock, &world.entropy).await;
        let purging = Collector::new(&repository, Settings::default());
        let other = world.open().await;
        let meanwhile = async {
            let other = Collector::new(&other, AT_ONCE);
            other.compact(true).await.unwrap();
            other.remove().await.unwrap();
        };
        let purged = overtaken(polls, purging.purge(&path), meanwhile)
            .await
            .unwrap();
        assert!(!holds_any(&world, &leaks).await, "after {polls} polls");
        both += u64::from(purged.compacted.record > Some(world.state.head.number + 1));
        drop((repository, other));
        world.follow(world.files()).await;
    }
    assert!(both > 5, "{both}");
}

/// Goal: what `usage` says that keeping less would free is what goes when less is kept; nothing that is younger
/// than the floor counts, whatever is asked.
#[tokio::test]
async fn what_a_shorter_policy_would_free_is_what_it_frees() {
    let mut world = World::new(40).await;
    for _ in 0..60 {
        world.clock.advance(DAY / 2);
        let noise = world.entropy.bytes(300_000);
        world.push(&[("large", Some(&noise))]).await;
    }
    let repository = world.open().await;
    let collector = Collector::new(&repository, Settings::default());
    let ask = async |days| collector.usage(Some(days)).await.unwrap().shorter.unwrap();
    assert_eq!(collector.usage(None).await.unwrap().shorter, None);
    // As long as they are kept now, and longer: nothing.
    for days in [30, 400] {
        let shorter = ask(days).await;
        assert_eq!((shorter.points, shorter.bytes), (0, 0), "{days}");
    }
    let (ten, week) = (ask(10).await, ask(7).await);
    assert!(
        week.bytes > ten.bytes && ten.bytes > 300_000 * 20,
        "{ten:?} {week:?}"
    );
    for days in [0, 1, 6] {
        let shorter = ask(days).await;
        assert_eq!((shorter.points, shorter.bytes), (week.points, week.bytes));
    }
    let policy = Policy {
        within_days: 10,
        ..Policy::default()
    };
    drop(repository);
    world.keep(policy).await;
    let repository = world.open().await;
    let collector = Collector::new(&repository, Settings::default());
    let compacted = collector.compact(true).await.unwrap();
    assert_eq!(compacted.expired, ten.points);
    let after = collector.usage(Some(10)).await.unwrap();
    let shorter = after.shorter.unwrap();
    assert_eq!((shorter.points, shorter.bytes), (0, 0));
    // A pack is its content and a table.
    assert!(after.condemned > ten.bytes && after.condemned < ten.bytes * 11 / 10);
}

/// Goal: whoever reads or verifies meets no damage, whenever a collector moves and deletes what is read.
#[tokio::test(start_paused = true)]
async fn a_collector_may_come_between_any_two_requests() {
    let world = grown(50).await;
    let kept = 7;
    let (mut reads, mut verified) = (0, 0);
    for polls in (1..240).step_by(6) {
        let mut world = world.fork();
        let what = format!("after {polls} polls");
        let repository = open(&world.slow(), &world.clock, &world.entropy).await;
        let other = world.open().await;
        let meanwhile = async || {
            let other = Collector::new(&other, AT_ONCE);
            other.compact(true).await.unwrap();
            other.remove().await.unwrap();
        };
        let files = &world.at[kept];
        let reading = async {
            let at = Point::Record(kept as u64);
            let state = load_at(&repository, at).await.unwrap();
            for (path, content) in files {
                let read = read_file(&repository, &state, path).await;
                assert_eq!(read.unwrap(), content, "{path}, {what}");
            }
        };
        overtaken(polls, reading, meanwhile()).await;
        reads += files.len();
        world.push_something().await;
        world.push_something().await;
        let slow = world.slow();
        let options = everything();
        let report = overtaken(polls, verify(&slow, &options, &Unwatched), meanwhile()).await;
        let report = report.unwrap();
        assert!(report.damaged.is_empty(), "{what}: {:?}", report.damaged);
        verified += 1;
    }
    assert!(reads > 40 && verified == 40, "{reads} {verified}");
}

/// What stands in for what is retired is no cache: verification names it when it is gone.
#[tokio::test]
async fn a_loss_is_named_whatever_was_collected() {
    let mut world = grown(8).await;
    world.compact().await;
    world.remove().await;
    world.push_something().await;
    let collection = &world.state.collection;
    let listing = layout::tree(collection.listings[0].tree.id);
    let (live, _) = world.state.packs.last_key_value().unwrap();
    let lost = [
        listing,
        layout::checkpoint(collection.cut, 0),
        layout::pack(*live),
        layout::record(collection.cut + 1),
        layout::record(3),
    ];
    for key in lost {
        let world = world.fork();
        let path = Path::from(key.as_str());
        world.memory.delete(&path).await.unwrap();
        let report = verify(&world.store, &everything(), &Unwatched)
            .await
            .unwrap();
        let named: Vec<&str> = report.damaged.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(named, [key.as_str()]);
    }
    // A body that was cut away without a word in the log is a loss as well.
    let cut_away = layout::record(collection.cut + 2);
    let bytes = world.store.read(&cut_away).await.unwrap().unwrap();
    let stored = StoredRecord::read(collection.cut + 2, bytes).unwrap();
    let envelope = stored.retired().unwrap();
    world
        .memory
        .put(&Path::from(cut_away.as_str()), envelope.into())
        .await
        .unwrap();
    let report = verify(&world.store, &everything(), &Unwatched)
        .await
        .unwrap();
    let named: Vec<&str> = report.damaged.iter().map(|one| one.key.as_str()).collect();
    assert!(named.contains(&cut_away.as_str()), "{named:?}");
}

/// A replica holds all that is kept, whenever it was begun, and loses in time what was removed.
#[tokio::test]
async fn a_replica_follows_what_is_collected() {
    let mut tidied = 0;
    for seed in 20..22 {
        let mut world = World::new(seed).await;
        let (replica, mut seen) = (Store::memory(), BTreeSet::new());
        world.keep(Policy { last: 5, ..NOTHING }).await;
        for step in 0..170 {
            let what = format!("seed {seed}, step {step}");
            world.clock.advance(DAY / 4);
            match world.entropy.below(24) {
                0 => drop(world.compact().await),
                1 => drop(world.remove().await),
                2 => {
                    world.replicate(&replica).await;
                    seen.extend(replica.list("packs", "packs").await.unwrap());
                    world.check_in(&replica, &what).await;
                }
                3 => world.snapshot(world.state.head.number).await,
                _ => world.push_something().await,
            }
        }
        let there = replica.list("packs", "packs").await.unwrap();
        tidied += seen.difference(&there.into_iter().collect()).count();
        world.compact().await;
        world.remove().await;
        for replica in [replica, Store::memory()] {
            world.replicate(&replica).await;
            let (kept, gone) = world
                .check_in(&replica, &format!("seed {seed}, copied"))
                .await;
            assert!(kept > 5 && gone > 30, "{kept} {gone}");
        }
    }
    assert!(tidied > 0);
}
