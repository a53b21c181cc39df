//! Each verb on its own: what scripts read, what people read, and the smaller verbs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::world::{Two, installation, json, run};

#[test]
fn every_verb_speaks_json() {
    let Two {
        gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x.md", "x\n").unwrap();
    for (arguments, field) in [
        (&["status"][..], "outgoing"),
        (&["push", "--dry"], "actions"),
        (&["push"], "outcome"),
        (&["pull"], "outcome"),
        (&["sync"], "outcome"),
        (&["cat", "x.md"], "content"),
        (&["restore", "x.md"], "take_over"),
        (&["export", "../x.tar.zst"], "paths"),
        (&["completions", "bash"], "script"),
        (&["man", "manual"], "folder"),
        (&["unlink"], "unlinked"),
        (&["unlink"], "unlinked"),
    ] {
        let said = json(&a, arguments, 0);
        assert!(said.get(field).is_some(), "{arguments:?}: {said}");
    }
    run(&b, &["pull"], 0);
    for (arguments, field) in [
        (&["log"][..], "number"),
        (&["log", "x.md"], "changed"),
        (&["machines", "list"], "key"),
        (&["diff", "--to", "1"], "change"),
        (&["doctor"], "check"),
    ] {
        let said = json(&b, arguments, 0);
        assert!(said[0].get(field).is_some(), "{arguments:?}: {said}");
    }
    let url = gateway.url.as_str();
    let operator = installation.operator().unwrap();
    let key = operator.home.join("made.key");
    let key = key.to_str().unwrap();
    for arguments in [
        &["admin", "invite"][..],
        &["admin", "key", "--label", "made", "--to", key],
        &["admin", "keys"],
        &["admin", "tenant", "add", "acme"],
        &["admin", "tenant", "list"],
    ] {
        json(&operator, &[arguments, &["--gateway", url]].concat(), 0);
    }
    let keys = json(&operator, &["admin", "keys", "--gateway", url], 0);
    let made = keys.as_array().unwrap().iter();
    let made = made.clone().find(|key| key["label"] == "made").unwrap();
    let made = made["key"].as_str().unwrap();
    json(&operator, &["admin", "revoke", made, "--gateway", url], 0);
    let refused = json(&operator, &["push"], 1);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("statehold init")
    );
    let fresh = installation.machine("carl").unwrap();
    assert!(json(&fresh, &["init"], 0).get("workspace").is_some());
    let link = ["link", url, "--json"];
    let invite = installation.invite(&gateway).unwrap();
    let linked = fresh.run_with(&link, &invite).unwrap();
    assert!(linked.json().unwrap().get("url").is_some());
}

#[test]
fn differences_are_shown_like_diff_does() {
    let Two {
        a,
        b,
        gateway: _gateway,
        installation: _installation,
    } = Two::new();
    a.write("notes.md", "one\ntwo\nthree\n").unwrap();
    a.write("old.md", "gone soon\n").unwrap();
    a.write("picture", b"\x89PNG\0\x01").unwrap();
    run(&a, &["push"], 0);
    assert_eq!(run(&a, &["diff", "--exit-code"], 0).out, "");
    a.write("notes.md", "one\n2\nthree\n").unwrap();
    a.write("new.md", "hello\n").unwrap();
    a.write("picture", b"\x89PNG\0\x02").unwrap();
    fs::remove_file(a.path("old.md")).unwrap();
    let expected = "\
--- /dev/null
+++ new.md\t(SIDE)
@@ -0,0 +1 @@
+hello
--- notes.md\t(record 1)
+++ notes.md\t(SIDE)
@@ -1,3 +1,3 @@
 one
-two
+2
 three
--- old.md\t(record 1)
+++ /dev/null
@@ -1 +0,0 @@
-gone soon
picture is modified: binary, 6 B
";
    let shown = run(&a, &["diff", "--exit-code"], 1).out;
    assert_eq!(shown, expected.replace("SIDE", "this folder"));
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    for arguments in [
        &["diff", "--to", "2"][..],
        &["diff", "--from", "1", "--to", "2"],
    ] {
        let shown = run(&b, arguments, 0).out;
        assert_eq!(shown, expected.replace("SIDE", "record 2"));
    }
    assert!(
        run(&b, &["diff", "new.md", "--from", "1"], 0)
            .out
            .contains("+hello")
    );
    let listed = json(&b, &["diff", "--to", "2"], 0);
    let listed: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["change"].as_str())
        .collect();
    let changes = ["added", "modified", "deleted", "modified"];
    assert_eq!(listed, changes.map(Some));
    let missing = run(&b, &["diff", "--to", "9"], 1);
    assert!(missing.err.contains("no record 9"), "{}", missing.err);
}

/// Goal: the exit code is the number of failed checks, and each says what to do.
/// Method: a healthy workspace first, then one fault after another, each counted.
#[test]
fn the_doctor_counts_what_is_wrong() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation: _installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let healthy = run(&a, &["doctor"], 0);
    for check in [
        "gateway", "clock", "key", "rules", "ignore", "index", "journal", "staging",
    ] {
        assert!(
            healthy.out.contains(&format!("ok    {check}")),
            "{}",
            healthy.out
        );
    }
    let silent = run(&a, &["doctor", "--silent"], 0);
    assert_eq!((silent.out.as_str(), silent.err.as_str()), ("", ""));

    let next = |check: &str, wrong: i32| {
        let ran = run(&a, &["doctor", "--silent"], wrong);
        assert!(ran.err.contains(&format!("FAIL  {check}")), "{}", ran.err);
        assert_eq!(ran.out, "");
    };
    a.write("Twin.md", "1").unwrap();
    a.write("a:b", "2").unwrap();
    run(&a, &["push"], 0);
    // Nobody here knows whether a machine with Windows shares the repository.
    let noted = run(&a, &["doctor"], 0);
    assert!(noted.out.contains("note  windows   a:b"), "{}", noted.out);
    assert_eq!(run(&a, &["doctor", "--silent"], 0).err, "");
    a.write("twin.md", "3").unwrap();
    run(&a, &["push"], 0);
    next("twins", 1);
    let rules = r#"{"strict_prefixes":["state/log/"]}"#;
    a.write(".statehold/sync-rules.json", rules).unwrap();
    a.write("state/log/new.txt", "4").unwrap();
    next("coverage", 2);
    a.write(".statehold/staging/left", "half").unwrap();
    next("staging", 3);
    // Without an index nobody knows the names in the repository.
    a.write(".statehold/index", "nonsense").unwrap();
    next("index", 3);
    // And without rules or an ignore file the folder cannot be looked at.
    a.write(".stateholdignore", "a{b").unwrap();
    next("ignore", 3);
    a.write(".statehold/sync-rules.json", "{").unwrap();
    next("rules", 4);
    gateway.kill().unwrap();
    next("gateway", 5);
    let mut keys = fs::read_dir(a.home.join("config/statehold/keys")).unwrap();
    let key = keys.next().unwrap().unwrap().path();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    // The key fails instead of the gateway, which nobody can be asked about without one.
    next("key", 5);
    a.write(".statehold/settings.json", "{").unwrap();
    let broken = run(&a, &["doctor"], 1);
    assert!(broken.err.contains("settings.json"), "{}", broken.err);

    let nowhere = installation().machine("nobody").unwrap();
    drop(nowhere);
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    run(&a, &["-C", folder, "doctor"], 201);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let installation = installation();
    let machine = installation.machine("anna").unwrap();
    run(&machine, &["man", "manual"], 0);
    let page = String::from_utf8(machine.read("manual/statehold-push.1").unwrap()).unwrap();
    assert!(page.contains("whole or not at all"), "{page}");
    assert!(machine.path("manual/statehold.1").exists());
    for verb in ["push", "pull", "sync"] {
        let help = run(&machine, &[verb, "--help"], 0).out;
        assert!(help.contains("--limit-rate"), "{help}");
    }
    for command in [
        "push",
        "pull",
        "sync",
        "unlink",
        "rules",
        "rules show",
        "rules check",
        "rules explain",
        "admin",
        "admin key",
        "admin invite",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run(&machine, &words, 0).out;
        assert!(help.contains("Example"), "{help}");
    }
    let abouts = ["push", "pull", "sync"].map(|verb| {
        let help = run(&machine, &[verb, "--help"], 0).out;
        help.lines().next().unwrap_or_default().to_owned()
    });
    assert!(
        abouts[0] != abouts[1] && abouts[1] != abouts[2],
        "{abouts:?}"
    );
}
