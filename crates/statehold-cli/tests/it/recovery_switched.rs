//! `docs/recover.sh` after a fail-over: where a log was ended, where it went on in another store, and where records
//! were left behind on the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use statehold_repository::layout;
use statehold_testkit::commits::Items;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::RealMachine;

use crate::collected::{Collected, recovered, state_in, workspace};
use crate::recovery::{append, has_tools, script};
use crate::vault::linked_straight;
use crate::world::{installation, json, run};

/// Pushes what a workspace has, and remembers it by its record.
#[track_caller]
fn push(machine: &RealMachine, at: &mut BTreeMap<u64, Items>) -> u64 {
    assert_eq!(json(machine, &["push"], 0)["outcome"], "done");
    let newest = json(machine, &["log", "--limit", "1"], 0);
    let number = newest[0]["number"].as_u64().unwrap();
    at.insert(number, workspace(machine));
    number
}

/// The records up to which a replica is marked as complete.
fn marks(replica: &Path) -> BTreeMap<u64, PathBuf> {
    let marks = fs::read_dir(replica.join("complete")).unwrap();
    let marks = marks.map(|mark| {
        let mark = mark.unwrap();
        let name = mark.file_name().into_string().unwrap();
        let number = layout::parse_complete(&format!("complete/{name}"));
        (number.unwrap(), mark.path())
    });
    marks.collect()
}

/// Takes marks behind a record away: as a replicator would have left the replica that was killed before it had
/// set them.
fn unmark(replica: &Path, after: u64) {
    let later = marks(replica).split_off(&(after + 1));
    assert!(!later.is_empty());
    for mark in later.into_values() {
        fs::remove_file(mark).unwrap();
    }
}

/// Goes on with a replica, and says with which record.
fn promote(operator: &RealMachine, store: &Path, repository: &Path, label: &str) -> u64 {
    let confirm = format!("--confirm-label={label}");
    let words = ["promote", store.to_str().unwrap(), "--apply", &confirm];
    run(operator, &words, 0);
    state_in(repository).epoch_began()
}

/// What the script lists of a repository.
fn listed(repository: &Path) -> String {
    let list = script(repository).env("LIST", "1").output().unwrap();
    assert!(list.status.success(), "{list:?}");
    String::from_utf8(list.stdout).unwrap()
}

/// Each of these states comes back as it was, with not a word beside.
#[track_caller]
fn all_come_back(repository: &Path, out: &Path, at: &BTreeMap<u64, Items>) {
    for (number, items) in at {
        let came = recovered(repository, out, Some(&number.to_string()));
        let (came, said) = came.unwrap_or_else(|said| panic!("record {number}: {said}"));
        assert_eq!(said, "", "record {number}");
        assert_eq!(&came, items, "record {number}");
    }
}

/// Goal: a store whose log was ended comes back; a replica that went on without the newest records comes back as it went
/// on, and each earlier state with it; and what was left behind is told apart, and can be had as it was.
#[test]
fn an_ended_log_and_one_that_went_on_come_back_by_hand() {
    if !has_tools() {
        return;
    }
    let installation = installation();
    let a = linked_straight(&installation, "anna");
    let (store, copy) = (installation.path("vault"), installation.path("copy"));
    let (copied, out) = (copy.to_str().unwrap(), installation.path("out"));
    let noise = SeededEntropy::new(7);
    let mut at = BTreeMap::new();
    a.write("log.ndjson", "{\"event\":\"begin\"}\n".repeat(60_000))
        .unwrap();
    a.write("large.bin", noise.bytes(400_000)).unwrap();
    a.write("gone", "soon\n").unwrap();
    symlink("gone", a.path("link")).unwrap();
    push(&a, &mut at);
    run(&a, &["snapshot", "shared"], 0);
    append(&a.path("log.ndjson"), b"{\"event\":\"more\"}\n");
    fs::remove_file(a.path("gone")).unwrap();
    let fork = push(&a, &mut at);
    run(&a, &["replicate", "--to", copied], 0);

    // What the replica gets beyond its mark: records, a pack, a snapshot.
    let mut beyond = BTreeMap::new();
    append(&a.path("log.ndjson"), b"{\"event\":\"beyond\"}\n");
    a.write("large.bin", noise.bytes(500_000)).unwrap();
    push(&a, &mut beyond);
    run(&a, &["snapshot", "lost"], 0);
    a.write("beyond.md", "beyond\n").unwrap();
    push(&a, &mut beyond);
    run(&a, &["replicate", "--to", copied], 0);
    unmark(&copy, fork);

    // The first store, ended.
    run(&a, &["fence", "--apply", "--confirm-label=epoch-0"], 0);
    let newest = recovered(&store, &out, None).unwrap();
    assert_eq!(newest, (workspace(&a), String::new()));
    all_come_back(&store, &out, &at);
    all_come_back(&store, &out, &beyond);
    assert!(listed(&store).contains("  fence\n"));

    // The replica, which goes on from its mark.
    let by = promote(&a, &copy, &copy, "epoch-1");
    let newest = recovered(&copy, &out, None).unwrap();
    assert_eq!(newest, (at[&fork].clone(), String::new()));
    all_come_back(&copy, &out, &at);
    let list = listed(&copy);
    for line in list.lines().filter(|line| line.starts_with("record ")) {
        let number: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let is_left = fork < number && number < by;
        assert_eq!(line.ends_with("  left behind"), is_left, "{line}");
    }
    assert!(
        list.contains("-shared  of record") && !list.contains("-lost"),
        "{list}"
    );
    assert!(recovered(&copy, &out, Some("lost")).is_err());
    for (number, items) in &beyond {
        let (came, said) = recovered(&copy, &out, Some(&number.to_string())).unwrap();
        assert_eq!(&came, items, "record {number}");
        let told = format!("record {number} was left behind by the promote in record {by}\n");
        assert_eq!(said, told);
    }

    // Machines push there, from the state that it went on from; then it is ended and goes on in its turn.
    run(&a, &["link", "--moved", copied], 0);
    append(&a.path("log.ndjson"), b"{\"event\":\"after\"}\n");
    push(&a, &mut at);
    run(
        &a,
        &["rollback", "shared", "--apply", "--confirm-label=shared"],
        0,
    );
    run(&a, &["pull"], 0);
    append(&a.path("log.ndjson"), b"{\"event\":\"rolled back\"}\n");
    push(&a, &mut at);
    run(&a, &["fence", "--apply", "--confirm-label=epoch-1"], 0);
    promote(&a, &copy, &copy, "epoch-2");
    a.write("third.md", "third\n").unwrap();
    push(&a, &mut at);
    all_come_back(&copy, &out, &at);
    let newest = recovered(&copy, &out, None).unwrap();
    assert_eq!(newest, (workspace(&a), String::new()));
}

/// Goal: the same where the first store was collected, the records that were left behind have a collection among them, and the
/// log that went on was collected as well: every state that is kept comes back.
#[test]
fn a_collected_repository_comes_back_by_hand_after_a_switch() {
    if !has_tools() {
        return;
    }
    let mut world = Collected::new();
    let address = world.gateway.address().to_owned();
    let (vault, copy) = (
        world.installation.path("vault"),
        world.installation.path("copy"),
    );
    let out = world.installation.path("out");
    let operator = world.installation.operator().unwrap();
    let words = [
        "replicate",
        "--store",
        vault.to_str().unwrap(),
        "--to",
        copy.to_str().unwrap(),
    ];
    run(&operator, &words, 0);
    let repository = copy.join(world.repository().strip_prefix(&vault).unwrap());
    let mark = *marks(&repository).last_key_value().unwrap().0;
    let fork = *world.at.last_key_value().unwrap().0;
    let at_fork = world.at.clone();
    world.more(40..58);
    world.collect();
    world.push_one("beyond");
    run(&operator, &words, 0);
    unmark(&repository, mark);
    drop(world.gateway.kill());

    let by = promote(&operator, &copy, &repository, "epoch-1");
    assert!(by > mark + 18, "{mark} {by}");
    // Packs of what was left behind are gone in part, and are not missed.
    let verify = ["verify", "--store", copy.to_str().unwrap(), "--read-data"];
    run(&operator, &verify, 0);
    let newest = recovered(&repository, &out, None).unwrap();
    assert_eq!(newest, (at_fork[&fork].clone(), String::new()));
    world.at = at_fork;
    world.serve(&copy, &address);
    run(&world.a, &["pull"], 0);
    world.push_one("after");
    world.more(60..78);
    let newest = recovered(&repository, &out, None).unwrap();
    assert_eq!(newest, (workspace(&world.a), String::new()));
    let snapshot = recovered(&repository, &out, Some("first")).unwrap();
    assert_eq!(snapshot, (world.at[&2].clone(), String::new()));

    while state_in(&repository).collection.cut < by {
        world.collect();
    }
    world.push_one("at the end");
    let state = state_in(&repository);
    let numbers = world.at.keys().copied();
    let (kept, gone): (Vec<u64>, Vec<u64>) =
        numbers.partition(|number| !state.collection.expired.contains(*number));
    assert!(kept.len() > 6 && gone.len() > 20, "{kept:?} {gone:?}");
    // Each takes a second.
    let kept = kept.into_iter().step_by(2);
    let kept = kept.map(|number| (number, world.at[&number].clone()));
    all_come_back(&repository, &out, &kept.collect());
    assert!(recovered(&repository, &out, Some(&gone[9].to_string())).is_err());
    let list = listed(&repository);
    let is_left = |line: &&str| line.ends_with("  left behind");
    assert_eq!(list.lines().filter(is_left).count() as u64, by - mark - 1);
    run(&operator, &verify, 0);
}
