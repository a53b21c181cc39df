//! `docs/recover.sh` gets the files of a repository back with nothing of ours running.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use statehold_core::record::{Body, ForgetBody, Kind, SnapshotBody};
use statehold_core::snapshot::SnapshotId;
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_testkit::author::Author;

use crate::vault::tamper;

/// What a path holds: content and execution bit, the target of a link, or nothing for a folder.
type Tree = BTreeMap<PathBuf, String>;

fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, folder: &Path, tree: &mut Tree) {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if name == Path::new(".statehold") {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let shown = if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                walk(root, &path, tree);
                "folder".to_owned()
            } else {
                let digest = statehold_core::digest::Digest::of(&fs::read(&path).unwrap());
                format!("{digest} {:o}", metadata.permissions().mode() & 0o100)
            };
            tree.insert(name, shown);
        }
    }
    let mut found = Tree::new();
    walk(root, root, &mut found);
    found
}

/// Whether the page's tools are there. Where they must be, they are missed loudly.
pub(crate) fn has_tools() -> bool {
    let missing: Vec<&str> = ["bash", "zstd", "jq", "head", "tail"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    if missing.is_empty() {
        return true;
    }
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "recovery by hand needs {missing:?}");
    println!("SKIP: recovery by hand needs {missing:?}");
    false
}

/// The script, for a repository.
pub(crate) fn script(repository: &Path) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recover.sh");
    let mut command = Command::new("bash");
    command.arg(script).env("REPO", repository).env_remove("AT");
    command
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn statehold(&self, arguments: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_statehold"))
            .args(arguments)
            .current_dir(self.at("work"))
            .env("STATEHOLD_HOME", self.at("home"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn script(&self) -> Command {
        script(&self.at("repository"))
    }

    fn recover(&self, out: &str, at: Option<&str>) -> Output {
        let mut command = self.script();
        command.env("OUT", self.at(out));
        if let Some(point) = at {
            command.env("AT", point);
        }
        command.output().unwrap()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.at("work").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Makes two snapshots of the first record and takes one of them away again. Gives the other's name.
fn name_the_first_record(repository: &Path) -> String {
    let mut names = Vec::new();
    tamper(repository, async |repository, mut state| {
        let author = Author::new(6);
        let at = state.head.number;
        for label in ["first", "gone"] {
            let id = SnapshotId::new(state.time, &label.parse().unwrap()).unwrap();
            names.push(id.clone());
            let body = Body::Snapshot(SnapshotBody {
                base: state.head,
                id,
                at,
                files: 0,
                bytes: 0,
            });
            let head = author.head(Kind::Snapshot, Vec::new());
            let draft = StoredDraft::new(head, body, &[]).unwrap();
            repository.append(&draft, &state).await.unwrap();
            state = repository.catch_up(&state).await.unwrap().0;
        }
        let body = Body::Forget(ForgetBody {
            base: state.head,
            snapshots: vec![names[1].clone()],
            policy: None,
        });
        let head = author.head(Kind::Forget, Vec::new());
        let draft = StoredDraft::new(head, body, &[]).unwrap();
        repository.append(&draft, &state).await.unwrap();
    });
    names[0].to_string()
}

/// When a record was appended, as its envelope has it.
fn record_time(repository: &Path, number: u64) -> String {
    let mut time = None;
    tamper(repository, async |repository, _| {
        let record = repository.record(number).await.unwrap().unwrap();
        time = Some(record.record.envelope.time.to_string());
    });
    time.unwrap()
}

/// Bytes that don't compress, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let block = |number: u64| *statehold_core::digest::Digest::of(&number.to_le_bytes()).as_bytes();
    (0..).flat_map(block).take(length).collect()
}

pub(crate) fn append(path: &Path, content: &[u8]) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(content).unwrap();
}

#[test]
fn files_come_back_with_zstd_jq_head_and_tail() {
    if !has_tools() {
        return;
    }
    let scratch = Scratch(tempfile::tempdir().unwrap());
    let work = scratch.at("work");
    fs::create_dir(&work).unwrap();
    scratch.statehold(&["init"]);
    let link = format!("file://{}", scratch.at("repository").display());
    scratch.statehold(&["link", &link]);

    // Enough that does not compress for packs, and a file of several chunks.
    scratch.write("large.bin", noise(3_000_000));
    scratch.write(
        "sessions/log.ndjson",
        "{\"event\":\"begin\"}\n".repeat(60_000),
    );
    scratch.write("notes/it's \"new\"\nline.md", "odd names\n");
    scratch.write("empty", "");
    scratch.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(work.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    scratch.write("gone/soon", "goodbye\n");
    scratch.write("renamed/old name", noise(10_000));
    scratch.write("file then folder", "file\n");
    symlink("notes", work.join("link")).unwrap();
    fs::create_dir(work.join("empty folder")).unwrap();
    scratch.statehold(&["push"]);
    let first = tree(&work);
    assert!(
        scratch.at("repository").join("packs").is_dir(),
        "the first push should have made packs"
    );

    let kept = name_the_first_record(&scratch.at("repository"));

    fs::remove_dir_all(work.join("gone")).unwrap();
    fs::rename(work.join("renamed/old name"), work.join("renamed/new name")).unwrap();
    fs::remove_file(work.join("file then folder")).unwrap();
    scratch.write("file then folder/inner", "folder\n");
    append(&work.join("sessions/log.ndjson"), b"{\"event\":\"more\"}\n");
    scratch.statehold(&["push"]);

    // Enough pushes that old records come in segments and a checkpoint besides, and tails are merged.
    for round in 0..34 {
        let line = format!("{{\"event\":{round}}}\n");
        append(&work.join("sessions/log.ndjson"), line.as_bytes());
        append(&work.join("large.bin"), line.as_bytes());
        scratch.statehold(&["push", "--quiet"]);
    }
    fs::remove_file(work.join("link")).unwrap();
    symlink("file then folder/inner", work.join("link")).unwrap();
    scratch.statehold(&["push"]);

    let newest = scratch.recover("newest", None);
    assert!(newest.status.success(), "{newest:?}");
    assert!(newest.stderr.is_empty(), "{newest:?}");
    assert_eq!(tree(&scratch.at("newest")), tree(&work));
    let then = scratch.recover("then", Some("1"));
    assert!(then.status.success(), "{then:?}");
    assert_eq!(tree(&scratch.at("then")), first);

    // By a snapshot's name, and by a moment; by a label further down.
    let time = record_time(&scratch.at("repository"), 1);
    for (number, at) in [&kept, &time].into_iter().enumerate() {
        let out = format!("at-{number}");
        let named = scratch.recover(&out, Some(at));
        assert!(named.status.success(), "{at}: {named:?}");
        assert_eq!(tree(&scratch.at(&out)), first, "{at}");
    }
    for (at, told) in [
        ("gone", "snapshots called gone:\n"),
        (
            "2001-01-01T00:00:00Z",
            "the log is empty, or begins later\n",
        ),
    ] {
        let refused = scratch.recover("refused", Some(at));
        assert!(!refused.status.success(), "{at}: {refused:?}");
        assert_eq!(String::from_utf8_lossy(&refused.stderr), told);
        assert!(!scratch.at("refused").exists());
    }
    let mut list = scratch.script();
    let list = list.env("LIST", "1").output().unwrap();
    let said = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        said.contains(&format!("record 1  {time}  push\n")),
        "{said}"
    );
    assert!(
        said.contains(&format!("snapshot {kept}  of record 1\n")),
        "{said}"
    );
    assert!(!said.contains("-gone"), "{said}");

    // A rollback is changes like those of a push, and a name for how things were before it.
    let rollback = ["rollback", &kept, "--apply", "--confirm-label=first"];
    scratch.statehold(&rollback);
    let rolled_back = scratch.recover("rolled-back", None);
    assert!(rolled_back.status.success(), "{rolled_back:?}");
    assert_eq!(tree(&scratch.at("rolled-back")), first);

    // Damage is named and does not keep the other files from coming back.
    let packs = fs::read_dir(scratch.at("repository").join("packs")).unwrap();
    let pack = packs.map(|item| item.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let damaged = scratch.recover("damaged", Some("before-rollback"));
    assert!(!damaged.status.success(), "{damaged:?}");
    let told = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(told.contains("damaged: large.bin"), "{told}");
    assert!(scratch.at("damaged").join("run.sh").exists());
}
