//! Putting the folder back as it was before a pull.

use statehold_core::entry::Entry;
use statehold_core::node_logs::is_node_log;
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::rollback::WayBack;
use statehold_core::state::State;
use statehold_repository::Whereabouts;

use super::incoming::Incoming;
use super::{Engine, Result};
use crate::locks::{Wait, lock_workspace};
use crate::scan::is_left_out;

/// What became of the folder.
#[derive(Debug, Clone, Default)]
pub struct TakenBack {
    /// Paths that are as before, or would be.
    pub paths: Vec<RepoPath>,
    /// Paths that were changed here since, and left alone.
    pub left: Vec<RepoPath>,
}

impl Engine {
    /// Puts back what a pull from one state to another brought into this folder, where it is still as
    /// the pull left it. The repository is not touched, and what both sides agreed on stays: what is
    /// here afterwards is this machine's change.
    pub async fn take_back(&self, before: &State, after: &State, dry: bool) -> Result<TakenBack> {
        let _lock = lock_workspace(&self.workspace, "undo", Wait::Yes)?;
        let mut now = self.look(self.read_index(), 0)?;
        let is_scanned = |path: &RepoPath| {
            let entry = after.tree.get(path.as_str());
            let entry = entry.or_else(|| before.tree.get(path.as_str()));
            let is_directory = matches!(entry, Some(Entry::Directory));
            !now.scan.is_held(path) && !is_left_out(&now.rules, &now.ignore, path, is_directory)
        };
        let mut back = WayBack::between(&after.tree, &before.tree, is_scanned);
        back.leave_out(is_node_log);
        let mut taken = TakenBack::default();
        let mut actions = Vec::new();
        for path in back.paths() {
            let here = now.scan.entries.get(path).map(|local| local.signature);
            let there = |state: &State| state.tree.get(path.as_str()).map(Entry::signature);
            if here != there(after) {
                taken.left.push(path.clone());
                continue;
            }
            actions.push(match there(before) {
                Some(_) => Action::Download(path.clone()),
                None => Action::DeleteLocal(path.clone()),
            });
        }
        if dry {
            taken.paths = actions.iter().map(|action| action.path().clone()).collect();
            return Ok(taken);
        }
        let is_unsaved = |_: &RepoPath| false;
        let stamp = self.clock.now().as_millis();
        let incoming = Incoming {
            folder: &self.folder,
            scan: &now.scan,
            tree: &before.tree,
            remote: &*self.remote,
            whereabouts: &Whereabouts::of(before.head),
            staging: &self.workspace.staging(),
            aside: self.workspace.conflicts().join(stamp.to_string()),
            is_unsaved: &is_unsaved,
            progress: &*self.progress,
            journal: None,
        };
        let actions: Vec<&Action> = actions.iter().collect();
        let placed = incoming.run(&actions).await?;
        self.clear_staging();
        taken.paths = placed.paths;
        taken.left.extend(placed.changed);
        taken
            .left
            .extend(placed.failed.into_iter().map(|(path, _)| path));
        now.scan.cache.merge(placed.cache);
        now.index.cache = std::mem::take(&mut now.scan.cache);
        self.write_index(&mut now.index)?;
        placed.damage.map_or(Ok(taken), |damage| Err(damage.into()))
    }
}
