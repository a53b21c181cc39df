//! The journal of pulls: what a pull is putting into the folder, kept from before its first switch until the
//! index knows of it. Without it, the next run would take what a killed pull had placed for an edit of this
//! machine's.
//!
//! A list of what is to be switched, and behind it the place in that list of each switch that was made. None of
//! it is flushed by itself: the list becomes durable with the content, before the first switch, and a switch
//! whose mark was lost is known by what the folder holds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use statehold_core::entry::Signature;
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;

use crate::index::{self, Index};
use crate::journal::JournalError;
use crate::workspace::Workspace;

/// What the list begins with.
const MAGIC: [u8; 8] = *b"SHPULL1\n";
/// The length of the list comes first, then the list, then the marks.
const LENGTH_BYTES: usize = 8;
/// Of one mark.
const MARK_BYTES: usize = 4;

/// What is known of a pull before its first switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    /// The record whose state is put in place.
    pub(crate) record: RecordRef,
    /// What the index said of the folder when it began ([`crate::index::Checkout::landed`]).
    pub(crate) landed: Option<RecordRef>,
    /// What is put at each path; nothing where it is taken away.
    pub(crate) switches: Vec<(RepoPath, Option<Signature>)>,
}

/// A pull that was under way when a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KilledPull {
    /// What it was.
    pub(crate) pull: Pull,
    /// Which of its switches are known to have been made.
    pub(crate) made: BTreeSet<usize>,
}

/// Where a workspace keeps a pull that is under way.
#[derive(Debug)]
pub struct PullJournal {
    path: PathBuf,
}

/// Takes down which switches were made.
#[derive(Debug)]
pub(crate) struct Marks(Option<File>);

impl PullJournal {
    /// The journal of a workspace.
    pub fn of(workspace: &Workspace) -> Self {
        Self {
            path: workspace.journal().join("pull"),
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> JournalError {
        JournalError::of(&self.path, action)
    }

    /// The pull that was under way when the last run ended, if this index has not heard of it yet. Of a list
    /// that isn't whole no switch was made.
    pub(crate) fn read(&self, index: &Index) -> Result<Option<KilledPull>, JournalError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let landed = index.checkout.as_ref().and_then(|known| known.landed);
        let found = KilledPull::read(&bytes).filter(|killed| killed.pull.landed == landed);
        if found.is_none() {
            tracing::debug!("a journaled pull says nothing about this index");
            self.clear()?;
        }
        Ok(found)
    }

    /// Keeps a pull. It is durable after the next barrier of the folder, which has to come before the first
    /// switch.
    pub(crate) fn begin(&self, pull: &Pull) -> Result<Marks, JournalError> {
        let write = || -> std::io::Result<File> {
            let list = index::encode(MAGIC, pull).map_err(std::io::Error::other)?;
            let mut file = File::create(&self.path)?;
            file.write_all(&(list.len() as u64).to_le_bytes())?;
            file.write_all(&list)?;
            // Elsewhere a barrier is about the folder's own files.
            #[cfg(not(target_os = "linux"))]
            file.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(self.failed("write"))?;
        Ok(Marks(Some(file)))
    }

    /// Forgets the pull: the index knows what it put in place.
    pub fn clear(&self) -> Result<(), JournalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("clear")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Marks {
    /// Takes down that the switch at this place of the list was made. One that can't be taken down, as on a full
    /// disk, is known by what the folder holds.
    pub(crate) fn made(&mut self, place: usize) {
        let Ok(mark) = u32::try_from(place) else {
            return;
        };
        let written = match &mut self.0 {
            Some(file) => file.write_all(&mark.to_le_bytes()),
            None => return,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a switch was not taken down");
            // What follows half a mark could not be read.
            self.0 = None;
        }
    }
}

impl KilledPull {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (list, marks) = rest.split_at_checked(length)?;
        let pull: Pull = index::decode(MAGIC, list).ok()?;
        let (marks, _) = marks.as_chunks::<MARK_BYTES>();
        let made = marks.iter().map(|mark| u32::from_le_bytes(*mark) as usize);
        Some(Self {
            made: made.collect(),
            pull,
        })
    }
}

#[cfg(test)]
mod tests {
    use statehold_core::digest::Digest;

    use super::*;

    /// Goal: of a journal that is cut off anywhere, the whole marks count, and nothing where the list isn't whole.
    #[test]
    fn a_journal_may_be_cut_off_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pull");
        let journal = PullJournal { path };
        let pull = Pull {
            record: RecordRef {
                number: 7,
                id: Digest::of(b"7"),
            },
            landed: None,
            switches: vec![
                (RepoPath::parse("a").unwrap(), Some(Signature::Directory)),
                (RepoPath::parse("b").unwrap(), None),
            ],
        };
        let mut marks = journal.begin(&pull).unwrap();
        let list = std::fs::read(&journal.path).unwrap().len();
        marks.made(1);
        marks.made(0);
        let whole = std::fs::read(&journal.path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&journal.path, &whole[..length]).unwrap();
            let found = journal.read(&Index::default()).unwrap();
            let made = match length.checked_sub(list) {
                None => None,
                Some(0..4) => Some(BTreeSet::new()),
                Some(4..8) => Some(BTreeSet::from([1])),
                Some(_) => Some(BTreeSet::from([0, 1])),
            };
            let pull = pull.clone();
            assert_eq!(found, made.map(|made| KilledPull { pull, made }));
        }
    }
}
