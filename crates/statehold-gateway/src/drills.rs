//! Drills of every repository in a gateway's store, and of the copies it keeps, by a schedule or asked for.
//!
//! One repository after the other, so that memory and scratch space are bounded by the largest one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::MachineId;
use statehold_repository::drill::stored::{Drilled, Driller};
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::verify::{Unwatched, Watch};
use statehold_repository::{Repository, Result};
use tokio::sync::Mutex;

use crate::gateway::Gateway;
use crate::replication::{every_repository, passes};
use crate::schedule::{Job, Schedule};

/// What the job is called that is claimed slot by slot.
const JOB: &str = "drill";

/// A store, and where it is, for people.
#[derive(Debug, Clone)]
pub struct NamedStore {
    /// The store.
    pub store: Store,
    /// Where.
    pub at: String,
}

/// A store whose repositories are restored into scratch space and compared.
pub struct Drills {
    source: NamedStore,
    replica: Option<NamedStore>,
    scratch: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    machine: Option<MachineId>,
    seed: Option<u64>,
    watch: Arc<dyn Watch>,
}

impl fmt::Debug for Drills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drills")
            .field("source", &self.source)
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

/// What became of one repository.
#[derive(Debug)]
pub struct RepositoryDrill {
    /// What it is called.
    pub name: String,
    /// The folders it lies in.
    pub prefix: String,
    /// The drill; `None` where there was nothing to restore.
    pub drilled: Result<Option<Drilled>>,
}

impl Gateway {
    /// Drills of this gateway's store, which is at a place, and of the store that it is copied to, with
    /// scratch space made in a folder.
    pub fn drills(&self, at: String, replica: Option<NamedStore>, scratch: PathBuf) -> Drills {
        let store = self.hosts().store().clone();
        let source = NamedStore { store, at };
        Drills::of_store(source, replica, scratch, self.environment())
    }
}

impl Drills {
    /// Drills of the store of gateways that run elsewhere, or not at all.
    pub fn of_store(
        source: NamedStore,
        replica: Option<NamedStore>,
        scratch: PathBuf,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
    ) -> Self {
        Self {
            source,
            replica,
            scratch,
            machine: Some(MachineId::random(&*entropy)),
            clock,
            entropy,
            seed: None,
            watch: Arc::new(Unwatched),
        }
    }

    /// Draws records with this seed, so that a drill can be made again.
    #[must_use]
    pub fn with_seed(self, seed: Option<u64>) -> Self {
        Self { seed, ..self }
    }

    /// Tells how far it is.
    #[must_use]
    pub fn watched_by(self, watch: Arc<dyn Watch>) -> Self {
        Self { watch, ..self }
    }

    /// Writes nothing to the store: neither receipts nor notes.
    #[must_use]
    pub fn without_receipts(self) -> Self {
        let machine = None;
        Self { machine, ..self }
    }

    /// Drills every repository once. An error says that the registry can't be read.
    pub async fn pass(&self) -> Result<Vec<RepositoryDrill>> {
        self.pass_without(&BTreeSet::new(), false).await
    }

    /// Whether a copy of a repository is still to be made for the first time, so that it is no failure that
    /// there is none. Who cannot tell does not excuse it.
    async fn awaits_first_copy(&self, source: &Store, copy: &Store) -> bool {
        let open = |store: &Store| {
            let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
            Repository::open_existing(store.clone(), clock, entropy)
        };
        if !matches!(open(copy).await, Ok(None)) {
            return false;
        }
        match open(source).await {
            Ok(Some(source)) => load(&source)
                .await
                .is_ok_and(|loaded| loaded.state.backups.is_empty()),
            _ => false,
        }
    }

    /// A pass over what is not done yet. One that `waits` does not ask for copies that nobody has made yet.
    async fn pass_without(
        &self,
        done: &BTreeSet<String>,
        waits: bool,
    ) -> Result<Vec<RepositoryDrill>> {
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let repositories = every_repository(&self.source.store, clock, entropy).await?;
        let driller = Driller {
            scratch: &self.scratch,
            seed: self.seed,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            watch: &*self.watch,
            machine: self.machine,
        };
        let mut drills = Vec::new();
        let due = repositories.into_iter();
        for (name, place) in due.filter(|(_, place)| !done.contains(&place.prefix)) {
            let within = |store: &NamedStore| format!("{}/{}", store.at, place.prefix);
            let at = within(&self.source);
            let copy = self.replica.as_ref();
            let copy = copy.map(|replica| (place.in_other(&replica.store), within(replica)));
            let mut replica = copy.as_ref().map(|(store, at)| (store, at.as_str()));
            if let (true, Some((copy, _))) = (waits, replica)
                && self.awaits_first_copy(&place.store, copy).await
            {
                tracing::info!(
                    repository = place.prefix,
                    "not copied yet; drilled without a copy"
                );
                replica = None;
            }
            let drilled = driller.drill((&place.store, &at), replica).await;
            drills.push(RepositoryDrill {
                name,
                prefix: place.prefix,
                drilled,
            });
        }
        Ok(drills)
    }

    /// Drills once in each slot of this length, by one of all gateways, for ever. What goes wrong is
    /// logged.
    pub async fn keep(&self, every: Duration) {
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let schedule = Schedule::new(self.source.store.clone(), clock, entropy);
        let job = Job::new(JOB.to_owned(), every);
        // What was drilled in a slot is not drilled again in it when another store has to be waited for.
        let done = Mutex::new((0, BTreeSet::new()));
        let work = |slot| {
            let done = &done;
            async move {
                let mut done = done.lock().await;
                if done.0 != slot {
                    *done = (slot, BTreeSet::new());
                }
                self.logged(&mut done.1).await
            }
            .boxed()
        };
        schedule.run(&job, work).await;
    }

    /// Makes a pass and says in the log how it went. False where another one may do better.
    async fn logged(&self, done: &mut BTreeSet<String>) -> bool {
        let drills = match self.pass_without(done, true).await {
            Ok(drills) => drills,
            Err(error) => {
                tracing::warn!(%error, "the drill failed");
                return false;
            }
        };
        let mut may_pass = false;
        for RepositoryDrill {
            prefix: repository,
            drilled,
            ..
        } in drills
        {
            match drilled {
                Ok(drilled) => {
                    drilled
                        .iter()
                        .for_each(|drilled| tell(&repository, drilled));
                    done.insert(repository);
                }
                Err(error) => {
                    tracing::error!(repository, %error, "a repository was not drilled");
                    may_pass |= passes(&error);
                }
            }
        }
        !may_pass
    }
}

/// Says how a drill went, loudly if it failed.
fn tell(repository: &str, drilled: &Drilled) {
    let Drilled {
        receipt,
        key,
        unkept,
        ..
    } = drilled;
    let (entries, bytes) = (receipt.entries, receipt.bytes);
    let key = key.as_deref().unwrap_or_default();
    if receipt.passed {
        tracing::info!(repository, entries, bytes, receipt = key, "drill passed");
    }
    for restore in &receipt.restores {
        for problem in &restore.problems {
            let path = problem.path.as_ref().map_or("", |path| path.as_str());
            let (from, reason) = (&restore.from, &problem.reason);
            tracing::error!(
                repository,
                from,
                path,
                reason,
                receipt = key,
                "drill failed"
            );
        }
    }
    if let Some(error) = unkept {
        tracing::error!(repository, %error, "a drill's receipt is not kept");
    }
}
