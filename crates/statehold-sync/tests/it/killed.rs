//! Pulls that are killed among their switches: what they had placed is no edit of the machine's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use statehold_core::event::Outcome;
use statehold_core::id::Nonce;
use statehold_core::plan::{ConflictKind, Direction};
use statehold_core::point::Point;
use statehold_core::record::{Body, DraftHead, Kind, PushBody, RollbackBody};
use statehold_core::snapshot::SnapshotId;
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{load, load_at};
use statehold_sync::engine::{Engine, Report, RunOptions};
use statehold_sync::journal::Journal;
use statehold_sync::progress::{Phase, Progress};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::machine::{BY_HAND, Machine, Shared};

pub(crate) const PULL: RunOptions = RunOptions {
    direction: Direction::Pull,
    ..BY_HAND
};
/// More switches than any pull here has.
const NEVER: u64 = 1_000;

/// Ends a run, as a kill would, after so many switches.
#[derive(Debug)]
struct Killer(AtomicU64);

impl Killer {
    fn strike(&self) {
        // No message, since nothing failed.
        std::panic::resume_unwind(Box::new("killed"));
    }
}

impl Progress for Killer {
    fn begin(&self, phase: Phase, _: u64) {
        // Nothing else is counted once there is something to place.
        if phase == Phase::Place && self.0.fetch_add(NEVER, Relaxed) == 0 {
            self.strike();
        }
    }

    fn advance(&self, _: u64) {
        let before = self.0.load(Relaxed);
        if before >= NEVER && self.0.fetch_sub(1, Relaxed) == NEVER + 1 {
            self.strike();
        }
    }

    fn end(&self) {}
}

/// Runs the engine of a machine and kills it after so many switches; what it came to if it had ended before.
pub(crate) async fn killed(
    shared: &Shared,
    machine: &Machine,
    options: RunOptions,
    switches: u64,
) -> Option<Report> {
    let engine = Engine::new(
        machine.engine.workspace().clone(),
        Arc::new(shared.repository().await.unwrap()),
        Arc::new(SimulatedClock::standing(EPOCH)),
        Arc::new(SeededEntropy::new(5)),
        Arc::new(Killer(AtomicU64::new(switches))),
    );
    let engine = engine.unwrap();
    match tokio::spawn(async move { engine.run(options).await }).await {
        Ok(report) => Some(report.unwrap()),
        Err(error) => {
            assert!(error.is_panic());
            None
        }
    }
}

fn journal(machine: &Machine) -> PathBuf {
    machine.path(".statehold/journal/pull")
}

/// A kill between a switch and its mark.
fn lose_the_last_mark(machine: &Machine) {
    let bytes = fs::read(journal(machine)).unwrap();
    fs::write(journal(machine), &bytes[..bytes.len() - 4]).unwrap();
}

/// Files, a link, a folder and deletions, in versions of which each differs from the others at each path.
fn write(machine: &Machine, version: u64) {
    for path in ["a", "deep/b", "deep/c"] {
        machine.write(path, format!("{version}")).unwrap();
    }
    drop(fs::remove_file(machine.path("link")));
    symlink(format!("to {version}"), machine.path("link")).unwrap();
    for (path, every) in [("gone", 2), ("turn/inner", 3)] {
        if version % every == 1 {
            drop(fs::remove_file(machine.path(path)));
        } else {
            machine.write(path, format!("{version}")).unwrap();
        }
    }
    // A file where a folder was.
    drop(fs::remove_dir(machine.path("turn")));
    drop(fs::remove_file(machine.path("place")));
    drop(fs::remove_dir_all(machine.path("place")));
    if version.is_multiple_of(2) {
        machine.write("place", format!("{version}")).unwrap();
    } else {
        machine.write("place/inner", format!("{version}")).unwrap();
    }
}

/// Goal: wherever a pull is killed, and whatever others change before the next one, nobody is asked to decide
/// about a conflict that nobody made.
/// Method: one pull killed after each number of switches, with and without its last mark; then all paths change
/// again elsewhere, and one more run takes that in. From an empty folder, and from one that knows a base.
#[tokio::test]
async fn what_a_killed_pull_placed_is_no_edit() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let mut b = shared.machine("b").await.unwrap();
    write(&a, 0);
    a.push().await.unwrap();
    b.pull().await.unwrap();
    let (mut version, mut kills) = (0, 0);
    for (is_clone, loses_mark) in [(false, false), (false, true), (true, false), (true, true)] {
        for switches in 0.. {
            if is_clone {
                b = shared.machine("b").await.unwrap();
            }
            // From one with some files to one with others.
            version += 5;
            write(&a, version);
            a.push().await.unwrap();
            if killed(&shared, &b, PULL, switches).await.is_some() {
                break;
            }
            kills += 1;
            if loses_mark && switches > 0 {
                lose_the_last_mark(&b);
            }
            version += 1;
            write(&a, version);
            assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
            // There is nothing to send.
            let pushed = b.push().await.unwrap();
            assert_eq!(pushed.outcome, Outcome::Nothing, "{switches}: {pushed:?}");
            let synced = b.run(BY_HAND).await.unwrap();
            assert_eq!(synced.outcome, Outcome::Done, "{switches}: {synced:?}");
            assert!(synced.set_aside.is_empty());
            assert_eq!(a.tree().unwrap(), b.tree().unwrap());
            assert!(!journal(&b).exists());
            assert_eq!(b.run(BY_HAND).await.unwrap().outcome, Outcome::Nothing);
        }
    }
    assert!(kills > 20, "{kills}");
}

/// Goal: several kills in a row, each of a pull to a newer record, add up to nothing either.
#[tokio::test]
async fn pulls_may_be_killed_again_and_again() {
    for switches in [1, 2, 4] {
        let shared = Shared::in_memory();
        let a = shared.machine("a").await.unwrap();
        let b = shared.machine("b").await.unwrap();
        write(&a, 0);
        a.push().await.unwrap();
        b.pull().await.unwrap();
        for version in 1..6 {
            write(&a, version);
            a.push().await.unwrap();
            let options = if version == 3 { BY_HAND } else { PULL };
            assert!(killed(&shared, &b, options, switches).await.is_none());
        }
        write(&a, 6);
        a.push().await.unwrap();
        let pulled = b.pull().await.unwrap();
        assert_eq!(pulled.outcome, Outcome::Done, "{switches}: {pulled:?}");
        assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    }
}

/// Goal: an edit after the kill is what it is: a change to what had been placed, and a conflict only where both
/// sides made one.
#[tokio::test]
async fn an_edit_after_the_kill_is_judged_by_what_it_was_made_on() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let b = shared.machine("b").await.unwrap();
    for path in ["1 gone", "2", "3", "4", "5 not yet"] {
        a.write(path, "0").unwrap();
    }
    a.push().await.unwrap();
    b.pull().await.unwrap();
    fs::remove_file(a.path("1 gone")).unwrap();
    for path in ["2", "3", "4", "5 not yet"] {
        a.write(path, "1").unwrap();
    }
    a.push().await.unwrap();
    // The deletion, and three of four files.
    assert!(killed(&shared, &b, PULL, 4).await.is_none());
    assert_eq!(fs::read_to_string(b.path("4")).unwrap(), "1");
    assert_eq!(fs::read_to_string(b.path("5 not yet")).unwrap(), "0");

    b.write("1 gone", "here again").unwrap();
    b.write("2", "edited").unwrap();
    // Back to what it was before the pull.
    b.write("3", "0").unwrap();
    b.write("4", "edited").unwrap();
    a.write("4", "2").unwrap();
    b.write("5 not yet", "edited").unwrap();
    a.push().await.unwrap();
    let synced = b.run(BY_HAND).await.unwrap();
    let conflicts: Vec<_> = synced
        .conflicts
        .iter()
        .map(|conflict| (conflict.path.as_str(), conflict.kind))
        .collect();
    let both = ConflictKind::BothChanged;
    assert_eq!(conflicts, [("4", both), ("5 not yet", both)]);
    a.pull().await.unwrap();
    for (path, content) in [("1 gone", "here again"), ("2", "edited"), ("3", "0")] {
        assert_eq!(fs::read_to_string(a.path(path)).unwrap(), content, "{path}");
    }
    for path in ["4", "5 not yet"] {
        assert_eq!(fs::read_to_string(b.path(path)).unwrap(), "edited");
    }
}

/// Goal: what a killed pull brought is told by the next one, as of the record before both.
/// Method: killed after all of its switches, so that nothing is left to receive. Looking and pushing in between
/// keep quiet about it.
#[tokio::test]
async fn the_next_pull_tells_what_a_killed_one_brought() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let b = shared.machine("b").await.unwrap();
    a.write("x", "0").unwrap();
    a.push().await.unwrap();
    let first = b.pull().await.unwrap();
    a.write("x", "1").unwrap();
    a.write("y", "1").unwrap();
    let pushed = a.push().await.unwrap();
    assert!(killed(&shared, &b, PULL, 2).await.is_none());
    let status = b.engine.status(BY_HAND.scope).await.unwrap();
    assert!(status.actions.is_empty() && status.conflicts.is_empty());
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Nothing);
    let pulled = b.pull().await.unwrap();
    assert_eq!((pulled.outcome, pulled.files), (Outcome::Done, 2));
    assert_eq!(pulled.actions.len(), 2);
    let manifest = fs::read_to_string(b.engine.workspace().manifest_path()).unwrap();
    assert!(manifest.contains("\"y\""), "{manifest}");
    assert_eq!((pulled.before, pulled.after), (first.after, pushed.after));
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
}

/// Goal: a rollback whose end was unknown is settled by whatever comes next, and what brings it here is told as a
/// pull from the record before it.
/// Method: a rollback lands and its machine dies before it hears of it. Then it looks, and then it pulls.
#[tokio::test]
async fn a_rollback_that_was_settled_is_still_to_be_pulled() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    a.write("x", "0").unwrap();
    a.push().await.unwrap();
    a.write("x", "1").unwrap();
    let pushed = a.push().await.unwrap();
    let repository = shared.repository().await.unwrap();
    let first = load_at(&repository, Point::Record(1)).await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let back = a.engine.plan_rollback(&first, |_| true).await.unwrap().back;
    let label = "before".parse().unwrap();
    let body = RollbackBody {
        to: 1,
        before: SnapshotId::new(EPOCH, &label).unwrap(),
        files: 1,
        bytes: 1,
        changes: PushBody {
            base: state.head,
            upserts: back.upserts,
            deletes: back.deletes,
        },
    };
    let machine = a.engine.workspace().settings().machine.id;
    let nonce = Nonce::random(&SeededEntropy::new(8));
    let head = DraftHead::new(Kind::Rollback, machine, nonce, Vec::new());
    let draft = StoredDraft::new(head, Body::Rollback(body), b"").unwrap();
    let journal = Journal::of(a.engine.workspace());
    journal.write(&[], &draft).unwrap();
    repository.append(&draft, &state).await.unwrap();

    let status = a.engine.status(BY_HAND.scope).await.unwrap();
    assert_eq!(status.incoming.modified, 1);
    assert!(journal.read().unwrap().is_none());
    let pulled = a.pull().await.unwrap();
    assert_eq!(
        (pulled.outcome, pulled.before),
        (Outcome::Done, pushed.after)
    );
    assert_eq!(pulled.after.unwrap().number, 3);
    assert_eq!(fs::read_to_string(a.path("x")).unwrap(), "0");
}
