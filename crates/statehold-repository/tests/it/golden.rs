//! Repositories that earlier versions wrote, kept as bytes: what was once written is read forever.
//!
//! Each folder `tests/golden/v<n>` is a repository with a draft beside it, made once and never
//! again, and `expected.txt` says in words what is in it. `tests/golden/README.md` says how the
//! next one is made.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use statehold_core::collection::HoldBody;
use statehold_core::digest::{Digest, Sha256};
use statehold_core::entry::{Chunk, ContentObject, Entry, FileEntry, Location};
use statehold_core::id::{KeyId, PackId, RepositoryId};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{
    BackupBody, Body, ForgetBody, Kind, NewPack, NoteBody, PushBody, RollbackBody, SnapshotBody,
    Upsert,
};
use statehold_core::retention::Policy;
use statehold_core::rollback::WayBack;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::{Mtime, Timestamp};
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::content::{FrameLine, read_pack};
use statehold_repository::format::container::ContainerWriter;
use statehold_repository::format::frame::{FrameWriter, store};
use statehold_repository::format::header::ObjectKind;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::format::segment;
use statehold_repository::remote::{load, load_at};
use statehold_repository::store::Store;
use statehold_repository::{Error, Remote as _, Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

/// Set to a folder that doesn't exist yet, it gets the next set.
const MAKE: &str = "STATEHOLD_GOLDEN";
/// The same of a repository that was collected.
const MAKE_COLLECTED: &str = "STATEHOLD_GOLDEN_COLLECTED";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[tokio::test]
async fn every_set_is_still_read() {
    let mut sets = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            let expected = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
            let found = describe(&folder).await;
            assert_eq!(found, expected, "{}", folder.display());
            sets += 1;
        }
    }
    assert!(sets > 0, "no golden set was found");
}

/// What this version writes it also reads, and this is how the next set is made.
#[tokio::test]
async fn a_set_made_now_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = match std::env::var_os(MAKE) {
        Some(folder) => PathBuf::from(folder),
        None => scratch.path().join("next"),
    };
    assert!(
        !folder.exists(),
        "{} exists; sets are made once",
        folder.display()
    );
    make(&folder).await;
    let described = describe(&folder).await;
    for word in [
        "note",
        "keep",
        "link",
        "directory",
        "pack",
        "segment",
        "checkpoint",
        "draft",
        "names record",
        "back to record",
        "forgets",
        "copied up to",
        "snapshot",
        "copy",
    ] {
        assert!(
            described.contains(word),
            "the set has no {word}:\n{described}"
        );
    }
    std::fs::write(folder.join("expected.txt"), described).unwrap();
}

/// The same of a repository in which points were let go and records retired. A set of its own, since what
/// is retired says no more.
#[tokio::test]
async fn a_collected_set_made_now_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = match std::env::var_os(MAKE_COLLECTED) {
        Some(folder) => PathBuf::from(folder),
        None => scratch.path().join("next"),
    };
    assert!(
        !folder.exists(),
        "{} exists; sets are made once",
        folder.display()
    );
    make_collected(&folder).await;
    let described = describe(&folder).await;
    for word in [
        "keeps Policy",
        "holds",
        "lets go",
        "condemns",
        "moves",
        "removes",
        "retires",
        "lists records",
        "  retired",
        "kept record 8",
    ] {
        assert!(
            described.contains(word),
            "the set has no {word}:\n{described}"
        );
    }
    std::fs::write(folder.join("expected.txt"), described).unwrap();
}

/// Writes a set with few points, whose collector has seen everything become old.
async fn make_collected(folder: &Path) {
    let store = Store::folder(folder).unwrap();
    let entropy = SeededEntropy::new(11);
    // Long after any file of the folder was written.
    let clock = Arc::new(SimulatedClock::standing(Timestamp::from_millis(
        4_000_000_000_000,
    )));
    let id = RepositoryId::random(&entropy);
    let drawn = Arc::new(entropy.branch());
    let repository = Repository::open_or_create(store.clone(), id, clock, drawn);
    let repository = repository.await.unwrap();
    let author = Author::new(12);
    let mut state = Arc::new(repository.empty_state());
    let append = async |draft: StoredDraft, state: &mut Arc<State>| {
        *state = repository.append_as(&draft, state, None).await.unwrap().1;
        repository.tend(state).await.unwrap();
    };
    let without_content = |body: Body| {
        let head = author.head(body.kind().unwrap(), Vec::new());
        StoredDraft::new(head, body, b"").unwrap()
    };
    let policy = Policy {
        within_days: 0,
        last: 2,
        ..Policy::default()
    };
    while state.head.number < 20 {
        let name = format!("many/{}", state.head.number % 5);
        let content = format!("as of record {}\n", state.head.number + 1);
        let drafted = author.draft(&state, [(&*name, Some(content.as_bytes()))]);
        append(drafted.unwrap().draft, &mut state).await;
    }
    let body = Body::Forget(ForgetBody {
        base: state.head,
        snapshots: Vec::new(),
        policy: Some(policy),
    });
    append(without_content(body), &mut state).await;
    let body = Body::Snapshot(SnapshotBody {
        base: state.head,
        id: SnapshotId::new(EPOCH, &"kept".parse().unwrap()).unwrap(),
        at: 8,
        files: 5,
        bytes: 80,
    });
    append(without_content(body), &mut state).await;
    let (orphan, bytes, _) = small_pack(&entropy);
    repository.put_pack(orphan.id, bytes).await.unwrap();
    let body = Body::Hold(HoldBody {
        base: state.head,
        packs: vec![PackId::random(&entropy)],
    });
    append(without_content(body), &mut state).await;
    let at_once = Settings {
        floor: Duration::ZERO,
        upload: Duration::ZERO,
    };
    let collector = Collector::new(&repository, at_once);
    collector.compact(true).await.unwrap();
    collector.remove().await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let draft = author.draft(&state, [("later", Some(&b"not yet in the log"[..]))]);
    std::fs::write(folder.join("draft"), draft.unwrap().draft.bytes).unwrap();
}

/// A pack of two frames, smaller than one that a push would write.
fn small_pack(entropy: &SeededEntropy) -> (NewPack, Bytes, Vec<Chunk>) {
    let id = PackId::random(entropy);
    let mut container = ContainerWriter::new(ObjectKind::Pack);
    let (mut table, mut chunks) = (Vec::new(), Vec::new());
    let text = b"content that lies in a pack\n".repeat(20);
    let noise = entropy.bytes(300);
    let frames = [
        (FrameWriter::default().compress(&text), text),
        (store(&noise), noise),
    ];
    for (frame, content) in frames {
        let offset = container.push(&frame);
        let digest = Digest::of(&content);
        let length = |len: usize| u32::try_from(len).unwrap();
        let (stored, raw) = (length(frame.len()), length(content.len()));
        let check = Digest::of(&frame).to_string()[..32].to_owned();
        table.push(FrameLine {
            blake3: digest,
            offset,
            stored,
            raw,
            check,
        });
        let object = Some(ContentObject::Pack(id));
        let at = Location {
            object,
            offset,
            stored,
        };
        chunks.push(Chunk { digest, raw, at });
    }
    let bytes = container.finish(table);
    let pack = NewPack {
        id,
        bytes: bytes.len() as u64,
    };
    (pack, bytes, chunks)
}

/// Writes a set: every kind of object and of entry, small enough to be kept in the sources.
async fn make(folder: &Path) {
    let store = Store::folder(folder).unwrap();
    let entropy = SeededEntropy::new(1);
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let repository = Repository::open_or_create(
        store.clone(),
        RepositoryId::random(&entropy),
        Arc::<SimulatedClock>::clone(&clock),
        Arc::new(entropy.branch()),
    )
    .await
    .unwrap();
    let author = Author::new(2);
    let key = Some(KeyId::random(&entropy));
    let mut state = Arc::new(repository.empty_state());
    let append = async |draft: StoredDraft, state: &mut Arc<State>, key| {
        clock.advance(Duration::from_millis(61_001));
        *state = repository.append_as(&draft, state, key).await.unwrap().1;
        repository.tend(state).await.unwrap();
    };

    // Content in a pack, with both digests, a link and an empty directory.
    let (pack, bytes, chunks) = small_pack(&entropy);
    repository.put_pack(pack.id, bytes).await.unwrap();
    let whole = b"content that lies in a pack\n".repeat(20);
    let in_pack = Entry::File(FileEntry {
        size: whole.len() as u64,
        mtime: Mtime::new(1_775_999_999, 123_456_789),
        executable: true,
        digest: Digest::of(&whole),
        sha256: Some(Sha256::of(&whole)),
        chunks: chunks[..1].to_vec(),
    });
    let target = "../skills/run".to_owned();
    let entries = [
        ("skills/run", in_pack),
        ("bin/link", Entry::Symlink { target }),
        ("empty", Entry::Directory),
    ];
    let upserts = entries.map(|(path, entry)| Upsert {
        path: RepoPath::parse(path).unwrap(),
        entry,
        keep: 0,
    });
    let body = Body::Push(PushBody {
        base: state.head,
        upserts: upserts.to_vec(),
        deletes: Vec::new(),
    });
    let head = author.head(Kind::Push, vec![pack]);
    append(StoredDraft::new(head, body, b"").unwrap(), &mut state, key).await;

    // Content in the record, a name outside of ASCII, an empty file; then a log that grows.
    let small: [(&str, Option<&[u8]>); 3] = [
        ("notes/Grüße 😀.md", Some(b"hello")),
        ("notes/empty", Some(b"")),
        ("state/log/events", Some(b"one\n")),
    ];
    append(author.draft(&state, small).unwrap().draft, &mut state, None).await;
    let grown = author.draft(&state, [("state/log/events", Some(&b"two\n"[..]))]);
    let grown = grown.unwrap().draft;
    let mut body = grown.draft.body.clone();
    if let Body::Push(push) = &mut body
        && let Entry::File(file) = &mut push.upserts[0].entry
    {
        file.size = 8;
        file.digest = Digest::of(b"one\ntwo\n");
        file.chunks[0].digest = Digest::of(b"two\n");
        push.upserts[0].keep = 1;
    }
    let content = grown.bytes.len() - grown.draft.head.content_bytes as usize;
    let head = author.head(Kind::Push, Vec::new());
    let grown = StoredDraft::new(head, body, &grown.bytes[content..]).unwrap();
    append(grown, &mut state, key).await;

    let (base, text) = (state.head, "a remark".to_owned());
    let note = Body::Note(NoteBody { base, text });
    let head = author.head(Kind::Note, Vec::new());
    append(StoredDraft::new(head, note, b"").unwrap(), &mut state, key).await;
    append(
        author.draft(&state, [("notes/empty", None)]).unwrap().draft,
        &mut state,
        None,
    )
    .await;
    // Names, a way back, a copy.
    let snapshot = |state: &State, label: &str, at| {
        Body::Snapshot(SnapshotBody {
            base: state.head,
            id: SnapshotId::new(state.time, &label.parse().unwrap()).unwrap(),
            at,
            files: 5,
            bytes: 578,
        })
    };
    let history = async |body: Body, state: &mut Arc<State>| {
        let head = author.head(body.kind().unwrap(), Vec::new());
        append(StoredDraft::new(head, body, b"").unwrap(), state, key).await;
    };
    let before = snapshot(&state, "kept", 3);
    history(before, &mut state).await;
    let doomed = snapshot(&state, "not-kept", 4);
    history(doomed.clone(), &mut state).await;
    let past = load_at(&repository, Point::Record(2)).await.unwrap();
    let back = WayBack::between(&state.tree, &past.tree, |_| true);
    let rollback = Body::Rollback(RollbackBody {
        to: 2,
        before: SnapshotId::new(state.time, &"before-rollback".parse().unwrap()).unwrap(),
        files: 4,
        bytes: 578,
        changes: PushBody {
            base: state.head,
            upserts: back.upserts,
            deletes: back.deletes,
        },
    });
    history(rollback, &mut state).await;
    if let Body::Snapshot(SnapshotBody { id, .. }) = doomed {
        let (base, snapshots) = (state.head, vec![id]);
        history(
            Body::Forget(ForgetBody {
                base,
                snapshots,
                policy: None,
            }),
            &mut state,
        )
        .await;
    }
    let backup = Body::Backup(BackupBody {
        base: state.head,
        label: "cross-region-backup".parse().unwrap(),
        to: "s3://elsewhere/copy".into(),
        at: 8,
        objects: 12,
        bytes: 3_456,
    });
    history(backup, &mut state).await;
    while state.head.number < 33 {
        let name = format!("many/{}", state.head.number % 7);
        let content = format!("as of record {}\n", state.head.number + 1);
        let drafted = author.draft(&state, [(&*name, Some(content.as_bytes()))]);
        append(drafted.unwrap().draft, &mut state, key).await;
    }
    let draft = author.draft(&state, [("later", Some(&b"not yet in the log"[..]))]);
    std::fs::write(folder.join("draft"), draft.unwrap().draft.bytes).unwrap();
}

/// Says in words what is in a set, having read it in every way there is.
async fn describe(folder: &Path) -> String {
    let store = Store::folder(folder).unwrap();
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(0));
    let repository = Repository::open_existing(store.clone(), clock, entropy).await;
    let repository = repository.unwrap().unwrap();
    let (description, genesis) = repository.description();
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").unwrap();
    line(format!(
        "repository {} of format {}, created {}, record 0 is {genesis}",
        description.repository, description.format, description.created
    ));

    let mut folded = repository.empty_state();
    let mut records = Vec::new();
    for number in 1.. {
        let Some(bytes) = store.read(&layout::record(number)).await.unwrap() else {
            break;
        };
        let stored = StoredRecord::read(number, bytes).unwrap();
        describe_record(&stored, &mut line);
        if stored.is_retired() {
            // What it said stands in the checkpoint where the retired ones end.
            folded = repository.empty_state();
        } else if folded.head.number + 1 == number {
            folded.apply(&stored.record).unwrap();
        }
        records.push(stored.record);
    }
    for key in store.list("segments", "segments").await.unwrap() {
        let (from, to) = key
            .strip_prefix("segments/")
            .unwrap()
            .split_once('-')
            .unwrap();
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let bytes = store.read(&key).await.unwrap().unwrap();
        let found = segment::read(&key, bytes, from, to).unwrap();
        let same = found.iter().map(|stored| &stored.record);
        assert!(
            same.eq(&records[usize::try_from(from).unwrap() - 1..usize::try_from(to).unwrap()])
        );
        line(format!("segment of records {from} to {to}"));
    }
    for key in store.list("checkpoints", "checkpoints").await.unwrap() {
        let number = layout::parse_checkpoint(&key).unwrap().0;
        let opening = match repository.open(Point::Record(number)).await {
            Err(Error::Expired { .. }) => {
                line(format!("checkpoint at {number}, whose state has expired"));
                continue;
            }
            opening => opening.unwrap(),
        };
        let (checkpoint, trees) = opening.checkpoint.unwrap();
        line(format!(
            "checkpoint at {number}, {}, with tree {} in {} objects, {} checkpoints before",
            checkpoint.time,
            checkpoint.tree.root,
            trees.len(),
            checkpoint.earlier.len()
        ));
    }
    let state = load(&repository).await.unwrap().state;
    let cut = state.collection.cut;
    if cut == 0 {
        assert_eq!(*state, folded, "by the checkpoint, and by all records");
    }
    for number in (1..=cut).filter(|number| !state.collection.expired.contains(*number)) {
        let earlier = load_at(&repository, Point::Record(number)).await.unwrap();
        let root = earlier.tree.root();
        line(format!(
            "kept record {number} of {} with root {root}",
            earlier.time
        ));
        for (path, _) in earlier.tree.iter() {
            let content = read_file(&repository, &earlier, path.as_str())
                .await
                .unwrap();
            let content = String::from_utf8_lossy(&content);
            line(format!("  {path}: {content:?}"));
        }
    }
    line(format!("state at {} {}", state.head.number, state.head.id));
    line(format!("root {}", state.tree.root()));
    for (id, pack) in &state.packs {
        let bytes = store.read(&layout::pack(*id)).await.unwrap().unwrap();
        assert_eq!(bytes.len() as u64, pack.bytes);
        let frames = read_pack(*id, bytes).unwrap();
        line(format!(
            "pack {id} since {}, {} bytes, {} frames",
            pack.since,
            pack.bytes,
            frames.len()
        ));
    }
    for (path, entry) in state.tree.iter() {
        match entry {
            Entry::Directory => line(format!("directory {path}")),
            Entry::Symlink { target } => line(format!("link {path} to {target}")),
            Entry::File(file) => {
                let content = read_file(&repository, &state, path.as_str()).await.unwrap();
                assert_eq!(Digest::of(&content), file.digest);
                let sha256 = file.sha256.map(|sha256| {
                    assert_eq!(Sha256::of(&content), sha256);
                    format!(", sha256 {sha256}")
                });
                line(format!(
                    "file {path}, {} bytes in {} chunks, changed {}, executable {}, blake3 {}{}: {:?}",
                    file.size,
                    file.chunks.len(),
                    file.mtime,
                    file.executable,
                    file.digest,
                    sha256.unwrap_or_default(),
                    String::from_utf8_lossy(&content[..content.len().min(40)])
                ));
            }
        }
    }
    for (id, snapshot) in &state.snapshots {
        line(format!(
            "snapshot {id} of record {} by record {} of {}",
            snapshot.at, snapshot.by, snapshot.time
        ));
    }
    for (label, backup) in &state.backups {
        line(format!(
            "copy {label} of record {} by record {} in {}",
            backup.at, backup.by, backup.to
        ));
    }
    let draft = std::fs::read(folder.join("draft")).unwrap();
    let draft = StoredDraft::read(draft.into()).unwrap().draft;
    line(format!(
        "draft of a {} with nonce {}, on record {}",
        draft.head.kind,
        draft.head.nonce,
        draft.body.base().unwrap().number
    ));
    text
}

fn describe_record(stored: &StoredRecord, line: &mut impl FnMut(String)) {
    let (envelope, head) = (&stored.record.envelope, &stored.record.envelope.draft);
    line(format!(
        "record {} {} of {}: {}, critical {}, machine {}, nonce {}, key {:?}, {} bytes of content",
        envelope.number,
        stored.record.id,
        envelope.time,
        head.kind,
        head.critical,
        head.machine,
        head.nonce,
        envelope.key,
        head.content_bytes
    ));
    match &stored.record.body {
        Body::Push(push) => {
            for upsert in &push.upserts {
                line(format!("  put {}, keep {}", upsert.path, upsert.keep));
            }
            for path in &push.deletes {
                line(format!("  delete {path}"));
            }
        }
        Body::Note(note) => line(format!("  {:?}", note.text)),
        Body::Snapshot(snapshot) => line(format!(
            "  names record {} {}, {} files, {} bytes",
            snapshot.at, snapshot.id, snapshot.files, snapshot.bytes
        )),
        Body::Rollback(rollback) => {
            line(format!(
                "  back to record {}; before it {}, {} files, {} bytes",
                rollback.to, rollback.before, rollback.files, rollback.bytes
            ));
            for upsert in &rollback.changes.upserts {
                line(format!("  put back {}", upsert.path));
            }
            for path in &rollback.changes.deletes {
                line(format!("  take away {path}"));
            }
        }
        Body::Backup(backup) => line(format!(
            "  copied up to record {} to {} as {}, {} objects, {} bytes",
            backup.at, backup.to, backup.label, backup.objects, backup.bytes
        )),
        Body::Forget(forget) => {
            for id in &forget.snapshots {
                line(format!("  forgets {id}"));
            }
            if let Some(policy) = forget.policy {
                line(format!("  keeps {policy:?}"));
            }
        }
        Body::Compact(compact) => {
            for (first, last) in compact.expired.ranges() {
                line(format!("  lets go of records {first} to {last}"));
            }
            for pack in &compact.condemned {
                line(format!("  condemns {pack}"));
            }
            line(format!("  condemns records up to {}", compact.records));
            for ((object, offset), to) in compact.moves.iter() {
                line(format!("  moves {object} at {offset} to {to:?}"));
            }
        }
        Body::Remove(remove) => {
            for pack in &remove.packs {
                line(format!("  removes {pack}"));
            }
            line(format!("  retires records up to {}", remove.cut));
            for listing in &remove.listings {
                let tree = &listing.tree;
                let (from, to, time) = (listing.from, listing.to, listing.time);
                line(format!(
                    "  lists records {from} to {to} of {time}: {tree:?}"
                ));
            }
        }
        Body::Hold(hold) => {
            for pack in &hold.packs {
                line(format!("  holds {pack}"));
            }
        }
        Body::Retired => line("  retired".to_owned()),
        Body::Registry(_) | Body::Fence(_) | Body::Promote(_) | Body::Unknown => {
            line("  another kind".to_owned());
        }
    }
    for pack in &head.packs {
        line(format!("  introduces {} of {} bytes", pack.id, pack.bytes));
    }
}
