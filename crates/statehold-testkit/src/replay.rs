//! A history of trees pushed commit by commit through the real engine, and every restore compared
//! with the commit that it is of, byte for byte.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Body, Kind, SnapshotBody};
use statehold_core::snapshot::SnapshotId;
use statehold_core::time::Timestamp;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{load, load_at};
use statehold_repository::{Remote, Repository};
use statehold_sync::engine::RunOptions;

use crate::author::Author;
use crate::commits::{Items, check_out, items_in};
use crate::environment::SeededEntropy;
use crate::machine::{BY_HAND, Machine, Shared};

/// A history on its way into a repository, and what it was.
#[derive(Debug)]
pub struct Replay {
    shared: Shared,
    repository: Arc<Repository>,
    machine: Machine,
    author: Author,
    commits: Vec<Committed>,
    snapshots: Vec<(SnapshotId, usize)>,
    /// What the workspace holds.
    present: Items,
}

/// A commit that was pushed.
#[derive(Debug)]
struct Committed {
    items: Items,
    /// The record that it became.
    record: u64,
    time: Timestamp,
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Restores at records.
    pub records: u64,
    /// Restores at moments.
    pub moments: u64,
    /// Restores at snapshots.
    pub snapshots: u64,
    /// Restores of one folder or file out of a tree.
    pub parts: u64,
    /// Files and links that were compared.
    pub items: u64,
}

impl Replay {
    /// An empty history on a repository in memory.
    pub async fn new() -> Result<Self> {
        let shared = Shared::in_memory();
        let machine = shared.machine("replay").await?;
        let repository = Arc::new(shared.repository().await?);
        Ok(Self {
            shared,
            repository,
            machine,
            author: Author::new(23),
            commits: Vec::new(),
            snapshots: Vec::new(),
            present: Items::new(),
        })
    }

    /// Pushes the next commit. One that changes nothing is no push and no commit.
    pub async fn push(&mut self, items: &Items) -> Result<()> {
        let root = self.machine.path("");
        check_out(&root, &self.present, items)?;
        self.present.clone_from(items);
        // Test data may look like secrets, and is to be pushed all the same.
        let paths = items.keys().map(|path| RepoPath::parse(path));
        self.machine
            .engine
            .allow_secrets(paths.collect::<Result<_, _>>()?);
        let report = self
            .machine
            .run(RunOptions {
                direction: statehold_core::plan::Direction::Push,
                ..BY_HAND
            })
            .await?;
        ensure!(
            report.skipped.is_empty() && report.too_large.is_empty() && report.busy.is_empty(),
            "a push left something out: {report:?}"
        );
        let state = load(&*self.repository).await?.state;
        if self.commits.last().map(|last| last.record) != Some(state.head.number) {
            self.commits.push(Committed {
                items: items.clone(),
                record: state.head.number,
                time: state.time,
            });
        }
        Ok(())
    }

    /// Names the newest commit.
    pub async fn snapshot(&mut self, label: &str) -> Result<()> {
        let state = load(&*self.repository).await?.state;
        let commit = self.commits.len().checked_sub(1).context("a commit")?;
        let id = SnapshotId::new(state.time, &label.parse()?).context("a name")?;
        let body = Body::Snapshot(SnapshotBody {
            base: state.head,
            id: id.clone(),
            at: self.commits[commit].record,
            files: self.commits[commit].items.len() as u64,
            bytes: 0,
        });
        let draft = StoredDraft::new(self.author.head(Kind::Snapshot, Vec::new()), body, &[])?;
        self.repository.append(&draft, &state).await?;
        self.snapshots.push((id, commit));
        Ok(())
    }

    /// How many commits became records.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// Restores everything at every record.
    pub async fn compare_every_record(&self, compared: &mut Compared) -> Result<()> {
        for commit in 0..self.commits.len() {
            let at = Point::Record(self.commits[commit].record);
            self.compare(at, commit, compared).await?;
            compared.records += 1;
        }
        Ok(())
    }

    /// Restores everything at so many moments, anywhere between the first record and after the last.
    pub async fn compare_moments(
        &self,
        count: u64,
        entropy: &SeededEntropy,
        compared: &mut Compared,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (self.commits.first(), self.commits.last()) else {
            bail!("there is no commit");
        };
        let begin = first.time.as_millis();
        let span = u64::try_from(last.time.as_millis() - begin)? + 2_000;
        for _ in 0..count {
            let moment = begin + i64::try_from(entropy.below(span))?;
            let moment = Timestamp::from_millis(moment);
            let commit = self.commits.partition_point(|commit| commit.time <= moment);
            self.compare(Point::Time(moment), commit - 1, compared)
                .await?;
            compared.moments += 1;
        }
        Ok(())
    }

    /// Restores everything at every snapshot.
    pub async fn compare_snapshots(&self, compared: &mut Compared) -> Result<()> {
        let newest = load(&*self.repository).await?.state;
        ensure!(newest.snapshots.len() == self.snapshots.len(), "snapshots");
        for (id, commit) in &self.snapshots {
            let found = newest.snapshots.get(id).context("a snapshot is gone")?;
            self.compare(Point::Record(found.at), *commit, compared)
                .await?;
            compared.snapshots += 1;
        }
        Ok(())
    }

    /// Restores single folders and files, each at a random commit.
    pub async fn compare_parts(
        &self,
        count: u64,
        entropy: &SeededEntropy,
        compared: &mut Compared,
    ) -> Result<()> {
        for _ in 0..count {
            let commit = entropy.pick(&self.commits).context("a commit")?;
            let paths: Vec<&String> = commit.items.keys().collect();
            let path = entropy.pick(&paths).context("a path")?;
            let part = match path.split_once('/') {
                Some((folder, _)) if entropy.chance(500) => folder,
                _ => path,
            };
            let of_part = |full: &str| -> Option<String> {
                let rest = full.strip_prefix(part)?;
                if rest.is_empty() {
                    return Some(full.rsplit('/').next().unwrap_or(full).to_owned());
                }
                rest.strip_prefix('/').map(str::to_owned)
            };
            let expected: Items = commit
                .items
                .iter()
                .filter_map(|(full, item)| Some((of_part(full)?, item.clone())))
                .collect();
            let state = load_at(&*self.repository, Point::Record(commit.record)).await?;
            let part = RepoPath::parse(part)?;
            let moment = state.time;
            let restored = self.machine.engine.restore(&state, Some(&part), moment);
            let restored = restored.await?;
            // A link may lead out of what is restored of it, though never out of the workspace.
            let left: Vec<&str> = restored.entries.failed.iter().map(|f| &*f.0).collect();
            let holding = self.machine.path(restored.holding.as_str());
            let mut found = items_in(&holding)?;
            for path in left {
                let item = expected.get(path).context("a path that isn't there")?;
                ensure!(matches!(item, crate::commits::Item::Link(_)), "{path}");
                found.insert(path.to_owned(), item.clone());
            }
            check_equal(&expected, &found, &format!("{part} at {}", commit.record))?;
            fs::remove_dir_all(&holding)?;
            compared.parts += 1;
            compared.items += expected.len() as u64;
        }
        Ok(())
    }

    async fn compare(&self, at: Point, commit: usize, compared: &mut Compared) -> Result<()> {
        let expected = &self.commits[commit];
        let state = load_at(&*self.repository, at).await?;
        let restored = self
            .machine
            .engine
            .restore(&state, None, state.time)
            .await?;
        ensure!(
            restored.entries.is_whole(),
            "{at:?}: {:?}",
            restored.entries
        );
        let holding = self.machine.path(restored.holding.as_str());
        check_equal(&expected.items, &items_in(&holding)?, &format!("{at:?}"))?;
        fs::remove_dir_all(&holding)?;
        compared.items += expected.items.len() as u64;
        Ok(())
    }

    /// Makes sure that no restore changed what is live, nor asked the store for any write.
    pub fn check_live(&self) -> Result<()> {
        let mut found = items_in(&self.machine.path(""))?;
        found.retain(|path, _| !path.starts_with(".statehold/") && !path.starts_with("_restore/"));
        check_equal(&self.present, &found, "what is live")
    }

    /// Requests that the store was asked so far.
    pub fn usage(&self) -> statehold_repository::meter::Usage {
        self.shared.usage()
    }
}

fn check_equal(expected: &Items, found: &Items, what: &str) -> Result<()> {
    for (path, item) in expected {
        match found.get(path) {
            Some(there) if there == item => {}
            Some(_) => bail!("{what}: {path:?} is another"),
            None => bail!("{what}: {path:?} is missing"),
        }
    }
    match found.keys().find(|path| !expected.contains_key(*path)) {
        Some(more) => bail!("{what}: {more:?} should not be there"),
        None => Ok(()),
    }
}
