//! The way in: fetching content, staging it, and switching files one by one.
//!
//! Nothing half-written ever has a real name: content is staged in full, checked and flushed with
//! one barrier, and only then renamed into place. Each switch first checks that the local file is
//! still what the plan saw. The staging names are digests, so a killed pull finds what it had; what it had
//! switched is in its journal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::path::RepoPath;
use statehold_core::plan::Action;
use statehold_core::record::RecordRef;
use statehold_core::tree::Tree;
use statehold_repository::batches::stored_bytes_of;
use statehold_repository::{Remote, Whereabouts};

use super::fetch::Fetcher;
use super::{EngineError, Result, own_error};
use crate::folder::{Attributes, Folder, FolderError, Stamp, stamp_clock_ns};
use crate::progress::{Phase, Progress};
use crate::pull_journal::{Marks, Pull, PullJournal};
use crate::scan::Scan;
use crate::stat_cache::CachedFile;

/// What carrying out the incoming half of a plan needs.
pub(super) struct Incoming<'a> {
    pub(super) folder: &'a Folder,
    pub(super) scan: &'a Scan,
    /// The tree that is taken over.
    pub(super) tree: &'a Tree,
    pub(super) remote: &'a dyn Remote,
    /// Where the tree's content lies.
    pub(super) whereabouts: &'a Whereabouts,
    pub(super) staging: &'a Path,
    /// A folder of this run's own for local content that gives way and exists nowhere else.
    pub(super) aside: PathBuf,
    /// Whether the local content at a path is in nobody's history.
    pub(super) is_unsaved: &'a (dyn Fn(&RepoPath) -> bool + Sync),
    pub(super) progress: &'a dyn Progress,
    /// Where it is kept what is being placed, with the records to keep it under: the one whose tree it is, and
    /// the one that the folder landed at. `None` where what is placed is this machine's change.
    pub(super) journal: Option<(PullJournal, RecordRef, Option<RecordRef>)>,
}

/// What became of the incoming half.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Paths that are now as the tree says.
    pub(super) paths: Vec<RepoPath>,
    /// Paths that changed under way and were left alone.
    pub(super) changed: Vec<RepoPath>,
    /// Paths that could not be put in place, and why.
    pub(super) failed: Vec<(RepoPath, String)>,
    /// Local content that was set aside.
    pub(super) set_aside: Vec<PathBuf>,
    /// What is known about the files that were placed.
    pub(super) cache: Vec<(RepoPath, CachedFile)>,
    /// Stored bytes that were fetched.
    pub(super) bytes: u64,
    /// Files whose content was fetched or placed.
    pub(super) files: u64,
    /// The first content that turned out to be damaged. Files that need it are left as they were;
    /// all others arrive.
    pub(super) damage: Option<statehold_repository::Error>,
    /// How many paths still wait for each staged content.
    uses: BTreeMap<Digest, usize>,
}

impl Incoming<'_> {
    /// Carries out the incoming actions.
    pub(super) async fn run(&self, actions: &[&Action]) -> Result<Placed> {
        let mut placed = Placed::default();
        let wanted: Vec<&FileEntry> = actions
            .iter()
            .filter_map(
                |action| match (action, self.tree.get(action.path().as_str())) {
                    (Action::Download(_), Some(Entry::File(file))) => Some(file),
                    _ => None,
                },
            )
            .collect();
        placed.bytes = self.stage(&wanted, &mut placed.damage).await?;
        for file in &wanted {
            *placed.uses.entry(file.digest).or_default() += 1;
        }
        let mut marks = self.begin_journal(actions)?;
        // Content first, names after: a crash can leave neither half a file nor an empty one.
        self.folder.barrier()?;
        self.progress.begin(Phase::Place, actions.len() as u64);
        // Deletions go first and inside out, so that files can become folders and the reverse.
        let actions = actions.iter().enumerate();
        let deletes = actions
            .clone()
            .rev()
            .filter(|(_, action)| matches!(action, Action::DeleteLocal(_)));
        let downloads = actions.filter(|(_, action)| matches!(action, Action::Download(_)));
        for (place, action) in deletes.chain(downloads) {
            let is_made = self.switch(action, &mut placed)?;
            if let Some(marks) = marks.as_mut().filter(|_| is_made) {
                marks.made(place);
            }
            self.progress.advance(1);
        }
        self.folder.barrier()?;
        self.progress.end();
        Ok(placed)
    }

    /// Keeps what is about to be switched, so that a run that dies among the switches is told from edits.
    fn begin_journal(&self, actions: &[&Action]) -> Result<Option<Marks>> {
        let Some((journal, record, landed)) = &self.journal else {
            return Ok(None);
        };
        let switches = actions.iter().map(|action| {
            let path = action.path();
            let entry = match action {
                Action::DeleteLocal(_) => None,
                _ => self.tree.get(path.as_str()),
            };
            (path.clone(), entry.map(Entry::signature))
        });
        let pull = Pull {
            record: *record,
            landed: *landed,
            switches: switches.collect(),
        };
        Ok(Some(journal.begin(&pull)?))
    }

    /// Makes one switch. Says whether it was made.
    fn switch(&self, action: &Action, placed: &mut Placed) -> Result<bool> {
        let path = action.path();
        let done = match action {
            Action::DeleteLocal(_) => self.delete(path, placed),
            _ => self.place(path, placed),
        };
        match done {
            Ok(()) => {
                placed.paths.push(path.clone());
                return Ok(true);
            }
            Err(EngineError::Folder(FolderError::Changed { .. })) => {
                placed.changed.push(path.clone());
            }
            // One path that can't be must not keep the others from arriving.
            Err(EngineError::Folder(error)) => placed.failed.push((path.clone(), cause(&error))),
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    fn delete(&self, path: &RepoPath, placed: &mut Placed) -> Result<()> {
        let Some(local) = self.scan.entries.get(path) else {
            return Ok(());
        };
        if self.give_way(path, &local.stamp, placed)? {
            match self.folder.remove(path, &local.stamp) {
                // What keeps the directory there is ignored or not yet pushed, and is no entry of
                // the directory's own.
                Ok(_) | Err(FolderError::DirectoryInTheWay { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A folder that something else is about to stand in for goes too: left empty by a kill, it would look
        // made here. One that was an entry of its own is what its successor expects to find.
        let keep = |folder: &RepoPath| match self.tree.get(folder.as_str()) {
            Some(Entry::Directory) => true,
            Some(_) => self.scan.entries.contains_key(folder),
            None => false,
        };
        self.folder.prune_empty_parents(path, &keep)?;
        placed.files += 1;
        Ok(())
    }

    fn place(&self, path: &RepoPath, placed: &mut Placed) -> Result<()> {
        let Some(entry) = self.tree.get(path.as_str()) else {
            return Ok(());
        };
        let mut expected = self.scan.entries.get(path).map(|local| local.stamp);
        if let Some(stamp) = expected
            && !self.give_way(path, &stamp, placed)?
        {
            expected = None;
        }
        match entry {
            Entry::Directory => self.folder.make_directory(path)?,
            Entry::Symlink { target } => {
                let staged = self.staging.join("link");
                // A link that an earlier, killed run left behind.
                match std::fs::remove_file(&staged) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(own_error("clear", &staged, error));
                    }
                    _ => {}
                }
                self.folder
                    .place_link(&staged, target, path, expected.as_ref())?;
            }
            Entry::File(file) => {
                let attributes = Attributes {
                    executable: file.executable,
                    mtime: file.mtime,
                };
                if placed.damage.is_some() && !self.fetcher().staged(file.digest).exists() {
                    return Err(EngineError::Folder(FolderError::Changed {
                        path: path.clone(),
                    }));
                }
                let is_last = Self::is_last(file, placed);
                let staged = self.fetcher().take_staged(file.digest, is_last)?;
                let stamp = self
                    .folder
                    .place(&staged, path, expected.as_ref(), attributes)?;
                if let Some(sha256) = file.sha256 {
                    let known = CachedFile::new(stamp, file.digest, sha256, stamp_clock_ns());
                    placed.cache.push((path.clone(), known));
                }
            }
        }
        placed.files += 1;
        Ok(())
    }

    /// Moves local content that is in nobody's history out of the way. Returns whether something is
    /// still there.
    fn give_way(&self, path: &RepoPath, stamp: &Stamp, placed: &mut Placed) -> Result<bool> {
        if !(self.is_unsaved)(path) {
            return Ok(true);
        }
        let into = self.aside.join(path.as_str());
        if let Some(folder) = into.parent() {
            let failed = |error| own_error("make", folder, error);
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        self.folder.set_aside(path, stamp, &into)?;
        placed.set_aside.push(into);
        Ok(false)
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher {
            remote: self.remote,
            whereabouts: self.whereabouts,
            staging: self.staging,
            progress: self.progress,
        }
    }

    /// Whether a placement of this content is the last one.
    fn is_last(file: &FileEntry, placed: &mut Placed) -> bool {
        let uses = placed.uses.entry(file.digest).or_insert(1);
        *uses = uses.saturating_sub(1);
        *uses == 0
    }

    /// Fetches the content of these files into the staging folder, each content once.
    async fn stage(
        &self,
        files: &[&FileEntry],
        damage: &mut Option<statehold_repository::Error>,
    ) -> Result<u64> {
        let fetcher = self.fetcher();
        let batches = fetcher.batches(files);
        let total = stored_bytes_of(&batches);
        self.progress.begin(Phase::Receive, total);
        for batch in &batches {
            for found in fetcher.fetch(batch).await? {
                damage.get_or_insert(found.error);
            }
        }
        self.progress.end();
        Ok(total)
    }
}

pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
