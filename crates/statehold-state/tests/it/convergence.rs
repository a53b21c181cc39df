//! Laws of the core, over random histories: a replica is a function of the set of events it knows.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::json;
use statehold_state::{
    Canonical, Content, DeleteRule, Frame, HybridClock, Key, NodeId, Replica, Rules,
    Strategy as Decides,
};

use crate::world::{Live, Node, key, live_of, oracle, quiet};

const NODES: usize = 3;
const KEYS: u8 = 2;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Put {
        node: usize,
        key: u8,
        value: u8,
    },
    PutField {
        node: usize,
        key: u8,
        field: u8,
        value: u8,
    },
    Delete {
        node: usize,
        key: u8,
    },
    /// A frame of one node's log arrives at another, whatever it is and whether or not it fits.
    Deliver {
        from: usize,
        to: usize,
        place: prop::sample::Index,
    },
    DeliverAll {
        from: usize,
        to: usize,
    },
    Join {
        from: usize,
        to: usize,
    },
    Settle {
        node: usize,
    },
    Restart {
        node: usize,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    let pair = (0..NODES, 0..NODES);
    prop_oneof![
        4 => (node.clone(), 0..KEYS, 0_u8..4)
            .prop_map(|(node, key, value)| Step::Put { node, key, value }),
        4 => (node.clone(), 0..KEYS, 0_u8..3, 0_u8..3)
            .prop_map(|(node, key, field, value)| Step::PutField { node, key, field, value }),
        2 => (node.clone(), 0..KEYS).prop_map(|(node, key)| Step::Delete { node, key }),
        5 => (pair.clone(), any::<prop::sample::Index>())
            .prop_map(|((from, to), place)| Step::Deliver { from, to, place }),
        3 => pair.clone().prop_map(|(from, to)| Step::DeliverAll { from, to }),
        1 => pair.prop_map(|(from, to)| Step::Join { from, to }),
        2 => node.clone().prop_map(|node| Step::Settle { node }),
        1 => node.prop_map(|node| Step::Restart { node }),
    ]
}

fn nodes() -> Vec<Node> {
    (0..3).map(Node::new).collect()
}

/// Clocks that disagree: each node's is a day apart from the next one's.
fn now(node: usize, step: u64) -> u64 {
    node as u64 * 86_400_000 + step
}

fn perform(nodes: &mut [Node], step: &Step, rules: &Rules, time: u64) {
    match step {
        Step::Put {
            node,
            key: k,
            value,
        } => {
            let value = format!("value-{value}");
            nodes[*node].put(&key(*k), &value, rules, now(*node, time));
        }
        Step::PutField {
            node,
            key: k,
            field,
            value,
        } => {
            let node = *node;
            let mut object = nodes[node]
                .shown(&key(*k), rules)
                .and_then(|text| serde_json::from_str(&text).ok())
                .filter(serde_json::Value::is_object)
                .unwrap_or_else(|| json!({}));
            let name = format!("field-{field}");
            if *value == 0 {
                object.as_object_mut().unwrap().remove(&name);
            } else {
                object[name] = json!({"inner": value});
            }
            nodes[node].put_json(&key(*k), &object, rules, now(node, time));
        }
        Step::Delete { node, key: k } => nodes[*node].delete(&key(*k), rules, now(*node, time)),
        Step::Deliver { from, to, place } => {
            if !nodes[*from].log.is_empty() {
                let frame = nodes[*from].log[place.index(nodes[*from].log.len())].clone();
                // A gap is refused and changes nothing.
                let before = nodes[*to].replica.clone();
                if nodes[*to].receive(&frame).is_err() {
                    assert_eq!(before, nodes[*to].replica);
                }
            }
        }
        Step::DeliverAll { from, to } => {
            for frame in nodes[*from].log.clone() {
                nodes[*to].receive(&frame).ok();
            }
        }
        Step::Join { from, to } => {
            let bytes = nodes[*from].replica.to_bytes();
            let other = Replica::from_bytes(&bytes).unwrap();
            assert_eq!(other, nodes[*from].replica, "a snapshot is the replica");
            let mut joined = nodes[*to].replica.clone();
            joined.join(&other).unwrap();
            // Joining is what taking all its events comes to.
            for frame in nodes[*from].log.clone() {
                nodes[*to].receive(&frame).ok();
            }
            assert_eq!(joined, nodes[*to].replica);
        }
        Step::Settle { node } => {
            nodes[*node].settle(rules, now(*node, time));
        }
        Step::Restart { node } => {
            assert_eq!(nodes[*node].restarted(), nodes[*node].replica);
        }
    }
}

/// The model: for each node the set of events it knows, and what is live by definition.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    nodes: Vec<Node>,
    rules: usize,
    time: u64,
}

fn all_rules() -> Vec<Rules> {
    let strategies = [
        Decides::LastWriteWins,
        Decides::LocalWins,
        Decides::RemoteWins,
        Decides::Merge,
        Decides::Manual,
        Decides::custom(
            "longest",
            1,
            |values: &[statehold_state::Candidate<serde_json::Value>]| {
                values
                    .iter()
                    .map(|value| value.data.clone())
                    .max_by_key(|data| (data.to_string().len(), data.to_string()))
            },
        ),
    ];
    [DeleteRule::UpdateWins, DeleteRule::DeleteWins]
        .into_iter()
        .flat_map(|deletes| {
            strategies
                .clone()
                .map(|strategy| Rules { strategy, deletes })
        })
        .collect()
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (0..all_rules().len())
            .prop_map(|rules| Self {
                nodes: nodes(),
                rules,
                time: 0,
            })
            .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        steps().boxed()
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.time += 1;
        perform(
            &mut state.nodes,
            step,
            &all_rules()[state.rules],
            state.time,
        );
        state
    }
}

struct Machine {
    nodes: Vec<Node>,
    rules: Rules,
    time: u64,
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(reference: &Model) -> Self {
        Self {
            nodes: reference.nodes.clone(),
            rules: all_rules()[reference.rules].clone(),
            time: reference.time,
        }
    }

    fn apply(mut machine: Self, _: &Model, step: Step) -> Self {
        machine.time += 1;
        perform(&mut machine.nodes, &step, &machine.rules, machine.time);
        machine
    }

    fn check_invariants(machine: &Self, _: &Model) {
        for node in &machine.nodes {
            assert_eq!(node.live(), oracle(&node.batches()), "node {}", node.id);
            let mut recounted = node.replica.clone();
            recounted.join(&Replica::new()).unwrap();
            assert_eq!(
                recounted.root(),
                node.replica.root(),
                "the root is kept up to date"
            );
            assert_eq!(recounted, node.replica);
        }
    }

    fn teardown(machine: Self, _: Model) {
        let mut nodes = machine.nodes;
        let written: usize = nodes
            .iter()
            .flat_map(Node::batches)
            .map(|b| b.events.len())
            .sum();
        quiet(&mut nodes, &machine.rules, now(0, machine.time + 1));
        let events = nodes[0].batches();
        let expected: Live = oracle(&events);
        let bytes = nodes[0].replica.to_bytes();
        for node in &nodes {
            assert_eq!(node.live(), expected, "nothing that was written is lost");
            assert_eq!(node.replica.to_bytes(), bytes, "equal to the byte");
            for number in 0..KEYS {
                assert_eq!(
                    node.shown(&key(number), &machine.rules),
                    nodes[0].shown(&key(number), &machine.rules),
                    "all show the same"
                );
            }
        }
        let settled = events
            .iter()
            .flat_map(|b| &b.events)
            .filter(|e| e.revision.resolves);
        assert!(settled.count() <= written, "settling ends");
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_functions_of_the_events_they_know(sequential 1..40 => Machine);
}

/// Three nodes after some history, each with what it happens to know.
fn histories() -> impl Strategy<Value = Vec<Node>> {
    (prop::collection::vec(steps(), 0..30), 0..all_rules().len()).prop_map(|(steps, rules)| {
        let mut nodes = nodes();
        for (time, step) in steps.iter().enumerate() {
            perform(&mut nodes, step, &all_rules()[rules], time as u64);
        }
        nodes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joining_is_commutative_associative_and_idempotent(nodes in histories()) {
        let [a, b, c] = [&nodes[0].replica, &nodes[1].replica, &nodes[2].replica];
        let join = |one: &Replica, other: &Replica| {
            let mut joined = one.clone();
            joined.join(other).unwrap();
            joined
        };
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
        prop_assert_eq!(&join(a, a), a);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(nodes in histories(), shuffle in any::<u64>()) {
        let frames: Vec<_> = nodes.iter().flat_map(|node| node.log.clone()).collect();
        let mut straight = Node::new(9);
        let mut mixed = Node::new(9);
        for _ in 0..frames.len() {
            for frame in &frames {
                straight.receive(frame).ok();
            }
        }
        let mut order: Vec<usize> = (0..frames.len()).collect();
        order.sort_by_key(|place| (*place as u64 + 1).wrapping_mul(shuffle | 1).rotate_left(17));
        for _ in 0..frames.len() {
            for place in &order {
                mixed.receive(&frames[*place]).ok();
            }
        }
        prop_assert_eq!(straight.replica, mixed.replica);
    }
}

#[test]
fn nothing_is_left_of_what_was_deleted() {
    let rules = Rules::default();
    let mut desk = Node::new(0);
    let mut phone = Node::new(1);
    let empty = Replica::new().to_bytes().len();
    for number in 0..200 {
        desk.put(&key(number), "something", &rules, 1);
    }
    quiet(&mut [desk.clone(), phone.clone()], &rules, 2);
    for frame in &desk.log {
        phone.receive(frame).unwrap();
    }
    for number in 0..200 {
        phone.delete(&key(number), &rules, 3);
    }
    let bytes = phone.replica.to_bytes().len();
    // Two nodes with number and link, and that is all.
    assert!(bytes <= empty + 2 * (16 + 16 + 2), "{bytes} bytes are left");
}

/// Collection, id, and a value or a delete.
type Edit = (u8, u8, Option<u8>);

/// So many that they are taken all at once.
fn many_edits() -> impl Strategy<Value = Vec<Edit>> {
    let value = prop::option::weighted(0.7, 0_u8..4);
    prop::collection::vec((0_u8..3, 0_u8..60, value), 256..600)
}

/// The edits as one batch on top of what a replica knows.
fn batch_of(replica: &Replica, author: u8, edits: &[Edit]) -> Frame {
    let author = NodeId::from_bytes([author; 16]);
    let mut draft = replica.draft(
        author,
        HybridClock::default(),
        u64::from(author.as_bytes()[0]),
    );
    for (collection, id, value) in edits {
        // Ids that share more than is compared first, and some that are the beginning of others.
        let id = "a long way to go/".repeat(usize::from(id % 3)) + &id.to_string();
        let content = value.map_or(Content::Deleted, |value| Content::Value {
            value: Canonical::of(&value).unwrap(),
            origins: None,
        });
        draft.push(Key::new(&collection.to_string(), &id), content, false);
    }
    draft.seal().unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn many_events_at_once_come_to_what_they_have_to(
        edits in (many_edits(), many_edits(), many_edits()),
    ) {
        let mut replica = Replica::new();
        let base = batch_of(&replica, 1, &edits.0);
        replica.accept(&base).unwrap();
        let (one, other) = (batch_of(&replica, 1, &edits.1), batch_of(&replica, 2, &edits.2));
        let expected = oracle(&[&base, &one, &other].map(|frame| frame.batch().unwrap()));
        let taken = [[&one, &other], [&other, &one]].map(|frames| {
            let mut replica = replica.clone();
            for frame in frames {
                replica.accept(frame).unwrap();
            }
            replica
        });
        for replica in &taken {
            prop_assert_eq!(&live_of(replica), &expected);
            let conflicts = expected.values().filter(|siblings| siblings.len() > 1).count();
            prop_assert_eq!(replica.conflicts(), conflicts);
            // Whoever reads a replica computes its root anew and compares.
            prop_assert_eq!(&Replica::from_bytes(&replica.to_bytes()).unwrap(), replica);
            for collection in replica.collections() {
                let ids: Vec<&str> = replica.states(collection).map(|(id, _)| id).collect();
                prop_assert!(ids.is_sorted());
                prop_assert_eq!(ids.len(), replica.count(collection));
            }
        }
        prop_assert_eq!(&taken[0], &taken[1]);
    }
}
