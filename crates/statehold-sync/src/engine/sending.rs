//! Packs on their way: a few at once, and protected for as long as an upload lasts.
//!
//! No record names a pack before the push lands, so to a collector it looks like garbage. What is written is young
//! enough to be left alone for a day. An upload that lasts for hours says so in a record, again and again,
//! and what it has written is remembered here, so that an attempt that was cut short sends none of it again.

use std::sync::Arc;

use statehold_core::collection::HoldBody;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::id::{Nonce, PackId};
use statehold_core::limits::{COLLECTED_PACKS_MAX, HOLD_HOURS};
use statehold_core::record::{Body, DraftHead, Kind};
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::Error;
use statehold_repository::content::Pack;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::advance;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::{Engine, Result};
use crate::progress::Progress;
use crate::uploads::{Of, Uploads};

/// Packs on their way at once.
const PACKS_UNDER_WAY: usize = 3;
/// How long an upload goes on before it holds its packs, in milliseconds.
const HOLD_MS: i64 = HOLD_HOURS as i64 * 60 * 60 * 1_000;

/// Packs on their way, a few at once.
pub(super) struct Sending<'a> {
    engine: &'a Engine,
    known: Arc<State>,
    /// Whether the repository is still what it was. Asked while files are read, known before the
    /// first write.
    confirming: Option<JoinHandle<statehold_repository::Result<()>>>,
    packs: JoinSet<statehold_repository::Result<Pack>>,
    /// The packs that are durable.
    pub(super) uploads: Uploads,
    /// The buffer of a pack that was sent.
    pub(super) spare: Option<Vec<u8>>,
    progress: Arc<dyn Progress>,
    /// Bytes of files that were read and are in no pack under way. What has been read is not yet
    /// sent, so a watching person is told of it with the pack or the draft that takes it along.
    pub(super) waiting: u64,
    /// Stored bytes that were handed in.
    pub(super) bytes: u64,
}

impl<'a> Sending<'a> {
    pub(super) fn new(engine: &'a Engine, known: &Arc<State>, uploads: Uploads) -> Self {
        let (asked, head) = (Arc::clone(&engine.remote), known.head);
        let confirming = tokio::spawn(async move { asked.confirm(head).await });
        Self {
            engine,
            known: Arc::clone(known),
            confirming: Some(confirming),
            packs: JoinSet::new(),
            uploads,
            spare: None,
            progress: Arc::clone(&engine.progress),
            waiting: 0,
            bytes: 0,
        }
    }

    /// Begins to send a pack, and waits for an earlier one if many are on their way.
    pub(super) async fn add(&mut self, pack: Pack) -> Result<()> {
        self.confirmed().await?;
        self.bytes += pack.bytes.len() as u64;
        let remote = Arc::clone(&self.engine.remote);
        let progress = Arc::clone(&self.progress);
        let read = std::mem::take(&mut self.waiting);
        self.packs.spawn(async move {
            remote.put_pack(pack.id, pack.bytes.clone()).await?;
            progress.advance(read);
            Ok(pack)
        });
        while let Some(sent) = self.packs.try_join_next() {
            self.sent(sent)?;
        }
        if self.packs.len() >= PACKS_UNDER_WAY {
            self.wait_for_one().await?;
        }
        self.hold_if_due().await
    }

    /// Whether anything is on its way.
    pub(super) fn is_under_way(&self) -> bool {
        !self.packs.is_empty()
    }

    /// Waits until all of them are durable, and the repository is known to be the right one.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.confirmed().await?;
        while !self.packs.is_empty() {
            self.wait_for_one().await?;
            self.hold_if_due().await?;
        }
        Ok(())
    }

    /// Says in the log that what was written belongs to an upload under way, once that has lasted for long and
    /// has not been said of late. Where it can't be said now, it is with a later pack.
    pub(super) async fn hold_if_due(&mut self) -> Result<()> {
        let now = self.engine.time();
        let is_due =
            |since: Timestamp| now.as_millis().saturating_sub(since.as_millis()) >= HOLD_MS;
        if !self.uploads.since().is_some_and(is_due) {
            return Ok(());
        }
        self.confirmed().await?;
        let packs = self.uploads.packs().map(|written| written.pack.id);
        let packs: Vec<PackId> = packs.take(COLLECTED_PACKS_MAX).collect();
        let body = Body::Hold(HoldBody {
            base: self.known.head,
            packs,
        });
        let engine = self.engine;
        let machine = engine.workspace.settings().machine.id;
        let nonce = Nonce::random(&*engine.entropy);
        let head = DraftHead::new(Kind::Hold, machine, nonce, Vec::new());
        let draft = StoredDraft::new(head, body, &[])?;
        match engine.remote.append(&draft, &self.known).await {
            Ok(stored) => {
                tracing::info!(
                    record = stored.record.envelope.number,
                    "an upload goes on, and its packs are held"
                );
                Ok(self.uploads.held(now)?)
            }
            // One of them was taken for garbage: what it held is sent once more.
            Err(error @ Error::Conflict { .. }) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the packs of a long upload could not be held");
                Ok(())
            }
        }
    }

    async fn confirmed(&mut self) -> Result<()> {
        match self.confirming.take() {
            Some(confirming) => ended(confirming.await, "looking for the repository"),
            None => Ok(()),
        }
    }

    async fn wait_for_one(&mut self) -> Result<()> {
        match self.packs.join_next().await {
            Some(sent) => self.sent(sent),
            None => Ok(()),
        }
    }

    /// Takes note of a pack that is durable.
    fn sent(&mut self, sent: Result<statehold_repository::Result<Pack>, JoinError>) -> Result<()> {
        let pack = ended(sent, "sending a pack")?;
        self.uploads.wrote(&pack, self.engine.time())?;
        // Nobody else holds it any more, so this copies nothing.
        self.spare = Some(Vec::from(pack.bytes));
        Ok(())
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(confirming) = &self.confirming {
            confirming.abort();
        }
    }
}

impl Engine {
    /// What time it is where content is sent to.
    fn time(&self) -> Timestamp {
        self.remote.time().unwrap_or_else(|| self.clock.now())
    }

    /// What earlier attempts have written to the repository in this epoch.
    pub(super) fn uploads(&self, known: &State) -> Result<Uploads> {
        let of = Of {
            repository: self.remote.description().0.repository,
            epoch: known.epoch(),
        };
        Ok(Uploads::read(&self.workspace, of)?)
    }

    /// What earlier attempts have written and can be used again: packs that are there, that nobody took for
    /// garbage, and that no record has introduced.
    pub(super) async fn take_up(&self, known: &Arc<State>) -> Result<Uploads> {
        let mut uploads = self.uploads(known)?;
        if uploads.packs().next().is_none() {
            return Ok(uploads);
        }
        let newest = advance(&*self.remote, known).await?;
        uploads.retain(|id| {
            let is_condemned = newest.collection.condemned.contains_key(id);
            !is_condemned && !newest.packs.contains_key(id)
        });
        // A store that was set back to an older copy lacks the newest first.
        let last = uploads.packs().last();
        let object = last.map(|written| ContentObject::Pack(written.pack.id));
        let frames = last.into_iter().flat_map(|written| &written.frames);
        let smallest = frames.min_by_key(|frame| frame.stored);
        let places: Vec<Location> = smallest
            .map(|frame| Location {
                object,
                offset: frame.offset,
                stored: frame.stored,
            })
            .into_iter()
            .collect();
        match self.remote.read(&places).await {
            Ok(_) => Ok(uploads),
            Err(error @ (Error::NotFound { .. } | Error::Damaged { .. })) => {
                tracing::warn!(%error, "what an earlier attempt has sent is sent again");
                uploads.clear()?;
                Ok(uploads)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn ended<T>(result: Result<statehold_repository::Result<T>, JoinError>, what: &str) -> Result<T> {
    match result {
        Ok(result) => Ok(result?),
        Err(error) => {
            let (what, source) = (what.to_owned(), error.into());
            Err(Error::Unavailable { what, source }.into())
        }
    }
}
