//! This project's own side: the typed manager on a folder, each change durable.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use statehold_state::{Collection, Manager, Options, Strategy};
use tempfile::TempDir;

use crate::{Pairs, Side};

pub(crate) struct Own {
    manager: Manager,
    all: Collection<String>,
    home: TempDir,
}

fn open(home: TempDir) -> Result<Own> {
    let options = Options::new(home.path().join("state"), home.path().join("witness"));
    let manager = Manager::open(options)?;
    let all = manager.collection("all", Strategy::default())?;
    Ok(Own { manager, all, home })
}

impl Side for Own {
    const NAME: &'static str = "statehold, durable";

    fn new(_: u8) -> Result<Self> {
        open(tempfile::tempdir()?)
    }

    fn write(&mut self, pairs: &[(String, String)]) -> Result<()> {
        write(&self.manager, &self.all, pairs)
    }

    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()> {
        delete(&self.manager, &self.all, pairs)
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.all.get(key)?.map(|state| state.data))
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        self.manager.compact(0)?;
        Ok(fs::read(self.home.path().join("state").join("snapshot"))?)
    }

    /// A folder that holds this snapshot and nothing else.
    fn load(bytes: &[u8]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let folder = home.path().join("state");
        fs::create_dir(&folder)?;
        fs::write(folder.join("snapshot"), bytes)?;
        open(home)
    }

    fn mark(&mut self) -> Result<Vec<u8>> {
        Ok(self.manager.head()?)
    }

    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        Ok(self.manager.answer(mark)?)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.manager.reconcile(bytes)?;
        Ok(())
    }
}

/// The same in memory only, which is what the others do.
pub(crate) struct InMemory {
    manager: Manager,
    all: Collection<String>,
}

impl InMemory {
    fn of(manager: Manager) -> Result<Self> {
        let all = manager.collection("all", Strategy::default())?;
        Ok(Self { manager, all })
    }
}

impl Side for InMemory {
    const NAME: &'static str = "statehold, in memory";

    fn new(_: u8) -> Result<Self> {
        Self::of(Manager::in_memory()?)
    }

    fn write(&mut self, pairs: &[(String, String)]) -> Result<()> {
        write(&self.manager, &self.all, pairs)
    }

    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()> {
        delete(&self.manager, &self.all, pairs)
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.all.get(key)?.map(|state| state.data))
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(self.manager.export()?)
    }

    fn load(bytes: &[u8]) -> Result<Self> {
        let side = Self::new(2)?;
        side.manager.reconcile(bytes)?;
        Ok(side)
    }

    fn mark(&mut self) -> Result<Vec<u8>> {
        Ok(self.manager.head()?)
    }

    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        Ok(self.manager.answer(mark)?)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.manager.reconcile(bytes)?;
        Ok(())
    }
}

fn write(manager: &Manager, all: &Collection<String>, pairs: &[(String, String)]) -> Result<()> {
    manager.batch(|batch| {
        pairs
            .iter()
            .try_for_each(|(key, value)| batch.put(all, key, value))
    })?;
    Ok(())
}

fn delete(manager: &Manager, all: &Collection<String>, pairs: &[(String, String)]) -> Result<()> {
    manager.batch(|batch| {
        pairs
            .iter()
            .try_for_each(|(key, _)| batch.delete(all, key).map(drop))
    })?;
    Ok(())
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for item in fs::read_dir(folder)? {
        let item = item?;
        bytes += if item.path().is_dir() {
            bytes_in(&item.path())?
        } else {
            item.metadata()?.len()
        };
    }
    Ok(bytes)
}

/// What durable changes cost: no other side has them.
pub(crate) fn durable(pairs: &Pairs) -> Result<()> {
    let mut own = Own::new(1)?;
    own.write(pairs)?;
    let folder = own.home.path().join("state");
    own.manager.compact(u64::MAX)?;
    let before = bytes_in(&folder)?;
    let started = Instant::now();
    let count = 1_000;
    for pair in pairs.iter().take(count) {
        own.write(std::slice::from_ref(pair))?;
    }
    let single = started.elapsed().as_secs_f64();
    let written = bytes_in(&folder)? - before;
    let started = Instant::now();
    for chunk in pairs.chunks(100).take(200) {
        own.write(chunk)?;
    }
    let grouped = started.elapsed().as_secs_f64();
    println!(
        "durable, one at a time: {:.0} a second, {:.0} bytes each; 100 at a time: {:.0} a second",
        count as f64 / single,
        written as f64 / count as f64,
        20_000.0 / grouped
    );
    Ok(())
}
