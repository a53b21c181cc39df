//! `statehold purge`: content that must not exist any more, such as a leaked secret, is made unreadable in
//! all of history and deleted.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use statehold_core::limits::RETENTION_FLOOR_DAYS;
use statehold_repository::collect::Untold;

use super::{GlobalArgs, block_on};
use crate::collecting::Collecting;
use crate::connection::find_workspace;
use crate::exit::Exit;
use crate::output::{Output, count, size};
use crate::report::{Appended, record_append};
use crate::typed_path;

/// Remove the content of a path from all of history, for good
#[derive(Debug, Args)]
#[command(
    after_help = "For a secret that was pushed, or a legal demand. What was ever at the path is deleted at once, at
every record and in every snapshot; the log says that it was done, and nothing brings it
back. The newest state must not have it any more: delete it and push first. Change a
secret all the same: whoever pulled it has it, and so have copies until they follow.

It takes a key of the role own.

Examples:
  statehold purge .env
  statehold purge .env --apply --confirm-path .env"
)]
pub(crate) struct PurgeArgs {
    /// A file, or a folder with all beneath it, from the folder you are in
    path: String,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// The path again, to show that this one is meant
    #[arg(long, value_name = "PATH")]
    confirm_path: Option<String>,
}

pub(super) fn run(args: &PurgeArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let directory = global.directory()?;
    let workspace = find_workspace(&directory)?;
    let path = typed_path::inside(&workspace, &directory, &args.path)?;
    if !args.apply || args.confirm_path.as_deref() != Some(args.path.as_str()) {
        bail!(
            "refusing to purge: needs --apply and --confirm-path={}, exactly as it was typed; nothing brings \
             it back",
            args.path
        );
    }
    let purging = path.clone();
    let result = block_on(async { Collecting::of(&workspace).await?.purge(purging).await });
    let appended = result.as_ref().map(|_| Appended::default());
    record_append(&workspace, "purge", started.elapsed(), appended)?;
    let collected = result?;
    let purged = collected.compacted.purged as u64;
    let deleted = collected.removed.as_ref();
    let deleted = deleted.is_some_and(|removed| removed.record.is_some());
    output.line(match purged {
        0 if deleted => {
            format!("no more content was ever at {path}; what an earlier purge had left is deleted")
        }
        0 => format!("no content was ever at {path}, or none that is still there"),
        _ => format!(
            "{} of content that {path} ever had {} gone, by record {}",
            count(purged, "piece"),
            if purged == 1 { "is" } else { "are" },
            collected.compacted.record.unwrap_or_default(),
        ),
    });
    if let Some(untold) = &collected.untold {
        for line in lines_of(untold) {
            output.line(line);
        }
    }
    output.value(&collected);
    Ok(Exit::Done.into())
}

/// What is still there and may hold more of the content, although nothing tells any more.
fn lines_of(untold: &Untold) -> Vec<String> {
    let mut lines = Vec::new();
    if untold.packs > 0 {
        lines.push(format!(
            "{}, {}, may hold more of it: of states that were let go, of uploads without an end, or of records that were \
             left behind, nothing tells what was at which path. A compaction deletes them {} days after they were \
             condemned, or as the gateway's --retention-floor says",
            count(untold.packs as u64, "pack"),
            size(untold.bytes),
            RETENTION_FLOOR_DAYS,
        ));
    }
    if untold.left_behind > 0 {
        lines.push(format!(
            "{} that a promote left behind may hold more of it, until a compaction retires what is before that promote",
            count(untold.left_behind, "record"),
        ));
    }
    lines
}
