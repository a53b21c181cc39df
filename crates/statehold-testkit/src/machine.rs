//! Machines with real folders that share a repository, straight on its store.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use statehold_core::bands::Profile;
use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::RepositoryId;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::store::Store;
use statehold_repository::{Remote, Repository};
use statehold_sync::engine::{Engine, EngineError, Report, RunOptions};
use statehold_sync::preset::Preset;
use statehold_sync::progress::Unwatched;
use statehold_sync::workspace::{InitOptions, Workspace};
use tempfile::TempDir;

use crate::dated_store::DatedStore;
use crate::environment::{EPOCH, SeededEntropy, SimulatedClock};

/// A store with one repository, and every request to it counted.
#[derive(Debug)]
pub struct Shared {
    store: Store,
    meter: Arc<Meter>,
    clock: Arc<SimulatedClock>,
    entropy: SeededEntropy,
}

/// A machine with a workspace of its own.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    /// What keeps the folder and the repository alike.
    pub engine: Engine,
    clock: Arc<SimulatedClock>,
}

/// Everything, by hand: what a person who types the verb gets.
pub const BY_HAND: RunOptions = RunOptions {
    direction: Direction::Bidirectional,
    scope: Scope::All,
    strategy: Strategy::Manual,
    dry: false,
    auto: false,
};

impl Shared {
    /// A repository in memory.
    pub fn in_memory() -> Self {
        Self::on(Store::memory())
    }

    /// A repository in memory whose objects are as old as its clock says.
    pub fn dated() -> Self {
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let store = DatedStore::in_memory(Arc::<SimulatedClock>::clone(&clock));
        Self::by(store, clock)
    }

    /// A repository in this store.
    pub fn on(store: Store) -> Self {
        Self::by(store, Arc::new(SimulatedClock::standing(EPOCH)))
    }

    fn by(store: Store, clock: Arc<SimulatedClock>) -> Self {
        let (store, meter) = store.metered();
        Self {
            store,
            meter,
            clock,
            entropy: SeededEntropy::new(1),
        }
    }

    /// The clock of everybody.
    pub fn clock(&self) -> &SimulatedClock {
        &self.clock
    }

    /// What the store was asked so far.
    pub fn usage(&self) -> Usage {
        self.meter.usage()
    }

    /// The repository as one more program that works on it has it.
    pub async fn repository(&self) -> statehold_repository::Result<Repository> {
        let clock: Arc<dyn Clock> = Arc::<SimulatedClock>::clone(&self.clock);
        let entropy: Arc<dyn Entropy> = Arc::new(self.entropy.clone());
        let id = RepositoryId::from_bytes([7; 16]);
        Repository::open_or_create(self.store.clone(), id, clock, entropy).await
    }

    /// One more machine, with an empty workspace.
    pub async fn machine(&self, name: &str) -> Result<Machine, EngineError> {
        self.machine_with(name, Preset::Plain, Profile::Adaptive)
            .await
    }

    /// One more machine, with an empty workspace of this kind.
    pub async fn machine_with(
        &self,
        name: &str,
        preset: Preset,
        profile: Profile,
    ) -> Result<Machine, EngineError> {
        let remote = Arc::new(self.repository().await?);
        self.machine_over(name, preset, profile, remote)
    }

    /// One more machine, with an empty workspace, that reaches a repository by a way of its own.
    pub fn machine_over(
        &self,
        name: &str,
        preset: Preset,
        profile: Profile,
        remote: Arc<dyn Remote>,
    ) -> Result<Machine, EngineError> {
        let failed = |source| EngineError::Own {
            action: "make",
            path: std::env::temp_dir(),
            source,
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        let options = InitOptions {
            preset,
            profile,
            machine_name: name.into(),
            machine_id: None,
        };
        let workspace = Workspace::init(folder.path(), options, &self.entropy)?;
        // The starter file is each machine's own and would only be in the way.
        fs::remove_file(folder.path().join(".stateholdignore")).map_err(failed)?;
        let engine = self.engine(workspace, remote)?;
        Ok(Machine {
            folder,
            engine,
            clock: Arc::clone(&self.clock),
        })
    }

    /// A machine whose program starts anew, with what lies on its disk, and reaches the repository by this way.
    pub fn restarted(
        &self,
        machine: Machine,
        remote: Arc<dyn Remote>,
    ) -> Result<Machine, EngineError> {
        let workspace = Workspace::open(machine.folder.path())?;
        let engine = self.engine(workspace, remote)?;
        Ok(Machine { engine, ..machine })
    }

    fn engine(&self, workspace: Workspace, remote: Arc<dyn Remote>) -> Result<Engine, EngineError> {
        let clock: Arc<dyn Clock> = Arc::<SimulatedClock>::clone(&self.clock);
        let entropy: Arc<dyn Entropy> = Arc::new(self.entropy.clone());
        Engine::new(workspace, remote, clock, entropy, Arc::new(Unwatched))
    }
}

impl Machine {
    /// Where a path of the workspace lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file and the folders it lies in.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        let path = self.path(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, content)
    }

    /// Runs the engine.
    pub async fn run(&self, options: RunOptions) -> Result<Report, EngineError> {
        // Every run has a moment of its own.
        self.clock.advance(Duration::from_secs(1));
        self.engine.run(options).await
    }

    /// Sends what changed here.
    pub async fn push(&self) -> Result<Report, EngineError> {
        self.run(RunOptions {
            direction: Direction::Push,
            ..BY_HAND
        })
        .await
    }

    /// Brings what changed elsewhere.
    pub async fn pull(&self) -> Result<Report, EngineError> {
        self.run(RunOptions {
            direction: Direction::Pull,
            ..BY_HAND
        })
        .await
    }

    /// Everything in the workspace, Statehold's own folder left out: what it is, what it holds,
    /// whether it is executable, and when it was changed.
    pub fn tree(&self) -> io::Result<BTreeMap<String, String>> {
        let mut tree = BTreeMap::new();
        walk(self.folder.path(), self.folder.path(), &mut tree)?;
        Ok(tree)
    }
}

fn walk(root: &Path, folder: &Path, tree: &mut BTreeMap<String, String>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        if name == ".statehold" {
            continue;
        }
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_symlink() {
            tree.insert(name, format!("link to {}", fs::read_link(&path)?.display()));
        } else if meta.is_dir() {
            tree.insert(name, "directory".into());
            walk(root, &path, tree)?;
        } else {
            let executable = meta.permissions().mode() & 0o100 != 0;
            let content = Digest::of(&fs::read(&path)?);
            tree.insert(
                name,
                format!("{content} {executable} {:?}", meta.modified()?),
            );
        }
    }
    Ok(())
}
