//! Readers beside a collector that moves and deletes all that they read, between the listing and the content.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use statehold_core::event::Outcome;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::retention::Policy;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::drill::Drill;
use statehold_repository::remote::{load, load_at};
use statehold_repository::store::Store;
use statehold_repository::{Error, Remote, Repository};
use statehold_sync::engine::EngineError;
use statehold_sync::export::write_archive;
use statehold_sync::progress::Unwatched;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::hooked::{Before, Hooked};
use statehold_testkit::machine::{Machine, Shared};
use tempfile::TempDir;

/// Nothing waits.
const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};
/// Files that stay. With what is beside them they are read in several batches.
const FILES: u64 = 36;
/// The newest but few.
const FEW: Policy = Policy {
    within_days: 0,
    last: 1,
    hourly: 0,
    daily: 0,
    weekly: 0,
    monthly: 0,
    yearly: 0,
};

/// A repository in a folder. Most of each pack is superseded at once, and much rides in records, so that a
/// compaction moves all that is left.
struct Folder {
    folder: TempDir,
    /// The record that a snapshot keeps.
    kept: u64,
    then: BTreeMap<String, Vec<u8>>,
    now: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    async fn grown() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::on(Store::folder(folder.path()).unwrap());
        let writer = shared.machine("writer").await.unwrap();
        let noise = SeededEntropy::new(11);
        let (mut kept, mut then, mut now) = (0, BTreeMap::new(), BTreeMap::new());
        for number in 0..FILES {
            let large = if number % 3 == 0 { 20_000 } else { 800_000 };
            for (path, length) in [
                (format!("kept/{number:02}"), large),
                ("passing".to_owned(), large + large / 2),
            ] {
                let content = noise.bytes(length);
                writer.write(&path, &content).unwrap();
                now.insert(path, content);
            }
            writer.push().await.unwrap();
            if number == FILES - 6 {
                let label = "kept".parse().unwrap();
                let made = writer.engine.snapshot(&label, None).await.unwrap();
                (kept, then) = (made.at, now.clone());
            }
        }
        writer.engine.keep_by(FEW).await.unwrap();
        Self {
            folder,
            kept,
            then,
            now,
        }
    }

    /// A copy of it, which goes its own way.
    fn fork(&self) -> Fork {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        let store = Store::folder(folder.path()).unwrap();
        Fork {
            shared: Shared::on(store.clone()),
            store,
            moved: Arc::default(),
            _folder: folder,
        }
    }
}

struct Fork {
    shared: Shared,
    store: Store,
    moved: Arc<AtomicU64>,
    _folder: TempDir,
}

impl Fork {
    /// The repository, with a collector that comes before each reading.
    async fn overtaken(&self) -> Arc<dyn Remote> {
        let inner = Arc::new(self.shared.repository().await.unwrap());
        let (store, moved) = (self.store.clone(), Arc::clone(&self.moved));
        Arc::new(Hooked::new(inner, move |before| {
            let (store, moved) = (store.clone(), Arc::clone(&moved));
            async move {
                if before == Before::Read {
                    let repository = collecting(store).await;
                    moved.fetch_add(collect(&repository).await, Ordering::Relaxed);
                }
            }
            .boxed()
        }))
    }

    fn check_moved(&self) {
        // All of it, and more than once would be more than there is to move.
        assert!(self.moved.load(Ordering::Relaxed) > 20);
    }
}

async fn collecting(store: Store) -> Repository {
    // A folder dates its objects by the time that it really is.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
    let now = i64::try_from(now.as_millis()).unwrap();
    let clock = Arc::new(SimulatedClock::standing(Timestamp::from_millis(now)));
    let entropy = Arc::new(SeededEntropy::new(77));
    let opened = Repository::open_existing(store, clock, entropy).await;
    opened.unwrap().unwrap()
}

/// Collects, and says how many objects went.
async fn collect(repository: &Repository) -> u64 {
    let collector = Collector::new(repository, AT_ONCE);
    let collected = collector.collect(true).await.unwrap();
    let deleted = collected.removed.unwrap().deleted;
    deleted.packs + deleted.records
}

fn copy(from: &Path, to: &Path) {
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&item.path(), &to);
        } else {
            fs::copy(item.path(), &to).unwrap();
        }
    }
}

fn check(root: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (path, content) in files {
        assert!(fs::read(root.join(path)).unwrap() == *content, "{path}");
    }
}

fn over(shared: &Shared, remote: Arc<dyn Remote>) -> Machine {
    use statehold_core::bands::Profile;
    use statehold_sync::preset::Preset;
    let made = shared.machine_over("reader", Preset::Plain, Profile::Adaptive, remote);
    made.unwrap()
}

async fn state_at(remote: &dyn Remote, number: u64) -> Arc<State> {
    load_at(remote, Point::Record(number)).await.unwrap()
}

#[tokio::test]
async fn whoever_reads_goes_on_when_a_collector_moves_what_is_read() {
    let grown = Folder::grown().await;

    let fork = grown.fork();
    let reader = over(&fork.shared, fork.overtaken().await);
    let pulled = reader.pull().await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    check(&reader.path(""), &grown.now);
    fork.check_moved();

    let fork = grown.fork();
    let remote = fork.overtaken().await;
    let state = state_at(&*remote, grown.kept).await;
    let reader = over(&fork.shared, remote);
    let restored = reader
        .engine
        .restore(&state, None, state.time)
        .await
        .unwrap();
    assert!(restored.entries.is_whole(), "{restored:?}");
    check(&reader.path(restored.holding.as_str()), &grown.then);
    fork.check_moved();

    let fork = grown.fork();
    let remote = fork.overtaken().await;
    let state = state_at(&*remote, grown.kept).await;
    let mut archive = Vec::new();
    let name = PathBuf::from("archive");
    let written = write_archive(&*remote, &state, &mut archive, &name, &Unwatched).await;
    assert_eq!(written.unwrap().entries, state.tree.len() as u64);
    fork.check_moved();

    let fork = grown.fork();
    let remote = fork.overtaken().await;
    let scratch = tempfile::tempdir().unwrap();
    let drill = Drill {
        primary: &*remote,
        at: "here",
        replica: None,
        scratch: scratch.path(),
        // Draws the newest but one, which is kept.
        seed: seed_of(grown.kept, &*remote).await,
        clock: &SimulatedClock::standing(EPOCH),
        watch: &statehold_repository::verify::Unwatched,
    };
    let receipt = drill.run().await.unwrap();
    assert!(receipt.passed, "{receipt:?}");
    fork.check_moved();
}

/// A seed by which the drill draws a record that stays: that of the snapshot.
async fn seed_of(kept: u64, remote: &dyn Remote) -> u64 {
    use statehold_core::digest::Digest;
    let newest = load(remote).await.unwrap().state.head.number;
    let draws = |seed: u64| {
        let digest = Digest::of(&seed.to_be_bytes());
        let drawn = u64::from_be_bytes(*digest.as_bytes().first_chunk().unwrap());
        1 + drawn % (newest - 1)
    };
    (0..).find(|seed| draws(*seed) == kept).unwrap()
}

/// Goal: a pull that stood still until the state it began with was let go takes the newest one, and what it
/// had fetched is used.
#[tokio::test]
async fn a_pull_whose_state_was_let_go_takes_the_newest() {
    let grown = Folder::grown().await;
    let fork = grown.fork();
    let writer = fork.shared.machine("writer").await.unwrap();
    writer.pull().await.unwrap();
    let inner = Arc::new(fork.shared.repository().await.unwrap());
    let writer = Arc::new(writer);
    let (store, reads) = (fork.store.clone(), Arc::new(AtomicU64::new(0)));
    let other = Arc::clone(&writer);
    let remote = Arc::new(Hooked::new(inner, move |before| {
        let (store, other) = (store.clone(), Arc::clone(&other));
        let is_second = before == Before::Read && reads.fetch_add(1, Ordering::Relaxed) == 1;
        async move {
            if is_second {
                for number in 0..FILES {
                    let path = format!("kept/{number:02}");
                    other.write(&path, format!("{number} anew")).unwrap();
                }
                other.push().await.unwrap();
                let id = other.engine.remote_state().await.unwrap();
                let id = id.snapshots.keys().next().unwrap().clone();
                other.engine.forget_snapshots(vec![id]).await.unwrap();
                let repository = collecting(store).await;
                assert!(collect(&repository).await > 20);
            }
        }
        .boxed()
    }));
    let reader = over(&fork.shared, remote);
    let pulled = reader.pull().await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    assert_eq!(reader.tree().unwrap(), writer.tree().unwrap());
}

/// Goal: what nobody moved is damage, said as such, and said of the files alone that need it; and content
/// that was purged keeps nothing else from coming.
#[tokio::test]
async fn what_is_found_nowhere_is_missing() {
    let grown = Folder::grown().await;
    let fork = grown.fork();
    let remote = fork.shared.repository().await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let pack = state.packs.keys().next().unwrap();
    let pack = fork._folder.path().join("packs").join(pack.to_string());
    fs::remove_file(pack).unwrap();
    let reader = over(&fork.shared, Arc::new(remote));
    let error = reader.pull().await.unwrap_err();
    assert!(
        matches!(error, EngineError::Remote(Error::NotFound { .. })),
        "{error:?}"
    );
    let there = fs::read_dir(reader.path("kept")).unwrap().count() as u64;
    assert!(there >= FILES - 2, "{there}");

    let fork = grown.fork();
    let writer = fork.shared.machine("writer").await.unwrap();
    writer.pull().await.unwrap();
    fs::remove_file(writer.path("kept/07")).unwrap();
    writer.push().await.unwrap();
    let path: RepoPath = "kept/07".parse().unwrap();
    let repository = collecting(fork.store.clone()).await;
    let purged = Collector::new(&repository, AT_ONCE).purge(&path).await;
    assert!(purged.unwrap().compacted.purged > 0);
    let remote = fork.shared.repository().await.unwrap();
    let state = state_at(&remote, grown.kept).await;
    let reader = over(&fork.shared, Arc::new(remote));
    let restored = reader
        .engine
        .restore(&state, None, state.time)
        .await
        .unwrap();
    let failed = restored.entries.failed.iter();
    let failed: Vec<&str> = failed.map(|(path, _)| path.as_str()).collect();
    assert_eq!(failed, ["kept/07"], "what was purged is no damage");
    assert!(restored.entries.damaged.is_empty());
    let mut rest = grown.then.clone();
    rest.remove("kept/07");
    check(&reader.path(restored.holding.as_str()), &rest);
}
