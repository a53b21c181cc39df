//! What is turned down or goes wrong: each with its exit code, the object by name, and a next step.

use std::fs;
use std::path::{Path, PathBuf};

use statehold_testkit::environment::SeededEntropy;

use crate::world::{Two, installation, json, run};

/// Goal: a file past the limit is refused before anybody is contacted.
/// Method: the gateway is gone, and the push still ends with the refusal and not with exit code 6.
#[test]
fn a_file_too_large_is_refused_before_any_call() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation: _installation,
    } = Two::new();
    gateway.kill().unwrap();
    a.write("big.bin", vec![7; 10_000_001]).unwrap();
    a.write("small", "x").unwrap();
    let refused = run(&a, &["push"], 1);
    assert_eq!(
        refused.err,
        "big.bin: 10000001 bytes, the limit is 10000000\n\
         file too large for statehold sync; should this be in sources/?\n"
    );
    let refused = json(&a, &["push"], 1);
    assert_eq!(refused["too_large"][0]["path"], "big.bin");
    assert_eq!(refused["outcome"], "refused");
    // One byte less goes as far as the network.
    a.write("big.bin", vec![7; 10_000_000]).unwrap();
    run(&a, &["push"], 6);
}

#[test]
fn nobody_at_the_keyboard_pushes_what_can_go() {
    let Two {
        a,
        b,
        gateway: _gateway,
        installation: _installation,
    } = Two::new();
    a.write("big.bin", vec![7; 10_000_001]).unwrap();
    a.write("small", "x").unwrap();
    let partial = json(&a, &["push", "--auto", "--scope", "all"], 4);
    assert_eq!(partial["outcome"], "partial");
    run(&b, &["pull"], 0);
    assert!(b.path("small").exists() && !b.path("big.bin").exists());
}

#[test]
fn a_dry_run_says_and_does_nothing() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation: _installation,
    } = Two::new();
    run(&a, &["push", "--dry", "--exit-code"], 0);
    a.write("x", "x").unwrap();
    assert!(
        run(&a, &["push", "--dry"], 0)
            .out
            .contains("send          x")
    );
    run(&a, &["push", "--dry", "--exit-code"], 1);
    assert_eq!(json(&a, &["push", "--dry"], 0)["outcome"], "dry");
    assert!(run(&a, &["log"], 0).out.contains("nothing yet"));
    // It contacts nobody.
    gateway.kill().unwrap();
    run(&a, &["push", "--dry", "--exit-code"], 1);
    run(&a, &["pull", "--dry"], 6);
}

#[test]
fn a_wrong_command_line_is_2() {
    let machine = installation().machine("anna").unwrap();
    for wrong in [
        &["frobnicate"][..],
        &["push", "--strange"],
        &["push", "--exit-code"],
        &["push", "--scope", "moon"],
        &["cat"],
        &["cat", "../outside"],
        &["serve"],
        &[],
    ] {
        // The scratch folder is gone with its installation; any folder does.
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_statehold"))
            .args(wrong)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(2), "{wrong:?}");
        assert!(!ran.stderr.is_empty());
    }
    drop(machine);
}

#[test]
fn a_folder_that_is_no_workspace_is_told_what_to_do() {
    let installation = installation();
    let machine = installation.machine("anna").unwrap();
    for verb in ["push", "pull", "sync", "status", "log", "diff"] {
        let refused = run(&machine, &[verb], 1);
        assert!(refused.err.contains("statehold init"), "{}", refused.err);
    }
    run(&machine, &["init"], 0);
    let again = run(&machine, &["init"], 1);
    assert!(
        again.err.contains("is a workspace already"),
        "{}",
        again.err
    );
    for verb in ["push", "pull", "sync", "status", "log", "diff"] {
        let refused = run(&machine, &[verb], 1);
        assert!(refused.err.contains("statehold link"), "{}", refused.err);
    }
}

#[test]
fn a_wrong_key_is_5() {
    let Two {
        gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    let other = installation.machine("other").unwrap();
    run(&other, &["init"], 0);
    // Of the right form, and nobody's.
    let stranger = statehold_repository::wire::key::Key::random(&SeededEntropy::new(9));
    let stranger = stranger.reveal();
    let link = ["link", &gateway.url];
    let refused = other.run_with(&link, &stranger).unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    assert!(refused.err.contains("hint: "), "{}", refused.err);
    // Not a key at all.
    let refused = other.run_with(&link, "open sesame").unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    // An invite is good for one machine.
    let invite = installation.invite(&gateway).unwrap();
    other.run_with(&link, &invite).unwrap().expect(0).unwrap();
    let third = installation.machine("third").unwrap();
    run(&third, &["init"], 0);
    let refused = third.run_with(&link, &invite).unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    // A key that was right is no longer used once another is named.
    let mut command = a.command(&["pull"]);
    command.env("STATEHOLD_KEY", stranger.as_str());
    let refused = a.start(command, "").unwrap().finish().unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(items) = fs::read_dir(folder) else {
        return found;
    };
    for item in items {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Goal: damage at rest is told with the object's name and exit code 7, and never spreads.
/// Method: one bit of the only pack is turned over in the store; another machine pulls.
#[test]
fn a_damaged_object_is_named() {
    let Two {
        a,
        b,
        installation,
        gateway: _gateway,
    } = Two::new();
    a.write("noise", SeededEntropy::new(3).bytes(700_000))
        .unwrap();
    run(&a, &["push"], 0);
    let packs: Vec<PathBuf> = objects(&installation.path("vault"))
        .into_iter()
        .filter(|path| {
            path.parent()
                .is_some_and(|folder| folder.ends_with("packs"))
        })
        .collect();
    let [pack] = &packs[..] else {
        panic!("one pack, not {packs:?}");
    };
    let mut bytes = fs::read(pack).unwrap();
    bytes[300_000] ^= 1;
    fs::write(pack, bytes).unwrap();
    let damaged = run(&b, &["pull"], 7);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(damaged.err.contains(name), "{}", damaged.err);
    assert!(damaged.err.contains("hint: "), "{}", damaged.err);
    assert!(!b.path("noise").exists());
    let damaged = json(&b, &["pull"], 7);
    assert_eq!(damaged["exit"], 7);
}

#[test]
fn damage_in_the_log_is_named() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let records: Vec<PathBuf> = objects(&installation.path("vault"))
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("_control"))
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("log")))
        .collect();
    let [record] = &records[..] else {
        panic!("one record, not {records:?}");
    };
    let mut bytes = fs::read(record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(record, bytes).unwrap();
    // A gateway that has it in memory would still serve it, rightly.
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    let _next = installation.serve_at("vault", &address).unwrap();
    let damaged = run(&b, &["pull"], 7);
    let name = record.file_name().unwrap().to_str().unwrap();
    assert!(damaged.err.contains(name), "{}", damaged.err);
}

#[test]
fn what_was_asked_for_and_is_not_there_is_named() {
    let Two {
        gateway,
        a,
        b: _b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let stranger = installation.machine("stranger").unwrap();
    run(&stranger, &["init"], 0);
    for (machine, arguments, said) in [
        (
            &a,
            &["cat", "nope"][..],
            "nope is not in the repository at record 1",
        ),
        (
            &a,
            &["cat", "x", "--at", "7"],
            "there is no record 7; the newest is 1",
        ),
        (
            &a,
            &["diff", "nope"],
            "nope is neither in record 1 nor in this folder",
        ),
        (&a, &["link", &gateway.url], "linked with http://127.0.0.1"),
        (&a, &["serve", "--store", "mars://bucket"], "mars"),
        (
            &stranger,
            &["admin", "keys"],
            "there is no operator's key in",
        ),
        (&stranger, &["link", "ftp://x"], "is no store"),
        (
            &stranger,
            &["link", "http://gateway.example.org"],
            "in the clear; use https",
        ),
        (
            &stranger,
            &["link", &gateway.url],
            "`statehold admin invite`",
        ),
    ] {
        let refused = run(machine, arguments, 1);
        assert!(refused.err.contains(said), "{arguments:?}: {}", refused.err);
    }
    assert!(
        run(&a, &["log", "nope"], 0)
            .out
            .contains("no record touches nope")
    );
    // What a store wants is not what a gateway wants, so no access key is asked for.
    let store = run(&a, &["serve", "--store", "s3://bucket"], 5);
    assert!(store.err.contains("AWS_ACCESS_KEY_ID"), "{}", store.err);
    assert!(!store.err.contains("check the key"), "{}", store.err);
    a.write(".statehold/settings.json", r#"{"version":9}"#)
        .unwrap();
    let newer = run(&a, &["push"], 1);
    assert!(newer.err.contains("have version 9"), "{}", newer.err);
    assert!(!newer.err.contains("init"), "{}", newer.err);
}
