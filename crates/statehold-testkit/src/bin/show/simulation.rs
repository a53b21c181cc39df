//! Runs the simulation: one seed, a number of fresh ones, or as many as fit in a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use clap::Args;
use statehold_testkit::switching::{self, simulate_switching};
use statehold_testkit::world::{STEPS, Scenario, simulate_scenario};

/// Simulate
#[derive(Debug, Args)]
pub(crate) struct SimulationArgs {
    /// Replay this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of a run; 400, with `--switch` 120
    #[arg(long)]
    steps: Option<u64>,
    /// With collectors
    #[arg(long, conflicts_with = "switch")]
    collect: bool,
    /// With an owner who switches stores, replicators, and machines with real folders
    #[arg(long)]
    switch: bool,
    /// Fresh seeds to run
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// Stop after so many seconds, whatever the count
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

pub(crate) fn run(args: &SimulationArgs) -> Result<()> {
    if args.switch {
        return run_switching(args);
    }
    let steps = args.steps.unwrap_or(STEPS);
    let scenario = if args.collect {
        Scenario::collecting(steps)
    } else {
        Scenario::new(steps)
    };
    if let Some(seed) = args.seed {
        let report = simulate_scenario(seed, scenario).map_err(|failure| anyhow!("{failure}"))?;
        println!("{report:#?}");
        return Ok(());
    }
    let first = fresh()?;
    let started = Instant::now();
    let (mut runs, mut conflicts, mut crashes, mut gateways) = (0_u64, 0, 0, 0);
    while runs < args.count && started.elapsed() < Duration::from_secs(args.seconds) {
        let report =
            simulate_scenario(first + runs, scenario).map_err(|failure| anyhow!("{failure}"))?;
        conflicts += report.conflicts;
        crashes += report.crashes;
        gateways += report.gateway_crashes;
        runs += 1;
    }
    println!(
        "{runs} seeds from {first}, {} steps each: every invariant held; {conflicts} conflicts, \
         {crashes} client crashes, {gateways} gateways killed, {:.1} s",
        steps,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The first of seeds that nobody ran before; a failure prints the one command that replays it.
fn fresh() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(u64::try_from(now)? << 16)
}

fn run_switching(args: &SimulationArgs) -> Result<()> {
    let steps = args.steps.unwrap_or(switching::STEPS);
    let simulate = |seed| simulate_switching(seed, steps).map_err(|failure| anyhow!("{failure}"));
    if let Some(seed) = args.seed {
        println!("{:#?}", simulate(seed)?);
        return Ok(());
    }
    let first = fresh()?;
    let started = Instant::now();
    let (mut runs, mut sum) = (0_u64, switching::Report::default());
    while runs < args.count && started.elapsed() < Duration::from_secs(args.seconds) {
        sum.add(&simulate(first + runs)?);
        runs += 1;
    }
    println!(
        "{runs} seeds from {first}, {steps} steps each: every invariant held; {} switches ({} stores lost for \
         good, {} fenced first), {} refused; {} records left behind; {} pushes that the new logs lacked, {} of them \
         brought over; {} runs of machines, {} cut short; {} runs of replicators, {} said that the logs differ; {} \
         compactions and removals; {:.1} s",
        sum.switches,
        sum.vanished,
        sum.fenced,
        sum.refused,
        sum.left_behind,
        sum.lost,
        sum.brought,
        sum.runs,
        sum.cut_short,
        sum.copies,
        sum.diverged,
        sum.collected,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
