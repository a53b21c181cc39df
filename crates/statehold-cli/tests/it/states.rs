//! Application state as people and scripts use it: set, carried by push and pull, in conflict, brought
//! back, copied and damaged.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use statehold_testkit::process::RealMachine;

use crate::world::{Two, installation, json, run};

fn value(machine: &RealMachine, id: &str) -> Value {
    json(machine, &["state", "get", id], 0)["data"].clone()
}

/// What one machine does is there on the other one after one push and one pull.
#[track_caller]
fn carry(from: &RealMachine, to: &RealMachine) {
    run(from, &["push"], 0);
    run(to, &["pull"], 0);
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

fn node(machine: &RealMachine) -> String {
    let nodes = json(machine, &["state", "nodes"], 0);
    nodes["node"].as_str().unwrap().to_owned()
}

/// Goal: values travel by push and pull, each machine's edits in files of its own, so that neither is
/// ever asked about a conflict between files; the one between values is shown and resolved.
#[test]
fn two_machines_end_equal_and_every_conflict_is_seen() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    let nothing = run(a, &["state", "get", "x"], 1);
    assert!(
        nothing.err.contains("state set ID VALUE"),
        "{}",
        nothing.err
    );
    run(a, &["state", "set", "x", "1"], 0);
    carry(a, b);
    assert_eq!(value(b, "x"), 1);
    // Who only reads has nothing to send.
    assert_eq!(json(b, &["push"], 0)["outcome"], "nothing");

    let settings = ["-c", "settings"];
    let on = |machine, words: &[&str], code| {
        json(machine, &[&["state"], words, &settings[..]].concat(), code)
    };
    on(
        a,
        &["set", "app", r#"{"theme":"dark"}"#, "--strategy", "manual"],
        0,
    );
    carry(a, b);
    on(a, &["set", "app", r#"{"theme":"light"}"#], 0);
    on(b, &["set", "app", r#"{"theme":"grey"}"#], 0);
    carry(a, b);
    carry(b, a);
    run(a, &["state", "conflicts"], 0);
    for machine in [a, b] {
        let conflicts = json(machine, &["state", "conflicts", "--exit-code"], 3);
        assert_eq!(conflicts[0]["sides"].as_array().unwrap().len(), 2);
        assert_eq!(conflicts[0]["strategy"], "manual");
    }
    let why = run(a, &[&["state", "why", "app"], &settings[..]].concat(), 0);
    assert!(why.out.contains("until somebody resolves"), "{}", why.out);
    let wrong = on(a, &["resolve", "app", "--take", "neither"], 2);
    assert!(wrong["error"].as_str().unwrap().contains("no side"));
    on(a, &["resolve", "app", "--take", "remote"], 0);
    carry(a, b);
    json(b, &["state", "conflicts", "--exit-code"], 0);
    for machine in [a, b] {
        let app = on(machine, &["get", "app"], 0);
        assert_eq!(app["data"], json!({"theme": "grey"}));
        assert_eq!(app["siblings"], 1);
    }
    on(b, &["delete", "app"], 0);
    on(b, &["delete", "app"], 1);
    carry(b, a);
    on(a, &["get", "app"], 1);
    let log = on(a, &["log", "app"], 0);
    assert_eq!(log[0]["kind"], "delete");
    let (here, there) = (
        json(a, &["state", "nodes"], 0),
        json(b, &["state", "nodes"], 0),
    );
    assert_eq!(here["root"], there["root"]);
    assert_eq!(here["nodes"].as_array().unwrap().len(), 2);
    // And all of it comes to rest.
    for machine in [a, b, a, b] {
        run(machine, &["sync"], 0);
        run(machine, &["state", "list"], 0);
    }
    for machine in [a, b] {
        assert_eq!(json(machine, &["sync"], 0)["outcome"], "nothing");
    }
}

#[test]
fn what_a_hook_pushes_holds_the_states() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked_as("anna", "agent", &gateway).unwrap();
    let b = installation.linked_as("bert", "agent", &gateway).unwrap();
    run(&a, &["state", "set", "x", "1"], 0);
    run(&a, &["push", "--auto"], 0);
    run(&b, &["pull", "--auto"], 0);
    assert_eq!(value(&b, "x"), 1);
}

/// Goal: going back never takes a log away; values come back by new events, on every machine.
#[test]
fn a_rollback_leaves_states_and_restore_brings_them_back() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    a.write("notes.md", "one\n").unwrap();
    run(a, &["state", "set", "x", "1"], 0);
    carry(a, b);
    let then = json(a, &["log"], 0)[0]["number"].to_string();
    a.write("notes.md", "two\n").unwrap();
    run(a, &["state", "set", "x", "2"], 0);
    run(a, &["state", "set", "new", "1"], 0);
    carry(a, b);
    run(b, &["state", "set", "of b", "1", "-c", "others"], 0);
    carry(b, a);
    assert_eq!(value(a, "x"), 2);

    let label = format!("--confirm-label=record-{then}");
    let back = run(a, &["rollback", "--to", &then, "--apply", &label], 0);
    assert!(back.out.contains("state restore --at"), "{}", back.out);
    run(b, &["pull"], 0);
    for machine in [a, b] {
        assert_eq!(machine.read("notes.md").unwrap(), b"one\n");
        assert_eq!(value(machine, "x"), 2);
    }
    let dry = json(b, &["state", "restore", "--at", &then, "--dry"], 0);
    assert_eq!(dry.as_array().unwrap().len(), 3, "{dry}");
    assert_eq!(value(b, "x"), 2);
    run(b, &["state", "restore", "x", "--at", &then], 0);
    run(b, &["state", "restore", "-c", "others", "--at", &then], 0);
    carry(b, a);
    for machine in [a, b] {
        assert_eq!(value(machine, "x"), 1);
        assert_eq!(value(machine, "new"), 1);
        run(machine, &["state", "get", "of b", "-c", "others"], 1);
    }
    // Nor does undo shorten a log, in the repository or here.
    a.write("notes.md", "three\n").unwrap();
    run(a, &["state", "set", "x", "3"], 0);
    carry(a, b);
    run(b, &["undo"], 0);
    run(a, &["undo"], 0);
    run(b, &["sync"], 0);
    run(a, &["sync"], 0);
    for machine in [a, b] {
        assert_eq!(value(machine, "x"), 3);
    }
    assert!(a.read("notes.md").unwrap() != b"three\n");
}

/// Goal: a workspace that was copied with its home, put back from a backup, or lost its own folder
/// writes as another node, and nothing that anybody has seen is lost.
#[test]
fn copied_and_restored_workspaces_become_other_nodes() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    run(a, &["state", "set", "x", "1"], 0);
    carry(a, b);
    let first = node(a);

    // An image of the machine: workspace, home and all.
    let clone = two.installation.machine("clone").unwrap();
    copy(&a.root, &clone.root);
    copy(&a.home, &clone.home);
    run(a, &["state", "set", "of a", "1"], 0);
    let told = run(&clone, &["state", "set", "of the clone", "1"], 0);
    assert!(told.err.contains("writes as a new node"), "{}", told.err);
    assert_ne!(node(&clone), first);
    assert_eq!(node(a), first);
    for machine in [a, &clone] {
        run(machine, &["sync"], 0);
    }

    // A backup of what the machine keeps, put back in its place.
    let kept = a.path(".statehold/states");
    let backup = two.installation.path("backup");
    copy(&kept, &backup);
    run(a, &["state", "set", "x", "2"], 0);
    carry(a, b);
    for item in fs::read_dir(&backup).unwrap() {
        let name = item.unwrap().file_name();
        if name == "logs" {
            copy(&backup.join(&name), &kept.join(&name));
        }
    }
    run(a, &["state", "set", "after", "1"], 0);
    let second = node(a);
    assert_ne!(second, first);
    assert_eq!(value(a, "x"), 2);
    carry(a, b);

    // Nothing is left of it.
    fs::remove_dir_all(&kept).unwrap();
    run(a, &["state", "set", "at last", "1"], 0);
    assert!(![first, second].contains(&node(a)));
    for machine in [a, b, &clone, a, b, &clone] {
        run(machine, &["sync"], 0);
        run(machine, &["state", "list"], 0);
    }
    for machine in [a, b, &clone] {
        assert_eq!(value(machine, "x"), 2);
        for id in ["of a", "of the clone", "after", "at last"] {
            assert_eq!(value(machine, id), 1, "{id} on {}", machine.name);
        }
    }
}

/// Goal: two running images of one machine, with everything by which one could be told, both write; the
/// second one finds out by a pull, and what it wrote is there in the end.
#[test]
fn images_that_both_run_lose_nothing() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    run(a, &["state", "set", "x", "1"], 0);
    carry(a, b);
    let first = node(a);
    let image = two.installation.path("image");
    fs::create_dir(&image).unwrap();
    copy(&a.root, &image.join("work"));
    copy(&a.home, &image.join("home"));
    run(a, &["state", "set", "x", "\"by the first\""], 0);
    carry(a, b);
    // From here on this is the other image: the folders are the same ones.
    for (image, place) in [(image.join("work"), &a.root), (image.join("home"), &a.home)] {
        let (image, place) = (image.to_str().unwrap(), place.to_str().unwrap());
        for (program, arguments) in [
            ("find", [place, "-type", "f", "-delete"]),
            ("cp", ["-a", "-T", image, place]),
        ] {
            let done = Command::new(program).args(arguments).status();
            assert!(done.unwrap().success());
        }
    }
    assert_eq!(node(a), first);
    run(a, &["state", "set", "x", "\"by the second\""], 0);
    run(a, &["state", "set", "y", "1"], 0);
    run(a, &["push"], 0);
    run(a, &["pull"], 0);
    let told = run(a, &["state", "list"], 0);
    assert!(told.err.contains("2 events"), "{}", told.err);
    assert_ne!(node(a), first);
    carry(a, b);
    for machine in [a, b] {
        let conflicts = json(machine, &["state", "conflicts"], 0);
        assert_eq!(conflicts[0]["sides"].as_array().unwrap().len(), 2);
        assert_eq!(value(machine, "x"), "by the second");
        assert_eq!(value(machine, "y"), 1);
        run(machine, &["state", "nodes"], 0);
    }
}

#[test]
fn damage_that_was_carried_is_named_and_written_anew() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    run(a, &["state", "set", "x", "1"], 0);
    carry(a, b);
    assert_eq!(value(b, "x"), 1);
    run(a, &["state", "set", "x", "2"], 0);
    let head = format!("state/app/{}/head", node(a));
    let whole = a.read(&head).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    a.write(&head, &damaged).unwrap();
    carry(a, b);
    let told = json(b, &["state", "nodes"], 7);
    assert_eq!(told["refused"].as_array().unwrap().len(), 1, "{told}");
    // The log beside it speaks for itself.
    assert_eq!(value(b, "x"), 2);
    run(a, &["state", "list"], 0);
    assert_eq!(a.read(&head).unwrap(), whole);
    carry(a, b);
    run(b, &["state", "nodes"], 0);
}

#[test]
fn a_node_that_left_is_retired() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    run(a, &["state", "set", "x", "1"], 0);
    run(b, &["state", "set", "y", "1"], 0);
    for machine in [a, b, a] {
        run(machine, &["sync"], 0);
        run(machine, &["state", "list"], 0);
    }
    let gone = node(b);
    run(a, &["state", "retire", &node(a)], 1);
    run(a, &["state", "retire", "nobody"], 2);
    run(a, &["state", "retire", &gone[..8]], 0);
    run(a, &["push"], 0);
    let late = two.installation.linked("late", &two.gateway).unwrap();
    run(&late, &["pull"], 0);
    assert_eq!(value(&late, "y"), 1);
    assert!(!late.path(&format!("state/app/{gone}")).exists());
    // It comes back with something new.
    run(b, &["state", "set", "y", "2"], 0);
    run(b, &["sync"], 0);
    run(&late, &["pull"], 0);
    assert_eq!(value(&late, "y"), 2);
    assert_eq!(value(b, "x"), 1);
}

#[test]
fn any_folder_will_do_and_bad_input_is_told() {
    let installation = installation();
    let machine = installation.machine("alone").unwrap();
    let told = |words: &[&str], code, word: &str| {
        let ran = run(&machine, &[&["state"], words].concat(), code);
        assert!(ran.err.contains(word), "{words:?}: {}", ran.err);
    };
    told(&["get", "x"], 1, "state set ID VALUE");
    told(&["set", "x", "dark"], 2, "needs quotes");
    told(&["set", "x", "@nowhere.json"], 1, "nowhere.json");
    told(
        &["set", "x", "1", "--strategy", "newest"],
        2,
        "last-write-wins",
    );
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    told(&["set", "x", &deep], 2, "nested deeper");
    told(&["set", "", "1"], 2, "is no name");
    told(
        &["set", "x", "1", "-c", ".strategies"],
        2,
        "Statehold's own",
    );
    told(&["resolve", "x"], 2, "--take");
    let secret = format!(
        "{{\"note\":\"ghp_{}\"}}",
        "16C7e42F292c6912E7710c838347Ae178B4a"
    );
    told(&["set", "x", &secret], 1, "GitHub token");
    run(
        &machine,
        &["state", "set", "s", &secret, "--allow-secret"],
        0,
    );
    let set = machine
        .run_with(&["state", "set", "x", "-"], "[1, 2]\n")
        .unwrap();
    set.expect(0).unwrap();
    machine.write("y.json", r#"{"b":1,"a":-2.5}"#).unwrap();
    run(&machine, &["state", "set", "y", "@y.json"], 0);
    run(&machine, &["state", "set", "z", "-3"], 0);
    assert_eq!(value(&machine, "x"), json!([1, 2]));
    assert_eq!(value(&machine, "y"), json!({"a": -2.5, "b": 1}));
    assert_eq!(run(&machine, &["state", "get", "z"], 0).out, "-3\n");
    // What only says something of conflicts, or of what was there.
    told(&["resolve", "x", "--take", "local"], 1, "no conflict");
    told(&["why", "never"], 1, "there is no default/never");
    let large = format!("\"{}\"", "x".repeat(8 * 1024 * 1024));
    machine.write("large.json", &large).unwrap();
    told(&["set", "x", "@large.json"], 2, "belong in files");
    // Whoever wrote a state chose its id: nothing in it reaches a terminal as it is.
    let id = "red\u{1b}[31m\n";
    for words in [&["set", id, "1"][..], &["list"], &["log"], &["why", id]] {
        let ran = run(&machine, &[&["state"], words].concat(), 0);
        assert!(ran.out.contains(r"default/red\u{1b}[31m\n"), "{}", ran.out);
        assert!(!ran.out.contains('\u{1b}'), "{words:?}: {}", ran.out);
    }
    told(&["get", "no\u{1b}"], 1, r"default/no\u{1b}");
    run(&machine, &["state", "delete", id], 0);
    // Where nothing can be written for other machines, what there is can be read.
    fs::remove_dir_all(machine.path("state/app")).unwrap();
    machine.write("state/app", "in the way").unwrap();
    let read = run(&machine, &["state", "get", "z"], 0);
    assert!(read.out == "-3\n" && read.err.contains("note: what other machines lack"));
    told(&["set", "z", "-3"], 1, "state/app");
    fs::remove_file(machine.path("state/app")).unwrap();
    told(&["restore", "--at", "1"], 1, "statehold init");
    // From a folder beneath, the same states.
    fs::create_dir(machine.path("below")).unwrap();
    assert_eq!(
        run(&machine, &["state", "get", "z", "-C", "below"], 0).out,
        "-3\n"
    );
    // Becoming a workspace changes nothing.
    run(&machine, &["init"], 0);
    assert_eq!(value(&machine, "x"), json!([1, 2]));
}
