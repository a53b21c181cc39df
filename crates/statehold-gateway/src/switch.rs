//! Switching a gateway's whole store: every repository first, the registry last. So whoever serves a store
//! whose registry has gone on finds all its repositories gone on too, and a run that was killed is done again.

use std::sync::Arc;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::MachineId;
use statehold_repository::store::Store;
use statehold_repository::switch::{self, Promotion, plan_promotion};
use statehold_repository::{Error, Repository, Result};

use crate::control::CONTROL_PREFIX;
use crate::replication::every_repository;

/// What the registry is called among the repositories of a store.
pub const REGISTRY: &str = "the registry";

/// A log of a gateway's store.
#[derive(Debug)]
pub struct Log {
    /// What it is called.
    pub name: String,
    /// The log.
    pub repository: Repository,
}

/// Every log of a gateway's store that is there, the registry's last. What the registry names and nobody has used
/// yet is left out.
pub async fn every_log(
    store: &Store,
    (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
) -> Result<Vec<Log>> {
    let clocks = || (Arc::clone(&clock), Arc::clone(&entropy));
    let (clock_, entropy_) = clocks();
    let mut parts = every_repository(store, clock_, entropy_).await?;
    parts.push((REGISTRY.into(), store.inside(CONTROL_PREFIX)));
    let mut logs = Vec::new();
    for (name, part) in parts {
        let (clock, entropy) = clocks();
        if let Some(repository) = Repository::open_existing(part, clock, entropy).await? {
            logs.push(Log { name, repository });
        }
    }
    Ok(logs)
}

/// What a `promote` of a log would do, or did.
#[derive(Debug)]
pub struct Promoted {
    /// What the log is called.
    pub name: String,
    /// What it continues from, and with which record.
    pub promotion: Promotion,
}

/// Says what a `promote` of these logs would do. Only a store in which each of them can go on is a replica.
pub async fn plan(logs: &[Log]) -> Result<Vec<Promoted>> {
    let mut planned = Vec::new();
    for Log { name, repository } in logs {
        let promotion = plan_promotion(repository).await;
        let promotion = promotion.map_err(|error| named(name, error))?;
        let name = name.clone();
        planned.push(Promoted { name, promotion });
    }
    Ok(planned)
}

/// Opens the next epoch of each of these logs in turn, where it was not done before.
pub async fn promote(logs: &[Log], entropy: &dyn Entropy) -> Result<Vec<Promoted>> {
    let machine = MachineId::random(entropy);
    let mut done = Vec::new();
    for Log { name, repository } in logs {
        let promotion = switch::promote(repository, machine, entropy).await;
        let promotion = promotion.map_err(|error| named(name, error))?;
        let name = name.clone();
        done.push(Promoted { name, promotion });
    }
    Ok(done)
}

/// Ends each of these logs, and says with which records.
pub async fn fence(logs: &[Log], entropy: &dyn Entropy) -> Result<Vec<(String, u64)>> {
    let machine = MachineId::random(entropy);
    let mut done = Vec::new();
    for Log { name, repository } in logs {
        let by = switch::fence(repository, machine, entropy).await;
        done.push((name.clone(), by.map_err(|error| named(name, error))?));
    }
    Ok(done)
}

/// A refusal says which log it is about.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Refused { reason } => Error::refused(format!("{name}: {reason}")),
        error => error,
    }
}
