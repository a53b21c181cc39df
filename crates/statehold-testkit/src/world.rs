//! The simulated world: clients, gateways and one store that fails, on one thread, in paused time,
//! after one seed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce, RepositoryId};
use statehold_core::record::{Body, DraftHead, ForgetBody, Kind};
use statehold_core::retention::Policy;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote, Repository};

use crate::client::{Client, Step, Surroundings, Variant};
use crate::collecting::Collecting;
use crate::crash::after_polls;
use crate::dated_store::DatedStore;
use crate::environment::{EPOCH, SeededEntropy, SimulatedClock};
use crate::faulty_store::{FaultCounts, Faults, FaultyStore, ForgetfulStore, WormStore};
use crate::gateway::{Gateway, Link, LinkFaults};
use crate::invariants::{Audited, Auditor, Changes, Intention, Violation};
use crate::locked;
use crate::seeded::{Failure, run_seeded};
use crate::trace::Trace;

/// Steps of a run, unless it is told otherwise.
pub const STEPS: u64 = 400;
/// Where the repository lies in the store.
const PREFIX: &str = "repository";
/// Longest time after which a delayed request may still take effect.
const ZOMBIES_GONE: Duration = Duration::from_secs(200);

/// What a run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Steps that clients take together.
    pub steps: u64,
    /// Clients.
    pub clients: usize,
    /// Gateways. Each client reaches all of them, and the store directly too.
    pub gateways: usize,
    /// What goes wrong between a repository and the store.
    pub faults: Faults,
    /// What goes wrong between a client and a gateway.
    pub link_faults: LinkFaults,
    /// What clients are like.
    pub variant: Variant,
    /// Whether the store honours "create only"; if not, the simulation has to find out.
    pub creates_only: bool,
    /// Collectors. Where there are any, few points are kept, and objects may go.
    pub collectors: usize,
}

impl Scenario {
    /// Five clients, two gateways, and a bad day.
    pub const fn new(steps: u64) -> Self {
        Self {
            steps,
            clients: 5,
            gateways: 2,
            faults: Faults::many(),
            link_faults: LinkFaults::many(),
            variant: Variant::Right,
            creates_only: true,
            collectors: 0,
        }
    }

    /// The same with two collectors that let go of all but few points, and wait for nothing.
    pub const fn collecting(steps: u64) -> Self {
        Self {
            collectors: 2,
            ..Self::new(steps)
        }
    }
}

/// A run in which every invariant held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Digest of everything that happened; the same for the same seed and scenario.
    pub trace: Digest,
    /// What was checked.
    pub audited: Audited,
    /// What went wrong at the store.
    pub faults: FaultCounts,
    /// Drafts turned away because others came first.
    pub conflicts: u64,
    /// Steps that a client's crash cut short.
    pub crashes: u64,
    /// Gateways killed.
    pub gateway_crashes: u64,
    /// Compactions and removals that landed.
    pub collected: u64,
    /// Earlier states that were read, content and all.
    pub restored: u64,
    /// Digest of the tree in the end.
    pub root: Digest,
}

/// Runs the standard scenario.
pub fn simulate(seed: u64, steps: u64) -> Result<Report, Failure> {
    simulate_scenario(seed, Scenario::new(steps))
}

/// Runs the standard scenario for each of these seeds, up to the first failure.
pub fn simulate_many(
    seeds: impl IntoIterator<Item = u64>,
    steps: u64,
) -> Result<Vec<Report>, Failure> {
    seeds
        .into_iter()
        .map(|seed| simulate(seed, steps))
        .collect()
}

/// Runs a scenario.
pub fn simulate_scenario(seed: u64, scenario: Scenario) -> Result<Report, Failure> {
    let again = || {
        let mut again = format!("cargo xtask show simulation --seed {seed}");
        if scenario.steps != STEPS {
            again += &format!(" --steps {}", scenario.steps);
        }
        if scenario.collectors > 0 {
            again += " --collect";
        }
        again
    };
    run_seeded(seed, again, async |trace| {
        World::build(seed, scenario, trace).await?.run().await
    })
}

/// Lets the collectors let go of all but the newest points, by the owner's word.
pub(crate) async fn keep_few_points(
    repository: &Repository,
    entropy: &SeededEntropy,
    auditor: &Auditor,
    last: u32,
) -> Step {
    let state = Arc::new(repository.empty_state());
    let policy = Policy {
        within_days: 0,
        last,
        ..Policy::default()
    };
    let body = Body::Forget(ForgetBody {
        base: state.head,
        snapshots: Vec::new(),
        policy: Some(policy),
    });
    let nonce = Nonce::random(entropy);
    let head = DraftHead::new(Kind::Forget, MachineId::random(entropy), nonce, Vec::new());
    let draft = StoredDraft::new(head, body, &[]).map_err(surprise)?;
    auditor.intended(Intention(u64::MAX), nonce, Changes::new());
    repository.append(&draft, &state).await.map_err(surprise)?;
    Ok(())
}

#[derive(Debug)]
struct World {
    seed: u64,
    scenario: Scenario,
    entropy: SeededEntropy,
    worm: Option<Arc<WormStore>>,
    faulty: Arc<FaultyStore>,
    link_faults: Arc<Mutex<LinkFaults>>,
    gateways: Vec<Arc<Gateway>>,
    clients: Vec<Client>,
    collectors: Vec<Collecting>,
    around: Arc<Surroundings>,
    steps: AtomicU64,
    crashes: AtomicU64,
    gateway_crashes: AtomicU64,
    violation: Mutex<Option<Violation>>,
}

fn surprise(error: impl fmt::Display) -> Violation {
    Violation(format!("before any fault: {error}"))
}

impl World {
    async fn build(seed: u64, scenario: Scenario, trace: Trace) -> Result<Self, Violation> {
        let entropy = SeededEntropy::new(seed);
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        // A little behind everybody, so that what is written is never younger than now.
        let behind = SimulatedClock::following(EPOCH);
        behind.shift(-300_000);
        let memory: Arc<dyn ObjectStore> = Arc::new(DatedStore::new(memory, Arc::new(behind)));
        let (worm, kept): (_, Arc<dyn ObjectStore>) = if scenario.collectors > 0 {
            (None, Arc::clone(&memory))
        } else if scenario.creates_only {
            let worm = Arc::new(WormStore::new(Arc::clone(&memory)));
            (Some(Arc::clone(&worm)), worm)
        } else {
            (None, Arc::new(ForgetfulStore::new(Arc::clone(&memory))))
        };
        let faulty = Arc::new(FaultyStore::new(
            kept,
            entropy.branch(),
            Faults::default(),
            trace.clone(),
        ));
        let objects: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
        let store = Store::new(objects, Listing::Sorted).inside(PREFIX);
        // Everybody's clock is off by up to two minutes.
        let clock = || -> Arc<dyn Clock> {
            let clock = SimulatedClock::following(EPOCH);
            clock.shift(i64::try_from(entropy.below(240_000)).unwrap_or_default() - 120_000);
            Arc::new(clock)
        };
        let random = || -> Arc<dyn Entropy> { Arc::new(entropy.branch()) };
        let id = RepositoryId::random(&entropy);
        let first = Repository::open_or_create(store.clone(), id, clock(), random())
            .await
            .map_err(surprise)?;
        let genesis = first.description().1;
        let around = Arc::new(Surroundings {
            auditor: Auditor::new(memory, PREFIX, genesis),
            trace: trace.clone(),
            contents: Mutex::default(),
            intentions: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            restored: AtomicU64::new(0),
        });
        let mut collectors = Vec::new();
        for index in 0..scenario.collectors {
            let opened = Repository::open_or_create(store.clone(), id, clock(), random());
            let repository = opened.await.map_err(surprise)?;
            let (name, around) = (format!("collector {index}"), Arc::clone(&around));
            collectors.push(Collecting::new(name, repository, entropy.branch(), around));
        }
        if scenario.collectors > 0 {
            keep_few_points(&first, &entropy, &around.auditor, 12).await?;
        }
        let link_faults = Arc::new(Mutex::new(LinkFaults::default()));
        let gateway = |index| {
            let name = format!("gateway {index}");
            Gateway::new(
                name,
                store.clone(),
                clock(),
                entropy.branch(),
                trace.clone(),
            )
        };
        let gateways: Vec<_> = (0..scenario.gateways).map(gateway).collect();
        let mut clients = Vec::new();
        for index in 0..scenario.clients {
            let direct = Repository::open_or_create(store.clone(), id, clock(), random());
            let direct = direct.await.map_err(surprise)?;
            let mut links: Vec<Arc<dyn Remote>> = Vec::new();
            for gateway in &gateways {
                let (description, genesis) = first.description();
                links.push(Arc::new(Link::new(
                    Arc::clone(gateway),
                    description.clone(),
                    genesis,
                    entropy.branch(),
                    Arc::clone(&link_faults),
                )));
            }
            clients.push(Client::new(
                format!("client {index}"),
                first.empty_state(),
                Arc::new(direct),
                links,
                entropy.branch(),
                Arc::clone(&around),
                scenario.variant,
            ));
        }
        Ok(Self {
            seed,
            scenario,
            entropy,
            worm,
            faulty,
            link_faults,
            gateways,
            clients,
            collectors,
            around,
            steps: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
            gateway_crashes: AtomicU64::new(0),
            violation: Mutex::default(),
        })
    }

    async fn run(self) -> Result<Report, Violation> {
        self.faulty.set_faults(self.scenario.faults);
        *locked(&self.link_faults) = self.scenario.link_faults;
        let clients = join_all(self.clients.iter().map(|client| self.live(client)));
        let collectors = join_all(self.collectors.iter().map(|one| self.collect(one)));
        futures::future::join(clients, collectors).await;
        if let Some(violation) = locked(&self.violation).take() {
            return Err(violation);
        }
        self.faulty.set_faults(Faults::default());
        *locked(&self.link_faults) = LinkFaults::default();
        self.come_to_rest().await
    }

    /// One client's steps, until all steps of the run are taken.
    async fn live(&self, client: &Client) {
        while self.steps.fetch_add(1, Ordering::Relaxed) < self.scenario.steps
            && locked(&self.violation).is_none()
        {
            let pause = Duration::from_millis(client.entropy().below(3_000));
            tokio::time::sleep(pause).await;
            if let Err(violation) = Box::pin(self.step(client)).await {
                locked(&self.violation).get_or_insert(violation);
            }
        }
    }

    /// One collector's steps, for as long as clients take theirs.
    async fn collect(&self, collector: &Collecting) {
        while self.steps.load(Ordering::Relaxed) < self.scenario.steps
            && locked(&self.violation).is_none()
        {
            let pause = Duration::from_millis(collector.entropy().below(30_000));
            tokio::time::sleep(pause).await;
            let polls = if collector.entropy().chance(250) {
                collector.entropy().below(200)
            } else {
                u64::MAX
            };
            let stepped = match after_polls(polls, collector.step()).await {
                Some(Ok(())) => self.around.auditor.check().await,
                Some(violated) => violated,
                None => {
                    self.crashes.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
            };
            if let Err(violation) = stepped {
                locked(&self.violation).get_or_insert(violation);
            }
        }
    }

    async fn step(&self, client: &Client) -> Step {
        let entropy = client.entropy();
        let step: futures::future::LocalBoxFuture<'_, Step> = match entropy.below(100) {
            0..=54 => Box::pin(client.push()),
            55..=69 => Box::pin(client.advance()),
            70..=77 => Box::pin(client.load()),
            78..=83 => Box::pin(client.tend()),
            84..=89 => Box::pin(client.read_file()),
            90..=94 if self.collectors.is_empty() => Box::pin(client.read_file()),
            90..=94 => Box::pin(client.restore()),
            _ => {
                if let Some(gateway) = self.entropy.pick(&self.gateways) {
                    gateway.kill();
                    self.gateway_crashes.fetch_add(1, Ordering::Relaxed);
                }
                Box::pin(async { Ok(()) })
            }
        };
        if entropy.chance(120) {
            match after_polls(entropy.below(40), step).await {
                Some(outcome) => outcome?,
                None => {
                    self.crashes.fetch_add(1, Ordering::Relaxed);
                    client.restart();
                }
            }
        } else {
            step.await?;
        }
        self.around.auditor.check().await
    }

    /// Without further faults, every open question gets its answer and all agree.
    async fn come_to_rest(self) -> Result<Report, Violation> {
        tokio::time::sleep(ZOMBIES_GONE).await;
        let auditor = &self.around.auditor;
        for client in &self.clients {
            client.settle().await?;
            if client.has_journal() {
                return Err(Violation("a draft is never settled".into()));
            }
        }
        auditor.check().await?;
        for client in &self.clients {
            client.advance().await?;
            let known = client.known();
            if known.head != auditor.head() {
                return Err(Violation("a client never catches up".into()));
            }
            auditor.check_view(&known, auditor.head().number)?;
            client.load().await?;
        }
        auditor.check_all_content().await?;
        if let Some(collector) = self.collectors.first() {
            collector.finish().await?;
            auditor.check().await?;
            for client in &self.clients {
                client.advance().await?;
                client.restore().await?;
            }
        }
        if let Some(refused) = self.worm.as_ref().map(|worm| worm.refused())
            && refused > 0
        {
            return Err(Violation(format!("{refused} overwrites or deletes")));
        }
        let known = self.clients.first().map(Client::known);
        Ok(Report {
            seed: self.seed,
            trace: self.around.trace.digest(),
            audited: auditor.audited(),
            faults: self.faulty.counts(),
            conflicts: self.around.conflicts.load(Ordering::Relaxed),
            crashes: self.crashes.load(Ordering::Relaxed),
            gateway_crashes: self.gateway_crashes.load(Ordering::Relaxed),
            collected: self.collectors.iter().map(Collecting::landed).sum(),
            restored: self.around.restored.load(Ordering::Relaxed),
            root: known.map_or(Digest::of(b""), |known| known.tree.root()),
        })
    }
}
