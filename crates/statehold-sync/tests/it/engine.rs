//! Two machines, one repository: what one pushes, the other gets, and nobody loses anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use statehold_core::digest::Digest;
use statehold_core::environment::Clock as _;
use statehold_core::event::Outcome;
use statehold_core::plan::{ConflictKind, Direction, Strategy};
use statehold_repository::Remote as _;
use statehold_repository::meter::Usage;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_sync::engine::{Engine, RunOptions};
use statehold_sync::journal::Journal;
use statehold_sync::progress::{Phase, Progress};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::machine::{BY_HAND, Machine, Shared};

const PUSH: RunOptions = RunOptions {
    direction: Direction::Push,
    ..BY_HAND
};
const PULL: RunOptions = RunOptions {
    direction: Direction::Pull,
    ..BY_HAND
};

async fn two_machines(shared: &Shared) -> (Machine, Machine) {
    (
        shared.machine("a").await.unwrap(),
        shared.machine("b").await.unwrap(),
    )
}

fn read(machine: &Machine, path: &str) -> String {
    fs::read_to_string(machine.path(path)).unwrap()
}

#[tokio::test]
async fn everything_arrives_as_it_was() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("plain.txt", "hello").unwrap();
    a.write("empty", "").unwrap();
    a.write("deep/er/and deeper/x", "x").unwrap();
    a.write("odd names/it's \"new\"\nline", "odd").unwrap();
    a.write("odd names/😀 e\u{301}", "odd too").unwrap();
    a.write("run.sh", "#!/bin/sh\n").unwrap();
    fs::set_permissions(a.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/er", a.path("link")).unwrap();
    fs::create_dir(a.path("empty folder")).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes())
        .collect();
    a.write("large.bin", &noise[..9_000_000]).unwrap();
    a.write("copy of large.bin", &noise[..9_000_000]).unwrap();

    let pushed = a.push().await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    let pulled = b.pull().await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Nothing);
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Nothing);
}

#[tokio::test]
async fn edits_and_deletions_travel_both_ways() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("keep", "1").unwrap();
    a.write("edit", "1").unwrap();
    a.write("folder/gone", "1").unwrap();
    a.write("file then folder", "1").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();

    b.write("edit", "2").unwrap();
    b.write("new", "b").unwrap();
    fs::remove_dir_all(b.path("folder")).unwrap();
    fs::remove_file(b.path("file then folder")).unwrap();
    b.write("file then folder/inner", "2").unwrap();
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Done);
    a.write("from a", "a").unwrap();
    let synced = a.run(BY_HAND).await.unwrap();
    assert_eq!(synced.outcome, Outcome::Done, "{synced:?}");
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Done);
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    assert!(!a.path("folder").exists());
    assert_eq!(read(&a, "file then folder/inner"), "2");
}

#[tokio::test]
async fn disjoint_pushes_need_no_pull_and_the_same_edit_is_no_conflict() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("base", "0").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    a.write("of a", "a").unwrap();
    b.write("of b", "b").unwrap();
    a.write("same", "both").unwrap();
    b.write("same", "both").unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    let pushed = b.push().await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    a.pull().await.unwrap();
    b.pull().await.unwrap();
    assert_eq!(read(&a, "of b"), "b");
    assert_eq!(read(&b, "of a"), "a");
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Nothing);
}

#[tokio::test]
async fn the_second_of_two_edits_is_told_and_nothing_is_lost() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("note", "0").unwrap();
    a.write("other", "0").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    a.write("note", "from a").unwrap();
    b.write("note", "from b").unwrap();
    b.write("other", "from b").unwrap();
    a.push().await.unwrap();
    let refused = b.push().await.unwrap();
    assert_eq!(refused.outcome, Outcome::Conflict);
    let conflicts: Vec<_> = refused
        .conflicts
        .iter()
        .map(|conflict| (conflict.path.as_str(), conflict.kind))
        .collect();
    assert_eq!(conflicts, [("note", ConflictKind::BothChanged)]);
    assert_eq!(read(&b, "note"), "from b");
    // A pull keeps both sides and says so, again and again, until somebody decides.
    for _ in 0..2 {
        assert_eq!(b.pull().await.unwrap().outcome, Outcome::Conflict);
        assert_eq!(read(&b, "note"), "from b");
    }
    let taken = b
        .run(RunOptions {
            strategy: Strategy::Remote,
            ..PULL
        })
        .await
        .unwrap();
    assert_eq!(read(&b, "note"), "from a");
    assert_eq!(fs::read_to_string(&taken.set_aside[0]).unwrap(), "from b");
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Done);
    a.pull().await.unwrap();
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
}

#[tokio::test]
async fn taking_the_local_side_overwrites_with_the_loser_in_history() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("note", "0").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    a.write("note", "from a").unwrap();
    fs::remove_file(b.path("note")).unwrap();
    a.push().await.unwrap();
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Conflict);
    assert_eq!(
        b.run(RunOptions {
            strategy: Strategy::Local,
            ..PUSH
        })
        .await
        .unwrap()
        .outcome,
        Outcome::Done
    );
    assert_eq!(a.pull().await.unwrap().outcome, Outcome::Done);
    assert!(!a.path("note").exists());
}

#[tokio::test]
async fn a_lost_index_means_union_and_never_a_deletion() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("one", "1").unwrap();
    a.write("two", "2").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    fs::remove_file(b.path("one")).unwrap();
    b.write("two", "changed").unwrap();
    b.write("three", "3").unwrap();
    for damage in ["", "SHINDEX\nnonsense"] {
        fs::write(b.path(".statehold/index"), damage).unwrap();
        let pulled = b.pull().await.unwrap();
        assert_eq!(pulled.outcome, Outcome::Conflict);
        assert_eq!(read(&b, "one"), "1");
        assert_eq!(read(&b, "two"), "changed");
        assert_eq!(read(&b, "three"), "3");
    }
}

#[tokio::test]
async fn a_log_that_grows_sends_its_tail() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let line = "{\"event\":\"something happened\",\"detail\":\"as it does\"}\n";
    a.write("log.ndjson", line.repeat(90_000)).unwrap();
    a.push().await.unwrap();
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(a.path("log.ndjson"))
        .unwrap();
    for round in 0..40_u32 {
        use std::io::Write as _;
        let tail: Vec<u8> = (0..32)
            .flat_map(|i: u32| {
                *Digest::of(&[round.to_le_bytes(), i.to_le_bytes()].concat()).as_bytes()
            })
            .collect();
        log.write_all(&tail).unwrap();
        let before = shared.usage();
        let pushed = a.push().await.unwrap();
        assert_eq!(pushed.outcome, Outcome::Done);
        let used = shared.usage().since(before);
        assert!(
            round % 8 == 7 || used.bytes_in < 8_000 || used.writes > 1,
            "{used:?}"
        );
    }
    let b = shared.machine("b").await.unwrap();
    b.pull().await.unwrap();
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anybody_is_asked() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    a.write("fits", vec![1; 10_000_000]).unwrap();
    a.write("too large", vec![1; 10_000_001]).unwrap();
    let before = shared.usage();
    let refused = a.push().await.unwrap();
    assert_eq!(refused.outcome, Outcome::Refused);
    assert_eq!(refused.too_large.len(), 1);
    assert_eq!(
        (refused.too_large[0].size, refused.too_large[0].limit),
        (10_000_001, 10_000_000)
    );
    assert_eq!(shared.usage().since(before), Usage::default());

    let options = RunOptions { auto: true, ..PUSH };
    let partial = a.run(options).await.unwrap();
    assert_eq!((partial.outcome, partial.files), (Outcome::Partial, 1));
}

#[tokio::test]
async fn a_dry_push_contacts_nobody_and_changes_nothing() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    a.write("x", "1").unwrap();
    a.push().await.unwrap();
    a.write("y", "1").unwrap();
    let before = shared.usage();
    let options = RunOptions { dry: true, ..PUSH };
    let dry = a.run(options).await.unwrap();
    assert_eq!((dry.outcome, dry.files), (Outcome::Dry, 1));
    assert_eq!(shared.usage().since(before), Usage::default());
    assert_eq!(a.push().await.unwrap().files, 1);
}

#[tokio::test]
async fn requests_are_as_few_as_promised() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("x", "1").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    let used = |before| shared.usage().since(before);

    for name in ["y", "z"] {
        a.write(name, vec![b'a'; 200_000]).unwrap();
    }
    let before = shared.usage();
    a.push().await.unwrap();
    let push = used(before);
    assert_eq!((push.writes, push.reads, push.lists), (1, 0, 0));

    let before = shared.usage();
    b.pull().await.unwrap();
    let pull = used(before);
    assert!(pull.reads <= 4 && pull.lists == 0, "{pull:?}");
    let before = shared.usage();
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
    let nothing = used(before);
    assert_eq!((nothing.reads, nothing.lists, nothing.writes), (1, 0, 0));
}

#[tokio::test]
async fn a_folder_that_goes_elsewhere_stays_where_it_holds_ignored_files() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    fs::create_dir(a.path("folder")).unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    b.write(".stateholdignore", "cache\n").unwrap();
    b.write("folder/cache", "mine").unwrap();
    b.push().await.unwrap();
    a.pull().await.unwrap();
    fs::remove_dir(a.path("folder")).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Done);
    assert_eq!(read(&b, "folder/cache"), "mine");
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Nothing);
}

#[tokio::test]
async fn one_damaged_pack_leaves_its_files_alone_and_brings_all_others() {
    let vault = tempfile::tempdir().unwrap();
    let shared = Shared::on(Store::folder(vault.path()).unwrap());
    let (a, b) = two_machines(&shared).await;
    let noise = SeededEntropy::new(3);
    a.write("in a pack", noise.bytes(400_000)).unwrap();
    a.push().await.unwrap();
    a.write("fine", "fine").unwrap();
    a.push().await.unwrap();
    let pack = fs::read_dir(vault.path().join("packs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100_000] ^= 1;
    for damage in [Some(&bytes[..]), Some(&bytes[..1_000]), None] {
        match damage {
            Some(bytes) => fs::write(&pack, bytes).unwrap(),
            None => fs::remove_file(&pack).unwrap(),
        }
        let error = b.pull().await.unwrap_err();
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(read(&b, "fine"), "fine");
        assert!(!b.path("in a pack").exists());
    }
}

/// Goal: what a killed pull had staged goes, also when there is nothing left to receive.
/// Method: a leftover in the staging folder, and a pull that finds nothing new.
#[tokio::test]
async fn a_pull_with_nothing_new_clears_what_a_killed_one_left() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("x", "x").unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    let staging = b.engine.workspace().staging();
    fs::write(staging.join("left"), "half").unwrap();
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
}

/// Goal: an edit that came after a push whose end was unknown is received, and not taken back.
/// Method: a push lands and its writer dies before it hears of it; another machine edits the same file
/// on top of it; then the writer comes back.
#[tokio::test]
async fn what_came_after_a_settled_push_is_not_taken_back() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    a.write("x", "0").unwrap();
    a.write("gone", "0").unwrap();
    a.push().await.unwrap();
    let repository = shared.repository().await.unwrap();
    let state = load(&repository).await.unwrap().state;
    a.write("x", "1").unwrap();
    fs::remove_file(a.path("gone")).unwrap();
    let changes = [("x", Some(&b"1"[..])), ("gone", None)];
    let drafted = Author::new(9).draft(&state, changes).unwrap();
    Journal::of(a.engine.workspace())
        .write(&[], &drafted.draft)
        .unwrap();
    repository.append(&drafted.draft, &state).await.unwrap();

    b.pull().await.unwrap();
    b.write("x", "2").unwrap();
    b.write("gone", "2").unwrap();
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Done);

    let synced = a.run(BY_HAND).await.unwrap();
    assert_eq!(synced.outcome, Outcome::Done, "{synced:?}");
    assert_eq!((read(&a, "x"), read(&a, "gone")), ("2".into(), "2".into()));
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
}

/// Counts what a watching person is told has been sent.
#[derive(Debug, Default)]
struct Watcher {
    sending: AtomicBool,
    total: AtomicU64,
    sent: AtomicU64,
}

impl Progress for Watcher {
    fn begin(&self, phase: Phase, total: u64) {
        let sends = phase == Phase::Send;
        self.sending.store(sends, Relaxed);
        if sends {
            self.total.store(total, Relaxed);
            self.sent.store(0, Relaxed);
        }
    }

    fn advance(&self, done: u64) {
        if self.sending.load(Relaxed) {
            self.sent.fetch_add(done, Relaxed);
        }
    }

    fn end(&self) {
        self.sending.store(false, Relaxed);
    }
}

/// Goal: what is told to be sent has been sent, and in the end that is all of it.
/// Method: a push of several packs and a record; then one whose store was set back, after its files were read.
#[tokio::test]
async fn what_is_told_to_be_sent_has_been_sent() {
    let vault = tempfile::tempdir().unwrap();
    let store = vault.path().join("store");
    let shared = Shared::on(Store::folder(&store).unwrap());
    let a = shared.machine("a").await.unwrap();
    let watcher = Arc::new(Watcher::default());
    // Each run has a repository of its own, as one of the program has.
    let push = async || {
        let engine = Engine::new(
            a.engine.workspace().clone(),
            Arc::new(shared.repository().await.unwrap()),
            Arc::new(SimulatedClock::standing(EPOCH)),
            Arc::new(SeededEntropy::new(4)),
            Arc::<Watcher>::clone(&watcher),
        );
        engine.unwrap().run(PUSH).await
    };
    let noise = SeededEntropy::new(3);
    for name in ["x", "y"] {
        a.write(name, noise.bytes(9_000_000)).unwrap();
    }
    a.write("small", "small").unwrap();
    assert_eq!(push().await.unwrap().outcome, Outcome::Done);
    assert!(fs::read_dir(store.join("packs")).unwrap().count() > 1);
    assert_eq!(watcher.total.load(Relaxed), 18_000_005);
    assert_eq!(watcher.sent.load(Relaxed), 18_000_005);

    let record = store.join("log/00000000000000000001");
    fs::rename(record, vault.path().join("away")).unwrap();
    a.write("small", "no longer small").unwrap();
    push().await.unwrap_err();
    assert_eq!(watcher.total.load(Relaxed), 15);
    assert_eq!(watcher.sent.load(Relaxed), 0);
}

/// A program that starts anew for each run knows when its workspace looked last, so that with nothing new it
/// takes no listing.
#[tokio::test]
async fn a_workspace_that_is_straight_on_a_store_keeps_when_it_looked() {
    let shared = Shared::in_memory();
    let (a, b) = two_machines(&shared).await;
    b.write("file", "content").unwrap();
    b.push().await.unwrap();
    a.pull().await.unwrap();
    // Behind a gateway there is no such file, and none is made.
    assert_eq!(a.engine.workspace().last_look(), None);
    assert!(!a.engine.workspace().repository_path().exists());

    fs::write(a.engine.workspace().repository_path(), "{}").unwrap();
    a.pull().await.unwrap();
    let looked = a.engine.workspace().last_look();
    assert_eq!(looked, Some(shared.clock().now()));
    let remote = Arc::new(shared.repository().await.unwrap());
    remote.looked_at(looked.unwrap());
    let a = shared.restarted(a, remote).unwrap();
    let before = shared.usage();
    assert_eq!(a.pull().await.unwrap().outcome, Outcome::Nothing);
    let used = shared.usage().since(before);
    assert_eq!((used.reads, used.lists), (2, 0));
}
