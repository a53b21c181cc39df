//! `verify` and `repair` through the real program: on a workspace's own store, on a gateway's with all
//! that lies in it, and through a gateway.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::vault::{
    Direct, copy_folder, fill_with_every_kind, flipped, in_folder, linked_straight, overwrite,
};
use crate::world::{Two, json, run};

fn named(said: &Value) -> Vec<String> {
    let repositories = said["repositories"].as_array().unwrap().iter();
    let damaged = repositories.flat_map(|row| row["damaged"].as_array().unwrap());
    damaged
        .map(|damaged| damaged["key"].as_str().unwrap().to_owned())
        .collect()
}

fn pack_of(vault: &Path) -> (PathBuf, String) {
    let pack = in_folder(vault, "packs").remove(0);
    let key = format!("packs/{}", pack.file_name().unwrap().to_str().unwrap());
    (pack, key)
}

/// Goal: a person hears what is damaged, what needs it and what to do, and a script the same.
#[test]
fn damage_is_named_and_the_workspace_heals_it() {
    let direct = Direct::new();
    let vault = direct.installation.path("vault");
    fill_with_every_kind(&vault);
    run(&direct.a, &["pull"], 0);
    let told = run(&direct.a, &["verify"], 0);
    assert!(told.out.contains("all is well"), "{}", told.out);
    assert!(
        told.out.contains("last whole reading: never"),
        "{}",
        told.out
    );
    let told = run(&direct.a, &["verify", "--read-data"], 0);
    assert!(
        told.out.contains("last whole reading: today"),
        "{}",
        told.out
    );
    let said = json(&direct.a, &["verify", "--read-data=7%"], 0);
    assert_eq!(
        (&said["well"], &said["repositories"][0]["read"]),
        (&true.into(), &"7%".into())
    );
    assert!(said["repositories"][0]["last_whole_reading"].is_string());

    let (pack, key) = pack_of(&vault);
    let sound = fs::read(&pack).unwrap();
    overwrite(&pack, flipped(&pack, sound.len() / 2));
    run(&direct.a, &["verify"], 0);
    let told = run(&direct.a, &["verify", "--read-data"], 7);
    assert!(
        told.err.contains(&format!("damaged  {key}: ")),
        "{}",
        told.err
    );
    assert!(
        told.err.contains("needed by 1 file: file-0"),
        "{}",
        told.err
    );
    assert!(told.out.contains("`statehold repair`"), "{}", told.out);
    let said = json(&direct.a, &["verify", "--read-data"], 7);
    assert_eq!(named(&said), std::slice::from_ref(&key));
    assert_eq!(
        said["repositories"][0]["damaged"][0]["paths"],
        serde_json::json!(["file-0"])
    );

    // A machine without the file lists what stays lost; one with it brings it back.
    let other = linked_straight(&direct.installation, "other");
    let told = run(&other, &["repair"], 7);
    assert!(
        told.err.contains("lost     file-0 as of record 1"),
        "{}",
        told.err
    );
    assert!(fs::read(&pack).unwrap() != sound);
    let told = run(&direct.a, &["repair"], 0);
    assert!(
        told.out.contains("from this workspace's files"),
        "{}",
        told.out
    );
    assert!(fs::read(&pack).unwrap() == sound);
    assert_eq!(in_folder(&vault, "damaged/packs").len(), 1);
    run(&other, &["pull"], 0);
    let told = run(&direct.a, &["repair"], 0);
    assert!(told.out.contains("all was well"), "{}", told.out);
}

/// Goal: the end of the log is missed by whoever saw it.
#[test]
fn lost_newest_records_are_noticed() {
    let direct = Direct::new();
    let vault = direct.installation.path("vault");
    fill_with_every_kind(&vault);
    run(&direct.a, &["pull"], 0);
    let copy = direct.installation.path("copy");
    copy_folder(&vault, &copy);
    let last = in_folder(&vault, "log").into_iter().max().unwrap();
    let key = format!("log/{}", last.file_name().unwrap().to_str().unwrap());
    fs::remove_file(&last).unwrap();
    // This machine pulled it.
    assert_eq!(
        named(&json(&direct.a, &["verify"], 7)),
        std::slice::from_ref(&key)
    );
    // That one never saw it.
    run(&direct.b, &["verify"], 0);
    let from = copy.to_str().unwrap();
    let said = json(&direct.b, &["repair", "--from", from], 0);
    assert_eq!(said["repositories"][0]["healed"][0]["key"], key);
    run(&direct.a, &["verify"], 0);
}

/// Goal: of a gateway's store, the control log and all repositories are looked at.
#[test]
fn all_of_a_gateways_store_is_looked_at_and_repaired() {
    let Two {
        mut gateway,
        a,
        b,
        installation,
    } = Two::new();
    a.write("notes/a.md", "one").unwrap();
    a.write(
        "large",
        statehold_testkit::environment::SeededEntropy::new(3).bytes(700_000),
    )
    .unwrap();
    run(&a, &["push"], 0);
    let told = run(&a, &["verify", "--read-data"], 0);
    assert!(told.out.contains("all is well"), "{}", told.out);
    let vault = installation.path("vault");
    let (pack, key) = pack_of(&vault);
    let sound = fs::read(&pack).unwrap();
    overwrite(&pack, flipped(&pack, sound.len() / 2));
    // Through the gateway, content can be checked and no object be replaced.
    let said = json(&a, &["verify", "--read-data"], 7);
    assert_eq!(named(&said), std::slice::from_ref(&key));
    assert_eq!(
        said["repositories"][0]["damaged"][0]["paths"],
        serde_json::json!(["large"])
    );
    let told = run(&a, &["repair"], 1);
    assert!(told.err.contains("--store"), "{}", told.err);
    gateway.kill().unwrap();

    let copy = installation.path("copy");
    copy_folder(&vault, &copy);
    let control = vault.join("_control/log/00000000000000000001");
    overwrite(&control, b"");
    fs::write(vault.join("README.md"), "whose?").unwrap();
    let store = vault.to_str().unwrap();
    // From anywhere, by whoever reaches the store.
    let operator = installation.machine("elsewhere").unwrap();
    let said = json(&operator, &["verify", "--store", store, "--read-data"], 7);
    let mut found = named(&said);
    found.sort();
    assert_eq!(found, ["log/00000000000000000001".to_owned(), key]);
    assert_eq!(said["unknown"], serde_json::json!(["README.md"]));
    assert_eq!(said["repositories"].as_array().unwrap().len(), 2);
    // The copy has the control log whole, and this workspace the file.
    overwrite(&copy.join(pack.strip_prefix(&vault).unwrap()), b"also gone");
    let repair = ["repair", "--store", store, "--from", copy.to_str().unwrap()];
    let said = json(&a, &repair, 0);
    let healed = said["repositories"].as_array().unwrap().iter();
    let from: Vec<_> = healed.map(|row| row["healed"][0]["from"].clone()).collect();
    assert!(
        from.contains(&"replica".into()) && from.contains(&"workspace".into()),
        "{from:?}"
    );
    assert!(fs::read(&pack).unwrap() == sound);
    run(&operator, &["verify", "--store", store, "--read-data"], 0);
    let _gateway = installation.serve_at("vault", gateway.address()).unwrap();
    run(&b, &["pull"], 0);
    assert_eq!(b.read("notes/a.md").unwrap(), b"one");
}

/// Goal: mistakes are told with what to do.
#[test]
fn wrong_places_and_shares_are_told() {
    let direct = Direct::new();
    let at = |name: &str| direct.installation.path(name).to_str().unwrap().to_owned();
    let told = run(&direct.a, &["verify", "--store", &at("nowhere")], 6);
    assert!(told.err.contains("is it mounted?"), "{}", told.err);
    assert!(!direct.installation.path("nowhere").exists());
    fs::create_dir(direct.installation.path("empty")).unwrap();
    for verb in ["verify", "repair"] {
        let told = run(&direct.a, &[verb, "--store", &at("empty")], 1);
        assert!(told.err.contains("holds no repository"), "{}", told.err);
        run(&direct.a, &[verb, "--store", "http://127.0.0.1:1"], 1);
    }
    for share in ["0%", "101%", "x"] {
        let told = run(&direct.a, &["verify", &format!("--read-data={share}")], 2);
        assert!(told.err.contains("percent"), "{}", told.err);
    }
    run(&direct.a, &["repair", "--from", &at("nowhere")], 6);
    direct.a.write("lost", "lost").unwrap();
    run(&direct.a, &["push"], 0);
    fs::remove_file(direct.a.path("lost")).unwrap();
    overwrite(&direct.object("log/00000000000000000001"), b"");
    let told = run(&direct.a, &["repair", "--from", &at("empty")], 7).out;
    assert!(
        told.contains("empty holds nothing that brings them back"),
        "{told}"
    );
    let alone = direct.installation.machine("alone").unwrap();
    let told = run(&alone, &["verify"], 1);
    assert!(told.err.contains("this needs a workspace"), "{}", told.err);
}
