//! `statehold forget`: how long earlier states of the repository are kept.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use statehold_core::limits::{RETENTION_DAYS, RETENTION_FLOOR_DAYS};
use statehold_core::retention::Policy;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::Output;
use crate::report::{Appended, record_append};

/// Say how long earlier states are kept, or show it
#[derive(Debug, Args)]
#[command(
    after_help = "A state stays as long as any of these keeps it, or a snapshot does. Its age counts from the
moment it was superseded. What is not named is not kept: each call states the whole
policy. Nothing goes before the next compaction, which `statehold compact --dry` shows;
nothing ever goes by count that was superseded less than 7 days ago.

Saying it needs a key of the role own.

Examples:
  statehold forget                                        (shows what is kept)
  statehold forget --keep-within 90
  statehold forget --keep-within 30 --keep-weekly 12 --keep-monthly 24 --keep-yearly 10
  statehold forget --keep-within 7 --keep-last 100 --dry"
)]
pub(crate) struct ForgetArgs {
    /// Keep every state that was superseded within so many days, 30 unless given
    #[arg(long, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(i64::from(RETENTION_FLOOR_DAYS)..))]
    keep_within: Option<u32>,
    /// Keep the newest so many states
    #[arg(long, value_name = "COUNT")]
    keep_last: Option<u32>,
    /// Keep the last state of each of the newest so many hours that have one, in UTC
    #[arg(long, value_name = "COUNT")]
    keep_hourly: Option<u32>,
    /// The same of days
    #[arg(long, value_name = "COUNT")]
    keep_daily: Option<u32>,
    /// The same of weeks, which begin on Mondays
    #[arg(long, value_name = "COUNT")]
    keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "COUNT")]
    keep_monthly: Option<u32>,
    /// The same of years
    #[arg(long, value_name = "COUNT")]
    keep_yearly: Option<u32>,
    /// Show what would be kept, and change nothing
    #[arg(long)]
    dry: bool,
}

impl ForgetArgs {
    /// The policy that the call states, if it states one.
    fn policy(&self) -> Option<Policy> {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let says_something = self.keep_within.is_some() || counts.iter().any(Option::is_some);
        let [last, hourly, daily, weekly, monthly, yearly] = counts.map(Option::unwrap_or_default);
        says_something.then(|| Policy {
            within_days: self.keep_within.unwrap_or(RETENTION_DAYS),
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        })
    }
}

pub(super) fn run(args: &ForgetArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let workspace = find_workspace(&global.directory()?)?;
    let wanted = args.policy();
    let result = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        let newest = connection.engine.remote_state().await?;
        let kept = newest.collection.policy();
        let record = match wanted {
            Some(policy) if policy != kept && !args.dry => {
                Some(connection.engine.keep_by(policy).await?)
            }
            _ => None,
        };
        Ok((newest.head, kept, record))
    });
    if wanted.is_some() && !args.dry {
        let appended = result.as_ref().map(|(before, _, after)| Appended {
            files: 0,
            before: Some(*before),
            after: Some(after.unwrap_or(*before)),
        });
        record_append(&workspace, "forget", started.elapsed(), appended)?;
    }
    let (_, kept, record) = result?;
    let policy = wanted.unwrap_or(kept);
    output.line(match (record, args.dry && policy != kept) {
        (Some(record), _) => format!("kept from record {} on: {policy}", record.number),
        (None, true) => format!("now kept: {kept}\nwould be kept: {policy}"),
        (None, false) => format!("kept: {policy}"),
    });
    output.value(&json!({
        "kept": policy, "before": kept, "record": record.map(|record| record.number),
    }));
    Ok(Exit::Done.into())
}
