//! Runs every test of the workspace and adds up what the runs report.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Counts of one run or of all.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all tests, shows their output, and prints the sum last.
pub(crate) fn run() -> Result<()> {
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--no-fail-fast", "--color", "never"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo could not be started")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut sum = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(counts) = parse(&line) {
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.skipped += counts.skipped;
        }
        // Passed tests are many and say nothing; everything else is worth reading.
        if !line.ends_with("... ok") {
            print(&line);
        }
    }
    let status = child.wait()?;
    print("");
    print(&format!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    ));
    if !status.success() || sum.failed > 0 || sum.passed == 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a program's output")]
fn print(line: &str) {
    println!("{line}");
}

/// Reads a line like `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn parse(line: &str) -> Option<Counts> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.skipped = number,
            _ => {}
        }
    }
    Some(counts)
}
