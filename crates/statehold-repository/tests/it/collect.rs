//! Collecting: whatever goes, every point that is kept reads back byte for byte.

use std::collections::BTreeSet;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use statehold_core::collection::HoldBody;
use statehold_core::point::Point;
use statehold_core::record::Body;
use statehold_core::retention::Policy;
use statehold_repository::collect::{Collected, Collector, Settings};
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::{advance, load, load_at};
use statehold_repository::store::Store;
use statehold_repository::verify::{Unwatched, verify};
use statehold_repository::{Error, Remote as _, layout};
use statehold_testkit::author::read_file;
use statehold_testkit::crash::after_polls;

use crate::world::{AT_ONCE, DAY, NOTHING, World, everything, grown, open, sendable};

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
    let away = std::sync::Arc::clone(&world.state);
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
        let purged = sendable(collector.purge(&path)).await.unwrap();
        assert_eq!(purged.untold, None);
        let Collected {
            compacted, removed, ..
        } = purged;
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
