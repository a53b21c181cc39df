//! Damage: each flipped bit and each cut is found and named, and nothing makes a reader take more
//! than its bounds.

use bytes::Bytes;
use statehold_core::entry::{Chunk, Entry};
use statehold_repository::content::{open_chunk, read_pack};
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::format::header::{HEADER_BYTES, ObjectKind, write};
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::format::{segment, tree};
use statehold_repository::remote::load;
use statehold_repository::{Error, Remote as _, layout};
use statehold_testkit::author::read_file;

use crate::scene::{Scene, open};

/// Flips a bit at every position of a small object and at a few hundred of a large one, and cuts
/// it there. What comes of it has to be an error that names the object, or nothing but the same:
/// zstd leaves a few bits of a frame without meaning.
fn check_every_damage<T: PartialEq + std::fmt::Debug>(
    key: &str,
    bytes: &Bytes,
    read: impl Fn(Bytes) -> Result<T, Error>,
) {
    let good = read(bytes.clone()).unwrap();
    let step = (bytes.len() / 400).max(1);
    let mut harmless = 0;
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        match read(flipped.into()) {
            Err(Error::Damaged { object, .. }) => assert_eq!(object, key, "flipped at {at}"),
            // A program can't tell a flipped version from a later one.
            Err(Error::TooNew { .. }) if (12..HEADER_BYTES).contains(&at) => {}
            Ok(same) if same == good => harmless += 1,
            other => panic!("{key}, flipped at {at}: {other:?}"),
        }
        match read(bytes.slice(..at)) {
            Err(Error::Damaged { object, .. }) => assert_eq!(object, key, "cut at {at}"),
            other => panic!("{key}, cut at {at}: {other:?}"),
        }
    }
    assert!(
        harmless <= 8,
        "{harmless} flipped bits of {key} went unnoticed"
    );
}

#[tokio::test]
async fn objects() {
    let scene = Scene::of_everything().await;
    let key = layout::record(1);
    let record = |bytes: Bytes| StoredRecord::read(1, bytes).map(|stored| stored.record);
    check_every_damage(&key, &scene.bytes(&key).await, record);
    for key in scene.keys("packs").await {
        let id = key.strip_prefix("packs/").unwrap().parse().unwrap();
        check_every_damage(&key, &scene.bytes(&key).await, |bytes| read_pack(id, bytes));
    }
    let key = scene.keys("segments").await.remove(0);
    check_every_damage(&key, &scene.bytes(&key).await, |bytes| {
        let records = segment::read(&key, bytes, 1, 16)?;
        Ok(records
            .into_iter()
            .map(|stored| stored.record)
            .collect::<Vec<_>>())
    });
    for key in scene.keys("checkpoints").await {
        let bytes = scene.bytes(&key).await;
        check_every_damage(&key, &bytes, |bytes| Checkpoint::read(&key, &bytes));
        let reference = Checkpoint::read(&key, &bytes).unwrap().tree;
        let key = layout::tree(reference.id);
        let (bytes, others) = (scene.bytes(&key).await, reference.others.clone());
        let mut objects = std::collections::HashMap::new();
        for id in others {
            objects.insert(id, scene.bytes(&layout::tree(id)).await);
        }
        check_every_damage(&key, &bytes, |bytes| {
            let mut objects = objects.clone();
            objects.insert(reference.id, bytes);
            tree::read(&reference, &objects)
        });
    }
    let drafted = scene
        .author
        .draft(&scene.state, [("x", Some(&b"1"[..]))])
        .unwrap();
    check_every_damage("the draft", &drafted.draft.bytes, |bytes| {
        StoredDraft::read(bytes).map(|stored| stored.draft)
    });
}

fn chunk_of(scene: &Scene, path: &str) -> Chunk {
    match scene.state.tree.get(path) {
        Some(Entry::File(file)) => file.chunks[0],
        other => panic!("{path}: {other:?}"),
    }
}

/// The frames of content carry digests of their own.
#[tokio::test]
async fn content() {
    let scene = Scene::of_everything().await;
    for path in ["large", "small"] {
        let chunk = chunk_of(&scene, path);
        let key = chunk.at.object.unwrap().to_string();
        let range = chunk.at.offset..chunk.at.offset + u64::from(chunk.at.stored);
        let frame = scene.store.read_range(&key, range).await.unwrap();
        check_every_damage(&key, &frame, |frame| open_chunk(&chunk, &frame));
    }
}

/// The same through the repository: the reader hears which object it is, and is not made to wait
/// for a store that answers.
#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_named() {
    let scene = Scene::of_everything().await;
    let began = tokio::time::Instant::now();
    // A record past the checkpoint, which no segment stands in for.
    let key = layout::record(70);
    let good = scene.bytes(&key).await;
    for bytes in [good.slice(..100), Bytes::new(), flipped(&good, 60)] {
        scene.overwrite(&key, bytes).await;
        match load(&open(&scene.store).await).await {
            Err(Error::Damaged { object, .. }) => assert_eq!(object, key),
            other => panic!("{other:?}"),
        }
    }
    scene.overwrite(&key, good).await;
    // Content: in a pack and in a record, flipped, cut within it and cut before it.
    for path in ["large", "small"] {
        let chunk = chunk_of(&scene, path);
        let (key, at) = (
            chunk.at.object.unwrap().to_string(),
            usize::try_from(chunk.at.offset).unwrap(),
        );
        let good = scene.bytes(&key).await;
        for bytes in [
            flipped(&good, at + 11),
            good.slice(..at + 11),
            good.slice(..at),
        ] {
            scene.overwrite(&key, bytes).await;
            let fresh = open(&scene.store).await;
            match read_file(&fresh, &scene.state, path).await {
                Err(Error::Damaged { object, .. }) => assert_eq!(object, key, "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        scene.remove(&key).await;
        match read_file(&open(&scene.store).await, &scene.state, path).await {
            Err(Error::NotFound { object }) => assert_eq!(object, key),
            other => panic!("{path}: {other:?}"),
        }
        scene.overwrite(&key, good).await;
        read_file(&open(&scene.store).await, &scene.state, path)
            .await
            .unwrap();
    }
    assert_eq!(began.elapsed(), std::time::Duration::ZERO);
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 4;
    bytes.into()
}

/// Newer formats are refused by name, whatever object announces them.
#[tokio::test]
async fn later_versions_are_refused() {
    let scene = Scene::of_everything().await;
    for at in [12, 14] {
        let key = layout::record(71);
        let mut bytes = scene.bytes(&key).await.to_vec();
        bytes[at] += 1;
        let answer = StoredRecord::read(71, bytes.into()).map(drop);
        assert!(matches!(answer, Err(Error::TooNew { .. })), "{answer:?}");
    }
    let text = String::from_utf8(scene.bytes(layout::REPOSITORY).await.to_vec()).unwrap();
    for (from, to) in [("\"format\": 1", "\"format\": 2"), ("\"none\"", "\"aes\"")] {
        let later = text.replace(from, to);
        assert_ne!(later, text);
        let answer =
            statehold_repository::format::description::Description::from_bytes(later.as_bytes());
        assert!(matches!(answer, Err(Error::TooNew { .. })), "{answer:?}");
    }
}

/// A few bytes that expand to gigabytes cost no more than the bound.
#[tokio::test]
async fn bombs_are_refused() {
    let bomb = |mib: usize| zstd::bulk::compress(&vec![b' '; mib << 20], 1).unwrap();
    let is_bound = |answer: Result<(), Error>| match answer {
        Err(Error::Damaged { reason, .. }) => {
            assert!(reason.contains("expand"), "{reason}");
        }
        other => panic!("{other:?}"),
    };
    let envelope = [&write(ObjectKind::Record)[..], &bomb(64)].concat();
    assert!(envelope.len() < 10_000);
    is_bound(StoredRecord::read(1, envelope.into()).map(drop));

    let table = bomb(65);
    let mut pack = write(ObjectKind::Pack).to_vec();
    pack.extend_from_slice(&table);
    pack.extend_from_slice(&0x184D_2A50_u32.to_le_bytes());
    pack.extend_from_slice(&16_u32.to_le_bytes());
    pack.extend_from_slice(b"SHTB");
    pack.extend_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
    pack.extend_from_slice(&u32::try_from(table.len()).unwrap().to_le_bytes());
    let id = "00112233445566778899aabbccddeeff".parse().unwrap();
    is_bound(read_pack(id, pack.into()).map(drop));

    let scene = Scene::of_everything().await;
    is_bound(open_chunk(&chunk_of(&scene, "large"), &bomb(64)).map(drop));
}

/// Goal: a record that is lost is told, by a reader that begins and by one that goes on from further
/// back; they don't take the record before it for the newest. (Who stands right before it looks at
/// one number alone, and can't tell.)
#[tokio::test]
async fn a_gap_in_the_log_is_named() {
    let scene = Scene::of_everything().await;
    let lost = layout::record(40);
    scene.remove(&lost).await;
    for cache in ["segments", "checkpoints"] {
        for key in scene.keys(cache).await {
            scene.remove(&key).await;
        }
    }
    let repository = open(&scene.store).await;
    let named = |answer: Result<(), Error>| match answer {
        Err(Error::NotFound { object }) => assert_eq!(object, lost),
        other => panic!("{other:?}"),
    };
    named(load(&repository).await.map(drop));
    named(repository.records(20).await.map(drop));
}
