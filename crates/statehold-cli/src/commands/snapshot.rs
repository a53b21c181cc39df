//! `statehold snapshot`: names for the repository as it is, or was, that outlive every retention.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use statehold_core::manifest::SyncManifest;
use statehold_core::point::Point;
use statehold_core::scope::Scope;
use statehold_core::snapshot::{Label, SnapshotId};
use statehold_core::snapshot_index::{IndexedKind, IndexedSnapshot, snapshot_index};
use statehold_core::state::State;
use statehold_repository::remote::load_at;
use statehold_sync::engine::Made;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count, size};
use crate::report::{Appended, record_append};
use crate::when::{When, find_snapshot, local};

/// Name the repository as it is now, so that it can be brought back for as long as the name is kept
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A snapshot holds what has been pushed. It costs one small record, whatever it names.

Examples:
  statehold snapshot before-the-rewrite
  statehold snapshot last-good --at \"2 hours ago\"
  statehold snapshot list
  statehold snapshot show before-the-rewrite
  statehold snapshot delete 2026-04-16T09-30-00Z-before-the-rewrite"
)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// What to call it: letters, digits, dots, hyphens and underscores
    label: Option<String>,
    /// As it was then: a record's number, a time or an age
    #[arg(long, value_name = "WHEN", requires = "label")]
    at: Option<When>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the snapshots, and the copies that were made elsewhere
    List,
    /// Show a snapshot and the files in it
    Show {
        /// Its name, or its label if only one has it
        snapshot: String,
    },
    /// Take a snapshot out of the list; needs a key of the role own
    Delete {
        /// Its full name
        snapshot: String,
    },
}

pub(super) fn run(args: &SnapshotArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    match (&args.action, &args.label) {
        (Some(Action::List), _) => list(global, output),
        (Some(Action::Show { snapshot }), _) => show(snapshot, global, output),
        (Some(Action::Delete { snapshot }), _) => delete(snapshot, global, output),
        (None, Some(label)) => make(label, args.at.as_ref(), global, output),
        (None, None) => Err(WrongUsage::because(
            "what shall it be called? like `statehold snapshot before-the-rewrite`; \
             `statehold snapshot list` shows those there are",
        )),
    }
}

fn make(label: &str, at: Option<&When>, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let label: Label = label
        .parse()
        .map_err(|error: statehold_core::snapshot::InvalidLabel| {
            WrongUsage::because(error.to_string())
        })?;
    if label.as_str().ends_with('.') {
        return Err(WrongUsage::because(format!(
            "{label} cannot be a label: not every file system holds a name that ends with a dot"
        )));
    }
    let workspace = find_workspace(&global.directory()?)?;
    let result: Result<(Made, u64)> = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        let engine = &connection.engine;
        let number = match at {
            None => None,
            Some(when) => {
                let newest = engine.remote_state().await?;
                let there = load_at(&*connection.remote, when.point(&newest)?).await?;
                Some(there.head.number)
            }
        };
        let made = engine.snapshot(&label, number).await?;
        // Only of the present would anybody think that it holds what is here.
        let unsent = match number {
            None => {
                let outgoing = engine.status(Scope::All).await?.outgoing;
                outgoing.added + outgoing.modified + outgoing.deleted
            }
            Some(_) => 0,
        };
        Ok((made, unsent))
    });
    let appended = result.as_ref().map(|(made, _)| Appended {
        files: made.files,
        before: Some(made.before),
        after: Some(made.after),
    });
    record_append(&workspace, "snapshot", started.elapsed(), appended)?;
    let (made, unsent) = result?;
    output.line(format!(
        "{}: {}, {}, as of record {}",
        made.id,
        count(made.files, "file"),
        size(made.bytes),
        made.at
    ));
    if unsent > 0 {
        complain(&format!(
            "note: {} in this folder {} not been pushed and {} not in it",
            count(unsent, "change"),
            if unsent == 1 { "has" } else { "have" },
            if unsent == 1 { "is" } else { "are" },
        ));
    }
    output.value(&json!({
        "id": made.id, "label": made.id.label(), "record": made.at,
        "files": made.files, "bytes": made.bytes, "unsent": unsent,
    }));
    Ok(Exit::Done.into())
}

/// The newest state that the repository has.
fn newest(global: &GlobalArgs) -> Result<std::sync::Arc<State>> {
    let workspace = find_workspace(&global.directory()?)?;
    block_on(async {
        let connection = Connection::of(workspace, Output::default(), None).await?;
        Ok(connection.engine.remote_state().await?)
    })
}

fn list(global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let rows = snapshot_index(&*newest(global)?);
    for row in &rows {
        output.line(describe(row));
    }
    if rows.is_empty() {
        output.line("no snapshots yet; `statehold snapshot LABEL` makes one");
    }
    output.value(&rows);
    Ok(Exit::Done.into())
}

fn describe(row: &IndexedSnapshot) -> String {
    let what = match (&row.kind, row.files) {
        (IndexedKind::Snapshot, Some(files)) => count(files, "file"),
        _ => format!("copied to {}", row.to.as_deref().unwrap_or("elsewhere")),
    };
    format!(
        "{:<44}  {}  record {:>6}  {what}, {}",
        row.id,
        local(row.ts),
        row.record,
        size(row.bytes)
    )
}

/// A snapshot with what is in it.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    snapshot: IndexedSnapshot,
    manifest: SyncManifest,
}

fn show(name: &str, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let (snapshot, state) = block_on(async {
        let connection = Connection::of(workspace, Output::default(), None).await?;
        let newest = connection.engine.remote_state().await?;
        let id = find_snapshot(&newest, name)?;
        let mut rows = snapshot_index(&newest).into_iter();
        let row = rows.find(|row| row.id == *id && row.kind == IndexedKind::Snapshot);
        let row = row.ok_or_else(|| anyhow::anyhow!("there is no snapshot {name}"))?;
        let state = load_at(&*connection.remote, Point::Record(row.record)).await?;
        Ok((row, state))
    })?;
    output.line(format!(
        "snapshot  {}\nlabel     {}\nmade      {}\nrecord    {} of {}\nfiles     {}, {}\nroot      {}\n",
        snapshot.id,
        snapshot.label,
        local(snapshot.ts),
        snapshot.record,
        local(state.time),
        snapshot.files.unwrap_or_default(),
        size(snapshot.bytes),
        state.tree.root()
    ));
    let manifest = SyncManifest::of(&state.tree, state.time);
    for (path, file) in &manifest.files {
        let path = path.as_str().escape_debug();
        output.line(format!("{}  {:>9}  {path}", file.sha256, size(file.size)));
    }
    output.value(&Shown { snapshot, manifest });
    Ok(Exit::Done.into())
}

/// The snapshot of this very name: a label might be another one's by the time that it is read.
fn named(newest: &State, name: &str) -> Result<SnapshotId> {
    let id = find_snapshot(newest, name)?;
    if id.as_str() != name {
        anyhow::bail!(
            "to delete the snapshot {name}, name it in full: `statehold snapshot delete {id}`"
        );
    }
    Ok(id.clone())
}

fn delete(name: &str, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let workspace = find_workspace(&global.directory()?)?;
    let result = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        let newest = connection.engine.remote_state().await?;
        let id = named(&newest, name)?;
        let record = connection.engine.forget_snapshots(vec![id.clone()]);
        Ok((newest.head, record.await?, id))
    });
    let appended = result.as_ref().map(|(before, after, _)| Appended {
        files: 0,
        before: Some(*before),
        after: Some(*after),
    });
    record_append(&workspace, "snapshot-delete", started.elapsed(), appended)?;
    let (_, record, id) = result?;
    output.line(format!(
        "{id} is no snapshot any more, as of record {}",
        record.number
    ));
    output.value(&json!({"id": id, "record": record.number}));
    Ok(Exit::Done.into())
}
