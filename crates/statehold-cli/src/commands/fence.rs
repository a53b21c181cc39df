//! `statehold fence`: ends a log, so that nothing is appended to it while its copy goes on.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use statehold_core::event::Outcome;
use statehold_gateway::switch::fence;
use statehold_repository::remote::load;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, Opened, find_workspace};
use crate::environment::SystemEntropy;
use crate::exit::Exit;
use crate::output::Output;

/// End a log before its copy goes on: every later record is void
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing changes without --apply and the label that is named. Reading goes on, and whoever
pushes is told so. To move without losing anything: fence, replicate once more, promote the
copy. `statehold promote` on the store itself takes back a fence that was not meant.

Examples:
  statehold fence --store s3://team-state/agents
  statehold fence --store s3://team-state/agents --apply --confirm-label=epoch-0
  statehold fence --apply --confirm-label=epoch-0     (the repository of this workspace)"
)]
pub(crate) struct FenceArgs {
    /// A store, with all its repositories and its registry, instead of this workspace's repository
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// The label that is named, to show that this one is meant
    #[arg(long, value_name = "LABEL")]
    confirm_label: Option<String>,
}

pub(super) fn run(args: &FenceArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    match &args.store {
        Some(store) => block_on(fence_store(args, store, output)),
        None => block_on(fence_linked(args, global, output)),
    }
    .map(Into::into)
}

async fn fence_store(args: &FenceArgs, store: &str, output: Output) -> Result<Exit> {
    let opened = Opened::at(store).await?;
    let (mut ends, mut epoch) = (Vec::new(), 0);
    for log in &opened.logs {
        let state = load(&log.repository).await?.state;
        ends.push((log.name.clone(), state.head.number, state.fenced));
        epoch = state.epoch();
    }
    if let Some(refused) = refusal(args, &ends, epoch, output) {
        opened.release().await?;
        return Ok(refused);
    }
    let done = fence(&opened.logs, &SystemEntropy).await;
    opened.release().await?;
    tell(&done?, output);
    Ok(Exit::Done)
}

async fn fence_linked(args: &FenceArgs, global: &GlobalArgs, output: Output) -> Result<Exit> {
    let workspace = find_workspace(&global.directory()?)?;
    let name = workspace.settings().link.as_ref();
    let name = name.map_or_else(String::new, |link| link.repository.clone());
    let connection = Connection::of(workspace, output, None).await?;
    let state = connection.engine.remote_state().await?;
    let ends = [(name.clone(), state.head.number, state.fenced)];
    if let Some(refused) = refusal(args, &ends, state.epoch(), output) {
        return Ok(refused);
    }
    tell(&[(name, connection.engine.fence().await?)], output);
    Ok(Exit::Done)
}

/// Shows where logs end, and refuses to end them there for good unless that is confirmed.
fn refusal(
    args: &FenceArgs,
    ends: &[(String, u64, Option<u64>)],
    epoch: u64,
    output: Output,
) -> Option<Exit> {
    for (name, head, fenced) in ends {
        output.line(match fenced {
            Some(by) => format!("{name}: ended with record {by}"),
            None => format!("{name}: would end after record {head}"),
        });
    }
    let label = label(epoch);
    if args.apply && args.confirm_label.as_deref() == Some(&label) {
        return None;
    }
    let logs: Vec<Value> = ends
        .iter()
        .map(|(name, head, fenced)| json!({"name": name, "head": head, "record": fenced}))
        .collect();
    let plan = json!({"outcome": Outcome::Dry, "logs": logs, "confirm_label": label});
    let why = format!("refusing to fence: needs --apply and --confirm-label={label}");
    Some(output.refuse(plan, &why))
}

/// What confirms a fence: the epoch that it ends.
fn label(epoch: u64) -> String {
    format!("epoch-{epoch}")
}

fn tell(done: &[(String, u64)], output: Output) {
    for (name, by) in done {
        output.line(format!("{name}: record {by} ends the log"));
    }
    let logs: Vec<Value> = done
        .iter()
        .map(|(name, by)| json!({"name": name, "record": by}))
        .collect();
    output.value(&json!({"outcome": Outcome::Done, "logs": logs}));
}
