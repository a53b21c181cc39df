//! Placing, removing and refusing, with links and changes in the way.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

/// A workspace folder with a staging folder, and something beside it that must stay untouched.
struct World {
    _home: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
    folder: Folder,
}

fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let (root, outside) = (home.path().join("root"), home.path().join("outside"));
    fs::create_dir_all(root.join(".statehold/staging")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    let folder = Folder::open(&root).unwrap();
    World {
        _home: home,
        root,
        outside,
        folder,
    }
}

impl World {
    fn staged(&self, content: &str) -> PathBuf {
        let staged = self.root.join(".statehold/staging/one");
        fs::write(&staged, content).unwrap();
        staged
    }

    fn stamp(&self, text: &str) -> Option<Stamp> {
        self.folder
            .stat(&path(text))
            .unwrap()
            .map(|found| found.stamp)
    }

    fn place(&self, text: &str, content: &str, seen: Option<&Stamp>) -> Result<Stamp, FolderError> {
        let attributes = Attributes {
            executable: false,
            mtime: Mtime::new(1_000_000_000, 5),
        };
        self.folder
            .place(&self.staged(content), &path(text), seen, attributes)
    }

    fn read(&self, text: &str) -> String {
        fs::read_to_string(self.root.join(text)).unwrap()
    }
}

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

#[test]
fn files_are_placed_with_their_directories_mode_and_time() {
    let world = world();
    let odd = "dir\nwith 'quotes\"/😀/e\u{301}";
    let stamp = world.place(odd, "content", None).unwrap();
    assert_eq!(world.read(odd), "content");
    assert_eq!(world.stamp(odd), Some(stamp));
    let found = world.folder.stat(&path(odd)).unwrap().unwrap();
    assert_eq!(found.mtime, Mtime::new(1_000_000_000, 5));
    assert_eq!((found.kind, found.executable), (FoundKind::File, false));
    world.folder.barrier().unwrap();
}

#[test]
fn only_the_owners_execution_bit_is_taken_over() {
    let world = world();
    let mode = |text: &str| fs::metadata(world.root.join(text)).unwrap().mode() & 0o7777;
    let place = |text: &str, executable| {
        let seen = world.stamp(text);
        let attributes = Attributes {
            executable,
            mtime: Mtime::default(),
        };
        let staged = world.staged("x");
        world
            .folder
            .place(&staged, &path(text), seen.as_ref(), attributes)
            .unwrap();
        mode(text)
    };
    assert_eq!(place("new", false), 0o644);
    assert_eq!(place("new", true), 0o755);
    assert_eq!(place("new", false), 0o644);
    fs::write(world.root.join("private"), "").unwrap();
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(world.root.join("private"), private).unwrap();
    assert_eq!(place("private", true), 0o700);
}

#[test]
fn only_what_was_seen_is_replaced_or_removed() {
    let world = world();
    let first = world.place("a", "first", None).unwrap();
    // Something is there although nothing was seen.
    let changed = |result| matches!(result, Err(FolderError::Changed { .. }));
    assert!(changed(world.place("a", "second", None).map(|_| ())));
    // Something else is there: same length, time set back.
    fs::write(world.root.join("a"), "other").unwrap();
    assert!(changed(
        world.place("a", "second", Some(&first)).map(|_| ())
    ));
    assert!(changed(world.folder.remove(&path("a"), &first).map(|_| ())));
    let aside = world.root.join(".statehold/aside");
    assert!(changed(world.folder.set_aside(&path("a"), &first, &aside)));
    // Something was seen and is gone.
    assert!(changed(
        world.place("b", "second", Some(&first)).map(|_| ())
    ));
    assert_eq!(world.read("a"), "other");

    let now = world.stamp("a").unwrap();
    world.folder.set_aside(&path("a"), &now, &aside).unwrap();
    assert_eq!(fs::read_to_string(&aside).unwrap(), "other");
    let second = world.place("a", "second", None).unwrap();
    let third = world.place("a", "third", Some(&second)).unwrap();
    // A place that is taken is never overwritten by setting aside.
    assert!(world.folder.set_aside(&path("a"), &third, &aside).is_err());
    assert!(world.folder.remove(&path("a"), &third).unwrap());
    assert!(!world.folder.remove(&path("a"), &third).unwrap());
}

#[test]
fn no_link_is_followed() {
    let world = world();
    symlink(&world.outside, world.root.join("link")).unwrap();
    fs::create_dir(world.root.join("dir")).unwrap();
    symlink(&world.outside, world.root.join("dir/link")).unwrap();
    let stamp = Stamp::of(&rustix::fs::stat(world.outside.join("file")).unwrap());
    for text in ["link/file", "dir/link/file", "dir/link/deeper/file"] {
        let refused = |result: Result<(), FolderError>| {
            let error = result.unwrap_err();
            let is_link = matches!(&error, FolderError::LinkInTheWay { path } if path.as_str().ends_with("link"));
            assert!(is_link, "{text}: {error}");
        };
        refused(world.place(text, "evil", None).map(|_| ()));
        refused(world.place(text, "evil", Some(&stamp)).map(|_| ()));
        refused(world.folder.remove(&path(text), &stamp).map(|_| ()));
        refused(world.folder.open_file(&path(text)).map(|_| ()));
        refused(world.folder.make_directory(&path(text)));
        refused(world.folder.stat(&path(text)).map(|_| ()));
        let staged = world.root.join(".statehold/staging/link");
        let placed = world.folder.place_link(&staged, "x", &path(text), None);
        refused(placed.map(|_| ()));
        let aside = world.root.join(".statehold/aside");
        refused(world.folder.set_aside(&path(text), &stamp, &aside));
        refused(
            world
                .folder
                .prune_empty_parents(&path(&format!("{text}/x/y")), &|_| false),
        );
    }
    let link_itself = world.folder.open_file(&path("link"));
    assert!(matches!(link_itself, Err(FolderError::NotAFile { .. })));
    assert_eq!(
        fs::read_to_string(world.outside.join("file")).unwrap(),
        "outside"
    );
    assert_eq!(fs::read_dir(&world.outside).unwrap().count(), 1);
}

#[test]
fn links_are_placed_as_links_and_only_inside() {
    let world = world();
    let staged = world.root.join(".statehold/staging/link");
    let outside = world
        .folder
        .place_link(&staged, "../outside/file", &path("a"), None);
    assert!(matches!(outside, Err(FolderError::LinkOutside { .. })));
    let stamp = world
        .folder
        .place_link(&staged, "../b", &path("dir/a"), None)
        .unwrap();
    world
        .folder
        .place_link(&staged, "../c", &path("dir/a"), Some(&stamp))
        .unwrap();
    let found = world.folder.stat(&path("dir/a")).unwrap().unwrap();
    assert_eq!(found.kind, FoundKind::Symlink);
    assert_eq!(found.target.as_deref(), Some("../c"));
}

#[test]
fn directories_give_way_only_when_empty() {
    let world = world();
    world.folder.make_directory(&path("a/b/c")).unwrap();
    world.folder.make_directory(&path("a/b/c")).unwrap();
    let in_the_way = world.place("a/b", "x", None);
    assert!(matches!(
        in_the_way,
        Err(FolderError::DirectoryInTheWay { .. })
    ));
    let stamp = world.stamp("a/b").unwrap();
    let in_the_way = world.folder.remove(&path("a/b"), &stamp);
    assert!(matches!(
        in_the_way,
        Err(FolderError::DirectoryInTheWay { .. })
    ));
    world.place("a/b/c", "x", None).unwrap();
    assert_eq!(world.read("a/b/c"), "x");
    let beneath_a_file = world.place("a/b/c/d", "x", None);
    assert!(matches!(
        beneath_a_file,
        Err(FolderError::FileInTheWay { .. })
    ));
    assert_eq!(world.stamp("a/b/c/d"), None);
    assert!(!world.folder.remove(&path("a/b/c/d"), &stamp).unwrap());
    assert_eq!(world.stamp("nowhere/d"), None);
}

#[test]
fn empty_parents_are_pruned_up_to_what_is_kept() {
    let world = world();
    let file = path("keep/a/b/c/file");
    world.place(file.as_str(), "x", None).unwrap();
    let stamp = world.stamp(file.as_str()).unwrap();
    let keep = |path: &RepoPath| path.as_str() == "keep";
    world.folder.prune_empty_parents(&file, &keep).unwrap();
    assert_eq!(world.read(file.as_str()), "x");
    world.folder.remove(&file, &stamp).unwrap();
    world.folder.prune_empty_parents(&file, &keep).unwrap();
    assert!(world.root.join("keep").exists());
    assert!(!world.root.join("keep/a").exists());
}

#[test]
fn an_edit_between_the_last_look_and_the_move_survives() {
    let world = world();
    world.place("a", "first", None).unwrap();
    let place = path("a");
    let parent = world.folder.make_parent(&place).unwrap();
    let seen = parent.stat().unwrap().unwrap();
    fs::write(world.root.join("a"), "an edit").unwrap();
    let staged = world.staged("second");
    let placed = world.folder.put(&staged, &parent, &place, Some(&seen));
    assert!(matches!(placed, Err(FolderError::Changed { .. })));
    assert_eq!(world.read("a"), "an edit");
    assert_eq!(fs::read_to_string(&staged).unwrap(), "second");
    fs::remove_file(world.root.join("a")).unwrap();
    let placed = world.folder.put(&staged, &parent, &place, Some(&seen));
    assert!(matches!(placed, Err(FolderError::Changed { .. })));
    assert!(!world.root.join("a").exists());
}
