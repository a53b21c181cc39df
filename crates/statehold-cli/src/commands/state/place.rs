//! Where the states of a folder are kept on this machine, and how that is opened.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use statehold_core::node_logs::NODE_LOGS;
use statehold_core::path::RESERVED_NAME;
use statehold_state::{CarriedFolder, Error, Manager, Options};
use statehold_sync::workspace::{Workspace, WorkspaceError};

use crate::environment::home;
use crate::output::complain;

/// How long another command on the same states is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where the states of a folder are kept on this machine.
pub(super) struct Place {
    root: PathBuf,
    witnesses: PathBuf,
}

impl Place {
    /// The place of the states that are meant in a folder: those of the workspace that it is in, or of
    /// the nearest folder that has some.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let witnesses = home()?.witnesses();
        let root = root_of(folder)?;
        Ok(Self { root, witnesses })
    }

    /// The folder whose states they are.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What this machine keeps.
    fn states(&self) -> PathBuf {
        states_of(&self.root)
    }

    /// What is carried to and from other machines.
    pub(super) fn carried(&self) -> PathBuf {
        self.root.join(NODE_LOGS)
    }

    /// Whether anything has been set here, or was brought.
    pub(super) fn is_used(&self) -> bool {
        self.states().is_dir() || self.carried().is_dir()
    }

    /// Opens the manager, once other commands on it have ended.
    pub(super) fn open(&self) -> Result<Manager> {
        make_own_folder(&self.root.join(RESERVED_NAME))?;
        let started = Instant::now();
        loop {
            let door = self.door()?;
            self.finish_repair()?;
            let opened = self.open_at(&self.states());
            drop(door);
            match opened {
                Err(Error::InUse { .. }) if started.elapsed() < PATIENCE => {
                    thread::sleep(LOOK_AGAIN);
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// Held while the folder of states is opened or replaced: who opened it in between would find none
    /// and begin another, in the way of the one that is to come.
    fn door(&self) -> Result<File> {
        let path = self.states().with_extension("door");
        let open = || -> std::io::Result<File> {
            let mut options = File::options();
            let file = options
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().with_context(|| format!("could not lock {}", path.display()))
    }

    fn open_at(&self, states: &Path) -> Result<Manager, Error> {
        Manager::open(Options::new(states, &self.witnesses))
    }

    /// Where a new node is made that takes over from a forked one.
    fn fresh(&self) -> PathBuf {
        self.states().with_extension("fresh")
    }

    /// Takes over from a node that a running copy of this machine is too, with what only this machine
    /// has. What it kept so far is put aside. Nothing where it can't be told what that is.
    pub(super) fn repair(
        &self,
        forked: &Manager,
        carried: &CarriedFolder,
    ) -> Result<Option<Manager>> {
        let fresh = self.fresh();
        let io = |path: &Path| format!("could not put {} in place", path.display());
        if fresh.exists() {
            fs::remove_dir_all(&fresh).with_context(|| io(&fresh))?;
        }
        let manager = self.open_at(&fresh)?;
        carried.receive(&manager)?;
        let events = match manager.adopt(forked) {
            Err(Error::PartedTooLongAgo { .. }) => {
                manager.close();
                fs::remove_dir_all(&fresh).with_context(|| io(&fresh))?;
                return Ok(None);
            }
            adopted => adopted?,
        };
        complain(&format!(
            "note: a running copy of this machine writes as node {} too; this folder writes as node {} \
             from now on, and {events} events that the other one lacks are written again",
            forked.node(),
            manager.node()
        ));
        manager.close();
        let states = self.states();
        let aside = states.with_extension(format!("forked-{}", forked.node()));
        let door = self.door()?;
        fs::rename(&states, &aside).with_context(|| io(&aside))?;
        self.finish_repair()?;
        drop(door);
        forked.close();
        self.open().map(Some)
    }

    /// Puts in place what a killed repair had made.
    fn finish_repair(&self) -> Result<()> {
        let (states, fresh) = (self.states(), self.fresh());
        if !states.exists() && fresh.exists() {
            fs::rename(&fresh, &states)
                .with_context(|| format!("could not put {} in place", fresh.display()))?;
        }
        Ok(())
    }
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
