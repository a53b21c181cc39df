//! `statehold compact`: earlier states that nothing keeps any more are let go, and what only they needed
//! is deleted some days later.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use statehold_repository::collect::{Collected, Compacted, Removed};
use statehold_repository::wire::bodies::CompactRequest;

use super::{GlobalArgs, block_on};
use crate::collecting::Collecting;
use crate::connection::find_workspace;
use crate::exit::Exit;
use crate::output::{Output, count, size};
use crate::report::{Appended, record_append};

/// Let go of earlier states that nothing keeps any more, and of the space they take
#[derive(Debug, Args)]
#[command(
    after_help = "What goes is said by `statehold forget` and by snapshots. Content that is still needed is
moved together; the rest is condemned, and deleted by a later run when 7 days have passed.
Machines go on pushing and pulling meanwhile. A gateway does this by itself once a week, or
as `statehold serve --compact-every` says; by hand it takes a key of the role maintain.

Examples:
  statehold compact --dry
  statehold compact
  statehold compact --approve     (over half of all states would go, and that is meant)"
)]
pub(crate) struct CompactArgs {
    /// Show what would go and why, and change nothing
    #[arg(long)]
    dry: bool,
    /// Let states go even if they are over half of all; takes a key of the role own
    #[arg(long, conflicts_with = "dry")]
    approve: bool,
}

pub(super) fn run(args: &CompactArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let workspace = find_workspace(&global.directory()?)?;
    let request = CompactRequest {
        dry: args.dry,
        approve: args.approve,
    };
    let result = block_on(async { Collecting::of(&workspace).await?.compact(request).await });
    if !args.dry {
        let appended = result.as_ref().map(|_| Appended::default());
        record_append(&workspace, "compact", started.elapsed(), appended)?;
    }
    let collected = result?;
    show(&collected, args.dry, output);
    output.value(&collected);
    let is_held = collected.compacted.is_held && !args.dry;
    let removed = collected.removed.as_ref();
    let is_refused = removed.is_some_and(|removed| removed.is_refused);
    Ok(if is_held || is_refused {
        Exit::Refused
    } else {
        Exit::Done
    }
    .into())
}

fn show(collected: &Collected, dry: bool, output: Output) {
    let compacted = &collected.compacted;
    for line in lines_of(compacted) {
        output.line(line);
    }
    if compacted.is_held || dry && compacted.expired * 2 > compacted.points {
        output.line(format!(
            "{} of {} are over half: they stay until `statehold compact --approve` says that it is meant",
            compacted.expired,
            count(compacted.points as u64, "earlier state"),
        ));
    }
    match &collected.removed {
        Some(removed) if removed.is_refused => output.line(
            "kept back   the store keeps what was deleted; nothing more is compacted until it lets go, or \
             --approve says so",
        ),
        Some(removed) => output.line(line_of(removed)),
        None => {}
    }
}

/// What is let go, and why.
fn lines_of(compacted: &Compacted) -> Vec<String> {
    let mut lines = vec![format!(
        "let go      {} of {}: older than is kept, and named by no snapshot",
        compacted.expired,
        count(compacted.points as u64, "earlier state"),
    )];
    if compacted.condemned > 0 {
        lines.push(format!(
            "condemned   {}, {}: less than half of each is needed; deleted by a later compaction",
            count(compacted.condemned as u64, "pack"),
            size(compacted.condemned_bytes),
        ));
    }
    if compacted.orphans > 0 {
        lines.push(format!(
            "            {} of them from uploads that never came to an end",
            compacted.orphans
        ));
    }
    if compacted.moved > 0 {
        lines.push(format!(
            "moved       {}, {}: still needed",
            count(compacted.moved as u64, "piece"),
            size(compacted.moved_bytes),
        ));
    }
    if compacted.records > 0 {
        lines.push(format!(
            "retired     records up to {}: their envelopes stay",
            compacted.records
        ));
    }
    lines
}

fn line_of(removed: &Removed) -> String {
    let deleted = &removed.deleted;
    format!(
        "deleted     {}, {} cut to envelopes, {}",
        count(deleted.packs, "pack"),
        count(deleted.records, "record"),
        count(deleted.caches, "cache"),
    )
}
