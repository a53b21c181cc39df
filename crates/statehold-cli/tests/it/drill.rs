//! `statehold drill` and `serve --drill-every` as people and operators run them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use statehold_core::digest::Digest;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine};

use crate::world::{Two, installation, json, run};

/// A machine that is linked straight with a store in a folder, and a copy of that.
fn straight(installation: &Installation) -> RealMachine {
    let machine = installation.machine("straight").unwrap();
    run(&machine, &["init"], 0);
    let store = installation.path("store");
    fs::create_dir_all(&store).unwrap();
    run(&machine, &["link", store.to_str().unwrap()], 0);
    machine
        .write("large", SeededEntropy::new(5).bytes(900_000))
        .unwrap();
    run(&machine, &["push"], 0);
    run(&machine, &["snapshot", "before"], 0);
    machine.write("small", "new").unwrap();
    run(&machine, &["push"], 0);
    let copy = installation.path("copy");
    run(&machine, &["replicate", "--to", copy.to_str().unwrap()], 0);
    machine
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut items = fs::read_dir(folder).unwrap();
    let path = items.next().unwrap().unwrap().path();
    assert!(items.next().is_none());
    path
}

#[test]
fn a_drill_leaves_a_receipt_that_the_log_vouches_for() {
    let installation = installation();
    let machine = straight(&installation);
    let copy = installation.path("copy");
    let scratch = installation.path("scratch");
    fs::create_dir_all(&scratch).unwrap();
    run(&machine, &["drill", "--check"], 1);
    let note = run(&machine, &["doctor"], 0).out;
    assert!(note.contains("no drill from here is known"), "{note}");
    assert!(note.contains("it was never verified from here"), "{note}");

    let words = [
        "drill",
        "--replica",
        copy.to_str().unwrap(),
        "--scratch",
        scratch.to_str().unwrap(),
    ];
    let said = json(&machine, &words, 0);
    assert_eq!(said["passed"], true);
    let drill = &said["drills"][0];
    assert_eq!(drill["receipt"]["restores"].as_array().unwrap().len(), 6);
    let receipt = fs::read(drill["kept"].as_str().unwrap()).unwrap();
    let digest = Digest::of(&receipt).to_string();
    let log = run(&machine, &["log"], 0).out;
    assert!(log.contains(&digest), "{log}");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    run(&machine, &["drill", "--check"], 0);
    run(&machine, &["verify"], 0);
    let good = run(&machine, &["doctor"], 0).out;
    assert!(good.contains("the newest drill passed"), "{good}");
    assert!(good.contains("last verified"), "{good}");

    // The pack of `large`, in the copy alone.
    let pack = only_file(&copy.join("packs"));
    let mut bytes = fs::read(&pack).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let failed = run(&machine, &words, 7);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(failed.err.contains(name), "{}", failed.err);
    assert!(failed.err.contains("large"), "{}", failed.err);
    assert!(failed.err.contains("from the copy"), "{}", failed.err);
    run(&machine, &["drill", "--check"], 1);
    let bad = run(&machine, &["doctor"], 1);
    assert!(bad.err.contains("the newest drill FAILED"), "{}", bad.err);
    // Without the copy all is well.
    run(&machine, &["drill"], 0);
    run(&machine, &["drill", "--check"], 0);
}

#[test]
fn a_drill_of_a_store_leaves_its_receipt_there() {
    let installation = installation();
    let machine = straight(&installation);
    let store = installation.path("store");
    let words = ["drill", "--store", store.to_str().unwrap()];
    run(&machine, &[&words[..], &["--check"]].concat(), 1);
    let said = json(&machine, &words, 0);
    let key = said["drills"][0]["kept"].as_str().unwrap();
    assert!(store.join(key).is_file(), "{said}");
    run(&machine, &[&words[..], &["--check"]].concat(), 0);
    // The workspace is linked with that store, so its doctor knows.
    let good = run(&machine, &["doctor"], 0).out;
    assert!(good.contains("the newest drill passed"), "{good}");
    let clean = json(&machine, &["verify"], 0);
    assert_eq!(
        clean["repositories"][0]["unknown"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_machine_behind_a_gateway_drills_with_its_key() {
    let two = Two::new();
    two.a.write("notes", "something").unwrap();
    run(&two.a, &["push"], 0);
    let said = json(&two.a, &["drill"], 0);
    assert_eq!(said["drills"][0]["receipt"]["entries"], 1);
    assert!(said["drills"][0]["note"].as_u64().is_some(), "{said}");
    run(&two.a, &["drill", "--check"], 0);
}

/// Goal: what `kill -9` leaves in scratch space is gone after the next drill.
#[test]
fn a_killed_drill_leaves_no_scratch_behind() {
    let installation = installation();
    let machine = straight(&installation);
    let scratch = installation.path("scratch");
    fs::create_dir_all(&scratch).unwrap();
    let words = ["drill", "--scratch", scratch.to_str().unwrap()];
    let running = machine.start(machine.command(&words), "").unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(&scratch).unwrap().count() == 0 && Instant::now() < until {
        std::hint::spin_loop();
    }
    drop(running.kill());
    run(&machine, &words, 0);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}
