//! The states of a folder, opened for one command: what was brought here is taken in first, and what
//! the command changed is put where a push finds it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;
use statehold_core::node_logs::NODE_LOGS;
use statehold_state::{
    Alarm, CarriedFolder, Collection, Manager, Notice, Notices, Origin, Received, Strategy,
};

use super::super::GlobalArgs;
use super::place::Place;
use crate::exit::WrongUsage;
use crate::output::complain;

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
        let place = Place::of(&global.directory()?)?;
        if make == Make::No && !place.is_used() {
            bail!(
                "there are no states in {}; `statehold state set ID VALUE` makes the first, and \
                 `statehold pull` brings those of other machines",
                place.root().display()
            );
        }
        let carried = CarriedFolder::at(place.carried());
        let mut manager = place.open()?;
        let notices = manager.listen();
        tell_origin(&manager);
        let mut received = carried.receive(&manager)?;
        tell_notices(notices);
        if received.is_forked(manager.node())
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

    /// Puts what others lack where a push finds it. Everything that cannot be right.
    pub(super) fn publish(&self) -> Result<Vec<Alarm>> {
        let mut alarms = self.received.reconciled.alarms.clone();
        for alarm in self.carried.publish(&self.manager)? {
            if !alarms.contains(&alarm) {
                complain(&format!("alarm: {}", describe_alarm(&alarm)));
                alarms.push(alarm);
            }
        }
        Ok(alarms)
    }

    /// The same for a command that only reads: it shows what there is also where nothing can be written,
    /// as on a full disk.
    pub(super) fn publish_for_reader(&self) {
        if let Err(error) = self.publish() {
            complain(&format!(
                "note: what other machines lack could not be put where a push finds it: {error:#}"
            ));
        }
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
            "node {node} decides about collection {} by another strategy; use the same",
            collection.escape_debug()
        ),
        Alarm::Unstable { node, collection } => format!(
            "node {node} computed other values in collection {} of the same events; its strategy \
             is not a pure function",
            collection.escape_debug()
        ),
        other => format!("{other:?}"),
    }
}
