//! A gateway on a new host, over the same store, serves the same keys: its host holds nothing that cannot be lost.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use statehold_testkit::loopback::{Front, Manners};

use crate::vault::moto;
use crate::world::{installation, json, run};

/// Where a store is, and what a gateway needs to get there.
struct Store {
    location: String,
    variables: Vec<(&'static str, String)>,
}

struct Gateway {
    process: Child,
    url: String,
}

impl Gateway {
    /// Starts a gateway and waits until it listens. Its host's own files lie in `home`.
    fn start(store: &Store, home: &Path, listen: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_statehold"))
            .args(["serve", "--json", "--listen", listen, "--store"])
            .arg(&store.location)
            .envs(store.variables.iter().cloned())
            .env("STATEHOLD_HOME", home)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = announced["url"].as_str().unwrap().to_owned();
        Self { process, url }
    }
}

/// Ends it as a power cut does, also when a test fails.
impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn statehold(folder: &Path, home: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_statehold"))
        .args(arguments)
        .current_dir(folder)
        .env("STATEHOLD_HOME", home)
        .env_remove("STATEHOLD_KEY")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[test]
fn a_gateway_on_a_new_host_serves_the_same_keys() {
    let store = tempfile::tempdir().unwrap();
    lose_the_host(&Store {
        location: store.path().to_str().unwrap().to_owned(),
        variables: Vec::new(),
    });
}

#[test]
fn a_gateway_on_a_new_host_serves_the_same_keys_from_a_bucket() {
    let Some(server) = moto() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(server.make_bucket("vault")).unwrap();
    lose_the_host(&Store {
        location: server.location("vault"),
        variables: server.variables(),
    });
}

fn lose_the_host(store: &Store) {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf {
        let folder = scratch.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let host = at("host");
    let first = Gateway::start(store, &host, "127.0.0.1:0");
    let url = first.url.clone();
    // Kept apart from the host, as operators are told to.
    let spare = scratch.path().join("spare.key");
    let spare = spare.to_str().unwrap();
    let arguments = ["admin", "--gateway", &url, "key", "--role", "operator"];
    statehold(
        scratch.path(),
        &host,
        &[&arguments[..], &["--label", "spare", "--to", spare]].concat(),
    );
    for machine in ["a", "b"] {
        let (folder, home) = (at(machine), at(&format!("home of {machine}")));
        statehold(&folder, &home, &["init"]);
        statehold(&folder, &home, &["link", &url, "--key-file", spare]);
    }
    fs::write(at("a").join("note"), "from before").unwrap();
    statehold(&at("a"), &at("home of a"), &["push"]);
    drop(first);
    fs::remove_dir_all(&host).unwrap();

    let address = url.strip_prefix("http://").unwrap();
    let second = Gateway::start(store, &at("new host"), address);
    statehold(&at("b"), &at("home of b"), &["pull"]);
    assert_eq!(fs::read(at("b").join("note")).unwrap(), b"from before");
    fs::write(at("b").join("reply"), "from after").unwrap();
    statehold(&at("b"), &at("home of b"), &["push"]);
    statehold(&at("a"), &at("home of a"), &["pull"]);
    assert_eq!(fs::read(at("a").join("reply")).unwrap(), b"from after");
    let keys = ["admin", "--gateway", &url, "--key-file", spare, "keys"];
    let keys = statehold(scratch.path(), &at("new host"), &keys);
    // The first operator's, the spare one, and one for each machine.
    assert_eq!(String::from_utf8(keys.stdout).unwrap().lines().count(), 4);
    drop(second);
}

/// Goal: on a store that can't keep two writers apart there is one gateway at a time, a gateway that
/// died is waited out, and `status` says what that leaves open.
/// Method: moto behind a front that takes the condition away; three gateways, one after the other.
#[test]
fn a_store_for_one_writer_is_served_by_one_gateway() {
    let Some(server) = moto() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let manners = Manners {
        takes: Some("if-none-match"),
        ..Manners::default()
    };
    let front = runtime.block_on(async {
        server.make_bucket("plain").await.unwrap();
        Front::before(server.endpoint(), manners).await.unwrap()
    });
    let names = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
    ];
    let variables = names.map(|name| (name, server.variable(&front.endpoint(), name).unwrap()));
    let installation = installation();
    let store = "s3://plain/team";
    let further = ["--lease-seconds", "6"];
    let period = Duration::from_secs(6);
    let serve =
        |listen: &str| installation.serve_with(store.as_ref(), listen, &variables, &further);

    let mut first = serve("127.0.0.1:0").unwrap();
    let a = installation.linked("anna", &first).unwrap();
    a.write("x", "1").unwrap();
    run(&a, &["push"], 0);
    let said = run(&a, &["status"], 0).out;
    assert!(
        said.contains("grade B") && said.contains("delayed"),
        "{said}"
    );
    assert_eq!(json(&a, &["status"], 0)["store_grade"], "B");

    let mut probe = a.command(&["probe", store, "--json"]);
    probe.envs(variables.clone());
    let probed = a.start(probe, "").unwrap().finish().unwrap();
    assert_eq!(probed.json().unwrap()["grade"], "B", "{}", probed.err);

    // Neither another gateway nor a machine of its own comes beside it.
    let straight = installation.machine("straight").unwrap();
    run(&straight, &["init"], 0);
    let mut link = straight.command(&["link", store]);
    link.envs(variables.clone());
    let refused = straight.start(link, "").unwrap().finish().unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("one writer"), "{}", refused.err);
    let mut beside = straight.command(&["serve", "--store", store, "--listen", "127.0.0.1:0"]);
    beside.envs(variables.clone());
    let refused = straight.start(beside, "").unwrap().finish().unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("stop it first"), "{}", refused.err);
    run(&a, &["push"], 0);

    // One that was stopped gives the lease back; one that was killed is waited out.
    let address = first.address().to_owned();
    let begun = Instant::now();
    assert!(first.stop().unwrap().success());
    first = serve(&address).unwrap();
    assert!(begun.elapsed() < period, "{:?}", begun.elapsed());
    a.write("x", "2").unwrap();
    run(&a, &["push"], 0);
    first.kill().unwrap();
    let begun = Instant::now();
    let _third = serve(&address).unwrap();
    assert!(begun.elapsed() >= period, "{:?}", begun.elapsed());
    a.write("x", "3").unwrap();
    run(&a, &["push"], 0);
}
