//! What is done with the repository's history and not with the folder: snapshots and rollbacks.

use std::sync::Arc;

use statehold_core::entry::Entry;
use statehold_core::id::Nonce;
use statehold_core::node_logs::is_node_log;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{
    Body, DraftHead, FenceBody, ForgetBody, Kind, PushBody, RecordRef, RollbackBody, SnapshotBody,
    Upsert,
};
use statehold_core::retention::Policy;
use statehold_core::rollback::WayBack;
use statehold_core::rules::{SHARED_RULES_PATH, Verdict};
use statehold_core::snapshot::{Label, SnapshotId};
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;
use statehold_repository::Error;
use statehold_repository::content::Pack;
use statehold_repository::follow::Follower;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{advance, load_at};

use super::{Engine, EngineError, ROUNDS_MAX, Result};
use crate::index::{Checkout, Index};
use crate::journal::Journal;
use crate::locks::{Wait, lock_workspace};

/// A snapshot that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its name.
    pub id: SnapshotId,
    /// The record whose state it names.
    pub at: u64,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The newest record before.
    pub before: RecordRef,
    /// The record that names it.
    pub after: RecordRef,
}

/// What a rollback would do.
#[derive(Debug, Clone)]
pub struct RollbackPlan {
    /// The record whose state comes back.
    pub to: u64,
    /// That record's time.
    pub time: Timestamp,
    /// The record that it starts from.
    pub from: RecordRef,
    /// What has to change.
    pub back: WayBack,
    /// Paths that stay as they are: rules deny them, or they are an owner's to change.
    pub left: Vec<RepoPath>,
    /// Paths that stay as they are: what they held then was purged.
    pub purged: Vec<RepoPath>,
    /// Whether there is other application state than then. Its logs stay: only new events bring values
    /// back.
    pub leaves_app_state: bool,
    /// Files and bytes of the state that it starts from.
    present: (u64, u64),
}

/// A rollback that was made.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// The snapshot of the state before.
    pub before: SnapshotId,
    /// The newest record before.
    pub from: RecordRef,
    /// The record that did it.
    pub record: RecordRef,
    /// What changed.
    pub back: WayBack,
}

/// The label of the snapshots that rollbacks make.
const BEFORE_ROLLBACK: &str = "before-rollback";

/// Files in a tree, and their bytes.
fn size_of(tree: &Tree) -> (u64, u64) {
    let sizes = tree.iter().filter_map(|(_, entry)| match entry {
        Entry::File(file) => Some(file.size),
        Entry::Symlink { .. } | Entry::Directory => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

impl Engine {
    /// Names the newest state, or the one at an earlier record.
    pub async fn snapshot(&self, label: &Label, at: Option<u64>) -> Result<Made> {
        let _lock = lock_workspace(&self.workspace, "snapshot", Wait::Yes)?;
        self.check_may_push()?;
        let mut index = self.read_index();
        let state = self.newest(&mut index).await?;
        let named = match at {
            Some(number) if number != state.head.number => {
                load_at(&*self.remote, Point::Record(number)).await?
            }
            _ => Arc::clone(&state),
        };
        let (files, bytes) = size_of(&named.tree);
        if named.tree.is_empty() {
            let reason = "there is nothing in the repository to make a snapshot of; push first";
            return Err(Error::refused(reason).into());
        }
        let id = SnapshotId::new(self.clock.now(), label)
            .filter(|id| !state.snapshots.contains_key(id))
            .ok_or_else(|| {
                let reason = "there is one of this name and second already; wait a moment, or \
                              call it something else";
                Error::refused(format!("{label}: {reason}"))
            })?;
        let at = named.head.number;
        let body = Body::Snapshot(SnapshotBody {
            base: state.head,
            id: id.clone(),
            at,
            files,
            bytes,
        });
        let record = self.append(&mut index, &state, body).await?;
        Ok(Made {
            id,
            at,
            files,
            bytes,
            before: state.head,
            after: record,
        })
    }

    /// Takes snapshots out of the list: what nothing else keeps goes with a later compaction.
    pub async fn forget_snapshots(&self, snapshots: Vec<SnapshotId>) -> Result<RecordRef> {
        self.forget(snapshots, None).await
    }

    /// Says how long earlier states are kept from now on. Nothing goes before a compaction.
    pub async fn keep_by(&self, policy: Policy) -> Result<RecordRef> {
        self.forget(Vec::new(), Some(policy)).await
    }

    async fn forget(
        &self,
        snapshots: Vec<SnapshotId>,
        policy: Option<Policy>,
    ) -> Result<RecordRef> {
        let _lock = lock_workspace(&self.workspace, "forget", Wait::Yes)?;
        self.check_may_append(&Kind::Forget)?;
        let mut index = self.read_index();
        let state = self.newest(&mut index).await?;
        let base = state.head;
        let body = Body::Forget(ForgetBody {
            base,
            snapshots,
            policy,
        });
        self.append(&mut index, &state, body).await
    }

    /// Ends the log: every later record is void. Says with which record.
    pub async fn fence(&self) -> Result<u64> {
        let _lock = lock_workspace(&self.workspace, "fence", Wait::Yes)?;
        self.check_may_append(&Kind::Fence)?;
        let mut index = self.read_index();
        let state = self.newest(&mut index).await?;
        if let Some(by) = state.fenced {
            return Ok(by);
        }
        let body = Body::Fence(FenceBody { base: state.head });
        Ok(self.append(&mut index, &state, body).await?.number)
    }

    /// Says what a rollback to a state would do: to all of it, or to some paths.
    pub async fn plan_rollback(
        &self,
        to: &State,
        wanted: impl Fn(&RepoPath) -> bool,
    ) -> Result<RollbackPlan> {
        let state = self.remote_state().await?;
        self.plan_from(&state, to, &wanted).await
    }

    /// Rolls back to a state: one record, which keeps the present as a snapshot. Whoever pushes
    /// meanwhile comes first, and what they pushed is in the snapshot. The folder is left alone; a
    /// pull brings it along.
    pub async fn rollback(
        &self,
        to: &State,
        wanted: impl Fn(&RepoPath) -> bool,
    ) -> Result<Option<RolledBack>> {
        let _lock = lock_workspace(&self.workspace, "rollback", Wait::Yes)?;
        self.check_may_push()?;
        let mut index = self.read_index();
        for _ in 0..ROUNDS_MAX {
            let state = self.newest(&mut index).await?;
            let plan = self.plan_from(&state, to, &wanted).await?;
            if plan.back.is_empty() {
                return Ok(None);
            }
            let label: Label = BEFORE_ROLLBACK.parse().map_err(Error::refused)?;
            let before = self.free_id(&state, &label)?;
            let (files, bytes) = plan.present;
            let WayBack { upserts, deletes } = plan.back.clone();
            let body = Body::Rollback(RollbackBody {
                to: plan.to,
                before: before.clone(),
                files,
                bytes,
                changes: PushBody {
                    base: state.head,
                    upserts,
                    deletes,
                },
            });
            match self.append(&mut index, &state, body).await {
                Ok(record) => {
                    return Ok(Some(RolledBack {
                        before,
                        from: state.head,
                        record,
                        back: plan.back,
                    }));
                }
                Err(EngineError::Remote(Error::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let what = format!("a place in the log after {ROUNDS_MAX} lost races");
        let source = "others write faster; try again".into();
        Err(Error::Unavailable { what, source }.into())
    }

    async fn plan_from(
        &self,
        state: &State,
        to: &State,
        wanted: &impl Fn(&RepoPath) -> bool,
    ) -> Result<RollbackPlan> {
        let mut back = WayBack::between(&state.tree, &to.tree, wanted);
        let before = back.paths().count();
        back.leave_out(is_node_log);
        let leaves_app_state = back.paths().count() < before;
        // What is gone for good keeps nothing else from coming back.
        let is_gone = |upsert: &Upsert| upsert.entry.is_purged();
        let purged = back.upserts.extract_if(.., |upsert| is_gone(upsert));
        let purged = purged.map(|upsert| upsert.path).collect();
        let mut left = Vec::new();
        if let Some(rules) = self.shared_rules(Some(state), true).await? {
            let stays = |path: &RepoPath| path.as_str() == SHARED_RULES_PATH;
            let is_denied = |path: &RepoPath| rules.shared_verdict(path) != Verdict::Allowed;
            back.upserts.retain(|Upsert { path, .. }| {
                let leaves = stays(path) || is_denied(path);
                if leaves {
                    left.push(path.clone());
                }
                !leaves
            });
            back.deletes.retain(|path| {
                if stays(path) {
                    left.push(path.clone());
                }
                !stays(path)
            });
        }
        Ok(RollbackPlan {
            to: to.head.number,
            time: to.time,
            from: state.head,
            back,
            left,
            purged,
            leaves_app_state,
            present: size_of(&state.tree),
        })
    }

    /// The newest state, with what an earlier run left under way settled.
    async fn newest(&self, index: &mut Index) -> Result<Arc<State>> {
        self.settle(index).await?;
        self.refresh(index, None).await?;
        let state = index.checkout.as_ref();
        let state = state.map(|checkout| Arc::clone(&checkout.state));
        Ok(state.unwrap_or_else(|| Arc::new(State::empty(self.record_zero().id))))
    }

    /// A name that no snapshot has, for one that nobody typed: with a number behind the label where
    /// another was made in the same second.
    fn free_id(&self, state: &State, label: &Label) -> Result<SnapshotId> {
        let now = self.clock.now();
        let taken = || {
            let reason = format!("there are too many snapshots named {label} of this second");
            EngineError::from(Error::refused(reason))
        };
        let id = SnapshotId::new(now, label).ok_or_else(taken)?;
        if !state.snapshots.contains_key(&id) {
            return Ok(id);
        }
        let mut others = (2..100).filter_map(|number| {
            let label: Label = format!("{label}-{number}").parse().ok()?;
            SnapshotId::new(now, &label)
        });
        others
            .find(|id| !state.snapshots.contains_key(id))
            .ok_or_else(taken)
    }

    /// Appends a record of this machine's, journaled like every push.
    async fn append(&self, index: &mut Index, known: &Arc<State>, body: Body) -> Result<RecordRef> {
        self.remote.confirm(known.head).await?;
        let kind = body.kind().ok_or_else(|| Error::refused("no kind"))?;
        let machine = self.workspace.settings().machine.id;
        let head = DraftHead::new(kind, machine, Nonce::random(&*self.entropy), Vec::new());
        let draft = StoredDraft::new(head, body, b"")?;
        let (stored, state) = self.hand_in(&[], &draft, Arc::clone(known)).await?;
        match &mut index.checkout {
            Some(checkout) => checkout.move_to(state),
            None => index.checkout = Some(Checkout::joining(state)),
        }
        self.write_index(index)?;
        Journal::of(&self.workspace).clear()?;
        let state = index.checkout.as_ref().map(|checkout| &checkout.state);
        if let Some(state) = state {
            self.write_snapshot_index(state)?;
        }
        self.tend(state).await;
        Ok(stored.record.reference())
    }

    /// Journals a push and appends it. The journal stays: it is cleared once the index knows the
    /// record.
    pub(super) async fn hand_in(
        &self,
        along: &[Pack],
        draft: &StoredDraft,
        known: Arc<State>,
    ) -> Result<(StoredRecord, Arc<State>)> {
        // Journaled before its first attempt, so that a lost answer or a crash leaves something to
        // ask with.
        let journal = Journal::of(&self.workspace);
        journal.write(along, draft)?;
        let appended = match self.remote.push(along, draft, &known).await {
            Ok(appended) => appended,
            Err(error) => {
                // Only these two say that it has not landed and never will.
                if matches!(error, Error::Conflict { .. } | Error::Refused { .. }) {
                    journal.clear()?;
                }
                return Err(error.into());
            }
        };
        let number = appended.record.envelope.number;
        let state = if number == known.head.number + 1 {
            let mut follower = Follower::new(&*self.remote, known);
            follower.take_in(&appended).await?;
            follower.into_state()
        } else {
            advance(&*self.remote, &known).await?
        };
        Ok((appended, state))
    }
}
