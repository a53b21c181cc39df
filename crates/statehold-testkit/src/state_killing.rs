//! `kill -9` of a process that writes application state, at random moments, and what has to be
//! there when its folder is opened again.
//!
//! The writer says what was acknowledged, line by line. Each of its batches writes two states, so
//! that half a batch would show.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use statehold_core::environment::Entropy as _;
use statehold_state::{Collection, Manager, Notice, Options, Strategy};

use crate::environment::SeededEntropy;

/// States that are written over and over.
const STATES: u64 = 40;
/// Longest time from the first acknowledged batch to the kill, in microseconds.
const MOMENT_MICROS_MAX: u64 = 60_000;
/// Every so many batches the value is long, so that snapshots are written too.
const LONG_EVERY: u64 = 5;
const LONG_BYTES: usize = 60_000;

/// What a series of kills came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateKills {
    /// Writers that were killed.
    pub kills: u64,
    /// Batches that were acknowledged.
    pub acknowledged: u64,
    /// Batches that were there although the writer died before it could say so.
    pub unsaid: u64,
    /// Half written ends that were cut off.
    pub torn: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    number: u64,
    filler: String,
}

fn open(folder: &Path) -> Result<(Manager, Collection<Written>)> {
    let options = Options::new(folder.join("state"), folder.join("witness"));
    let manager = Manager::open(options)?;
    let all = manager.collection("written", Strategy::default())?;
    Ok((manager, all))
}

/// What the writer process does: writes until it is killed.
///
/// # Errors
/// The folder could not be written.
pub fn write_until_killed(folder: &Path, first: u64) -> Result<()> {
    let (manager, all) = open(folder)?;
    let mut output = std::io::stdout();
    for number in first.. {
        let length = if number % LONG_EVERY == 0 {
            LONG_BYTES
        } else {
            40
        };
        let filler = format!("{number:x}").repeat(length);
        let written = Written { number, filler };
        manager.batch(|batch| {
            for side in ["left", "right"] {
                batch.put(&all, &format!("{side}-{}", number % STATES), &written)?;
            }
            Ok(())
        })?;
        writeln!(output, "{number}")?;
        output.flush()?;
    }
    Ok(())
}

/// Kills so many writers, one after another, on one folder. `program` with the arguments `writer`,
/// a folder and a number has to call [`write_until_killed`].
///
/// # Errors
/// Something acknowledged is gone, something is half there, or a program could not be run.
pub fn kill_writers(program: &Path, writer: &str, count: u64, seed: u64) -> Result<StateKills> {
    let home = tempfile::tempdir()?;
    let random = SeededEntropy::new(seed);
    let mut kills = StateKills::default();
    let mut next = 1;
    let mut node = None;
    for round in 0..count {
        let acknowledged = kill_one(program, writer, home.path(), next, &random)?;
        let (manager, all) = open(home.path())?;
        let mut notices = manager.listen();
        while let Some(notice) = notices.try_next() {
            if let Notice::Loaded { torn, .. } = notice {
                kills.torn += torn as u64;
            }
        }
        ensure!(
            *node.get_or_insert(manager.node()) == manager.node(),
            "round {round} of seed {seed}: a killed writer became another node"
        );
        let last = look(&all)
            .with_context(|| format!("round {round} of seed {seed}, {acknowledged} was said"))?;
        ensure!(
            last == acknowledged || last == acknowledged + 1,
            "round {round} of seed {seed}: {acknowledged} was acknowledged and {last} is there"
        );
        kills.kills += 1;
        kills.acknowledged += acknowledged + 1 - next;
        kills.unsaid += last - acknowledged;
        next = last + 1;
    }
    let kept = fs::read_dir(home.path().join("state"))?.count();
    ensure!(kept <= 4, "{kept} things lie in the folder");
    Ok(kills)
}

/// Runs a writer, kills it at some moment, and returns the last number that it acknowledged.
fn kill_one(
    program: &Path,
    writer: &str,
    folder: &Path,
    next: u64,
    random: &SeededEntropy,
) -> Result<u64> {
    let mut child = Command::new(program)
        .arg(writer)
        .arg(folder)
        .arg(next.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("the writer could not be started")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let first = lines.next().context("the writer said nothing")??;
    let mut last: u64 = first.parse()?;
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    let moment = u64::from_le_bytes(bytes) % MOMENT_MICROS_MAX;
    std::thread::sleep(Duration::from_micros(moment));
    child.kill()?;
    child.wait()?;
    // What it said before it died is in the pipe; only a whole line counts.
    for line in lines {
        last = line?.parse().unwrap_or(last);
    }
    Ok(last)
}

/// The highest number that is there, when every state is what that number says.
fn look(all: &Collection<Written>) -> Result<u64> {
    let numbers = |side: &str| -> Result<Vec<Option<u64>>> {
        (0..STATES)
            .map(|state| {
                let found = all.get(&format!("{side}-{state}"))?;
                Ok(found.map(|found| found.data.number))
            })
            .collect()
    };
    let (left, right) = (numbers("left")?, numbers("right")?);
    ensure!(left == right, "a batch is half there");
    let last = left.iter().flatten().copied().max().unwrap_or(0);
    for (state, number) in left.iter().enumerate() {
        let state = state as u64;
        // The last number up to that one that belongs to this state.
        let behind = (last + STATES - state) % STATES;
        let expected = last.checked_sub(behind).filter(|number| *number > 0);
        ensure!(
            *number == expected,
            "state {state} is {number:?} and not {expected:?}"
        );
    }
    Ok(last)
}
