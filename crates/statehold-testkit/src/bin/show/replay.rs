//! Replays histories as pushes, this project's own and a made-up one, and restores them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use statehold_testkit::commits::{GitHistory, MadeUp};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::replay::{Compared, Replay};

/// Replay
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Commits of the made-up history, and at most so many of the project's own
    #[arg(long, default_value_t = 300)]
    commits: u64,
    /// Moments at which each history is restored
    #[arg(long, default_value_t = 50)]
    moments: u64,
    /// Seed of the made-up history and of the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The Git repository; by default this project's
    #[arg(long, value_name = "DIR")]
    git: Option<PathBuf>,
}

/// A snapshot is made after every so many commits.
const SNAPSHOT_EVERY: u64 = 20;
/// Of so many commits, each kind of change has to be in one at least.
const CHANGE_EVERY: u64 = 15;

pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let mut made = MadeUp::new(args.seed);
        let mut replay = Replay::new().await?;
        for number in 1..=args.commits {
            replay.push(made.next_commit()).await?;
            snapshot(&mut replay, number).await?;
        }
        let least = made.happened.least();
        ensure!(
            least >= args.commits / CHANGE_EVERY,
            "too little happened: {}",
            made.happened
        );
        let compared = compare(&replay, args).await?;
        tell("made up", &replay, compared, started);
        println!("  {}", made.happened);

        let started = Instant::now();
        let root = match &args.git {
            Some(root) => root.clone(),
            None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
        };
        if !root.join(".git").exists() {
            println!(
                "no Git repository in {}, so none is replayed",
                root.display()
            );
            return Ok(());
        }
        let mut history = GitHistory::read(&root, usize::try_from(args.commits)?)?;
        let mut replay = Replay::new().await?;
        let commits = history.commits.clone();
        for (number, commit) in (1..).zip(&commits) {
            let items = history.items(commit)?;
            let pushed = replay.push(&items).await;
            pushed.with_context(|| format!("commit {commit}"))?;
            snapshot(&mut replay, number).await?;
        }
        let compared = compare(&replay, args).await?;
        tell("this project's own", &replay, compared, started);
        Ok(())
    })
}

async fn snapshot(replay: &mut Replay, number: u64) -> Result<()> {
    if number.is_multiple_of(SNAPSHOT_EVERY) {
        replay.snapshot(&format!("commit-{number}")).await?;
    }
    Ok(())
}

async fn compare(replay: &Replay, args: &ReplayArgs) -> Result<Compared> {
    let entropy = SeededEntropy::new(args.seed);
    let mut compared = Compared::default();
    let before = replay.usage();
    replay
        .compare_moments(args.moments, &entropy, &mut compared)
        .await?;
    replay.compare_snapshots(&mut compared).await?;
    replay
        .compare_parts(args.moments, &entropy, &mut compared)
        .await?;
    let used = replay.usage().since(before);
    ensure!(used.writes == 0, "a restore wrote to the store: {used:?}");
    replay.check_live()?;
    Ok(compared)
}

fn tell(what: &str, replay: &Replay, compared: Compared, started: Instant) {
    println!(
        "{what}: {} commits; restored at {} moments, {} snapshots and {} single paths, {} files and \
         links, each equal to its commit byte for byte; what is live stayed as it was; {:.1} s",
        replay.len(),
        compared.moments,
        compared.snapshots,
        compared.parts,
        compared.items,
        started.elapsed().as_secs_f64()
    );
}
