//! The project's own commands: `cargo xtask test`, `ci`, `tidy`, `show NAME`, `bench NAME`.

mod tests;
mod tidy;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run all tests and print one summary last.
    Test,
    /// Everything a change has to pass: format, lints, documentation, tidiness, tests.
    Ci,
    /// Check what lints cannot: file headers, names, the arrows between crates.
    Tidy,
    /// Show that a promise holds: run the program that exercises it.
    Show {
        /// What to show, followed by its own arguments; `help` names them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Measure, and print a table.
    Bench {
        /// What to measure, followed by its own arguments; `help` names them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Test => tests::run(),
        Task::Ci => ci(),
        Task::Tidy => tidy::run(),
        Task::Show { arguments } => program("show", &arguments),
        Task::Bench { arguments } => bench(&arguments),
    }
}

fn ci() -> Result<()> {
    let steps: [&[&str]; 3] = [
        &["fmt", "--all", "--check"],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
    ];
    for step in steps {
        cargo(step)?;
    }
    tidy::run()?;
    tests::run()
}

/// Measurements of the command itself run the command as it is released.
fn bench(arguments: &[String]) -> Result<()> {
    let runs_the_command = ["scan", "push"];
    if arguments
        .first()
        .is_some_and(|name| runs_the_command.contains(&name.as_str()))
    {
        cargo(&["build", "--release", "--package", "statehold-cli"])?;
    }
    program("bench", arguments)
}

/// Runs one of the programs of the test kit, optimised, since what they count takes a while.
fn program(name: &str, arguments: &[String]) -> Result<()> {
    let fixed = [
        "run",
        "--quiet",
        "--release",
        "--package",
        "statehold-testkit",
        "--bin",
        name,
        "--",
    ];
    let arguments: Vec<&str> = fixed
        .into_iter()
        .chain(arguments.iter().map(String::as_str))
        .collect();
    cargo(&arguments)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    if arguments.first() == Some(&"doc") {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    let status = command
        .args(arguments)
        .status()
        .context("cargo could not be started")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
