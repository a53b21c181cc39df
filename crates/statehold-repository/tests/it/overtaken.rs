//! Collectors that are killed or overtaken, and whoever is overtaken by one: wherever that happens, nothing is missing
//! that is kept, and nothing is left that was purged.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use statehold_core::id::MachineId;
use statehold_core::point::Point;
use statehold_core::retention::Policy;
use statehold_repository::collect::{Collector, Compacted, Settings};
use statehold_repository::remote::load_at;
use statehold_repository::store::{Listing, Store};
use statehold_repository::switch::promote;
use statehold_repository::verify::{Unwatched, verify};
use statehold_repository::{Error, layout};
use statehold_testkit::author::read_file;
use statehold_testkit::crash::{after_polls, overtaken};
use statehold_testkit::dated_store::DatedStore;
use statehold_testkit::faulty_store::WormStore;

use crate::moved::half_kept;
use crate::world::{AT_ONCE, DAY, NOTHING, World, everything, grown, open};

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

/// Goal: a checkpoint whose listing is lost is a cache less, and keeps nobody from collecting.
#[tokio::test]
async fn a_lost_listing_keeps_nobody_from_collecting() {
    let mut world = grown(60).await;
    let trees = world.keys("trees").await;
    assert!(!trees.is_empty());
    for tree in trees {
        let path = Path::from(tree.as_str());
        world.memory.delete(&path).await.unwrap();
    }
    world.compact().await.unwrap();
    world.remove().await.unwrap();
    assert!(world.state.collection.cut >= 16);
    let repository = world.open().await;
    let state = load_at(&repository, Point::Record(7)).await.unwrap();
    for (path, content) in &world.at[7] {
        let read = read_file(&repository, &state, path).await.unwrap();
        assert_eq!(read, content, "{path}");
    }
}

/// Goal: a purge says what it cannot tell: content of a path whose records are retired and that no kept state names
/// waits with its pack, and goes with it; and so does what a promote left behind.
#[tokio::test]
async fn a_purge_says_what_it_cannot_tell() {
    let mut world = World::new(35).await;
    world.keep(Policy { last: 3, ..NOTHING }).await;
    let [leak, stays] = [100_000, 300_000].map(|length| world.entropy.bytes(length));
    world
        .push(&[("keys/x", Some(&leak)), ("stays", Some(&stays))])
        .await;
    world.push(&[("keys/x", None)]).await;
    for number in 0..20 {
        world.push(&[("small", Some(&[number]))]).await;
    }
    // Its record is retired, and its pack is kept for what else is in it; then that is let go as well.
    world.compact().await;
    world.remove().await;
    assert!(world.state.collection.cut >= 16 && world.state.packs.len() == 1);
    world.push(&[("stays", None)]).await;
    for number in 0..5 {
        world.push(&[("small", Some(&[number]))]).await;
    }
    world.compact().await;
    let leaks = [leak[500..532].to_vec()];
    let (path, waits) = ("keys".parse().unwrap(), Settings::default());
    let repository = world.open().await;
    let collector = Collector::new(&repository, waits);
    let untold = collector.purge(&path).await.unwrap().untold.unwrap();
    assert_eq!((untold.packs, untold.left_behind), (1, 0));
    assert!(untold.bytes > 400_000 && holds_any(&world, &leaks).await);
    world.clock.advance(8 * DAY);
    assert_eq!(collector.remove().await.unwrap().deleted.packs, 1);
    assert!(!holds_any(&world, &leaks).await);
    assert_eq!(collector.purge(&path).await.unwrap().untold, None);

    drop(repository);
    world.follow(world.files()).await;
    let replica = Store::memory();
    world.replicate(&replica).await;
    for number in 0..2 {
        world.push(&[("beyond", Some(&[number]))]).await;
        let key = layout::record(world.state.head.number);
        let bytes = world.store.read(&key).await.unwrap().unwrap();
        replica.create(&key, bytes).await.unwrap();
    }
    let repository = open(&replica, &world.clock, &world.entropy).await;
    let machine = MachineId::from_bytes([9; 16]);
    promote(&repository, machine, &world.entropy).await.unwrap();
    let collector = Collector::new(&repository, waits);
    let untold = collector.purge(&path).await.unwrap().untold.unwrap();
    assert_eq!((untold.packs, untold.left_behind), (0, 2));
}

/// Goal: where a store deletes nothing, that is noticed with the first removal; from then on nothing is copied there until
/// somebody approves or the store lets go.
#[tokio::test]
async fn a_store_that_deletes_nothing_is_compacted_once() {
    let (mut world, ..) = half_kept(36).await;
    let locked = Arc::new(WormStore::new(Arc::<DatedStore>::clone(&world.dated)));
    let locked = Store::new(locked, Listing::Sorted);
    let repository = open(&locked, &world.clock, &world.entropy).await;
    let collector = Collector::new(&repository, AT_ONCE);
    let first = collector.collect(true).await.unwrap();
    assert!(first.compacted.condemned > 0, "{first:?}");
    assert!(first.removed.unwrap().is_refused);
    let usage = collector.usage(None).await.unwrap();
    assert!(
        usage.undeleted > 100_000 && usage.condemned == 0,
        "{usage:?}"
    );
    world.follow(world.files()).await;
    for _ in 0..5 {
        world.push_something().await;
    }
    let before = world.store.list_objects().await.unwrap().len();
    for _ in 0..2 {
        let again = collector.collect(false).await.unwrap();
        assert_eq!(again.compacted, Compacted::default());
        assert!(again.removed.unwrap().is_refused);
    }
    assert_eq!(world.store.list_objects().await.unwrap().len(), before);
    // What is purged is not said to be gone.
    let refused = collector.purge(&"gone".parse().unwrap()).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let approved = collector.collect(true).await.unwrap();
    assert!(approved.compacted.record.is_some() && approved.removed.unwrap().is_refused);

    // The lock ends.
    let repository = world.open().await;
    let collector = Collector::new(&repository, AT_ONCE);
    let collected = collector.collect(false).await.unwrap();
    assert!(!collected.removed.unwrap().is_refused);
    assert_eq!(collector.usage(None).await.unwrap().undeleted, 0);
    world.follow(world.files()).await;
    world.check("after the lock").await;
}
