//! What happens when something is wrong: one test for each row of the table in `docs/operations.md`.
//! Each asks for a message that names the object and the next step, for the exit code of the table,
//! and that nothing is lost: afterwards, or with the cause mended, all is there.
//!
//! `cargo xtask show badinput` runs these and prints what each command said.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::record::{Body, Kind, NoteBody};
use statehold_core::time::Timestamp;
use statehold_repository::Remote as _;
use statehold_repository::format::header::{ObjectKind, write};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::wire::bodies::{NewKey, Role};
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient};
use statehold_sync::home::read_key_file;
use statehold_testkit::author::Author;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::mount::Mount;
use statehold_testkit::process::{Installation, Ran, RealMachine, RunningGateway};
use statehold_testkit::servers::{self, Absent, installs_everything};

use crate::vault::{
    Bucket, Direct, beside, fill_with_every_kind, flipped, in_folder, linked_straight, overwrite,
    tamper,
};
use crate::world::{Two, installation, json, run};

/// Checks how a command ended and what it said, and shows it to whoever runs the whole table.
#[track_caller]
fn told(row: &str, ran: &Ran, code: i32, said: &[&str]) {
    let message = format!("{}{}", ran.out, ran.err);
    println!("{row}: exit code {:?}\n{}", ran.code, indented(&message));
    assert_eq!(ran.code, Some(code), "{row}: {message}");
    for part in said {
        assert!(message.contains(part), "{row}: no {part:?} in {message}");
    }
}

/// A message as it is shown, long lines cut.
fn indented(message: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(160) {
        Some((end, _)) => format!("    {}…", &line[..end]),
        None => format!("    {line}"),
    };
    let lines: Vec<String> = message.lines().map(line).collect();
    lines.join("\n")
}

/// Says why a row can't be shown here: what it takes is not ours to have.
fn skip(row: &str, why: &str) {
    println!("SKIP {row}: {why}");
}

/// The same for what any machine can install. Where everything has to be, that is a failure.
fn not_installed(row: &str, why: &Absent) {
    assert!(!installs_everything(), "{row}: {why}");
    skip(row, &why.to_string());
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    SeededEntropy::new(seed).bytes(length)
}

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

#[test]
fn unknown_kinds_and_versions_are_told() {
    // A kind of record that this program doesn't know, from one that does.
    let direct = Direct::new();
    direct.a.write("x", "x").unwrap();
    run(&direct.a, &["push"], 0);
    run(&direct.b, &["pull"], 0);
    for (critical, number) in [(false, 2), (true, 3)] {
        tamper(&direct.installation.path("vault"), async |_, state| {
            let text = "?".to_owned();
            let base = state.head;
            let mut head = Author::new(3).head(Kind::Other("teleport".into()), Vec::new());
            head.critical = critical;
            let draft = StoredDraft::new(head, Body::Note(NoteBody { base, text }), b"").unwrap();
            let record = draft.at(state.head, state.time, None);
            let path = direct.object(&format!("log/{number:020}"));
            fs::write(path, record.bytes).unwrap();
        });
        let ran = direct.b.run(&["pull"]).unwrap();
        if critical {
            let said = [
                "record 3",
                "teleport",
                "newer version",
                "hint: install a newer",
            ];
            told("unknown critical kind", &ran, 1, &said);
        } else {
            told("unknown other kind", &ran, 0, &["at record 2"]);
        }
    }
    assert_eq!(direct.b.read("x").unwrap(), b"x");

    // Later versions of each format.
    let direct = Direct::new();
    direct.a.write("x", "x").unwrap();
    run(&direct.a, &["push"], 0);
    let record = direct.object("log/00000000000000000001");
    let good = fs::read(&record).unwrap();
    let mut later = good.clone();
    later[12] += 1;
    overwrite(&record, later);
    let refused = direct.b.run(&["pull"]).unwrap();
    let said = [
        "log/00000000000000000001",
        "newer version",
        "hint: install a newer",
    ];
    told("later version of a record", &refused, 1, &said);
    overwrite(&record, good);
    run(&direct.b, &["pull"], 0);

    let path = direct.object("repository.json");
    let text = fs::read_to_string(&path).unwrap();
    overwrite(&path, text.replace("\"format\": 1", "\"format\": 2"));
    // The description never changes, so machines that know it don't look at it again.
    run(&direct.b, &["unlink"], 0);
    let link = format!("file://{}", direct.installation.path("vault").display());
    let refused = direct.b.run(&["link", &link]).unwrap();
    let said = ["repository of format 2", "hint: install a newer"];
    told("later version of a repository", &refused, 1, &said);
    overwrite(&path, text);
    run(&direct.b, &["link", &link], 0);

    let path = direct.b.path(".statehold/settings.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let refused = direct.b.run(&["pull"]).unwrap();
    let said = ["settings.json have version 2", "hint: install a newer"];
    told("later version of the settings", &refused, 1, &said);
    fs::write(&path, text).unwrap();

    direct
        .b
        .write(".statehold/log/sync-manifest.json", r#"{"version":2}"#)
        .unwrap();
    direct.b.write("y", "y").unwrap();
    let refused = direct.b.run(&["push"]).unwrap();
    let said = ["sync-manifest.json", "version 2", "hint: install a newer"];
    told("later version of the manifest", &refused, 1, &said);
    assert!(
        !run(&direct.a, &["log"], 0).out.contains("y"),
        "it went all the same"
    );
    fs::remove_file(direct.b.path(".statehold/log/sync-manifest.json")).unwrap();
    run(&direct.b, &["push"], 0);
}

#[test]
fn broken_settings_and_rules_stop_everything() {
    let Direct {
        a,
        b,
        installation: _installation,
    } = Direct::new();
    a.write("x", "x").unwrap();
    for (row, file, next) in [
        (
            "settings",
            ".statehold/settings.json",
            "hint: restore the file from a copy",
        ),
        (
            "rules",
            ".statehold/sync-rules.json",
            "hint: correct the file",
        ),
    ] {
        let good = fs::read(a.path(file)).ok();
        for text in ["", "{\"version\":1,", "[]", "\u{0}\u{1}"] {
            a.write(file, text).unwrap();
            for verb in ["push", "pull"] {
                let refused = a.run(&[verb]).unwrap();
                told(
                    &format!("corrupt {row}, {verb}"),
                    &refused,
                    1,
                    &[file, next],
                );
            }
            let doctor = a.run(&["doctor"]).unwrap();
            assert!(
                doctor.code > Some(0) && doctor.err.contains(file),
                "{}",
                doctor.err
            );
        }
        match good {
            Some(good) => fs::write(a.path(file), good).unwrap(),
            None => fs::remove_file(a.path(file)).unwrap(),
        }
    }
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("x").unwrap(), b"x");
}

/// Goal: the workspace's own files are caches, or replaceable, and no damage to one loses a file.
#[test]
fn a_broken_manifest_index_or_journal_is_mended() {
    let Direct {
        a,
        b,
        installation: _installation,
    } = Direct::new();
    let files = [
        "log/sync-manifest.json",
        "index",
        "stat-cache",
        "journal/push",
        "allowed-secrets.json",
    ];
    a.write("kept", "kept").unwrap();
    run(&a, &["push"], 0);
    for (number, file) in files.into_iter().enumerate() {
        for text in ["", "{\"version\":1,", "\u{0}\u{1}\u{2}"] {
            let content = format!("{number}{text}");
            let path = format!("file {number} of {}", text.len());
            a.write(&path, &content).unwrap();
            a.write(&format!(".statehold/{file}"), text).unwrap();
            let ran = a.run(&["sync"]).unwrap();
            told(&format!("corrupt {file}"), &ran, 0, &[&path]);
            run(&b, &["pull"], 0);
            assert_eq!(b.read(&path).unwrap(), content.as_bytes(), "{file}");
            assert_eq!(b.read("kept").unwrap(), b"kept");
        }
    }
    // What doctor says of the index, which is the only one whose loss shows.
    a.write(".statehold/index", "junk").unwrap();
    let doctor = a.run(&["doctor"]).unwrap();
    told(
        "corrupt index, doctor",
        &doctor,
        1,
        &["index", "nothing is lost"],
    );
}

#[test]
fn a_truncated_pack_is_named() {
    let Direct { a, b, installation } = Direct::new();
    a.write("noise", noise(3, 700_000)).unwrap();
    a.write("small", "small").unwrap();
    run(&a, &["push"], 0);
    let pack = in_folder(&installation.path("vault"), "packs").remove(0);
    let good = fs::read(&pack).unwrap();
    for length in [0, 100, good.len() / 2] {
        overwrite(&pack, &good[..length]);
        let damaged = b.run(&["pull"]).unwrap();
        let name = pack.file_name().unwrap().to_str().unwrap();
        told(
            &format!("pack cut to {length} bytes"),
            &damaged,
            7,
            &[name, "damaged", "hint: "],
        );
        assert!(!b.path("noise").exists());
        // A pack that can't be read keeps nobody from pushing.
        b.write("own", format!("{length}")).unwrap();
        run(&b, &["push"], 0);
    }
    overwrite(&pack, good);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("noise").unwrap(), noise(3, 700_000));
    assert_eq!(b.read("small").unwrap(), b"small");
}

/// Goal: one bit anywhere is either without effect, in the caches, or told with the object's name.
/// Method: a log with every kind of object; a bit in the middle of one object of each kind; a machine
/// that has seen nothing pulls.
#[test]
fn a_flipped_bit_is_harmless_or_named_in_every_kind_of_object() {
    let direct = Direct::new();
    let vault = direct.installation.path("vault");
    let whole = fill_with_every_kind(&vault);
    let damaged = |kind: &str| {
        let mut objects = in_folder(&vault, kind);
        objects.sort();
        // The newest record is in no cache; of the others any will do.
        if kind == "log" {
            objects.pop()
        } else {
            objects.drain(..).next()
        }
        .unwrap()
    };
    let mut cases: Vec<(&str, PathBuf, i32)> = ["segments", "checkpoints", "trees"]
        .map(|kind| (kind, damaged(kind), 0))
        .into();
    cases.extend(["packs", "log"].map(|kind| (kind, damaged(kind), 7)));
    // Its digest is the parent of record 1, which whoever begins at a checkpoint doesn't need.
    cases.push(("repository.json", vault.join("repository.json"), 0));
    for (number, (kind, object, code)) in cases.into_iter().enumerate() {
        let good = fs::read(&object).unwrap();
        let bytes = if kind == "repository.json" {
            // A bit that keeps it a description.
            let text = String::from_utf8(good.clone()).unwrap();
            let created = text.find("created").unwrap();
            let year = created + text[created..].find("20").unwrap();
            flipped(&object, year + 2)
        } else {
            flipped(&object, good.len() / 2)
        };
        overwrite(&object, bytes);
        let machine = linked_straight(&direct.installation, &format!("machine-{number}"));
        let pulled = machine.run(&["pull"]).unwrap();
        let name = object.file_name().unwrap().to_str().unwrap();
        let said: &[&str] = if code == 0 { &[] } else { &[name, "hint: "] };
        told(&format!("a bit of {kind}"), &pulled, code, said);
        for (path, content) in &whole {
            let there = machine.read(path).ok();
            assert!(
                there.is_none_or(|there| there == *content),
                "{kind}: {path}"
            );
            assert!(code != 0 || machine.path(path).exists(), "{kind}: {path}");
        }
        overwrite(&object, good);
        run(&machine, &["pull"], 0);
        for (path, content) in &whole {
            assert!(machine.read(path).unwrap() == *content, "{kind}: {path}");
        }
    }
}

/// Goal: a few kilobytes that expand to a gigabyte are told, and cost neither memory nor time.
#[test]
fn a_decompression_bomb_is_named() {
    let direct = Direct::new();
    direct.a.write("x", "x").unwrap();
    direct.a.write("noise", noise(6, 700_000)).unwrap();
    run(&direct.a, &["push"], 0);
    let bomb = bomb(1 << 30);
    assert!(bomb.len() < 200_000);
    let record = direct.object("log/00000000000000000001");
    let good = fs::read(&record).unwrap();
    overwrite(&record, [&write(ObjectKind::Record)[..], &bomb].concat());
    let began = Instant::now();
    let damaged = direct.b.run(&["pull"]).unwrap();
    let said = ["log/00000000000000000001 is damaged", "expand", "hint: "];
    told("decompression bomb in the log", &damaged, 7, &said);
    overwrite(&record, good);
    // In the place of a chunk's frame.
    let pack = in_folder(&direct.installation.path("vault"), "packs").remove(0);
    let good = fs::read(&pack).unwrap();
    let mut bytes = good.clone();
    bytes[16..16 + bomb.len()].copy_from_slice(&bomb);
    overwrite(&pack, bytes);
    let damaged = direct.b.run(&["pull"]).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();
    told(
        "decompression bomb in a pack",
        &damaged,
        7,
        &[name, "hint: "],
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    overwrite(&pack, good);
    run(&direct.b, &["pull"], 0);
    assert_eq!(direct.b.read("noise").unwrap(), noise(6, 700_000));
}

/// Zeros, compressed.
fn bomb(bytes: usize) -> Vec<u8> {
    let zeros = std::io::Read::take(std::io::repeat(0), bytes as u64);
    zstd::stream::encode_all(zeros, 1).unwrap()
}

/// Goal: content that isn't what its entry says never becomes a file.
#[test]
fn content_of_another_digest_is_named() {
    let Direct { a, b, installation } = Direct::new();
    a.write("good", "good").unwrap();
    run(&a, &["push"], 0);
    let real = noise(7, 700_000);
    tamper(&installation.path("vault"), async |repository, state| {
        let author = Author::new(6);
        let drafted = author.draft(&state, [("lie", Some(&real[..]))]).unwrap();
        for pack in drafted.packs {
            repository.put_pack(pack.id, pack.bytes).await.unwrap();
        }
        let (head, mut body) = (drafted.draft.draft.head, drafted.draft.draft.body);
        let Body::Push(push) = &mut body else {
            panic!("no push");
        };
        let Entry::File(file) = &mut push.upserts[0].entry else {
            panic!("no file");
        };
        file.digest = Digest::of(b"something else");
        let last = file.chunks.len() - 1;
        file.chunks[last].digest = Digest::of(b"something else");
        let draft = StoredDraft::new(head, body, b"").unwrap();
        repository.append(&draft, &state).await.unwrap();
    });
    let damaged = b.run(&["pull"]).unwrap();
    told(
        "wrong digest",
        &damaged,
        7,
        &["packs/", "does not hold the chunk", "hint: "],
    );
    assert!(!b.path("lie").exists());
    assert_eq!(b.read("good").unwrap(), b"good");
}

#[test]
fn a_path_of_5000_characters_is_told() {
    let Direct {
        a,
        b,
        installation: _installation,
    } = Direct::new();
    a.write("short", "short").unwrap();
    // Deeper than the system takes in one go.
    let deep = "mkdir=$(printf 'd%.0s' $(seq 199)); for i in $(seq 25); do mkdir $mkdir && \
                cd -P $mkdir || exit; done; echo deep > leaf";
    let made = std::process::Command::new("bash")
        .args(["-c", deep])
        .current_dir(&a.root)
        .status();
    assert!(made.unwrap().success());
    let partial = a.run(&["push"]).unwrap();
    told(
        "path of 5,000 characters",
        &partial,
        4,
        &["left out", "4096 is the limit"],
    );
    assert!(partial.out.lines().all(|line| line.len() < 1_000));
    run(&b, &["pull"], 0);
    assert_eq!(b.read("short").unwrap(), b"short");
    let again = a.run(&["status"]).unwrap();
    told(
        "path of 5,000 characters, status",
        &again,
        0,
        &["4096 is the limit"],
    );
    let long = "d/".repeat(2_500);
    let wrong = a.run(&["cat", &long]).unwrap();
    told(
        "path of 5,000 characters, typed",
        &wrong,
        2,
        &["4096 is the limit"],
    );
    // Where nobody is asked to send it, all is well again.
    a.write(".stateholdignore", format!("/{}/\n", "d".repeat(199)))
        .unwrap();
    run(&a, &["push"], 0);
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let Two {
        gateway: _gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    let large = noise(11, 4_000_000);
    a.write("large", &large).unwrap();
    a.write("small", "small").unwrap();
    run(&a, &["push"], 0);
    let full = installation.machine("full").unwrap();
    let disk = match Mount::small(&full.root, 2_000_000) {
        Ok(disk) => disk,
        Err(why) => return skip("disk full", &why),
    };
    run(&full, &["init"], 0);
    let invite = installation.invite(&_gateway).unwrap();
    full.run_with(&["link", &_gateway.url], &invite)
        .unwrap()
        .expect(0)
        .unwrap();
    let told_ = full.run(&["pull"]).unwrap();
    told(
        "disk full, pull",
        &told_,
        1,
        &["No space left", "hint: make room"],
    );
    assert!(!full.path("large").exists());
    disk.grow(50_000_000).unwrap();
    run(&full, &["pull"], 0);
    assert!(full.read("large").unwrap() == large);
    assert_eq!(full.read("small").unwrap(), b"small");
    // Nothing that was staged stays behind.
    assert_eq!(
        fs::read_dir(full.path(".statehold/staging"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_full_disk_at_the_gateway_is_told_and_loses_nothing() {
    let installation = installation();
    fs::create_dir(installation.path("vault")).unwrap();
    let disk = match Mount::small(&installation.path("vault"), 3_000_000) {
        Ok(disk) => disk,
        Err(why) => return skip("disk full at the gateway", &why),
    };
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked("anna", &gateway).unwrap();
    let b = installation.linked("bert", &gateway).unwrap();
    a.write("first", "first").unwrap();
    run(&a, &["push"], 0);
    // More than fits as a record.
    let rest = installation.path("vault").join("rest");
    fill(&rest);
    a.write("more", noise(13, 100_000)).unwrap();
    let refused = a.run(&["push"]).unwrap();
    told(
        "disk full at the gateway, record",
        &refused,
        6,
        &["log/", "disk is full", "hint: "],
    );
    // Reading goes on, also for whom the push is left to be settled.
    run(&a, &["pull"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("first").unwrap(), b"first");
    fs::remove_file(rest).unwrap();
    run(&a, &["push"], 0);
    // More than fits as a pack.
    let large = noise(12, 6_000_000);
    a.write("large", &large).unwrap();
    let refused = a.run(&["push"]).unwrap();
    told(
        "disk full at the gateway, pack",
        &refused,
        6,
        &["packs/", "disk is full", "hint: "],
    );
    run(&a, &["pull"], 0);
    disk.grow(100_000_000).unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    assert!(b.read("large").unwrap() == large);
    assert_eq!(b.read("more").unwrap(), noise(13, 100_000));
    assert_eq!(run(&b, &["log"], 0).out.matches("push").count(), 3);
    drop(gateway);
}

/// Takes all room that is left.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
}

/// Goal: folders that can't be written to keep nothing else from arriving, and nothing of what is in
/// them is taken for an edit.
#[test]
fn a_read_only_folder_is_told_and_the_rest_arrives() {
    let Two {
        gateway: _gateway,
        a,
        b,
        installation,
    } = Two::new();
    for path in ["docs/one", "notes/one"] {
        a.write(path, "before").unwrap();
    }
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    for path in ["docs/one", "docs/two", "notes/one", "notes/two"] {
        a.write(path, "after").unwrap();
    }
    run(&a, &["push"], 0);
    let nobody = Nobody::new(&installation, &b);
    nobody.shut(&b.path("docs"), true);
    let partial = nobody.run(&b, &["pull"]);
    let said = [
        "docs/one",
        "docs/two",
        "Permission denied",
        "some were left out",
    ];
    told("read-only folder inside, pull", &partial, 4, &said);
    assert_eq!(b.read("notes/two").unwrap(), b"after");
    assert_eq!(b.read("docs/one").unwrap(), b"before");
    // What could not be received is no edit of ours.
    nobody.run(&b, &["push"]).expect(0).unwrap();
    run(&a, &["pull"], 0);
    assert_eq!(a.read("docs/one").unwrap(), b"after");
    nobody.shut(&b.path("docs"), false);
    nobody.run(&b, &["pull"]).expect(0).unwrap();
    assert_eq!(b.read("docs/one").unwrap(), b"after");
    assert_eq!(b.read("docs/two").unwrap(), b"after");
}

/// Somebody whom file modes bind, also where the tests run as root.
struct Nobody {
    program: PathBuf,
    id: Option<u32>,
}

impl Nobody {
    /// Gives a machine's folders to somebody without rights, if these tests have all.
    fn new(installation: &Installation, machine: &RealMachine) -> Self {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        fn give(path: &Path, id: u32) {
            std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
            if path.is_dir() && !path.is_symlink() {
                let items = fs::read_dir(path).unwrap();
                items.for_each(|item| give(&item.unwrap().path(), id));
            }
        }
        let scratch = installation.path("");
        let id = (fs::metadata(&scratch).unwrap().uid() == 0).then_some(65_534);
        let program = installation.path("program");
        fs::copy(env!("CARGO_BIN_EXE_statehold"), &program).unwrap();
        if let Some(id) = id {
            fs::set_permissions(&scratch, fs::Permissions::from_mode(0o711)).unwrap();
            let folder = machine.root.parent().unwrap();
            chown(folder, Some(id), Some(id)).unwrap();
            give(folder, id);
        }
        Self { program, id }
    }

    fn run(&self, machine: &RealMachine, arguments: &[&str]) -> Ran {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(&self.program);
        let usual = machine.command(arguments);
        command.args(arguments).current_dir(&machine.root);
        command.env_clear().envs(
            usual
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        machine.start(command, "").unwrap().finish().unwrap()
    }

    /// Makes a folder read-only, or undoes that.
    fn shut(&self, folder: &Path, shut: bool) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = if shut { 0o555 } else { 0o755 };
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_read_only_workspace_or_store_is_told() {
    let Two {
        gateway: _gateway,
        a,
        b,
        installation,
    } = Two::new();
    b.write("own", "own").unwrap();
    let shut = match Mount::read_only(&b.root) {
        Ok(shut) => shut,
        Err(why) => return skip("read-only workspace", &why),
    };
    for verb in ["push", "pull"] {
        let refused = b.run(&[verb]).unwrap();
        let said = [
            "Read-only file system",
            "hint: make the place named writable",
        ];
        told(&format!("read-only workspace, {verb}"), &refused, 1, &said);
    }
    drop(shut);
    let shut = Mount::read_only(&installation.path("vault")).unwrap();
    let refused = b.run(&["push"]).unwrap();
    let said = ["log/", "may not write to its store", "hint: "];
    told("read-only store, push", &refused, 6, &said);
    run(&a, &["pull"], 0);
    drop(shut);
    run(&b, &["push"], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("own").unwrap(), b"own");
}

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

/// A bucket, if there can be one here.
fn bucket(row: &str) -> Option<Bucket> {
    match Bucket::new() {
        Ok(bucket) => Some(bucket),
        Err(absent @ Absent::NotInstalled(_)) => {
            not_installed(row, &absent);
            None
        }
        Err(absent) => panic!("moto {absent}"),
    }
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

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: never");
        std::thread::sleep(Duration::from_millis(5));
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

/// Goal: damage at rest is told with the object's name and exit code 7, and never spreads.
/// Method: one bit of the only pack is turned over in the store; another machine pulls.
#[test]
fn a_damaged_object_is_named() {
    let Two {
        a,
        b,
        installation,
        gateway: _gateway,
    } = Two::new();
    a.write("noise", SeededEntropy::new(3).bytes(700_000))
        .unwrap();
    run(&a, &["push"], 0);
    let packs = in_folder(&installation.path("vault"), "packs");
    let [pack] = &packs[..] else {
        panic!("one pack, not {packs:?}");
    };
    let mut bytes = fs::read(pack).unwrap();
    bytes[300_000] ^= 1;
    fs::write(pack, bytes).unwrap();
    let damaged = run(&b, &["pull"], 7);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(damaged.err.contains(name), "{}", damaged.err);
    assert!(damaged.err.contains("hint: "), "{}", damaged.err);
    assert!(!b.path("noise").exists());
    let damaged = json(&b, &["pull"], 7);
    assert_eq!(damaged["exit"], 7);
}

#[test]
fn damage_in_the_log_is_named() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("x", "x").unwrap();
    run(&a, &["push"], 0);
    let records = in_folder(&installation.path("vault"), "log");
    let [record] = &records[..] else {
        panic!("one record, not {records:?}");
    };
    let mut bytes = fs::read(record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(record, bytes).unwrap();
    // A gateway that has it in memory would still serve it, rightly.
    let address = gateway.address().to_owned();
    gateway.kill().unwrap();
    let _next = installation.serve_at("vault", &address).unwrap();
    let damaged = run(&b, &["pull"], 7);
    let name = record.file_name().unwrap().to_str().unwrap();
    assert!(damaged.err.contains(name), "{}", damaged.err);
}
