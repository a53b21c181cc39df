//! `statehold demo`: the main job in one command, on real files: a gateway, two machines, edits on
//! both, history, and what each step cost.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use statehold_core::collection::Collection;
use statehold_core::path::RepoPath;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::rules::{RuleSet, Verdict};
use statehold_core::scope::Scope;
use statehold_core::secrets::find_secrets;
use statehold_repository::Remote;
use statehold_repository::collect::Settings;
use statehold_repository::layout;
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::{NewInvite, Role};
use statehold_repository::wire::key::{Invite, Key};
use statehold_sync::engine::{Engine, Report, RunOptions};
use statehold_sync::gateway_client::GatewayRemote;
use statehold_sync::home::Home;
use statehold_sync::preset::Preset;
use statehold_sync::progress::Unwatched;
use statehold_sync::workspace::{InitOptions, Link, Workspace};

use super::serve::Started;
use super::{block_on, log, status};
use crate::connection::{client, system};
use crate::environment::SystemEntropy;
use crate::exit::Exit;
use crate::output::{Output, count, size};

/// Show the main job on real files, in one go
#[derive(Debug, Args)]
#[command(after_help = "It works on a scratch copy and never changes DIR.

Examples:
  statehold demo
  statehold demo ~/.claude --keep")]
pub(crate) struct DemoArgs {
    /// The folder to take files from
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// Leave the gateway and both workspaces for you to try
    #[arg(long)]
    keep: bool,
}

/// Files copied at most.
const FILES_MAX: usize = 20_000;
/// Bytes copied at most.
const BYTES_MAX: u64 = 500_000_000;
/// Larger files are left out of the copy.
const FILE_BYTES_MAX: u64 = 10_000_000;
/// Folders that hold nothing one would miss in a demonstration.
const LEFT_OUT: [&str; 4] = [".git", "target", "node_modules", ".statehold"];

/// What a step did and what it asked of the store.
#[derive(Debug, Serialize)]
struct Step {
    what: &'static str,
    files: u64,
    store: Usage,
    milliseconds: u128,
}

/// What goes on after the demonstration.
#[derive(Debug, Serialize)]
struct Kept {
    pid: u32,
    url: String,
    folder: PathBuf,
}

/// How long the gateway that is left running may take until it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// A machine of the demonstration.
struct Machine {
    root: PathBuf,
    engine: Engine,
    remote: Arc<GatewayRemote>,
}

/// Everything the demonstration runs in.
struct Stage {
    output: Output,
    meter: Arc<Meter>,
    steps: Vec<Step>,
}

pub(super) fn run(args: &DemoArgs, output: Output) -> Result<ExitCode> {
    let scratch = tempfile::Builder::new()
        .prefix("statehold-demo-")
        .tempdir()?;
    let (steps, address) = block_on(show(args, scratch.path(), output))?;
    let mut kept = None;
    if args.keep {
        let scratch = scratch.keep();
        kept = Some(keep_running(&scratch, &address, output)?);
    }
    output.value(&json!({"steps": steps, "kept": kept}));
    let exe = std::env::current_exe()
        .map_or_else(|_| "statehold".into(), |exe| exe.display().to_string());
    output.line("\nTry next:");
    output.line(format!("  {exe} serve --store ~/statehold-store"));
    output.line("and in another terminal, in the folder that is to be shared:");
    output.line(format!("  {exe} admin invite --label laptop"));
    output.line(format!("  {exe} init && {exe} link http://127.0.0.1:7411"));
    Ok(Exit::Done.into())
}

async fn show(args: &DemoArgs, scratch: &Path, output: Output) -> Result<(Vec<Step>, String)> {
    let (store, meter) = Store::folder(&scratch.join("vault"))?.metered();
    let home = Home {
        config: scratch.join("home/config"),
        runtime: scratch.join("home/run"),
    };
    let listen = "127.0.0.1:0".parse()?;
    let started = Started::on(store, listen, None, &home, Settings::default()).await?;
    let url = started.url.clone();
    let operator = started
        .operator_key
        .as_ref()
        .context("a new store has a first start")?;
    let operator = statehold_sync::home::read_key_file(&operator.path)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(started.server.serve(async move {
        let _gone = stopped.await;
    }));

    let root_a = scratch.join("machine-a");
    let (files, bytes) = copy_tree(&args.directory, &root_a)?;
    ensure!(
        files > 0,
        "{} holds no files to show anything with",
        args.directory.display()
    );
    output.line(format!(
        "A gateway on an embedded store, at {url}. Machine A has a copy of {}: {}, {}.\n",
        args.directory.display(),
        count(files as u64, "file"),
        size(bytes)
    ));
    let a = machine(&url, &operator, &home, root_a, "machine-a").await?;
    let b = machine(
        &url,
        &operator,
        &home,
        scratch.join("machine-b"),
        "machine-b",
    )
    .await?;
    let mut stage = Stage {
        output,
        meter,
        steps: Vec::new(),
    };

    stage
        .run("A pushes everything", &a, Direction::Push)
        .await?;
    stage.run("B pulls it", &b, Direction::Pull).await?;
    stage
        .run("B pulls again: nothing new", &b, Direction::Pull)
        .await?;
    fs::write(a.root.join("written-on-a.md"), "A remembers this.\n")?;
    stage
        .run("A writes a file and pushes", &a, Direction::Push)
        .await?;
    fs::write(b.root.join("written-on-b.md"), "B learned that.\n")?;
    stage
        .run(
            "B, without having pulled, pushes its own",
            &b,
            Direction::Push,
        )
        .await?;
    stage.look("A looks, with `statehold status`", &a).await?;
    stage.run("A syncs", &a, Direction::Bidirectional).await?;
    stage.run("B syncs", &b, Direction::Bidirectional).await?;
    fs::write(a.root.join("written-on-a.md"), "A changed its mind.\n")?;
    fs::write(b.root.join("written-on-a.md"), "B knows better.\n")?;
    stage
        .run("Both edit one file; A pushes", &a, Direction::Push)
        .await?;
    let told = stage
        .run(
            "B pushes too and is told; nothing is lost",
            &b,
            Direction::Push,
        )
        .await?;
    ensure!(told.conflicts.len() == 1, "the conflict was not told");
    stage
        .run_with(
            "B takes A's side; its own is set aside",
            &b,
            Direction::Pull,
            Strategy::Remote,
        )
        .await?;

    let status = a.engine.status(Scope::All).await?;
    ensure!(status.actions.is_empty(), "the two sides differ after all");
    let equal = same_tree(&a.root, &b.root)?;
    ensure!(equal, "the two machines hold different files");
    output.line("\nThe history, as `statehold log` shows it on A:");
    let own = a.engine.workspace().settings().machine.id;
    for stored in a.remote.records(0).await?.records.iter().rev() {
        output.line(log::describe(
            &log::row(stored, &Collection::default()),
            own,
        ));
    }
    output.line(format!(
        "\nBoth machines hold the same {}; the history has {}, each with everything before it.",
        count(status.entries as u64, "path"),
        count(status.head.number, "record")
    ));
    let _gone = stop.send(());
    serving.await??;
    Ok((stage.steps, url))
}

impl Stage {
    async fn run(
        &mut self,
        what: &'static str,
        machine: &Machine,
        direction: Direction,
    ) -> Result<Report> {
        self.run_with(what, machine, direction, Strategy::Manual)
            .await
    }

    async fn run_with(
        &mut self,
        what: &'static str,
        machine: &Machine,
        direction: Direction,
        strategy: Strategy,
    ) -> Result<Report> {
        let options = RunOptions {
            direction,
            scope: Scope::All,
            strategy,
            dry: false,
            auto: false,
        };
        let before = self.meter.usage();
        let started = Instant::now();
        let report = machine.engine.run(options).await?;
        self.note(what, report.files, before, started.elapsed());
        Ok(report)
    }

    /// Shows how a machine and the repository differ.
    async fn look(&mut self, what: &'static str, machine: &Machine) -> Result<()> {
        let before = self.meter.usage();
        let started = Instant::now();
        let status = machine.engine.status(Scope::All).await?;
        self.note(what, 0, before, started.elapsed());
        let link = machine.engine.workspace().settings().link.as_ref();
        let url = link.map_or("", |link| &link.url);
        status::show(&status, url, false, self.output);
        Ok(())
    }

    /// Shows and keeps what a step did and cost.
    fn note(&mut self, what: &'static str, files: u64, before: Usage, took: Duration) {
        let store = self.meter.usage().since(before);
        let shown = count(files, "file");
        self.output.line(format!(
            "{what:<42} {shown:>12}  {:>2} writes {:>2} reads {:>2} lists  {:>8} in {:>8} out  {:>5} ms",
            store.writes,
            store.reads,
            store.lists,
            size(store.bytes_in),
            size(store.bytes_out),
            took.as_millis()
        ));
        let milliseconds = took.as_millis();
        self.steps.push(Step {
            what,
            files,
            store,
            milliseconds,
        });
    }
}

/// Sets up a machine the way a person does: init, an invite, a key of its own.
async fn machine(
    url: &str,
    operator: &Key,
    home: &Home,
    root: PathBuf,
    name: &str,
) -> Result<Machine> {
    fs::create_dir_all(&root)?;
    let options = InitOptions {
        machine_name: name.into(),
        ..InitOptions::default()
    };
    let mut workspace = Workspace::init(&root, options, &SystemEntropy)?;
    let invite = Invite::random(&SystemEntropy);
    let new = NewInvite {
        invite: invite.id(),
        hash: invite.hash(),
        role: Role::Push,
        label: name.into(),
        repositories: Vec::new(),
        expires: None,
    };
    client(url, Some(operator), None)?
        .admin_add_invite(&new)
        .await?;
    let key = Key::random(&SystemEntropy);
    let machine = Some(workspace.settings().machine.id);
    client(url, None, None)?
        .redeem(&invite, &key, name, machine)
        .await?;
    home.write_key(workspace.settings().workspace, &key)?;
    let remote = GatewayRemote::connect(client(url, Some(&key), None)?).await?;
    let link = Link {
        url: url.into(),
        repository: remote.info().name.clone(),
        repository_id: Some(remote.description().0.repository),
        key_id: Some(key.id()),
    };
    workspace.change_settings(|settings| settings.link = Some(link))?;
    let (clock, entropy) = system();
    let remote = Arc::new(remote);
    let shared: Arc<dyn Remote> = Arc::<GatewayRemote>::clone(&remote);
    let engine = Engine::new(workspace, shared, clock, entropy, Arc::new(Unwatched))?;
    Ok(Machine {
        root,
        engine,
        remote,
    })
}

/// Leaves the gateway to a process of its own.
fn keep_running(scratch: &Path, address: &str, output: Output) -> Result<Kept> {
    let listen = address.trim_start_matches("http://");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["serve", "--listen", listen, "--quiet", "--store"])
        .arg(scratch.join("vault"))
        .env("STATEHOLD_HOME", scratch.join("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("the gateway could not be left running")?;
    let started = Instant::now();
    while TcpStream::connect(listen).is_err() {
        if child.try_wait()?.is_some() || started.elapsed() > LISTEN_PATIENCE {
            // It is ours to end as long as nobody was told of it.
            child.kill()?;
            child.wait()?;
            bail!("the gateway that was to be left running does not listen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    output.line(format!(
        "\nThe gateway goes on at {address}, process {0}: `kill {0}` stops it.",
        child.id()
    ));
    output.line(format!(
        "Both workspaces are in {}; to work on them:",
        scratch.display()
    ));
    output.line(format!(
        "  export STATEHOLD_HOME={}",
        scratch.join("home").display()
    ));
    Ok(Kept {
        pid: child.id(),
        url: address.to_owned(),
        folder: scratch.to_owned(),
    })
}

/// Copies files and links, with modes, within bounds. What lies outside the bounds is left out.
fn copy_tree(from: &Path, to: &Path) -> Result<(usize, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let rules = RuleSet::new(Preset::Plain.default_rules())?;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let source = from.join(&folder);
        // No push sends a store, and both machines shall hold the same.
        let holds = |name: &str| source.join(name).exists();
        if folder != Path::new("") && holds(layout::REPOSITORY) && holds(layout::LOG) {
            continue;
        }
        fs::create_dir_all(to.join(&folder))?;
        let items = fs::read_dir(&source)
            .with_context(|| format!("{} cannot be read", source.display()))?;
        for item in items {
            let item = item?;
            let path = folder.join(item.file_name());
            let meta = item.metadata()?;
            if LEFT_OUT.iter().any(|name| item.file_name() == *name) || files >= FILES_MAX {
                continue;
            }
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file()
                && meta.len() <= FILE_BYTES_MAX
                && bytes + meta.len() <= BYTES_MAX
                && !holds_secrets(&rules, &path, &item.path())
            {
                // A file that can't be read is none of the demonstration's business.
                if fs::copy(item.path(), to.join(&path)).is_ok() {
                    files += 1;
                    bytes += meta.len();
                }
            }
        }
    }
    Ok((files, bytes))
}

/// Whether a push would keep a file back, for its name or its content.
fn holds_secrets(rules: &RuleSet, path: &Path, source: &Path) -> bool {
    let path = path.to_str().and_then(|path| RepoPath::parse(path).ok());
    path.is_none_or(|path| rules.verdict(&path) != Verdict::Allowed)
        || fs::read(source).is_ok_and(|content| !find_secrets(&content).is_empty())
}

fn same_tree(a: &Path, b: &Path) -> io::Result<bool> {
    let (a_tree, b_tree) = (listing(a)?, listing(b)?);
    if a_tree != b_tree {
        return Ok(false);
    }
    for path in a_tree {
        if fs::read(a.join(&path))? != fs::read(b.join(&path))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files beneath a folder, Statehold's own left out, in order.
fn listing(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(root.join(&folder))? {
            let item = item?;
            let path = folder.join(item.file_name());
            if path == Path::new(".statehold") {
                continue;
            }
            if item.file_type()?.is_dir() {
                folders.push(path);
            } else if item.file_type()?.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
