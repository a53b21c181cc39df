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

/// What is shown with the real program, which has to be built beside the one that shows it.
const NEEDS_BINARY: [&str; 11] = [
    "kill",
    "crowd",
    "tree",
    "damage",
    "replicate",
    "worm",
    "compaction",
    "owned",
    "states",
    "watch",
    "failover",
];

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Test => tests::run(),
        Task::Ci => ci(),
        Task::Tidy => tidy::run(),
        Task::Show { arguments } => {
            if arguments[0] == BADINPUT {
                return show_badinput(&arguments);
            }
            if NEEDS_BINARY.iter().any(|name| arguments[0] == *name) {
                build_binary()?;
            }
            program("show", &arguments)
        }
        Task::Bench { arguments } => bench(&arguments),
    }
}

/// What is shown by tests: what commands say when something is wrong.
const BADINPUT: &str = "badinput";

/// Show what every command says when something is wrong
#[derive(Debug, Parser)]
#[command(name = "cargo xtask show badinput")]
struct BadInputArgs {
    /// How long the store answers 503, in seconds
    #[arg(long, default_value_t = 60)]
    outage: u64,
}

/// Runs the tests of the table in `docs/operations.md`, one after the other, with what they print.
fn show_badinput(arguments: &[String]) -> Result<()> {
    let args = BadInputArgs::parse_from(arguments);
    let mut command = cargo_command(&["test", "--quiet", "--package", "statehold-cli"]);
    command
        .args(["--test", "it", "bad_input::"])
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env("STATEHOLD_TEST_OUTAGE_SECONDS", args.outage.to_string());
    finish(command)
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

/// Measures. Some programs run the command itself, which is built first.
fn bench(arguments: &[String]) -> Result<()> {
    if let Some((name, rest)) = arguments.split_first()
        && name == "state"
    {
        return bench_state(rest);
    }
    let runs_the_command = ["requests", "scan", "push"];
    if arguments
        .first()
        .is_some_and(|name| runs_the_command.contains(&name.as_str()))
    {
        build_binary()?;
    }
    program("bench", arguments)
}

/// Measures application state beside other libraries, in a workspace of its own: nobody else has to
/// build those. Takes how many runs the best one is taken of.
fn bench_state(arguments: &[String]) -> Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/state/Cargo.toml");
    let mut words = vec![
        "run",
        "--quiet",
        "--release",
        "--manifest-path",
        manifest,
        "--",
    ];
    words.extend(arguments.iter().map(String::as_str));
    cargo(&words)
}

/// Runs one of the programs of the test kit.
fn program(name: &str, arguments: &[String]) -> Result<()> {
    let mut words = vec!["run", "--quiet"];
    words.extend(profile());
    words.extend(["--package", "statehold-testkit", "--bin", name, "--"]);
    words.extend(arguments.iter().map(String::as_str));
    cargo(&words)
}

/// Builds the command beside the programs that run it.
fn build_binary() -> Result<()> {
    let mut words = vec!["build", "--quiet"];
    words.extend(profile());
    words.extend(["--package", "statehold-cli"]);
    cargo(&words)
}

/// Optimised, since what these programs count takes a while; `XTASK_PROFILE=dev` shares what tests
/// have built, which is quicker for small counts.
fn profile() -> Option<&'static str> {
    let is_dev = std::env::var("XTASK_PROFILE").is_ok_and(|profile| profile == "dev");
    (!is_dev).then_some("--release")
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = cargo_command(arguments);
    if arguments.first() == Some(&"doc") {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    finish(command)
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    command
}

fn finish(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo could not be started")?;
    if !status.success() {
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        bail!("cargo {} failed", words.join(" "));
    }
    Ok(())
}
