//! Whether a repository can really be restored: its newest state, one of its earlier ones by chance, and
//! its newest snapshot, each from the repository and from a copy of it, into scratch space and
//! compared there.
//!
//! Reading order: `scratch`, the folder that is used and gone afterwards; `restoring`, one tree;
//! [`receipt`], what is kept of a drill; this file, which says what is restored; and [`stored`], all of it
//! for whoever reaches the store.
//!
//! `verify` looks at every object and asks what it should be; a drill does what a person in need would
//! do, with the caches that are there, and so finds what only shows then.

pub mod receipt;
mod restoring;
mod scratch;
pub mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::point::Point;
use statehold_core::record::{Body, DraftHead, Kind, NoteBody, RecordRef};
use statehold_core::state::State;
use statehold_core::time::Timestamp;

use self::receipt::{Receipt, Restore, Side, What, seconds};
use self::restoring::Restorer;
use self::scratch::Scratch;
use crate::error::{Error, Result};
use crate::format::record::StoredDraft;
use crate::remote::{Remote, load, load_telling};
use crate::verify::Watch;

/// What should be a copy of a repository.
#[derive(Debug, Clone, Copy)]
pub struct Replica<'a> {
    /// What is there; `None` if there is no repository.
    pub remote: Option<&'a dyn Remote>,
    /// Where that is, for people.
    pub at: &'a str,
}

/// A drill to be made.
#[derive(Clone, Copy)]
pub struct Drill<'a> {
    /// The repository.
    pub primary: &'a dyn Remote,
    /// Where that is, for people.
    pub at: &'a str,
    /// Its copy.
    pub replica: Option<Replica<'a>>,
    /// The folder in which scratch space is made.
    pub scratch: &'a Path,
    /// Draws the random record.
    pub seed: u64,
    /// Tells when it was made.
    pub clock: &'a dyn Clock,
    /// Is told how far it is.
    pub watch: &'a dyn Watch,
}

impl fmt::Debug for Drill<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drill")
            .field("at", &self.at)
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Drill<'_> {
    /// Makes the drill. Damage is what the receipt is for; an error says that a store did not answer,
    /// that a newer program is needed, or that the scratch space can't be used. Nothing is written but
    /// to scratch space, which is gone afterwards.
    pub async fn run(&self) -> Result<Receipt> {
        let begun = self.clock.now();
        let mut run = Run {
            drill: self,
            scratch: Arc::new(Scratch::make(self.scratch)?),
            roots: BTreeMap::new(),
            restores: Vec::new(),
        };
        run.side(Side::Primary, self.primary, self.at).await?;
        match self.replica {
            None => {}
            Some(Replica {
                remote: Some(remote),
                at,
            }) => run.side(Side::Replica, remote, at).await?,
            // Before the first record there is nothing to copy.
            Some(_) if run.restores.is_empty() => {}
            Some(Replica { remote: None, at }) => {
                let mut restore = Restore::new(Side::Replica, at, What::Newest);
                restore.note(None, "there is no copy of the repository");
                run.restores.push(restore);
            }
        }
        let repository = self.primary.description().0.repository;
        let times = (begun, self.clock.now());
        Ok(Receipt::of(repository, times, self.seed, run.restores))
    }

    /// One of the records before the newest whose states are kept.
    fn draw(&self, newest: &State) -> Option<u64> {
        let earlier = newest.head.number.checked_sub(1)?;
        let kept = || newest.collection.expired.gaps(earlier);
        let count: u64 = kept().map(|(first, last)| last - first + 1).sum();
        let digest = Digest::of(&self.seed.to_be_bytes());
        let drawn = digest.as_bytes().first_chunk().copied();
        let drawn = u64::from_be_bytes(drawn.unwrap_or_default());
        let mut left = drawn.checked_rem(count)?;
        for (first, last) in kept() {
            let here = last - first + 1;
            if left < here {
                return Some(first + left);
            }
            left -= here;
        }
        None
    }
}

/// A drill under way.
struct Run<'a> {
    drill: &'a Drill<'a>,
    scratch: Arc<Scratch>,
    /// The digest of each record's listing that was restored: the second store is held to the first. Where content
    /// lies may differ, since a copy may be behind a compaction.
    roots: BTreeMap<u64, Digest>,
    restores: Vec<Restore>,
}

impl Run<'_> {
    /// Restores what there is to restore from one store.
    async fn side(&mut self, side: Side, remote: &dyn Remote, at: &str) -> Result<()> {
        let mut restore = Restore::new(side, at, What::Newest);
        let begun = self.drill.clock.now();
        let newest = read(remote, Point::Newest, &mut restore).await?;
        let Some(newest) = newest else {
            self.restores.push(restore);
            return Ok(());
        };
        if newest.head.number == 0 {
            if !self.restores.is_empty() {
                restore.note(None, "the copy has no record");
                self.restores.push(restore);
            }
            return Ok(());
        }
        if side == Side::Replica {
            self.check_descent(newest.head, &mut restore).await?;
        }
        let scratch = Arc::clone(&self.scratch);
        let mut restorer = Restorer::new(remote, &scratch, self.drill.watch);
        self.state(&newest, &mut restorer, restore, begun).await?;

        let snapshots = newest.snapshots.iter();
        let snapshot = snapshots.max_by_key(|(_, snapshot)| snapshot.by);
        let random = self.drill.draw(&newest);
        let named = snapshot.map(|(id, snapshot)| (What::Snapshot, Some(id), snapshot.at));
        let random = random.map(|number| (What::Random, None, number));
        for (what, id, number) in random.into_iter().chain(named) {
            let mut restore = Restore::new(side, at, what);
            restore.snapshot = id.cloned();
            let begun = self.drill.clock.now();
            match read(remote, Point::Record(number), &mut restore).await? {
                Some(state) => self.state(&state, &mut restorer, restore, begun).await?,
                None => self.restores.push(restore),
            }
        }
        Ok(())
    }

    /// Restores a state, and holds its listing to what it was elsewhere.
    async fn state(
        &mut self,
        state: &State,
        restorer: &mut Restorer<'_>,
        mut restore: Restore,
        begun: Timestamp,
    ) -> Result<()> {
        restore.record = Some(state.head);
        let root = state.tree.root();
        restore.root = Some(root);
        let root = state.tree.root_wherever();
        let known = *self.roots.entry(state.head.number).or_insert(root);
        if known != root {
            let reason = format!("its listing is {root}, and it was {known} before");
            restore.note(None, reason);
        }
        restorer.run(state, &mut restore).await?;
        restore.seconds = seconds(begun, self.drill.clock.now());
        self.restores.push(restore);
        Ok(())
    }

    /// Notes it if the newest record of the copy is not one of the repository's.
    async fn check_descent(&self, head: RecordRef, restore: &mut Restore) -> Result<()> {
        match self.drill.primary.confirm(head).await {
            Err(error) if is_finding(&error) => {
                let reason = format!("the repository does not have its end: {error}");
                restore.note(None, reason);
                Ok(())
            }
            confirmed => confirmed,
        }
    }
}

/// Reads a state as whoever restores it would. A listing that can't be read on the way there is a
/// problem although the log makes up for it; without the state there is nothing to restore.
async fn read(remote: &dyn Remote, at: Point, restore: &mut Restore) -> Result<Option<Arc<State>>> {
    let mut passed_over = Vec::new();
    let state = load_telling(remote, at, &mut |error| passed_over.push(error)).await;
    for error in &passed_over {
        restore.note(None, error);
    }
    match state {
        Ok(state) => Ok(Some(state)),
        Err(error) if is_finding(&error) => {
            restore.note(None, &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether an error says something about what a store holds.
const fn is_finding(error: &Error) -> bool {
    matches!(
        error,
        Error::Damaged { .. } | Error::NotFound { .. } | Error::Diverged { .. }
    )
}

/// Appends the note that vouches for a receipt: its text names the digest of the stored bytes.
pub async fn vouch(
    remote: &dyn Remote,
    receipt: &Receipt,
    machine: MachineId,
    entropy: &dyn Entropy,
) -> Result<RecordRef> {
    let loaded = load(remote).await?;
    let digest = Digest::of(&receipt.to_bytes()?);
    let verdict = if receipt.passed { "passed" } else { "failed" };
    let body = Body::Note(NoteBody {
        base: loaded.state.head,
        text: format!("drill {verdict}; receipt blake3 {digest}"),
    });
    let head = DraftHead::new(Kind::Note, machine, Nonce::random(entropy), Vec::new());
    let draft = StoredDraft::new(head, body, &[])?;
    let stored = remote.append(&draft, &loaded.state).await?;
    // The note stands; what is due beside it is a cache, which the next writer fills as well.
    if let Some(overdue) = loaded.overdue
        && let Err(error) = remote.tend(&overdue).await
    {
        tracing::warn!(%error, "a segment or checkpoint could not be written");
    }
    Ok(stored.record.reference())
}
