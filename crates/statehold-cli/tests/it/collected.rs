//! Whatever recovers does so where somebody has collected: states were let go, content has moved, packs are
//! deleted and records retired.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
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
pub(crate) struct Collected {
    pub(crate) installation: Installation,
    pub(crate) gateway: RunningGateway,
    pub(crate) a: RealMachine,
    owner: RealMachine,
    /// The workspace as it was pushed, by record.
    pub(crate) at: BTreeMap<u64, Items>,
}

pub(crate) fn workspace(machine: &RealMachine) -> Items {
    let mut items = items_in(&machine.root).unwrap();
    items.retain(|path, _| !path.starts_with(".statehold/") && !path.starts_with("_restore"));
    items
}

/// A gateway that collects when it is asked to, and keeps what is let go for a second.
fn serve(installation: &Installation, store: &Path, listen: &str) -> RunningGateway {
    let further = ["--compact-every", "never", "--retention-floor", "1s"];
    let gateway = installation.serve_with(store.as_os_str(), listen, &[], &further);
    gateway.unwrap()
}

impl Collected {
    pub(crate) fn new() -> Self {
        let installation = installation();
        let gateway = serve(&installation, &installation.path("vault"), "127.0.0.1:0");
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
        self.more(20..38);
        run(&a, &["snapshot", "second"], 0);
        self.collect();
        self.push_one("after all that");
    }

    /// A push of one small file.
    pub(crate) fn push_one(&mut self, text: &str) {
        self.a.write("new.md", text).unwrap();
        self.push();
    }

    /// A push for each round, some of them of files that are large and gone after the next seven.
    pub(crate) fn more(&mut self, rounds: Range<u64>) {
        let noise = SeededEntropy::new(rounds.start);
        let a = self.a.clone();
        for round in rounds {
            let path = format!("d{}/note.md", round % 5);
            a.write(&path, format!("note {round}\n")).unwrap();
            if round.is_multiple_of(7) {
                let path = format!("{round}.bin");
                a.write(&path, noise.bytes(300_000)).unwrap();
                fs::remove_file(a.path(&format!("{}.bin", round - 7))).ok();
            }
            self.push();
        }
    }

    /// Goes on with another store, at the same address.
    pub(crate) fn serve(&mut self, store: &Path, listen: &str) {
        self.gateway = serve(&self.installation, store, listen);
    }

    /// Compacts until a removal has retired more records. What was condemned is held for a second.
    pub(crate) fn collect(&self) {
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
    pub(crate) fn repository(&self) -> PathBuf {
        let vault = self.installation.path("vault");
        let first = in_folder(&vault, "log").into_iter().next().unwrap();
        first.parent().unwrap().parent().unwrap().to_owned()
    }

    fn state(&self) -> Arc<State> {
        state_in(&self.repository())
    }

    /// What is kept at a record.
    fn items(&self, number: u64) -> &Items {
        self.at.range(..=number).next_back().unwrap().1
    }
}

/// The newest state of the repository in a folder.
pub(crate) fn state_in(repository: &Path) -> Arc<State> {
    let mut found = None;
    tamper(repository, async |_, state| found = Some(state));
    found.unwrap()
}

/// What the script brings back at a point, or what it says.
pub(crate) fn recovered(
    repository: &Path,
    out: &Path,
    at: Option<&str>,
) -> Result<(Items, String), String> {
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
            if gone % 10 != 0 {
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
        // Each takes a second; by moments come others.
        if kept % 2 != 0 {
            continue;
        }
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
        if !is_gone && number.is_multiple_of(8) {
            let (items, _) = bring(words[2]).unwrap();
            assert_eq!(&items, world.items(number), "{line}");
            moments += 1;
        }
    }
    assert!(moments > 1);

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

/// Goal: whoever looks into the history sees what is left of it, and is told where to look instead of what was let
/// go. An export of a state is the same bytes wherever its content lies by now, and repair, drills and
/// verification work as ever.
#[test]
fn history_verification_and_drills_know_what_was_let_go() {
    let world = Collected::new();
    let (a, state) = (&world.a, world.state());
    let collection = &state.collection;
    run(a, &["pull"], 0);

    // What is left of each record.
    let log = json(a, &["log", "--limit", "1000"], 0);
    for row in log.as_array().unwrap() {
        let number = row["number"].as_u64().unwrap();
        let is_kept = !collection.expired.contains(number);
        assert_eq!(row["kept"], is_kept, "{row}");
        assert_eq!(row["retired"], number <= collection.cut, "{row}");
    }
    let told = run(a, &["log", "--limit", "1000"], 0).out;
    for what in ["(retired)", "(let go)", "(let go, retired)"] {
        assert!(told.contains(what), "no {what}: {told}");
    }
    let told = run(a, &["log", "d1/note.md", "--limit", "1000"], 0).out;
    assert!(told.contains("is told no more"), "{told}");

    // Versions: each that is kept reads back; those of retired records are found in what stands in for them.
    let versions = json(a, &["versions", "d1/note.md", "--limit", "1000"], 0);
    let mut kept = [0, 0];
    for version in versions.as_array().unwrap() {
        let number = version["record"].as_u64().unwrap();
        let at = number.to_string();
        let cat = ["cat", "d1/note.md", "--at", &at];
        if version["kept"] == true {
            let Item::File { content, .. } = &world.items(number)["d1/note.md"] else {
                panic!("{version}");
            };
            assert_eq!(run(a, &cat, 0).out.as_bytes(), content, "{version}");
            kept[usize::from(version["exact"] == true)] += 1;
        } else {
            let (before, after) = collection.nearest(number);
            let nearest = format!("the nearest that are: {} and {after}", before.unwrap());
            let restore = ["restore", "d1/note.md", &at];
            for words in [
                &cat[..],
                &restore,
                &["diff", "--from", &at],
                &["export", "--at", &at, "x"],
            ] {
                let refused = run(a, words, 1).err;
                assert!(refused.contains(&nearest), "{words:?}: {refused}");
            }
        }
    }
    assert!(kept[0] > 1 && kept[1] > 0, "{versions}");
    let told = run(a, &["versions", "d1/note.md", "--limit", "1000"], 0).out;
    assert!(
        told.contains("or before") && told.contains("(let go)"),
        "{told}"
    );
    // It was never changed since its record was retired.
    let old = json(a, &["versions", "it's \"odd\"\nhere.md"], 0);
    assert_eq!(old.as_array().unwrap().len(), 1, "{old}");

    // A snapshot from before everything comes back whole, by a restore and by an export.
    let said = json(a, &["restore", "--all", "first"], 0);
    let folder = a.path(said["folder"].as_str().unwrap());
    assert_eq!(&items_in(&folder).unwrap(), world.items(2));
    fs::remove_dir_all(a.path("_restore")).unwrap();
    let out = world.installation.path("exported");
    let words = [
        "export",
        "--at",
        "first",
        "--format",
        "folder",
        out.to_str().unwrap(),
    ];
    run(a, &words, 0);
    assert_eq!(&items_in(&out).unwrap(), world.items(2));

    // A copy that is made now has all that is kept; drills of both pass, whatever they draw.
    let operator = world.installation.operator().unwrap();
    let vault = world.installation.path("vault");
    let copy = world.installation.path("copy");
    let (store, to) = (vault.to_str().unwrap(), copy.to_str().unwrap());
    run(&operator, &["replicate", "--store", store, "--to", to], 0);
    for seed in ["1", "2", "3", "4"] {
        let drill = ["drill", "--store", store, "--replica", to, "--seed", seed];
        let drill = json(&operator, &drill, 0);
        assert_eq!(drill["passed"], true, "{drill}");
    }

    // Damage of what stands in for retired records, seen straight and through the gateway, and mended.
    run(a, &["verify", "--read-data"], 0);
    run(&operator, &["verify", "--store", store, "--read-data"], 0);
    let repository = world.repository();
    let listing = &collection.listings[0];
    let keys = [
        statehold_repository::layout::tree(listing.tree.id),
        statehold_repository::layout::checkpoint(collection.cut, 0),
        statehold_repository::layout::record(4),
    ];
    for key in &keys {
        fs::remove_file(repository.join(key)).unwrap();
    }
    let verify = ["verify", "--store", store];
    let told = run(&operator, &verify, 7).err;
    for key in &keys {
        assert!(
            told.contains(&format!("damaged  {key}: it is missing")),
            "{told}"
        );
    }
    let lost = format!(
        "lost     the states at records {} to {}",
        listing.from, listing.to
    );
    assert!(
        told.contains(&lost) && told.contains("lost     the snapshot"),
        "{told}"
    );
    run(a, &["verify"], 7);
    let told = run(&operator, &["repair", "--store", store, "--from", to], 0).out;
    // Caches that nobody had written yet may be among them.
    assert!(told.contains("objects brought back; all is well"), "{told}");
    for key in &keys {
        let back = told.lines().any(|line| line.contains(key.as_str()));
        assert!(back, "{key}: {told}");
    }
    run(&operator, &["verify", "--store", store, "--read-data"], 0);
    run(a, &["verify", "--read-data"], 0);
}

/// Goal: a gateway collects by itself; not where its store is a copy, which what it appended would part from its
/// source.
#[test]
fn a_gateway_collects_by_itself_but_not_in_a_copy() {
    let installation = installation();
    let (vault, copy) = (installation.path("vault"), installation.path("copy"));
    let never = ["--compact-every", "never"];
    let mut gateway = installation
        .serve_with(vault.as_os_str(), "127.0.0.1:0", &[], &never)
        .unwrap();
    let a = installation.linked("anna", &gateway).unwrap();
    installation.keep_last(&gateway, 1).unwrap();
    for number in 0..4 {
        a.write("x.md", format!("{number}\n")).unwrap();
        run(&a, &["push"], 0);
    }
    let operator = installation.operator().unwrap();
    let (store, to) = (vault.to_str().unwrap(), copy.to_str().unwrap());
    run(&operator, &["replicate", "--store", store, "--to", to], 0);
    gateway.kill().unwrap();
    let compacts = |folder: &Path| {
        let records = in_folder(folder, "log").into_iter();
        let envelopes = records.map(|path| zstd::decode_all(&*fs::read(path).unwrap()).unwrap());
        let is_one = |envelope: &Vec<u8>| {
            let text = String::from_utf8_lossy(envelope);
            text.contains("\"kind\":\"compact\"")
        };
        envelopes.filter(is_one).count()
    };
    let listening = |folder: &Path, said: &str| {
        let floor = ["--retention-floor", "1s"];
        let gateway = installation.serve_with(folder.as_os_str(), "127.0.0.1:0", &[], &floor);
        let gateway = gateway.unwrap();
        for _ in 0..600 {
            if fs::read_to_string(&gateway.log).unwrap().contains(said) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it never said {said}");
    };
    listening(&copy, "nothing is collected in a replica");
    assert_eq!(compacts(&copy), 0);
    // Whatever is younger than the floor stays, and it looks once a week.
    std::thread::sleep(Duration::from_millis(1_100));
    listening(&vault, "\"collected\"");
    assert_eq!(compacts(&vault), 1);
}
