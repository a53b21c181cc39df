//! Scans of real folders: what is seen, what is left out, and what is not read again.

use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::reading::{PARALLEL_FILES_MIN, READ_BYTES};
use super::*;

/// A folder that is scanned again and again, each scan with the cache of the one before.
struct World {
    _home: tempfile::TempDir,
    root: PathBuf,
    rules: RuleSet,
    ignore: IgnoreFile,
    known_directories: Vec<&'static str>,
    cache: StatCache,
    keep_bytes: usize,
}

fn world(files: &[(&str, &str)]) -> World {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().to_owned();
    for (path, content) in files {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), content).unwrap();
    }
    World {
        _home: home,
        root,
        rules: RuleSet::new(statehold_core::rules::SyncRules::default()).unwrap(),
        ignore: IgnoreFile::default(),
        known_directories: Vec::new(),
        cache: StatCache::default(),
        keep_bytes: 0,
    }
}

/// Longer than a step of the file system's clock, so that what was written before is settled.
fn settle() {
    std::thread::sleep(Duration::from_millis(40));
}

impl World {
    fn scan(&mut self) -> Scan {
        let known = |path: &RepoPath| self.known_directories.contains(&path.as_str());
        let options = ScanOptions {
            rules: &self.rules,
            ignore: &self.ignore,
            cache: &self.cache,
            known_directories: &known,
            keep_bytes: self.keep_bytes,
        };
        let folder = Folder::open(&self.root).unwrap();
        let scan = scan(&folder, &options).unwrap();
        self.cache = scan.cache.clone();
        scan
    }

    fn paths(&mut self) -> Vec<String> {
        let scan = self.scan();
        scan.entries.keys().map(ToString::to_string).collect()
    }
}

fn digest(scan: &Scan, path: &str) -> Digest {
    match scan.entries[path].signature {
        Signature::File { digest, .. } => digest,
        other => panic!("{other:?}"),
    }
}

fn reason<'a>(scan: &'a Scan, path: &str) -> &'a SkipReason {
    let skipped = scan.skipped.iter().find(|skipped| skipped.path == path);
    &skipped.unwrap().reason
}

#[test]
fn additions_changes_and_deletions_are_seen_and_the_rest_is_not_read() {
    let files = [("a", "1"), ("b/c", "2"), ("b.c", "3"), ("b/d/e", "4")];
    let mut world = world(&files);
    settle();
    let first = world.scan();
    assert_eq!((first.hashed_files, first.hashed_bytes), (4, 4));
    assert_eq!(digest(&first, "b/c"), Digest::of(b"2"));
    assert_eq!(first.entries["b/c"].sha256, Some(Sha256::of(b"2")));
    assert_eq!(world.scan().hashed_files, 0);

    fs::write(world.root.join("a"), "one").unwrap();
    fs::remove_file(world.root.join("b.c")).unwrap();
    fs::write(world.root.join("b/new"), "new").unwrap();
    let second = world.scan();
    assert_eq!(second.hashed_files, 2);
    assert_eq!(digest(&second, "a"), Digest::of(b"one"));
    let paths: Vec<&str> = second.entries.keys().map(RepoPath::as_str).collect();
    assert_eq!(paths, ["a", "b/c", "b/d/e", "b/new"]);
    assert_eq!(second.cache.len(), 4);
}

#[test]
fn an_edit_of_the_same_length_with_its_time_set_back_is_seen() {
    let mut world = world(&[("a", "old")]);
    let path = world.root.join("a");
    // At once after each scan, so that stamps are as young as they can be.
    for (index, content) in ["one", "two", "six", "ten"].iter().enumerate() {
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        world.scan();
        fs::write(&path, content).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let times = FileTimes::new().set_modified(before);
        file.set_times(times).unwrap();
        let seen = digest(&world.scan(), "a");
        assert_eq!(seen, Digest::of(content.as_bytes()), "round {index}");
        if index == 2 {
            settle();
        }
    }
}

#[test]
fn a_file_that_claims_to_be_from_the_future_is_not_read_each_time() {
    let mut world = world(&[("a", "x")]);
    let file = File::options()
        .write(true)
        .open(world.root.join("a"))
        .unwrap();
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    file.set_times(FileTimes::new().set_modified(future))
        .unwrap();
    settle();
    assert_eq!(world.scan().hashed_files, 1);
    assert_eq!(world.scan().hashed_files, 0);
}

#[test]
fn odd_names_are_taken_and_impossible_ones_listed() {
    let odd = ["new\nline", "it's \"quoted\"", "😀", "e\u{301}", " ", "-rf"];
    let mut world = world(&odd.map(|name| (name, name)));
    let bytes = std::ffi::OsStr::from_bytes(b"caf\xe9");
    // macOS refuses to make such a name.
    let made = fs::write(world.root.join(bytes), "x").is_ok();
    fs::create_dir(world.root.join("sockets")).unwrap();
    let socket = world.root.join("sockets/socket");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let scan = world.scan();
    for name in odd {
        assert_eq!(digest(&scan, name), Digest::of(name.as_bytes()));
    }
    assert_eq!(scan.entries.len(), odd.len());
    if made {
        assert_eq!(reason(&scan, "caf\u{fffd}"), &SkipReason::NotUtf8);
    }
    assert_eq!(reason(&scan, "sockets/socket"), &SkipReason::NotAFile);
}

#[test]
fn links_are_kept_as_links_and_those_that_lead_outside_are_listed() {
    let mut world = world(&[("dir/file", "x")]);
    symlink("../dir/file", world.root.join("dir/inside")).unwrap();
    symlink("../../etc", world.root.join("dir/outside")).unwrap();
    symlink("dir", world.root.join("linked")).unwrap();
    let scan = world.scan();
    assert_eq!(
        scan.entries["dir/inside"].target.as_deref(),
        Some("../dir/file")
    );
    assert!(scan.entries.contains_key("linked"));
    assert!(!scan.entries.contains_key("linked/file"));
    assert!(matches!(
        reason(&scan, "dir/outside"),
        SkipReason::LinkOutside { .. }
    ));
    assert!(scan.is_held(&RepoPath::parse("dir/outside").unwrap()));
}

#[test]
fn the_execution_bit_shows_without_reading_the_file_anew_for_it() {
    let mut world = world(&[("run", "x")]);
    settle();
    let executable = |scan: &Scan| match scan.entries["run"].signature {
        Signature::File { executable, .. } => executable,
        _ => false,
    };
    assert!(!executable(&world.scan()));
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(world.root.join("run"), mode).unwrap();
    assert!(executable(&world.scan()));
}

#[test]
fn directories_are_entries_when_empty_or_known() {
    let mut world = world(&[("full/file", "x"), ("known/file", "x")]);
    fs::create_dir_all(world.root.join("empty/inner")).unwrap();
    world.known_directories = vec!["known"];
    assert_eq!(
        world.paths(),
        ["empty/inner", "full/file", "known", "known/file"]
    );
}

#[test]
fn ignored_denied_and_uncovered_paths_stay_out() {
    let mut world = world(&[
        ("a.tmp", ""),
        ("cache/deep/x", ""),
        (".git/config", ""),
        ("nested/.git/config", ""),
        ("_restore/1/x", ""),
        (".statehold/settings.json", ""),
        ("state/log/changelog.ndjson", ""),
        ("state/log/new.ndjson", ""),
        ("state/log/alerts/a.md", ""),
        ("kept", ""),
    ]);
    world.ignore = IgnoreFile::parse("*.tmp\ncache/").unwrap();
    let scan = world.scan();
    let paths: Vec<&str> = scan.entries.keys().map(RepoPath::as_str).collect();
    assert_eq!(paths, ["kept", "state/log/changelog.ndjson"]);
    assert_eq!(reason(&scan, "a.tmp"), &SkipReason::Ignored);
    assert_eq!(reason(&scan, "cache"), &SkipReason::Ignored);
    for denied in [".git", "nested/.git", "_restore", "state/log/alerts"] {
        let is_denied = matches!(reason(&scan, denied), SkipReason::Denied { .. });
        assert!(is_denied, "{denied}");
    }
    let prefix = "state/log/".to_owned();
    assert_eq!(
        reason(&scan, "state/log/new.ndjson"),
        &SkipReason::Uncovered { prefix }
    );
    assert_eq!(scan.skipped.len(), 7);
    let ignored = scan.skipped.iter().find(|skipped| skipped.path == "a.tmp");
    assert_eq!(
        serde_json::to_string(&ignored).unwrap(),
        r#"{"path":"a.tmp","reason":"ignored"}"#
    );
    for (held, expected) in [
        ("cache/not/there", true),
        ("kept", false),
        ("cache2", false),
    ] {
        assert_eq!(scan.is_held(&RepoPath::parse(held).unwrap()), expected);
    }
    let out = |path: &str| {
        is_left_out(
            &world.rules,
            &world.ignore,
            &RepoPath::parse(path).unwrap(),
            false,
        )
    };
    assert!(out("cache/elsewhere") && out(".git/x") && out("state/log/x") && !out("kept"));
}

#[test]
fn the_journals_of_a_database_stay_and_other_files_of_such_names_go() {
    let mut world = world(&[
        ("db", "SQLite format 3\0..."),
        ("db-wal", "x"),
        ("db-shm", "x"),
        ("text", "no database"),
        ("text-journal", "x"),
        ("alone-wal", "x"),
    ]);
    assert_eq!(world.paths(), ["alone-wal", "db", "text", "text-journal"]);
}

#[test]
fn what_cannot_be_read_is_held_and_not_deleted() {
    let mut world = world(&[("locked/deep/file", "x"), ("file", "x"), ("other", "x")]);
    world.scan();
    settle();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&world.root.join("locked"), 0o000);
    set(&world.root.join("file"), 0o000);
    // Root reads everything, so there is nothing to see.
    let sees_everything = fs::read_dir(world.root.join("locked")).is_ok();
    let scan = world.scan();
    set(&world.root.join("locked"), 0o700);
    if sees_everything {
        return;
    }
    assert_eq!(scan.unreadable.len(), 2);
    for held in ["locked", "locked/deep/file", "file"] {
        assert!(scan.is_held(&RepoPath::parse(held).unwrap()), "{held}");
    }
    assert!(scan.entries.contains_key("other"));
}

#[test]
fn a_file_that_never_holds_still_is_left_for_the_next_time() {
    let mut world = world(&[("growing", "x"), ("still", "x")]);
    let path = world.root.join("growing");
    fs::write(&path, vec![0; 16 * READ_BYTES]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (started, wait) = std::sync::mpsc::channel();
    let scan = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = File::options().append(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"line\n").unwrap();
                started.send(()).ok();
            }
        });
        wait.recv().unwrap();
        // The writer may lose the processor for just as long as the file is read.
        let scan = (0..50)
            .map(|_| world.scan())
            .find(|scan| !scan.busy.is_empty());
        stop.store(true, Ordering::Relaxed);
        scan.expect("a file that is written all the time is busy")
    });
    assert_eq!(scan.busy, [RepoPath::parse("growing").unwrap()]);
    assert!(scan.is_held(&scan.busy[0]));
    assert!(scan.entries.contains_key("still"));
}

#[test]
fn many_files_are_read_side_by_side_with_the_same_result() {
    let names: Vec<String> = (0..PARALLEL_FILES_MIN + 10)
        .map(|index| format!("{}/{index}", index % 7))
        .collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &**name)).collect();
    let mut world = world(&files);
    let scan = world.scan();
    assert_eq!(scan.hashed_files, names.len() as u64);
    for name in &names {
        assert_eq!(digest(&scan, name), Digest::of(name.as_bytes()));
    }
}

#[test]
fn a_store_in_the_folder_is_left_out_whole() {
    let mut world = world(&[
        ("a", "a"),
        ("vault/repository.json", "{}"),
        ("vault/log/00000000000000000001", "x"),
        ("hosted/_control/log/00000000000000000001", "x"),
        ("hosted/t/x", "x"),
        // Neither of these is one.
        ("own/repository.json", "{}"),
        ("own/_control/x", "x"),
        ("logs/log/x", "x"),
    ]);
    let paths = ["a", "logs/log/x", "own/_control/x", "own/repository.json"];
    assert_eq!(world.paths(), paths);
    let scan = world.scan();
    for store in ["vault", "hosted"] {
        assert_eq!(reason(&scan, store), &SkipReason::Store);
        assert!(scan.is_held(&RepoPath::parse(&format!("{store}/t/x")).unwrap()));
    }
}

#[test]
fn small_files_are_kept_while_there_is_room() {
    let large = "l".repeat(100_000);
    let mut world = world(&[
        ("a", "first"),
        ("b", &large),
        ("c", "second"),
        ("empty", ""),
    ]);
    let kept = |scan: &Scan, at: &str| scan.kept(&RepoPath::parse(at).unwrap()).map(<[u8]>::to_vec);
    world.keep_bytes = 8;
    let scan = world.scan();
    assert_eq!(kept(&scan, "a"), Some(b"first".to_vec()));
    for at in ["b", "c", "missing"] {
        assert_eq!(kept(&scan, at), None, "{at}");
    }
    // What is known is not read, so there is nothing to keep.
    settle();
    world.scan();
    assert_eq!(kept(&world.scan(), "a"), None);
}
