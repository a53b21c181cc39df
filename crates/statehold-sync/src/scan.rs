//! What a folder holds at this moment, without reading what hasn't changed.
//!
//! One walk lists and stats everything; then the files whose stamps are new are read and hashed,
//! side by side where that pays. Nothing a scan meets ends it: what cannot travel or cannot be
//! looked at is listed with the reason, and [`Scan::is_held`] keeps it from being taken for
//! deleted.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::io::{self, Read as _};

use serde::Serialize;
use statehold_core::digest::{Digest, Sha256};
use statehold_core::entry::{Signature, link_stays_inside};
use statehold_core::limits::SYMLINK_TARGET_BYTES_MAX;
use statehold_core::path::{InvalidPath, RepoPath};
use statehold_core::plan::Seen;
use statehold_core::rules::{RuleSet, Verdict};
use statehold_core::time::Mtime;
use statehold_repository::layout;

use crate::folder::{Directory, Folder, FolderError, Found, FoundKind, Item, Stamp};
use crate::ignore_file::IgnoreFile;
use crate::path_map::PathMap;
use crate::stat_cache::{CachedFile, Cursor, Known, StatCache};

mod reading;

use reading::{Read, Reading, Unknown, read_all};

/// The folder in which a gateway keeps its keys, in its store.
const CONTROL: &CStr = c"_control";

/// What a scan goes by.
#[expect(
    missing_debug_implementations,
    reason = "holds a function, which has no useful text"
)]
pub struct ScanOptions<'a> {
    /// Which paths may travel.
    pub rules: &'a RuleSet,
    /// Which paths the user leaves out.
    pub ignore: &'a IgnoreFile,
    /// What the last scan found out.
    pub cache: &'a StatCache,
    /// Whether a directory is recorded as an entry, empty or not: one that got its first file has
    /// not been deleted.
    pub known_directories: &'a dyn Fn(&RepoPath) -> bool,
    /// How much of what is read to keep, in bytes, for a caller that goes on to send it.
    pub keep_bytes: usize,
}

impl ScanOptions<'_> {
    /// Digest of all that decides which paths may travel.
    fn digest(&self) -> Digest {
        let parts = [self.rules.digest(), self.ignore.digest()];
        Digest::of(&parts.map(|part| *part.as_bytes()).concat())
    }
}

/// One path of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEntry {
    /// What decides whether it equals another side's.
    pub signature: Signature,
    /// When its content last changed.
    pub mtime: Mtime,
    /// Length of the content in bytes; 0 for links and directories.
    pub size: u64,
    /// SHA-256 of a file's content.
    pub sha256: Option<Sha256>,
    /// A link's target.
    pub target: Option<String>,
    /// Its stamp, which the folder's operations take as what was seen.
    pub stamp: Stamp,
}

impl LocalEntry {
    /// What a plan looks at.
    pub const fn seen(&self) -> Seen {
        Seen {
            signature: self.signature,
            mtime: self.mtime,
        }
    }
}

/// Why something in the folder is not part of the scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum SkipReason {
    /// The rules deny it, and all beneath it.
    Denied {
        /// The glob that does.
        glob: String,
    },
    /// It lies beneath a strict prefix and the rules don't name it.
    Uncovered {
        /// The prefix.
        prefix: String,
    },
    /// `.stateholdignore` names it.
    Ignored,
    /// Its name is not UTF-8. The path shown has replacement characters.
    NotUtf8,
    /// Its path is more than a repository can hold.
    InvalidPath {
        /// Why.
        message: String,
    },
    /// It is a socket, a pipe or a device.
    NotAFile,
    /// It is a link that leads out of the workspace, or whose target is not UTF-8.
    LinkOutside {
        /// Where it leads.
        target: String,
    },
    /// It is a store: the repository itself, or another's. In a repository it would grow by itself
    /// with every push.
    Store,
    /// It belongs to an open `SQLite` database beside it and means nothing on another machine.
    DatabaseSidecar,
    /// The operating system refused to show it.
    Unreadable {
        /// What it said.
        message: String,
    },
}

impl SkipReason {
    /// Whether it is a file or folder that nobody chose to leave out and that can't be sent.
    pub const fn is_impossible(&self) -> bool {
        matches!(
            self,
            Self::NotUtf8 | Self::InvalidPath { .. } | Self::Unreadable { .. }
        )
    }
}

/// Something in the folder that is not part of the scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Where it lies. A text, since it may be no valid path.
    pub path: String,
    /// Why.
    #[serde(flatten)]
    pub reason: SkipReason,
}

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Everything that may travel, by path.
    pub entries: PathMap<LocalEntry>,
    /// What was left out, and why. A directory stands for all beneath it.
    pub skipped: Vec<Skipped>,
    /// Files that changed while they were read, time and again, or vanished meanwhile. They are
    /// left for the next time.
    pub busy: Vec<RepoPath>,
    /// Files and directories that could not be looked at; of a directory, nothing beneath it.
    pub unreadable: Vec<RepoPath>,
    /// What the next scan should be given.
    pub cache: StatCache,
    /// Files that were read.
    pub hashed_files: u64,
    /// Bytes that were read.
    pub hashed_bytes: u64,
    /// What some small files hold that were read.
    kept: HashMap<RepoPath, Box<[u8]>>,
    held: BTreeSet<String>,
}

impl Scan {
    /// Whether the scan cannot say what is at this path, because it or a folder it lies in was
    /// skipped, unreadable or busy. Whoever plans leaves such a path as it is on every side.
    pub fn is_held(&self, path: &RepoPath) -> bool {
        !self.held.is_empty()
            && (self.held.contains(path.as_str())
                || path.ancestors().any(|folder| self.held.contains(folder)))
    }

    /// What a file holds, if it was kept: exactly what its digest was computed from.
    pub(crate) fn kept(&self, path: &RepoPath) -> Option<&[u8]> {
        self.kept.get(path).map(AsRef::as_ref)
    }
}

/// Whether rules or ignore file keep a path out of every scan. For the other sides of a plan: a
/// path that no scan can show must not look deleted.
pub fn is_left_out(
    rules: &RuleSet,
    ignore: &IgnoreFile,
    path: &RepoPath,
    is_directory: bool,
) -> bool {
    rules.verdict(path) != Verdict::Allowed || ignore.ignores(path, is_directory)
}

/// Goes through the folder. Only a root that cannot be listed is an error.
pub fn scan(folder: &Folder, options: &ScanOptions<'_>) -> Result<Scan, FolderError> {
    let mut root = folder.list_root()?;
    let items = root.items().map_err(|source| FolderError::Io {
        action: "list",
        path: folder.path().to_owned(),
        source,
    })?;
    let rules = options.digest();
    let mut walk = Walk {
        options,
        known: options.cache.cursor(),
        rules,
        known_may_travel: options.cache.is_under(rules),
        path: String::new(),
        entries: Vec::with_capacity(options.cache.len()),
        unchanged: Vec::with_capacity(options.cache.len()),
        fresh: Vec::new(),
        unknown: Vec::new(),
        scan: Scan::default(),
    };
    walk.directory(&root, items);
    Ok(walk.finish(folder))
}

struct Walk<'a> {
    options: &'a ScanOptions<'a>,
    known: Cursor<'a>,
    /// Digest of the rules and the ignore file.
    rules: Digest,
    /// Whether the cache holds only what they let through.
    known_may_travel: bool,
    /// The path at hand; grows and shrinks along the walk.
    path: String,
    entries: Vec<(RepoPath, LocalEntry)>,
    /// Places in the cache of the files that are as they were.
    unchanged: Vec<usize>,
    /// What was found out about the others.
    fresh: Vec<(RepoPath, CachedFile)>,
    unknown: Vec<Unknown>,
    scan: Scan,
}

impl Walk<'_> {
    /// Goes through one directory in the order of paths, so that the cache can be read along.
    fn directory(&mut self, directory: &Directory, mut items: Vec<Item>) {
        for item in &mut items {
            if item.kind.is_none() {
                item.kind = directory.stat(&item.name).ok().map(|found| found.kind);
            }
        }
        items.sort_unstable_by(in_path_order);
        let length = self.path.len();
        for item in &items {
            self.path.truncate(length);
            if length > 0 {
                self.path.push('/');
            }
            let Ok(name) = item.name.to_str() else {
                self.path.push_str(&item.name.to_string_lossy());
                self.skip_here(SkipReason::NotUtf8);
                continue;
            };
            self.path.push_str(name);
            let is_file = item.kind == Some(FoundKind::File);
            let known = is_file.then(|| self.known.seek(&self.path)).flatten();
            let path = known.map_or_else(
                || RepoPath::parse(&self.path),
                |known| Ok(known.path.clone()),
            );
            let path = match path {
                Ok(path) => path,
                // Statehold's own folder.
                Err(InvalidPath::Reserved { .. }) => continue,
                Err(error) => {
                    let message = error.to_string();
                    self.skip_here(SkipReason::InvalidPath { message });
                    continue;
                }
            };
            match item.kind {
                Some(FoundKind::Directory) => self.enter(directory, item, path),
                Some(FoundKind::File) => {
                    if is_database_sidecar(directory, &items, &item.name) {
                        self.skip(&path, SkipReason::DatabaseSidecar);
                    } else {
                        self.file(directory, item, path, known);
                    }
                }
                Some(FoundKind::Symlink) => self.link(directory, item, path),
                Some(FoundKind::Other) => self.skip(&path, SkipReason::NotAFile),
                None => self.hold_busy(path),
            }
        }
        self.path.truncate(length);
    }

    fn enter(&mut self, directory: &Directory, item: &Item, path: RepoPath) {
        // Where a file beneath it may travel, neither rules nor ignore file stop at the directory.
        if !(self.known_may_travel && self.known.knows_beneath(path.as_str())) {
            if let Some(glob) = denies_all_beneath(self.options.rules, &path) {
                self.skip(&path, SkipReason::Denied { glob });
                return;
            }
            if self.options.ignore.ignores_alone(&path, true) {
                self.skip(&path, SkipReason::Ignored);
                return;
            }
        }
        let opened = directory.open_directory(&item.name);
        let listed = opened.and_then(|mut inner| Ok((inner.items()?, inner)));
        let (items, inner) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.cannot_look(path, &error);
                return;
            }
        };
        if is_store(&inner, &items) {
            self.skip(&path, SkipReason::Store);
            return;
        }
        let is_empty = items.is_empty();
        if !is_empty {
            self.directory(&inner, items);
        }
        if !is_empty && !(self.options.known_directories)(&path) {
            return;
        }
        match self.options.rules.verdict(&path) {
            Verdict::Allowed => {}
            // A directory that a glob beneath it lets through is no entry, and no surprise either.
            Verdict::Denied { .. } | Verdict::Uncovered { .. } => return,
        }
        match directory.stat(&item.name) {
            Ok(found) => self.push_entry(path, Signature::Directory, &found, None, None),
            Err(error) => self.cannot_look(path, &error),
        }
    }

    /// Whether a file or link may travel; notes it down if not.
    fn may_travel(&mut self, path: &RepoPath) -> bool {
        let reason = match self.options.rules.verdict(path) {
            Verdict::Denied { glob } => SkipReason::Denied { glob },
            Verdict::Uncovered { prefix } => SkipReason::Uncovered { prefix },
            Verdict::Allowed if self.options.ignore.ignores_alone(path, false) => {
                SkipReason::Ignored
            }
            Verdict::Allowed => return true,
        };
        self.skip(path, reason);
        false
    }

    fn file(
        &mut self,
        directory: &Directory,
        item: &Item,
        path: RepoPath,
        known: Option<Known<'_>>,
    ) {
        let is_let_through = known.is_some() && self.known_may_travel;
        if !is_let_through && !self.may_travel(&path) {
            return;
        }
        let found = match directory.stat(&item.name) {
            Ok(found) if found.kind == FoundKind::File => found,
            Ok(_) => return self.hold_busy(path),
            Err(error) => return self.cannot_look(path, &error),
        };
        match known {
            Some(Known { place, file, .. }) if file.stamp == found.stamp && file.settled => {
                self.unchanged.push(place);
                self.push_file(path, &found, file);
            }
            _ => self.unknown.push(Unknown {
                path,
                size: found.stamp.size,
            }),
        }
    }

    fn link(&mut self, directory: &Directory, item: &Item, path: RepoPath) {
        if !self.may_travel(&path) {
            return;
        }
        let looked = directory
            .stat(&item.name)
            .and_then(|found| Ok((found, directory.read_link(&item.name)?)));
        let (found, target) = match looked {
            Ok(looked) => looked,
            Err(error) => return self.cannot_look(path, &error),
        };
        match target.to_str() {
            Ok(target)
                if link_stays_inside(&path, target)
                    && (1..=SYMLINK_TARGET_BYTES_MAX).contains(&target.len()) =>
            {
                let signature = Signature::Symlink {
                    target: Digest::of(target.as_bytes()),
                };
                let target = Some(target.to_owned());
                self.push_entry(path, signature, &found, None, target);
            }
            _ => {
                let target = target.to_string_lossy().into_owned();
                self.skip(&path, SkipReason::LinkOutside { target });
            }
        }
    }

    fn push_file(&mut self, path: RepoPath, found: &Found, known: &CachedFile) {
        let signature = Signature::File {
            digest: known.digest,
            executable: found.executable,
        };
        self.push_entry(path, signature, found, Some(known.sha256), None);
    }

    fn push_entry(
        &mut self,
        path: RepoPath,
        signature: Signature,
        found: &Found,
        sha256: Option<Sha256>,
        target: Option<String>,
    ) {
        let entry = LocalEntry {
            signature,
            mtime: found.mtime,
            size: if sha256.is_some() {
                found.stamp.size
            } else {
                0
            },
            sha256,
            target,
            stamp: found.stamp,
        };
        self.entries.push((path, entry));
    }

    fn skip(&mut self, path: &RepoPath, reason: SkipReason) {
        self.scan.held.insert(path.as_str().to_owned());
        self.scan.skipped.push(Skipped {
            path: path.as_str().to_owned(),
            reason,
        });
    }

    /// Skips what lies at a place that is no valid path, which nothing can ask about later.
    fn skip_here(&mut self, reason: SkipReason) {
        let path = self.path.clone();
        self.scan.skipped.push(Skipped { path, reason });
    }

    fn hold_busy(&mut self, path: RepoPath) {
        self.scan.held.insert(path.as_str().to_owned());
        self.scan.busy.push(path);
    }

    /// Something that is there by its directory's listing and cannot be looked at.
    fn cannot_look(&mut self, path: RepoPath, error: &io::Error) {
        // Gone or replaced since: the next scan will see which.
        let moved = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        if moved.contains(&error.kind()) {
            return self.hold_busy(path);
        }
        let message = error.to_string();
        self.skip(&path, SkipReason::Unreadable { message });
        self.scan.unreadable.push(path);
    }

    /// Reads what has to be read, and puts everything together.
    fn finish(mut self, folder: &Folder) -> Scan {
        let unknown = std::mem::take(&mut self.unknown);
        for (path, outcome) in read_all(folder, unknown, self.options.keep_bytes) {
            match outcome {
                Reading::Done(Read {
                    found,
                    cached,
                    kept,
                }) => {
                    self.scan.hashed_files += 1;
                    self.scan.hashed_bytes += found.stamp.size;
                    if let Some(kept) = kept {
                        self.scan.kept.insert(path.clone(), kept);
                    }
                    self.fresh.push((path.clone(), cached));
                    self.push_file(path, &found, &cached);
                }
                Reading::Busy => self.hold_busy(path),
                Reading::Failed(error) => self.cannot_look(path, &error),
            }
        }
        let before = self.options.cache;
        let mut cache = if self.unchanged.len() == before.len() {
            before.clone()
        } else {
            before.at(&self.unchanged).collect()
        };
        if !self.fresh.is_empty() {
            cache.merge(self.fresh);
        }
        self.scan.cache = cache.under(self.rules);
        self.scan.entries = PathMap::of(self.entries);
        self.scan
    }
}

/// The order of full paths: a directory counts as ended by a slash, since its content is.
fn in_path_order(left: &Item, right: &Item) -> std::cmp::Ordering {
    let end = |item: &Item| (item.kind == Some(FoundKind::Directory)).then_some(&b'/');
    let (left_name, right_name) = (left.name.to_bytes(), right.name.to_bytes());
    let left_bytes = left_name.iter().chain(end(left));
    left_bytes.cmp(right_name.iter().chain(end(right)))
}

/// The glob that denies every path beneath this directory, if one does.
///
/// Asked of one made-up name: a glob that ends in `/**` and matches it has matched the directory
/// itself or one it lies in with the part before, so no name beneath can escape it.
fn denies_all_beneath(rules: &RuleSet, directory: &RepoPath) -> Option<String> {
    let inner = RepoPath::parse(&format!("{directory}/\u{1}")).ok()?;
    match rules.verdict(&inner) {
        Verdict::Denied { glob } if glob.ends_with("/**") => Some(glob),
        _ => None,
    }
}

/// Whether this folder is a store: of one repository, or of a gateway.
fn is_store(directory: &Directory, items: &[Item]) -> bool {
    const LOG: &[u8] = layout::LOG.as_bytes();
    let named = |items: &[Item], name: &[u8]| items.iter().any(|item| item.name.to_bytes() == name);
    let control_log = || {
        let mut control = directory.open_directory(CONTROL).ok()?;
        Some(named(&control.items().ok()?, LOG))
    };
    (named(items, layout::REPOSITORY.as_bytes()) && named(items, LOG))
        || (named(items, CONTROL.to_bytes()) && control_log() == Some(true))
}

/// Whether this is the journal of a database beside it, which has its name without the suffix.
fn is_database_sidecar(directory: &Directory, items: &[Item], name: &CStr) -> bool {
    const SUFFIXES: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];
    let bytes = name.to_bytes();
    let Some(database) = SUFFIXES
        .iter()
        .find_map(|suffix| bytes.strip_suffix(*suffix))
    else {
        return false;
    };
    let beside = items
        .iter()
        .find(|item| item.kind == Some(FoundKind::File) && item.name.to_bytes() == database);
    let Some(beside) = beside else {
        return false;
    };
    let mut head = Vec::new();
    let read = directory
        .open_file(&beside.name)
        .and_then(|file| file.take(16).read_to_end(&mut head));
    // A database that cannot be read is given the benefit of the doubt, as is an empty one: with
    // a log beside it, its first transaction is under way.
    read.is_err() || head.is_empty() || head == b"SQLite format 3\0"
}

#[cfg(test)]
mod tests;
