//! What a restore asks of the store, and that it stays within its folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_repository::remote::load_at;
use statehold_sync::engine::EngineError;
use statehold_sync::export::{write_archive, write_folder};
use statehold_sync::folder::{Folder, FolderError};
use statehold_sync::progress::Unwatched;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::machine::Shared;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

async fn state_at(shared: &Shared, record: u64) -> Arc<State> {
    let repository = shared.repository().await.unwrap();
    load_at(&repository, Point::Record(record)).await.unwrap()
}

/// Goal: one small file costs one range, a folder whose files lie beside each other as well, and what
/// is there already nothing.
#[tokio::test]
async fn a_restore_reads_what_it_needs_and_nothing_twice() {
    let shared = Shared::in_memory();
    let machine = shared.machine("a").await.unwrap();
    let noise = SeededEntropy::new(2);
    for index in 0..200 {
        let path = format!("d{}/f{index:03}", index / 50);
        machine.write(&path, noise.bytes(3_000)).unwrap();
    }
    machine.push().await.unwrap();
    let state = state_at(&shared, 1).await;
    for (what, bytes) in [("d1/f060", 3_000), ("d2", 150_000)] {
        for reads in [1, 0] {
            let before = shared.usage();
            let what = path(what);
            let restored = machine.engine.restore(&state, Some(&what), state.time);
            assert!(restored.await.unwrap().entries.is_whole());
            let used = shared.usage().since(before);
            assert_eq!((used.reads, used.lists, used.writes), (reads, 0, 0));
            let spare = bytes / 10;
            assert!(used.bytes_out <= bytes + spare, "{what}: {used:?}");
        }
    }
    let before = shared.usage();
    let restored = machine.engine.restore(&state, None, state.time).await;
    assert_eq!(restored.unwrap().entries.placed, 200);
    assert!(shared.usage().since(before).reads <= 2);
}

/// Goal: a link in the holding folder's way is not followed, neither at the top nor further in.
#[tokio::test]
async fn links_in_the_way_are_not_followed() {
    let shared = Shared::in_memory();
    let machine = shared.machine("a").await.unwrap();
    machine.write("notes/deep/a.md", "a").unwrap();
    machine.push().await.unwrap();
    let state = state_at(&shared, 1).await;
    let outside = tempfile::tempdir().unwrap();
    let notes = path("notes");
    let restore = || machine.engine.restore(&state, Some(&notes), state.time);
    symlink(outside.path(), machine.path("_restore")).unwrap();
    let refused = restore().await;
    assert!(matches!(
        refused,
        Err(EngineError::Folder(FolderError::LinkInTheWay { .. }))
    ));
    fs::remove_file(machine.path("_restore")).unwrap();
    // Somebody exchanges a part of the holding folder between two runs.
    let holding = machine.path(restore().await.unwrap().holding.as_str());
    fs::remove_dir_all(holding.join("deep")).unwrap();
    symlink(outside.path(), holding.join("deep")).unwrap();
    let restored = restore().await.unwrap();
    assert_eq!(restored.entries.failed.len(), 1);
    // And the whole of it.
    fs::remove_dir_all(&holding).unwrap();
    symlink(outside.path(), &holding).unwrap();
    assert!(restore().await.is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_inside_lets_links_lead_as_far_as_the_folder_around_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let inside = folder.folder_inside(&path("a/b")).unwrap();
    let staged = root.path().join("staged");
    for (target, fits) in [("x", true), ("../../x", true), ("../../../x", false)] {
        let placed = inside.place_link(&staged, target, &path("link"), None);
        assert_eq!(placed.is_ok(), fits, "{target}");
        let _made = fs::remove_file(root.path().join("a/b/link"));
    }
    fs::write(root.path().join("file"), "").unwrap();
    symlink("a", root.path().join("link")).unwrap();
    assert!(matches!(
        folder.folder_inside(&path("file")),
        Err(FolderError::FileInTheWay { .. })
    ));
    assert!(matches!(
        folder.folder_inside(&path("link")),
        Err(FolderError::LinkInTheWay { .. })
    ));
    assert!(matches!(
        folder.folder_inside(&path("link/b")),
        Err(FolderError::LinkInTheWay { .. })
    ));
}

/// Goal: what others exported and what is exported now differ in nothing, and neither writes to the
/// store.
#[tokio::test]
async fn exports_of_one_record_are_the_same() {
    let shared = Shared::in_memory();
    let machine = shared.machine("a").await.unwrap();
    machine.write("notes/a.md", "a").unwrap();
    machine
        .write("large", SeededEntropy::new(4).bytes(3_000_000))
        .unwrap();
    machine.push().await.unwrap();
    let first = state_at(&shared, 1).await;
    let repository = shared.repository().await.unwrap();
    let archive = async || {
        let mut out = Vec::new();
        let name = std::path::Path::new("memory");
        let done = write_archive(&repository, &first, &mut out, name, &Unwatched).await;
        assert_eq!(done.unwrap().entries, 2);
        out
    };
    let before = archive().await;
    machine.write("notes/a.md", "another").unwrap();
    machine.push().await.unwrap();
    let usage = shared.usage();
    assert!(archive().await == before);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (done, _) = write_folder(&repository, &first, &out, &Unwatched)
        .await
        .unwrap();
    assert_eq!(done.bytes, 3_000_001);
    assert_eq!(fs::read(out.join("notes/a.md")).unwrap(), b"a");
    assert_eq!(shared.usage().since(usage).writes, 0);
}
