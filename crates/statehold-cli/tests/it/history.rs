//! Versions, snapshots, rollback and undo, through a gateway and as people type them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use statehold_testkit::process::RealMachine;

use crate::world::{Two, json, run};

/// Every file of a machine but Statehold's own, with its content.
fn files(machine: &RealMachine) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if name == ".statehold" {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&machine.root, &machine.root, &mut found);
    found
}

fn index(machine: &RealMachine) -> String {
    machine
        .read(".statehold/log/snapshots.ndjson")
        .unwrap_or_default()
        .try_into_text()
}

/// Bytes that are text.
trait Text {
    fn try_into_text(self) -> String;
}

impl Text for Vec<u8> {
    fn try_into_text(self) -> String {
        String::from_utf8(self).unwrap()
    }
}

/// Goal: a snapshot is a row of an index that every machine has with the same bytes, and that no
/// machine sends.
#[test]
fn a_snapshot_is_known_to_every_machine() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    let nothing = run(a, &["snapshot", "too-early"], 1);
    assert!(nothing.err.contains("push first"), "{}", nothing.err);
    a.write("notes.md", "one\n").unwrap();
    run(a, &["push"], 0);
    let made = json(a, &["snapshot", "verify-test"], 0);
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.ends_with("Z-verify-test") && !id.contains(':'), "{id}");
    assert_eq!(made["record"], 1);
    run(b, &["pull"], 0);
    assert!(index(a).contains(&id));
    assert_eq!(index(a), index(b));
    // It is each machine's own, so there is nothing to send.
    assert_eq!(json(a, &["push"], 0)["outcome"], "nothing");

    // Another one, of an earlier record, with the same label.
    a.write("notes.md", "two\n").unwrap();
    run(a, &["push"], 0);
    // Names go by the second.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let other = json(b, &["snapshot", "verify-test", "--at", "1"], 0);
    assert_eq!(other["record"], 1);
    let listed = json(a, &["snapshot", "list"], 0);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let ambiguous = run(a, &["snapshot", "show", "verify-test"], 1);
    assert!(
        ambiguous.err.contains("name one in full"),
        "{}",
        ambiguous.err
    );
    let shown = json(a, &["snapshot", "show", &id], 0);
    assert_eq!(shown["manifest"]["files"]["notes.md"]["size"], 4);
    let old = run(a, &["cat", "notes.md", "--at", &id], 0);
    assert_eq!(old.out, "one\n");

    // A machine's key can remove nothing from history.
    let refused = run(a, &["snapshot", "delete", &id], 5);
    assert!(refused.err.contains("own"), "{}", refused.err);
    run(
        a,
        &["snapshot", "delete", "2026-01-01T00-00-00Z-nobodys"],
        1,
    );
    run(b, &["snapshot", "lone"], 0);
    for (name, told) in [
        ("lone", "in full: `statehold snapshot delete 2"),
        ("nobodys", "snapshot list"),
    ] {
        let refused = run(a, &["snapshot", "delete", name], 1).err;
        assert!(refused.contains(told), "{refused}");
    }
    for bad in ["", "with space", "a/b", "a:b", "-x", ".hidden", "ends."] {
        let told = a.run(&["snapshot", bad]).unwrap();
        assert_eq!(told.code, Some(2), "{bad:?}: {}", told.err);
    }
    // What somebody else put there is kept.
    fs::write(a.root.join(".statehold/log/snapshots.ndjson"), "mine\n").unwrap();
    run(a, &["pull"], 0);
    run(b, &["pull"], 0);
    assert_eq!(index(a), index(b));
    let kept = fs::read_dir(a.root.join(".statehold/log")).unwrap();
    let kept = kept.filter(|item| {
        let path = item.as_ref().unwrap().path();
        fs::read(path).unwrap() == b"mine\n"
    });
    assert_eq!(kept.count(), 1);
}

/// Goal: every version of a file can be seen and read, deletions and rollbacks included.
#[test]
fn every_version_is_listed_and_readable() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    for content in ["first", "second", "third"] {
        a.write("memory/notes.md", content).unwrap();
        run(a, &["push"], 0);
    }
    fs::remove_file(a.root.join("memory/notes.md")).unwrap();
    run(a, &["push"], 0);
    let versions = json(b, &["versions", "memory/notes.md"], 0);
    let what: Vec<&str> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["is"].as_str().unwrap())
        .collect();
    assert_eq!(what, ["deleted", "file", "file", "file"]);
    for (version, content) in versions.as_array().unwrap()[1..]
        .iter()
        .zip(["third", "second", "first"])
    {
        let record = version["record"].to_string();
        assert_eq!(
            run(b, &["cat", "memory/notes.md", "--at", &record], 0).out,
            content
        );
    }
    let time = versions[2]["time"].as_str().unwrap();
    let then = run(b, &["cat", "memory/notes.md", "--at", time], 0);
    assert_eq!(then.out, "second");
    let changed = run(b, &["diff", "--from", "1", "--to", time], 0);
    assert!(
        changed.out.contains("-first") && changed.out.contains("+second"),
        "{}",
        changed.out
    );
    let early = run(b, &["cat", "memory/notes.md", "--at", "2 hours ago"], 1);
    assert!(
        early.err.contains("the first record is of"),
        "{}",
        early.err
    );
    run(b, &["cat", "memory/notes.md", "--at", "in 3 hours"], 2);
    run(b, &["versions", "nobody/knows"], 1);
    a.write("memory/more.md", "x").unwrap();
    run(a, &["push"], 0);
    let folder = run(a, &["versions", "memory"], 1);
    assert!(
        folder.err.contains("statehold log memory"),
        "{}",
        folder.err
    );
    assert_eq!(
        json(b, &["log", "memory/notes.md"], 0)
            .as_array()
            .unwrap()
            .len(),
        4
    );
    assert_eq!(json(b, &["log", "-n", "2"], 0).as_array().unwrap().len(), 2);
    run(b, &["log", "-n", "0"], 2);
    let folder = run(b, &["cat", "memory"], 1);
    assert!(folder.err.contains("is a folder"), "{}", folder.err);
}

/// Goal: a rollback needs both confirmations, is one record, brings every machine back byte for byte,
/// and can itself be rolled back.
#[test]
fn a_rollback_brings_every_machine_back() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    a.write("kept", "kept").unwrap();
    a.write("changed", "before").unwrap();
    a.write("folder/gone", "comes back").unwrap();
    run(a, &["push"], 0);
    let good = files(a);
    let made = json(a, &["snapshot", "good"], 0);
    let id = made["id"].as_str().unwrap();
    a.write("changed", "after").unwrap();
    a.write("new", "new").unwrap();
    fs::remove_dir_all(a.root.join("folder")).unwrap();
    a.write("folder", "a file where a folder was").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    let bad = files(a);
    assert_eq!(files(b), bad);

    let refusal = |machine: &RealMachine, arguments: &[&str]| {
        let told = run(machine, arguments, 1);
        let wanted = format!(
            "refusing to roll back: needs --apply and --confirm-label=good, exactly as in 'statehold \
             snapshot show {id}'"
        );
        assert!(told.err.contains(&wanted), "{}", told.err);
        told
    };
    let shown = refusal(b, &["rollback", id]);
    for line in [
        "put back      changed",
        "put back      folder/gone",
        "take away     new",
    ] {
        assert!(shown.out.contains(line), "{line}: {}", shown.out);
    }
    refusal(b, &["rollback", id, "--apply"]);
    let plan = json(b, &["rollback", id], 1);
    assert!(
        plan["error"]
            .as_str()
            .unwrap()
            .contains("--confirm-label=good")
    );
    assert_eq!(plan["changes"]["take_away"][1], "new", "{plan}");
    refusal(b, &["rollback", id, "--apply", "--confirm-label=Good"]);
    refusal(b, &["rollback", id, "--confirm-label=good"]);
    let unknown = run(b, &["rollback", "2026-01-01T00-00-00Z-x", "--apply"], 1);
    assert!(
        unknown.err.contains("statehold snapshot list"),
        "{}",
        unknown.err
    );
    let number = run(b, &["rollback", "1"], 1);
    assert!(number.err.contains("rollback --to 1"), "{}", number.err);
    assert_eq!(
        json(a, &["log"], 0).as_array().unwrap().len(),
        3,
        "nothing was written"
    );

    let done = json(b, &["rollback", id, "--apply", "--confirm-label=good"], 0);
    assert_eq!(done["record"], 4);
    assert_eq!(files(b), good);
    run(a, &["pull"], 0);
    assert_eq!(files(a), good);
    let again = run(b, &["rollback", id, "--apply", "--confirm-label=good"], 0);
    assert!(
        again.out.contains("Nothing has changed since"),
        "{}",
        again.out
    );

    // Back to what it kept.
    let before = done["before"].as_str().unwrap();
    let label = "--confirm-label=before-rollback";
    run(a, &["rollback", before, "--apply", label], 0);
    assert_eq!(files(a), bad);
    run(
        a,
        &[
            "rollback",
            "--to",
            "1",
            "--apply",
            "--confirm-label=record-1",
        ],
        0,
    );
    assert_eq!(files(a), good);
    run(b, &["pull"], 0);
    assert_eq!(files(b), good);
    let kinds: Vec<Value> = json(b, &["log"], 0)
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["kind"].clone())
        .collect();
    assert_eq!(
        kinds,
        [
            "rollback", "rollback", "rollback", "push", "snapshot", "push"
        ]
    );
}

/// Goal: a rollback that is killed has happened on all machines or on none, and the next command settles it.
/// Method: `kill -9` later and later in a run, from its start to past its end; another machine looks, the killed one
/// goes on.
#[test]
fn a_killed_rollback_has_happened_or_has_not() {
    const STEPS: u32 = 16;
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    for round in ["good", "bad"] {
        for file in 0..150 {
            a.write(&format!("d{}/f{file}", file % 7), round).unwrap();
        }
        run(a, &["push"], 0);
    }
    let label = |to: u64| format!("--confirm-label=record-{to}");
    let bad = files(a);
    run(b, &["pull"], 0);
    let begun = Instant::now();
    run(a, &["rollback", "--to", "1", "--apply", &label(1)], 0);
    let whole = begun.elapsed() * 5 / 4;
    let good = files(a);
    let mut shown = 1;
    let (mut had_happened, mut had_not) = (0, 0);
    for step in 0..STEPS {
        let to = 3 - shown;
        let command = a.command(&["rollback", "--to", &to.to_string(), "--apply", &label(to)]);
        let running = a.start(command, "").unwrap();
        std::thread::sleep(whole * step / STEPS);
        running.kill().unwrap();
        run(b, &["pull"], 0);
        let seen = files(b);
        assert!(
            seen == good || seen == bad,
            "step {step}: half of it is there"
        );
        if (seen == good) == (to == 1) {
            had_happened += 1;
        } else {
            had_not += 1;
        }
        // What was under way when it was killed may still land, and is then taken in whole.
        run(a, &["sync"], 0);
        run(b, &["pull"], 0);
        assert!(files(a) == files(b), "step {step}: they differ");
        shown = if files(a) == good { 1 } else { 2 };
        assert!(files(a) == good || files(a) == bad, "step {step}");
    }
    assert!(had_happened > 0 && had_not > 0, "{had_happened}, {had_not}");
}

/// Goal: what was never pushed is not lost by a rollback.
#[test]
fn a_rollback_leaves_what_was_never_pushed() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    a.write("shared", "one").unwrap();
    run(a, &["push"], 0);
    a.write("shared", "two").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    b.write("shared", "mine, not pushed").unwrap();
    b.write("only here", "mine").unwrap();
    let told = run(
        b,
        &[
            "rollback",
            "--to",
            "1",
            "--apply",
            "--confirm-label=record-1",
        ],
        3,
    );
    assert!(told.err.contains("never pushed"), "{}", told.err);
    assert_eq!(b.read("shared").unwrap(), b"mine, not pushed");
    assert_eq!(b.read("only here").unwrap(), b"mine");
    run(a, &["pull"], 0);
    assert_eq!(a.read("shared").unwrap(), b"one");
}

/// Goal: undo takes back the last push in the repository, and the last pull here.
#[test]
fn undo_takes_back_a_push_or_a_pull() {
    let two = Two::new();
    let (a, b) = (&two.a, &two.b);
    let nothing = run(a, &["undo"], 1);
    assert!(
        nothing.err.contains("nothing was pushed or pulled"),
        "{}",
        nothing.err
    );
    a.write("notes", "one").unwrap();
    a.write("gone", "gone").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    let good = files(a);

    // A push.
    a.write("notes", "two").unwrap();
    a.write("new", "new").unwrap();
    fs::remove_file(a.root.join("gone")).unwrap();
    run(a, &["push"], 0);
    let pushed = files(a);
    assert_eq!(json(a, &["undo", "--dry"], 0)["outcome"], "dry");
    assert_eq!(files(a), pushed);
    run(a, &["undo"], 0);
    assert_eq!(files(a), good);
    // And that as well.
    run(a, &["undo"], 0);
    assert_eq!(files(a), pushed);

    // A pull: here alone.
    run(b, &["pull"], 0);
    assert_eq!(files(b), pushed);
    b.write("new", "changed here since").unwrap();
    let told = run(b, &["undo"], 0);
    assert!(told.err.contains("new: changed here since"), "{}", told.err);
    assert_eq!(b.read("notes").unwrap(), b"one");
    assert_eq!(b.read("gone").unwrap(), b"gone");
    assert_eq!(b.read("new").unwrap(), b"changed here since");
    assert_eq!(
        run(a, &["cat", "notes"], 0).out,
        "two",
        "the repository is as it was"
    );

    // What others have changed since stays theirs.
    a.write("notes", "three").unwrap();
    a.write("own", "own").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull", "--on-conflict", "remote"], 0);
    b.write("notes", "four").unwrap();
    run(b, &["push"], 0);
    let told = run(a, &["undo"], 0);
    assert!(told.err.contains("notes: changed since"), "{}", told.err);
    assert_eq!(a.read("notes").unwrap(), b"four");
    assert!(a.read("own").is_err());
}

/// Goal: undo takes back the pull that came last, and not the push before it, also where what was pulled lies before
/// that push in the log.
/// Method: nothing comes after the push, or something does; or what is noted for it is lost.
#[test]
fn undo_takes_back_a_pull_of_what_came_before_a_push() {
    for (comes_later, is_lost) in [(false, false), (true, false), (false, true)] {
        let two = Two::new();
        let (a, b) = (&two.a, &two.b);
        a.write("notes", "one").unwrap();
        a.write("gone", "gone").unwrap();
        run(a, &["push"], 0);
        run(b, &["pull"], 0);
        a.write("notes", "two").unwrap();
        a.write("new", "new").unwrap();
        fs::remove_file(a.root.join("gone")).unwrap();
        run(a, &["push"], 0);
        b.write("own", "own").unwrap();
        run(b, &["push"], 0);
        let before = files(b);
        if comes_later {
            a.write("late", "late").unwrap();
            run(a, &["push"], 0);
        }
        run(b, &["pull"], 0);
        assert_eq!(b.read("notes").unwrap(), b"two");
        if is_lost {
            fs::remove_file(b.root.join(".statehold/replaced.json")).unwrap();
            let pulled = files(b);
            let told = run(b, &["undo"], 0);
            assert!(told.out.contains("nothing to take back"), "{}", told.out);
            assert_eq!(files(b), pulled);
            continue;
        }
        let told = run(b, &["undo"], 0);
        assert!(told.out.starts_with("The pull of"), "{}", told.out);
        assert_eq!(files(b), before, "{}", told.out);
        assert_eq!(run(a, &["cat", "own"], 0).out, "own");
        let again = run(b, &["undo"], 0);
        assert!(again.out.contains("nothing to take back"), "{}", again.out);
        assert_eq!(files(b), before);
    }
}

/// Goal: what a key's role does not reach is refused, and leaves nothing in the way of the next push.
#[test]
fn a_role_too_low_leaves_nothing_in_the_way() {
    let two = Two::new();
    let a = &two.a;
    a.write("x", "x").unwrap();
    run(a, &["push"], 0);
    let made = json(a, &["snapshot", "kept"], 0);
    let id = made["id"].as_str().unwrap();
    let refused: [&[&str]; 3] = [
        &["snapshot", "delete", id],
        &["forget", "--keep-within", "90"],
        &["fence", "--apply", "--confirm-label=epoch-0"],
    ];
    for (round, arguments) in refused.into_iter().enumerate() {
        let told = run(a, arguments, 5);
        assert!(told.err.contains("takes the role own"), "{}", told.err);
        a.write("x", format!("{round}")).unwrap();
        let pushed = run(a, &["push"], 0);
        assert!(pushed.out.contains("1 file"), "{}", pushed.out);
    }
    assert_eq!(run(&two.b, &["cat", "x"], 0).out, "2");
}
