//! Objects of the store that are damaged, hostile, or of another version.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::record::{Body, Kind, NoteBody};
use statehold_repository::Remote as _;
use statehold_repository::format::header::{ObjectKind, write};
use statehold_repository::format::record::StoredDraft;
use statehold_testkit::author::Author;
use statehold_testkit::environment::SeededEntropy;

use super::{noise, told};
use crate::vault::{
    Direct, fill_with_every_kind, flipped, in_folder, linked_straight, overwrite, tamper,
};
use crate::world::{Two, json, run};

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
