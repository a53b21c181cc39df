//! What a store has to carry besides the conformance suite: many keys, and a repository.

use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use statehold_core::id::RepositoryId;
use statehold_repository::remote::{Remote as _, load};
use statehold_repository::store::{Creation, Store};
use statehold_repository::{Repository, layout};
use statehold_testkit::author::{Author, read_file};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

/// More keys than two pages hold, listed whole, in order and from any place on.
pub(crate) async fn many_keys_are_listed(store: &Store) {
    const KEYS: u64 = 2_500;
    let keys: Vec<String> = (1..=KEYS).map(layout::record).collect();
    let made: Vec<Creation> = stream::iter(keys.iter().rev())
        .map(|key| async { store.create(key, "x".into()).await.unwrap() })
        .buffer_unordered(32)
        .collect()
        .await;
    assert!(made.iter().all(|made| *made == Creation::New));
    for after in [0, 999, 1_000, 1_001, 1_998, 2_499, 2_500] {
        let listed = store.list("log", &layout::record(after)).await.unwrap();
        let expected = &keys[usize::try_from(after).unwrap()..];
        assert_eq!(listed, expected, "after {after}");
        let first = store.list_first("log", &layout::record(after)).await;
        assert_eq!(first.unwrap().first(), expected.first(), "after {after}");
    }
    assert_eq!(store.list("log", "log").await.unwrap(), keys);
}

async fn open(store: &Store, seed: u64) -> Repository {
    let entropy = SeededEntropy::new(seed);
    let id = RepositoryId::random(&entropy);
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let opened = Repository::open_or_create(store.clone(), id, clock, Arc::new(entropy));
    opened.await.unwrap()
}

/// Four writers race for every number; each of their pushes is in the log once, and a reader who
/// knows nothing finds all of them.
pub(crate) async fn a_repository_has_four_writers(store: &Store) {
    const WRITERS: u64 = 4;
    const PUSHES: u64 = 10;
    let path = |writer: u64, push: u64| format!("notes/{writer}/{push}.md");
    let content = |writer: u64, push: u64| format!("push {push} of writer {writer}\n").repeat(50);
    let write = async |writer: u64| {
        let repository = open(store, writer).await;
        let author = Author::new(100 + writer);
        for push in 0..PUSHES {
            let known = load(&repository).await.unwrap().state;
            let (path, content) = (path(writer, push), content(writer, push));
            let change = [(path.as_str(), Some(content.as_bytes()))];
            let stored = author.push(&repository, &known, change).await.unwrap();
            let (state, _) = repository.catch_up(&known).await.unwrap();
            assert!(state.head.number >= stored.record.envelope.number);
            repository.tend(&state).await.unwrap();
        }
    };
    join_all((0..WRITERS).map(write)).await;
    let reader = open(store, 99).await;
    let state = load(&reader).await.unwrap().state;
    assert_eq!(state.head.number, WRITERS * PUSHES);
    for (writer, push) in
        (0..WRITERS).flat_map(|writer| (0..PUSHES).map(move |push| (writer, push)))
    {
        let found = read_file(&reader, &state, &path(writer, push)).await;
        assert_eq!(found.unwrap(), content(writer, push).as_bytes());
    }
}
