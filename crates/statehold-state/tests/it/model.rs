//! Every order of everything that can happen to a few nodes: delivery in any order, lost and
//! repeated, crashes before and after a write is durable, restarts, snapshots.
//!
//! A frame that is never delivered is one that was lost; one that is delivered twice is refused or
//! known. The model runs the replicas that ship, so what it finds is found in them.

use statehold_state::{DeleteRule, Frame, HybridClock, Rules, Strategy};
use stateright::{Checker as _, Model, Property};

use crate::world::{Node, key, oracle, quiet, text};

/// What is checked: so many nodes, so many things that users do, one state.
#[derive(Clone)]
struct Delivery {
    nodes: u8,
    operations: u8,
    rules: Rules,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    /// A frame that is written and not yet flushed, by node: gone if the node crashes.
    unflushed: Vec<Option<(Frame, HybridClock)>>,
    /// What users may still do.
    left: u8,
    /// Frames that were acknowledged to a user.
    acknowledged: Vec<Frame>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Put(usize),
    Delete(usize),
    Flush(usize),
    Crash(usize),
    Settle(usize),
    /// The frame at this place of one node's log comes to another.
    Deliver {
        from: usize,
        to: usize,
        place: usize,
    },
    /// Everything that one knows comes to another as a snapshot.
    Join {
        from: usize,
        to: usize,
    },
}

impl Model for Delivery {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            nodes: (0..self.nodes).map(Node::new).collect(),
            unflushed: vec![None; usize::from(self.nodes)],
            left: self.operations,
            acknowledged: Vec::new(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (to, node) in world.nodes.iter().enumerate() {
            if world.unflushed[to].is_some() {
                actions.push(Action::Flush(to));
                actions.push(Action::Crash(to));
                // A node does one thing at a time.
                continue;
            }
            if world.left > 0 {
                actions.push(Action::Put(to));
                if node.replica.count("settings") > 0 {
                    actions.push(Action::Delete(to));
                }
            }
            let mut settled = node.clone();
            if settled.settle(&self.rules, 1) {
                actions.push(Action::Settle(to));
            }
            for (from, other) in world.nodes.iter().enumerate() {
                if from != to {
                    let places = 0..other.log.len();
                    actions.extend(places.map(|place| Action::Deliver { from, to, place }));
                    actions.push(Action::Join { from, to });
                }
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Put(number) => {
                let node = &world.nodes[number];
                let content = self
                    .rules
                    .content(
                        text(&format!("{number}")),
                        node.replica.siblings("settings", "key-0"),
                    )
                    .ok()?;
                world.unflushed[number] = Some(node.draft(&key(0), content, 1));
                world.left -= 1;
            }
            Action::Delete(number) => {
                let drafted = world.nodes[number].draft(&key(0), self.rules.delete(), 1);
                world.unflushed[number] = Some(drafted);
                world.left -= 1;
            }
            Action::Flush(number) => {
                let (frame, clock) = world.unflushed[number].take()?;
                world.nodes[number].clock = clock;
                world.nodes[number].receive(&frame).ok()?;
                world.acknowledged.push(frame);
            }
            Action::Crash(number) => {
                world.unflushed[number] = None;
                let node = &mut world.nodes[number];
                node.replica = node.restarted();
                node.clock = HybridClock::default();
            }
            Action::Settle(number) => {
                world.nodes[number].settle(&self.rules, 1);
            }
            Action::Deliver { from, to, place } => {
                let frame = world.nodes[from].log[place].clone();
                // What is known or does not fit yet leads nowhere new.
                if !world.nodes[to].receive(&frame).ok()? {
                    return None;
                }
            }
            Action::Join { from, to } => {
                let other = world.nodes[from].replica.clone();
                let before = world.nodes[to].replica.clone();
                let mut joined = before.clone();
                joined.join(&other).ok()?;
                if joined == before {
                    return None;
                }
                // What it now knows is durable too, as frames or as a snapshot: here as frames.
                for frame in world.nodes[from].log.clone() {
                    world.nodes[to].receive(&frame).ok();
                }
                assert_eq!(world.nodes[to].replica, joined, "a snapshot is its events");
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what is live follows from what is known",
                |_, world: &World| {
                    world
                        .nodes
                        .iter()
                        .all(|node| node.live() == oracle(&node.batches()))
                },
            ),
            Property::always("a restart changes nothing", |_, world: &World| {
                world
                    .nodes
                    .iter()
                    .all(|node| node.restarted() == node.replica)
            }),
            Property::always(
                "after quiet all are equal and nothing is lost",
                |model: &Self, world: &World| {
                    let mut nodes = world.nodes.clone();
                    quiet(&mut nodes, &model.rules, 1);
                    let events = nodes[0].batches();
                    let shown = nodes[0].shown(&key(0), &model.rules);
                    let bytes = nodes[0].replica.to_bytes();
                    let is_kept = |frame: &Frame| nodes[0].log.contains(frame);
                    world.acknowledged.iter().all(is_kept)
                        && nodes.iter().all(|node| {
                            node.replica.to_bytes() == bytes
                                && node.shown(&key(0), &model.rules) == shown
                                && node.live() == oracle(&events)
                        })
                },
            ),
            Property::always("settling ends", |model: &Self, world: &World| {
                let mut nodes = world.nodes.clone();
                quiet(&mut nodes, &model.rules, 1);
                let revisions = nodes[0]
                    .batches()
                    .into_iter()
                    .flat_map(|batch| batch.events);
                let (settled, ordinary): (Vec<_>, Vec<_>) =
                    revisions.partition(|event| event.revision.resolves);
                settled.len() <= ordinary.len()
            }),
            Property::sometimes("two nodes write at once", |_, world: &World| {
                world.nodes.iter().any(|node| node.replica.conflicts() > 0)
            }),
        ]
    }
}

fn check(nodes: u8, operations: u8, strategy: Strategy, deletes: DeleteRule) {
    let rules = Rules { strategy, deletes };
    let model = Delivery {
        nodes,
        operations,
        rules,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 100, "it looked at something");
}

#[test]
fn two_nodes_converge_whatever_happens() {
    for strategy in [
        Strategy::LastWriteWins,
        Strategy::LocalWins,
        Strategy::RemoteWins,
    ] {
        check(2, 3, strategy, DeleteRule::UpdateWins);
    }
    check(2, 3, Strategy::Merge, DeleteRule::DeleteWins);
}

#[test]
fn three_nodes_converge_whatever_happens() {
    check(3, 2, Strategy::LocalWins, DeleteRule::UpdateWins);
}

#[test]
#[ignore = "looks at 470,000 worlds, which takes minutes"]
fn three_nodes_that_do_more_converge_whatever_happens() {
    check(3, 3, Strategy::LocalWins, DeleteRule::UpdateWins);
}
