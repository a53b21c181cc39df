//! Bytes from outside that are damaged or hostile: refused, named, and nothing has changed.

use proptest::prelude::*;
use serde_json::{Value, json};
use statehold_state::{
    Alarm, Canonical, Collection, Content, Frame, HybridClock, Key, Manager, NodeId, Notice,
    Refused, Replica, Strategy as Decides,
};

use crate::managers::{exchange, send};

fn pair() -> [(Manager, Collection<Value>); 2] {
    [(); 2].map(|()| {
        let manager = Manager::in_memory().unwrap();
        let all = manager.collection("all", Decides::default()).unwrap();
        (manager, all)
    })
}

/// A head, a delta and a snapshot of a node that knows a little of everything.
fn messages() -> Vec<Vec<u8>> {
    let [(one, on_one), (other, on_other)] = pair();
    on_one.put("a", &json!({"n": 1})).unwrap();
    exchange(&one, &other);
    on_one.put("a", &json!({"n": 2})).unwrap();
    on_other.put("a", &json!({"n": 3})).unwrap();
    on_other.put("long", &json!("x".repeat(2_000))).unwrap();
    exchange(&one, &other);
    let nothing = statehold_state::VectorClock::new();
    vec![
        one.head().unwrap(),
        one.export_since(&nothing).unwrap(),
        one.export().unwrap(),
    ]
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let victim = Manager::in_memory().unwrap();
    for message in messages() {
        for place in 0..message.len() {
            let mut damaged = message.clone();
            damaged[place] ^= 1 << (place % 8);
            assert!(victim.reconcile(&damaged).is_err(), "byte {place}");
            assert!(
                victim.reconcile(&message[..place]).is_err(),
                "cut at {place}"
            );
        }
        assert!(victim.clock().is_empty(), "nothing has changed");
    }
    for message in messages() {
        assert!(victim.reconcile(&message).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Somebody who knows how to compute the check may still write anything inside.
    #[test]
    fn hostile_content_with_a_good_check_never_panics(
        which in 0_usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut message = messages().swap_remove(which);
        message.truncate(message.len() - 16);
        for (place, byte) in edits {
            let place = 5 + place.index(message.len() - 5);
            message[place] = byte;
        }
        message.extend(rest);
        let check = *blake3::hash(&message).as_bytes();
        message.extend_from_slice(&check[..16]);
        let [(victim, all), (other, _)] = pair();
        all.put("mine", &json!(1)).unwrap();
        let (clock, root) = (victim.clock(), victim.root());
        if victim.reconcile(&message).is_err() {
            prop_assert_eq!((victim.clock(), victim.root()), (clock, root));
        }
        // Whatever it was, the node goes on.
        all.put("mine", &json!(2)).unwrap();
        send(&victim, &other);
        prop_assert_eq!(all.get("mine").unwrap().unwrap().data, json!(2));
    }
}

fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; 16])
}

fn frame_of(replica: &Replica, author: NodeId, value: &str, now: u64) -> Frame {
    let mut draft = replica.draft(author, HybridClock::default(), now);
    let value = Content::Value {
        value: Canonical::of(value).unwrap(),
        origins: None,
    };
    draft.push(Key::new("all", "x"), value, false);
    draft.seal().unwrap().0
}

/// A number as seven bits a byte, low bits first.
fn number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn run(run: &[u8], bytes: &mut Vec<u8>) {
    number(run.len() as u64, bytes);
    bytes.extend_from_slice(run);
}

/// The bytes of a batch of one event, written by hand: first number, value.
fn raw_batch(first: u64, context: Option<(u64, u64)>, value: &str) -> Vec<u8> {
    batch_of(first, "all", "x", context, value)
}

fn named_batch(collection: &str, id: &str, context: Option<(u64, u64)>, value: &str) -> Vec<u8> {
    batch_of(1, collection, id, context, value)
}

fn batch_of(
    first: u64,
    collection: &str,
    id: &str,
    context: Option<(u64, u64)>,
    value: &str,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(first, &mut bytes);
    number(1, &mut bytes);
    number(1 << 16, &mut bytes);
    // One other node, one collection.
    bytes.push(1);
    bytes.extend_from_slice(node(7).as_bytes());
    bytes.push(1);
    run(collection.as_bytes(), &mut bytes);
    bytes.push(0);
    run(id.as_bytes(), &mut bytes);
    bytes.push(0);
    bytes.push(if context.is_some() { 8 } else { 0 });
    bytes.push(1);
    if let Some((place, sequence)) = context {
        bytes.push(1);
        number(place, &mut bytes);
        number(sequence, &mut bytes);
    }
    run(value.as_bytes(), &mut bytes);
    bytes
}

#[test]
fn huge_clocks_unknown_nodes_and_deep_nesting_are_refused_by_name() {
    let mut replica = Replica::new();
    let author = node(1);
    let previous = frame_of(&replica, author, "x", 1).previous();
    let nested = "[".repeat(100_000) + &"]".repeat(100_000);
    for (bytes, word) in [
        (raw_batch(u64::MAX, None, "1"), "sequence number"),
        (raw_batch(1, Some((1, u64::MAX)), "1"), "clock"),
        (raw_batch(1, Some((1, 0)), "1"), "begin at 1"),
        (raw_batch(1, Some((2, 5)), "1"), "unknown node"),
        (raw_batch(1, Some((0, 5)), "1"), "twice"),
        (raw_batch(1, None, &nested), "nested deeper"),
        (raw_batch(1, None, "{\"a\":"), "JSON"),
        // What is JSON and nobody could read, or what equals something else.
        (raw_batch(1, None, "1e999"), "canonical"),
        (raw_batch(1, None, "\"\\ud800\""), "canonical"),
        (raw_batch(1, None, "{\"b\":1,\"a\":2}"), "canonical"),
        (raw_batch(1, None, "{\"a\":1,\"a\":2}"), "canonical"),
        (named_batch("all", "", None, "1"), "id is empty"),
        (named_batch("", "x", None, "1"), "collection is empty"),
        (Vec::new(), "too early"),
    ] {
        let frame = Frame::new(author, previous, &bytes);
        let refused = replica.accept(&frame).unwrap_err();
        assert!(refused.to_string().contains(word), "{word}: {refused}");
        assert_eq!(replica, Replica::new(), "nothing has changed");
    }
    let fine = Frame::new(author, previous, &raw_batch(1, Some((1, 5)), "1"));
    assert!(
        replica.accept(&fine).is_ok(),
        "what is built like the others and right is taken"
    );
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    let mut message = b"SHM2".to_vec();
    // A delta, compressed.
    message.extend_from_slice(&[2, 1]);
    message.extend(zstd::bulk::compress(&vec![0; 400 * 1024 * 1024], 1).unwrap());
    let check = *blake3::hash(&message).as_bytes();
    message.extend_from_slice(&check[..16]);
    assert!(message.len() < 1024 * 1024);
    let refused = Manager::in_memory()
        .unwrap()
        .reconcile(&message)
        .unwrap_err();
    assert!(refused.to_string().contains("larger than"), "{refused}");
}

/// A snapshot written by hand, in its container and without compression.
fn raw_snapshot(
    marks: &[(NodeId, u64)],
    announced: &[(NodeId, &str, u64)],
    collections: &[(&str, &[RawState<'_>])],
) -> Vec<u8> {
    let mut bytes = vec![0];
    number(marks.len() as u64, &mut bytes);
    for (node, sequence) in marks {
        bytes.extend_from_slice(node.as_bytes());
        number(*sequence, &mut bytes);
        bytes.extend_from_slice(&[0; 16]);
    }
    // A root, which is looked at last, and the number of conflicts.
    bytes.extend_from_slice(&[9; 16]);
    bytes.push(0);
    number(announced.len() as u64, &mut bytes);
    for (node, id, sequence) in announced {
        bytes.extend_from_slice(node.as_bytes());
        run(b"all", &mut bytes);
        run(id.as_bytes(), &mut bytes);
        number(*sequence, &mut bytes);
    }
    number(collections.len() as u64, &mut bytes);
    for (name, states) in collections {
        run(name.as_bytes(), &mut bytes);
        number(states.len() as u64, &mut bytes);
        for column in columns(states) {
            run(&column, &mut bytes);
        }
    }
    bytes
}

/// An id, and its siblings: the place of a node, the number after its last one, a context.
type RawState<'a> = (&'a str, &'a [(u8, u8, Option<(NodeId, u64)>)]);

fn columns(states: &[RawState<'_>]) -> [Vec<u8>; 10] {
    let mut columns: [Vec<u8>; 10] = Default::default();
    let [
        flags,
        ids,
        nodes,
        numbers,
        stamps,
        versions,
        contexts,
        lengths,
        values,
        _,
    ] = &mut columns;
    for (id, siblings) in states {
        ids.push(0);
        run(id.as_bytes(), ids);
        for (index, (place, step, context)) in siblings.iter().enumerate() {
            let has_next = index + 1 < siblings.len();
            flags.push(if context.is_some() { 4 } else { 0 } | if has_next { 16 } else { 0 });
            nodes.push(*place);
            // Zigzag: a step up is twice as much.
            numbers.push(step * 2);
            stamps.push(2);
            versions.push(1);
            if let Some((node, sequence)) = context {
                contexts.push(1);
                contexts.extend_from_slice(node.as_bytes());
                number(*sequence, contexts);
            }
            lengths.push(1);
            values.push(b'1');
        }
    }
    columns
}

#[test]
fn a_snapshot_that_no_events_come_to_is_refused_by_name() {
    let (one, two) = (node(1), node(2));
    let marks = [(one, 2), (two, 2)];
    let alone: RawState<'_> = ("x", &[(0, 1, None)]);
    let far: RawState<'_> = ("x", &[(0, 1, Some((two, 5)))]);
    for (snapshot, word) in [
        (raw_snapshot(&marks, &[], &[("all", &[alone])]), "root"),
        (raw_snapshot(&marks, &[], &[("", &[alone])]), "empty"),
        (
            raw_snapshot(&marks, &[], &[("all", &[alone]), ("all", &[alone])]),
            "collections are out of order",
        ),
        (
            raw_snapshot(&marks, &[], &[("all", &[("", &[(0, 1, None)])])]),
            "an id is damaged",
        ),
        (
            raw_snapshot(
                &marks,
                &[],
                &[("all", &[("x", &[(0, 1, None), (0, 1, None)])])],
            ),
            "superseded by another",
        ),
        (
            raw_snapshot(
                &marks,
                &[],
                &[("all", &[("x", &[(0, 1, Some((two, 1))), (1, 1, None)])])],
            ),
            "superseded by another",
        ),
        (
            raw_snapshot(&marks, &[], &[("all", &[far])]),
            "does not announce",
        ),
        (
            raw_snapshot(&marks, &[(two, "x", 4)], &[("all", &[far])]),
            "does not announce",
        ),
        (
            raw_snapshot(&marks, &[(two, "x", 5)], &[("all", &[far])]),
            "root",
        ),
        (
            raw_snapshot(&marks, &[(two, "x", 2)], &[("all", &[alone])]),
            "its clock covers",
        ),
        (
            raw_snapshot(
                &marks,
                &[(two, "x", 5), (two, "x", 6)],
                &[("all", &[alone])],
            ),
            "announced keys are out of order",
        ),
    ] {
        let refused = Replica::from_bytes(&snapshot).unwrap_err().to_string();
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn a_snapshot_that_promises_states_gets_no_room_for_them() {
    let mut snapshot = raw_snapshot(&[(node(1), 1)], &[], &[]);
    // In place of no collections: one, of three hundred million states.
    snapshot.pop();
    snapshot.push(1);
    run(b"all", &mut snapshot);
    number(300_000_000, &mut snapshot);
    snapshot.resize(300_000_100, 0);
    let packed = [&[1][..], &zstd::bulk::compress(&snapshot[1..], 1).unwrap()].concat();
    drop(snapshot);
    assert!(packed.len() < 64 * 1024);
    let refused = Replica::from_bytes(&packed).unwrap_err();
    assert!(refused.to_string().contains("ends too early"), "{refused}");
}

#[test]
fn what_was_seen_again_and_again_is_not_announced() {
    let [(one, on_one), (other, _)] = pair();
    for _ in 0..64 {
        let [(third, on_third), _] = pair();
        on_third.put("x", &json!(0)).unwrap();
        send(&third, &one);
    }
    // Each names 64 nodes: more in all than keys may be announced.
    one.batch(|batch| (0..16_500).try_for_each(|n| batch.put(&on_one, "x", &json!(n))))
        .unwrap();
    assert!(send(&one, &other).is_success());
    assert_eq!(other.root(), one.root());
}

#[test]
fn one_log_with_two_contents_is_an_alarm_and_never_a_silent_choice() {
    let mut replica = Replica::new();
    let author = node(1);
    let (one, other) = (
        frame_of(&replica, author, "one", 1),
        frame_of(&replica, author, "other", 1),
    );
    replica.accept(&one).unwrap();
    let refused = replica.accept(&other).unwrap_err();
    assert!(
        matches!(refused, Refused::Forked { sequence: 1, .. }),
        "{refused}"
    );
    let mut forked = Replica::new();
    forked.accept(&other).unwrap();
    // Its next event does not continue this log either, although the number fits.
    let next = frame_of(&forked, author, "next", 2);
    let before = replica.clone();
    let refused = replica.accept(&next).unwrap_err();
    assert!(
        matches!(refused, Refused::Forked { sequence: 2, .. }),
        "{refused}"
    );
    assert!(matches!(replica.join(&forked), Err(Refused::Forked { .. })));
    assert_eq!(replica, before);
}

#[test]
fn a_node_that_knows_the_same_and_has_something_else_raises_an_alarm_in_one_round() {
    let [(one, on_one), (other, _)] = pair();
    on_one.put("x", &json!(1)).unwrap();
    exchange(&one, &other);
    // The other's head, with a root that is not the right one, as a bad disk would make it.
    let mut head = other.head().unwrap();
    head.truncate(head.len() - 16);
    let root = other.root().to_bytes();
    let place = head.windows(16).position(|window| *window == root).unwrap();
    head[place] ^= 1;
    let check = *blake3::hash(&head).as_bytes();
    head.extend_from_slice(&check[..16]);
    let mut notices = one.listen();
    let result = one.reconcile(&head).unwrap();
    assert_eq!(result.alarms, [Alarm::Diverged { node: other.node() }]);
    assert!(!result.is_success());
    assert!(notices.any(|notice| matches!(notice, Notice::Alarm { .. })));
    assert!(one.reconcile(&other.head().unwrap()).unwrap().is_success());
}

#[test]
fn strategies_that_differ_or_are_not_pure_raise_an_alarm() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let impure = || {
        Decides::custom("impure", 1, |_: &[statehold_state::Candidate<Value>]| {
            Some(json!(CALLS.fetch_add(1, Ordering::Relaxed)))
        })
    };
    let pair = |strategies: [Decides; 2]| {
        strategies.map(|strategy| {
            let manager = Manager::in_memory().unwrap();
            let all: Collection<Value> = manager.collection("all", strategy).unwrap();
            (manager, all)
        })
    };
    let [(one, on_one), (other, on_other)] = pair([impure(), impure()]);
    on_one.put("x", &json!(1)).unwrap();
    on_other.put("x", &json!(2)).unwrap();
    send(&one, &other);
    send(&other, &one);
    let alarms = one.reconcile(&other.head().unwrap()).unwrap().alarms;
    assert!(matches!(alarms[..], [Alarm::Unstable { .. }]), "{alarms:?}");

    let second = Decides::custom("impure", 2, |_: &[statehold_state::Candidate<Value>]| None);
    let [(one, _), (other, _)] = pair([impure(), second]);
    let alarms = one.reconcile(&other.head().unwrap()).unwrap().alarms;
    assert!(
        matches!(alarms[..], [Alarm::OtherRules { .. }]),
        "{alarms:?}"
    );
}

#[test]
fn an_event_a_year_ahead_is_taken_and_told_and_beats_no_edit_made_after_seeing_it() {
    const YEAR: u64 = 365 * 24 * 3_600 * 1_000;
    fn ahead() -> u64 {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        u64::try_from(now.as_millis()).unwrap() + YEAR
    }
    let home = tempfile::tempdir().unwrap();
    let options = |name: &str| {
        statehold_state::Options::new(home.path().join(name), home.path().join("witness"))
    };
    let fast = Manager::open(options("fast").clock(ahead)).unwrap();
    let right = Manager::open(options("right")).unwrap();
    let on_fast: Collection<Value> = fast.collection("all", Decides::default()).unwrap();
    let on_right: Collection<Value> = right.collection("all", Decides::default()).unwrap();
    on_fast.put("x", &json!("from next year")).unwrap();
    let is_told = |notice: &Notice| matches!(notice, Notice::ClockAhead { milliseconds, .. } if *milliseconds > YEAR / 2);
    // By a snapshot as by events.
    let late = Manager::open(options("late")).unwrap();
    let told = late.listen();
    late.reconcile(&fast.export().unwrap()).unwrap();
    late.close();
    assert_eq!(told.filter(|notice| is_told(notice)).count(), 1);
    let mut notices = right.listen();
    send(&fast, &right);
    assert_eq!(
        on_right.get("x").unwrap().unwrap().data,
        json!("from next year")
    );
    assert!(notices.any(|notice| is_told(&notice)));
    on_right.put("x", &json!("made after seeing it")).unwrap();
    exchange(&fast, &right);
    for all in [&on_fast, &on_right] {
        let state = all.get("x").unwrap().unwrap();
        assert_eq!(
            (state.data, state.siblings),
            (json!("made after seeing it"), 1)
        );
    }
    // And the machine's own clock has not followed.
    let tomorrow = ahead() - YEAR + 24 * 3_600 * 1_000;
    assert!(on_right.put("y", &json!(1)).unwrap().timestamp < tomorrow);
}
