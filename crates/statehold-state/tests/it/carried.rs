//! Exchange through folders that something else carries: copied whole, late, backwards and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use statehold_state::{
    Alarm, AutoSyncOptions, CarriedFolder, Collection, DeleteRule, Error, Manager, NodeId, Notice,
    Options, Received, Rules, Strategy,
};

use crate::managers::open;

fn all(manager: &Manager) -> Collection<Value> {
    manager.collection("all", Strategy::default()).unwrap()
}

fn value(manager: &Manager, id: &str) -> Option<Value> {
    all(manager).get(id).unwrap().map(|state| state.data)
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// A machine: a manager, and its own copy of the folder that is carried.
struct Machine {
    manager: Manager,
    folder: CarriedFolder,
    path: PathBuf,
}

impl Machine {
    fn new(home: &Path, name: &str) -> Self {
        let manager = open(home, name);
        // Rules are part of what a head says, so they are named first.
        all(&manager);
        let path = home.join(format!("{name}-carried"));
        let folder = CarriedFolder::at(&path);
        Self {
            manager,
            folder,
            path,
        }
    }

    fn put(&self, id: &str, value: impl Into<Value>) {
        all(&self.manager).put(id, &value.into()).unwrap();
    }

    fn exchange(&self) -> Received {
        self.folder.exchange(&self.manager).unwrap()
    }

    /// The folder of a node in this machine's copy.
    fn of(&self, node: NodeId) -> PathBuf {
        self.path.join(node.to_string())
    }

    fn segments(&self, node: NodeId) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.of(node).join("log"))
            .unwrap()
            .map(|item| item.unwrap().path())
            .collect();
        found.sort();
        found
    }

    /// What a push and a pull do: every node's folder goes from its own machine to another one.
    fn carry_to(&self, other: &Self) {
        if self.of(self.manager.node()).is_dir() {
            fs::create_dir_all(&other.path).unwrap();
            let node = self.manager.node();
            copy(&self.of(node), &other.of(node));
        }
    }
}

/// Everybody exchanges and everything is carried everywhere, until nothing is new.
fn settle(machines: &[&Machine]) {
    for _ in 0..4 {
        for machine in machines {
            machine.exchange();
            for other in machines {
                if other.path != machine.path {
                    machine.carry_to(other);
                }
            }
        }
    }
    for machine in machines {
        let received = machine.exchange();
        assert!(received.is_success(), "{received:?}");
        assert_eq!(machine.manager.root(), machines[0].manager.root());
        assert_eq!(machine.manager.clock(), machines[0].manager.clock());
    }
}

#[test]
fn three_nodes_converge_by_what_is_carried_and_come_to_rest() {
    let home = tempfile::tempdir().unwrap();
    let machines = ["a", "b", "c"].map(|name| Machine::new(home.path(), name));
    let [a, b, c] = &machines;
    a.put("x", "a");
    b.put("x", "b");
    c.put("y", "c");
    settle(&[a, b, c]);
    all(&b.manager).delete("y").unwrap();
    settle(&[c, b, a]);
    assert_eq!(value(&a.manager, "y"), None);
    // One change is there after one carriage.
    a.put("z", 1);
    a.exchange();
    a.carry_to(b);
    assert_eq!(b.exchange().reconciled.operations, 1);
    assert_eq!(value(&b.manager, "z"), Some(json!(1)));
    settle(&[a, b, c]);
    // Nothing is written where nothing has changed, so nothing is carried either.
    let before = fs::metadata(a.of(a.manager.node()).join("head")).unwrap();
    a.exchange();
    let after = fs::metadata(a.of(a.manager.node()).join("head")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

#[test]
fn whoever_only_reads_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (a, reader) = (
        Machine::new(home.path(), "a"),
        Machine::new(home.path(), "reader"),
    );
    a.put("x", 1);
    a.exchange();
    a.carry_to(&reader);
    reader.exchange();
    assert_eq!(value(&reader.manager, "x"), Some(json!(1)));
    assert!(!reader.of(reader.manager.node()).exists());
}

/// Goal: what others may see is noted outside before it can leave the machine. Method: a place where
/// nothing can be noted; then nothing may be there to carry.
#[test]
fn a_log_is_witnessed_before_it_can_leave() {
    let home = tempfile::tempdir().unwrap();
    let a = Machine::new(home.path(), "a");
    a.put("x", 1);
    let witness = home.path().join("witness");
    fs::rename(&witness, home.path().join("aside")).unwrap();
    fs::write(&witness, "in the way").unwrap();
    assert!(matches!(
        a.folder.publish(&a.manager),
        Err(Error::Io { .. })
    ));
    assert!(!a.path.exists());
    fs::remove_file(&witness).unwrap();
    fs::rename(home.path().join("aside"), &witness).unwrap();
    a.folder.publish(&a.manager).unwrap();
    let noted = fs::read_to_string(witness.join(format!("{}.json", a.manager.node()))).unwrap();
    assert!(noted.contains("\"sequence\": 1"), "{noted}");
}

#[test]
fn a_long_log_gives_way_to_a_snapshot_and_late_joiners_begin_with_it() {
    let home = tempfile::tempdir().unwrap();
    let (a, early) = (
        Machine::new(home.path(), "a"),
        Machine::new(home.path(), "early"),
    );
    a.put("first", 1);
    settle(&[&a, &early]);
    let node = a.manager.node();
    // More than a log may be long, of what compresses well.
    for number in 0..90 {
        a.put(&format!("{}", number % 10), "long".repeat(15_000));
        a.exchange();
    }
    assert!(a.of(node).join("snapshot").is_file());
    let carried: u64 = a
        .segments(node)
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert!(carried < 3 * 1024 * 1024, "{carried} bytes are carried");
    // A snapshot that somebody took away is written again.
    fs::remove_file(a.of(node).join("snapshot")).unwrap();
    a.put("last", 1);
    let late = Machine::new(home.path(), "late");
    settle(&[&a, &early, &late]);
    assert_eq!(value(&late.manager, "first"), Some(json!(1)));
    assert_eq!(value(&late.manager, "last"), Some(json!(1)));
    let events = late.folder.nodes(&late.manager).unwrap();
    assert!(events.iter().all(|node| node.events == Some(node.known)));
}

#[test]
fn what_is_taken_away_damaged_or_put_back_is_written_again() {
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (
        Machine::new(home.path(), "a"),
        Machine::new(home.path(), "b"),
    );
    a.put("x", 1);
    settle(&[&a, &b]);
    let node = a.manager.node();
    let earlier = home.path().join("earlier");
    copy(&a.of(node), &earlier);
    a.put("x", 2);
    settle(&[&a, &b]);

    // An older copy, as a rollback of files would put there.
    copy(&earlier, &a.of(node));
    a.put("x", 3);
    settle(&[&a, &b]);
    assert_eq!(value(&b.manager, "x"), Some(json!(3)));
    // Nothing.
    fs::remove_dir_all(&a.path).unwrap();
    settle(&[&a, &b]);
    assert!(a.segments(node)[0].is_file());
    // Damage in the middle: the others say so and change nothing, and the node writes all of it anew.
    a.put("x", 4);
    a.exchange();
    let segment = a.segments(node).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[90] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    a.carry_to(&b);
    let (clock, root) = (b.manager.clock(), b.manager.root());
    let refused = b.exchange().refused;
    assert!(refused.len() == 1 && refused[0].node == node, "{refused:?}");
    assert_eq!((b.manager.clock(), b.manager.root()), (clock, root));
    settle(&[&a, &b]);
    assert_eq!(value(&b.manager, "x"), Some(json!(4)));
}

/// Goal: no flipped bit in what a node carries is taken for what it wrote. Method: one in every few
/// bytes of a log and of a snapshot, where nothing else holds what is in it.
#[test]
fn damage_anywhere_is_refused_by_name_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let machines = ["a", "gone", "victim"].map(|name| Machine::new(home.path(), name));
    let [a, gone, victim] = &machines;
    gone.put("z", 1);
    gone.exchange();
    gone.carry_to(a);
    a.exchange();
    // What was the other's goes into a snapshot.
    a.folder.retire(&a.manager, gone.manager.node()).unwrap();
    a.put("x", 2);
    a.exchange();
    let node = a.manager.node();
    victim.put("mine", 1);
    fs::create_dir_all(&victim.path).unwrap();
    let segment = a.segments(node).pop().unwrap();
    let snapshot = a.of(node).join("snapshot");
    for (damaged, other) in [(&segment, &snapshot), (&snapshot, &segment)] {
        let there = |path: &Path| victim.of(node).join(path.strip_prefix(a.of(node)).unwrap());
        let bytes = fs::read(damaged).unwrap();
        for place in (0..bytes.len()).step_by(3) {
            copy(&a.of(node), &victim.of(node));
            fs::remove_file(there(other)).unwrap();
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(there(damaged), &bytes).unwrap();
            let root = victim.manager.root();
            let received = victim.exchange();
            assert!(!received.is_success(), "byte {place}: {received:?}");
            assert_eq!(victim.manager.root(), root, "byte {place}");
        }
    }
    copy(&a.of(node), &victim.of(node));
    assert!(victim.exchange().is_success());
    assert_eq!(value(&victim.manager, "z"), Some(json!(1)));
}

#[test]
fn hostile_files_are_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (
        Machine::new(home.path(), "a"),
        Machine::new(home.path(), "b"),
    );
    a.put("x", 1);
    a.exchange();
    let node = a.manager.node();
    let stranger = NodeId::from_bytes([9; 16]);
    let refused = |words: &[&str]| {
        let received = b.exchange();
        assert!(b.manager.clock().is_empty(), "nothing has changed");
        for word in words {
            let is_named = |file: &statehold_state::RefusedFile| file.why.contains(word);
            assert!(
                received.refused.iter().any(is_named),
                "{word}: {received:?}"
            );
        }
        fs::remove_dir_all(&b.path).unwrap();
    };
    // Another node's files under a name of one's own choice.
    fs::create_dir_all(&b.path).unwrap();
    copy(&a.of(node), &b.of(stranger));
    refused(&["head of another node", "log of another node"]);
    // A folder or a link where a file has to be.
    fs::create_dir_all(b.of(node).join("head")).unwrap();
    fs::create_dir_all(b.of(node).join("log")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", b.of(node).join("log/1")).unwrap();
    refused(&["it is no file", "it is no file"]);
    // Longer than any can be.
    fs::create_dir_all(b.of(node).join("log")).unwrap();
    for (name, length) in [("head", 1 << 30), ("snapshot", 1 << 40), ("log/1", 1 << 40)] {
        let file = fs::File::create(b.of(node).join(name)).unwrap();
        file.set_len(length).unwrap();
    }
    refused(&["longer than any"]);
    // What is not a node's is nobody's business.
    fs::create_dir_all(b.path.join("notes")).unwrap();
    fs::write(b.path.join("readme.md"), "mine").unwrap();
    assert!(b.exchange().is_success());
}

#[test]
fn a_retired_node_is_let_go_of_and_may_come_back() {
    let home = tempfile::tempdir().unwrap();
    let machines = ["a", "b", "c"].map(|name| Machine::new(home.path(), name));
    let [a, b, c] = &machines;
    a.put("x", 1);
    c.put("of c", 1);
    settle(&[a, b, c]);
    let node = c.manager.node();
    assert!(matches!(
        a.folder.retire(&a.manager, a.manager.node()),
        Err(Error::OwnNode)
    ));
    // It has written what hasn't come here.
    c.put("of c", 2);
    c.exchange();
    let said = home.path().join("said");
    copy(&a.of(node), &said);
    fs::copy(c.of(node).join("head"), a.of(node).join("head")).unwrap();
    assert!(matches!(
        a.folder.retire(&a.manager, node),
        Err(Error::Ahead { .. })
    ));
    copy(&said, &a.of(node));
    assert!(a.folder.retire(&a.manager, node).unwrap());
    assert!(!a.folder.retire(&a.manager, node).unwrap());
    fs::remove_dir_all(b.of(node)).unwrap();
    settle(&[a, b]);
    // Whoever comes now learns of its events all the same.
    let late = Machine::new(home.path(), "late");
    settle(&[a, b, &late]);
    assert_eq!(value(&late.manager, "of c"), Some(json!(1)));
    assert_eq!(late.folder.nodes(&late.manager).unwrap().len(), 1);
    // And it comes back with what it has done meanwhile, its folder gone like everywhere.
    fs::remove_dir_all(&c.path).unwrap();
    c.put("new", 1);
    settle(&[a, b, &late, c]);
    assert_eq!(value(&late.manager, "of c"), Some(json!(2)));
    assert_eq!(value(&late.manager, "new"), Some(json!(1)));
    assert_eq!(c.manager.node(), node);
}

/// Puts everything in a folder back as it was in an image; the folders stay the same ones, as on a
/// machine that is such an image.
fn put_back(image: &Path, place: &Path) {
    for (program, arguments) in [
        ("find", [place.to_str().unwrap(), "-type", "f", "-delete"]),
        (
            "cp",
            ["-a", "-T", image.to_str().unwrap(), place.to_str().unwrap()],
        ),
    ] {
        assert!(
            Command::new(program)
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    }
}

/// Goal: of two running clones of one machine, witness and all, the second to be heard of finds out,
/// and what only it wrote is there in the end, as the concurrent edits that they are.
#[test]
fn clones_that_both_write_are_found_and_lose_nothing() {
    for (by_first, by_clone) in [(1, 1), (1, 3), (3, 1)] {
        let home = tempfile::tempdir().unwrap();
        let (live, image) = (home.path().join("live"), home.path().join("image"));
        fs::create_dir(&live).unwrap();
        let merged = |machine: &Machine| -> Collection<Value> {
            let manager = &machine.manager;
            manager.collection("merged", Strategy::Merge).unwrap()
        };
        let a = Machine::new(&live, "a");
        let node = a.manager.node();
        a.put("x", "old");
        a.put("gone", "old");
        merged(&a).put("m", &json!({"f": 0, "g": 0})).unwrap();
        a.exchange();
        drop(a);
        copy(&live, &image);

        let a = Machine::new(&live, "a");
        merged(&a).update("m", |m| m["f"] = json!("first")).unwrap();
        for number in 0..by_first {
            a.put("x", format!("first {number}"));
        }
        a.exchange();
        let other = Machine::new(home.path(), "other");
        merged(&other);
        a.carry_to(&other);
        other.exchange();
        // Somebody's snapshot holds the first one's log too, and must not pass over the clone's.
        let gone = Machine::new(home.path(), "gone");
        gone.put("z", 1);
        gone.exchange();
        gone.carry_to(&other);
        other.exchange();
        let left = gone.manager.node();
        assert!(other.folder.retire(&other.manager, left).unwrap());
        drop(a);
        put_back(&image, &live);

        let clone = Machine::new(&live, "a");
        assert_eq!(
            clone.manager.node(),
            node,
            "nothing says that it is a clone"
        );
        merged(&clone)
            .update("m", |m| m["g"] = json!("clone"))
            .unwrap();
        all(&clone.manager).delete("gone").unwrap();
        for number in 0..by_clone {
            clone.put("x", format!("clone {number}"));
        }
        clone.exchange();
        // What came first stays where it is, as a pull sees to.
        copy(&other.of(node), &clone.of(node));
        other.carry_to(&clone);
        let received = clone.exchange();
        assert!(
            received.is_forked(node),
            "{by_first}, {by_clone}: {received:?}"
        );

        let fresh = Machine {
            manager: open(&live, "fresh"),
            folder: clone.folder.clone(),
            path: clone.path.clone(),
        };
        merged(&fresh);
        all(&fresh.manager);
        fresh.folder.receive(&fresh.manager).unwrap();
        let adopted = fresh.manager.adopt(&clone.manager).unwrap();
        assert_eq!(adopted, 2 + by_clone);
        settle(&[&fresh, &other]);
        for machine in [&fresh, &other] {
            assert_eq!(value(&machine.manager, "gone"), None);
            let conflict = all(&machine.manager).conflict("x").unwrap().unwrap();
            assert_eq!(conflict.sides.len(), 2, "{conflict:?}");
            let m = merged(machine).get("m").unwrap().unwrap().data;
            assert_eq!(m, json!({"f": "first", "g": "clone"}));
        }
        // And whoever edits it now has seen both.
        fresh.put("x", "after");
        settle(&[&fresh, &other]);
        assert_eq!(value(&other.manager, "x"), Some(json!("after")));
        assert_eq!(all(&other.manager).conflict("x").unwrap(), None);
    }
}

#[test]
fn what_is_adopted_is_the_same_everywhere_whatever_the_clock_was() {
    fn ahead() -> u64 {
        4_000_000_000_000
    }
    let home = tempfile::tempdir().unwrap();
    let options = |name: &str| Options::new(home.path().join(name), home.path().join("witness"));
    let fast = Manager::open(options("old").clock(ahead)).unwrap();
    all(&fast).put("x", &json!("early, dated late")).unwrap();
    drop(fast);
    // Its clock was set right.
    let old = open(home.path(), "old");
    all(&old).put("x", &json!("after that")).unwrap();
    all(&old).put("y", &json!(1)).unwrap();
    let fresh = open(home.path(), "fresh");
    assert_eq!(fresh.adopt(&old).unwrap(), 3);
    let other = open(home.path(), "other");
    other
        .reconcile(&fresh.answer(&other.head().unwrap()).unwrap())
        .unwrap();
    assert_eq!(other.root(), fresh.root());
    assert_eq!(value(&other, "x"), Some(json!("after that")));
    let stamp = |manager: &Manager| all(manager).get("y").unwrap().unwrap().timestamp;
    assert_eq!(stamp(&other), stamp(&old));
}

#[test]
fn what_a_snapshot_knows_is_not_adopted() {
    let home = tempfile::tempdir().unwrap();
    let (old, other) = (open(home.path(), "old"), open(home.path(), "other"));
    all(&old).put("x", &json!(1)).unwrap();
    other.reconcile(&old.export().unwrap()).unwrap();
    all(&other).delete("x").unwrap();
    all(&old).put("y", &json!(1)).unwrap();
    let fresh = open(home.path(), "fresh");
    fresh.reconcile(&other.export().unwrap()).unwrap();
    assert_eq!(fresh.adopt(&old).unwrap(), 1);
    assert_eq!(
        (value(&fresh, "x"), value(&fresh, "y")),
        (None, Some(json!(1)))
    );
    // A log of which nothing in common is kept: nobody can tell what only it wrote.
    let unlike = open(home.path(), "unlike");
    let node = old.node();
    all(&other).put("z", &json!(1)).unwrap();
    unlike.reconcile(&other.export().unwrap()).unwrap();
    old.compact(0).unwrap();
    all(&old).put("y", &json!(2)).unwrap();
    let refused = unlike.adopt(&old).unwrap_err();
    assert!(matches!(refused, Error::PartedTooLongAgo { node: whose } if whose == node));
}

#[test]
fn a_running_manager_notices_what_is_brought() {
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (
        Machine::new(home.path(), "a"),
        Machine::new(home.path(), "b"),
    );
    let mut notices = b.manager.listen();
    let options = AutoSyncOptions {
        interval: Duration::from_millis(1),
        ..AutoSyncOptions::default()
    };
    let folder = b.folder.clone();
    let running = b
        .manager
        .auto_sync(options, move |manager| folder.exchange(manager).map(drop));
    a.put("x", 1);
    a.exchange();
    a.carry_to(&b);
    assert!(notices.any(|notice| matches!(notice, Notice::StateSynced { .. })));
    drop(running);
    assert_eq!(value(&b.manager, "x"), Some(json!(1)));
}

/// Goal: where deletes win, nobody who was away brings back what was deleted, and marks go once all
/// have seen it; the heads that are carried say who has.
#[test]
fn marks_of_deletes_go_once_every_head_says_that_they_were_seen() {
    let home = tempfile::tempdir().unwrap();
    let rules = Rules {
        deletes: DeleteRule::DeleteWins,
        ..Rules::default()
    };
    let (a, b) = (open(home.path(), "a"), open(home.path(), "b"));
    let folder = CarriedFolder::at(home.path().join("carried"));
    let [on_a, on_b] =
        [&a, &b].map(|manager| manager.collection::<Value>("all", rules.clone()).unwrap());
    on_a.put("x", &json!(1)).unwrap();
    on_b.put("y", &json!(1)).unwrap();
    for manager in [&a, &b, &a] {
        folder.exchange(manager).unwrap();
    }
    on_a.delete("x").unwrap();
    folder.exchange(&a).unwrap();
    assert_eq!(a.bury(&[]).unwrap(), 0, "the other one has not seen it");
    for manager in [&b, &a] {
        folder.exchange(manager).unwrap();
    }
    assert_eq!(a.bury(&[]).unwrap(), 1);
}

/// Somebody's clock is wrong by a year: see `an_event_a_year_ahead…` for what that does.
#[test]
fn clocks_a_day_apart_converge() {
    const DAY: u64 = 24 * 3_600 * 1_000;
    fn now() -> u64 {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        u64::try_from(since.as_millis()).unwrap()
    }
    let home = tempfile::tempdir().unwrap();
    let clocks: [fn() -> u64; 3] = [|| now() - DAY, now, || now() + DAY];
    let folder = CarriedFolder::at(home.path().join("carried"));
    let managers: Vec<Manager> = clocks
        .iter()
        .enumerate()
        .map(|(number, clock)| {
            let place = home.path().join(number.to_string());
            let options = Options::new(place, home.path().join("witness")).clock(*clock);
            Manager::open(options).unwrap()
        })
        .collect();
    for (number, manager) in managers.iter().enumerate() {
        all(manager).put("x", &json!(number)).unwrap();
        folder.exchange(manager).unwrap();
    }
    for manager in &managers {
        folder.exchange(manager).unwrap();
    }
    // Whoever has seen the others' wins, however far behind.
    all(&managers[0]).put("x", &json!("after all")).unwrap();
    for manager in managers.iter().chain(&managers) {
        folder.exchange(manager).unwrap();
    }
    for manager in &managers {
        assert_eq!(value(manager, "x"), Some(json!("after all")));
        assert_eq!(manager.root(), managers[0].root());
    }
}

/// Goal: a machine that was put back unnoticed, whose folder is gone everywhere, and that writes before
/// it hears of anybody, is told of, and nothing of what it wrote is passed over before that.
#[test]
fn what_a_machine_writes_after_it_was_put_back_is_never_lost_silently() {
    for is_seen_first in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let (live, image) = (home.path().join("live"), home.path().join("image"));
        fs::create_dir(&live).unwrap();
        let a = Machine::new(&live, "a");
        let node = a.manager.node();
        a.put("x", "old");
        a.exchange();
        drop(a);
        copy(&live, &image);
        let a = Machine::new(&live, "a");
        for number in 0..3 {
            a.put("x", number);
        }
        a.exchange();
        let other = Machine::new(home.path(), "other");
        a.carry_to(&other);
        other.exchange();
        drop(a);
        put_back(&image, &live);
        // What only the folder says is in the other one's snapshot from now on.
        fs::remove_dir_all(other.of(node)).unwrap();
        assert!(other.exchange().is_success());

        let a = Machine::new(&live, "a");
        assert_eq!(a.manager.node(), node, "nothing says that it was put back");
        fs::remove_dir_all(a.of(node)).unwrap();
        a.put("y", "written since");
        let is_fork = |alarm: &Alarm| matches!(alarm, Alarm::Forked { log, .. } if *log == node);
        if is_seen_first {
            a.folder.publish(&a.manager).unwrap();
            a.carry_to(&other);
            let received = other.exchange();
            assert!(
                received.reconciled.alarms.iter().any(is_fork),
                "{received:?}"
            );
        } else {
            other.carry_to(&a);
            let received = a.exchange();
            assert!(received.is_forked(node), "{received:?}");
            // Nor when it goes on under another name.
            a.put("z", "later");
            assert_ne!(a.manager.node(), node);
            let received = a.exchange();
            assert!(
                received.reconciled.alarms.iter().any(is_fork),
                "{received:?}"
            );
        }
        assert_eq!(value(&a.manager, "y"), Some(json!("written since")));
    }
}

/// The same machine after it was put back as of an image, which had seen `x`; others know of what came after that.
fn unaware(live: &Path, image: &Path, other: &Machine, first: impl FnOnce(&Machine)) -> Machine {
    fs::create_dir(live).unwrap();
    let a = Machine::new(live, "a");
    let node = a.manager.node();
    a.put("x", 1);
    a.exchange();
    drop(a);
    copy(live, image);
    let a = Machine::new(live, "a");
    first(&a);
    a.carry_to(other);
    assert!(other.exchange().is_success());
    drop(a);
    put_back(image, live);
    let a = Machine::new(live, "a");
    assert_eq!(a.manager.node(), node, "nothing says that it was put back");
    a.put("y", "only here");
    a.exchange();
    a
}

/// Another node in the place of a forked one.
fn fresh_beside(forked: &Machine, live: &Path) -> Machine {
    let fresh = Machine {
        manager: open(live, "fresh"),
        folder: forked.folder.clone(),
        path: forked.path.clone(),
    };
    all(&fresh.manager);
    fresh.folder.receive(&fresh.manager).unwrap();
    fresh
}

/// Goal: what a put back machine wrote into its folder, and what replaced it, may lie side by side; the one is never taken
/// for the other.
#[test]
fn what_a_copy_left_beside_the_log_is_not_taken_for_it() {
    let home = tempfile::tempdir().unwrap();
    let (live, image) = (home.path().join("live"), home.path().join("image"));
    let other = Machine::new(home.path(), "other");
    let a = unaware(&live, &image, &other, |a| {
        a.put("x", 2);
        // A log that cannot be gone on with begins anew, behind a snapshot.
        let segments = a.segments(a.manager.node());
        fs::write(segments.last().unwrap(), "damaged").unwrap();
        a.exchange();
        a.put("x", 3);
        a.exchange();
    });
    let node = a.manager.node();
    let beside = Command::new("cp")
        .arg("-a")
        .arg(other.of(node).join("."))
        .arg(a.of(node))
        .status();
    assert!(beside.unwrap().success());
    other.carry_to(&a);
    assert_eq!(a.segments(node).len(), 2, "both are there");
    assert!(a.exchange().is_forked(node));

    let fresh = fresh_beside(&a, &live);
    assert_eq!(fresh.manager.root(), other.manager.root());
    assert_eq!(value(&fresh.manager, "y"), None);
    // Where the two parted lies in neither; so it is told, and nothing is passed over.
    let refused = fresh.manager.adopt(&a.manager).unwrap_err();
    assert!(matches!(refused, Error::PartedTooLongAgo { .. }));
}

/// Goal: a snapshot for what a node knows of others takes nothing of its own log away, so that it can be told where a copy of
/// its machine parted from it.
#[test]
fn a_log_stays_beside_a_snapshot() {
    let home = tempfile::tempdir().unwrap();
    let (live, image) = (home.path().join("live"), home.path().join("image"));
    let other = Machine::new(home.path(), "other");
    let a = unaware(&live, &image, &other, |a| {
        let gone = Machine::new(home.path(), "gone");
        gone.put("z", 1);
        gone.exchange();
        gone.carry_to(a);
        a.put("x", 2);
        a.exchange();
        a.folder.retire(&a.manager, gone.manager.node()).unwrap();
        assert!(a.of(a.manager.node()).join("snapshot").is_file());
    });
    let node = a.manager.node();
    copy(&other.of(node), &a.of(node));
    other.carry_to(&a);
    assert!(a.exchange().is_forked(node));
    let fresh = fresh_beside(&a, &live);
    assert_eq!(fresh.manager.adopt(&a.manager).unwrap(), 1);
    settle(&[&fresh, &other]);
    for id in ["y", "z"] {
        assert!(value(&other.manager, id).is_some(), "{id}");
    }
}

/// Goal: a copy of a machine that was put back and has heard of nobody since takes a name of its own and keeps a log that
/// nobody else has. It says so, and keeps what it has.
#[test]
fn a_copy_of_a_machine_that_does_not_know_of_its_fork_raises_an_alarm() {
    let home = tempfile::tempdir().unwrap();
    let (live, image) = (home.path().join("live"), home.path().join("image"));
    let other = Machine::new(home.path(), "other");
    let a = unaware(&live, &image, &other, |a| {
        a.put("x", 2);
        a.exchange();
    });
    let node = a.manager.node();
    drop(a);
    let twin = home.path().join("twin");
    copy(&live, &twin);
    let twin = Machine::new(&twin, "a");
    twin.put("z", "by the copy");
    assert_ne!(twin.manager.node(), node);
    copy(&other.of(node), &twin.of(node));
    other.carry_to(&twin);
    let received = twin.exchange();
    let is_fork = |alarm: &Alarm| matches!(alarm, Alarm::Forked { log, .. } if *log == node);
    let alarms = &received.reconciled.alarms;
    assert!(alarms.iter().any(is_fork), "{received:?}");
    for id in ["y", "z"] {
        assert!(value(&twin.manager, id).is_some(), "{id}");
    }
}
