//! What an upload under way has sent: packs that are durable, and that no record names yet. An attempt that was cut short
//! is gone on with, instead of sending all of it again.
//!
//! One JSON line for each pack, behind one that says of which repository they are. What a crash leaves of
//! the last line counts for nothing, and lines that are lost are packs that are sent again.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use statehold_core::id::{PackId, RepositoryId};
use statehold_core::record::NewPack;
use statehold_core::time::Timestamp;
use statehold_repository::content::{FrameLine, Pack, frames_of};

use crate::journal::JournalError;
use crate::workspace::Workspace;

/// Where packs were sent. In another epoch it is another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Of {
    pub(crate) repository: RepositoryId,
    pub(crate) epoch: u64,
}

/// A pack that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) pack: NewPack,
    pub(crate) frames: Vec<FrameLine>,
    /// When, by the store's clock.
    at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Of(Of),
    Written(Written),
    /// All before it are held by a record of this time.
    Held(Timestamp),
}

/// The packs of an upload under way.
#[derive(Debug)]
pub(crate) struct Uploads {
    path: PathBuf,
    of: Of,
    packs: Vec<Written>,
    /// Since when one of them is there, or all were held.
    since: Option<Timestamp>,
    /// Open for more lines once there are any.
    file: Option<File>,
}

impl Uploads {
    /// What earlier attempts have left in a workspace of an upload to this place.
    pub(crate) fn read(workspace: &Workspace, of: Of) -> Result<Self, JournalError> {
        let path = workspace.journal().join("uploads");
        let mut uploads = Self {
            path,
            of,
            packs: Vec::new(),
            since: None,
            file: None,
        };
        let found = match File::open(&uploads.path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(uploads),
            Err(error) => return Err(uploads.failed("read")(error)),
        };
        let mut is_ours = false;
        for line in BufReader::new(found).lines() {
            let line = line.map_err(uploads.failed("read"))?;
            match serde_json::from_str(&line) {
                Ok(Line::Of(found)) => is_ours = found == of,
                Ok(Line::Written(written)) if is_ours => uploads.take_in(written),
                Ok(Line::Held(at)) if is_ours => uploads.since = Some(at),
                Ok(_) => {}
                // Cut off by a crash.
                Err(_) => break,
            }
        }
        Ok(uploads)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> JournalError {
        JournalError::of(&self.path, action)
    }

    fn take_in(&mut self, written: Written) {
        self.since.get_or_insert(written.at);
        self.packs.push(written);
    }

    /// The packs, in the order in which they were sent.
    pub(crate) fn packs(&self) -> impl Iterator<Item = &Written> {
        self.packs.iter()
    }

    /// Since when one of them is there and not held; since they were held last where all are.
    pub(crate) const fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Forgets those of which this does not hold.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&PackId) -> bool) {
        self.packs.retain(|written| keeps(&written.pack.id));
        if self.packs.is_empty() {
            self.since = None;
        }
    }

    /// Takes note of a pack that is durable.
    pub(crate) fn wrote(&mut self, pack: &Pack, at: Timestamp) -> Result<(), JournalError> {
        let frames = frames_of(pack).unwrap_or_default();
        let pack = pack.named();
        self.append(&Line::Written(Written { pack, frames, at }))?;
        // Whoever has sent it knows what it holds.
        let frames = Vec::new();
        self.take_in(Written { pack, frames, at });
        Ok(())
    }

    /// Takes note that all of them are held.
    pub(crate) fn held(&mut self, at: Timestamp) -> Result<(), JournalError> {
        self.append(&Line::Held(at))?;
        self.since = Some(at);
        Ok(())
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) -> Result<(), JournalError> {
        self.packs.clear();
        (self.since, self.file) = (None, None);
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("clear")(error))
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        if self.file.is_none() {
            // Anew, without what no longer counts.
            let kept = self.packs.iter().cloned().map(Line::Written);
            let since = self.since.filter(|_| !self.packs.is_empty());
            let mut lines = text(&Line::Of(self.of));
            kept.for_each(|line| lines.extend(text(&line)));
            since
                .iter()
                .for_each(|at| lines.extend(text(&Line::Held(*at))));
            let begun = File::create(&self.path).and_then(|mut file| {
                file.write_all(&lines)?;
                Ok(file)
            });
            self.file = Some(begun.map_err(self.failed("write"))?);
        }
        if let Some(file) = &mut self.file {
            let written = file.write_all(&text(line));
            written.map_err(self.failed("write"))?;
        }
        Ok(())
    }
}

fn text(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}
