//! A gateway's whole store, copied to another one: every tenant's repositories and the registry.
//!
//! The registry comes last, and only as far as it was read at the beginning of a pass. So whoever
//! serves the replica never knows a repository, or a key to it, that is at the source and has not
//! been copied: what the registry names is there, or was never used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{RepositoryId, TenantId};
use statehold_core::record::RecordRef;
use statehold_repository::replicate::plan::Row;
use statehold_repository::replicate::{Copied, Replicator, Unwatched, Watch};
use statehold_repository::store::Store;
use statehold_repository::verify::places::Place;
use statehold_repository::{Error, Repository, Result};
use tokio::sync::Notify;

use crate::control::CONTROL_PREFIX;
use crate::gateway::Gateway;
use crate::registry_log::RegistryLog;
use crate::schedule::{Job, Schedule};

/// Repositories that are copied side by side.
const REPOSITORIES_AT_ONCE: usize = 4;
/// A replicator that follows waits this long after a first append, for others that come with it.
const GATHER: Duration = Duration::from_millis(200);
/// After a pass that failed, one that follows waits this long.
const FOLLOW_AGAIN: Duration = Duration::from_secs(5);
/// How often one that follows looks through everything: what other gateways appended and could not
/// carry over before they died.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Every so many sweeps leave rows: once a day.
const SWEEPS_PER_ROW: u64 = 24;
/// How long the last pass may take when the gateway is to stop.
const LAST_PASS: Duration = Duration::from_secs(10);

/// Which logs a gateway has appended to since somebody asked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    changed: Mutex<Changed>,
    /// What a pass under way is about, in case it is ended in the middle.
    going: Mutex<Changed>,
    woken: Notify,
}

/// Logs that have grown.
#[derive(Debug, Default, Clone)]
struct Changed {
    control: bool,
    repositories: BTreeSet<RepositoryId>,
}

impl Changed {
    fn is_empty(&self) -> bool {
        !self.control && self.repositories.is_empty()
    }
}

impl Changes {
    fn changed(&self) -> std::sync::MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A repository has a new record.
    pub(crate) fn note(&self, repository: RepositoryId) {
        self.changed().repositories.insert(repository);
        self.woken.notify_one();
    }

    /// The control log has a new record.
    pub(crate) fn note_control(&self) {
        self.changed().control = true;
        self.woken.notify_one();
    }

    fn going(&self) -> std::sync::MutexGuard<'_, Changed> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has changed, together with what the last pass did not come to the end of.
    fn take(&self) -> Changed {
        let mut going = self.going();
        let new = std::mem::take(&mut *self.changed());
        going.control |= new.control;
        going.repositories.extend(new.repositories);
        going.clone()
    }

    /// What was taken has been carried over.
    fn done(&self) {
        *self.going() = Changed::default();
    }

    /// Waits until something has changed.
    async fn wait(&self) {
        loop {
            let woken = self.woken.notified();
            if !self.changed().is_empty() {
                return;
            }
            woken.await;
        }
    }
}

/// How often a gateway replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// Once in each slot of this length.
    Every(Duration),
    /// A moment after each append.
    Continuous,
}

/// What became of one repository.
#[derive(Debug)]
pub struct RepositoryReport {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub repository: RepositoryId,
    /// What it is called.
    pub name: String,
    /// What was copied.
    pub copied: Copied,
    /// The row that was left.
    pub row: Option<RecordRef>,
    /// Why none could be left.
    pub row_failed: Option<Error>,
}

/// What became of a store.
#[derive(Debug, Default)]
pub struct StoreReport {
    /// Each repository that was looked at.
    pub repositories: Vec<RepositoryReport>,
    /// The registry, unless it was left alone.
    pub registry: Option<Copied>,
    /// Why the registry was copied only in part: a repository that it names is not in the replica.
    pub held_back: Option<RepositoryId>,
}

impl StoreReport {
    /// The first error of a pass, if there was one.
    pub fn first_error(&self) -> Option<&Error> {
        let repositories = self.repositories.iter();
        let each =
            repositories.flat_map(|one| [one.copied.stopped.as_ref(), one.row_failed.as_ref()]);
        let registry = self.registry.as_ref().map(|it| it.stopped.as_ref());
        each.chain(registry).flatten().next()
    }

    /// Objects and bytes written.
    pub fn written(&self) -> (u64, u64) {
        let copied = self.repositories.iter().map(|one| &one.copied);
        copied
            .chain(&self.registry)
            .fold((0, 0), |(objects, bytes), one| {
                (objects + one.objects, bytes + one.bytes)
            })
    }
}

/// The control log of the source, as far as it was read.
#[derive(Debug)]
struct Names {
    repository: Repository,
    log: RegistryLog,
}

impl Names {
    async fn open(
        source: &Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let store = source.inside(CONTROL_PREFIX);
        let repository = Repository::open_existing(store, clock, entropy).await?;
        let repository =
            repository.ok_or_else(|| Error::refused("the store holds no gateway's registry"))?;
        let log = RegistryLog::new(&repository);
        Ok(Self { repository, log })
    }

    async fn advance(&mut self) -> Result<()> {
        self.log.advance(&self.repository).await
    }

    /// Every repository: its tenant, its id, what it is called.
    fn repositories(&self) -> impl Iterator<Item = (TenantId, RepositoryId, String)> {
        let tenants = self.log.registry.tenants().into_iter();
        tenants.flat_map(|tenant| {
            let id = tenant.tenant;
            let own = tenant.repositories.into_iter();
            own.map(move |(repository, name)| (id, repository, name))
        })
    }
}

/// What a replication knows from its earlier passes.
#[derive(Debug, Default)]
struct Known {
    names: Option<Names>,
    /// How far each repository is complete.
    at: BTreeMap<RepositoryId, RecordRef>,
    control: Option<RecordRef>,
}

/// A store that is copied to another one, pass by pass.
pub struct Replication {
    source: Store,
    replica: Store,
    row: Row,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    replicator: Replicator,
    changes: Arc<Changes>,
    known: tokio::sync::Mutex<Known>,
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replication")
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

/// What a pass is about.
#[derive(Debug)]
enum Reach {
    All,
    Only(Changed),
}

impl Gateway {
    /// Copies this gateway's store to another one.
    pub fn replication(&self, replica: Store, row: Row) -> Replication {
        let (clock, entropy) = self.environment();
        Replication {
            changes: Arc::clone(self.control().changes()),
            ..Replication::of_store(
                self.hosts().store().clone(),
                replica,
                row,
                (clock, entropy),
                Arc::new(Unwatched),
            )
        }
    }
}

impl Replication {
    /// Copies the store of gateways that run elsewhere, or not at all.
    pub fn of_store(
        source: Store,
        replica: Store,
        row: Row,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        watch: Arc<dyn Watch>,
    ) -> Self {
        let replicator = Replicator::new(Arc::clone(&clock), Arc::clone(&entropy), watch);
        Self {
            source,
            replica,
            row,
            clock,
            entropy,
            replicator,
            changes: Arc::default(),
            known: tokio::sync::Mutex::default(),
        }
    }

    /// Copies everything that is new. With `leaves_rows`, each repository's log says so afterwards.
    pub async fn pass(&self, leaves_rows: bool) -> Result<StoreReport> {
        self.pass_over(Reach::All, leaves_rows).await
    }

    async fn pass_over(&self, reach: Reach, leaves_rows: bool) -> Result<StoreReport> {
        let mut known = self.known.lock().await;
        let known = &mut *known;
        if known.names.is_none() {
            let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
            known.names = Some(Names::open(&self.source, clock, entropy).await?);
        }
        let Some(names) = &mut known.names else {
            return Ok(StoreReport::default());
        };
        // Up to here and no further: what is added later waits for the next pass.
        names.advance().await?;
        let at = &known.at;
        let wanted = |id: RepositoryId| match &reach {
            Reach::All => true,
            Reach::Only(changed) => {
                changed.repositories.contains(&id) || (changed.control && !at.contains_key(&id))
            }
        };
        let repositories: Vec<_> = names
            .repositories()
            .filter(|(_, repository, _)| wanted(*repository))
            .collect();
        let is_whole = matches!(reach, Reach::All);
        let one = |(tenant, repository, name): (TenantId, RepositoryId, String)| {
            // A pass over everything looks at the replica itself.
            let known = at.get(&repository).filter(|_| !is_whole).copied();
            self.copy_one(tenant, repository, name, known, leaves_rows)
                .boxed()
        };
        let reports: Vec<RepositoryReport> = futures::stream::iter(repositories)
            .map(one)
            .buffer_unordered(REPOSITORIES_AT_ONCE)
            .collect()
            .await;
        let mut missing = BTreeSet::new();
        for report in &reports {
            match (report.copied.at, &report.copied.stopped) {
                (Some(at), None) => drop(known.at.insert(report.repository, at)),
                (Some(_), Some(_)) => drop(known.at.remove(&report.repository)),
                (None, Some(_)) => drop(missing.insert(report.repository)),
                // Nobody has used it yet, so there is nothing to miss.
                (None, None) => {}
            }
        }
        let mut report = StoreReport {
            repositories: reports,
            ..StoreReport::default()
        };
        if is_whole || matches!(&reach, Reach::Only(changed) if changed.control) {
            let added = names.log.added.iter();
            let bar = added.filter(|(_, id)| missing.contains(id)).min();
            report.held_back = bar.map(|(_, id)| *id);
            let end = names.log.state.head.number;
            let until = bar.map_or(end, |(number, _)| number.saturating_sub(1));
            let from = self.source.inside(CONTROL_PREFIX);
            let to = self.replica.inside(CONTROL_PREFIX);
            let before = known.control.filter(|_| !is_whole);
            let copied = self.replicator.copy(&from, &to, before, Some(until)).await;
            known.control = copied.at.filter(|_| copied.stopped.is_none());
            report.registry = Some(copied);
        }
        Ok(report)
    }

    async fn copy_one(
        &self,
        tenant: TenantId,
        repository: RepositoryId,
        name: String,
        known: Option<RecordRef>,
        leaves_row: bool,
    ) -> RepositoryReport {
        let inside = |store: &Store| {
            let store = store.inside(&tenant.to_string());
            store.inside(&repository.to_string())
        };
        let (from, to) = (inside(&self.source), inside(&self.replica));
        let copied = self.replicator.copy(&from, &to, known, None).await;
        let left = if leaves_row {
            self.replicator.leave_row(&from, &self.row, &copied).await
        } else {
            Ok(None)
        };
        let (row, row_failed) = match left {
            Ok(row) => (row, None),
            Err(error) => (None, Some(error)),
        };
        RepositoryReport {
            tenant,
            repository,
            name,
            copied,
            row,
            row_failed,
        }
    }

    /// Replicates by a rhythm, for ever. What goes wrong is logged and tried again.
    pub async fn keep(&self, rhythm: Rhythm) {
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let schedule = Schedule::new(self.source.clone(), clock, entropy);
        // One job for each place: keys are made of words and digits, so the place is hashed.
        let place: String = Digest::of(self.row.to.as_bytes())
            .to_string()
            .chars()
            .take(16)
            .collect();
        match rhythm {
            Rhythm::Every(every) => {
                let job = Job::new(format!("replicate-{place}"), every);
                schedule
                    .run(&job, |_| self.logged(Reach::All, true).boxed())
                    .await;
            }
            Rhythm::Continuous => {
                let job = Job::new(format!("replicate-sweep-{place}"), SWEEP_EVERY);
                let sweep = schedule.run(&job, |slot| {
                    let leaves_rows = slot.is_multiple_of(SWEEPS_PER_ROW);
                    self.logged(Reach::All, leaves_rows).boxed()
                });
                futures::join!(sweep, self.follow());
            }
        }
    }

    /// Carries over what this gateway appends, a moment later, for ever. It begins with everything:
    /// what was appended when nobody followed.
    async fn follow(&self) {
        while !self.logged(Reach::All, true).await {
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
        loop {
            self.changes.wait().await;
            tokio::time::sleep(GATHER).await;
            while !self.logged(Reach::Only(self.changes.take()), false).await {
                tokio::time::sleep(FOLLOW_AGAIN).await;
            }
            self.changes.done();
        }
    }

    /// Carries over what is left when a gateway that follows is to stop.
    pub async fn finish(&self) {
        let changed = self.changes.take();
        if !changed.is_empty() {
            let pass = self.logged(Reach::Only(changed), false);
            if tokio::time::timeout(LAST_PASS, pass).await.is_err() {
                tracing::warn!("the last records could not be carried over in time");
            }
        }
    }

    /// Makes a pass and says in the log how it went. False where another one may do better.
    async fn logged(&self, reach: Reach, leaves_rows: bool) -> bool {
        let to = &self.row.to;
        let report = match self.pass_over(reach, leaves_rows).await {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(to, %error, "replication failed");
                return false;
            }
        };
        let (objects, bytes) = report.written();
        tracing::info!(to, objects, bytes, "replicated");
        let mut may_pass = false;
        for one in &report.repositories {
            for error in one.copied.stopped.iter().chain(&one.row_failed) {
                let repository = one.repository;
                tracing::error!(to, %repository, %error, "a repository is not replicated");
                may_pass |= passes(error);
            }
        }
        if let Some(error) = report.registry.iter().find_map(|it| it.stopped.as_ref()) {
            tracing::error!(to, %error, "the registry is not replicated");
            may_pass |= passes(error);
        }
        !may_pass
    }
}

/// Whether time may mend what went wrong.
pub(crate) const fn passes(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable { .. } | Error::Unknown { .. } | Error::Denied { .. }
    )
}

/// Every repository that a gateway's store has by its registry, each by its name and its place.
pub async fn every_repository(
    store: &Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Vec<(String, Place)>> {
    let mut names = Names::open(store, clock, entropy).await?;
    names.advance().await?;
    let part = |(tenant, id, name): (TenantId, RepositoryId, String)| {
        (name, Place::at(store, format!("{tenant}/{id}")))
    };
    Ok(names.repositories().map(part).collect())
}
