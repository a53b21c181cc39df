//! What the log says about collecting: what is expired, condemned, removed, retired, and held.
//!
//! It takes two records. A `compact` condemns: from then on nobody names what it condemns, and
//! what is still needed of it lies elsewhere. A `remove`, days later, lists what nothing names any
//! more; only then is anything deleted. The rules are those of `statehold-model`; each is a
//! [`Violation`] here.

mod bodies;
mod moves;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub(crate) use bodies::first_line;
pub use bodies::{CompactBody, HoldBody, Listing, RemoveBody};
pub use moves::{Moves, Place};

use crate::entry::{ContentObject, Entry};
use crate::id::PackId;
use crate::limits::{COLLECTED_PACKS_MAX, LISTINGS_MAX};
use crate::numbers::Numbers;
use crate::record::{Envelope, RecordRef};
use crate::retention::Policy;
use crate::state::{State, Violation};
use crate::tree::Tree;

/// The tables of a state that collecting needs. They grow with what was ever condemned, 16 bytes a pack and some,
/// and never with the listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// How long points are kept; [`Policy::default`] where nobody decided.
    pub policy: Option<Policy>,
    /// Records whose states are kept no longer.
    pub expired: Numbers,
    /// Packs that nobody may name any more, for good: also those that no record ever knew.
    pub condemned: BTreeMap<PackId, Condemned>,
    /// Packs of uploads under way, each with the record that says so.
    pub held: BTreeMap<PackId, u64>,
    /// Up to which record content may not be named any more, by the compaction that said so.
    pub retiring: BTreeMap<u64, u64>,
    /// Records up to this one are retired: their envelopes alone are left.
    pub cut: u64,
    /// The trees that stand in for what is kept before `cut`, in order.
    pub listings: Vec<Listing>,
    /// The newest `compact`, whose body says where content lies now; 0 before the first.
    pub compacted: u64,
    /// The newest `compact` or `remove`; 0 before the first.
    pub collected: u64,
}

/// What became of a pack that is condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// The record that condemned it.
    pub by: u64,
    /// Whether a `remove` has named it since, so that it may be deleted.
    pub removed: bool,
}

impl Collection {
    /// How long points are kept.
    pub fn policy(&self) -> Policy {
        self.policy.unwrap_or_default()
    }

    /// Content that rides in records up to this one may not be named any more.
    pub fn condemned_records(&self) -> u64 {
        let retiring = self.retiring.last_key_value().map_or(0, |(_, last)| *last);
        retiring.max(self.cut)
    }

    /// Whether a record may name content that lies there.
    pub fn may_name(&self, object: ContentObject) -> bool {
        match object {
            ContentObject::Pack(pack) => !self.condemned.contains_key(&pack),
            ContentObject::Record(number) => number > self.condemned_records(),
        }
    }

    /// The tree that stands in for the state at a record.
    pub fn listing(&self, number: u64) -> Option<&Listing> {
        let at = self.listings.partition_point(|listing| listing.to < number);
        self.listings
            .get(at)
            .filter(|listing| listing.from <= number)
    }

    /// The nearest records before and after one whose states are kept.
    pub fn nearest(&self, number: u64) -> (Option<u64>, u64) {
        match self.expired.range_of(number) {
            None => (Some(number), number),
            Some((first, last)) => {
                let before = first.checked_sub(1).filter(|before| *before > 0);
                (before, last.saturating_add(1))
            }
        }
    }

    /// Refuses to name the state at a record that is kept no longer.
    pub(crate) fn check_kept(&self, at: u64) -> Result<(), Violation> {
        if self.expired.contains(at) {
            return Err(Violation::Expired { at });
        }
        Ok(())
    }

    fn check_order(&self, base: RecordRef) -> Result<(), Violation> {
        if self.collected > base.number {
            let by = self.collected;
            return Err(Violation::CollectedSince { by });
        }
        Ok(())
    }

    pub(crate) fn check_hold(&self, hold: &HoldBody) -> Result<(), Violation> {
        // One that is held already is so once more.
        let is_new = |pack: &&PackId| !self.held.contains_key(*pack);
        let held = self.held.len() + hold.packs.iter().filter(is_new).count();
        if held > COLLECTED_PACKS_MAX || hold.packs.len() > COLLECTED_PACKS_MAX {
            return Err(Violation::TooMany { what: "held packs" });
        }
        let mut packs = hold.packs.iter();
        match packs.find(|pack| self.condemned.contains_key(pack)) {
            Some(pack) => Err(Violation::Condemned { pack: *pack }),
            None => Ok(()),
        }
    }

    /// Takes in what a compaction lets go.
    pub fn compact(&mut self, number: u64, compact: &CompactBody) {
        self.expired.extend(&compact.expired);
        for pack in &compact.condemned {
            let condemned = Condemned {
                by: number,
                removed: false,
            };
            self.condemned.entry(*pack).or_insert(condemned);
            self.held.remove(pack);
        }
        if compact.records > self.condemned_records() {
            self.retiring.insert(number, compact.records);
        }
        self.compacted = number;
        self.collected = number;
    }

    /// Takes in what a removal says.
    pub fn remove(&mut self, number: u64, remove: &RemoveBody) {
        for pack in &remove.packs {
            if let Some(condemned) = self.condemned.get_mut(pack) {
                condemned.removed = true;
            }
        }
        self.cut = remove.cut;
        self.listings.clone_from(&remove.listings);
        self.retiring.retain(|_, records| *records > remove.cut);
        self.collected = number;
    }
}

/// Says whether a compaction keeps the rules. It may condemn what is in use, or it would never land while
/// others push.
pub(crate) fn check_compact(
    state: &State,
    envelope: &Envelope,
    compact: &CompactBody,
) -> Result<(), Violation> {
    let base = compact.base;
    let collection = &state.collection;
    collection.check_order(base)?;
    // What is at the base or came after it was not superseded when the collector looked.
    if compact
        .expired
        .last()
        .is_some_and(|last| last >= base.number)
    {
        return Err(Violation::TooNew { base: base.number });
    }
    let mut snapshots = state.snapshots.iter();
    if let Some((id, _)) = snapshots.find(|(_, named)| compact.expired.contains(named.at)) {
        return Err(Violation::Named { id: id.clone() });
    }
    if compact.records > base.number {
        return Err(Violation::NotYet {
            at: compact.records,
        });
    }
    let packs: BTreeSet<&PackId> = compact.condemned.iter().collect();
    if let Some(new) = envelope
        .draft
        .packs
        .iter()
        .find(|new| packs.contains(&new.id))
    {
        return Err(Violation::Condemned { pack: new.id });
    }
    let is_left = |object| match object {
        ContentObject::Pack(pack) => {
            packs.contains(&pack) || collection.condemned.contains_key(&pack)
        }
        ContentObject::Record(number) => {
            number <= compact.records || number <= collection.condemned_records()
        }
    };
    let length = |pack: PackId| {
        let new = envelope.draft.packs.iter().find(|new| new.id == pack);
        let known = || state.packs.get(&pack).map(|known| known.bytes);
        let stays = !is_left(ContentObject::Pack(pack));
        new.map(|new| new.bytes).or_else(known).filter(|_| stays)
    };
    let mut arrives: BTreeMap<PackId, Option<u64>> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for ((from, offset), to) in compact.moves.iter() {
        let lands = match to {
            None => gone.insert((from, offset)),
            Some((pack, now)) => {
                let length = arrives.entry(pack).or_insert_with(|| length(pack));
                length.is_some_and(|length| now < length)
            }
        };
        if !is_left(from) || !lands {
            return Err(Violation::Move {
                object: from.to_string(),
            });
        }
    }
    let lost = |object, offset| gone.contains(&(object, offset));
    match state.tree.names(lost).filter(|_| !gone.is_empty()) {
        Some((path, _)) => Err(Violation::StillNamed { path }),
        None => Ok(()),
    }
}

/// Says whether a removal keeps the rules, as far as a state can know: that no kept point before the
/// newest names what it removes is what the collector has computed over the log. What is condemned and
/// unnamed cannot be named again, so it stays right whatever lands before the removal.
pub(crate) fn check_remove(state: &State, remove: &RemoveBody) -> Result<(), Violation> {
    let base = remove.base;
    let collection = &state.collection;
    collection.check_order(base)?;
    let is_condemned = |pack: &PackId| {
        let condemned = collection.condemned.get(pack);
        condemned.is_some_and(|condemned| condemned.by <= base.number && !condemned.removed)
    };
    if let Some(pack) = remove.packs.iter().find(|pack| !is_condemned(pack)) {
        return Err(Violation::NotCondemned { pack: *pack });
    }
    let packs: BTreeSet<&PackId> = remove.packs.iter().collect();
    let goes = |object, _| match object {
        ContentObject::Pack(pack) => packs.contains(&pack),
        ContentObject::Record(number) => number <= remove.cut,
    };
    if let Some((path, _)) = state.tree.names(goes) {
        return Err(Violation::StillNamed { path });
    }
    check_cut(collection, remove)
}

/// Records are cut that a compaction condemned, and what is kept before the cut has its listing. The
/// compaction's own body stays: it says where content lies now.
fn check_cut(collection: &Collection, remove: &RemoveBody) -> Result<(), Violation> {
    let cut = remove.cut;
    let is_meant = cut >= collection.cut
        && cut <= collection.condemned_records()
        && (cut < collection.compacted || cut == 0);
    if !is_meant {
        return Err(Violation::Cut { cut });
    }
    if remove.listings.len() > LISTINGS_MAX {
        return Err(Violation::TooMany { what: "listings" });
    }
    let mut last = 0;
    for listing in &remove.listings {
        if listing.from <= last || listing.to < listing.from || listing.to >= cut {
            return Err(Violation::Cut { cut });
        }
        last = listing.to;
    }
    let listed = remove.listings.iter();
    let listed: Numbers = listed.map(|listing| (listing.from, listing.to)).collect();
    let mut kept = collection.expired.gaps(cut.saturating_sub(1));
    match kept.find(|(first, last)| !listed.covers(*first..=*last)) {
        Some((at, _)) => Err(Violation::StillNeeded { at }),
        None => Ok(()),
    }
}

impl Tree {
    /// The first path that has content at a place of which this is so.
    pub(crate) fn names(
        &self,
        is_so: impl Fn(ContentObject, u64) -> bool,
    ) -> Option<(crate::path::RepoPath, Place)> {
        for (path, entry) in self.iter() {
            let Entry::File(file) = entry else { continue };
            for chunk in &file.chunks {
                if let Some(object) = chunk.at.object
                    && is_so(object, chunk.at.offset)
                {
                    return Some((path.clone(), (object, chunk.at.offset)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
