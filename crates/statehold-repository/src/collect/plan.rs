//! What a collector does, decided without any I/O: what is let go, what is condemned, and what has to move.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use statehold_core::collection::{Moves, Place};
use statehold_core::entry::ContentObject;
use statehold_core::id::PackId;
use statehold_core::limits::{
    COLLECTED_PACKS_MAX, HOLD_HOURS_MAX, LISTINGS_MAX, MOVES_MAX, SEGMENT_RECORDS, UPLOAD_HOURS_MAX,
};
use statehold_core::numbers::Numbers;
use statehold_core::retention::{Expiry, PointAge};

use super::look::{Look, Span};
use crate::layout;
use crate::store::Listed;

/// Stored bytes that one compaction moves at most; the next one goes on.
const MOVED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What a compaction is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Nothing that was superseded within so many milliseconds expires.
    pub(super) floor_ms: i64,
    /// What no record knows may be an upload under way for so many milliseconds.
    pub(super) upload_ms: i64,
    /// Whether an expiry of over half of the points is meant.
    pub(super) is_approved: bool,
    /// Whether the content that was asked about goes for good.
    pub(super) is_purge: bool,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What the policy lets go.
    pub(super) expiry: Expiry,
    /// Whether that waits for somebody to approve it.
    pub(super) is_held: bool,
    /// Records whose states are let go.
    pub(super) expired: Numbers,
    /// Packs to condemn.
    pub(super) condemned: Vec<PackId>,
    /// How many of them no record knows.
    pub(super) orphans: usize,
    /// Content that rides in records up to this one is condemned; 0 for none.
    pub(super) records: u64,
    /// Frames to copy.
    pub(super) copies: Vec<Span>,
    /// Frames that are purged.
    pub(super) gone: BTreeSet<Place>,
    /// Frames that were purged before, where they may lie still.
    purged: BTreeSet<Place>,
    /// Where frames that any kept state names lie now, by where they lay then.
    needed: BTreeMap<Place, Option<Place>>,
}

impl Plan {
    /// Whether there is nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.expired.is_empty()
            && self.condemned.is_empty()
            && self.records == 0
            && self.copies.is_empty()
            && self.gone.is_empty()
    }

    /// The whole table of moves, once it is known where the copies lie.
    pub(super) fn moves(&self, copied: &HashMap<Place, (PackId, u64)>) -> Moves {
        let lies = |now: Place| match copied.get(&now) {
            Some(copy) => Some(*copy),
            None => match now {
                (ContentObject::Pack(pack), offset) => Some((pack, offset)),
                (ContentObject::Record(_), _) => None,
            },
        };
        let moved = self.needed.iter().filter_map(|(then, now)| match now {
            None => Some((*then, None)),
            Some(now) if self.gone.contains(now) => Some((*then, None)),
            Some(now) if now == then && !copied.contains_key(now) => None,
            Some(now) => lies(*now).map(|now| (*then, Some(now))),
        });
        // Named where they lie, so that whoever removes knows what holds them.
        let purged = self.gone.union(&self.purged);
        moved.chain(purged.map(|place| (*place, None))).collect()
    }
}

/// Whether any state in a span is kept.
pub(super) fn is_kept(span: &Span, expired: &Numbers) -> bool {
    !expired.covers(span.from..=span.to)
}

/// Where a frame lies now; `None` if it was purged.
pub(super) fn current(span: &Span, moves: &Moves) -> Option<Place> {
    match moves.of(span.place) {
        None => Some(span.place),
        Some(moved) => moved.map(|(pack, offset)| (ContentObject::Pack(pack), offset)),
    }
}

/// The places from which content was purged, as far as anything may lie there still.
pub(super) fn purged(moves: &Moves) -> impl Iterator<Item = Place> {
    let gone = moves.iter().filter(|(_, to)| to.is_none());
    gone.map(|(from, _)| from)
}

/// Decides what to do.
pub(super) fn plan(look: &Look, wish: Wish) -> Plan {
    // A log that was ended takes no record more.
    if look.state.fenced.is_some() {
        return Plan::default();
    }
    let collection = &look.state.collection;
    let expiry = collection
        .policy()
        .expiry(&look.points, look.now, wish.floor_ms);
    let is_held = expiry.needs_approval() && !wish.is_approved;
    let base = look.state.head.number;
    // The newest point's range ends at the base, and stays.
    let ranges = expiry.numbers.ranges().filter(|(_, last)| *last < base);
    let expired: Numbers = ranges.filter(|_| !is_held && !wish.is_purge).collect();
    let mut gone_by_then = collection.expired.clone();
    gone_by_then.extend(&expired);

    let mut plan = Plan {
        is_held: is_held && !wish.is_purge,
        expiry,
        expired,
        ..Plan::default()
    };
    let mut live: BTreeMap<Place, &Span> = BTreeMap::new();
    for span in look
        .spans
        .iter()
        .filter(|span| is_kept(span, &gone_by_then))
    {
        let now = current(span, &look.moves);
        plan.needed.insert(span.place, now);
        if let Some(now) = now {
            live.insert(now, span);
        }
    }
    let is_there = |(object, _): &Place| match object {
        ContentObject::Pack(id) => {
            let condemned = collection.condemned.get(id);
            condemned.map_or(look.state.packs.contains_key(id), |one| !one.removed)
        }
        ContentObject::Record(number) => *number > collection.cut,
    };
    plan.purged = purged(&look.moves).filter(is_there).collect();
    if wish.is_purge {
        // Wherever it lies still, also what is expired, and what was moved and not deleted yet.
        let wanted = look.spans.iter();
        let wanted = wanted.filter(|span| look.wanted.contains(&span.digest));
        let places = wanted.flat_map(|span| {
            let now = current(span, &look.moves);
            std::iter::once(span.place).chain(now)
        });
        let places = places.filter(|place| is_there(place) && !plan.purged.contains(place));
        plan.gone = places.collect();
    }
    plan.records = records(look, &plan, &gone_by_then);
    let left = plan.records.max(collection.condemned_records());
    let mut bytes: HashMap<ContentObject, u64> = HashMap::new();
    for ((object, _), span) in live.iter().filter(|(place, _)| !plan.gone.contains(*place)) {
        *bytes.entry(*object).or_default() += u64::from(span.stored);
    }
    plan.condemn(look, wish, &bytes);
    let condemned: BTreeSet<PackId> = plan.condemned.iter().copied().collect();
    let goes = |object: ContentObject| match object {
        ContentObject::Pack(pack) => {
            condemned.contains(&pack) || collection.condemned.contains_key(&pack)
        }
        ContentObject::Record(number) => number <= left,
    };
    let stays = |place: &Place| !goes(place.0) || plan.gone.contains(place);
    let copies = live.iter().filter(|(place, _)| !stays(place));
    plan.copies = copies
        .map(|(place, span)| Span {
            place: *place,
            ..**span
        })
        .collect();
    plan
}

/// Up to which record content is condemned: what has expired lies before, and is not worth a whole record
/// with a body. Where content is purged, that which it rides in.
fn records(look: &Look, plan: &Plan, expired: &Numbers) -> u64 {
    let whole = |number: u64| number / SEGMENT_RECORDS * SEGMENT_RECORDS;
    let mut last = whole(expired.last().unwrap_or(0));
    // Everything before it that is kept has a listing of its own.
    let is_kept = |point: &&PointAge| !expired.contains(point.from);
    if let Some(one_more) = look.points.iter().filter(is_kept).nth(LISTINGS_MAX) {
        last = last.min(whole(one_more.from));
    }
    let purged = plan.gone.iter().filter_map(|(object, _)| match object {
        ContentObject::Record(number) => Some(*number),
        ContentObject::Pack(_) => None,
    });
    let last = last.max(purged.max().unwrap_or(0));
    // A log does not begin at what was left behind, but where the epoch goes on from.
    let epochs = look.state.epochs.iter();
    let left = epochs
        .filter(|epoch| epoch.leaves(last))
        .map(|epoch| epoch.from.number);
    let last = left.min().unwrap_or(last);
    if last > look.state.collection.condemned_records() {
        last
    } else {
        0
    }
}

impl Plan {
    /// Condemns packs less than half alive, the emptiest first, and what no record knows.
    fn condemn(&mut self, look: &Look, wish: Wish, live: &HashMap<ContentObject, u64>) {
        let collection = &look.state.collection;
        let holds_gone: BTreeSet<ContentObject> =
            self.gone.iter().map(|(object, _)| *object).collect();
        let alive = |id: &PackId| live.get(&ContentObject::Pack(*id)).copied().unwrap_or(0);
        let mut packs: Vec<(u64, u64, PackId)> = look
            .state
            .packs
            .iter()
            .filter(|(id, pack)| {
                let holds_gone = holds_gone.contains(&ContentObject::Pack(**id));
                let is_empty = alive(id).saturating_mul(2) < pack.bytes;
                let is_known = collection.condemned.contains_key(*id);
                !is_known && (holds_gone || is_empty && !wish.is_purge)
            })
            .map(|(id, pack)| {
                (
                    alive(id).saturating_mul(1_000) / pack.bytes.max(1),
                    alive(id),
                    *id,
                )
            })
            .collect();
        packs.sort_unstable();
        let (mut moved, mut frames) = (0, 0_u64);
        for (_, alive, id) in packs {
            // A chunk is rarely below a hundred bytes with its table line, so this bounds frames as well.
            moved += alive;
            frames += alive / 100;
            let is_full = moved > MOVED_BYTES_MAX || frames > MOVES_MAX as u64 / 4;
            if is_full || self.condemned.len() >= COLLECTED_PACKS_MAX / 2 {
                break;
            }
            self.condemned.push(id);
        }
        if wish.is_purge {
            return;
        }
        let orphans = orphans(look, wish.upload_ms);
        let room = COLLECTED_PACKS_MAX.saturating_sub(self.condemned.len());
        self.orphans = orphans.len().min(room);
        self.condemned.extend(orphans.into_iter().take(room));
    }
}

/// How many times as long as an upload's a hold counts.
const HOLD_UPLOADS: i64 = (HOLD_HOURS_MAX / UPLOAD_HOURS_MAX) as i64;

/// Packs that no record knows, and that are no upload under way: they were neither written nor held of late.
pub(super) fn orphans(look: &Look, upload_ms: i64) -> Vec<PackId> {
    let state = &look.state;
    let is_old = |listed: &Listed, bound_ms: i64| {
        let now = look.now.as_millis();
        now.saturating_sub(listed.modified.as_millis()) >= bound_ms
    };
    let hold_ms = upload_ms.saturating_mul(HOLD_UPLOADS);
    // A hold is as old as its record is in the store.
    let is_held = |id: &PackId| {
        let by = state.collection.held.get(id);
        let record = by.and_then(|by| look.objects.get(&layout::record(*by)));
        record.is_some_and(|record| !is_old(record, hold_ms))
    };
    let is_known =
        |id: &PackId| state.packs.contains_key(id) || state.collection.condemned.contains_key(id);
    let there = look
        .objects
        .values()
        .filter(|listed| is_old(listed, upload_ms));
    let there = there.filter_map(|listed| layout::parse_pack(&listed.key));
    // One that is held and nowhere to be seen would be held for good.
    let absent = state.collection.held.keys().copied();
    let absent = absent.filter(|id| look.pack(*id).is_none());
    there
        .chain(absent)
        .filter(|id| !is_known(id) && !is_held(id))
        .collect()
}
