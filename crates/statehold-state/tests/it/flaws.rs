//! What the program that this one follows got wrong, each as a test that passes here. The names
//! begin with the number of the flaw in `docs/requirements.md`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use statehold_state::{
    Arrival, Canonical, Causality, Collection, Error, Manager, Replica, Rules, Strategy,
    VectorClock,
};

use crate::managers::{exchange, open, send};
use crate::world::{Node, key, quiet};

fn nodes(count: u8) -> Vec<Node> {
    (0..count).map(Node::new).collect()
}

fn pair(strategy: &Strategy) -> [(Manager, Collection<Value>); 2] {
    [(); 2].map(|()| {
        let manager = Manager::in_memory().unwrap();
        let all = manager.collection("all", strategy.clone()).unwrap();
        (manager, all)
    })
}

#[test]
fn w53_the_strategy_that_is_named_is_the_one_that_is_used() {
    for name in [
        "last-write-wins",
        "local-wins",
        "remote-wins",
        "merge",
        "manual",
    ] {
        let strategy: Strategy = name.parse().unwrap();
        assert_eq!(strategy.name(), name);
        let [(one, on_one), (other, on_other)] = pair(&strategy);
        on_one.put("x", &json!({"a": 1})).unwrap();
        on_other.put("x", &json!({"b": 2})).unwrap();
        exchange(&one, &other);
        let state = on_one.get("x").unwrap().unwrap();
        assert_eq!(state.is_conflicted, name == "manual");
        assert_eq!(state.data == json!({"a": 1, "b": 2}), name == "merge");
        assert_eq!(on_one.why("x").unwrap().strategy, name);
    }
    let unknown = "newest".parse::<Strategy>().unwrap_err().to_string();
    assert!(
        unknown.contains("newest") && unknown.contains("last-write-wins"),
        "{unknown}"
    );
    assert_eq!(
        Rules::default().strategy.name(),
        "last-write-wins",
        "where none is named"
    );
}

#[test]
fn w54_a_state_is_found_again_under_the_id_it_was_given() {
    let home = tempfile::tempdir().unwrap();
    for start in 1..=3 {
        let desk = open(home.path(), "desk");
        let all: Collection<u64> = desk.collection("settings", Strategy::default()).unwrap();
        match all.update("app", |starts| *starts += 1).unwrap() {
            Some(state) => assert_eq!(state.data, start),
            None => assert_eq!(all.insert("app", &1).unwrap().data, start),
        }
    }
}

#[test]
fn w83_merging_converges_and_makes_no_equal_clocks_over_different_data() {
    let rules = Rules::from(Strategy::Merge);
    let mut nodes = nodes(3);
    for (number, node) in nodes.iter_mut().enumerate() {
        node.put_json(
            &key(0),
            &json!({"same": number, "own": {number.to_string(): 1}}),
            &rules,
            1,
        );
    }
    quiet(&mut nodes, &rules, 2);
    let shown: BTreeSet<_> = nodes
        .iter()
        .map(|node| node.shown(&key(0), &rules))
        .collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    let merged: Value = serde_json::from_str(shown.first().unwrap().as_ref().unwrap()).unwrap();
    assert_eq!(merged["own"], json!({"0": 1, "1": 1, "2": 1}));
    // Whoever writes next supersedes all three, and nobody else has that clock.
    nodes[1].put_json(&key(0), &json!({"same": "new"}), &rules, 3);
    let clock = |node: &Node| node.replica.siblings("settings", "key-0")[0].clock();
    assert_eq!(
        clock(&nodes[0]).compare(&clock(&nodes[1])),
        Causality::Before
    );
    quiet(&mut nodes, &rules, 4);
    assert!(nodes.iter().all(|node| node.replica == nodes[0].replica));
}

#[test]
fn w84_a_local_win_ends_the_conflict_for_both_and_ties_have_an_order() {
    for strategy in [Strategy::LocalWins, Strategy::RemoteWins] {
        let [(one, on_one), (other, on_other)] = pair(&strategy);
        on_one.put("x", &json!("one")).unwrap();
        on_other.put("x", &json!("other")).unwrap();
        // Both hear of the other's at the same time, so both settle.
        let (to_other, to_one) = (one.export().unwrap(), other.export().unwrap());
        assert_eq!(one.reconcile(&to_one).unwrap().settled.len(), 1);
        assert_eq!(other.reconcile(&to_other).unwrap().settled.len(), 1);
        exchange(&one, &other);
        assert_eq!(
            on_one.get("x").unwrap().unwrap().data,
            on_other.get("x").unwrap().unwrap().data
        );
        // It does not come back.
        let again = send(&one, &other);
        assert!(again.conflicts.is_empty() && again.operations == 0);
    }
    // Two edits in the same millisecond on two nodes with equal clocks.
    let rules = Rules::default();
    let mut nodes = nodes(2);
    nodes[0].put(&key(0), "zero", &rules, 1_000);
    nodes[1].put(&key(0), "one", &rules, 1_000);
    quiet(&mut nodes, &rules, 1_000);
    assert_eq!(
        nodes[0].shown(&key(0), &rules),
        nodes[1].shown(&key(0), &rules)
    );
}

#[test]
fn w85_equal_clocks_with_different_content_are_found() {
    let rules = Rules::default();
    // Two programs that write as one node: the same numbers, other content.
    let (mut one, mut other) = (Node::new(0), Node::new(0));
    one.put(&key(0), "one", &rules, 1);
    other.put(&key(0), "other", &rules, 1);
    assert_eq!(
        one.replica.clock().compare(&other.replica.clock()),
        Causality::Equal
    );
    assert!(one.receive(&other.log[0]).is_err());
    assert!(one.replica.join(&other.replica).is_err());
    assert_ne!(one.replica.root(), other.replica.root());
    // And two first states of two nodes are concurrent: none of them is "never seen".
    let mut stranger = Node::new(1);
    stranger.put(&key(0), "stranger", &rules, 1);
    let clocks =
        [&one, &stranger].map(|node| node.replica.siblings("settings", "key-0")[0].clock());
    assert_eq!(clocks[0].compare(&clocks[1]), Causality::Concurrent);
    assert_eq!(clocks[0].compare(&VectorClock::new()), Causality::After);
}

#[test]
fn w86_what_was_deleted_does_not_come_back() {
    let rules = Rules::default();
    let mut nodes = nodes(3);
    nodes[0].put(&key(0), "value", &rules, 1);
    quiet(&mut nodes, &rules, 2);
    let stale = nodes[2].clone();
    nodes[0].delete(&key(0), &rules, 3);
    quiet(&mut nodes[..2], &rules, 4);
    // The third one has slept, and hands in all that it knows, as events and as a whole.
    for frame in &stale.log {
        assert!(matches!(nodes[1].replica.accept(frame), Ok(Arrival::Known)));
    }
    nodes[1].replica.join(&stale.replica).unwrap();
    assert_eq!(nodes[1].shown(&key(0), &rules), None);
    let known = nodes[1].replica.clone();
    nodes[2].replica.join(&known).unwrap();
    assert_eq!(nodes[2].shown(&key(0), &rules), None);
    // Put, put and delete against put: whatever comes first, the end is one.
    let mut late = Replica::new();
    for frame in nodes[0].log.iter().rev().chain(&nodes[0].log) {
        late.accept(frame).ok();
    }
    assert_eq!(late, nodes[0].replica);
}

#[test]
fn w87_the_hash_is_whole_canonical_and_tells_kinds_apart() {
    let hash = |value: &Value| Canonical::of(value).unwrap().hash().to_string();
    let values = [
        json!({"a": 1, "b": 2}),
        json!("{\"a\":1,\"b\":2}"),
        json!(null),
        json!("null"),
        json!("undefined"),
        json!(""),
        json!([]),
        json!({}),
        json!(0),
        json!("0"),
        json!(false),
    ];
    let hashes: BTreeSet<String> = values.iter().map(hash).collect();
    assert_eq!(hashes.len(), values.len());
    assert!(hashes.iter().all(|hash| hash.len() == 64));
    let other_order: Value = serde_json::from_str(r#"{"b":2,"a":1}"#).unwrap();
    assert_eq!(hash(&values[0]), hash(&other_order));
}

#[test]
fn w88_a_start_makes_no_new_node() {
    let home = tempfile::tempdir().unwrap();
    let nodes: BTreeSet<_> = (0..5)
        .map(|number| {
            let desk = open(home.path(), "desk");
            let all: Collection<u64> = desk.collection("all", Strategy::default()).unwrap();
            let state = all.put("x", &number).unwrap();
            assert_eq!(state.vector_clock.len(), 1, "the clock does not grow");
            desk.head().unwrap();
            desk.node()
        })
        .collect();
    assert_eq!(nodes.len(), 1);
}

#[test]
fn w89_loading_is_done_before_anything_is_changed_and_every_save_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let all: Collection<u64> = desk.collection("all", Strategy::default()).unwrap();
    // Many at once: none overwrites another.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let all = all.clone();
            scope.spawn(move || {
                for number in 0..10 {
                    all.insert(&format!("{thread}-{number}"), &number).unwrap();
                    all.update("sum", |sum| *sum += 1).unwrap();
                    all.insert("sum", &0).ok();
                }
            });
        }
    });
    let sum = all.get("sum").unwrap().unwrap();
    drop((desk, all));
    let desk = open(home.path(), "desk");
    let all: Collection<u64> = desk.collection("all", Strategy::default()).unwrap();
    assert_eq!(all.ids().unwrap().len(), 81);
    assert_eq!(all.get("sum").unwrap().unwrap(), sum);
    assert_eq!(u64::from(sum.version), sum.data + 1);
    assert_eq!(
        desk.pending().unwrap().len(),
        81 + usize::try_from(sum.data).unwrap()
    );
}

#[test]
fn w90_what_comes_from_outside_is_checked_before_anything_changes() {
    let [(one, on_one), (other, _)] = pair(&Strategy::default());
    on_one.put("x", &json!(1)).unwrap();
    let mut delta = one.export().unwrap();
    let middle = delta.len() / 2;
    delta[middle] ^= 1;
    let refused = other.reconcile(&delta).unwrap_err();
    assert!(matches!(refused, Error::Malformed(_)), "{refused}");
    assert!(refused.to_string().contains("hash"), "{refused}");
    assert!(other.clock().is_empty());
}
