//! `statehold diff`: what differs between records, or between the repository and the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use similar::TextDiff;
use statehold_core::entry::{Entry, FileEntry, Signature};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_repository::Remote;
use statehold_repository::remote::load_at;
use statehold_sync::folder::Folder;
use statehold_sync::index::Index;
use statehold_sync::scan::{ScanOptions, is_left_out, scan};

use super::cat::content_of;
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, print_bytes, size};
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

/// Larger files are named, and their lines aren't compared.
const TEXT_BYTES_MAX: u64 = 1_000_000;
/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Change {
    Added,
    Deleted,
    Modified,
}

/// A path that differs.
#[derive(Debug, Serialize)]
struct Difference {
    path: RepoPath,
    change: Change,
    from: Option<Shown>,
    to: Option<Shown>,
}

/// What is at a path on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shown {
    #[serde(flatten)]
    signature: Signature,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// One side of a comparison.
struct Side {
    /// What it is called.
    name: String,
    entries: BTreeMap<RepoPath, Shown>,
    source: Source,
}

/// Where a side's content is.
enum Source {
    Record(Arc<State>),
    Folder(Folder),
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

fn record_side(state: Arc<State>) -> Side {
    let shown = |entry: &Entry| Shown {
        signature: entry.signature(),
        size: match entry {
            Entry::File(file) => Some(file.size),
            Entry::Symlink { .. } | Entry::Directory => None,
        },
        target: match entry {
            Entry::Symlink { target } => Some(target.clone()),
            Entry::File(_) | Entry::Directory => None,
        },
    };
    let entries = state.tree.iter();
    Side {
        name: format!("record {}", state.head.number),
        entries: entries
            .map(|(path, entry)| (path.clone(), shown(entry)))
            .collect(),
        source: Source::Record(state),
    }
}

fn folder_side(connection: &Connection) -> Result<Side> {
    let workspace = connection.engine.workspace();
    let folder = workspace.folder()?;
    let index = Index::read(&workspace.index_files(), |_| {});
    let known = |path: &RepoPath| {
        let checkout = index.checkout.as_ref();
        checkout.and_then(|checkout| checkout.base_of(path)) == Some(Signature::Directory)
    };
    let options = ScanOptions {
        rules: &workspace.rules(&folder)?,
        ignore: &workspace.ignore_file(&folder)?,
        cache: &index.cache,
        known_directories: &known,
    };
    let found = scan(&folder, &options)?;
    let entries = found.entries.into_iter().map(|(path, local)| {
        let shown = Shown {
            signature: local.signature,
            size: matches!(local.signature, Signature::File { .. }).then_some(local.size),
            target: local.target,
        };
        (path, shown)
    });
    Ok(Side {
        name: "this folder".into(),
        entries: entries.collect(),
        source: Source::Folder(folder),
    })
}

/// Drops what a scan of the folder would not show, lest it look deleted.
fn leave_out_unseen(side: &mut Side, connection: &Connection) -> Result<()> {
    let workspace = connection.engine.workspace();
    let folder = workspace.folder()?;
    let (rules, ignore) = (workspace.rules(&folder)?, workspace.ignore_file(&folder)?);
    side.entries
        .retain(|path, shown| !is_left_out(&rules, &ignore, path, !shown.signature.is_leaf()));
    Ok(())
}

fn holds(side: &Side, path: &RepoPath) -> bool {
    let is_beneath = |found: &RepoPath| found == path || found.is_inside(path.as_str());
    side.entries.keys().any(is_beneath)
}

fn compare(from: &Side, to: &Side, wanted: Option<&RepoPath>) -> Vec<Difference> {
    let paths: BTreeSet<&RepoPath> = from.entries.keys().chain(to.entries.keys()).collect();
    let is_wanted = |path: &&RepoPath| {
        wanted.is_none_or(|wanted| *path == wanted || path.is_inside(wanted.as_str()))
    };
    let difference = |path: &RepoPath| {
        let (old, new) = (from.entries.get(path), to.entries.get(path));
        let change = match (old, new) {
            (Some(old), Some(new)) if old.signature == new.signature => return None,
            (Some(_), Some(_)) => Change::Modified,
            (Some(_), None) => Change::Deleted,
            (None, _) => Change::Added,
        };
        Some(Difference {
            path: path.clone(),
            change,
            from: old.cloned(),
            to: new.cloned(),
        })
    };
    let paths = paths.into_iter().filter(is_wanted);
    paths.filter_map(difference).collect()
}

/// Prints one difference the way `diff -u` would.
async fn show(
    difference: &Difference,
    (from, to): (&Side, &Side),
    remote: &dyn Remote,
) -> Result<()> {
    let path = difference.path.as_str().escape_debug().to_string();
    let mut text = String::new();
    let is_executable = |shown: &Option<Shown>| match shown {
        Some(shown) => matches!(
            shown.signature,
            Signature::File {
                executable: true,
                ..
            }
        ),
        None => false,
    };
    if let (Some(_), Some(_)) = (&difference.from, &difference.to) {
        match (
            is_executable(&difference.from),
            is_executable(&difference.to),
        ) {
            (false, true) => text.push_str(&format!("{path} became executable\n")),
            (true, false) => text.push_str(&format!("{path} is no longer executable\n")),
            _ => {}
        }
    }
    let old = lines(&difference.path, difference.from.as_ref(), from, remote).await?;
    let new = lines(&difference.path, difference.to.as_ref(), to, remote).await?;
    match (old, new) {
        (Ok(old), Ok(new)) if old != new => {
            let name = |shown: &Option<Shown>, side: &Side| match shown {
                Some(_) => format!("{path}\t({})", side.name),
                None => "/dev/null".into(),
            };
            let diff = TextDiff::from_lines(&old, &new);
            let mut unified = diff.unified_diff();
            let unified = unified
                .context_radius(CONTEXT_LINES)
                .header(&name(&difference.from, from), &name(&difference.to, to));
            text.push_str(&unified.to_string());
        }
        // Files that are empty, and modes.
        (Ok(_), Ok(_)) if text.is_empty() => {
            text.push_str(&format!("{path} is {}\n", word(difference.change)));
        }
        (Ok(_), Ok(_)) => {}
        (Err(why), _) | (_, Err(why)) => {
            text.push_str(&format!("{path} is {}: {why}\n", word(difference.change)));
        }
    }
    print_bytes(text.as_bytes()).context("the output could not be written")
}

const fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Deleted => "deleted",
        Change::Modified => "modified",
    }
}

/// A side's text at a path, or why there is none.
async fn lines(
    path: &RepoPath,
    shown: Option<&Shown>,
    side: &Side,
    remote: &dyn Remote,
) -> Result<Result<String, String>> {
    let Some(shown) = shown else {
        return Ok(Ok(String::new()));
    };
    if let Some(target) = &shown.target {
        return Ok(Ok(format!("link to {target}\n")));
    }
    let Some(bytes) = shown.size else {
        return Ok(Err("a directory".into()));
    };
    if bytes > TEXT_BYTES_MAX {
        return Ok(Err(format!("{}, too large to show", size(bytes))));
    }
    let content = match &side.source {
        Source::Folder(folder) => {
            let mut content = Vec::new();
            let file = folder.open_file(path)?;
            file.take(TEXT_BYTES_MAX)
                .read_to_end(&mut content)
                .with_context(|| format!("{path} could not be read"))?;
            content
        }
        Source::Record(state) => match state.tree.get(path.as_str()) {
            Some(Entry::File(file)) => whole(file, remote).await?,
            _ => Vec::new(),
        },
    };
    Ok(match String::from_utf8(content) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(format!("binary, {}", size(bytes))),
    })
}

async fn whole(file: &FileEntry, remote: &dyn Remote) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    content_of(file, remote, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    Ok(content)
}
