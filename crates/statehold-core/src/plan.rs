//! Base, local and remote tree in; the list of actions out.
//!
//! The planner is a pure function. *Base* is what both sides last agreed on, path by path. A side
//! has changed a path when it differs from the base there; content decides, times never do. Equal
//! content on both sides is agreement, base or not, so a lost base means union and never a
//! deletion.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::entry::Signature;
use crate::node_logs::is_node_log;
use crate::path::RepoPath;
use crate::time::Mtime;

/// Which side may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The remote side only.
    Push,
    /// The local side only.
    Pull,
    /// Both.
    Bidirectional,
}

/// What to do where both sides changed a path in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Report it and change neither side.
    Manual,
    /// Take the local side.
    Local,
    /// Take the remote side.
    Remote,
    /// Take the side changed last by its own clock; an edit wins over a deletion, remote wins a tie.
    Newest,
}

/// One side's view of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What is there.
    pub signature: Signature,
    /// When it was last changed; only [`Strategy::Newest`] looks at it.
    pub mtime: Mtime,
}

/// The three trees of a plan, each by path.
#[derive(Debug, Clone, Default)]
pub struct Trees {
    /// What both sides last agreed on.
    pub base: BTreeMap<RepoPath, Signature>,
    /// What the folder holds.
    pub local: BTreeMap<RepoPath, Seen>,
    /// What the repository holds.
    pub remote: BTreeMap<RepoPath, Seen>,
}

impl Trees {
    /// The three trees without the paths on which all of them agree.
    ///
    /// Such a path calls for nothing, and it can't be in another's way: it stands on both sides,
    /// and whatever the plan puts beside it stands on one of them already. In nearly every run that
    /// is all paths but a few, so they are passed over without a copy.
    ///
    /// Each iterator gives its paths in order, each once. `taken` says of a path that is not
    /// passed over, and of what stands there, whether it takes part.
    pub fn of_differences<'a>(
        base: impl Iterator<Item = (&'a RepoPath, Signature)>,
        local: impl Iterator<Item = (&'a RepoPath, Seen)>,
        remote: impl Iterator<Item = (&'a RepoPath, Seen)>,
        taken: impl Fn(&RepoPath, Signature) -> bool,
    ) -> Self {
        let mut base = base.peekable();
        let mut local = local.peekable();
        let mut remote = remote.peekable();
        let mut trees = Self::default();
        loop {
            let paths = [
                base.peek().map(|(path, _)| *path),
                local.peek().map(|(path, _)| *path),
                remote.peek().map(|(path, _)| *path),
            ];
            let Some(first) = paths.into_iter().flatten().reduce(earlier) else {
                return trees;
            };
            let base = base.next_if(|(path, _)| same(path, first));
            let local = local.next_if(|(path, _)| same(path, first));
            let remote = remote.next_if(|(path, _)| same(path, first));
            let here = local.map(|(_, seen)| seen.signature);
            let there = remote.map(|(_, seen)| seen.signature);
            if here == there && base.map(|(_, signature)| signature) == here {
                continue;
            }
            if let Some((path, signature)) = base.filter(|(path, base)| taken(path, *base)) {
                trees.base.insert(path.clone(), signature);
            }
            if let Some((path, seen)) = local.filter(|(path, seen)| taken(path, seen.signature)) {
                trees.local.insert(path.clone(), seen);
            }
            if let Some((path, seen)) = remote.filter(|(path, seen)| taken(path, seen.signature)) {
                trees.remote.insert(path.clone(), seen);
            }
        }
    }
}

fn earlier<'a>(left: &'a RepoPath, right: &'a RepoPath) -> &'a RepoPath {
    if same(left, right) || left < right {
        left
    } else {
        right
    }
}

/// Whether two paths are equal; often they are the same one.
fn same(left: &RepoPath, right: &RepoPath) -> bool {
    std::ptr::eq(left, right) || left == right
}

/// A step that makes the two sides more alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action", content = "path")]
pub enum Action {
    /// Put the local entry into the repository.
    Upload(RepoPath),
    /// Take the path out of the repository.
    DeleteRemote(RepoPath),
    /// Put the remote entry into the folder.
    Download(RepoPath),
    /// Take the path out of the folder.
    DeleteLocal(RepoPath),
}

impl Action {
    /// The path it is about.
    pub const fn path(&self) -> &RepoPath {
        match self {
            Self::Upload(path)
            | Self::DeleteRemote(path)
            | Self::Download(path)
            | Self::DeleteLocal(path) => path,
        }
    }

    /// Whether it changes the repository rather than the folder.
    pub const fn is_outgoing(&self) -> bool {
        matches!(self, Self::Upload(_) | Self::DeleteRemote(_))
    }
}

/// A path that both sides changed in different ways.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// The path.
    pub path: RepoPath,
    /// In which ways.
    pub kind: ConflictKind,
}

/// In which ways two sides changed a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// Both put something else there.
    BothChanged,
    /// Changed here, deleted there.
    ChangedHereDeletedThere,
    /// Deleted here, changed there.
    DeletedHereChangedThere,
    /// One side has a file where the other has something beneath it.
    FileInTheWay,
}

/// What a run will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Steps, by path.
    pub actions: Vec<Action>,
    /// True conflicts, by path. Nothing is done about them.
    pub conflicts: Vec<Conflict>,
    /// Paths on which both sides agree although the base says otherwise: the base moves there.
    pub agreed: Vec<RepoPath>,
}

/// What a single path calls for, before direction and neighbours are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Settled,
    Agreed,
    TakeLocal,
    TakeRemote,
    Conflict(ConflictKind),
}

fn judge(
    base: Option<Signature>,
    local: Option<Seen>,
    remote: Option<Seen>,
    strategy: Strategy,
) -> Verdict {
    let here = local.map(|seen| seen.signature);
    let there = remote.map(|seen| seen.signature);
    if here == there {
        return if base == here {
            Verdict::Settled
        } else {
            Verdict::Agreed
        };
    }
    if there == base {
        return Verdict::TakeLocal;
    }
    if here == base {
        return Verdict::TakeRemote;
    }
    let kind = match (here, there) {
        (Some(_), None) => ConflictKind::ChangedHereDeletedThere,
        (None, Some(_)) => ConflictKind::DeletedHereChangedThere,
        _ => ConflictKind::BothChanged,
    };
    match (strategy, local, remote) {
        (Strategy::Manual, ..) => Verdict::Conflict(kind),
        (Strategy::Local, ..) | (Strategy::Newest, Some(_), None) => Verdict::TakeLocal,
        (Strategy::Remote, ..) | (Strategy::Newest, None, _) => Verdict::TakeRemote,
        (Strategy::Newest, Some(local), Some(remote)) if local.mtime > remote.mtime => {
            Verdict::TakeLocal
        }
        (Strategy::Newest, Some(_), Some(_)) => Verdict::TakeRemote,
    }
}

/// The strategy for a path. What a node has written can be made again by that node, so it is never in
/// anybody's way: it comes back where it was deleted, and of two programs that wrote as one node the
/// first keeps the place, and the other one finds out when it reads that.
fn strategy_for(
    path: &RepoPath,
    local: Option<Seen>,
    remote: Option<Seen>,
    asked: Strategy,
) -> Strategy {
    match (is_node_log(path), local, remote) {
        (false, ..) => asked,
        (true, Some(_), None) => Strategy::Local,
        (true, ..) => Strategy::Remote,
    }
}

/// Computes what makes the two sides alike.
///
/// With [`Direction::Bidirectional`] and no conflicts, carrying out the plan leaves base, local and
/// remote equal. Whatever content is in local or remote and not in the base stays reachable: it is
/// kept, sent, or listed as a conflict; under a strategy that picks a side, the loser is in history
/// (remote) or has to be set aside by whoever carries the plan out (local).
pub fn plan(trees: &Trees, direction: Direction, strategy: Strategy) -> Plan {
    let paths: BTreeSet<&RepoPath> = trees
        .base
        .keys()
        .chain(trees.local.keys())
        .chain(trees.remote.keys())
        .collect();
    let mut verdicts: BTreeMap<&RepoPath, Verdict> = BTreeMap::new();
    for path in paths {
        let base = trees.base.get(path).copied();
        let local = trees.local.get(path).copied();
        let remote = trees.remote.get(path).copied();
        let strategy = strategy_for(path, local, remote, strategy);
        let verdict = judge(base, local, remote, strategy);
        if verdict != Verdict::Settled {
            verdicts.insert(path, verdict);
        }
    }
    keep_files_apart(trees, &mut verdicts, strategy);

    let mut plan = Plan::default();
    for (path, verdict) in verdicts {
        let local = trees.local.contains_key(path);
        let remote = trees.remote.contains_key(path);
        let action = match verdict {
            Verdict::Settled => continue,
            Verdict::Agreed => {
                plan.agreed.push(path.clone());
                continue;
            }
            Verdict::Conflict(kind) => {
                plan.conflicts.push(Conflict {
                    path: path.clone(),
                    kind,
                });
                continue;
            }
            Verdict::TakeLocal if local => Action::Upload(path.clone()),
            Verdict::TakeLocal => Action::DeleteRemote(path.clone()),
            Verdict::TakeRemote if remote => Action::Download(path.clone()),
            Verdict::TakeRemote => Action::DeleteLocal(path.clone()),
        };
        let wanted = match direction {
            Direction::Bidirectional => true,
            Direction::Push => action.is_outgoing(),
            Direction::Pull => !action.is_outgoing(),
        };
        if wanted {
            plan.actions.push(action);
        }
    }
    plan
}

/// Finds paths that could not stand side by side after the plan: a file or link and something
/// beneath it, one from each side. Under `local` and `remote` the other side's part gives way;
/// otherwise both parts become a conflict.
fn keep_files_apart(
    trees: &Trees,
    verdicts: &mut BTreeMap<&RepoPath, Verdict>,
    strategy: Strategy,
) {
    // What stands at a path afterwards. A conflict leaves both sides as they are, so a path that
    // stands on either side counts as standing.
    let mut standing: BTreeMap<&str, (&RepoPath, Signature)> = BTreeMap::new();
    for (path, seen) in trees.local.iter().chain(&trees.remote) {
        let local = trees.local.get(path).map(|seen| seen.signature);
        let remote = trees.remote.get(path).map(|seen| seen.signature);
        let after = match verdicts.get(path) {
            None | Some(Verdict::Settled | Verdict::Agreed) => Some(seen.signature),
            Some(Verdict::TakeLocal) => local,
            Some(Verdict::TakeRemote) => remote,
            Some(Verdict::Conflict(_)) => local.filter(Signature::is_leaf).or(remote).or(local),
        };
        if let Some(after) = after {
            standing.insert(path.as_str(), (path, after));
        }
    }
    let mut clashes: Vec<(&RepoPath, &RepoPath)> = Vec::new();
    for (inner, _) in standing.values() {
        for ancestor in inner.ancestors() {
            if let Some((outer, _)) = standing
                .get(ancestor)
                .filter(|(_, signature)| signature.is_leaf())
            {
                clashes.push((outer, inner));
            }
        }
    }
    for path in clashes
        .into_iter()
        .flat_map(|(outer, inner)| [outer, inner])
    {
        // A path that both sides agree on is not to blame, and has nothing to decide.
        let Some(verdict) = verdicts.get_mut(path) else {
            continue;
        };
        *verdict = match strategy {
            Strategy::Local => Verdict::TakeLocal,
            Strategy::Remote => Verdict::TakeRemote,
            Strategy::Manual | Strategy::Newest => match *verdict {
                Verdict::Agreed => Verdict::Agreed,
                Verdict::Conflict(kind) => Verdict::Conflict(kind),
                _ => Verdict::Conflict(ConflictKind::FileInTheWay),
            },
        };
    }
}

#[cfg(test)]
mod tests;
