//! A repository with very many records: listing, restoring and pulling stay few requests in few rounds, also
//! where somebody has collected, and what lies beside the log stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Args;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::digest::Digest;
use statehold_core::environment::Clock as _;
use statehold_core::id::RepositoryId;
use statehold_core::limits::FAR_BEHIND_RECORDS;
use statehold_core::point::Point;
use statehold_core::record::{Body, ForgetBody, Kind, SnapshotBody};
use statehold_core::retention::Policy;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::store::{Listed, Listing, Store};
use statehold_repository::{Remote as _, Repository};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::slow_store::{ROUND, SlowStore};

/// Points
#[derive(Debug, Args)]
pub(crate) struct PointsArgs {
    /// Records in the repository
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// How many records and how many moments are restored
    #[arg(long, default_value_t = 50)]
    restores: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Reads and lists before the content.
const REQUESTS_MAX: u64 = 24;
/// Rounds before the first content.
const ROUNDS_MAX: u64 = 3;
/// Files in the repository.
const FILES: u64 = 1_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two records.
const PAUSE: Duration = Duration::from_secs(60);
/// Every so many records one names a snapshot.
const SNAPSHOT_EVERY: u64 = 1_000;
/// Records before the newest that are restored besides those drawn.
const RECENT: u64 = 80;
/// Records that a log shows at first.
const LISTED: u64 = 20;

pub(crate) fn run(args: &PointsArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(show(args))
}

/// The repository, and what it should be.
struct Scene {
    memory: Arc<InMemory>,
    store: Store,
    meter: Arc<Meter>,
    clock: Arc<SimulatedClock>,
    /// Time and listing of the records that are restored, wherever content lies.
    expected: BTreeMap<u64, (i64, Digest)>,
    /// Those of them that were drawn.
    drawn: Vec<u64>,
    /// The newest record that holds content.
    filled: u64,
    head: Arc<State>,
    /// A state of some time ago, as a machine that was away has it.
    away: Arc<State>,
}

impl Scene {
    async fn open(&self) -> Result<Repository> {
        self.open_with(9).await
    }

    /// As somebody who draws other names.
    async fn open_with(&self, seed: u64) -> Result<Repository> {
        let clock = Arc::<SimulatedClock>::clone(&self.clock);
        let entropy = Arc::new(SeededEntropy::new(seed));
        let id = RepositoryId::from_bytes([7; 16]);
        Ok(Repository::open_or_create(self.store.clone(), id, clock, entropy).await?)
    }
}

/// The most that one kind of verb took.
#[derive(Debug, Default)]
struct Worst {
    times: u64,
    requests: u64,
    rounds: u64,
    bytes: u64,
}

impl Worst {
    fn note(&mut self, usage: Usage, took: Duration) {
        self.times += 1;
        self.requests = self.requests.max(usage.reads + usage.lists);
        self.rounds = self.rounds.max(took.as_secs() / ROUND.as_secs());
        self.bytes = self.bytes.max(usage.bytes_out);
    }
}

async fn show(args: &PointsArgs) -> Result<()> {
    let begun = Instant::now();
    let mut scene = build(args).await?;
    println!(
        "{} records of a repository of {FILES} files in {:.1} s",
        scene.head.head.number,
        begun.elapsed().as_secs_f64()
    );
    measure(&scene).await?;
    let kinds = kinds(&scene.store).await?;
    println!("\n| objects | number | bytes | largest |");
    println!("|---|---|---|---|");
    for (kind, (number, bytes, largest)) in &kinds {
        println!("| {kind} | {number} | {bytes} | {largest} |");
    }
    let bytes = |kind: &str| kinds.get(kind).map_or(0, |(_, bytes, _)| *bytes);
    let beside = bytes("checkpoints") + bytes("trees");
    ensure!(
        beside <= BESIDE_MAX * bytes("log"),
        "checkpoints and trees take {beside} bytes, the log {}",
        bytes("log")
    );
    let begun = Instant::now();
    let listings = collect(&mut scene, args).await?;
    println!(
        "\ncollected in {:.1} s: {listings} listings stand in for the records up to {}, {} frames have moved",
        begun.elapsed().as_secs_f64(),
        scene.head.collection.cut,
        moved(&scene).await?,
    );
    measure(&scene).await
}

/// Lets states go as if the repository were old: one an hour is kept, the newest quarter, and what snapshots
/// name. Draws from what is kept of the others. Gives how many listings stand in for retired records.
async fn collect(scene: &mut Scene, args: &PointsArgs) -> Result<usize> {
    let objects: Arc<dyn ObjectStore> = Arc::new(scene.memory.fork());
    let before = Store::new(objects, Listing::Sorted);
    // Past whatever the store says of its objects, so that all of them are old enough.
    let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH)? + DAY;
    let ahead = i64::try_from(tomorrow.as_millis())? - scene.clock.now().as_millis();
    scene
        .clock
        .advance(Duration::from_millis(u64::try_from(ahead).unwrap_or(0)) + PAUSE);
    let repository = scene.open_with(10).await?;
    let author = Author::new(args.seed + 1);
    let body = Body::Forget(ForgetBody {
        base: scene.head.head,
        snapshots: Vec::new(),
        policy: Some(Policy {
            within_days: 0,
            last: u32::try_from(args.count / 4)?,
            hourly: u32::MAX,
            ..Policy::default()
        }),
    });
    let draft = StoredDraft::new(author.head(Kind::Forget, Vec::new()), body, &[])?;
    repository.append_as(&draft, &scene.head, None).await?;
    let settings = Settings {
        floor: Duration::ZERO,
        upload: Duration::ZERO,
    };
    let collector = Collector::new(&repository, settings);
    collector.compact(true).await?;
    collector.remove().await?;
    let known = Arc::clone(&scene.head);
    scene.head = advance(&repository, &known).await?;

    let collection = scene.head.collection.clone();
    let entropy = SeededEntropy::new(args.seed + 2);
    let drawn = 0..args.restores;
    let drawn: Vec<u64> = drawn
        .filter_map(|round| match round % 2 {
            0 => entropy
                .pick(&collection.listings)
                .map(|listing| listing.from),
            _ => {
                let (_, kept) = collection.nearest(1 + entropy.below(args.count));
                (kept <= args.count).then_some(kept)
            }
        })
        .collect();
    let id = RepositoryId::from_bytes([7; 16]);
    let clock = Arc::<SimulatedClock>::clone(&scene.clock);
    let uncollected =
        Repository::open_or_create(before, id, clock, Arc::new(SeededEntropy::new(9))).await?;
    for number in &drawn {
        let state = load_at(&uncollected, Point::Record(*number)).await?;
        let expected = (state.time.as_millis(), state.tree.root_wherever());
        scene.expected.insert(*number, expected);
    }
    scene.drawn = drawn;
    Ok(collection.listings.len())
}

/// How many frames the newest compaction says where they lie now.
async fn moved(scene: &Scene) -> Result<usize> {
    let repository = scene.open().await?;
    let compaction = repository.record(scene.head.collection.compacted).await?;
    Ok(match compaction.map(|stored| stored.record.body) {
        Some(Body::Compact(compact)) => compact.moves.len(),
        _ => 0,
    })
}

/// What everything takes.
async fn measure(scene: &Scene) -> Result<()> {
    let mut rows: Vec<(&str, Worst)> = Vec::new();
    let mut worst = Worst::default();
    let repository = scene.open().await?;
    measured(scene, &mut worst, async {
        let state = load(&repository).await?.state;
        ensure!(state.tree.root() == scene.head.tree.root(), "another state");
        ensure!(state.snapshots == scene.head.snapshots, "other snapshots");
        Ok(())
    })
    .await?;
    rows.push(("a clone's listing, and all snapshots", worst));

    let mut worst = Worst::default();
    let repository = scene.open().await?;
    measured(scene, &mut worst, async {
        let end = scene.head.head.number;
        let found = repository.records_until(end - LISTED, end).await?;
        ensure!(found.len() as u64 == LISTED, "{} records", found.len());
        Ok(())
    })
    .await?;
    rows.push(("the newest 20 records", worst));

    rows.extend(Box::pin(measure_pulls(scene)).await?);

    let (mut by_number, mut by_time, mut content) =
        (Worst::default(), Worst::default(), Worst::default());
    for (round, number) in (0..).zip(scene.drawn.iter().copied()) {
        let (time, root) = scene.expected[&number];
        let late = Timestamp::from_millis(time + 1);
        // The newest moments, too, which other rules find.
        let recent = scene.filled - round % RECENT;
        for point in [
            Point::Record(number),
            Point::Time(late),
            Point::Record(recent),
            Point::Time(Timestamp::from_millis(scene.expected[&recent].0)),
        ] {
            let worst = match point {
                Point::Time(_) => &mut by_time,
                _ => &mut by_number,
            };
            let repository = scene.open().await?;
            let mut state = None;
            measured(scene, worst, async {
                state = Some(load_at(&repository, point).await?);
                Ok(())
            })
            .await?;
            let Some(state) = state else { continue };
            let expected = scene.expected[&state.head.number].1;
            let found = state.tree.root_wherever();
            ensure!(found == expected, "{point:?}: another tree");
            if matches!(point, Point::Record(at) if at == number) {
                ensure!(found == root, "{point:?}: another tree");
                // A record that names a snapshot holds no file.
                let last = number - u64::from(number.is_multiple_of(SNAPSHOT_EVERY));
                let path = format!("f{}", last % FILES);
                measured(scene, &mut content, async {
                    let found = read_file(&repository, &state, &path).await?;
                    ensure!(found == content_of(last), "{path} at {number}");
                    Ok(())
                })
                .await?;
            }
        }
    }
    rows.push(("the tree at a record", by_number));
    rows.push(("the tree at a moment", by_time));
    rows.push(("content of a file in it", content));

    println!("| what | times | requests at most | rounds at most | bytes at most |");
    println!("|---|---|---|---|---|");
    for (what, worst) in &rows {
        let Worst {
            times,
            requests,
            rounds,
            bytes,
        } = worst;
        println!("| {what} | {times} | {requests} | {rounds} | {bytes} |");
    }
    for (what, worst) in &rows {
        ensure!(worst.requests <= REQUESTS_MAX, "{what}: {worst:?}");
        ensure!(worst.rounds <= ROUNDS_MAX, "{what}: {worst:?}");
    }
    Ok(())
}

/// What pulls take of machines that have just started and missed more or less.
async fn measure_pulls(scene: &Scene) -> Result<Vec<(&'static str, Worst)>> {
    let head = scene.head.head.number;
    let near = FAR_BEHIND_RECORDS as u64;
    let (mut lately, mut up_to, mut beyond, mut half) = <(Worst, Worst, Worst, Worst)>::default();
    for back in (0..=4 * near).filter(|back| *back < head) {
        let known = state_at(scene, head - back).await?;
        let worst = if back > near { &mut beyond } else { &mut up_to };
        measure_pull(scene, worst, &known, None).await?;
        if back <= near {
            let now = scene.clock.now();
            measure_pull(scene, &mut lately, &known, Some(now)).await?;
        }
    }
    measure_pull(scene, &mut half, &scene.away, None).await?;
    Ok(vec![
        ("a pull, up to 64 records behind", up_to),
        ("the same, who looked lately", lately),
        ("a pull, 65 to 256 records behind", beyond),
        ("a pull, half of all records behind", half),
    ])
}

/// What one pull takes, of who looked last then.
async fn measure_pull(
    scene: &Scene,
    worst: &mut Worst,
    known: &Arc<State>,
    looked: Option<Timestamp>,
) -> Result<()> {
    let repository = scene.open().await?;
    if let Some(time) = looked {
        repository.looked_at(time);
    }
    measured(scene, worst, async {
        let state = advance(&repository, known).await?;
        ensure!(state.head == scene.head.head, "another head");
        ensure!(state.tree.root() == scene.head.tree.root(), "another state");
        Ok(())
    })
    .await
}

/// Checkpoints and trees may take so many times what the log does.
const BESIDE_MAX: u64 = 4;

async fn measured(
    scene: &Scene,
    worst: &mut Worst,
    verb: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (before, begun) = (scene.meter.usage(), tokio::time::Instant::now());
    verb.await?;
    worst.note(scene.meter.usage().since(before), begun.elapsed());
    Ok(())
}

fn content_of(number: u64) -> Vec<u8> {
    format!("what record {number} holds").into_bytes()
}

async fn state_at(scene: &Scene, number: u64) -> Result<Arc<State>> {
    Ok(load_at(&scene.open().await?, Point::Record(number)).await?)
}

async fn build(args: &PointsArgs) -> Result<Scene> {
    let memory = Arc::new(InMemory::new());
    let inner: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&memory);
    let objects: Arc<dyn ObjectStore> = Arc::new(SlowStore::new(inner));
    let (store, meter) = Store::new(objects, Listing::Sorted).metered();
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let mut scene = Scene {
        memory,
        store,
        meter,
        clock,
        expected: BTreeMap::new(),
        drawn: Vec::new(),
        filled: args.count,
        head: Arc::new(State::empty(Digest::of(b""))),
        away: Arc::new(State::empty(Digest::of(b""))),
    };
    let entropy = SeededEntropy::new(args.seed);
    let draws = 0..args.restores;
    scene.drawn = draws.map(|_| 1 + entropy.below(args.count)).collect();
    let wanted: BTreeSet<u64> = scene.drawn.iter().copied().collect();
    let repository = scene.open().await?;
    let author = Author::new(args.seed);
    let mut state = Arc::new(repository.empty_state());
    for number in 1..=args.count {
        scene.clock.advance(PAUSE);
        let draft = if number.is_multiple_of(SNAPSHOT_EVERY) {
            let label = format!("at-{number}").parse()?;
            let id = SnapshotId::new(state.time, &label);
            let body = Body::Snapshot(SnapshotBody {
                base: state.head,
                id: id.ok_or_else(|| anyhow::anyhow!("no name"))?,
                at: state.head.number,
                files: state.tree.len() as u64,
                bytes: 0,
            });
            StoredDraft::new(author.head(Kind::Snapshot, Vec::new()), body, &[])?
        } else {
            let path = format!("f{}", number % FILES);
            let content = content_of(number);
            author.draft(&state, [(&*path, Some(&*content))])?.draft
        };
        (_, state) = repository.append_as(&draft, &state, None).await?;
        repository.tend(&state).await?;
        if wanted.contains(&number) || number + RECENT > args.count {
            let time = state.time.as_millis();
            scene
                .expected
                .insert(number, (time, state.tree.root_wherever()));
        }
        if number == args.count / 2 {
            scene.away = Arc::clone(&state);
        }
    }
    scene.head = state;
    Ok(scene)
}

/// Number, bytes and largest of each kind of object.
async fn kinds(store: &Store) -> Result<BTreeMap<String, (u64, u64, u64)>> {
    let mut kinds: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for Listed { key, bytes, .. } in store.list_objects().await? {
        let kind = key.split('/').next().unwrap_or_default().to_owned();
        let (number, sum, largest) = kinds.entry(kind).or_default();
        (*number, *sum, *largest) = (*number + 1, *sum + bytes, bytes.max(*largest));
    }
    Ok(kinds)
}
