//! `export`: archives that the usual tools read, and plain folders; whole or not there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use statehold_testkit::commits::{Items, items_in};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::RealMachine;

use crate::vault::{Direct, flipped, in_folder, overwrite};
use crate::world::{json, run};

/// Everything that an archive has trouble with.
fn fill(machine: &RealMachine) {
    let long = "n".repeat(200);
    for path in [
        "plain.md".to_owned(),
        format!("deep/{}{long}", "folder/".repeat(20)),
        format!("exactly/{}", "x".repeat(92)),
        format!("one-more/{}", "x".repeat(92)),
        "umlaut ä/日本語".to_owned(),
        "new\nline and 'quotes'".to_owned(),
        "-starts-with-a-dash".to_owned(),
    ] {
        machine.write(&path, &path).unwrap();
    }
    machine.write("empty", "").unwrap();
    machine.write("run.sh", "#!/bin/sh\n").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(machine.path("run.sh"), executable).unwrap();
    let noise = SeededEntropy::new(3);
    machine.write("large.bin", noise.bytes(3_000_000)).unwrap();
    // More than is read in one go.
    machine
        .write("sources/huge.bin", noise.bytes(40_000_000))
        .unwrap();
    symlink("plain.md", machine.path("link")).unwrap();
    symlink(format!("deep/{long}"), machine.path("long-link")).unwrap();
    fs::create_dir(machine.path("empty folder")).unwrap();
}

fn workspace(machine: &RealMachine) -> Items {
    let mut items = items_in(&machine.root).unwrap();
    items.retain(|path, _| !path.starts_with(".statehold/"));
    items
}

fn in_words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Programs that read archives, as far as they are here.
fn readers() -> Vec<&'static str> {
    ["tar", "bsdtar"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_ok())
        .collect()
}

/// Goal: an archive takes the place of an earlier one, and of nothing else.
#[test]
fn an_archive_replaces_archives_alone() {
    let direct = Direct::new();
    let a = &direct.a;
    a.write("notes.md", "live").unwrap();
    run(a, &["push"], 0);
    a.write("notes.md", "live, not pushed").unwrap();
    let refused = run(a, &["export", "notes.md"], 1).err;
    assert!(refused.contains("is no archive"), "{refused}");
    assert_eq!(a.read("notes.md").unwrap(), b"live, not pushed");
    for _ in 0..2 {
        run(a, &["export", "../backup.tar.zst"], 0);
    }
}

/// Goal: the archive of a record is the same bytes from every machine and at every time, and other
/// programs get the very tree out of it, with modes and times.
#[test]
fn archives_are_the_same_everywhere_and_read_by_others() {
    let direct = Direct::new();
    let (a, b) = (&direct.a, &direct.b);
    fill(a);
    run(a, &["push", "--scope", "all"], 0);
    let expected = workspace(a);
    let scratch = |name: &str| direct.installation.path(name);
    let first = scratch("first.tar.zst");
    let told = run(a, &["export", in_words(&first)], 0);
    assert!(told.out.contains("record 1 is in"), "{}", told.out);
    a.write("plain.md", "changed").unwrap();
    fs::remove_file(a.path("large.bin")).unwrap();
    run(a, &["push"], 0);
    let second = scratch("second.tar.zst");
    let said = json(b, &["export", "--at", "1", in_words(&second)], 0);
    assert_eq!(said["record"], 1);
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    let vault = scratch("vault");
    let third = scratch("third.tar.zst");
    let straight = ["export", "--store", in_words(&vault), "--at", "1"];
    let nowhere = direct.installation.machine("nowhere").unwrap();
    run(&nowhere, &[&straight[..], &[in_words(&third)]].concat(), 0);
    assert!(fs::read(&first).unwrap() == fs::read(&third).unwrap());
    let mut command = a.command(&["export", "--at", "1", "-"]);
    let piped = command.output().unwrap();
    assert!(piped.status.success() && piped.stdout == fs::read(&first).unwrap());

    for reader in readers() {
        let out = scratch(reader);
        fs::create_dir(&out).unwrap();
        let mut command = Command::new(reader);
        if reader == "tar" {
            command.arg("--zstd");
        }
        command.arg("-xf").arg(&first).arg("-C").arg(&out);
        let ran = command.output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
        assert!(items_in(&out).unwrap() == expected, "{reader}");
        assert!(out.join("empty folder").is_dir());
        let time = |root: &Path| {
            fs::metadata(root.join("run.sh"))
                .unwrap()
                .modified()
                .unwrap()
        };
        assert_eq!(time(&out), time(&a.root), "{reader}");
    }
}

/// Goal: a plain folder is the tree, and nothing that is there gives way for it.
#[test]
fn folders_are_made_whole_and_replace_nothing() {
    let direct = Direct::new();
    let a = &direct.a;
    fill(a);
    run(a, &["push", "--scope", "all"], 0);
    let expected = workspace(a);
    let parent = direct.installation.path("exports");
    fs::create_dir(&parent).unwrap();
    let out = parent.join("out");
    let export = ["export", "--format", "folder", in_words(&out)];
    run(a, &export, 0);
    assert!(items_in(&out).unwrap() == expected);
    assert!(out.join("empty folder").is_dir());
    fs::write(out.join("plain.md"), "mine").unwrap();
    let told = run(a, &export, 1);
    assert!(told.err.contains("directory not empty"), "{}", told.err);
    assert_eq!(fs::read(out.join("plain.md")).unwrap(), b"mine");
    fs::remove_dir_all(&out).unwrap();
    fs::create_dir(&out).unwrap();
    run(a, &export, 0);
    for (arguments, code, words) in [
        (
            &["export", "--format", "folder", "-"][..],
            2,
            "standard output",
        ),
        (&["export", in_words(&parent)], 2, "is a folder"),
        (
            &["export", "--store", "nothing-there", "x"],
            1,
            "no such folder",
        ),
        (
            &["export", "--store", in_words(&parent), "x"],
            1,
            "holds no repository",
        ),
        (
            &["export", "--store", "https://gateway.example", "x"],
            2,
            "is a gateway",
        ),
        (&["export", "--at", "7", "x"], 1, "there is no record 7"),
    ] {
        let told = run(a, arguments, code);
        assert!(told.err.contains(words), "{arguments:?}: {}", told.err);
    }
    assert_eq!(
        fs::read_dir(&parent).unwrap().count(),
        1,
        "something was left beside"
    );
    assert!(!a.path("x").exists() && !a.path("nothing-there").exists());
}

/// Goal: what cannot be exported whole isn't there at all, be it damage or an interruption.
#[test]
fn an_export_is_whole_or_not_there() {
    let direct = Direct::new();
    let a = &direct.a;
    fill(a);
    run(a, &["push", "--scope", "all"], 0);
    let parent = direct.installation.path("exports");
    fs::create_dir(&parent).unwrap();
    let archive = parent.join("out.tar.zst");
    let folder = parent.join("out");
    let exports = [
        &["export", in_words(&archive)][..],
        &["export", "--format", "folder", in_words(&folder)],
    ];
    let mut met = 0;
    for arguments in exports {
        let running = a.start(a.command(arguments), "").unwrap();
        let pid = running.pid().to_string();
        while fs::read_dir(&parent).unwrap().count() == 0 {
            std::thread::yield_now();
        }
        let asked = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        let ended = running.finish().unwrap();
        if asked.success() && ended.code != Some(0) {
            assert!(ended.err.contains("interrupted"), "{}", ended.err);
            assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
            met += 1;
        }
        for left in fs::read_dir(&parent).unwrap() {
            let left = left.unwrap().path();
            let _file = fs::remove_file(&left);
            let _folder = fs::remove_dir_all(&left);
        }
    }
    assert!(met > 0, "no export was interrupted");

    let pack = in_folder(&direct.installation.path("vault"), "packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    overwrite(&pack, flipped(&pack, whole.len() / 2));
    for arguments in exports {
        let told = run(a, arguments, 7);
        assert!(told.err.contains("packs/"), "{}", told.err);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }
}
