//! A gateway on a new host, over the same store, serves the same keys: its host holds nothing that cannot be lost.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

struct Gateway {
    process: Child,
    url: String,
}

impl Gateway {
    /// Starts a gateway and waits until it listens. Its host's own files lie in `home`.
    fn start(store: &Path, home: &Path, listen: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_statehold"))
            .args(["serve", "--json", "--listen", listen, "--store"])
            .arg(store)
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
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf {
        let folder = scratch.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let (store, host) = (at("store"), at("host"));
    let first = Gateway::start(&store, &host, "127.0.0.1:0");
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
    let second = Gateway::start(&store, &at("new host"), address);
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
