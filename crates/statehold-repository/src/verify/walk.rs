//! The log from its first record to its last: which records are what the chain says, and the state
//! at each.
//!
//! What comes later vouches for what came before: a record's id stands in the one after it. So a
//! record is judged with a look at the two that follow, before it is folded. In place of one that
//! is lost steps the copy in its segment, if the chain vouches for that; failing this the fold goes
//! on at the next checkpoint that the chain vouches for.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use statehold_core::digest::Digest;
use statehold_core::id::TreeId;
use statehold_core::limits::SEGMENT_RECORDS;
use statehold_core::record::RecordRef;
use statehold_core::state::{Applied, FoldError, State};

use super::content::{Broken, check_inline, reason_of};
use super::inventory::Inventory;
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::record::StoredRecord;
use crate::format::tree::TreeRef;
use crate::format::{segment, tree};
use crate::layout;
use crate::store::Store;

/// Records read at once. They may be large, and as many are held.
const PARALLEL: usize = 8;
/// Records that are looked at beyond the one that is judged.
const AHEAD: usize = 2;

/// What reading a record gave: the record, or what is wrong with it.
type Read = Result<StoredRecord, String>;

/// A walk through the log.
pub(super) struct Walk<'a> {
    store: &'a Store,
    inventory: &'a Inventory,
    reads: BoxStream<'a, Result<(u64, Read)>>,
    ahead: VecDeque<(u64, Read)>,
    /// The record before, if it is known to be the log's.
    before: Option<Digest>,
    /// What is known of a record from elsewhere.
    known: HashMap<u64, Digest>,
    segment: Option<(u64, Vec<StoredRecord>)>,
    /// The state after the last step, if it can be told.
    pub(super) state: Option<State>,
    /// The state where this epoch began, if it can be told.
    began: Option<State>,
    /// A state for where no checkpoint tells it.
    given: Option<State>,
    /// Whether checkpoints are asked where the state can't be told.
    asks_checkpoints: bool,
    /// Whether the state after the last step comes from a checkpoint, and not from the one before.
    pub(super) is_resumed: bool,
}

/// A record on the way.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) number: u64,
    /// The record, as it is or out of its segment.
    pub(super) stored: Option<StoredRecord>,
    /// What is wrong with the object.
    pub(super) flaw: Option<Flaw>,
    /// The id that the record before has to have.
    pub(super) parent: Option<Digest>,
    /// The id that the record has to have, by what follows.
    pub(super) id: Option<Digest>,
}

/// What is wrong with a record.
#[derive(Debug)]
pub(super) enum Flaw {
    /// All of it.
    Whole(String),
    /// The content that rides in it.
    Content(Broken),
    /// Nothing in itself, but somebody has seen another one there: the log was set back and has gone on.
    Other,
}

impl<'a> Walk<'a> {
    /// A walk up to the last record by listing, or to the last one that is known to have been there.
    pub(super) fn new(
        store: &'a Store,
        inventory: &'a Inventory,
        genesis: Option<Digest>,
        known: &[RecordRef],
    ) -> Self {
        let newest = known.iter().map(|known| known.number).max().unwrap_or(0);
        let last = inventory.last().max(newest);
        let read = move |number| async move { Ok((number, read(store, number).await?)) };
        Self {
            store,
            inventory,
            reads: stream::iter(1..=last).map(read).buffered(PARALLEL).boxed(),
            ahead: VecDeque::new(),
            before: genesis,
            known: known.iter().map(|known| (known.number, known.id)).collect(),
            segment: None,
            state: genesis.map(State::empty),
            began: genesis.map(State::empty),
            given: None,
            asks_checkpoints: true,
            is_resumed: false,
        }
    }

    /// The same, where a state has been proven that no checkpoint tells.
    pub(super) fn knowing(mut self, given: Option<State>) -> Self {
        self.given = given;
        self
    }

    /// The same from a state on, whatever records before it and checkpoints say.
    pub(super) fn beginning_at(mut self, given: State) -> Self {
        self.state = None;
        self.began = None;
        self.given = Some(given);
        self.asks_checkpoints = false;
        self
    }

    /// The next record; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Step>> {
        while self.ahead.len() <= AHEAD {
            match self.reads.next().await {
                Some(read) => self.ahead.push_back(read?),
                None => break,
            }
        }
        let Some((number, read)) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let next = self.next_parent();
        let known = self.known.get(&number).copied();
        let id = next.or(known);
        let parent = self.before;
        let (mut stored, mut flaw) = match read {
            Err(reason) => (None, Some(Flaw::Whole(reason))),
            Ok(stored) => match judge(&stored, parent, next, self.vouched()) {
                Err(reason) => (None, Some(Flaw::Whole(reason))),
                Ok(()) => {
                    let is_other = known.is_some_and(|known| known != stored.record.id);
                    let other = is_other.then_some(Flaw::Other);
                    let flaw = check_inline(&stored).err().map(Flaw::Content);
                    (Some(stored), flaw.or(other))
                }
            },
        };
        if stored.is_none() && matches!(flaw, Some(Flaw::Whole(_))) {
            stored = self.stand_in(number, parent, id).await?;
        }
        if let Some(Flaw::Whole(reason)) = &mut flaw
            && reason.is_empty()
        {
            "it is missing".clone_into(reason);
        }
        self.fold(number, stored.as_ref(), id).await?;
        self.before = stored.as_ref().map(|stored| stored.record.id).or(id);
        Ok(Some(Step {
            number,
            stored,
            flaw,
            parent,
            id,
        }))
    }

    /// The id that the next record says that this one has.
    fn next_parent(&self) -> Option<Digest> {
        let next = self.ahead.front().and_then(|(_, read)| read.as_ref().ok());
        next.map(|next| next.record.envelope.parent)
    }

    /// Whether the record after next, or what is known, vouches for the next one.
    fn vouched(&self) -> bool {
        let Some((number, Ok(next))) = self.ahead.front() else {
            return false;
        };
        let after = self.ahead.get(1).and_then(|(_, read)| read.as_ref().ok());
        self.known.get(number) == Some(&next.record.id)
            || after.is_some_and(|after| after.record.envelope.parent == next.record.id)
    }

    /// The copy of a record in its segment, if the chain vouches for it.
    async fn stand_in(
        &mut self,
        number: u64,
        parent: Option<Digest>,
        id: Option<Digest>,
    ) -> Result<Option<StoredRecord>> {
        let to = number.div_ceil(SEGMENT_RECORDS) * SEGMENT_RECORDS;
        if self.segment.as_ref().is_none_or(|(held, _)| *held != to) {
            let records = read_segment(self.store, self.inventory, to).await?;
            self.segment = Some((to, records.unwrap_or_default()));
        }
        let copies = self.segment.iter().flat_map(|(_, records)| records);
        let mut copies = copies.filter(|copy| copy.record.envelope.number == number);
        Ok(copies
            .next()
            .filter(|copy| is_proven(copy, parent, id))
            .cloned())
    }

    async fn fold(
        &mut self,
        number: u64,
        stored: Option<&StoredRecord>,
        id: Option<Digest>,
    ) -> Result<()> {
        self.is_resumed = false;
        match (self.state.as_mut(), stored) {
            (Some(state), Some(stored)) => match state.apply(&stored.record) {
                Ok(Applied::ContinuesFrom(from)) => {
                    let began = self.began.clone();
                    let earlier = earlier(self.store, began, from.number).await?;
                    self.state = self.state.take().zip(earlier).map(|(mut state, earlier)| {
                        state.continue_from(earlier, &stored.record);
                        state
                    });
                    self.note_epoch();
                    if self.state.is_some() {
                        return Ok(());
                    }
                }
                Ok(_) => {
                    self.note_epoch();
                    return Ok(());
                }
                Err(FoldError::UnknownKind { number, kind }) => {
                    return Err(Error::TooNew {
                        what: format!("record {number} of kind {kind:?}"),
                    });
                }
                Err(FoldError::Chain { .. } | FoldError::Retired { .. }) => self.state = None,
            },
            _ => self.state = None,
        }
        let Some(id) = stored.map(|stored| stored.record.id).or(id) else {
            return Ok(());
        };
        for copy in self
            .inventory
            .checkpoints
            .get(&number)
            .filter(|_| self.asks_checkpoints)
            .into_iter()
            .flatten()
        {
            let key = layout::checkpoint(number, *copy);
            if let Some((checkpoint, tree)) = read_checkpoint(self.store, &key).await?
                && checkpoint.at == (RecordRef { number, id })
            {
                self.resume(checkpoint.into_state(tree));
                return Ok(());
            }
        }
        let at = RecordRef { number, id };
        if let Some(given) = self.given.take_if(|given| given.head == at) {
            self.resume(given);
        }
        Ok(())
    }

    /// Goes on from a state that does not follow from the one before.
    fn resume(&mut self, state: State) {
        // The state where its epoch began is not known, unless it begins there.
        self.began = (state.epoch_began() == state.head.number).then(|| state.clone());
        self.state = Some(state);
        self.is_resumed = true;
    }

    /// Keeps the state where an epoch begins.
    fn note_epoch(&mut self) {
        let began = |state: &&State| state.epoch() > 0 && state.epoch_began() == state.head.number;
        if let Some(state) = self.state.as_ref().filter(began) {
            self.began = Some(state.clone());
        }
    }
}

/// The state at an earlier record of an epoch, from where that began; `None` where it can't be told.
async fn earlier(store: &Store, began: Option<State>, at: u64) -> Result<Option<State>> {
    let Some(mut state) = began else {
        return Ok(None);
    };
    while state.head.number < at {
        let Ok(stored) = read(store, state.head.number + 1).await? else {
            return Ok(None);
        };
        match state.apply(&stored.record) {
            Ok(Applied::ContinuesFrom(_)) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
    Ok(Some(state))
}

/// Whether a record is the log's, as far as its neighbours tell. `is_vouched` says that something
/// vouches for the next record, so that it and not this one is believed.
fn judge(
    stored: &StoredRecord,
    parent: Option<Digest>,
    id: Option<Digest>,
    is_vouched: bool,
) -> Result<(), String> {
    let follows = parent.is_none_or(|parent| stored.record.envelope.parent == parent);
    let is_followed = id.map(|id| stored.record.id == id);
    match (follows, is_followed) {
        (true, None | Some(true)) => Ok(()),
        (true, Some(false)) if !is_vouched => Ok(()),
        (true, Some(false)) => Err("it is not the record that the next one follows".into()),
        // What stands before can't be told then.
        (false, Some(true)) => Ok(()),
        (false, _) => Err("it does not follow the record before it".into()),
    }
}

/// Whether the chain vouches for a copy of a record: nothing contradicts, and something agrees.
pub(super) fn is_proven(copy: &StoredRecord, parent: Option<Digest>, id: Option<Digest>) -> bool {
    let agrees = |known: Option<Digest>, own| known.is_none_or(|known| known == own);
    let record = &copy.record;
    (parent.is_some() || id.is_some())
        && agrees(parent, record.envelope.parent)
        && agrees(id, record.id)
        && check_inline(copy).is_ok()
}

/// An object as it lies there: what is wrong with it is an answer and no error, unless the store
/// doesn't give any.
pub(super) async fn read_object(store: &Store, key: &str) -> Result<Result<Bytes, String>> {
    match store.read(key).await {
        Ok(Some(bytes)) => Ok(Ok(bytes)),
        Ok(None) => Ok(Err(String::new())),
        Err(Error::Damaged { reason, .. }) => Ok(Err(reason)),
        Err(error) => Err(error),
    }
}

async fn read(store: &Store, number: u64) -> Result<Read> {
    let bytes = match read_object(store, &layout::record(number)).await? {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(StoredRecord::read(number, bytes).map_err(reason_of))
}

/// The records of a segment that can be read; `None` when it isn't there.
pub(super) async fn read_segment(
    store: &Store,
    inventory: &Inventory,
    to: u64,
) -> Result<Option<Vec<StoredRecord>>> {
    let Some(from) = inventory.segments.get(&to) else {
        return Ok(None);
    };
    let key = layout::segment(*from, to);
    let Ok(bytes) = read_object(store, &key).await? else {
        return Ok(None);
    };
    Ok(Some(segment::salvage(&key, &bytes, *from, to)))
}

/// A checkpoint with its tree; `None` when either can't be used.
pub(super) async fn read_checkpoint(
    store: &Store,
    key: &str,
) -> Result<Option<(Checkpoint, statehold_core::tree::Tree)>> {
    let Ok(bytes) = read_object(store, key).await? else {
        return Ok(None);
    };
    let Ok(checkpoint) = Checkpoint::read(key, &bytes) else {
        return Ok(None);
    };
    let objects = read_trees(store, &checkpoint.tree).await?;
    let tree = tree::read(&checkpoint.tree, &objects).ok();
    Ok(tree.map(|tree| (checkpoint, tree)))
}

/// The objects of a tree that are there.
pub(super) async fn read_trees(
    store: &Store,
    reference: &TreeRef,
) -> Result<HashMap<TreeId, Bytes>> {
    let mut objects = HashMap::new();
    for id in std::iter::once(&reference.id).chain(&reference.others) {
        if let Ok(bytes) = read_object(store, &layout::tree(*id)).await? {
            objects.insert(*id, bytes);
        }
    }
    Ok(objects)
}
