//! Verification and repair: each kind of object, damaged in each way, is named and nothing else is, and
//! comes back byte by byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::digest::Digest;
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_repository::layout;
use statehold_repository::remote::advance;
use statehold_repository::store::{Listing, Store};
use statehold_repository::verify::repair::{Held, Origin, Outcome, Sources, repair};
use statehold_repository::verify::report::Report;
use statehold_repository::verify::subset::{Day, Share};
use statehold_repository::verify::{Options, Unwatched, Wanted, over_remote, verify};
use statehold_testkit::author::read_file;
use statehold_testkit::environment::SeededEntropy;

use crate::scene::{Scene, open};

fn options(read: Option<Share>) -> Options {
    Options {
        read,
        day: Day::default(),
        known: Vec::new(),
        packs: BTreeSet::new(),
    }
}

async fn look(store: &Store, read: Option<Share>) -> Report {
    verify(store, &options(read), &Unwatched).await.unwrap()
}

pub(crate) async fn mend(store: &Store, sources: Sources<'_>, known: &[RecordRef]) -> Outcome {
    let entropy = SeededEntropy::new(77);
    repair(store, sources, known, &entropy, &Unwatched)
        .await
        .unwrap()
}

const NOTHING: Sources<'static> = Sources {
    replica: None,
    held: None,
};

/// A log with every kind of object: two packs, one of two files, a snapshot, several checkpoints.
async fn scene() -> Scene {
    let mut scene = Scene::new().await;
    let noise = SeededEntropy::new(9).bytes(900_000);
    let text: Vec<u8> = (0..60_000)
        .flat_map(|i: u64| format!("{}\n", i * i).into_bytes())
        .collect();
    scene
        .push(&[
            ("large", Some(&noise)),
            ("text", Some(&text)),
            ("small", Some(b"hello")),
        ])
        .await;
    scene.push_many(20).await;
    scene.snapshot().await;
    scene.push(&[("large", Some(&noise[..600_000]))]).await;
    scene.push_many(90).await;
    scene
}

/// All objects of a repository but what was put aside.
pub(crate) async fn all(store: &Store) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for key in store
        .list_objects()
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.key)
    {
        if !key.starts_with("damaged/") {
            let bytes = store.read(&key).await.unwrap().unwrap();
            found.insert(key, bytes);
        }
    }
    found
}

pub(crate) async fn store_of(objects: &BTreeMap<String, Bytes>) -> (Arc<InMemory>, Store) {
    let memory = Arc::new(InMemory::new());
    for (key, bytes) in objects {
        let path = Path::from(key.as_str());
        memory.put(&path, bytes.clone().into()).await.unwrap();
    }
    let listed: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&memory);
    (memory, Store::new(listed, Listing::Sorted))
}

/// An object in each way in which one is damaged; `None` for one that is gone.
pub(crate) fn ways(
    key: &str,
    objects: &BTreeMap<String, Bytes>,
) -> Vec<(&'static str, Option<Bytes>)> {
    let bytes = &objects[key];
    let flip = |at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0xff;
        Some(Bytes::from(bytes))
    };
    let folder = key.split('/').next().unwrap();
    let other = objects.iter().find(|(other, bytes)| {
        other.as_str() != key && other.starts_with(folder) && **bytes != objects[key]
    });
    let mut ways = vec![
        ("flipped at its begin", flip(9)),
        ("flipped in the middle", flip(bytes.len() / 2)),
        ("flipped at its end", flip(bytes.len() - 2)),
        ("cut", Some(bytes.slice(..bytes.len() * 2 / 3))),
        ("cut by a byte", Some(bytes.slice(..bytes.len() - 1))),
        ("longer", Some([bytes, &b"x"[..]].concat().into())),
        ("empty", Some(Bytes::new())),
        ("gone", None),
    ];
    if let Some((_, other)) = other {
        ways.push(("another", Some(other.clone())));
    }
    ways
}

pub(crate) async fn damage(memory: &InMemory, key: &str, to: Option<Bytes>) {
    let path = Path::from(key);
    match to {
        Some(bytes) => drop(memory.put(&path, bytes.into()).await.unwrap()),
        None => memory.delete(&path).await.unwrap(),
    }
}

/// One object of each kind and place.
fn chosen(objects: &BTreeMap<String, Bytes>) -> Vec<String> {
    let folder = |name: &'static str| objects.keys().filter(move |key| key.starts_with(name));
    let folder = |name: &'static str| folder(name).collect::<Vec<_>>().into_iter();
    let mut chosen = vec![layout::REPOSITORY.to_owned()];
    // In a segment or not, the first, the newest, with content and without, and the snapshot's.
    let last = folder("log/").count() as u64;
    chosen.extend([1, 2, 16, 17, 22, 50, last - 1, last].map(layout::record));
    for name in ["packs/", "trees/", "segments/", "checkpoints/"] {
        assert!(folder(name).count() > 1, "there are too few of {name}");
        chosen.extend(folder(name).next().cloned());
        chosen.extend(folder(name).next_back().cloned());
    }
    chosen
}

pub(crate) fn named(report: &Report) -> Vec<&str> {
    let damaged = report.damaged.iter().map(|damaged| damaged.key.as_str());
    damaged
        .chain(report.missing_caches.iter().map(String::as_str))
        .collect()
}

#[tokio::test]
async fn a_sound_repository_is_well() {
    let scene = scene().await;
    let report = look(&scene.store, Some(Share::WHOLE)).await;
    assert!(named(&report).is_empty(), "{report:?}");
    assert_eq!(report.head, Some(scene.state.head));
    assert_eq!((report.counts.packs, report.counts.packs_read), (2, 2));
    assert_eq!(
        report.counts.segments,
        scene.keys("segments").await.len() as u64
    );
    assert!(report.gaps.is_empty() && report.unknown.is_empty());
    scene.overwrite("README.md", &b"x"[..]).await;
    let report = look(&scene.store, None).await;
    assert_eq!(
        (report.is_well(), &*report.unknown),
        (true, &["README.md".to_owned()][..])
    );
    // Days of 10% read everything in ten of them.
    let mut read = 0;
    for day in 0..10 {
        let mut options = options(Some("10%".parse().unwrap()));
        options.day = Day::default().later(20_000 + day);
        let report = verify(&scene.store, &options, &Unwatched).await.unwrap();
        read += report.counts.packs_read;
    }
    assert_eq!(read, 2);
}

#[tokio::test]
async fn each_damage_is_named_and_healed_from_a_replica() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    let (_, replica) = store_of(&sound).await;
    let sources = Sources {
        replica: Some(&replica),
        held: None,
    };
    let known = [scene.state.head];
    for key in chosen(&sound) {
        for (way, bytes) in ways(&key, &sound) {
            damage(&memory, &key, bytes).await;
            let mut options = options(Some(Share::WHOLE));
            options.known = known.to_vec();
            let report = verify(&store, &options, &Unwatched).await.unwrap();
            assert_eq!(named(&report), [&key], "{key} {way}: {:?}", report.damaged);
            let outcome = mend(&store, sources, &known).await;
            assert_eq!(named(&outcome.found), [&key], "{key} {way}");
            assert!(
                named(&outcome.left).is_empty(),
                "{key} {way}: {:?}",
                outcome.left
            );
            assert_eq!(outcome.healed.len(), 1, "{key} {way}: {:?}", outcome.healed);
            assert!(all(&store).await == sound, "{key} {way}");
        }
    }
    assert_eq!(all(&replica).await, sound);
}

/// What the structure alone shows of content.
#[tokio::test]
async fn structure_names_packs_that_are_gone_or_of_another_length() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    for key in scene.keys("packs").await {
        for (way, bytes) in ways(&key, &sound) {
            let length = bytes.as_ref().map(Bytes::len);
            damage(&memory, &key, bytes).await;
            let report = look(&store, None).await;
            let is_named = length != Some(sound[&key].len());
            assert_eq!(named(&report).contains(&key.as_str()), is_named, "{way}");
        }
        damage(&memory, &key, Some(sound[&key].clone())).await;
    }
}

/// Goal: what the log can tell needs no replica.
#[tokio::test]
async fn caches_and_records_in_segments_come_back_by_themselves() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    for key in chosen(&sound) {
        let is_content = key.starts_with("packs/") || key == layout::REPOSITORY;
        let number = layout::parse_record(&key);
        if is_content || number.is_some_and(|number| number > 112) {
            continue;
        }
        for (way, bytes) in ways(&key, &sound) {
            damage(&memory, &key, bytes).await;
            let outcome = mend(&store, NOTHING, &[]).await;
            assert!(
                named(&outcome.left).is_empty(),
                "{key} {way}: {:?}",
                outcome.left
            );
            let now = all(&store).await;
            assert!(now == sound, "{key} {way}");
        }
    }
}

/// Content by its digest, as a workspace has it.
pub(crate) struct Files(pub(crate) HashMap<Digest, Vec<u8>>, pub(crate) Bytes);

impl Held for Files {
    fn description(&self) -> Option<Bytes> {
        Some(self.1.clone())
    }

    fn look_for(&self, _: &HashMap<Digest, Wanted>) {}

    fn chunk(&self, digest: &Digest, _: u32) -> Option<Vec<u8>> {
        self.0.get(digest).cloned()
    }
}

async fn files(scene: &Scene, paths: &[&str]) -> Files {
    let mut held = HashMap::new();
    for path in paths {
        let content = read_file(&scene.repository, &scene.state, path)
            .await
            .unwrap();
        for range in statehold_core::chunking::cut(&content) {
            held.insert(Digest::of(&content[range.clone()]), content[range].to_vec());
        }
    }
    Files(held, scene.bytes(layout::REPOSITORY).await)
}

/// Goal: content that a workspace holds comes back, byte by byte or at least in its place; what it
/// doesn't hold is listed exactly.
#[tokio::test]
async fn content_comes_back_from_a_workspace() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    let held = files(&scene, &["large", "text", "small"]).await;
    let sources = Sources {
        replica: None,
        held: Some(&held),
    };
    let packs = scene.keys("packs").await;
    for key in packs.iter().map(String::as_str).chain([layout::REPOSITORY]) {
        for (way, bytes) in ways(key, &sound) {
            damage(&memory, key, bytes).await;
            let outcome = mend(&store, sources, &[]).await;
            let left: Vec<_> = outcome.left.damaged.iter().collect();
            // Its first version is longer, and no file has that end any more.
            let lost: BTreeSet<_> = left
                .iter()
                .flat_map(|left| &left.versions)
                .map(|version| (version.path.as_str(), version.record))
                .collect();
            if left.is_empty() {
                let read = read_file(&open(&store).await, &scene.state, "large")
                    .await
                    .unwrap();
                assert_eq!(read.len(), 600_000);
            } else {
                assert_eq!(
                    lost,
                    BTreeSet::from([("large", 1)]),
                    "{key} {way}: {left:?}"
                );
                assert!(left[0].paths.is_empty(), "{key} {way}");
                assert_eq!(left[0].snapshots.len(), 1, "{key} {way}");
            }
            for path in ["large", "text"] {
                read_file(&open(&store).await, &scene.state, path)
                    .await
                    .unwrap();
            }
            for (other, bytes) in &sound {
                if other != key {
                    assert_eq!(
                        store.read(other).await.unwrap().as_ref(),
                        Some(bytes),
                        "{key} {way}"
                    );
                }
            }
            damage(&memory, key, Some(sound[key].clone())).await;
        }
    }
    // Content that rides in a record, in no segment.
    let last = scene.state.head.number;
    let key = layout::record(last);
    let bytes = &sound[&key];
    let held = files(
        &scene,
        &[
            &format!("n{last}"),
            &format!("d{}/f{}", last % 5, last % 37),
        ],
    )
    .await;
    for cut in [1, 5] {
        damage(&memory, &key, Some(bytes.slice(..bytes.len() - cut))).await;
        let sources = Sources {
            replica: None,
            held: Some(&held),
        };
        let outcome = mend(&store, sources, &[]).await;
        assert!(named(&outcome.left).is_empty(), "{:?}", outcome.left);
        assert_eq!(outcome.healed[0].from, Origin::Workspace);
        assert_eq!(store.read(&key).await.unwrap().as_ref(), Some(bytes));
    }
}

/// Goal: what needs a lost object is named: files, versions, snapshots, and states that nothing tells.
#[tokio::test]
async fn what_needs_a_lost_object_is_named() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    let key = scene
        .state
        .packs
        .iter()
        .min_by_key(|(_, pack)| pack.since)
        .map(|(id, _)| layout::pack(*id))
        .unwrap();
    damage(&memory, &key, None).await;
    let report = look(&store, None).await;
    assert_eq!(named(&report), [&key]);
    let paths: Vec<_> = report.damaged[0]
        .paths
        .iter()
        .map(RepoPath::as_str)
        .collect();
    assert!(paths.contains(&"text"), "{paths:?}");
    assert_eq!(report.damaged[0].snapshots.len(), 1);
    assert!(report.damaged[0].missing);
    // The same through the seam that a gateway has.
    let remote = open(&store).await;
    let through = over_remote::verify(&remote, &options(Some(Share::WHOLE)), &Unwatched)
        .await
        .unwrap();
    assert_eq!(named(&through), [&key]);
    assert_eq!(through.damaged[0].paths, report.damaged[0].paths);
    assert_eq!(through.damaged[0].snapshots, report.damaged[0].snapshots);
    damage(&memory, &key, Some(sound[&key].clone())).await;

    // A record without its segment: states up to the next checkpoint can't be told.
    let segments = scene.keys("segments").await;
    damage(&memory, &segments[1], None).await;
    damage(&memory, &layout::record(20), None).await;
    let report = look(&store, Some(Share::WHOLE)).await;
    assert_eq!(named(&report), [layout::record(20), segments[1].clone()]);
    assert_eq!(report.gaps.len(), 1);
    assert_eq!(report.gaps[0].from, 20);
    assert!(report.gaps[0].to >= 21, "{:?}", report.gaps);
    assert_eq!(report.lost_snapshots.len(), 1);
    assert_eq!(report.head, Some(scene.state.head));
    let outcome = mend(&store, NOTHING, &[]).await;
    assert_eq!(named(&outcome.left), named(&report));
    assert!(outcome.healed.is_empty());
}

/// Goal: the newest records are missed by who remembers them, and a copy that has them brings them back.
#[tokio::test]
async fn the_end_of_the_log_is_missed() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (memory, store) = store_of(&sound).await;
    let (_, replica) = store_of(&sound).await;
    let last = scene.state.head.number;
    for number in [last - 1, last] {
        damage(&memory, &layout::record(number), None).await;
    }
    let report = look(&store, None).await;
    assert!(named(&report).is_empty());
    let mut known = options(None);
    known.known = vec![scene.state.head];
    let report = verify(&store, &known, &Unwatched).await.unwrap();
    assert_eq!(
        named(&report),
        [layout::record(last - 1), layout::record(last)]
    );
    let sources = Sources {
        replica: Some(&replica),
        held: None,
    };
    let outcome = mend(&store, sources, &[]).await;
    assert!(named(&outcome.left).is_empty());
    assert!(all(&store).await == sound);
    // A copy of another history gives nothing.
    let other = Scene::new().await;
    damage(&memory, &layout::record(last), None).await;
    let sources = Sources {
        replica: Some(&other.store),
        held: None,
    };
    let outcome = mend(&store, sources, &known.known).await;
    assert_eq!(named(&outcome.left), [layout::record(last)]);
    assert!(outcome.healed.is_empty());
}

/// Goal: a log that was set back and has gone on is told, and nothing that was acknowledged is replaced.
#[tokio::test]
async fn two_histories_are_told_and_left_alone() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (_, replica) = store_of(&sound).await;
    let last = scene.state.head.number;
    for number in [last - 1, last] {
        scene.remove(&layout::record(number)).await;
    }
    let repository = open(&scene.store).await;
    let state = statehold_repository::remote::load(&repository)
        .await
        .unwrap()
        .state;
    let newer = [("newer", Some(&b"acknowledged"[..]))];
    let author = statehold_testkit::author::Author::new(99);
    author.push(&repository, &state, newer).await.unwrap();
    let state = advance(&repository, &state).await.unwrap();
    author.push(&repository, &state, newer).await.unwrap();
    let before = all(&scene.store).await;
    let sources = Sources {
        replica: Some(&replica),
        held: None,
    };
    let outcome = mend(&scene.store, sources, &[scene.state.head]).await;
    assert_eq!(named(&outcome.left), [layout::record(last)]);
    assert!(outcome.left.damaged[0].reason.contains("set back"));
    let after = all(&scene.store).await;
    for (key, bytes) in before.iter().filter(|(key, _)| key.starts_with("log/")) {
        assert_eq!(after.get(key), Some(bytes), "{key}");
    }
    assert!(
        outcome
            .healed
            .iter()
            .all(|healed| healed.key.starts_with("segments/"))
    );
}

/// Goal: what is replaced is kept aside.
#[tokio::test]
async fn damaged_bytes_are_kept_aside() {
    let scene = scene().await;
    let sound = all(&scene.store).await;
    let (_, replica) = store_of(&sound).await;
    let key = layout::record(3);
    for (number, content) in ["one", "two", "one"].into_iter().enumerate() {
        scene.overwrite(&key, content).await;
        let sources = Sources {
            replica: Some(&replica),
            held: None,
        };
        assert_eq!(mend(&scene.store, sources, &[]).await.healed.len(), 1);
        let aside = scene.keys("damaged").await;
        assert_eq!(aside.len(), (number + 1).min(2), "{aside:?}");
    }
    assert_eq!(scene.bytes(&layout::damaged(&key, 0)).await, "one");
    assert_eq!(scene.bytes(&layout::damaged(&key, 1)).await, "two");
    assert_eq!(look(&scene.store, None).await.leftovers.aside, 2);
}
