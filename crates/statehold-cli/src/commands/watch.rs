//! `statehold watch`: keeps folder and repository alike for as long as it runs.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use statehold_core::agenda::again_after;
use statehold_core::environment::Clock as _;
use statehold_core::plan::Direction;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_repository::wire::bodies::Role;
use statehold_sync::engine::{EngineError, Report, RunOptions};
use statehold_sync::locks::lock_watch;
use statehold_sync::watch::{News, WatchOptions, watch};
use statehold_sync::workspace::Workspace;

use super::serve::stop_signal;
use super::sync::{OnConflict, rate};
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::environment::{SystemClock, home};
use crate::exit::Exit;
use crate::output::{Output, complain, with_causes};
use crate::report::{
    Call, Ended, SHOWN_PATHS_MAX, kept_back, landed, record_event, show_action, show_conflict,
    show_skipped,
};
use crate::when::local;

/// Keep this folder and the repository alike, until it is stopped
#[derive(Debug, Args)]
#[command(
    after_help = "Pulls as soon as the repository has something new, and pushes a moment after something changed
here, by the same rules as `statehold sync --auto`: what cannot go is named and stays. Goes on by
itself after an outage. Ctrl-C or SIGTERM ends it. With --json each thing that happens is a JSON
value on a line of its own.

Examples:
  statehold watch
  statehold watch --scope all --on-conflict newest
  statehold -C ~/.claude watch --quiet &"
)]
pub(crate) struct WatchArgs {
    /// Which paths: state, program, sources or all. The default is state
    #[arg(long, value_name = "NAME")]
    scope: Option<Scope>,
    /// What to do where both sides changed a path
    #[arg(long, value_enum, default_value_t = OnConflict::Manual, value_name = "WHAT")]
    on_conflict: OnConflict,
    /// Bytes per second at most, on average; k and M stand for thousands and millions
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<NonZeroU64>,
}

pub(super) fn run(args: &WatchArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let _lock = lock_watch(&workspace)
        .context("this folder is watched already; let that go on, or stop it first")?;
    let preset = workspace.settings().preset;
    let scope = preset.default_scope(Direction::Bidirectional, true);
    let scope = args.scope.unwrap_or(scope);
    let mut teller = Teller::new(workspace.clone(), output);
    block_on(async {
        let stop = stop_signal();
        tokio::pin!(stop);
        let connect = connect(&workspace, args.limit_rate, &mut teller);
        let mut connection = tokio::select! {
            // First, so that a signal is heard from here on.
            biased;
            () = &mut stop => return Ok(()),
            connected = connect => connected?,
        };
        connection.engine.lock_uploads(home()?);
        let gateway = connection.gateway.as_ref();
        let may_push = gateway.is_none_or(|gateway| gateway.info().role > Role::Read);
        let options = WatchOptions {
            scope,
            strategy: args.on_conflict.into(),
            may_push,
        };
        teller.begin(&connection, options);
        let mut tell = |news: News<'_>| teller.tell(news);
        let watched = watch(&connection.engine, options, stop, &mut tell).await;
        teller.end();
        Ok(watched?)
    })?;
    Ok(Exit::Done.into())
}

/// Opens the repository, however long it takes until somebody answers.
async fn connect(
    workspace: &Workspace,
    limit_rate: Option<NonZeroU64>,
    teller: &mut Teller,
) -> Result<Connection> {
    let mut failures = 0;
    loop {
        match Connection::of(workspace.clone(), teller.output, limit_rate).await {
            Err(error) if Exit::of_error(&error) == Exit::Unavailable => {
                teller.failed(Exit::Unavailable, &format!("{error:#}"));
                tokio::time::sleep(again_after(failures, 1.0)).await;
                failures += 1;
            }
            connected => return connected,
        }
    }
}

/// Tells a person or a script what happens, each thing once.
struct Teller {
    workspace: Workspace,
    output: Output,
    /// What stands in the way and was told.
    said: BTreeSet<String>,
    /// Why nothing gets through, as long as that is so.
    failing: Option<Exit>,
    /// The record that had landed when the last run ended.
    landed: Option<RecordRef>,
}

impl Teller {
    fn new(workspace: Workspace, output: Output) -> Self {
        let landed = landed(&workspace);
        Self {
            workspace,
            output,
            said: BTreeSet::new(),
            failing: None,
            landed,
        }
    }

    /// A line for people.
    fn line(&self, text: &str) {
        let time = local(SystemClock.now());
        self.output.line(format!("{time}  {text}"));
    }

    /// A row for scripts.
    fn row(&self, what: &str, more: Value) {
        let mut row = json!({"at": SystemClock.now(), "what": what});
        if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
            row.extend(more);
        }
        self.output.value(&row);
    }

    fn begin(&self, connection: &Connection, options: WatchOptions) {
        let root = self.workspace.root();
        self.line(&format!(
            "watching {}, scope {}, with {}; Ctrl-C ends it",
            root.display(),
            options.scope.name(),
            connection.url
        ));
        if !options.may_push {
            complain("this machine's key may only read: what changes here stays here");
        }
        self.row(
            "watching",
            json!({"folder": root, "scope": options.scope.name(), "with": connection.url,
                   "may_push": options.may_push}),
        );
    }

    fn end(&self) {
        self.line("stopped");
        self.row("stopped", json!({}));
    }

    fn tell(&mut self, news: News<'_>) {
        match news {
            News::Untold { reason } => {
                complain(&format!(
                    "{reason}; until then it is looked through every few seconds"
                ));
                self.row("untold", json!({"reason": reason}));
            }
            News::Ran {
                options,
                took,
                result: Ok(report),
            } => self.ran(options, took, report),
            News::Ran {
                options,
                took,
                result: Err(error),
            } => {
                let why = match error {
                    EngineError::Remote(error) => Exit::of_repository(error),
                    _ => Exit::Refused,
                };
                let error = anyhow::anyhow!(with_causes(error));
                // A key that opens nothing any more ends the watch, whose own error says so.
                let is_last = why == Exit::Authentication;
                if is_last || self.failed(why, &error.to_string()) {
                    self.record(options, took, &Ended::Failed(&error));
                }
            }
        }
    }

    /// Says that nothing gets through, once for each kind of reason: one outage has many messages. Whether it
    /// was said now.
    fn failed(&mut self, why: Exit, error: &str) -> bool {
        if self.failing.replace(why) == Some(why) {
            return false;
        }
        complain(&format!(
            "not in step: {error}; it goes on by itself once that has passed"
        ));
        self.row("failed", json!({"error": error, "exit": why as u8}));
        true
    }

    fn ran(&mut self, options: RunOptions, took: Duration, report: &Report) {
        if self.failing.take().is_some() {
            self.line("in step again");
            self.row("reached", json!({}));
        }
        let problems = in_the_way(report);
        // A pull sees less of what is in the way.
        if options.direction != Direction::Pull {
            let is_there = |said: &String| problems.iter().any(|(problem, _)| problem == said);
            self.said.retain(is_there);
        }
        let mut new = problems;
        new.retain(|(problem, _)| self.said.insert(problem.clone()));
        if report.actions.is_empty() && new.is_empty() {
            return;
        }
        for action in report.actions.iter().take(SHOWN_PATHS_MAX) {
            self.line(show_action(action).trim_start());
        }
        if report.actions.len() > SHOWN_PATHS_MAX {
            let more = report.actions.len() - SHOWN_PATHS_MAX;
            self.line(&format!("… and {more} more"));
        }
        if !self.output.json {
            new.iter().for_each(|(problem, _)| complain(problem));
            let advice: BTreeSet<&String> = new.iter().map(|(_, advice)| advice).collect();
            advice.into_iter().for_each(|advice| complain(advice));
        }
        let (direction, ms) = (options.direction, u64::try_from(took.as_millis()));
        self.row(
            "run",
            json!({"direction": direction, "ms": ms.unwrap_or(u64::MAX), "report": report}),
        );
        self.record(options, took, &Ended::Reported(report));
    }

    /// Adds a row to the event log, for what moved something or newly failed to.
    fn record(&mut self, options: RunOptions, took: Duration, ended: &Ended<'_>) {
        let verb = match options.direction {
            Direction::Push => "push",
            Direction::Pull => "pull",
            Direction::Bidirectional => "sync",
        };
        let call = Call {
            verb,
            options: &options,
            trigger: "watch",
            landed: self.landed,
        };
        if let Err(error) = record_event(&self.workspace, call, took, ended) {
            complain(&format!("{error:#}"));
        }
        self.landed = landed(&self.workspace);
    }
}

/// What keeps both sides from being alike, each with what to do about it.
fn in_the_way(report: &Report) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let mut add = |line: &str, advice: &str| {
        problems.push((line.trim_start().to_owned(), advice.to_owned()));
    };
    for conflict in &report.conflicts {
        let decides = "`statehold sync --on-conflict local|remote|newest` decides";
        add(&show_conflict(conflict), decides);
    }
    for line in report.skipped.iter().filter_map(show_skipped) {
        add(&line, "what is left out stays on this machine");
    }
    for (path, why) in &report.failed {
        let line = format!("failed        {}: {why}", path.as_str().escape_debug());
        add(&line, "what failed is tried again");
    }
    for group in kept_back(report) {
        for line in &group.lines {
            add(line, &group.advice);
        }
    }
    problems
}
