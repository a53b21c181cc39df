//! What is turned down or goes wrong: each with its exit code, the object by name, and a next step.

use std::fs;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use crate::world::{Two, installation, json, run};

/// Goal: a file past the limit is refused before anybody is contacted.
/// Method: the gateway is gone, and the push still ends with the refusal and not with exit code 6.
#[test]
fn a_file_too_large_is_refused_before_any_call() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation: _installation,
    } = Two::new();
    gateway.kill().unwrap();
    a.write("big.bin", vec![7; 10_000_001]).unwrap();
    a.write("small", "x").unwrap();
    let refused = run(&a, &["push"], 1);
    assert_eq!(
        refused.err,
        "big.bin: 10000001 bytes, the limit is 10000000\n\
         file too large for statehold sync; should this be in sources/?\n"
    );
    let refused = json(&a, &["push"], 1);
    assert_eq!(refused["too_large"][0]["path"], "big.bin");
    assert_eq!(refused["outcome"], "refused");
    // One byte less goes as far as the network.
    a.write("big.bin", vec![7; 10_000_000]).unwrap();
    run(&a, &["push"], 6);
}

#[test]
fn nobody_at_the_keyboard_pushes_what_can_go() {
    let Two {
        a,
        b,
        gateway: _gateway,
        installation: _installation,
    } = Two::new();
    a.write("big.bin", vec![7; 10_000_001]).unwrap();
    a.write("small", "x").unwrap();
    let partial = json(&a, &["push", "--auto", "--scope", "all"], 4);
    assert_eq!(partial["outcome"], "partial");
    run(&b, &["pull"], 0);
    assert!(b.path("small").exists() && !b.path("big.bin").exists());
}

#[test]
fn a_dry_run_says_and_does_nothing() {
    let Two {
        mut gateway,
        a,
        b: _b,
        installation: _installation,
    } = Two::new();
    run(&a, &["push", "--dry", "--exit-code"], 0);
    a.write("x", "x").unwrap();
    assert!(
        run(&a, &["push", "--dry"], 0)
            .out
            .contains("send          x")
    );
    run(&a, &["push", "--dry", "--exit-code"], 1);
    assert_eq!(json(&a, &["push", "--dry"], 0)["outcome"], "dry");
    assert!(run(&a, &["log"], 0).out.contains("nothing yet"));
    // It contacts nobody.
    gateway.kill().unwrap();
    run(&a, &["push", "--dry", "--exit-code"], 1);
    run(&a, &["pull", "--dry"], 6);
}

#[test]
fn a_wrong_command_line_is_2() {
    let machine = installation().machine("anna").unwrap();
    for wrong in [
        &["frobnicate"][..],
        &["push", "--strange"],
        &["push", "--exit-code"],
        &["push", "--scope", "moon"],
        &["cat"],
        &["serve"],
        &[],
    ] {
        // The scratch folder is gone with its installation; any folder does.
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_statehold"))
            .args(wrong)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(2), "{wrong:?}");
        assert!(!ran.stderr.is_empty());
    }
    drop(machine);
}

#[test]
fn a_folder_that_is_no_workspace_is_told_what_to_do() {
    let installation = installation();
    let machine = installation.machine("anna").unwrap();
    for verb in ["push", "pull", "sync", "status", "log", "diff"] {
        let refused = run(&machine, &[verb], 1);
        assert!(refused.err.contains("statehold init"), "{}", refused.err);
    }
    run(&machine, &["init"], 0);
    let again = run(&machine, &["init"], 1);
    assert!(
        again.err.contains("is a workspace already"),
        "{}",
        again.err
    );
    for verb in ["push", "pull", "sync", "status", "log", "diff"] {
        let refused = run(&machine, &[verb], 1);
        assert!(refused.err.contains("statehold link"), "{}", refused.err);
    }
}

#[test]
fn what_was_asked_for_and_is_not_there_is_named() {
    let Two {
        gateway,
        a,
        b: _b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let stranger = installation.machine("stranger").unwrap();
    run(&stranger, &["init"], 0);
    for (machine, arguments, said) in [
        (
            &a,
            &["cat", "nope"][..],
            "nope is not in the repository at record 1",
        ),
        (
            &a,
            &["cat", "x", "--at", "7"],
            "there is no record 7; the newest is 1",
        ),
        (
            &a,
            &["diff", "nope"],
            "nope is neither in record 1 nor in this folder",
        ),
        (&a, &["link", &gateway.url], "linked with http://127.0.0.1"),
        (&a, &["serve", "--store", "mars://bucket"], "mars"),
        (
            &stranger,
            &["admin", "keys"],
            "there is no operator's key in",
        ),
        (&stranger, &["link", "ftp://x"], "is no store"),
        (
            &stranger,
            &["link", "http://gateway.example.org"],
            "in the clear; use https",
        ),
    ] {
        let refused = run(machine, arguments, 1);
        assert!(refused.err.contains(said), "{arguments:?}: {}", refused.err);
    }
    for no_key in [
        &["link", &gateway.url][..],
        &["link", &gateway.url, "--key-file", "no"],
    ] {
        let refused = run(&stranger, no_key, 5).err;
        let said = ["`statehold admin invite`", "no cannot be read"];
        assert!(said.iter().any(|said| refused.contains(said)), "{refused}");
    }
    assert!(
        run(&a, &["log", "nope"], 0)
            .out
            .contains("no record touches nope")
    );
    // What a store wants is not what a gateway wants, so no access key is asked for.
    let store = run(&a, &["serve", "--store", "s3://bucket"], 5);
    assert!(store.err.contains("AWS_ACCESS_KEY_ID"), "{}", store.err);
    assert!(!store.err.contains("check the key"), "{}", store.err);
    a.write(".statehold/settings.json", r#"{"version":9}"#)
        .unwrap();
    let newer = run(&a, &["push"], 1);
    assert!(newer.err.contains("have version 9"), "{}", newer.err);
    assert!(!newer.err.contains("init"), "{}", newer.err);
}

/// Goal: no store is pushed into itself.
/// Method: a store is linked in the workspace, by way of a link, and around it; then a gateway's store
/// lies in the workspace that is pushed through it.
#[test]
fn a_store_and_its_workspace_lie_apart() {
    let installation = installation();
    let a = installation.machine("anna").unwrap();
    run(&a, &["init"], 0);
    std::os::unix::fs::symlink(a.path(""), installation.path("way round")).unwrap();
    let inside = a.path("vault/deep");
    let around = a.path("").parent().unwrap().to_owned();
    for store in [
        inside.clone(),
        installation.path("way round/vault"),
        a.path(""),
        around,
    ] {
        let refused = run(&a, &["link", store.to_str().unwrap()], 1);
        assert!(
            refused.err.contains("pushed into itself"),
            "{}",
            refused.err
        );
    }
    assert!(!inside.exists());

    let store = a.path("vault");
    let gateway = installation.serve(store.to_str().unwrap()).unwrap();
    let invite = installation.invite(&gateway).unwrap();
    a.run_with(&["link", &gateway.url], &invite)
        .unwrap()
        .expect(0)
        .unwrap();
    a.write("note", "note").unwrap();
    let pushed = run(&a, &["push"], 0);
    assert!(
        pushed.out.contains("left out      vault: a store"),
        "{}",
        pushed.out
    );
    assert!(run(&a, &["push"], 0).out.contains("nothing to do"));
}

/// Goal: a dry run says what the real one would come to, in words, in its list and in its exit code.
/// Method: each thing that can't go, dry and real, by hand and with `--auto`.
#[test]
fn a_dry_run_tells_what_would_be_refused() {
    let Two { gateway, a, b, .. } = &mut Two::new();
    a.write("note", "0").unwrap();
    run(a, &["push"], 0);
    run(b, &["pull"], 0);
    let dry = ["push", "--dry", "--exit-code"];
    let secret = format!("gl{}-9kQz3VbN7mXw2RtY5hLp\n", "pat");
    for (path, content) in [
        ("big", vec![7; 10_000_001]),
        ("secret", secret.clone().into_bytes()),
        ("state/bin/sync/sync-rules.json", b"{}".to_vec()),
    ] {
        a.write(path, content).unwrap();
        for dry in [&dry, &["sync", "--dry", "--exit-code"]] {
            let told = run(a, dry, 1);
            assert!(told.err.contains(path), "{}", told.err);
            assert!(told.out.contains("would be refused, nothing would be sent"));
            assert!(!told.out.contains("send  "), "{}", told.out);
        }
        let auto = run(a, &[&dry[..], &["--auto"]].concat(), 1);
        assert!(auto.out.contains("0 files would move"), "{}", auto.out);
        fs::remove_file(a.path(path)).unwrap();
        // Nor may the folder stay that was made for it.
        let _none = fs::remove_dir_all(a.path("state"));
        run(a, &dry, 0);
    }

    // All of it is named at once, dry or not, and before anybody is contacted.
    a.write("big", vec![7; 10_000_001]).unwrap();
    a.write("secret", secret).unwrap();
    a.write("fine", "fine").unwrap();
    let answers = gateway.answers().unwrap();
    for push in [&["push"][..], &dry] {
        let told = run(a, push, 1);
        let names = told.err.contains("big: ") && told.err.contains("secret:1: ");
        assert!(names && !told.out.contains("send  "), "{}", told.err);
    }
    assert_eq!(gateway.answers().unwrap(), answers);
    let auto = run(a, &["push", "--dry", "--auto"], 0).out;
    assert!(auto.contains("send          fine"), "{auto}");
    assert!(!auto.contains("send          secret"), "{auto}");

    b.write("note", "of b").unwrap();
    run(b, &["push"], 0);
    for path in ["big", "secret", "fine"] {
        fs::remove_file(a.path(path)).unwrap();
    }
    a.write("note", "of a").unwrap();
    run(a, &["pull", "--dry", "--exit-code"], 1);
    run(a, &["sync", "--dry", "--exit-code"], 1);
    // What the look has found is known now, without another one.
    run(a, &["status"], 0);
    gateway.kill().unwrap();
    let told = run(a, &dry, 1);
    assert!(
        told.out.contains("1 conflict; nothing would be sent"),
        "{}",
        told.out
    );
}

/// Goal: a certificate that is not accepted is told at once, with what to do about its kind.
#[test]
fn a_certificate_that_is_not_accepted_is_told_at_once() {
    let authority = IsCa::Ca(BasicConstraints::Unconstrained);
    let long_ago = date_time_ymd(2001, 1, 1);
    for (name, is_ca, end, host, trusted, said) in [
        (
            "unknown",
            IsCa::ExplicitNoCa,
            None,
            "localhost",
            false,
            "STATEHOLD_CA",
        ),
        ("authority", authority, None, "localhost", true, "CA:FALSE"),
        (
            "expired",
            IsCa::ExplicitNoCa,
            Some(long_ago),
            "localhost",
            true,
            "renews it",
        ),
        (
            "name",
            IsCa::ExplicitNoCa,
            None,
            "127.0.0.1",
            true,
            "a name that the certificate holds",
        ),
        ("fine", IsCa::ExplicitNoCa, None, "localhost", true, ""),
    ] {
        let installation = installation();
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.is_ca = is_ca;
        certificate.not_after = end.unwrap_or(certificate.not_after);
        let pem = certificate.self_signed(&key).unwrap().pem();
        let files = [installation.path("cert.pem"), installation.path("key.pem")];
        fs::write(&files[0], pem).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        let [cert, key] = [0, 1].map(|at: usize| files[at].to_str().unwrap());
        let vault = installation.path("vault");
        let tls = ["--tls-cert", cert, "--tls-key", key];
        let gateway = installation
            .serve_with(vault.as_os_str(), "127.0.0.1:0", &[], &tls)
            .unwrap();
        let url = gateway.url.replace("127.0.0.1", host);
        let operator = installation.operator().unwrap();
        let mut command = operator.command(&["admin", "keys", "--gateway", &url]);
        if trusted {
            command.env("STATEHOLD_CA", cert);
        }
        let started = Instant::now();
        let ran = operator.start(command, "").unwrap().finish().unwrap();
        if said.is_empty() {
            ran.expect(0).unwrap();
            continue;
        }
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{name} was tried again"
        );
        assert_eq!(ran.code, Some(6), "{name}: {}", ran.err);
        assert!(ran.err.contains(said), "{name}: {}", ran.err);
        assert_eq!(ran.err.matches(&url).count(), 1, "{name}: {}", ran.err);
        assert!(!ran.err.contains("rustls"), "{name}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 2, "{name}: {}", ran.err);
    }
}

/// Goal: a gateway that cannot start, or is away, says what to do about that and no more.
#[test]
fn what_a_gateway_lacks_is_told_with_a_next_step() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked("anna", &gateway).unwrap();
    let operator = installation.operator().unwrap();
    let tls = ["--tls-cert", "missing.pem", "--tls-key", "missing.pem"];
    for (arguments, names, next) in [
        (&tls[..], "missing.pem", "check the path"),
        (
            &["--listen", gateway.address()],
            gateway.address(),
            "--listen",
        ),
    ] {
        let serve = [&["serve", "--store", "other"], arguments].concat();
        let refused = run(&operator, &serve, 6).err;
        assert!(
            refused.contains(names) && refused.contains(next),
            "{refused}"
        );
        assert!(!refused.contains("once that has passed"), "{refused}");
    }
    let nowhere = run(&operator, &["serve", "--store", "/proc/x"], 6).err;
    assert!(nowhere.contains("check the path"), "{nowhere}");
    let url = gateway.url.clone();
    drop(gateway);
    // All at once, since each has some patience.
    let asked = [
        (&a, &["log"][..]),
        (&a, &["doctor"]),
        (&operator, &["admin", "keys", "--gateway", &url]),
    ];
    let asked = asked.map(|(machine, command)| {
        let running = machine.start(machine.command(command), "").unwrap();
        (command, running)
    });
    for (command, running) in asked {
        let away = running.finish().unwrap();
        assert_ne!(away.code, Some(0));
        assert_eq!(
            away.err.matches(&url).count(),
            1,
            "{command:?}: {}",
            away.err
        );
        assert!(away.err.contains("refused"), "{command:?}: {}", away.err);
    }
}

/// Goal: a path means what it means to other programs in that folder.
#[test]
fn paths_are_typed_from_the_folder_one_is_in() {
    let Two {
        a,
        b: _b,
        gateway: _gateway,
        installation: _installation,
    } = Two::new();
    let key = format!("gh{}aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC3\n", "p_");
    a.write("memory/deep/x.md", "x\n").unwrap();
    a.write("memory/secret.pem", &key).unwrap();
    a.write("x.md", "another\n").unwrap();
    let from = |folder: &str, arguments: &[&str], code: i32| {
        let mut command = a.command(arguments);
        command.current_dir(a.path(folder));
        let ran = a.start(command, "").unwrap().finish().unwrap();
        ran.expect(code).unwrap()
    };
    let mistyped = from(
        "memory",
        &["push", "--allow-secret", "memory/secret.pem"],
        1,
    );
    let said = "--allow-secret memory/secret.pem: there is no such file here";
    assert!(mistyped.err.contains(said), "{}", mistyped.err);
    from("memory", &["push", "--allow-secret", "secret.pem"], 0);
    let absolute = a.path("memory/deep/x.md");
    let absolute = absolute.to_str().unwrap();
    for (folder, typed) in [
        ("", "memory/deep/x.md"),
        ("", "./memory/deep/x.md"),
        ("", "memory/../memory//deep/x.md"),
        ("memory", "deep/x.md"),
        ("memory/deep", "x.md"),
        ("memory/deep", "../deep/x.md"),
        ("memory/deep", absolute),
    ] {
        assert_eq!(
            from(folder, &["cat", typed], 0).out,
            "x\n",
            "{folder}: {typed}"
        );
        assert!(
            from(folder, &["log", typed], 0)
                .out
                .contains("memory/deep/x.md")
        );
        from(folder, &["diff", typed, "--exit-code"], 0);
        let explained = from(folder, &["rules", "explain", typed], 0).out;
        assert!(
            explained.starts_with("memory/deep/x.md: travels"),
            "{explained}"
        );
    }
    assert_eq!(
        from("memory/deep", &["cat", "../../x.md"], 0).out,
        "another\n"
    );
    assert!(from("memory", &["log", ".."], 0).out.contains("x.md"));
    for outside in ["../outside", "/etc/passwd", "."] {
        for verb in [&["cat"][..], &["rules", "explain"]] {
            let refused = from("", &[verb, &[outside]].concat(), 2);
            assert!(refused.err.contains(outside), "{}", refused.err);
        }
    }
}
