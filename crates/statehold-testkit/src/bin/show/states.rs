//! Application state on real machines.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use statehold_testkit::carrying::{carry, clocks_apart, kill_setters};

use crate::program::ProgramArgs;

/// Carry states
#[derive(Debug, Args)]
pub(crate) struct StatesArgs {
    /// Rounds of changes, with what happens to machines in between
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Kills of a command that sets a state
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// What follows from chance follows from this; by default from the time of day
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    program: ProgramArgs,
}

pub(crate) fn run(args: &StatesArgs) -> Result<()> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let binary = args.program.binary()?;
    let started = Instant::now();
    let done = carry(&binary, args.rounds, seed)?;
    println!(
        "seed {seed}: {} states set and {} deleted, {} of them seen elsewhere after one push and one \
         pull; {} machines copied, {} put back, {} rollbacks, {} files damaged",
        done.set,
        done.deleted,
        done.seen_at_once,
        done.copied,
        done.put_back,
        done.rolled_back,
        done.damaged
    );
    println!(
        "{} machines are equal, {} nodes wrote, nothing acknowledged is lost and nothing deleted came \
         back; {:.1} s",
        done.machines,
        done.nodes,
        started.elapsed().as_secs_f64()
    );
    clocks_apart(&binary, seed)?;
    println!(
        "clocks a day apart converge; an event of next year is taken, told, and beats no edit made after \
         seeing it"
    );
    let started = Instant::now();
    let killed = kill_setters(&binary, args.kills, seed)?;
    println!(
        "{} of {} commands killed while pushes and pulls ran: {} sets acknowledged and all of them on \
         the other machine, {} more there without being said; {:.1} s",
        killed.kills,
        args.kills,
        killed.acknowledged,
        killed.unsaid,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
