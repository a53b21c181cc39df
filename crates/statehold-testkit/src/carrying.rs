//! Application state on real machines: set by processes with homes of their own, carried by pushes and
//! pulls through a gateway, while machines are copied, put back and killed.
//!
//! The model is small: every state is set once, under an id of its own, so whatever was acknowledged
//! has to be there in the end, on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use statehold_core::node_logs::NODE_LOGS;
use statehold_state::{CarriedFolder, Manager, Notice, Options, Strategy};

use crate::environment::SeededEntropy;
use crate::process::{Installation, RealMachine, RunningGateway};

/// Machines at the beginning.
const MACHINES: [&str; 3] = ["anna", "bert", "carl"];
/// Most machines, copies included.
const MACHINES_MAX: usize = 6;
/// How often everybody exchanges before all have to be equal: what one says about the others' has to
/// come round.
const SETTLING_ROUNDS: usize = 4;
/// How far clocks differ, in milliseconds.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// What a series of rounds came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    /// States that were set and acknowledged.
    pub set: u64,
    /// Of those, states that were seen elsewhere after one push and one pull.
    pub seen_at_once: u64,
    /// States that were deleted.
    pub deleted: u64,
    /// Machines that were copied, home and all.
    pub copied: u64,
    /// Machines that were put back as they had been earlier.
    pub put_back: u64,
    /// Repositories that were rolled back.
    pub rolled_back: u64,
    /// Files that were damaged on their way.
    pub damaged: u64,
    /// Machines in the end.
    pub machines: u64,
    /// Nodes in the end: a machine that was copied or put back writes as another one.
    pub nodes: u64,
}

struct World {
    installation: Installation,
    // Serves until it is dropped.
    _gateway: RunningGateway,
    random: SeededEntropy,
    machines: Vec<RealMachine>,
    /// What has to be there in the end.
    expected: BTreeMap<String, Value>,
    /// What may not be there in the end.
    gone: BTreeSet<String>,
    /// An earlier copy of a machine, by its place.
    image: Option<usize>,
    /// Machines that were put back and have not exchanged since, so that they don't know of it. Neither an image nor a
    /// copy is made of them: what takes another name then knows a log that nobody else has, which stays an alarm
    /// (decision 0039; `a_copy_of_a_machine_that_does_not_know_of_its_fork_raises_an_alarm`).
    unaware: BTreeSet<usize>,
    done: Carried,
}

/// Lets machines set, delete and exchange states for so many rounds, with everything that happens to
/// machines in between, and compares them in the end.
///
/// # Errors
/// Machines differ, something acknowledged is gone, or a command did not end as it has to.
pub fn carry(binary: &Path, rounds: u64, seed: u64) -> Result<Carried> {
    let mut world = World::new(binary, seed)?;
    for round in 0..rounds {
        world
            .round(round)
            .with_context(|| format!("round {round} of seed {seed}"))?;
    }
    world.settle().with_context(|| format!("seed {seed}"))?;
    Ok(world.done)
}

impl World {
    fn new(binary: &Path, seed: u64) -> Result<Self> {
        let installation = Installation::of(binary)?;
        let gateway = installation.serve("vault")?;
        let machines = MACHINES.map(|name| installation.linked(name, &gateway));
        Ok(Self {
            machines: machines.into_iter().collect::<Result<_>>()?,
            installation,
            _gateway: gateway,
            random: SeededEntropy::new(seed),
            expected: BTreeMap::new(),
            gone: BTreeSet::new(),
            image: None,
            unaware: BTreeSet::new(),
            done: Carried::default(),
        })
    }

    fn any(&self) -> usize {
        let machines: Vec<usize> = (0..self.machines.len()).collect();
        self.random.pick(&machines).copied().unwrap_or_default()
    }

    fn round(&mut self, round: u64) -> Result<()> {
        let at = self.any();
        self.set(at, &format!("r{round}"), json!(round))?;
        match self.random.below(12) {
            0 => self.copy_machine(at, round)?,
            1 => self.keep_image(at)?,
            2 => self.put_back()?,
            3 => self.roll_back(at, round)?,
            4 => self.damage(at)?,
            5 => self.delete(at)?,
            6..=8 => self.see_at_once(at, round)?,
            _ => {}
        }
        let at = self.any();
        self.sync(at)
    }

    fn sync(&mut self, at: usize) -> Result<()> {
        sync(&self.machines[at])?;
        self.unaware.remove(&at);
        Ok(())
    }

    fn set(&mut self, at: usize, id: &str, value: Value) -> Result<()> {
        let machine = &self.machines[at];
        machine
            .run(&["state", "set", id, &value.to_string()])?
            .expect(0)?;
        self.expected.insert(id.to_owned(), value);
        self.done.set += 1;
        Ok(())
    }

    fn delete(&mut self, at: usize) -> Result<()> {
        let ids: Vec<String> = self.expected.keys().cloned().collect();
        let Some(id) = self.random.pick(&ids) else {
            return Ok(());
        };
        let ran = self.machines[at].run(&["state", "delete", id])?;
        // It may not have come here yet.
        if ran.code == Some(0) {
            self.expected.remove(id);
            self.gone.insert(id.clone());
            self.done.deleted += 1;
        }
        Ok(())
    }

    /// One push, one pull, and it is there.
    fn see_at_once(&mut self, from: usize, round: u64) -> Result<()> {
        let to = (from + 1) % self.machines.len();
        self.sync(from)?;
        let id = format!("now{round}");
        self.set(from, &id, json!("now"))?;
        self.machines[from].run(&["push"])?.expect(0)?;
        self.machines[to].run(&["pull"])?.expect(0)?;
        let there = self.machines[to].run(&["state", "get", &id])?.expect(0)?;
        ensure!(there.out.trim() == "\"now\"", "{id} is {}", there.out);
        self.done.seen_at_once += 1;
        Ok(())
    }

    fn copy_machine(&mut self, from: usize, round: u64) -> Result<()> {
        if self.machines.len() == MACHINES_MAX || self.unaware.contains(&from) {
            return Ok(());
        }
        let copy = self.installation.machine(&format!("copy{round}"))?;
        replace(&self.machines[from].root, &copy.root)?;
        replace(&self.machines[from].home, &copy.home)?;
        self.machines.push(copy);
        self.done.copied += 1;
        Ok(())
    }

    fn image_path(&self, part: &str) -> std::path::PathBuf {
        self.installation.path("image").join(part)
    }

    fn keep_image(&mut self, at: usize) -> Result<()> {
        if self.unaware.contains(&at) {
            return Ok(());
        }
        fs::create_dir_all(self.installation.path("image"))?;
        replace(&self.machines[at].root, &self.image_path("work"))?;
        replace(&self.machines[at].home, &self.image_path("home"))?;
        self.image = Some(at);
        Ok(())
    }

    /// What nobody else has seen of a machine is lost with it, so it exchanges first. Nothing tells the
    /// machine that it was put back: the folders are the same ones, and what it sets next is set under
    /// numbers that others know already.
    fn put_back(&mut self) -> Result<()> {
        let Some(at) = self.image else { return Ok(()) };
        let machine = &self.machines[at];
        sync(machine)?;
        sync(machine)?;
        for (image, place) in [("work", &machine.root), ("home", &machine.home)] {
            let emptied = Command::new("find")
                .arg(place)
                .args(["-type", "f", "-delete"])
                .status()?;
            ensure!(emptied.success(), "could not empty {}", place.display());
            let image = self.image_path(image);
            let copied = Command::new("cp")
                .args(["-a", "-T"])
                .arg(image)
                .arg(place)
                .status()?;
            ensure!(copied.success(), "could not put back {}", place.display());
        }
        self.unaware.insert(at);
        self.set(at, &format!("back{}", self.done.put_back), json!("back"))?;
        self.done.put_back += 1;
        Ok(())
    }

    fn roll_back(&mut self, at: usize, round: u64) -> Result<()> {
        // First what others made of the file: two edits of it are a conflict of their own.
        self.sync(at)?;
        let machine = &self.machines[at];
        machine.write("notes.md", format!("as of round {round}\n"))?;
        sync(machine)?;
        let log = machine.run(&["log", "--json"])?.expect(0)?.json()?;
        let records = log.as_array().context("a list")?;
        let to = records.last().context("a record")?["number"].to_string();
        let label = format!("--confirm-label=record-{to}");
        // Nothing but states may have changed since.
        machine
            .run(&["rollback", "--to", &to, "--apply", &label])?
            .expect(0)?;
        self.done.rolled_back += 1;
        Ok(())
    }

    /// Flips a bit in a file that another node wrote, as a bad disk does, until it is brought again.
    fn damage(&mut self, at: usize) -> Result<()> {
        let machine = &self.machines[at];
        sync(machine)?;
        let own = node_of(machine)?;
        let mut heads = Vec::new();
        for item in fs::read_dir(machine.path(NODE_LOGS))? {
            let item = item?;
            if item.file_name().to_str() != Some(&own) {
                heads.push(item.path().join("head"));
            }
        }
        heads.retain(|head| head.is_file());
        heads.sort();
        let Some(head) = self.random.pick(&heads) else {
            return Ok(());
        };
        let whole = fs::read(head)?;
        let mut bytes = whole.clone();
        let place = usize::try_from(self.random.below(bytes.len() as u64))?;
        bytes[place] ^= 1;
        fs::write(head, bytes)?;
        let told = machine.run(&["state", "nodes"])?;
        ensure!(told.code == Some(7), "the damage is not told: {}", told.out);
        fs::write(head, whole)?;
        machine.run(&["state", "nodes"])?.expect(0)?;
        self.done.damaged += 1;
        Ok(())
    }

    /// Everybody exchanges until nothing is new; then all are equal and nothing is lost.
    fn settle(&mut self) -> Result<()> {
        for _ in 0..SETTLING_ROUNDS {
            for machine in &self.machines {
                sync(machine)?;
            }
        }
        let mut roots = BTreeSet::new();
        for machine in &self.machines {
            let nodes = machine
                .run(&["state", "nodes", "--json"])?
                .expect(0)?
                .json()?;
            roots.insert(nodes["root"].to_string());
            self.done.nodes = nodes["nodes"].as_array().map_or(0, Vec::len) as u64;
            let states = states_of(machine)?;
            for (id, value) in &self.expected {
                let there = states.get(id);
                ensure!(
                    there == Some(value),
                    "{id} is {there:?} on {}, and {value} was acknowledged",
                    machine.name
                );
            }
            let back: Vec<&String> = self
                .gone
                .iter()
                .filter(|id| states.contains_key(*id))
                .collect();
            ensure!(back.is_empty(), "{back:?} came back on {}", machine.name);
        }
        ensure!(roots.len() == 1, "machines differ: {roots:?}");
        self.done.machines = self.machines.len() as u64;
        Ok(())
    }
}

/// What a person does: exchange files, then look, which takes in what came and says how far one is.
fn sync(machine: &RealMachine) -> Result<()> {
    machine.run(&["sync"])?.expect(0)?;
    let listed = machine.run(&["state", "list"])?;
    // Before the first state there is nothing to list.
    ensure!(matches!(listed.code, Some(0 | 1)), "{}", listed.err);
    Ok(())
}

fn node_of(machine: &RealMachine) -> Result<String> {
    let nodes = machine.run(&["state", "nodes", "--json"])?.json()?;
    Ok(nodes["node"].as_str().context("a node")?.to_owned())
}

fn states_of(machine: &RealMachine) -> Result<BTreeMap<String, Value>> {
    let list = machine
        .run(&["state", "list", "--json"])?
        .expect(0)?
        .json()?;
    let states = list.as_array().context("a list")?.iter();
    states
        .map(|state| {
            let id = state["id"].as_str().context("an id")?;
            Ok((id.to_owned(), state["data"].clone()))
        })
        .collect()
}

fn replace(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "{} could not be copied", from.display());
    Ok(())
}

/// What happened while commands were killed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Killed {
    /// Commands that were killed.
    pub kills: u64,
    /// Sets that were acknowledged, and are there on another machine.
    pub acknowledged: u64,
    /// Sets that are there although the command died before it could say so.
    pub unsaid: u64,
}

/// Kills `state set` at a random moment, so many times, while the same workspace is pushed and pulled;
/// then looks from another machine.
///
/// # Errors
/// Something acknowledged is gone, or a command did not end as it has to.
pub fn kill_setters(binary: &Path, count: u64, seed: u64) -> Result<Killed> {
    let world = World::new(binary, seed)?;
    let [setter, other, ..] = &world.machines[..] else {
        anyhow::bail!("too few machines");
    };
    let mut killed = Killed::default();
    // A moment while it runs or just after it, however fast this machine is today.
    let started = Instant::now();
    for _ in 0..3 {
        setter.run(&["state", "set", "first", "1"])?.expect(0)?;
    }
    let longest = u64::try_from(started.elapsed().as_micros() / 2)?;
    let mut acknowledged = BTreeSet::new();
    for number in 0..count {
        let id = format!("k{number}");
        let set = setter.start(setter.command(&["state", "set", &id, "1"]), "")?;
        let verb = if number % 2 == 0 { "push" } else { "pull" };
        let exchange = setter.start(setter.command(&[verb]), "")?;
        std::thread::sleep(Duration::from_micros(world.random.below(longest)));
        let ran = set.kill()?;
        killed.kills += u64::from(ran.code.is_none());
        if ran.code == Some(0) {
            acknowledged.insert(id);
        }
        let exchanged = exchange.finish()?;
        // A file that was written meanwhile stays for the next run.
        ensure!(
            matches!(exchanged.code, Some(0 | 4)),
            "{verb} ended with {:?}: {}",
            exchanged.code,
            exchanged.err
        );
    }
    setter.run(&["state", "set", "end", "1"])?.expect(0)?;
    acknowledged.extend(["first".to_owned(), "end".to_owned()]);
    setter.run(&["push"])?.expect(0)?;
    other.run(&["pull"])?.expect(0)?;
    let there = states_of(other)?;
    for id in &acknowledged {
        ensure!(there.contains_key(id), "{id} was acknowledged and is gone");
    }
    let nodes = setter
        .run(&["state", "nodes", "--json"])?
        .expect(0)?
        .json()?;
    let nodes = nodes["nodes"].as_array().map_or(0, Vec::len);
    ensure!(nodes == 1, "killed commands became {nodes} nodes");
    killed.acknowledged = acknowledged.len() as u64;
    killed.unsaid = there.len() as u64 - killed.acknowledged;
    Ok(killed)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The states of a machine, opened by a program with another clock. Whether an event that came was told
/// to be ahead of it.
fn with_clock<R>(
    machine: &RealMachine,
    clock: fn() -> u64,
    work: impl FnOnce(&Manager) -> Result<R>,
) -> Result<(R, bool)> {
    let witnesses = machine.home.join("config/statehold/witnesses");
    let options = Options::new(machine.path(".statehold/states"), witnesses).clock(clock);
    let manager = Manager::open(options)?;
    let mut notices = manager.listen();
    let carried = CarriedFolder::at(machine.path(NODE_LOGS));
    let received = carried.receive(&manager)?;
    ensure!(received.is_success(), "{received:?}");
    let result = work(&manager)?;
    carried.publish(&manager)?;
    let mut is_told = false;
    while let Some(notice) = notices.try_next() {
        is_told |= matches!(notice, Notice::ClockAhead { .. });
    }
    Ok((result, is_told))
}

/// Three machines whose clocks are a day apart, and then one that is a year ahead: all end equal, an
/// edit that was made after seeing another one always wins, and what is dated ahead is told.
///
/// # Errors
/// Machines differ, or the wrong edit won.
pub fn clocks_apart(binary: &Path, seed: u64) -> Result<()> {
    let world = World::new(binary, seed)?;
    let clocks: [fn() -> u64; 3] = [
        || now().saturating_sub(DAY_MS),
        now,
        || now().saturating_add(DAY_MS),
    ];
    let put = |at: usize, clock: fn() -> u64, value: &str| {
        with_clock(&world.machines[at], clock, |manager| {
            let all = manager.collection::<String>("default", Strategy::default())?;
            all.put("x", &value.to_owned())?;
            Ok(())
        })
    };
    let carry = || -> Result<()> {
        for machine in world.machines.iter().chain(&world.machines) {
            machine.run(&["sync"])?.expect(0)?;
        }
        Ok(())
    };
    let shown = |expected: &str| -> Result<()> {
        for (machine, clock) in world.machines.iter().zip(clocks) {
            let (there, _) = with_clock(machine, clock, |manager| {
                let all = manager.collection::<String>("default", Strategy::default())?;
                Ok(all.get("x")?.map(|state| state.data))
            })?;
            ensure!(
                there.as_deref() == Some(expected),
                "{there:?} on {} instead of {expected}",
                machine.name
            );
        }
        Ok(())
    };
    // At once, nobody has seen the others': the latest by the clocks, on all.
    for (at, clock) in clocks.into_iter().enumerate() {
        put(at, clock, MACHINES[at])?;
    }
    carry()?;
    shown(MACHINES[2])?;
    // By whoever has seen it, a day behind or not.
    for (at, clock) in clocks.into_iter().enumerate() {
        let value = format!("by {} after seeing it", MACHINES[at]);
        put(at, clock, &value)?;
        carry()?;
        shown(&value)?;
    }
    put(2, || now().saturating_add(365 * DAY_MS), "from next year")?;
    carry()?;
    let (_, is_told) = put(1, now, "made after seeing that")?;
    ensure!(is_told, "an event of next year was not told");
    carry()?;
    shown("made after seeing that")
}
