//! What a run knows before it plans.

use statehold_core::entry::Signature;
use statehold_core::id::Nonce;
use statehold_core::path::RepoPath;
use statehold_core::rules::RuleSet;
use statehold_core::state::State;

use super::take_back::Replaced;
use super::{Engine, Result};
use crate::ignore_file::IgnoreFile;
use crate::index::Index;
use crate::progress::Phase;
use crate::pull_journal::{KilledPull, PullJournal};
use crate::scan::{Scan, ScanOptions, is_left_out, scan};

/// What a run knows: the index it began with, the folder as it is, and the rules.
pub(super) struct Situation {
    pub(super) index: Index,
    pub(super) scan: Scan,
    pub(super) rules: RuleSet,
    pub(super) ignore: IgnoreFile,
    /// The nonce of an interrupted push that the log of a later epoch doesn't take. The push that is made in
    /// its place keeps it, so that it lands once even if somebody brings over the old one.
    pub(super) carried: Option<Nonce>,
    /// What this run replaced in the folder.
    pub(super) replaced: Replaced,
    /// A pull that was killed among its switches, as long as nobody has taken it in.
    pub(super) killed: Option<KilledPull>,
}

impl Engine {
    /// `keep_bytes` of what has to be read are kept, for whoever goes on to send it.
    pub(super) fn look(&self, index: Index, keep_bytes: usize) -> Result<Situation> {
        let rules = self.workspace.rules(&self.folder)?;
        let ignore = self.workspace.ignore_file(&self.folder)?;
        self.progress.begin(Phase::Scan, 0);
        let known = |path: &RepoPath| {
            let checkout = index.checkout.as_ref();
            checkout.and_then(|checkout| checkout.base_of(path)) == Some(Signature::Directory)
        };
        let options = ScanOptions {
            rules: &rules,
            ignore: &ignore,
            cache: &index.cache,
            known_directories: &known,
            keep_bytes,
        };
        let scan = scan(&self.folder, &options)?;
        self.progress.end();
        let killed = PullJournal::of(&self.workspace).read(&index)?;
        Ok(Situation {
            index,
            scan,
            rules,
            ignore,
            carried: None,
            replaced: Replaced::default(),
            killed,
        })
    }
}

impl Situation {
    /// Whether the scan says what is at a path. What it shows is there; what it doesn't show may be gone or
    /// merely left out.
    pub(super) fn speaks_for(&self, path: &RepoPath, is_leaf: bool) -> bool {
        self.scan.entries.contains_key(path)
            || !(self.scan.is_held(path) || is_left_out(&self.rules, &self.ignore, path, !is_leaf))
    }

    pub(super) fn state(&self) -> Option<&State> {
        self.index
            .checkout
            .as_ref()
            .map(|checkout| &*checkout.state)
    }
}
