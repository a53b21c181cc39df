//! An agent workspace, end to end: where its manifest lies and what it says, what is sent without
//! being asked for, and what `status` counts.

use std::fs;
use std::time::Duration;

use statehold_core::time::{Mtime, Timestamp};
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::world::{Two, installation, json, run};

/// The SHA-256 of `hello` and a newline, as `sha256sum` gives it.
const SHA256_OF_HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

/// A gateway and two agent workspaces behind it.
fn two_agents() -> (Installation, RunningGateway, RealMachine, RealMachine) {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked_as("anna", "agent", &gateway).unwrap();
    let b = installation.linked_as("bert", "agent", &gateway).unwrap();
    (installation, gateway, a, b)
}

#[test]
fn the_manifest_lies_in_its_place_and_names_every_file() {
    let (_installation, _gateway, a, b) = two_agents();
    a.write("state/memory.md", "hello\n").unwrap();
    a.write("state/empty", "").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    for machine in [&a, &b] {
        let text = machine.read("state/log/sync-manifest.json").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(manifest["version"], 1);
        let made = manifest["generated_at"].as_str().unwrap();
        assert!(made.parse::<Timestamp>().unwrap() > Timestamp::from_millis(1_700_000_000_000));
        let files = manifest["files"].as_object().unwrap();
        let paths: Vec<&String> = files.keys().collect();
        assert_eq!(paths, ["state/empty", "state/memory.md"]);
        let memory = &files["state/memory.md"];
        assert_eq!(memory["sha256"], SHA256_OF_HELLO);
        assert_eq!(memory["size"], 6);
        let mtime: Mtime = memory["mtime"].as_str().unwrap().parse().unwrap();
        let there = fs::metadata(a.path("state/memory.md")).unwrap();
        let there = there.modified().unwrap();
        let there = there.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(u64::try_from(mtime.seconds()), Ok(there.as_secs()));
    }
    // It is each machine's own.
    assert!(!run(&a, &["log"], 0).out.contains("manifest"));
    assert_eq!(json(&b, &["status"], 0)["entries"], 2);
}

/// Goal: a push publishes neither the program nor the sources in passing, by hand or not.
#[test]
fn program_and_sources_go_when_they_are_asked_for() {
    let (_installation, _gateway, a, b) = two_agents();
    a.write("program.md", "be kind\n").unwrap();
    a.write("sources/paper.txt", "a paper\n").unwrap();
    for (number, push) in [&["push"][..], &["sync"], &["push", "--auto"]]
        .into_iter()
        .enumerate()
    {
        a.write("state/memory.md", format!("{number}\n")).unwrap();
        let pushed = json(&a, push, 0);
        assert_eq!(pushed["outcome"], "done", "{push:?}");
        assert_eq!(pushed["files"], 1, "{push:?}");
        run(&b, &["pull"], 0);
        assert!(b.path("state/memory.md").exists());
        assert!(!b.path("program.md").exists() && !b.path("sources").exists());
    }
    // By hand it is told what stays, and how it goes.
    let told = run(&a, &["push"], 0).out;
    assert!(told.contains("program.md and 1 more"), "{told}");
    assert!(told.contains("or all sends them\n"), "{told}");
    assert_eq!(
        json(&a, &["push"], 0)["out_of_scope"],
        serde_json::json!(["program.md", "sources/paper.txt"])
    );
    for (scope, arrives) in [("program", "program.md"), ("sources", "sources/paper.txt")] {
        run(&a, &["push", "--scope", scope], 0);
        run(&b, &["pull"], 0);
        assert_eq!(a.read(arrives).unwrap(), b.read(arrives).unwrap());
    }
    assert_eq!(
        json(&a, &["push"], 0)["out_of_scope"],
        serde_json::json!([])
    );
    // In a folder of another kind these names mean nothing.
    let Two { a, b, .. } = &Two::new();
    a.write("program.md", "x").unwrap();
    a.write("sources/x", "x").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    assert!(b.path("program.md").exists() && b.path("sources/x").exists());
}

#[test]
fn right_after_a_push_nothing_is_newer_elsewhere() {
    let (_installation, _gateway, a, b) = two_agents();
    a.write("state/memory.md", "hello\n").unwrap();
    run(&a, &["push"], 0);
    let dry = json(&a, &["pull", "--dry"], 0);
    assert_eq!((&dry["outcome"], &dry["files"]), (&"dry".into(), &0.into()));
    assert_eq!(dry["actions"], serde_json::json!([]));
    run(&a, &["pull", "--dry", "--exit-code"], 0);
    run(&b, &["pull", "--dry", "--exit-code"], 1);
}

#[test]
fn status_counts_what_was_added_modified_and_deleted_on_both_sides() {
    let (_installation, _gateway, a, b) = two_agents();
    for path in ["kept", "edited", "gone", "edited there", "gone there"] {
        a.write(&format!("state/{path}"), "before\n").unwrap();
    }
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    b.write("state/edited there", "after\n").unwrap();
    fs::remove_file(b.path("state/gone there")).unwrap();
    for new in ["new there", "newer there"] {
        b.write(&format!("state/{new}"), "new\n").unwrap();
    }
    run(&b, &["push"], 0);
    a.write("state/edited", "after\n").unwrap();
    fs::remove_file(a.path("state/gone")).unwrap();
    for new in ["new", "newer", "newest"] {
        a.write(&format!("state/{new}"), "new\n").unwrap();
    }
    let shown = run(&a, &["status"], 0).out;
    assert!(
        shown.contains("to push     3 added, 1 modified, 1 deleted"),
        "{shown}"
    );
    assert!(
        shown.contains("to pull     2 added, 1 modified, 1 deleted"),
        "{shown}"
    );
    assert!(shown.lines().count() <= 24, "more than a screen: {shown}");
    let counted = json(&a, &["status"], 0);
    assert_eq!(
        counted["outgoing"],
        serde_json::json!({"added": 3, "modified": 1, "deleted": 1})
    );
}

/// Goal: two uploads of one workspace follow each other, and neither is lost.
/// Method: the upload lock is held by another program; then two pushes at once.
#[test]
fn uploads_wait_for_each_other() {
    let Two {
        gateway: _gateway,
        a,
        b,
        installation: _installation,
    } = Two::new();
    a.write("first", "first").unwrap();
    run(&a, &["push"], 0);
    let locks = fs::read_dir(a.home.join("run/statehold")).unwrap();
    let locks = locks.map(|item| item.unwrap().path());
    let is_upload = |path: &std::path::PathBuf| path.to_string_lossy().contains("upload");
    let lock: Vec<_> = locks.filter(is_upload).collect();
    let [lock] = &lock[..] else {
        panic!("one lock, not {lock:?}");
    };
    let held = fs::File::open(lock).unwrap();
    held.lock().unwrap();
    a.write("second", "second").unwrap();
    let push = a.start(a.command(&["push"]), "").unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert!(!run(&b, &["log"], 0).out.contains("record 2"));
    assert_eq!(
        json(&b, &["status"], 0)["head"]["number"],
        1,
        "it did not wait"
    );
    drop(held);
    push.finish().unwrap().expect(0).unwrap();
    assert_eq!(json(&b, &["status"], 0)["head"]["number"], 2);

    a.write("third", "third").unwrap();
    let pushes = [(); 4].map(|()| a.start(a.command(&["push"]), "").unwrap());
    for push in pushes {
        push.finish().unwrap().expect(0).unwrap();
    }
    assert_eq!(
        json(&b, &["status"], 0)["head"]["number"],
        3,
        "it went more than once"
    );
    run(&b, &["pull"], 0);
    for path in ["first", "second", "third"] {
        assert_eq!(b.read(path).unwrap(), path.as_bytes());
    }
}

/// Goal: what an agent restores is committed by nobody, and no line of a person's file is touched.
#[test]
fn git_ignores_what_is_restored() {
    let installation = installation();
    for (name, git, before, after) in [
        ("new", ".git", None, Some("_restore/\n")),
        ("worktree", "../.git", Some("*.o"), Some("*.o\n_restore/\n")),
        (
            "again",
            ".git",
            Some("/_restore/\r\nx\n"),
            Some("/_restore/\r\nx\n"),
        ),
        ("no-git", "elsewhere", None, None),
    ] {
        let outer = installation.machine(name).unwrap();
        fs::create_dir_all(outer.path("inner")).unwrap();
        fs::create_dir_all(outer.path("inner").join(git)).unwrap();
        let ignore = outer.path("inner/.gitignore");
        if let Some(before) = before {
            fs::write(&ignore, before).unwrap();
        }
        let said = run(&outer, &["-C", "inner", "init", "--preset", "agent"], 0).out;
        let found = fs::read_to_string(&ignore).ok();
        assert_eq!(found.as_deref(), after, "{name}");
        assert_eq!(
            said.contains("_restore/"),
            before != found.as_deref(),
            "{said}"
        );
    }
}

/// Goal: the default rules can be read, are a rules file as they are printed, and `init` leaves no
/// file that the first push of a machine with a push key would be refused for.
#[test]
fn the_default_rules_are_shown_and_in_nobodys_way() {
    let (_installation, _gateway, a, _b) = two_agents();
    a.write("state/memory.md", "hello\n").unwrap();
    run(&a, &["push"], 0);
    a.write("state/log/strange.log", "x").unwrap();
    let told = run(&a, &["rules", "check"], 1).out;
    assert!(told.contains("`statehold rules show`"), "{told}");
    let shown = run(&a, &["rules", "show"], 0).out;
    assert!(
        shown.contains("\n    \"state/log/changelog.ndjson\",\n"),
        "{shown}"
    );
    assert!(shown.contains("SYNC_DENY"), "{shown}");
    a.write("state/bin/sync/sync-rules.json", &shown).unwrap();
    assert_eq!(run(&a, &["rules", "show"], 0).out, shown);
    assert!(!run(&a, &["rules", "check"], 1).out.contains("rules show"));
}
