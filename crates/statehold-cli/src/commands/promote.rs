//! `statehold promote`: goes on with a replica after its first store is lost, or was left on purpose.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use statehold_core::event::Outcome;
use statehold_gateway::switch::{Promoted, plan, promote};

use super::block_on;
use crate::connection::Opened;
use crate::environment::SystemEntropy;
use crate::exit::Exit;
use crate::output::{Output, count};
use crate::when::local;

/// Go on with a replica: open the next epoch on it
#[derive(Debug, Args)]
#[command(
    after_help = "The plan is shown, and nothing changes without --apply and the label it names. Each log goes
on from the newest record up to which the replica is complete. Machines notice by themselves,
and push again what they had pushed since. A run that was interrupted is simply started again.

Before: make sure that nobody writes to the first store any more; where it can still be
reached, `statehold fence` sees to that. After: serve the replica at the first one's address.

Examples:
  statehold promote s3://team-state-copy/agents
  statehold promote s3://team-state-copy/agents --apply --confirm-label=epoch-1"
)]
pub(crate) struct PromoteArgs {
    /// The replica: a folder, or a bucket as s3://BUCKET, gs://BUCKET or az://CONTAINER
    #[arg(value_name = "WHERE")]
    store: String,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// The label that the plan names, to show that this one is meant
    #[arg(long, value_name = "LABEL")]
    confirm_label: Option<String>,
}

pub(super) fn run(args: &PromoteArgs, output: Output) -> Result<ExitCode> {
    block_on(act(args, output)).map(Into::into)
}

async fn act(args: &PromoteArgs, output: Output) -> Result<Exit> {
    let opened = Opened::at(&args.store).await?;
    let planned = plan(&opened.logs).await?;
    let label = label(&planned);
    for one in &planned {
        output.line(line(one));
    }
    if planned.iter().all(|one| one.promotion.by.is_some()) {
        output.line("That was done before; there is nothing left to do.");
        output.value(&value(Outcome::Nothing, &planned, &label));
        opened.release().await?;
        return Ok(Exit::Done);
    }
    if planned.iter().any(|one| !one.promotion.is_end) {
        output.line(
            "What the first store got after these records is not in this one. Machines push again \
             what they still have of it.",
        );
    }
    if !args.apply || args.confirm_label.as_deref() != Some(&label) {
        opened.release().await?;
        let why = format!("refusing to promote: needs --apply and --confirm-label={label}");
        return Ok(output.refuse(value(Outcome::Dry, &planned, &label), &why));
    }
    let done = promote(&opened.logs, &SystemEntropy).await;
    opened.release().await?;
    let done = done?;
    output.line(format!(
        "Promoted. Serve it now: statehold serve --store {}",
        args.store
    ));
    output.value(&value(Outcome::Done, &done, &label));
    Ok(Exit::Done)
}

/// What confirms a promotion: the epoch of the log that comes last.
fn label(planned: &[Promoted]) -> String {
    let epoch = planned.last().map_or(0, |last| last.promotion.epoch);
    format!("epoch-{epoch}")
}

fn line(one: &Promoted) -> String {
    let (name, promotion) = (&one.name, &one.promotion);
    let number = promotion.from.number;
    let of = promotion.time.map(|time| format!(" of {}", local(time)));
    let of = of.unwrap_or_default();
    let behind = match (promotion.is_end, promotion.left_behind) {
        (true, _) => ", where the first log was ended: nothing is lost".to_owned(),
        (false, 0) => String::new(),
        (false, records) => format!("; {} behind it not complete", count(records, "record")),
    };
    let verb = match promotion.by {
        Some(by) => format!("has gone on with record {}", by.number),
        None => "goes on".to_owned(),
    };
    let epoch = promotion.epoch;
    format!("{name}: epoch {epoch} {verb} from record {number}{of}{behind}")
}

fn value(outcome: Outcome, promoted: &[Promoted], label: &str) -> Value {
    let logs: Vec<Value> = promoted
        .iter()
        .map(|Promoted { name, promotion }| {
            json!({
                "name": name, "epoch": promotion.epoch, "from": promotion.from.number,
                "time": promotion.time, "left_behind": promotion.left_behind,
                "is_end": promotion.is_end, "record": promotion.by.map(|by| by.number),
            })
        })
        .collect();
    json!({"outcome": outcome, "logs": logs, "confirm_label": label})
}
