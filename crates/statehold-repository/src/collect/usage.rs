//! What takes space in a repository, and what letting go of it would free.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use statehold_core::collection::Place;
use statehold_core::numbers::Numbers;
use statehold_core::retention::Policy;

use super::look::Look;
use super::plan::{current, is_kept, orphans};
use super::{Settings, millis};
use crate::layout;

/// Stored bytes, by what they are there for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All objects of the repository.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Content of the newest state.
    pub newest: u64,
    /// Content that earlier points keep, by how many days ago it was last part of the directory, at most.
    pub history: Vec<(u32, u64)>,
    /// Packs that are condemned and to be deleted later.
    pub condemned: u64,
    /// Packs that the log says are deleted, and that the store still has.
    #[serde(default)]
    pub undeleted: u64,
    /// Packs that no record knows, and that are no upload under way.
    pub orphans: u64,
    /// What would be free without a snapshot that alone keeps it, by its name.
    pub snapshots: Vec<(String, u64)>,
    /// What keeping less would free, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter: Option<Shorter>,
}

/// What a compaction would free if every point were kept for so many days only, and what else the policy
/// says stayed as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shorter {
    /// Days.
    pub within_days: u32,
    /// Points that would go, of those that are kept now.
    pub points: usize,
    /// Content that nothing but they keep, in stored bytes.
    pub bytes: u64,
}

/// Ages that history is told by, in days.
const AGES: [u32; 5] = [1, 7, 30, 365, u32::MAX];
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

pub(super) fn usage(look: &Look, settings: Settings, within_days: Option<u32>) -> Usage {
    let upload_ms = millis(settings.upload);
    let floor_ms = millis(settings.floor);
    let collection = &look.state.collection;
    let head = look.state.head.number;
    // Each frame once: in the newest state, or by the latest point that has it.
    let mut last: HashMap<Place, (u64, u64)> = HashMap::new();
    let kept = look
        .spans
        .iter()
        .filter(|span| is_kept(span, &collection.expired));
    for span in kept {
        if let Some(place) = current(span, &look.moves) {
            let (to, stored) = last.entry(place).or_default();
            *to = span.to.max(*to);
            *stored = u64::from(span.stored);
        }
    }
    let mut usage = Usage {
        objects: look.objects.len() as u64,
        bytes: look.objects.values().map(|listed| listed.bytes).sum(),
        history: AGES.iter().map(|days| (*days, 0)).collect(),
        ..Usage::default()
    };
    for (to, stored) in last.into_values() {
        if to == head {
            usage.newest += stored;
            continue;
        }
        let superseded = look.objects.get(&layout::record(to + 1));
        let age = superseded.map_or(0, |listed| {
            look.now
                .as_millis()
                .saturating_sub(listed.modified.as_millis())
        });
        let is_younger = |(days, _): &&mut (u32, u64)| age < i64::from(*days) * DAY_MS;
        if let Some((_, bytes)) = usage.history.iter_mut().find(is_younger) {
            *bytes += stored;
        }
    }
    let length = |id| look.pack(id).map_or(0, |listed| listed.bytes);
    let (undeleted, condemned): (Vec<_>, Vec<_>) = collection
        .condemned
        .iter()
        .partition(|(_, one)| one.removed);
    usage.condemned = condemned.into_iter().map(|(id, _)| length(*id)).sum();
    usage.undeleted = undeleted.into_iter().map(|(id, _)| length(*id)).sum();
    usage.orphans = orphans(look, upload_ms).into_iter().map(length).sum();
    usage.snapshots = freed_by_snapshots(look, floor_ms);
    usage.shorter = within_days.map(|within_days| {
        let policy = Policy {
            within_days,
            ..collection.policy()
        };
        let expiry = policy.expiry(&look.points, look.now, floor_ms);
        let mut expired = collection.expired.clone();
        expired.extend(&expiry.numbers);
        Shorter {
            within_days,
            points: expiry.points,
            bytes: kept_bytes(look, &collection.expired) - kept_bytes(look, &expired),
        }
    });
    usage
}

/// Stored bytes of the content that points name which are not among these, each piece once.
fn kept_bytes(look: &Look, expired: &Numbers) -> u64 {
    let spans = look.spans.iter().filter(|span| is_kept(span, expired));
    let places: HashMap<Place, u64> = spans
        .filter_map(|span| Some((current(span, &look.moves)?, u64::from(span.stored))))
        .collect();
    places.values().sum()
}

/// What each snapshot alone keeps: frames of which every kept point is the one that it names.
fn freed_by_snapshots(look: &Look, floor_ms: i64) -> Vec<(String, u64)> {
    let collection = &look.state.collection;
    let policy = collection.policy();
    let mut names: HashMap<u64, Vec<&str>> = HashMap::new();
    for (id, snapshot) in &look.state.snapshots {
        let point = look.points.iter().find(|point| point.to >= snapshot.at);
        if let Some(point) = point {
            names.entry(point.from).or_default().push(id.as_str());
        }
    }
    let mut freed = Vec::new();
    for (from, names) in names {
        let [name] = names[..] else { continue };
        let mut points = look.points.clone();
        for point in points.iter_mut().filter(|point| point.from == from) {
            point.is_named = false;
        }
        let mut expired = collection.expired.clone();
        let before = policy.expiry(&look.points, look.now, floor_ms).numbers;
        expired.extend(&policy.expiry(&points, look.now, floor_ms).numbers);
        let mut with = collection.expired.clone();
        with.extend(&before);
        let bytes = kept_bytes(look, &with) - kept_bytes(look, &expired);
        freed.push((name.to_owned(), bytes));
    }
    freed.sort_unstable();
    freed
}
