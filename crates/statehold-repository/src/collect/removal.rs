//! The only code that deletes, and that cuts records down to their envelopes.
//!
//! What goes stands in the log: packs that a `remove` named, and everything that readers need no more
//! because of where it cut the log. So it is done again and again until it is done, by whoever comes next. Trees
//! alone are named by no record: those go that nothing named when a collector looked, before its own
//! `remove` landed. Another collector's listing that names one was made before as well, and is void then.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use statehold_core::collection::Collection;
use statehold_core::id::TreeId;

use crate::error::Result;
use crate::format::header::{HEADER_BYTES, is_retired};
use crate::format::record::StoredRecord;
use crate::layout;
use crate::store::Store;

/// Requests under way at once.
const PARALLEL: usize = 16;
/// So many retired records in a row say that all before them are: they are cut in order, and at
/// most [`PARALLEL`] at once.
const RETIRED_IN_A_ROW: u64 = 4 * PARALLEL as u64;

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Packs.
    pub packs: u64,
    /// Records cut down to their envelopes.
    pub records: u64,
    /// Segments, checkpoints and trees.
    pub caches: u64,
}

/// Deletes what the log says is deleted, and these trees, out of what a listing showed. Done twice it
/// does nothing the second time.
pub(crate) async fn run<'a>(
    store: &Store,
    collection: &Collection,
    listed: impl IntoIterator<Item = &'a str>,
    trees: &[TreeId],
) -> Result<Deleted> {
    let (mut packs, mut caches) = (Vec::new(), Vec::new());
    for key in listed {
        let is_before_cut = match (layout::parse_segment(key), layout::parse_checkpoint(key)) {
            (Some((from, _)), _) => from <= collection.cut,
            (_, Some((number, _))) => number < collection.cut,
            _ => false,
        };
        if is_removed(collection, key) {
            packs.push(key.to_owned());
        } else if is_before_cut {
            caches.push(key.to_owned());
        }
    }
    caches.extend(trees.iter().map(|id| layout::tree(*id)));
    let mut deleted = Deleted {
        packs: delete(store, packs).await?,
        ..Deleted::default()
    };
    // A segment has whole copies of its records, so it goes first.
    deleted.caches = delete(store, caches).await?;
    deleted.records = retire(store, collection.cut).await?;
    Ok(deleted)
}

/// Whether the log says that a pack is deleted.
pub(super) fn is_removed(collection: &Collection, key: &str) -> bool {
    let condemned = layout::parse_pack(key).and_then(|id| collection.condemned.get(&id));
    condemned.is_some_and(|condemned| condemned.removed)
}

async fn delete(store: &Store, keys: Vec<String>) -> Result<u64> {
    let count = keys.len() as u64;
    let delete = |key: String| async move { store.delete(&key).await };
    stream::iter(keys)
        .map(delete)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(count)
}

/// Cuts records up to one down to their envelopes, oldest first.
async fn retire(store: &Store, cut: u64) -> Result<u64> {
    let mut first = cut;
    let mut in_a_row = 0;
    while first > 0 && in_a_row < RETIRED_IN_A_ROW {
        let beginning = store
            .read_beginning(&layout::record(first), HEADER_BYTES as u64)
            .await?;
        let is_cut = beginning.is_none_or(|beginning| is_retired(&beginning));
        in_a_row = if is_cut { in_a_row + 1 } else { 0 };
        first -= 1;
    }
    let retire = |number: u64| async move {
        let key = layout::record(number);
        let Some(bytes) = store.read(&key).await? else {
            return Ok(0);
        };
        if is_retired(&bytes) {
            return Ok(0);
        }
        let envelope = StoredRecord::read(number, bytes)?.retired()?;
        store.replace(&key, envelope).await?;
        Ok::<_, crate::Error>(1)
    };
    let retired: Vec<u64> = stream::iter(first + 1..=cut)
        .map(retire)
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    Ok(retired.into_iter().sum())
}
