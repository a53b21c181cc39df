//! `statehold log`: the history of the repository or of a path.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use statehold_core::collection::Collection;
use statehold_core::digest::Digest;
use statehold_core::id::MachineId;
use statehold_core::limits::LOG_RANGE_RECORDS_MAX;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind};
use statehold_core::time::Timestamp;
use statehold_repository::Remote;
use statehold_repository::format::record::StoredRecord;

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::Output;
use crate::typed_path;
use crate::when::local;

/// Show the newest records, or those that touched a path
#[derive(Debug, Args)]
#[command(
    after_help = "A state that was let go is marked so: nothing brings it back. Of a record that is retired, what it
changed is told no more; the state at it may be kept all the same.

Examples:
  statehold log
  statehold log memory/notes.md --limit 5"
)]
pub(crate) struct LogArgs {
    /// A file or folder, from the folder you are in
    path: Option<String>,
    /// How many records to show at most
    #[arg(short = 'n', long, default_value = "20", value_name = "COUNT")]
    limit: NonZeroUsize,
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
    /// What else it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    says: Option<String>,
    /// Whether the state at it is kept. Otherwise it was let go, and nothing brings it back.
    kept: bool,
    /// Whether its envelope is all that is left of it, so that what it changed is told no more.
    retired: bool,
}

/// The records of a log, from one back to the first. They are read in aligned runs, which are few
/// reads however long the log is.
pub(super) struct Backwards<'a> {
    remote: &'a dyn Remote,
    /// The next one that has to be read.
    next: u64,
    read: Vec<StoredRecord>,
}

impl<'a> Backwards<'a> {
    /// Begins at a record that exists.
    pub(super) const fn from(remote: &'a dyn Remote, number: u64) -> Self {
        Self {
            remote,
            next: number,
            read: Vec::new(),
        }
    }

    /// The next earlier record.
    pub(super) async fn next(&mut self) -> Result<Option<StoredRecord>> {
        if self.read.is_empty() && self.next > 0 {
            let after = (self.next - 1) / LOG_RANGE_RECORDS_MAX * LOG_RANGE_RECORDS_MAX;
            self.read = self.remote.records_until(after, self.next).await?;
            self.next = after;
        }
        Ok(self.read.pop())
    }
}

pub(super) fn run(args: &LogArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let folder = global.directory()?;
    let workspace = find_workspace(&folder)?;
    let path = match &args.path {
        Some(typed) => typed_path::within(&workspace, &folder, typed)?,
        None => None,
    };
    let (rows, own, untold) = block_on(async {
        let connection = Connection::of(workspace, output, None).await?;
        let own = connection.engine.workspace().settings().machine.id;
        let mut rows = Vec::new();
        let newest = connection.engine.remote_state().await?;
        let mut records = Backwards::from(&*connection.remote, newest.head.number);
        while rows.len() < args.limit.get() {
            let Some(stored) = records.next().await? else {
                break;
            };
            // So are all before it.
            if path.is_some() && is_retired(&stored, &newest.collection) {
                break;
            }
            let row = row(&stored, &newest.collection);
            rows.extend(match &path {
                Some(path) => row.about(path),
                None => Some(row),
            });
        }
        let is_short = rows.len() < args.limit.get();
        let untold = path.is_some() && is_short && newest.collection.cut > 0;
        Ok((rows, own, untold.then_some(newest.collection.cut)))
    })?;
    for row in &rows {
        output.line(describe(row, own));
    }
    if let Some(cut) = untold {
        output.line(format!(
            "what records up to {cut} changed is told no more; `statehold versions` looks into the states \
             that are kept of them"
        ));
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

/// The record as a row, by what is kept.
pub(super) fn row(stored: &StoredRecord, collection: &Collection) -> Row {
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    if let Some(push) = stored.record.body.changes() {
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
        says: said(&stored.record.body),
        kept: !collection.expired.contains(envelope.number),
        retired: is_retired(stored, collection),
    }
}

/// Whether the envelope is all that is left of a record, or all that whoever still has it in memory will have
/// of it soon.
pub(super) fn is_retired(stored: &StoredRecord, collection: &Collection) -> bool {
    stored.is_retired() || stored.record.envelope.number <= collection.cut
}

/// What a record says besides the paths it touches.
fn said(body: &Body) -> Option<String> {
    match body {
        Body::Snapshot(snapshot) => Some(format!("{} of record {}", snapshot.id, snapshot.at)),
        Body::Rollback(rollback) => Some(format!(
            "to record {}; before it: {}",
            rollback.to, rollback.before
        )),
        Body::Backup(backup) => Some(format!("up to record {} to {}", backup.at, backup.to)),
        Body::Forget(forget) => {
            let names = forget.snapshots.iter().map(ToString::to_string);
            let kept = forget.policy.map(|policy| format!("keeps {policy}"));
            Some(names.chain(kept).collect::<Vec<_>>().join(", "))
        }
        Body::Note(note) => Some(note.text.escape_debug().to_string()),
        Body::Compact(compact) => {
            let ranges = compact.expired.ranges();
            let states: u64 = ranges.map(|(first, last)| last - first + 1).sum();
            let packs = compact.condemned.len();
            Some(format!("lets {states} states go, condemns {packs} packs"))
        }
        Body::Remove(remove) => {
            let (packs, cut) = (remove.packs.len(), remove.cut);
            Some(format!("deletes {packs} packs, retires up to record {cut}"))
        }
        Body::Hold(hold) => Some(format!("{} packs", hold.packs.len())),
        Body::Fence(_) => Some("ends this log".into()),
        Body::Promote(promote) => Some(format!(
            "epoch {}, from record {}",
            promote.epoch, promote.from.number
        )),
        Body::Push(_) | Body::Registry(_) | Body::Retired | Body::Unknown => None,
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
    let local = local(row.time);
    let machine = by(row.machine, own);
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
    let words = row.says.iter().cloned().chain(shown);
    let words: String = words.map(|word| format!(" {word}")).collect();
    format!(
        "{:>6}  {local}  {machine:<12}  {}{}{words}{more}",
        row.number,
        row.kind,
        left_of(row.kept, row.retired),
    )
}

/// What is left of a state and of its record, where that isn't all.
pub(super) const fn left_of(kept: bool, retired: bool) -> &'static str {
    match (kept, retired) {
        (true, false) => "",
        (true, true) => " (retired)",
        (false, false) => " (let go)",
        (false, true) => " (let go, retired)",
    }
}

/// A machine, as short as people tell them apart.
pub(super) fn by(machine: MachineId, own: MachineId) -> String {
    if machine == own {
        return "this machine".into();
    }
    let mut name = machine.to_string();
    name.truncate(8);
    name
}
