//! What may never be, and what has to be possible for a check to mean anything.

use stateright::Property;

use crate::configuration::Configuration;
use crate::fold::State;
use crate::object::{Number, Tree};
use crate::replication::{has, is_readable, is_whole_at};
use crate::rule::Rule;
use crate::site::{Form, Site};
use crate::world::World;

/// Every place that a retained tree names is in the store.
pub const NO_TREE_NAMES_REMOVED: &str = "no retained tree names a removed pack";
/// A push that its user was told about is in effect, or stands in the old log, listed, for `bring`.
pub const NO_PUSH_LOST: &str = "no acknowledged push is lost";
/// No user's push is in effect twice.
pub const NO_PUSH_DOUBLED: &str = "no push is doubled";
/// From every number, what stands at the next one leads on to the head.
pub const NO_READER_STUCK: &str = "no reader is stuck at a retired number";
/// Every retained point can be folded from a checkpoint, or from the first record.
pub const POINTS_READABLE: &str = "every retained point can be read";
/// What a writer may name is in the store.
pub const NAMEABLE_IS_THERE: &str = "what a record may name is there";
/// Each record follows the one before it.
pub const CHAIN_UNBROKEN: &str = "the chain is unbroken";
/// A replica is a whole repository at its last mark.
pub const REPLICA_WHOLE: &str = "a replica is whole at its mark";
/// After a finished switch every acknowledged push is in effect in the new log.
pub const SWITCH_LEAVES_NOTHING: &str = "a finished switch leaves nothing behind";

pub(crate) fn of(configuration: &Configuration) -> Vec<Property<Configuration>> {
    let mut properties = vec![
        Property::always(
            NO_TREE_NAMES_REMOVED,
            |model: &Configuration, world: &World| {
                live_sites(world).all(|(site, state)| {
                    retained_trees(model, site, state)
                        .into_iter()
                        .flatten()
                        .flatten()
                        .all(|place| has(site, place.object))
                })
            },
        ),
        Property::always(NO_PUSH_LOST, no_push_lost),
        Property::always(NO_PUSH_DOUBLED, |model: &Configuration, world: &World| {
            live_sites(world).all(|(site, state)| {
                let users = 0..u8::try_from(model.work.len()).unwrap_or(u8::MAX);
                users
                    .into_iter()
                    .all(|user| in_effect(site, state, user, 0) <= 1)
            })
        }),
        Property::always(NO_READER_STUCK, |_, world: &World| {
            live_sites(world).all(|(site, _)| {
                let is_stuck = |at: &Number| World::read_on(site, *at) == *at;
                let behind = (0..site.head()).chain(world.reader);
                !behind
                    .filter(|at| *at < site.head())
                    .any(|at| is_stuck(&at))
            })
        }),
        Property::always(POINTS_READABLE, |_, world: &World| {
            live_sites(world).all(|(site, state)| {
                state
                    .retained
                    .iter()
                    .all(|point| is_readable(site, state, point))
            })
        }),
        Property::always(NAMEABLE_IS_THERE, |_, world: &World| {
            live_sites(world).all(|(site, state)| {
                let nameable = state.known.minus(state.condemned);
                nameable.minus(site.packs).is_empty()
            })
        }),
        Property::always(CHAIN_UNBROKEN, |_, world: &World| {
            [&world.primary, &world.replica].into_iter().all(|site| {
                let numbers = 1..=site.head();
                numbers.into_iter().all(|number| {
                    let parent = site.slot(number).map(|slot| slot.record.parent);
                    parent == Some(site.id(number - 1))
                })
            })
        }),
    ];
    if configuration.replicator {
        properties.push(Property::always(REPLICA_WHOLE, replica_whole));
        properties.push(Property::sometimes("a mark is set", |_, world: &World| {
            world.replica.complete > 3
        }));
    }
    if configuration.owner {
        properties.push(Property::always(
            SWITCH_LEAVES_NOTHING,
            |_, world: &World| {
                let state = world.replica.state();
                !world.owner.finished
                    || world
                        .acknowledged
                        .iter()
                        .all(|user| in_effect(&world.replica, state, user, 0) >= 1)
            },
        ));
        properties.push(Property::sometimes(
            "a switch with a push brought over is finished",
            |_, world: &World| {
                let state = world.replica.state();
                world.owner.finished
                    && world.acknowledged.iter().any(|user| {
                        in_effect(&world.primary, world.primary.state(), user, 0) >= 1
                            && in_effect(&world.replica, state, user, state.fork) >= 1
                    })
            },
        ));
    }
    if configuration.collectors > 0 {
        properties.push(Property::sometimes(
            "a pack is removed",
            |_, world: &World| !world.primary.state().removed.is_empty(),
        ));
        properties.push(Property::sometimes(
            "a record is retired",
            |_, world: &World| {
                let is_retired = |slot: &crate::site::Slot| slot.form != Form::Whole;
                world.primary.log.iter().any(is_retired)
            },
        ));
    }
    if !configuration.work.is_empty() {
        properties.push(Property::sometimes(
            "every user is told that the push landed",
            |model: &Configuration, world: &World| {
                world.acknowledged.iter().count() == model.users()
            },
        ));
    }
    properties
}

/// The stores that a repository lives in, each with its state: the primary, and a promoted replica.
fn live_sites<'a>(world: &'a World) -> impl Iterator<Item = (&'a Site, &'a State)> + use<'a> {
    let primary = (&world.primary, world.primary.state());
    let replica = (&world.replica, world.replica.state());
    let is_promoted = replica.1.epoch > 0;
    std::iter::once(primary).chain(is_promoted.then_some(replica))
}

/// Each retained tree as a reader computes it.
fn retained_trees(model: &Configuration, site: &Site, state: &State) -> Vec<Tree> {
    if model.rules.hold(Rule::MovesReachPoints) {
        return state.trees().collect();
    }
    let points = state.retained.iter();
    points
        .map(|point| site.state_at(point, model.rules).tree)
        .chain(std::iter::once(state.tree))
        .collect()
}

/// How often a user's push is in effect after a number.
fn in_effect(site: &Site, state: &State, user: u8, after: Number) -> usize {
    let numbers = (after + 1..=site.head()).filter(|number| state.effective.contains(*number));
    let intents = numbers.filter_map(|number| Some(site.slot(number)?.record.draft.intent));
    intents.filter(|intent| *intent == user).count()
}

fn no_push_lost(_: &Configuration, world: &World) -> bool {
    let (old, new) = (world.primary.state(), world.replica.state());
    world.acknowledged.iter().all(|user| {
        let in_old = in_effect(&world.primary, old, user, 0) >= 1;
        if new.epoch == 0 {
            return in_old;
        }
        let in_new = in_effect(&world.replica, new, user, 0) >= 1;
        // What stands in the old log behind the fork is listed and brought over.
        in_new || in_effect(&world.primary, old, user, new.fork) >= 1
    })
}

fn replica_whole(model: &Configuration, world: &World) -> bool {
    let replica = &world.replica;
    let state = replica.state();
    // Behind a promote the mark has done its duty: the new log is looked at as a whole.
    if state.epoch > 0 {
        return true;
    }
    is_whole_at(replica, replica.complete, model.rules)
}
