//! The seam between a client's engine and a repository: over a bucket or over a gateway, the same
//! ten operations. Two more put some of them together, for a way on which each request counts;
//! they mean what their parts mean.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, try_join_all};
use statehold_core::digest::Digest;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::id::{PackId, TreeId};
use statehold_core::limits::LOG_RANGE_RECORDS_MAX;
use statehold_core::point::Point;
use statehold_core::record::{Body, RecordRef};
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;

use crate::content::Pack;
use crate::error::{Error, Result};
use crate::follow::{Follower, later_epoch, past_left_behind};
use crate::format::checkpoint::Checkpoint;
use crate::format::description::Description;
use crate::format::record::{StoredDraft, StoredRecord};
use crate::format::tree;

/// A repository, near or far.
#[async_trait]
pub trait Remote: Send + Sync + std::fmt::Debug {
    /// What every reader has to know, and the id of record 0.
    fn description(&self) -> (&Description, Digest);

    /// Makes sure that the store still holds this repository and, in its log, this record. Before
    /// anything is written: a store that was emptied, exchanged or set back to an older copy looks
    /// like one in which nothing is new, and a record appended to it would hang in the air.
    async fn confirm(&self, known: RecordRef) -> Result<()>;

    /// Everything a reader without a state needs: the newest checkpoint that is not past a point,
    /// and the records that follow, up to the point at least.
    async fn open(&self, at: Point) -> Result<Opening>;

    /// The records after this number, in order; one read when there is none.
    async fn records(&self, after: u64) -> Result<Batch>;

    /// The records after one up to another, both of which exist. At most [`LOG_RANGE_RECORDS_MAX`];
    /// aligned to segments they are few reads.
    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        check_range(after, until)?;
        let mut found: Vec<StoredRecord> = Vec::new();
        let mut next = after;
        while next < until {
            let batch = self.records(next).await?;
            let wanted = |stored: &StoredRecord| stored.record.envelope.number <= until;
            found.extend(batch.records.into_iter().filter(wanted));
            match found.last() {
                Some(last) if last.record.envelope.number > next => {
                    next = last.record.envelope.number;
                }
                _ => return Err(Error::refused(format!("the log ends at record {next}"))),
            }
        }
        Ok(found)
    }

    /// The stored frames at these places, in the same order. The caller bounds their total.
    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>>;

    /// What time it is at the store, by the newest of its answers; `None` where none has said so.
    fn time(&self) -> Option<Timestamp> {
        None
    }

    /// Writes a pack durably. Writing the same pack twice is no error.
    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()>;

    /// Appends a draft: after `known`, or further on if it may follow what came first. Appending
    /// the same draft again gives the record it became. When this returns, the record is durable.
    ///
    /// After [`Error::Conflict`] and [`Error::Refused`] the draft has not landed and never will.
    /// After any other error it may have, or may still: keep it and hand it in again. That holds
    /// for a refusal of the credentials too, since a connection may deliver a request twice and
    /// answer for the second alone.
    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord>;

    /// Writes the segment and the checkpoint that are due at a state, if any. They are caches, so
    /// failing at this loses nothing.
    async fn tend(&self, state: &Arc<State>) -> Result<()>;

    /// [`Self::records`] after one that has to stand in the log, as [`Self::confirm`] makes sure, for a reader
    /// that wants the newest state and none of those on the way ([`Batch::far`]). With a scope,
    /// for a caller that goes on to [`Self::read`] the content that they bring to its paths: a remote may
    /// fetch it along the way, and keep a bounded part of it for then.
    async fn records_since(&self, known: RecordRef, _content: Option<Scope>) -> Result<Batch> {
        // A store that lost its newest records has nothing new to tell either.
        let both = futures::try_join!(self.records(known.number), self.confirm(known));
        both.map(|(batch, ())| batch)
    }

    /// Waits until the newest record is another one than this, and says which. For as long as it takes:
    /// whoever has waited long enough drops it and calls it again, and nothing is lost by that.
    ///
    /// What came meanwhile is told once, with the newest. An error says that nobody can tell at the
    /// moment; the caller waits a while, looks by itself, and calls again.
    async fn next_head(&self, known: RecordRef) -> Result<RecordRef> {
        poll_head(self, known, POLL_EVERY).await
    }

    /// How many bytes of packs and draft [`Self::push`] takes in one request; 0 where each of them
    /// is a request of its own in any case.
    fn push_bytes_max(&self) -> u64 {
        0
    }

    /// Writes packs as [`Self::put_pack`] does and, when all of them are durable, appends the draft
    /// that names them as [`Self::append`] does, with the same answers. What is handed in again has
    /// to be the packs and the draft.
    async fn push(
        &self,
        packs: &[Pack],
        draft: &StoredDraft,
        known: &Arc<State>,
    ) -> Result<StoredRecord> {
        push_in_parts(self, packs, draft, known).await
    }
}

/// How often whoever waits for a head straight on a store looks, with one read each time.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Looks again and again whether anything follows a record: [`Remote::next_head`] where nobody tells. It
/// is one read each time.
pub async fn poll_head<R: Remote + ?Sized>(
    remote: &R,
    known: RecordRef,
    every: Duration,
) -> Result<RecordRef> {
    loop {
        let batch = remote.records(known.number).await?;
        if let Some(newest) = batch.records.last() {
            let number = newest.record.envelope.number;
            let id = newest.record.id;
            return Ok(RecordRef { number, id });
        }
        tokio::time::sleep(every).await;
    }
}

/// Writes packs at once and then appends a draft, each with a request of its own.
pub async fn push_in_parts<R: Remote + ?Sized>(
    remote: &R,
    packs: &[Pack],
    draft: &StoredDraft,
    known: &Arc<State>,
) -> Result<StoredRecord> {
    let put = |pack: &Pack| remote.put_pack(pack.id, pack.bytes.clone());
    try_join_all(packs.iter().map(put)).await?;
    remote.append(draft, known).await
}

/// Turns away a range of records that is none, or too long.
pub fn check_range(after: u64, until: u64) -> Result<()> {
    match until.checked_sub(after) {
        Some(records) if records <= LOG_RANGE_RECORDS_MAX => Ok(()),
        _ => Err(Error::refused(format!(
            "the records after {after} up to {until} are no range of at most \
             {LOG_RANGE_RECORDS_MAX}"
        ))),
    }
}

/// Consecutive records.
#[derive(Debug, Default)]
pub struct Batch {
    /// The records, in order.
    pub records: Vec<StoredRecord>,
    /// Whether there may be more after them.
    pub more: bool,
    /// Whether there are so many more that whoever wants the newest state gets there sooner by a checkpoint.
    /// Only [`Remote::records_since`] says so, and then it gives the first few alone.
    pub far: bool,
    /// With `far`: what leads to the newest state, where it was read along the way.
    pub opening: Option<Box<Opening>>,
}

/// What a reader without a state begins with.
#[derive(Debug)]
pub struct Opening {
    /// The checkpoint and the tree objects it names; `None` in a young repository.
    pub checkpoint: Option<(Checkpoint, HashMap<TreeId, Bytes>)>,
    /// The records after the checkpoint's own, the first of which names it. When there is none, the
    /// checkpoint's own.
    pub batch: Batch,
    /// The newest compaction after the point, as far as anything may have been deleted since: it says where
    /// content lies now.
    pub moves: Option<StoredRecord>,
}

/// A state that was read from a repository.
#[derive(Debug)]
pub struct Loaded {
    /// The state at the head.
    pub state: Arc<State>,
    /// The state at the newest number that should have a checkpoint and had none that can be used.
    /// Whoever may push hands it to [`Remote::tend`].
    pub overdue: Option<Arc<State>>,
}

/// How often loading begins again because records were retired while it read them.
const BEGUN_AGAIN_MAX: u32 = 3;

/// Reads the state at the head of a repository.
pub async fn load(remote: &dyn Remote) -> Result<Loaded> {
    load_until(remote, Point::Newest, false).await.0
}

/// Reads an earlier state: its tree, with where the content lies now. A moment before the first record, and a record that doesn't exist, are
/// refused.
pub async fn load_at(remote: &dyn Remote, at: Point) -> Result<Arc<State>> {
    let (loaded, _) = load_until(remote, at, false).await;
    check_reached(remote, at, loaded?.state).await
}

/// [`load_at`], for a caller that wants to know why checkpoints on the way could not be used.
pub async fn load_telling(
    remote: &dyn Remote,
    at: Point,
    passed_over: &mut (dyn FnMut(Error) + Send),
) -> Result<Arc<State>> {
    let (loaded, errors) = load_until(remote, at, true).await;
    errors.into_iter().for_each(passed_over);
    check_reached(remote, at, loaded?.state).await
}

/// Refuses a point that lies outside of the log.
async fn check_reached(remote: &dyn Remote, at: Point, state: Arc<State>) -> Result<Arc<State>> {
    let head = state.head.number;
    match at {
        Point::Record(number) | Point::Then(number) if head != number => Err(Error::refused(
            format!("there is no record {number}; the newest is {head}"),
        )),
        Point::Time(time) if head == 0 => {
            let first = remote.records(0).await?;
            let first = first
                .records
                .first()
                .map(|first| first.record.envelope.time);
            Err(Error::refused(match first {
                Some(first) => {
                    format!("there is nothing as of {time}; the first record is of {first}")
                }
                None => "there is nothing in the repository yet".into(),
            }))
        }
        _ => Ok(state),
    }
}

/// Loads, and gives the checkpoints that could not be used. It begins again where that may be because of a
/// collector: what is retired while it is read is found in a newer checkpoint, and so is what
/// needed a listing that is gone. Where it `is_told`, a checkpoint that was deleted just then is none.
async fn load_until(remote: &dyn Remote, at: Point, is_told: bool) -> (Result<Loaded>, Vec<Error>) {
    let mut begun_again = 0;
    loop {
        let mut passed_over = Vec::new();
        let loaded = load_once(remote, at, &mut passed_over).await;
        let patience = match &loaded {
            Err(Error::Retired { .. }) => BEGUN_AGAIN_MAX,
            // Twice is damage.
            Err(Error::NotFound { .. } | Error::Damaged { .. }) => 1,
            Ok(_) if is_told && !passed_over.is_empty() => 1,
            _ => 0,
        };
        if begun_again >= patience {
            let loaded = match loaded {
                Err(Error::Retired { number }) => load_past(remote, number, at).await,
                loaded => loaded,
            };
            return (loaded, passed_over);
        }
        tracing::info!("what was read may have been collected meanwhile; beginning again");
        begun_again += 1;
    }
}

/// Loads past a retired record for which nothing stands in, if a `promote` left it behind.
fn load_past(remote: &dyn Remote, retired: u64, at: Point) -> BoxFuture<'_, Result<Loaded>> {
    async move {
        let Some(state) = past_left_behind(remote, retired).await? else {
            return Err(Error::Retired { number: retired });
        };
        if at.is_before(state.head.number, state.time) {
            return Err(Error::Retired { number: retired });
        }
        let mut loading = Loading {
            follower: Follower::new(remote, state),
            overdue: None,
        };
        match loading.follow(at).await {
            Err(Error::Retired { number }) => load_past(remote, number, at).await,
            followed => followed.map(|()| Loaded {
                overdue: loading.overdue,
                state: loading.follower.into_state(),
            }),
        }
    }
    .boxed()
}

async fn load_once(remote: &dyn Remote, at: Point, passed_over: &mut Vec<Error>) -> Result<Loaded> {
    let mut from = at;
    let mut damaged = None;
    loop {
        let loaded = load_from(remote, from, at).await;
        match (loaded, damaged.take()) {
            (Ok(Ok(loaded)), _) => return Ok(loaded),
            // The state where one was passed over is let go. An earlier one that is kept leads there as well.
            (
                Err(Error::Expired {
                    before: Some(before),
                    ..
                }),
                Some(passed_over),
            ) => {
                damaged = Some(passed_over);
                from = Point::Record(before);
            }
            // What stands in for retired records has no older one to fall back on.
            (Err(Error::Retired { .. } | Error::Expired { .. }), Some(damaged)) => {
                return Err(damaged);
            }
            (Err(error), _) => return Err(error),
            (Ok(Err(PassedOver { at, error })), _) => {
                // A checkpoint is a cache, so one that can't be used is no more than worth a line.
                tracing::warn!(%error, "a checkpoint cannot be used; taking an older one");
                if let Error::Damaged { object, reason } = &error {
                    damaged = Some(Error::damaged(object, reason));
                }
                passed_over.push(error);
                from = Point::Record(at.saturating_sub(1));
            }
        }
    }
}

/// A checkpoint that can't be used.
struct PassedOver {
    at: u64,
    error: Error,
}

/// Reads a state with the newest checkpoint before a point.
async fn load_from(
    remote: &dyn Remote,
    from: Point,
    at: Point,
) -> Result<Result<Loaded, PassedOver>> {
    let opening = remote.open(from).await?;
    Box::pin(load_opened(remote, opening, from, at)).await
}

/// The same by what was read of it.
async fn load_opened(
    remote: &dyn Remote,
    mut opening: Opening,
    from: Point,
    at: Point,
) -> Result<Result<Loaded, PassedOver>> {
    let moves = opening.moves.take();
    let checkpoint = opening.checkpoint.as_ref();
    let after = checkpoint.map(|(checkpoint, _)| checkpoint.at.number);
    let (mut loading, more) = match fold_opening(remote, opening, at).await {
        Ok(folded) => folded,
        Err(error @ Error::Damaged { .. }) if after.is_some_and(|after| after > 0) => {
            let at = after.unwrap_or_default();
            return Ok(Err(PassedOver { at, error }));
        }
        Err(error) => return Err(error),
    };
    // An older one than asked for comes with the records up to itself.
    if more || from != at {
        loading.follow(at).await?;
    }
    let overdue = loading.overdue;
    let mut state = loading.follower.into_state();
    if let Some(moves) = moves {
        follow_moves(&mut state, &moves);
    }
    Ok(Ok(Loaded { state, overdue }))
}

/// The state at the last record of an opening, or at a point if that comes first.
pub(crate) async fn state_of(
    remote: &dyn Remote,
    opening: Opening,
    at: Point,
) -> Result<Arc<State>> {
    let (loading, _) = fold_opening(remote, opening, at).await?;
    Ok(loading.follower.into_state())
}

/// What [`state_of`] gives, still on its way, and whether there may be more on the way to the point.
async fn fold_opening(
    remote: &dyn Remote,
    opening: Opening,
    at: Point,
) -> Result<(Loading<'_>, bool)> {
    let genesis = remote.description().1;
    let mut records = opening.batch.records.into_iter().peekable();
    let state = match opening.checkpoint {
        None => State::empty(genesis),
        Some((checkpoint, trees)) => {
            let stands_at = checkpoint.at;
            if at.is_before(stands_at.number, checkpoint.time) {
                let reason = format!("it stands at record {}, past the point", stands_at.number);
                return Err(Error::damaged("the checkpoint", reason));
            }
            let own = records.next_if(|stored| stored.record.envelope.number == stands_at.number);
            let named = match (own, records.peek()) {
                (Some(own), _) => Some(own.record.id),
                (None, next) => next.map(|next| next.record.envelope.parent),
            };
            if named != Some(stands_at.id) {
                let reason = format!("it is not the state at record {}", stands_at.number);
                return Err(Error::damaged("the checkpoint", reason));
            }
            let tree = tree::read(&checkpoint.tree, &trees)?;
            checkpoint.into_state(tree)
        }
    };
    let mut loading = Loading {
        follower: Follower::new(remote, Arc::new(state)),
        overdue: None,
    };
    // A record past the end may be there all the same: it vouches for the checkpoint before it.
    let mut more = opening.batch.more;
    for stored in records {
        if !loading.fold_until(&stored, at).await? {
            more = false;
            break;
        }
    }
    Ok((loading, more))
}

/// Makes an earlier state say where its content lies now.
fn follow_moves(state: &mut Arc<State>, compaction: &StoredRecord) {
    if let Body::Compact(compact) = &compaction.record.body
        && compaction.record.envelope.number > state.head.number
    {
        Arc::make_mut(state).tree.follow(&compact.moves);
    }
}

/// A state on its way to a point.
#[derive(Debug)]
struct Loading<'a> {
    follower: Follower<'a>,
    /// [`Loaded::overdue`].
    overdue: Option<Arc<State>>,
}

impl Loading<'_> {
    /// Takes in a record unless it lies past a point; says whether it did. Where a checkpoint is due and
    /// none was met, the state there is kept.
    async fn fold_until(&mut self, stored: &StoredRecord, at: Point) -> Result<bool> {
        let envelope = &stored.record.envelope;
        if at.is_before(envelope.number, envelope.time) {
            return Ok(false);
        }
        self.follower.take_in(stored).await?;
        let state = self.follower.state();
        if state.checkpoint_due() {
            self.overdue = Some(Arc::clone(state));
        }
        Ok(true)
    }

    /// Takes in the records on the way to a point.
    async fn follow(&mut self, at: Point) -> Result<()> {
        loop {
            let head = self.follower.state().head.number;
            let batch = self.follower.remote().records(head).await?;
            for stored in &batch.records {
                if !self.fold_until(stored, at).await? {
                    return Ok(());
                }
            }
            if !batch.more {
                return Ok(());
            }
        }
    }
}

/// Brings a state up to the head of a repository, which has to descend from it or be of a later epoch
/// ([`State::fork_since`] says which). The same state comes back when nothing is new.
pub async fn advance(remote: &dyn Remote, state: &Arc<State>) -> Result<Arc<State>> {
    advance_by(remote, state, None).await
}

/// [`advance`], for a caller that goes on to read the content that is new at these paths.
pub async fn advance_with_content(
    remote: &dyn Remote,
    state: &Arc<State>,
    scope: Scope,
) -> Result<Arc<State>> {
    advance_by(remote, state, Some(scope)).await
}

async fn advance_by(
    remote: &dyn Remote,
    known: &Arc<State>,
    content: Option<Scope>,
) -> Result<Arc<State>> {
    match follow(remote, known, content).await {
        // Another log stands there now. That is right if it is of a later epoch, and then only.
        Err(error @ (Error::Diverged { .. } | Error::Damaged { .. } | Error::NotFound { .. })) => {
            later_epoch(remote, known).await?.ok_or(error)
        }
        followed => followed,
    }
}

async fn follow(
    remote: &dyn Remote,
    known: &Arc<State>,
    content: Option<Scope>,
) -> Result<Arc<State>> {
    let mut follower = Follower::new(remote, Arc::clone(known));
    loop {
        let head = follower.state().head;
        let batch = remote.records_since(head, content).await?;
        for stored in &batch.records {
            match follower.take_in(stored).await {
                // It stands on the state, but for what it said, or goes on from, a checkpoint has to be loaded.
                Err(Error::Retired { .. }) => {
                    return Box::pin(newest(remote, batch.opening)).await;
                }
                taken => taken?,
            };
        }
        if batch.far {
            // The next record has shown that the log goes on from the state.
            let newest = Box::pin(newest(remote, batch.opening)).await?;
            if newest.head.number > head.number {
                return Ok(newest);
            }
            let reason = format!("it ends at record {} when read anew", newest.head.number);
            return Err(Error::damaged("the log", reason));
        }
        if !batch.more {
            return Ok(follower.into_state());
        }
    }
}

/// The newest state, by what was read of it, if that is of use.
async fn newest(remote: &dyn Remote, opening: Option<Box<Opening>>) -> Result<Arc<State>> {
    if let Some(opening) = opening {
        match load_opened(remote, *opening, Point::Newest, Point::Newest).await {
            Ok(Ok(loaded)) => return Ok(loaded.state),
            Err(error @ (Error::Unavailable { .. } | Error::Denied { .. })) => return Err(error),
            Ok(Err(PassedOver { error, .. })) | Err(error) => {
                tracing::info!(%error, "what was read of the newest state is of no use");
            }
        }
    }
    Ok(load(remote).await?.state)
}

/// The object a location lies in. Locations in a state name one, but for content that was purged.
pub fn object_of(location: &Location) -> Result<ContentObject> {
    location.object.ok_or_else(|| Error::NotFound {
        object: "content that was purged".into(),
    })
}
