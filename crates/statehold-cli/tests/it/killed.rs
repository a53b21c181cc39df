//! The real program killed among the switches of a pull, and what the next commands make of it.

use std::time::{Duration, Instant};

use statehold_testkit::process::RealMachine;

use crate::world::{Two, run};

/// So many that a pull takes long enough to be met among them.
const FILES: usize = 400;
/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(file: usize) -> String {
    format!("d{}/f{file:03}", file / 100)
}

/// Writes all files anew. One of them is there in each other version only.
fn write(machine: &RealMachine, version: u64) {
    for file in 0..FILES {
        machine.write(&name(file), version.to_string()).unwrap();
    }
    if version.is_multiple_of(2) {
        machine.write("at times", version.to_string()).unwrap();
    } else {
        std::fs::remove_file(machine.path("at times")).unwrap();
    }
}

fn has(machine: &RealMachine, file: usize, version: u64) -> bool {
    let there = machine.read(&name(file));
    there.is_ok_and(|there| there == version.to_string().into_bytes())
}

/// Pulls, and kills that once a file has come. How many have.
fn kill_pull_at(machine: &RealMachine, verb: &str, file: usize, version: u64) -> usize {
    let pull = machine.start(machine.command(&[verb]), "").unwrap();
    let began = Instant::now();
    while !has(machine, file, version) {
        assert!(began.elapsed() < PATIENCE, "{file} does not come");
    }
    pull.kill().unwrap();
    (0..FILES)
        .filter(|file| has(machine, *file, version))
        .count()
}

/// Goal: a killed pull, whose files others change again before the next run, is no conflict.
/// Method: `kill -9` once the first file has come, one in the middle, the last one; every path changes again
/// elsewhere; then any verb goes on.
#[test]
fn a_pull_killed_midway_is_no_conflict() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    let mut version = 0;
    write(a, version);
    run(a, &["push"], 0);
    let mut were_half_done = 0;
    let kills = [
        ("pull", 0),
        ("sync", 0),
        ("pull", FILES / 2),
        ("pull", FILES - 1),
    ];
    for ((killed, file), next) in kills.into_iter().zip(["pull", "sync", "push", "pull"]) {
        version += 1;
        write(a, version);
        run(a, &["push"], 0);
        let came = kill_pull_at(b, killed, file, version);
        were_half_done += usize::from(came < FILES);
        version += 1;
        write(a, version);
        run(a, &["push"], 0);
        run(b, &[next], 0);
        run(b, &["pull"], 0);
        assert!((0..FILES).all(|file| has(b, file, version)), "{killed}");
        assert_eq!(
            b.read("at times").ok(),
            a.read("at times").ok(),
            "{killed}, then {next}"
        );
    }
    assert!(were_half_done > 0, "no pull was met among its switches");
}

/// Goal: a pull that was killed is taken back with the one that went on with it.
#[test]
fn what_a_killed_pull_brought_can_be_undone() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    write(a, 0);
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    for file in [0, FILES - 1] {
        write(a, 1);
        run(a, &["push"], 0);
        kill_pull_at(b, "pull", file, 1);
        run(b, &["status"], 0);
        run(b, &["pull"], 0);
        assert!((0..FILES).all(|file| has(b, file, 1)));
        run(b, &["undo"], 0);
        assert!((0..FILES).all(|file| has(b, file, 0)), "undone from {file}");
        assert_eq!(b.read("at times").unwrap(), b"0");
        // For everybody, so that it can come again.
        run(b, &["push"], 0);
        run(a, &["pull"], 0);
    }
}
