//! The real program: gateways and machines as processes of their own, each with a home of its own
//! and nothing of the environment but where programs lie.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::record::{Body, DraftHead, ForgetBody, Kind};
use statehold_core::retention::Policy;
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::load;
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use tempfile::TempDir;

use crate::environment::SeededEntropy;

/// How long a gateway may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long anything else may take before it counts as hung.
const RUN_PATIENCE: Duration = Duration::from_secs(300);

/// A copy of the program and a scratch folder for everything it writes.
#[derive(Debug)]
pub struct Installation {
    binary: PathBuf,
    scratch: TempDir,
}

/// A gateway that serves. It is killed when it is dropped.
#[derive(Debug)]
pub struct RunningGateway {
    child: Child,
    /// Where it can be reached.
    pub url: String,
    /// What it writes to standard error.
    pub log: PathBuf,
}

/// A machine: a workspace, and a home outside of it.
#[derive(Debug, Clone)]
pub struct RealMachine {
    binary: PathBuf,
    /// The workspace.
    pub root: PathBuf,
    /// What `STATEHOLD_HOME` names.
    pub home: PathBuf,
    /// What other machines call it.
    pub name: String,
}

/// What a run of the program came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A run of the program that goes on. It is killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Installation {
    /// Everything of the program at a path.
    pub fn of(binary: &Path) -> Result<Self> {
        let binary = std::path::absolute(binary)?;
        ensure!(binary.is_file(), "{} is no program", binary.display());
        let scratch = tempfile::Builder::new()
            .prefix("statehold-process-")
            .tempdir()?;
        Ok(Self { binary, scratch })
    }

    /// A place in the scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The program, with nothing of the environment but where other programs lie.
    pub fn command(&self) -> Command {
        bare(&self.binary)
    }

    /// A machine with an empty folder, which isn't a workspace yet.
    pub fn machine(&self, name: &str) -> Result<RealMachine> {
        let root = self.path(name).join("work");
        fs::create_dir_all(&root)?;
        Ok(RealMachine {
            binary: self.binary.clone(),
            root,
            home: self.path(name).join("home"),
            name: name.to_owned(),
        })
    }

    /// The operator: a machine whose home the gateways share, and hence their first key.
    pub fn operator(&self) -> Result<RealMachine> {
        self.machine("operator")
    }

    /// Starts a gateway on the folder `store` of the scratch folder, at any free port.
    pub fn serve(&self, store: &str) -> Result<RunningGateway> {
        self.serve_at(store, "127.0.0.1:0")
    }

    /// Starts a gateway at an address, which may be one that a killed gateway had.
    pub fn serve_at(&self, store: &str, listen: &str) -> Result<RunningGateway> {
        self.serve_on(self.path(store).as_os_str(), listen, &[])
    }

    /// Starts a gateway on a store of any kind, with further variables in its environment.
    pub fn serve_on(
        &self,
        store: &OsStr,
        listen: &str,
        variables: &[(&str, String)],
    ) -> Result<RunningGateway> {
        self.serve_with(store, listen, variables, &[])
    }

    /// The same with further arguments.
    pub fn serve_with(
        &self,
        store: &OsStr,
        listen: &str,
        variables: &[(&str, String)],
        further: &[&str],
    ) -> Result<RunningGateway> {
        let number = fs::read_dir(self.scratch.path())?.count();
        let out = self.path(&format!("gateway-{number}.out"));
        let log = self.path(&format!("gateway-{number}.log"));
        let child = self
            .command()
            .args(["serve", "--json", "--listen", listen, "--store"])
            .arg(store)
            .args(further)
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .env("STATEHOLD_HOME", self.operator()?.home)
            .env("STATEHOLD_LOG", "info")
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&log)?)
            .spawn()
            .context("the gateway could not be started")?;
        let mut gateway = RunningGateway {
            child,
            url: String::new(),
            log,
        };
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(&out)?;
            if let Some(line) = said.lines().next().filter(|_| said.ends_with('\n')) {
                let said: serde_json::Value = serde_json::from_str(line)?;
                said["url"]
                    .as_str()
                    .context("the gateway says where it listens")?
                    .clone_into(&mut gateway.url);
                return Ok(gateway);
            }
            if let Some(status) = gateway.child.try_wait()? {
                let log = fs::read_to_string(&gateway.log)?;
                bail!("the gateway ended with {status}: {log}");
            }
            ensure!(
                started.elapsed() < START_PATIENCE,
                "the gateway does not listen"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An invite, made by the operator.
    pub fn invite(&self, gateway: &RunningGateway) -> Result<String> {
        let operator = self.operator()?;
        let ran = operator.run(&["admin", "invite", "--gateway", &gateway.url, "--json"])?;
        let said: serde_json::Value = serde_json::from_str(ran.expect(0)?.out.trim())?;
        let invite = said["invite"].as_str().context("an invite was printed")?;
        Ok(invite.to_owned())
    }

    /// The operator's key, which the gateway left at its first start.
    pub fn operator_key(&self) -> Result<PathBuf> {
        Ok(self.operator()?.home.join("config/statehold/keys/operator"))
    }

    /// A machine that may do anything in the repository.
    pub fn owner(&self, gateway: &RunningGateway) -> Result<RealMachine> {
        let owner = self.machine("owner")?;
        owner.run(&["init", "--preset", "plain"])?.expect(0)?;
        let key = self.operator_key()?;
        let key = key.to_string_lossy();
        let link = ["link", &gateway.url, "--key-file", &key, "--role", "own"];
        owner.run(&link)?.expect(0)?;
        Ok(owner)
    }

    /// Says that only the newest so many states are kept, however young they are. The command line
    /// keeps at least a week.
    pub fn keep_last(&self, gateway: &RunningGateway, last: u32) -> Result<()> {
        let key = fs::read_to_string(self.operator_key()?)?;
        let key: Key = key.trim().parse()?;
        tokio::runtime::Runtime::new()?.block_on(async {
            let address = GatewayAddress::parse(&gateway.url)?;
            let client = GatewayClient::new(&address, Some(&key), None)?;
            let remote = GatewayRemote::connect(client).await?;
            let state = load(&remote).await?.state;
            let policy = Policy {
                within_days: 0,
                last,
                ..Policy::default()
            };
            let body = Body::Forget(ForgetBody {
                base: state.head,
                snapshots: Vec::new(),
                policy: Some(policy),
            });
            let entropy = SeededEntropy::new(7);
            let (machine, nonce) = (MachineId::random(&entropy), Nonce::random(&entropy));
            let head = DraftHead::new(Kind::Forget, machine, nonce, Vec::new());
            remote
                .append(&StoredDraft::new(head, body, &[])?, &state)
                .await?;
            Ok(())
        })
    }

    /// A machine with a workspace that is linked through a gateway, by an invite of its own.
    pub fn linked(&self, name: &str, gateway: &RunningGateway) -> Result<RealMachine> {
        self.linked_as(name, "plain", gateway)
    }

    /// The same with a workspace of this kind.
    pub fn linked_as(
        &self,
        name: &str,
        preset: &str,
        gateway: &RunningGateway,
    ) -> Result<RealMachine> {
        let machine = self.machine(name)?;
        machine.run(&["init", "--preset", preset])?.expect(0)?;
        // The starter file is each machine's own and would only be in the way.
        fs::remove_file(machine.root.join(".stateholdignore"))?;
        let invite = self.invite(gateway)?;
        machine
            .run_with(&["link", &gateway.url], &invite)?
            .expect(0)?;
        Ok(machine)
    }
}

/// A program with nothing of the environment but where other programs lie.
fn bare(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

impl RunningGateway {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address it listens at, without the scheme.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to stop, as `kill` does, and waits.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let status = Command::new("kill").arg(self.pid().to_string()).status()?;
        ensure!(status.success(), "the gateway could not be asked to stop");
        wait(&mut self.child)
    }

    /// How many answers had this status or a higher one, by the gateway's own log.
    pub fn answers_from(&self, status: u64) -> Result<usize> {
        let log = fs::read_to_string(&self.log)?;
        let answered = log.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["fields"]["status"].as_u64()
        });
        Ok(answered.filter(|answered| *answered >= status).count())
    }

    /// How many requests it answered, by its own log.
    pub fn answers(&self) -> Result<usize> {
        self.answers_from(0)
    }
}

impl Drop for RunningGateway {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.kill());
    }
}

/// Waits for a process, and kills one that hangs.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > RUN_PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("a run hung for {} s", RUN_PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl RealMachine {
    /// The program, as this machine's user would run it in the workspace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(&self.binary);
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("STATEHOLD_HOME", &self.home)
            .env("STATEHOLD_MACHINE", &self.name);
        command
    }

    /// Runs the program with nothing on its standard input.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        self.run_with(arguments, "")
    }

    /// Runs the program with a text on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Result<Ran> {
        self.start(self.command(arguments), input)?.finish()
    }

    /// Starts a command of this machine's, and lets it go on.
    pub fn start(&self, mut command: Command, input: &str) -> Result<Running> {
        fs::create_dir_all(&self.home)?;
        // Into files, since nobody reads a pipe while the process goes on. Several may run at once.
        let own = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&self.home)?
            .keep();
        let (out, err) = (own.join("out"), own.join("err"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that doesn't read its input may be gone by now.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Running { child, out, err })
    }

    /// Where a path of the workspace lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file and the folders it lies in.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        let path = self.path(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, content)
    }

    /// Reads a file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.path(path)).with_context(|| format!("{path} on {}", self.name))
    }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) -> Result<Ran> {
        self.child.kill()?;
        self.finish()
    }

    /// Whether it goes on.
    pub fn goes_on(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Asks it to stop, as `kill` does, and waits for its end.
    pub fn stop(self) -> Result<Ran> {
        let status = Command::new("kill").arg(self.pid().to_string()).status()?;
        ensure!(status.success(), "the process could not be asked to stop");
        self.finish()
    }

    /// What it has written to standard output so far.
    pub fn said(&self) -> io::Result<String> {
        fs::read_to_string(&self.out)
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Ran> {
        let status = wait(&mut self.child)?;
        let ran = Ran {
            code: status.code(),
            out: String::from_utf8_lossy(&fs::read(&self.out)?).into_owned(),
            err: String::from_utf8_lossy(&fs::read(&self.err)?).into_owned(),
        };
        if let Some(own) = self.out.parent() {
            fs::remove_dir_all(own)?;
        }
        Ok(ran)
    }
}

impl Drop for Running {
    /// Of a test that fails nothing is left running.
    fn drop(&mut self) {
        if self.goes_on().unwrap_or(false) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Ran {
    /// This run, if it ended with this code.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "it ended with {:?} instead of {code}\n{}{}",
            self.code,
            self.out,
            self.err
        );
        Ok(self)
    }

    /// Standard output as the one JSON value that it has to be.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.out).with_context(|| format!("this is no JSON: {}", self.out))
    }
}
