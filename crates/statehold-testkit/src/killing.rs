//! `kill -9` of the real program at random moments of a push and of a pull, and what has to be true
//! afterwards.
//!
//! The model is small: the content of every path is a text made from its version, so any file that
//! is seen anywhere can be told apart as old, new or neither.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::environment::SeededEntropy;
use crate::process::{Installation, Ran, RealMachine, RunningGateway};

/// Everything in a folder, by path.
type Tree = BTreeMap<String, Vec<u8>>;

/// What a series of kills came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kills {
    /// Pushes during which something was killed.
    pub pushes: u64,
    /// Pulls during which something was killed.
    pub pulls: u64,
    /// Kills that met a client.
    pub clients: u64,
    /// Kills that met a gateway.
    pub gateways: u64,
    /// Clients that had ended before they were to be killed.
    pub too_late: u64,
    /// Killed pushes of which nothing had landed.
    pub nothing_landed: u64,
    /// Among those, pushes that a gateway landed whole a moment later.
    pub landed_later: u64,
    /// Killed pushes that had landed whole.
    pub landed_whole: u64,
    /// Killed pulls that had switched some files and not all.
    pub pulls_half_done: u64,
    /// Killed pulls before whose next one the same files were changed again.
    pub changed_again: u64,
    /// Looks at the puller's files while a pull was under way.
    pub looks: u64,
}

/// The shape of the tree that is pushed and pulled.
const FILES: u64 = 120;
/// Noise in the larger files, so that packs are written besides records.
const NOISE_BYTES: usize = 120_000;
/// Rounds without a kill, to learn how long things take.
const CALIBRATION_ROUNDS: usize = 3;

struct World {
    installation: Installation,
    random: SeededEntropy,
    gateway: RunningGateway,
    address: String,
    pusher: RealMachine,
    puller: RealMachine,
    /// A machine that pulls from an empty folder.
    clones: u64,
    kills: Kills,
    push_takes: Duration,
    pull_takes: Duration,
}

/// Kills clients and gateways during so many pushes and as many pulls. The seed decides on what is
/// written, who dies and when; the moment itself is the machine's own.
pub fn kill_at_random(binary: &Path, count: u64, seed: u64) -> Result<Kills> {
    let installation = Installation::of(binary)?;
    let gateway = installation.serve("vault")?;
    let mut world = World {
        address: gateway.address().to_owned(),
        pusher: installation.linked("pusher", &gateway)?,
        puller: installation.linked("puller", &gateway)?,
        installation,
        random: SeededEntropy::new(seed),
        gateway,
        clones: 0,
        kills: Kills::default(),
        push_takes: Duration::ZERO,
        pull_takes: Duration::ZERO,
    };
    // How long things take here, undisturbed. The first time is longer than those that follow.
    let mut tree = Tree::new();
    for _ in 0..CALIBRATION_ROUNDS {
        tree = world.change(&tree)?;
        let started = Instant::now();
        world.pusher.run(&["push"])?.expect(0)?;
        world.push_takes = started.elapsed();
        let started = Instant::now();
        world.puller.run(&["pull"])?.expect(0)?;
        world.pull_takes = started.elapsed();
    }
    for round in 0..count {
        let next = world
            .round(&tree)
            .with_context(|| format!("in round {round} of seed {seed}"))?;
        tree = next;
    }
    Ok(world.kills)
}

impl World {
    /// One push and one pull, each with a kill. The tree that both end with.
    fn round(&mut self, old: &Tree) -> Result<Tree> {
        let new = self.change(old)?;
        let landed = self.killed_push(old, &new)?;
        // The next run completes, whatever had happened.
        let next = self.pusher.run(&["push", "--json"])?.expect(0)?.json()?;
        let nothing = next["outcome"] == "nothing";
        // A gateway may still be at work on a push whose client has died, and land it after the
        // clone has looked. That it is all there then is checked below.
        ensure!(
            nothing || (!landed && next["outcome"] == "done"),
            "the push after a kill came to {}",
            next["outcome"]
        );
        if nothing && !landed {
            self.kills.landed_later += 1;
        }
        ensure!(
            read_tree(&self.pusher.root)? == new,
            "the pusher's own files changed"
        );
        self.killed_pull(old, &new)?;
        let new = if self.random.chance(500) {
            // What it had put in place is changed again, and that is no conflict.
            self.kills.changed_again += 1;
            let next = self.change(&new)?;
            self.pusher.run(&["push"])?.expect(0)?;
            next
        } else {
            new
        };
        self.puller.run(&["pull"])?.expect(0)?;
        ensure!(
            read_tree(&self.puller.root)? == new,
            "after the next pull the two machines differ"
        );
        let journal = fs::read_dir(self.pusher.path(".statehold/journal"))?.count();
        ensure!(journal == 0, "a push is still journaled");
        let staging = fs::read_dir(self.puller.path(".statehold/staging"))?.count();
        ensure!(staging == 0, "{staging} staged files were left behind");
        Ok(new)
    }

    /// Writes a new version of some files, removes some and adds some.
    fn change(&self, old: &Tree) -> Result<Tree> {
        let mut new = old.clone();
        for number in 0..FILES {
            let path = format!("d{}/file-{number}.md", number % 7);
            if self.random.chance(if old.is_empty() { 900 } else { 300 }) {
                let version = self.random.number();
                let mut content = format!("{path} {version:016x}\n").repeat(20).into_bytes();
                if number % 20 == 0 {
                    content.extend(self.random.bytes(NOISE_BYTES));
                }
                content.extend(format!("end of {version:016x}\n").bytes());
                new.insert(path, content);
            } else if self.random.chance(80) {
                new.remove(&path);
            }
        }
        // Something always changes.
        let mark = self.random.number().to_string().into_bytes();
        new.insert("mark".into(), mark);
        for path in old.keys().filter(|path| !new.contains_key(*path)) {
            fs::remove_file(self.pusher.path(path))?;
        }
        for (path, content) in &new {
            if old.get(path) != Some(content) {
                self.pusher.write(path, content)?;
            }
        }
        Ok(new)
    }

    /// Starts a command, and kills it or the gateway at some moment. What the command came to.
    fn kill_during(
        &mut self,
        machine: &RealMachine,
        verb: &str,
        takes: Duration,
        look: impl Fn() -> Result<()> + Sync,
    ) -> Result<Ran> {
        let nanos = u64::try_from(takes.as_nanos())?;
        // A little past the end too, where the last things are tidied up.
        let moment = Duration::from_nanos(self.random.below(nanos + nanos / 16));
        let kill_gateway = self.random.chance(400);
        let (ended, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        let (ran, looked) = std::thread::scope(|scope| {
            let looker = scope.spawn(|| -> Result<()> {
                while !ended.load(Ordering::Relaxed) {
                    look()?;
                    looks.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            });
            let ran = self.run_and_kill(machine, verb, moment, kill_gateway);
            ended.store(true, Ordering::Relaxed);
            (ran, looker.join())
        });
        self.kills.looks += looks.into_inner();
        match looked {
            Ok(looked) => looked?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        ran
    }

    fn run_and_kill(
        &mut self,
        machine: &RealMachine,
        verb: &str,
        moment: Duration,
        kill_gateway: bool,
    ) -> Result<Ran> {
        let running = machine.start(machine.command(&[verb]), "")?;
        std::thread::sleep(moment);
        if kill_gateway {
            self.kills.gateways += 1;
            self.gateway.kill()?;
            self.gateway = self.installation.serve_at("vault", &self.address)?;
            return running.finish();
        }
        let ran = running.kill()?;
        match ran.code {
            None => self.kills.clients += 1,
            Some(_) => self.kills.too_late += 1,
        }
        Ok(ran)
    }

    /// A push with a kill in it. Says whether it is in the repository.
    fn killed_push(&mut self, old: &Tree, new: &Tree) -> Result<bool> {
        self.kills.pushes += 1;
        let pusher = self.pusher.clone();
        let ran = self.kill_during(&pusher, "push", self.push_takes, || Ok(()))?;
        ensure!(
            matches!(ran.code, None | Some(0 | 6)),
            "a push ended with {:?}: {}",
            ran.code,
            ran.err
        );
        let there = self.clone_of_head()?;
        let landed = there == *new;
        ensure!(
            landed || there == *old,
            "a push is half visible: {}",
            difference(&there, old, new)
        );
        // Exit code 0 is the acknowledgement.
        ensure!(
            landed || ran.code != Some(0),
            "a push was acknowledged and is lost"
        );
        if landed {
            self.kills.landed_whole += 1;
        } else {
            self.kills.nothing_landed += 1;
        }
        Ok(landed)
    }

    fn killed_pull(&mut self, old: &Tree, new: &Tree) -> Result<()> {
        self.kills.pulls += 1;
        let puller = self.puller.clone();
        let root = puller.root.clone();
        let look = || check_each_is_old_or_new(&root, old, new);
        let ran = self.kill_during(&puller, "pull", self.pull_takes, look)?;
        ensure!(
            matches!(ran.code, None | Some(0 | 6)),
            "a pull ended with {:?}: {}",
            ran.code,
            ran.err
        );
        check_each_is_old_or_new(&puller.root, old, new)?;
        let now = read_tree(&puller.root)?;
        ensure!(
            now == *new || ran.code != Some(0),
            "a pull said that it was done and was not"
        );
        if now != *new && now != *old {
            self.kills.pulls_half_done += 1;
        }
        Ok(())
    }

    /// What the repository holds, as a machine sees it that knows nothing.
    fn clone_of_head(&mut self) -> Result<Tree> {
        self.clones += 1;
        let clone = self
            .installation
            .machine(&format!("clone-{}", self.clones))?;
        clone.run(&["init"])?.expect(0)?;
        fs::remove_file(clone.path(".stateholdignore"))?;
        // By the pusher's own key, so that the list of machines doesn't grow.
        let keys = self.pusher.home.join("config/statehold/keys");
        let key = fs::read_dir(keys)?
            .next()
            .context("the pusher has a key")??;
        let key = fs::read_to_string(key.path())?;
        clone
            .run_with(&["link", &self.gateway.url], &key)?
            .expect(0)?;
        clone.run(&["pull"])?.expect(0)?;
        let tree = read_tree(&clone.root)?;
        fs::remove_dir_all(self.installation.path(&clone.name))?;
        Ok(tree)
    }
}

/// Reads every file of a folder, Statehold's own left out. Files that vanish meanwhile are left out.
fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    read_folder(root, root, &mut tree)?;
    Ok(tree)
}

fn read_folder(root: &Path, folder: &Path, tree: &mut Tree) -> Result<()> {
    let items = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        items => items?,
    };
    for item in items {
        let path = item?.path();
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if name == ".statehold" {
            continue;
        }
        if path.is_dir() {
            read_folder(root, &path, tree)?;
            continue;
        }
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            content => drop(tree.insert(name, content?)),
        }
    }
    Ok(())
}

/// Nothing half-written has a real name, and nothing is missing that both versions have.
fn check_each_is_old_or_new(root: &Path, old: &Tree, new: &Tree) -> Result<()> {
    let now = read_tree(root)?;
    for (path, content) in &now {
        ensure!(
            old.get(path) == Some(content) || new.get(path) == Some(content),
            "{path} is neither old nor new: {} bytes",
            content.len()
        );
    }
    for path in old.keys().filter(|path| new.contains_key(*path)) {
        // A listing of a folder that changes meanwhile may pass over a name, so look at the name.
        ensure!(
            now.contains_key(path) || root.join(path).exists(),
            "{path} is gone, and both versions have it"
        );
    }
    Ok(())
}

fn difference(there: &Tree, old: &Tree, new: &Tree) -> String {
    let paths = new.keys().chain(old.keys());
    let of = |path: &&String| {
        let there = there.get(*path);
        (there == new.get(*path)) != (there == old.get(*path))
    };
    let is_new = |path: &&String| there.get(*path) == new.get(*path);
    let changed: Vec<&String> = paths.filter(of).collect();
    let news = changed.iter().copied().filter(|path| is_new(path)).count();
    format!("{news} of {} changed paths are new", changed.len())
}
