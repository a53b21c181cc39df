//! `statehold push`, `pull` and `sync`: make folder and repository alike.

use std::num::NonZeroU64;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use statehold_core::environment::Clock as _;
use statehold_core::event::Outcome;
use statehold_core::limits::DEBOUNCE_SECONDS;
use statehold_core::path::RepoPath;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_repository::Error;
use statehold_repository::wire::bodies::Role;
use statehold_sync::engine::{EngineError, Report, RunOptions};
use statehold_sync::locks::{Debounce, DeferredPush, OwedPush, debounce};
use statehold_sync::workspace::Workspace;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace, forget_info};
use crate::environment::{SystemClock, home};
use crate::exit::Exit;
use crate::output::{Output, complain};
use crate::report::{Call, Ended, landed, record_event, show_report};
use crate::typed_path;

// Without a text of its own: the three commands that take these arguments each have theirs.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Show what would be done and do nothing; a dry push contacts nobody
    #[arg(long)]
    dry: bool,
    /// With --dry: end with 1 if there is anything to do
    #[arg(long, requires = "dry")]
    exit_code: bool,
    /// Which paths: state, program, sources or all. The default is all; with --auto, and when an
    /// agent workspace is pushed, it is state
    #[arg(long, value_name = "NAME")]
    scope: Option<Scope>,
    /// Nobody is at the keyboard: leave out what can't go instead of refusing the whole, and go
    /// through once a minute at most; a push that comes sooner is made at the end of that minute
    #[arg(long)]
    auto: bool,
    /// Which agent's hook this is: each has a minute of its own, and its name in the event log
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Send this file although it seems to hold a secret; remembered until the file changes
    #[arg(long, value_name = "PATH")]
    allow_secret: Vec<String>,
    /// How long a minute is
    #[arg(long, hide = true, value_name = "N", default_value_t = DEBOUNCE_SECONDS)]
    debounce_seconds: u64,
    /// What to do where both sides changed a path
    #[arg(long, value_enum, default_value_t = OnConflict::Manual, value_name = "WHAT")]
    on_conflict: OnConflict,
    /// Bytes per second at most, on average; k and M stand for thousands and millions
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<NonZeroU64>,
}

impl RunArgs {
    /// Whether nobody is at the keyboard.
    pub(super) const fn is_auto(&self) -> bool {
        self.auto
    }
}

/// A rate like `800k` or `2M`.
pub(super) fn rate(text: &str) -> Result<NonZeroU64, String> {
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
pub(super) enum OnConflict {
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
    let started = Instant::now();
    let folder = global.directory()?;
    let workspace = find_workspace(&folder)?;
    let allow_secrets = allowed_secrets(&workspace, &folder, &args.allow_secret)?;
    let preset = workspace.settings().preset;
    let options = RunOptions {
        direction,
        scope: args
            .scope
            .unwrap_or_else(|| preset.default_scope(direction, args.auto)),
        strategy: args.on_conflict.into(),
        dry: args.dry,
        auto: args.auto,
    };
    let trigger = match &args.runtime {
        Some(runtime) => runtime.as_str(),
        None if args.auto => "auto",
        None => "manual",
    };
    let call = Call {
        verb,
        options: &options,
        trigger,
        landed: landed(&workspace),
    };
    let window = Duration::from_secs(args.debounce_seconds);
    let passage = Passage {
        allow_secrets: &allow_secrets,
        limit_rate: args.limit_rate,
    };
    let attempt = || {
        let mut owed = None;
        if args.auto && !args.dry {
            match take_turn(&workspace, call, window)? {
                Turn::Now(push) => owed = push,
                Turn::Later => return Ok(None),
            }
        }
        let report = transfer(&workspace, &options, &passage, output)?;
        owed.map_or(Ok(()), OwedPush::finish)?;
        Ok(Some(report))
    };
    let Some(report) = with_event(&workspace, call, started, attempt)? else {
        output.value(&json!({"outcome": Outcome::Deferred}));
        return Ok(Exit::Done.into());
    };
    show_report(verb, &report, output);
    if report.outcome == Outcome::Dry && args.exit_code && !report.is_clean() {
        return Ok(Exit::Refused.into());
    }
    Ok(Exit::of_outcome(report.outcome).into())
}

/// The paths that were typed after `--allow-secret`. One that names nothing is told: it is most
/// likely mistyped, and the file that was meant stays back.
fn allowed_secrets(
    workspace: &Workspace,
    folder: &Path,
    typed: &[String],
) -> Result<Vec<RepoPath>> {
    let mut allowed = Vec::new();
    for typed in typed {
        let path = typed_path::inside(workspace, folder, typed)?;
        if workspace
            .root()
            .join(path.as_str())
            .symlink_metadata()
            .is_err()
        {
            complain(&format!(
                "--allow-secret {typed}: there is no such file here"
            ));
        }
        allowed.push(path);
    }
    Ok(allowed)
}

/// Makes a call and adds its row to the event log, however it ends.
fn with_event(
    workspace: &Workspace,
    call: Call<'_>,
    started: Instant,
    attempt: impl FnOnce() -> Result<Option<Report>>,
) -> Result<Option<Report>> {
    let result = attempt();
    let ended = match &result {
        Ok(Some(report)) => Ended::Reported(report),
        Ok(None) => Ended::Deferred,
        Err(error) => Ended::Failed(error),
    };
    let recorded = record_event(workspace, call, started.elapsed(), &ended);
    // What went wrong with the call matters more than what went wrong with its row.
    let result = result?;
    recorded?;
    Ok(result)
}

/// How content is let through: what may look like a secret, and how fast it moves.
#[derive(Default)]
struct Passage<'a> {
    allow_secrets: &'a [RepoPath],
    limit_rate: Option<NonZeroU64>,
}

fn transfer(
    workspace: &Workspace,
    options: &RunOptions,
    passage: &Passage<'_>,
    output: Output,
) -> Result<Report> {
    block_on(async {
        let mut connection = Connection::of(workspace.clone(), output, passage.limit_rate).await?;
        connection
            .engine
            .allow_secrets(passage.allow_secrets.to_vec());
        connection.engine.lock_uploads(home()?);
        let result = connection.engine.run(*options).await;
        // Perhaps by bounds that have changed since the gateway was asked for them.
        let is_refused = matches!(
            result,
            Err(EngineError::Remote(
                Error::Refused { .. } | Error::Denied { .. }
            ))
        );
        let gateway = connection.gateway.as_ref();
        // Unless it was not asked at all: what a key may do doesn't change.
        let is_refused =
            is_refused && gateway.is_none_or(|gateway| gateway.info().role > Role::Read);
        if is_refused || gateway.is_some_and(|gateway| !gateway.is_info_current()) {
            forget_info(workspace);
        }
        Ok(result?)
    })
}

/// Whether a hook's call does its work now.
enum Turn {
    /// It does, and with it a push that was owed.
    Now(Option<OwedPush>),
    /// Another one went before; what there is to send is sent at the end of the window.
    Later,
}

fn take_turn(workspace: &Workspace, call: Call<'_>, window: Duration) -> Result<Turn> {
    let home = home()?;
    let id = workspace.settings().workspace;
    let now = SystemClock.now();
    if call.options.direction == Direction::Pull {
        // A window of its own: a session that begins must not keep one that ends from pushing.
        let name = format!("pull:{}", call.trigger);
        if DeferredPush::is_owed(&home, id, call.trigger)? {
            start_deferred_push(workspace, call, window)?;
        }
        return Ok(match debounce(&home, id, &name, now, window)? {
            Debounce::Go => Turn::Now(None),
            Debounce::TooSoon { .. } => Turn::Later,
        });
    }
    match debounce(&home, id, call.trigger, now, window)? {
        Debounce::Go => {
            let claim = DeferredPush::claim(&home, id, call.trigger)?;
            Ok(Turn::Now(claim.map(DeferredPush::begin)))
        }
        Debounce::TooSoon { .. } => {
            start_deferred_push(workspace, call, window)?;
            Ok(Turn::Later)
        }
    }
}

/// Starts a process that outlives this one and pushes at the end of the window. If one is waiting
/// already, the new one ends at once.
fn start_deferred_push(workspace: &Workspace, call: Call<'_>, window: Duration) -> Result<()> {
    let program = std::env::current_exe().context("the program's own file cannot be found")?;
    let mut command = Command::new(program);
    command.arg("-C").arg(workspace.root());
    command.args(["deferred-push", "--runtime", call.trigger]);
    command.args(["--scope", call.options.scope.name()]);
    command.args(["--debounce-seconds", &window.as_secs().to_string()]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    let child = command
        .spawn()
        .context("the deferred push was not started")?;
    // It is nobody's child once this process ends.
    drop(child);
    Ok(())
}

/// Push at the end of the window
#[derive(Debug, Args)]
pub(crate) struct DeferredPushArgs {
    #[arg(long)]
    runtime: String,
    #[arg(long)]
    scope: Scope,
    #[arg(long)]
    debounce_seconds: u64,
}

/// Waits for the end of the window, and pushes what came too late for its beginning.
pub(super) fn run_deferred(
    args: &DeferredPushArgs,
    global: &GlobalArgs,
    output: Output,
) -> Result<ExitCode> {
    // The terminal that the hook was called from may be closed; already leading a session is fine.
    #[cfg(unix)]
    let _session = rustix::process::setsid();
    let workspace = find_workspace(&global.directory()?)?;
    let (home, id) = (home()?, workspace.settings().workspace);
    let Some(claim) = DeferredPush::claim(&home, id, &args.runtime)? else {
        return Ok(Exit::Done.into());
    };
    let window = Duration::from_secs(args.debounce_seconds);
    // Another call may get ahead once; after a second window it is this one's turn all the same.
    for _ in 0..2 {
        match debounce(&home, id, &args.runtime, SystemClock.now(), window)? {
            Debounce::Go => break,
            Debounce::TooSoon { remaining, .. } => std::thread::sleep(remaining),
        }
    }
    let owed = claim.begin();
    let options = RunOptions {
        direction: Direction::Push,
        scope: args.scope,
        strategy: Strategy::Manual,
        dry: false,
        auto: true,
    };
    let call = Call {
        verb: "push",
        options: &options,
        trigger: &args.runtime,
        landed: landed(&workspace),
    };
    let attempt = || transfer(&workspace, &options, &Passage::default(), output).map(Some);
    let report = with_event(&workspace, call, Instant::now(), attempt)?;
    owed.finish()?;
    let outcome = report.map_or(Outcome::Nothing, |report| report.outcome);
    Ok(Exit::of_outcome(outcome).into())
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
