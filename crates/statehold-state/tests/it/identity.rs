//! Folders that are copied, restored and moved: nothing diverges, and nothing is lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use statehold_state::{Collection, Manager, Options, Origin, Strategy};

use crate::managers::{exchange, open, send};

fn collection(manager: &Manager) -> Collection<Value> {
    manager.collection("all", Strategy::default()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_copied_folder_becomes_another_node_before_it_writes() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    collection(&desk).put("x", &json!(0)).unwrap();
    let node = desk.node();
    drop(desk);
    copy(&home.path().join("desk"), &home.path().join("copy"));
    let (desk, twin) = (open(home.path(), "desk"), open(home.path(), "copy"));
    assert_eq!(
        (desk.node(), desk.origin()),
        (node, Some(Origin::Continued))
    );
    assert_ne!(twin.node(), node);
    assert_eq!(twin.origin(), Some(Origin::Copied));
    collection(&desk).put("x", &json!("desk")).unwrap();
    collection(&desk).put("by desk", &json!(1)).unwrap();
    collection(&twin).put("x", &json!("twin")).unwrap();
    collection(&twin).put("by twin", &json!(1)).unwrap();
    let conflicts = send(&twin, &desk).conflicts;
    assert_eq!(conflicts.len(), 1, "both edits are known to be concurrent");
    exchange(&desk, &twin);
    assert_eq!(
        collection(&desk).ids().unwrap(),
        ["by desk", "by twin", "x"]
    );
}

#[test]
fn a_cloned_machine_becomes_another_node() {
    let home = tempfile::tempdir().unwrap();
    let options = |machine: &str| {
        Options::new(home.path().join("desk"), home.path().join("witness")).machine(machine)
    };
    let desk = Manager::open(options("first")).unwrap();
    collection(&desk).put("x", &json!(0)).unwrap();
    let node = desk.node();
    drop(desk);
    // The image has the folder, the witness and all numbers of the disk, and another machine id.
    let clone = Manager::open(options("second")).unwrap();
    assert_ne!(clone.node(), node);
    assert_eq!(clone.origin(), Some(Origin::Copied));
}

#[test]
fn a_restored_backup_becomes_another_node_and_loses_nothing_that_others_have() {
    let home = tempfile::tempdir().unwrap();
    let (desk, phone) = (open(home.path(), "desk"), open(home.path(), "phone"));
    collection(&desk).put("x", &json!("old")).unwrap();
    exchange(&desk, &phone);
    let node = desk.node();
    drop(desk);
    let folder = home.path().join("desk");
    copy(&folder.join("logs"), &home.path().join("backup"));
    let desk = open(home.path(), "desk");
    assert_eq!(desk.node(), node);
    collection(&desk)
        .put("x", &json!("seen by the phone"))
        .unwrap();
    exchange(&desk, &phone);
    drop(desk);
    // Put back in place: the folder is the same one, its content is older.
    fs::remove_dir_all(folder.join("logs")).unwrap();
    copy(&home.path().join("backup"), &folder.join("logs"));
    let desk = open(home.path(), "desk");
    assert_ne!(desk.node(), node);
    assert_eq!(desk.origin(), Some(Origin::RolledBack));
    assert_eq!(
        collection(&desk).get("x").unwrap().unwrap().data,
        json!("old")
    );
    collection(&desk)
        .put("y", &json!("after the restore"))
        .unwrap();
    exchange(&desk, &phone);
    for manager in [&desk, &phone] {
        let all = collection(manager);
        assert_eq!(
            all.get("x").unwrap().unwrap().data,
            json!("seen by the phone")
        );
        assert_eq!(
            all.get("y").unwrap().unwrap().data,
            json!("after the restore")
        );
    }
}

#[test]
fn a_node_that_others_know_more_of_than_it_does_becomes_another_one() {
    let home = tempfile::tempdir().unwrap();
    let (desk, phone) = (open(home.path(), "desk"), open(home.path(), "phone"));
    collection(&desk).put("x", &json!("old")).unwrap();
    exchange(&desk, &phone);
    let node = desk.node();
    drop(desk);
    // A whole image: the folder and the witness, both put back in place.
    let image = home.path().join("image");
    fs::create_dir(&image).unwrap();
    copy(&home.path().join("desk").join("logs"), &image.join("logs"));
    copy(&home.path().join("witness"), &image.join("witness"));
    let desk = open(home.path(), "desk");
    collection(&desk)
        .put("x", &json!("lost here, known there"))
        .unwrap();
    exchange(&desk, &phone);
    drop(desk);
    for (name, inside) in [("logs", "desk/logs"), ("witness", "witness")] {
        fs::remove_dir_all(home.path().join(inside)).unwrap();
        copy(&image.join(name), &home.path().join(inside));
    }
    let desk = open(home.path(), "desk");
    assert_eq!(desk.node(), node, "nothing here says that it was put back");
    // It hears from the phone before it writes, and sees that its own log is longer there.
    send(&phone, &desk);
    collection(&desk).put("y", &json!("new")).unwrap();
    assert_ne!(desk.node(), node);
    exchange(&desk, &phone);
    let all = collection(&phone);
    assert_eq!(
        all.get("x").unwrap().unwrap().data,
        json!("lost here, known there")
    );
    assert_eq!(all.get("y").unwrap().unwrap().data, json!("new"));
    let named = desk.node();
    drop(desk);
    assert_eq!(
        open(home.path(), "desk").node(),
        named,
        "and it stays that one"
    );
}

#[test]
fn a_moved_folder_stays_the_node_it_was() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let node = desk.node();
    drop(desk);
    fs::rename(home.path().join("desk"), home.path().join("moved")).unwrap();
    for _ in 0..2 {
        assert_eq!(open(home.path(), "moved").node(), node);
    }
}
