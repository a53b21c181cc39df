//! A workspace's own files: settings, rules and caches.

use std::fs;

use super::told;
use crate::vault::Direct;
use crate::world::run;

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
