//! `statehold rollback`: the whole repository as it was, on every machine, in one record.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use statehold_core::event::Outcome;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::rollback::WayBack;
use statehold_core::scope::Scope;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_repository::remote::load_at;
use statehold_sync::engine::{Report, RollbackPlan, RolledBack, RunOptions};
use statehold_sync::workspace::Workspace;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count};
use crate::report::{Appended, SHOWN_PATHS_MAX, record_append, show_report};
use crate::when::{When, find_snapshot, local};

/// Bring the whole repository back to a snapshot or an earlier record, on every machine
#[derive(Debug, Args)]
#[command(
    after_help = "Without --apply it shows what would change and ends with 1. Nothing is lost: the present is kept as
a snapshot, in the same record, and a rollback can be rolled back.

Examples:
  statehold rollback 2026-04-16T09-30-00Z-before-the-rewrite
  statehold rollback 2026-04-16T09-30-00Z-before-the-rewrite --apply --confirm-label=before-the-rewrite
  statehold rollback --to \"2 hours ago\"
  statehold rollback --to 17 --apply --confirm-label=record-17"
)]
pub(crate) struct RollbackArgs {
    /// A snapshot's name
    #[arg(required_unless_present = "to")]
    snapshot: Option<String>,
    /// A record's number, a time or an age instead
    #[arg(long, value_name = "WHEN", conflicts_with = "snapshot")]
    to: Option<When>,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// The snapshot's label, or record- and the number, to show that this one is meant
    #[arg(long, value_name = "LABEL")]
    confirm_label: Option<String>,
}

pub(super) fn run(args: &RollbackArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let workspace = find_workspace(&global.directory()?)?;
    let Planned {
        plan,
        to,
        label,
        name,
    } = block_on(plan(args, &workspace))?;
    show_plan(&plan, output);
    if plan.back.is_empty() {
        output.line("Nothing has changed since.");
        output.value(&json!({"outcome": Outcome::Nothing, "to": plan.to}));
        return Ok(Exit::Done.into());
    }
    if !args.apply || args.confirm_label.as_deref() != Some(&label) {
        let shown = match &name {
            Some(id) => format!(", exactly as in 'statehold snapshot show {id}'"),
            None => String::new(),
        };
        let why =
            format!("refusing to roll back: needs --apply and --confirm-label={label}{shown}");
        return Ok(output.refuse(plan_value(&plan, &label), &why).into());
    }
    let result = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        Ok(connection.engine.rollback(&to, |_| true).await?)
    });
    record(&workspace, "rollback", started, &result)?;
    let Some(done) = result? else {
        output.line("Nothing has changed since.");
        output.value(&json!({"outcome": Outcome::Nothing, "to": plan.to}));
        return Ok(Exit::Done.into());
    };
    output.line(format!(
        "Rolled back to record {} with record {}. What was there before is the snapshot {}.",
        plan.to, done.record.number, done.before
    ));
    let report = bring_here(&workspace, output)?;
    output.value(&done_value(&plan, &done, &report));
    Ok(finish(&report, output))
}

/// What was asked for.
struct Planned {
    plan: RollbackPlan,
    /// The state that comes back.
    to: Arc<State>,
    /// The label that confirms it.
    label: String,
    /// The snapshot's name, if it is one.
    name: Option<SnapshotId>,
}

async fn plan(args: &RollbackArgs, workspace: &Workspace) -> Result<Planned> {
    let connection = Connection::of(workspace.clone(), Output::default(), None).await?;
    let newest = connection.engine.remote_state().await?;
    let snapshot = match (&args.snapshot, &args.to) {
        (Some(name), _) | (None, Some(When::Snapshot(name))) => Some(name),
        (None, _) => None,
    };
    let name = match snapshot {
        Some(name) => match find_snapshot(&newest, name) {
            Ok(id) => Some(id.clone()),
            Err(error) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(error.context(format!(
                    "{name} is no snapshot's name; `statehold rollback --to {name}` goes back to that record"
                )));
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    let point = match (&name, &args.to) {
        (Some(id), _) => When::Snapshot(id.to_string()).point(&newest)?,
        (None, Some(when)) => when.point(&newest)?,
        (None, None) => return Err(WrongUsage::because("to what?")),
    };
    let to = load_at(&*connection.remote, point).await?;
    let label = match &name {
        Some(id) => id.label().to_owned(),
        None => format!("record-{}", to.head.number),
    };
    let plan = connection.engine.plan_rollback(&to, |_| true).await?;
    Ok(Planned {
        plan,
        to,
        label,
        name,
    })
}

/// Shows what would change.
pub(super) fn show_plan(plan: &RollbackPlan, output: Output) {
    output.line(format!(
        "From record {} back to record {} of {}:",
        plan.from.number,
        plan.to,
        local(plan.time)
    ));
    let upserts = plan.back.upserts.iter();
    let lines = upserts
        .map(|upsert| ("put back", &upsert.path))
        .chain(plan.back.deletes.iter().map(|path| ("take away", path)));
    for (verb, path) in lines.take(SHOWN_PATHS_MAX) {
        output.line(format!("  {verb:<13} {}", path.as_str().escape_debug()));
    }
    let more = plan.back.paths().count().saturating_sub(SHOWN_PATHS_MAX);
    if more > 0 {
        output.line(format!("  … and {more} more"));
    }
    for path in &plan.left {
        output.line(format!(
            "  left as it is {}: only an owner may change it, or the rules deny it",
            path.as_str().escape_debug()
        ));
    }
    for path in &plan.purged {
        output.line(format!(
            "  left as it is {}: what it held then was purged",
            path.as_str().escape_debug()
        ));
    }
    if plan.leaves_app_state {
        output.line(format!(
            "  left as it is application state; `statehold state restore --at {}` brings its values back",
            plan.to
        ));
    }
}

fn changes(back: &WayBack) -> Value {
    let put_back: Vec<_> = back.upserts.iter().map(|upsert| &upsert.path).collect();
    json!({"put_back": put_back, "take_away": back.deletes})
}

fn plan_value(plan: &RollbackPlan, label: &str) -> Value {
    json!({
        "outcome": Outcome::Dry, "from": plan.from.number, "to": plan.to,
        "changes": changes(&plan.back), "left": plan.left, "purged": plan.purged,
        "leaves_app_state": plan.leaves_app_state, "confirm_label": label,
    })
}

pub(super) fn done_value(plan: &RollbackPlan, done: &RolledBack, pull: &Report) -> Value {
    json!({
        "outcome": Outcome::Done, "from": done.from.number, "to": plan.to,
        "record": done.record.number, "before": done.before,
        "changes": changes(&done.back), "left": plan.left, "purged": plan.purged,
        "leaves_app_state": plan.leaves_app_state, "pull": pull,
    })
}

/// Adds the row of a rollback.
pub(super) fn record(
    workspace: &Workspace,
    verb: &str,
    started: Instant,
    result: &Result<Option<RolledBack>>,
) -> Result<()> {
    let appended = match result {
        Ok(Some(done)) => Ok(Appended {
            files: done.back.paths().count() as u64,
            before: Some(done.from),
            after: Some(done.record),
        }),
        Ok(None) => Ok(Appended {
            files: 0,
            before: None,
            after: None,
        }),
        Err(error) => Err(error),
    };
    record_append(workspace, verb, started.elapsed(), appended)
}

/// Brings what the repository holds now into this folder.
pub(super) fn bring_here(workspace: &Workspace, output: Output) -> Result<Report> {
    let options = RunOptions {
        direction: Direction::Pull,
        scope: Scope::All,
        strategy: Strategy::Manual,
        dry: false,
        auto: false,
    };
    block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        Ok(connection.engine.run(options).await?)
    })
}

/// Says what became of this folder.
pub(super) fn finish(report: &Report, output: Output) -> ExitCode {
    let text = Output {
        json: false,
        ..output
    };
    if !output.json {
        show_report("pull", report, text);
    }
    if !report.conflicts.is_empty() {
        complain(&format!(
            "the repository is rolled back; {} here {} changes that were never pushed",
            count(report.conflicts.len() as u64, "path"),
            if report.conflicts.len() == 1 {
                "has"
            } else {
                "have"
            },
        ));
    }
    Exit::of_outcome(report.outcome).into()
}
