//! A watch over a folder and a repository: nothing stays behind, whatever is heard when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};
use statehold_core::bands::Profile;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_repository::remote::load;
use statehold_sync::preset::Preset;
use statehold_sync::watch::{News, WatchOptions, watch};
use statehold_testkit::hooked::{Before, Hooked};
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

/// What a reticent way to a repository waits for.
#[derive(Debug, Clone)]
struct Gates {
    may_tell: Arc<Semaphore>,
    appends: Arc<Semaphore>,
    may_append: Arc<Semaphore>,
}

/// A way that says nothing of the head before it may, and appends nothing before that.
async fn reticent(shared: &Shared) -> (Arc<Hooked>, Gates) {
    let closed = || Arc::new(Semaphore::new(0));
    let gates = Gates {
        may_tell: closed(),
        appends: closed(),
        may_append: closed(),
    };
    let inner = Arc::new(shared.repository().await.unwrap());
    let held = gates.clone();
    let remote = Hooked::new(inner, move |before| {
        let gates = held.clone();
        async move {
            let gate = match before {
                Before::NextHead => gates.may_tell,
                Before::Append => {
                    gates.appends.add_permits(1);
                    gates.may_append
                }
                Before::Read | Before::Write => return,
            };
            let _may = gate.acquire().await.unwrap();
        }
        .boxed()
    });
    (Arc::new(remote), gates)
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
    let (remote, gates) = reticent(&shared).await;
    gates.may_append.add_permits(1);
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
        gates.may_tell.add_permits(1);
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
    let (remote, gates) = reticent(&shared).await;
    gates.may_tell.add_permits(1);
    let machine = shared
        .machine_over("own", Preset::Plain, Profile::Adaptive, remote)
        .unwrap();
    machine.write("own", "1").unwrap();
    let moved = watched(&machine, async {
        let _reached = gates.appends.acquire().await.unwrap();
        other.write("theirs", "2").unwrap();
        other.push().await.unwrap();
        gates.may_append.add_permits(1);
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
