//! Machines that are watched: how soon they see each other's changes, and what it costs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use statehold_testkit::watching::{QUIET, Times, idle, kill_watching, see_changes};

use crate::program::ProgramArgs;

/// Watch
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Changes of states, and as many of files, with one gateway and again with two
    #[arg(long, default_value_t = 100)]
    changes: u64,
    /// Kills of watches and gateways
    #[arg(long, default_value_t = 40)]
    kills: u64,
    /// How long it is counted what is asked while nothing happens, in seconds
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// What follows from chance follows from this; by default from the time of day
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    program: ProgramArgs,
}

/// How soon a change is to be seen on the other machine.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &WatchArgs) -> Result<()> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let binary = args.program.binary()?;
    // In quiet each takes its while, so they are fewer.
    let quietly = args.changes.div_ceil(10);
    for (gateways, place, changes, quiet) in [
        (1, "one gateway", args.changes, Duration::ZERO),
        (2, "two gateways on one store", args.changes, Duration::ZERO),
        (2, "two gateways, in quiet", quietly, QUIET),
    ] {
        let seen = see_changes(&binary, changes, gateways, quiet, seed)?;
        for (what, times) in [("states", &seen.states), ("files", &seen.files)] {
            println!("{place}: {}", told(what, times));
            // A machine that is busy with other things may be late now and then.
            let median = times.percentile(50);
            ensure!(median < SOON, "half of the {what} took over {median:?}");
        }
    }
    let started = Instant::now();
    let killed = kill_watching(&binary, args.kills, seed);
    let killed = killed.with_context(|| format!("seed {seed}"))?;
    println!(
        "seed {seed}: {} watches and {} gateways killed while {} files were written: both machines have all \
         of them, and whatever was not killed went on by itself; {:.1} s",
        killed.watches,
        killed.gateways,
        killed.written,
        started.elapsed().as_secs_f64()
    );
    for machines in [1, 4] {
        let idle = idle(&binary, machines, Duration::from_secs(args.idle))?;
        println!(
            "nothing happens, {machines} watching: {:.1} requests a minute to the gateway, {:.0} to the store",
            idle.to_gateway, idle.to_store
        );
    }
    Ok(())
}

fn told(what: &str, times: &Times) -> String {
    let [median, most, max] = [50, 95, 100].map(|percent| times.percentile(percent).as_millis());
    format!(
        "{} {what} changed on one machine and seen on the other, median {median} ms, 95 % within {most} ms, \
         longest {max} ms, {} over {SOON:?}",
        times.count(),
        times.over(SOON)
    )
}
