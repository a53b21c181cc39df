//! `statehold status`: how folder and repository differ.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use statehold_core::scope::Scope;
use statehold_repository::lease::RESIDUAL_RISK;
use statehold_sync::engine::{Counts, Status};

use super::{GlobalArgs, block_on};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output::{Output, complain, count};
use crate::report::{SHOWN_PATHS_MAX, show_action, show_conflict, show_skipped};

/// Show how folder and repository differ
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold status
  statehold status --exit-code || statehold sync")]
pub(crate) struct StatusArgs {
    /// Which paths: state, program, sources or all
    #[arg(long, default_value = "all", value_name = "NAME")]
    scope: Scope,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(args: &StatusArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let (status, link, has_one_writer) = block_on(async {
        let connection = Connection::open(&global.directory()?, output).await?;
        let status = connection.engine.status(args.scope).await?;
        Ok((status, connection.url, connection.has_one_writer))
    })?;
    show(&status, &link, has_one_writer, output);
    if let Some(why) = &status.stale {
        complain(&format!(
            "statehold: {why}; the other side is shown as it was last seen"
        ));
    }
    let mut said = serde_json::to_value(&status)?;
    said["store_grade"] = if has_one_writer { "B" } else { "A" }.into();
    output.value(&said);
    if status.stale.is_some() {
        return Ok(Exit::Unavailable.into());
    }
    let differs = !status.actions.is_empty() || !status.conflicts.is_empty();
    Ok(if args.exit_code && differs {
        Exit::Refused
    } else {
        Exit::Done
    }
    .into())
}

/// Shows how the two differ.
pub(super) fn show(status: &Status, link: &str, has_one_writer: bool, output: Output) {
    let counts = |counts: Counts| {
        format!(
            "{} added, {} modified, {} deleted",
            counts.added, counts.modified, counts.deleted
        )
    };
    output.line(format!("linked to   {link}"));
    if has_one_writer {
        output.line(format!(
            "store       grade B: one gateway at a time, by a lease; {RESIDUAL_RISK}"
        ));
    }
    let head = status.head.id.to_string();
    output.line(format!(
        "repository  {} at record {} ({})",
        count(status.entries as u64, "path"),
        status.head.number,
        &head[..12]
    ));
    if let Some(by) = status.fenced {
        output.line(format!(
            "ended       by record {by}; it goes on in another store, behind the same gateway or where its owner says: \
             `statehold link --moved` with the new place goes on there"
        ));
    }
    output.line(format!("to push     {}", counts(status.outgoing)));
    output.line(format!("to pull     {}", counts(status.incoming)));
    output.line(format!("conflicts   {}", status.conflicts.len()));
    status
        .conflicts
        .iter()
        .for_each(|conflict| output.line(show_conflict(conflict)));
    for action in status.actions.iter().take(SHOWN_PATHS_MAX) {
        output.line(show_action(action));
    }
    if let Some(more) = status
        .actions
        .len()
        .checked_sub(SHOWN_PATHS_MAX)
        .filter(|more| *more > 0)
    {
        output.line(format!(
            "  … and {more} more; `statehold status --json` lists all"
        ));
    }
    status
        .skipped
        .iter()
        .filter_map(show_skipped)
        .take(SHOWN_PATHS_MAX)
        .for_each(|line| output.line(line));
    if !status.skipped.is_empty() {
        output.line(format!(
            "left out    {}; --json says why",
            count(status.skipped.len() as u64, "path")
        ));
    }
}
