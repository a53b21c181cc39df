//! Promises, each exercised by a program: `cargo xtask show NAME`.

#![expect(clippy::print_stdout, reason = "these programs print their results")]

mod simulation;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask show", about = "Show that a promise holds")]
struct Arguments {
    #[command(subcommand)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Clients, gateways and a faulty store under one seed, with every invariant checked.
    Simulation(simulation::SimulationArgs),
}

fn main() -> Result<()> {
    match Arguments::parse().show {
        Show::Simulation(args) => simulation::run(&args),
    }
}
