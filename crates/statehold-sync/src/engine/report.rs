//! What a run is to do, and what it came to.

use std::path::PathBuf;

use serde::Serialize;
use statehold_core::event::Outcome;
use statehold_core::path::RepoPath;
use statehold_core::plan::{Action, Conflict, Direction, Strategy};
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;

use crate::scan::Skipped;
use crate::secrets::SecretFile;

/// What a run is to do.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Which side may be changed.
    pub direction: Direction,
    /// Which paths it is about.
    pub scope: Scope,
    /// What to do about true conflicts.
    pub strategy: Strategy,
    /// Plan only. A dry push contacts nobody.
    pub dry: bool,
    /// Nobody is at the keyboard: what can't go is left out instead of refusing the whole.
    pub auto: bool,
}

impl RunOptions {
    /// The paths whose content the run may bring into the folder.
    pub(super) fn wanted_content(&self) -> Option<Scope> {
        let receives = self.direction != Direction::Push && !self.dry;
        receives.then_some(self.scope)
    }
}

/// A file over its size limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TooLarge {
    /// The file.
    pub path: RepoPath,
    /// Its size in bytes.
    pub size: u64,
    /// The limit in bytes.
    pub limit: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In one word.
    pub outcome: Outcome,
    /// The steps that were taken, or would be.
    pub actions: Vec<Action>,
    /// Paths that both sides changed in different ways.
    pub conflicts: Vec<Conflict>,
    /// Files over their size limit.
    pub too_large: Vec<TooLarge>,
    /// Files with content that looks like a secret.
    pub secrets: Vec<SecretFile>,
    /// Paths that only an owner of the repository may change.
    pub reserved: Vec<RepoPath>,
    /// What the rules of the repository keep out although this machine's rules let it through.
    pub against_rules: Vec<Skipped>,
    /// What was left out of the scan, and why.
    pub skipped: Vec<Skipped>,
    /// Files that changed while they were read or switched; the next run takes them.
    pub busy: Vec<RepoPath>,
    /// Paths that could not be put in place, and why.
    pub failed: Vec<(RepoPath, String)>,
    /// Where local content that gave way was put.
    pub set_aside: Vec<PathBuf>,
    /// What a push by hand of all scopes would send besides.
    pub out_of_scope: Vec<RepoPath>,
    /// What a dry run's real one would end with, where that would move nothing: refused, or a
    /// conflict.
    pub would_end: Option<Outcome>,
    /// Why nothing was sent although there was something to send.
    pub unsent: Option<String>,
    /// Files that moved, or would.
    pub files: u64,
    /// Stored bytes that moved.
    pub bytes: u64,
    /// The newest record when something last landed here or was sent; record 0 if nothing was.
    pub before: Option<RecordRef>,
    /// The record that it knows now.
    pub after: Option<RecordRef>,
}

impl Report {
    /// Whether there was nothing to do and nothing in the way of doing it.
    pub const fn is_clean(&self) -> bool {
        self.actions.is_empty()
            && self.conflicts.is_empty()
            && self.unsent.is_none()
            && !self.keeps_back()
    }

    /// Whether something was kept from being sent by what it is.
    const fn keeps_back(&self) -> bool {
        !self.too_large.is_empty()
            || !self.secrets.is_empty()
            || !self.reserved.is_empty()
            || !self.against_rules.is_empty()
    }
}

/// Counts of differing paths on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Not there before.
    pub added: u64,
    /// There before, with other content.
    pub modified: u64,
    /// No longer there.
    pub deleted: u64,
}

/// How folder and repository differ.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// What a push would send.
    pub outgoing: Counts,
    /// What a pull would bring.
    pub incoming: Counts,
    /// Every step, by path.
    pub actions: Vec<Action>,
    /// True conflicts.
    pub conflicts: Vec<Conflict>,
    /// What is left out of the scan, and why.
    pub skipped: Vec<Skipped>,
    /// The newest record.
    pub head: RecordRef,
    /// The record that ended this log, if one did: nothing is pushed to it any more.
    pub fenced: Option<u64>,
    /// Number of paths in the repository.
    pub entries: usize,
    /// Why the repository could not be asked; then all this is as of when it last was.
    pub stale: Option<String>,
}

/// What a workspace found that has just been linked.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// The newest record.
    pub head: RecordRef,
    /// Number of paths in the repository.
    pub entries: usize,
}

/// Whether a run by hand ends here: a path that can't be sent refuses the whole.
pub(super) const fn is_refused(report: &Report, options: RunOptions) -> bool {
    !options.auto && report.keeps_back()
}

/// The one word for what a run came to.
pub(super) fn outcome_of(report: &Report, direction: Direction) -> Outcome {
    // What a push can't send has no copy elsewhere, and whoever relies on one has to hear of it.
    let unsent = direction != Direction::Pull
        && report
            .skipped
            .iter()
            .any(|skipped| skipped.reason.is_impossible());
    let left_behind =
        unsent || report.keeps_back() || report.unsent.is_some() || !report.failed.is_empty();
    if !report.conflicts.is_empty() {
        Outcome::Conflict
    } else if left_behind || !report.busy.is_empty() {
        Outcome::Partial
    } else if report.files > 0 {
        Outcome::Done
    } else {
        Outcome::Nothing
    }
}
