//! Kills clients and gateways at random moments of pushes and pulls.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use statehold_testkit::killing::kill_at_random;

use crate::program::ProgramArgs;

/// Kill
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Kills during a push, and as many during a pull
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// What follows from chance follows from this; by default from the time of day
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    program: ProgramArgs,
}

pub(crate) fn run(args: &KillArgs) -> Result<()> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let started = Instant::now();
    let kills = kill_at_random(&args.program.binary()?, args.count, seed)?;
    println!(
        "seed {seed}: kill -9 during {} pushes and {} pulls ({} clients, {} gateways, {} had just \
         ended)",
        kills.pushes, kills.pulls, kills.clients, kills.gateways, kills.too_late
    );
    println!(
        "pushes: {} had not landed ({} of them did a moment later, whole), {} had landed whole, 0 \
         half; pulls: {} had switched some files, and \
         after {} others changed the same files before the next one",
        kills.nothing_landed,
        kills.landed_later,
        kills.landed_whole,
        kills.pulls_half_done,
        kills.changed_again
    );
    println!(
        "nothing acknowledged was lost, every next run completed, and in {} looks during the pulls \
         and one after each no file was anything but old or new; {:.1} s",
        kills.looks,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
