//! Looking at both sides and changing neither.

use std::sync::Arc;

use statehold_core::plan::{Action, Direction, Plan, Strategy};
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_repository::remote::{advance, load};

use super::settle::still_to_settle;
use super::{Counts, Engine, EngineError, Joined, Result, Status};
use crate::locks::{Wait, lock_workspace};

impl Engine {
    /// Says how the two sides differ, and changes neither. A push that was killed is settled first,
    /// since without its end the answer would be a guess.
    pub async fn status(&self, scope: Scope) -> Result<Status> {
        let _lock = lock_workspace(&self.workspace, "sync", Wait::Yes)?;
        let mut now = self.look(self.read_index(), 0)?;
        let asked = match self.settle(&mut now.index).await {
            // Who may not write may still look.
            Err(EngineError::Remote(error @ statehold_repository::Error::Denied { .. })) => {
                still_to_settle(&error);
                self.refresh(&mut now.index, None).await
            }
            Ok(_) => self.refresh(&mut now.index, None).await,
            Err(error) => Err(error),
        };
        // What changed here can be said without the other side, if it was ever seen.
        let stale =
            match asked {
                Ok(()) => {
                    self.take_in_pull(&mut now, false).await?;
                    None
                }
                Err(EngineError::Remote(
                    error @ statehold_repository::Error::Unavailable { .. },
                )) if now.index.checkout.is_some() => Some(error.to_string()),
                Err(error) => return Err(error),
            };
        let plan = Self::plan(&now, scope, Direction::Bidirectional, Strategy::Manual, &[]);
        let state = now.state();
        let (mut outgoing, mut incoming) = (Counts::default(), Counts::default());
        for action in &plan.actions {
            let path = action.path();
            let (counts, there) = if action.is_outgoing() {
                (
                    &mut outgoing,
                    state.is_some_and(|state| state.tree.get(path.as_str()).is_some()),
                )
            } else {
                (&mut incoming, now.scan.entries.contains_key(path))
            };
            match action {
                Action::DeleteLocal(_) | Action::DeleteRemote(_) => counts.deleted += 1,
                Action::Upload(_) | Action::Download(_) if there => counts.modified += 1,
                Action::Upload(_) | Action::Download(_) => counts.added += 1,
            }
        }
        let head = state.map_or_else(|| self.record_zero(), |state| state.head);
        let fenced = state.and_then(|state| state.fenced);
        let entries = state.map_or(0, |state| state.tree.len());
        now.index.cache = std::mem::take(&mut now.scan.cache);
        self.write_index(&mut now.index)?;
        let Plan {
            actions, conflicts, ..
        } = plan;
        let skipped = now.scan.skipped;
        Ok(Status {
            outgoing,
            incoming,
            actions,
            conflicts,
            skipped,
            head,
            fenced,
            entries,
            stale,
        })
    }

    /// The state at the head, as the repository has it now.
    pub async fn remote_state(&self) -> Result<Arc<State>> {
        let known = self.read_index().checkout.map(|checkout| checkout.state);
        match known {
            Some(state) => Ok(advance(&*self.remote, &state).await?),
            None => Ok(load(&*self.remote).await?.state),
        }
    }

    /// Takes note of what the repository holds now, so that the first push or pull goes on from
    /// there. Nothing of it is agreed on yet.
    pub async fn join(&self) -> Result<Joined> {
        let _lock = lock_workspace(&self.workspace, "join", Wait::Yes)?;
        let mut index = self.read_index();
        self.refresh(&mut index, None).await?;
        self.write_index(&mut index)?;
        let state = index.checkout.map(|checkout| checkout.state);
        Ok(Joined {
            head: state
                .as_ref()
                .map_or_else(|| self.record_zero(), |state| state.head),
            entries: state.map_or(0, |state| state.tree.len()),
        })
    }
}
