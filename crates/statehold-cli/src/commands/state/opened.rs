//! The states of a folder, opened for one command: what was brought here is taken in first, and what
//! the command changed is put where a push finds it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use statehold_core::node_logs::NODE_LOGS;
use statehold_core::path::RESERVED_NAME;
use statehold_state::{
    Alarm, CarriedFolder, Collection, Error, Manager, Notice, Notices, Options, Origin, Received,
    Strategy,
};
use statehold_sync::workspace::{Workspace, WorkspaceError};

use super::super::GlobalArgs;
use crate::environment::home;
use crate::exit::WrongUsage;
use crate::output::complain;

/// How long another command on the same states is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where the strategy of each collection is kept: a collection itself, so that all machines decide by
/// the same.
const STRATEGIES: &str = ".strategies";

/// The states of a folder.
pub(super) struct Opened {
    pub(super) manager: Manager,
    pub(super) carried: CarriedFolder,
    /// What was brought here since the last time.
    pub(super) received: Received,
    collections: BTreeMap<String, Collection<Value>>,
}

/// Whether a command may be the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    /// It makes what is needed.
    Yes,
    /// Where nothing has been set yet, there is nothing to do.
    No,
}

impl Opened {
    /// Opens the states of the folder that the command is about, each collection by its strategy.
    pub(super) fn open(global: &GlobalArgs, make: Make) -> Result<Self> {
        let mut opened = Self::receive(global, make)?;
        opened.open_collections()?;
        Ok(opened)
    }

    /// The same, with a collection decided by this strategy from now on, on every machine.
    pub(super) fn open_with(
        global: &GlobalArgs,
        collection: &str,
        strategy: &Strategy,
    ) -> Result<Self> {
        let mut opened = Self::receive(global, Make::Yes)?;
        let before = strategies(&opened.manager)?.remove(collection);
        if before.unwrap_or_default().name() != strategy.name() {
            let all = opened
                .manager
                .collection::<String>(STRATEGIES, Strategy::default())?;
            all.put(checked(collection)?, &strategy.name().to_owned())?;
        }
        opened.open_collections()?;
        Ok(opened)
    }

    /// Takes in what was brought here.
    fn receive(global: &GlobalArgs, make: Make) -> Result<Self> {
        let root = root_of(&global.directory()?)?;
        let carried = root.join(NODE_LOGS);
        if make == Make::No && !states_of(&root).is_dir() && !carried.is_dir() {
            bail!(
                "there are no states in {}; `statehold state set ID VALUE` makes the first, and \
                 `statehold pull` brings those of other machines",
                root.display()
            );
        }
        make_own_folder(&root.join(RESERVED_NAME))?;
        let place = Place {
            states: states_of(&root),
            witnesses: home()?.witnesses(),
        };
        place.finish_repair()?;
        let carried = CarriedFolder::at(carried);
        let mut manager = place.open()?;
        let notices = manager.listen();
        tell_origin(&manager);
        let mut received = carried.receive(&manager)?;
        tell_notices(notices);
        if is_forked(&manager, &received)
            && let Some(repaired) = place.repair(&manager, &carried)?
        {
            manager = repaired;
            received = carried.receive(&manager)?;
        }
        tell_received(&received);
        Ok(Self {
            manager,
            carried,
            received,
            collections: BTreeMap::new(),
        })
    }

    fn open_collections(&mut self) -> Result<()> {
        let strategies = strategies(&self.manager)?;
        for name in self.manager.collections()? {
            if name != STRATEGIES {
                let strategy = strategies.get(&name).cloned().unwrap_or_default();
                let collection = self.manager.collection(&name, strategy)?;
                self.collections.insert(name, collection);
            }
        }
        Ok(())
    }

    /// The collections that hold anything, by name.
    pub(super) fn collections(&self) -> impl Iterator<Item = &Collection<Value>> {
        self.collections.values()
    }

    /// The collection of this name, if it holds anything.
    pub(super) fn existing(&self, name: &str) -> Option<&Collection<Value>> {
        self.collections.get(name)
    }

    /// The collection of this name, to be written to.
    pub(super) fn collection(&self, name: &str) -> Result<Collection<Value>> {
        if let Some(collection) = self.existing(name) {
            return Ok(collection.clone());
        }
        let strategy = strategies(&self.manager)?.remove(checked(name)?);
        Ok(self
            .manager
            .collection(name, strategy.unwrap_or_default())?)
    }

    /// Puts what others lack where a push finds it.
    pub(super) fn publish(&self) -> Result<Vec<Alarm>> {
        let alarms = self.carried.publish(&self.manager)?;
        for alarm in &alarms {
            complain(&format!("alarm: {}", describe_alarm(alarm)));
        }
        Ok(alarms)
    }
}

/// The name of a collection, unless it is one of Statehold's own.
fn checked(name: &str) -> Result<&str> {
    if name.starts_with('.') {
        return Err(WrongUsage::because(format!(
            "{name:?} is no name for a collection: those with a dot in front are Statehold's own"
        )));
    }
    Ok(name)
}

/// The strategy of each collection that has one of its own.
pub(super) fn strategies(manager: &Manager) -> Result<BTreeMap<String, Strategy>> {
    let all = manager.collection::<String>(STRATEGIES, Strategy::default())?;
    let mut strategies = BTreeMap::new();
    for id in all.ids()? {
        // One that a newer program knows is as good as none.
        let name = all.get(&id).ok().flatten().map(|state| state.data);
        if let Some(strategy) = name.and_then(|name| name.parse().ok()) {
            strategies.insert(id, strategy);
        }
    }
    Ok(strategies)
}

/// The folder whose states are meant: the workspace, or the nearest folder that has some.
fn root_of(folder: &Path) -> Result<PathBuf> {
    match Workspace::find(folder) {
        Ok(workspace) => return Ok(workspace.root().to_owned()),
        Err(WorkspaceError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = fs::canonicalize(folder)
        .with_context(|| format!("the folder {} cannot be found", folder.display()))?;
    let mut above = folder.ancestors();
    let with_states = above.find(|folder| states_of(folder).is_dir());
    Ok(with_states.unwrap_or(&folder).to_owned())
}

/// What this machine keeps of a folder's states.
fn states_of(root: &Path) -> PathBuf {
    root.join(RESERVED_NAME).join("states")
}

/// Makes what a workspace has anyway: a folder for this user alone, that no Git repository takes in.
fn make_own_folder(own: &Path) -> Result<()> {
    let make = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(own)?;
        let ignored = own.join(".gitignore");
        if !ignored.exists() {
            fs::write(ignored, "*\n")?;
        }
        Ok(())
    };
    make().with_context(|| format!("could not make {}", own.display()))
}

/// Where the states of a folder are kept on this machine.
struct Place {
    states: PathBuf,
    witnesses: PathBuf,
}

impl Place {
    /// Opens the manager, once other commands on it have ended.
    fn open(&self) -> Result<Manager> {
        let started = Instant::now();
        loop {
            match self.open_at(&self.states) {
                Err(Error::InUse { .. }) if started.elapsed() < PATIENCE => {
                    thread::sleep(LOOK_AGAIN);
                }
                opened => return Ok(opened?),
            }
        }
    }

    fn open_at(&self, states: &Path) -> Result<Manager, Error> {
        Manager::open(Options::new(states, &self.witnesses))
    }

    /// Where a new node is made that takes over from a forked one.
    fn fresh(&self) -> PathBuf {
        self.states.with_extension("fresh")
    }

    /// Takes over from a node that a running copy of this machine is too, with what only this machine
    /// has. What it kept so far is put aside. Nothing where it can't be told what that is.
    fn repair(&self, forked: &Manager, carried: &CarriedFolder) -> Result<Option<Manager>> {
        let fresh = self.fresh();
        let io = |path: &Path| format!("could not put {} in place", path.display());
        if fresh.exists() {
            fs::remove_dir_all(&fresh).with_context(|| io(&fresh))?;
        }
        let manager = self.open_at(&fresh)?;
        carried.receive(&manager)?;
        let events = match manager.adopt(forked) {
            Err(Error::PartedTooLongAgo { .. }) => return Ok(None),
            adopted => adopted?,
        };
        complain(&format!(
            "note: a running copy of this machine writes as node {} too; this folder writes as node {} \
             from now on, and {events} events that the other one lacks are written again",
            forked.node(),
            manager.node()
        ));
        manager.close();
        let aside = self
            .states
            .with_extension(format!("forked-{}", forked.node()));
        fs::rename(&self.states, &aside).with_context(|| io(&aside))?;
        forked.close();
        self.finish_repair()?;
        self.open().map(Some)
    }

    /// Puts in place what a killed repair had made.
    fn finish_repair(&self) -> Result<()> {
        let fresh = self.fresh();
        if !self.states.exists() && fresh.exists() {
            fs::rename(&fresh, &self.states)
                .with_context(|| format!("could not put {} in place", fresh.display()))?;
        }
        Ok(())
    }
}

/// Whether a running copy of this machine writes under this node's name.
fn is_forked(manager: &Manager, received: &Received) -> bool {
    let node = manager.node();
    let alarms = &received.reconciled.alarms;
    alarms
        .iter()
        .any(|alarm| matches!(alarm, Alarm::Forked { log, .. } if *log == node))
}

fn tell_origin(manager: &Manager) {
    let what = match manager.origin() {
        Some(Origin::Copied) => "is a copy, or was moved here",
        Some(Origin::RolledBack) => "is older than what others have seen of it",
        _ => return,
    };
    complain(&format!(
        "note: this folder {what}, so it writes as a new node, {}",
        manager.node()
    ));
}

fn tell_notices(mut notices: Notices) {
    while let Some(notice) = notices.try_next() {
        if let Notice::ClockAhead { node, milliseconds } = notice {
            complain(&format!(
                "note: node {node} dates what it writes {} s ahead of this machine's clock; set the \
                 clock that is wrong",
                milliseconds / 1_000
            ));
        }
    }
}

fn tell_received(received: &Received) {
    for file in &received.refused {
        complain(&format!(
            "note: {} is not taken, and nothing has changed by it: {}; on the machine of that node remove \
             the folder {NODE_LOGS}/{}, run `statehold state list`, which writes all of it anew, and push",
            file.path.display(),
            file.why,
            file.node
        ));
    }
    for alarm in &received.reconciled.alarms {
        complain(&format!("alarm: {}", describe_alarm(alarm)));
    }
}

/// What cannot be right, and what to do about it.
fn describe_alarm(alarm: &Alarm) -> String {
    match alarm {
        Alarm::Diverged { node } => format!(
            "node {node} knows the same events and has other states; check the disks of both machines"
        ),
        Alarm::Forked { log, sequence, .. } => format!(
            "two machines wrote as node {log}, up to event {sequence}: one is a running copy of the \
             other; what only one of them has has to be set again there"
        ),
        Alarm::OtherRules { node, collection } => format!(
            "node {node} decides about collection {collection} by another strategy; use the same"
        ),
        Alarm::Unstable { node, collection } => format!(
            "node {node} computed other values in collection {collection} of the same events; its \
             strategy is not a pure function"
        ),
        other => format!("{other:?}"),
    }
}
