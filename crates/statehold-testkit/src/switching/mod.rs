//! The simulated world in which the log changes stores: machines with real folders, replicators and collectors that
//! die anywhere, and an owner who promotes, fences and brings over while they work.
//!
//! The stores misbehave as in [`crate::world`], time is paused, and everything follows one seed.

mod logbook;
mod owner;
mod roaming;
mod site;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all};
use statehold_core::environment::Entropy;
use statehold_core::id::{MachineId, Nonce, RepositoryId};
use statehold_core::plan::Direction;
use statehold_core::record::{Body, DraftHead, ForgetBody, Kind};
use statehold_core::retention::Policy;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::replicate::plan::Row;
use statehold_repository::replicate::{Copied, Replicator, Unwatched};
use statehold_repository::{Error, Remote, Repository};

use crate::crash::after_polls;
use crate::environment::SeededEntropy;
use crate::faulty_store::Faults;
use crate::gateway::{Link, LinkFaults};
use crate::invariants::Violation;
use crate::locked;
use crate::seeded::{Failure, run_seeded};
use crate::trace::Trace;
use logbook::{Logbook, tree_of};
use roaming::{Ran, Roaming, Ways};
use site::{Site, clock};

/// Steps of a run, unless it is told otherwise.
pub const STEPS: u64 = 120;
/// Stores.
const SITES: usize = 3;
const MACHINES: usize = 4;
const REPLICATORS: usize = 2;
/// Longest time after which a delayed request may still take effect.
const ZOMBIES_GONE: Duration = Duration::from_secs(200);
/// How often anything is done again that faults got in the way of.
const ATTEMPTS: u32 = 400;
/// How often everybody may have to look until nothing is new.
const ROUNDS: u32 = 8;
/// A collector waits for nothing.
const AT_ONCE: Settings = Settings {
    floor: Duration::ZERO,
    upload: Duration::ZERO,
};

/// A run in which everything held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Runs of a machine's engine that got there.
    pub runs: u64,
    /// Those that faults cut short, and steps that a crash did.
    pub cut_short: u64,
    /// Switches that were finished.
    pub switches: u64,
    /// Those whose first store was lost for good.
    pub vanished: u64,
    /// Those whose first store was fenced before.
    pub fenced: u64,
    /// Replicas that could not be promoted, which was said.
    pub refused: u64,
    /// Records that the epochs left behind.
    pub left_behind: u64,
    /// Pushes of a first store that the new log did not have.
    pub lost: u64,
    /// Those of them that were brought over.
    pub brought: u64,
    /// Runs of a replicator.
    pub copies: u64,
    /// Those that said that the logs differ.
    pub diverged: u64,
    /// Compactions and removals.
    pub collected: u64,
    /// Records in the last log.
    pub records: u64,
}

impl Report {
    /// Takes in the figures of another run.
    pub const fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.cut_short += other.cut_short;
        self.switches += other.switches;
        self.vanished += other.vanished;
        self.fenced += other.fenced;
        self.refused += other.refused;
        self.left_behind += other.left_behind;
        self.lost += other.lost;
        self.brought += other.brought;
        self.copies += other.copies;
        self.diverged += other.diverged;
        self.collected += other.collected;
        self.records += other.records;
    }
}

/// Runs the world of a seed.
pub fn simulate_switching(seed: u64, steps: u64) -> Result<Report, Failure> {
    let again = || {
        let again = format!("cargo xtask show simulation --switch --seed {seed}");
        match steps == STEPS {
            true => again,
            false => format!("{again} --steps {steps}"),
        }
    };
    run_seeded(seed, again, async |trace| {
        World::build(seed, steps, trace).await?.run().await
    })
}

type Checked<T = ()> = Result<T, Violation>;

#[derive(Debug)]
struct World {
    steps: u64,
    entropy: SeededEntropy,
    trace: Trace,
    described: Bytes,
    sites: Vec<Site>,
    machines: Vec<Roaming>,
    logbook: Logbook,
    link_faults: Arc<Mutex<LinkFaults>>,
    has_collector: bool,
    taken: AtomicU64,
    /// The site whose log goes on.
    primary: AtomicUsize,
    /// Sites whose store is lost.
    gone: Mutex<Vec<usize>>,
    /// Sites that were left with records which the log that goes on may lack.
    left: Mutex<Vec<usize>>,
    report: Mutex<Report>,
    violation: Mutex<Option<Violation>>,
}

fn surprise(error: impl fmt::Display) -> Violation {
    Violation(format!("before any fault: {error}"))
}

/// Whether faults explain an error.
const fn is_fault(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable { .. } | Error::Denied { .. } | Error::Unknown { .. }
    )
}

/// Whether the owner explains one: the log goes on in another store.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error, Error::Refused { .. }) && error.to_string().contains("--moved")
}

impl World {
    async fn build(seed: u64, steps: u64, trace: Trace) -> Checked<Self> {
        let entropy = SeededEntropy::new(seed);
        let sites: Vec<Site> = (0..SITES)
            .map(|number| Site::new(number, &entropy, &trace))
            .collect();
        let id = RepositoryId::random(&entropy);
        let random: Arc<dyn Entropy> = Arc::new(entropy.branch());
        let store = sites[0].store.clone();
        let first = Repository::open_or_create(store, id, clock(&entropy), random);
        let first = first.await.map_err(surprise)?;
        let described = first.stored_description().clone();
        let bare = sites.iter().map(|site| site.bare.clone()).collect();
        let logbook = Logbook::new(bare, described.clone(), first.empty_state());
        let has_collector = seed % 2 == 1;
        if has_collector {
            keep_few_points(&first, &entropy).await?;
        }
        let link_faults = Arc::new(Mutex::new(LinkFaults::default()));
        let mut machines = Vec::new();
        for number in 0..MACHINES {
            let mut ways: Vec<Ways> = Vec::new();
            for site in &sites {
                let direct = site.repository(&described, &entropy).map_err(surprise)?;
                let (description, genesis) = first.description();
                let link = Link::new(
                    Arc::clone(&site.gateway),
                    description.clone(),
                    genesis,
                    entropy.branch(),
                    Arc::clone(&link_faults),
                );
                ways.push(vec![Arc::new(direct), Arc::new(link)]);
            }
            let name = format!("machine {number}");
            machines.push(Roaming::new(name, ways, entropy.branch())?);
        }
        Ok(Self {
            steps,
            entropy,
            trace,
            described,
            sites,
            machines,
            logbook,
            link_faults,
            has_collector,
            taken: AtomicU64::new(0),
            primary: AtomicUsize::new(0),
            gone: Mutex::default(),
            left: Mutex::default(),
            report: Mutex::new(Report {
                seed,
                ..Report::default()
            }),
            violation: Mutex::default(),
        })
    }

    async fn run(self) -> Checked<Report> {
        for site in &self.sites {
            site.faulty.set_faults(Faults::many());
        }
        *locked(&self.link_faults) = LinkFaults::many();
        let machines = join_all(self.machines.iter().map(|machine| self.live(machine)));
        let replicators = (0..REPLICATORS).map(|number| self.replicate(number));
        let others = join(join_all(replicators), join(self.collect(), self.own()));
        join(machines, others).await;
        if let Some(violation) = locked(&self.violation).take() {
            return Err(violation);
        }
        for site in &self.sites {
            site.faulty.set_faults(Faults::default());
        }
        *locked(&self.link_faults) = LinkFaults::default();
        self.come_to_rest().await
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        self.trace.line(what.to_string());
    }

    fn count(&self, count: impl FnOnce(&mut Report)) {
        count(&mut locked(&self.report));
    }

    fn is_over(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.steps || locked(&self.violation).is_some()
    }

    fn primary(&self) -> usize {
        self.primary.load(Ordering::Relaxed)
    }

    fn is_gone(&self, site: usize) -> bool {
        locked(&self.gone).contains(&site)
    }

    fn repository(&self, site: usize) -> Checked<Repository> {
        let repository = self.sites[site].repository(&self.described, &self.entropy);
        repository.map_err(surprise)
    }

    /// Ends the world if something does not hold.
    fn settle(&self, outcome: Checked) {
        if let Err(violation) = outcome {
            locked(&self.violation).get_or_insert(violation);
        }
    }

    /// Polls something for a while; `None` if it died in the middle.
    async fn may_die<F: Future>(&self, per_mille: u64, polls: u64, work: F) -> Option<F::Output> {
        let polls = match self.entropy.chance(per_mille) {
            true => self.entropy.below(polls),
            false => u64::MAX,
        };
        let done = after_polls(polls, work).await;
        if done.is_none() {
            self.count(|report| report.cut_short += 1);
        }
        done
    }

    /// One machine's steps, until all steps of the run are taken.
    async fn live(&self, machine: &Roaming) {
        while self.taken.fetch_add(1, Ordering::Relaxed) < self.steps && !self.is_over() {
            let pause = Duration::from_millis(machine.entropy.below(4_000));
            tokio::time::sleep(pause).await;
            let step = Box::pin(self.step(machine)).await;
            self.settle(step);
        }
    }

    async fn step(&self, machine: &Roaming) -> Checked {
        let _at_work = machine.at_work.lock().await;
        for _ in 0..machine.entropy.below(3) {
            machine.edit()?;
        }
        if machine.entropy.chance(40) {
            self.sites[machine.site()].gateway.kill();
        }
        let direction = match machine.entropy.below(10) {
            0..=2 => Direction::Push,
            3..=4 => Direction::Pull,
            _ => Direction::Bidirectional,
        };
        let site = machine.site();
        self.note(format_args!(
            "{} at site {site}: {direction:?}",
            machine.name
        ));
        if let Some(ran) = self.may_die(120, 60, machine.run(direction)).await {
            self.hear(machine, site, ran?).await?;
        }
        self.logbook.check().await
    }

    /// What a machine was told is so.
    async fn hear(&self, machine: &Roaming, site: usize, ran: Ran) -> Checked {
        match ran {
            Ran::NotNow(why) => {
                self.note(format_args!("{} at site {site}: {why}", machine.name));
                self.count(|report| report.cut_short += 1);
                Ok(())
            }
            Ran::Done(after, put) => {
                self.note(format_args!(
                    "{} at site {site} stands at {}, having put {put:?}",
                    machine.name, after.number
                ));
                self.count(|report| report.runs += 1);
                self.logbook.check().await?;
                let there = self.logbook.at(site, after.number);
                // One that had nothing to push has asked nobody, so it may still stand where it did.
                let is_known = put.is_empty() && self.logbook.state(after).is_some();
                if there != Some(after) && !is_known {
                    let what = format!("{} stands at {after:?}; there is {there:?}", machine.name);
                    return Err(Violation(what));
                }
                let history = self.logbook.history(site)?;
                let tree = machine.tree()?;
                let missing = put.iter().find_map(|path| {
                    let held = (path.clone(), *tree.get(path)?);
                    (!history.contains(&held)).then_some(held)
                });
                match missing {
                    None => Ok(()),
                    Some((path, _)) => Err(Violation(format!(
                        "{} was told that {path} is at site {site}, and it is not",
                        machine.name
                    ))),
                }
            }
        }
    }

    /// A replicator that copies what is there to somewhere else, mostly the log that goes on.
    async fn replicate(&self, number: usize) {
        while !self.is_over() {
            let pause = Duration::from_millis(self.entropy.below(8_000));
            tokio::time::sleep(pause).await;
            let one_of = |not: usize| {
                let site = usize::try_from(self.entropy.below(SITES as u64 - 1)).unwrap_or(0);
                if site >= not { site + 1 } else { site }
            };
            let primary = self.primary();
            // Somebody forgot to stop it: a store that was left is still copied.
            let from = match self.entropy.chance(150) {
                true => one_of(primary),
                false => primary,
            };
            let to = one_of(from);
            let copied = self.may_die(350, 400, self.copy(from, to)).await;
            let (at, stopped) = match &copied {
                Some(Ok(copied)) => (copied.at.map(|at| at.number), copied.stopped.as_ref()),
                _ => (None, None),
            };
            self.note(format_args!(
                "replicator {number} from site {from} to site {to}: at {at:?}, {stopped:?}"
            ));
            self.settle(match copied {
                Some(Err(violation)) => Err(violation),
                _ => self.logbook.check().await,
            });
        }
    }

    /// One run of a replicator. What keeps it from its end has to be faults, a collector at work, or another history.
    async fn copy(&self, from: usize, to: usize) -> Checked<Copied> {
        let random: Arc<dyn Entropy> = Arc::new(self.entropy.branch());
        let replicator = Replicator::new(clock(&self.entropy), random, Arc::new(Unwatched));
        let (source, target) = (&self.sites[from].store, &self.sites[to].store);
        let copied = replicator.copy(source, target, None, None).await;
        self.count(|report| report.copies += 1);
        self.logbook.check().await?;
        match &copied.stopped {
            None => {}
            Some(error) if is_fault(error) => {}
            Some(Error::NotFound { .. } | Error::Retired { .. }) if self.has_collector => {}
            Some(Error::Diverged { .. }) if self.logbook.parts(from, to).is_some() => {
                self.count(|report| report.diverged += 1);
            }
            // One that was forgotten writes to what goes on by now, where a collector deletes.
            Some(Error::Damaged { reason, .. })
                if self.has_collector && reason.contains("cannot be read") => {}
            // The source lacks what the replica was marked with.
            Some(Error::Damaged { reason, .. }) if reason.contains("set back") => {}
            Some(error) => {
                let what = format!("a replicator from site {from} to site {to}: {error}");
                return Err(Violation(what));
            }
        }
        if copied.stopped.is_none() && from == self.primary() && self.entropy.chance(300) {
            let row = Row {
                label: "copy".parse().map_err(surprise)?,
                to: self.sites[to].name.clone(),
            };
            match replicator.leave_row(source, &row, &copied).await {
                Ok(_) | Err(Error::Conflict { .. }) => {}
                Err(error) if is_fault(&error) || is_elsewhere(&error) => {}
                Err(error) => return Err(Violation(format!("leaving a row: {error}"))),
            }
        }
        Ok(copied)
    }

    /// A collector of the log that goes on, in every other world.
    async fn collect(&self) {
        while self.has_collector && !self.is_over() {
            let pause = Duration::from_millis(self.entropy.below(20_000));
            tokio::time::sleep(pause).await;
            let step = self
                .may_die(250, 200, Box::pin(self.collect_once(self.primary())))
                .await;
            self.settle(match step {
                Some(Err(violation)) => Err(violation),
                _ => self.logbook.check().await,
            });
        }
    }

    async fn collect_once(&self, site: usize) -> Checked {
        let repository = self.repository(site)?;
        let collector = Collector::new(&repository, AT_ONCE);
        let compacted = Box::pin(collector.compact(true))
            .await
            .map(|done| done.record);
        self.hear_collector(site, "compacts", compacted)?;
        let removed = Box::pin(collector.remove()).await.map(|done| done.record);
        self.hear_collector(site, "removes", removed)
    }

    fn hear_collector(
        &self,
        site: usize,
        doing: &str,
        answer: statehold_repository::Result<Option<u64>>,
    ) -> Checked {
        self.note(format_args!(
            "a collector {doing} at site {site}: {answer:?}"
        ));
        match answer {
            Ok(record) => {
                self.count(|report| report.collected += u64::from(record.is_some()));
                Ok(())
            }
            Err(Error::Conflict { .. } | Error::Retired { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) if is_fault(&error) || is_elsewhere(&error) => Ok(()),
            Err(error) => Err(Violation(format!(
                "a collector {doing} at site {site}: {error}"
            ))),
        }
    }

    /// Without further faults everybody agrees, and nothing that anybody holds is missing.
    async fn come_to_rest(self) -> Checked<Report> {
        tokio::time::sleep(ZOMBIES_GONE).await;
        let primary = self.primary();
        self.logbook.check().await?;
        for machine in &self.machines {
            if machine.site() != primary {
                machine.send_to(primary)?;
            }
        }
        let mut is_quiet = false;
        for _ in 0..ROUNDS {
            let before = self.logbook.end(primary);
            for machine in &self.machines {
                let ran = machine.run(Direction::Bidirectional).await?;
                if let Ran::NotNow(why) = &ran {
                    return Err(Violation(format!("{}, at rest: {why}", machine.name)));
                }
                self.hear(machine, primary, ran).await?;
            }
            is_quiet = self.logbook.end(primary) == before;
            if is_quiet {
                break;
            }
        }
        if !is_quiet {
            return Err(Violation("they never agree".into()));
        }
        let history = self.logbook.history(primary)?;
        let state = self.logbook.check_end(primary).await?;
        let mut tree = tree_of(&state);
        tree.retain(|_, signature| signature.is_leaf());
        for machine in &self.machines {
            if machine.tree()? != tree {
                return Err(Violation(format!("{} has another directory", machine.name)));
            }
            let held = machine.held();
            if let Some((path, _)) = held.into_iter().find(|held| !history.contains(held)) {
                return Err(Violation(format!(
                    "{} held {path} at the switch, and it is nowhere",
                    machine.name
                )));
            }
        }
        let left = locked(&self.left).clone();
        for old in left {
            // One that was nowhere ahead may have become a copy since.
            if old != primary && self.logbook.parts(old, primary).is_some() {
                self.bring_over(old, false).await?;
            }
        }
        self.logbook.history(primary)?;
        self.check_replicators(primary).await?;
        if self.has_collector {
            self.collect_once(primary).await?;
        }
        self.logbook.check().await?;
        self.logbook.check_end(primary).await?;
        let mut report = *locked(&self.report);
        report.records = self.logbook.end(primary).number;
        Ok(report)
    }

    /// What goes on from one store is copied, and what differs is said.
    async fn check_replicators(&self, primary: usize) -> Checked {
        for to in (0..SITES).filter(|to| *to != primary && !self.is_gone(*to)) {
            let parts = self.logbook.parts(primary, to);
            let copied = self.copy(primary, to).await?;
            let said = copied.stopped.as_ref().map(ToString::to_string);
            let is_right = match parts {
                // Where it is marked beyond the end of the source, that is what is said.
                Some(_) => matches!(
                    copied.stopped,
                    Some(Error::Diverged { .. } | Error::Damaged { .. })
                ),
                None => copied.stopped.is_none(),
            };
            if !is_right {
                return Err(Violation(format!(
                    "site {to} parts from site {primary} at {parts:?}, and a replicator says {said:?}"
                )));
            }
        }
        Ok(())
    }
}

/// Lets the collector let go of all but the newest points, by the owner's word.
async fn keep_few_points(repository: &Repository, entropy: &SeededEntropy) -> Checked {
    let state = Arc::new(repository.empty_state());
    let policy = Policy {
        within_days: 0,
        last: 8,
        ..Policy::default()
    };
    let body = Body::Forget(ForgetBody {
        base: state.head,
        snapshots: Vec::new(),
        policy: Some(policy),
    });
    let (machine, nonce) = (MachineId::random(entropy), Nonce::random(entropy));
    let head = DraftHead::new(Kind::Forget, machine, nonce, Vec::new());
    let draft = StoredDraft::new(head, body, &[]).map_err(surprise)?;
    repository.append(&draft, &state).await.map_err(surprise)?;
    Ok(())
}
