//! Compaction without a pause while machines push and restore: nobody fails, and the space that is taken
//! stays in proportion to what is kept.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use statehold_core::environment::Entropy as _;
use statehold_testkit::compacting::compact_for;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::program::ProgramArgs;

/// Compaction
#[derive(Debug, Args)]
pub(crate) struct CompactionArgs {
    /// How long, in seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Machines that push
    #[arg(long, default_value_t = 8)]
    writers: u64,
    /// Machines that restore
    #[arg(long, default_value_t = 4)]
    readers: u64,
    /// Also minutes of paused time in the simulated world
    #[arg(long, default_value_t = 10)]
    simulated_minutes: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Earlier states that are kept. Far more than come while one of them is restored.
const KEPT: u32 = 150;
/// Restores pick one of so many newest records.
const RESTORED_FROM: usize = 40;
/// Condemned content is held for so long. Longer than anybody takes to read a state and its content.
const FLOOR: Duration = Duration::from_secs(10);
/// Files of each writer, one of them too large for a record.
const FILES: u64 = 4;
const LARGE_BYTES: usize = 300_000;
const SMALL_BYTES: usize = 3_000;
/// What is taken may be so many times what is kept.
const SPACE_MAX: f64 = 2.0;

/// What everybody did.
#[derive(Debug, Default)]
struct Counts {
    pushes: AtomicU64,
    restores: AtomicU64,
    compactions: AtomicU64,
    expired: AtomicU64,
    deleted: AtomicU64,
}

pub(crate) fn run(args: &CompactionArgs) -> Result<()> {
    if args.simulated_minutes > 0 {
        simulate(args)?;
    }
    if args.seconds == 0 {
        return Ok(());
    }
    let installation = Installation::of(&args.program.binary()?)?;
    let vault = installation.path("vault");
    let floor = format!("{}s", FLOOR.as_secs());
    let further = ["--compact-every", "never", "--retention-floor", &floor];
    let gateway = installation.serve_with(vault.as_os_str(), "127.0.0.1:0", &[], &further)?;
    let owner = installation.owner(&gateway)?;
    installation.keep_last(&gateway, KEPT)?;

    let machines = |kind: &str, count: u64| -> Result<Vec<RealMachine>> {
        (0..count)
            .map(|number| installation.linked(&format!("{kind}-{number}"), &gateway))
            .collect()
    };
    let (writers, readers) = (
        machines("writer", args.writers)?,
        machines("reader", args.readers)?,
    );
    let (goes_on, counts) = (AtomicBool::new(true), Counts::default());
    let (goes_on, counts) = (&goes_on, &counts);
    thread::scope(|scope| {
        let mut everybody = Vec::new();
        for (number, writer) in (0..).zip(&writers) {
            let entropy = SeededEntropy::new(args.seed * 1_000 + number);
            everybody.push(scope.spawn(move || write(writer, number, &entropy, goes_on, counts)));
        }
        for (number, reader) in (0..).zip(&readers) {
            let entropy = SeededEntropy::new(args.seed * 1_000 + 500 + number);
            everybody.push(scope.spawn(move || read(reader, &entropy, goes_on, counts)));
        }
        everybody.push(scope.spawn(|| collect(&owner, goes_on, counts)));
        let begun = Instant::now();
        while begun.elapsed().as_secs() < args.seconds
            && !everybody.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(100));
        }
        goes_on.store(false, Ordering::Relaxed);
        for one in everybody {
            one.join().map_err(|_| anyhow!("somebody panicked"))??;
        }
        anyhow::Ok(())
    })?;
    check_content(&installation, &gateway, &writers)?;
    let (taken, kept) = settled(&owner)?;
    let ratio = taken as f64 / kept as f64;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{} s of {} writers, {} readers and a collector: {} pushes, {} restores and {} compactions, none failed; \
         {} states let go, {} objects deleted or cut; {:.1} MB are taken for {:.1} MB that are kept, {ratio:.2} \
         times (bound {SPACE_MAX})",
        args.seconds,
        args.writers,
        args.readers,
        of(&counts.pushes),
        of(&counts.restores),
        of(&counts.compactions),
        of(&counts.expired),
        of(&counts.deleted),
        taken as f64 / 1e6,
        kept as f64 / 1e6,
    );
    ensure!(ratio <= SPACE_MAX, "too much space is taken");
    ensure!(
        gateway.answers_from(500)? == 0,
        "the gateway answered with 500 or above"
    );
    Ok(())
}

/// The same in paused time, where all that takes long are the requests.
fn simulate(args: &CompactionArgs) -> Result<()> {
    let (minutes, begun) = (args.simulated_minutes, Instant::now());
    let done = compact_for(minutes, (args.writers, args.readers), args.seed);
    let done = done.map_err(|violation| anyhow!("seed {}: {violation}", args.seed))?;
    let ratio = done.taken as f64 / done.kept as f64;
    println!(
        "{minutes} simulated minutes of {} writers, {} readers and a collector without pause, in {:.1} s: {} records, \
         {} restores and {} compactions and removals, nobody failed; {:.1} MB are taken for {:.1} MB that are kept, \
         {ratio:.2} times (bound {SPACE_MAX})",
        args.writers,
        args.readers,
        begun.elapsed().as_secs_f64(),
        done.records,
        done.restored,
        done.collected,
        done.taken as f64 / 1e6,
        done.kept as f64 / 1e6,
    );
    ensure!(
        ratio <= SPACE_MAX,
        "too much space is taken in the simulated world"
    );
    Ok(())
}

/// Overwrites its own files, and pushes them.
fn write(
    machine: &RealMachine,
    number: u64,
    entropy: &SeededEntropy,
    goes_on: &AtomicBool,
    counts: &Counts,
) -> Result<()> {
    let mut round = 0;
    while goes_on.load(Ordering::Relaxed) {
        for file in 0..FILES {
            let is_large = file == 0;
            // The large one seldom, so that packs live and die in part.
            if is_large && round % 5 != 0 {
                continue;
            }
            let length = if is_large { LARGE_BYTES } else { SMALL_BYTES };
            let path = format!("of-{number}/{file}.bin");
            machine.write(&path, entropy.bytes(length))?;
        }
        let pushed = machine.run(&["push"])?;
        pushed
            .expect(0)
            .with_context(|| format!("push {round} of writer {number}"))?;
        counts.pushes.fetch_add(1, Ordering::Relaxed);
        if number == 0 && round % 20 == 7 {
            machine
                .run(&["snapshot", &format!("of-round-{round}")])?
                .expect(0)?;
        }
        round += 1;
    }
    Ok(())
}

/// Restores everything as it was at some record of late, or at a snapshot, however old.
fn read(
    machine: &RealMachine,
    entropy: &SeededEntropy,
    goes_on: &AtomicBool,
    counts: &Counts,
) -> Result<()> {
    let drawn = |below: usize| -> usize {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % below.max(1) as u64).unwrap_or_default()
    };
    while goes_on.load(Ordering::Relaxed) {
        let snapshots = machine
            .run(&["snapshot", "list", "--json"])?
            .expect(0)?
            .json()?;
        let snapshots = snapshots.as_array().map_or(&[][..], Vec::as_slice);
        let limit = RESTORED_FROM.to_string();
        let log = machine.run(&["log", "--limit", &limit, "--json"])?;
        let log = log.expect(0)?.json()?;
        let log = log.as_array().map_or(&[][..], Vec::as_slice);
        let picked = match drawn(3) {
            0 => snapshots.get(drawn(snapshots.len())).map(|it| &it["id"]),
            _ => log.get(drawn(log.len())).map(|it| &it["number"]),
        };
        // Before the first push there is nothing to restore.
        let Some(at) = picked.filter(|at| at.as_u64() != Some(1)) else {
            continue;
        };
        let at = at.as_str().map_or_else(|| at.to_string(), str::to_owned);
        let restored = machine.run(&["restore", "--all", &at, "--json"])?;
        restored
            .expect(0)
            .with_context(|| format!("restoring {at}"))?;
        fs::remove_dir_all(machine.path("_restore"))?;
        counts.restores.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Compacts without a pause.
fn collect(owner: &RealMachine, goes_on: &AtomicBool, counts: &Counts) -> Result<()> {
    while goes_on.load(Ordering::Relaxed) {
        compact(owner, counts)?;
    }
    Ok(())
}

fn compact(owner: &RealMachine, counts: &Counts) -> Result<()> {
    let said = owner.run(&["compact", "--approve", "--json"])?;
    let said = said.expect(0)?.json()?;
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    counts.compactions.fetch_add(1, Ordering::Relaxed);
    let expired = number(&said["compacted"]["expired"]);
    counts.expired.fetch_add(expired, Ordering::Relaxed);
    let deleted = &said["removed"]["deleted"];
    let deleted = ["packs", "records", "caches"].map(|kind| number(&deleted[kind]));
    counts
        .deleted
        .fetch_add(deleted.iter().sum(), Ordering::Relaxed);
    Ok(())
}

/// What everybody wrote last is what a machine gets that comes now.
fn check_content(
    installation: &Installation,
    gateway: &RunningGateway,
    writers: &[RealMachine],
) -> Result<()> {
    let witness = installation.linked("witness", gateway)?;
    witness.run(&["pull"])?.expect(0)?;
    for (number, writer) in writers.iter().enumerate() {
        for file in 0..FILES {
            let path = format!("of-{number}/{file}.bin");
            ensure!(
                witness.read(&path)? == writer.read(&path)?,
                "{path} is another one"
            );
        }
    }
    Ok(())
}

/// Stored bytes of everything and of the content that is kept, when nothing is left to delete.
fn settled(owner: &RealMachine) -> Result<(u64, u64)> {
    let counts = Counts::default();
    for _ in 0..3 {
        compact(owner, &counts)?;
        thread::sleep(FLOOR + Duration::from_secs(1));
    }
    compact(owner, &counts)?;
    let usage = owner.run(&["usage", "--json"])?.expect(0)?.json()?;
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    let history = usage["history"].as_array().map_or(&[][..], Vec::as_slice);
    let history: u64 = history.iter().map(|row| number(&row[1])).sum();
    Ok((number(&usage["bytes"]), number(&usage["newest"]) + history))
}
