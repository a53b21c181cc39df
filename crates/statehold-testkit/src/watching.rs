//! `statehold watch` on real machines: how soon a change is seen elsewhere, what it costs while nothing
//! happens, and what is left of it when watches and gateways are killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::environment::SeededEntropy;
use crate::google_double::{BUCKET, GoogleDouble, TOKEN};
use crate::process::{Installation, RealMachine, Running, RunningGateway};

/// How long a change may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a test waits between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Longest pause before the next change, in milliseconds.
const PAUSE_MS: u64 = 1_500;
/// After so long without a change, gateways look less often what others have appended.
pub const QUIET: Duration = Duration::from_secs(12);
/// Changes that are made before anything is measured: everybody connects, and caches fill.
const FIRST: u64 = 2;
/// Files of each machine that are written again and again while others are killed.
const CHANGED_AGAIN: u64 = 3;

/// How long it took until changes were seen.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push(time);
        self.0.sort();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one that so many of a hundred are no longer than.
    pub fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or_default()
    }

    /// How many took longer.
    pub fn over(&self, bound: Duration) -> usize {
        self.0.iter().filter(|time| **time > bound).count()
    }
}

/// What was seen, and how soon.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// From the end of `state set` on one machine to the end of the `state get` on the other that shows it.
    pub states: Times,
    /// From the end of a write on one machine until the file is on the other.
    pub files: Times,
}

/// A machine and what keeps it alike.
struct Watched {
    machine: RealMachine,
    /// None only while one takes the place of another.
    watch: Option<Running>,
}

impl Watched {
    fn start(machine: RealMachine) -> Result<Self> {
        let watch = Some(watch(&machine)?);
        Ok(Self { machine, watch })
    }

    /// `kill -9`, and another one in its place.
    fn kill(&mut self) -> Result<()> {
        if let Some(killed) = self.watch.take() {
            killed.kill()?;
        }
        self.watch = Some(watch(&self.machine)?);
        Ok(())
    }

    /// It goes on, and stops when it is asked to.
    fn end(self) -> Result<()> {
        let mut watch = self.watch.context("a watch")?;
        ensure!(watch.goes_on()?, "the watch on {} ended", self.machine.name);
        let stopped = watch.stop()?.expect(0);
        stopped.with_context(|| format!("the watch on {}", self.machine.name))?;
        Ok(())
    }
}

fn watch(machine: &RealMachine) -> Result<Running> {
    let watch = machine.start(machine.command(&["watch", "--json"]), "")?;
    wait_for("the watch says that it watches", || {
        Ok(watch.said()?.contains("\"watching\""))
    })?;
    Ok(watch)
}

/// What watches said last, for whoever looks for what went wrong.
fn said(watched: &[Watched]) -> String {
    let said = watched.iter().map(|Watched { machine, watch }| {
        let said = watch.as_ref().and_then(|watch| watch.said().ok());
        let said = said.unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(8).collect();
        format!("{}: {}", machine.name, last.join("\n"))
    });
    said.collect::<Vec<_>>().join("\n")
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(began.elapsed())
}

struct World {
    installation: Installation,
    gateways: Vec<RunningGateway>,
    watched: Vec<Watched>,
    random: SeededEntropy,
}

impl World {
    /// Two machines that are watched, on one gateway or on two of one store.
    fn new(binary: &Path, gateways: usize, seed: u64) -> Result<Self> {
        let installation = Installation::of(binary)?;
        let serve = |_| installation.serve("vault");
        let gateways: Vec<RunningGateway> = (0..gateways).map(serve).collect::<Result<_>>()?;
        let mut watched = Vec::new();
        for (name, gateway) in ["anna", "bert"].into_iter().zip(gateways.iter().cycle()) {
            watched.push(Watched::start(installation.linked(name, gateway)?)?);
        }
        Ok(Self {
            installation,
            gateways,
            watched,
            random: SeededEntropy::new(seed),
        })
    }

    /// A state that is set on one machine, until the other one gets it.
    fn state(&self, from: usize, id: &str, value: u64) -> Result<Duration> {
        let (from, to) = self.pair(from);
        from.run(&["state", "set", id, &value.to_string()])?
            .expect(0)?;
        wait_for(&format!("{id} is {value} on {}", to.name), || {
            let got = to.run(&["state", "get", id])?;
            Ok(got.code == Some(0) && got.out.trim() == value.to_string())
        })
    }

    /// A file that is written on one machine, until the other one has it.
    fn file(&self, from: usize, path: &str, text: &str) -> Result<Duration> {
        let (from, to) = self.pair(from);
        from.write(path, text)?;
        wait_for(&format!("{path} is on {}", to.name), || {
            Ok(to.read(path).is_ok_and(|there| there == text.as_bytes()))
        })
    }

    fn pause(&self, quiet: Duration) {
        std::thread::sleep(quiet + Duration::from_millis(self.random.below(PAUSE_MS)));
    }

    fn pair(&self, from: usize) -> (&RealMachine, &RealMachine) {
        let to = (from + 1) % self.watched.len();
        (&self.watched[from].machine, &self.watched[to].machine)
    }

    /// All watches go on, and stop when they are asked to.
    fn end(self) -> Result<()> {
        self.watched.into_iter().try_for_each(Watched::end)?;
        for gateway in self.gateways {
            let status = gateway.stop()?;
            ensure!(status.success(), "the gateway ended with {status}");
        }
        Ok(())
    }
}

/// Makes so many changes of states, and as many of files, on both machines in turn, each after a while of quiet, and
/// measures how soon the other one has them.
///
/// # Errors
/// A change was not seen, or a process did not end as it has to.
pub fn see_changes(
    binary: &Path,
    changes: u64,
    gateways: usize,
    quiet: Duration,
    seed: u64,
) -> Result<Seen> {
    let world = World::new(binary, gateways, seed)?;
    let mut seen = Seen::default();
    for number in 0..changes + FIRST {
        let from = usize::from(number % 2 == 1);
        let is_measured = number >= FIRST;
        let state = world.state(from, &format!("s{}", number % 10), number)?;
        world.pause(quiet);
        let path = format!("notes/{}.md", number % 10);
        let file = world.file(from, &path, &format!("as of {number}\n"))?;
        world.pause(quiet);
        if is_measured {
            seen.states.add(state);
            seen.files.add(file);
        }
    }
    world.end()?;
    Ok(seen)
}

/// What was killed.
#[derive(Debug, Clone, Copy, Default)]
pub struct KilledWatching {
    /// Watches that were killed and started again.
    pub watches: u64,
    /// Gateways that were killed and started again.
    pub gateways: u64,
    /// Files that were written meanwhile.
    pub written: u64,
}

/// Kills watches and gateways at random moments while files are written on both machines. What was killed
/// is started again, and everything else goes on by itself.
///
/// # Errors
/// Machines differ in the end, or a process that was not killed is gone.
pub fn kill_watching(binary: &Path, kills: u64, seed: u64) -> Result<KilledWatching> {
    let mut world = World::new(binary, 2, seed)?;
    let mut done = KilledWatching::default();
    let mut expected = BTreeMap::new();
    for round in 0..kills {
        for at in 0..world.watched.len() {
            // Few, so that what a killed pull had put in place is changed again before the next one.
            let path = format!("{at}/{}.md", round % CHANGED_AGAIN);
            let text = format!("{path} in round {round}\n").repeat(50);
            world.watched[at].machine.write(&path, &text)?;
            expected.insert(path, text.into_bytes());
            done.written += 1;
        }
        std::thread::sleep(Duration::from_millis(world.random.below(300)));
        let which = usize::try_from(world.random.below(2))?;
        if world.random.chance(500) {
            world.watched[which].kill()?;
            done.watches += 1;
        } else {
            let address = world.gateways[which].address().to_owned();
            world.gateways[which].kill()?;
            std::thread::sleep(Duration::from_millis(world.random.below(500)));
            world.gateways[which] = world.installation.serve_at("vault", &address)?;
            done.gateways += 1;
        }
    }
    for Watched { machine, .. } in &world.watched {
        let lacks = || {
            let lacks = |(path, content): &(&String, &Vec<u8>)| {
                machine.read(path).map_or(true, |there| there != **content)
            };
            expected.iter().find(lacks).map(|(path, _)| path.clone())
        };
        let all = wait_for("everything is there", || Ok(lacks().is_none()));
        all.with_context(|| format!("{} lacks {:?}", machine.name, lacks()))
            .with_context(|| said(&world.watched))?;
    }
    world.end()?;
    Ok(done)
}

/// What was asked while nothing happened, for each minute.
#[derive(Debug, Clone, Copy, Default)]
pub struct Idle {
    /// Machines that watched.
    pub machines: usize,
    /// Requests to the gateway.
    pub to_gateway: f64,
    /// Requests to the store.
    pub to_store: f64,
}

/// Counts what a gateway and its store are asked while so many machines watch and nothing happens.
///
/// # Errors
/// A process did not start, or did not end as it has to.
pub fn idle(binary: &Path, machines: usize, time: Duration) -> Result<Idle> {
    let runtime = tokio::runtime::Runtime::new()?;
    let store = runtime.block_on(GoogleDouble::start())?;
    let installation = Installation::of(binary)?;
    let variables = [
        ("GOOGLE_BASE_URL", store.endpoint()),
        ("GOOGLE_BEARER_TOKEN", TOKEN.to_owned()),
    ];
    let location = format!("gs://{BUCKET}/team");
    let gateway = installation.serve_on(OsStr::new(&location), "127.0.0.1:0", &variables)?;
    let mut watched = Vec::new();
    for number in 0..machines {
        let machine = installation.linked(&format!("machine{number}"), &gateway)?;
        watched.push(Watched::start(machine)?);
    }
    // What a beginning asks is over, and it is quiet.
    std::thread::sleep(QUIET);
    let answered = gateway.answers()?;
    store.take_requests();
    let began = Instant::now();
    std::thread::sleep(time);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let asked = store.take_requests().len();
    let to_gateway = gateway.answers()? - answered;
    watched.into_iter().try_for_each(Watched::end)?;
    gateway.stop()?;
    Ok(Idle {
        machines,
        to_gateway: to_gateway as f64 / minutes,
        to_store: asked as f64 / minutes,
    })
}
