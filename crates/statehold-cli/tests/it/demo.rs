//! `statehold demo`, on a folder of one's own.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::world::{installation, json, run};

fn folder(root: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let mut tree = BTreeMap::new();
    for item in fs::read_dir(root).unwrap() {
        let path = item.unwrap().path();
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        if path.is_dir() {
            tree.extend(folder(&path));
            tree.insert(path.display().to_string(), (Vec::new(), changed));
        } else {
            tree.insert(
                path.display().to_string(),
                (fs::read(&path).unwrap(), changed),
            );
        }
    }
    tree
}

#[test]
fn it_ends_by_itself_and_changes_nothing() {
    let installation = installation();
    let machine = installation.machine("anna").unwrap();
    machine.write("notes.md", "mine\n").unwrap();
    machine.write("deep/er/skill.md", "also mine\n").unwrap();
    let before = folder(&machine.root);
    let root = machine.root.to_str().unwrap();
    let shown = run(&machine, &["demo", root], 0);
    assert!(shown.out.contains("2 files"), "{}", shown.out);
    assert!(shown.out.contains("Try next:"), "{}", shown.out);
    let looked = "to pull     1 added, 0 modified, 0 deleted";
    assert!(shown.out.contains(looked), "{}", shown.out);
    assert!(!shown.out.contains("1 files"), "{}", shown.out);
    assert_eq!(folder(&machine.root), before);
    assert!(run(&machine, &["demo", "--quiet", root], 0).out.is_empty());
}

#[test]
fn it_can_leave_a_gateway_to_try() {
    let installation = installation();
    let machine = installation.machine("anna").unwrap();
    machine.write("notes.md", "mine\n").unwrap();
    let shown = json(&machine, &["demo", "--keep"], 0);
    let kept = &shown["kept"];
    let pid = kept["pid"].as_u64().unwrap().to_string();
    let address = kept["url"]
        .as_str()
        .unwrap()
        .trim_start_matches("http://")
        .to_owned();
    let works = TcpStream::connect(&address).is_ok();
    let scratch = Path::new(kept["folder"].as_str().unwrap());
    // A person would set STATEHOLD_HOME and go on in one of the folders.
    let mut command = machine.command(&["status"]);
    command
        .env("STATEHOLD_HOME", scratch.join("home"))
        .current_dir(scratch.join("machine-a"));
    let status = machine.start(command, "").unwrap().finish().unwrap();

    let stopped = Command::new("kill").arg(&pid).status().unwrap();
    let asked = Instant::now();
    while TcpStream::connect(&address).is_ok() && asked.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let stopped = stopped.success() && TcpStream::connect(&address).is_err();
    fs::remove_dir_all(scratch).unwrap();
    assert!(works, "it does not serve");
    assert_eq!(status.code, Some(0), "{}", status.err);
    assert!(stopped, "kill does not stop it");
}
