//! Application state beside Loro, Automerge and yrs: the same keys and values, in one process, one
//! after another, the best of several runs. What each comes to is checked before a time counts.
//!
//! Run with `cargo xtask bench state`.

mod automerge_side;
mod heap;
mod loro_side;
mod own_side;
mod yrs_side;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

/// States of the tables.
const STATES: usize = 100_000;
/// States that two nodes write at once.
const CONTESTED: usize = 10_000;
/// Updates that are sent at once, and as many that are made one after the other.
const UPDATES: usize = 1_000;
/// How many operations are one change where all of them are merged.
const CHANGE: usize = 10;

/// Keys and values, in the order in which they are written.
pub(crate) type Pairs = Vec<(String, String)>;

/// One program under measurement: a node that holds texts by key.
pub(crate) trait Side: Sized {
    const NAME: &'static str;
    fn new(node: u8) -> Result<Self>;
    /// Writes all of these as one change.
    fn write(&mut self, pairs: &[(String, String)]) -> Result<()>;
    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()>;
    fn get(&self, key: &str) -> Result<Option<String>>;
    /// Everything as bytes, in the smallest form there is.
    fn save(&mut self) -> Result<Vec<u8>>;
    fn load(bytes: &[u8]) -> Result<Self>;
    /// What came since `mark`, as bytes for another node.
    fn mark(&mut self) -> Result<Vec<u8>>;
    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>>;
    fn take(&mut self, bytes: &[u8]) -> Result<()>;
}

/// What one program came to.
#[derive(Debug, Clone, Default)]
struct Figures {
    insert: Duration,
    heap: usize,
    save: Duration,
    saved: usize,
    load: Duration,
    one: usize,
    many: usize,
    take_many: Duration,
    merge: Duration,
    left: usize,
    /// Updates a second, each a change of its own.
    singles: f64,
    merge_all: Duration,
}

fn pairs(count: usize) -> Pairs {
    (0..count)
        .map(|number| {
            let digest = blake3::hash(&number.to_le_bytes()).to_hex();
            // Neither in order nor at random.
            let place = number * 7_919 % count;
            (
                format!("user/{place:08}/setting"),
                format!("value {} of {number}", &digest[..16]),
            )
        })
        .collect()
}

fn changed(pairs: &[(String, String)], count: usize, by: &str) -> Pairs {
    let pairs = pairs.iter().take(count);
    pairs
        .map(|(key, value)| (key.clone(), format!("{value} by {by}")))
        .collect()
}

/// The processor's time, so that a busy machine does not lie. Waiting for a disk is not in it.
fn timed<R>(work: impl FnOnce() -> Result<R>) -> Result<(R, Duration)> {
    let now = || -> Result<Duration> { Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?) };
    let started = now()?;
    let result = work()?;
    Ok((result, now()? - started))
}

fn measure<S: Side>(pairs: &Pairs) -> Result<Figures> {
    let mut figures = Figures::default();
    let before = heap::live();
    let (mut one, insert) = timed(|| {
        let mut side = S::new(1)?;
        side.write(pairs)?;
        Ok(side)
    })?;
    figures.insert = insert;
    figures.heap = heap::live().saturating_sub(before);
    let (saved, save) = timed(|| one.save())?;
    (figures.save, figures.saved) = (save, saved.len());
    let probe = &pairs[STATES / 2];
    let (mut other, load) = timed(|| {
        let other = S::load(&saved)?;
        ensure!(
            other.get(&probe.0)?.as_ref() == Some(&probe.1),
            "a value is lost"
        );
        Ok(other)
    })?;
    figures.load = load;

    let mark = one.mark()?;
    one.write(&changed(pairs, 1, "one"))?;
    figures.one = one.since(&mark)?.len();
    let mark = one.mark()?;
    one.write(&changed(pairs, UPDATES, "many"))?;
    let many = one.since(&mark)?;
    figures.many = many.len();
    let all = one.since(&other.mark()?)?;
    (_, figures.take_many) = timed(|| other.take(&all))?;
    let updated = changed(pairs, UPDATES, "many");
    ensure!(
        other.get(&updated[7].0)?.as_ref() == Some(&updated[7].1),
        "an update is lost"
    );

    let (one_knows, other_knows) = (one.mark()?, other.mark()?);
    one.write(&changed(pairs, CONTESTED, "left"))?;
    other.write(&changed(pairs, CONTESTED, "right"))?;
    (_, figures.merge) = timed(|| {
        let (left, right) = (one.since(&other_knows)?, other.since(&one_knows)?);
        one.take(&right)?;
        other.take(&left)
    })?;
    for (key, _) in pairs.iter().take(CONTESTED) {
        ensure!(one.get(key)? == other.get(key)?, "{key} differs");
    }
    one.delete(pairs)?;
    figures.left = one.save()?.len();
    Ok(figures)
}

/// What takes longer: measured once.
fn measure_changes<S: Side>(pairs: &Pairs, figures: &mut Figures) -> Result<()> {
    let mut one = S::new(1)?;
    let mut other = S::new(2)?;
    let nothing = other.mark()?;
    for change in pairs.chunks(CHANGE) {
        one.write(change)?;
    }
    let all = one.since(&nothing)?;
    (_, figures.merge_all) = timed(|| other.take(&all))?;
    let last = &pairs[STATES - 1];
    ensure!(
        other.get(&last.0)?.as_ref() == Some(&last.1),
        "an operation is lost"
    );
    // In time of day: what is durable waits for the disk.
    let updates = changed(pairs, UPDATES, "one");
    let started = Instant::now();
    for update in &updates {
        one.write(std::slice::from_ref(update))?;
    }
    figures.singles = UPDATES as f64 / started.elapsed().as_secs_f64();
    Ok(())
}

/// The best of several runs, row by row.
fn best<S: Side>(pairs: &Pairs, runs: usize) -> Result<Figures> {
    let mut best = measure::<S>(pairs)?;
    for _ in 1..runs {
        let next = measure::<S>(pairs)?;
        best.insert = best.insert.min(next.insert);
        best.save = best.save.min(next.save);
        best.load = best.load.min(next.load);
        best.take_many = best.take_many.min(next.take_many);
        best.merge = best.merge.min(next.merge);
        best.heap = best.heap.min(next.heap);
    }
    measure_changes::<S>(pairs, &mut best)?;
    eprintln!("{} is measured", S::NAME);
    Ok(best)
}

type Row<'a> = (&'a str, &'a dyn Fn(&Figures) -> String);

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let pairs = pairs(STATES);
    let raw: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let columns = [
        (own_side::Own::NAME, best::<own_side::Own>(&pairs, runs)?),
        (
            own_side::InMemory::NAME,
            best::<own_side::InMemory>(&pairs, runs)?,
        ),
        (
            loro_side::Loro::NAME,
            best::<loro_side::Loro>(&pairs, runs)?,
        ),
        (
            automerge_side::Automerge::NAME,
            best::<automerge_side::Automerge>(&pairs, runs)?,
        ),
        (yrs_side::Yrs::NAME, best::<yrs_side::Yrs>(&pairs, runs)?),
    ];
    println!(
        "{STATES} states, {raw} bytes of keys and values, processor time, best of {runs} runs\n"
    );
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---{}|", "|---".repeat(columns.len()));
    let milliseconds = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1_000.0);
    let rows: [Row<'_>; 12] = [
        ("insert all, ms", &|f| milliseconds(f.insert)),
        ("memory, MB", &|f| format!("{:.1}", f.heap as f64 / 1e6)),
        ("save, ms", &|f| milliseconds(f.save)),
        ("saved, bytes", &|f| f.saved.to_string()),
        ("load and read one, ms", &|f| milliseconds(f.load)),
        ("one update, bytes", &|f| f.one.to_string()),
        ("1,000 updates, bytes", &|f| f.many.to_string()),
        ("take 1,000 updates, ms", &|f| milliseconds(f.take_many)),
        ("merge 2 x 10,000, ms", &|f| milliseconds(f.merge)),
        ("merge 100,000 operations, ms", &|f| {
            milliseconds(f.merge_all)
        }),
        ("updates one at a time, a second", &|f| {
            format!("{:.0}", f.singles)
        }),
        ("saved after deleting all, bytes", &|f| f.left.to_string()),
    ];
    for (name, figure) in rows {
        let figures: Vec<String> = columns.iter().map(|(_, figures)| figure(figures)).collect();
        println!("| {name} | {} |", figures.join(" | "));
    }
    println!();
    own_side::durable(&pairs)
}
