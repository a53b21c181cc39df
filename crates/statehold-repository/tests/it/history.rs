//! Long logs: segments and checkpoints are caches, so whatever becomes of them, a reader sees what
//! the log says.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use statehold_core::digest::Digest;
use statehold_core::id::RepositoryId;
use statehold_core::point::Point;
use statehold_core::time::Timestamp;
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote as _, Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::WormStore;

use crate::scene::{Scene, open};

/// Past the first segment, the first checkpoint, several of both.
const LENGTHS: [u64; 8] = [1, 15, 16, 17, 33, 65, 130, 210];

async fn assert_cold_load_is_the_fold(scene: &Scene, what: &str) {
    let (cold, folded) = (scene.load_cold().await, scene.fold_from_scratch().await);
    let cold = cold.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(*cold, folded, "{what}");
    assert_eq!(cold.tree.root(), folded.tree.root(), "{what}");
}

#[tokio::test]
async fn a_cold_load_is_the_fold_of_all_records() {
    let mut scene = Scene::new().await;
    for length in LENGTHS {
        scene.push_many(length - scene.state.head.number).await;
        assert_cold_load_is_the_fold(&scene, &format!("{length} records")).await;
        // A reader who was there before comes to the same.
        for since in [0, 1, length / 2, length - 1] {
            let mut old = scene.repository.empty_state();
            for number in 1..=since {
                let stored = scene.repository.record(number).await.unwrap().unwrap();
                old.apply(&stored.record).unwrap();
            }
            let restarted = open(&scene.store).await;
            let caught_up = advance(&restarted, &Arc::new(old)).await.unwrap();
            assert_eq!(caught_up, scene.state, "{length} records, from {since}");
        }
    }
    assert_eq!(scene.keys("segments").await.len(), 13);
    assert!(scene.keys("checkpoints").await.len() >= 3);
}

/// Also where a checkpoint stands with records after it, just before one, and just after.
#[tokio::test]
async fn every_earlier_state_can_be_read() {
    let mut scene = Scene::new().await;
    scene.push_many(140).await;
    assert!(!scene.keys("checkpoints").await.is_empty());
    let cold = open(&scene.store).await;
    let mut folded = scene.repository.empty_state();
    for number in 0..=140 {
        if number > 0 {
            let stored = scene.repository.record(number).await.unwrap().unwrap();
            folded.apply(&stored.record).unwrap();
        }
        let found = load_at(&cold, Point::Record(number)).await;
        let found = found.unwrap_or_else(|error| panic!("record {number}: {error}"));
        assert_eq!(*found, folded, "record {number}");
    }
    assert!(load_at(&cold, Point::Record(141)).await.is_err());
}

/// A state at any moment, at the price of a clone: 24 reads and lists at most, however long the log.
#[tokio::test]
async fn every_moment_can_be_read_at_the_price_of_a_clone() {
    let objects = Arc::new(InMemory::new());
    let (store, meter) = Store::new(objects, Listing::Sorted).metered();
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let opened = async || {
        let clock: Arc<SimulatedClock> = Arc::clone(&clock);
        let entropy = Arc::new(SeededEntropy::new(5));
        let id = RepositoryId::from_bytes([7; 16]);
        let opened = Repository::open_or_create(store.clone(), id, clock, entropy).await;
        opened.unwrap()
    };
    let (repository, author) = (opened().await, Author::new(4));
    let mut state = Arc::new(repository.empty_state());
    let mut at_record = vec![state.clone()];
    for number in 1..=700_u64 {
        // Several records may be of one moment.
        clock.advance(Duration::from_millis(number % 3 * 1_000));
        let (path, content) = (format!("f{}", number % 50), format!("{number}"));
        let drafted = author.draft(&state, [(&*path, Some(content.as_bytes()))]);
        let appended = repository
            .append_as(&drafted.unwrap().draft, &state, None)
            .await;
        state = appended.unwrap().1;
        repository.tend(&state).await.unwrap();
        at_record.push(state.clone());
    }
    let moments = (0..at_record.len())
        .step_by(23)
        .map(|number| at_record[number].time);
    for time in moments.skip(1) {
        for offset in [0, 1, -1] {
            let moment = Timestamp::from_millis(time.as_millis() + offset);
            let wanted = at_record[1..].iter().rfind(|state| state.time <= moment);
            let cold = opened().await;
            let before = meter.usage();
            let found = load_at(&cold, Point::Time(moment)).await;
            let usage = meter.usage().since(before);
            match wanted {
                Some(wanted) => assert_eq!(found.unwrap(), *wanted, "{moment}"),
                None => assert!(found.is_err(), "{moment}"),
            }
            assert!(usage.reads + usage.lists <= 24, "{moment}: {usage:?}");
        }
    }
    for number in [1, 15, 16, 17, 63, 64, 65, 300, 699, 700] {
        let cold = opened().await;
        let before = meter.usage();
        let found = load_at(&cold, Point::Record(number)).await.unwrap();
        let usage = meter.usage().since(before);
        assert_eq!(found, at_record[usize::try_from(number).unwrap()]);
        assert!(
            usage.reads + usage.lists <= 24,
            "record {number}: {usage:?}"
        );
    }
    // Walking back through the log takes a read for each segment, and no listing.
    let cold = opened().await;
    let before = meter.usage();
    let records = cold.records_until(576, 640).await.unwrap();
    let usage = meter.usage().since(before);
    assert!(
        records
            .iter()
            .map(|stored| stored.record.envelope.number)
            .eq(577..=640)
    );
    assert!(usage.reads <= 5 && usage.lists == 0, "{usage:?}");
    assert!(cold.records_until(640, 500).await.is_err());
    assert!(cold.records_until(0, 65).await.is_err());
    assert!(cold.records_until(690, 701).await.is_err());
    assert!(
        load_at(&cold, Point::Time(Timestamp::from_millis(0)))
            .await
            .is_err()
    );
}

/// Everything works on a store that refuses every overwrite and every delete.
#[tokio::test]
async fn nothing_is_ever_overwritten_or_deleted() {
    let worm = Arc::new(WormStore::new(Arc::new(InMemory::new())));
    let mut scene = Scene::over(Arc::<WormStore>::clone(&worm)).await;
    scene.push_many(140).await;
    let noise = SeededEntropy::new(3).bytes(600_000);
    scene.push(&[("large", Some(&noise))]).await;
    assert_cold_load_is_the_fold(&scene, "write-once").await;
    let read = read_file(&open(&scene.store).await, &scene.state, "large").await;
    assert_eq!(read.unwrap(), noise);
    assert_eq!(worm.refused(), 0);
}

/// Every cache that is missing, damaged or another history's is passed over.
#[tokio::test]
async fn useless_caches_are_passed_over() {
    let (mut scene, mut foreign) = (Scene::new().await, Scene::new().await);
    foreign.push(&[("foreign", Some(b"x"))]).await;
    scene.push_many(150).await;
    foreign.push_many(149).await;
    for folder in ["segments", "checkpoints", "trees"] {
        for key in scene.keys(folder).await {
            let good = scene.bytes(&key).await;
            scene.remove(&key).await;
            assert_cold_load_is_the_fold(&scene, &format!("{key} missing")).await;
            let mut flipped = good.to_vec();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x10;
            for (what, bytes) in [
                ("flipped", flipped),
                ("cut", good[..good.len() / 2].to_vec()),
                ("empty", Vec::new()),
            ] {
                scene.overwrite(&key, bytes).await;
                assert_cold_load_is_the_fold(&scene, &format!("{key} {what}")).await;
            }
            scene.overwrite(&key, good).await;
        }
    }
    // Another history has objects of the same names, whole and readable.
    for folder in ["segments", "checkpoints"] {
        for key in scene.keys(folder).await {
            let (good, other) = (scene.bytes(&key).await, foreign.bytes(&key).await);
            assert_ne!(good, other);
            scene.overwrite(&key, other).await;
            assert_cold_load_is_the_fold(&scene, &format!("{key} of another history")).await;
            scene.overwrite(&key, good).await;
        }
    }
    // Neighbours vouch for one another only if the log vouches for the last.
    for key in scene.keys("segments").await {
        scene.overwrite(&key, foreign.bytes(&key).await).await;
    }
    assert_cold_load_is_the_fold(&scene, "all segments of another history").await;
}

/// A checkpoint that nobody wrote, or that is of no use, is written by the next reader.
#[tokio::test]
async fn a_checkpoint_of_no_use_is_replaced() {
    let (mut scene, mut foreign) = (Scene::new().await, Scene::new().await);
    foreign.push(&[("foreign", Some(b"x"))]).await;
    scene.push_many(100).await;
    foreign.push_many(99).await;
    let newest = scene.keys("checkpoints").await.remove(0);
    let (number, _) = layout::parse_checkpoint(&newest).unwrap();
    assert!(number < 100, "there are records after it");
    let good = scene.bytes(&newest).await;
    let tree = layout::tree(Checkpoint::read(&newest, &good).unwrap().tree.id);
    let good_tree = scene.bytes(&tree).await;
    for (key, bytes) in [
        (&newest, foreign.bytes(&newest).await),
        (&newest, good.slice(..40)),
        (&tree, good_tree.slice(..40)),
    ] {
        scene.overwrite(key, bytes).await;
        let repository = open(&scene.store).await;
        let overdue = load(&repository).await.unwrap().overdue.unwrap();
        assert_eq!(overdue.head.number, number);
        repository.tend(&overdue).await.unwrap();
        // Now it is there, under another name, and the next reader begins with it.
        let loaded = load(&repository).await.unwrap();
        assert_eq!(loaded.overdue, None);
        assert_eq!(*loaded.state, scene.fold_from_scratch().await);
        let opening = repository.open(Point::Newest).await.unwrap();
        assert_eq!(opening.checkpoint.unwrap().0.at.number, number);
        // Tending again has nothing to do.
        let before = scene.keys("trees").await;
        repository.tend(&overdue).await.unwrap();
        assert_eq!(scene.keys("trees").await, before);
        for copy in 1..4 {
            if scene
                .keys("checkpoints")
                .await
                .contains(&layout::checkpoint(number, copy))
            {
                scene.remove(&layout::checkpoint(number, copy)).await;
            }
        }
        scene.overwrite(&newest, good.clone()).await;
        scene.overwrite(&tree, good_tree.clone()).await;
    }
}

/// The tree at an old record is found over the checkpoint before it.
#[tokio::test]
async fn a_reader_may_begin_at_an_older_checkpoint() {
    let mut scene = Scene::new().await;
    scene.push_many(140).await;
    for at_most in [0, 31, 63, 64, 100, 139, u64::MAX] {
        let opening = scene.repository.open(Point::Record(at_most)).await.unwrap();
        let found = opening
            .checkpoint
            .map_or(0, |(checkpoint, _)| checkpoint.at.number);
        let numbers: Vec<u64> = scene
            .keys("checkpoints")
            .await
            .iter()
            .filter_map(|key| layout::parse_checkpoint(key))
            .map(|(number, _)| number)
            .collect();
        let best = numbers.iter().filter(|number| **number <= at_most).max();
        assert_eq!(
            found,
            best.copied().unwrap_or(0),
            "at most {at_most} of {numbers:?}"
        );
    }
    assert_ne!(scene.state.tree.root(), Digest::of(b""));
}
