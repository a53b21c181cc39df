//! A place where the log may live: a store behind faults, a gateway before it, and the same store as nobody but the
//! logbook sees it.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::environment::{Clock, Entropy};
use statehold_repository::Repository;
use statehold_repository::store::{Listing, Store};

use crate::dated_store::DatedStore;
use crate::environment::{EPOCH, SeededEntropy, SimulatedClock};
use crate::faulty_store::{Faults, FaultyStore};
use crate::gateway::Gateway;
use crate::trace::Trace;

/// Where the repository lies in each store.
const PREFIX: &str = "repository";

/// A place where the log may live.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) faulty: Arc<FaultyStore>,
    /// The store with its faults.
    pub(super) store: Store,
    /// The same without.
    pub(super) bare: Store,
    pub(super) gateway: Arc<Gateway>,
}

/// Everybody's clock is off by up to two minutes.
pub(super) fn clock(entropy: &SeededEntropy) -> Arc<dyn Clock> {
    let clock = SimulatedClock::following(EPOCH);
    clock.shift(i64::try_from(entropy.below(240_000)).unwrap_or_default() - 120_000);
    Arc::new(clock)
}

impl Site {
    pub(super) fn new(number: usize, entropy: &SeededEntropy, trace: &Trace) -> Self {
        // A little behind everybody, so that what is written is never younger than now.
        let behind = SimulatedClock::following(EPOCH);
        behind.shift(-300_000);
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let memory: Arc<dyn ObjectStore> = Arc::new(DatedStore::new(memory, Arc::new(behind)));
        let faulty = Arc::new(FaultyStore::new(
            Arc::clone(&memory),
            entropy.branch(),
            Faults::default(),
            trace.clone(),
        ));
        let objects: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
        let store = Store::new(objects, Listing::Sorted).inside(PREFIX);
        let name = format!("site {number}");
        Self {
            gateway: Gateway::new(
                format!("gateway of {name}"),
                store.clone(),
                clock(entropy),
                entropy.branch(),
                trace.clone(),
            ),
            bare: Store::new(memory, Listing::Sorted).inside(PREFIX),
            name,
            faulty,
            store,
        }
    }

    /// The repository as one more program has it, by what it knows of it.
    pub(super) fn repository(
        &self,
        described: &bytes::Bytes,
        entropy: &SeededEntropy,
    ) -> statehold_repository::Result<Repository> {
        let random: Arc<dyn Entropy> = Arc::new(entropy.branch());
        let (store, clock) = (self.store.clone(), clock(entropy));
        Repository::described(store, described.clone(), clock, random)
    }
}
