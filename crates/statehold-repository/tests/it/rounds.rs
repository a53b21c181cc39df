//! In how many rounds a pull knows what is new, however much that is: requests that wait for one another are
//! counted on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::environment::Clock as _;
use statehold_core::id::RepositoryId;
use statehold_core::state::State;
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::remote::advance;
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote as _, Repository};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::slow_store::{ROUND, SlowStore};

/// Files in the repository.
const FILES: u64 = 40;
const MINUTE: Duration = Duration::from_secs(60);

/// A log that somebody near writes, and whoever reads it from afar.
struct Log {
    objects: Arc<InMemory>,
    far: Store,
    meter: Arc<Meter>,
    clock: Arc<SimulatedClock>,
    writer: Repository,
    author: Author,
    /// The state after each record.
    states: Vec<Arc<State>>,
}

/// What a pull took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    rounds: u64,
    requests: u64,
    lists: u64,
}

impl Log {
    async fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let near: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&objects);
        let slow: Arc<dyn ObjectStore> = Arc::new(SlowStore::new(Arc::clone(&near)));
        let (far, meter) = Store::new(slow, Listing::Sorted).metered();
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let writer = open(Store::new(near, Listing::Sorted), &clock, 1).await;
        let states = vec![Arc::new(writer.empty_state())];
        Self {
            objects,
            far,
            meter,
            clock,
            writer,
            author: Author::new(1),
            states,
        }
    }

    /// So many more records, with so much time before each.
    async fn grow(&mut self, records: u64, pause: Duration) {
        for _ in 0..records {
            self.clock.advance(pause);
            let state = self.head();
            let number = state.head.number + 1;
            let content = format!("{number}");
            let path = format!("f{}", number % FILES);
            let changes = [(&*path, Some(content.as_bytes()))];
            let draft = self.author.draft(&state, changes).unwrap().draft;
            let (_, state) = self.writer.append_as(&draft, &state, None).await.unwrap();
            self.writer.tend(&state).await.unwrap();
            self.states.push(state);
        }
    }

    fn head(&self) -> Arc<State> {
        Arc::clone(self.states.last().unwrap())
    }

    fn behind(&self, records: u64) -> Arc<State> {
        let number = self.head().head.number - records;
        Arc::clone(&self.states[usize::try_from(number).unwrap()])
    }

    /// A program that has just started and last looked now.
    async fn reader(&self) -> Repository {
        let reader = self.stranger().await;
        reader.looked_at(self.clock.now());
        reader
    }

    /// The same, where nobody knows when it last looked.
    async fn stranger(&self) -> Repository {
        let described = self.writer.stored_description().clone();
        let clock = Arc::<SimulatedClock>::clone(&self.clock);
        let entropy = Arc::new(SeededEntropy::new(9));
        Repository::described(self.far.clone(), described, clock, entropy).unwrap()
    }

    /// Pulls, and sees that it comes to the head.
    async fn pull(&self, reader: &Repository, known: &Arc<State>) -> Cost {
        let (before, begun) = (self.meter.usage(), tokio::time::Instant::now());
        let state = advance(reader, known).await.unwrap();
        let took = begun.elapsed();
        assert_eq!(*state, *self.head());
        let Usage { reads, lists, .. } = self.meter.usage().since(before);
        Cost {
            rounds: took.as_secs() / ROUND.as_secs(),
            requests: reads + lists,
            lists,
        }
    }
}

async fn open(store: Store, clock: &Arc<SimulatedClock>, seed: u64) -> Repository {
    let clock = Arc::<SimulatedClock>::clone(clock);
    let entropy = Arc::new(SeededEntropy::new(seed));
    let id = RepositoryId::from_bytes([7; 16]);
    Repository::open_or_create(store, id, clock, entropy)
        .await
        .unwrap()
}

/// Whoever was away knows everything after 3 rounds and 24 requests, however far it is behind and wherever the
/// newest record stands between two checkpoints.
#[tokio::test(start_paused = true)]
async fn who_was_away_takes_three_rounds() {
    let mut log = Log::new().await;
    log.grow(200, MINUTE).await;
    let mut most = Cost {
        rounds: 0,
        requests: 0,
        lists: 0,
    };
    for _ in 0..8 {
        // 9 and 16 have no factor in common, so the log ends everywhere in a segment.
        log.grow(9, MINUTE).await;
        for behind in 0..=200 {
            let reader = log.stranger().await;
            let cost = log.pull(&reader, &log.behind(behind)).await;
            assert!(cost.rounds <= 3, "{behind} behind: {cost:?}");
            assert!(cost.requests <= 24, "{behind} behind: {cost:?}");
            if cost.requests > most.requests {
                most = cost;
            }
        }
    }
    println!("at most: {most:?}");
    // The reader of a machine that was switched off, too.
    let reader = log.reader().await;
    let known = log.head();
    log.pull(&reader, &known).await;
    log.grow(300, MINUTE).await;
    let cost = log.pull(&reader, &known).await;
    assert!(cost.rounds <= 3 && cost.requests <= 24, "{cost:?}");
}

/// Who has just started and looked lately knows up to 64 records after 3 rounds, also when all of them
/// came within the last minutes.
#[tokio::test(start_paused = true)]
async fn a_burst_takes_three_rounds() {
    let mut log = Log::new().await;
    log.grow(160, Duration::ZERO).await;
    for _ in 0..4 {
        log.grow(5, Duration::ZERO).await;
        for behind in 0..=160 {
            let reader = log.reader().await;
            let cost = log.pull(&reader, &log.behind(behind)).await;
            assert!(cost.requests <= 24, "{behind} behind: {cost:?}");
            assert!(cost.rounds <= 3 || behind > 64, "{behind} behind: {cost:?}");
        }
    }
}

/// A program that goes on looking finds a burst of up to 17 records in 3 rounds without any listing, and one of up
/// to 64 in 4.
#[tokio::test(start_paused = true)]
async fn a_burst_between_two_looks_is_read_without_a_listing() {
    let mut log = Log::new().await;
    log.grow(3, Duration::ZERO).await;
    let reader = log.reader().await;
    log.pull(&reader, &log.behind(1)).await;
    let mut known = log.head();
    for records in (1..=32).chain([1, 2, 5, 64, 40, 3, 17, 33]) {
        log.grow(records, Duration::ZERO).await;
        let cost = log.pull(&reader, &known).await;
        assert!(cost.requests <= 24, "{records}: {cost:?}");
        assert!(cost.rounds <= 4, "{records}: {cost:?}");
        if records <= 17 {
            assert!(cost.rounds <= 3 && cost.lists == 0, "{records}: {cost:?}");
        }
        if records == 1 {
            assert_eq!((cost.rounds, cost.requests), (2, 4));
        }
        known = log.head();
    }
}

/// Nothing new is one read, and one listing more a quarter of an hour after the last look.
#[tokio::test(start_paused = true)]
async fn looking_often_takes_no_listing() {
    let mut log = Log::new().await;
    log.grow(70, MINUTE).await;
    let reader = log.reader().await;
    let known = log.head();
    log.pull(&reader, &log.behind(1)).await;
    for (minutes, requests, lists) in [(0, 1, 0), (14, 1, 0), (14, 1, 0), (15, 2, 1), (1, 1, 0)] {
        log.clock.advance(MINUTE * minutes);
        let cost = log.pull(&reader, &known).await;
        assert_eq!((cost.requests, cost.lists), (requests, lists), "{minutes}");
    }
    // One that pushes has looked.
    log.clock.advance(MINUTE * 20);
    let draft = log
        .author
        .draft(&known, [("f1", Some(&b"new"[..]))])
        .unwrap();
    let (_, known) = reader.append_as(&draft.draft, &known, None).await.unwrap();
    log.states.push(Arc::clone(&known));
    let cost = log.pull(&reader, &known).await;
    assert_eq!((cost.requests, cost.lists), (1, 0));
}

/// What is looked for beside the next record is a cache. Where it can't be used, an older one leads there.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_no_use_is_passed_over() {
    for (folder, content) in [
        ("checkpoints", Some(&b"no checkpoint"[..])),
        ("checkpoints", None),
        ("trees", Some(&b"no tree"[..])),
        ("trees", None),
    ] {
        let mut log = Log::new().await;
        log.grow(150, MINUTE).await;
        let keys = log.far.list(folder, folder).await.unwrap();
        // All trees, and the newest checkpoint.
        let keys = match folder {
            "trees" => &keys[..],
            _ => &keys[..1],
        };
        for key in keys {
            let path = Path::from(key.as_str());
            match content {
                Some(content) => drop(log.objects.put(&path, content.into()).await.unwrap()),
                None => log.objects.delete(&path).await.unwrap(),
            }
        }
        for behind in [10, 64, 70, 149] {
            let reader = log.stranger().await;
            log.pull(&reader, &log.behind(behind)).await;
        }
    }
}
