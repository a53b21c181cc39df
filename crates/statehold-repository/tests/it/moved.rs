//! Readers of whole histories who are overtaken by a collection: a verification over a gateway, and bringing over from a
//! first store that turned up again. What was moved is no damage, and what was let go is said to be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::FutureExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use statehold_core::id::MachineId;
use statehold_core::retention::Policy;
use statehold_repository::bring_over::{End, bring_over};
use statehold_repository::collect::Collector;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::switch::promote;
use statehold_repository::verify::{Unwatched, over_remote};
use statehold_repository::{Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::hooked::{Before, Hooked};

use crate::world::{AT_ONCE, Files, NOTHING, World, everything, open};

/// A history of packs of which a part is kept and the rest is let go, and of packs that are let go as a whole.
pub(crate) async fn half_kept(seed: u64) -> (World, Files, Store) {
    let mut world = World::new(seed).await;
    world.keep(Policy { last: 3, ..NOTHING }).await;
    world.push(&[("shared", Some(b"1"))]).await;
    let replica = Store::memory();
    world.replicate(&replica).await;
    let mut passing = Files::new();
    for number in 0..12 {
        let names = ["kept", "passing", "gone"].map(|folder| format!("{folder}/{number}"));
        let contents = [130_000, 200_000, 280_000].map(|length| world.entropy.bytes(length));
        let both = [0, 1].map(|file| (&*names[file], Some(&*contents[file])));
        world.push(&both).await;
        let other = [(&*names[1], None), (&*names[2], Some(&*contents[2]))];
        world.push(&other).await;
        world.push(&[(&names[2], None)]).await;
        passing.insert(names[1].clone(), contents[1].clone());
    }
    (world, passing, replica)
}

/// The repository of a world in which somebody collects before content is read for the first time, and how often it was
/// read. What the content went to may be lost at once.
async fn collected_while_read(world: &World, is_lost: bool) -> (Hooked, Arc<AtomicUsize>) {
    let inner = Arc::new(world.open().await);
    let reads = Arc::new(AtomicUsize::new(0));
    let (counter, memory) = (Arc::clone(&reads), Arc::clone(&world.memory));
    let (store, clock) = (world.store.clone(), Arc::clone(&world.clock));
    let (entropy, base) = (world.entropy.branch(), world.state.head.number);
    let hooked = Hooked::new(inner, move |before| {
        let is_due = before == Before::Read && counter.fetch_add(1, Ordering::SeqCst) == 0;
        let (store, clock, entropy) = (store.clone(), Arc::clone(&clock), entropy.branch());
        let memory = Arc::clone(&memory);
        async move {
            if !is_due {
                return;
            }
            let repository = open(&store, &clock, &entropy).await;
            let collector = Collector::new(&repository, AT_ONCE);
            collector.compact(true).await.unwrap();
            let removed = collector.remove().await.unwrap();
            assert!(removed.deleted.packs > 20, "{removed:?}");
            for pack in went_to(&repository, base).await.iter().filter(|_| is_lost) {
                memory.delete(&Path::from(pack.as_str())).await.unwrap();
            }
        }
        .boxed()
    });
    (hooked, reads)
}

/// The packs that the compaction behind a record made.
async fn went_to(repository: &Repository, base: u64) -> Vec<String> {
    let compaction = repository.record(base + 1).await.unwrap().unwrap();
    let packs = compaction.record.envelope.draft.packs.iter();
    packs.map(|pack| layout::pack(pack.id)).collect()
}

/// Goal: a verification over a gateway does not take for damage what a collector has moved since it looked; what is
/// lost where it lies by now is named there, with the files that need it.
#[tokio::test]
async fn a_verification_over_a_gateway_finds_what_was_moved() {
    let (world, ..) = half_kept(70).await;
    let base = world.state.head.number;
    for is_lost in [false, true] {
        let world = world.fork();
        let (remote, reads) = collected_while_read(&world, is_lost).await;
        let report = over_remote::verify(&remote, &everything(), &Unwatched).await;
        let report = report.unwrap();
        assert!(reads.load(Ordering::SeqCst) > 1);
        let mut named = Vec::new();
        for damaged in &report.damaged {
            assert!(damaged.paths.len() >= 10, "{damaged:?}");
            named.push(damaged.key.clone());
        }
        let mut lost = went_to(&world.open().await, base).await;
        lost.retain(|_| is_lost);
        assert_eq!(named, lost, "{report:?}");
    }
}

/// Goal: bringing over finds content that a collector moves in the first store meanwhile, and leaves out what it
/// let go, instead of ending there.
#[tokio::test]
async fn bringing_over_finds_what_was_moved() {
    let (world, passing, replica) = half_kept(71).await;
    let new = open(&replica, &world.clock, &world.entropy).await;
    let machine = MachineId::from_bytes([9; 16]);
    promote(&new, machine, &SeededEntropy::new(72))
        .await
        .unwrap();
    // A machine has pushed a part of it again, so that of each push only what is kept is wanted.
    let state = load(&new).await.unwrap().state;
    let again = passing
        .iter()
        .map(|(path, content)| (&**path, Some(&**content)));
    Author::new(73).push(&new, &state, again).await.unwrap();

    let (old, reads) = collected_while_read(&world, false).await;
    let found = bring_over(&old, &new, &SeededEntropy::new(74), true).await;
    let found = found.unwrap();
    assert!(reads.load(Ordering::SeqCst) > passing.len());
    let count = |is_such: fn(&End) -> bool| found.iter().filter(|lost| is_such(&lost.end)).count();
    // What is kept; and of what passed the newest, which is kept as well.
    assert_eq!(
        count(|end| matches!(end, End::Landed(_))),
        passing.len() + 2
    );
    assert_eq!(count(|end| *end == End::LeftOut), passing.len() - 1);
    let state = load(&new).await.unwrap().state;
    let files = world.files();
    let kept = files.iter().filter(|(path, _)| path.starts_with("kept/"));
    for (path, content) in kept {
        let read = read_file(&new, &state, path).await.unwrap();
        assert_eq!(&read, content, "{path}");
    }
}
