//! Compaction without a pause in paused time: writers, readers and one collector on a store without faults, for as many
//! simulated minutes as are wanted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join, join_all};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::RepositoryId;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote as _, Repository};

use crate::client::{Client, Step, Surroundings, Variant};
use crate::collecting::Collecting;
use crate::dated_store::DatedStore;
use crate::environment::{EPOCH, SeededEntropy, SimulatedClock};
use crate::faulty_store::{Faults, FaultyStore};
use crate::invariants::{Auditor, Violation};
use crate::locked;
use crate::trace::Trace;
use crate::world::keep_few_points;

/// Where the repository lies in the store.
const PREFIX: &str = "repository";
/// How often the whole store is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Earlier states that are kept.
const KEPT: u32 = 150;
/// Longest pause of a writer or reader.
const PAUSE_MS: u64 = 2_000;

/// What everybody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Records in the log.
    pub records: u64,
    /// Pushes and the like that were acknowledged.
    pub acknowledged: u64,
    /// Drafts that were planned anew because others came first.
    pub conflicts: u64,
    /// Earlier states that were read, content and all.
    pub restored: u64,
    /// Compactions and removals that landed.
    pub collected: u64,
    /// Stored bytes of everything, when nothing is left to delete.
    pub taken: u64,
    /// Stored bytes of the content that is kept.
    pub kept: u64,
}

/// Lets everybody work for so many minutes of simulated time.
pub fn compact_for(
    minutes: u64,
    (writers, readers): (u64, u64),
    seed: u64,
) -> Result<Compacted, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime.block_on(Box::pin(run(minutes, (writers, readers), seed)))
}

fn surprise(error: impl std::fmt::Display) -> Violation {
    Violation(error.to_string())
}

async fn run(
    minutes: u64,
    (writers, readers): (u64, u64),
    seed: u64,
) -> Result<Compacted, Violation> {
    let entropy = SeededEntropy::new(seed);
    let trace = Trace::default();
    let clock = || -> Arc<dyn Clock> { Arc::new(SimulatedClock::following(EPOCH)) };
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let memory: Arc<dyn ObjectStore> = Arc::new(DatedStore::new(memory, clock()));
    // Every request takes its time, so that all of them get in each other's way.
    let slow = FaultyStore::new(
        Arc::clone(&memory),
        entropy.branch(),
        Faults::default(),
        trace.clone(),
    );
    let store = Store::new(Arc::new(slow), Listing::Sorted).inside(PREFIX);
    let id = RepositoryId::random(&entropy);
    let open = async || {
        let random: Arc<dyn Entropy> = Arc::new(entropy.branch());
        let opened = Repository::open_or_create(store.clone(), id, clock(), random);
        opened.await.map_err(surprise)
    };
    let first = open().await?;
    let around = Arc::new(Surroundings {
        auditor: Auditor::new(memory, PREFIX, first.description().1),
        trace,
        contents: Mutex::default(),
        intentions: AtomicU64::new(0),
        conflicts: AtomicU64::new(0),
        restored: AtomicU64::new(0),
    });
    keep_few_points(&first, &entropy, &around.auditor, KEPT).await?;
    let mut clients = Vec::new();
    for number in 0..writers + readers {
        clients.push(Client::new(
            format!("client {number}"),
            first.empty_state(),
            Arc::new(open().await?),
            Vec::new(),
            entropy.branch(),
            Arc::clone(&around),
            Variant::Right,
        ));
    }
    let name = "collector".to_owned();
    let collector = Collecting::new(name, open().await?, entropy.branch(), Arc::clone(&around));
    let (goes_on, violation) = (AtomicBool::new(true), Mutex::new(None));
    let heed = |step: Step| {
        if let Err(found) = step {
            locked(&violation).get_or_insert(found);
            goes_on.store(false, Ordering::Relaxed);
        }
    };
    let is_on = || goes_on.load(Ordering::Relaxed);
    let working = clients.iter().zip(0_u64..).map(async |(client, number)| {
        while is_on() {
            let pause = Duration::from_millis(client.entropy().below(PAUSE_MS));
            tokio::time::sleep(pause).await;
            heed(match number < writers {
                true => client.push().await,
                false => match client.advance().await {
                    Ok(()) => client.restore().await,
                    failed => failed,
                },
            });
        }
    });
    let collecting = async {
        while is_on() {
            heed(collector.step().await);
        }
    };
    let looking = async {
        let end = tokio::time::Instant::now() + Duration::from_secs(60 * minutes);
        while is_on() && tokio::time::Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            heed(around.auditor.check().await);
        }
        goes_on.store(false, Ordering::Relaxed);
    };
    join(join_all(working), join(collecting, looking)).await;
    if let Some(violation) = locked(&violation).take() {
        return Err(violation);
    }
    for client in &clients {
        client.settle().await?;
    }
    // What the first condemns the second removes, and a third finds nothing.
    for _ in 0..3 {
        collector.finish().await?;
    }
    around.auditor.check().await?;
    around.auditor.check_all_content().await?;
    let settings = Settings {
        floor: Duration::ZERO,
        upload: Duration::ZERO,
    };
    let usage = Collector::new(&first, settings).usage(None).await;
    let usage = usage.map_err(surprise)?;
    let history = usage.history.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let audited = around.auditor.audited();
    Ok(Compacted {
        records: audited.records,
        acknowledged: audited.acknowledged,
        conflicts: around.conflicts.load(Ordering::Relaxed),
        restored: around.restored.load(Ordering::Relaxed),
        collected: collector.landed(),
        taken: usage.bytes,
        kept: usage.newest + history,
    })
}
