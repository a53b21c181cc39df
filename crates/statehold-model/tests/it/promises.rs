//! With all rules in force no world that can be reached breaks a promise.

use statehold_model::{Configuration, STEPS_MAX, Size};

use crate::THREADS;

fn holds(configuration: Configuration) {
    let name = configuration.name;
    let outcome = configuration.check(THREADS, STEPS_MAX);
    let first = outcome.broken.first();
    let (promise, steps) = first.map_or(("", ""), |(promise, steps)| (promise, steps.as_str()));
    assert!(outcome.broken.is_empty(), "{name}: {promise}\n{steps}");
    assert!(outcome.is_exhausted, "{name}: every world was looked at");
    // A check in which nothing is ever removed, retired or landed would prove nothing.
    assert_eq!(outcome.unseen, Vec::<&str>::new(), "{name}");
}

#[test]
fn promises_hold_while_writers_append() {
    holds(Configuration::appends(Size::Small));
}

#[test]
fn promises_hold_when_one_draft_goes_through_two_gateways() {
    holds(Configuration::two_gateways(Size::Small));
}

#[test]
fn promises_hold_while_two_collectors_work() {
    holds(Configuration::collection(Size::Small));
}

#[test]
fn promises_hold_when_a_rollback_meets_the_expiry_of_its_point() {
    holds(Configuration::rollback(Size::Small));
}

#[test]
fn promises_hold_when_a_reader_and_a_writer_meet_retired_records() {
    holds(Configuration::retirement(Size::Small));
}

#[test]
fn promises_hold_while_a_replica_is_made_and_promoted() {
    holds(Configuration::replication(Size::Small));
}

#[test]
fn promises_hold_through_a_switch() {
    holds(Configuration::fail_over(Size::Small));
}

#[test]
#[ignore = "takes minutes and gigabytes; `cargo xtask show model --size large` prints a table"]
fn promises_hold_in_large_worlds() {
    for configuration in Configuration::all(Size::Large) {
        let name = configuration.name;
        let outcome = configuration.check(THREADS, STEPS_MAX);
        assert!(outcome.broken.is_empty(), "{name}: {:?}", outcome.broken);
    }
}
