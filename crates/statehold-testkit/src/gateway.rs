//! A gateway without HTTP: a repository behind a connection that loses, delays and repeats
//! requests, and a process that can be killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{KeyId, PackId};
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, Opening, load};
use statehold_repository::store::Store;
use statehold_repository::{Error, Remote, Repository, Result};
use tokio::task::AbortHandle;

use crate::environment::SeededEntropy;
use crate::locked;
use crate::trace::Trace;

/// A gateway process, which can be killed and starts again by itself at the next request.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: SeededEntropy,
    key: KeyId,
    trace: Trace,
    running: Mutex<Option<Arc<Running>>>,
    in_flight: Mutex<Vec<AbortHandle>>,
}

/// What a gateway has in memory.
#[derive(Debug)]
struct Running {
    repository: Repository,
    state: Mutex<Option<Arc<State>>>,
}

impl Gateway {
    /// A gateway to a repository that exists.
    pub fn new(
        name: String,
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: SeededEntropy,
        trace: Trace,
    ) -> Arc<Self> {
        let key = KeyId::random(&entropy);
        Arc::new(Self {
            name,
            store,
            clock,
            entropy,
            key,
            trace,
            running: Mutex::default(),
            in_flight: Mutex::default(),
        })
    }

    /// Kills the process: requests in flight get no answer, and what was in memory is gone.
    pub fn kill(&self) {
        self.trace.line(format!("{}: killed", self.name));
        for task in locked(&self.in_flight).drain(..) {
            task.abort();
        }
        *locked(&self.running) = None;
    }

    async fn running(&self) -> Result<Arc<Running>> {
        if let Some(running) = &*locked(&self.running) {
            return Ok(Arc::clone(running));
        }
        let entropy: Arc<dyn Entropy> = Arc::new(self.entropy.branch());
        let clock = Arc::clone(&self.clock);
        let repository = Repository::open_existing(self.store.clone(), clock, entropy).await?;
        let running = Arc::new(Running {
            repository: repository.ok_or_else(|| Error::refused("there is no repository"))?,
            state: Mutex::default(),
        });
        *locked(&self.running) = Some(Arc::clone(&running));
        Ok(running)
    }

    async fn append(&self, bytes: Bytes) -> Result<StoredRecord> {
        let running = self.running().await?;
        let draft = StoredDraft::read(bytes)?;
        let cached = locked(&running.state).clone();
        let known = match cached {
            Some(state) => state,
            None => load(&running.repository).await?.state,
        };
        let appended = running
            .repository
            .append_as(&draft, &known, Some(self.key))
            .await;
        let (stored, state) = appended?;
        let mut cached = locked(&running.state);
        if cached
            .as_ref()
            .is_none_or(|cached| cached.head.number < state.head.number)
        {
            *cached = Some(state);
        }
        Ok(stored)
    }
}

/// How often each fault happens on the way to a gateway, in requests out of a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// The request never arrives.
    pub lost_requests: u64,
    /// The request is carried out and the answer is lost.
    pub lost_replies: u64,
    /// The client gives up, and the request arrives up to a minute and a half later.
    pub late: u64,
    /// The request arrives twice, and the second answer counts.
    pub twice: u64,
}

impl LinkFaults {
    /// A connection on a bad day.
    pub const fn many() -> Self {
        Self {
            lost_requests: 20,
            lost_replies: 40,
            late: 30,
            twice: 40,
        }
    }
}

/// A client's connection to a gateway.
#[derive(Debug)]
pub struct Link {
    gateway: Arc<Gateway>,
    description: Description,
    genesis: Digest,
    entropy: SeededEntropy,
    faults: Arc<Mutex<LinkFaults>>,
}

impl Link {
    /// Connects to a gateway. The faults are shared, so that they can be switched off.
    pub fn new(
        gateway: Arc<Gateway>,
        description: Description,
        genesis: Digest,
        entropy: SeededEntropy,
        faults: Arc<Mutex<LinkFaults>>,
    ) -> Self {
        Self {
            gateway,
            description,
            genesis,
            entropy,
            faults,
        }
    }

    fn lost(&self, what: &str) -> Error {
        Error::Unavailable {
            what: format!("{what} at {}", self.gateway.name),
            source: "no answer".into(),
        }
    }

    /// Sends a request. `Err(None)` says that it may or may not have been carried out.
    async fn call<T, F>(
        &self,
        what: &str,
        request: impl Fn(Arc<Gateway>) -> F,
    ) -> Result<T, Option<Error>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let faults = *locked(&self.faults);
        let roll = self.entropy.below(1_000);
        let pause = Duration::from_millis(1 + self.entropy.below(100));
        let start = |wait: Duration| {
            let work = request(Arc::clone(&self.gateway));
            let task = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                work.await
            });
            let mut in_flight = locked(&self.gateway.in_flight);
            in_flight.retain(|task| !task.is_finished());
            in_flight.push(task.abort_handle());
            task
        };
        let mut border = faults.lost_requests;
        if roll < border {
            tokio::time::sleep(pause).await;
            return Err(Some(self.lost(what)));
        }
        border += faults.lost_replies;
        if roll < border {
            drop(start(pause).await);
            return Err(None);
        }
        border += faults.late;
        if roll < border {
            drop(start(Duration::from_millis(self.entropy.below(90_000))));
            tokio::time::sleep(pause).await;
            return Err(None);
        }
        border += faults.twice;
        if roll < border {
            drop(start(
                pause + Duration::from_millis(self.entropy.below(2_000)),
            ));
        }
        let answer = start(pause).await;
        tokio::time::sleep(pause).await;
        match answer {
            Ok(result) => result.map_err(Some),
            Err(_) => Err(None),
        }
    }

    async fn read_only<T, F>(&self, what: &str, request: impl Fn(Arc<Gateway>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let answer = self.call(what, request).await;
        answer.map_err(|error| error.unwrap_or_else(|| self.lost(what)))
    }
}

#[async_trait]
impl Remote for Link {
    fn description(&self) -> (&Description, Digest) {
        (&self.description, self.genesis)
    }

    async fn confirm(&self, _known: RecordRef) -> Result<()> {
        Ok(())
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        self.read_only("opening", |gateway| async move {
            gateway.running().await?.repository.open(at).await
        })
        .await
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        self.read_only("records", |gateway| async move {
            gateway.running().await?.repository.records(after).await
        })
        .await
    }

    async fn records_since(&self, known: RecordRef, _content: Option<Scope>) -> Result<Batch> {
        self.read_only("records", move |gateway| async move {
            let repository = &gateway.running().await?.repository;
            repository.records_since(known, None).await
        })
        .await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let places = places.to_vec();
        self.read_only("content", move |gateway| {
            let places = places.clone();
            async move { gateway.running().await?.repository.read(&places).await }
        })
        .await
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        self.read_only("a pack", move |gateway| {
            let bytes = bytes.clone();
            async move {
                gateway
                    .running()
                    .await?
                    .repository
                    .put_pack(id, bytes)
                    .await
            }
        })
        .await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        let bytes = draft.bytes.clone();
        let answer = self.call("appending", move |gateway| {
            let bytes = bytes.clone();
            async move { gateway.append(bytes).await }
        });
        let number = known.head.number + 1;
        answer
            .await
            .map_err(|error| error.unwrap_or(Error::Unknown { number }))
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        let state = Arc::clone(state);
        self.read_only("tending", move |gateway| {
            let state = Arc::clone(&state);
            async move { gateway.running().await?.repository.tend(&state).await }
        })
        .await
    }
}
