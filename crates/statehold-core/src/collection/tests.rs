//! Each rule of collecting, by the record that breaks it.

use super::*;
use crate::digest::Digest;
use crate::entry::Location;
use crate::id::TreeId;
use crate::record::{
    Body, ForgetBody, Kind, NewPack, PushBody, Record, RollbackBody, SnapshotBody, Upsert,
};
use crate::state::tests::{chunk, empty, file_of, path, push, record, upsert};
use crate::state::{Applied, FoldError};
use crate::time::Timestamp;
use crate::tree::TreeRef;

const OLD: PackId = PackId::from_bytes([1; 16]);
const NEW: PackId = PackId::from_bytes([2; 16]);
const ORPHAN: PackId = PackId::from_bytes([3; 16]);

fn in_pack(pack: PackId, offset: u64) -> Entry {
    file_of(vec![chunk(Some(ContentObject::Pack(pack)), offset)])
}

fn introducing(mut record: Record, packs: &[PackId]) -> Record {
    let packs = packs.iter().map(|id| NewPack {
        id: *id,
        bytes: 100,
    });
    record.envelope.draft.packs = packs.collect();
    record
}

/// Three points: `a` lies in a pack, then `b` beside it, then `a` is gone and `c` rides in its record.
fn three_points() -> State {
    let mut state = empty();
    let first = push(&state, vec![upsert("a", in_pack(OLD, 16))], &[]);
    apply(&mut state, &introducing(first, &[OLD]));
    let second = push(&state, vec![upsert("b", in_pack(OLD, 40))], &[]);
    apply(&mut state, &second);
    let third = upsert("c", file_of(vec![chunk(None, 0)]));
    let third = push(&state, vec![third], &["a"]);
    apply(&mut state, &third);
    state
}

fn apply(state: &mut State, record: &Record) {
    assert_eq!(state.apply(record), Ok(Applied::Changed));
}

fn body(state: &State) -> CompactBody {
    CompactBody {
        base: state.head,
        expired: Numbers::default(),
        condemned: Vec::new(),
        records: 0,
        moves: Moves::default(),
    }
}

fn compaction(state: &State, body: CompactBody) -> Record {
    record(state, Kind::Compact, true, Body::Compact(body))
}

fn removal(state: &State, packs: &[PackId], cut: u64, listings: &[(u64, u64)]) -> Record {
    let listing = |(from, to): &(u64, u64)| Listing {
        from: *from,
        to: *to,
        time: Timestamp::from_millis(1),
        tree: TreeRef {
            id: TreeId::from_bytes([4; 16]),
            others: Vec::new(),
            root: Digest::of(b"tree"),
        },
    };
    let body = RemoveBody {
        base: state.head,
        packs: packs.to_vec(),
        cut,
        listings: listings.iter().map(listing).collect(),
    };
    record(state, Kind::Remove, true, Body::Remove(body))
}

/// What a collector sends that lets the first point go, empties the pack, and moves what rides in the
/// third record.
fn whole(state: &State) -> CompactBody {
    CompactBody {
        expired: [(1, 1)].into_iter().collect(),
        condemned: vec![OLD, ORPHAN],
        records: 3,
        moves: [
            ((ContentObject::Pack(OLD), 40), Some((NEW, 16))),
            ((ContentObject::Record(3), 300), Some((NEW, 26))),
        ]
        .into_iter()
        .collect(),
        ..body(state)
    }
}

fn compacted() -> State {
    let mut state = three_points();
    let record = introducing(compaction(&state, whole(&state)), &[NEW]);
    apply(&mut state, &record);
    state
}

fn place_of(state: &State, path: &str) -> (ContentObject, u64) {
    let Some(Entry::File(file)) = state.tree.get(path) else {
        panic!("no {path}")
    };
    let Location { object, offset, .. } = file.chunks[0].at;
    (object.unwrap(), offset)
}

#[test]
fn a_compaction_moves_condemns_and_lets_go() {
    let state = compacted();
    assert_eq!(place_of(&state, "b"), (ContentObject::Pack(NEW), 16));
    assert_eq!(place_of(&state, "c"), (ContentObject::Pack(NEW), 26));
    let collection = &state.collection;
    assert!(collection.expired.contains(1) && !collection.expired.contains(2));
    assert_eq!(collection.nearest(1), (None, 2));
    assert_eq!(collection.condemned[&ORPHAN].by, 4);
    assert_eq!((collection.compacted, collection.collected), (4, 4));
    assert!(!collection.may_name(ContentObject::Record(3)));
    assert!(collection.may_name(ContentObject::Record(4)));
    assert!(state.packs.contains_key(&OLD), "nothing is deleted yet");
}

#[test]
fn what_a_compaction_may_not_do_makes_it_void() {
    let mut state = three_points();
    let id = "2026-04-16T09-30-00Z-first".parse().unwrap();
    let (at, files, bytes) = (2, 1, 1);
    let named = Body::Snapshot(SnapshotBody {
        base: state.head,
        id,
        at,
        files,
        bytes,
    });
    let named = record(&state, Kind::Snapshot, true, named);
    apply(&mut state, &named);
    let whole = whole(&state);
    let moving = |from, to| CompactBody {
        moves: std::iter::once((from, to)).collect(),
        ..whole.clone()
    };
    let moves = |object: ContentObject| Violation::Move {
        object: object.to_string(),
    };
    let (old, new) = (ContentObject::Pack(OLD), ContentObject::Pack(NEW));
    let expiring = |numbers| CompactBody {
        expired: std::iter::once(numbers).collect(),
        ..whole.clone()
    };
    let at_head = |expected| (expiring((4, 4)), expected);
    for (body, expected) in [
        at_head(Violation::TooNew { base: 4 }),
        (
            expiring((1, 2)),
            Violation::Named {
                id: state.snapshots.keys().next().unwrap().clone(),
            },
        ),
        (
            CompactBody {
                records: 5,
                ..whole.clone()
            },
            Violation::NotYet { at: 5 },
        ),
        (
            CompactBody {
                condemned: vec![NEW],
                ..whole.clone()
            },
            Violation::Condemned { pack: NEW },
        ),
        // From where it is not condemned, to a pack that is not known, past its end, to one that goes.
        (moving((new, 16), Some((NEW, 40))), moves(new)),
        (
            moving((ContentObject::Record(4), 300), Some((NEW, 16))),
            moves(ContentObject::Record(4)),
        ),
        (moving((old, 40), Some((ORPHAN, 16))), moves(old)),
        (moving((old, 40), Some((NEW, 100))), moves(old)),
        (moving((old, 40), Some((OLD, 16))), moves(old)),
        (
            moving((old, 40), None),
            Violation::StillNamed { path: path("b") },
        ),
    ] {
        let record = introducing(compaction(&state, body), &[NEW]);
        let before = state.clone();
        assert_eq!(state.apply(&record), Ok(Applied::Void(expected)));
        // A void record leaves its number and nothing else.
        let (head, growth) = (before.head, before.growth);
        assert_eq!(
            State {
                head,
                growth,
                ..state.clone()
            },
            before
        );
        state = before;
    }
    let unnamed = moving((old, 16), None);
    let record = introducing(compaction(&state, unnamed), &[NEW]);
    apply(&mut state, &record);
}

#[test]
fn of_two_collectors_one_wins() {
    let state = compacted();
    let late = CompactBody {
        base: three_points().head,
        condemned: Vec::new(),
        moves: Moves::default(),
        ..whole(&state)
    };
    let overtaken = Err(Violation::CollectedSince { by: 4 });
    let late = compaction(&state, late);
    assert_eq!(state.check(&late.envelope, &late.body), overtaken);
    let mut late = removal(&state, &[], 0, &[]);
    if let Body::Remove(remove) = &mut late.body {
        remove.base = three_points().head;
    }
    assert_eq!(state.check(&late.envelope, &late.body), overtaken);
}

#[test]
fn condemned_content_is_never_named_again() {
    let mut state = compacted();
    let retired = Violation::Retired {
        path: path("x"),
        number: 3,
    };
    let rides = file_of(vec![chunk(Some(ContentObject::Record(3)), 300)]);
    for round in ["condemned", "removed"] {
        for (entry, packs, expected) in [
            (
                in_pack(OLD, 40),
                &[][..],
                Violation::Condemned { pack: OLD },
            ),
            (
                in_pack(ORPHAN, 16),
                &[ORPHAN],
                Violation::Condemned { pack: ORPHAN },
            ),
            (rides.clone(), &[], retired.clone()),
        ] {
            let push = introducing(push(&state, vec![upsert("x", entry)], &[]), packs);
            let found = state.check(&push.envelope, &push.body);
            assert_eq!(found, Err(expected.clone()), "{round}");
            assert!(expected.is_overtaken());
        }
        let held = Body::Hold(HoldBody {
            base: state.head,
            packs: vec![ORPHAN],
        });
        let held = record(&state, Kind::Hold, true, held);
        let refused = Err(Violation::Condemned { pack: ORPHAN });
        assert_eq!(state.check(&held.envelope, &held.body), refused);
        if round == "condemned" {
            let removal = removal(&state, &[OLD, ORPHAN], 3, &[(2, 2)]);
            apply(&mut state, &removal);
        }
    }
    assert!(!state.packs.contains_key(&OLD));
    assert!(state.collection.condemned[&OLD].removed);
    assert_eq!(state.collection.cut, 3);
    assert!(state.collection.listing(2).is_some() && state.collection.listing(1).is_none());
}

#[test]
fn what_a_removal_may_not_do_makes_it_void() {
    let mut state = compacted();
    let second = PackId::from_bytes([5; 16]);
    let push_it = push(&state, vec![upsert("d", in_pack(second, 16))], &[]);
    apply(&mut state, &introducing(push_it, &[second]));
    let condemning = CompactBody {
        condemned: vec![second],
        ..body(&state)
    };
    let condemning = compaction(&state, condemning);
    apply(&mut state, &condemning);
    for (packs, cut, listings, expected) in [
        (
            &[NEW][..],
            0,
            &[][..],
            Violation::NotCondemned { pack: NEW },
        ),
        (&[second], 0, &[], Violation::StillNamed { path: path("d") }),
        (&[], 3, &[], Violation::StillNeeded { at: 2 }),
        (&[], 3, &[(2, 3)], Violation::Cut { cut: 3 }),
        (&[], 3, &[(2, 2), (2, 2)], Violation::Cut { cut: 3 }),
        (&[], 4, &[(2, 3)], Violation::Cut { cut: 4 }),
    ] {
        let record = removal(&state, packs, cut, listings);
        let found = state.check(&record.envelope, &record.body);
        assert_eq!(found, Err(expected), "{packs:?} {cut} {listings:?}");
    }
    let fine = removal(&state, &[OLD], 2, &[]);
    apply(&mut state, &fine);
    let again = removal(&state, &[OLD], 2, &[]);
    let found = state.check(&again.envelope, &again.body);
    assert_eq!(found, Err(Violation::NotCondemned { pack: OLD }));
    let back = removal(&state, &[], 1, &[]);
    let found = state.check(&back.envelope, &back.body);
    assert_eq!(found, Err(Violation::Cut { cut: 1 }));
}

/// What rides in a record that is still named is not cut, nor is a record that no compaction condemned.
#[test]
fn records_are_cut_when_they_are_condemned_and_empty() {
    let mut state = three_points();
    let keeping = CompactBody {
        records: 3,
        ..body(&state)
    };
    let keeping = compaction(&state, keeping);
    apply(&mut state, &keeping);
    let record = removal(&state, &[], 3, &[(1, 1), (2, 2)]);
    let found = state.check(&record.envelope, &record.body);
    assert_eq!(found, Err(Violation::StillNamed { path: path("c") }));
    let record = removal(&three_points(), &[], 2, &[(1, 1)]);
    let found = three_points().check(&record.envelope, &record.body);
    assert_eq!(found, Err(Violation::Cut { cut: 2 }));
}

#[test]
fn nothing_names_a_state_that_has_expired() {
    let state = compacted();
    let (files, bytes) = (0, 0);
    let id = || "2026-04-16T09-30-00Z-late".parse().unwrap();
    let snapshot = |at| {
        Body::Snapshot(SnapshotBody {
            base: state.head,
            id: id(),
            at,
            files,
            bytes,
        })
    };
    let rollback = |to, entry: Entry| {
        let changes = PushBody {
            base: state.head,
            upserts: vec![upsert("z", entry)],
            deletes: Vec::new(),
        };
        Body::Rollback(RollbackBody {
            to,
            before: id(),
            files,
            bytes,
            changes,
        })
    };
    let expired = Err(Violation::Expired { at: 1 });
    let purged = Err(Violation::Purged { path: path("z") });
    for (kind, body, expected) in [
        (Kind::Snapshot, snapshot(1), expired.clone()),
        (Kind::Snapshot, snapshot(2), Ok(())),
        (Kind::Rollback, rollback(1, Entry::Directory), expired),
        (Kind::Rollback, rollback(2, Entry::Directory), Ok(())),
        (
            Kind::Rollback,
            rollback(2, file_of(vec![chunk(None, 0)])),
            purged,
        ),
    ] {
        let record = record(&state, kind, true, body);
        assert_eq!(state.check(&record.envelope, &record.body), expected);
    }
}

#[test]
fn a_log_that_kept_its_chunks_keeps_them_where_they_lie_now() {
    let mut state = compacted();
    let grown = file_of(vec![chunk(None, 10)]);
    let Entry::File(mut grown) = grown else {
        panic!("no file")
    };
    grown.size = 20;
    let upsert = Upsert {
        keep: 1,
        ..upsert("b", Entry::File(grown))
    };
    let record = push(&state, vec![upsert], &[]);
    apply(&mut state, &record);
    assert_eq!(place_of(&state, "b"), (ContentObject::Pack(NEW), 16));
}

#[test]
fn a_policy_stays_until_another_one_comes() {
    let mut state = empty();
    let policy = Policy {
        within_days: 3,
        ..Policy::default()
    };
    assert_eq!(state.collection.policy(), Policy::default());
    for decided in [Some(policy), None] {
        let body = Body::Forget(ForgetBody {
            base: state.head,
            snapshots: Vec::new(),
            policy: decided,
        });
        let record = record(&state, Kind::Forget, true, body);
        apply(&mut state, &record);
        assert_eq!(state.collection.policy(), policy);
    }
}

#[test]
fn an_upload_is_held_until_a_record_names_it() {
    let mut state = empty();
    let body = Body::Hold(HoldBody {
        base: state.head,
        packs: vec![OLD, NEW],
    });
    let held = record(&state, Kind::Hold, true, body);
    apply(&mut state, &held);
    let naming = push(&state, vec![upsert("a", in_pack(OLD, 16))], &[]);
    apply(&mut state, &introducing(naming, &[OLD]));
    assert!(state.collection.held.keys().eq([&NEW]));
}

#[test]
fn a_retired_record_stops_the_fold() {
    let mut state = three_points();
    let mut retired = push(&state, Vec::new(), &["b"]);
    retired.body = Body::Retired;
    let stopped = state.apply(&retired);
    assert_eq!(stopped, Err(FoldError::Retired { number: 4 }));
    assert_eq!(state, three_points());
}
