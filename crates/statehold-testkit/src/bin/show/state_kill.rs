//! Kills processes that write application state.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use statehold_testkit::state_killing::{kill_writers, write_until_killed};

/// Kill writers of state
#[derive(Debug, Args)]
pub(crate) struct StateKillArgs {
    /// Writers to kill
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// What follows from chance follows from this; by default from the time of day
    #[arg(long)]
    seed: Option<u64>,
}

/// Write state until killed
#[derive(Debug, Args)]
pub(crate) struct StateWriterArgs {
    folder: PathBuf,
    first: u64,
}

pub(crate) fn run(args: &StateKillArgs) -> Result<()> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let started = Instant::now();
    let program = std::env::current_exe()?;
    let kills = kill_writers(&program, "state-writer", args.count, seed)?;
    println!(
        "seed {seed}: {} writers killed, {} batches acknowledged and all of them there, {} more \
         had become durable without being said, {} half written ends were cut off, no batch was \
         half there; {:.1} s",
        kills.kills,
        kills.acknowledged,
        kills.unsaid,
        kills.torn,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

pub(crate) fn write(args: &StateWriterArgs) -> Result<()> {
    write_until_killed(&args.folder, args.first)
}
