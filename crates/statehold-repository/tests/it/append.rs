//! Appending: once whatever is repeated, after others where that is right, and never on top of
//! another history.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};

use statehold_core::point::Point;
use statehold_core::record::{Body, Kind, NoteBody};
use statehold_core::state::State;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Error, Remote as _, Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::crash::after_polls;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::faulty_store::{Faults, FaultyStore};
use statehold_testkit::trace::Trace;

use crate::scene::{Scene, open};

#[tokio::test]
async fn what_was_pushed_is_read_back() {
    let mut scene = Scene::new().await;
    let large = vec![b'x'; 3_000_000];
    let contents: [(&str, &[u8]); 3] = [("a/small", b"hello"), ("a/empty", b""), ("large", &large)];
    scene
        .push(&contents.map(|(path, content)| (path, Some(content))))
        .await;
    let fresh = open(&scene.store).await;
    let state = load(&fresh).await.unwrap().state;
    for (path, content) in contents {
        let read = read_file(&fresh, &state, path).await.unwrap();
        assert_eq!(read, content, "{path}");
    }
}

#[tokio::test]
async fn the_same_draft_is_one_record() {
    let mut scene = Scene::new().await;
    scene.push_many(3).await;
    let before = Arc::clone(&scene.state);
    let drafted = scene
        .author
        .draft(&before, [("x", Some(&b"1"[..]))])
        .unwrap();
    let first = scene
        .repository
        .append(&drafted.draft, &before)
        .await
        .unwrap();
    // At once, from the journal after a restart, and after others wrote.
    let journal = StoredDraft::read(drafted.draft.bytes.clone()).unwrap();
    let again = scene.repository.append(&journal, &before).await.unwrap();
    let restarted = open(&scene.store).await;
    let third = restarted.append(&journal, &before).await.unwrap();
    scene.state = advance(&scene.repository, &scene.state).await.unwrap();
    scene.push_many(40).await;
    let fourth = open(&scene.store)
        .await
        .append(&journal, &before)
        .await
        .unwrap();
    let fifth = restarted.append(&journal, &scene.state).await.unwrap();
    for found in [again, third, fourth, fifth] {
        assert_eq!(found.record, first.record);
    }
    assert_eq!(scene.load_cold().await.unwrap().head.number, 44);
}

#[tokio::test]
async fn a_lost_race_is_rebased_when_disjoint_and_a_conflict_when_not() {
    let mut scene = Scene::new().await;
    scene.push_many(1).await;
    let base = Arc::clone(&scene.state);
    let other = Author::new(2);
    let draft = |path: &str| {
        let drafted = other.draft(&base, [(path, Some(&b"theirs"[..]))]);
        drafted.unwrap().draft
    };
    let (apart, equal, beneath, twin) = (draft("apart"), draft("x"), draft("x/y"), draft("X"));
    scene.push(&[("x", Some(b"ours"))]).await;
    for overlapping in [equal, beneath, twin] {
        let answer = scene.repository.append(&overlapping, &base).await;
        assert!(
            matches!(answer, Err(Error::Conflict { number: 2, .. })),
            "{answer:?}"
        );
    }
    let landed = scene.repository.append(&apart, &base).await.unwrap();
    assert_eq!(landed.record.envelope.number, 3);
    let state = scene.load_cold().await.unwrap();
    assert_eq!(
        read_file(&scene.repository, &state, "x").await.unwrap(),
        "ours"
    );
    assert_eq!(
        read_file(&scene.repository, &state, "apart").await.unwrap(),
        "theirs"
    );
}

/// Two gateways with nothing in common but the store, and a client that races itself through both.
#[tokio::test]
async fn many_writers_race_and_each_lands_once() {
    let scene = Scene::new().await;
    let base = Arc::clone(&scene.state);
    let mut tasks = Vec::new();
    for writer in 0..24 {
        let (path, author) = (format!("w{writer}"), Author::new(100 + writer));
        let drafted = author.draft(&base, [(&*path, Some(&b"x"[..]))]).unwrap();
        for _ in 0..2 {
            let (repository, draft) = (open(&scene.store).await, drafted.draft.clone());
            let base = Arc::clone(&base);
            tasks.push(tokio::spawn(async move {
                let stored = repository.append(&draft, &base).await.unwrap();
                stored.record.envelope.number
            }));
        }
    }
    let mut numbers = Vec::new();
    for pair in tasks.chunks_mut(2) {
        let [one, two] = pair else { unreachable!() };
        let number = one.await.unwrap();
        assert_eq!(two.await.unwrap(), number);
        numbers.push(number);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=24).collect::<Vec<u64>>());
    assert_eq!(scene.load_cold().await.unwrap().tree.len(), 24);
}

#[tokio::test]
async fn another_history_is_found_out() {
    let mut scene = Scene::new().await;
    let mut fork = Scene::new().await;
    scene.push(&[("a", Some(b"one"))]).await;
    fork.push(&[("a", Some(b"other"))]).await;
    scene.push(&[("b", Some(b"two"))]).await;
    fork.push(&[("b", Some(b"two"))]).await;
    // Reading on from a record that this log doesn't have.
    let known = Arc::new(State {
        head: fork.state.head,
        ..State::clone(&scene.state)
    });
    scene.push(&[("c", Some(b"three"))]).await;
    let answer = advance(&scene.repository, &known).await;
    assert!(
        matches!(answer, Err(Error::Diverged { number: 2, expected, .. }) if expected == fork.state.head.id),
        "{answer:?}"
    );
    // Writing from a base that this log doesn't have.
    let drafted = fork
        .author
        .draft(&fork.state, [("d", Some(&b"4"[..]))])
        .unwrap();
    let answer = scene.repository.append(&drafted.draft, &scene.state).await;
    assert!(
        matches!(answer, Err(Error::Diverged { number: 2, .. })),
        "{answer:?}"
    );
    // Writing from beyond its end.
    fork.push_many(5).await;
    let drafted = fork
        .author
        .draft(&fork.state, [("d", Some(&b"4"[..]))])
        .unwrap();
    let answer = scene.repository.append(&drafted.draft, &scene.state).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    assert_eq!(scene.load_cold().await.unwrap().head.number, 3);
}

/// A push that is killed at any of its awaits is there whole or not at all, and is finished by
/// doing the same again.
#[tokio::test(start_paused = true)]
async fn a_push_may_crash_at_every_await() {
    let noise = SeededEntropy::new(4).bytes(300_000);
    let mut outcomes = Vec::new();
    for polls in 0.. {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut scene = Scene::over(Arc::clone(&memory)).await;
        scene.push_many(15).await;
        // Without faults, but every request is waited for.
        let slow: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(
            memory,
            SeededEntropy::new(polls),
            Faults::default(),
            Trace::default(),
        ));
        let slow = Store::new(slow, Listing::Sorted);
        let changes = [("large", Some(&*noise)), ("small", Some(b"hello"))];
        let drafted = scene.author.draft(&scene.state, changes).unwrap();
        let push = async |store: &Store| {
            let repository = open(store).await;
            let pack = drafted.packs[0].clone();
            repository.put_pack(pack.id, pack.bytes).await.unwrap();
            repository
                .append(&drafted.draft, &scene.state)
                .await
                .unwrap();
            let state = advance(&repository, &scene.state).await.unwrap();
            repository.tend(&state).await.unwrap();
        };
        let done = after_polls(polls, push(&slow)).await.is_some();
        let left = scene.load_cold().await.unwrap();
        let whole = left.tree.get("large").is_some() && left.tree.get("small").is_some();
        assert!(
            whole || left.tree == scene.state.tree,
            "half a push after {polls} polls"
        );
        push(&scene.store).await;
        let state = scene.load_cold().await.unwrap();
        assert_eq!(
            (state.head.number, &*state),
            (16, &scene.fold_from_scratch().await)
        );
        let read = read_file(&scene.repository, &state, "large").await.unwrap();
        assert_eq!(read, noise);
        outcomes.push(whole);
        if done {
            break;
        }
    }
    // Crashes before and after the record came to be were both among them.
    assert!(outcomes.contains(&false) && outcomes[..outcomes.len() - 1].contains(&true));
}

/// The record lands and the answer is lost. Whatever the store says next, be it to the second try or
/// to the reading of what stands there, the outcome is open, and the same draft settles it.
#[tokio::test(start_paused = true)]
async fn what_comes_after_a_lost_answer_settles_nothing() {
    for tries_before_denial in [1, 2] {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let scene = Scene::over(Arc::clone(&memory)).await;
        let faulty = Arc::new(FaultyStore::new(
            memory,
            SeededEntropy::new(1),
            Faults::default(),
            Trace::default(),
        ));
        let objects: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
        let repository = open(&Store::new(objects, Listing::Sorted)).await;
        let before = faulty.counts().requests;
        faulty.set_faults(Faults {
            lost_replies: 1_000,
            ..Faults::default()
        });
        let drafted = scene
            .author
            .draft(&scene.state, [("x", Some(&b"1"[..]))])
            .unwrap();
        let (draft, known) = (drafted.draft, Arc::clone(&scene.state));
        let appending = {
            let (draft, known) = (draft.clone(), Arc::clone(&known));
            tokio::spawn(async move { repository.append(&draft, &known).await })
        };
        for tries in 1..=tries_before_denial {
            while faulty.counts().requests < before + tries {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            faulty.set_faults(Faults::default());
        }
        faulty.set_faults(Faults {
            denied: 1_000,
            ..Faults::default()
        });
        let answer = appending.await.unwrap();
        let is_unknown = matches!(answer, Err(Error::Unknown { number: 1 }));
        assert!(is_unknown, "{tries_before_denial}: {answer:?}");
        let settled = scene.repository.append(&draft, &known).await.unwrap();
        assert_eq!(settled.record.envelope.number, 1);
        assert_eq!(scene.load_cold().await.unwrap().head.number, 1);
    }
}

/// What this program doesn't know stops it where the writer said that it must, and only there.
#[tokio::test]
async fn unknown_kinds_are_refused_or_skipped() {
    let scene = Scene::new().await;
    let base = scene.state.head;
    let unknown = |critical: bool| {
        let note = Body::Note(NoteBody {
            base,
            text: "?".into(),
        });
        let mut head = scene
            .author
            .head(Kind::Other("teleport".into()), Vec::new());
        head.critical = critical;
        StoredDraft::new(head, note, b"").unwrap()
    };
    // An appender of this version doesn't append what it can't judge.
    let answer = scene.repository.append(&unknown(false), &scene.state).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    // A newer one did.
    for (critical, number) in [(false, 1), (true, 2)] {
        let state = scene.fold_from_scratch().await;
        let stored = unknown(critical).at(state.head, state.time, None);
        scene
            .overwrite(&format!("log/{number:020}"), stored.bytes)
            .await;
        match scene.load_cold().await {
            Ok(state) if !critical => assert_eq!((state.head.number, state.tree.len()), (1, 0)),
            Err(Error::TooNew { what }) if critical => assert!(what.contains("teleport"), "{what}"),
            other => panic!("critical: {critical}, {other:?}"),
        }
    }
}

/// A record that breaks a rule stands in the log and changes nothing, for everyone alike.
#[tokio::test]
async fn a_void_record_is_refused_and_skipped() {
    let mut scene = Scene::new().await;
    scene.push(&[("a", Some(b"1"))]).await;
    let drafted = scene
        .author
        .draft(&scene.state, [("absent", None)])
        .unwrap();
    let answer = scene.repository.append(&drafted.draft, &scene.state).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    let void = drafted.draft.at(scene.state.head, scene.state.time, None);
    scene
        .overwrite("log/00000000000000000002", void.bytes)
        .await;
    let state = scene.load_cold().await.unwrap();
    assert_eq!(state.head.number, 2);
    assert_eq!(state.tree.root(), scene.state.tree.root());
    scene.state = state;
    let stored = scene.push(&[("b", Some(b"2"))]).await;
    assert_eq!(stored.record.envelope.number, 3);
}

#[tokio::test]
async fn a_pack_is_checked_and_written_once() {
    let scene = Scene::new().await;
    let noise = SeededEntropy::new(5).bytes(400_000);
    let drafted = scene
        .author
        .draft(&scene.state, [("x", Some(&*noise))])
        .unwrap();
    let pack = &drafted.packs[0];
    let put = |bytes: bytes::Bytes| scene.repository.put_pack(pack.id, bytes);
    put(pack.bytes.clone()).await.unwrap();
    put(pack.bytes.clone()).await.unwrap();
    let mut flipped = pack.bytes.to_vec();
    flipped[1_000] ^= 1;
    assert!(matches!(
        put(flipped.into()).await,
        Err(Error::Damaged { .. })
    ));
    let other = scene
        .author
        .draft(&scene.state, [("y", Some(&noise[1..]))])
        .unwrap();
    let answer = put(other.packs[0].bytes.clone()).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    // A push may name no pack that nobody introduced.
    let body = drafted.draft.draft.body.clone();
    let head = scene.author.head(Kind::Push, Vec::new());
    let draft = StoredDraft::new(head, body, b"").unwrap();
    let answer = scene.repository.append(&draft, &scene.state).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
}

/// Goal: a store that was emptied, exchanged or set back is noticed before anything is written.
/// Method: a repository that is known from before looks at copies of its store that lack objects.
#[tokio::test]
async fn a_store_that_lost_its_newest_records_is_noticed() {
    let mut scene = Scene::new().await;
    scene.push_many(3).await;
    let known = scene.state.head;
    let described = scene.repository.stored_description().clone();
    let copy = async |without: &[&str]| {
        let objects = Arc::new(InMemory::new());
        for key in [
            "repository.json".to_owned(),
            layout::record(1),
            layout::record(2),
            layout::record(3),
        ] {
            if !without.contains(&&*key) {
                let bytes = scene.store.read(&key).await.unwrap().unwrap();
                objects
                    .put(&key.as_str().into(), bytes.into())
                    .await
                    .unwrap();
            }
        }
        let store = Store::new(objects, Listing::Sorted);
        let (clock, entropy) = (SimulatedClock::standing(EPOCH), SeededEntropy::new(9));
        Repository::described(store, described.clone(), Arc::new(clock), Arc::new(entropy)).unwrap()
    };
    let third = layout::record(3);

    copy(&[]).await.confirm(known).await.unwrap();
    let set_back = copy(&[&third]).await;
    let error = set_back.confirm(known).await.unwrap_err();
    assert!(
        matches!(error, Error::Damaged { ref object, .. } if *object == third),
        "{error}"
    );
    let error = advance(&set_back, &scene.state).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let emptied = copy(&[&third, "repository.json"]).await;
    let error = emptied.confirm(known).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let young = copy(&["repository.json"]).await;
    let error = young.open(Point::Newest).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let drafted = scene
        .author
        .draft(&scene.state, [("x", Some(&b"1"[..]))])
        .unwrap();
    let error = young
        .append(&drafted.draft, &scene.state)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");

    // Another history of the same length.
    let mut other = Scene::new().await;
    other.push(&[("another", Some(b"beginning"))]).await;
    other.push_many(2).await;
    let error = scene.repository.confirm(other.state.head).await;
    let fresh = open(&scene.store).await.confirm(other.state.head).await;
    for error in [error, fresh].map(Result::unwrap_err) {
        assert!(
            matches!(error, Error::Diverged { number: 3, .. }),
            "{error}"
        );
    }
}
