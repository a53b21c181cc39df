//! Runs the simulation: one seed, a number of fresh ones, or as many as fit in a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use clap::Args;
use statehold_testkit::world::{STEPS, Scenario, simulate_scenario};

/// Simulate
#[derive(Debug, Args)]
pub(crate) struct SimulationArgs {
    /// Replay this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of a run
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// With collectors
    #[arg(long)]
    collect: bool,
    /// Fresh seeds to run
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// Stop after so many seconds, whatever the count
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

pub(crate) fn run(args: &SimulationArgs) -> Result<()> {
    let scenario = if args.collect {
        Scenario::collecting(args.steps)
    } else {
        Scenario::new(args.steps)
    };
    if let Some(seed) = args.seed {
        let report = simulate_scenario(seed, scenario).map_err(|failure| anyhow!("{failure}"))?;
        println!("{report:#?}");
        return Ok(());
    }
    // Fresh seeds; a failure prints the one command that replays it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let first = u64::try_from(now)? << 16;
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
        args.steps,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
