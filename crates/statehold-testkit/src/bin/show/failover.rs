//! The first store vanishes while machines work: its copy is promoted and served at the same address, and all
//! of them go on.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use statehold_repository::replicate::position;
use statehold_repository::store::Store;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, Ran, RealMachine, RunningGateway};

use crate::program::ProgramArgs;
use crate::target::{StoreKind, Target};

/// How much of the log, in time, may be lost.
const LOST_MAX: Duration = Duration::from_secs(5);
/// How long it may take until every machine has pulled and pushed again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// How long the copy may take until it is complete before the loss.
const PATIENCE: Duration = Duration::from_secs(300);
/// Size of the files that are there from the beginning.
const FILE_BYTES: usize = 4_000_000;
/// Small files of each machine that it changes or deletes, each once.
const SEEDS: usize = 100;

/// Fail over
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// Content that is there from the beginning, in MB
    #[arg(long, default_value_t = 1_000)]
    megabytes: usize,
    /// Machines that push
    #[arg(long, default_value_t = 3)]
    machines: u64,
    /// How long they push before the loss, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// What the first store is
    #[arg(long, value_enum, default_value_t = StoreKind::Folder)]
    primary: StoreKind,
    /// What its copy is
    #[arg(long, value_enum, default_value_t = StoreKind::Folder)]
    replica: StoreKind,
    #[command(flatten)]
    program: ProgramArgs,
}

/// A push that was acknowledged.
struct Pushed {
    number: u64,
    at: Instant,
    /// What it made of paths: content, or nothing.
    changes: Vec<(String, Option<Vec<u8>>)>,
}

pub(crate) fn run(args: &FailoverArgs) -> Result<()> {
    let installation = Installation::of(&args.program.binary()?)?;
    let operator = installation.operator()?;
    let target = |kind, name| Target::new(kind, &installation, name);
    let (Some(primary), Some(copy)) = (
        target(args.primary, "vault")?,
        target(args.replica, "copy")?,
    ) else {
        return Ok(());
    };
    let kinds = format!("{} to {}", primary.name, copy.name);
    let follow = [
        "--replicate-to",
        &copy.to,
        "--replicate-every",
        "continuous",
    ];
    let variables = [primary.plain_variables(), copy.variables()].concat();
    let mut gateway =
        installation.serve_with(primary.to.as_ref(), "127.0.0.1:0", &variables, &follow)?;
    let machines = (0..args.machines)
        .map(|number| installation.linked(&format!("m{number}"), &gateway))
        .collect::<Result<Vec<_>>>()?;
    fill(&machines, args.megabytes)?;
    let part = part(&operator, &gateway, &copy)?;
    let mark = || mark(&part);
    wait_for(&mark, head(machines.first().context("a machine")?)?)?;

    // The first store is lost while all of them push.
    let (goes_on, acknowledged) = (AtomicBool::new(true), AtomicU64::new(0));
    let (pushed, lost) = std::thread::scope(|scope| {
        let working: Vec<_> = machines
            .iter()
            .zip(0..)
            .map(|(machine, number)| {
                let (goes_on, acknowledged) = (&goes_on, &acknowledged);
                scope.spawn(move || work(machine, number, goes_on, acknowledged))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(args.seconds));
        // Right after a push was acknowledged, which is the worst moment.
        let before = acknowledged.load(Ordering::Relaxed);
        let waited = Instant::now();
        while acknowledged.load(Ordering::Relaxed) == before && waited.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lost = lose(&mut gateway, primary);
        goes_on.store(false, Ordering::Relaxed);
        let mut pushed = Vec::new();
        for one in working {
            let one = one
                .join()
                .map_err(|_| anyhow!("a machine's thread ended"))?;
            pushed.extend(one?);
        }
        Ok::<_, anyhow::Error>((pushed, lost?))
    })?;
    let address = gateway.address().to_owned();
    let from = recover(&operator, &copy)?;
    let plain = copy.plain_variables();
    let _second = installation.serve_with(copy.to.as_ref(), &address, &plain, &[])?;
    let served = lost.elapsed();
    std::thread::scope(|scope| {
        let syncing: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(|| sync(machine)))
            .collect();
        for one in syncing {
            one.join()
                .map_err(|_| anyhow!("a machine's thread ended"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let recovered = lost.elapsed();
    // What each of them pushed again comes to the others.
    for _ in 0..2 {
        machines.iter().try_for_each(sync)?;
    }

    let (behind, missing) = behind(&pushed, from, lost);
    println!(
        "{kinds}: {} machines, {} MB, {} pushes acknowledged until the first store was lost; the epoch \
         continues from record {from}",
        machines.len(),
        args.megabytes,
        pushed.len(),
    );
    println!(
        "recovery point: {:.2} s, {missing} acknowledged records behind (bound {} s)",
        behind.as_secs_f64(),
        LOST_MAX.as_secs()
    );
    println!(
        "recovery time: promoted and served after {:.2} s; every machine had pulled and pushed after \
         {:.2} s (bound {} s)",
        served.as_secs_f64(),
        recovered.as_secs_f64(),
        RECOVERY_MAX.as_secs()
    );
    ensure!(behind <= LOST_MAX, "too much is lost");
    ensure!(recovered <= RECOVERY_MAX, "too slow");
    let changes = check(&machines, &pushed)?;
    println!(
        "{changes} changes of acknowledged pushes, those after record {from} included, are on every \
         machine; diff -r finds nothing"
    );
    Ok(())
}

/// Gives every machine the content and its own small files, in the repository too.
fn fill(machines: &[RealMachine], megabytes: usize) -> Result<()> {
    let entropy = SeededEntropy::new(1);
    let first = machines.first().context("a machine")?;
    for number in 0..(megabytes * 1_000_000).div_ceil(FILE_BYTES) {
        let left = megabytes * 1_000_000 - number * FILE_BYTES;
        first.write(
            &format!("content/{number}"),
            entropy.bytes(left.min(FILE_BYTES)),
        )?;
    }
    for machine in 0..machines.len() {
        for number in 0..SEEDS {
            first.write(&format!("m{machine}/seed{number}"), "seed")?;
        }
    }
    machines.iter().try_for_each(sync)
}

fn sync(machine: &RealMachine) -> Result<()> {
    machine.run(&["sync"])?.expect(0).map(drop)
}

/// The repository's part of a store.
fn part(operator: &RealMachine, gateway: &RunningGateway, store: &Target) -> Result<Store> {
    let words = [
        "admin",
        "--gateway",
        &gateway.url,
        "--json",
        "tenant",
        "list",
    ];
    let said = operator.run(&words)?.expect(0)?.json()?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let tenant = text(&said[0]["tenant"]).context("a tenant has an id")?;
    let repository = text(&said[0]["repositories"][0][0]).context("a repository has an id")?;
    Ok(store.open()?.inside(&tenant).inside(&repository))
}

/// The record up to which a replica is complete.
fn mark(part: &Store) -> Result<u64> {
    let runtime = tokio::runtime::Runtime::new()?;
    let at = runtime.block_on(position(part))?;
    Ok(at.map_or(0, |at| at.number))
}

fn head(machine: &RealMachine) -> Result<u64> {
    let said = machine.run(&["status", "--json"])?.expect(0)?.json()?;
    said["head"]["number"]
        .as_u64()
        .context("the status has a head")
}

fn wait_for(mark: &dyn Fn() -> Result<u64>, head: u64) -> Result<()> {
    let begun = Instant::now();
    while mark()? < head {
        ensure!(begun.elapsed() < PATIENCE, "record {head} is not copied");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Pushes new files, changes and deletions until nobody answers any more; now and then pulls too.
fn work(
    machine: &RealMachine,
    number: u64,
    goes_on: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Result<Vec<Pushed>> {
    let entropy = SeededEntropy::new(100 + number);
    let mut pushed = Vec::new();
    let (mut changed, mut deleted) = (0, SEEDS);
    for step in 0_u64.. {
        if !goes_on.load(Ordering::Relaxed) {
            break;
        }
        let length = if step % 5 == 2 { 400_000 } else { 3_000 };
        let mut changes = vec![(format!("m{number}/new{step}"), Some(entropy.bytes(length)))];
        if step % 3 == 1 && changed < SEEDS / 2 {
            changes.push((
                format!("m{number}/seed{changed}"),
                Some(step.to_string().into_bytes()),
            ));
            changed += 1;
        }
        if step % 3 == 2 && deleted > SEEDS / 2 {
            deleted -= 1;
            changes.push((format!("m{number}/seed{deleted}"), None));
        }
        for (path, content) in &changes {
            match content {
                Some(content) => machine.write(path, content)?,
                None => std::fs::remove_file(machine.path(path))?,
            }
        }
        let verb = if step % 4 == 3 { "sync" } else { "push" };
        let ran = machine.run(&[verb, "--json"])?;
        if ran.code != Some(0) {
            ensure!(ran.code == Some(6), "{verb}: {}{}", ran.out, ran.err);
            break;
        }
        let after = ran.json()?["after"]["number"].as_u64();
        pushed.push(Pushed {
            number: after.context("a push says which record it became")?,
            at: Instant::now(),
            changes,
        });
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    Ok(pushed)
}

/// Takes away gateway and store at once.
fn lose(gateway: &mut RunningGateway, primary: Target) -> Result<Instant> {
    gateway.kill()?;
    let lost = Instant::now();
    primary.lose()?;
    Ok(lost)
}

/// Promotes the copy, with a look at the plan first. The record of the repository that the epoch continues from.
fn recover(operator: &RealMachine, copy: &Target) -> Result<u64> {
    let said = promote(operator, copy, &["--json"])?.expect(1)?.out;
    // The plan, and then that it is not carried out yet.
    let plan = said.lines().next().context("a plan is shown")?;
    let plan: serde_json::Value = serde_json::from_str(plan)?;
    let label = plan["confirm_label"]
        .as_str()
        .context("a plan has a label")?;
    let confirm = format!("--confirm-label={label}");
    let done = promote(operator, copy, &["--apply", &confirm, "--json"])?;
    done.expect(0)?.json()?["logs"][0]["from"]
        .as_u64()
        .context("an epoch has a beginning")
}

fn promote(operator: &RealMachine, copy: &Target, further: &[&str]) -> Result<Ran> {
    let words = [&["promote", &copy.to], further].concat();
    let mut command = operator.command(&words);
    command.envs(copy.plain_variables());
    operator.start(command, "")?.finish()
}

/// How old the oldest acknowledged push was at the loss that the epoch does not have, and how many there were.
fn behind(pushed: &[Pushed], from: u64, lost: Instant) -> (Duration, usize) {
    let missing = pushed.iter().filter(|pushed| pushed.number > from);
    let ages: Vec<Duration> = missing
        .map(|pushed| lost.saturating_duration_since(pushed.at))
        .collect();
    (ages.iter().max().copied().unwrap_or_default(), ages.len())
}

/// Every acknowledged change is on every machine, and all of them are alike. How many there were.
fn check(machines: &[RealMachine], pushed: &[Pushed]) -> Result<usize> {
    let mut changes = 0;
    for (path, content) in pushed.iter().flat_map(|pushed| &pushed.changes) {
        changes += 1;
        for machine in machines {
            let found = std::fs::read(machine.path(path)).ok();
            ensure!(found == *content, "{path} on {} is another", machine.name);
        }
    }
    let first = machines.first().context("a machine")?;
    for other in machines.iter().skip(1) {
        let mut command = Command::new("diff");
        command.args(["-r", "--exclude=.statehold"]);
        let diff = command.arg(&first.root).arg(&other.root).output();
        let diff = diff.context("diff could not be started")?;
        let said = String::from_utf8_lossy(&diff.stdout).into_owned();
        ensure!(diff.status.success(), "{} differs: {said}", other.name);
    }
    Ok(changes)
}
