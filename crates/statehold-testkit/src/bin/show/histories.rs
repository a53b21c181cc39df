//! Runs random histories of application state.

use std::num::NonZero;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use clap::Args;
use statehold_testkit::histories::{self, Histories};

/// Histories
#[derive(Debug, Args)]
pub(crate) struct HistoriesArgs {
    /// Replay this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Fresh histories to run
    #[arg(long, default_value_t = 2_000)]
    count: u64,
    /// Threads to run them on; as many as there are processors if not given
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn run(args: &HistoriesArgs) -> Result<()> {
    if let Some(seed) = args.seed {
        println!("{}", histories::run(seed)?);
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let first = u64::try_from(now)? << 20;
    let started = Instant::now();
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = args.threads.unwrap_or_else(processors).max(1);
    let sums = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let own = (first + u64::try_from(thread)?..first + args.count).step_by(threads);
                Ok(scope.spawn(move || -> Result<Histories> {
                    let mut sum = Histories::default();
                    for seed in own {
                        sum.add(histories::run(seed)?);
                    }
                    Ok(sum)
                }))
            })
            .collect::<Result<_>>()?;
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a history panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let mut sum = Histories::default();
    for part in sums {
        sum.add(part);
    }
    println!(
        "seeds from {first}: {sum}; {:.1} s on {threads} threads",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
