//! Drills: what is whole passes, what is damaged on either side is named, and the log vouches for it.

use std::path::Path;
use std::sync::Arc;

use statehold_core::digest::Digest;
use statehold_core::id::MachineId;
use statehold_core::record::Body;
use statehold_repository::batches::TOGETHER_BYTES_MAX;
use statehold_repository::drill::receipt::{Receipt, Restore, Side, What};
use statehold_repository::drill::{Drill, Replica, vouch};
use statehold_repository::replicate::{Replicator, Unwatched as NobodyLooks};
use statehold_repository::store::Store;
use statehold_repository::verify::Unwatched;
use statehold_repository::{Error, Repository, layout};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

use crate::scene::{Scene, open};

/// A repository with packs, checkpoints and a snapshot, and what it was copied to.
async fn scenes() -> (Scene, Scene) {
    let mut scene = Scene::of_everything().await;
    scene.snapshot().await;
    let noise = SeededEntropy::new(3).bytes(900_000);
    scene.push(&[("large", Some(&noise[..]))]).await;
    let copy = Scene::new_at(&scene).await;
    (scene, copy)
}

impl Scene {
    /// The copy of a scene's repository.
    async fn new_at(source: &Self) -> Self {
        let objects: Arc<dyn object_store::ObjectStore> =
            Arc::new(object_store::memory::InMemory::new());
        let listing = statehold_repository::store::Listing::Sorted;
        let store = Store::new(Arc::clone(&objects), listing);
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let entropy = Arc::new(SeededEntropy::new(5));
        let replicator = Replicator::new(clock, entropy, Arc::new(NobodyLooks));
        let copied = replicator.copy(&source.store, &store, None, None).await;
        assert!(copied.stopped.is_none(), "{copied:?}");
        Self::over(objects).await
    }
}

pub(crate) async fn drill_with(
    primary: &Repository,
    replica: Option<&Repository>,
    scratch: &Path,
    seed: u64,
) -> Receipt {
    let drill = Drill {
        primary,
        at: "here",
        replica: Some(Replica {
            remote: replica.map(|replica| replica as _),
            at: "there",
        }),
        scratch,
        seed,
        clock: &SimulatedClock::standing(EPOCH),
        watch: &Unwatched,
    };
    let receipt = drill.run().await.unwrap();
    let left = std::fs::read_dir(scratch).unwrap().count();
    assert_eq!(left, 0, "scratch space is empty again");
    receipt
}

async fn drill(scene: &Scene, copy: &Scene) -> Receipt {
    let folder = tempfile::tempdir().unwrap();
    // As programs that have just started.
    let (primary, replica) = (open(&scene.store).await, open(&copy.store).await);
    drill_with(&primary, Some(&replica), folder.path(), 1).await
}

/// What is wrong on each side, in words.
fn problems(receipt: &Receipt, side: Side) -> Vec<String> {
    let rows = receipt.restores.iter().filter(|row| row.side == side);
    let said = |row: &Restore| {
        let one = row.problems.iter();
        one.map(|it| format!("{:?} {}", it.path, it.reason))
            .collect::<Vec<_>>()
    };
    rows.flat_map(said).collect()
}

fn restore(receipt: &Receipt, side: Side, what: What) -> &Restore {
    let mut rows = receipt.restores.iter();
    rows.find(|row| (row.side, row.what) == (side, what))
        .unwrap()
}

#[tokio::test]
async fn a_drill_restores_three_states_from_both_sides() {
    let (scene, copy) = scenes().await;
    let receipt = drill(&scene, &copy).await;
    assert!(receipt.passed, "{receipt:#?}");
    assert_eq!(receipt.restores.len(), 6);
    for side in [Side::Primary, Side::Replica] {
        let newest = restore(&receipt, side, What::Newest);
        assert_eq!(newest.record, Some(scene.state.head));
        assert_eq!(newest.root, Some(scene.state.tree.root()));
        assert_eq!(newest.entries, newest.files);
        assert!(newest.bytes > 900_000 && newest.restored_before == 0);
        let snapshot = restore(&receipt, side, What::Snapshot);
        let named = &scene.state.snapshots[snapshot.snapshot.as_ref().unwrap()];
        assert_eq!(snapshot.record.unwrap().number, named.at);
        assert_eq!(snapshot.files + snapshot.restored_before, snapshot.entries);
        let random = restore(&receipt, side, What::Random);
        assert!(random.record.unwrap().number < scene.state.head.number);
        // What a file held before it was pushed again comes once, and what it shares not again.
        let earlier = snapshot.bytes + random.bytes;
        assert!((700_000..800_000).contains(&earlier), "{earlier}");
    }
    let bytes = receipt.to_bytes().unwrap();
    assert_eq!(Receipt::from_bytes("it", &bytes).unwrap(), receipt);
}

#[tokio::test]
async fn the_log_vouches_for_the_receipt() {
    let (scene, copy) = scenes().await;
    let receipt = drill(&scene, &copy).await;
    let key = receipt.keep(&scene.store).await.unwrap();
    let machine = MachineId::from_bytes([1; 16]);
    let entropy = SeededEntropy::new(6);
    let noted = vouch(&scene.repository, &receipt, machine, &entropy).await;
    let number = noted.unwrap().number;
    let stored = scene.repository.record(number).await.unwrap().unwrap();
    let Body::Note(note) = &stored.record.body else {
        panic!("{stored:?}")
    };
    let digest = Digest::of(&scene.bytes(&key).await);
    assert_eq!(note.text, format!("drill passed; receipt blake3 {digest}"));
    let newest = Receipt::newest(&scene.store).await.unwrap();
    assert_eq!(newest, Some(receipt));
}

/// Goal: damage is found on the side that has it, and told with its object and its files.
#[tokio::test]
async fn damage_is_named_on_its_side() {
    let (scene, copy) = scenes().await;
    let packs = scene.keys("packs").await;
    let trees = scene.keys("trees").await;
    let tree = trees.first().unwrap();
    for side in [Side::Primary, Side::Replica] {
        let other = match side {
            Side::Primary => Side::Replica,
            Side::Replica => Side::Primary,
        };
        let damaged = match side {
            Side::Primary => &scene,
            Side::Replica => &copy,
        };
        for pack in &packs {
            let sound = damaged.bytes(pack).await;
            let mut flipped = sound.to_vec();
            flipped[sound.len() / 3] ^= 1;
            for bytes in [Some(flipped), None] {
                match bytes {
                    Some(bytes) => damaged.overwrite(pack, bytes).await,
                    None => damaged.remove(pack).await,
                }
                let receipt = drill(&scene, &copy).await;
                assert!(!receipt.passed);
                assert_eq!(problems(&receipt, other), Vec::<String>::new());
                let found = problems(&receipt, side);
                let file =
                    |text: &String| ["large", "small"].iter().any(|file| text.contains(file));
                assert!(found.iter().all(|text| text.contains(pack.as_str())));
                assert!(!found.is_empty() && found.iter().all(file), "{found:?}");
                damaged.overwrite(pack, sound.clone()).await;
            }
        }
        let sound = damaged.bytes(tree).await;
        damaged.remove(tree).await;
        let receipt = drill(&scene, &copy).await;
        let found = problems(&receipt, side);
        assert!(
            found.iter().any(|text| text.contains(tree.as_str())),
            "{found:?}"
        );
        let newest = restore(&receipt, side, What::Newest);
        assert_eq!(newest.entries, newest.files, "the log makes up for it");
        damaged.overwrite(tree, sound).await;
    }
    assert!(drill(&scene, &copy).await.passed);
}

#[tokio::test]
async fn a_copy_that_is_none_is_told() {
    let (scene, copy) = scenes().await;
    let folder = tempfile::tempdir().unwrap();
    let absent = drill_with(&scene.repository, None, folder.path(), 1).await;
    let said = problems(&absent, Side::Replica);
    assert!(said[0].contains("no copy of the repository"), "{said:?}");

    // It went on by itself.
    let mut copy = copy;
    copy.state = copy.load_cold().await.unwrap();
    copy.push(&[("small", Some(b"not from the source"))]).await;
    let receipt = drill(&scene, &copy).await;
    let said = problems(&receipt, Side::Replica);
    let head = layout::record(copy.state.head.number);
    assert!(said[0].contains("does not have its end"), "{said:?}");
    assert!(said[0].contains(&head), "{said:?}");
}

#[tokio::test]
async fn seeds_draw_different_records() {
    let (scene, _) = scenes().await;
    let folder = tempfile::tempdir().unwrap();
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let receipt = drill_with(&scene.repository, None, folder.path(), seed).await;
        let random = restore(&receipt, Side::Primary, What::Random)
            .record
            .unwrap();
        assert!((1..scene.state.head.number).contains(&random.number));
        drawn.insert(random.number);
    }
    assert!(drawn.len() > 10, "{drawn:?}");
}

#[tokio::test]
async fn a_file_too_large_to_be_read_at_once_is_restored() {
    let mut scene = Scene::new().await;
    let bytes = TOGETHER_BYTES_MAX + 1_000_000;
    let vast = SeededEntropy::new(4).bytes(usize::try_from(bytes).unwrap());
    scene.push(&[("vast", Some(&vast[..]))]).await;
    let copy = Scene::new_at(&scene).await;
    let receipt = drill(&scene, &copy).await;
    assert!(receipt.passed, "{receipt:#?}");
    assert_eq!(receipt.bytes, 2 * bytes);
}

#[tokio::test]
async fn an_empty_repository_has_nothing_to_restore() {
    let (scene, copy) = (Scene::new().await, Scene::new().await);
    let receipt = drill(&scene, &copy).await;
    assert!(receipt.passed && receipt.restores.is_empty());
}

#[test]
fn a_receipt_of_a_newer_program_is_refused() {
    let refused = Receipt::from_bytes("it", br#"{"version": 2}"#).unwrap_err();
    assert!(matches!(refused, Error::TooNew { .. }), "{refused}");
    let refused = Receipt::from_bytes("it", b"{}").unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
}
