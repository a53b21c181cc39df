//! Going on with a copy: `statehold fence` and `statehold promote` as an operator runs them, and what machines
//! notice of it.

use std::fs;
use std::path::Path;

use serde_json::Value;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine};

use crate::world::{Two, installation, json, run};

/// Promotes a store, after a look at what that would do.
#[track_caller]
fn promote(operator: &RealMachine, store: &Path, label: &str) {
    let store = store.to_str().unwrap();
    let refused = run(operator, &["promote", store], 1);
    let confirm = format!("--confirm-label={label}");
    assert!(refused.err.contains(&confirm), "{}", refused.err);
    let other = ["promote", store, "--apply", "--confirm-label=epoch-9"];
    run(operator, &other, 1);
    let words = ["promote", store, "--apply", &confirm];
    assert_eq!(json(operator, &words, 0)["outcome"], "done");
    assert_eq!(json(operator, &words, 0)["outcome"], "nothing");
}

/// Brings a store's copy up to date.
fn replicate(operator: &RealMachine, store: &Path, copy: &Path) {
    let (store, copy) = (store.to_str().unwrap(), copy.to_str().unwrap());
    run(operator, &["replicate", "--store", store, "--to", copy], 0);
}

fn straight(installation: &Installation, name: &str, store: &Path) -> RealMachine {
    let machine = installation.machine(name).unwrap();
    run(&machine, &["init"], 0);
    run(&machine, &["link", store.to_str().unwrap()], 0);
    machine
}

/// Goal: the first store is lost with records that were not copied; the copy is promoted and served at the
/// same address, and every machine goes on with its next command. What they had pushed or pulled since the
/// copy is pushed again: new files, edits and deletions; nothing here gives way to what is older.
#[test]
fn machines_go_on_with_a_promoted_copy_and_push_again_what_was_lost() {
    let Two {
        installation,
        gateway,
        a,
        b,
    } = Two::new();
    let address = gateway.address().to_owned();
    let operator = installation.operator().unwrap();
    let (store, copy) = (installation.path("vault"), installation.path("copy"));
    for (path, content) in [("kept", "1"), ("edited", "1"), ("gone", "1")] {
        a.write(path, content).unwrap();
    }
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    replicate(&operator, &store, &copy);

    a.write("edited", "2").unwrap();
    a.write("new", "1").unwrap();
    fs::remove_file(a.path("gone")).unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    b.write("from b", "1").unwrap();
    run(&b, &["push"], 0);
    // One that has seen nothing of all this, and has something of its own to say.
    a.write("unsent", "1").unwrap();
    drop(gateway);
    fs::remove_dir_all(&store).unwrap();

    promote(&operator, &copy, "epoch-1");
    let _second = installation
        .serve_with(copy.as_os_str(), &address, &[], &[])
        .unwrap();
    // A push with no look before it, then a pull and a push.
    run(&a, &["push"], 0);
    run(&b, &["sync"], 0);
    run(&a, &["pull"], 0);
    for machine in [&a, &b] {
        for (path, content) in [
            ("kept", "1"),
            ("edited", "2"),
            ("new", "1"),
            ("from b", "1"),
            ("unsent", "1"),
        ] {
            let found = machine.read(path).unwrap();
            assert_eq!(found, content.as_bytes(), "{path}");
        }
        assert!(!machine.path("gone").exists());
        run(machine, &["status", "--exit-code"], 0);
    }
    let said = run(&a, &["log"], 0).out;
    assert!(said.contains("epoch 1, from record"), "{said}");
    run(&a, &["verify"], 0);
}

/// Goal: a move that is meant loses nothing: fence, copy what is left, promote. Whoever pushes to the old
/// store is told, also at once through a gateway that runs.
#[test]
fn a_fenced_store_moves_and_nothing_is_lost() {
    let Two {
        installation,
        gateway,
        a,
        b,
    } = Two::new();
    let operator = installation.operator().unwrap();
    let (store, copy) = (installation.path("vault"), installation.path("copy"));
    a.write("x", "1").unwrap();
    run(&a, &["push"], 0);
    let vault = store.to_str().unwrap();
    let refused = run(&operator, &["fence", "--store", vault], 1);
    assert!(
        refused.err.contains("--confirm-label=epoch-0"),
        "{}",
        refused.err
    );
    let plan = json(&operator, &["fence", "--store", vault], 1);
    assert_eq!(plan["confirm_label"], "epoch-0", "{plan}");
    // A machine's key may not end the log.
    let confirmed = ["--apply", "--confirm-label=epoch-0"];
    run(&a, &[&["fence"], &confirmed[..]].concat(), 5);
    let words = [&["fence", "--store", vault], &confirmed[..]].concat();
    run(&operator, &words, 0);
    run(&operator, &words, 0);
    b.write("y", "1").unwrap();
    let refused = run(&b, &["sync"], 1);
    assert!(refused.err.contains("--moved"), "{}", refused.err);
    let status = run(&b, &["status"], 0).out;
    assert!(status.contains("ended       by record 2"), "{status}");
    assert_eq!(b.read("x").unwrap(), b"1");
    let operators = ["admin", "--gateway", &gateway.url, "invite"];
    let refused = run(&operator, &operators, 1);
    assert!(refused.err.contains("ended this log"), "{}", refused.err);

    replicate(&operator, &store, &copy);
    promote(&operator, &copy, "epoch-1");
    let second = installation
        .serve_with(copy.as_os_str(), "127.0.0.1:0", &[], &[])
        .unwrap();
    run(&b, &["link", "--moved", &second.url], 0);
    run(&b, &["push"], 0);
    run(&a, &["link", "--moved", &second.url], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("y").unwrap(), b"1");
    run(&operator, &["admin", "--gateway", &second.url, "invite"], 0);
    drop((gateway, second));
    // Nothing was appended to it after the fence, so the old store takes the new one's log as a copy.
    replicate(&operator, &copy, &store);
}

/// Goal: the same straight on a store, without a gateway.
#[test]
fn a_repository_without_a_gateway_moves_too() {
    let installation = installation();
    let (store, copy) = (installation.path("store"), installation.path("copy"));
    fs::create_dir_all(&store).unwrap();
    let a = straight(&installation, "a", &store);
    let b = straight(&installation, "b", &store);
    a.write("x", "1").unwrap();
    run(&a, &["push"], 0);
    run(&a, &["replicate", "--to", copy.to_str().unwrap()], 0);
    a.write("x", "2").unwrap();
    run(&a, &["push"], 0);
    fs::remove_dir_all(&store).unwrap();
    promote(&a, &copy, "epoch-1");
    let copy = copy.to_str().unwrap();
    let nowhere = installation.path("nowhere");
    run(&a, &["link", "--moved", nowhere.to_str().unwrap()], 6);
    run(&a, &["link", "--moved", copy], 0);
    run(&a, &["push"], 0);
    run(&b, &["link", "--moved", copy], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("x").unwrap(), b"2");
    run(&a, &["verify", "--read-data"], 0);
    // What was never a copy is not promoted.
    let other = installation.path("other");
    fs::create_dir_all(&other).unwrap();
    let c = straight(&installation, "c", &other);
    c.write("x", "1").unwrap();
    run(&c, &["push"], 0);
    let refused = run(&a, &["promote", other.to_str().unwrap()], 1);
    assert!(refused.err.contains("no replica"), "{}", refused.err);
}

/// Goal: what the first store got after the copy, and turns up again, is listed and brought over once: a push of
/// a machine that is gone, a key; what is there already is said to be; what meets something else is left alone.
#[test]
fn what_the_first_store_has_beyond_the_copy_is_brought_over() {
    let Two {
        installation,
        gateway,
        a,
        b,
    } = Two::new();
    let operator = installation.operator().unwrap();
    let (store, copy) = (installation.path("vault"), installation.path("copy"));
    a.write("shared", "1").unwrap();
    run(&a, &["push"], 0);
    replicate(&operator, &store, &copy);
    run(&b, &["pull"], 0);
    let large = SeededEntropy::new(3).bytes(700_000);
    b.write("large", &large).unwrap();
    run(&b, &["push"], 0);
    b.write("shared", "from b").unwrap();
    run(&b, &["push"], 0);
    a.write("again", "1").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["snapshot", "beyond"], 0);
    let address = gateway.address().to_owned();
    let file = installation.path("spare.key");
    let file = file.to_str().unwrap();
    let words = [
        "key", "--label", "spare", "--role", "operator", "--to", file,
    ];
    run(
        &operator,
        &[&["admin", "--gateway", &gateway.url], &words[..]].concat(),
        0,
    );
    drop(gateway);

    promote(&operator, &copy, "epoch-1");
    let second = installation
        .serve_with(copy.as_os_str(), &address, &[], &[])
        .unwrap();
    run(&a, &["pull"], 0);
    a.write("shared", "from a").unwrap();
    run(&a, &["push"], 0);
    let (old, new) = (store.to_str().unwrap(), copy.to_str().unwrap());
    let words = ["bring-over", old, "--to", new];
    let ends = |said: &Value| -> Vec<String> {
        let logs = said["logs"].as_array().unwrap().iter();
        let records = logs.flat_map(|log| log["records"].as_array().unwrap());
        let end = |record: &Value| record["end"].as_str().unwrap().to_owned();
        records.map(end).collect()
    };
    let listed = json(&operator, &words, 3);
    let expected = ["wanted", "wanted", "collides", "same", "left-out"];
    assert_eq!(ends(&listed), expected, "{listed}");
    assert_eq!(listed["logs"][1]["records"][1]["reasons"][0], "shared");
    let apply = [&words[..], &["--apply"]].concat();
    let expected = ["landed", "landed", "collides", "same", "left-out"];
    let done = json(&operator, &apply, 3);
    assert_eq!(ends(&done), expected, "{done}");
    assert_eq!(json(&operator, &apply, 3), done);

    run(&a, &["pull"], 0);
    assert_eq!(a.read("large").unwrap(), large);
    assert_eq!(a.read("shared").unwrap(), b"from a");
    // A key that a gateway does not know makes it look at the log at once.
    let spare = ["--key-file", file];
    let words = [&["admin", "--gateway", &second.url], &spare[..], &["keys"]].concat();
    run(&operator, &words, 0);
    // The machine that was away: its edit and the other one are a conflict, listed.
    run(&b, &["pull"], 3);
    assert_eq!(b.read("shared").unwrap(), b"from b");
}
