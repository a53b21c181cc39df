//! Explores the model of the protocol, world by world, and prints what was looked at.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use statehold_model::{Configuration, STEPS_MAX, Size};

/// The model of the protocol
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// How much takes part: `small` takes seconds, `large` many minutes and gigabytes
    #[arg(long, value_enum, default_value_t = Extent::Small)]
    size: Extent,
    /// One configuration by its name, such as `collection`
    #[arg(long)]
    only: Option<String>,
    /// Steps after which a configuration is given up, worlds that were reached before counted again
    #[arg(long, default_value_t = STEPS_MAX)]
    steps: usize,
    /// Threads to explore on
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// How much takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Extent {
    Small,
    Large,
}

pub(crate) fn run(args: &ModelArgs) -> Result<()> {
    let size = match args.size {
        Extent::Small => Size::Small,
        Extent::Large => Size::Large,
    };
    let is_chosen = |configuration: &Configuration| {
        let name = configuration.name;
        args.only.as_ref().is_none_or(|only| only == name)
    };
    let chosen: Vec<_> = Configuration::all(size)
        .into_iter()
        .filter(is_chosen)
        .collect();
    if chosen.is_empty() {
        let all = Configuration::all(size);
        let names: Vec<_> = all.iter().map(|known| known.name).collect();
        bail!(
            "no configuration has that name; there are {}",
            names.join(", ")
        );
    }
    println!("configuration      worlds  depth  properties   seconds  looked at");
    let mut broken = 0;
    for configuration in chosen {
        let name = configuration.name;
        let outcome = configuration.check(args.threads, args.steps);
        let extent = if !outcome.broken.is_empty() {
            "until a promise broke"
        } else if outcome.is_exhausted {
            "all"
        } else {
            "the nearest ones"
        };
        println!(
            "{name:<14} {:>10}  {:>5}  {:>10}  {:>8.1}  {extent}",
            outcome.worlds,
            outcome.depth,
            outcome.properties,
            outcome.took.as_secs_f64()
        );
        for (promise, steps) in &outcome.broken {
            println!("\nBROKEN: {promise}\n{steps}");
        }
        for unseen in &outcome.unseen {
            println!("NEVER SEEN: {unseen}");
        }
        let is_unseen_for_good = outcome.is_exhausted && !outcome.unseen.is_empty();
        broken += outcome.broken.len() + usize::from(is_unseen_for_good);
    }
    if broken > 0 {
        bail!("the model breaks {broken} promises");
    }
    Ok(())
}
