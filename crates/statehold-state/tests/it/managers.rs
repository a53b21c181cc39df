//! The typed manager: what an application sees.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statehold_state::{
    AutoSyncOptions, Candidate, Collection, ConflictKind, DeleteRule, Error, Manager, Notice,
    OperationKind, Options, Reason, Resolution, Rules, Status, Strategy,
};

pub(crate) fn open(home: &Path, name: &str) -> Manager {
    Manager::open(Options::new(home.join(name), home.join("witness"))).unwrap()
}

/// One way: everything that `to` lacks of what `from` knows.
pub(crate) fn send(from: &Manager, to: &Manager) -> statehold_state::Reconciled {
    to.reconcile(&from.answer(&to.head().unwrap()).unwrap())
        .unwrap()
}

/// Both ways, until neither has anything new.
pub(crate) fn exchange(one: &Manager, other: &Manager) {
    for _ in 0..8 {
        if send(one, other).operations + send(other, one).operations == 0 {
            assert_eq!(one.root(), other.root());
            assert_eq!(one.clock(), other.clock());
            return;
        }
    }
    panic!("two nodes do not come to rest");
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    theme: String,
    font_size: u8,
}

fn settings(theme: &str, font_size: u8) -> Settings {
    Settings {
        theme: theme.to_owned(),
        font_size,
    }
}

#[test]
fn states_are_created_read_changed_and_deleted() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<Settings> = manager.collection("settings", Strategy::default()).unwrap();
    let created = all.create(&settings("dark", 14)).unwrap();
    assert!(created.id.starts_with("state_") && created.id.len() == 22);
    assert_eq!(
        (created.version, created.last_modified_by),
        (1, manager.node())
    );
    assert_eq!(created.vector_clock.get(&manager.node()), 1);
    assert_eq!(created.hash.to_string().len(), 64);

    let changed = all
        .update(&created.id, |settings| settings.font_size = 16)
        .unwrap()
        .unwrap();
    assert_eq!((changed.version, changed.data.font_size), (2, 16));
    assert_ne!(changed.hash, created.hash);
    assert!(changed.vector_clock > created.vector_clock && changed.timestamp >= created.timestamp);
    assert_eq!(all.get(&created.id).unwrap(), Some(changed));
    assert_eq!(all.ids().unwrap(), [created.id.as_str()]);

    assert!(matches!(
        all.insert(&created.id, &settings("x", 1)),
        Err(Error::Exists { .. })
    ));
    assert!(all.delete(&created.id).unwrap());
    assert!(!all.delete(&created.id).unwrap());
    assert_eq!(all.get(&created.id).unwrap(), None);
    assert_eq!(all.update(&created.id, |_| ()).unwrap(), None);
    assert!(matches!(all.get(""), Ok(None)));
    assert!(matches!(
        all.put("", &settings("x", 1)),
        Err(Error::InvalidName { .. })
    ));
}

#[test]
fn values_of_every_kind_come_back_as_they_were() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<Value> = manager.collection("anything", Strategy::default()).unwrap();
    let large: BTreeMap<String, usize> = (0..1_000).map(|n| (format!("key-{n}"), n)).collect();
    for value in [
        json!(null),
        json!(""),
        json!("text"),
        json!(1),
        json!(-1.5),
        json!(u64::MAX),
        json!(true),
        json!([]),
        json!({}),
        json!([1, [2, {"a": null}]]),
        json!({"a": {"b": [1, 2]}}),
        json!(large),
    ] {
        let state = all.put("one", &value).unwrap();
        assert_eq!(state.data, value);
        assert_eq!(all.get("one").unwrap().unwrap().hash, state.hash);
    }
    let many: Vec<_> = (0..100)
        .map(|_| all.create(&json!(1)).unwrap().id)
        .collect();
    assert_eq!(all.states().unwrap().len(), 101);
    assert_eq!(
        many.iter().collect::<std::collections::BTreeSet<_>>().len(),
        100
    );
    all.put("counter", &json!(0)).unwrap();
    for number in 1..=100 {
        all.put("counter", &json!(number)).unwrap();
    }
    assert_eq!(all.get("counter").unwrap().unwrap().version, 101);
    let numbers: Collection<u64> = manager.collection("anything", Strategy::default()).unwrap();
    let refused = numbers.get("one").unwrap_err().to_string();
    assert!(refused.contains("anything/one"), "{refused}");
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let desk = open(home.path(), "desk");
    let all: Collection<u64> = desk.collection("numbers", Strategy::default()).unwrap();
    let failed: Result<(), _> = desk.batch(|batch| {
        batch.put(&all, "a", &1)?;
        Err(Error::Caller("no".into()))
    });
    assert!(failed.is_err());
    assert_eq!(all.get("a").unwrap(), None);
    desk.batch(|batch| {
        batch.put(&all, "a", &1)?;
        batch.put(&all, "b", &2)?;
        let sum = batch.get(&all, "a")?.unwrap().data + batch.get(&all, "b")?.unwrap().data;
        batch.put(&all, "a", &sum)?;
        assert!(batch.delete(&all, "b")?);
        assert!(!batch.delete(&all, "b")?);
        batch.put(&all, "b", &9)
    })
    .unwrap();
    drop(desk);
    drop(all);
    let desk = open(home.path(), "desk");
    let all: Collection<u64> = desk.collection("numbers", Strategy::default()).unwrap();
    assert_eq!(all.get("a").unwrap().unwrap().data, 3);
    assert_eq!(all.get("a").unwrap().unwrap().version, 2);
    assert_eq!(all.get("b").unwrap().unwrap().data, 9);
}

/// Large batches are taken in another order than they were made in.
#[test]
fn a_large_batch_comes_to_what_its_parts_come_to() {
    let ids: Vec<String> = (0..600)
        .map(|number| format!("shared/ä{}/{number}", number * 7_919 % 300))
        .collect();
    let last: Vec<&String> = ids.iter().chain(ids.iter().step_by(3)).collect();
    let written = |parts: usize| {
        let manager = Manager::in_memory().unwrap();
        let states = manager
            .collection::<usize>("all", Strategy::default())
            .unwrap();
        for part in last.chunks(last.len().div_ceil(parts)) {
            manager
                .batch(|batch| {
                    for id in part {
                        let next = batch.get(&states, id)?.map_or(1, |state| state.data + 1);
                        batch.put(&states, id, &next)?;
                    }
                    batch.delete(&states, &ids[1]).map(drop)
                })
                .unwrap();
        }
        let other = Manager::in_memory().unwrap();
        other
            .reconcile(&manager.answer(&other.head().unwrap()).unwrap())
            .unwrap();
        assert_eq!(other.root(), manager.root());
        let shown: Vec<_> = states.states().unwrap();
        let shown = shown
            .into_iter()
            .map(|state| (state.id, state.data, state.version));
        shown.collect::<Vec<_>>()
    };
    let at_once = written(1);
    assert_eq!(at_once.len(), 599);
    assert_eq!(
        at_once.iter().filter(|(_, data, _)| *data == 2).count(),
        200
    );
    assert_eq!(at_once, written(80));
}

#[test]
fn ids_are_found_by_how_they_begin() {
    let manager = Manager::in_memory().unwrap();
    let all = manager
        .collection::<u8>("all", Strategy::default())
        .unwrap();
    for id in ["a", "a/1", "a/2", "a0", "b", "ä/1", "ä"] {
        all.put(id, &1).unwrap();
    }
    all.delete("a/2").unwrap();
    let found = |start: &str| all.ids_starting_with(start).unwrap();
    assert_eq!(found("a/"), ["a/1"]);
    assert_eq!(found("a"), ["a", "a/1", "a0"]);
    assert_eq!(found("ä"), ["ä", "ä/1"]);
    assert_eq!(found(""), all.ids().unwrap());
    assert!(found("c").is_empty());
}

fn pair(home: &Path, rules: &Rules) -> [(Manager, Collection<Value>); 2] {
    ["desk", "phone"].map(|name| {
        let manager = open(home, name);
        let all = manager.collection("all", rules.clone()).unwrap();
        (manager, all)
    })
}

/// Both begin with one value and edit it without seeing each other.
fn concurrent(home: &Path, rules: &Rules, values: [Value; 3]) -> [(Manager, Collection<Value>); 2] {
    let [(desk, on_desk), (phone, on_phone)] = pair(home, rules);
    let [first, by_desk, by_phone] = values;
    on_desk.put("x", &first).unwrap();
    exchange(&desk, &phone);
    on_desk.put("x", &by_desk).unwrap();
    on_phone.put("x", &by_phone).unwrap();
    [(desk, on_desk), (phone, on_phone)]
}

#[test]
fn every_strategy_ends_equal_and_as_promised() {
    let highest = Strategy::custom("highest", 1, |values: &[Candidate<Value>]| {
        values
            .iter()
            .map(|value| value.data.clone())
            .max_by_key(|data| data["n"].as_u64())
    });
    let expected = [
        (Strategy::LastWriteWins, json!({"n": 2})),
        // Who settles last, settles: the phone was told first.
        (Strategy::LocalWins, json!({"n": 3})),
        (Strategy::RemoteWins, json!({"n": 3})),
        (Strategy::Merge, json!({"n": 2})),
        (Strategy::Manual, json!({"n": 2})),
        (highest, json!({"n": 3})),
    ];
    for (strategy, value) in expected {
        let home = tempfile::tempdir().unwrap();
        let rules = Rules::from(strategy.clone());
        let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &rules);
        on_desk.put("x", &json!({"n": 1})).unwrap();
        exchange(&desk, &phone);
        on_phone.put("x", &json!({"n": 3})).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        on_desk.put("x", &json!({"n": 2})).unwrap();
        // The desk hears first, and the phone hears of it afterwards.
        let seen = send(&phone, &desk);
        assert_eq!(
            seen.conflicts.len(),
            1,
            "{strategy:?} tells of the conflict"
        );
        assert_eq!(seen.conflicts[0].kind, ConflictKind::ConcurrentUpdate);
        exchange(&desk, &phone);
        let shown = [&on_desk, &on_phone].map(|all| all.get("x").unwrap().unwrap().data);
        assert_eq!(shown[0], shown[1], "{strategy:?}");
        if !matches!(strategy, Strategy::LocalWins) {
            assert_eq!(shown[0], value, "{strategy:?}");
        }
    }
}

#[test]
fn a_local_win_is_recorded_and_dominates_both_sides() {
    for (strategy, winner) in [
        (Strategy::LocalWins, "desk"),
        (Strategy::RemoteWins, "phone"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let values = [json!(0), json!("desk"), json!("phone")];
        let [(desk, on_desk), (phone, on_phone)] =
            concurrent(home.path(), &strategy.into(), values);
        let sides = [&on_desk, &on_phone].map(|all| all.get("x").unwrap().unwrap().vector_clock);
        let result = send(&phone, &desk);
        assert_eq!(result.settled.len(), 1);
        let settled = on_desk.get("x").unwrap().unwrap();
        assert!(sides.iter().all(|side| settled.vector_clock > *side));
        assert_eq!(
            (settled.data, settled.version, settled.siblings),
            (json!(winner), 3, 1)
        );
        exchange(&desk, &phone);
        assert_eq!(on_phone.get("x").unwrap().unwrap().data, json!(winner));
        let history = on_phone.why("x").unwrap().history;
        assert_eq!(
            history
                .iter()
                .filter(|operation| operation.resolves)
                .count(),
            1
        );
        assert!(
            history
                .iter()
                .any(|operation| operation.data == Some(json!("phone")))
        );
    }
}

#[test]
fn fields_are_merged_and_removed_ones_stay_removed() {
    let home = tempfile::tempdir().unwrap();
    let [(desk, on_desk), (phone, on_phone)] = concurrent(
        home.path(),
        &Strategy::Merge.into(),
        [
            json!({"a": 1, "b": 1, "deep": {"c": 1, "d": 1}, "list": [1]}),
            json!({"a": 2, "b": 1, "deep": {"c": 2, "d": 1}, "list": [1], "new": {"e": 1}}),
            json!({"a": 1, "deep": {"c": 1, "d": 3}, "list": [1, 2], "new": {"f": 1}}),
        ],
    );
    exchange(&desk, &phone);
    let merged = json!({"a": 2, "deep": {"c": 2, "d": 3}, "list": [1, 2], "new": {"e": 1, "f": 1}});
    for all in [&on_desk, &on_phone] {
        let state = all.get("x").unwrap().unwrap();
        assert_eq!((state.data, state.siblings), (merged.clone(), 2));
        assert_eq!(all.why("x").unwrap().reason, Reason::Merged);
    }
    // The next edit supersedes both, and leaves the other fields as they are.
    on_phone.update("x", |value| value["a"] = json!(9)).unwrap();
    exchange(&desk, &phone);
    let state = on_desk.get("x").unwrap().unwrap();
    assert_eq!(
        (state.siblings, &state.data["a"], &state.data["deep"]["d"]),
        (1, &json!(9), &json!(3))
    );
}

#[test]
fn a_manual_conflict_stays_open_until_it_is_resolved() {
    let choices: [(Resolution<Value>, Value); 3] = [
        (Resolution::Local, json!("phone")),
        (Resolution::Remote, json!("desk")),
        (Resolution::Custom(json!("both")), json!("both")),
    ];
    for (resolution, expected) in choices {
        let home = tempfile::tempdir().unwrap();
        let values = [json!(0), json!("desk"), json!("phone")];
        let [(desk, on_desk), (phone, on_phone)] =
            concurrent(home.path(), &Strategy::Manual.into(), values);
        exchange(&desk, &phone);
        assert_eq!([desk.status(), phone.status()], [Status::Conflict; 2]);
        let conflict = &phone.conflicts().unwrap()[0];
        assert!(conflict.is_open && conflict.sides.len() == 2);
        let data = [&conflict.local, &conflict.remote]
            .map(|side| side.as_ref().unwrap().data.as_ref().unwrap().json());
        assert_eq!(data, [json!("phone"), json!("desk")]);
        let shown = serde_json::to_value(conflict).unwrap();
        assert_eq!(
            shown["local"]["data"],
            json!("phone"),
            "as a value, not as text"
        );
        assert!(on_phone.get("x").unwrap().unwrap().is_conflicted);

        assert_eq!(on_phone.resolve("x", &resolution).unwrap().data, expected);
        assert_eq!(phone.status(), Status::Idle);
        exchange(&desk, &phone);
        assert_eq!(desk.status(), Status::Idle);
        assert_eq!(on_desk.get("x").unwrap().unwrap().data, expected);
        assert!(desk.conflicts().unwrap().is_empty());
        assert!(matches!(
            on_phone.resolve("none", &resolution),
            Err(Error::NoSuchSide { .. })
        ));
    }
}

#[test]
fn two_people_who_resolve_at_once_have_one_answer_and_an_edit_asks_again() {
    let home = tempfile::tempdir().unwrap();
    let values = [json!(0), json!("desk"), json!("phone")];
    let [(desk, on_desk), (phone, on_phone)] =
        concurrent(home.path(), &Strategy::Manual.into(), values);
    exchange(&desk, &phone);
    on_desk.resolve("x", &Resolution::Local).unwrap();
    on_phone.resolve("x", &Resolution::Local).unwrap();
    exchange(&desk, &phone);
    let shown = [&on_desk, &on_phone].map(|all| all.get("x").unwrap().unwrap());
    assert_eq!(shown[0].data, shown[1].data);
    assert_eq!((shown[0].is_conflicted, shown[0].siblings), (false, 2));
    assert_eq!(on_desk.why("x").unwrap().reason, Reason::Settled);
    assert_eq!([desk.status(), phone.status()], [Status::Idle; 2]);
    // An edit that saw neither opens it again.
    let tablet = open(home.path(), "tablet");
    let on_tablet: Collection<Value> = tablet.collection("all", Strategy::Manual).unwrap();
    on_tablet.put("x", &json!("tablet")).unwrap();
    exchange(&tablet, &desk);
    assert!(on_desk.get("x").unwrap().unwrap().is_conflicted);
    assert_eq!(desk.status(), Status::Conflict);
}

#[test]
fn a_delete_against_an_edit_is_a_conflict_with_a_defined_end() {
    for (deletes, stays) in [
        (DeleteRule::UpdateWins, true),
        (DeleteRule::DeleteWins, false),
    ] {
        let home = tempfile::tempdir().unwrap();
        let rules = Rules {
            strategy: Strategy::LastWriteWins,
            deletes,
        };
        let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &rules);
        on_desk.put("x", &json!(1)).unwrap();
        exchange(&desk, &phone);
        on_desk.delete("x").unwrap();
        on_phone.put("x", &json!(2)).unwrap();
        // The one who deleted hears of the edit, and the other way around.
        let at_desk = send(&phone, &desk);
        let expected = if stays {
            ConflictKind::DeleteUpdate
        } else {
            ConflictKind::ConcurrentUpdate
        };
        assert_eq!(at_desk.conflicts[0].kind, expected, "{deletes:?}");
        assert_eq!(send(&desk, &phone).conflicts.len(), 1);
        exchange(&desk, &phone);
        for all in [&on_desk, &on_phone] {
            let data = all.get("x").unwrap().map(|state| state.data);
            assert_eq!(data, stays.then(|| json!(2)), "{deletes:?}");
        }
        // Writing it again after having seen all of it makes it one again.
        on_desk.put("x", &json!(3)).unwrap();
        exchange(&desk, &phone);
        assert_eq!(on_phone.get("x").unwrap().unwrap().siblings, 1);
    }
}

#[test]
fn the_mark_of_a_delete_is_buried_when_every_node_has_seen_it() {
    let home = tempfile::tempdir().unwrap();
    let rules = Rules {
        strategy: Strategy::LastWriteWins,
        deletes: DeleteRule::DeleteWins,
    };
    let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &rules);
    on_desk.put("x", &json!(1)).unwrap();
    on_desk.put("kept", &json!(1)).unwrap();
    exchange(&desk, &phone);
    on_desk.delete("x").unwrap();
    on_phone.put("x", &json!("not seen by the delete")).unwrap();
    assert_eq!(desk.bury(&[]).unwrap(), 0, "the phone has not seen it");
    exchange(&desk, &phone);
    let before = desk.export().unwrap().len();
    desk.reconcile(&phone.head().unwrap()).unwrap();
    assert_eq!(desk.bury(&[]).unwrap(), 1);
    exchange(&desk, &phone);
    assert!(
        desk.export().unwrap().len() < before,
        "nothing is left of it"
    );
    for all in [&on_desk, &on_phone] {
        assert_eq!(all.ids().unwrap(), ["kept"]);
        assert_eq!(all.why("x").unwrap().reason, Reason::Absent);
    }
    // One that never comes back is not waited for.
    let tablet = open(home.path(), "tablet");
    let on_tablet: Collection<Value> = tablet.collection("all", rules).unwrap();
    on_tablet.put("y", &json!(1)).unwrap();
    exchange(&tablet, &desk);
    drop((tablet, on_tablet));
    on_desk.delete("y").unwrap();
    exchange(&desk, &phone);
    desk.reconcile(&phone.head().unwrap()).unwrap();
    assert_eq!(desk.bury(&[]).unwrap(), 0);
    let lost = desk.clock();
    let lost = lost.iter().map(|(node, _)| *node);
    let lost = lost.filter(|node| ![desk.node(), phone.node()].contains(node));
    assert_eq!(desk.bury(&lost.collect::<Vec<_>>()).unwrap(), 1);
}

#[test]
fn equal_edits_are_no_conflict() {
    let home = tempfile::tempdir().unwrap();
    let values = [json!(0), json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1})];
    let [(desk, on_desk), (phone, _)] = concurrent(home.path(), &Strategy::Manual.into(), values);
    assert!(send(&phone, &desk).conflicts.is_empty());
    assert_eq!(desk.status(), Status::Idle);
    assert!(!on_desk.get("x").unwrap().unwrap().is_conflicted);
    assert_eq!(on_desk.why("x").unwrap().reason, Reason::Agreed);
}

#[test]
fn what_is_pending_is_consumed_when_others_have_it() {
    let home = tempfile::tempdir().unwrap();
    let [(desk, on_desk), (phone, _)] = pair(home.path(), &Rules::default());
    on_desk.put("x", &json!(1)).unwrap();
    on_desk.put("x", &json!(2)).unwrap();
    on_desk.delete("x").unwrap();
    let kinds = |manager: &Manager| -> Vec<OperationKind> {
        manager
            .pending()
            .unwrap()
            .iter()
            .map(|operation| operation.kind)
            .collect()
    };
    let all = [
        OperationKind::Create,
        OperationKind::Update,
        OperationKind::Delete,
    ];
    assert_eq!(kinds(&desk), all);
    send(&desk, &phone);
    assert_eq!(kinds(&desk), all, "nobody has said that it arrived");
    desk.reconcile(&phone.head().unwrap()).unwrap();
    assert!(kinds(&desk).is_empty());
    on_desk.put("y", &json!(1)).unwrap();
    assert_eq!(kinds(&desk), [OperationKind::Create]);
}

#[test]
fn everything_that_happens_is_told() {
    let home = tempfile::tempdir().unwrap();
    let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &Strategy::Manual.into());
    let mut notices = desk.listen();
    let mut of_x = on_desk.watch("x").unwrap();
    on_desk.put("x", &json!(1)).unwrap();
    on_desk.put("y", &json!(1)).unwrap();
    on_desk.put("x", &json!(2)).unwrap();
    on_desk.delete("y").unwrap();
    send(&desk, &phone);
    on_phone.put("x", &json!("phone")).unwrap();
    on_desk.put("x", &json!("desk")).unwrap();
    send(&phone, &desk);
    on_desk.resolve("x", &Resolution::Local).unwrap();
    desk.close();
    let names: Vec<String> = notices
        .by_ref()
        .map(|notice| {
            serde_json::to_value(&notice).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    for name in [
        "state-created",
        "state-updated",
        "state-deleted",
        "state-synced",
        "conflict-detected",
        "conflict-resolved",
        "loaded",
        "saved",
        "status-changed",
    ] {
        assert!(
            names.iter().any(|told| told == name),
            "{name} was not told: {names:?}"
        );
    }
    let keys: Vec<_> = of_x
        .by_ref()
        .map(|notice| notice.key().unwrap().id.to_string())
        .collect();
    assert!(
        keys.len() >= 5 && keys.iter().all(|id| id == "x"),
        "{keys:?}"
    );
    assert!(matches!(on_desk.get("x"), Err(Error::Closed)));
    assert!(matches!(on_desk.put("x", &json!(1)), Err(Error::Closed)));
}

#[test]
fn slow_listeners_lose_the_oldest_and_are_told() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<u64> = manager.collection("all", Strategy::default()).unwrap();
    let mut notices = manager.listen();
    manager
        .batch(|batch| (0..10_000).try_for_each(|n| batch.put(&all, &format!("{n}"), &n)))
        .unwrap();
    assert!(matches!(notices.try_next(), Some(Notice::Lagged { dropped }) if dropped > 5_000));
    assert!(notices.try_next().is_some());
}

#[test]
fn exports_are_whole_or_since_a_version() {
    let home = tempfile::tempdir().unwrap();
    let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &Rules::default());
    for number in 0..50 {
        on_desk
            .put(&format!("{number}"), &json!({"number": number}))
            .unwrap();
    }
    let result = phone.reconcile(&desk.export().unwrap()).unwrap();
    assert_eq!(result.states.len(), 50);
    assert_eq!(phone.root(), desk.root());
    let since = desk.clock();
    on_desk.put("7", &json!("later")).unwrap();
    let delta = desk.export_since(&since).unwrap();
    assert!(delta.len() < 200, "{} bytes for one edit", delta.len());
    assert_eq!(phone.reconcile(&delta).unwrap().operations, 1);
    assert_eq!(on_phone.get("7").unwrap().unwrap().data, json!("later"));
    // Again, and a part that is older: nothing happens.
    assert_eq!(phone.reconcile(&delta).unwrap().operations, 0);
    assert_eq!(
        phone.reconcile(&desk.export().unwrap()).unwrap().operations,
        0
    );
    assert_eq!(
        desk.export().unwrap(),
        phone.export().unwrap(),
        "equal to the byte"
    );
}

#[test]
fn why_names_the_sides_and_the_history() {
    let home = tempfile::tempdir().unwrap();
    let values = [json!(0), json!("desk"), json!("phone")];
    let [(desk, on_desk), (phone, _)] = concurrent(home.path(), &Rules::default(), values);
    exchange(&desk, &phone);
    let why = on_desk.why("x").unwrap();
    assert_eq!(
        (why.reason, why.strategy.as_str(), why.sides.len()),
        (Reason::Latest, "last-write-wins", 2)
    );
    let nodes: Vec<_> = why
        .history
        .iter()
        .map(|operation| operation.dot.node)
        .collect();
    assert_eq!(nodes.len(), 3);
    assert!(nodes.contains(&desk.node()) && nodes.contains(&phone.node()));
    assert_eq!(on_desk.why("none").unwrap().reason, Reason::Absent);
}

#[test]
fn exchanges_in_the_background_go_on_after_failures() {
    let home = tempfile::tempdir().unwrap();
    let [(desk, on_desk), (phone, on_phone)] = pair(home.path(), &Rules::default());
    let mut notices = desk.listen();
    on_phone.put("x", &json!("from the phone")).unwrap();
    let mut failures = 2;
    let options = AutoSyncOptions {
        interval: Duration::from_millis(5),
        retries: 1,
        retry_delay: Duration::from_millis(1),
    };
    let other = phone.clone();
    let running = desk.auto_sync(options, move |desk| -> Result<(), String> {
        if failures > 0 {
            failures -= 1;
            return Err("the network is down".to_owned());
        }
        exchange(desk, &other);
        Ok(())
    });
    let (mut ticks, mut errors, mut synced) = (0, 0, 0);
    while synced == 0 {
        match notices
            .next_within(Duration::from_secs(10))
            .expect("it goes on")
        {
            Notice::AutoSyncTick => ticks += 1,
            Notice::Error { .. } => errors += 1,
            Notice::StateSynced { .. } => synced += 1,
            _ => {}
        }
    }
    drop(running);
    assert!(ticks >= 2 && errors == 2, "{ticks} ticks, {errors} errors");
    assert_eq!(
        on_desk.get("x").unwrap().unwrap().data,
        json!("from the phone")
    );
}

#[test]
fn one_instance_is_shared_by_name_until_it_is_reset() {
    let home = tempfile::tempdir().unwrap();
    let options = || Options::new(home.path().join("shared"), home.path().join("witness"));
    let one = Manager::shared("shared by name", options).unwrap();
    let other = Manager::shared("shared by name", options).unwrap();
    assert_eq!(one.node(), other.node());
    assert!(matches!(Manager::open(options()), Err(Error::InUse { .. })));
    assert!(Manager::reset_shared("shared by name"));
    assert!(!Manager::reset_shared("shared by name"));
    assert!(matches!(one.head(), Err(Error::Closed)));
    let again = Manager::shared("shared by name", options).unwrap();
    assert!(again.head().is_ok());
    // Whoever has it may have closed it; that ends nothing for those who come later.
    again.close();
    let reopened = Manager::shared("shared by name", options).unwrap();
    assert!(reopened.head().is_ok());
    Manager::reset_shared("shared by name");
}

#[test]
fn patience_has_no_bound() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<u8> = manager.collection("all", Strategy::default()).unwrap();
    let mut notices = manager.listen();
    all.put("x", &1).unwrap();
    assert!(notices.next_within(Duration::MAX).is_some());
}

#[test]
fn only_what_has_several_values_is_resolved() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<u8> = manager.collection("all", Strategy::Manual).unwrap();
    all.put("x", &1).unwrap();
    for resolution in [Resolution::Local, Resolution::Merge, Resolution::Custom(2)] {
        let refused = all.resolve("x", &resolution).unwrap_err();
        assert!(matches!(refused, Error::NoSuchSide { .. }), "{refused}");
    }
    assert_eq!(all.get("x").unwrap().unwrap().version, 1);
}

#[test]
fn what_could_never_be_edited_is_not_made() {
    let manager = Manager::in_memory().unwrap();
    let all: Collection<Value> = manager.collection("all", Strategy::Merge).unwrap();
    let of = |fields: usize| -> Value {
        let fields: BTreeMap<String, usize> = (0..fields).map(|n| (n.to_string(), n)).collect();
        json!(fields)
    };
    for _ in 0..2 {
        all.put("x", &of(65_536)).unwrap();
        let refused = all.put("y", &of(65_537)).unwrap_err();
        assert!(matches!(refused, Error::Value { .. }), "{refused}");
    }
}

#[test]
fn a_collection_has_one_set_of_rules() {
    let manager = Manager::in_memory().unwrap();
    let _first: Collection<Value> = manager.collection("a", Strategy::Merge).unwrap();
    assert!(manager.collection::<Value>("a", Strategy::Merge).is_ok());
    let refused = manager
        .collection::<Value>("a", Strategy::Manual)
        .unwrap_err();
    assert!(matches!(refused, Error::OtherRules { .. }), "{refused}");
    assert!(matches!(
        manager.collection::<Value>("", Strategy::Merge),
        Err(Error::InvalidName { .. })
    ));
}
