//! How long earlier states are kept: said by an owner, carried out by compactions.

use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::world::{Two, json, run};

/// A machine with a key of this role.
fn machine_as(role: &str, installation: &Installation, gateway: &RunningGateway) -> RealMachine {
    let operator = installation.operator().unwrap();
    let key = operator.home.join("config/statehold/keys/operator");
    let key = key.to_str().unwrap();
    let machine = installation.machine(role).unwrap();
    run(&machine, &["init", "--preset", "plain"], 0);
    std::fs::remove_file(machine.path(".stateholdignore")).unwrap();
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
        (&24.into(), &serde_json::Value::Null)
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
