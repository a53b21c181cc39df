//! A history for others to damage: written straight to a store, and collected there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use statehold_core::id::RepositoryId;
use statehold_core::record::{Body, ForgetBody, Kind, SnapshotBody};
use statehold_core::retention::Policy;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::store::Store;
use statehold_repository::{Remote as _, Repository, layout};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{SeededEntropy, SimulatedClock};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Files in the repository.
    pub(crate) files: usize,
    /// What follows from chance follows from this.
    pub(crate) seed: u64,
}

/// What stands in for retired records: nothing else says it, so only a copy brings it back.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    pub(crate) keys: BTreeSet<String>,
    /// The checkpoint at the cut.
    pub(crate) at_cut: Option<String>,
}

/// A history under way: many files at once, then some at a time, some of them large, with snapshots.
pub(crate) struct Filling {
    amount: Amount,
    repository: Repository,
    author: Author,
    content: SeededEntropy,
    state: Arc<State>,
}

impl Filling {
    pub(crate) async fn begin(vault: &Path, amount: Amount) -> Result<Self> {
        // Past whatever the folder says of its files, so that all of them are old enough to be collected.
        let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH)? + DAY;
        let tomorrow = Timestamp::from_millis(i64::try_from(tomorrow.as_millis())?);
        let clock = Arc::new(SimulatedClock::standing(tomorrow));
        let entropy = Arc::new(SeededEntropy::new(amount.seed));
        let store = Store::folder(vault)?;
        let id = RepositoryId::from_bytes([1; 16]);
        let repository = Repository::open_or_create(store, id, clock, entropy).await?;
        // Each draws from a source of its own: two of one seed would draw the same names for different packs.
        Ok(Self {
            amount,
            author: Author::new(amount.seed + 1),
            content: SeededEntropy::new(amount.seed + 2),
            state: Arc::new(repository.empty_state()),
            repository,
        })
    }

    /// So many records more.
    pub(crate) async fn go_on(&mut self, records: u64) -> Result<()> {
        let first = self.state.head.number + 1;
        for record in first..first + records {
            if record.is_multiple_of(97) {
                let base = self.state.head;
                let id = format!("2026-04-16T09-30-00Z-at-{}", base.number);
                let body = Body::Snapshot(SnapshotBody {
                    base,
                    id: id.parse()?,
                    at: base.number,
                    files: 0,
                    bytes: 0,
                });
                self.append(Kind::Snapshot, body).await?;
            } else {
                self.push(record).await?;
            }
        }
        Ok(())
    }

    async fn push(&mut self, record: u64) -> Result<()> {
        let (files_of_all, content) = (self.amount.files, &self.content);
        let files = if record == 1 { files_of_all } else { 3 };
        let mut changes = Vec::new();
        for file in 0..files {
            let number = match record {
                1 => file,
                _ => pick(content, files_of_all),
            };
            let path = format!("notes/{}/{number}.md", number % 40);
            changes.push((path, text(content, 300)));
        }
        if record % 25 == 3 {
            let number = record % 7;
            changes.push((format!("large/{number}.bin"), content.bytes(700_000)));
        }
        let changes: BTreeMap<String, Vec<u8>> = changes.into_iter().collect();
        let changes = changes
            .iter()
            .map(|(path, content)| (path.as_str(), Some(&content[..])));
        self.author
            .push(&self.repository, &self.state, changes)
            .await?;
        self.follow().await
    }

    async fn append(&mut self, kind: Kind, body: Body) -> Result<()> {
        let draft = StoredDraft::new(self.author.head(kind, Vec::new()), body, &[])?;
        self.repository.append(&draft, &self.state).await?;
        self.follow().await
    }

    async fn follow(&mut self) -> Result<()> {
        self.state = self.repository.catch_up(&self.state).await?.0;
        self.repository.tend(&self.state).await?;
        Ok(())
    }

    /// Says that the newest so many states are kept, and what snapshots name.
    pub(crate) async fn keep(&mut self, last: u64) -> Result<()> {
        let body = Body::Forget(ForgetBody {
            base: self.state.head,
            snapshots: Vec::new(),
            policy: Some(Policy {
                within_days: 0,
                last: u32::try_from(last)?,
                ..Policy::default()
            }),
        });
        self.append(Kind::Forget, body).await
    }

    /// Lets go of what the policy lets go, and deletes what only that needed.
    pub(crate) async fn collect(&mut self) -> Result<()> {
        let settings = Settings {
            floor: Duration::ZERO,
            upload: Duration::ZERO,
        };
        let collector = Collector::new(&self.repository, settings);
        let compacted = collector.compact(true).await?;
        let removed = collector.remove().await?;
        ensure!(
            compacted.record.is_some() && removed.record.is_some(),
            "there was nothing to collect"
        );
        self.follow().await
    }

    pub(crate) async fn stand_ins(&self) -> Result<StandIns> {
        let collection = &self.state.collection;
        let at_cut = layout::checkpoint(collection.cut, 0);
        let bytes = self.repository.store().read(&at_cut).await?;
        let checkpoint = Checkpoint::read(&at_cut, &bytes.context("a checkpoint at the cut")?)?;
        let listings = collection.listings.iter().map(|listing| &listing.tree);
        let trees = listings.chain([&checkpoint.tree]);
        let ids = trees.flat_map(|tree| std::iter::once(&tree.id).chain(&tree.others));
        let mut keys: BTreeSet<String> = ids.map(|id| layout::tree(*id)).collect();
        keys.insert(at_cut.clone());
        Ok(StandIns {
            keys,
            at_cut: Some(at_cut),
        })
    }
}

pub(crate) fn pick(entropy: &SeededEntropy, below: usize) -> usize {
    usize::try_from(entropy.below(below.max(1) as u64)).unwrap_or_default()
}

/// Text that compresses about as notes do.
fn text(entropy: &SeededEntropy, words: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "state ", "of ", "agents, ", "kept ", "the ", "same\n", "on ", "every ",
    ];
    let picks = entropy.bytes(words);
    let mut text: Vec<u8> = picks
        .iter()
        .flat_map(|pick| WORDS[usize::from(pick % 8)].bytes())
        .collect();
    text.extend(format!("{:?}", &picks[..8.min(picks.len())]).into_bytes());
    text
}
