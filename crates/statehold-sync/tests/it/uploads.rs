//! Uploads that last for days, beside a collector: what they have sent stays, and is sent once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use statehold_core::bands::Profile;
use statehold_core::event::Outcome;
use statehold_core::limits::HOLD_HOURS_MAX;
use statehold_core::record::Kind;
use statehold_repository::Remote as _;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::remote::load;
use statehold_sync::preset::Preset;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::hooked::{Before, Hooked};
use statehold_testkit::machine::{Machine, Shared};

const HOUR: Duration = Duration::from_secs(3_600);
/// How often a run is let go on until it hangs.
const PATIENCE: u32 = 2_000;
/// Sent as three packs.
const BYTES: usize = 20_000_000;

/// A machine whose connection is so slow that a pack takes hours, and after which somebody collects.
struct Slow {
    shared: Arc<Shared>,
    machine: Machine,
    /// Packs that were sent.
    sent: Arc<AtomicU64>,
}

impl Slow {
    /// Each pack takes so many hours. The connection is cut before this pack, counted from 0.
    async fn new(shared: &Arc<Shared>, hours: u32, cut: u64) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let inner = Arc::new(shared.repository().await.unwrap());
        let (beside, count) = (Arc::clone(shared), Arc::clone(&sent));
        let one_at_a_time = Arc::new(tokio::sync::Mutex::new(()));
        let slow = Hooked::new(inner, move |before| {
            let (shared, count) = (Arc::clone(&beside), Arc::clone(&count));
            let alone = Arc::clone(&one_at_a_time);
            async move {
                if before != Before::Write {
                    return;
                }
                let _alone = alone.lock().await;
                if count.load(Ordering::Relaxed) == cut {
                    std::future::pending::<()>().await;
                }
                // Whoever sends has taken note of the pack before.
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
                shared.clock().advance(HOUR * hours);
                collect(&shared).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
            .boxed()
        });
        let machine = shared
            .machine_over("slow", Preset::Plain, Profile::Adaptive, Arc::new(slow))
            .unwrap();
        Self {
            shared: Arc::clone(shared),
            machine,
            sent,
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Packs that its workspace knows to be there.
    fn noted(&self) -> usize {
        let noted = std::fs::read_to_string(self.machine.path(".statehold/journal/uploads"));
        noted.unwrap_or_default().matches("written").count()
    }

    async fn holds(&self) -> usize {
        let repository = self.shared.repository().await.unwrap();
        let log = repository.records(0).await.unwrap().records;
        let kinds = log.iter().map(|stored| &stored.record.envelope.draft.kind);
        kinds.filter(|kind| **kind == Kind::Hold).count()
    }
}

/// Collects as a program would that runs now, and says how many packs were taken for garbage.
async fn collect(shared: &Shared) -> usize {
    let repository = shared.repository().await.unwrap();
    let collector = Collector::new(&repository, Settings::default());
    let collected = collector.collect(true).await.unwrap();
    collected.compacted.orphans
}

async fn shared() -> Arc<Shared> {
    let shared = Arc::new(Shared::dated());
    let first = shared.machine("first").await.unwrap();
    first.write("first", "1").unwrap();
    first.push().await.unwrap();
    shared
}

async fn check(shared: &Shared, content: &[u8]) {
    let other = shared.machine("other").await.unwrap();
    assert_eq!(other.pull().await.unwrap().outcome, Outcome::Done);
    assert!(std::fs::read(other.path("sources/large")).unwrap() == content);
    let repository = shared.repository().await.unwrap();
    let state = load(&repository).await.unwrap().state;
    assert_eq!(state.packs.len(), 3);
    assert_eq!(state.collection.held.len(), 0);
}

/// Goal: an upload of days lands at the first attempt: its packs are held.
#[tokio::test]
async fn an_upload_of_days_is_left_alone() {
    let shared = shared().await;
    let slow = Slow::new(&shared, 20, u64::MAX).await;
    let noise = SeededEntropy::new(3).bytes(BYTES);
    slow.machine.write("sources/large", &noise).unwrap();
    let pushed = slow.machine.push().await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done, "{pushed:?}");
    assert_eq!(slow.sent(), 3);
    assert!(slow.holds().await > 0);
    check(&shared, &noise).await;
    assert_eq!(collect(&shared).await, 0);
}

/// Goal: a short one says nothing.
#[tokio::test]
async fn an_upload_of_an_hour_holds_nothing() {
    let shared = shared().await;
    let slow = Slow::new(&shared, 1, u64::MAX).await;
    let noise = SeededEntropy::new(4).bytes(BYTES);
    slow.machine.write("sources/large", &noise).unwrap();
    slow.machine.push().await.unwrap();
    assert_eq!((slow.sent(), slow.holds().await), (3, 0));
    check(&shared, &noise).await;
}

/// Goal: what was sent before a crash is not sent again, also days later if it was held; what was taken for
/// garbage meanwhile is.
#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut_short() {
    let held = u64::from(HOLD_HOURS_MAX);
    for (hours, away, again) in [(1, 2, 1), (20, 48, 1), (1, 48, 3), (20, held + 1, 3)] {
        let what = format!("{hours} h for each pack, {away} h away");
        let shared = shared().await;
        let slow = Slow::new(&shared, hours, 2).await;
        let noise = SeededEntropy::new(away).bytes(BYTES);
        slow.machine.write("sources/large", &noise).unwrap();
        // The connection hangs, and the machine is switched off.
        let mut run = Box::pin(slow.machine.push());
        let holds = usize::from(hours > 1);
        for _ in 0..PATIENCE {
            if slow.noted() == 2 && slow.holds().await == holds {
                break;
            }
            let step = tokio::time::timeout(Duration::from_millis(5), &mut run).await;
            assert!(step.is_err(), "{what}: {step:?}");
        }
        drop(run);
        assert_eq!((slow.sent(), slow.holds().await), (2, holds), "{what}");
        shared.clock().advance(HOUR * u32::try_from(away).unwrap());
        collect(&shared).await;

        let remote = Arc::new(shared.repository().await.unwrap());
        let before = shared.usage();
        let machine = shared.restarted(slow.machine, remote).unwrap();
        let pushed = machine.push().await.unwrap();
        assert_eq!(pushed.outcome, Outcome::Done, "{what}: {pushed:?}");
        let written = shared.usage().since(before).bytes_in;
        let pack = BYTES as u64 / 3;
        assert!(
            written > pack * again - pack / 2 && written < pack * again + pack / 2,
            "{what}: {written} bytes"
        );
        check(&shared, &noise).await;
    }
}
