//! What an earlier run left open: a push whose end nobody knows, a pull of which some is in place, and whether the
//! log is still the one that is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use statehold_core::entry::{Entry, Signature};
use statehold_core::id::Nonce;
use statehold_core::limits::LOG_RANGE_RECORDS_MAX;
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::record::{Body, Kind, PushBody, RecordRef};
use statehold_core::state::State;
use statehold_repository::Error;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::wire::bodies::Role;

use super::situation::Situation;
use super::{Engine, Result};
use crate::index::{Checkout, Index};
use crate::journal::{Journal, Journaled};
use crate::pull_journal::{KilledPull, PullJournal};

impl Engine {
    /// Hands in a journaled push again, so that its end is known. Where the log has gone on from another
    /// store and doesn't take it, gives its nonce, and the journal stays until a push has taken its place.
    pub(super) async fn settle(&self, index: &mut Index) -> Result<Option<Nonce>> {
        let journal = Journal::of(&self.workspace);
        let Some(Journaled { packs, draft }) = journal.read()? else {
            return Ok(None);
        };
        let kind = &draft.draft.head.kind;
        if takes_owner(kind)
            && let Err(error) = self.check_may_append(kind)
        {
            // Nothing of the folder is in it, and with this key nobody will ever know.
            tracing::warn!(%error, "what an earlier key had begun ({kind}) is given up; whether it landed, the log says");
            journal.clear()?;
            return Ok(None);
        }
        self.check_may_push()?;
        if index.checkout.is_none() {
            self.refresh(index, None).await?;
        }
        self.confirm(index).await?;
        let known = index
            .checkout
            .as_ref()
            .map(|checkout| Arc::clone(&checkout.state));
        let Some(known) = known else {
            return Ok(None);
        };
        match self.remote.push(&packs, &draft, &known).await {
            Ok(stored) => {
                self.refresh(index, None).await?;
                if let Some(checkout) = &mut index.checkout {
                    agree_on(checkout, &draft, &stored);
                    // A rollback or a snapshot changes nothing here.
                    if matches!(draft.draft.body, Body::Push(_)) {
                        checkout.land();
                    }
                }
                self.write_index(index)?;
                self.uploads(&known)?.clear()?;
            }
            // It never landed and never will; its files are scanned and planned like any other.
            Err(error @ (Error::Conflict { .. } | Error::Refused { .. })) => {
                tracing::info!(%error, "an interrupted push did not land");
                self.refresh(index, None).await?;
                let checkout = index.checkout.as_ref();
                if checkout.is_some_and(|checkout| checkout.state.epoch() > 0) {
                    return Ok(Some(draft.draft.head.nonce));
                }
            }
            Err(error) => return Err(error.into()),
        }
        journal.clear()?;
        Ok(None)
    }

    /// Whether this machine's key may append records of a kind, as far as is known. Asked before anything is
    /// journaled: a draft that is turned away for its role would be in the way of every later push.
    pub(super) fn check_may_append(&self, kind: &Kind) -> Result<()> {
        self.check_may_push()?;
        match (self.role, takes_owner(kind)) {
            (Some(role), true) if role < Role::Own => {
                let takes = Role::Own;
                let reason = format!(
                    "the key of this machine has the role {role}; this takes the role {takes}"
                );
                Err(Error::Denied { reason }.into())
            }
            _ => Ok(()),
        }
    }

    /// Takes in what a killed pull had put in place: both sides agree on it, whatever others have made of it
    /// since. To be called once it is known what the repository holds now. Gives what came by it to stay. With
    /// `is_told`, whoever is told of a pull hears of it, and it is over.
    pub(super) async fn take_in_pull(
        &self,
        now: &mut Situation,
        is_told: bool,
    ) -> Result<Vec<Action>> {
        let Some(KilledPull { pull, made }) = now.killed.take() else {
            return Ok(Vec::new());
        };
        let is_in_log = self.is_in_log(now, pull.record).await?;
        let mut came = Vec::new();
        for (place, (path, signature)) in pull.switches.into_iter().enumerate() {
            let is_made = || {
                // It died between the switch and its mark.
                let here = now.scan.entries.get(&path).map(|entry| entry.signature);
                here == signature && now.speaks_for(&path, here.is_none_or(|here| here.is_leaf()))
            };
            if !is_in_log || !(made.contains(&place) || is_made()) {
                continue;
            }
            let Some(checkout) = &mut now.index.checkout else {
                continue;
            };
            now.replaced.note_killed(&path, checkout);
            checkout.set_base(&path, signature, pull.record.number);
            // What others changed since comes once more.
            let there = checkout.state.tree.get(path.as_str());
            if there.map(Entry::signature) == signature {
                came.push(match signature {
                    Some(_) => Action::Download(path),
                    None => Action::DeleteLocal(path),
                });
            }
        }
        if is_told {
            // Durable before the next pull is journaled in its place.
            self.write_index(&mut now.index)?;
            PullJournal::of(&self.workspace).clear()?;
        }
        Ok(came)
    }

    /// Whether a record is in effect in the log as it is now.
    async fn is_in_log(&self, now: &Situation, record: RecordRef) -> Result<bool> {
        let Some(state) = now.state() else {
            return Ok(false);
        };
        let (number, head) = (record.number, state.head);
        if number >= head.number || number == 0 {
            return Ok(record == head);
        }
        if state.is_left_behind(number) {
            return Ok(false);
        }
        match self.remote.records_until(number - 1, number).await {
            Ok(records) => Ok(records
                .iter()
                .any(|stored| stored.record.reference() == record)),
            Err(Error::Retired { .. } | Error::Expired { .. }) => Ok(false),
            Err(error) if is_another_log(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the push that a nonce is kept for is in the log of this state: somebody brought it over since it was
    /// looked for. Then what is planned on this state goes beyond it, and is a push of its own.
    pub(super) async fn came_meanwhile(&self, known: &State, nonce: Nonce) -> Result<bool> {
        let (mut after, head) = (known.epoch_began(), known.head.number);
        while after < head {
            let until = head.min(after + LOG_RANGE_RECORDS_MAX);
            let records = self.remote.records_until(after, until).await?;
            let mut nonces = records
                .iter()
                .map(|stored| stored.record.envelope.draft.nonce);
            if nonces.any(|found| found == nonce) {
                return Ok(true);
            }
            after = until;
        }
        Ok(false)
    }

    /// Makes sure that the repository is the one that is known, or of a later epoch; then it is known.
    pub(super) async fn confirm(&self, index: &mut Index) -> Result<()> {
        let Some(checkout) = &index.checkout else {
            return Ok(());
        };
        match self.remote.confirm(checkout.state.head).await {
            Err(error) if is_another_log(&error) => self.refresh(index, None).await,
            confirmed => Ok(confirmed?),
        }
    }
}

/// Whether a record of this kind, of those that a workspace appends, takes the key of an owner.
const fn takes_owner(kind: &Kind) -> bool {
    matches!(kind, Kind::Forget | Kind::Fence)
}

/// Whether an error may mean that another log stands there than the one that is known.
pub(super) const fn is_another_log(error: &Error) -> bool {
    use Error::{Damaged, Diverged, NotFound};
    matches!(error, Diverged { .. } | Damaged { .. } | NotFound { .. })
}

/// Says that the end of a push is not known yet, while reading goes on.
pub(super) fn still_to_settle(error: &Error) {
    tracing::warn!(%error, "an interrupted push has still to be settled");
}

/// Whether a record is what a draft became, and not an older form of it that somebody brought over.
pub(super) fn is_itself(draft: &StoredDraft, stored: &StoredRecord) -> bool {
    stored.record.envelope.draft.body == draft.draft.head.body
}

/// Notes that both sides agreed on what a push put in place, whatever others have made of it since. Of an older form of
/// it, on what that put in place as well.
pub(super) fn agree_on(checkout: &mut Checkout, pushed: &StoredDraft, stored: &StoredRecord) {
    // What a rollback puts in place there is not in the folder yet.
    let Body::Push(push) = &pushed.draft.body else {
        return;
    };
    let landed: BTreeMap<_, _> = match &stored.record.body {
        Body::Push(landed) => signatures(landed).collect(),
        _ => BTreeMap::new(),
    };
    let is_itself = is_itself(pushed, stored);
    for (path, signature) in signatures(push) {
        if is_itself || landed.get(path) == Some(&signature) {
            checkout.set_base(path, signature, stored.record.envelope.number);
        }
    }
}

/// What a push puts at paths; nothing where it deletes.
fn signatures(push: &PushBody) -> impl Iterator<Item = (&RepoPath, Option<Signature>)> {
    let upserts = push.upserts.iter();
    let upserts = upserts.map(|upsert| (&upsert.path, Some(upsert.entry.signature())));
    upserts.chain(push.deletes.iter().map(|path| (path, None)))
}
