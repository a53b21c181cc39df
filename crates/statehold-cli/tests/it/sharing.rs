//! What two machines do all day: push, pull, look, and disagree.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::world::{Two, installation, json, run};

#[test]
fn what_one_machine_pushes_the_other_pulls() {
    let Two {
        gateway,
        a,
        b,
        installation: _installation,
    } = Two::new();
    a.write("memory/notes.md", "first\n").unwrap();
    a.write("skills/run.sh", "#!/bin/sh\n").unwrap();
    fs::set_permissions(a.path("skills/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    a.write("empty", "").unwrap();

    let before = run(&a, &["status"], 0);
    assert!(before.out.contains("to push     3 added"), "{}", before.out);
    run(&a, &["status", "--exit-code"], 1);
    let pushed = run(&a, &["push"], 0);
    assert!(pushed.out.contains("now at record 1"), "{}", pushed.out);
    assert!(run(&a, &["push"], 0).out.contains("nothing to do"));
    run(&a, &["status", "--exit-code"], 0);

    run(&b, &["pull"], 0);
    assert_eq!(b.read("memory/notes.md").unwrap(), b"first\n");
    assert_eq!(b.read("empty").unwrap(), b"");
    let mode = fs::metadata(b.path("skills/run.sh")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o111, 0o111);
    assert!(run(&b, &["pull"], 0).out.contains("nothing to do"));

    b.write("memory/notes.md", "second\n").unwrap();
    fs::remove_file(b.path("empty")).unwrap();
    run(&b, &["sync"], 0);
    run(&a, &["sync"], 0);
    assert_eq!(a.read("memory/notes.md").unwrap(), b"second\n");
    assert!(!a.path("empty").exists());

    let log = run(&a, &["log", "memory/notes.md"], 0);
    assert_eq!(log.out.lines().count(), 2, "{}", log.out);
    assert_eq!(run(&a, &["cat", "memory/notes.md"], 0).out, "second\n");
    assert_eq!(
        run(&a, &["cat", "memory/notes.md", "--at", "1"], 0).out,
        "first\n"
    );
    assert_eq!(gateway.answers_from(500).unwrap(), 0);
    assert!(gateway.stop().unwrap().success());
}

/// Goal: a path that both changed is told by name with exit code 3, and neither side loses it.
/// Method: both edit one file; the second push, a look at both sides, and each way to decide.
#[test]
fn a_conflict_is_named_and_loses_nothing() {
    let Two {
        a,
        b,
        gateway: _gateway,
        installation: _installation,
    } = Two::new();
    a.write("memory/shared.md", "base\n").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    a.write("memory/shared.md", "from a\n").unwrap();
    b.write("memory/shared.md", "from b\n").unwrap();
    b.write("only-b.md", "b\n").unwrap();
    run(&a, &["push"], 0);

    let told = run(&b, &["push"], 3);
    let line = "conflict      memory/shared.md: changed on both sides";
    assert!(told.out.contains(line), "{}", told.out);
    assert_eq!(b.read("memory/shared.md").unwrap(), b"from b\n");
    // Whole or not at all: the file that is in nobody's way didn't go either.
    assert!(!run(&a, &["log"], 0).out.contains("only-b.md"));
    assert_eq!(run(&a, &["cat", "memory/shared.md"], 0).out, "from a\n");
    let told = json(&b, &["push"], 3);
    assert_eq!(told["conflicts"][0]["path"], "memory/shared.md");

    // What is in nobody's way arrives, and it isn't said that nothing did.
    a.write("only-a.md", "a\n").unwrap();
    run(&a, &["push"], 0);
    let pulled = run(&b, &["pull"], 3).out;
    assert!(b.path("only-a.md").exists());
    assert!(pulled.contains("pull: 1 file, "), "{pulled}");
    assert!(
        pulled.contains("1 conflict, and there both sides"),
        "{pulled}"
    );

    let taken = json(&b, &["pull", "--on-conflict", "remote"], 0);
    assert_eq!(b.read("memory/shared.md").unwrap(), b"from a\n");
    let aside = taken["set_aside"][0].as_str().unwrap();
    assert_eq!(fs::read(aside).unwrap(), b"from b\n");
    run(&b, &["push"], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("only-b.md").unwrap(), b"b\n");
}

#[test]
fn a_lost_laptop_is_shut_out_within_five_seconds() {
    let Two {
        gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    // The owner's own machine: it may revoke others.
    let owner = installation.machine("owner").unwrap();
    run(&owner, &["init"], 0);
    let key = installation
        .operator()
        .unwrap()
        .home
        .join("config/statehold/keys/operator");
    let key = key.to_str().unwrap();
    let link = ["link", &gateway.url, "--key-file", key, "--role", "own"];
    run(&owner, &link, 0);

    let machines = json(&owner, &["machines", "list"], 0);
    let lost = machines.as_array().unwrap().iter();
    let lost = lost.clone().find(|key| key["label"] == "bert").unwrap()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let renamed = run(&owner, &["machines", "rename", &lost, "old laptop"], 0);
    assert!(renamed.out.contains("old laptop"));
    // What may only push can't shut others out.
    let refused = run(&a, &["machines", "revoke", &lost], 5);
    assert!(refused.err.contains("denied"), "{}", refused.err);
    run(&b, &["pull"], 0);

    run(&owner, &["machines", "revoke", &lost], 0);
    let revoked = Instant::now();
    loop {
        let ran = b.run(&["pull"]).unwrap();
        if ran.code == Some(5) {
            assert!(ran.err.contains("hint:"), "{}", ran.err);
            break;
        }
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(revoked.elapsed() < Duration::from_secs(5), "still let in");
    }
    run(&a, &["pull"], 0);
}

#[test]
fn unlinking_ends_the_key_and_leaves_the_files() {
    let Two {
        gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("kept.md", "kept\n").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    run(&b, &["unlink"], 0);
    assert_eq!(b.read("kept.md").unwrap(), b"kept\n");
    let refused = run(&b, &["pull"], 1);
    assert!(refused.err.contains("statehold link"), "{}", refused.err);
    assert!(run(&b, &["unlink"], 0).out.contains("not linked"));
    let machines = json(&a, &["machines", "list"], 0);
    let row = machines.as_array().unwrap().iter();
    let row = row.clone().find(|key| key["label"] == "bert").unwrap();
    assert!(
        row["revoked"].is_number() || row["revoked"].is_string(),
        "{row}"
    );

    // It can come back, with a new invite and nothing in conflict.
    let invite = installation.invite(&gateway).unwrap();
    b.run_with(&["link", &gateway.url], &invite)
        .unwrap()
        .expect(0)
        .unwrap();
    assert!(run(&b, &["sync"], 0).out.contains("nothing to do"));
}

#[test]
fn a_folder_serves_without_a_gateway() {
    let installation = installation();
    let url = format!("file://{}", installation.path("shared").display());
    let [a, b] = ["anna", "bert"].map(|name| {
        let machine = installation.machine(name).unwrap();
        run(&machine, &["init"], 0);
        run(&machine, &["link", &url], 0);
        machine
    });
    a.write("notes.md", "over a folder\n").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["sync"], 0);
    assert_eq!(b.read("notes.md").unwrap(), b"over a folder\n");

    // A folder that isn't mounted must not become another repository.
    fs::rename(installation.path("shared"), installation.path("away")).unwrap();
    let gone = run(&b, &["pull"], 6);
    assert!(gone.err.contains("mounted"), "{}", gone.err);
    assert!(!installation.path("shared").exists());
    fs::create_dir(installation.path("shared")).unwrap();
    run(&b, &["pull"], 6);
    fs::remove_dir_all(installation.path("shared")).unwrap();
    fs::rename(installation.path("away"), installation.path("shared")).unwrap();
    run(&b, &["pull"], 0);

    // One that was set back to an older copy gets nothing appended behind the gap.
    let record = installation.path("shared/log/00000000000000000001");
    fs::rename(&record, installation.path("newest")).unwrap();
    b.write("more.md", "more\n").unwrap();
    for verb in ["push", "pull", "status"] {
        let set_back = run(&b, &[verb], 7);
        assert!(set_back.err.contains("older copy"), "{}", set_back.err);
    }
    assert_eq!(
        fs::read_dir(installation.path("shared/log"))
            .unwrap()
            .count(),
        0
    );
    fs::rename(installation.path("newest"), &record).unwrap();
    run(&b, &["push"], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("more.md").unwrap(), b"more\n");
}

#[test]
fn another_gateway_on_the_same_store_knows_all_keys() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("before", "1").unwrap();
    run(&a, &["push"], 0);
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    a.write("meanwhile", "2").unwrap();
    let gone = run(&a, &["push"], 6);
    assert!(gone.err.contains("not available"), "{}", gone.err);
    assert!(gone.err.contains("hint: "), "{}", gone.err);
    let _next = installation.serve_at("vault", &address).unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("meanwhile").unwrap(), b"2");
}

#[test]
fn a_rate_is_kept() {
    let Two {
        a,
        gateway: _gateway,
        b,
        installation: _installation,
    } = Two::new();
    // Above what rides inside a record, and of a kind that no codec makes smaller.
    let noise = statehold_testkit::environment::SeededEntropy::new(5).bytes(600_000);
    a.write("noise", noise).unwrap();
    let more = statehold_testkit::environment::SeededEntropy::new(6).bytes(400_000);
    a.write("more", &more).unwrap();
    run(&a, &["push", "--limit-rate", "lots"], 2);
    let started = Instant::now();
    run(&a, &["push", "--limit-rate", "300k"], 0);
    // The pack takes three seconds of the rate, which the record then waits for.
    assert!(started.elapsed() >= Duration::from_millis(3_200));
    let started = Instant::now();
    run(&b, &["pull", "--limit-rate", "300k"], 0);
    // The last piece that is asked for is the larger file at most.
    assert!(started.elapsed() >= Duration::from_millis(1_200));
    assert_eq!(b.read("more").unwrap(), more);
}

/// Goal: the rules of a repository are its owner's, and a machine that edits them is told so.
/// Method: one machine with a push key edits them by hand and in a hook, one with an owner's key does.
#[test]
fn only_an_owner_changes_the_shared_rules() {
    let installation = installation();
    let store = installation.path("shared");
    let gateway = installation.serve(store.to_str().unwrap()).unwrap();
    let operator = installation.operator().unwrap();
    let key = operator.home.join("config/statehold/keys/operator");
    let key = key.to_str().unwrap();
    let [machine, owner] = [("anna", "push"), ("bert", "own")].map(|(name, role)| {
        let machine = installation.machine(name).unwrap();
        run(&machine, &["init", "--preset", "agent"], 0);
        let link = ["link", &gateway.url, "--key-file", key, "--role", role];
        run(&machine, &link, 0);
        machine
    });
    let rules = "state/bin/sync/sync-rules.json";
    machine.write(rules, r#"{"SYNC_DENY":[]}"#).unwrap();
    machine.write("memory/note.md", "kept\n").unwrap();
    let refused = run(&machine, &["push"], 1);
    assert!(
        refused.err.contains(rules) && refused.err.contains("--role own"),
        "{}",
        refused.err
    );
    let partial = json(&machine, &["push", "--auto", "--scope", "all"], 4);
    assert_eq!(partial["reserved"][0], rules);
    run(&owner, &["pull"], 0);
    assert!(owner.path("memory/note.md").exists() && !owner.path(rules).exists());
    owner
        .write(rules, r#"{"SYNC_DENY":["private/**"]}"#)
        .unwrap();
    run(&owner, &["push"], 0);
}

/// Goal: a machine learns by itself what a gateway can do since it was updated.
/// Method: what the gateway said is made to come from an earlier version without `/_pull`.
#[test]
fn what_an_earlier_version_of_the_gateway_said_is_asked_again() {
    let Two { gateway, a, b, .. } = &Two::new();
    let kept = b.path(".statehold/gateway.json");
    let said =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap() };
    let now = said();
    assert!(now["limits"]["pull_content_bytes"].as_u64().unwrap() > 0);
    let mut earlier = now.clone();
    earlier["version"] = "0.0.9".into();
    let limits = earlier["limits"].as_object_mut().unwrap();
    limits.remove("pull_content_bytes").unwrap();
    limits.remove("push_bytes").unwrap();
    run(b, &["pull"], 0);
    fs::write(&kept, earlier.to_string()).unwrap();
    let asked = |verb: &str| {
        let before = gateway.answers().unwrap();
        a.write("notes", format!("{before}")).unwrap();
        run(a, &["push"], 0);
        let before = gateway.answers().unwrap();
        run(b, &[verb], 0);
        gateway.answers().unwrap() - before
    };
    // Records and content apart; then what the gateway can do is asked first, and once.
    assert_eq!(asked("pull"), 2);
    assert!(!kept.exists());
    assert_eq!(asked("pull"), 2);
    assert_eq!(said(), now);
    assert_eq!(asked("pull"), 1);
}

/// Goal: a machine that may only read is told so when it pushes, and goes on reading whatever it tried.
/// Method: it pushes by its known role, then by one that `gateway.json` has wrong, so that the gateway
/// itself turns the push away and leaves it in the journal.
#[test]
fn a_machine_that_may_only_read_is_told_and_goes_on_reading() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let writer = installation.linked("anna", &gateway).unwrap();
    let operator = installation.operator().unwrap();
    let key = operator.home.join("config/statehold/keys/operator");
    let reader = installation.machine("bert").unwrap();
    run(&reader, &["init"], 0);
    fs::remove_file(reader.path(".stateholdignore")).unwrap();
    let key = key.to_str().unwrap();
    let link = ["link", &gateway.url, "--key-file", key, "--role", "read"];
    run(&reader, &link, 0);
    writer.write("news", "0").unwrap();
    run(&writer, &["push"], 0);
    reader.write("mine", "mine").unwrap();

    let journal = reader.path(".statehold/journal/push");
    for push in [&["push"][..], &["push", "--dry"], &["push", "--auto"]] {
        let answers = gateway.answers().unwrap();
        let refused = run(&reader, push, 5);
        assert!(refused.err.contains("the role read"), "{}", refused.err);
        assert_eq!(gateway.answers().unwrap(), answers, "{push:?}");
        assert!(!journal.exists());
    }
    run(&reader, &["pull"], 0);
    writer.write("news", "1").unwrap();
    run(&writer, &["push"], 0);
    let partial = json(&reader, &["sync"], 4);
    assert!(partial["unsent"].as_str().unwrap().contains("read"));
    assert_eq!(reader.read("news").unwrap(), b"1");

    let kept = reader.path(".statehold/gateway.json");
    let said = fs::read_to_string(&kept).unwrap();
    let wrong = said.replace("\"read\"", "\"push\"");
    assert_ne!(said, wrong);
    fs::write(&kept, &wrong).unwrap();
    run(&reader, &["push"], 5);
    assert!(journal.exists());
    for (number, verb) in ["pull", "status", "sync"].into_iter().enumerate() {
        let news = format!("after {number}");
        writer.write("news", &news).unwrap();
        run(&writer, &["push"], 0);
        // Settling it meets the gateway's own refusal, and not what is known here.
        fs::write(&kept, &wrong).unwrap();
        let ran = run(&reader, &[verb], if verb == "sync" { 4 } else { 0 });
        assert!(ran.err.contains("still to be settled"), "{}", ran.err);
        if verb != "status" {
            assert_eq!(reader.read("news").unwrap(), news.as_bytes());
        }
        assert!(journal.exists());
    }
}

/// Goal: what the rules of a repository keep out holds up nothing else, whatever a machine's own say.
/// Method: a machine with a push key loosens its copy of the rules; a plain folder, which has none, has a
/// file beneath the strict prefix. Each pushes by hand and in a hook.
#[test]
fn a_repositorys_rules_hold_up_only_what_they_keep_out() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let operator = installation.operator().unwrap();
    let key = operator.home.join("config/statehold/keys/operator");
    let owner = installation.machine("owner").unwrap();
    run(&owner, &["init", "--preset", "agent"], 0);
    let key = key.to_str().unwrap();
    let link = ["link", &gateway.url, "--key-file", key, "--role", "own"];
    run(&owner, &link, 0);
    let agent = installation.linked_as("anna", "agent", &gateway).unwrap();
    let plain = installation.linked("bert", &gateway).unwrap();
    let rules = "state/bin/sync/sync-rules.json";
    let hook = |machine, code| {
        let ran = json(
            machine,
            &["push", "--auto", "--debounce-seconds", "0"],
            code,
        );
        (
            ran["outcome"].clone(),
            ran["files"].clone(),
            ran["against_rules"].clone(),
        )
    };

    // No rules in the repository: the default ones.
    plain.write("fine", "0").unwrap();
    plain.write("state/log/foo.md", "foo").unwrap();
    let answers = gateway.answers().unwrap();
    let refused = run(&plain, &["push"], 1);
    assert!(
        refused.err.contains("state/log/foo.md: "),
        "{}",
        refused.err
    );
    assert!(refused.err.contains(".stateholdignore"), "{}", refused.err);
    assert_eq!(gateway.answers().unwrap(), answers);
    run(&plain, &["push", "--dry", "--exit-code"], 1);
    let (outcome, files, left) = hook(&plain, 4);
    assert_eq!((outcome, files), ("partial".into(), 1.into()));
    assert_eq!(left[0]["path"], "state/log/foo.md");

    // Rules of an owner, and a machine with looser ones.
    owner
        .write(rules, r#"{"SYNC_DENY":["state/private/**"]}"#)
        .unwrap();
    run(&owner, &["push"], 0);
    run(&agent, &["pull"], 0);
    agent.write("state/memory.md", "0").unwrap();
    assert_eq!(hook(&agent, 0).0, "done");
    let loose = r#"{"SYNC_ALLOW":["state/log/new.ndjson"]}"#;
    agent.write(rules, loose).unwrap();
    agent.write("state/private/x", "x").unwrap();
    agent.write("state/log/new.ndjson", "x").unwrap();
    for round in 1..3 {
        agent.write("state/memory.md", format!("{round}")).unwrap();
        let (outcome, files, left) = hook(&agent, 4);
        assert_eq!((outcome, files), ("partial".into(), 1.into()));
        let left: Vec<_> = left
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["path"])
            .collect();
        assert_eq!(left, ["state/log/new.ndjson", "state/private/x"]);
    }
    run(&owner, &["pull"], 0);
    assert_eq!(owner.read("state/memory.md").unwrap(), b"2");
    assert!(!owner.path("state/private").exists());
    assert_eq!(gateway.answers_from(400).unwrap(), 0);
}
