//! Disks that are full, and folders that cannot be written to.

use std::fs;
use std::path::{Path, PathBuf};

use statehold_testkit::mount::Mount;
use statehold_testkit::process::{Installation, Ran, RealMachine};

use super::{noise, skip, told};
use crate::world::{Two, installation, run};

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let Two {
        gateway: _gateway,
        a,
        installation,
        b: _b,
    } = Two::new();
    let large = noise(11, 4_000_000);
    a.write("large", &large).unwrap();
    a.write("small", "small").unwrap();
    run(&a, &["push"], 0);
    let full = installation.machine("full").unwrap();
    let disk = match Mount::small(&full.root, 2_000_000) {
        Ok(disk) => disk,
        Err(why) => return skip("disk full", &why),
    };
    run(&full, &["init"], 0);
    let invite = installation.invite(&_gateway).unwrap();
    full.run_with(&["link", &_gateway.url], &invite)
        .unwrap()
        .expect(0)
        .unwrap();
    let told_ = full.run(&["pull"]).unwrap();
    told(
        "disk full, pull",
        &told_,
        1,
        &["No space left", "hint: make room"],
    );
    assert!(!full.path("large").exists());
    disk.grow(50_000_000).unwrap();
    run(&full, &["pull"], 0);
    assert!(full.read("large").unwrap() == large);
    assert_eq!(full.read("small").unwrap(), b"small");
    // Nothing that was staged stays behind.
    assert_eq!(
        fs::read_dir(full.path(".statehold/staging"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_full_disk_at_the_gateway_is_told_and_loses_nothing() {
    let installation = installation();
    fs::create_dir(installation.path("vault")).unwrap();
    let disk = match Mount::small(&installation.path("vault"), 3_000_000) {
        Ok(disk) => disk,
        Err(why) => return skip("disk full at the gateway", &why),
    };
    let gateway = installation.serve("vault").unwrap();
    let a = installation.linked("anna", &gateway).unwrap();
    let b = installation.linked("bert", &gateway).unwrap();
    a.write("first", "first").unwrap();
    run(&a, &["push"], 0);
    // More than fits as a record.
    let rest = installation.path("vault").join("rest");
    fill(&rest);
    a.write("more", noise(13, 100_000)).unwrap();
    let refused = a.run(&["push"]).unwrap();
    told(
        "disk full at the gateway, record",
        &refused,
        6,
        &["log/", "disk is full", "hint: "],
    );
    // Reading goes on, also for whom the push is left to be settled.
    run(&a, &["pull"], 0);
    run(&b, &["pull"], 0);
    assert_eq!(b.read("first").unwrap(), b"first");
    fs::remove_file(rest).unwrap();
    run(&a, &["push"], 0);
    // More than fits as a pack.
    let large = noise(12, 6_000_000);
    a.write("large", &large).unwrap();
    let refused = a.run(&["push"]).unwrap();
    told(
        "disk full at the gateway, pack",
        &refused,
        6,
        &["packs/", "disk is full", "hint: "],
    );
    run(&a, &["pull"], 0);
    disk.grow(100_000_000).unwrap();
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    assert!(b.read("large").unwrap() == large);
    assert_eq!(b.read("more").unwrap(), noise(13, 100_000));
    assert_eq!(run(&b, &["log"], 0).out.matches("push").count(), 3);
    drop(gateway);
}

/// Takes all room that is left.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
}

/// Goal: folders that can't be written to keep nothing else from arriving, and nothing of what is in
/// them is taken for an edit.
#[test]
fn a_read_only_folder_is_told_and_the_rest_arrives() {
    let Two {
        gateway: _gateway,
        a,
        b,
        installation,
    } = Two::new();
    for path in ["docs/one", "notes/one"] {
        a.write(path, "before").unwrap();
    }
    run(&a, &["push"], 0);
    run(&b, &["pull"], 0);
    for path in ["docs/one", "docs/two", "notes/one", "notes/two"] {
        a.write(path, "after").unwrap();
    }
    run(&a, &["push"], 0);
    let nobody = Nobody::new(&installation, &b);
    nobody.shut(&b.path("docs"), true);
    let partial = nobody.run(&b, &["pull"]);
    let said = [
        "docs/one",
        "docs/two",
        "Permission denied",
        "some were left out",
    ];
    told("read-only folder inside, pull", &partial, 4, &said);
    assert_eq!(b.read("notes/two").unwrap(), b"after");
    assert_eq!(b.read("docs/one").unwrap(), b"before");
    // What could not be received is no edit of ours.
    nobody.run(&b, &["push"]).expect(0).unwrap();
    run(&a, &["pull"], 0);
    assert_eq!(a.read("docs/one").unwrap(), b"after");
    nobody.shut(&b.path("docs"), false);
    nobody.run(&b, &["pull"]).expect(0).unwrap();
    assert_eq!(b.read("docs/one").unwrap(), b"after");
    assert_eq!(b.read("docs/two").unwrap(), b"after");
}

/// Somebody whom file modes bind, also where the tests run as root.
struct Nobody {
    program: PathBuf,
    id: Option<u32>,
}

impl Nobody {
    /// Gives a machine's folders to somebody without rights, if these tests have all.
    fn new(installation: &Installation, machine: &RealMachine) -> Self {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        fn give(path: &Path, id: u32) {
            std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
            if path.is_dir() && !path.is_symlink() {
                let items = fs::read_dir(path).unwrap();
                items.for_each(|item| give(&item.unwrap().path(), id));
            }
        }
        let scratch = installation.path("");
        let id = (fs::metadata(&scratch).unwrap().uid() == 0).then_some(65_534);
        let program = installation.path("program");
        fs::copy(env!("CARGO_BIN_EXE_statehold"), &program).unwrap();
        if let Some(id) = id {
            fs::set_permissions(&scratch, fs::Permissions::from_mode(0o711)).unwrap();
            let folder = machine.root.parent().unwrap();
            chown(folder, Some(id), Some(id)).unwrap();
            give(folder, id);
        }
        Self { program, id }
    }

    fn run(&self, machine: &RealMachine, arguments: &[&str]) -> Ran {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(&self.program);
        let usual = machine.command(arguments);
        command.args(arguments).current_dir(&machine.root);
        command.env_clear().envs(
            usual
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        machine.start(command, "").unwrap().finish().unwrap()
    }

    /// Makes a folder read-only, or undoes that.
    fn shut(&self, folder: &Path, shut: bool) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = if shut { 0o555 } else { 0o755 };
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_read_only_workspace_or_store_is_told() {
    let Two {
        gateway: _gateway,
        a,
        b,
        installation,
    } = Two::new();
    b.write("own", "own").unwrap();
    let shut = match Mount::read_only(&b.root) {
        Ok(shut) => shut,
        Err(why) => return skip("read-only workspace", &why),
    };
    for verb in ["push", "pull"] {
        let refused = b.run(&[verb]).unwrap();
        let said = [
            "Read-only file system",
            "hint: make the place named writable",
        ];
        told(&format!("read-only workspace, {verb}"), &refused, 1, &said);
    }
    drop(shut);
    let shut = Mount::read_only(&installation.path("vault")).unwrap();
    let refused = b.run(&["push"]).unwrap();
    let said = ["log/", "may not write to its store", "hint: "];
    told("read-only store, push", &refused, 6, &said);
    run(&a, &["pull"], 0);
    drop(shut);
    run(&b, &["push"], 0);
    run(&a, &["pull"], 0);
    assert_eq!(a.read("own").unwrap(), b"own");
}
