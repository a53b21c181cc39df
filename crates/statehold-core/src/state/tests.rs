//! The fold against a plain model, and each rule that makes a record void.

use proptest::prelude::*;

use super::*;
use crate::entry::{FileEntry, Location};
use crate::id::{MachineId, Nonce};
use crate::record::{DraftHead, NewPack};
use crate::time::Mtime;

pub(crate) fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

pub(crate) fn file_of(chunks: Vec<Chunk>) -> Entry {
    Entry::File(FileEntry {
        size: chunks.iter().map(|chunk| u64::from(chunk.raw)).sum(),
        mtime: Mtime::default(),
        executable: false,
        digest: Digest::of(b"whole"),
        sha256: None,
        chunks,
    })
}

pub(crate) fn chunk(object: Option<ContentObject>, offset: u64) -> Chunk {
    let at = Location {
        object,
        offset,
        stored: 10,
    };
    Chunk {
        digest: Digest::of(b"piece"),
        raw: 10,
        at,
    }
}

pub(crate) fn upsert(text: &str, entry: Entry) -> Upsert {
    Upsert {
        path: path(text),
        entry,
        keep: 0,
    }
}

pub(crate) fn push(state: &State, upserts: Vec<Upsert>, deletes: &[&str]) -> Record {
    let deletes = deletes.iter().map(|text| path(text)).collect();
    let body = Body::Push(PushBody {
        base: state.head,
        upserts,
        deletes,
    });
    record(state, Kind::Push, true, body)
}

pub(crate) fn record(state: &State, kind: Kind, critical: bool, body: Body) -> Record {
    let envelope = Envelope {
        number: state.head.number + 1,
        parent: state.head.id,
        time: Timestamp::from_millis(1_000),
        draft: DraftHead {
            kind,
            critical,
            machine: MachineId::from_bytes([1; 16]),
            nonce: Nonce::from_bytes([2; 16]),
            body: Digest::of(&body.to_lines()),
            body_bytes: 100,
            content_bytes: 50,
            packs: Vec::new(),
        },
        key: None,
    };
    let line = envelope.to_line();
    let (read, id) = Envelope::from_line(&line).unwrap();
    assert_eq!(read, envelope);
    Record {
        envelope,
        id,
        body,
        content_start: 300,
    }
}

pub(crate) fn empty() -> State {
    State::empty(Digest::of(b"genesis"))
}

#[test]
fn content_in_the_record_gets_its_place() {
    let mut state = empty();
    let push = push(
        &state,
        vec![upsert("a", file_of(vec![chunk(None, 40)]))],
        &[],
    );
    assert_eq!(state.apply(&push), Ok(Applied::Changed));
    let Some(Entry::File(file)) = state.tree.get("a") else {
        panic!("no file")
    };
    let place = Location {
        object: Some(ContentObject::Record(1)),
        offset: 340,
        stored: 10,
    };
    assert_eq!(file.chunks[0].at, place);
}

/// A pack is named once, with its length, and nothing lies in one that isn't or past its end.
#[test]
fn packs_are_known_before_they_are_used() {
    let pack = PackId::from_bytes([3; 16]);
    let lying_at = |offset| file_of(vec![chunk(Some(ContentObject::Pack(pack)), offset)]);
    let naming = |state: &State, bytes: Option<u64>, offset| {
        let mut record = push(state, vec![upsert("a", lying_at(offset))], &[]);
        record.envelope.draft.packs = bytes
            .map(|bytes| NewPack { id: pack, bytes })
            .into_iter()
            .collect();
        record
    };
    let mut state = empty();
    let unknown = Violation::UnknownPack {
        path: path("a"),
        pack,
    };
    let outside = Violation::Outside {
        path: path("a"),
        object: format!("packs/{pack}"),
    };
    for (bytes, offset, expected) in [
        (None, 16, Applied::Void(unknown)),
        (Some(100), 91, Applied::Void(outside.clone())),
        (Some(100), 90, Applied::Changed),
        (Some(100), 16, Applied::Void(Violation::PackAgain { pack })),
        (None, 91, Applied::Void(outside)),
        (None, 90, Applied::Changed),
    ] {
        let record = naming(&state, bytes, offset);
        assert_eq!(state.apply(&record), Ok(expected), "{bytes:?} at {offset}");
    }
    assert_eq!(
        state.packs[&pack],
        PackState {
            since: 3,
            bytes: 100
        }
    );
}

#[test]
fn kept_chunks_stand_before_new_ones() {
    let mut state = empty();
    let first = push(
        &state,
        vec![upsert(
            "log",
            file_of(vec![chunk(None, 0), chunk(None, 10)]),
        )],
        &[],
    );
    state.apply(&first).unwrap();
    let Entry::File(mut grown) = file_of(vec![chunk(None, 0)]) else {
        unreachable!()
    };
    grown.size = 30;
    let grown = Upsert {
        path: path("log"),
        entry: Entry::File(grown),
        keep: 2,
    };
    let next = push(&state, vec![grown.clone()], &[]);
    assert_eq!(state.apply(&next), Ok(Applied::Changed));
    let Some(Entry::File(file)) = state.tree.get("log") else {
        panic!("no file")
    };
    let objects: Vec<_> = file
        .chunks
        .iter()
        .map(|chunk| chunk.at.object.unwrap())
        .collect();
    assert_eq!(objects, [1, 1, 2].map(ContentObject::Record));

    let too_many = push(&state, vec![Upsert { keep: 4, ..grown }], &[]);
    assert!(matches!(
        state.apply(&too_many),
        Ok(Applied::Void(Violation::Keep { has: 3, .. }))
    ));
}

#[test]
fn a_record_that_breaks_a_rule_is_void_and_keeps_its_number() {
    let mut state = empty();
    let start = vec![
        upsert("dir/file", file_of(vec![])),
        upsert("file", file_of(vec![])),
    ];
    let start = push(&state, start, &[]);
    state.apply(&start).unwrap();
    let pack = PackId::from_bytes([9; 16]);
    let one = |text, entry| vec![upsert(text, entry)];
    let link = |target: &str| Entry::Symlink {
        target: target.into(),
    };
    let in_pack = chunk(Some(ContentObject::Pack(pack)), 0);
    let in_future = chunk(Some(ContentObject::Record(9)), 0);
    for (name, upserts, deletes) in [
        ("unknown pack", one("a", file_of(vec![in_pack])), &[][..]),
        ("later record", one("a", file_of(vec![in_future])), &[]),
        (
            "past its content",
            one("a", file_of(vec![chunk(None, 41)])),
            &[],
        ),
        ("beneath a file", one("file/inner", Entry::Directory), &[]),
        ("file over a folder", one("dir", file_of(vec![])), &[]),
        ("absent", vec![], &["nothing"]),
        ("twice", one("file", Entry::Directory), &["file"]),
        ("link outside", one("a", link("../x")), &[]),
    ] {
        let record = push(&state, upserts, deletes);
        let before = state.clone();
        assert!(
            matches!(state.apply(&record), Ok(Applied::Void(_))),
            "{name} was taken"
        );
        assert_eq!(state.head.number, before.head.number + 1);
        assert_eq!(
            (&state.tree, &state.packs),
            (&before.tree, &before.packs),
            "{name}"
        );
    }
    // The same moves are fine when the file gives way in the same record.
    let record = push(&state, one("file/inner", file_of(vec![])), &["file"]);
    assert_eq!(state.apply(&record), Ok(Applied::Changed));
    let record = push(&state, one("dir", file_of(vec![])), &["dir/file"]);
    assert_eq!(state.apply(&record), Ok(Applied::Changed));
}

fn snapshot(state: &State, id: &str, at: u64) -> Record {
    let body = Body::Snapshot(SnapshotBody {
        base: state.head,
        id: id.parse().unwrap(),
        at,
        files: 1,
        bytes: 2,
    });
    record(state, Kind::Snapshot, true, body)
}

const ONE: &str = "2026-04-16T09-30-00Z-one";
const TWO: &str = "2026-04-16T09-30-00Z-two";

#[test]
fn a_snapshot_names_an_earlier_state_once() {
    let mut state = empty();
    state
        .apply(&push(&state, vec![upsert("a", file_of(vec![]))], &[]))
        .unwrap();
    let later = snapshot(&state, ONE, 2);
    let violation = Violation::NotYet { at: 2 };
    assert_eq!(state.clone().apply(&later), Ok(Applied::Void(violation)));
    assert_eq!(state.apply(&snapshot(&state, ONE, 1)), Ok(Applied::Changed));
    let named = state.snapshots[&ONE.parse().unwrap()];
    assert_eq!((named.at, named.by, named.files, named.bytes), (1, 2, 1, 2));
    let id: SnapshotId = ONE.parse().unwrap();
    let violation = Violation::SnapshotAgain { id };
    assert_eq!(
        state.apply(&snapshot(&state, ONE, 1)),
        Ok(Applied::Void(violation))
    );
    assert_eq!(state.apply(&snapshot(&state, TWO, 0)), Ok(Applied::Changed));

    let forget = |state: &State, ids: &[&str]| {
        let snapshots = ids.iter().map(|id| id.parse().unwrap()).collect();
        let base = state.head;
        record(
            state,
            Kind::Forget,
            true,
            Body::Forget(ForgetBody {
                base,
                snapshots,
                policy: None,
            }),
        )
    };
    let unknown = forget(&state, &[ONE, "2026-04-16T09-30-00Z-three"]);
    assert!(matches!(
        state.apply(&unknown),
        Ok(Applied::Void(Violation::NoSnapshot { .. }))
    ));
    assert_eq!(state.snapshots.len(), 2, "all or none");
    assert_eq!(state.apply(&forget(&state, &[ONE])), Ok(Applied::Changed));
    assert!(state.snapshots.keys().map(SnapshotId::as_str).eq([TWO]));
}

#[test]
fn a_rollback_changes_entries_and_keeps_the_present_under_a_name() {
    let mut state = empty();
    state
        .apply(&push(&state, vec![upsert("a", file_of(vec![]))], &[]))
        .unwrap();
    let past = state.tree.clone();
    let target = "elsewhere".to_owned();
    let changed = vec![
        upsert("a", Entry::Symlink { target }),
        upsert("b", file_of(vec![])),
    ];
    state.apply(&push(&state, changed, &[])).unwrap();
    let rollback = |state: &State, to| {
        let back = crate::rollback::WayBack::between(&state.tree, &past, |_| true);
        let body = Body::Rollback(RollbackBody {
            to,
            before: ONE.parse().unwrap(),
            files: 2,
            bytes: 0,
            changes: PushBody {
                base: state.head,
                upserts: back.upserts,
                deletes: back.deletes,
            },
        });
        record(state, Kind::Rollback, true, body)
    };
    let violation = Violation::NotYet { at: 3 };
    let impossible = rollback(&state, 3);
    assert_eq!(
        state.clone().apply(&impossible),
        Ok(Applied::Void(violation))
    );
    assert_eq!(state.apply(&rollback(&state, 1)), Ok(Applied::Changed));
    assert_eq!(state.tree, past);
    assert_eq!(state.snapshots[&ONE.parse().unwrap()].at, 2);
    // A second one of the same name changes nothing, entries included.
    let back_again = rollback(&state, 2);
    assert!(matches!(
        state.apply(&back_again),
        Ok(Applied::Void(Violation::SnapshotAgain { .. }))
    ));
}

#[test]
fn the_newest_copy_of_each_label_is_known() {
    let mut state = empty();
    let backup = |state: &State, label: &str, at| {
        let body = Body::Backup(BackupBody {
            base: state.head,
            label: label.parse().unwrap(),
            to: "s3://elsewhere".into(),
            at,
            objects: 1,
            bytes: 9,
        });
        record(state, Kind::Backup, true, body)
    };
    for (label, at) in [("weekly", 0), ("daily", 1), ("weekly", 2)] {
        assert_eq!(
            state.apply(&backup(&state, label, at)),
            Ok(Applied::Changed)
        );
    }
    let known: Vec<(&str, u64, u64)> = state
        .backups
        .iter()
        .map(|(label, backup)| (label.as_str(), backup.at, backup.by))
        .collect();
    assert_eq!(known, [("daily", 1, 2), ("weekly", 2, 3)]);
    assert!(matches!(
        state.clone().apply(&backup(&state, "weekly", 9)),
        Ok(Applied::Void(Violation::NotYet { at: 9 }))
    ));
    for number in 2..BACKUPS_MAX {
        state
            .apply(&backup(&state, &format!("n{number}"), 0))
            .unwrap();
    }
    let one_more = backup(&state, "one-more", 0);
    assert_eq!(
        state.apply(&one_more),
        Ok(Applied::Void(Violation::Backups))
    );
    assert_eq!(
        state.apply(&backup(&state, "weekly", 3)),
        Ok(Applied::Changed)
    );

    let lines = crate::snapshot_index::snapshot_index_lines(&state);
    assert!(crate::snapshot_index::is_snapshot_index(&lines));
    assert_eq!(
        lines.iter().filter(|byte| **byte == b'\n').count(),
        BACKUPS_MAX
    );
    assert!(!crate::snapshot_index::is_snapshot_index(b"{\"ts\": 1}\n"));
}

#[test]
fn unknown_kinds_stop_or_are_skipped() {
    let mut state = empty();
    let kind = Kind::Other("teleport".into());
    let skipped = record(&state, kind.clone(), false, Body::Unknown);
    assert_eq!(
        state.apply(&skipped),
        Ok(Applied::Skipped("teleport".into()))
    );
    let critical = record(&state, kind, true, Body::Unknown);
    assert!(matches!(
        state.apply(&critical),
        Err(FoldError::UnknownKind { number: 2, .. })
    ));
    assert!(matches!(
        state.apply(&skipped),
        Err(FoldError::Chain { .. })
    ));
}

#[test]
fn checkpoints_are_due_at_agreed_numbers() {
    let mut state = empty();
    let mut due = Vec::new();
    for i in 0..300 {
        let push = push(&state, vec![upsert(&format!("f{i}"), file_of(vec![]))], &[]);
        state.apply(&push).unwrap();
        if state.checkpoint_due() {
            due.push(state.head.number);
        }
    }
    assert!(
        due.windows(2)
            .all(|pair| (32..=64).contains(&(pair[1] - pair[0]))),
        "{due:?}"
    );
    assert!(due.len() >= 4, "{due:?}");
}

proptest! {
    #[test]
    fn the_fold_follows_a_plain_map(steps in proptest::collection::vec(
        (0_usize..6, proptest::option::of(0_u8..4)), 0..60,
    )) {
        let names = ["a", "b", "c/x", "c/y", "d/e/f", "g"];
        let mut model = BTreeMap::new();
        let mut state = empty();
        for (name, content) in steps {
            let name = names[name];
            let (upserts, deletes) = match content {
                Some(content) => {
                    let Entry::File(mut file) = file_of(vec![]) else { unreachable!() };
                    file.digest = Digest::of(&[content]);
                    (vec![upsert(name, Entry::File(file))], vec![])
                }
                None => (vec![], vec![name]),
            };
            let record = push(&state, upserts, &deletes);
            let applied = state.apply(&record).unwrap();
            let there = model.contains_key(name);
            prop_assert_eq!(applied == Applied::Changed, content.is_some() || there);
            match content {
                Some(content) => drop(model.insert(name, Digest::of(&[content]))),
                None => drop(model.remove(name)),
            }
            let folded: BTreeMap<_, _> = state.tree.iter().map(|(path, entry)| match entry {
                Entry::File(file) => (path.as_str(), file.digest),
                _ => unreachable!(),
            }).collect();
            prop_assert_eq!(&folded, &model);
        }
    }
}
