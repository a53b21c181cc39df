//! `restore`: what was comes back beside what is live, and nothing live is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use statehold_testkit::commits::{Items, items_in};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::mount::Mount;
use statehold_testkit::process::RealMachine;

use crate::vault::{Direct, flipped, in_folder, linked_straight, overwrite};
use crate::world::{installation, json, run};

/// Everything in a workspace but what Statehold keeps and what is restored: which file it is, its
/// content, its mode and its time.
fn live(machine: &RealMachine) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![machine.root.clone()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path == machine.path(".statehold") || path == machine.path("_restore") {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else if meta.is_dir() {
                folders.push(path.clone());
                String::new()
            } else {
                format!("{:?}", fs::read(&path).unwrap())
            };
            let (mode, inode, time) = (meta.mode(), meta.ino(), meta.mtime_nsec());
            found.insert(path, format!("{mode:o} {inode} {time} {content}"));
        }
    }
    found
}

/// What lies in a holding folder.
fn held(machine: &RealMachine, said: &serde_json::Value) -> (PathBuf, Items) {
    let folder = machine.path(said["folder"].as_str().unwrap());
    let items = items_in(&folder).unwrap();
    (folder, items)
}

fn content<'a>(items: &'a Items, path: &str) -> &'a [u8] {
    match items.get(path) {
        Some(statehold_testkit::commits::Item::File { content, .. }) => content,
        other => panic!("{path}: {other:?}"),
    }
}

/// Waits until the next second, so that a moment tells two records apart.
fn next_second() {
    std::thread::sleep(Duration::from_millis(1_100));
}

/// A skill as it is at record 1, and changed in every way in record 2.
fn two_versions_of_a_skill(machine: &RealMachine) {
    let skill = "state/skills/snappy-image";
    machine
        .write(&format!("{skill}/SKILL.md"), "one\ntwo\n")
        .unwrap();
    machine
        .write(&format!("{skill}/run.sh"), "#!/bin/sh\n")
        .unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(machine.path(skill).join("run.sh"), executable).unwrap();
    symlink("SKILL.md", machine.path(skill).join("readme")).unwrap();
    fs::create_dir(machine.path(skill).join("empty")).unwrap();
    machine.write("state/other.md", "other").unwrap();
    run(machine, &["push"], 0);
    next_second();
    machine
        .write(&format!("{skill}/SKILL.md"), "one\nthree\n")
        .unwrap();
    machine.write(&format!("{skill}/new.md"), "new").unwrap();
    for gone in ["run.sh", "readme"] {
        fs::remove_file(machine.path(skill).join(gone)).unwrap();
    }
    run(machine, &["push"], 0);
}

/// Goal: a skill comes back by its name at a time, with modes, links and empty folders; the
/// difference and the way to take it over are told; nothing live changes and nothing of it travels.
#[test]
fn a_skill_comes_back_at_a_time_beside_what_is_live() {
    let installation = installation();
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked_as("anna", "agent", &gateway).unwrap();
    two_versions_of_a_skill(&a);
    let log = json(&a, &["log"], 0);
    let time = log[1]["time"].as_str().unwrap().to_owned();
    let name = format!(
        "snappy-image-{}Z",
        time.split('.').next().unwrap().replace(':', "-")
    );
    let before = live(&a);

    let told = run(&a, &["restore", "snappy-image", &time], 0);
    for expected in [
        &format!("is in _restore/{name}: 4 entries"),
        "differs       state/skills/snappy-image/SKILL.md",
        "only live     state/skills/snappy-image/new.md",
        "only restored state/skills/snappy-image/run.sh",
        "only restored state/skills/snappy-image/readme",
        &format!("diff -r state/skills/snappy-image _restore/{name}"),
        &format!(
            "mkdir -p state/skills/snappy-image && cp -a _restore/{name}/. state/skills/snappy-image/"
        ),
    ] {
        assert!(told.out.contains(expected), "{expected}: {}", told.out);
    }
    assert!(!told.out.contains("other.md"), "{}", told.out);
    let holding = a.path("_restore").join(&name);
    assert_eq!(fs::read(holding.join("SKILL.md")).unwrap(), b"one\ntwo\n");
    let mode = fs::metadata(holding.join("run.sh")).unwrap().mode();
    assert_eq!(mode & 0o111, 0o111);
    assert_eq!(
        fs::read_link(holding.join("readme")).unwrap(),
        Path::new("SKILL.md")
    );
    assert!(holding.join("empty").is_dir());
    assert!(!holding.join("new.md").exists());

    // The same again finds everything there, and shows lines where they are asked for.
    let again = run(&a, &["restore", "snappy-image", "--at", &time, "--diff"], 0);
    assert!(
        again.out.contains("4 were there already; 0 B"),
        "{}",
        again.out
    );
    assert!(again.out.contains("-three\n+two\n"), "{}", again.out);
    let said = json(&a, &["restore", "state/skills/snappy-image", "1"], 0);
    assert_eq!(said["folder"], format!("_restore/{name}"));
    assert_eq!(said["differences"].as_array().unwrap().len(), 4);

    assert_eq!(live(&a), before);
    let status = json(&a, &["status"], 0);
    assert_eq!(json(&a, &["push"], 0)["outcome"], "nothing", "{status}");
    // Taken over by the command that was printed, the skill is what it was, and what was only live
    // is left to be removed.
    let take_over = said["take_over"][1].as_str().unwrap();
    let mut shell = std::process::Command::new("bash");
    let ran = shell.current_dir(&a.root).args(["-c", take_over]).output();
    assert!(ran.unwrap().status.success());
    fs::remove_file(a.path("state/skills/snappy-image/new.md")).unwrap();
    assert_eq!(
        items_in(&a.path("state/skills/snappy-image")).unwrap(),
        items_in(&holding).unwrap()
    );
}

/// Goal: what was deleted comes back, by an age; what never was is told with the next step.
#[test]
fn what_was_deleted_comes_back() {
    let direct = Direct::new();
    let a = &direct.a;
    a.write("memory/notes.md", "keep me").unwrap();
    a.write("memory/stays.md", "stays").unwrap();
    run(a, &["push"], 0);
    next_second();
    next_second();
    fs::remove_file(a.path("memory/notes.md")).unwrap();
    run(a, &["push"], 0);
    let before = live(a);
    let gone = run(a, &["restore", "memory/notes.md"], 1);
    assert!(
        gone.err.contains("statehold versions memory/notes.md"),
        "{}",
        gone.err
    );
    let said = json(a, &["restore", "memory/notes.md", "1 second ago"], 0);
    assert_eq!(said["record"], 1);
    let (folder, items) = held(a, &said);
    assert!(
        folder
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("notes.md-20")
    );
    assert_eq!(content(&items, "notes.md"), b"keep me");
    let take_over = said["take_over"][1].as_str().unwrap();
    assert!(
        take_over.starts_with("mkdir -p memory && cp -a _restore/"),
        "{take_over}"
    );
    assert!(
        take_over.ends_with("/notes.md memory/notes.md"),
        "{take_over}"
    );
    for (arguments, code, words) in [
        (&["restore", "never-was", "1"][..], 1, "is not in record 1"),
        (&["restore", "memory", "99"], 1, "there is no record 99"),
        (
            &["restore", "memory", "2001-01-01"],
            1,
            "there is nothing as of",
        ),
        (
            &["restore", "memory", "nobody-made-it"],
            1,
            "no snapshot nobody-made-it",
        ),
        (&["restore"], 2, "NAME|PATH"),
        (&["restore", ".", "1"], 2, "restore --all"),
        (&["restore", "--all", "0"], 1, "nothing to restore"),
        (
            &["restore", "--all", "memory", "1"],
            2,
            "--all takes everything",
        ),
        (
            &["restore", "../elsewhere", "1"],
            2,
            "not inside the workspace",
        ),
    ] {
        let told = run(a, arguments, code);
        assert!(told.err.contains(words), "{arguments:?}: {}", told.err);
    }
    assert_eq!(live(a), before);
}

/// Goal: everything comes back at a snapshot, by its name or label, on a machine that has other
/// content.
#[test]
fn everything_comes_back_at_a_snapshot() {
    let direct = Direct::new();
    let (a, b) = (&direct.a, &direct.b);
    a.write("notes/a.md", "first").unwrap();
    a.write("large.bin", SeededEntropy::new(3).bytes(700_000))
        .unwrap();
    run(a, &["push"], 0);
    let mut expected: Items = items_in(&a.root).unwrap();
    expected.retain(|path, _| !path.starts_with(".statehold/"));
    let made = json(a, &["snapshot", "before"], 0);
    let name = made["id"].as_str().unwrap().to_owned();
    a.write("notes/a.md", "second").unwrap();
    fs::remove_file(a.path("large.bin")).unwrap();
    run(a, &["push"], 0);
    b.write("own.md", "not pushed").unwrap();
    let before = live(b);
    for when in ["before", &name] {
        let said = json(b, &["restore", "--all", when], 0);
        let (folder, items) = held(b, &said);
        assert!(folder.starts_with(b.path("_restore")));
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with("all-20"), "{name}");
        assert!(items == expected, "{when}");
    }
    assert_eq!(live(b), before);
}

/// Goal: two restores that would share a name keep apart.
#[test]
fn restores_of_one_name_do_not_mix() {
    let direct = Direct::new();
    let a = &direct.a;
    a.write("x/notes.md", "of x").unwrap();
    a.write("y/notes.md", "of y").unwrap();
    run(a, &["push"], 0);
    let x = json(a, &["restore", "x/notes.md", "1"], 0);
    let y = json(a, &["restore", "y/notes.md", "1"], 0);
    assert_ne!(x["folder"], y["folder"]);
    assert_eq!(content(&held(a, &x).1, "notes.md"), b"of x");
    assert_eq!(content(&held(a, &y).1, "notes.md"), b"of y");
    assert_eq!(
        json(a, &["restore", "x/notes.md", "1"], 0)["folder"],
        x["folder"]
    );
    // What somebody changed in there is left alone, and told.
    let (folder, _) = held(a, &x);
    fs::write(folder.join("notes.md"), "edited").unwrap();
    let told = run(a, &["restore", "x/notes.md", "1"], 4);
    assert!(told.err.contains("left alone"), "{}", told.err);
    assert_eq!(fs::read(folder.join("notes.md")).unwrap(), b"edited");
    // Removed, it comes anew.
    fs::remove_dir_all(a.path("_restore")).unwrap();
    run(a, &["restore", "x/notes.md", "1"], 0);
    assert_eq!(fs::read(folder.join("notes.md")).unwrap(), b"of x");
}

/// Goal: a restore that is killed leaves nothing half, and the next one goes on.
/// Method: `kill -9` as soon as a run has brought a file more, until one was quicker; each time every
/// file that is there is whole, and the last run keeps those of the runs before.
#[test]
fn a_killed_restore_goes_on() {
    let direct = Direct::new();
    let a = &direct.a;
    let noise = SeededEntropy::new(12);
    for index in 0..250 {
        let path = format!("d{}/f{index}", index % 9);
        a.write(&path, noise.bytes(150_000)).unwrap();
    }
    a.write("large", noise.bytes(9_000_000)).unwrap();
    run(a, &["push"], 0);
    let mut expected = items_in(&a.root).unwrap();
    expected.retain(|path, _| !path.starts_with(".statehold/"));
    let before = live(a);
    let restored = || -> Items {
        let mut items = Items::new();
        for holding in fs::read_dir(a.path("_restore")).into_iter().flatten() {
            let holding = holding.unwrap().path();
            if holding.is_dir() {
                items.extend(items_in(&holding).unwrap());
            }
        }
        items
    };
    // Names alone, since this is asked without pause.
    let count = || {
        let mut folders = vec![a.path("_restore")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).into_iter().flatten() {
                let item = item.unwrap();
                match item.file_type().unwrap().is_dir() {
                    true => folders.push(item.path()),
                    false => files += usize::from(item.file_name() != ".gitignore"),
                }
            }
        }
        files
    };
    let mut met = 0;
    loop {
        let had = count();
        let command = a.command(&["restore", "--all", "1", "--json"]);
        let running = a.start(command, "").unwrap();
        while count() == had && running.said().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let ended = running.kill().unwrap();
        for (path, item) in restored() {
            assert!(expected.get(&path) == Some(&item), "{path} is half there");
        }
        if ended.code.is_some() {
            let said = ended.json().unwrap();
            assert_eq!(said["kept"].as_u64().unwrap(), had as u64);
            break;
        }
        met += 1;
    }
    assert!(met > 0, "no kill met a restore");
    let said = json(a, &["restore", "--all", "1"], 0);
    let (folder, items) = held(a, &said);
    assert!(items == expected);
    assert_eq!(said["kept"].as_u64().unwrap(), expected.len() as u64);
    assert_eq!(
        fs::read_dir(a.path("_restore")).unwrap().count(),
        2,
        "{folder:?}"
    );
    assert_eq!(live(a), before);
    // Nothing that was staged stays behind.
    let own = a
        .path(".statehold/restoring")
        .join(folder.file_name().unwrap());
    assert_eq!(fs::read_dir(own).unwrap().count(), 1);
}

/// Goal: a damaged object costs the files that need it, which are named, and no others; healed, the
/// same restore goes on.
#[test]
fn damage_keeps_nothing_else_from_coming() {
    let direct = Direct::new();
    let a = &direct.a;
    let noise = SeededEntropy::new(14);
    for index in 0..8 {
        a.write(&format!("f{index}"), noise.bytes(400_000)).unwrap();
    }
    run(a, &["push"], 0);
    let vault = direct.installation.path("vault");
    let pack = in_folder(&vault, "packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    overwrite(&pack, flipped(&pack, whole.len() / 2));
    let said = json(a, &["restore", "--all", "1"], 7);
    let damaged = said["damaged"].as_array().unwrap();
    assert_eq!(damaged.len(), 1, "{said}");
    let lost = damaged[0]["path"].as_str().unwrap().to_owned();
    let reason = damaged[0]["reason"].as_str().unwrap();
    assert!(reason.contains("packs/"), "{reason}");
    let (_, items) = held(a, &said);
    assert_eq!(items.len(), 7);
    assert!(!items.contains_key(&lost));
    let told = run(a, &["restore", "--all", "1"], 7);
    assert!(
        told.err.contains(&format!("not restored  {lost}")),
        "{}",
        told.err
    );
    // Gone altogether: the same.
    fs::remove_file(&pack).unwrap();
    fs::remove_dir_all(a.path("_restore")).unwrap();
    run(a, &["restore", "--all", "1"], 7);
    fs::write(&pack, whole).unwrap();
    let said = json(a, &["restore", "--all", "1"], 0);
    assert_eq!(held(a, &said).1.len(), 8);
}

/// Goal: a restore stays in its folder, whatever a repository says and whatever stands there.
#[test]
fn a_restore_stays_in_its_folder() {
    let direct = Direct::new();
    let a = &direct.a;
    let elsewhere = direct.installation.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let paths = [
        "odd/\u{1b}]0;title\u{7}.md",
        "odd/new\nline",
        "odd/$(touch x)",
        "odd/-rf",
        "odd/…",
    ];
    for path in paths {
        a.write(path, path).unwrap();
    }
    a.write("skills/deep/er/SKILL.md", "x").unwrap();
    symlink("../../../top.md", a.path("skills/deep/er/top")).unwrap();
    symlink("../SKILL.md", a.path("skills/deep/er/beside")).unwrap();
    run(a, &["push"], 0);

    symlink(&elsewhere, a.path("_restore")).unwrap();
    let told = run(a, &["restore", "odd", "1"], 1);
    assert!(
        told.err.contains("_restore is a symbolic link"),
        "{}",
        told.err
    );
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(a.path("_restore")).unwrap();
    fs::write(a.path("_restore"), "a file").unwrap();
    run(a, &["restore", "odd", "1"], 1);
    assert_eq!(a.read("_restore").unwrap(), b"a file");
    fs::remove_file(a.path("_restore")).unwrap();

    fs::remove_dir_all(a.path("odd")).unwrap();
    let told = run(a, &["restore", "odd", "1"], 0);
    assert!(
        !told.out.contains('\u{1b}') && !told.out.contains('\u{7}'),
        "{}",
        told.out
    );
    let said = json(a, &["restore", "odd", "1"], 0);
    let (_, items) = held(a, &said);
    assert_eq!(items.len(), paths.len());
    for path in paths {
        let name = path.strip_prefix("odd/").unwrap();
        assert_eq!(content(&items, name), path.as_bytes());
    }
    for path in paths {
        let said = json(a, &["restore", path, "1"], 0);
        let take_over = said["take_over"][1].as_str().unwrap();
        let mut shell = std::process::Command::new("bash");
        let ran = shell
            .current_dir(&a.root)
            .args(["-c", take_over])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{take_over}: {ran:?}");
        assert_eq!(a.read(path).unwrap(), path.as_bytes());
    }
    assert!(!a.path("x").exists());

    // A link that would lead out of the workspace from where it is restored is named; others are as
    // they were.
    let told = run(a, &["restore", "er", "1"], 1);
    assert!(told.err.contains("is not in record 1"), "{}", told.err);
    let told = run(a, &["restore", "skills/deep/er", "1"], 4);
    assert!(told.err.contains("top would point outside"), "{}", told.err);
    let said = json(a, &["restore", "deep", "1"], 0);
    let (folder, _) = held(a, &said);
    assert_eq!(
        fs::read_link(folder.join("er/top")).unwrap(),
        Path::new("../../../top.md")
    );
}

/// Goal: a name is found under the item roots of the preset or of the settings, and where two things
/// have it, neither is guessed.
#[test]
fn items_go_by_their_bare_names() {
    let direct = Direct::new();
    let a = &direct.a;
    a.write("skills/image/SKILL.md", "skill").unwrap();
    a.write("tools/hammer.md", "tool").unwrap();
    a.write("image", "a file of that name").unwrap();
    run(a, &["push"], 0);
    let told = run(a, &["restore", "image"], 2);
    assert!(told.err.contains("image or skills/image"), "{}", told.err);
    run(a, &["restore", "./image"], 0);
    run(a, &["restore", "skills/image"], 0);
    run(a, &["restore", "hammer"], 1);
    let settings = a.path(".statehold/settings.json");
    let mut text: serde_json::Value =
        serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    text["item_roots"] = serde_json::json!(["tools"]);
    fs::write(&settings, text.to_string()).unwrap();
    assert_eq!(
        json(a, &["restore", "hammer"], 0)["path"],
        "tools/hammer.md"
    );
    assert_eq!(json(a, &["restore", "image"], 0)["path"], "image");
}

/// Goal: a full disk ends a restore with the next step, and room brings the rest.
#[test]
fn a_restore_onto_a_full_disk_goes_on_when_there_is_room() {
    let direct = Direct::new();
    let noise = SeededEntropy::new(15);
    for index in 0..8 {
        let path = format!("f{index}");
        direct.a.write(&path, noise.bytes(500_000)).unwrap();
    }
    run(&direct.a, &["push"], 0);
    let small = direct.installation.machine("small").unwrap();
    let disk = match Mount::small(&small.root, 2_500_000) {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIP a restore onto a full disk: {why}");
            return;
        }
    };
    let small = linked_straight(&direct.installation, "small");
    let told = run(&small, &["restore", "--all", "1"], 1);
    assert!(told.err.contains("No space left"), "{}", told.err);
    assert!(
        told.err.contains("goes on where it stopped"),
        "{}",
        told.err
    );
    disk.grow(50_000_000).unwrap();
    let said = json(&small, &["restore", "--all", "1"], 0);
    assert_eq!(held(&small, &said).1.len(), 8);
}

/// Goal: what is noted of holding folders may be lost; then a restore touches none that is there.
#[test]
fn a_restore_without_its_note_begins_anew() {
    let direct = Direct::new();
    let a = &direct.a;
    a.write("notes.md", "notes").unwrap();
    run(a, &["push"], 0);
    let first = json(a, &["restore", "notes.md", "1"], 0);
    fs::remove_dir_all(a.path(".statehold/restoring")).unwrap();
    let second = json(a, &["restore", "notes.md", "1"], 0);
    let folder = first["folder"].as_str().unwrap();
    assert_eq!(second["folder"], format!("{folder}-2"));
    assert_eq!(content(&held(a, &first).1, "notes.md"), b"notes");
    assert_eq!(content(&held(a, &second).1, "notes.md"), b"notes");
}
