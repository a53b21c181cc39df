//! `statehold push`, `pull` and `sync`: make folder and repository alike.

use std::num::NonZeroU64;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use statehold_core::event::Outcome;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_repository::Error;
use statehold_sync::engine::{EngineError, RunOptions};

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, forget_info};
use crate::exit::Exit;
use crate::output::Output;
use crate::report::{record_event, show_report};

// Without a text of its own: the three commands that take these arguments each have theirs.
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
    /// Bytes per second at most, on average; k and M stand for thousands and millions
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<NonZeroU64>,
}

/// A rate like `800k` or `2M`.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => match text.strip_suffix('M') {
            Some(digits) => (digits, 1_000_000),
            None => (text, 1),
        },
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| NonZeroU64::new(number.checked_mul(unit)?))
        .ok_or_else(|| "a rate is a number of bytes per second, like 500, 800k or 2M".into())
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
        let connection =
            Connection::open_slowed(&global.directory()?, output, args.limit_rate).await?;
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
        if let Err(EngineError::Remote(Error::Refused { .. } | Error::Denied { .. })) = &result {
            // Perhaps by bounds that have changed since the gateway was asked for them.
            forget_info(connection.engine.workspace());
        }
        Ok(result?)
    })?;
    show_report(verb, &report, output);
    if report.outcome == Outcome::Dry && args.exit_code && !report.actions.is_empty() {
        return Ok(Exit::Refused.into());
    }
    Ok(Exit::of_outcome(report.outcome).into())
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_read_with_their_units() {
        for (text, bytes) in [("500", 500), ("800k", 800_000), ("2M", 2_000_000)] {
            assert_eq!(rate(text).map(std::num::NonZeroU64::get), Ok(bytes));
        }
        for bad in [
            "",
            "0",
            "0k",
            "k",
            "-1",
            "1.5M",
            "1G",
            "99999999999999999999M",
        ] {
            assert!(rate(bad).is_err(), "{bad:?} was taken");
        }
    }
}
