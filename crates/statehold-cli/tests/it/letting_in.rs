//! Letting machines in: what a first start says, invites through files, and roles.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::world::{Two, installation, json, run};

/// Goal: what an operator types goes on from what was printed, with no word added.
#[test]
fn an_invite_in_a_file_links_a_machine() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let operator = installation.operator().unwrap();
    let make = ["admin", "invite", "--gateway", &gateway.url, "--label", "x"];
    let made = run(&operator, &make, 0);
    assert_eq!(made.out.lines().count(), 1, "{}", made.out);
    assert!(made.err.contains("good once, until 2"), "{}", made.err);
    let invites = ["admin", "invites", "--gateway", &gateway.url];
    assert!(run(&operator, &invites, 0).out.contains("push"));
    let fresh = installation.machine("fresh").unwrap();
    run(&fresh, &["init"], 0);
    // Lines after the first are a person's own.
    fs::write(fresh.home.join("invite"), made.out + "for the laptop\n").unwrap();
    let file = fresh.home.join("invite");
    let file = file.to_str().unwrap();
    let wanted = ["link", &gateway.url, "--key-file", file, "--role", "own"];
    let refused = run(&fresh, &wanted, 2).err;
    assert!(refused.contains("fixed by whoever made it"), "{refused}");
    assert_eq!(json(&operator, &invites, 0).as_array().unwrap().len(), 1);
    run(&fresh, &["link", &gateway.url, "--key-file", file], 0);
    assert_eq!(json(&operator, &invites, 0), serde_json::json!([]));
    assert_eq!(run(&operator, &invites, 0).out, "no invite is open\n");

    // A key's file is read in the same way, and its role is what it is.
    let key = fresh.home.join("read.key");
    let key = key.to_str().unwrap();
    let make = [
        "admin", "key", "--role", "read", "--label", "r", "--to", key,
    ];
    run(
        &operator,
        &[&make[..], &["--gateway", &gateway.url]].concat(),
        0,
    );
    fs::write(key, fs::read_to_string(key).unwrap() + "\nfor reading\n").unwrap();
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o77, 0);
    let reader = installation.machine("reader").unwrap();
    run(&reader, &["init"], 0);
    let link = ["link", &gateway.url, "--key-file", key];
    let refused = run(&reader, &[&link[..], &["--role", "own"]].concat(), 2).err;
    assert!(refused.contains("role read"), "{refused}");
    run(&reader, &link, 0);
    reader.write("x", "x").unwrap();
    let denied = run(&reader, &["push"], 5).err;
    assert!(denied.contains("role read"), "{denied}");
    assert!(denied.contains("--role"), "{denied}");
    assert!(!denied.contains("check the key"), "{denied}");

    let tenant = ["admin", "tenant", "add", "acme", "--gateway", &gateway.url];
    let added = run(&operator, &tenant, 0).out;
    assert!(added.contains("acme\n  repository "), "{added}");
}

/// Goal: the commands that a first start prints can be typed as they stand, and a key that was in
/// its place is found again.
#[test]
fn a_first_start_says_what_to_type() {
    let Two { installation, .. } = Two::new();
    let operator = installation.operator().unwrap();
    let serve = ["serve", "--store", "other", "--listen", "127.0.0.1:0"];
    let gateway = operator.start(operator.command(&serve), "").unwrap();
    let started = std::time::Instant::now();
    let said = loop {
        let said = gateway.said().unwrap();
        if said.contains("ci.key") && said.ends_with('\n') {
            break said;
        }
        assert!(started.elapsed().as_secs() < 30, "{said}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let typed = said
        .lines()
        .filter_map(|line| Some(line.split_once("statehold ")?.1));
    let typed: Vec<&str> = typed.collect();
    assert_eq!(typed.len(), 3, "{said}");
    for line in &typed {
        let words: Vec<&str> = line.split_whitespace().collect();
        run(&operator, &words, 0);
    }
    let earlier = said
        .lines()
        .find_map(|line| line.split_once("it is now in "));
    let earlier = earlier.unwrap().1.strip_suffix(", for --key-file").unwrap();
    assert!(fs::metadata(earlier).unwrap().is_file());
    gateway.kill().unwrap();
}
