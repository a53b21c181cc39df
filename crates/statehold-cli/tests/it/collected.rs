//! Whatever recovers does so where somebody has collected: states were let go, content has moved, packs are
//! deleted and records retired.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use statehold_core::state::State;
use statehold_testkit::commits::{Item, Items, items_in};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::recovery::{append, has_tools, script};
use crate::vault::{in_folder, tamper};
use crate::world::{installation, json, run};

/// A repository behind a gateway that was collected twice, and what it held at each record.
struct Collected {
    installation: Installation,
    gateway: RunningGateway,
    a: RealMachine,
    owner: RealMachine,
    /// The workspace as it was pushed, by record.
    at: BTreeMap<u64, Items>,
}

fn workspace(machine: &RealMachine) -> Items {
    let mut items = items_in(&machine.root).unwrap();
    items.retain(|path, _| !path.starts_with(".statehold/") && !path.starts_with("_restore"));
    items
}

impl Collected {
    fn new() -> Self {
        let installation = installation();
        let vault = installation.path("vault");
        let further = ["--compact-every", "never", "--retention-floor", "1s"];
        let gateway = installation.serve_with(vault.as_os_str(), "127.0.0.1:0", &[], &further);
        let gateway = gateway.unwrap();
        let a = installation.linked("anna", &gateway).unwrap();
        let owner = installation.owner(&gateway).unwrap();
        let mut world = Self {
            installation,
            gateway,
            a,
            owner,
            at: BTreeMap::new(),
        };
        world.grow();
        world
    }

    /// Pushes what the workspace has, and remembers it.
    fn push(&mut self) {
        assert_eq!(json(&self.a, &["push"], 0)["outcome"], "done");
        let newest = json(&self.a, &["log", "--limit", "1"], 0);
        let record = newest[0]["number"].as_u64().unwrap();
        self.at.insert(record, workspace(&self.a));
    }

    fn grow(&mut self) {
        let noise = SeededEntropy::new(5);
        let a = self.a.clone();
        self.installation.keep_last(&self.gateway, 5).unwrap();
        a.write("large.bin", noise.bytes(400_000)).unwrap();
        a.write("stays.bin", noise.bytes(300_000)).unwrap();
        a.write("leak/key.bin", noise.bytes(600)).unwrap();
        a.write("it's \"odd\"\nhere.md", "odd names\n").unwrap();
        a.write("empty", "").unwrap();
        a.write("run.sh", "#!/bin/sh\n").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(a.path("run.sh"), executable).unwrap();
        symlink("run.sh", a.path("link")).unwrap();
        a.write("log.ndjson", "{\"event\":\"begin\"}\n".repeat(60_000))
            .unwrap();
        self.push();
        run(&a, &["snapshot", "first"], 0);
        for round in 0..18 {
            a.write(
                &format!("d{}/note.md", round % 4),
                format!("note {round}\n"),
            )
            .unwrap();
            append(
                &a.path("log.ndjson"),
                format!("{{\"event\":{round}}}\n").as_bytes(),
            );
            if round % 6 == 5 {
                a.write("large.bin", noise.bytes(400_000)).unwrap();
                run(&a, &["snapshot", &format!("of-round-{round}")], 0);
            }
            self.push();
        }
        fs::remove_dir_all(a.path("leak")).unwrap();
        fs::remove_file(a.path("link")).unwrap();
        symlink("empty", a.path("link")).unwrap();
        self.push();
        self.collect();
        for round in 20..38 {
            a.write(
                &format!("d{}/note.md", round % 5),
                format!("note {round}\n"),
            )
            .unwrap();
            if round % 7 == 0 {
                a.write(&format!("{round}.bin"), noise.bytes(300_000))
                    .unwrap();
                fs::remove_file(a.path(&format!("{}.bin", round - 7))).ok();
            }
            self.push();
        }
        run(&a, &["snapshot", "second"], 0);
        self.collect();
        a.write("new.md", "after all that\n").unwrap();
        self.push();
    }

    /// Compacts until a removal has retired more records. What was condemned is held for a second.
    fn collect(&self) {
        let cut = |said: &serde_json::Value| said["removed"]["cut"].as_u64().unwrap();
        let before = cut(&json(&self.owner, &["compact", "--approve"], 0));
        for _ in 0..60 {
            std::thread::sleep(Duration::from_millis(250));
            if cut(&json(&self.owner, &["compact", "--approve"], 0)) > before {
                return;
            }
        }
        panic!("nothing was retired");
    }

    /// The repository's folder in the store.
    fn repository(&self) -> PathBuf {
        let vault = self.installation.path("vault");
        let first = in_folder(&vault, "log").into_iter().next().unwrap();
        first.parent().unwrap().parent().unwrap().to_owned()
    }

    fn state(&self) -> Arc<State> {
        let mut found = None;
        tamper(&self.repository(), async |_, state| found = Some(state));
        found.unwrap()
    }

    /// What is kept at a record.
    fn items(&self, number: u64) -> &Items {
        self.at.range(..=number).next_back().unwrap().1
    }
}

/// What the script brings back at a point, or what it says.
fn recovered(repository: &Path, out: &Path, at: Option<&str>) -> Result<(Items, String), String> {
    let mut command = script(repository);
    command.env("OUT", out);
    if let Some(at) = at {
        command.env("AT", at);
    }
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    if !ran.status.success() {
        return Err(said);
    }
    let items = items_in(out).unwrap();
    fs::remove_dir_all(out).unwrap();
    Ok((items, said))
}

/// Goal: with nothing of ours running, every state that is kept comes back file for file, and of another one
/// it is said that it was let go.
#[test]
fn every_kept_state_comes_back_by_hand() {
    if !has_tools() {
        return;
    }
    let world = Collected::new();
    let (repository, state) = (world.repository(), world.state());
    let collection = &state.collection;
    assert!(collection.cut >= 32 && collection.listings.len() > 3);
    let out = world.installation.path("out");
    let bring = |at: &str| recovered(&repository, &out, Some(at));
    let (mut kept, mut gone) = (0, 0);
    for number in 2..=state.head.number {
        if let (before, after) = collection.nearest(number)
            && before != Some(number)
        {
            gone += 1;
            // All are told the same way.
            if gone % 5 != 0 {
                continue;
            }
            let came = bring(&number.to_string());
            let before = before.map(|before| format!("{before} and "));
            let nearest = format!("{}{after}", before.unwrap_or_default());
            let told = format!(
                "the state at record {number} was let go; the nearest that are kept are those at {nearest}\n"
            );
            assert_eq!(came, Err(told));
            continue;
        }
        kept += 1;
        let came = bring(&number.to_string());
        let (items, said) = came.unwrap_or_else(|said| panic!("record {number}: {said}"));
        assert!(said.is_empty(), "record {number}: {said}");
        assert_eq!(&items, world.items(number), "record {number}");
    }
    assert!(kept > 12 && gone > 20, "{kept} {gone}");

    // By name and by moment, before the records that are retired and after them.
    let newest = recovered(&repository, &out, None).unwrap().0;
    assert_eq!(&newest, world.items(state.head.number));
    let mut list = script(&repository);
    let list = list.env("LIST", "1").output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    for (id, snapshot) in &state.snapshots {
        let label = &id.to_string()[21..];
        let (items, _) = bring(label).unwrap();
        assert_eq!(&items, world.items(snapshot.at), "{label}");
        assert!(list.contains(&format!("snapshot {id}  of record {}\n", snapshot.at)));
    }
    let mut moments = 0;
    for line in list.lines().filter(|line| line.starts_with("record ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number: u64 = words[1].parse().unwrap();
        let is_gone = collection.expired.contains(number);
        assert_eq!(line.ends_with("  let go"), is_gone, "{line}");
        if !is_gone && number % 4 == 0 {
            let (items, _) = bring(words[2]).unwrap();
            assert_eq!(&items, world.items(number), "{line}");
            moments += 1;
        }
    }
    assert!(moments > 2);

    // What stands in for retired records is lost: the next checkpoint stands in for it.
    let at_cut = repository.join(statehold_repository::layout::checkpoint(collection.cut, 0));
    let aside = world.installation.path("aside");
    fs::rename(&at_cut, &aside).unwrap();
    let (items, said) = recovered(&repository, &out, None).unwrap();
    assert_eq!(&items, world.items(state.head.number));
    assert!(said.contains("is lost"), "{said}");
    fs::rename(&aside, &at_cut).unwrap();

    // Purged content comes back nowhere, and all else does.
    let purge = ["purge", "leak", "--apply", "--confirm-path", "leak"];
    run(&world.owner, &["pull"], 0);
    run(&world.owner, &purge, 0);
    let (items, said) = bring("first").unwrap();
    assert!(said.contains("purged: leak/key.bin\n"), "{said}");
    let mut expected = world.items(2).clone();
    assert!(matches!(
        expected.remove("leak/key.bin"),
        Some(Item::File { .. })
    ));
    expected.remove("leak");
    assert_eq!(items, expected);
}
