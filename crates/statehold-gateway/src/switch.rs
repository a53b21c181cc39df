//! Switching a gateway's whole store: every repository first, the registry last. So whoever serves a store
//! whose registry has gone on finds all its repositories gone on too, and a run that was killed is done again.

use std::sync::Arc;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::limits::APPEND_RACES_MAX;
use statehold_core::record::{Body, DraftHead, Kind, RegistryBody};
use statehold_core::state::Applied;
use statehold_repository::bring_over::{End, Lost, bring_over, fork_of, landed};
use statehold_repository::follow::Follower;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::store::Store;
use statehold_repository::switch::{self, Promotion, plan_promotion};
use statehold_repository::verify::places::Place;
use statehold_repository::{Error, Remote as _, Repository, Result};

use crate::control::CONTROL_PREFIX;
use crate::registry::Change;
use crate::registry_log::RegistryLog;
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
    parts.push((REGISTRY.into(), Place::at(store, CONTROL_PREFIX.into())));
    let mut logs = Vec::new();
    for (name, Place { store, .. }) in parts {
        let (clock, entropy) = clocks();
        if let Some(repository) = Repository::open_existing(store, clock, entropy).await? {
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

/// What became of what the first store had beyond a log.
#[derive(Debug)]
pub struct Brought {
    /// What the log is called.
    pub name: String,
    /// The records; `None` where the store that goes on doesn't have the repository.
    pub lost: Option<Vec<Lost>>,
}

/// Lists what the first store's logs got after these parted from them and, if asked to, brings it over: the
/// registry first, so that whoever wrote is known.
pub async fn bring_over_all(
    old: &[Log],
    new: &[Log],
    entropy: &dyn Entropy,
    apply: bool,
) -> Result<Vec<Brought>> {
    let mut brought = Vec::new();
    for Log { name, repository } in old.iter().rev() {
        let id = repository.description().0.repository;
        let mut others = new.iter().map(|log| &log.repository);
        let other = others.find(|other| other.description().0.repository == id);
        let lost = match other {
            None => None,
            Some(other) if name == REGISTRY => {
                Some(bring_over_registry(repository, other, entropy, apply).await)
            }
            Some(other) => Some(bring_over(repository, other, entropy, apply).await),
        };
        let lost = lost.transpose().map_err(|error| named(name, error))?;
        let name = name.clone();
        brought.push(Brought { name, lost });
    }
    Ok(brought)
}

/// The same for the registry: each record's changes are made if they break no rule by now.
async fn bring_over_registry(
    old: &Repository,
    new: &Repository,
    entropy: &dyn Entropy,
    apply: bool,
) -> Result<Vec<Lost>> {
    let mut log = RegistryLog::new(new);
    log.advance(new).await?;
    let machine = MachineId::random(entropy);
    let mut follower = Follower::new(old, fork_of(old, new).await?);
    let (_, landed) = landed(new).await?;
    let mut found = Vec::new();
    loop {
        let batch = old.records(follower.state().head.number).await?;
        for stored in &batch.records {
            let is_in_effect = follower.take_in(stored).await? == Applied::Changed;
            let Body::Registry(body) = &stored.record.body else {
                continue;
            };
            let envelope = &stored.record.envelope;
            if !is_in_effect {
                continue;
            }
            let nonce = envelope.draft.nonce;
            let end = match landed.get(&nonce) {
                Some(landed) => End::Landed(*landed),
                None => bring_changes(new, &mut log, body, (machine, nonce), apply).await?,
            };
            found.push(Lost {
                number: envelope.number,
                time: envelope.time,
                machine: envelope.draft.machine,
                kind: envelope.draft.kind.clone(),
                end,
            });
        }
        if !batch.more {
            return Ok(found);
        }
    }
}

async fn bring_changes(
    new: &Repository,
    log: &mut RegistryLog,
    body: &RegistryBody,
    (machine, nonce): (MachineId, Nonce),
    apply: bool,
) -> Result<End> {
    for _ in 0..APPEND_RACES_MAX {
        let mut after = (*log.registry).clone();
        let before = after.clone();
        for change in &body.changes {
            let change: Change = serde_json::from_value(change.clone())
                .map_err(|error| Error::damaged("the registry", error))?;
            if let Err(violation) = after.apply(&change, log.state.time) {
                return Ok(End::Collides(vec![violation.to_string()]));
            }
        }
        if after == before {
            return Ok(End::Same);
        }
        if !apply {
            log.registry = Arc::new(after);
            return Ok(End::Wanted);
        }
        let head = DraftHead::new(Kind::Registry, machine, nonce, Vec::new());
        let base = log.state.head;
        let body = Body::Registry(RegistryBody {
            base,
            ..body.clone()
        });
        let draft = StoredDraft::new(head, body, &[])?;
        let appended = new.append_as(&draft, &log.state, None).await;
        log.advance(new).await?;
        match appended {
            Ok((stored, _)) => return Ok(End::Landed(stored.record.reference())),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let what = format!("a place in the control log after {APPEND_RACES_MAX} lost races");
    let source = "others write faster; try again".into();
    Err(Error::Unavailable { what, source })
}

/// A refusal says which log it is about.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Refused { reason } => Error::refused(format!("{name}: {reason}")),
        error => error,
    }
}
