//! [`Remote`] over HTTP: each operation of a repository as the gateway's requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::id::PackId;
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::content::Pack;
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, Opening, check_range, poll_head, push_in_parts};
use statehold_repository::wire::bodies::{Info, Place, ReadRequest};
use statehold_repository::wire::frames::Frame;
use statehold_repository::wire::{MEDIA_DRAFT, MEDIA_FRAMES, MEDIA_PACK, push};
use statehold_repository::{Error, Remote, Result};

use super::head_stream::HeadStream;
use super::{Ask, Done, Failed, Frames, GatewayClient, Pulled, strange};
use crate::prefetched::Prefetched;

/// Bytes of content asked for at once.
const READ_BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// How often a gateway is asked for its head that can't tell by itself.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// Requests for content under way at once.
const READ_PARALLEL: usize = 3;

/// A repository behind a gateway.
#[derive(Debug)]
pub struct GatewayRemote {
    client: GatewayClient,
    info: Info,
    /// What came along with the records of the last [`Remote::records_since`].
    prefetched: Mutex<Prefetched>,
    /// The stream that tells of heads, while somebody waits for one now and then.
    heads: tokio::sync::Mutex<Option<HeadStream>>,
}

impl GatewayRemote {
    /// Asks the gateway what the client's key reaches, and opens that.
    pub async fn connect(client: GatewayClient) -> Result<Self> {
        let info = client.info().await?;
        Ok(Self::with_info(client, info))
    }

    /// Opens what an earlier [`Self::connect`] found, without asking again.
    pub const fn with_info(client: GatewayClient, info: Info) -> Self {
        let prefetched = Mutex::new(Prefetched::new());
        Self {
            client,
            info,
            prefetched,
            heads: tokio::sync::Mutex::const_new(None),
        }
    }

    /// What the gateway said about key and repository.
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Whether the gateway that answers is still the version that said so. Another one may have
    /// other bounds, and know more.
    pub fn is_info_current(&self) -> bool {
        let answered_by = self.client.answered_by.get();
        answered_by.is_none_or(|version| *version == self.info.version)
    }

    /// The client, for everything that is not about the repository.
    pub const fn client(&self) -> &GatewayClient {
        &self.client
    }

    fn prefetched(&self) -> std::sync::MutexGuard<'_, Prefetched> {
        // A panic elsewhere leaves at worst less in here than there could be.
        self.prefetched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts a list of places into requests of bounded size.
    fn batches<'a>(&self, places: &'a [Location]) -> Vec<&'a [Location]> {
        let bytes_max = READ_BATCH_BYTES.min(self.info.limits.read_bytes);
        let count_max = usize::try_from(self.info.limits.read_ranges).unwrap_or(usize::MAX);
        let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, place) in places.iter().enumerate() {
            let stored = u64::from(place.stored);
            if index > start && (bytes + stored > bytes_max || index - start >= count_max) {
                batches.push(&places[start..index]);
                (start, bytes) = (index, 0);
            }
            bytes += stored;
        }
        if start < places.len() {
            batches.push(&places[start..]);
        }
        batches
    }

    async fn read_batch(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let wanted = places.iter().map(Place::of).collect::<Result<_>>()?;
        let request = ReadRequest { places: wanted };
        let Frames(frames, _) = self.client.send(&Ask::post("v1/read", &request)?).await?;
        let chunk = |frame| match frame {
            Frame::Chunk(bytes) => Ok(bytes),
            _ => Err(strange("a frame that is no chunk")),
        };
        let chunks: Vec<Bytes> = frames.into_iter().map(chunk).collect::<Result<_>>()?;
        let lengths = chunks.iter().map(|chunk| chunk.len() as u64);
        if !lengths.eq(places.iter().map(|place| u64::from(place.stored))) {
            return Err(strange("other ranges than were asked for"));
        }
        Ok(chunks)
    }
}

#[async_trait]
impl Remote for GatewayRemote {
    fn description(&self) -> (&Description, Digest) {
        (&self.info.description, self.info.genesis)
    }

    /// Nothing to do: the gateway knows its own store.
    async fn confirm(&self, _known: RecordRef) -> Result<()> {
        Ok(())
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        let ask = match at {
            Point::Newest => Ask::get("v1/open"),
            Point::Record(number) => Ask::get("v1/open").query("at_most", number),
            Point::Then(number) => Ask::get("v1/open").query("then", number),
            Point::Time(time) => Ask::get("v1/open").query("time", time),
        };
        let Frames(frames, end) = self.client.send(&ask).await?;
        let (mut checkpoint, mut trees, mut records) = (None, HashMap::new(), Vec::new());
        let mut moves = None;
        for frame in frames {
            match frame {
                Frame::Checkpoint(bytes) => {
                    checkpoint = Some(Checkpoint::read("the checkpoint", &bytes)?);
                }
                Frame::Tree { id, bytes } => drop(trees.insert(id, bytes)),
                Frame::Record { number, bytes } => {
                    records.push(StoredRecord::read(number, bytes)?);
                }
                Frame::Moves { number, bytes } => {
                    moves = Some(StoredRecord::read(number, bytes)?);
                }
                _ => return Err(strange("something that no state is made of")),
            }
        }
        let more = end.more;
        Ok(Opening {
            checkpoint: checkpoint.map(|checkpoint| (checkpoint, trees)),
            batch: Batch {
                records,
                more,
                ..Batch::default()
            },
            moves,
        })
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        let ask = Ask::get("v1/log").query("after", after);
        let Pulled { batch, .. } = self.client.send(&ask).await?;
        in_order(after, batch)
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        check_range(after, until)?;
        let mut found = Vec::new();
        let mut next = after;
        while next < until {
            let ask = Ask::get("v1/log")
                .query("after", next)
                .query("until", until);
            let Pulled { batch, .. } = self.client.send(&ask).await?;
            let batch = in_order(next, batch)?;
            let wanted = |stored: &StoredRecord| stored.record.envelope.number <= until;
            let before = next;
            // One that doesn't know of bounds sends what follows as well.
            for stored in batch.records.into_iter().filter(wanted) {
                next = stored.record.envelope.number;
                found.push(stored);
            }
            if next == before {
                return Err(strange("fewer records than the log has"));
            }
        }
        Ok(found)
    }

    /// One request: the gateway compares the record where nothing follows, and where something does the
    /// chain shows it.
    async fn records_since(&self, known: RecordRef, content: Option<Scope>) -> Result<Batch> {
        let after = known.number;
        let with_id = |ask: Ask| {
            if after == 0 {
                ask
            } else {
                ask.query("id", known.id)
            }
        };
        let plain = || with_id(Ask::get("v1/log").query("after", after));
        let Some(scope) = content.filter(|_| self.info.limits.pull_content_bytes > 0) else {
            let Pulled { batch, .. } = self.client.send(&plain()).await?;
            return in_order(after, batch);
        };
        let ask = with_id(Ask::get("_pull").query("since", after));
        let ask = ask.query("scope", scope.name());
        let Pulled { batch, content } = match self.client.send(&ask).await {
            Err(failed) if failed.no_route => self.client.send(&plain()).await?,
            answer => answer?,
        };
        *self.prefetched() = content;
        in_order(after, batch)
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = {
            let prefetched = self.prefetched();
            places.iter().map(|place| prefetched.get(place)).collect()
        };
        let absent = places.iter().zip(&found);
        let absent = absent.filter_map(|(place, found)| found.is_none().then_some(*place));
        let absent: Vec<Location> = absent.collect();
        let batches: Vec<Vec<Location>> = self
            .batches(&absent)
            .into_iter()
            .map(<[_]>::to_vec)
            .collect();
        let chunks: Vec<Vec<Bytes>> = stream::iter(batches)
            .map(async move |batch: Vec<Location>| self.read_batch(&batch).await)
            .buffered(READ_PARALLEL)
            .try_collect()
            .await?;
        let gaps = found.iter_mut().filter(|found| found.is_none());
        for (gap, chunk) in gaps.zip(chunks.into_iter().flatten()) {
            *gap = Some(chunk);
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn time(&self) -> Option<Timestamp> {
        self.client.clock.now()
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        check_size("the pack", bytes.len(), self.info.limits.pack_bytes)?;
        let ask = Ask::new(Method::PUT, format!("v1/packs/{id}")).with(MEDIA_PACK, bytes);
        let Done = self.client.send(&ask).await?;
        Ok(())
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        check_size("the push", draft.bytes.len(), self.info.limits.draft_bytes)?;
        let ask = Ask::new(Method::POST, "v1/log").with(MEDIA_DRAFT, draft.bytes.clone());
        let sent = self.client.send(&ask).await;
        appended(draft, sent.map_err(|failed| unsure(failed, known))?)
    }

    /// Nothing to do: the gateway writes its own caches.
    async fn tend(&self, _state: &Arc<State>) -> Result<()> {
        Ok(())
    }

    /// By a stream that stays open from call to call. A gateway that doesn't know such streams is asked
    /// again and again.
    async fn next_head(&self, known: RecordRef) -> Result<RecordRef> {
        let mut heads = self.heads.lock().await;
        loop {
            let stream = match heads.take() {
                Some(stream) => stream,
                None => match HeadStream::open(&self.client, known).await? {
                    Some(stream) => stream,
                    None => return poll_head(self, known, POLL_EVERY).await,
                },
            };
            // Kept where it is while it is waited for, since the caller may stop waiting.
            let stream = heads.insert(stream);
            match stream.next_head(known).await {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => *heads = None,
                Err(error) => {
                    *heads = None;
                    return Err(error);
                }
            }
        }
    }

    fn push_bytes_max(&self) -> u64 {
        self.info.limits.push_bytes
    }

    async fn push(
        &self,
        packs: &[Pack],
        draft: &StoredDraft,
        known: &Arc<State>,
    ) -> Result<StoredRecord> {
        let stored = packs.iter().map(|pack| pack.bytes.len());
        let stored = stored.sum::<usize>() + draft.bytes.len();
        let bytes = stored.saturating_add(push::PUSH_OVERHEAD_BYTES_MAX);
        if packs.is_empty() || bytes as u64 > self.push_bytes_max() {
            return push_in_parts(self, packs, draft, known).await;
        }
        let whole = push::write(packs, &draft.bytes).concat();
        let ask = Ask::new(Method::POST, "_push").with(MEDIA_FRAMES, whole.into());
        match self.client.send(&ask).await {
            Ok(answer) => appended(draft, answer),
            // In parts it is settled too, should another gateway have taken it before.
            Err(failed) if failed.no_route => push_in_parts(self, packs, draft, known).await,
            Err(failed) => Err(unsure(failed, known)),
        }
    }
}

/// A batch whose records are those after a number, in order.
fn in_order(after: u64, mut batch: Batch) -> Result<Batch> {
    let numbers = batch.records.iter().map(|s| s.record.envelope.number);
    if !numbers.zip(after.saturating_add(1)..).all(|(a, b)| a == b) {
        return Err(strange("other records than those asked for, in order"));
    }
    batch.more &= !batch.records.is_empty();
    batch.far &= batch.more;
    Ok(batch)
}

/// Why an append failed: it may have landed where it was sent and there is no clear answer. The same
/// draft handed in again settles it.
fn unsure(failed: Failed, known: &State) -> Error {
    match failed.error {
        Error::Unavailable { .. } | Error::Damaged { .. } if failed.reached => {
            let number = known.head.number.saturating_add(1);
            tracing::debug!(error = %failed.error, "no answer to an append");
            Error::Unknown { number }
        }
        error => error,
    }
}

/// The record that a draft became, by the gateway's answer.
fn appended(draft: &StoredDraft, Frames(frames, _): Frames) -> Result<StoredRecord> {
    let Ok([Frame::Record { number, bytes }]) = <[Frame; 1]>::try_from(frames) else {
        return Err(strange("something else than one record"));
    };
    rebuild(draft, number, &bytes)
}

fn check_size(what: &str, len: usize, limit: u64) -> Result<()> {
    if len as u64 > limit {
        return Err(Error::refused(format!(
            "{what} has {len} bytes, the gateway takes {limit}"
        )));
    }
    Ok(())
}

/// The record that a draft became: what the gateway put in front of it, and the draft's own bytes.
fn rebuild(draft: &StoredDraft, number: u64, head: &[u8]) -> Result<StoredRecord> {
    let own = &draft.draft.head;
    let rest = own.body_bytes as usize + own.content_bytes as usize;
    let start = draft.bytes.len().saturating_sub(rest);
    let mut bytes = BytesMut::with_capacity(head.len() + rest);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(&draft.bytes[start..]);
    let stored = StoredRecord::read(number, bytes.freeze())?;
    if stored.record.envelope.draft != *own || !stored.has_content() {
        return Err(strange("another record than the one sent"));
    }
    Ok(stored)
}
