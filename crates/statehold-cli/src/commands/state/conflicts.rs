//! Conflicts between states: listed, resolved, and how a value came to be.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::Value;
use statehold_state::{Collection, Conflict, Reason, Resolution, Side};

use super::super::GlobalArgs;
use super::opened::{Make, Opened};
use super::{StateName, shown, values};
use crate::exit::{Exit, WrongUsage};
use crate::output::Output;

/// List the states that several machines wrote without having seen each other's edit
#[derive(Debug, Args)]
#[command(
    after_help = "All sides are kept until the next edit, those too that the strategy did not choose.

Examples:
  statehold state conflicts
  statehold state conflicts --exit-code      (for scripts)"
)]
pub(super) struct ConflictsArgs {
    /// End with 3 if any of them waits for somebody to resolve it
    #[arg(long)]
    exit_code: bool,
}

/// Resolve the conflict of a state
#[derive(Debug, Args)]
#[command(
    after_help = "The resolution counts on every machine. An edit that was made elsewhere meanwhile opens the
conflict again.

Examples:
  statehold state resolve app --take local
  statehold state resolve app --take 5f1c22aa:7      (one of those that `why` shows)
  statehold state resolve app --value '{\"theme\":\"dark\"}'"
)]
#[group(id = "answer", required = true, multiple = false)]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    name: StateName,
    /// local, remote, merge (field by field), or the name of the event that wrote the side
    #[arg(long, value_name = "SIDE", group = "answer")]
    take: Option<String>,
    /// Another value: JSON, @ and a file with it, or - for standard input
    #[arg(
        long,
        value_name = "VALUE",
        group = "answer",
        allow_negative_numbers = true
    )]
    value: Option<String>,
}

/// Explain how the value of a state came to be
#[derive(Debug, Args)]
#[command(after_help = "Example:
  statehold state why app --collection settings")]
pub(super) struct WhyArgs {
    #[command(flatten)]
    name: StateName,
}

pub(super) fn list(args: &ConflictsArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    opened.publish_for_reader();
    let conflicts = opened.manager.conflicts()?;
    for conflict in &conflicts {
        show(conflict, output);
    }
    if conflicts.is_empty() {
        output.line("no conflicts");
    }
    output.value(&conflicts);
    let waits = conflicts.iter().any(|conflict| conflict.is_open);
    let exit = if waits && args.exit_code {
        Exit::Conflict
    } else {
        Exit::Done
    };
    Ok(exit.into())
}

fn show(conflict: &Conflict, output: Output) {
    let end = if conflict.is_open {
        "waits for `statehold state resolve`".to_owned()
    } else {
        format!("decided by {}", conflict.strategy)
    };
    output.line(format!("{}: {end}", conflict.key));
    let is = |side: &Side, other: &Option<Side>| {
        other.as_ref().is_some_and(|other| other.dot == side.dot)
    };
    for side in &conflict.sides {
        let what = if is(side, &conflict.local) {
            "local"
        } else if is(side, &conflict.remote) {
            "remote"
        } else {
            ""
        };
        output.line(shown::side(side, what));
    }
}

pub(super) fn resolve(args: &ResolveArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let value = args.value.as_deref().map(values::parse).transpose()?;
    if let Some(value) = &value {
        values::refuse_secrets(value)?;
    }
    let opened = Opened::open(global, Make::No)?;
    let Some(collection) = opened.existing(&args.name.within.collection) else {
        return values::absent(&args.name);
    };
    let id = &args.name.id;
    let resolution = match (value, args.take.as_deref()) {
        (Some(value), _) => Resolution::Custom(value),
        (None, Some("local")) => Resolution::Local,
        (None, Some("remote")) => Resolution::Remote,
        (None, Some("merge")) => Resolution::Merge,
        (None, side) => one_side(collection, id, side.unwrap_or_default())?,
    };
    let state = collection.resolve(id, &resolution)?;
    opened.publish()?;
    let key = shown::key(collection.name(), id);
    output.line(format!("{key}: {}", state.data));
    output.value(&state);
    Ok(Exit::Done.into())
}

/// The side of the event that was typed, as `why` and `conflicts` show it or whole.
fn one_side(collection: &Collection<Value>, id: &str, typed: &str) -> Result<Resolution<Value>> {
    let sides = collection.conflict(id)?.map(|conflict| conflict.sides);
    let sides = sides.unwrap_or_default();
    let is_meant = |side: &&Side| shown::dot(side.dot) == typed || side.dot.to_string() == typed;
    match sides.iter().find(is_meant) {
        Some(side) => Ok(Resolution::Side(side.dot)),
        None => Err(WrongUsage::because(format!(
            "{typed:?} is no side of {}; there are local, remote, merge, and the events that \
             `statehold state why` shows",
            shown::key(collection.name(), id)
        ))),
    }
}

pub(super) fn why(args: &WhyArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    opened.publish_for_reader();
    let Some(collection) = opened.existing(&args.name.within.collection) else {
        return values::absent(&args.name);
    };
    let why = collection.why(&args.name.id)?;
    if why.sides.is_empty() && why.history.is_empty() {
        return values::absent(&args.name);
    }
    let reason = match why.reason {
        Reason::Absent => "there is none",
        Reason::Only => "it is the only value",
        Reason::Agreed => "all say the same",
        Reason::Latest => "it is the latest of several",
        Reason::Settled => "it is the latest settlement of a conflict",
        Reason::Merged => "it was merged from several, field by field",
        Reason::Computed => "an application's strategy computed it from several",
        Reason::Unresolved => "it is the latest of several, until somebody resolves the conflict",
        Reason::DeleteWins => "it was deleted while it was edited, and deletes win here",
    };
    output.line(format!("{}: {reason} ({})", why.key, why.strategy));
    for side in &why.sides {
        let is_shown = why
            .shown
            .as_ref()
            .is_some_and(|shown| shown.dot == side.dot);
        output.line(shown::side(side, if is_shown { "shown" } else { "" }));
    }
    if !why.history.is_empty() {
        output.line("history:");
    }
    for operation in &why.history {
        output.line(format!(
            "  {:<12}  {}  {}",
            shown::dot(operation.dot),
            shown::time(operation.stamp.milliseconds()),
            shown::value(operation.data.as_ref()),
        ));
    }
    output.value(&why);
    Ok(Exit::Done.into())
}
