//! A watch over a folder and a repository: nothing stays behind, whatever is heard when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{FutureExt as _, LocalBoxFuture};
use statehold_core::bands::Profile;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::id::PackId;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, Opening, load};
use statehold_repository::{Remote, Repository, Result};
use statehold_sync::preset::Preset;
use statehold_sync::watch::{News, WatchOptions, watch};
use statehold_testkit::machine::{Machine, Shared};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

const OPTIONS: WatchOptions = WatchOptions {
    scope: Scope::All,
    strategy: Strategy::Manual,
    may_push: true,
};

/// A repository that says nothing of its head before it may, and appends nothing before that.
#[derive(Debug)]
struct Reticent {
    inner: Repository,
    may_tell: Arc<Semaphore>,
    appends: Arc<Semaphore>,
    may_append: Arc<Semaphore>,
}

impl Reticent {
    async fn to(shared: &Shared) -> Self {
        let closed = || Arc::new(Semaphore::new(0));
        Self {
            inner: shared.repository().await.unwrap(),
            may_tell: closed(),
            appends: closed(),
            may_append: closed(),
        }
    }
}

#[async_trait]
impl Remote for Reticent {
    fn description(&self) -> (&Description, Digest) {
        self.inner.description()
    }

    async fn confirm(&self, known: RecordRef) -> Result<()> {
        self.inner.confirm(known).await
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        self.inner.open(at).await
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        self.inner.records(after).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        self.inner.read(places).await
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        self.inner.put_pack(id, bytes).await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        self.appends.add_permits(1);
        let _may = self.may_append.acquire().await.unwrap();
        self.inner.append(draft, known).await
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        self.inner.tend(state).await
    }

    async fn next_head(&self, known: RecordRef) -> Result<RecordRef> {
        let _may = self.may_tell.acquire().await.unwrap();
        self.inner.next_head(known).await
    }
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// Watches a machine while something goes on. The directions of the runs that moved something.
fn watched<'a>(
    machine: &'a Machine,
    goes_on: impl Future<Output = ()> + 'a,
) -> LocalBoxFuture<'a, Vec<Direction>> {
    let watching = async move {
        let mut moved = Vec::new();
        let mut tell = |news: News<'_>| match news {
            News::Ran {
                options, result, ..
            } if result.unwrap().files > 0 => moved.push(options.direction),
            News::Ran { .. } => {}
            News::Untold { reason } => panic!("{reason}"),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let watching = watch(&machine.engine, OPTIONS, stopped, &mut tell);
        let (watching, ()) = tokio::join!(watching, async {
            goes_on.await;
            stop.send(()).unwrap();
        });
        watching.unwrap();
        moved
    };
    watching.boxed_local()
}

/// Goal: a push that lands behind records of others is no reason to think that these are here.
/// Method: nothing is heard of another machine's push until this one has pushed.
#[tokio::test]
async fn a_push_that_lands_behind_others_is_followed_by_a_pull() {
    let shared = Shared::in_memory();
    let other = shared.machine("other").await.unwrap();
    let remote = Reticent::to(&shared).await;
    remote.may_append.add_permits(1);
    let may_tell = Arc::clone(&remote.may_tell);
    let remote = Arc::new(remote);
    let machine = shared
        .machine_over("own", Preset::Plain, Profile::Adaptive, remote)
        .unwrap();
    let repository = shared.repository().await.unwrap();
    let moved = watched(&machine, async {
        machine.write("first", "1").unwrap();
        let has = async |path: &str| {
            let state = load(&repository).await.unwrap().state;
            state.tree.get(path).is_some()
        };
        eventually("the first file is sent", async || has("first").await).await;
        other.write("theirs", "2").unwrap();
        other.push().await.unwrap();
        machine.write("own", "3").unwrap();
        eventually("the next one, too", async || has("own").await).await;
        assert!(!machine.path("theirs").exists(), "nobody has told of it");
        may_tell.add_permits(1);
        let here = machine.path("theirs");
        eventually("theirs comes", async || here.exists()).await;
    })
    .await;
    assert_eq!(moved.last(), Some(&Direction::Pull), "{moved:?}");
}

/// Goal: the same, where the push is part of a run that pulled first.
/// Method: another machine pushes between the two.
#[tokio::test]
async fn what_comes_between_a_pull_and_its_push_is_pulled_too() {
    let shared = Shared::in_memory();
    let other = shared.machine("other").await.unwrap();
    let remote = Reticent::to(&shared).await;
    remote.may_tell.add_permits(1);
    let appends = Arc::clone(&remote.appends);
    let may_append = Arc::clone(&remote.may_append);
    let machine = shared
        .machine_over("own", Preset::Plain, Profile::Adaptive, Arc::new(remote))
        .unwrap();
    machine.write("own", "1").unwrap();
    let moved = watched(&machine, async {
        let _reached = appends.acquire().await.unwrap();
        other.write("theirs", "2").unwrap();
        other.push().await.unwrap();
        may_append.add_permits(1);
        let here = machine.path("theirs");
        eventually("theirs comes", async || here.exists()).await;
    })
    .await;
    assert_eq!(moved, [Direction::Bidirectional, Direction::Pull]);
}

/// Goal: what is written in a burst, in folders that are only just made, goes to the last file, and not file
/// by file.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_files_in_new_folders_goes_to_the_last_one() {
    let shared = Shared::in_memory();
    let machine = shared.machine("own").await.unwrap();
    let repository = shared.repository().await.unwrap();
    let paths: BTreeSet<String> = (0..3_000)
        .map(|number| format!("a{}/b{}/c{}/{number}", number % 7, number % 11, number % 13))
        .collect();
    let root = machine.path("");
    let written = paths.clone();
    let moved = watched(&machine, async {
        let writing = tokio::task::spawn_blocking(move || {
            for path in &written {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
        });
        writing.await.unwrap();
        eventually("all are sent", async || {
            let state = load(&repository).await.unwrap().state;
            paths.iter().all(|path| state.tree.get(path).is_some())
        })
        .await;
    })
    .await;
    assert!(moved.len() < 60, "{} runs", moved.len());
}
