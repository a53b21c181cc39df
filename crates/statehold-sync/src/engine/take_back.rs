//! Putting the folder back as it was before a pull.
//!
//! Most of what a pull replaces is what the repository held when something last landed here. Where it is not,
//! since others' records lie before a push of this machine, `.statehold/replaced.json` says which record had it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use statehold_core::entry::Entry;
use statehold_core::node_logs::is_node_log;
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::rollback::WayBack;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;
use statehold_repository::Whereabouts;
use statehold_repository::remote::load_at;

use super::incoming::Incoming;
use super::situation::Situation;
use super::{Engine, Result, own_error};
use crate::atomic::{Readers, replace_file};
use crate::index::{Checkout, Lag};
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

/// A pull that was made.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// When it began.
    pub ts: Timestamp,
    /// What it went for.
    pub scope: Scope,
    /// The repository when something last landed here before it.
    pub before: Arc<State>,
    /// The repository as it left it.
    pub after: Arc<State>,
}

/// What a pull replaced that the repository did not hold when something had last landed here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Replaced {
    /// When that was noted.
    ts: Timestamp,
    /// The newest record when something had last landed here.
    before: Option<RecordRef>,
    /// By path.
    paths: BTreeMap<RepoPath, Lag>,
    /// Paths of which a killed run replaced what had stood there; the next one replaced what that one brought.
    #[serde(skip)]
    by_killed: BTreeSet<RepoPath>,
}

impl Replaced {
    /// Notes what a killed run replaced at a path: what was agreed on there before it.
    pub(super) fn note_killed(&mut self, path: &RepoPath, checkout: &Checkout) {
        let landed = checkout.landed.map_or(0, |landed| landed.number);
        let lag = checkout.pending.get(path).filter(|lag| lag.at != landed);
        self.paths.extend(lag.map(|lag| (path.clone(), *lag)));
        self.by_killed.insert(path.clone());
    }
}

impl Engine {
    /// Notes what is replaced at paths by what the state has there.
    pub(super) fn keep_replaced(
        &self,
        now: &mut Situation,
        paths: &[RepoPath],
        before: Option<RecordRef>,
    ) -> Result<()> {
        let Some(checkout) = &now.index.checkout else {
            return Ok(());
        };
        let landed = before.map_or(0, |before| before.number);
        let lags = paths.iter().filter_map(|path| {
            let lag = checkout.pending.get(path)?;
            let is_open = lag.at != landed && !now.replaced.by_killed.contains(path);
            is_open.then(|| (path.clone(), *lag))
        });
        let lags: Vec<_> = lags.collect();
        now.replaced.paths.extend(lags);
        let path = self.workspace.replaced_path();
        if now.replaced.paths.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(own_error("remove", &path, error))
                }
                _ => Ok(()),
            };
        }
        (now.replaced.ts, now.replaced.before) = (self.clock.now(), before);
        serde_json::to_vec(&now.replaced)
            .map_err(std::io::Error::from)
            .and_then(|text| replace_file(&path, &text, Readers::Owner, &self.workspace.staging()))
            .map_err(|error| own_error("write", &path, error))
    }

    /// What a pull replaced, beyond what the repository held before it. Nothing where nobody noted it.
    fn replaced_by(&self, pulled: &Pulled) -> BTreeMap<RepoPath, Lag> {
        let text = std::fs::read(self.workspace.replaced_path()).ok();
        let replaced = text.and_then(|text| serde_json::from_slice::<Replaced>(&text).ok());
        let replaced = replaced.unwrap_or_default();
        let is_of_it = replaced.before == Some(pulled.before.head) && replaced.ts >= pulled.ts;
        if is_of_it {
            replaced.paths
        } else {
            BTreeMap::new()
        }
    }

    /// What the folder agreed on with the repository before a pull: what stood there when something had last
    /// landed, but where that had not come here yet.
    async fn tree_before(&self, pulled: &Pulled) -> Result<Tree> {
        let mut tree = pulled.before.tree.clone();
        let mut states = BTreeMap::new();
        for (path, lag) in self.replaced_by(pulled) {
            let Some(base) = lag.base else {
                tree.remove(path.as_str());
                continue;
            };
            if let std::collections::btree_map::Entry::Vacant(slot) = states.entry(lag.at) {
                slot.insert(load_at(&*self.remote, Point::Record(lag.at)).await?);
            }
            let state = states.get(&lag.at);
            let entry = state.and_then(|state| state.tree.get(path.as_str()));
            // Another log may stand there by now; then it stays as the pull left it.
            let entry = entry.filter(|entry| entry.signature() == base);
            match entry.or_else(|| pulled.after.tree.get(path.as_str())) {
                Some(entry) => tree.insert(path, entry.clone()),
                None => tree.remove(path.as_str()),
            };
        }
        Ok(tree)
    }

    /// Puts back what a pull brought into this folder, where it is still as
    /// the pull left it. The repository is not touched, and what both sides agreed on stays: what is
    /// here afterwards is this machine's change.
    pub async fn take_back(&self, pulled: &Pulled, dry: bool) -> Result<TakenBack> {
        let _lock = lock_workspace(&self.workspace, "undo", Wait::Yes)?;
        let mut now = self.look(self.read_index(), 0)?;
        let before = self.tree_before(pulled).await?;
        let after = &pulled.after.tree;
        let is_scanned = |path: &RepoPath| {
            let entry = after.get(path.as_str());
            let entry = entry.or_else(|| before.get(path.as_str()));
            let is_directory = matches!(entry, Some(Entry::Directory));
            pulled.scope.contains(path)
                && !now.scan.is_held(path)
                && !is_left_out(&now.rules, &now.ignore, path, is_directory)
        };
        let mut back = WayBack::between(after, &before, is_scanned);
        back.leave_out(is_node_log);
        let mut taken = TakenBack::default();
        let mut actions = Vec::new();
        for path in back.paths() {
            let here = now.scan.entries.get(path).map(|local| local.signature);
            let there = |tree: &Tree| tree.get(path.as_str()).map(Entry::signature);
            if here != there(after) {
                taken.left.push(path.clone());
                continue;
            }
            actions.push(match there(&before) {
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
            tree: &before,
            remote: &*self.remote,
            whereabouts: &Whereabouts::of(pulled.before.head),
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
