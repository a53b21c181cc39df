//! What is truth and what is cache: the lines of the table "Losing things" in `docs/operations.md` that
//! no smaller test shows.

use std::fs;

use crate::vault::{Direct, copy_folder, fill_with_every_kind, in_folder, linked_straight};
use crate::world::{Two, installation, json, run};

/// Goal: a repository without any of its caches is the same repository, and gets them again.
#[test]
fn caches_of_a_repository_may_be_lost() {
    let direct = Direct::new();
    let vault = direct.installation.path("vault");
    let whole = fill_with_every_kind(&vault);
    run(&direct.a, &["pull"], 0);
    let caches = ["segments", "checkpoints", "trees"];
    for (number, lost) in [&caches[..1], &caches[1..2], &caches[2..], &caches]
        .into_iter()
        .enumerate()
    {
        for kind in lost {
            assert!(
                !in_folder(&vault, kind).is_empty(),
                "there are no {kind} to lose"
            );
            fs::rename(
                vault.join(kind),
                vault.join("put-aside").with_extension(kind),
            )
            .unwrap();
        }
        let machine = linked_straight(&direct.installation, &format!("machine-{number}"));
        run(&machine, &["pull"], 0);
        for (path, content) in &whole {
            assert!(
                machine.read(path).unwrap() == *content,
                "without {lost:?}: {path}"
            );
        }
        if lost.len() == 1 {
            let aside = vault.join("put-aside").with_extension(lost[0]);
            let _made_anew = fs::remove_dir_all(vault.join(lost[0]));
            fs::rename(aside, vault.join(lost[0])).unwrap();
        }
    }
    // Whoever meets a log without them writes them anew.
    assert!(!in_folder(&vault, "checkpoints").is_empty());
    assert!(!in_folder(&vault, "trees").is_empty());
    direct.a.write("more", "more").unwrap();
    run(&direct.a, &["push"], 0);
}

/// Goal: what nothing brings back but a copy is named when it is gone, and comes back with the copy.
#[test]
fn truth_that_is_lost_is_named() {
    let direct = Direct::new();
    let vault = direct.installation.path("vault");
    let whole = fill_with_every_kind(&vault);
    let remove_caches = || {
        for cache in ["segments", "checkpoints", "trees"] {
            let _there = fs::remove_dir_all(vault.join(cache));
        }
    };
    remove_caches();
    let log = "log/00000000000000000035";
    let pack = in_folder(&vault, "packs").remove(0);
    let pack = pack.strip_prefix(&vault).unwrap().to_str().unwrap();
    for (number, object) in [log, pack].into_iter().enumerate() {
        let (there, copy) = (vault.join(object), vault.join("copy"));
        fs::rename(&there, &copy).unwrap();
        let machine = linked_straight(&direct.installation, &format!("machine-{number}"));
        let told = run(&machine, &["pull"], 7);
        assert!(told.err.contains(object), "{object}: {}", told.err);
        fs::rename(&copy, &there).unwrap();
        run(&machine, &["pull"], 0);
        for (path, content) in &whole {
            assert!(machine.read(path).unwrap() == *content, "{object}: {path}");
        }
    }
    // Machines that know the log go on; nobody makes another one over a log.
    let warm = linked_straight(&direct.installation, "warm");
    remove_caches();
    let (path, copy) = (vault.join("repository.json"), vault.join("copy"));
    fs::rename(&path, &copy).unwrap();
    run(&warm, &["pull"], 0);
    let machine = direct.installation.machine("last").unwrap();
    run(&machine, &["init"], 0);
    let link = format!("file://{}", vault.display());
    let told = run(&machine, &["link", &link], 7);
    assert!(told.err.contains("repository.json"), "{}", told.err);
    assert!(!path.exists());
    // Another in its place does not fit the log that stands there, for whoever reads it from its
    // beginning.
    let text = fs::read_to_string(&copy).unwrap();
    let (before, created) = text.split_at(text.find("\"created\"").unwrap());
    let another = created.replacen("\"20", "\"19", 1);
    assert_ne!(another, created);
    fs::write(&path, format!("{before}{another}")).unwrap();
    run(&machine, &["link", &link], 0);
    let told = run(&machine, &["pull"], 1);
    assert!(told.err.contains("record 0"), "{}", told.err);
    assert!(told.err.contains("the histories differ"), "{}", told.err);
}

/// Goal: without its control log a store has no keys, and its repositories are whole all the same.
#[test]
fn without_the_control_log_keys_are_gone_and_repositories_stay() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let vault = installation.path("vault");
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    let link: serde_json::Value =
        serde_json::from_slice(&a.read(".statehold/settings.json").unwrap()).unwrap();
    let id = link["link"]["repository_id"].as_str().unwrap();
    copy_folder(&vault.join("_control"), &installation.path("copy"));
    fs::remove_dir_all(vault.join("_control")).unwrap();
    let mut gateway = installation.serve_at("vault", &address).unwrap();
    let refused = run(&a, &["pull"], 5);
    assert!(
        refused.err.contains("a valid key is needed"),
        "{}",
        refused.err
    );
    // Anybody who reaches the store reads the repository.
    let place = fs::read_dir(&vault)
        .unwrap()
        .map(|item| item.unwrap().path());
    let place = place
        .map(|tenant| tenant.join(id))
        .find(|place| place.is_dir());
    let reader = installation.machine("reader").unwrap();
    run(&reader, &["init"], 0);
    let link = format!("file://{}", place.unwrap().display());
    run(&reader, &["link", &link], 0);
    run(&reader, &["pull"], 0);
    assert_eq!(reader.read("x").unwrap(), b"x");
    // And with the copy all is as it was.
    gateway.kill().unwrap();
    fs::remove_dir_all(vault.join("_control")).unwrap();
    fs::rename(installation.path("copy"), vault.join("_control")).unwrap();
    let _gateway = installation.serve_at("vault", &address).unwrap();
    run(&a, &["pull"], 0);
}

#[test]
fn a_store_without_its_verdict_is_probed_again() {
    let installation = installation();
    let mut gateway = installation.serve("vault").unwrap();
    gateway.kill().unwrap();
    let probes = installation.path("vault").join("probes");
    let first: Vec<_> = fs::read_dir(&probes).unwrap().collect();
    assert_eq!(first.len(), 1);
    fs::remove_dir_all(&probes).unwrap();
    let gateway = installation.serve("vault").unwrap();
    assert_eq!(fs::read_dir(&probes).unwrap().count(), 1);
    let machine = installation.linked("anna", &gateway).unwrap();
    machine.write("x", "x").unwrap();
    run(&machine, &["push"], 0);
}

#[test]
fn what_a_gateway_said_is_asked_again() {
    let Two {
        gateway,
        a,
        b,
        installation: _installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let path = a.path(".statehold/gateway.json");
    let said = fs::read(&path).unwrap();
    for broken in [
        None,
        Some(&b""[..]),
        Some(b"{}"),
        Some(&said[..said.len() / 2]),
    ] {
        match broken {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        a.write("x", format!("{broken:?}")).unwrap();
        run(&a, &["push"], 0);
        assert_eq!(fs::read(&path).unwrap(), said);
    }
    run(&b, &["pull"], 0);
    assert_eq!(a.read("x").unwrap(), b.read("x").unwrap());
    drop(gateway);
}

/// Goal: a lost key costs a new invite, and no file.
#[test]
fn a_lost_key_is_replaced_by_a_new_invite() {
    let Two {
        gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x", "before").unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    a.write("y", "not pushed yet").unwrap();
    let keys = a.home.join("config/statehold/keys");
    let key = fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(key).unwrap();
    let told = run(&a, &["push"], 5);
    assert!(
        told.err.contains("no key for this workspace"),
        "{}",
        told.err
    );
    assert!(told.err.contains("with a new invite"), "{}", told.err);
    run(&a, &["unlink"], 0);
    let invite = installation.invite(&gateway).unwrap();
    let link = ["link", &gateway.url];
    a.run_with(&link, &invite).unwrap().expect(0).unwrap();
    run(&a, &["sync"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("y").unwrap(), b"not pushed yet");
    assert_eq!(a.read("x").unwrap(), b"before");
    assert_eq!(json(&a, &["status"], 0)["conflicts"], serde_json::json!([]));
}
