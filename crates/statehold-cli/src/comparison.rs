//! Comparing two sides path by path: records, the folder, and what was restored from a record.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Serialize;
use similar::TextDiff;
use statehold_core::digest::FileHasher;
use statehold_core::entry::{Entry, FileEntry, Signature};
use statehold_core::path::RepoPath;
use statehold_core::state::State;
use statehold_repository::content::open_chunk;
use statehold_repository::{Remote, Whereabouts};
use statehold_sync::engine::place_in_holding;
use statehold_sync::folder::{Folder, FoundKind};
use statehold_sync::index::Index;
use statehold_sync::scan::{ScanOptions, is_left_out, scan};

use crate::connection::Connection;
use crate::output::{print_bytes, size};

/// Larger files are named, and their lines aren't compared.
const TEXT_BYTES_MAX: u64 = 1_000_000;
/// Bytes of a file that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Chunks fetched in one go.
const CHUNKS: usize = 8;
/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    Added,
    Deleted,
    Modified,
}

/// A path that differs.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    pub(crate) path: RepoPath,
    pub(crate) change: Change,
    from: Option<Shown>,
    to: Option<Shown>,
}

/// What is at a path on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    signature: Signature,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// One side of a comparison.
pub(crate) struct Side {
    /// What it is called.
    pub(crate) name: String,
    pub(crate) entries: BTreeMap<RepoPath, Shown>,
    pub(crate) source: Source,
}

/// Where a side's content is.
pub(crate) enum Source {
    Record(Arc<State>),
    Folder(Folder),
    /// A holding folder, of what was asked for.
    Restored(Folder, Option<RepoPath>),
}

impl Shown {
    fn of(entry: &Entry) -> Self {
        Self {
            signature: entry.signature(),
            size: match entry {
                Entry::File(file) => Some(file.size),
                Entry::Symlink { .. } | Entry::Directory => None,
            },
            target: match entry {
                Entry::Symlink { target } => Some(target.clone()),
                Entry::File(_) | Entry::Directory => None,
            },
        }
    }
}

pub(crate) fn record_side(state: Arc<State>) -> Side {
    let entries = state.tree.iter();
    Side {
        name: format!("record {}", state.head.number),
        entries: entries
            .map(|(path, entry)| (path.clone(), Shown::of(entry)))
            .collect(),
        source: Source::Record(state),
    }
}

/// What a holding folder has of a record, by the paths at which it was live.
pub(crate) fn restored_side<'a>(
    state: &State,
    entries: impl Iterator<Item = (&'a RepoPath, &'a Entry)>,
    holding: Folder,
    asked: Option<&RepoPath>,
) -> Side {
    Side {
        name: format!("record {}", state.head.number),
        entries: entries
            .map(|(path, entry)| (path.clone(), Shown::of(entry)))
            .collect(),
        source: Source::Restored(holding, asked.cloned()),
    }
}

pub(crate) fn folder_side(connection: &Connection) -> Result<Side> {
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
        keep_bytes: 0,
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
pub(crate) fn leave_out_unseen(side: &mut Side, connection: &Connection) -> Result<()> {
    let workspace = connection.engine.workspace();
    let folder = workspace.folder()?;
    let (rules, ignore) = (workspace.rules(&folder)?, workspace.ignore_file(&folder)?);
    side.entries
        .retain(|path, shown| !is_left_out(&rules, &ignore, path, !shown.signature.is_leaf()));
    Ok(())
}

/// Adds what is live at these paths and what the scan left out, as ignored files are.
pub(crate) fn look_at<'a>(
    side: &mut Side,
    paths: impl Iterator<Item = &'a RepoPath>,
) -> Result<()> {
    let Source::Folder(folder) = &side.source else {
        return Ok(());
    };
    for path in paths {
        if side.entries.contains_key(path) {
            continue;
        }
        let Some(found) = folder.stat(path).ok().flatten() else {
            continue;
        };
        let signature = match (found.kind, &found.target) {
            (FoundKind::Symlink, Some(target)) => {
                let target = target.clone();
                Entry::Symlink { target }.signature()
            }
            (FoundKind::Directory, _) => Signature::Directory,
            (FoundKind::File, _) => {
                let mut hasher = FileHasher::default();
                let mut file = folder.open_file(path)?;
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let got = file.read(&mut piece);
                    match got.with_context(|| format!("{path} could not be read"))? {
                        0 => break,
                        got => hasher.update(piece.get(..got).unwrap_or_default()),
                    }
                }
                Signature::File {
                    digest: hasher.finish().0,
                    executable: found.executable,
                }
            }
            _ => continue,
        };
        let shown = Shown {
            signature,
            size: (found.kind == FoundKind::File).then_some(found.stamp.size),
            target: found.target,
        };
        side.entries.insert(path.clone(), shown);
    }
    Ok(())
}

pub(crate) fn holds(side: &Side, path: &RepoPath) -> bool {
    let is_beneath = |found: &RepoPath| found == path || found.is_inside(path.as_str());
    side.entries.keys().any(is_beneath)
}

pub(crate) fn compare(from: &Side, to: &Side, wanted: Option<&RepoPath>) -> Vec<Difference> {
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
pub(crate) async fn show(
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

pub(crate) const fn word(change: Change) -> &'static str {
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
        Source::Folder(folder) => beginning(folder, path)?,
        Source::Restored(folder, asked) => {
            match place_in_holding(path, asked.as_ref()).and_then(Result::ok) {
                Some(place) => beginning(folder, &place)?,
                None => Vec::new(),
            }
        }
        Source::Record(state) => match state.tree.get(path.as_str()) {
            Some(Entry::File(file)) => whole(file, remote, &Whereabouts::of(state.head)).await?,
            _ => Vec::new(),
        },
    };
    Ok(match String::from_utf8(content) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(format!("binary, {}", size(bytes))),
    })
}

async fn whole(
    file: &FileEntry,
    remote: &dyn Remote,
    whereabouts: &Whereabouts,
) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    content_of(file, remote, whereabouts, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    Ok(content)
}

/// As much of a file in a folder as is compared.
fn beginning(folder: &Folder, path: &RepoPath) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = folder.open_file(path)?;
    file.take(TEXT_BYTES_MAX)
        .read_to_end(&mut content)
        .with_context(|| format!("{path} could not be read"))?;
    Ok(content)
}

/// Gives the content of a file in the state that `whereabouts` are of, piece by piece.
pub(crate) async fn content_of(
    file: &FileEntry,
    remote: &dyn Remote,
    whereabouts: &Whereabouts,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    for chunks in file.chunks.chunks(CHUNKS) {
        let frames = whereabouts.read(remote, chunks).await?;
        for (chunk, frame) in chunks.iter().zip(&frames) {
            take(&open_chunk(chunk, frame)?)?;
        }
    }
    Ok(())
}
