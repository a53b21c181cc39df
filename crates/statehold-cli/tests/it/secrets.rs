//! Keys and invites show up nowhere: not in output, logs, events, settings or process lists.

use std::fs;
use std::path::Path;

use crate::world::{Two, run};

fn holds(folder: &Path, secret: &str, found: &mut Vec<String>) {
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            holds(&path, secret, found);
        } else if let Ok(content) = fs::read(&path) {
            let secret = secret.as_bytes();
            if content.windows(secret.len()).any(|piece| piece == secret) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// Goal: the secret of a key is in its own file and nowhere else.
/// Method: every file that a gateway and two machines wrote, everything they printed with the most
/// talkative logs, and the command line of a process while it runs.
#[test]
fn a_key_is_in_its_own_file_and_nowhere_else() {
    let Two {
        gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write(
        "x",
        statehold_testkit::environment::SeededEntropy::new(1).bytes(400_000),
    )
    .unwrap();
    let mut said = String::new();
    for (machine, arguments) in [
        (&a, &["push", "--limit-rate", "400k"][..]),
        (&b, &["sync"]),
        (&b, &["status"]),
        (&a, &["machines", "list"]),
        (&a, &["doctor"]),
        (
            &a,
            &["machines", "revoke", "00000000000000000000000000000000"],
        ),
    ] {
        let mut command = machine.command(arguments);
        command.env("STATEHOLD_LOG", "trace");
        let running = machine.start(command, "").unwrap();
        let seen = fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
        said.push_str(&String::from_utf8_lossy(&seen));
        let ran = running.finish().unwrap();
        said.push_str(&ran.out);
        said.push_str(&ran.err);
    }
    assert!(
        said.contains("push") && said.len() > 1_000,
        "too little to say anything"
    );
    run(&b, &["pull"], 0);
    let invite = installation.invite(&gateway).unwrap();

    let scratch = installation.path("");
    let mut keys = Vec::new();
    for home in [&a.home, &b.home, &installation.operator().unwrap().home] {
        for item in fs::read_dir(home.join("config/statehold/keys")).unwrap() {
            keys.push(item.unwrap().path());
        }
    }
    assert_eq!(keys.len(), 3, "{keys:?}");
    for path in keys {
        let key = fs::read_to_string(&path).unwrap();
        // The part that proves something; what stands before it is the id, which is public.
        let secret = &key.trim()[key.trim().len() - 24..];
        assert!(!said.contains(secret), "a key was printed");
        let mut found = Vec::new();
        holds(&scratch, secret, &mut found);
        assert_eq!(found, [path.display().to_string()]);
    }
    let mut found = Vec::new();
    holds(&scratch, &invite[invite.len() - 24..], &mut found);
    assert_eq!(found, [""; 0], "an invite was kept");
}
