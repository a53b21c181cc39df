//! Continuous replication of the real gateway, to a folder and to a bucket: how far behind it stays,
//! what it asks when nothing is new, and what is left when the first store is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use statehold_core::id::RepositoryId;
use statehold_core::record::{Body, DraftHead, Kind, NoteBody, SnapshotBody};
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::replicate::position;
use statehold_repository::store::Store;
use statehold_repository::wire::key::Key;
use statehold_repository::{Error, Remote};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::{EPOCH, SeededEntropy};
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::program::ProgramArgs;
use crate::target::{StoreKind, Target};

/// How far behind the newest mark may be.
const BEHIND_MAX: Duration = Duration::from_secs(5);
/// How long the last records may take until they count as never carried over.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the marks are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Every so many records one is no push but a note or a snapshot, and one has more content than
/// rides in a record.
const SPECIAL_EVERY: u64 = 7;

/// Replicate
#[derive(Debug, Args)]
pub(crate) struct ReplicateArgs {
    /// Records, over all repositories
    #[arg(long, default_value_t = 1_000)]
    records: u64,
    /// Repositories, each of a tenant of its own
    #[arg(long, default_value_t = 4)]
    repositories: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    program: ProgramArgs,
}

pub(crate) fn run(args: &ReplicateArgs) -> Result<()> {
    for kind in [StoreKind::Folder, StoreKind::Bucket] {
        let installation = Installation::of(&args.program.binary()?)?;
        if let Some(target) = Target::new(kind, &installation, "copy")? {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(show(args, &installation, &target))?;
        }
    }
    Ok(())
}

/// A tenant's repository, and what was acknowledged in it.
struct Writer {
    tenant: String,
    repository: RepositoryId,
    key: Key,
    author: Author,
    entropy: SeededEntropy,
    /// When each record was acknowledged.
    acknowledged: BTreeMap<u64, Instant>,
    /// What each record put where.
    files: BTreeMap<u64, (String, Vec<u8>)>,
}

fn connect(url: &str, key: &Key, repository: RepositoryId) -> Result<GatewayClient> {
    let address = GatewayAddress::parse(url)?;
    Ok(GatewayClient::new(&address, Some(key), Some(repository))?)
}

impl Writer {
    fn new(installation: &Installation, gateway: &RunningGateway, seed: u64) -> Result<Self> {
        let operator = installation.operator()?;
        let say = |words: &[&str]| -> Result<serde_json::Value> {
            let words = [&["admin", "--gateway", &gateway.url, "--json"], words].concat();
            operator.run(&words)?.expect(0)?.json()
        };
        let name = format!("tenant-{seed}");
        let made = say(&["tenant", "add", &name])?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let tenant = text(&made["tenant"]).context("a tenant has an id")?;
        // A list of pairs, each an id and a name.
        let repository = text(&made["repositories"][0][0]).context("a tenant has a repository")?;
        let file = installation.path(&format!("{name}.key"));
        let file = file.to_string_lossy();
        let words = ["key", "--label", &name, "--repository", &repository];
        say(&[&words[..], &["--to", &file]].concat())?;
        Ok(Self {
            tenant,
            repository: repository.parse()?,
            key: std::fs::read_to_string(&*file)?.trim().parse()?,
            author: Author::new(seed),
            entropy: SeededEntropy::new(seed),
            acknowledged: BTreeMap::new(),
            files: BTreeMap::new(),
        })
    }

    fn part(&self, store: &Store) -> Store {
        let store = store.inside(&self.tenant);
        store.inside(&self.repository.to_string())
    }

    async fn remote(&self, url: &str) -> Result<GatewayRemote> {
        let client = connect(url, &self.key, self.repository)?;
        Ok(GatewayRemote::connect(client).await?)
    }

    /// Appends so many records, until it is told to stop or nobody answers any more.
    async fn write(&mut self, url: &str, count: u64, goes_on: &AtomicBool) -> Result<()> {
        let remote = self.remote(url).await?;
        let mut state = load(&remote).await?.state;
        for _ in 0..count {
            if !goes_on.load(Ordering::Relaxed) {
                return Ok(());
            }
            let next = state.head.number + 1;
            let (draft, packs, file) = self.draft(&state, next)?;
            let sent = remote.push(&packs, &draft, &state).await;
            let stored = match sent {
                Ok(stored) => stored,
                // The gateway is gone; what was under way counts for nothing.
                Err(Error::Unavailable { .. } | Error::Unknown { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let number = stored.record.envelope.number;
            self.acknowledged.insert(number, Instant::now());
            if let Some(file) = file {
                self.files.insert(number, file);
            }
            state = match advance(&remote, &state).await {
                Err(Error::Unavailable { .. }) => return Ok(()),
                state => state?,
            };
        }
        Ok(())
    }

    /// The next record: a push as a rule, otherwise a note or a snapshot.
    fn draft(&self, state: &State, number: u64) -> Result<Draft> {
        let (kind, body) = match number % SPECIAL_EVERY {
            1 => {
                let text = format!("remark {number}");
                let base = state.head;
                (Kind::Note, Body::Note(NoteBody { base, text }))
            }
            2 => {
                let seconds = i64::try_from(number)?;
                let time = Timestamp::from_millis(EPOCH.as_millis() + seconds * 1_000);
                let id = SnapshotId::new(time, &"shown".parse()?).context("a time has a name")?;
                let body = SnapshotBody {
                    base: state.head,
                    id,
                    at: state.head.number,
                    files: state.tree.len() as u64,
                    bytes: 0,
                };
                (Kind::Snapshot, Body::Snapshot(body))
            }
            rest => {
                let len = if rest == 3 { 400_000 } else { 2_000 };
                let (path, content) = (format!("files/{number}"), self.entropy.bytes(len));
                let changes = [(path.as_str(), Some(content.as_slice()))];
                let drafted = self.author.draft(state, changes)?;
                return Ok((drafted.draft, drafted.packs, Some((path, content))));
            }
        };
        let head = DraftHead {
            critical: kind.is_critical(),
            ..self.author.head(kind, Vec::new())
        };
        Ok((StoredDraft::new(head, body, &[])?, Vec::new(), None))
    }
}

/// A record to append: its draft, its packs, and the file that it brings.
type Draft = (
    StoredDraft,
    Vec<statehold_repository::content::Pack>,
    Option<(String, Vec<u8>)>,
);

/// Looks at the marks of a replica until told to stop, and says when each number was first covered.
async fn look(parts: Vec<Store>, goes_on: Arc<AtomicBool>) -> Result<Vec<BTreeMap<u64, Instant>>> {
    let mut seen = vec![BTreeMap::new(); parts.len()];
    while goes_on.load(Ordering::Relaxed) {
        for (part, seen) in parts.iter().zip(&mut seen) {
            if let Some(at) = position(part).await? {
                seen.entry(at.number).or_insert_with(Instant::now);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(seen)
}

async fn show(args: &ReplicateArgs, installation: &Installation, target: &Target) -> Result<()> {
    let further = [
        "--replicate-to",
        &target.to,
        "--replicate-every",
        "continuous",
    ];
    let primary = installation.path("vault");
    let serve = || {
        installation.serve_with(
            primary.as_os_str(),
            "127.0.0.1:0",
            &target.variables(),
            &further,
        )
    };
    let mut gateway = serve()?;
    let mut writers = (0..args.repositories)
        .map(|number| Writer::new(installation, &gateway, args.seed * 1_000 + number))
        .collect::<Result<Vec<_>>>()?;
    let replica = target.open()?;
    let goes_on = Arc::new(AtomicBool::new(true));
    let parts: Vec<Store> = writers.iter().map(|writer| writer.part(&replica)).collect();
    let looking = tokio::spawn(look(parts.clone(), Arc::clone(&goes_on)));

    let each = (args.records / args.repositories.max(1)).max(1);
    let begun = Instant::now();
    let always = AtomicBool::new(true);
    let writing = writers
        .iter_mut()
        .map(|writer| writer.write(&gateway.url, each, &always));
    futures::future::try_join_all(writing).await?;
    let took = begun.elapsed();
    for (writer, part) in writers.iter().zip(&parts) {
        let end = writer
            .acknowledged
            .keys()
            .last()
            .copied()
            .unwrap_or_default();
        let waited = Instant::now();
        while position(part).await?.is_none_or(|at| at.number < end) {
            ensure!(
                waited.elapsed() < PATIENCE,
                "record {end} is not carried over"
            );
            tokio::time::sleep(LOOK).await;
        }
    }
    tokio::time::sleep(LOOK * 4).await;
    goes_on.store(false, Ordering::Relaxed);
    let seen = looking.await??;
    let (behind, written) = behind(&writers, &seen)?;
    println!(
        "{}: {written} records in {} repositories within {:.1} s; at most {:.2} s behind (bound {} s)",
        target.name,
        args.repositories,
        took.as_secs_f64(),
        behind.as_secs_f64(),
        BEHIND_MAX.as_secs()
    );
    ensure!(behind <= BEHIND_MAX, "too far behind");
    idle_pass(installation, &primary, target)?;

    // The first store is lost while machines work.
    let goes_on = AtomicBool::new(true);
    let url = gateway.url.clone();
    let writing = writers
        .iter_mut()
        .map(|writer| writer.write(&url, u64::MAX, &goes_on));
    let writing = futures::future::try_join_all(writing);
    let lose = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        gateway.kill()?;
        std::fs::remove_dir_all(&primary)?;
        goes_on.store(false, Ordering::Relaxed);
        Ok::<_, anyhow::Error>(())
    };
    let (wrote, lost) = futures::future::join(writing, lose).await;
    lost?;
    wrote?;
    let lost = Instant::now();
    let second = installation.serve_with(
        target.to.as_ref(),
        "127.0.0.1:0",
        &target.plain_variables(),
        &[],
    )?;
    let (mut files, mut bytes, mut missing, mut acknowledged) = (0_u64, 0_u64, 0, 0_u64);
    let mut recovered = None;
    for (writer, part) in writers.iter().zip(&parts) {
        let mark = position(part).await?.map_or(0, |at| at.number);
        let remote = writer.remote(&second.url).await?;
        let state = load(&remote).await?.state;
        ensure!(state.head.number >= mark, "the log ends before its mark");
        acknowledged += writer.acknowledged.len() as u64;
        missing += writer
            .acknowledged
            .keys()
            .filter(|number| **number > mark)
            .count();
        for (_, (path, content)) in writer.files.range(..=mark) {
            let there = read_file(&remote as &dyn Remote, &state, path).await?;
            ensure!(there == *content, "{path} has other content");
            recovered.get_or_insert_with(|| lost.elapsed());
            files += 1;
            bytes += content.len() as u64;
        }
    }
    println!(
        "{}: the first store lost in the middle; {acknowledged} records acknowledged, {missing} of \
         them after the last marks; {files} files ({:.1} MB) before them, all there; the first of \
         them {:.2} s after the loss",
        target.name,
        bytes as f64 / 1e6,
        recovered.unwrap_or_default().as_secs_f64()
    );
    Ok(())
}

/// How long the slowest record took from its acknowledgement to a mark that covers it, and how many
/// there were.
fn behind(writers: &[Writer], seen: &[BTreeMap<u64, Instant>]) -> Result<(Duration, u64)> {
    let (mut most, mut count) = (Duration::ZERO, 0);
    for (writer, seen) in writers.iter().zip(seen) {
        for (number, acknowledged) in &writer.acknowledged {
            let covered = seen.range(number..).map(|(_, at)| *at).min();
            let covered = covered.with_context(|| format!("record {number} has no mark"))?;
            most = most.max(covered.saturating_duration_since(*acknowledged));
            count += 1;
        }
    }
    Ok((most, count))
}

/// What one more pass over everything costs when nothing is new.
fn idle_pass(installation: &Installation, primary: &Path, target: &Target) -> Result<()> {
    let machine: RealMachine = installation.operator()?;
    let primary = primary.to_string_lossy();
    let words = [
        "replicate",
        "--json",
        "--store",
        &primary,
        "--to",
        &target.to,
    ];
    let mut last = serde_json::Value::Null;
    // The first passes still carry over rows.
    for _ in 0..3 {
        let mut command = machine.command(&words);
        command.envs(target.variables());
        last = machine.start(command, "")?.finish()?.expect(0)?.json()?;
    }
    let all = |side: &str| {
        let usage = &last["requests"][side];
        ["reads", "lists", "writes"].map(|kind| usage[kind].as_u64().unwrap_or_default())
    };
    let (source, replica) = (all("source"), all("replica"));
    let count = last["repositories"].as_array().map_or(0, Vec::len);
    let idle = last["repositories"].as_array().into_iter().flatten();
    let moved: u64 = idle.filter_map(|one| one["objects"].as_u64()).sum();
    ensure!(moved == 0, "a pass with nothing new moved {moved} objects");
    println!(
        "{}: a pass with nothing new over {count} repositories and the registry: source {} reads, {} \
         lists, {} writes; replica {} reads, {} lists, {} writes; the one that follows asks nothing",
        target.name, source[0], source[1], source[2], replica[0], replica[1], replica[2]
    );
    ensure!(source[2] + replica[2] == 0, "a pass with nothing new wrote");
    Ok(())
}
