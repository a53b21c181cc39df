//! What is kept from being sent: files too large, what looks like a secret, what is an owner's, and
//! what nobody asked for.

use std::io::Read as _;

use statehold_core::bands::{Band, band};
use statehold_core::digest::FileHasher;
use statehold_core::entry::{Entry, FileEntry, Signature};
use statehold_core::path::RepoPath;
use statehold_core::plan::{Action, Direction, Plan, Strategy};
use statehold_core::rules::{RuleSet, SHARED_RULES_BYTES_MAX, SHARED_RULES_PATH, Verdict};
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_repository::Whereabouts;
use statehold_repository::content::open_chunk;
use statehold_repository::wire::bodies::Role;

use super::{Engine, Report, Result, RunOptions, Situation, TooLarge, own_error};
use crate::scan::{SkipReason, Skipped};
use crate::secrets::{AllowedSecrets, search};

/// What a plan would send against rules, and why not. They speak of the paths themselves: names of
/// credentials are each machine's own business.
fn against(rules: &RuleSet, plan: &Plan) -> (Vec<RepoPath>, Vec<Skipped>) {
    let uploads = plan.actions.iter().filter_map(|action| match action {
        Action::Upload(path) => Some(path),
        _ => None,
    });
    let denied = uploads.filter_map(|path| {
        let reason = match rules.shared_verdict(path) {
            Verdict::Allowed => return None,
            Verdict::Denied { glob } => SkipReason::Denied { glob },
            Verdict::Uncovered { prefix } => SkipReason::Uncovered { prefix },
        };
        let skipped = Skipped {
            path: path.to_string(),
            reason,
        };
        Some((path.clone(), skipped))
    });
    denied.unzip()
}

/// Adds what isn't noted yet: a run may plan several times.
fn note<T: PartialEq>(noted: &mut Vec<T>, found: Vec<T>) {
    for one in found {
        if !noted.contains(&one) {
            noted.push(one);
        }
    }
}

impl Engine {
    /// Whether a gateway holds this machine's pushes against the rules of the repository.
    fn is_ruled(&self) -> bool {
        self.role.is_some_and(|role| role < Role::Own)
    }

    /// Files that a push would send and that are over their limit.
    pub(super) fn too_large(&self, now: &Situation, scope: Scope) -> Vec<TooLarge> {
        let base = |path: &RepoPath| {
            now.index
                .checkout
                .as_ref()
                .and_then(|known| known.base_of(path))
        };
        let profile = self.workspace.settings().profile;
        let judge = |(path, local): (&RepoPath, &crate::scan::LocalEntry)| match band(
            local.size,
            now.rules.may_be_large(path),
            profile,
        ) {
            Band::Refused { limit } if base(path) != Some(local.signature) => Some(TooLarge {
                path: path.clone(),
                size: local.size,
                limit,
            }),
            _ => None,
        };
        now.scan
            .entries
            .iter()
            .filter(|(path, _)| scope.contains(path))
            .filter_map(judge)
            .collect()
    }

    /// Plans without what can't be sent, and notes that in the report. Whether the repository may be
    /// asked for its rules is said by `ask`.
    pub(super) async fn screen(
        &self,
        now: &Situation,
        options: RunOptions,
        ask: bool,
        report: &mut Report,
    ) -> Result<Plan> {
        let too_large = report.too_large.iter().map(|file| file.path.clone());
        let mut without: Vec<RepoPath> = too_large.collect();
        let mut rules = None;
        loop {
            let without_: Vec<&RepoPath> = without.iter().collect();
            let plan = Self::plan(
                now,
                options.scope,
                options.direction,
                options.strategy,
                &without_,
            );
            if !self.sends(options) {
                return Ok(plan);
            }
            let reserved = self.find_reserved(&plan);
            let mut kept = self.find_secrets(now, &plan, options.dry, report)?;
            kept.extend_from_slice(&reserved);
            note(&mut report.reserved, reserved);
            // Whoever sends nothing else needs no rules.
            let sends = |action: &Action| {
                matches!(action, Action::Upload(_)) && !kept.contains(action.path())
            };
            if rules.is_none() && plan.actions.iter().any(sends) {
                rules = self.shared_rules(now.state(), ask).await?;
            }
            if let Some(rules) = &rules {
                let (paths, skipped) = against(rules, &plan);
                kept.extend(paths);
                note(&mut report.against_rules, skipped);
            }
            if kept.is_empty() {
                return Ok(plan);
            }
            // What is left out may not leave a deletion or a folder behind that only made sense
            // with it.
            without.extend(kept);
        }
    }

    /// The rules that a gateway holds this machine's pushes against: those in the repository, which
    /// may differ from this machine's. `None` where nobody does, or where they can't be known
    /// without asking and `ask` is not set.
    pub(super) async fn shared_rules(
        &self,
        state: Option<&State>,
        ask: bool,
    ) -> Result<Option<RuleSet>> {
        if !self.is_ruled() {
            return Ok(None);
        }
        let there = state.and_then(|state| state.tree.get(SHARED_RULES_PATH));
        let file = match there {
            Some(Entry::File(file)) if file.size <= SHARED_RULES_BYTES_MAX => file,
            _ => return Ok(Some(RuleSet::default())),
        };
        let text = match self.read_alike(file) {
            Some(text) => text,
            None if ask => {
                let head = state.map_or_else(|| self.record_zero(), |state| state.head);
                let whereabouts = Whereabouts::of(head);
                let frames = whereabouts.read(&*self.remote, &file.chunks).await?;
                let mut text = Vec::new();
                for (chunk, frame) in file.chunks.iter().zip(&frames) {
                    text.extend(open_chunk(chunk, frame)?);
                }
                text
            }
            None => return Ok(None),
        };
        // The gateway takes a file that can't be used for none.
        Ok(Some(RuleSet::from_json(&text).unwrap_or_default()))
    }

    /// The shared rules file of this folder, if it is the repository's.
    fn read_alike(&self, there: &FileEntry) -> Option<Vec<u8>> {
        let path = RepoPath::parse(SHARED_RULES_PATH).ok()?;
        let file = self.folder.open_file(&path).ok()?;
        let mut text = Vec::new();
        file.take(SHARED_RULES_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .ok()?;
        let mut hasher = FileHasher::default();
        hasher.update(&text);
        (hasher.finish().0 == there.digest).then_some(text)
    }

    /// The paths of a plan that this machine's key may not change.
    fn find_reserved(&self, plan: &Plan) -> Vec<RepoPath> {
        if !self.is_ruled() {
            return Vec::new();
        }
        let sent = plan.actions.iter().filter(|action| action.is_outgoing());
        let sent = sent.map(Action::path);
        sent.filter(|path| path.as_str() == SHARED_RULES_PATH)
            .cloned()
            .collect()
    }

    /// What would be sent if all scopes were, for whoever is at the keyboard to see.
    pub(super) fn out_of_scope(now: &Situation, options: RunOptions) -> Vec<RepoPath> {
        if options.scope == Scope::All || options.auto || options.direction == Direction::Pull {
            return Vec::new();
        }
        let all = Self::plan(now, Scope::All, Direction::Push, Strategy::Manual, &[]);
        let paths = all.actions.iter().map(Action::path);
        paths
            .filter(|path| !options.scope.contains(path))
            .cloned()
            .collect()
    }

    /// Searches what would be sent for secrets, and gives the paths that have to stay. Each file is
    /// searched once: what is left out is in no later plan.
    fn find_secrets(
        &self,
        now: &Situation,
        plan: &Plan,
        dry: bool,
        report: &mut Report,
    ) -> Result<Vec<RepoPath>> {
        let mut allowed = AllowedSecrets::read(&self.workspace);
        let digest = |path: &RepoPath| match now.scan.entries.get(path)?.signature {
            Signature::File { digest, .. } => Some(digest),
            Signature::Symlink { .. } | Signature::Directory => None,
        };
        let to_send = plan.actions.iter().filter_map(|action| match action {
            Action::Upload(path) => {
                let is_allowed = allowed.contains(path, digest(path)?);
                (!is_allowed).then_some(path)
            }
            _ => None,
        });
        let to_send: Vec<&RepoPath> = to_send.collect();
        let mut searched = search(&self.folder, &now.scan, &to_send);
        let before = searched.found.len();
        searched.found.retain(|file| {
            let is_named = self.allowed_secrets.contains(&file.path);
            if let (true, Some(digest)) = (is_named, digest(&file.path)) {
                allowed.insert(&file.path, digest);
            }
            !is_named
        });
        if searched.found.len() < before && !dry {
            let path = self.workspace.allowed_secrets_path();
            allowed
                .write(&self.workspace)
                .map_err(|error| own_error("write", &path, error))?;
        }
        let mut kept: Vec<RepoPath> = searched.unreadable.clone();
        kept.extend(searched.found.iter().map(|file| file.path.clone()));
        report.busy.extend(searched.unreadable);
        for file in searched.found {
            if !report.secrets.iter().any(|known| known.path == file.path) {
                report.secrets.push(file);
            }
        }
        Ok(kept)
    }
}
