//! Replication: the copy is a repository at every moment, damage stays behind, nothing is overwritten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::environment::Clock as _;
use statehold_core::record::{Body, RecordRef};
use statehold_core::state::State;
use statehold_repository::remote::load;
use statehold_repository::replicate::plan::{OVERDUE, ROW_AGAIN, Row};
use statehold_repository::replicate::{Copied, Replicator, Unwatched, position};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Error, Repository, Result, layout};
use statehold_testkit::crash::after_polls;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::{Faults, FaultyStore, WormStore};
use statehold_testkit::trace::Trace;

use crate::scene::Scene;

fn replicator(seed: u64) -> (Replicator, Arc<SimulatedClock>) {
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(seed));
    let replicator = Replicator::new(
        Arc::<SimulatedClock>::clone(&clock),
        entropy,
        Arc::new(Unwatched),
    );
    (replicator, clock)
}

fn row() -> Row {
    Row {
        label: "cross-region-backup".parse().unwrap(),
        to: "s3://elsewhere/team".into(),
    }
}

async fn copy(from: &Store, to: &Store) -> Copied {
    replicator(1).0.copy(from, to, None, None).await
}

async fn copied(from: &Store, to: &Store) -> Copied {
    let copied = copy(from, to).await;
    assert!(copied.stopped.is_none(), "{copied:?}");
    copied
}

/// The state that a program loads which has nothing but the replica.
async fn load_replica(replica: &Store) -> Result<Arc<State>> {
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(77));
    let repository = Repository::open_existing(replica.clone(), clock, entropy).await?;
    Ok(load(&repository.unwrap()).await?.state)
}

#[tokio::test]
async fn a_copy_is_the_same_repository_and_costs_little_when_nothing_is_new() {
    let mut scene = Scene::of_everything().await;
    let replica = Store::memory();
    let done = copied(&scene.store, &replica).await;
    assert_eq!((done.records, done.packs, done.news), (71, 1, 71));
    assert_eq!(done.at, Some(scene.state.head));
    assert_eq!(done.passed_over, Vec::<String>::new());
    for folder in ["log", "packs", "segments", "checkpoints", "trees"] {
        let keys = scene.keys(folder).await;
        assert_eq!(
            replica.list(folder, folder).await.unwrap(),
            keys,
            "{folder}"
        );
        for key in keys {
            let there = replica.read(&key).await.unwrap().unwrap();
            assert_eq!(there, scene.bytes(&key).await, "{key}");
        }
    }
    assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);

    let (from, from_meter) = scene.store.clone().metered();
    let (to, to_meter) = replica.clone().metered();
    let done = copied(&from, &to).await;
    assert_eq!((done.objects, done.before), (0, done.at));
    let (source, target) = (from_meter.usage(), to_meter.usage());
    assert_eq!((source.reads, source.lists, source.writes), (1, 1, 0));
    assert_eq!((target.reads, target.lists, target.writes), (1, 1, 0));

    scene.push(&[("small", Some(b"again"))]).await;
    let before = (from_meter.usage(), to_meter.usage());
    let done = copied(&from, &to).await;
    assert_eq!((done.records, done.objects), (1, 2));
    let source = from_meter.usage().since(before.0);
    let target = to_meter.usage().since(before.1);
    assert!(source.reads <= 5 && source.lists <= 2, "{source:?}");
    assert_eq!((target.reads, target.lists, target.writes), (1, 1, 2));
}

/// Goal: whoever reads the replica finds a valid repository, wherever the replicator was killed.
/// Method: end the run after one more poll each time, look, and let another one finish.
#[tokio::test(start_paused = true)]
async fn every_await_is_a_place_to_be_killed() {
    let mut scene = Scene::new().await;
    let noise = SeededEntropy::new(9).bytes(400_000);
    scene.push(&[("large", Some(&noise))]).await;
    scene.push_many(17).await;
    let (mut seen, mut whole) = (BTreeSet::new(), false);
    for polls in (1..).step_by(2) {
        let (replica, slow) = slow(polls, Faults::default());
        let (replicator, _) = replicator(polls);
        let run = replicator.copy(&scene.store, &slow, None, None);
        whole = after_polls(polls, run).await.is_some();
        if let Some(state) = load_replica_if_any(&replica).await {
            let marked = position(&replica).await.unwrap();
            assert!(marked.is_none_or(|mark| mark.number <= state.head.number));
            seen.insert(state.head.number);
        }
        copied(&scene.store, &replica).await;
        assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);
        if whole {
            break;
        }
    }
    assert!(whole && seen.len() > 10, "{seen:?}");
}

/// Goal: whatever a store does on a bad day, the replica is valid, and whole in the end.
#[tokio::test(start_paused = true)]
async fn bad_days_of_the_second_store() {
    let scene = Scene::of_everything().await;
    for seed in 0..12 {
        let (replica, slow) = slow(seed, Faults::many());
        let mut runs = 0;
        loop {
            let (replicator, _) = replicator(seed);
            let run = replicator.copy(&scene.store, &slow, None, None);
            let done = after_polls(150 + seed * 40, run).await;
            load_replica_if_any(&replica).await;
            if done.is_some_and(|done| done.stopped.is_none()) {
                break;
            }
            runs += 1;
            assert!(runs < 400, "it gets nowhere");
        }
        assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);
    }
}

/// A store in memory, and the same one as a network away, with faults.
fn slow(seed: u64, faults: Faults) -> (Store, Store) {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let near = Store::new(Arc::clone(&objects), Listing::Sorted);
    let far = FaultyStore::new(objects, SeededEntropy::new(seed), faults, Trace::default());
    (near, Store::new(Arc::new(far), Listing::Sorted))
}

async fn load_replica_if_any(replica: &Store) -> Option<Arc<State>> {
    replica.read(layout::REPOSITORY).await.unwrap()?;
    Some(load_replica(replica).await.unwrap())
}

#[tokio::test]
async fn two_replicators_at_once_are_one() {
    let scene = Scene::of_everything().await;
    let replica = Store::memory();
    let (one, other) = tokio::join!(
        copied(&scene.store, &replica),
        copied(&scene.store, &replica)
    );
    assert_eq!((one.at, other.at), (one.at, Some(scene.state.head)));
    assert_eq!(one.at, other.at);
    // Each object was made by one of the two.
    assert_eq!(one.records + other.records, 71);
    assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);
}

#[tokio::test]
async fn a_source_that_grows_meanwhile_is_followed_to_some_record() {
    let mut scene = Scene::new().await;
    let replica = Store::memory();
    for round in 0..6 {
        let from = scene.store.clone();
        let (_, done) = tokio::join!(scene.push_many(9), copied(&from, &replica));
        let state = load_replica(&replica).await.unwrap();
        assert!(state.head.number >= done.at.unwrap().number, "{round}");
    }
    copied(&scene.store, &replica).await;
    assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);
}

/// Goal: nothing of what stands in a replica is ever overwritten or deleted, nor in the source.
/// Method: both are stores that refuse it.
#[tokio::test]
async fn stores_that_keep_everything_are_enough() {
    let worm = || Arc::new(WormStore::new(Arc::new(InMemory::new())));
    let (source, target) = (worm(), worm());
    let mut scene = Scene::over(Arc::<WormStore>::clone(&source)).await;
    let replica = Store::new(Arc::<WormStore>::clone(&target), Listing::Sorted);
    for _ in 0..3 {
        scene.push_many(20).await;
        let done = copied(&scene.store, &replica).await;
        let (replicator, _) = replicator(5);
        let left = replicator.leave_row(&scene.store, &row(), &done).await;
        assert!(left.unwrap().is_some());
        scene.state = scene.load_cold().await.unwrap();
    }
    assert_eq!((source.refused(), target.refused()), (0, 0));
}

#[tokio::test]
async fn another_history_stops_where_it_begins() {
    let mut scene = Scene::new().await;
    scene.push_many(5).await;
    let replica = Store::memory();
    copied(&scene.store, &replica).await;
    // Somebody wrote to the replica, as after a fail-over.
    let mut other = Scene::new().await;
    other.store = replica.clone();
    other.repository = crate::scene::open(&replica).await;
    other.state = load_replica(&replica).await.unwrap();
    other.push(&[("there", Some(b"1"))]).await;
    scene.push(&[("here", Some(b"2"))]).await;
    let stopped = copy(&scene.store, &replica).await;
    let Some(Error::Diverged { number: 6, .. }) = stopped.stopped else {
        panic!("{stopped:?}");
    };
    assert_eq!(stopped.at.map(|at| at.number), Some(5));

    // Another repository altogether.
    let other = Scene::new().await;
    let elsewhere = Store::memory();
    let text = r#"{"format":1}"#;
    elsewhere
        .create(layout::REPOSITORY, text.into())
        .await
        .unwrap();
    let refused = copy(&other.store, &elsewhere).await.stopped.unwrap();
    assert!(refused.to_string().contains("another repository"));
}

#[tokio::test]
async fn a_source_that_was_set_back_is_named() {
    let mut scene = Scene::new().await;
    scene.push_many(5).await;
    let replica = Store::memory();
    copied(&scene.store, &replica).await;
    for number in [4, 5] {
        scene.remove(&layout::record(number)).await;
    }
    let refused = copy(&scene.store, &replica).await.stopped.unwrap();
    assert!(refused.to_string().contains("set back"), "{refused}");
    assert!(refused.to_string().contains(&layout::record(5)));
}

/// Goal: damage is named and not passed on; the replica stays at the last good record.
/// Method: each object in turn with a bit flipped, or gone.
#[tokio::test]
async fn damage_stays_behind() {
    for gone in [false, true] {
        let clean = Scene::of_everything().await;
        let keys = [
            (layout::record(3), 2),
            (layout::record(40), 39),
            (clean.keys("packs").await.remove(0), 0),
        ];
        for (key, last) in keys {
            let scene = Scene::of_everything().await;
            // Segments would heal a record.
            for segment in scene.keys("segments").await {
                scene.remove(&segment).await;
            }
            let key = if key.starts_with("packs/") {
                scene.keys("packs").await.remove(0)
            } else {
                key
            };
            if gone {
                scene.remove(&key).await;
            } else {
                let mut bytes = scene.bytes(&key).await.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                scene.overwrite(&key, bytes).await;
            }
            let replica = Store::memory();
            let stopped = copy(&scene.store, &replica).await;
            let at = stopped.at.map(|at| at.number);
            let Some(error) = stopped.stopped else {
                panic!("{key}, gone {gone}: {stopped:?}");
            };
            assert!(error.to_string().contains(&key), "{key}: {error}");
            assert_eq!(at, Some(last), "{key}");
            assert_eq!(
                load_replica(&replica).await.unwrap().head.number,
                last,
                "{key}"
            );
            // Without a row, it is seen to be overdue some day.
            let (replicator, _) = replicator(1);
            let stopped = copy(&scene.store, &replica).await;
            let left = replicator.leave_row(&scene.store, &row(), &stopped).await;
            assert_eq!(left.unwrap(), None);
        }
    }
}

/// Goal: damage in content that only a segment or the record's own table vouches for is found.
#[tokio::test]
async fn content_that_rides_in_a_record_is_checked() {
    let mut scene = Scene::new().await;
    let noise = SeededEntropy::new(3).bytes(10_000);
    scene.push(&[("noise", Some(&noise))]).await;
    let key = layout::record(1);
    let mut bytes = scene.bytes(&key).await.to_vec();
    let at = bytes.len() - 5_000;
    bytes[at] ^= 1;
    scene.overwrite(&key, bytes).await;
    let stopped = copy(&scene.store, &Store::memory()).await.stopped.unwrap();
    assert!(matches!(stopped, Error::Damaged { .. }), "{stopped}");
    assert!(stopped.to_string().contains(&key), "{stopped}");
}

#[tokio::test]
async fn damaged_caches_are_left_out_and_named() {
    let scene = Scene::of_everything().await;
    let segment = scene.keys("segments").await.remove(0);
    let tree = scene.keys("trees").await.remove(0);
    for key in [&segment, &tree] {
        let mut bytes = scene.bytes(key).await.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        scene.overwrite(key, bytes).await;
    }
    let replica = Store::memory();
    let done = copied(&scene.store, &replica).await;
    for key in [&segment, &tree] {
        assert!(
            done.passed_over.iter().any(|said| said.contains(key)),
            "{key}: {:?}",
            done.passed_over
        );
        assert_eq!(replica.read(key).await.unwrap(), None);
    }
    assert_eq!(*load_replica(&replica).await.unwrap(), *scene.state);
}

/// Goal: what stands in the replica and is not the source's is named, and stays.
#[tokio::test]
async fn what_stands_there_with_other_bytes_is_named() {
    let scene = Scene::of_everything().await;
    let pack = scene.keys("packs").await.remove(0);
    let replica = Store::memory();
    replica.create(&pack, "x".into()).await.unwrap();
    let refused = copy(&scene.store, &replica).await.stopped.unwrap();
    assert!(refused.to_string().contains(&pack), "{refused}");
    assert_eq!(replica.read(&pack).await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn rows_say_what_was_done_and_come_to_an_end() {
    let mut scene = Scene::new().await;
    scene.push_many(3).await;
    let replica = Store::memory();
    let (replicator, clock) = replicator(4);
    let run = async || {
        let done = replicator.copy(&scene.store, &replica, None, None).await;
        replicator.leave_row(&scene.store, &row(), &done).await
    };
    assert_eq!(run().await.unwrap().map(|left| left.number), Some(4));
    let state = scene.load_cold().await.unwrap();
    let backup = &state.backups[&row().label];
    assert_eq!((backup.at, backup.by), (3, 4));
    assert_eq!(backup.to, row().to);
    // The row itself is copied, and leaves none.
    for _ in 0..3 {
        assert_eq!(run().await.unwrap(), None);
    }
    assert_eq!(position(&replica).await.unwrap().unwrap().number, 4);
    // Where nothing happens, a row once in a while still says that the copy is good.
    clock.advance(ROW_AGAIN + Duration::from_secs(1));
    assert!(!is_overdue(&scene, &clock).await);
    assert_eq!(run().await.unwrap().map(|left| left.number), Some(5));
    assert_eq!(run().await.unwrap(), None);
    clock.advance(OVERDUE + Duration::from_secs(1));
    assert!(is_overdue(&scene, &clock).await);
}

async fn is_overdue(scene: &Scene, clock: &SimulatedClock) -> bool {
    let state = scene.load_cold().await.unwrap();
    let time = state.backups[&row().label].time;
    statehold_repository::replicate::plan::is_older(time, clock.now(), OVERDUE)
}

/// Goal: a run that died after its mark and before its row is made good by the next one.
#[tokio::test]
async fn a_row_that_was_not_left_is_left_by_the_next_run() {
    let mut scene = Scene::new().await;
    scene.push_many(3).await;
    let replica = Store::memory();
    copied(&scene.store, &replica).await;
    let (replicator, _) = replicator(4);
    let done = replicator.copy(&scene.store, &replica, None, None).await;
    assert_eq!(done.objects, 0);
    let left = replicator.leave_row(&scene.store, &row(), &done).await;
    assert_eq!(left.unwrap().map(|left| left.number), Some(4));
    let record = scene.repository.record(4).await.unwrap().unwrap();
    assert!(matches!(record.record.body, Body::Backup(_)));
}

#[tokio::test]
async fn an_empty_repository_and_none_at_all() {
    let (nothing, replica) = (Store::memory(), Store::memory());
    let done = copied(&nothing, &replica).await;
    assert_eq!((done.at, done.objects), (None, 0));
    let scene = Scene::new().await;
    let genesis = scene.state.head;
    let done = copied(&scene.store, &replica).await;
    assert_eq!(
        done.at,
        Some(RecordRef {
            number: 0,
            ..genesis
        })
    );
    let again = copied(&scene.store, &replica).await;
    assert_eq!((again.objects, again.at), (0, done.at));
    assert_eq!(load_replica(&replica).await.unwrap().head, genesis);
}
