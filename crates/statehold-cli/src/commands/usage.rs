//! `statehold usage`: what takes space in the repository, and what letting go of it would free.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use statehold_core::limits::RETENTION_FLOOR_DAYS;

use super::{GlobalArgs, block_on};
use crate::collecting::Collecting;
use crate::connection::find_workspace;
use crate::exit::Exit;
use crate::output::{Output, count, size};

/// Show what takes space in the repository, and what letting go of it would free
#[derive(Debug, Args)]
#[command(
    after_help = "All sizes are as stored: compressed, and each piece of content once.

Examples:
  statehold usage
  statehold usage --within 7      (and what keeping a week only would free)
  statehold usage --json"
)]
pub(crate) struct UsageArgs {
    /// Say what would be free if states were kept for so many days only, and else as they are
    #[arg(long, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(i64::from(RETENTION_FLOOR_DAYS)..))]
    within: Option<u32>,
}

pub(super) fn run(args: &UsageArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let usage = block_on(async { Collecting::of(&workspace).await?.usage(args.within).await })?;
    output.line(format!(
        "all         {}, {}",
        size(usage.bytes),
        count(usage.objects, "object")
    ));
    output.line(format!("newest      {}", size(usage.newest)));
    let mut younger = 0;
    for (days, bytes) in usage.history.iter().filter(|(_, bytes)| *bytes > 0) {
        output.line(match *days {
            u32::MAX => format!("history     {}, over {younger} days ago", size(*bytes)),
            1 => format!("history     {}, of the last day", size(*bytes)),
            days => format!("history     {}, up to {days} days ago", size(*bytes)),
        });
        younger = *days;
    }
    if usage.condemned > 0 {
        output.line(format!(
            "condemned   {}, deleted by a later compaction",
            size(usage.condemned)
        ));
    }
    if usage.undeleted > 0 {
        output.line(format!(
            "kept back   {}, which was deleted and is still there: the store keeps it, or deleting was cut short",
            size(usage.undeleted)
        ));
    }
    if usage.orphans > 0 {
        output.line(format!(
            "unfinished  {}, from uploads that never came to an end; the next compaction condemns it",
            size(usage.orphans)
        ));
    }
    for (snapshot, bytes) in &usage.snapshots {
        output.line(format!(
            "snapshot    {}, which nothing but {snapshot} keeps",
            size(*bytes)
        ));
    }
    if let Some(shorter) = usage.shorter {
        output.line(format!(
            "shorter     {} would be free if states were kept for {}: {} would go",
            size(shorter.bytes),
            count(shorter.within_days.into(), "day"),
            count(shorter.points as u64, "earlier state"),
        ));
    }
    output.value(&usage);
    Ok(Exit::Done.into())
}
