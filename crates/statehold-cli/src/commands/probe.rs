//! `statehold probe`: finds out what a store is good for.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use statehold_repository::probe::{Admission, Grade, admit, keep, probe};

use super::block_on;
use crate::connection::store_of;
use crate::environment::{SystemClock, SystemEntropy, store_variable};
use crate::exit::Exit;
use crate::output::Output;

/// Try out a store, and keep the verdict in it
#[derive(Debug, Args)]
#[command(
    after_help = "Every store is tried out at its first use. After a change to a bucket, above all after
versions were switched on, try it out anew; gateways go by the newest verdict when they
start.

Examples:
  statehold probe s3://team-state/agents
  statehold probe /mnt/shared/state --json"
)]
pub(crate) struct ProbeArgs {
    /// A folder, or a bucket as s3://BUCKET, gs://BUCKET or az://CONTAINER
    #[arg(value_name = "WHERE")]
    store: String,
}

pub(super) fn run(args: &ProbeArgs, output: Output) -> Result<ExitCode> {
    let Some(location) = store_of(&args.store)? else {
        bail!(
            "{}: a store is a folder, or a bucket as s3://, gs:// or az://",
            args.store
        );
    };
    let report = block_on(async {
        let store = location.open(&store_variable)?;
        let report = probe(&store, &SystemClock, &SystemEntropy).await?;
        keep(&store, &report).await?;
        Ok(report)
    })?;
    for finding in &report.findings {
        let mark = if finding.holds { "ok " } else { "BAD" };
        output.line(format!("{mark}  {}", finding.seen));
    }
    output.line(match admit(&report) {
        Admission::ManyWriters => "grade A: any number of gateways and machines",
        Admission::OneWriter { .. } => "grade B: one gateway at a time, by a lease",
        Admission::Refused { .. } => "grade C: not fit for a repository",
    });
    output.value(&report);
    Ok(match report.grade {
        Grade::A | Grade::B => Exit::Done,
        Grade::C => Exit::Refused,
    }
    .into())
}
