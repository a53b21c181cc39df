//! `statehold versions`: every version that a file has had.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::id::MachineId;
use statehold_core::path::RepoPath;
use statehold_core::record::Kind;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::format::record::StoredRecord;

use super::log::{Backwards, by};
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, size};
use crate::typed_path;
use crate::when::local;

/// Show the versions of a file, the newest first, deletions included
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold versions memory/notes.md
  statehold cat memory/notes.md --at 17          (a version's record)
  statehold restore memory/notes.md 17")]
pub(crate) struct VersionsArgs {
    /// The file, from the folder you are in
    path: String,
    /// How many versions to show at most
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    limit: usize,
}

/// What a record made of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
enum Content {
    File {
        size: u64,
        digest: Digest,
        executable: bool,
    },
    Link {
        target: String,
    },
    Directory,
    Deleted,
}

/// A version.
#[derive(Debug, Serialize)]
struct Version {
    record: u64,
    time: Timestamp,
    kind: Kind,
    machine: MachineId,
    #[serde(flatten)]
    content: Content,
    /// Snapshots of the time in which it was the newest.
    snapshots: Vec<SnapshotId>,
}

pub(super) fn run(args: &VersionsArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let folder = global.directory()?;
    let workspace = find_workspace(&folder)?;
    let path = typed_path::inside(&workspace, &folder, &args.path)?;
    let own = workspace.settings().machine.id;
    let versions = block_on(async {
        let connection = Connection::of(workspace, Output::default(), None).await?;
        let newest = connection.engine.remote_state().await?;
        let is_folder = newest
            .tree
            .beneath(path.as_str())
            .any(|(found, _)| *found != path);
        if is_folder {
            bail!(
                "{path} is a folder; `statehold log {}` shows what changed in it",
                args.path
            );
        }
        let mut versions: Vec<Version> = Vec::new();
        let mut until = newest.head.number;
        let mut records = Backwards::from(&*connection.remote, until);
        while versions.len() < args.limit {
            let Some(stored) = records.next().await? else {
                break;
            };
            let Some(content) = content_at(&stored, &path) else {
                continue;
            };
            let version = version(&stored, content, &newest, until);
            until = version.record.saturating_sub(1);
            versions.push(version);
        }
        if versions.is_empty() {
            bail!("{path} has never been in the repository; `statehold log` shows what has");
        }
        Ok(versions)
    })?;
    for version in &versions {
        output.line(describe(version, own));
    }
    output.value(&versions);
    Ok(Exit::Done.into())
}

/// What a record made of a path, if it touched it.
fn content_at(stored: &StoredRecord, path: &RepoPath) -> Option<Content> {
    let changes = stored.record.body.changes()?;
    if changes.deletes.contains(path) {
        return Some(Content::Deleted);
    }
    let mut upserts = changes.upserts.iter();
    let upsert = upserts.find(|upsert| upsert.path == *path)?;
    Some(match &upsert.entry {
        Entry::File(file) => Content::File {
            size: file.size,
            digest: file.digest,
            executable: file.executable,
        },
        Entry::Symlink { target } => Content::Link {
            target: target.clone(),
        },
        Entry::Directory => Content::Directory,
    })
}

fn version(stored: &StoredRecord, content: Content, newest: &State, until: u64) -> Version {
    let envelope = &stored.record.envelope;
    let record = envelope.number;
    let snapshots = newest
        .snapshots
        .iter()
        .filter(|(_, snapshot)| (record..=until).contains(&snapshot.at));
    Version {
        record,
        time: envelope.time,
        kind: envelope.draft.kind.clone(),
        machine: envelope.draft.machine,
        content,
        snapshots: snapshots.map(|(id, _)| id.clone()).collect(),
    }
}

fn describe(version: &Version, own: MachineId) -> String {
    let what = match &version.content {
        Content::File {
            size: bytes,
            digest,
            ..
        } => {
            let digest = digest.to_string();
            format!("{:>9}  {}", size(*bytes), &digest[..digest.len().min(12)])
        }
        Content::Link { target } => format!("link to {}", target.escape_debug()),
        Content::Directory => "directory".into(),
        Content::Deleted => "deleted".into(),
    };
    let snapshots: Vec<String> = version.snapshots.iter().map(ToString::to_string).collect();
    let kept = match snapshots.is_empty() {
        true => String::new(),
        false => format!("  in {}", snapshots.join(", ")),
    };
    let back = match version.kind {
        Kind::Rollback => "  (rolled back)",
        _ => "",
    };
    format!(
        "{:>6}  {}  {:<12}  {what}{back}{kept}",
        version.record,
        local(version.time),
        by(version.machine, own)
    )
}
