//! Switching to a replica: what goes on, what is left behind, and what of the old epoch can land no more.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::id::MachineId;
use statehold_core::point::Point;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::replicate::{Replicator, Unwatched, position};
use statehold_repository::store::{Listing, Store};
use statehold_repository::switch::{Promotion, fence, plan_promotion, promote};
use statehold_repository::verify::subset::Day;
use statehold_repository::verify::{Options, verify};
use statehold_repository::{Error, Remote as _, layout};
use statehold_testkit::author::Author;
use statehold_testkit::crash::after_polls;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::{Faults, FaultyStore};
use statehold_testkit::trace::Trace;

use crate::scene::{Scene, open};

const MACHINE: MachineId = MachineId::from_bytes([9; 16]);

async fn copy(from: &Store, to: &Store, until: u64) {
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(1));
    let replicator = Replicator::new(clock, entropy, Arc::new(Unwatched));
    let copied = replicator.copy(from, to, None, Some(until)).await;
    assert!(copied.stopped.is_none(), "{copied:?}");
}

/// Records of the source that came to the replica and were not marked: a replicator died there.
async fn unmarked(from: &Store, to: &Store, records: std::ops::RangeInclusive<u64>) {
    for number in records {
        let key = layout::record(number);
        let bytes = from.read(&key).await.unwrap().unwrap();
        to.create(&key, bytes).await.unwrap();
    }
}

async fn promoted(replica: &Store) -> Promotion {
    let repository = open(replica).await;
    let entropy = SeededEntropy::new(5);
    promote(&repository, MACHINE, &entropy).await.unwrap()
}

/// Of 40 records 35 are marked in the replica, and 38 are there.
async fn lost() -> (Scene, Store) {
    let mut scene = Scene::new().await;
    scene.push_many(40).await;
    let replica = Store::memory();
    copy(&scene.store, &replica, 35).await;
    unmarked(&scene.store, &replica, 36..=38).await;
    (scene, replica)
}

/// Goal: every reader of a promoted replica gets the state at the mark, whatever it knew before.
#[tokio::test]
async fn an_epoch_continues_from_the_mark() {
    let (scene, replica) = lost().await;
    let at = async |number| {
        load_at(&scene.repository, Point::Record(number))
            .await
            .unwrap()
    };
    let planned = plan_promotion(&open(&replica).await).await.unwrap();
    assert_eq!((planned.epoch, planned.from), (1, at(35).await.head));
    assert_eq!(
        (planned.left_behind, planned.is_end, planned.by),
        (3, false, None)
    );
    let done = promoted(&replica).await;
    assert_eq!(done.by.map(|by| by.number), Some(39));
    assert_eq!(Promotion { by: None, ..done }, planned);
    // Again it is the same.
    assert_eq!(promoted(&replica).await, done);

    let repository = open(&replica).await;
    let cold = load(&repository).await.unwrap().state;
    assert_eq!(cold.tree, at(35).await.tree);
    assert_eq!((cold.epoch(), cold.head), (1, done.by.unwrap()));
    // A reader that knew what the replica has, and one that knew what is lost.
    for known in [30, 35, 36, 38, 39, 40] {
        let known = at(known).await;
        let warm = advance(&repository, &known).await.unwrap();
        assert_eq!(warm, cold, "from record {}", known.head.number);
        assert_eq!(cold.fork_since(&known), Some(planned.from));
    }
    // What was left behind can still be looked at.
    let left = load_at(&repository, Point::Record(37)).await.unwrap();
    assert_eq!(left.tree, at(37).await.tree);
    // It goes on, and a checkpoint later it is the same.
    let mut on = Scene::new().await;
    (on.store, on.state) = (replica.clone(), cold);
    on.repository = repository;
    on.push_many(100).await;
    assert_eq!(*on.load_cold().await.unwrap(), *on.state);
    assert_eq!(on.state.epoch(), 1);
    let options = Options {
        read: None,
        day: Day::default(),
        known: vec![on.state.head],
        packs: BTreeSet::new(),
    };
    let report = verify(&replica, &options, &statehold_repository::verify::Unwatched)
        .await
        .unwrap();
    assert!(
        report.is_well() && report.missing_caches.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.head, Some(on.state.head));
    // A second switch continues in the same way.
    let second = Store::memory();
    copy(&replica, &second, 120).await;
    unmarked(&replica, &second, 121..=122).await;
    assert_eq!(promoted(&second).await.by.map(|by| by.number), Some(123));
    let twice = load(&open(&second).await).await.unwrap().state;
    let there = load_at(&on.repository, Point::Record(120)).await.unwrap();
    assert_eq!((twice.epoch(), &twice.tree), (2, &there.tree));
    assert_eq!(twice.fork_since(&*at(30).await), Some(planned.from));
    assert_eq!(twice.fork_since(&on.state), Some(there.head));
}

/// Goal: a log that parted without a promote is refused, and so is the log of an earlier epoch.
#[tokio::test]
async fn only_a_later_epoch_explains_another_log() {
    let (scene, replica) = lost().await;
    promoted(&replica).await;
    let new = load(&open(&replica).await).await.unwrap().state;
    let back = advance(&scene.repository, &new).await;
    assert!(
        matches!(back, Err(Error::Diverged { number: 39, .. })),
        "{back:?}"
    );
    // Another replica of the same log, promoted as well.
    let other = Store::memory();
    copy(&scene.store, &other, 35).await;
    promoted(&other).await;
    let other = open(&other).await;
    let refused = advance(&other, &new).await;
    assert!(
        matches!(refused, Err(Error::Damaged { .. } | Error::Diverged { .. })),
        "{refused:?}"
    );
}

/// Goal: what was handed in to the old log lands in the new one only if it is made anew, or brought over.
#[tokio::test]
async fn a_draft_of_an_earlier_epoch_is_made_anew() {
    let (scene, replica) = lost().await;
    let early = load_at(&scene.repository, Point::Record(20)).await.unwrap();
    let late = load_at(&scene.repository, Point::Record(40)).await.unwrap();
    promoted(&replica).await;
    let repository = open(&replica).await;
    let new = load(&repository).await.unwrap().state;
    for known in [&early, &late] {
        let drafted = scene.author.draft(known, [("x", Some(&b"1"[..]))]).unwrap();
        let refused = repository.append(&drafted.draft, &new).await;
        assert!(
            matches!(refused, Err(Error::Conflict { number: 39, .. })),
            "{refused:?}"
        );
    }
    // Nor has what was left behind landed: its very draft, handed in again.
    let drafted = scene.author.draft(&late, [("y", Some(&b"1"[..]))]).unwrap();
    let stored = scene
        .repository
        .append(&drafted.draft, &late)
        .await
        .unwrap();
    assert_eq!(stored.record.envelope.number, 41);
    let other = Store::memory();
    copy(&scene.store, &other, 40).await;
    unmarked(&scene.store, &other, 41..=41).await;
    promoted(&other).await;
    let other = open(&other).await;
    let new = load(&other).await.unwrap().state;
    let again = other.append(&drafted.draft, &new).await;
    assert!(
        matches!(again, Err(Error::Conflict { number: 42, .. })),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_fence_ends_a_log_and_loses_nothing() {
    let mut scene = Scene::new().await;
    scene.push_many(20).await;
    let entropy = SeededEntropy::new(5);
    assert_eq!(
        fence(&scene.repository, MACHINE, &entropy).await.unwrap(),
        21
    );
    assert_eq!(
        fence(&scene.repository, MACHINE, &entropy).await.unwrap(),
        21
    );
    let drafted = scene
        .author
        .draft(&scene.state, [("x", Some(&b"1"[..]))])
        .unwrap();
    let refused = scene
        .repository
        .append(&drafted.draft, &scene.state)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("statehold link"), "{refused}");
    // A request from before that arrives late stands there, is void and has not landed.
    let fenced = load(&scene.repository).await.unwrap().state;
    let zombie = drafted.draft.at(fenced.head, fenced.time, None);
    scene
        .store
        .create(&layout::record(22), zombie.bytes)
        .await
        .unwrap();
    let refused = open(&scene.store)
        .await
        .append(&drafted.draft, &scene.state)
        .await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let after = scene.load_cold().await.unwrap();
    assert_eq!((&after.tree, after.head.number), (&scene.state.tree, 22));

    let replica = Store::memory();
    copy(&scene.store, &replica, 21).await;
    let done = promoted(&replica).await;
    assert!(done.is_end && done.left_behind == 0, "{done:?}");
    let new = load(&open(&replica).await).await.unwrap().state;
    assert_eq!(
        (&new.tree, new.fenced, new.epoch()),
        (&scene.state.tree, None, 1)
    );
    // A fence that was not meant: its own store goes on, with nothing left out.
    let done = promoted(&scene.store).await;
    assert_eq!((done.epoch, done.left_behind, done.is_end), (1, 1, true));
    assert_eq!(scene.load_cold().await.unwrap().tree, scene.state.tree);
}

#[tokio::test]
async fn what_is_no_replica_is_not_promoted() {
    let mut scene = Scene::new().await;
    let entropy = SeededEntropy::new(5);
    scene.push_many(1).await;
    let refused = promote(&scene.repository, MACHINE, &entropy)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("statehold replicate"),
        "{refused}"
    );
    // A replica into which nothing has come yet is one.
    let (young, replica) = (Scene::new().await, Store::memory());
    copy(&young.store, &replica, u64::MAX).await;
    let done = promoted(&replica).await;
    assert_eq!(
        (done.from.number, done.by.map(|by| by.number)),
        (0, Some(1))
    );
}

/// Goal: a promote that is killed anywhere is done or not done, and the next one ends it.
/// Method: a replicator is at work at the same time, for as long as it can.
#[tokio::test(start_paused = true)]
async fn every_await_of_a_promote_is_a_place_to_crash() {
    let (scene, _) = lost().await;
    let mut ends = BTreeSet::new();
    for polls in 0.. {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let replica = Store::new(Arc::clone(&objects), Listing::Sorted);
        copy(&scene.store, &replica, 35).await;
        unmarked(&scene.store, &replica, 36..=36).await;
        let trace = Trace::default();
        let far = FaultyStore::new(objects, SeededEntropy::new(polls), Faults::default(), trace);
        let far = open(&Store::new(Arc::new(far), Listing::Sorted)).await;
        let entropy = SeededEntropy::new(polls);
        let run = after_polls(polls, promote(&far, MACHINE, &entropy)).await;
        // Whoever reads now finds a whole log.
        let state = load(&open(&replica).await).await.unwrap().state;
        ends.insert(state.epoch());
        let done = promoted(&replica).await;
        assert_eq!((done.epoch, done.by.map(|by| by.number)), (1, Some(37)));
        if let Some(run) = run {
            assert_eq!(run.unwrap(), done);
            break;
        }
    }
    assert_eq!(Vec::from_iter(ends), [0, 1]);
}

/// Goal: a replicator and a promote on one replica: whoever is first, the log is one and the promote
/// continues from a mark.
#[tokio::test(start_paused = true)]
async fn a_replicator_that_goes_on_stops_where_the_logs_part() {
    let (scene, _) = lost().await;
    let mut forks = BTreeSet::new();
    for seed in 0..24 {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let replica = Store::new(Arc::clone(&objects), Listing::Sorted);
        copy(&scene.store, &replica, 20).await;
        let far = |seed| {
            let far = FaultyStore::new(
                Arc::clone(&objects),
                SeededEntropy::new(seed),
                Faults::default(),
                Trace::default(),
            );
            Store::new(Arc::new(far), Listing::Sorted)
        };
        let to = far(seed);
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let replicator =
            Replicator::new(clock, Arc::new(SeededEntropy::new(1)), Arc::new(Unwatched));
        let promoting = async {
            tokio::time::sleep(std::time::Duration::from_millis(seed * 40)).await;
            promote(
                &open(&far(seed + 100)).await,
                MACHINE,
                &SeededEntropy::new(seed),
            )
            .await
        };
        let copying = replicator.copy(&scene.store, &to, None, None);
        let (done, copied) = futures::join!(promoting, copying);
        let (done, state) = (
            done.unwrap(),
            load(&open(&replica).await).await.unwrap().state,
        );
        assert_eq!(
            (state.epoch(), state.epoch_began()),
            (1, done.by.unwrap().number)
        );
        let from = load_at(&scene.repository, Point::Record(done.from.number))
            .await
            .unwrap();
        assert_eq!(state.tree, from.tree);
        if let Some(stopped) = copied.stopped {
            assert!(matches!(stopped, Error::Diverged { .. }), "{stopped}");
        }
        forks.insert(done.from.number);
    }
    assert!(forks.len() > 1, "{forks:?}");
}

/// Replaces a record by its envelope, as a removal does.
async fn retire(objects: &Arc<dyn ObjectStore>, store: &Store, number: u64) {
    let key = layout::record(number);
    let stored = StoredRecord::read(number, store.read(&key).await.unwrap().unwrap()).unwrap();
    let path = object_store::path::Path::from(key.as_str());
    let envelope = stored.retired().unwrap();
    objects.put(&path, envelope.into()).await.unwrap();
}

/// Goal: a replica whose replicator died before it had copied what stands in for retired records is promoted all the
/// same, wherever among those behind the mark they are; everybody reads past what was left behind, at once, and
/// when a checkpoint at the promote could not be written; and it is replicated, verified and collected further.
#[tokio::test]
async fn a_replica_with_envelopes_behind_its_mark_is_promoted() {
    for (retired, has_checkpoint) in [
        (&[36_u64, 37, 38][..], true),
        (&[36], true),
        (&[37], false),
        (&[38], true),
        (&[36, 37], false),
    ] {
        let mut scene = Scene::new().await;
        scene.push_many(40).await;
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let replica = Store::new(Arc::clone(&objects), Listing::Sorted);
        copy(&scene.store, &replica, 35).await;
        unmarked(&scene.store, &replica, 36..=38).await;
        for number in retired {
            retire(&objects, &replica, *number).await;
        }
        let at = async |number| {
            load_at(&scene.repository, Point::Record(number))
                .await
                .unwrap()
        };
        // Up to the mark it can be read before, and no further.
        let marked = load_at(&open(&replica).await, Point::Record(35)).await;
        assert_eq!(marked.unwrap().tree, at(35).await.tree);
        let newest = load(&open(&replica).await).await;
        assert!(matches!(newest, Err(Error::Retired { .. })), "{newest:?}");

        let planned = plan_promotion(&open(&replica).await).await.unwrap();
        assert_eq!((planned.from.number, planned.left_behind), (35, 3));
        let done = promoted(&replica).await;
        assert_eq!(done.by.map(|by| by.number), Some(39));
        if !has_checkpoint {
            let key = object_store::path::Path::from(layout::checkpoint(39, 0).as_str());
            objects.delete(&key).await.unwrap();
        }
        let repository = open(&replica).await;
        let cold = load(&repository).await.unwrap().state;
        assert_eq!(
            (cold.epoch(), &cold.tree, cold.head.number),
            (1, &at(35).await.tree, 39)
        );
        for known in [30, 35, 36, 38, 40] {
            let warm = advance(&repository, &at(known).await).await.unwrap();
            assert_eq!(warm, cold, "from record {known}");
        }
        assert_eq!(promoted(&replica).await, done);
        let left = load_at(&repository, Point::Record(38)).await;
        assert!(matches!(left, Err(Error::Retired { .. })), "{left:?}");

        let mut on = Scene::new().await;
        (on.store, on.state) = (replica.clone(), cold);
        (on.repository, on.objects) = (repository, objects);
        on.author = Author::new(3);
        on.push_many(70).await;
        assert_eq!(*on.load_cold().await.unwrap(), *on.state);
        let there = load_at(&open(&replica).await, Point::Record(60)).await;
        assert_eq!(there.unwrap().head.number, 60);
        let third = Store::memory();
        copy(&replica, &third, u64::MAX).await;
        assert_eq!(position(&third).await.unwrap(), Some(on.state.head));
        assert_eq!(promoted(&third).await.epoch, 2);
        let options = Options {
            read: None,
            day: Day::default(),
            known: vec![on.state.head],
            packs: BTreeSet::new(),
        };
        let unwatched = statehold_repository::verify::Unwatched;
        let report = verify(&replica, &options, &unwatched).await.unwrap();
        assert!(report.is_well(), "{report:?}");
    }
}

/// Goal: a copy of a promoted store in which the replicator was killed anywhere is promoted in its turn once that store is
/// lost, and goes on from as far as it is whole; or it is refused where the copy ends in the middle of what it was copying.
/// Method: end the replicator after one more poll each time. Besides, the second promote is killed as well.
#[tokio::test(start_paused = true)]
async fn a_second_switch_finishes_what_a_replicator_left_behind_a_promote() {
    let (scene, first) = lost().await;
    promoted(&first).await;
    let mut on = Scene::new().await;
    on.store = first.clone();
    on.repository = open(&first).await;
    on.state = load(&on.repository).await.unwrap().state;
    let large = SeededEntropy::new(4).bytes(400_000);
    on.push(&[("large", Some(&large))]).await;
    on.push_many(9).await;
    let mut forks = BTreeSet::new();
    for polls in 1.. {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let second = Store::new(Arc::clone(&objects), Listing::Sorted);
        copy(&scene.store, &second, 30).await;
        let far = |seed| {
            let (entropy, trace) = (SeededEntropy::new(seed), Trace::default());
            let far = FaultyStore::new(Arc::clone(&objects), entropy, Faults::default(), trace);
            Store::new(Arc::new(far), Listing::Sorted)
        };
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let entropy = Arc::new(SeededEntropy::new(polls));
        let replicator = Replicator::new(clock, entropy, Arc::new(Unwatched));
        let to = far(polls);
        let run = replicator.copy(&first, &to, None, None);
        let whole = after_polls(polls, run).await.is_some();

        let came = load(&open(&second).await).await.unwrap().state;
        let entropy = SeededEntropy::new(polls);
        let promoting = open(&far(polls + 1)).await;
        let killed = promote(&promoting, MACHINE, &entropy);
        drop(after_polls(polls % 30, killed).await);
        let done = promoted(&second).await;
        assert_eq!(done.epoch, came.epoch() + 1, "{polls} polls");
        assert_eq!(promoted(&second).await, done);
        let state = load(&open(&second).await).await.unwrap().state;
        assert_eq!(state.head, done.by.unwrap());
        let from = if came.epoch() == 0 {
            &scene.store
        } else {
            &first
        };
        let from = load_at(&open(from).await, Point::Then(done.from.number)).await;
        assert_eq!(state.tree, from.unwrap().tree);
        // What was whole in the new epoch is not lost, although no mark had said so.
        assert!(
            came.epoch() == 0 || done.from == came.head,
            "{done:?} {:?}",
            came.head
        );
        forks.insert((done.epoch, done.from.number));
        if whole {
            break;
        }
    }
    assert!(
        forks.contains(&(1, 30)) && forks.contains(&(2, 49)),
        "{forks:?}"
    );
    assert!(forks.len() > 5, "{forks:?}");

    // A record in the middle is an envelope alone, and what stands in for it has not come.
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let second = Store::new(Arc::clone(&objects), Listing::Sorted);
    copy(&scene.store, &second, 30).await;
    unmarked(&first, &second, 31..=45).await;
    for number in [34, 41] {
        retire(&objects, &second, number).await;
        let refused = plan_promotion(&open(&second).await).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        let says = refused.to_string();
        assert!(
            says.contains("record 39") && says.contains("statehold replicate"),
            "{says}"
        );
    }
}
