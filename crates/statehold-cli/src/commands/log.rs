//! `statehold log`: the history of the repository or of a path.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use statehold_core::digest::Digest;
use statehold_core::id::MachineId;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind};
use statehold_core::time::Timestamp;
use statehold_repository::format::record::StoredRecord;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::Output;
use crate::typed_path;

/// Show the newest records, or those that touched a path
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold log
  statehold log memory/notes.md --limit 5")]
pub(crate) struct LogArgs {
    /// A file or folder, from the folder you are in
    path: Option<String>,
    /// How many records to show at most
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    limit: usize,
}

/// A record as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    number: u64,
    id: Digest,
    time: Timestamp,
    kind: Kind,
    machine: MachineId,
    changed: Vec<RepoPath>,
    deleted: Vec<RepoPath>,
}

/// Records looked at in one go, from the newest back.
const STEP: u64 = 64;

pub(super) fn run(args: &LogArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let folder = global.directory()?;
    let workspace = find_workspace(&folder)?;
    let path = match &args.path {
        Some(typed) => typed_path::within(&workspace, &folder, typed)?,
        None => None,
    };
    let (rows, own) = block_on(async {
        let connection = Connection::of(workspace, output, None).await?;
        let own = connection.engine.workspace().settings().machine.id;
        let mut rows = Vec::new();
        let mut end = connection.engine.remote_state().await?.head.number;
        while end > 0 && rows.len() < args.limit {
            let begin = end.saturating_sub(STEP);
            let mut next = begin;
            let mut found = Vec::new();
            while next < end {
                let batch = connection.remote.records(next).await?;
                let Some(last) = batch.records.last() else {
                    break;
                };
                next = last.record.envelope.number;
                found.extend(batch.records);
            }
            let wanted = found
                .iter()
                .rev()
                .filter(|stored| stored.record.envelope.number <= end);
            rows.extend(wanted.map(row).filter_map(|row| match &path {
                Some(path) => row.about(path),
                None => Some(row),
            }));
            end = begin;
        }
        rows.truncate(args.limit);
        Ok((rows, own))
    })?;
    for row in &rows {
        output.line(describe(row, own));
    }
    if rows.is_empty() {
        output.line(match &path {
            Some(path) => format!("no record touches {path}"),
            None => "nothing yet".into(),
        });
    }
    output.value(&rows);
    Ok(Exit::Done.into())
}

/// The record as a row.
pub(super) fn row(stored: &StoredRecord) -> Row {
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    if let Body::Push(push) = &stored.record.body {
        changed = push
            .upserts
            .iter()
            .map(|upsert| upsert.path.clone())
            .collect();
        deleted.clone_from(&push.deletes);
    }
    let envelope = &stored.record.envelope;
    Row {
        number: envelope.number,
        id: stored.record.id,
        time: envelope.time,
        kind: envelope.draft.kind.clone(),
        machine: envelope.draft.machine,
        changed,
        deleted,
    }
}

impl Row {
    /// The row with nothing but what is at or beneath a path; `None` if that is nothing.
    fn about(mut self, path: &RepoPath) -> Option<Self> {
        let wanted = |touched: &RepoPath| touched == path || touched.is_inside(path.as_str());
        self.changed.retain(wanted);
        self.deleted.retain(wanted);
        (!self.changed.is_empty() || !self.deleted.is_empty()).then_some(self)
    }
}

/// A row as a line.
pub(super) fn describe(row: &Row, own: MachineId) -> String {
    let local = jiff::Timestamp::from_millisecond(row.time.as_millis())
        .map(|time| {
            time.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%F %T %Z")
                .to_string()
        })
        .unwrap_or_else(|_| row.time.to_string());
    let machine = row.machine.to_string();
    let machine = if row.machine == own {
        "this machine"
    } else {
        &machine[..8]
    };
    let mut paths: Vec<String> = row.changed.iter().map(|path| format!("+{path}")).collect();
    paths.extend(row.deleted.iter().map(|path| format!("-{path}")));
    let shown = paths
        .iter()
        .take(3)
        .map(|path| path.escape_debug().to_string())
        .collect::<Vec<_>>();
    let more = match paths.len().saturating_sub(3) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{:>6}  {local}  {machine:<12}  {} {}{more}",
        row.number,
        row.kind,
        shown.join(" ")
    )
}
