//! What happens when something is wrong: one test for each row of the table in `docs/operations.md`.
//! Each asks for a message that names the object and the next step, for the exit code of the table,
//! and that nothing is lost: afterwards, or with the cause mended, all is there.
//!
//! `cargo xtask show badinput` runs these and prints what each command said.

mod clocks;
mod disks;
mod keys;
mod objects;
mod outages;
mod own_files;

use std::time::{Duration, Instant};

use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::Ran;
use statehold_testkit::servers::{Absent, installs_everything};

use crate::vault::Bucket;

/// Checks how a command ended and what it said, and shows it to whoever runs the whole table.
#[track_caller]
fn told(row: &str, ran: &Ran, code: i32, said: &[&str]) {
    let message = format!("{}{}", ran.out, ran.err);
    println!("{row}: exit code {:?}\n{}", ran.code, indented(&message));
    assert_eq!(ran.code, Some(code), "{row}: {message}");
    for part in said {
        assert!(message.contains(part), "{row}: no {part:?} in {message}");
    }
}

/// A message as it is shown, long lines cut.
fn indented(message: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(160) {
        Some((end, _)) => format!("    {}…", &line[..end]),
        None => format!("    {line}"),
    };
    let lines: Vec<String> = message.lines().map(line).collect();
    lines.join("\n")
}

/// Says why a row can't be shown here: what it takes is not ours to have.
fn skip(row: &str, why: &str) {
    println!("SKIP {row}: {why}");
}

/// The same for what any machine can install. Where everything has to be, that is a failure.
fn not_installed(row: &str, why: &Absent) {
    assert!(!installs_everything(), "{row}: {why}");
    skip(row, &why.to_string());
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    SeededEntropy::new(seed).bytes(length)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: never");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bucket, if there can be one here.
fn bucket(row: &str) -> Option<Bucket> {
    match Bucket::new() {
        Ok(bucket) => Some(bucket),
        Err(absent @ Absent::NotInstalled(_)) => {
            not_installed(row, &absent);
            None
        }
        Err(absent) => panic!("moto {absent}"),
    }
}
