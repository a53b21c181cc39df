//! Folders: what is written, what survives, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use statehold_state::{Collection, Error, Manager, Strategy};

use crate::managers::{exchange, open, send};

fn collection(manager: &Manager) -> Collection<Value> {
    manager.collection("all", Strategy::default()).unwrap()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for node in fs::read_dir(folder.join("logs")).unwrap() {
        for segment in fs::read_dir(node.unwrap().path()).unwrap() {
            found.push(segment.unwrap().path());
        }
    }
    found.sort();
    found
}

fn bytes_in(folder: &Path) -> u64 {
    let logs: u64 = segments(folder)
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    logs + fs::metadata(folder.join("snapshot")).map_or(0, |metadata| metadata.len())
}

#[test]
fn a_node_keeps_its_name_and_its_states_when_it_starts_again() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let node = desk.node();
    for number in 0..20 {
        collection(&desk)
            .put(&format!("{number}"), &json!(number))
            .unwrap();
    }
    let root = desk.root();
    for _ in 0..3 {
        desk.head().unwrap();
    }
    drop(desk);
    for _ in 0..3 {
        let desk = open(home.path(), "desk");
        assert_eq!((desk.node(), desk.root()), (node, root));
        assert_eq!(desk.clock().len(), 1, "starting again makes no new node");
    }
}

#[test]
fn two_processes_cannot_have_one_folder() {
    let home = tempfile::tempdir().unwrap();
    let _desk = open(home.path(), "desk");
    let options = statehold_state::Options::new(home.path().join("desk"), home.path().join("w"));
    assert!(matches!(Manager::open(options), Err(Error::InUse { .. })));
}

#[test]
fn a_change_writes_in_proportion_to_itself() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let all = collection(&desk);
    desk.batch(|batch| {
        (0..10_000).try_for_each(|n| batch.put(&all, &format!("key-{n}"), &json!({"number": n})))
    })
    .unwrap();
    let before = bytes_in(&home.path().join("desk"));
    all.put("key-5000", &json!({"number": 1})).unwrap();
    let written = bytes_in(&home.path().join("desk")) - before;
    assert!(
        written < 128,
        "{written} bytes for one edit among 10,000 states"
    );
}

#[test]
fn what_is_kept_can_be_read_again_at_any_depth() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let phone = open(home.path(), "phone");
    let nested = |levels: usize, innermost: Value| {
        (1..levels).fold(innermost, |nested, _| json!({ "in": nested }))
    };
    for (id, innermost) in [
        ("array", json!([])),
        ("object", json!({})),
        ("item", json!([0])),
    ] {
        let refused = collection(&desk).put(id, &nested(65, innermost.clone()));
        assert!(matches!(refused, Err(Error::Value { .. })), "{id}");
        collection(&desk).put(id, &nested(64, innermost)).unwrap();
    }
    drop(desk);
    let desk = open(home.path(), "desk");
    assert_eq!(send(&desk, &phone).operations, 3);
    assert_eq!(phone.root(), desk.root());
}

#[test]
fn a_log_that_ends_anywhere_is_opened_with_all_that_was_whole() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    // A header of 56 bytes, then the frames.
    let mut ends = vec![0, 56];
    for number in 0..6 {
        collection(&desk)
            .put("x", &json!(format!("value {number}")))
            .unwrap();
        ends.push(bytes_in(&home.path().join("desk")));
    }
    drop(desk);
    let path = segments(&home.path().join("desk")).remove(0);
    let whole = fs::read(&path).unwrap();
    for length in (0..=whole.len()).rev() {
        for blank in [0, 7] {
            let mut torn = whole[..length].to_vec();
            // Some file systems leave blank bytes where content was to come.
            let end = ends.iter().copied().find(|end| *end >= length as u64);
            let end = usize::try_from(end.unwrap()).unwrap();
            torn.resize((length + blank).min(end), 0);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &torn).unwrap();
            let desk = open(home.path(), "desk");
            let expected = ends
                .iter()
                .filter(|end| **end <= length as u64)
                .count()
                .saturating_sub(2);
            let shown = collection(&desk).get("x").unwrap();
            let wanted = expected
                .checked_sub(1)
                .map(|number| json!(format!("value {number}")));
            assert_eq!(
                shown.map(|state| state.data),
                wanted,
                "cut at {length}, {blank} blank"
            );
            // What is written next is there the next time, after what was whole.
            collection(&desk).put("y", &json!(length)).unwrap();
            drop(desk);
            let desk = open(home.path(), "desk");
            assert_eq!(
                collection(&desk).get("y").unwrap().unwrap().data,
                json!(length)
            );
            assert_eq!(desk.clock().get(&desk.node()), expected as u64 + 1);
        }
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let node = desk.node();
    for number in 0..3 {
        collection(&desk).put("x", &json!(number)).unwrap();
    }
    let (root, clock) = (desk.root(), desk.clock());
    drop(desk);
    let path = segments(&home.path().join("desk")).remove(0);
    let whole = fs::read(&path).unwrap();
    let mut cut = 0;
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let options =
            statehold_state::Options::new(home.path().join("desk"), home.path().join("witness"));
        match Manager::open(options) {
            Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
            Err(other) => panic!("byte {place}: {other}"),
            // The last frame cannot be told from one that was half written.
            Ok(desk) => {
                assert_eq!(desk.node(), node);
                assert!(desk.clock() < clock && desk.root() != root, "byte {place}");
                cut += 1;
            }
        }
    }
    assert!(
        cut < whole.len() / 2,
        "{cut} of {} were cut off",
        whole.len()
    );
}

#[test]
fn a_snapshot_is_loaded_and_a_damaged_one_is_named() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let all = collection(&desk);
    desk.batch(|batch| (0..2_000).try_for_each(|n| batch.put(&all, &format!("{n}"), &json!(n))))
        .unwrap();
    desk.compact(u64::MAX).unwrap();
    all.put("after", &json!(1)).unwrap();
    let root = desk.root();
    drop((desk, all));
    let desk = open(home.path(), "desk");
    assert_eq!(desk.root(), root);
    desk.compact(0).unwrap();
    let path = home.path().join("desk");
    assert!(segments(&path).is_empty());
    collection(&desk).put("later", &json!(2)).unwrap();
    drop(desk);
    let desk = open(home.path(), "desk");
    assert_eq!(collection(&desk).states().unwrap().len(), 2_002);
    drop(desk);
    let snapshot = path.join("snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let options = statehold_state::Options::new(&path, home.path().join("witness"));
    let refused = Manager::open(options).unwrap_err().to_string();
    assert!(
        refused.contains("snapshot") && refused.contains("damaged"),
        "{refused}"
    );
}

#[test]
fn no_replica_is_too_old_to_return() {
    let home = tempfile::tempdir().unwrap();
    let (desk, phone) = (open(home.path(), "desk"), open(home.path(), "phone"));
    collection(&desk).put("x", &json!(1)).unwrap();
    collection(&desk).put("gone", &json!(1)).unwrap();
    exchange(&desk, &phone);
    let tablet = open(home.path(), "tablet");
    send(&phone, &tablet);
    // The phone is away for long and has written something.
    collection(&phone)
        .put("y", &json!("from the phone"))
        .unwrap();
    for number in 0..100 {
        collection(&desk).put("x", &json!(number)).unwrap();
    }
    collection(&desk).delete("gone").unwrap();
    desk.compact(0).unwrap();
    let result = send(&desk, &phone);
    assert!(result.is_success());
    exchange(&desk, &phone);
    for manager in [&desk, &phone] {
        let all = collection(manager);
        assert_eq!(all.get("x").unwrap().unwrap().data, json!(99));
        assert_eq!(all.get("y").unwrap().unwrap().data, json!("from the phone"));
        assert_eq!(
            all.get("gone").unwrap(),
            None,
            "what was deleted does not come back"
        );
    }
    // The phone has the first events and the last ones, and none of those between.
    collection(&desk).put("last", &json!(1)).unwrap();
    exchange(&desk, &phone);
    assert!(send(&phone, &tablet).is_success());
    assert_eq!(tablet.root(), phone.root());
    let root = phone.root();
    collection(&phone).put("z", &json!(1)).unwrap();
    drop(phone);
    let phone = open(home.path(), "phone");
    assert_ne!(phone.root(), root);
    exchange(&desk, &phone);
    assert_eq!(collection(&desk).get("z").unwrap().unwrap().data, json!(1));
}
