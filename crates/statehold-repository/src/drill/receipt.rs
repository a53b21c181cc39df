//! What a drill came to, as it is kept: a JSON object that the log vouches for, since its digest stands
//! in a `note` record.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::id::RepositoryId;
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_core::snapshot::SnapshotId;
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::layout;
use crate::store::{Creation, Store};

/// The newest drill is overdue when it is older than this: a week, and a day of grace.
pub const OVERDUE: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// Problems of one restore that a receipt names; the others are counted.
pub const PROBLEMS_MAX: usize = 1_000;

/// The version of receipts that this program writes.
const VERSION: u32 = 1;

/// What a drill came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    version: u32,
    /// Of which repository.
    pub repository: RepositoryId,
    /// When it began.
    pub time: Timestamp,
    /// What the random record was drawn with; the same seed draws the same one from the same log.
    pub seed: u64,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// Entries of all trees that were restored.
    pub entries: u64,
    /// Bytes that were written to scratch space and read back.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Each restore, in order.
    pub restores: Vec<Restore>,
}

/// Which store a restore is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The repository itself.
    Primary,
    /// Its copy.
    Replica,
}

/// Which state is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The newest one.
    Newest,
    /// One of the earlier ones, by chance.
    Random,
    /// That of the newest snapshot.
    Snapshot,
}

/// One state that was restored, or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restore {
    /// From which store.
    pub side: Side,
    /// Where that is, for people.
    pub from: String,
    /// Which state.
    pub what: What,
    /// The record it is the state at; absent where that could not be told.
    pub record: Option<RecordRef>,
    /// The snapshot's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// The digest of its listing.
    pub root: Option<Digest>,
    /// Files, links and empty directories in it.
    pub entries: u64,
    /// Files whose content was restored.
    pub files: u64,
    /// Files whose content, at the same place in the store, had been restored in this drill before.
    pub restored_before: u64,
    /// Files whose content was purged, so that nobody gets it back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub purged: u64,
    /// Bytes that were written to scratch space and read back.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
    /// How many more problems there are than are named.
    pub more_problems: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<RepoPath>,
    /// What it is; it names the object where one is to blame.
    pub reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Restore {
    pub(super) fn new(side: Side, from: &str, what: What) -> Self {
        Self {
            side,
            from: from.to_owned(),
            what,
            record: None,
            snapshot: None,
            root: None,
            entries: 0,
            files: 0,
            restored_before: 0,
            purged: 0,
            bytes: 0,
            seconds: 0.0,
            problems: Vec::new(),
            more_problems: 0,
        }
    }

    /// Notes a problem.
    pub(super) fn note(&mut self, path: Option<&RepoPath>, reason: impl ToString) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.more_problems += 1;
            return;
        }
        let (path, reason) = (path.cloned(), reason.to_string());
        self.problems.push(Problem { path, reason });
    }
}

impl Receipt {
    pub(super) fn of(
        repository: RepositoryId,
        (time, until): (Timestamp, Timestamp),
        seed: u64,
        restores: Vec<Restore>,
    ) -> Self {
        Self {
            version: VERSION,
            repository,
            time,
            seed,
            passed: restores.iter().all(|one| one.problems.is_empty()),
            entries: restores.iter().map(|one| one.entries).sum(),
            bytes: restores.iter().map(|one| one.bytes).sum(),
            seconds: seconds(time, until),
            restores,
        }
    }

    /// The stored bytes; the log vouches for their digest.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(Error::refused)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads stored bytes. `object` is what errors call them.
    pub fn from_bytes(object: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error| Error::damaged(object, error);
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version > VERSION {
            let what = format!("{object}, a receipt of version {version},");
            return Err(Error::TooNew { what });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Keeps it in the store of the repository, durably. Gives its key.
    pub async fn keep(&self, store: &Store) -> Result<String> {
        let bytes = self.to_bytes()?;
        let key = layout::drill(self.time, Digest::of(&bytes));
        match store.create(&key, bytes.into()).await? {
            // The digest is in the name.
            Creation::New | Creation::Exists => Ok(key),
        }
    }

    /// The newest one in the store of a repository.
    pub async fn newest(store: &Store) -> Result<Option<Self>> {
        let keys = store.list_first(layout::DRILLS, layout::DRILLS).await?;
        let Some(key) = keys.iter().find(|key| layout::is_drill(key)) else {
            return Ok(None);
        };
        let bytes: Option<Bytes> = store.read(key).await?;
        bytes.map(|bytes| Self::from_bytes(key, &bytes)).transpose()
    }
}

/// How long it is from a moment to a later one.
pub(super) fn seconds(from: Timestamp, until: Timestamp) -> f64 {
    let millis = until.as_millis().saturating_sub(from.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default()).as_secs_f64()
}
