//! The registry as the fold of its log: which records of the control log are in effect, and what they say.

use std::sync::Arc;

use statehold_core::id::RepositoryId;
use statehold_core::record::{Body, Record};
use statehold_core::state::{Applied, State};
use statehold_repository::follow::Follower;
use statehold_repository::{Error, Remote as _, Repository, Result};

use crate::registry::{Change, Registry};

/// The control log up to some record.
#[derive(Debug, Clone)]
pub(crate) struct RegistryLog {
    /// Where it stands.
    pub(crate) state: Arc<State>,
    /// What it says.
    pub(crate) registry: Arc<Registry>,
    /// The repositories, each with the record that adds it.
    pub(crate) added: Arc<Vec<(u64, RepositoryId)>>,
}

impl RegistryLog {
    /// The log before its first record.
    pub(crate) fn new(repository: &Repository) -> Self {
        Self {
            state: Arc::new(repository.empty_state()),
            registry: Arc::default(),
            added: Arc::default(),
        }
    }

    /// Takes in what came since. After an error nothing has changed.
    pub(crate) async fn advance(&mut self, repository: &Repository) -> Result<()> {
        let mut follower = Follower::new(repository, Arc::clone(&self.state));
        let mut in_effect: Vec<Record> = Vec::new();
        loop {
            let head = follower.state().head.number;
            let batch = repository.records(head).await?;
            for stored in batch.records {
                if follower.take_in(&stored).await? != Applied::Changed {
                    continue;
                }
                if let Body::Promote(promote) = &stored.record.body {
                    let from = promote.from.number;
                    if from < self.state.head.number {
                        // What was taken in before is left behind now, and can only be left out.
                        let mut whole = Self::new(repository);
                        Box::pin(whole.advance(repository)).await?;
                        *self = whole;
                        return Ok(());
                    }
                    in_effect.retain(|record| record.envelope.number <= from);
                }
                in_effect.push(stored.record);
            }
            if !batch.more {
                break;
            }
        }
        let mut next = self.clone();
        for record in &in_effect {
            next.take_in(record)?;
        }
        next.state = follower.into_state();
        *self = next;
        Ok(())
    }

    /// Takes in a record that is in effect.
    fn take_in(&mut self, record: &Record) -> Result<()> {
        let Body::Registry(body) = &record.body else {
            return Ok(());
        };
        let number = record.envelope.number;
        for change in &body.changes {
            let change: Change =
                serde_json::from_value(change.clone()).map_err(|error| Error::TooNew {
                    what: format!("record {number} of the control log ({error})"),
                })?;
            let registry = Arc::make_mut(&mut self.registry);
            if let Err(violation) = registry.apply(&change, record.envelope.time) {
                tracing::warn!(number, %violation, "a change of the registry is passed over");
            }
            if let Change::AddRepository { repository, .. } = change {
                Arc::make_mut(&mut self.added).push((number, repository));
            }
        }
        Ok(())
    }
}
