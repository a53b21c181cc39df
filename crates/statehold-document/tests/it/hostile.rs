//! Updates that are damaged or hostile: left out or refused, named, and nothing has changed.

use statehold_document::{Documents, Error};
use statehold_state::{Canonical, Manager, Strategy};
use xxhash_rust::xxh32::xxh32;

use crate::node::{Node, exchange};

/// Loro's header: four bytes that name it, sixteen of a check over the rest of which four count.
const CHECK: std::ops::Range<usize> = 16..20;
const SEED: u32 = u32::from_le_bytes(*b"LORO");

fn node_with_a_document() -> Node {
    let node = Node::new();
    let plan = node.notes.create("plan").unwrap();
    plan.edit(|editor| {
        editor
            .text("body")?
            .insert(0, "Buy milk and bread, and look after the cat")?;
        editor.text("body")?.mark(4..8, "bold", true)?;
        editor.list("items")?.push(vec![1, 2, 3])?;
        editor.list("items")?.push("text")?;
        editor.list("items")?.move_item(0, 1)?;
        editor
            .map("meta")?
            .insert("due", serde_json::json!({"day": 1.5, "at": null}))
    })
    .unwrap();
    plan.edit(|editor| editor.text("body")?.delete(0..4))
        .unwrap();
    node
}

/// Bytes with every kind of small damage, under a check that holds again if asked for.
fn damaged(bytes: &[u8], with_check: bool) -> impl Iterator<Item = Vec<u8>> {
    let places = 0..bytes.len();
    let cuts = places.clone().step_by(3);
    let bytes = bytes.to_vec();
    let other = bytes.clone();
    let flipped = places.map(move |place| {
        let mut bytes = bytes.clone();
        let byte = &mut bytes[place];
        *byte = match place % 3 {
            0 => *byte ^ (1 << (place % 8)),
            1 => 0xff,
            _ => byte.wrapping_add(1),
        };
        bytes
    });
    let cut = cuts.map(move |end| other[..end].to_vec());
    flipped.chain(cut).map(move |mut bytes| {
        if with_check && bytes.len() > CHECK.end {
            let check = xxh32(&bytes[CHECK.end..], SEED);
            bytes[CHECK].copy_from_slice(&check.to_le_bytes());
        }
        bytes
    })
}

#[test]
fn every_damaged_import_is_refused_and_changes_nothing() {
    let node = node_with_a_document();
    let plan = node.get("plan");
    let target = node.notes.create("copy").unwrap();
    target
        .edit(|editor| editor.text("body")?.insert(0, "mine"))
        .unwrap();
    let (root, shown) = (node.manager.root(), target.to_json().unwrap());
    let known = target.version().unwrap();
    for good in [
        plan.snapshot().unwrap(),
        plan.updates_since(&known).unwrap(),
    ] {
        for bytes in damaged(&good, false) {
            // A check over nothing of the header's own may still hold.
            if bytes != good {
                match target.import(&bytes) {
                    Err(error) => assert!(matches!(error, Error::Refused { .. }), "{error:?}"),
                    Ok(()) => panic!("{} bytes were taken", bytes.len()),
                }
            }
        }
    }
    assert_eq!(target.to_json().unwrap(), shown);
    assert_eq!(node.manager.root(), root);
}

#[test]
fn hostile_updates_with_a_good_check_never_take_a_document_down() {
    let source = node_with_a_document();
    let plan = source.get("plan");
    let (mut refused, mut taken) = (0, 0);
    for good in [
        plan.snapshot().unwrap(),
        plan.updates_since(&source.notes.create("empty").unwrap().version().unwrap())
            .unwrap(),
    ] {
        for bytes in damaged(&good, true) {
            let node = Node::new();
            let target = node.notes.create("copy").unwrap();
            target
                .edit(|editor| editor.text("body")?.insert(0, "mine"))
                .unwrap();
            let before = target.to_json().unwrap();
            if target.import(&bytes).is_ok() {
                taken += 1;
            } else {
                refused += 1;
                assert_eq!(target.to_json().unwrap(), before);
            }
            // Whatever it was, the document goes on.
            target
                .edit(|editor| editor.text("body")?.insert(0, "still "))
                .unwrap();
            assert!(target.text("body").unwrap().contains("still "));
        }
    }
    assert!(
        refused > 300 && taken > 0,
        "{refused} refused, {taken} taken"
    );
}

/// Somebody with another program writes into the collections themselves.
fn write_raw(manager: &Manager, name: &str, text: &str) {
    let updates = manager.collection::<String>("notes/updates", Strategy::default());
    updates.unwrap().put(name, &text.to_owned()).unwrap();
}

#[test]
fn updates_that_are_none_are_left_out_by_every_node_and_named() {
    let one = node_with_a_document();
    let other = Node::new();
    exchange(&one, &other);
    let plan = one.get("plan");
    let before = plan.to_json().unwrap();
    let state = one
        .manager
        .collection::<serde_json::Value>("notes", Strategy::default());
    let birth = state.unwrap().get("plan").unwrap().unwrap();
    let birth = format!("{}:1", birth.last_modified_by);
    for (number, text) in ["no base64!", "AAAA", "bG9ybw=="].into_iter().enumerate() {
        // Under a name that fits, and under one that does not.
        let digest = Canonical::of(text).unwrap().hash().to_string();
        write_raw(&other.manager, &format!("{birth}/{}", &digest[..32]), text);
        write_raw(&other.manager, &format!("{birth}/{number}"), text);
    }
    exchange(&one, &other);
    for node in [&one, &other] {
        let document = node.get("plan");
        assert_eq!(document.to_json().unwrap(), before);
        let refused = document.refused().unwrap();
        assert_eq!(refused.len(), 6, "{refused:?}");
        assert!(
            refused
                .iter()
                .all(|refused| refused.by == other.manager.node())
        );
    }
    assert_eq!(
        plan.refused().unwrap().len(),
        6,
        "the handle that was open saw them too"
    );
    plan.edit(|editor| editor.text("body")?.insert(0, "And "))
        .unwrap();
    exchange(&one, &other);
    assert_eq!(
        other.get("plan").text("body").unwrap(),
        plan.text("body").unwrap()
    );
    // A birth of a form that nobody has, and updates of no document.
    write_raw(&other.manager, "no update at all", "x");
    assert_eq!(other.notes.sweep().unwrap(), 0);
    let births = other
        .manager
        .collection::<serde_json::Value>("notes", Strategy::default());
    births
        .unwrap()
        .put("future", &serde_json::json!({"format": 2}))
        .unwrap();
    let future = other.notes.get("future").unwrap_err();
    assert!(future.to_string().contains("a newer version"), "{future}");
}

#[test]
fn an_import_that_lacks_its_base_is_refused() {
    let node = node_with_a_document();
    let plan = node.get("plan");
    let version = plan.version().unwrap();
    plan.edit(|editor| editor.text("body")?.insert(0, "x"))
        .unwrap();
    let late = plan.updates_since(&version).unwrap();
    let copy = Documents::open(&node.manager, "copies")
        .unwrap()
        .create("copy")
        .unwrap();
    assert!(matches!(copy.import(&late), Err(Error::Incomplete)));
    copy.import(&plan.snapshot().unwrap()).unwrap();
    copy.import(&late).unwrap();
    assert_eq!(copy.to_json().unwrap(), plan.to_json().unwrap());
}
