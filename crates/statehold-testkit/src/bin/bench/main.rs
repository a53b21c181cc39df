//! Measurements, each a program that prints a table: `cargo xtask bench NAME`.

#![expect(clippy::print_stdout, reason = "these programs print their results")]

mod push;
mod requests;
mod scan;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
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
    /// A first push and one with nothing to do, to an S3 server far away, beside other tools.
    Push(push::PushArgs),
    /// `status` of an unchanged tree, beside `git status`.
    Scan(scan::ScanArgs),
}

fn main() -> Result<()> {
    match Arguments::parse().bench {
        Bench::Requests(args) => requests::run(&args),
        Bench::Push(args) => push::run(&args),
        Bench::Scan(args) => scan::run(&args),
    }
}

/// The statehold program that `cargo xtask bench` builds next to this one.
fn built_statehold() -> Result<PathBuf> {
    let name = format!("statehold{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::current_exe()
        .context("this program cannot say where it lies")?
        .with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not there; `cargo xtask bench` builds it, or name one with --statehold",
        path.display()
    );
    Ok(path)
}
