//! Without a rule the checker finds how a promise breaks: once for every rule, the four of the design first.

use statehold_model::properties::{
    CHAIN_UNBROKEN, NAMEABLE_IS_THERE, NO_PUSH_DOUBLED, NO_PUSH_LOST, NO_READER_STUCK,
    NO_TREE_NAMES_REMOVED, POINTS_READABLE, REPLICA_WHOLE, SWITCH_LEAVES_NOTHING,
};
use statehold_model::{Configuration, Rule, Size};

use crate::THREADS;

/// The worlds that a rule is taken out of, and the promise that breaks.
type Flaw = (Rule, fn(Size) -> Configuration, &'static str);

const FLAWS: [Flaw; 22] = [
    (
        Rule::SecondRecord,
        Configuration::collection,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::SecondRecord,
        Configuration::rollback,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::CondemnCheck,
        Configuration::collection,
        NO_TREE_NAMES_REMOVED,
    ),
    (Rule::NonceSearch, Configuration::appends, NO_PUSH_DOUBLED),
    (
        Rule::NonceSearch,
        Configuration::two_gateways,
        NO_PUSH_DOUBLED,
    ),
    (Rule::EnvelopeStub, Configuration::retirement, NO_PUSH_LOST),
    (
        Rule::EnvelopeStub,
        Configuration::retirement,
        NO_READER_STUCK,
    ),
    (
        Rule::CondemnedForGood,
        Configuration::collection,
        NAMEABLE_IS_THERE,
    ),
    (
        Rule::RetiredContent,
        Configuration::rollback,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::MovesReachPoints,
        Configuration::collection,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::CheckpointFirst,
        Configuration::retirement,
        NO_READER_STUCK,
    ),
    (
        Rule::PointsBeforeCut,
        Configuration::retirement,
        POINTS_READABLE,
    ),
    (
        Rule::CopyInOrder,
        Configuration::replication,
        CHAIN_UNBROKEN,
    ),
    (
        Rule::MarkReadBack,
        Configuration::replication,
        REPLICA_WHOLE,
    ),
    (
        Rule::PromoteAtMark,
        Configuration::replication,
        POINTS_READABLE,
    ),
    (
        Rule::TidyBehindMark,
        Configuration::replication,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::BaseOfThisEpoch,
        Configuration::fail_over,
        NO_TREE_NAMES_REMOVED,
    ),
    (
        Rule::SearchFromFork,
        Configuration::fail_over,
        NO_PUSH_DOUBLED,
    ),
    (
        Rule::NonceAcrossEpochs,
        Configuration::fail_over,
        NO_PUSH_DOUBLED,
    ),
    (
        Rule::LeftBehindIsNotLanded,
        Configuration::fail_over,
        SWITCH_LEAVES_NOTHING,
    ),
    (
        Rule::FenceEndsLog,
        Configuration::fail_over,
        SWITCH_LEAVES_NOTHING,
    ),
    (
        Rule::FenceEndsLog,
        Configuration::replication,
        SWITCH_LEAVES_NOTHING,
    ),
];

/// Looks for the flaws of some rules; each has to be found.
fn are_found(rules: &[Rule]) {
    let chosen: Vec<&Flaw> = FLAWS
        .iter()
        .filter(|(rule, _, _)| rules.contains(rule))
        .collect();
    assert!(chosen.len() >= rules.len(), "each rule has a flaw to find");
    for (rule, configuration, promise) in chosen {
        let configuration = configuration(Size::Small).without(*rule);
        let name = configuration.name;
        let steps = configuration.counterexample(promise, THREADS);
        assert!(steps.is_some(), "{name} without {rule:?}: {promise}");
    }
}

#[test]
fn without_the_second_record_a_retained_tree_names_a_deleted_pack() {
    are_found(&[Rule::SecondRecord]);
}

#[test]
fn without_the_condemn_check_a_retained_tree_names_a_removed_pack() {
    are_found(&[Rule::CondemnCheck]);
}

#[test]
fn without_the_nonce_search_a_push_is_doubled() {
    are_found(&[Rule::NonceSearch]);
}

#[test]
fn without_the_envelope_stub_a_push_is_lost_and_a_reader_is_stuck() {
    are_found(&[Rule::EnvelopeStub]);
}

#[test]
fn every_other_rule_of_collecting_is_needed() {
    are_found(&[
        Rule::CondemnedForGood,
        Rule::RetiredContent,
        Rule::MovesReachPoints,
        Rule::CheckpointFirst,
        Rule::PointsBeforeCut,
    ]);
}

#[test]
fn every_rule_of_copying_and_switching_is_needed() {
    are_found(&[
        Rule::CopyInOrder,
        Rule::MarkReadBack,
        Rule::PromoteAtMark,
        Rule::TidyBehindMark,
        Rule::BaseOfThisEpoch,
        Rule::SearchFromFork,
        Rule::NonceAcrossEpochs,
        Rule::LeftBehindIsNotLanded,
        Rule::FenceEndsLog,
    ]);
}

#[test]
fn each_rule_has_a_flaw() {
    for rule in Rule::ALL {
        assert!(
            FLAWS.iter().any(|(with_flaw, _, _)| *with_flaw == rule),
            "{rule:?}"
        );
    }
}
