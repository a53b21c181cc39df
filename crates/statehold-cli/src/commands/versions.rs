//! `statehold versions`: every version that a file has had.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::id::MachineId;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Envelope, Kind};
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::Remote;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::load_at;

use super::log::{Backwards, by, is_retired, left_of};
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, size};
use crate::typed_path;
use crate::when::local;

/// Show the versions of a file, the newest first, deletions included
#[derive(Debug, Args)]
#[command(
    after_help = "A version at a state that was let go is marked so: nothing brings it back. Of records that are
retired, the versions in the states that are kept are shown.

Examples:
  statehold versions memory/notes.md
  statehold cat memory/notes.md --at 17          (a version's record)
  statehold restore memory/notes.md 17"
)]
pub(crate) struct VersionsArgs {
    /// The file, from the folder you are in
    path: String,
    /// How many versions to show at most
    #[arg(short = 'n', long, default_value = "20", value_name = "COUNT")]
    limit: NonZeroUsize,
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
    /// Whether the state at this record is kept. Otherwise it was let go, and nothing brings it back.
    kept: bool,
    /// Whether this record made it; otherwise one did that came before and is retired.
    exact: bool,
}

/// Listings of states before the records that are retired that are looked into at most.
const LISTINGS_MAX: usize = 64;

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
        while versions.len() < args.limit.get() {
            let Some(stored) = records.next().await? else {
                break;
            };
            if is_retired(&stored, &newest.collection) {
                let remote = &*connection.remote;
                earlier(remote, &path, &newest, args.limit.get(), &mut versions).await?;
                break;
            }
            let Some(content) = content_at(&stored, &path) else {
                continue;
            };
            let envelope = &stored.record.envelope;
            let mut version = version(envelope, content, &newest, until);
            version.exact = true;
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
    Some(content_of(&upsert.entry))
}

/// Adds what the states show that are kept of records that are retired: the first one after them, and then
/// those before, the newest first. Each version is shown at the earliest of these states that has it.
async fn earlier(
    remote: &dyn Remote,
    path: &RepoPath,
    newest: &State,
    limit: usize,
    versions: &mut Vec<Version>,
) -> Result<()> {
    let collection = &newest.collection;
    let (_, first) = collection.nearest(collection.cut);
    let oldest = versions.last().map_or(u64::MAX, |version| version.record);
    let listings = collection.listings.iter().rev().take(LISTINGS_MAX);
    let states = std::iter::once((first, newest.head.number))
        .filter(|(first, _)| oldest > *first)
        .chain(listings.map(|listing| (listing.from, listing.to)));
    // From its first state to its last one, as far as was looked.
    let mut found: Vec<(u64, u64, Content)> = Vec::new();
    let room = limit.saturating_sub(versions.len());
    for (from, to) in states {
        let state = load_at(remote, Point::Record(from)).await?;
        let is_full = found.len() == room;
        let there = state.tree.get(path.as_str()).map(content_of);
        match (found.last_mut(), there) {
            (Some(later), Some(there)) if later.2 == there => later.0 = from,
            _ if is_full => break,
            (_, Some(there)) => found.push((from, to, there)),
            (_, None) => {}
        }
    }
    for (from, to, content) in found {
        let record = remote.records_until(from - 1, from).await?;
        let envelopes = record.iter().map(|stored| &stored.record.envelope);
        versions.extend(envelopes.map(|envelope| version(envelope, content.clone(), newest, to)));
    }
    Ok(())
}

fn content_of(entry: &Entry) -> Content {
    match entry {
        Entry::File(file) => Content::File {
            size: file.size,
            digest: file.digest,
            executable: file.executable,
        },
        Entry::Symlink { target } => Content::Link {
            target: target.clone(),
        },
        Entry::Directory => Content::Directory,
    }
}

fn version(envelope: &Envelope, content: Content, newest: &State, until: u64) -> Version {
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
        kept: !newest.collection.expired.contains(record),
        exact: false,
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
    let left = left_of(version.kept, !version.exact);
    let machine = match version.exact {
        true => by(version.machine, own),
        false => "or before".into(),
    };
    format!(
        "{:>6}  {}  {machine:<12}  {what}{back}{kept}{left}",
        version.record,
        local(version.time),
    )
}
