//! Runs of the simulated world.

use statehold_testkit::client::Variant;
use statehold_testkit::compacting::compact_for;
use statehold_testkit::switching::{self, simulate_switching};
use statehold_testkit::world::{STEPS, Scenario, simulate_scenario};
use statehold_testkit::{simulate, simulate_many};

/// Every invariant holds on these seeds, and between them they meet everything that can happen.
#[test]
fn invariants_hold_whatever_fails() {
    let reports = simulate_many(0..16, STEPS).unwrap_or_else(|failure| panic!("{failure}"));
    for report in &reports {
        println!("{report:?}");
    }
    let sum = |count: fn(&statehold_testkit::Report) -> u64| reports.iter().map(count).sum::<u64>();
    for (what, count) in [
        ("records", sum(|report| report.audited.records)),
        ("acknowledged", sum(|report| report.audited.acknowledged)),
        ("failed", sum(|report| report.audited.failed)),
        ("segments", sum(|report| report.audited.segments)),
        ("checkpoints", sum(|report| report.audited.checkpoints)),
        ("packs", sum(|report| report.audited.packs)),
        ("conflicts", sum(|report| report.conflicts)),
        ("crashes", sum(|report| report.crashes)),
        ("gateway crashes", sum(|report| report.gateway_crashes)),
        ("lost requests", sum(|report| report.faults.lost_requests)),
        ("lost replies", sum(|report| report.faults.lost_replies)),
        ("throttled", sum(|report| report.faults.throttled)),
        ("denied", sum(|report| report.faults.denied)),
        ("late replies", sum(|report| report.faults.late_replies)),
        ("zombies", sum(|report| report.faults.zombies)),
        ("outages", sum(|report| report.faults.outages)),
    ] {
        assert!(
            count > 0,
            "no {what} on any seed: the simulation is too tame"
        );
    }
}

/// The same while two collectors let go of all but few points, and delete at once what a real one would
/// keep for a week.
#[test]
fn invariants_hold_while_collectors_collect() {
    let run = |seed| simulate_scenario(seed, Scenario::collecting(STEPS));
    let reports: Result<Vec<_>, _> = (0..16).map(run).collect();
    let reports = reports.unwrap_or_else(|failure| panic!("{failure}"));
    let sum = |count: fn(&statehold_testkit::Report) -> u64| reports.iter().map(count).sum::<u64>();
    let (collected, restored) = (sum(|one| one.collected), sum(|one| one.restored));
    assert!(collected > 20 && restored > 20, "{collected} {restored}");
}

/// The same while an owner switches stores, replicators and promotes die anywhere, and machines follow by the product's
/// own path. Odd seeds have a collector.
#[test]
fn nothing_is_lost_while_the_log_changes_stores() {
    let mut sum = switching::Report::default();
    for seed in 0..6 {
        let report = simulate_switching(seed, switching::STEPS);
        sum.add(&report.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{sum:?}");
    for (what, count) in [
        ("switches", sum.switches),
        ("stores fenced", sum.fenced),
        ("runs of machines", sum.runs),
        ("runs of replicators", sum.copies),
        ("diverged replicators", sum.diverged),
        ("pushes lost at first", sum.lost),
    ] {
        assert!(
            count > 0,
            "no {what} on any seed: the simulation is too tame"
        );
    }
}

/// A simulated minute beside all of them; `show compaction` takes ten.
#[test]
fn compaction_without_pause_keeps_the_space_in_bounds() {
    let done = compact_for(1, (8, 4), 1).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{done:?}");
    assert!(done.collected > 4 && done.restored > 20, "{done:?}");
    assert!(done.taken <= 2 * done.kept, "{done:?}");
}

#[test]
fn a_seed_always_gives_the_same_run() {
    let run = |seed| simulate(seed, STEPS).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).trace, run(2).trace);
}

/// A simulation that finds nothing proves nothing, so it has to find these.
#[test]
fn planted_bugs_are_found() {
    let right = Scenario::new(STEPS);
    for (bug, scenario) in [
        (
            "a new nonce on each attempt",
            Scenario {
                variant: Variant::NewNonceOnRetry,
                ..right
            },
        ),
        (
            "an ambiguous answer taken for a failure",
            Scenario {
                variant: Variant::AmbiguousIsFailure,
                ..right
            },
        ),
        (
            "a draft forgotten in a crash",
            Scenario {
                variant: Variant::NoJournal,
                ..right
            },
        ),
        (
            "a store that ignores create-only",
            Scenario {
                creates_only: false,
                ..right
            },
        ),
    ] {
        let failure = (0..12).find_map(|seed| simulate_scenario(seed, scenario).err());
        let failure = failure.unwrap_or_else(|| panic!("{bug} was not found"));
        println!("{bug}: seed {}: {}", failure.seed, failure.violation);
        assert!(!failure.last.is_empty());
    }
}
