//! Machines that work on while a collector deletes what they knew.

use std::sync::Arc;
use std::time::Duration;

use statehold_core::event::Outcome;
use statehold_core::record::{Body, ForgetBody, Kind};
use statehold_core::retention::Policy;
use statehold_repository::Remote as _;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::load;
use statehold_sync::journal::Journal;
use statehold_testkit::author::Author;
use statehold_testkit::dated_store::DatedStore;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::machine::{BY_HAND, Shared};

/// Nothing waits.
const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

/// A repository whose objects are as old as its machines' clocks say.
fn shared() -> Shared {
    let clock = SimulatedClock::standing(EPOCH);
    Shared::on(DatedStore::in_memory(Arc::new(clock)))
}

/// Goal: a push that a collector overtook is made again and lands.
/// Method: a writer dies when its pack is written and its record is not; the pack is taken for an orphan
/// and deleted; then the writer comes back.
#[tokio::test]
async fn an_upload_that_was_condemned_is_made_again() {
    let shared = shared();
    let (a, b) = (
        shared.machine("a").await.unwrap(),
        shared.machine("b").await.unwrap(),
    );
    a.write("x", "x").unwrap();
    a.push().await.unwrap();
    let repository = shared.repository().await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let noise = SeededEntropy::new(3).bytes(400_000);
    a.write("large", &noise).unwrap();
    let drafted = Author::new(9)
        .draft(&state, [("large", Some(&*noise))])
        .unwrap();
    for pack in &drafted.packs {
        repository
            .put_pack(pack.id, pack.bytes.clone())
            .await
            .unwrap();
    }
    Journal::of(a.engine.workspace())
        .write(&[], &drafted.draft)
        .unwrap();

    let collector = Collector::new(&repository, AT_ONCE);
    assert_eq!(collector.compact(true).await.unwrap().orphans, 1);
    assert_eq!(collector.remove().await.unwrap().deleted.packs, 1);

    let pushed = a.push().await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Done);
    assert_eq!(std::fs::read(b.path("large")).unwrap(), noise);
}

/// Goal: a machine that was away while its place in the log was retired goes on, with what it changed
/// meanwhile.
#[tokio::test]
async fn a_machine_that_was_away_goes_on() {
    let shared = shared();
    let (a, b) = (
        shared.machine("a").await.unwrap(),
        shared.machine("b").await.unwrap(),
    );
    a.write("shared", "0").unwrap();
    a.write("large", SeededEntropy::new(4).bytes(400_000))
        .unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    let repository = shared.repository().await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let policy = Policy {
        within_days: 0,
        last: 2,
        ..Policy::default()
    };
    let body = Body::Forget(ForgetBody {
        base: state.head,
        snapshots: Vec::new(),
        policy: Some(policy),
    });
    let head = Author::new(5).head(Kind::Forget, Vec::new());
    let draft = StoredDraft::new(head, body, &[]).unwrap();
    repository.append(&draft, &state).await.unwrap();
    for number in 1..40 {
        a.write("shared", format!("{number}")).unwrap();
        a.write("large", SeededEntropy::new(number).bytes(300_000))
            .unwrap();
        let pushed = a.push().await.unwrap();
        assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    }
    let collector = Collector::new(&repository, AT_ONCE);
    let compacted = collector.compact(true).await.unwrap();
    assert!(compacted.expired > 30, "{compacted:?}");
    let removed = collector.remove().await.unwrap();
    assert!(
        removed.cut >= 32 && removed.deleted.packs > 30,
        "{removed:?}"
    );

    b.write("mine", "b").unwrap();
    let synced = b.run(BY_HAND).await.unwrap();
    assert_eq!(synced.outcome, Outcome::Done, "{synced:?}");
    assert_eq!(a.pull().await.unwrap().outcome, Outcome::Done);
    assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    assert_eq!(std::fs::read_to_string(b.path("shared")).unwrap(), "39");
}
