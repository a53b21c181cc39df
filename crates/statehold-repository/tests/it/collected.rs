//! Whatever recovers does so in a repository that was collected: verification, repair and drills.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::{ContentObject, Entry};
use statehold_core::point::Point;
use statehold_repository::collect::Collector;
use statehold_repository::drill::receipt::{Side, What};
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::{load, load_at};
use statehold_repository::store::Store;
use statehold_repository::verify::repair::{Origin, Outcome, Sources};
use statehold_repository::verify::report::Report;
use statehold_repository::verify::{Unwatched, over_remote, verify};
use statehold_repository::{Error, Remote as _, layout};
use statehold_testkit::author::read_file;
use statehold_testkit::environment::SeededEntropy;

use crate::drill::drill_with;
use crate::verify::{Files, all, damage, mend, named, store_of, ways};
use crate::world::{AT_ONCE, World, everything, grown, open};

/// Objects by key.
type Objects = BTreeMap<String, Bytes>;

/// A repository that was collected, with copies of it from before, from in between, and from now.
struct Collected {
    world: World,
    sound: Objects,
    copies: Vec<Store>,
}

impl Collected {
    /// One that was collected so many times, with a copy from before and one from after each time.
    async fn new(seed: u64, times: usize) -> Self {
        let mut world = grown(seed).await;
        let mut copies = Vec::new();
        copies.resize_with(times + 1, Store::memory);
        world.replicate(&copies[0]).await;
        for at in [13, 20, 21] {
            world.snapshot(at).await;
        }
        for copy in &copies[1..] {
            world.compact().await;
            world.remove().await;
            for number in 0..13 {
                world.push_something().await;
                if number % 4 == 0 {
                    world.snapshot(world.state.head.number).await;
                }
            }
            world.replicate(copy).await;
        }
        let collection = &world.state.collection;
        assert!(collection.cut >= 32 && collection.listings.len() > 1);
        let sound = all(&world.store).await;
        Self {
            world,
            sound,
            copies,
        }
    }

    /// What stands in for retired records, what collectors wrote, and some of the rest.
    fn chosen(&self) -> BTreeSet<String> {
        let (state, collection) = (&self.world.state, &self.world.state.collection);
        let cut = collection.cut;
        let mut chosen = BTreeSet::from([layout::checkpoint(cut, 0)]);
        let listings = collection.listings.iter();
        chosen.extend(listings.map(|listing| layout::tree(listing.tree.id)));
        let numbers = [
            1,
            7,
            cut - 1,
            cut,
            cut + 1,
            collection.compacted,
            collection.collected,
        ];
        chosen.extend(numbers.map(layout::record));
        chosen.insert(layout::record(state.head.number - 1));
        chosen.extend(self.live().map(layout::pack));
        chosen
    }

    fn live(&self) -> impl Iterator<Item = statehold_core::id::PackId> {
        let collection = &self.world.state.collection;
        let packs = self.world.state.packs.keys().copied();
        packs.filter(|id| !collection.condemned.contains_key(id))
    }

    /// What is damaged or missing, as whoever saw the newest record finds it.
    async fn look(&self, store: &Store) -> Report {
        let mut options = everything();
        options.known = vec![self.world.state.head];
        verify(store, &options, &Unwatched).await.unwrap()
    }

    async fn mend(&self, store: &Store, sources: Sources<'_>) -> Outcome {
        mend(store, sources, &[self.world.state.head]).await
    }

    /// Every file of every kept state comes back, or what is left says that it doesn't.
    async fn check_told(&self, store: &Store, left: &Report, what: &str) -> (usize, usize) {
        let world = &self.world;
        let repository = open(store, &world.clock, &world.entropy).await;
        let told: BTreeSet<&str> = left
            .damaged
            .iter()
            .flat_map(|damaged| &damaged.versions)
            .map(|version| version.path.as_str())
            .collect();
        let is_gap = |number| {
            let mut gaps = left.gaps.iter();
            gaps.any(|gap| (gap.from..=gap.to).contains(&number))
        };
        let (mut whole, mut lost) = (0, 0);
        for (number, files) in (0_u64..).zip(&world.at).skip(1) {
            if world.state.collection.expired.contains(number) || is_gap(number) {
                continue;
            }
            let state = match load_at(&repository, Point::Record(number)).await {
                Ok(state) => state,
                // A record on the way is lost that no file of this state needs.
                Err(_) if !left.is_well() => continue,
                Err(error) => panic!("{what}: record {number}: {error}"),
            };
            for (path, content) in files {
                match read_file(&repository, &state, path).await {
                    Ok(read) => {
                        assert_eq!(&read, content, "{what}: {path} at {number}");
                        whole += 1;
                    }
                    Err(error) => {
                        let is_told = told.contains(path.as_str());
                        assert!(is_told, "{what}: {path} at {number}: {error}");
                        lost += 1;
                    }
                }
            }
        }
        (whole, lost)
    }
}

const fn from(replica: &Store) -> Sources<'_> {
    Sources {
        replica: Some(replica),
        held: None,
    }
}

#[tokio::test]
async fn what_stands_in_is_named_and_healed_from_a_copy() {
    let scene = Collected::new(30, 2).await;
    let (memory, store) = store_of(&scene.sound).await;
    assert!(named(&scene.look(&store).await).is_empty());
    for key in scene.chosen() {
        for (way, bytes) in ways(&key, &scene.sound) {
            damage(&memory, &key, bytes).await;
            let report = scene.look(&store).await;
            assert_eq!(named(&report), [&key], "{key} {way}: {report:?}");
            let outcome = scene.mend(&store, from(&scene.copies[2])).await;
            let left = named(&outcome.left);
            assert!(left.is_empty(), "{key} {way}: {:?}", outcome.left);
            assert_eq!(outcome.healed.len(), 1, "{key} {way}: {:?}", outcome.healed);
            assert!(all(&store).await == scene.sound, "{key} {way}");
        }
    }
    // Only its checkpoint names the tree at the cut. When both are gone, both come back.
    let at_cut = layout::checkpoint(scene.world.state.collection.cut, 0);
    let checkpoint = Checkpoint::read(&at_cut, &scene.sound[&at_cut]).unwrap();
    damage(&memory, &at_cut, None).await;
    damage(&memory, &layout::tree(checkpoint.tree.id), None).await;
    let outcome = scene.mend(&store, from(&scene.copies[2])).await;
    assert!(outcome.left.is_well(), "{:?}", outcome.left);
    let what = "without what stands at the cut";
    scene.check_told(&store, &outcome.left, what).await;
    assert!(named(&scene.look(&store).await).is_empty(), "{what}");
}

/// Goal: a copy that was not collected yet, or once, brings back what it has: listings and checkpoints are made
/// anew from its records, moved content is found where it was, and a retired record does not come to life.
#[tokio::test]
async fn an_earlier_copy_heals_what_it_knows() {
    let all: &[&str] = &["log", "trees", "checkpoints", "packs"];
    // Of states of before the first one, nothing says any more where their content went at first.
    let stages = [(1, 0, all), (2, 0, &["log", "packs"]), (2, 1, all)];
    for (times, copy, kinds) in stages {
        let scene = Collected::new(31, times).await;
        let copy = &scene.copies[copy];
        let (memory, store) = store_of(&scene.sound).await;
        let cut = scene.world.state.collection.cut;
        let reaches = Collected::reach(copy).await;
        let mut healed = BTreeMap::<String, u32>::new();
        for key in scene.chosen() {
            damage(&memory, &key, None).await;
            let outcome = scene.mend(&store, from(copy)).await;
            let what = format!("{key}, collected {times} times, from a copy up to {reaches}");
            if outcome.left.is_well() {
                let kind = key.split('/').next().unwrap();
                *healed.entry(kind.to_owned()).or_default() += 1;
                let report = scene.look(&store).await;
                assert!(named(&report).is_empty(), "{what}: {report:?}");
            } else {
                // It is of a time that the copy doesn't know.
                let record = layout::parse_record(&key);
                let is_later = record.is_none_or(|number| number > reaches);
                assert!(is_later, "{what}: {:?}", outcome.left);
                assert_eq!(named(&outcome.left), [&key], "{what}");
            }
            scene.check_told(&store, &outcome.left, &what).await;
            for (other, bytes) in &scene.sound {
                let there = store.read(other).await.unwrap();
                assert!(
                    *other == key || there.as_ref() == Some(bytes),
                    "{what}: {other}"
                );
            }
            if let Some(number) = layout::parse_record(&key)
                && let Some(bytes) = store.read(&key).await.unwrap()
            {
                let stored = StoredRecord::read(number, bytes).unwrap();
                assert_eq!(stored.is_retired(), number <= cut, "{what}");
            }
            damage(&memory, &key, Some(scene.sound[&key].clone())).await;
        }
        for kind in kinds {
            assert!(
                healed.get(*kind) > Some(&0),
                "{times}: no {kind}: {healed:?}"
            );
        }
    }
}

impl Collected {
    /// The newest record of a copy.
    async fn reach(copy: &Store) -> u64 {
        let keys = copy.list(layout::LOG, layout::LOG).await.unwrap();
        keys.iter()
            .filter_map(|key| layout::parse_record(key))
            .max()
            .unwrap()
    }
}

/// Goal: whatever a hundredth of all objects and one of each kind is damaged: each is named, a copy of now
/// brings all back, an earlier one what it can, what stays lost is listed, and nothing sound is touched.
#[tokio::test]
async fn random_damage_is_named_and_healed() {
    let mut left_over = 0;
    for seed in 0..8 {
        let scene = Collected::new(40 + seed % 4, 2).await;
        let (memory, store) = store_of(&scene.sound).await;
        let entropy = SeededEntropy::new(900 + seed);
        let cut = scene.world.state.collection.cut;
        let damaged = some_of(&scene.sound, cut, &entropy);
        for key in &damaged {
            let ways = ways(key, &scene.sound);
            let at = usize::try_from(entropy.below(ways.len() as u64)).unwrap();
            damage(&memory, key, ways[at].1.clone()).await;
        }
        let before = all(&store).await;
        let what = format!("seed {seed}: {damaged:?}");
        let report = scene.look(&store).await;
        let found: BTreeSet<&str> = named(&report).into_iter().collect();
        let expected: BTreeSet<&str> = damaged.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "{what}");

        let earlier = scene.mend(&store, from(&scene.copies[1])).await;
        let (_, lost) = scene.check_told(&store, &earlier.left, &what).await;
        left_over += lost + earlier.left.gaps.len();
        let after = all(&store).await;
        for (key, bytes) in &before {
            assert!(
                damaged.contains(key) || after.get(key) == Some(bytes),
                "{what}: {key}"
            );
        }
        let now = scene.mend(&store, from(&scene.copies[2])).await;
        assert!(named(&now.left).is_empty(), "{what}: {:?}", now.left);
        let after = all(&store).await;
        for (key, bytes) in &scene.sound {
            let is_cache =
                damaged.contains(key) && !key.starts_with("log/") && !key.starts_with("packs/");
            assert!(is_cache || after.get(key) == Some(bytes), "{what}: {key}");
        }
        scene.world.check_in(&store, &what).await;
    }
    assert!(left_over > 0);
}

/// One object of each kind, and a hundredth of all. Of two that vouch for each other one stays sound: of the
/// newest checkpoint and its tree, of the one at the cut and its tree, and of a record and the packs that it introduces.
fn some_of(sound: &Objects, cut: u64, entropy: &SeededEntropy) -> BTreeSet<String> {
    let kind = |key: &str| key.split('/').next().unwrap().to_owned();
    let kinds: BTreeSet<String> = sound.keys().map(|key| kind(key)).collect();
    let mut chosen = BTreeSet::new();
    for name in kinds {
        let own: Vec<&String> = sound.keys().filter(|key| kind(key) == name).collect();
        chosen.extend(entropy.pick(&own).map(|key| (*key).clone()));
    }
    let newest = sound.keys().find(|key| kind(key) == "checkpoints").unwrap();
    if chosen.contains(newest) || chosen.contains(&layout::checkpoint(cut, 0)) {
        chosen.retain(|key| kind(key) != "trees");
    }
    let all: Vec<&String> = sound.keys().collect();
    for _ in 0..all.len().div_ceil(100) {
        chosen.extend(
            entropy
                .pick(&all)
                .filter(|key| kind(key) == "log")
                .map(|key| (*key).clone()),
        );
    }
    let mut introduced = BTreeSet::new();
    for key in &chosen {
        if let Some(number) = layout::parse_record(key) {
            let stored = StoredRecord::read(number, sound[key].clone()).unwrap();
            let packs = stored.record.envelope.draft.packs.into_iter();
            introduced.extend(packs.map(|pack| layout::pack(pack.id)));
        }
    }
    chosen.retain(|key| !introduced.contains(key));
    chosen
}

/// Goal: without a copy, what the newest state has of moved content comes back from a workspace, although the
/// records that said so are retired.
#[tokio::test]
async fn moved_content_comes_back_from_a_workspace() {
    let scene = Collected::new(32, 2).await;
    let (memory, store) = store_of(&scene.sound).await;
    let world = &scene.world;
    let mut held = HashMap::new();
    for content in world.files().values() {
        for range in statehold_core::chunking::cut(content) {
            held.insert(Digest::of(&content[range.clone()]), content[range].to_vec());
        }
    }
    let held = Files(held, scene.sound[layout::REPOSITORY].clone());
    let sources = Sources {
        replica: None,
        held: Some(&held),
    };
    let mut healed = 0;
    for pack in scene.live() {
        let key = layout::pack(pack);
        damage(&memory, &key, None).await;
        let report = scene.look(&store).await;
        let outcome = scene.mend(&store, sources).await;
        scene.check_told(&store, &outcome.left, &key).await;
        let repository = open(&store, &world.clock, &world.entropy).await;
        let newest = load(&repository).await.unwrap().state;
        for (path, entry) in newest.tree.iter() {
            let Entry::File(file) = entry else { continue };
            let object = ContentObject::Pack(pack);
            if file
                .chunks
                .iter()
                .any(|chunk| chunk.at.object == Some(object))
            {
                assert!(report.damaged[0].paths.contains(path), "{path}");
                healed += 1;
            }
            read_file(&repository, &newest, path.as_str())
                .await
                .unwrap();
        }
        assert!(
            outcome
                .healed
                .iter()
                .all(|healed| healed.from != Origin::Replica)
        );
        damage(&memory, &key, Some(scene.sound[&key].clone())).await;
    }
    assert!(healed > 3, "{healed}");
}

/// Goal: a gateway's client can tell as well.
#[tokio::test]
async fn a_gateway_shows_damage_where_somebody_collected() {
    let scene = Collected::new(33, 2).await;
    let (memory, store) = store_of(&scene.sound).await;
    let world = &scene.world;
    let look = async || {
        let repository = open(&store, &world.clock, &world.entropy).await;
        over_remote::verify(&repository, &everything(), &Unwatched)
            .await
            .unwrap()
    };
    let report = look().await;
    assert!(named(&report).is_empty(), "{report:?}");
    assert_eq!(report.head, Some(world.state.head));
    assert_eq!(report.counts.records, world.state.head.number);
    // Content of the newest state, and of a snapshot whose record is retired.
    let at = world.state.snapshots.values().next().unwrap().at;
    assert!(at < world.state.collection.cut);
    let repository = open(&store, &world.clock, &world.entropy).await;
    let then = load_at(&repository, Point::Record(at)).await.unwrap();
    let newest = load(&repository).await.unwrap().state;
    for (state, is_newest) in [(newest, true), (then, false)] {
        let mut chunks = state.tree.iter().filter_map(|(_, entry)| match entry {
            Entry::File(file) => file.chunks.first()?.at.object,
            _ => None,
        });
        let pack = chunks.find(|object| matches!(object, ContentObject::Pack(_)));
        let key = pack.unwrap().to_string();
        for (way, bytes) in [("gone", None), ("empty", Some(Bytes::new()))] {
            damage(&memory, &key, bytes).await;
            let report = look().await;
            assert_eq!(named(&report), [&key], "{way}");
            let found = &report.damaged[0];
            assert!(!is_newest || !found.paths.is_empty(), "{way}: {found:?}");
            assert!(is_newest || !found.snapshots.is_empty(), "{way}: {found:?}");
            damage(&memory, &key, Some(scene.sound[&key].clone())).await;
        }
    }
    // The chain of envelopes, and what stands in for a snapshot.
    let listing = world.state.collection.listing(at).unwrap();
    for key in [
        layout::record(3),
        layout::record(4),
        layout::tree(listing.tree.id),
        layout::checkpoint(world.state.collection.cut, 0),
    ] {
        damage(&memory, &key, None).await;
        let report = look().await;
        assert!(!report.is_well(), "{key}: {report:?}");
        damage(&memory, &key, Some(scene.sound[&key].clone())).await;
    }
    let repository = open(&store, &world.clock, &world.entropy).await;
    let gone = world.state.collection.expired.last().unwrap();
    let refused = load_at(&repository, Point::Record(gone)).await;
    assert!(matches!(refused, Err(Error::Expired { .. })), "{refused:?}");
    repository.records(0).await.unwrap();
}

/// Goal: a drill draws from the states that are kept, whatever became of the others, also with a copy that is behind
/// a compaction; what was purged is counted and no failure.
#[tokio::test]
async fn a_drill_draws_from_what_is_kept() {
    let mut scene = Collected::new(34, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let world = &mut scene.world;
    world.compact().await;
    let mut drawn = BTreeSet::new();
    for seed in 0..40 {
        let primary = world.open().await;
        let copy = &scene.copies[if seed % 2 == 0 { 2 } else { 1 }];
        let replica = open(copy, &world.clock, &world.entropy).await;
        let receipt = drill_with(&primary, Some(&replica), folder.path(), seed).await;
        assert!(receipt.passed, "{receipt:#?}");
        assert_eq!(receipt.restores.len(), 6);
        let random = receipt.restores.iter();
        let random =
            random.filter(|restore| (restore.side, restore.what) == (Side::Primary, What::Random));
        drawn.extend(random.map(|restore| restore.record.unwrap().number));
    }
    assert!(drawn.len() > 8, "{drawn:?}");
    assert!(
        drawn.first() < Some(&world.state.collection.cut),
        "{drawn:?}"
    );

    let kept = world.at[13].clone();
    let (path, _) = kept
        .iter()
        .find(|(path, content)| {
            let newest = world.files();
            !newest.contains_key(*path) || newest[*path] != **content
        })
        .unwrap();
    let path = path.clone();
    if world.files().contains_key(&path) {
        world.push(&[(&path, None)]).await;
    }
    let repository = world.open().await;
    let collector = Collector::new(&repository, AT_ONCE);
    collector.purge(&path.parse().unwrap()).await.unwrap();
    drop(repository);
    world.follow(world.files()).await;
    let mut purged = 0;
    for seed in 0..40 {
        let primary = world.open().await;
        let receipt = drill_with(&primary, Some(&primary), folder.path(), seed).await;
        assert!(receipt.passed, "{receipt:#?}");
        purged += receipt
            .restores
            .iter()
            .map(|restore| restore.purged)
            .sum::<u64>();
    }
    assert!(purged > 0);
}
