//! How long earlier states are kept: said by an owner, carried out by compactions.

use std::fs;
use std::path::Path;

use serde_json::Value;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::world::{Two, installation, json, run};

/// A machine with a key of this role.
fn machine_as(role: &str, installation: &Installation, gateway: &RunningGateway) -> RealMachine {
    let operator = installation.operator().unwrap();
    let key = operator.home.join("config/statehold/keys/operator");
    let key = key.to_str().unwrap();
    let machine = installation.machine(role).unwrap();
    run(&machine, &["init", "--preset", "plain"], 0);
    fs::remove_file(machine.path(".stateholdignore")).unwrap();
    let link = ["link", &gateway.url, "--key-file", key, "--role", role];
    run(&machine, &link, 0);
    machine
}

/// Goal: what is kept is part of the repository, an owner's to say, and everybody's to read.
#[test]
fn an_owner_says_how_long_states_are_kept() {
    let Two {
        installation,
        gateway,
        a,
        ..
    } = &Two::new();
    let owner = machine_as("own", installation, gateway);
    a.write("x.md", "x\n").unwrap();
    run(a, &["push"], 0);
    assert_eq!(json(a, &["forget"], 0)["kept"]["within_days"], 30);

    let wanted = ["forget", "--keep-within", "90", "--keep-monthly", "24"];
    let refused = run(a, &wanted, 5).err;
    assert!(refused.contains("own"), "{refused}");
    let dry = json(&owner, &[&wanted[..], &["--dry"]].concat(), 0);
    assert_eq!(
        (&dry["kept"]["monthly"], &dry["record"]),
        (&24.into(), &Value::Null)
    );
    assert_eq!(json(&owner, &wanted, 0)["record"], 2);
    // Saying the same again changes nothing.
    assert!(json(&owner, &wanted, 0)["record"].is_null());

    let kept = run(a, &["forget"], 0).out;
    assert!(
        kept.contains("90 days") && kept.contains("24 times one a month"),
        "{kept}"
    );
    let log = run(a, &["log"], 0).out;
    assert!(
        log.contains("keeps everything of the last 90 days"),
        "{log}"
    );
    run(&owner, &["forget", "--keep-within", "6"], 2);
}

/// Whether any object in a store holds these bytes as they are.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let mut items = fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().path());
    items.any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let content = fs::read(&path).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// Goal: what must not exist any more is nowhere in the store, in no snapshot and at no record; all else
/// comes back as it was.
/// Method: content that doesn't compress, so that its bytes would be found in any object that has it: one
/// file rides in a record, the other lies in a pack.
#[test]
fn a_purged_file_is_nowhere_any_more() {
    let Two {
        installation,
        gateway,
        a,
        b,
    } = &Two::new();
    let owner = machine_as("own", installation, gateway);
    let noise = |seed, length| SeededEntropy::new(seed).bytes(length);
    let (small, large, other) = (noise(1, 500), noise(2, 700_000), noise(3, 700_000));
    a.write("leak/small.bin", &small).unwrap();
    a.write("notes.md", "kept\n").unwrap();
    run(a, &["push"], 0);
    a.write("leak/large.bin", &large).unwrap();
    a.write("other.bin", &other).unwrap();
    run(a, &["push"], 0);
    run(a, &["snapshot", "with-the-leak"], 0);
    run(&owner, &["pull"], 0);
    let vault = installation.path("vault");
    assert!(holds(&vault, &small) && holds(&vault, &large[..1_000]));

    let refused = run(&owner, &["purge", "leak"], 1).err;
    assert!(refused.contains("--confirm-path=leak"), "{refused}");
    let apply = ["purge", "leak", "--apply", "--confirm-path", "leak"];
    let refused = run(&owner, &apply, 1).err;
    assert!(refused.contains("delete it first"), "{refused}");
    fs::remove_dir_all(a.path("leak")).unwrap();
    run(a, &["push"], 0);
    let denied = run(a, &apply, 5).err;
    assert!(denied.contains("own"), "{denied}");
    let purged = json(&owner, &apply, 0);
    assert!(
        purged["compacted"]["purged"].as_u64() >= Some(2),
        "{purged}"
    );

    assert!(!holds(&vault, &small) && !holds(&vault, &large[..1_000]));
    for (path, at) in [("leak/small.bin", "1"), ("leak/large.bin", "with-the-leak")] {
        let gone = run(a, &["cat", path, "--at", at], 1).err;
        assert!(gone.contains("purge"), "{gone}");
    }
    assert_eq!(run(a, &["cat", "notes.md", "--at", "1"], 0).out, "kept\n");
    run(a, &["restore", "other.bin", "with-the-leak"], 0);
    // Whoever comes now, or comes again, gets all that is there.
    run(b, &["pull"], 0);
    assert_eq!(b.read("other.bin").unwrap(), other);
    a.write("notes.md", "changed\n").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    assert_eq!(b.read("notes.md").unwrap(), b"changed\n");
    let log = run(b, &["log"], 0).out;
    assert!(log.contains("compact") && log.contains("remove"), "{log}");
    // Nor does it keep the rest of an earlier state from coming back.
    let back = [
        "rollback",
        "--to",
        "1",
        "--apply",
        "--confirm-label=record-1",
    ];
    let told = run(a, &back, 0).out;
    let left = "left as it is leak/small.bin: what it held then was purged";
    assert!(told.contains(left), "{told}");
    run(b, &["pull"], 0);
    for machine in [a, b] {
        assert_eq!(machine.read("notes.md").unwrap(), b"kept\n");
        assert!(machine.read("leak/small.bin").is_err() && machine.read("other.bin").is_err());
    }
    let operator = installation.operator().unwrap();
    let vault = vault.to_str().unwrap();
    run(&operator, &["verify", "--store", vault, "--read-data"], 0);
}

/// Goal: a purge that was killed between its two records is finished at once, by the same command or by a
/// compaction, and not a week later.
/// Method: `kill -9` as soon as the first record is there; where that comes too late, once more.
#[test]
fn a_purge_that_was_killed_is_finished_by_the_next_command() {
    const ATTEMPTS: u64 = 30;
    let place = installation();
    let store = place.path("store");
    fs::create_dir_all(&store).unwrap();
    let machine = place.machine("a").unwrap();
    run(&machine, &["init", "--preset", "plain"], 0);
    run(&machine, &["link", store.to_str().unwrap()], 0);
    // What is still being written there has other names.
    let is_record = |name: &str| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    let records = || {
        let items = fs::read_dir(store.join("log")).unwrap();
        let names = items.map(|item| item.unwrap().file_name());
        names
            .filter(|name| name.to_str().is_some_and(is_record))
            .count()
    };
    let mut next = [
        &["purge", "leak", "--apply", "--confirm-path", "leak"][..],
        &["compact"],
    ]
    .into_iter();
    let mut finishing = next.next();
    for attempt in 0..ATTEMPTS {
        let Some(finish) = finishing else { return };
        let leak = SeededEntropy::new(attempt).bytes(700_000);
        machine.write("leak", &leak).unwrap();
        run(&machine, &["push"], 0);
        fs::remove_file(machine.path("leak")).unwrap();
        run(&machine, &["push"], 0);
        let before = records();
        let purge = ["purge", "leak", "--apply", "--confirm-path", "leak"];
        let purging = machine.start(machine.command(&purge), "").unwrap();
        while records() == before {
            std::thread::yield_now();
        }
        purging.kill().unwrap();
        if records() > before + 1 {
            continue;
        }
        assert!(holds(&store, &leak[..1_000]));
        run(&machine, finish, 0);
        assert!(!holds(&store, &leak[..1_000]), "{finish:?}");
        finishing = next.next();
    }
    assert_eq!(finishing, None, "no kill came between the two");
}

/// Goal: whoever looks sees what would go and what takes space; with nothing to let go, nothing goes.
#[test]
fn nothing_goes_that_is_kept() {
    let Two {
        installation,
        gateway,
        a,
        ..
    } = &Two::new();
    for number in 0..3 {
        a.write("x.md", format!("{number}\n")).unwrap();
        run(a, &["push"], 0);
    }
    let refused = run(a, &["compact"], 5).err;
    assert!(refused.contains("maintain"), "{refused}");
    let maintainer = machine_as("maintain", installation, gateway);
    let dry = json(&maintainer, &["compact", "--dry"], 0);
    assert_eq!(
        (&dry["compacted"]["expired"], &dry["removed"]),
        (&0.into(), &Value::Null)
    );
    let done = json(&maintainer, &["compact"], 0);
    assert_eq!(done["compacted"]["record"], Value::Null);
    let usage = json(a, &["usage"], 0);
    assert!(
        usage["bytes"].as_u64() > usage["newest"].as_u64(),
        "{usage}"
    );
    assert_eq!(usage["shorter"], Value::Null);
    let shorter = json(a, &["usage", "--within", "7"], 0);
    assert_eq!(
        (
            &shorter["shorter"]["within_days"],
            &shorter["shorter"]["points"]
        ),
        (&7.into(), &0.into())
    );
    let said = run(a, &["usage", "--within", "7"], 0).out;
    assert!(said.contains("kept for 7 days: 0 earlier states"), "{said}");
    run(a, &["usage", "--within", "6"], 2);
    assert_eq!(run(a, &["cat", "x.md", "--at", "1"], 0).out, "0\n");
}
