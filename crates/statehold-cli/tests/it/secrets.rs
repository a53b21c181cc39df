//! Keys, invites and a store's credentials show up nowhere: not in output, logs, events, settings or
//! process lists.

use std::fs;
use std::path::Path;

use statehold_testkit::servers::{Absent, installs_everything};

use crate::vault::Bucket;
use crate::world::{Two, installation, run};

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

/// Goal: a store's credentials go from standard input into the program, and stand nowhere.
/// Method: a gateway and a machine on a bucket that get them so, with an environment that would lead
/// elsewhere; then every file they wrote, what they printed, and what the system knows of the process.
#[test]
fn a_stores_credentials_come_over_standard_input_and_stand_nowhere() {
    let bucket = match Bucket::new() {
        Ok(bucket) => bucket,
        Err(Absent::NotInstalled(why)) if !installs_everything() => {
            println!("SKIP credentials over standard input: {why}");
            return;
        }
        Err(absent) => panic!("moto {absent}"),
    };
    let names = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
    ];
    let server = &bucket.server;
    let value = |name| server.variable(server.endpoint(), name).unwrap();
    let lines: String = names
        .map(|name| format!("{name}={}\n", value(name)))
        .concat();
    let object = serde_json::json!({
        names[0]: value(names[0]), names[1]: value(names[1]), names[2]: value(names[2]),
    });
    let secret = value(names[1]);

    let installation = installation();
    let machine = installation.machine("direct").unwrap();
    run(&machine, &["init"], 0);
    let mut said = String::new();
    let mut with = |arguments: &[&str], input: &str, code: i32| {
        let mut command = machine.command(arguments);
        command.env("STATEHOLD_LOG", "trace");
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
        let running = machine.start(command, input).unwrap();
        for file in ["cmdline", "environ"] {
            let known = fs::read(format!("/proc/{}/{file}", running.pid())).unwrap_or_default();
            said.push_str(&String::from_utf8_lossy(&known));
        }
        let ran = running.finish().unwrap();
        assert_eq!(
            ran.code,
            Some(code),
            "{arguments:?}: {}{}",
            ran.out,
            ran.err
        );
        said.push_str(&ran.out);
        said.push_str(&ran.err);
        ran
    };
    let piped = "--credentials-stdin";
    with(&["link", Bucket::DIRECT, piped], &lines, 0);
    machine.write("x", "x").unwrap();
    with(&["push", piped], &object.to_string(), 0);
    assert_eq!(with(&["cat", "x", piped], &lines, 0).out, "x");
    with(&["doctor", piped], &lines, 0);
    // What the environment says counts for nothing then, and without the flag it is all there is.
    let missing = with(&["status"], "", 5);
    assert!(missing.err.contains("AWS_ACCESS_KEY_ID"), "{}", missing.err);
    let half = with(&["status", piped], &lines[..lines.find('\n').unwrap()], 5);
    assert!(
        half.err.contains("set AWS_SECRET_ACCESS_KEY"),
        "{}",
        half.err
    );
    let wrong = with(&["status", piped], &format!("PASSWORD={secret}"), 1);
    assert!(wrong.err.contains("docs/stores.md"), "{}", wrong.err);
    for arguments in [&["init", piped][..], &["push", "--auto", piped]] {
        with(arguments, &lines, 2);
    }

    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listen.local_addr().unwrap().to_string();
    drop(listen);
    let serve = [
        "serve",
        "--store",
        Bucket::TEAM,
        "--listen",
        &address,
        piped,
    ];
    let mut command = machine.command(&serve);
    command.env("STATEHOLD_LOG", "trace");
    let serving = machine.start(command, &lines).unwrap();
    let began = std::time::Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(began.elapsed().as_secs() < 60, "it does not listen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for file in ["cmdline", "environ"] {
        let known = fs::read(format!("/proc/{}/{file}", serving.pid())).unwrap();
        said.push_str(&String::from_utf8_lossy(&known));
    }
    let ran = serving.kill().unwrap();
    said.push_str(&ran.out);
    said.push_str(&ran.err);
    assert!(
        said.contains("listening") && said.len() > 10_000,
        "too little to say anything"
    );
    assert!(!said.contains(&secret), "the secret was printed");
    let mut found = Vec::new();
    holds(&installation.path(""), &secret, &mut found);
    assert_eq!(found, [""; 0]);
}
