//! Keys that are wrong, expired or revoked, and what belongs to another tenant.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use statehold_core::time::Timestamp;
use statehold_repository::wire::bodies::{NewKey, Role};
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient};
use statehold_sync::home::read_key_file;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::Installation;

use super::{told, wait_until};
use crate::vault::beside;
use crate::world::{Two, installation, json, run};

#[test]
fn a_wrong_key_is_5() {
    let Two {
        gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    let other = installation.machine("other").unwrap();
    run(&other, &["init"], 0);
    // Of the right form, and nobody's.
    let stranger = Key::random(&SeededEntropy::new(9));
    let stranger = stranger.reveal();
    let link = ["link", &gateway.url];
    let refused = other.run_with(&link, &stranger).unwrap();
    told(
        "wrong key",
        &refused,
        5,
        &["a valid key is needed", "check the key"],
    );
    // Not a key at all.
    let refused = other.run_with(&link, "open sesame").unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    // An invite is good for one machine.
    let invite = installation.invite(&gateway).unwrap();
    other.run_with(&link, &invite).unwrap().expect(0).unwrap();
    let third = installation.machine("third").unwrap();
    run(&third, &["init"], 0);
    let refused = third.run_with(&link, &invite).unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    // A key that was right is no longer used once another is named.
    let mut command = a.command(&["pull"]);
    command.env("STATEHOLD_KEY", stranger.as_str());
    let refused = a.start(command, "").unwrap().finish().unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.err);
}

#[test]
fn an_expired_key_is_told() {
    let Two {
        gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    a.write("x", "x").unwrap();
    let operator = installation.operator().unwrap();
    let operator = operator.home.join("config/statehold/keys/operator");
    let key = Key::random(&SeededEntropy::new(21));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_millis()).unwrap();
    beside(async {
        let address = GatewayAddress::parse(&gateway.url).unwrap();
        let operator = read_key_file(&operator).unwrap();
        let client = GatewayClient::new(&address, Some(&operator), None).unwrap();
        let new = NewKey {
            key: key.id(),
            hash: key.hash(),
            role: Role::Push,
            label: "short".into(),
            repositories: Vec::new(),
            machine: None,
            expires: Some(Timestamp::from_millis(now + 1_500)),
        };
        client.admin_add_key(&new).await.unwrap();
    });
    let with_key = |arguments: &[&str]| {
        let mut command = a.command(arguments);
        command.env("STATEHOLD_KEY", key.reveal().as_str());
        a.start(command, "").unwrap().finish().unwrap()
    };
    with_key(&["pull"]).expect(0).unwrap();
    std::thread::sleep(Duration::from_millis(1_600));
    told(
        "expired key",
        &with_key(&["push"]),
        5,
        &["a valid key is needed", "hint: check the key"],
    );
    // The machine's own key still goes.
    run(&a, &["push"], 0);
}

/// Goal: a revocation counts at every gateway within five seconds, for reading and for writing.
#[test]
fn a_revoked_key_is_refused_by_every_gateway() {
    let installation = installation();
    let gateways = [
        installation.serve("vault").unwrap(),
        installation.serve("vault").unwrap(),
    ];
    let machines = [
        installation.linked("anna", &gateways[0]).unwrap(),
        installation.linked("bert", &gateways[1]).unwrap(),
    ];
    // What one gateway added a moment ago the other may not know yet.
    let mut keys = Vec::new();
    wait_until("both machines are listed", || {
        let list = ["admin", "keys", "--gateway", &gateways[0].url];
        let list = json_of(&installation, &list);
        let found = machines.iter().map(|machine| {
            let mut list = list.as_array()?.iter();
            let own = list.find(|key| key["label"] == *machine.name)?;
            Some(own["key"].as_str()?.to_owned())
        });
        keys = found.flatten().collect();
        keys.len() == machines.len()
    });
    machines[0].write("x", "x").unwrap();
    run(&machines[0], &["push"], 0);
    run(&machines[1], &["pull"], 0);
    for key in &keys {
        let revoke = ["admin", "revoke", key, "--gateway", &gateways[0].url];
        json_of(&installation, &revoke);
    }
    let revoked = Instant::now();
    for (machine, arguments) in [(&machines[1], ["pull"]), (&machines[0], ["push"])] {
        machine.write("y", "y").unwrap();
        let refused = loop {
            let ran = machine.run(&arguments).unwrap();
            if ran.code != Some(0) {
                break ran;
            }
            assert!(revoked.elapsed() < Duration::from_secs(5), "still let in");
            machine
                .write("y", format!("{:?}", revoked.elapsed()))
                .unwrap();
        };
        let row = format!(
            "revoked key, {} after {:.1?}",
            arguments[0],
            revoked.elapsed()
        );
        told(
            &row,
            &refused,
            5,
            &["a valid key is needed", "hint: check the key"],
        );
    }
    assert!(revoked.elapsed() < Duration::from_secs(5));
}

fn json_of(installation: &Installation, arguments: &[&str]) -> serde_json::Value {
    json(&installation.operator().unwrap(), arguments, 0)
}

#[test]
fn another_tenants_repository_is_out_of_reach() {
    let Two {
        gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let add = ["admin", "tenant", "add", "other", "--gateway", &gateway.url];
    json_of(&installation, &add);
    let list = ["admin", "tenant", "list", "--gateway", &gateway.url];
    let tenants = json_of(&installation, &list);
    let other = tenants.as_array().unwrap();
    let other = other
        .iter()
        .find(|tenant| tenant["name"] == "other")
        .unwrap();
    let other = other["repositories"][0][0].as_str();
    let other = other.map(str::to_owned).unwrap();
    let path = a.path(".statehold/settings.json");
    let good = fs::read_to_string(&path).unwrap();
    let own: serde_json::Value = serde_json::from_str(&good).unwrap();
    let own = own["link"]["repository_id"].as_str().unwrap().to_owned();
    for named in [other.as_str(), "00000000000000000000000000000001"] {
        fs::write(&path, good.replace(&own, named)).unwrap();
        a.write("y", named).unwrap();
        for verb in ["push", "pull"] {
            let refused = a.run(&[verb]).unwrap();
            let said = ["reaches no repository of that id", "hint: check the key"];
            told(
                &format!("other tenant's repository, {verb}"),
                &refused,
                5,
                &said,
            );
        }
    }
    fs::write(&path, good).unwrap();
    run(&a, &["push"], 0);
}
