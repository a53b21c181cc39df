//! `statehold replicate` and `serve --replicate-to` as an operator runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, Ran, RealMachine};

use crate::vault::moto;
use crate::world::{Two, installation, json, run};

/// A machine that is linked straight with a store in a folder, with some records in it.
fn straight(installation: &Installation, store: &Path, records: usize) -> RealMachine {
    let machine = installation.machine("straight").unwrap();
    run(&machine, &["init"], 0);
    fs::create_dir_all(store).unwrap();
    run(&machine, &["link", store.to_str().unwrap()], 0);
    let noise = SeededEntropy::new(5).bytes(900_000);
    machine.write("large", &noise).unwrap();
    for number in 0..records {
        machine.write("small", number.to_string()).unwrap();
        run(&machine, &["push"], 0);
    }
    machine
}

/// Everything in a store but what was found out about it, by key.
fn objects(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(store).unwrap().to_owned();
            let is_own = ["probes", "probe", "complete", "jobs"];
            if is_own.iter().any(|own| name.starts_with(own)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if !name.to_str().unwrap().contains('#') {
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Runs a command with further variables, and expects a code.
#[track_caller]
fn with(machine: &RealMachine, variables: &[(String, String)], words: &[&str], code: i32) -> Value {
    let mut command = machine.command(&[words, &["--json"]].concat());
    command.envs(variables.iter().cloned());
    let ran: Ran = machine.start(command, "").unwrap().finish().unwrap();
    assert_eq!(ran.code, Some(code), "{words:?}: {}{}", ran.out, ran.err);
    ran.json().unwrap()
}

#[test]
fn a_folder_is_copied_to_a_folder_and_is_a_repository_there() {
    let installation = installation();
    let (store, copy) = (installation.path("store"), installation.path("copy"));
    let machine = straight(&installation, &store, 20);
    run(&machine, &["replicate", "--check"], 1);
    let note = run(&machine, &["doctor"], 0).out;
    assert!(
        note.contains("no copy of the repository is known"),
        "{note}"
    );

    let to = copy.to_str().unwrap();
    let said = json(&machine, &["replicate", "--to", to], 0);
    let one = &said["repositories"][0];
    assert_eq!((&one["records"], &one["at"]), (&20.into(), &20.into()));
    assert_eq!(one["row"], 21);
    let again = json(&machine, &["replicate", "--to", to], 0);
    let one = &again["repositories"][0];
    assert_eq!((&one["records"], &one["row"]), (&1.into(), &Value::Null));
    let idle = json(&machine, &["replicate", "--to", to], 0);
    assert_eq!(idle["repositories"][0]["objects"], 0);
    assert_eq!(objects(&store), objects(&copy));

    let checked = json(&machine, &["replicate", "--check", "--max-age", "8d"], 0);
    assert_eq!(checked["repositories"][0]["at"], 20);
    let said = run(&machine, &["doctor"], 0).out;
    assert!(
        said.contains("cross-region-backup: up to record 20"),
        "{said}"
    );
    std::thread::sleep(Duration::from_millis(1_100));
    run(&machine, &["replicate", "--check", "--max-age", "1s"], 1);

    // Somebody who has nothing but the copy.
    let other = installation.machine("other").unwrap();
    run(&other, &["init"], 0);
    run(&other, &["link", to], 0);
    run(&other, &["pull"], 0);
    assert_eq!(other.read("small").unwrap(), b"19");
    assert_eq!(other.read("large").unwrap(), machine.read("large").unwrap());
}

#[test]
fn a_copy_goes_to_a_bucket_and_back() {
    let Some(server) = moto() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(server.make_bucket("copy")).unwrap();
    let installation = installation();
    let (store, back) = (installation.path("store"), installation.path("back"));
    let machine = straight(&installation, &store, 18);
    // The source needs no credentials, so these are the replica's alone.
    let prefixed: Vec<_> = server
        .variables()
        .into_iter()
        .map(|(name, value)| (format!("STATEHOLD_REPLICA_{name}"), value))
        .collect();
    let to = "s3://copy/team";
    with(&machine, &prefixed, &["replicate", "--to", to], 0);
    with(&machine, &prefixed, &["replicate", "--to", to], 0);
    let idle = with(&machine, &prefixed, &["replicate", "--to", to], 0);
    let asked = &idle["requests"]["replica"];
    // The verdict on the store, the newest mark, and whether it holds something of the other kind.
    assert_eq!(
        (&asked["lists"], &asked["reads"]),
        (&1.into(), &2.into()),
        "{idle}"
    );
    assert_eq!(asked["writes"], 0);
    let checked = json(&machine, &["replicate", "--check"], 0);
    assert_eq!(checked["repositories"][0]["to"], to);

    let plain: Vec<_> = server
        .variables()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let back_to = back.to_str().unwrap();
    let words = ["replicate", "--store", to, "--to", back_to];
    with(&machine, &plain, &words, 0);
    for (name, bytes) in objects(&store) {
        assert_eq!(
            fs::read(back.join(&name)).unwrap(),
            bytes,
            "{}",
            name.display()
        );
    }
}

/// Goal: a replicator killed at any moment leaves a valid repository, and the next one finishes.
/// Method: kill -9 after random times, two at once in the end.
#[test]
fn a_killed_replicator_is_simply_run_again() {
    let installation = installation();
    let store = installation.path("store");
    let machine = straight(&installation, &store, 40);
    let entropy = SeededEntropy::new(11);
    let copy = installation.path("copy");
    let words = [
        "replicate",
        "--to",
        copy.to_str().unwrap(),
        "--limit-rate",
        "1M",
    ];
    let start = || machine.start(machine.command(&words), "").unwrap();
    for round in 0..12 {
        let running = start();
        std::thread::sleep(Duration::from_millis(entropy.below(400)));
        running.kill().unwrap();
        if copy.join("repository.json").is_file() && round % 3 == 0 {
            let reader = installation.machine(&format!("reader-{round}")).unwrap();
            run(&reader, &["init"], 0);
            run(&reader, &["link", copy.to_str().unwrap()], 0);
            run(&reader, &["pull"], 0);
        }
    }
    let (one, other) = (start(), start());
    one.finish().unwrap().expect(0).unwrap();
    other.finish().unwrap().expect(0).unwrap();
    for _ in 0..2 {
        run(&machine, &words, 0);
    }
    assert_eq!(objects(&store), objects(&copy));
}

#[test]
fn what_cannot_be_copied_is_named_with_its_code() {
    let installation = installation();
    let (store, copy) = (installation.path("store"), installation.path("copy"));
    let machine = straight(&installation, &store, 3);
    let to = copy.to_str().unwrap();
    // No place for a copy.
    let inside = store.join("copy");
    let refused = run(
        &machine,
        &["replicate", "--to", inside.to_str().unwrap()],
        1,
    );
    assert!(refused.err.contains("overlap"), "{}", refused.err);
    run(&machine, &["replicate", "--to", "https://gateway"], 1);
    run(&machine, &["replicate"], 2);
    run(&machine, &["replicate", "--check", "--max-age", "soon"], 2);
    let nothing = installation.path("nothing");
    let absent = [
        "replicate",
        "--store",
        nothing.to_str().unwrap(),
        "--to",
        to,
    ];
    run(&machine, &absent, 6);
    assert!(!nothing.exists() && !copy.exists());
    fs::create_dir(&nothing).unwrap();
    let empty = run(&machine, &absent, 1);
    assert!(empty.err.contains("holds no repository"), "{}", empty.err);

    // Damage.
    let record = store.join("log").join(format!("{:020}", 2));
    let whole = fs::read(&record).unwrap();
    fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    let damaged = json(&machine, &["replicate", "--to", to], 7);
    assert_eq!(damaged["repositories"][0]["at"], 1);
    let said = damaged["error"].as_str().unwrap();
    assert!(said.contains("log/00000000000000000002"), "{said}");
    fs::write(&record, &whole).unwrap();
    run(&machine, &["replicate", "--to", to], 0);

    // Somebody wrote to the copy, and so did somebody here.
    let other = installation.machine("other").unwrap();
    run(&other, &["init"], 0);
    run(&other, &["link", to], 0);
    other.write("there", "1").unwrap();
    run(&other, &["push"], 0);
    let diverged = run(&machine, &["replicate", "--to", to], 1);
    assert!(diverged.err.contains("diverged at 4"), "{}", diverged.err);

    // A gateway's store is no place for a copy of one repository, nor the reverse.
    let vault = installation.path("vault");
    let vault = vault.to_str().unwrap();
    installation.serve("vault").unwrap().stop().unwrap();
    for (from, to, held) in [
        (store.to_str().unwrap(), vault, "a gateway's registry"),
        (vault, to, "a repository of its own"),
    ] {
        let refused = run(&machine, &["replicate", "--store", from, "--to", to], 1);
        assert!(refused.err.contains(held), "{}", refused.err);
    }
}

/// Goal: the first store is gone; a gateway on the replica, at the same address, serves machines that
/// notice nothing but the loss of what was not carried over.
#[test]
fn machines_go_on_with_a_gateway_on_the_replica() {
    let Two {
        installation,
        gateway,
        a,
        b,
    } = Two::new();
    let address = gateway.address().to_owned();
    gateway.stop().unwrap();
    let (store, copy) = (installation.path("vault"), installation.path("copy"));
    let to = copy.to_str().unwrap();
    let further = ["--replicate-to", to, "--replicate-every", "continuous"];
    let first = installation
        .serve_with(store.as_os_str(), &address, &[], &further)
        .unwrap();
    a.write("note", "from before").unwrap();
    run(&a, &["push"], 0);
    // Asked to stop, it carries over what it has.
    assert!(first.stop().unwrap().success());
    fs::remove_dir_all(&store).unwrap();

    let begun = Instant::now();
    let _second = installation
        .serve_with(copy.as_os_str(), &address, &[], &[])
        .unwrap();
    run(&b, &["pull"], 0);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(b.read("note").unwrap(), b"from before");
    b.write("reply", "from after").unwrap();
    run(&b, &["push"], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("reply").unwrap(), b"from after");
}

/// Goal: a gateway's whole store is copied from the command line while the gateway runs.
#[test]
fn a_gateways_store_is_copied_while_it_runs() {
    let two = Two::new();
    two.a.write("x", "1").unwrap();
    run(&two.a, &["push"], 0);
    let (store, copy) = (
        two.installation.path("vault"),
        two.installation.path("copy"),
    );
    let words = [
        "replicate",
        "--store",
        store.to_str().unwrap(),
        "--to",
        copy.to_str().unwrap(),
    ];
    let said = json(&two.a, &words, 0);
    assert_eq!(said["repositories"][0]["name"], "default");
    assert_eq!(said["registry"]["error"], Value::Null);
    assert!(said["registry"]["records"].as_u64().unwrap() > 1);
    let check = ["replicate", "--check", "--store", store.to_str().unwrap()];
    assert_eq!(json(&two.a, &check, 0)["ok"], true);
    // The row is one more record for the machines, and nothing else.
    run(&two.b, &["pull"], 0);
    assert_eq!(two.b.read("x").unwrap(), b"1");
    let refused = run(&two.a, &["replicate", "--to", "/x"], 1);
    assert!(refused.err.contains("--replicate-to"), "{}", refused.err);
}
