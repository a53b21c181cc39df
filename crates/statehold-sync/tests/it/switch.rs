//! A repository that goes on from its copy, as a machine sees it that knew more than the copy has.

use std::fs;
use std::sync::Arc;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::event::Outcome;
use statehold_core::id::MachineId;
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_repository::bring_over::{End, bring_over};
use statehold_repository::remote::{load, load_at};
use statehold_repository::replicate::{Replicator, Unwatched};
use statehold_repository::store::Store;
use statehold_repository::switch::{fence, promote};
use statehold_repository::{Remote as _, Repository};
use statehold_sync::engine::Engine;
use statehold_sync::journal::Journal;
use statehold_testkit::author::{Author, Drafted};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::machine::{BY_HAND, Machine, Shared};

use crate::killed::{PULL, killed};

/// A repository that was copied at some moment.
struct Two {
    shared: Shared,
    copy: Store,
}

fn environment(seed: u64) -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    (clock, Arc::new(SeededEntropy::new(seed)))
}

impl Two {
    fn new() -> Self {
        Self {
            shared: Shared::in_memory(),
            copy: Store::memory(),
        }
    }

    async fn old(&self) -> Repository {
        self.shared.repository().await.unwrap()
    }

    async fn new_one(&self) -> Repository {
        let (clock, entropy) = environment(50);
        let opened = Repository::open_existing(self.copy.clone(), clock, entropy).await;
        opened.unwrap().unwrap()
    }

    async fn replicate(&self) {
        let (clock, entropy) = environment(51);
        let replicator = Replicator::new(clock, entropy, Arc::new(Unwatched));
        let copied = replicator
            .copy(self.old().await.store(), &self.copy, None, None)
            .await;
        assert!(copied.stopped.is_none(), "{copied:?}");
    }

    async fn promote(&self) {
        let machine = MachineId::from_bytes([5; 16]);
        let promoted = promote(&self.new_one().await, machine, &SeededEntropy::new(52)).await;
        promoted.unwrap();
    }

    /// Puts the copy behind a machine.
    async fn go_on(&self, machine: &mut Machine) {
        let workspace = machine.engine.workspace().clone();
        let (clock, entropy) = environment(53);
        let remote = Arc::new(self.new_one().await);
        let watched = Arc::new(statehold_sync::progress::Unwatched);
        machine.engine = Engine::new(workspace, remote, clock, entropy, watched).unwrap();
    }

    /// A push of `x` that its machine sent to the old store, without an answer.
    async fn unanswered(&self, machine: &Machine) -> Drafted {
        let state = load(&self.old().await).await.unwrap().state;
        let changes = [("x", Some(&b"late"[..]))];
        let drafted = Author::new(9).draft(&state, changes).unwrap();
        machine.write("x", "late").unwrap();
        let journal = Journal::of(machine.engine.workspace());
        journal.write(&drafted.packs, &drafted.draft).unwrap();
        drafted
    }
}

async fn newest(repository: &Repository) -> Arc<State> {
    load(repository).await.unwrap().state
}

/// Goal: a push whose end nobody knows is made anew under its own nonce, so that it is never in the new log twice.
#[tokio::test]
async fn an_interrupted_push_keeps_its_nonce_in_the_next_epoch() {
    let two = Two::new();
    let mut a = two.shared.machine("a").await.unwrap();
    a.write("before", "1").unwrap();
    a.push().await.unwrap();
    two.replicate().await;
    let drafted = two.unanswered(&a).await;
    two.promote().await;
    two.go_on(&mut a).await;
    // Not by a run that sends nothing.
    a.pull().await.unwrap();
    let pushed = a.run(BY_HAND).await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    let new = two.new_one().await;
    let stored = new.record(3).await.unwrap().unwrap();
    let nonce = drafted.draft.draft.head.nonce;
    assert_eq!(stored.record.envelope.draft.nonce, nonce);
    // It had landed in the old log after all.
    let old = two.old().await;
    old.append(&drafted.draft, &newest(&old).await)
        .await
        .unwrap();
    let found = bring_over(&old, &new, &SeededEntropy::new(54), true)
        .await
        .unwrap();
    let ends: Vec<_> = found.iter().map(|lost| &lost.end).collect();
    assert_eq!(ends, [&End::Landed(stored.record.reference())]);
    assert_eq!(newest(&new).await.head.number, 3);
}

/// Goal: the same the other way round: it is brought over first, and the machine comes back afterwards.
#[tokio::test]
async fn an_interrupted_push_that_was_brought_over_has_landed() {
    let two = Two::new();
    let mut a = two.shared.machine("a").await.unwrap();
    a.write("before", "1").unwrap();
    a.push().await.unwrap();
    two.replicate().await;
    let drafted = two.unanswered(&a).await;
    let old = two.old().await;
    old.append(&drafted.draft, &newest(&old).await)
        .await
        .unwrap();
    let machine = MachineId::from_bytes([5; 16]);
    fence(&old, machine, &SeededEntropy::new(55)).await.unwrap();
    two.promote().await;
    let new = two.new_one().await;
    let found = bring_over(&old, &new, &SeededEntropy::new(54), true)
        .await
        .unwrap();
    assert!(
        matches!(found[..], [ref lost] if matches!(lost.end, End::Landed(_))),
        "{found:?}"
    );
    // Another machine has changed it since.
    let state = newest(&new).await;
    let changes = [("x", Some(&b"later"[..]))];
    Author::new(10).push(&new, &state, changes).await.unwrap();
    two.go_on(&mut a).await;
    let synced = a.run(BY_HAND).await.unwrap();
    assert_eq!(synced.outcome, Outcome::Done, "{synced:?}");
    assert_eq!(fs::read_to_string(a.path("x")).unwrap(), "later");
    assert_eq!(newest(&new).await.head.number, 4);
}

/// Goal: nothing that is newer here gives way to what is older in the copy, nor the other way round.
/// Method: a machine that lags behind at some paths, before and after the copy was made.
#[tokio::test]
async fn what_lags_behind_is_taken_over_or_told() {
    let two = Two::new();
    let mut a = two.shared.machine("a").await.unwrap();
    let b = two.shared.machine("b").await.unwrap();
    for path in ["seen", "edited"] {
        a.write(path, "1").unwrap();
    }
    a.push().await.unwrap();
    b.pull().await.unwrap();
    // It looks, and takes over nothing: what it has is older than the copy.
    b.write("seen", "2").unwrap();
    b.push().await.unwrap();
    a.engine.remote_state().await.unwrap();
    two.replicate().await;
    b.write("edited", "2").unwrap();
    b.push().await.unwrap();
    a.engine.join().await.unwrap();
    two.promote().await;
    two.go_on(&mut a).await;
    let pulled = a.run(BY_HAND).await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    assert_eq!(fs::read_to_string(a.path("seen")).unwrap(), "2");
    assert_eq!(fs::read_to_string(a.path("edited")).unwrap(), "1");
    // The one that had pushed it pushes it again.
    let mut b = b;
    two.go_on(&mut b).await;
    b.run(BY_HAND).await.unwrap();
    a.run(BY_HAND).await.unwrap();
    assert_eq!(fs::read_to_string(a.path("edited")).unwrap(), "2");
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    let new = two.new_one().await;
    let fork = load_at(&new, Point::Record(2)).await.unwrap();
    assert_eq!(newest(&new).await.epochs[0].from, fork.head);
}

/// Goal: what a killed pull had placed of a record that the copy lacks is pushed again, like everything that a
/// machine has beyond the copy.
/// Method: the same, where another machine was first with an edit of its own in the new log: both are kept.
#[tokio::test]
async fn what_a_killed_pull_placed_is_pushed_again_if_the_copy_lacks_it() {
    let two = Two::new();
    let a = two.shared.machine("a").await.unwrap();
    let mut b = two.shared.machine("b").await.unwrap();
    for path in ["x", "y"] {
        a.write(path, "1").unwrap();
    }
    a.push().await.unwrap();
    b.pull().await.unwrap();
    two.replicate().await;
    for path in ["x", "y"] {
        a.write(path, "2").unwrap();
    }
    a.push().await.unwrap();
    assert!(killed(&two.shared, &b, PULL, 2).await.is_none());
    two.promote().await;
    let new = two.new_one().await;
    let state = newest(&new).await;
    let changes = [("y", Some(&b"other"[..]))];
    Author::new(10).push(&new, &state, changes).await.unwrap();
    two.go_on(&mut b).await;
    let synced = b.run(BY_HAND).await.unwrap();
    let conflicts: Vec<_> = synced.conflicts.iter().map(|at| at.path.as_str()).collect();
    assert_eq!(conflicts, ["y"], "{synced:?}");
    assert_eq!(fs::read_to_string(b.path("x")).unwrap(), "2");
    let mut clone = two.shared.machine("c").await.unwrap();
    two.go_on(&mut clone).await;
    clone.pull().await.unwrap();
    assert_eq!(fs::read_to_string(clone.path("x")).unwrap(), "2");
    assert_eq!(fs::read_to_string(clone.path("y")).unwrap(), "other");
}
