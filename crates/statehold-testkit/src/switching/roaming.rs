//! A machine with a real folder and the real engine, which can be sent to another site.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use statehold_core::bands::Profile;
use statehold_core::digest::Digest;
use statehold_core::entry::Signature;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::path::RepoPath;
use statehold_core::plan::{Action, Direction, Strategy};
use statehold_core::record::RecordRef;
use statehold_repository::{Error, Remote};
use statehold_sync::engine::{Engine, EngineError, Report, RunOptions};
use statehold_sync::preset::Preset;
use statehold_sync::progress::Unwatched;
use statehold_sync::workspace::{InitOptions, Workspace};
use tempfile::TempDir;

use super::is_elsewhere;
use super::logbook::Tree;
use super::site::clock;
use crate::environment::SeededEntropy;
use crate::invariants::Violation;
use crate::locked;
use crate::machine::BY_HAND;

/// Where everybody writes.
const SHARED: [&str; 8] = [
    "memory.md",
    "notes/a.md",
    "notes/b.md",
    "notes/deep/c.md",
    "skills/review/SKILL.md",
    "skills/write/SKILL.md",
    "sessions/1",
    "sessions/2",
];

/// The ways to one site.
pub(super) type Ways = Vec<Arc<dyn Remote>>;

/// A machine.
#[derive(Debug)]
pub(super) struct Roaming {
    pub(super) name: String,
    pub(super) entropy: SeededEntropy,
    folder: TempDir,
    /// By site, and then by the way there.
    engines: Vec<Vec<Engine>>,
    now: Mutex<Now>,
    /// Held during a step. Nobody is sent elsewhere in the middle of one.
    pub(super) at_work: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Now {
    site: usize,
    edits: u64,
    /// What its folder held when it was sent to this site, and nobody has changed here since.
    held: Tree,
}

/// What a run of the engine came to.
#[derive(Debug)]
pub(super) enum Ran {
    /// It got there, and stands at this record; it put these in place.
    Done(RecordRef, Vec<RepoPath>),
    /// What faults or the owner explain kept it from it.
    NotNow(String),
}

fn surprise(error: impl std::fmt::Display) -> Violation {
    Violation(format!("before any fault: {error}"))
}

impl Roaming {
    pub(super) fn new(
        name: String,
        ways: Vec<Ways>,
        entropy: SeededEntropy,
    ) -> Result<Self, Violation> {
        let folder = tempfile::tempdir().map_err(surprise)?;
        let options = InitOptions {
            preset: Preset::Plain,
            profile: Profile::Adaptive,
            machine_name: name.clone(),
            machine_id: None,
        };
        Workspace::init(folder.path(), options, &entropy).map_err(surprise)?;
        // The starter file is each machine's own and would only be in the way.
        fs::remove_file(folder.path().join(".stateholdignore")).map_err(surprise)?;
        let clock: Arc<dyn Clock> = clock(&entropy);
        let engine = |remote: Arc<dyn Remote>| {
            let workspace = Workspace::open(folder.path()).map_err(surprise)?;
            let random: Arc<dyn Entropy> = Arc::new(entropy.branch());
            let clock = Arc::clone(&clock);
            Engine::new(workspace, remote, clock, random, Arc::new(Unwatched)).map_err(surprise)
        };
        let mut engines = Vec::new();
        for ways in ways {
            engines.push(
                ways.into_iter()
                    .map(engine)
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
        let now = Mutex::new(Now {
            site: 0,
            edits: 0,
            held: Tree::new(),
        });
        Ok(Self {
            name,
            entropy,
            folder,
            engines,
            now,
            at_work: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn site(&self) -> usize {
        locked(&self.now).site
    }

    /// From now on it works with another site.
    pub(super) fn send_to(&self, site: usize) -> Result<(), Violation> {
        let held = self.tree()?;
        let mut now = locked(&self.now);
        now.site = site;
        now.held = held;
        Ok(())
    }

    /// What it held when it was sent here and was not changed by hand since.
    pub(super) fn held(&self) -> Tree {
        locked(&self.now).held.clone()
    }

    /// Somebody works in the folder: a new file, another content, a deletion.
    pub(super) fn edit(&self) -> Result<(), Violation> {
        let own = format!(
            "of-{}/{}",
            self.name.replace(' ', "-"),
            self.entropy.below(4)
        );
        let shared = self.entropy.pick(&SHARED).copied().unwrap_or("memory.md");
        let path = if self.entropy.chance(400) {
            &own
        } else {
            shared
        };
        let at = self.folder.path().join(path);
        let edits = {
            let mut now = locked(&self.now);
            now.edits += 1;
            let changed: RepoPath = path.parse().map_err(surprise)?;
            now.held.remove(&changed);
            now.edits
        };
        if self.entropy.chance(200) && at.exists() {
            return fs::remove_file(&at).map_err(surprise);
        }
        if let Some(folder) = at.parent() {
            fs::create_dir_all(folder).map_err(surprise)?;
        }
        let content = if self.entropy.chance(60) {
            self.entropy.bytes(270_000)
        } else {
            let line = format!("{} wrote this as its number {edits}\n", self.name);
            let times = usize::try_from(self.entropy.below(30)).unwrap_or_default();
            line.repeat(1 + times).into_bytes()
        };
        fs::write(&at, content).map_err(surprise)
    }

    /// Runs the engine, by one of the ways to the site that it works with.
    pub(super) async fn run(&self, direction: Direction) -> Result<Ran, Violation> {
        let site = self.site();
        let Some(engine) = self.entropy.pick(&self.engines[site]) else {
            return Ok(Ran::NotNow("no way".into()));
        };
        let options = RunOptions {
            direction,
            strategy: Strategy::Local,
            ..BY_HAND
        };
        let ran = Box::pin(engine.run(options)).await;
        self.hear(ran)
    }

    fn hear(&self, ran: Result<Report, EngineError>) -> Result<Ran, Violation> {
        match ran {
            Ok(report) => {
                let Some(after) = report.after else {
                    return Ok(Ran::NotNow(format!("{:?}", report.outcome)));
                };
                let put = report.actions.iter().filter_map(|action| match action {
                    Action::Upload(path) => Some(path.clone()),
                    _ => None,
                });
                Ok(Ran::Done(after, put.collect()))
            }
            Err(EngineError::Remote(
                error @ (Error::Unavailable { .. } | Error::Denied { .. } | Error::Unknown { .. }),
            )) => Ok(Ran::NotNow(error.to_string())),
            // The owner ended this log, or made it a copy of the one that goes on; the machine has not been sent
            // elsewhere yet.
            Err(EngineError::Remote(error)) if is_elsewhere(&error) => {
                Ok(Ran::NotNow(error.to_string()))
            }
            Err(error) => Err(Violation(format!(
                "{} at site {}: {error}",
                self.name,
                self.site()
            ))),
        }
    }

    /// What its folder holds.
    pub(super) fn tree(&self) -> Result<Tree, Violation> {
        let mut tree = BTreeMap::new();
        walk(self.folder.path(), self.folder.path(), &mut tree)?;
        Ok(tree)
    }
}

fn walk(root: &Path, folder: &Path, tree: &mut Tree) -> Result<(), Violation> {
    for item in fs::read_dir(folder).map_err(surprise)? {
        let path = item.map_err(surprise)?.path();
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        if name == ".statehold" || name == "sync-manifest.json" {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, tree)?;
        } else {
            let digest = Digest::of(&fs::read(&path).map_err(surprise)?);
            let signature = Signature::File {
                digest,
                executable: false,
            };
            tree.insert(name.parse().map_err(surprise)?, signature);
        }
    }
    Ok(())
}
