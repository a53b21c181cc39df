//! `statehold diff`: what differs between records, or between the repository and the folder.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use statehold_core::point::Point;
use statehold_repository::remote::load_at;

use super::{GlobalArgs, block_on};
use crate::comparison::{Source, compare, folder_side, holds, leave_out_unseen, record_side, show};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::Output;
use crate::typed_path;
use crate::when::When;

/// Show what differs between two records, or between the repository and this folder
#[derive(Debug, Args)]
#[command(
    after_help = "Without --from and --to: from the repository as it is now to this folder.
With --to alone: what that record changed. With --from alone: from that record to this folder.

Examples:
  statehold diff
  statehold diff memory/notes.md
  statehold diff --to 17
  statehold diff skills --from 12 --to 17
  statehold diff --from yesterday-evening --to \"1 hour ago\"     (a snapshot's label, an age)"
)]
pub(crate) struct DiffArgs {
    /// A file or folder, from the folder you are in; by default everything
    path: Option<String>,
    /// The older side: a record's number, a snapshot, a time or an age
    #[arg(long, value_name = "WHEN")]
    from: Option<When>,
    /// The newer side, likewise
    #[arg(long, value_name = "WHEN")]
    to: Option<When>,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(args: &DiffArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let differs = block_on(async {
        let folder = global.directory()?;
        let workspace = find_workspace(&folder)?;
        let path = match &args.path {
            Some(typed) => typed_path::within(&workspace, &folder, typed)?,
            None => None,
        };
        let connection = Connection::of(workspace, Output::default(), None).await?;
        let remote = &*connection.remote;
        // First the one that was named, so that a missing one is told by its own number.
        let newest = connection.engine.remote_state().await?;
        let state_at = async |when: &When| anyhow::Ok(load_at(remote, when.point(&newest)?).await?);
        let to = match &args.to {
            Some(when) => Some(state_at(when).await?),
            None => None,
        };
        let from = match (&args.from, &to) {
            (Some(when), _) => state_at(when).await?,
            (None, Some(to)) => {
                let before = Point::Record(to.head.number.saturating_sub(1));
                load_at(remote, before).await?
            }
            (None, None) => Arc::clone(&newest),
        };
        let to = match to {
            Some(to) => record_side(to),
            None => folder_side(&connection)?,
        };
        let mut from = record_side(from);
        if let Source::Folder(_) = to.source {
            leave_out_unseen(&mut from, &connection)?;
        }
        if let Some(path) = &path
            && !holds(&from, path)
            && !holds(&to, path)
        {
            bail!("{path} is neither in {} nor in {}", from.name, to.name);
        }
        let differences = compare(&from, &to, path.as_ref());
        if output.json {
            output.value(&differences);
        } else if !output.quiet {
            for difference in &differences {
                show(difference, (&from, &to), remote).await?;
            }
        }
        Ok(!differences.is_empty())
    })?;
    Ok(if differs && args.exit_code {
        Exit::Refused
    } else {
        Exit::Done
    }
    .into())
}
