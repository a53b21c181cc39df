//! A collector in the simulated world: it lets points go, moves, condemns and removes while everybody
//! works, and dies like everybody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use statehold_repository::collect::{Collector, Settings};
use statehold_repository::{Error, Repository, Result};

use crate::client::{Step, Surroundings};
use crate::environment::SeededEntropy;
use crate::invariants::Violation;

/// Nothing waits: what may go wrong in a week may go wrong at once.
const SETTINGS: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

/// A collector.
#[derive(Debug)]
pub struct Collecting {
    name: String,
    repository: Repository,
    entropy: SeededEntropy,
    around: Arc<Surroundings>,
    landed: AtomicU64,
}

impl Collecting {
    /// A collector straight at the store.
    pub fn new(
        name: String,
        repository: Repository,
        entropy: SeededEntropy,
        around: Arc<Surroundings>,
    ) -> Self {
        Self {
            name,
            repository,
            entropy,
            around,
            landed: AtomicU64::new(0),
        }
    }

    /// Its own randomness.
    pub const fn entropy(&self) -> &SeededEntropy {
        &self.entropy
    }

    /// Compactions and removals of its own that it was told of.
    pub fn landed(&self) -> u64 {
        self.landed.load(Ordering::Relaxed)
    }

    /// Compacts, removes, or does one right after the other.
    pub async fn step(&self) -> Step {
        let collector = Collector::new(&self.repository, SETTINGS);
        let choice = self.entropy.below(3);
        if choice != 0 {
            let compacted = Box::pin(collector.compact(true)).await;
            self.hears("compacts", compacted.map(|done| done.record))?;
        }
        if choice != 1 {
            let removed = Box::pin(collector.remove()).await;
            self.hears("removes", removed.map(|done| done.record))?;
        }
        Ok(())
    }

    /// Without faults and others, all that is due goes.
    pub async fn finish(&self) -> Step {
        let collector = Collector::new(&self.repository, SETTINGS);
        let surprise = |error| Violation(format!("{}, at the end: {error}", self.name));
        Box::pin(collector.compact(true)).await.map_err(surprise)?;
        Box::pin(collector.remove()).await.map_err(surprise)?;
        Ok(())
    }

    fn hears(&self, doing: &str, answer: Result<Option<u64>>) -> Step {
        let said = match &answer {
            Ok(Some(number)) => format!("record {number}"),
            Ok(None) => "nothing is due".into(),
            Err(error) => error.to_string(),
        };
        self.around
            .trace
            .line(format!("{} {doing}: {said}", self.name));
        match answer {
            Ok(record) => {
                self.landed
                    .fetch_add(u64::from(record.is_some()), Ordering::Relaxed);
                Ok(())
            }
            // Another collector was first, and may have deleted what this one was going to read.
            Err(
                Error::Conflict { .. }
                | Error::Retired { .. }
                | Error::NotFound { .. }
                | Error::Unavailable { .. }
                | Error::Denied { .. }
                | Error::Unknown { .. },
            ) => Ok(()),
            Err(error) => Err(Violation(format!("{} {doing}: {error}", self.name))),
        }
    }
}
