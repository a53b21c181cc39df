//! Clocks that are set back, and clocks that are ahead.

use statehold_core::time::Timestamp;
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};
use statehold_testkit::servers::{self};

use super::{bucket, not_installed, told};
use crate::vault::Bucket;
use crate::world::{Two, installation, json, run};

/// A gateway whose clock is off.
fn serve_off(
    installation: &Installation,
    listen: &str,
    offset: &str,
    store: &str,
    variables: &[(&str, String)],
) -> Option<RunningGateway> {
    let mut off = match servers::faketime(offset) {
        Ok(variables) => variables,
        Err(absent) => {
            not_installed("another clock", &absent);
            return None;
        }
    };
    off.extend(variables.iter().map(|(name, value)| match *name {
        "AWS_ACCESS_KEY_ID" => ("AWS_ACCESS_KEY_ID", value.clone()),
        "AWS_SECRET_ACCESS_KEY" => ("AWS_SECRET_ACCESS_KEY", value.clone()),
        _ => ("AWS_ENDPOINT_URL", value.clone()),
    }));
    Some(installation.serve_on(store.as_ref(), listen, &off).unwrap())
}

/// Goal: a clock that is set back a day breaks nothing, and no record is dated before the one it
/// follows.
#[test]
fn a_clock_set_back_by_a_day_breaks_nothing() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x", "1").unwrap();
    run(&a, &["push"], 0);
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    let vault = installation.path("vault");
    let vault = vault.to_str().unwrap();
    let Some(_behind) = serve_off(&installation, &address, "-1d", vault, &[]) else {
        return;
    };
    let Ok(off) = servers::faketime("-1d") else {
        return;
    };
    let yesterday = |machine: &RealMachine, arguments: &[&str]| {
        let mut command = machine.command(arguments);
        command.envs(off.iter().map(|(name, value)| (*name, value)));
        machine.start(command, "").unwrap().finish().unwrap()
    };
    // The gateway alone, then machine and gateway, then a machine that is right.
    a.write("x", "22").unwrap();
    run(&a, &["push"], 0);
    a.write("y", "333").unwrap();
    told(
        "clock set back by a day, push",
        &yesterday(&a, &["push"]),
        0,
        &["record 3"],
    );
    told(
        "clock set back by a day, pull",
        &yesterday(&b, &["pull"]),
        0,
        &["record 3"],
    );
    b.write("x", "4444").unwrap();
    told(
        "clock set back by a day, sync",
        &yesterday(&b, &["sync"]),
        0,
        &["record 4"],
    );
    // An edit of the same length in the same second, by that clock, is seen.
    b.write("x", "5555").unwrap();
    yesterday(&b, &["sync"]).expect(0).unwrap();
    run(&a, &["pull"], 0);
    assert_eq!(a.read("x").unwrap(), b"5555");
    assert_eq!(b.read("y").unwrap(), b"333");
    let log = json(&a, &["log"], 0);
    let times: Vec<Timestamp> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["time"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 5);
    assert!(
        times.is_sorted_by(|newer, older| newer >= older),
        "{times:?}"
    );
    // Debounces know no time in the future: what is due goes.
    a.write("z", "z").unwrap();
    let auto = ["push", "--auto", "--runtime", "test"];
    run(&a, &auto, 0);
    yesterday(&b, &["pull"]).expect(0).unwrap();
    assert_eq!(b.read("z").unwrap(), b"z");
}

/// Goal: whoever appends with a clock far ahead is told, a gateway and a machine on a bucket alike,
/// and nothing is dated by it.
#[test]
fn a_clock_that_is_ahead_dates_nothing() {
    let Some(bucket) = bucket("clock ahead") else {
        return;
    };
    let installation = installation();
    let mut gateway = bucket.serve(&installation, "127.0.0.1:0");
    let a = installation.linked("anna", &gateway).unwrap();
    let b = installation.linked("bert", &gateway).unwrap();
    a.write("x", "1").unwrap();
    run(&a, &["push"], 0);
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    let variables = bucket.variables();
    let store = Bucket::TEAM;
    let Some(mut ahead) = serve_off(&installation, &address, "+10m", store, &variables) else {
        return;
    };
    a.write("x", "2").unwrap();
    let refused = a.run(&["push"]).unwrap();
    told(
        "clock ten minutes ahead, gateway",
        &refused,
        6,
        &["s ahead of the store's", "hint: "],
    );
    run(&a, &["pull"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("x").unwrap(), b"1");
    ahead.kill().unwrap();
    let _gateway = bucket.serve(&installation, &address);
    run(&a, &["push"], 0);

    // The same straight on the bucket.
    let direct = installation.machine("direct").unwrap();
    run(&direct, &["init"], 0);
    let on_bucket = |arguments: &[&str], offset: Option<&str>| {
        let mut command = direct.command(arguments);
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        let off = offset.map(|offset| servers::faketime(offset).unwrap());
        command.envs(off.unwrap_or_default());
        direct.start(command, "").unwrap().finish().unwrap()
    };
    on_bucket(&["link", Bucket::DIRECT], None)
        .expect(0)
        .unwrap();
    direct.write("x", "1").unwrap();
    let refused = on_bucket(&["push"], Some("+10m"));
    told(
        "clock ten minutes ahead, on a bucket",
        &refused,
        6,
        &["s ahead of the store's", "hint: "],
    );
    on_bucket(&["push"], Some("+4m")).expect(0).unwrap();
}
