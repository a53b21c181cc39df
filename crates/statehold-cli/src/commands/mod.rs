//! The command line: one file per command. This file only says which there are.

mod admin;
mod bring_over;
mod cat;
mod compact;
mod completions;
mod demo;
mod diff;
mod doctor;
mod drill;
mod export;
mod fence;
mod forget;
mod init;
mod link;
mod log;
mod machines;
mod man;
mod probe;
mod promote;
mod purge;
mod repair;
mod replicate;
mod restore;
mod rollback;
mod rules;
mod serve;
mod snapshot;
mod state;
mod status;
mod sync;
mod undo;
mod usage;
mod verify;
mod versions;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::environment::take_credentials;
use crate::exit::Exit;
use crate::output::{Output, complain};

/// Keeps the working state of agents and applications the same on every machine.
#[derive(Debug, Parser)]
#[command(
    name = "statehold",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "Begin with `statehold demo`, which shows the main job on real files.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Work on the workspace in this folder instead of the present one
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print one JSON value instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Print errors only
    #[arg(short, long, global = true, alias = "silent")]
    quiet: bool,
    /// Take the store's credentials from standard input, as NAME=VALUE lines or a JSON object, and
    /// none from the environment; for commands that work straight on a store
    #[arg(long, global = true)]
    credentials_stdin: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Link(link::LinkArgs),
    Unlink(link::UnlinkArgs),
    /// Send this folder's changes to the repository, whole or not at all
    #[command(after_help = "Examples:
  statehold push --dry            (what would be sent; contacts nobody)
  statehold push
  statehold push --auto --runtime claude-code      (from a hook)")]
    Push(sync::RunArgs),
    /// Bring the repository's changes into this folder
    #[command(after_help = "Examples:
  statehold pull --dry            (what would change here)
  statehold pull
  statehold pull --on-conflict remote      (this machine's side is set aside, not lost)")]
    Pull(sync::RunArgs),
    /// Pull, then push: make folder and repository alike
    #[command(after_help = "Examples:
  statehold sync
  statehold sync --on-conflict newest --limit-rate 2M")]
    Sync(sync::RunArgs),
    Watch(watch::WatchArgs),
    #[command(hide = true)]
    DeferredPush(sync::DeferredPushArgs),
    State(state::StateArgs),
    Status(status::StatusArgs),
    Log(log::LogArgs),
    Versions(versions::VersionsArgs),
    Diff(diff::DiffArgs),
    Snapshot(snapshot::SnapshotArgs),
    Rollback(rollback::RollbackArgs),
    Forget(forget::ForgetArgs),
    Compact(compact::CompactArgs),
    Usage(usage::UsageArgs),
    Purge(purge::PurgeArgs),
    Undo(undo::UndoArgs),
    Doctor(doctor::DoctorArgs),
    Rules(rules::RulesArgs),
    Machines(machines::MachinesArgs),
    Admin(admin::AdminArgs),
    Cat(cat::CatArgs),
    Restore(restore::RestoreArgs),
    Export(export::ExportArgs),
    Serve(serve::ServeArgs),
    Replicate(replicate::ReplicateArgs),
    Fence(fence::FenceArgs),
    Promote(promote::PromoteArgs),
    BringOver(bring_over::BringOverArgs),
    Probe(probe::ProbeArgs),
    Verify(verify::VerifyArgs),
    Drill(drill::DrillArgs),
    Repair(repair::RepairArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// Whether the command may work straight on a store.
    const fn may_open_store(&self) -> bool {
        match self {
            Self::Serve(_)
            | Self::Probe(_)
            | Self::Verify(_)
            | Self::Drill(_)
            | Self::Repair(_)
            | Self::Replicate(_)
            | Self::Fence(_)
            | Self::Promote(_)
            | Self::BringOver(_)
            | Self::Link(_)
            | Self::Watch(_)
            | Self::State(_)
            | Self::Status(_)
            | Self::Log(_)
            | Self::Versions(_)
            | Self::Diff(_)
            | Self::Snapshot(_)
            | Self::Rollback(_)
            | Self::Forget(_)
            | Self::Compact(_)
            | Self::Usage(_)
            | Self::Purge(_)
            | Self::Undo(_)
            | Self::Doctor(_)
            | Self::Cat(_)
            | Self::Restore(_)
            | Self::Export(_) => true,
            // What is left for later runs without anybody who could pipe anything in.
            Self::Push(args) | Self::Pull(args) | Self::Sync(args) => !args.is_auto(),
            _ => false,
        }
    }
}

impl Cli {
    /// Whether the command serves until it is stopped.
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }

    /// How the command is to speak.
    pub(crate) fn output(&self) -> Output {
        Output {
            json: self.global.json,
            quiet: self.global.quiet,
        }
    }
}

impl GlobalArgs {
    /// The folder that the command is about.
    fn directory(&self) -> Result<PathBuf> {
        match &self.directory {
            Some(directory) => Ok(directory.clone()),
            None => std::env::current_dir().context("the present folder cannot be found"),
        }
    }
}

/// Runs the command that was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let output = cli.output();
    let global = cli.global;
    if global.credentials_stdin {
        if !cli.command.may_open_store() {
            complain("statehold: this command opens no store, so it takes no --credentials-stdin");
            return Ok(Exit::Usage.into());
        }
        take_credentials()?;
    }
    match cli.command {
        Command::Init(args) => init::run(&args, &global, output),
        Command::Link(args) => link::run_link(args, &global, output),
        Command::Unlink(args) => link::run_unlink(&args, &global, output),
        Command::Push(args) => sync::run_push(&args, &global, output),
        Command::Pull(args) => sync::run_pull(&args, &global, output),
        Command::Sync(args) => sync::run_sync(&args, &global, output),
        Command::Watch(args) => watch::run(&args, &global, output),
        Command::DeferredPush(args) => sync::run_deferred(&args, &global, output),
        Command::State(args) => state::run(&args, &global, output),
        Command::Status(args) => status::run(&args, &global, output),
        Command::Log(args) => log::run(&args, &global, output),
        Command::Versions(args) => versions::run(&args, &global, output),
        Command::Snapshot(args) => snapshot::run(&args, &global, output),
        Command::Rollback(args) => rollback::run(&args, &global, output),
        Command::Forget(args) => forget::run(&args, &global, output),
        Command::Compact(args) => compact::run(&args, &global, output),
        Command::Usage(args) => usage::run(&args, &global, output),
        Command::Purge(args) => purge::run(&args, &global, output),
        Command::Undo(args) => undo::run(&args, &global, output),
        Command::Diff(args) => diff::run(&args, &global, output),
        Command::Doctor(args) => doctor::run(&args, &global, output),
        Command::Rules(args) => rules::run(&args, &global, output),
        Command::Machines(args) => machines::run(&args, &global, output),
        Command::Admin(args) => admin::run(args, output),
        Command::Cat(args) => cat::run(&args, &global, output),
        Command::Restore(args) => restore::run(&args, &global, output),
        Command::Export(args) => export::run(&args, &global, output),
        Command::Serve(args) => serve::run(args, output),
        Command::Replicate(args) => replicate::run(&args, &global, output),
        Command::Fence(args) => fence::run(&args, &global, output),
        Command::Promote(args) => promote::run(&args, output),
        Command::BringOver(args) => bring_over::run(&args, output),
        Command::Probe(args) => probe::run(&args, output),
        Command::Verify(args) => verify::run(&args, &global, output),
        Command::Drill(args) => drill::run(&args, &global, output),
        Command::Repair(args) => repair::run(&args, &global, output),
        Command::Demo(args) => demo::run(&args, output),
        Command::Completions(args) => completions::run(&args, output),
        Command::Man(args) => man::run(&args, output),
    }
}

/// Waits for asynchronous work on several threads.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?
        .block_on(work)
}
