//! `statehold watch`: what travels by itself, what is said about it, and what it survives.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use statehold_testkit::process::{RealMachine, Running};

use crate::world::{Two, installation, run};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A watch that has begun, with its rows.
fn watch(machine: &RealMachine) -> Running {
    watch_by(machine, machine.command(&["watch", "--json"]))
}

fn watch_by(machine: &RealMachine, command: Command) -> Running {
    let watch = machine.start(command, "").unwrap();
    wait_until("it watches", || !rows(&watch, "watching").is_empty());
    watch
}

/// The rows of one kind so far.
fn rows(watch: &Running, what: &str) -> Vec<Value> {
    let said = watch.said().unwrap();
    let lines = said.lines().filter(|_| said.ends_with('\n'));
    let rows = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["what"] == what).collect()
}

fn has(machine: &RealMachine, path: &str, content: &str) -> bool {
    let there = machine.read(path);
    there.is_ok_and(|there| there == content.as_bytes())
}

/// The rows of the event log that a watch left.
fn events(machine: &RealMachine) -> Vec<Value> {
    let log = machine.path(".statehold/log/sync-events.ndjson");
    let log = fs::read_to_string(log).unwrap_or_default();
    let rows = log.lines().map(|line| serde_json::from_str(line).unwrap());
    rows.filter(|row: &Value| row["trigger"] == "watch")
        .collect()
}

#[test]
fn what_changes_on_one_machine_is_soon_on_the_other() {
    let two = Two::new();
    let Two { a, b, gateway, .. } = &two;
    a.write("before/it.md", "began").unwrap();
    let (one, other) = (watch(a), watch(b));
    wait_until("what was there before", || has(b, "before/it.md", "began"));
    b.write("deep/er/file.md", "of b").unwrap();
    wait_until("a new file", || has(a, "deep/er/file.md", "of b"));
    a.write("deep/er/file.md", "of a").unwrap();
    wait_until("an edit", || has(b, "deep/er/file.md", "of a"));
    fs::remove_file(b.path("deep/er/file.md")).unwrap();
    wait_until("a deletion", || !a.path("deep/er/file.md").exists());
    run(a, &["state", "set", "x", "1"], 0);
    wait_until("a state", || {
        let got = b.run(&["state", "get", "x"]).unwrap();
        got.out.trim() == "1"
    });
    // Beyond the scope, and then not.
    a.write("sources/large.bin", "x").unwrap();
    a.write("last.md", "x").unwrap();
    wait_until("the last one", || has(b, "last.md", "x"));
    assert!(!b.path("sources/large.bin").exists());
    for (machine, watch) in [(a, one), (b, other)] {
        let runs = rows(&watch, "run").len();
        let left = events(machine);
        assert_eq!(left.len(), runs, "a row for each run that moved something");
        assert!(left.iter().all(|row| row["outcome"] == "done"), "{left:?}");
        let stopped = watch.stop().unwrap().expect(0).unwrap();
        assert!(stopped.out.ends_with("\"what\":\"stopped\"}\n"));
    }
    // What nobody asked for was not asked of the gateway: no run without a reason.
    let asked = gateway.answers().unwrap();
    assert!(asked < 60, "{asked} requests");
}

#[test]
fn a_folder_is_watched_once() {
    let two = Two::new();
    let a = &two.a;
    let first = watch(a);
    let second = run(a, &["watch"], 1);
    let holder = format!("a watch (process {})", first.pid());
    assert!(second.err.contains(&holder), "{}", second.err);
    assert!(second.err.contains("stop it first"), "{}", second.err);
    // Other commands go on beside it, and so does it beside them.
    a.write("x", "x").unwrap();
    run(a, &["sync"], 0);
    run(a, &["status"], 0);
    first.kill().unwrap();
    // Of one that was killed nothing is in the way.
    watch(a).stop().unwrap().expect(0).unwrap();
}

#[test]
fn an_outage_is_said_once_and_passes() {
    let Two {
        a,
        b,
        mut gateway,
        installation,
    } = Two::new();
    let (one, other) = (watch(&a), watch(&b));
    a.write("x", "before").unwrap();
    wait_until("a first file", || has(&b, "x", "before"));
    gateway.kill().unwrap();
    a.write("x", "meanwhile").unwrap();
    wait_until("both notice", || {
        !rows(&one, "failed").is_empty() && !rows(&other, "failed").is_empty()
    });
    b.write("y", "too").unwrap();
    let _gateway = installation.serve_at("vault", gateway.address()).unwrap();
    wait_until("an edit of then", || has(&b, "x", "meanwhile"));
    wait_until("one the other way", || has(&a, "y", "too"));
    for watch in [one, other] {
        assert_eq!(rows(&watch, "failed").len(), 1);
        assert_eq!(rows(&watch, "failed")[0]["exit"], 6);
        assert_eq!(rows(&watch, "reached").len(), 1);
        let ended = watch.stop().unwrap().expect(0).unwrap();
        assert_eq!(ended.err.matches("not in step").count(), 1, "{}", ended.err);
    }
}

#[test]
fn a_watch_begins_before_its_gateway() {
    let Two {
        a,
        mut gateway,
        installation,
        b: _,
    } = Two::new();
    gateway.kill().unwrap();
    // Nothing is known of the gateway either.
    fs::remove_file(a.path(".statehold/gateway.json")).unwrap();
    let early = a.start(a.command(&["watch", "--json"]), "").unwrap();
    wait_until("it says so", || !rows(&early, "failed").is_empty());
    let _gateway = installation.serve_at("vault", gateway.address()).unwrap();
    wait_until("it watches", || !rows(&early, "watching").is_empty());
    early.stop().unwrap().expect(0).unwrap();
}

#[test]
fn a_revoked_key_ends_a_watch() {
    let Two {
        a,
        b,
        installation,
        gateway,
    } = Two::new();
    let watch = watch(&b);
    let own = run(&b, &["machines", "list", "--json"], 0).json().unwrap();
    let keys = own["keys"].as_array().or_else(|| own.as_array()).unwrap();
    let own = keys.iter().find(|key| key["own"] == true).unwrap();
    let key = own["key"].as_str().unwrap();
    let operator = installation.operator().unwrap();
    let revoke = ["admin", "revoke", key, "--gateway", &gateway.url];
    run(&operator, &revoke, 0);
    let ended = watch.finish().unwrap().expect(5).unwrap();
    assert!(ended.err.contains("a valid key is needed"), "{}", ended.err);
    run(&a, &["status"], 0);
}

#[test]
fn what_cannot_go_is_named_once_and_the_rest_goes() {
    let two = Two::new();
    let Two { a, b, .. } = &two;
    let one = watch(a);
    // In two parts, so that this file holds none.
    let secret = format!("gl{}-9kQz3VbN7mXw2RtY5hLp\n", "pat");
    a.write("env.txt", secret).unwrap();
    a.write("notes.md", "1").unwrap();
    let other = watch(b);
    wait_until("the rest", || has(b, "notes.md", "1"));
    for number in 2..5 {
        a.write("notes.md", number.to_string()).unwrap();
        wait_until("more", || has(b, "notes.md", &number.to_string()));
    }
    assert!(!b.path("env.txt").exists());
    // Both edit one file at once: told on the machine that comes second, and neither is lost.
    other.stop().unwrap().expect(0).unwrap();
    b.write("notes.md", "of b").unwrap();
    a.write("notes.md", "of a").unwrap();
    wait_until("a comes first", || {
        let sent = rows(&one, "run");
        sent.iter()
            .filter(|row| row["report"]["files"] != 0)
            .count()
            >= 5
    });
    let other = watch(b);
    wait_until("the conflict", || {
        let runs = rows(&other, "run");
        runs.iter()
            .any(|row| row["report"]["outcome"] == "conflict")
    });
    a.write("else.md", "x").unwrap();
    wait_until("the rest", || has(b, "else.md", "x"));
    b.write("of-b.md", "x").unwrap();
    wait_until("and back", || has(a, "of-b.md", "x"));
    assert!(has(b, "notes.md", "of b"));
    assert!(has(a, "notes.md", "of a"));
    run(b, &["sync", "--on-conflict", "local"], 0);
    wait_until("what was decided", || has(a, "notes.md", "of b"));
    one.stop().unwrap().expect(0).unwrap();
    other.stop().unwrap().expect(0).unwrap();

    // In words, each thing is said once.
    let watch = a.start(a.command(&["watch"]), "").unwrap();
    wait_until("it looked", || {
        a.write("again.md", "x").unwrap();
        watch.said().unwrap().contains("send          again.md")
    });
    a.write("again.md", "y").unwrap();
    wait_until("it looked again", || {
        watch.said().unwrap().matches("again.md").count() >= 2
    });
    let ended = watch.stop().unwrap().expect(0).unwrap();
    assert_eq!(ended.err.matches("env.txt:1").count(), 1, "{}", ended.err);
    assert_eq!(ended.err.matches("--allow-secret").count(), 1);
}

#[test]
fn a_key_that_may_read_receives() {
    let Two {
        a,
        installation,
        gateway,
        b: _,
    } = Two::new();
    let key = installation.path("read.key");
    let key = key.to_str().unwrap();
    let operator = installation.operator().unwrap();
    let make = [
        "admin", "key", "--label", "r", "--role", "read", "--to", key,
    ];
    run(
        &operator,
        &[&make[..], &["--gateway", &gateway.url]].concat(),
        0,
    );
    let reader = installation.machine("reader").unwrap();
    run(&reader, &["init", "--preset", "plain"], 0);
    fs::remove_file(reader.path(".stateholdignore")).unwrap();
    reader
        .run(&["link", &gateway.url, "--key-file", key])
        .unwrap()
        .expect(0)
        .unwrap();
    let mut watch = watch(&reader);
    reader.write("mine", "stays").unwrap();
    for number in 0..3 {
        a.write("theirs", number.to_string()).unwrap();
        run(&a, &["push"], 0);
        wait_until("it comes", || has(&reader, "theirs", &number.to_string()));
    }
    assert!(watch.goes_on().unwrap());
    watch.stop().unwrap().expect(0).unwrap();
    run(&a, &["pull"], 0);
    assert!(!a.path("mine").exists());
}

#[test]
fn straight_on_a_store_it_is_the_same() {
    let installation = installation();
    let store = installation.path("shared");
    let machines = ["anna", "bert"].map(|name| {
        let machine = installation.machine(name).unwrap();
        run(&machine, &["init", "--preset", "plain"], 0);
        fs::remove_file(machine.path(".stateholdignore")).unwrap();
        run(&machine, &["link", store.to_str().unwrap()], 0);
        machine
    });
    let watches = machines.each_ref().map(watch);
    let [a, b] = &machines;
    for number in 0..3 {
        a.write("x", number.to_string()).unwrap();
        wait_until("it comes", || has(b, "x", &number.to_string()));
        b.write("y", number.to_string()).unwrap();
        wait_until("it goes", || has(a, "y", &number.to_string()));
    }
    for watch in watches {
        watch.stop().unwrap().expect(0).unwrap();
    }
}

/// Goal: a system that tells no more changes is made up for, and what to do is said.
/// Method: a user namespace in which nobody may listen to a folder.
#[test]
fn a_system_that_tells_nothing_is_looked_through() {
    let limit = "/proc/sys/user/max_inotify_watches";
    let alone = ["--user", "--map-root-user"];
    let set = format!("echo 0 >{limit}");
    let mut tried = Command::new("unshare");
    let tried = tried.args(alone).args(["sh", "-c", &set]).output();
    if !(Path::new(limit).exists() && tried.is_ok_and(|tried| tried.status.success())) {
        println!("SKIP a system that tells nothing: no user namespace can be had here");
        return;
    }
    let two = Two::new();
    let Two { a, b, .. } = &two;
    let plain = a.command(&["watch", "--json"]);
    let mut command = Command::new("unshare");
    let then = format!("{set}; exec \"$@\"");
    command.args(alone).args(["sh", "-c", &then, "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.env_clear().current_dir(&a.root);
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    let one = watch_by(a, command);
    wait_until("it is said", || !rows(&one, "untold").is_empty());
    let reason = rows(&one, "untold")[0]["reason"].to_string();
    assert!(reason.contains("fs.inotify.max_user_watches"), "{reason}");
    let other = watch(b);
    a.write("x", "x").unwrap();
    wait_until("it is found", || has(b, "x", "x"));
    for watch in [one, other] {
        watch.stop().unwrap().expect(0).unwrap();
    }
}
