//! Two machines, one repository: what one pushes, the other gets, and nobody loses anything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use statehold_core::bands::Profile;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::event::Outcome;
use statehold_core::id::RepositoryId;
use statehold_core::plan::{ConflictKind, Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_core::time::Timestamp;
use statehold_repository::Repository;
use statehold_repository::meter::Meter;
use statehold_repository::store::Store;
use statehold_sync::engine::{Engine, Report, RunOptions};
use statehold_sync::preset::Preset;
use statehold_sync::progress::Unwatched;
use statehold_sync::workspace::{InitOptions, Workspace};
use tempfile::TempDir;

#[derive(Debug, Default)]
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            part.copy_from_slice(&number.to_le_bytes()[..part.len()]);
        }
    }
}

struct World {
    store: Store,
    meter: Arc<Meter>,
    clock: Arc<Ticks>,
    entropy: Arc<Counter>,
}

struct Machine {
    folder: TempDir,
    engine: Engine,
}

impl World {
    fn new() -> Self {
        let (store, meter) = Store::memory().metered();
        Self {
            store,
            meter,
            clock: Arc::default(),
            entropy: Arc::default(),
        }
    }

    async fn machine(&self, name: &str) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let options = InitOptions {
            preset: Preset::Plain,
            profile: Profile::Adaptive,
            machine_name: name.into(),
            machine_id: None,
        };
        let workspace = Workspace::init(folder.path(), options, &*self.entropy).unwrap();
        // The starter file is each machine's own and would only be in the way here.
        fs::remove_file(folder.path().join(".stateholdignore")).unwrap();
        let engine = self.engine(workspace).await;
        Machine { folder, engine }
    }

    async fn engine(&self, workspace: Workspace) -> Engine {
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let id = RepositoryId::from_bytes([7; 16]);
        let repository = Repository::open_or_create(self.store.clone(), id, clock, entropy)
            .await
            .unwrap();
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        Engine::new(
            workspace,
            Arc::new(repository),
            clock,
            entropy,
            Arc::new(Unwatched),
        )
        .unwrap()
    }
}

impl Machine {
    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    async fn run(&self, direction: Direction, strategy: Strategy) -> Report {
        let scope = Scope::All;
        let options = RunOptions {
            direction,
            scope,
            strategy,
            dry: false,
            auto: false,
        };
        self.engine.run(options).await.unwrap()
    }

    async fn push(&self) -> Report {
        self.run(Direction::Push, Strategy::Manual).await
    }

    async fn pull(&self) -> Report {
        self.run(Direction::Pull, Strategy::Manual).await
    }

    fn tree(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, folder: &Path, tree: &mut BTreeMap<String, String>) {
            for item in fs::read_dir(folder).unwrap() {
                let path = item.unwrap().path();
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if name == ".statehold" {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_symlink() {
                    let target = fs::read_link(&path).unwrap().display().to_string();
                    tree.insert(name, format!("-> {target}"));
                } else if meta.is_dir() {
                    tree.insert(name, "dir".into());
                    walk(root, &path, tree);
                } else {
                    let executable = meta.permissions().mode() & 0o100 != 0;
                    let content = blake3_hex(&fs::read(&path).unwrap());
                    tree.insert(
                        name,
                        format!("{content} {executable} {:?}", meta.modified().unwrap()),
                    );
                }
            }
        }
        let mut tree = BTreeMap::new();
        walk(self.folder.path(), self.folder.path(), &mut tree);
        tree
    }
}

fn blake3_hex(bytes: &[u8]) -> String {
    statehold_core::digest::Digest::of(bytes).to_string()
}

#[tokio::test]
async fn everything_arrives_as_it_was() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("plain.txt", "hello");
    a.write("empty", "");
    a.write("deep/er/and deeper/x", "x");
    a.write("odd names/it's \"new\"\nline", "odd");
    a.write("odd names/😀 e\u{301}", "odd too");
    a.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(a.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/er", a.path("link")).unwrap();
    fs::create_dir(a.path("empty folder")).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes())
        .collect();
    a.write("large.bin", &noise[..9_000_000]);
    a.write("copy of large.bin", &noise[..9_000_000]);

    let pushed = a.push().await;
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    let pulled = b.pull().await;
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    assert_eq!(a.tree(), b.tree());
    assert_eq!(b.pull().await.outcome, Outcome::Nothing);
    assert_eq!(b.push().await.outcome, Outcome::Nothing);
    assert_eq!(a.push().await.outcome, Outcome::Nothing);
}

#[tokio::test]
async fn edits_and_deletions_travel_both_ways() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("keep", "1");
    a.write("edit", "1");
    a.write("folder/gone", "1");
    a.write("file then folder", "1");
    a.push().await;
    b.pull().await;

    b.write("edit", "2");
    b.write("new", "b");
    fs::remove_dir_all(b.path("folder")).unwrap();
    fs::remove_file(b.path("file then folder")).unwrap();
    b.write("file then folder/inner", "2");
    assert_eq!(b.push().await.outcome, Outcome::Done);
    a.write("from a", "a");
    let synced = a.run(Direction::Bidirectional, Strategy::Manual).await;
    assert_eq!(synced.outcome, Outcome::Done, "{synced:?}");
    assert_eq!(b.pull().await.outcome, Outcome::Done);
    assert_eq!(a.tree(), b.tree());
    assert!(!a.path("folder").exists());
    assert_eq!(a.read("file then folder/inner"), "2");
}

#[tokio::test]
async fn disjoint_pushes_need_no_pull_and_the_same_edit_is_no_conflict() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("base", "0");
    a.push().await;
    b.pull().await;
    a.write("of a", "a");
    b.write("of b", "b");
    a.write("same", "both");
    b.write("same", "both");
    assert_eq!(a.push().await.outcome, Outcome::Done);
    let pushed = b.push().await;
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    a.pull().await;
    b.pull().await;
    assert_eq!(a.read("of b"), "b");
    assert_eq!(b.read("of a"), "a");
    assert_eq!(b.push().await.outcome, Outcome::Nothing);
}

#[tokio::test]
async fn the_second_of_two_edits_is_told_and_nothing_is_lost() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("note", "0");
    a.write("other", "0");
    a.push().await;
    b.pull().await;
    a.write("note", "from a");
    b.write("note", "from b");
    b.write("other", "from b");
    a.push().await;
    let refused = b.push().await;
    assert_eq!(refused.outcome, Outcome::Conflict);
    let conflicts: Vec<_> = refused
        .conflicts
        .iter()
        .map(|conflict| (conflict.path.as_str(), conflict.kind))
        .collect();
    assert_eq!(conflicts, [("note", ConflictKind::BothChanged)]);
    assert_eq!(b.read("note"), "from b");
    // A pull keeps both sides and says so, again and again, until somebody decides.
    for _ in 0..2 {
        assert_eq!(b.pull().await.outcome, Outcome::Conflict);
        assert_eq!(b.read("note"), "from b");
    }
    let taken = b.run(Direction::Pull, Strategy::Remote).await;
    assert_eq!(b.read("note"), "from a");
    assert_eq!(fs::read_to_string(&taken.set_aside[0]).unwrap(), "from b");
    assert_eq!(b.push().await.outcome, Outcome::Done);
    a.pull().await;
    assert_eq!(a.tree(), b.tree());
}

#[tokio::test]
async fn taking_the_local_side_overwrites_with_the_loser_in_history() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("note", "0");
    a.push().await;
    b.pull().await;
    a.write("note", "from a");
    fs::remove_file(b.path("note")).unwrap();
    a.push().await;
    assert_eq!(b.push().await.outcome, Outcome::Conflict);
    assert_eq!(
        b.run(Direction::Push, Strategy::Local).await.outcome,
        Outcome::Done
    );
    assert_eq!(a.pull().await.outcome, Outcome::Done);
    assert!(!a.path("note").exists());
}

#[tokio::test]
async fn a_lost_index_means_union_and_never_a_deletion() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("one", "1");
    a.write("two", "2");
    a.push().await;
    b.pull().await;
    fs::remove_file(b.path("one")).unwrap();
    b.write("two", "changed");
    b.write("three", "3");
    for damage in ["", "SHINDEX\nnonsense"] {
        fs::write(b.path(".statehold/index"), damage).unwrap();
        let pulled = b.pull().await;
        assert_eq!(pulled.outcome, Outcome::Conflict);
        assert_eq!(b.read("one"), "1");
        assert_eq!(b.read("two"), "changed");
        assert_eq!(b.read("three"), "3");
    }
}

#[tokio::test]
async fn a_log_that_grows_sends_its_tail() {
    let world = World::new();
    let a = world.machine("a").await;
    let line = "{\"event\":\"something happened\",\"detail\":\"as it does\"}\n";
    a.write("log.ndjson", line.repeat(90_000));
    a.push().await;
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(a.path("log.ndjson"))
        .unwrap();
    for round in 0..40_u32 {
        use std::io::Write as _;
        let tail: Vec<u8> = (0..32)
            .flat_map(|i| {
                *statehold_core::digest::Digest::of(
                    &[round.to_le_bytes(), (i as u32).to_le_bytes()].concat(),
                )
                .as_bytes()
            })
            .collect();
        log.write_all(&tail).unwrap();
        let before = world.meter.usage();
        let pushed = a.push().await;
        assert_eq!(pushed.outcome, Outcome::Done);
        let used = world.meter.usage().since(before);
        assert!(
            round % 8 == 7 || used.bytes_in < 8_000 || used.writes > 1,
            "{used:?}"
        );
    }
    let b = world.machine("b").await;
    b.pull().await;
    assert_eq!(a.tree(), b.tree());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anybody_is_asked() {
    let world = World::new();
    let a = world.machine("a").await;
    a.write("fits", vec![1; 10_000_000]);
    a.write("too large", vec![1; 10_000_001]);
    let before = world.meter.usage();
    let refused = a.push().await;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert_eq!(refused.too_large.len(), 1);
    assert_eq!(
        (refused.too_large[0].size, refused.too_large[0].limit),
        (10_000_001, 10_000_000)
    );
    assert_eq!(world.meter.usage().since(before), Default::default());

    let options = RunOptions {
        direction: Direction::Push,
        scope: Scope::All,
        strategy: Strategy::Manual,
        dry: false,
        auto: true,
    };
    let partial = a.engine.run(options).await.unwrap();
    assert_eq!((partial.outcome, partial.files), (Outcome::Partial, 1));
}

#[tokio::test]
async fn a_dry_push_contacts_nobody_and_changes_nothing() {
    let world = World::new();
    let a = world.machine("a").await;
    a.write("x", "1");
    a.push().await;
    a.write("y", "1");
    let before = world.meter.usage();
    let options = RunOptions {
        direction: Direction::Push,
        scope: Scope::All,
        strategy: Strategy::Manual,
        dry: true,
        auto: false,
    };
    let dry = a.engine.run(options).await.unwrap();
    assert_eq!((dry.outcome, dry.files), (Outcome::Dry, 1));
    assert_eq!(world.meter.usage().since(before), Default::default());
    assert_eq!(a.push().await.files, 1);
}

#[tokio::test]
async fn requests_are_as_few_as_promised() {
    let world = World::new();
    let (a, b) = (world.machine("a").await, world.machine("b").await);
    a.write("x", "1");
    a.push().await;
    b.pull().await;
    let used = |before| world.meter.usage().since(before);

    for name in ["y", "z"] {
        a.write(name, vec![b'a'; 200_000]);
    }
    let before = world.meter.usage();
    a.push().await;
    let push = used(before);
    assert_eq!((push.writes, push.reads, push.lists), (1, 0, 0));

    let before = world.meter.usage();
    b.pull().await;
    let pull = used(before);
    assert!(pull.reads <= 3 && pull.lists == 0, "{pull:?}");
    let before = world.meter.usage();
    assert_eq!(b.pull().await.outcome, Outcome::Nothing);
    let nothing = used(before);
    assert_eq!((nothing.reads, nothing.lists, nothing.writes), (1, 0, 0));
}
