//! A document's life: created, edited, put together, deleted, created again.

use serde_json::json;
use statehold_document::{Change, Error, Version};
use statehold_state::{Manager, Options, Reason};

use crate::node::{Node, exchange, send};

fn on_disk(home: &std::path::Path) -> Node {
    let options = Options::new(home.join("state"), home.join("witness"));
    Node::on(Manager::open(options).unwrap())
}

#[test]
fn an_edit_is_durable_when_it_returns_and_writes_in_proportion_to_itself() {
    let home = tempfile::tempdir().unwrap();
    let node = on_disk(home.path());
    let plan = node.notes.create("plan").unwrap();
    let long = "All work and no play makes Jack a dull boy. ".repeat(2_000);
    plan.edit(|editor| editor.text("body")?.insert(0, &long))
        .unwrap();
    let written = |home: &std::path::Path| -> u64 {
        let logs = std::fs::read_dir(home.join("state/logs")).unwrap();
        let files = logs.flat_map(|log| std::fs::read_dir(log.unwrap().path()).unwrap());
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    };
    let before = written(home.path());
    plan.edit(|editor| editor.text("body")?.insert(7, "!"))
        .unwrap();
    let one = written(home.path()) - before;
    assert!(one < 600, "{one} bytes for one character");
    node.manager.close();

    let again = on_disk(home.path());
    let text = again.get("plan").text("body").unwrap();
    assert_eq!(text.len(), long.len() + 1);
    assert_eq!(&text[..10], "All wor!k ");
}

#[test]
fn many_edits_are_put_together_and_nothing_of_them_is_lost() {
    let (one, other) = (Node::new(), Node::new());
    let plan = one.notes.create("plan").unwrap();
    send(&one, &other);
    let copy = other.get("plan");
    for number in 0..200 {
        plan.edit(|editor| editor.list("log")?.push(number))
            .unwrap();
        if number == 30 {
            // Puts nothing together and was away for most of it.
            copy.edit(|editor| editor.list("log")?.push("late"))
                .unwrap();
        }
    }
    let updates = plan.updates().unwrap();
    assert!(updates.len() < 150, "{} updates", updates.len());
    exchange(&one, &other);
    let log = copy.list("log").unwrap();
    assert_eq!(log.len(), 201);
    assert!((0..200).all(|number| log.contains(&json!(number))) && log.contains(&json!("late")));
    assert_eq!(plan.list("log").unwrap(), log);
    assert_eq!(one.manager.root(), other.manager.root());
    assert!(one.manager.conflicts().unwrap().is_empty());
}

#[test]
fn nodes_that_put_the_same_document_together_at_once_lose_nothing() {
    let (one, other) = (Node::new(), Node::new());
    one.notes.create("plan").unwrap();
    send(&one, &other);
    for node in [&one, &other] {
        let document = node.get("plan");
        for number in 0..100 {
            let item = format!("{} {number}", node.manager.node());
            document
                .edit(|editor| editor.list("log")?.push(&item))
                .unwrap();
        }
    }
    exchange(&one, &other);
    let log = one.get("plan").list("log").unwrap();
    assert_eq!(log.len(), 200);
    assert_eq!(other.get("plan").list("log").unwrap(), log);
}

#[test]
fn an_edit_that_comes_before_what_it_builds_on_is_kept_until_that_comes() {
    let [desk, phone, late] = [Node::new(), Node::new(), Node::new()];
    let plan = desk.notes.create("plan").unwrap();
    send(&desk, &phone);
    send(&desk, &late);
    phone
        .get("plan")
        .edit(|editor| editor.text("body")?.insert(0, "milk"))
        .unwrap();
    send(&phone, &desk);
    plan.edit(|editor| editor.text("body")?.insert(4, " and bread"))
        .unwrap();
    // The desk's edit comes, and not the phone's.
    let mut known = late.manager.clock();
    known.observe(phone.manager.node(), 1_000);
    let delta = desk.manager.export_since(&known).unwrap();
    late.manager.reconcile(&delta).unwrap();
    let document = late.get("plan");
    assert_eq!(document.text("body").unwrap(), "");
    assert_eq!(document.updates().unwrap().len(), 1);
    // Meanwhile much is put together.
    for number in 0..100 {
        document
            .edit(|editor| editor.list("log")?.push(number))
            .unwrap();
    }
    assert!(document.updates().unwrap().len() < 100);
    exchange(&late, &phone);
    exchange(&late, &desk);
    for node in [&late, &phone, &desk] {
        let document = node.get("plan");
        assert_eq!(document.text("body").unwrap(), "milk and bread");
        assert_eq!(document.list("log").unwrap().len(), 100);
    }
    assert_eq!(document.text("body").unwrap(), "milk and bread");
}

#[test]
fn a_failed_edit_leaves_nothing_and_the_next_one_is_whole() {
    let node = Node::new();
    let plan = node.notes.create("plan").unwrap();
    plan.edit(|editor| editor.text("body")?.insert(0, "kept"))
        .unwrap();
    let before = (node.manager.root(), plan.version().unwrap());
    let failed = plan.edit(|editor| {
        editor.text("body")?.insert(4, " and lost")?;
        editor.map("meta")?.insert("lost", true)?;
        Err::<(), _>(Error::Caller("enough".into()))
    });
    assert_eq!(failed.unwrap_err().to_string(), "enough");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        plan.edit(|editor| {
            editor.text("body").unwrap().insert(0, "lost too").unwrap();
            if true {
                panic!("of the caller's own");
            }
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(plan.to_json().unwrap(), json!({"body": "kept"}));
    assert_eq!((node.manager.root(), plan.version().unwrap()), before);
    plan.edit(|_| Ok(())).unwrap();
    assert_eq!(
        node.manager.root(),
        before.0,
        "nothing changed, nothing written"
    );
    plan.edit(|editor| editor.text("body")?.insert(4, " on"))
        .unwrap();
    assert_eq!(node.get("plan").text("body").unwrap(), "kept on");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let node = Node::new();
    let plan = node.notes.create("plan").unwrap();
    assert!(node.notes.create("plan").is_err(), "it is there already");
    let said = |result: Result<(), Error>| result.unwrap_err().to_string();
    let beyond = plan.edit(|editor| editor.text("body")?.insert(1, "x"));
    assert_eq!(said(beyond), r#""body" has 0 places, and 1 is beyond them"#);
    let backwards = std::ops::Range { start: 2, end: 1 };
    plan.edit(|editor| editor.text("body")?.insert(0, "äöü"))
        .unwrap();
    plan.edit(|editor| editor.text("body")?.delete(backwards.clone()))
        .unwrap();
    plan.edit(|editor| editor.text("body")?.unmark(backwards.clone(), "bold"))
        .unwrap();
    for name in ["", "a/b", "nul\0", "🤝:x", &"long".repeat(100)] {
        let result = plan.edit(|editor| editor.text(name).map(drop));
        assert!(matches!(result, Err(Error::InvalidName { .. })), "{name:?}");
        assert!(matches!(plan.list(name), Err(Error::InvalidName { .. })));
    }
    let list = plan.edit(|editor| editor.list("tasks")?.set(0, 1));
    assert!(matches!(
        list,
        Err(Error::OutOfBounds { at: 1, len: 0, .. })
    ));
    let far = plan.edit(|editor| editor.list("tasks")?.move_item(0, usize::MAX));
    assert!(matches!(far, Err(Error::OutOfBounds { .. })));
    let mut deep = json!(0);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let deep = plan.edit(|editor| editor.map("meta")?.insert("deep", &deep));
    assert!(matches!(deep, Err(Error::Value { .. })), "{deep:?}");
    assert!(Version::from_bytes(b"no version at all").is_err());
    assert_eq!(plan.to_json().unwrap(), json!({"body": "äöü"}));
}

#[test]
fn a_document_has_a_bound_and_says_so() {
    let node = Node::new();
    let plan = node.notes.create("plan").unwrap();
    // What compresses is small, whatever its length.
    let mut noise = 7_u64;
    let mut part = String::new();
    while part.len() < 2 << 20 {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        part.push_str(&format!("{noise:x}"));
    }
    let mut full = None;
    for _ in 0..6 {
        full = plan
            .edit(|editor| editor.text("body")?.insert(0, &part))
            .err();
        if full.is_some() {
            break;
        }
    }
    let full = full.unwrap().to_string();
    assert!(
        full.ends_with("is the most, go on in another one"),
        "{full}"
    );
    let len = plan.text("body").unwrap().len();
    assert!(
        len > 0 && len.is_multiple_of(part.len()),
        "what was saved stays"
    );
}

#[test]
fn a_deleted_document_is_gone_and_a_later_one_begins_empty() {
    let (one, other) = (Node::new(), Node::new());
    let plan = one.notes.create("plan").unwrap();
    plan.edit(|editor| editor.text("body")?.insert(0, "old"))
        .unwrap();
    exchange(&one, &other);
    let copy = other.get("plan");
    // Deleted here while it is edited there: the edit goes too.
    assert!(one.notes.delete("plan").unwrap());
    copy.edit(|editor| editor.text("body")?.insert(3, "er"))
        .unwrap();
    one.notes.create("plan").unwrap();
    one.get("plan")
        .edit(|editor| editor.text("body")?.insert(0, "new"))
        .unwrap();
    exchange(&one, &other);
    for node in [&one, &other] {
        assert_eq!(node.get("plan").text("body").unwrap(), "new");
        assert_eq!(node.notes.ids().unwrap(), ["plan"]);
    }
    assert_eq!(copy.text("body").unwrap(), "new", "an old handle follows");
    assert_eq!(plan.text("body").unwrap(), "new");
    // What is left of the edit is swept away, and nothing else is.
    assert_eq!(one.notes.sweep().unwrap(), 1);
    assert_eq!(one.notes.sweep().unwrap(), 0);
    exchange(&one, &other);
    assert_eq!(other.notes.sweep().unwrap(), 0);
    assert_eq!(other.get("plan").text("body").unwrap(), "new");
    other.notes.delete("plan").unwrap();
    exchange(&one, &other);
    assert!(one.notes.get("plan").unwrap().is_none());
    assert!(
        plan.text("body")
            .unwrap_err()
            .to_string()
            .contains("there is no notes/plan")
    );
    assert!(
        plan.edit(|editor| editor.text("body")?.insert(0, "x"))
            .is_err()
    );
    assert_eq!(
        one.manager.root(),
        Node::new().manager.root(),
        "nothing is left"
    );
}

#[test]
fn two_that_create_at_once_have_one_document_and_a_delete_takes_what_it_saw() {
    let (one, other) = (Node::new(), Node::new());
    for (node, word) in [(&one, "left"), (&other, "right")] {
        let plan = node.notes.create("plan").unwrap();
        plan.edit(|editor| editor.map("meta")?.insert(word, true))
            .unwrap();
    }
    // One deletes its own before it hears of the other's.
    let third = Node::new();
    send(&one, &third);
    third.notes.delete("plan").unwrap();
    exchange(&one, &other);
    let both = json!({"meta": {"left": true, "right": true}});
    assert_eq!(one.get("plan").to_json().unwrap(), both);
    assert_eq!(other.get("plan").to_json().unwrap(), both);
    assert!(one.manager.conflicts().unwrap().is_empty());
    exchange(&third, &other);
    exchange(&third, &one);
    for node in [&one, &other, &third] {
        assert_eq!(
            node.get("plan").to_json().unwrap(),
            json!({"meta": {"right": true}})
        );
    }
}

#[test]
fn who_edited_and_why_it_is_there_can_be_asked() {
    let (one, other) = (Node::new(), Node::new());
    let plan = one.notes.create("plan").unwrap();
    plan.edit(|editor| editor.text("body")?.insert(0, "a"))
        .unwrap();
    send(&one, &other);
    other
        .get("plan")
        .edit(|editor| editor.text("body")?.insert(1, "b"))
        .unwrap();
    send(&other, &one);
    let authors: Vec<_> = plan
        .updates()
        .unwrap()
        .iter()
        .map(|update| update.by)
        .collect();
    assert_eq!(authors.len(), 2);
    assert!(authors.contains(&one.manager.node()) && authors.contains(&other.manager.node()));
    let why = other.notes.why("plan").unwrap();
    assert_eq!((why.reason, why.history.len()), (Reason::Only, 1));
    assert_eq!(why.history[0].dot.node, one.manager.node());
}

#[test]
fn watchers_hear_of_what_others_did_to_their_document_alone() {
    let (one, other) = (Node::new(), Node::new());
    let plan = one.notes.create("plan").unwrap();
    send(&one, &other);
    let mut changes = plan.watch();
    let at_once = std::time::Duration::ZERO;
    let list = other.notes.create("list").unwrap();
    list.edit(|editor| editor.list("items")?.push("milk"))
        .unwrap();
    send(&other, &one);
    assert_eq!(changes.next_within(at_once), None);
    other
        .get("plan")
        .edit(|editor| editor.text("body")?.insert(0, "x"))
        .unwrap();
    send(&other, &one);
    assert_eq!(changes.next_within(at_once), Some(Change::Edited));
    assert_eq!(plan.text("body").unwrap(), "x");
    other.notes.delete("plan").unwrap();
    send(&other, &one);
    assert_eq!(changes.next_within(at_once), Some(Change::Deleted));
    one.manager.close();
    assert_eq!(changes.next(), None);
    assert!(plan.text("body").is_err());
}
