//! `statehold bring-over`: what the first store got after its copy went on.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use statehold_gateway::switch::{Brought, bring_over_all};
use statehold_repository::bring_over::{End, Lost};

use super::block_on;
use crate::connection::Opened;
use crate::environment::SystemEntropy;
use crate::exit::Exit;
use crate::output::{Output, complain};
use crate::when::local;

/// List what the first store got after its copy went on, and bring it over
#[derive(Debug, Args)]
#[command(
    after_help = "Records are listed; with --apply they are brought over, as pushes of the machines that made
them. What a machine has pushed again meanwhile is there already. Where the copy has something
else by now, the push is named and left alone (exit code 3): `statehold restore` on a workspace
that is linked with the first store gets what it held. End the first store before, with
`statehold fence`.

Examples:
  statehold bring-over s3://team-state/agents --to s3://team-state-copy/agents
  statehold bring-over s3://team-state/agents --to s3://team-state-copy/agents --apply"
)]
pub(crate) struct BringOverArgs {
    /// The first store
    #[arg(value_name = "FROM")]
    from: String,
    /// The store that goes on
    #[arg(long, value_name = "WHERE")]
    to: String,
    /// Do it
    #[arg(long)]
    apply: bool,
}

pub(super) fn run(args: &BringOverArgs, output: Output) -> Result<ExitCode> {
    block_on(act(args, output)).map(Into::into)
}

async fn act(args: &BringOverArgs, output: Output) -> Result<Exit> {
    let from = Opened::at(&args.from).await?;
    let to = Opened::at(&args.to).await?;
    let brought = bring_over_all(&from.logs, &to.logs, &SystemEntropy, args.apply).await;
    from.release().await?;
    to.release().await?;
    let brought = brought?;
    let mut collide = false;
    for Brought { name, lost } in &brought {
        let Some(lost) = lost else {
            collide = true;
            complain(&format!(
                "{name}: not in {}; link a workspace with it there and push",
                args.to
            ));
            continue;
        };
        if lost.is_empty() {
            output.line(format!("{name}: nothing"));
        }
        for one in lost {
            collide |= matches!(one.end, End::Collides(_));
            output.line(format!("{name}: {}", line(one)));
        }
    }
    output.value(&value(&brought));
    Ok(if collide { Exit::Conflict } else { Exit::Done })
}

fn line(lost: &Lost) -> String {
    let Lost { number, kind, .. } = lost;
    let end = match &lost.end {
        End::Wanted => "to bring over, with --apply".to_owned(),
        End::Landed(by) => format!("stands there as record {}", by.number),
        End::Same => "what it says is there already".to_owned(),
        End::Collides(reasons) => format!("collides: {}", reasons.join(", ").escape_debug()),
        End::LeftOut => "left out: it is about the first store".to_owned(),
    };
    format!("record {number} of {}, {kind}: {end}", local(lost.time))
}

fn value(brought: &[Brought]) -> Value {
    let record = |lost: &Lost| {
        let (end, landed, reasons) = match &lost.end {
            End::Wanted => ("wanted", None, None),
            End::Landed(by) => ("landed", Some(by.number), None),
            End::Same => ("same", None, None),
            End::Collides(reasons) => ("collides", None, Some(reasons)),
            End::LeftOut => ("left-out", None, None),
        };
        json!({
            "number": lost.number, "time": lost.time, "machine": lost.machine,
            "kind": lost.kind, "end": end, "record": landed, "reasons": reasons,
        })
    };
    let logs: Vec<Value> = brought
        .iter()
        .map(|Brought { name, lost }| {
            let records = lost.as_ref();
            let records: Option<Vec<Value>> =
                records.map(|records| records.iter().map(record).collect());
            json!({"name": name, "records": records})
        })
        .collect();
    json!({"logs": logs})
}
