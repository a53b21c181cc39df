//! `status` of an unchanged tree, beside `git status` of the same tree: CPU time, wall time, memory.
//!
//! The tree is a git repository with everything committed and a fresh index, and at the same time
//! a workspace linked with a repository in a folder, with everything pushed. Both programs run as a
//! user runs them, by turns, and what the kernel counted for each process is what is printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::text_tree::write_text_tree;
use wait4::Wait4 as _;

/// Compare `status` with `git status`
#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Numbers of files; each makes a tree with a tenth as many folders
    #[arg(long, value_delimiter = ',', default_values_t = [20_000, 100_000])]
    files: Vec<usize>,
    /// Runs of each program
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Where to make the trees, instead of the folder for temporary files
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
    /// The statehold program, instead of the one that was built with this one
    #[arg(long, value_name = "FILE")]
    statehold: Option<PathBuf>,
    /// Fail when the CPU time is over this many times that of git
    #[arg(long, value_name = "RATIO")]
    at_most: Option<f64>,
}

/// Most memory that `status` may take, in MiB.
const MEMORY_MIB_MAX: u64 = 150;

/// What the kernel counted for one process.
#[derive(Debug, Clone, Copy)]
struct Sample {
    user: Duration,
    system: Duration,
    wall: Duration,
    peak_bytes: u64,
}

impl Sample {
    fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

pub(crate) fn run(args: &ScanArgs) -> Result<()> {
    let statehold = match &args.statehold {
        Some(statehold) => statehold.clone(),
        None => super::built_statehold()?,
    };
    ensure!(args.runs > 0, "there is nothing to measure in no runs");
    println!(
        "| files | program | CPU s, least | median | user | system | wall s, median | memory MiB | times git's CPU |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for files in &args.files {
        measure(*files, args, &statehold)?;
    }
    Ok(())
}

fn measure(files: usize, args: &ScanArgs, statehold: &Path) -> Result<()> {
    let scratch = match &args.at {
        Some(at) => tempfile::tempdir_in(at)?,
        None => tempfile::tempdir()?,
    };
    let tree = scratch.path().join("tree");
    write_text_tree(&tree, files, &SeededEntropy::new(11))?;
    let git = |arguments: &[&str]| git(scratch.path(), &tree, arguments);
    let statehold = |arguments: &[&str]| workspace(scratch.path(), &tree, statehold, arguments);

    done(&mut git(&["init", "--quiet"]))?;
    std::fs::write(tree.join(".git/info/exclude"), ".statehold\n")?;
    let link = format!("file://{}", scratch.path().join("repository").display());
    std::fs::create_dir(scratch.path().join("repository"))?;
    done(&mut statehold(&["--quiet", "init"]))?;
    done(&mut git(&["add", "--all"]))?;
    done(&mut git(&["commit", "--quiet", "--message", "all"]))?;
    done(&mut statehold(&["--quiet", "link", &link]))?;
    done(&mut statehold(&["--quiet", "push"]))?;
    // Past the step of the file system's clock, so that either index can vouch for every file.
    std::thread::sleep(Duration::from_millis(2_100));
    for _ in 0..2 {
        done(&mut git(&["status", "--short"]))?;
        done(&mut statehold(&["--quiet", "status", "--exit-code"]))?;
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        theirs.push(sample(&mut git(&["status"]))?);
        ours.push(sample(&mut statehold(&["status", "--exit-code"]))?);
    }
    let reference = median(&theirs, Sample::cpu);
    print_row(files, "git status", &theirs, reference);
    print_row(files, "statehold status", &ours, reference);
    let ratio = median(&ours, Sample::cpu).div_duration_f64(reference);
    if let Some(at_most) = args.at_most {
        ensure!(
            ratio <= at_most,
            "status of {files} files took {ratio:.2} times git's CPU time, {at_most} is the bound"
        );
    }
    let peak = ours.iter().map(|sample| sample.peak_bytes).max();
    let peak_mib = peak.unwrap_or_default() >> 20;
    ensure!(
        peak_mib < MEMORY_MIB_MAX,
        "status of {files} files took {peak_mib} MiB of memory, {MEMORY_MIB_MAX} is the bound"
    );
    Ok(())
}

/// Git with none of this machine's settings.
fn git(scratch: &Path, tree: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"])
        // A clean-up that begins by itself would run into the measurement.
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
        .args(arguments)
        .current_dir(tree)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", scratch)
        .env("XDG_CONFIG_HOME", scratch);
    command
}

fn workspace(scratch: &Path, tree: &Path, statehold: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(statehold);
    command
        .args(arguments)
        .current_dir(tree)
        .env("STATEHOLD_HOME", scratch.join("home"));
    command
}

fn done(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} could not be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {said}",
        output.status
    );
    Ok(())
}

fn sample(command: &mut Command) -> Result<Sample> {
    let begun = Instant::now();
    let child = command
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("{command:?} could not be started"))?;
    let ended = child.wait4()?;
    let wall = begun.elapsed();
    ensure!(
        ended.status.success(),
        "{command:?} ended with {}",
        ended.status
    );
    Ok(Sample {
        user: ended.rusage.utime,
        system: ended.rusage.stime,
        wall,
        peak_bytes: ended.rusage.maxrss,
    })
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> Duration) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(of).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn print_row(files: usize, program: &str, samples: &[Sample], reference: Duration) {
    let least = samples.iter().map(Sample::cpu).min().unwrap_or_default();
    let peak = samples.iter().map(|sample| sample.peak_bytes).max();
    let seconds = |duration: Duration| format!("{:.3}", duration.as_secs_f64());
    let cpu = median(samples, Sample::cpu);
    println!(
        "| {files} | {program} | {} | {} | {} | {} | {} | {} | {:.2} |",
        seconds(least),
        seconds(cpu),
        seconds(median(samples, |sample| sample.user)),
        seconds(median(samples, |sample| sample.system)),
        seconds(median(samples, |sample| sample.wall)),
        peak.unwrap_or_default() >> 20,
        cpu.div_duration_f64(reference),
    );
}
