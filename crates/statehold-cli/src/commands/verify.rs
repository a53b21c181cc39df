//! `statehold verify`: whether repositories are whole, and what needs what is not.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use statehold_core::environment::Clock as _;
use statehold_core::path::RepoPath;
use statehold_core::time::Timestamp;
use statehold_repository::verify::report::{Damaged, Report};
use statehold_repository::verify::subset::{Day, Share};
use statehold_repository::verify::{Options, Watch, over_remote, verify};
use statehold_sync::checks::Checks;
use statehold_sync::workspace::Workspace;

use super::{GlobalArgs, block_on};
use crate::environment::{SystemClock, home};
use crate::exit::Exit;
use crate::output::{Output, complain, count, size};
use crate::places::{Addressed, addressed, name_of, remembered};
use crate::progress::Bars;

/// Look whether repositories are whole, and name what is damaged and what needs it
#[derive(Debug, Args)]
#[command(
    after_help = "Without --read-data, everything is looked at but the content in packs: of these, that they
are there and as long as they should be. With a share, each day of the calendar has
another one, so that 5% a day has read everything after 20 days.

Through a gateway, history and content can be checked and single objects can't;
whoever runs it uses --store.

Examples:
  statehold verify
  statehold verify --read-data
  statehold verify --store s3://team-state/agents --read-data=5%      (daily, by cron)"
)]
pub(crate) struct VerifyArgs {
    /// All repositories in this store instead of the workspace's: a folder, or a bucket as s3://,
    /// gs:// or az://; a gateway's included
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// Read content, too: all of it, or so many percent, another part each day
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true,
          default_missing_value = "100%")]
    read_data: Option<Share>,
}

/// Paths named in one line.
const NAMED_MAX: usize = 5;

/// What was found in one repository.
#[derive(Debug, Serialize)]
struct Row {
    /// Where it is.
    of: String,
    #[serde(flatten)]
    report: Report,
    /// The share of the content that was read.
    read: Option<String>,
    /// The moment since which all content has been read.
    last_whole_reading: Option<Timestamp>,
}

pub(super) fn run(args: &VerifyArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let folder = global.directory()?;
    let workspace = Workspace::find(&folder).ok();
    let now = SystemClock.now();
    let (rows, unknown) = block_on(async {
        let bars = Bars::default();
        let addressed =
            addressed(args.store.as_deref(), workspace.as_ref(), &folder, output).await?;
        let mut rows = Vec::new();
        let mut check = async |of: String, what: What<'_>| -> Result<()> {
            let (checks, known) = remembered(&of, workspace.as_ref())?;
            let options = Options {
                read: args.read_data,
                day: Day::of(now),
                known,
                packs: BTreeSet::new(),
            };
            let watch: &dyn Watch = if output.is_watched() {
                bars.begin_check();
                &bars
            } else {
                &statehold_repository::verify::Unwatched
            };
            let report = match what {
                What::Straight(store) => verify(store, &options, watch).await,
                What::Gateway(remote) => over_remote::verify(remote, &options, watch).await,
            };
            bars.end_check();
            let report = report?;
            let last_whole_reading = remember(checks, &report, args.read_data, now);
            rows.push(Row {
                of,
                report,
                read: args.read_data.map(|share| share.to_string()),
                last_whole_reading,
            });
            Ok(())
        };
        match &addressed {
            Addressed::Straight { location, places } => {
                for place in &places.repositories {
                    check(name_of(location, place), What::Straight(&place.store)).await?;
                }
                Ok((rows, places.unknown.clone()))
            }
            Addressed::Gateway { remote, of } => {
                check(of.clone(), What::Gateway(&**remote)).await?;
                Ok((rows, Vec::new()))
            }
        }
    })?;
    for row in &rows {
        show(row, now, output);
    }
    for key in &unknown {
        output.line(format!("unknown  {key}: nothing of Statehold's"));
    }
    let is_well = rows.iter().all(|row| row.report.is_well());
    output.value(&serde_json::json!({
        "well": is_well, "repositories": rows, "unknown": unknown,
    }));
    Ok(if is_well { Exit::Done } else { Exit::Damaged }.into())
}

/// What is looked at.
enum What<'a> {
    Straight(&'a statehold_repository::store::Store),
    Gateway(&'a dyn statehold_repository::Remote),
}

/// Keeps what was checked. It is a help and not a condition.
pub(super) fn remember(
    mut checks: Checks,
    report: &Report,
    read: Option<Share>,
    now: Timestamp,
) -> Option<Timestamp> {
    checks.note(report, read, now);
    let kept = home().and_then(|home| Ok(checks.write(&home)?));
    if let Err(error) = kept {
        tracing::warn!(%error, "what was checked could not be kept");
    }
    checks.whole()
}

/// The first of some paths.
fn some_of(paths: &[String]) -> String {
    let named: Vec<String> = paths
        .iter()
        .take(NAMED_MAX)
        .map(|path| path.escape_debug().to_string())
        .collect();
    let mut text = named.join(", ");
    if let Some(more) = paths.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// What is wrong with an object, and what needs it.
pub(super) fn show_damaged(of: &str, damaged: &Damaged) {
    let Damaged {
        key,
        reason,
        paths,
        snapshots,
        versions,
        ..
    } = damaged;
    complain(&format!("damaged  {key}: {reason} ({of})"));
    let needed = |number: usize, what: &str, named: &[String]| {
        if number > 0 {
            let number = count(number as u64, what);
            complain(&format!("         needed by {number}: {}", some_of(named)));
        }
    };
    let text = |path: &RepoPath| path.to_string();
    needed(
        paths.len(),
        "file",
        &paths.iter().map(text).collect::<Vec<_>>(),
    );
    let named: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
    needed(snapshots.len(), "snapshot", &named);
    let named: Vec<String> = versions
        .iter()
        .map(|version| format!("{} at record {}", version.path, version.record))
        .collect();
    needed(versions.len(), "version", &named);
}

fn show(row: &Row, now: Timestamp, output: Output) {
    let Row {
        of,
        report,
        last_whole_reading,
        ..
    } = row;
    if !output.json {
        for damaged in &report.damaged {
            show_damaged(of, damaged);
        }
        for gap in &report.gaps {
            let (from, to) = (gap.from, gap.to);
            complain(&format!(
                "lost     the states at records {from} to {to}: what one of them changed can't be told"
            ));
        }
        for id in &report.lost_snapshots {
            complain(&format!("lost     the snapshot {id}, with that"));
        }
    }
    for key in &report.missing_caches {
        output.line(format!(
            "missing  {key}: a cache; `statehold repair` writes it anew"
        ));
    }
    for key in &report.unknown {
        output.line(format!("unknown  {key}: nothing of Statehold's"));
    }
    let counts = &report.counts;
    let head = report.head.map_or(0, |head| head.number);
    let mut parts = vec![
        format!("record {head} is the newest"),
        count(counts.records, "record"),
        format!(
            "{} ({})",
            count(counts.packs, "pack"),
            size(counts.pack_bytes)
        ),
        count(counts.segments, "segment"),
        count(counts.checkpoints, "checkpoint"),
        count(counts.trees, "tree"),
    ];
    if row.read.is_some() {
        parts.push(format!("{} of content read", size(counts.bytes_read)));
    }
    let verdict = match report.damaged.len() {
        0 => "all is well".to_owned(),
        damaged => format!(
            "{} damaged; `statehold repair` brings back what can be",
            count(damaged as u64, "object")
        ),
    };
    output.line(format!("{of}: {}; {verdict}", parts.join(", ")));
    output.line(match last_whole_reading {
        Some(then) => format!("last whole reading: {}", age(*then, now)),
        None => "last whole reading: never; `--read-data` makes one".into(),
    });
}

/// How long ago something was, for people.
fn age(then: Timestamp, now: Timestamp) -> String {
    let days = Day::of(now).since(Day::of(then));
    match days {
        ..=0 => "today".into(),
        1 => "yesterday".into(),
        days => format!("{days} days ago"),
    }
}
