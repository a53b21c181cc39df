//! Gateways that go, and stores that are away for a while.

use std::fs;
use std::time::{Duration, Instant};

use super::{bucket, noise, told, wait_until};
use crate::vault::{Bucket, in_folder};
use crate::world::{Two, installation, run};

/// Goal: a gateway that is killed in the middle of a transfer costs a run and no file.
#[test]
fn a_gateway_that_goes_in_the_middle_costs_nothing() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    let files: Vec<(String, Vec<u8>)> = (0..9)
        .map(|number| (format!("noise-{number}"), noise(30 + number, 5_000_000)))
        .collect();
    for (path, content) in &files {
        a.write(path, content).unwrap();
    }
    let address = gateway.address().to_owned();
    let vault = installation.path("vault");
    let push = a
        .start(a.command(&["push", "--limit-rate", "20M"]), "")
        .unwrap();
    wait_until("a pack is there", || !in_folder(&vault, "packs").is_empty());
    gateway.kill().unwrap();
    let said = ["the gateway", "hint: "];
    told(
        "gateway gone in the middle of a push",
        &push.finish().unwrap(),
        6,
        &said,
    );
    let mut gateway = installation.serve_at("vault", &address).unwrap();
    run(&b, &["pull"], 0);
    assert!(!b.path("noise-0").exists(), "half a push is visible");
    run(&a, &["push"], 0);

    let pull = b
        .start(b.command(&["pull", "--limit-rate", "20M"]), "")
        .unwrap();
    let staging = b.path(".statehold/staging");
    wait_until("a file is staged", || {
        fs::read_dir(&staging).is_ok_and(|mut staged| staged.next().is_some())
    });
    gateway.kill().unwrap();
    told(
        "gateway gone in the middle of a pull",
        &pull.finish().unwrap(),
        6,
        &said,
    );
    for (path, content) in &files {
        assert!(
            b.read(path).map_or(true, |there| there == *content),
            "{path} is torn"
        );
    }
    let _gateway = installation.serve_at("vault", &address).unwrap();
    run(&b, &["pull"], 0);
    for (path, content) in &files {
        assert!(b.read(path).unwrap() == *content, "{path}");
    }
}

/// How long the store is away, in seconds. The whole minute takes longer than tests should.
fn outage() -> Duration {
    let seconds = std::env::var("STATEHOLD_TEST_OUTAGE_SECONDS");
    Duration::from_secs(seconds.map_or(12, |seconds| seconds.parse().unwrap()))
}

/// Goal: while a store answers 503 to everything, commands say so and lose nothing; afterwards the
/// same commands go through, without anything being started again.
#[test]
fn a_store_that_says_503_is_waited_for() {
    let Some(bucket) = bucket("store says 503") else {
        return;
    };
    let installation = installation();
    let gateway = bucket.serve(&installation, "127.0.0.1:0");
    let a = installation.linked("anna", &gateway).unwrap();
    let b = installation.linked("bert", &gateway).unwrap();
    let variables = bucket.variables();
    let direct = installation.machine("direct").unwrap();
    run(&direct, &["init"], 0);
    let on_bucket = |arguments: &[&str]| {
        let mut command = direct.command(arguments);
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        direct.start(command, "").unwrap()
    };
    let linked = on_bucket(&["link", Bucket::DIRECT]).finish();
    linked.unwrap().expect(0).unwrap();
    a.write("x", "before").unwrap();
    run(&a, &["push"], 0);

    let outage = outage();
    println!("the store is away for {} s", outage.as_secs());
    a.write("x", "during").unwrap();
    a.write("noise", noise(50, 400_000)).unwrap();
    direct.write("x", "during").unwrap();
    bucket.front.go_away(outage);
    let began = Instant::now();
    // As long as it lasts, again and again: nothing gets worse by trying.
    let mut refused = 0;
    loop {
        let running = [
            a.start(a.command(&["push"]), "").unwrap(),
            b.start(b.command(&["pull"]), "").unwrap(),
            on_bucket(&["push"]),
        ];
        for (row, running) in ["push", "pull", "push on a bucket"]
            .into_iter()
            .zip(running)
        {
            let ran = running.finish().unwrap();
            // One that began in the outage may outlive it.
            if ran.code != Some(0) || began.elapsed() < outage {
                told(&format!("store says 503, {row}"), &ran, 6, &["hint: "]);
                refused += 1;
            }
        }
        if began.elapsed() >= outage {
            break;
        }
    }
    assert!(refused > 0, "the outage was over before anybody met it");
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("x").unwrap(), b"during");
    assert_eq!(b.read("noise").unwrap(), noise(50, 400_000));
    on_bucket(&["push"]).finish().unwrap().expect(0).unwrap();
    assert_eq!(on_bucket(&["cat", "x"]).finish().unwrap().out, "during");
    // However often it was tried, it landed once.
    assert_eq!(run(&a, &["log"], 0).out.matches("push").count(), 2);
}
