//! The fold against a plain model, and each rule that makes a record void.

use proptest::prelude::*;

use super::*;
use crate::entry::{FileEntry, Location};
use crate::id::{MachineId, Nonce};
use crate::record::{DraftHead, NewPack};
use crate::time::Mtime;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

fn file_of(chunks: Vec<Chunk>) -> Entry {
    Entry::File(FileEntry {
        size: chunks.iter().map(|chunk| u64::from(chunk.raw)).sum(),
        mtime: Mtime::default(),
        executable: false,
        digest: Digest::of(b"whole"),
        sha256: None,
        chunks,
    })
}

fn chunk(object: Option<ContentObject>, offset: u64) -> Chunk {
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

fn upsert(text: &str, entry: Entry) -> Upsert {
    Upsert {
        path: path(text),
        entry,
        keep: 0,
    }
}

fn push(state: &State, upserts: Vec<Upsert>, deletes: &[&str]) -> Record {
    let deletes = deletes.iter().map(|text| path(text)).collect();
    let body = Body::Push(PushBody {
        base: state.head,
        upserts,
        deletes,
    });
    record(state, Kind::Push, true, body)
}

fn record(state: &State, kind: Kind, critical: bool, body: Body) -> Record {
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

fn empty() -> State {
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
