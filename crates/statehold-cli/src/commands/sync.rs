//! `statehold push`, `pull` and `sync`: make folder and repository alike.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use statehold_core::event::Outcome;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_sync::engine::RunOptions;

use super::{GlobalArgs, block_on};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output::Output;
use crate::report::{record_event, show_report};

/// Bring changes over
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Show what would be done and do nothing; a dry push contacts nobody
    #[arg(long)]
    dry: bool,
    /// With --dry: end with 1 if there is anything to do
    #[arg(long, requires = "dry")]
    exit_code: bool,
    /// Which paths: state, program, sources or all. With --auto the default is state
    #[arg(long, value_name = "NAME")]
    scope: Option<Scope>,
    /// Nobody is at the keyboard: leave out what can't go instead of refusing the whole
    #[arg(long)]
    auto: bool,
    /// Which agent's hook this is, for the event log
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// What to do where both sides changed a path
    #[arg(long, value_enum, default_value_t = OnConflict::Manual, value_name = "WHAT")]
    on_conflict: OnConflict,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnConflict {
    /// Say so and change neither side
    Manual,
    /// Take this machine's side; the other stays in history
    Local,
    /// Take the repository's side; this one's is set aside under .statehold/conflicts
    Remote,
    /// Take the side that was changed last
    Newest,
}

impl From<OnConflict> for Strategy {
    fn from(choice: OnConflict) -> Self {
        match choice {
            OnConflict::Manual => Self::Manual,
            OnConflict::Local => Self::Local,
            OnConflict::Remote => Self::Remote,
            OnConflict::Newest => Self::Newest,
        }
    }
}

/// Sends the folder's changes.
pub(super) fn run_push(args: &RunArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    run("push", Direction::Push, args, global, output)
}

/// Brings the repository's changes.
pub(super) fn run_pull(args: &RunArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    run("pull", Direction::Pull, args, global, output)
}

/// Does both.
pub(super) fn run_sync(args: &RunArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    run("sync", Direction::Bidirectional, args, global, output)
}

fn run(
    verb: &str,
    direction: Direction,
    args: &RunArgs,
    global: &GlobalArgs,
    output: Output,
) -> Result<ExitCode> {
    let default = if args.auto { Scope::State } else { Scope::All };
    let options = RunOptions {
        direction,
        scope: args.scope.unwrap_or(default),
        strategy: args.on_conflict.into(),
        dry: args.dry,
        auto: args.auto,
    };
    let trigger = match &args.runtime {
        Some(runtime) => runtime.as_str(),
        None if args.auto => "auto",
        None => "manual",
    };
    let report = block_on(async {
        let connection = Connection::open(&global.directory()?, output).await?;
        let started = std::time::Instant::now();
        let result = connection.engine.run(options).await;
        record_event(
            &connection,
            verb,
            &options,
            trigger,
            started.elapsed(),
            result.as_ref(),
        )?;
        Ok(result?)
    })?;
    show_report(verb, &report, output);
    if report.outcome == Outcome::Dry && args.exit_code && !report.actions.is_empty() {
        return Ok(Exit::Refused.into());
    }
    Ok(Exit::of_outcome(report.outcome).into())
}
