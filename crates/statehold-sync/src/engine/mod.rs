//! The engine: scan, plan, carry out. The same over a bucket and over a gateway.
//!
//! A push that has a base makes one request where the way allows: it appends, and learns from the
//! answer whether others came first. A pull makes one read when nothing is new, and one request to
//! a gateway when little is. A run that was killed is settled by the next one: a journaled push is
//! handed in again, and what a pull had staged is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use statehold_core::entry::{Entry, Signature};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::event::Outcome;
use statehold_core::limits::{EARLY_FILES_MIN, PACK_BYTES_EARLY, PACK_BYTES_TARGET};
use statehold_core::path::RepoPath;
use statehold_core::plan::{Action, Direction, Plan, Seen, Strategy, Trees, plan};
use statehold_core::point::Point;
use statehold_core::rebase::Overlap;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::{State, Violation};
use statehold_core::time::Mtime;
use statehold_repository::remote::{advance, advance_with_content, load, load_at};
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::push::PUSH_OVERHEAD_BYTES_MAX;
use statehold_repository::{Error, Remote, Whereabouts};

use crate::folder::{Folder, FolderError};
use crate::home::Home;
use crate::index::{Checkout, Index, IndexError};
use crate::journal::{Journal, JournalError};
use crate::locks::{LockError, Wait, lock_upload, lock_workspace};
use crate::manifest_file::{ManifestFileError, check_replaceable};
use crate::progress::{Phase, Progress};
use crate::pull_journal::PullJournal;
use crate::workspace::{Workspace, WorkspaceError};

pub(crate) mod fetch;
mod history;
mod incoming;
mod outgoing;
mod own_files;
mod report;
mod restore;
pub(crate) mod retrieve;
mod screening;
mod sending;
mod settle;
mod situation;
mod status;
mod take_back;

pub use history::{Made, RollbackPlan, RolledBack};
use incoming::Incoming;
use outgoing::Outgoing;
pub use report::{Counts, Joined, Report, RunOptions, Status, TooLarge};
use report::{is_refused, outcome_of};
pub use restore::{Restored, place_in_holding};
pub use retrieve::Retrieved;
use sending::Sending;
use settle::{agree_on, is_another_log, is_itself, still_to_settle};
use situation::Situation;
pub use take_back::{Pulled, TakenBack};

/// The result of an engine operation.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Why a run ended early. What had been done before stays done, and the next run goes on from it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The repository, its store or its gateway.
    #[error(transparent)]
    Remote(#[from] Error),
    /// The user's folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The workspace's own files.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another run holds the workspace.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal of pushes.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The local manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestFileError),
    /// A file beneath `.statehold`.
    #[error("could not {action} {}", path.display())]
    Own {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Keeps one workspace and one repository alike.
#[derive(Debug)]
pub struct Engine {
    workspace: Workspace,
    folder: Folder,
    remote: Arc<dyn Remote>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    progress: Arc<dyn Progress>,
    /// Files that may be sent although they seem to hold secrets.
    allowed_secrets: Vec<RepoPath>,
    /// What this machine's key may do at the gateway; `None` straight on a store, where nobody
    /// asks.
    role: Option<Role>,
    /// Where the lock lies that is held during an upload.
    upload_locks: Option<Home>,
}

/// From this many bytes on a pack more, which costs a request, is worth the time that it saves.
const EARLY_BYTES_MIN: u64 = PACK_BYTES_EARLY as u64 * 3 / 2;
/// How much of small files stays in memory from the scan until it is sent, in bytes: one opening
/// of each file instead of three.
const KEPT_BYTES_MAX: usize = 24 * 1024 * 1024;
/// How often a push is planned anew because others came first.
const ROUNDS_MAX: usize = 8;

impl Engine {
    /// An engine for a workspace over a repository.
    pub fn new(
        workspace: Workspace,
        remote: Arc<dyn Remote>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let folder = Folder::open(workspace.root())?;
        Ok(Self {
            workspace,
            folder,
            remote,
            clock,
            entropy,
            progress,
            allowed_secrets: Vec::new(),
            role: None,
            upload_locks: None,
        })
    }

    /// Makes uploads hold a lock in the user's runtime folder, which other programs can look at.
    pub fn lock_uploads(&mut self, home: Home) {
        self.upload_locks = Some(home);
    }

    /// Lets these files be sent although they seem to hold secrets, in this run and, as long as they
    /// don't change, in later ones.
    pub fn allow_secrets(&mut self, paths: Vec<RepoPath>) {
        self.allowed_secrets = paths;
    }

    /// Keeps to what a key of this role may do, so that nothing is sent that would be turned away.
    pub fn keep_to(&mut self, role: Role) {
        self.role = Some(role);
    }

    /// The workspace.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The repository.
    pub fn remote(&self) -> &dyn Remote {
        &*self.remote
    }

    /// Makes the two sides more alike.
    pub async fn run(&self, options: RunOptions) -> Result<Report> {
        let _lock = lock_workspace(&self.workspace, "sync", Wait::Yes)?;
        let keep_bytes = if self.sends(options) {
            KEPT_BYTES_MAX
        } else {
            0
        };
        let mut now = self.look(self.read_index(), keep_bytes)?;
        let mut report = self.begin_report(&now);

        if options.direction == Direction::Push {
            self.check_may_push()?;
        }
        // Sizes are checked before anybody is contacted.
        if self.sends(options) {
            report.too_large = self.too_large(&now, options.scope);
            if is_refused(&report, options) && !options.dry {
                // What else keeps it from going is told in the same run, as far as it shows here.
                self.screen(&now, options, false, &mut report).await?;
                report.outcome = Outcome::Refused;
                return Ok(report);
            }
        }
        let is_dry_push = options.dry && options.direction == Direction::Push;
        if !is_dry_push {
            use Error::{ClockAhead, Denied, Unavailable, Unknown};
            let pulls = options.direction != Direction::Push;
            match self.settle(&mut now.index).await {
                // Where nothing can be written, as on a full disk, reading goes on.
                Err(EngineError::Remote(
                    error @ (ClockAhead { .. } | Unavailable { .. } | Unknown { .. }),
                )) if options.direction == Direction::Pull => still_to_settle(&error),
                // Nor where this key may not write. That is no answer to what became of the push,
                // and another one would take its place, so nothing is sent before it is settled.
                Err(EngineError::Remote(error @ Denied { .. })) if pulls => {
                    still_to_settle(&error);
                    report.unsent = Some(error.to_string());
                }
                settled => now.carried = settled?,
            }
            let must_look = options.direction != Direction::Push
                || now.index.checkout.is_none()
                || now.killed.is_some();
            if must_look {
                self.refresh(&mut now.index, options.wanted_content())
                    .await?;
                let is_told = options.direction != Direction::Push && !options.dry;
                let came = self.take_in_pull(&mut now, is_told).await?;
                if is_told && !came.is_empty() {
                    self.write_manifest(&now)?;
                    report.files += came.len() as u64;
                    report.actions.extend(came);
                }
            }
        }
        self.carry_out(&mut now, options, &mut report).await?;
        if !options.dry {
            if let Some(checkout) = &mut now.index.checkout
                && report.files > 0
            {
                checkout.land();
            }
            if options.direction != Direction::Push {
                // A pull that was killed after its last switch has nothing left to receive, and
                // what it had staged would stay for good.
                self.clear_staging();
            }
            now.index.cache = std::mem::take(&mut now.scan.cache);
            self.write_index(&mut now.index)?;
            if let Some(state) = now.state() {
                self.write_snapshot_index(state)?;
            }
        }
        // Nothing is left of it that would have to be sent.
        if now.carried.is_some() && report.outcome == Outcome::Nothing && self.sends(options) {
            Journal::of(&self.workspace).clear()?;
        }
        report.after = now
            .index
            .checkout
            .as_ref()
            .map(|checkout| checkout.state.head);
        Ok(report)
    }

    fn record_zero(&self) -> RecordRef {
        RecordRef {
            number: 0,
            id: self.remote.description().1,
        }
    }

    fn begin_report(&self, now: &Situation) -> Report {
        let checkout = now.index.checkout.as_ref();
        let before = checkout.map(|checkout| checkout.landed.unwrap_or(self.record_zero()));
        Report {
            outcome: Outcome::Nothing,
            actions: Vec::new(),
            conflicts: Vec::new(),
            too_large: Vec::new(),
            secrets: Vec::new(),
            reserved: Vec::new(),
            against_rules: Vec::new(),
            skipped: now.scan.skipped.clone(),
            busy: now.scan.busy.clone(),
            failed: Vec::new(),
            set_aside: Vec::new(),
            out_of_scope: Vec::new(),
            unsent: None,
            would_end: None,
            files: 0,
            bytes: 0,
            before,
            after: before,
        }
    }

    /// Whether this machine's key may push, as far as is known. Asked before anything is journaled.
    fn check_may_push(&self) -> Result<()> {
        if self.role == Some(Role::Read) {
            let reason = "the key of this machine has the role read and may not push".to_owned();
            return Err(Error::Denied { reason }.into());
        }
        Ok(())
    }

    /// Whether a run may send anything.
    fn sends(&self, options: RunOptions) -> bool {
        options.direction != Direction::Pull && self.check_may_push().is_ok()
    }

    /// Learns what the repository holds now. Content of paths that are about to be received may come
    /// along; who only looks asks for none.
    async fn refresh(&self, index: &mut Index, content: Option<Scope>) -> Result<()> {
        self.progress.begin(Phase::Ask, 0);
        let now = self.clock.now();
        let asked = self.ask(index, content).await;
        self.progress.end();
        if asked.is_ok() {
            self.workspace.note_look(now);
        }
        asked
    }

    async fn ask(&self, index: &mut Index, content: Option<Scope>) -> Result<()> {
        match &mut index.checkout {
            None => {
                let loaded = load(&*self.remote).await?;
                self.tend(loaded.overdue.as_ref()).await;
                index.checkout = Some(Checkout::joining(loaded.state));
            }
            Some(checkout) => {
                let state = match content {
                    Some(scope) => {
                        advance_with_content(&*self.remote, &checkout.state, scope).await?
                    }
                    None => advance(&*self.remote, &checkout.state).await?,
                };
                match state.fork_since(&checkout.state) {
                    Some(fork) if fork.number < checkout.state.head.number => {
                        tracing::warn!(
                            epoch = state.epoch(),
                            record = fork.number,
                            "the repository went on from a copy; what was pushed after this record is \
                             pushed again from the folders that have it"
                        );
                        match load_at(&*self.remote, Point::Then(fork.number)).await {
                            Ok(fork) => checkout.part(fork, state),
                            // A collector was there since. What both sides last agreed on is lost, and then
                            // the two are united.
                            Err(Error::Retired { .. }) => *checkout = Checkout::joining(state),
                            Err(error) => return Err(error.into()),
                        }
                    }
                    _ if state.head != checkout.state.head => checkout.move_to(state),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Compares base, folder and repository, leaving out what the scan can't speak for.
    fn plan(
        now: &Situation,
        scope: Scope,
        direction: Direction,
        strategy: Strategy,
        without: &[&RepoPath],
    ) -> Plan {
        let without: BTreeSet<&RepoPath> = without.iter().copied().collect();
        let taken = |path: &RepoPath, signature: Signature| {
            scope.contains(path)
                && !without.contains(path)
                && now.speaks_for(path, signature.is_leaf())
        };
        let checkout = now.index.checkout.as_ref();
        let base = checkout.into_iter().flat_map(Checkout::base);
        let local = now.scan.entries.iter();
        let local = local.map(|(path, local)| (path, local.seen()));
        let remote = checkout
            .into_iter()
            .flat_map(|checkout| checkout.state.tree.iter());
        let remote = remote.map(|(path, entry)| {
            let mtime = match entry {
                Entry::File(file) => file.mtime,
                Entry::Symlink { .. } | Entry::Directory => Mtime::default(),
            };
            let signature = entry.signature();
            (path, Seen { signature, mtime })
        });
        let trees = Trees::of_differences(base, local, remote, taken);
        plan(&trees, direction, strategy)
    }

    async fn carry_out(
        &self,
        now: &mut Situation,
        options: RunOptions,
        report: &mut Report,
    ) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            // A dry push contacts nobody.
            let ask = !(options.dry && options.direction == Direction::Push);
            let plan = self.screen(now, options, ask, report).await?;
            if is_refused(report, options) && !options.dry {
                report.outcome = Outcome::Refused;
                return Ok(());
            }
            report.conflicts.clone_from(&plan.conflicts);
            report.out_of_scope = Self::out_of_scope(now, options);
            let (mut outgoing, incoming): (Vec<_>, Vec<_>) =
                plan.actions.into_iter().partition(Action::is_outgoing);
            if outgoing.is_empty() {
                report.unsent = None;
            } else if report.unsent.is_some() {
                outgoing.clear();
            } else if let Err(error) = self.check_may_push() {
                report.unsent = Some(error.to_string());
                outgoing.clear();
            }
            // By hand, a push goes whole or not at all.
            let is_push = options.direction == Direction::Push;
            let in_conflict = is_push && !plan.conflicts.is_empty() && !options.auto;
            if options.dry {
                if is_refused(report, options) {
                    report.would_end = Some(Outcome::Refused);
                } else if in_conflict {
                    report.would_end = Some(Outcome::Conflict);
                } else {
                    report.actions = incoming;
                    report.actions.extend(outgoing);
                }
                report.files = report.actions.len() as u64;
                report.outcome = Outcome::Dry;
                return Ok(());
            }
            if let Some(checkout) = &mut now.index.checkout {
                plan.agreed.iter().for_each(|path| checkout.agree(path));
            }
            if in_conflict {
                report.outcome = Outcome::Conflict;
                return Ok(());
            }
            // Before anything moves: afterwards it would look as if nothing had.
            if !(incoming.is_empty() && outgoing.is_empty()) {
                check_replaceable(&self.workspace.manifest_path())?;
            }
            if !incoming.is_empty() {
                match self.receive(now, &incoming, report).await {
                    // So long ago was it looked at that its state is let go by now. What came stays.
                    Err(EngineError::Remote(Error::Expired { .. })) => {
                        self.look_again(now, options).await?;
                        continue;
                    }
                    received => received?,
                }
                report.actions.extend(incoming);
            }
            match self.send(now, &outgoing, report).await {
                Ok(()) => {
                    report.actions.extend(outgoing);
                    report.outcome = outcome_of(report, options.direction);
                    return Ok(());
                }
                // Others came first: look again. What only seemed to be in the way goes through.
                Err(EngineError::Remote(Error::Conflict { .. })) => {
                    self.look_again(now, options).await?;
                }
                // Another log stands there. If a later epoch is the reason, it goes on in that.
                Err(EngineError::Remote(error)) if is_another_log(&error) => {
                    let epoch = now.state().map(State::epoch);
                    self.look_again(now, options).await?;
                    if now.state().map(State::epoch) == epoch {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let what = format!("a place in the log after {ROUNDS_MAX} lost races");
        let source = "others write faster; try again".into();
        Err(Error::Unavailable { what, source }.into())
    }

    /// Learns what both sides hold now.
    async fn look_again(&self, now: &mut Situation, options: RunOptions) -> Result<()> {
        self.refresh(&mut now.index, options.wanted_content())
            .await?;
        let mut index = std::mem::take(&mut now.index);
        index.cache = std::mem::take(&mut now.scan.cache);
        let (carried, replaced) = (now.carried, std::mem::take(&mut now.replaced));
        *now = self.look(index, KEPT_BYTES_MAX)?;
        (now.carried, now.replaced) = (carried, replaced);
        Ok(())
    }

    async fn receive(
        &self,
        now: &mut Situation,
        actions: &[Action],
        report: &mut Report,
    ) -> Result<()> {
        let Some(checkout) = &now.index.checkout else {
            return Ok(());
        };
        let actions: Vec<&Action> = actions.iter().collect();
        let local = |path: &RepoPath| now.scan.entries.get(path).map(|entry| entry.signature);
        let is_unsaved = |path: &RepoPath| {
            let here = local(path);
            // Directories hold nothing that could be lost.
            here.is_some_and(|here| here.is_leaf()) && here != checkout.base_of(path)
        };
        let stamp = self.clock.now().as_millis();
        let journal = PullJournal::of(&self.workspace);
        let incoming = Incoming {
            folder: &self.folder,
            scan: &now.scan,
            tree: &checkout.state.tree,
            remote: &*self.remote,
            whereabouts: &Whereabouts::of(checkout.state.head),
            staging: &self.workspace.staging(),
            aside: self.workspace.conflicts().join(stamp.to_string()),
            is_unsaved: &is_unsaved,
            progress: &*self.progress,
            journal: Some((journal, checkout.state.head, checkout.landed)),
        };
        let placed = incoming.run(&actions).await?;
        report.files += placed.files;
        report.bytes += placed.bytes;
        report.busy.extend(placed.changed);
        report.failed.extend(placed.failed);
        report.set_aside.extend(placed.set_aside);
        // Before it counts as agreed: then what it replaced is known no more.
        self.keep_replaced(now, &placed.paths, report.before)?;
        if let Some(checkout) = &mut now.index.checkout {
            placed.paths.iter().for_each(|path| checkout.agree(path));
            if placed.files > 0 {
                checkout.land();
            }
        }
        // Durable at once: what was placed is agreed even if the way out fails.
        now.scan.cache.merge(placed.cache);
        now.index.cache.clone_from(&now.scan.cache);
        self.write_index(&mut now.index)?;
        PullJournal::of(&self.workspace).clear()?;
        self.clear_staging();
        self.write_manifest(now)?;
        placed.damage.map_or(Ok(()), |damage| Err(damage.into()))
    }

    async fn send(
        &self,
        now: &mut Situation,
        actions: &[Action],
        report: &mut Report,
    ) -> Result<()> {
        if actions.is_empty() {
            return Ok(());
        }
        // Before anything is sent. Since it was seen, the log may have gone on.
        if let Some(fenced) = now.state().filter(|state| state.fenced.is_some()) {
            let seen = fenced.head;
            self.refresh(&mut now.index, None).await?;
            let head = now.state().map_or(seen, |state| state.head);
            // Then what is to be sent was planned on another state.
            if head != seen {
                let (number, paths) = (head.number, Vec::new());
                let overlap = Overlap { paths };
                return Err(Error::Conflict { number, overlap }.into());
            }
        }
        let Some(checkout) = &now.index.checkout else {
            return Ok(());
        };
        let known = Arc::clone(&checkout.state);
        if let Some(by) = known.fenced {
            let refused = Error::refused(Violation::Fenced { by });
            return Err(refused.into());
        }
        let settings = self.workspace.settings();
        let _upload = match &self.upload_locks {
            Some(home) => Some(lock_upload(home, settings.workspace, Wait::Yes)?),
            None => None,
        };
        let total = actions
            .iter()
            .filter_map(|action| now.scan.entries.get(action.path()));
        let total: u64 = total.map(|local| local.size).sum();
        self.progress.begin(Phase::Send, total);
        let rules = (&now.rules, settings.profile);
        let (folder, scan) = (&self.folder, &now.scan);
        let mut outgoing = Outgoing::new(folder, scan, rules, &known, &*self.entropy);
        let uploads = self.take_up(&known).await?;
        outgoing.resume(&uploads);
        let is_slow = actions.len() >= EARLY_FILES_MIN && total > EARLY_BYTES_MIN;
        if is_slow || total > PACK_BYTES_TARGET as u64 {
            outgoing.send_early(total);
        }
        let mut sending = Sending::new(self, &known, uploads);
        sending.hold_if_due().await?;
        for action in actions {
            outgoing.take(action, &mut sending).await?;
        }
        report.busy.append(&mut outgoing.changed);
        if let Some(nonce) = now.carried
            && self.came_meanwhile(&known, nonce).await?
        {
            now.carried = None;
        }
        let Some(outbound) = outgoing.finish(settings.machine.id, now.carried)? else {
            return Ok(());
        };
        // The last pack goes together with the draft where that saves a request, unless it would have
        // to wait for an earlier one that is still on its way.
        let mut along = Vec::new();
        if let Some(pack) = outbound.pack {
            let both = pack.bytes.len() + outbound.draft.bytes.len() + PUSH_OVERHEAD_BYTES_MAX;
            if both as u64 <= self.remote.push_bytes_max() && !sending.is_under_way() {
                sending.bytes += pack.bytes.len() as u64;
                along.push(pack);
            } else {
                sending.add(pack).await?;
            }
        }
        sending.finish().await?;
        // All other content is durable.
        let handed_in = self.hand_in(&along, &outbound.draft, known).await;
        if let Err(EngineError::Remote(Error::Refused { .. })) = &handed_in {
            // Whatever it is that can't be: the next attempt builds on nothing of it.
            sending.uploads.clear()?;
        }
        let (stored, state) = handed_in?;
        if !is_itself(&outbound.draft, &stored) {
            // Its old form was brought over just now. What is beyond that is planned anew.
            Journal::of(&self.workspace).clear()?;
            now.carried = None;
            let (number, paths) = (stored.record.envelope.number, Vec::new());
            let overlap = Overlap { paths };
            return Err(Error::Conflict { number, overlap }.into());
        }
        self.progress.advance(sending.waiting);
        let bytes = sending.bytes + outbound.draft.bytes.len() as u64;
        let files = outbound.paths.len() as u64;
        if let Some(checkout) = &mut now.index.checkout {
            checkout.move_to(state);
            agree_on(checkout, &outbound.draft, &stored);
            checkout.land();
        }
        now.index.cache.clone_from(&now.scan.cache);
        self.write_index(&mut now.index)?;
        Journal::of(&self.workspace).clear()?;
        sending.uploads.clear()?;
        now.carried = None;
        self.progress.end();
        report.files += files;
        report.bytes += bytes;
        self.write_manifest(now)?;
        let state = now.index.checkout.as_ref().map(|checkout| &checkout.state);
        self.tend(state).await;
        Ok(())
    }

    /// Writes the segment and checkpoint due at a state. They are caches: all is well without them.
    async fn tend(&self, state: Option<&Arc<State>>) {
        let Some(state) = state else { return };
        if let Err(error) = self.remote.tend(state).await {
            tracing::warn!(%error, "a segment or checkpoint was not written");
        }
    }
}

/// What the system said about one of Statehold's own files.
pub(crate) fn own_error(action: &'static str, path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Own {
        action,
        path: path.to_owned(),
        source,
    }
}
