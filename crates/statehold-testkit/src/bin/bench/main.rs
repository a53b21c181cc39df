//! Measurements, each a program that prints a table: `cargo xtask bench NAME`.

#![expect(clippy::print_stdout, reason = "these programs print their results")]

mod requests;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measure, and print a table")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Requests to the store for each verb, and what they cost at list prices.
    Requests(requests::RequestsArgs),
}

fn main() -> Result<()> {
    match Arguments::parse().bench {
        Bench::Requests(args) => requests::run(&args),
    }
}
