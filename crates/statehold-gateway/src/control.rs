//! The control log: the registry's own repository, under a prefix of its own in the same store,
//! and the copy of the registry that requests are checked against.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce, RepositoryId};
use statehold_core::record::{Body, DraftHead, Kind, RegistryBody};
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::replicate::position;
use statehold_repository::store::Store;
use statehold_repository::{Error, Remote as _, Repository, Result};
use tokio::time::Instant;

use crate::registry::{Change, Registry};
use crate::registry_log::RegistryLog;
use crate::replication::Changes;

/// The prefix of the control log.
pub const CONTROL_PREFIX: &str = "_control";
/// A copy of the registry is used without a look at the log for this long.
pub(crate) const FRESH: Duration = Duration::from_secs(2);
/// A copy older than this is not used at all: what was revoked must not stay open because the
/// store doesn't answer.
const STALE: Duration = Duration::from_millis(4_500);
/// How often the log is looked at for keys that the copy doesn't know, once [`UNKNOWN_LOOKS`] are
/// used up.
const FRESH_FOR_UNKNOWN: Duration = Duration::from_millis(250);
/// Looks at the log on behalf of unknown keys before they are rationed. One comes back with every
/// [`FRESH_FOR_UNKNOWN`].
const UNKNOWN_LOOKS: u32 = 64;
/// How long requests wait for a look at the log.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// After a look that failed, the next one waits for this long.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How often a change that lost a race is decided anew.
const SUBMIT_ATTEMPTS: u32 = 32;

/// The registry at some record of the control log.
#[derive(Debug, Clone)]
struct Copy {
    log: RegistryLog,
    /// When the log was last seen to end there.
    checked: Instant,
}

/// The control log.
#[derive(Debug)]
pub(crate) struct Control {
    repository: Repository,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    machine: MachineId,
    copy: RwLock<Copy>,
    /// Held by whoever looks at the log; the moment of the last look that failed.
    look: tokio::sync::Mutex<Option<Instant>>,
    rations: Mutex<Rations>,
    /// Told of every append.
    changes: Arc<Changes>,
}

/// Looks at the log that unknown keys may still cause.
#[derive(Debug)]
struct Rations {
    left: u32,
    counted: Instant,
}

impl Rations {
    fn take(&mut self) -> bool {
        let periods = self.counted.elapsed().as_millis() / FRESH_FOR_UNKNOWN.as_millis();
        if periods > 0 {
            let back = u32::try_from(periods).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(back).min(UNKNOWN_LOOKS);
            self.counted = Instant::now();
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

impl Control {
    /// Opens the control log of a store, and makes it first if there is none.
    pub(crate) async fn open(
        store: &Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let id = RepositoryId::random(&*entropy);
        let store = store.inside(CONTROL_PREFIX);
        let repository =
            Repository::open_or_create(store, id, Arc::clone(&clock), Arc::clone(&entropy)).await?;
        let machine = MachineId::random(&*entropy);
        let copy = Copy {
            log: RegistryLog::new(&repository),
            checked: Instant::now(),
        };
        let control = Self {
            repository,
            clock,
            entropy,
            machine,
            copy: RwLock::new(copy),
            look: tokio::sync::Mutex::default(),
            rations: Mutex::new(Rations {
                left: UNKNOWN_LOOKS,
                counted: Instant::now(),
            }),
            changes: Arc::default(),
        };
        control.load().await?;
        Ok(control)
    }

    /// Reads the whole log. Checkpoints are of no use here: they keep trees, not registries.
    async fn load(&self) -> Result<()> {
        let _turn = self.look.lock().await;
        let checked = Instant::now();
        let mut log = RegistryLog::new(&self.repository);
        log.advance(&self.repository).await?;
        self.publish(Copy { log, checked });
        Ok(())
    }

    /// Whether the store is a replica with which nobody has gone on.
    pub(crate) async fn awaits_promotion(&self) -> Result<bool> {
        let mark = position(self.repository.store()).await?;
        let began = self.copy().log.state.epoch_began();
        Ok(mark.is_some_and(|mark| mark.number >= began))
    }

    /// Which logs grow at this gateway.
    pub(crate) const fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    fn copy(&self) -> Copy {
        let copy = self.copy.read().unwrap_or_else(PoisonError::into_inner);
        copy.clone()
    }

    fn publish(&self, copy: Copy) {
        *self.copy.write().unwrap_or_else(PoisonError::into_inner) = copy;
    }

    /// The registry as somebody with an unknown key is to be judged by: the key may have been made a
    /// moment ago at another gateway, so the log is looked at, unless unknown keys come in floods.
    pub(crate) async fn registry_for_unknown(&self) -> Result<Arc<Registry>> {
        let taken = {
            let mut rations = self.rations.lock().unwrap_or_else(PoisonError::into_inner);
            rations.take()
        };
        let fresh = if taken {
            Duration::ZERO
        } else {
            FRESH_FOR_UNKNOWN
        };
        self.registry(fresh).await
    }

    /// The registry, not older than this; up to [`STALE`] when the store doesn't answer.
    pub(crate) async fn registry(&self, fresh: Duration) -> Result<Arc<Registry>> {
        let asked = Instant::now();
        let copy = self.copy();
        let is_fresh = |copy: &Copy| copy.checked + fresh >= asked;
        if is_fresh(&copy) {
            return Ok(copy.log.registry);
        }
        let mut failed = self.look.lock().await;
        // Whoever had the turn before may have looked for everyone who was waiting.
        let copy = self.copy();
        if is_fresh(&copy) {
            return Ok(copy.log.registry);
        }
        let silent = || Error::Unavailable {
            what: "the registry of keys".into(),
            source: "the store does not answer".into(),
        };
        let error = if failed.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            silent()
        } else {
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.advance()).await;
            match looked.unwrap_or_else(|_| Err(silent())) {
                Ok(copy) => {
                    *failed = None;
                    return Ok(copy.log.registry);
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry cannot be brought up to date");
                    *failed = Some(Instant::now());
                    error
                }
            }
        };
        match error {
            Error::Unavailable { .. } if copy.checked.elapsed() <= STALE => Ok(copy.log.registry),
            error => Err(error),
        }
    }

    /// The registry as it is now.
    async fn look_now(&self) -> Result<Copy> {
        let _turn = self.look.lock().await;
        self.advance().await
    }

    /// Takes in what came since. Only whoever holds the turn may do so.
    async fn advance(&self) -> Result<Copy> {
        let mut copy = self.copy();
        copy.checked = Instant::now();
        copy.log.advance(&self.repository).await?;
        self.publish(copy.clone());
        Ok(copy)
    }

    /// Decides on changes by the newest registry and appends them, exactly there: if anybody was
    /// first, they are decided anew. No changes means that there is nothing to do.
    pub(crate) async fn submit(
        &self,
        decide: impl Fn(&Registry, Timestamp) -> Result<Vec<Change>> + Send + Sync,
    ) -> Result<Arc<Registry>> {
        for attempt in 0..SUBMIT_ATTEMPTS {
            let copy = self.look_now().await?;
            let now = self.clock.now().max(copy.log.state.time);
            let changes = decide(&copy.log.registry, now)?;
            if changes.is_empty() {
                return Ok(copy.log.registry);
            }
            let mut after = (*copy.log.registry).clone();
            for change in &changes {
                after.apply(change, now).map_err(Error::refused)?;
            }
            let draft = self.draft(&copy.log.state, &changes)?;
            match self
                .repository
                .append_as(&draft, &copy.log.state, None)
                .await
            {
                Ok((_, state)) => {
                    self.changes.note_control();
                    let registry = self.look_now().await?.log.registry;
                    // Segments make the next start quick; the log is complete without them.
                    if let Err(error) = self.repository.tend(&state).await {
                        tracing::warn!(%error, "the control log's caches could not be written");
                    }
                    return Ok(registry);
                }
                Err(Error::Conflict { .. }) => {
                    let wait = u64::from(attempt.min(6)) * 5;
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable {
            what: "a place in the control log".into(),
            source: "others write faster; try again".into(),
        })
    }

    fn draft(&self, state: &State, changes: &[Change]) -> Result<StoredDraft> {
        let changes = changes
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()
            .map_err(Error::refused)?;
        let base = state.head;
        let nonce = Nonce::random(&*self.entropy);
        let head = DraftHead::new(Kind::Registry, self.machine, nonce, Vec::new());
        StoredDraft::new(head, Body::Registry(RegistryBody { base, changes }), &[])
    }
}
