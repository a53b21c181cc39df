//! What every store has to do, one function per behaviour. Each panics where the store falls short,
//! works in a folder of its own and leaves what it wrote.

use bytes::Bytes;
use futures::future::join_all;
use statehold_repository::Error;
use statehold_repository::store::{Creation, Store};

/// Writers that race for one key.
pub const RACERS: usize = 32;

/// Every behaviour, one after the other.
pub async fn all(store: &Store) {
    an_object_is_created_once(store).await;
    one_of_many_racing_creates_wins(store).await;
    what_was_written_is_read_at_once(store).await;
    what_was_written_is_listed_at_once_and_in_order(store).await;
    ranges_are_exact(store).await;
    missing_objects_are_said_to_be_missing(store).await;
    prefixes_are_apart(store).await;
}

async fn create(store: &Store, key: &str, bytes: &'static [u8]) -> Creation {
    let created = store.create(key, Bytes::from_static(bytes)).await;
    created.expect("the store creates an object")
}

async fn read(store: &Store, key: &str) -> Option<Bytes> {
    store.read(key).await.expect("the store reads an object")
}

async fn list(store: &Store, folder: &str, after: &str) -> Vec<String> {
    store.list(folder, after).await.expect("the store lists")
}

/// The second create says "exists" and changes nothing, be it the same content or other.
pub async fn an_object_is_created_once(store: &Store) {
    let store = store.inside("created-once");
    assert_eq!(create(&store, "log/1", b"first").await, Creation::New);
    assert_eq!(create(&store, "log/1", b"second").await, Creation::Exists);
    assert_eq!(create(&store, "log/1", b"first").await, Creation::Exists);
    assert_eq!(read(&store, "log/1").await.as_deref(), Some(&b"first"[..]));
}

/// Of many writers at once exactly one is told "new", and its bytes are the object's.
pub async fn one_of_many_racing_creates_wins(store: &Store) {
    let store = store.inside("racing");
    for round in 0..8 {
        let key = format!("log/{round}");
        let racers = (0..RACERS).map(|racer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                let bytes = Bytes::from(format!("written by {racer}").repeat(1_000));
                let made = store.create(&key, bytes.clone()).await;
                let made = made.expect("the store creates an object");
                // Whoever is told "exists" reads a whole object at once.
                let found = read(&store, &key).await.expect("it exists");
                assert!(found.starts_with(b"written by ") && found.len() >= 12_000);
                (made == Creation::New).then_some(bytes)
            })
        });
        let winners: Vec<Bytes> = join_all(racers)
            .await
            .into_iter()
            .filter_map(|task| task.expect("a racer ends"))
            .collect();
        assert_eq!(
            winners.len(),
            1,
            "{} of {RACERS} writers won",
            winners.len()
        );
        assert_eq!(read(&store, &key).await.as_ref(), winners.first());
    }
}

/// No reader sees an old absence after a write was reported.
pub async fn what_was_written_is_read_at_once(store: &Store) {
    let store = store.inside("read-after-write");
    for number in 0..50 {
        let key = format!("log/{number}");
        assert_eq!(read(&store, &key).await, None);
        create(&store, &key, b"x").await;
        assert!(read(&store, &key).await.is_some(), "{key}");
    }
}

/// A listing holds every object that was reported, in order, and only what sorts after a key.
pub async fn what_was_written_is_listed_at_once_and_in_order(store: &Store) {
    let store = store.inside("list-after-write");
    let mut keys = Vec::new();
    // Written against the order, so that a store which lists in order of writing is found out.
    for number in (0..120).rev() {
        let key = format!("log/{number:020}");
        create(&store, &key, b"x").await;
        keys.insert(0, key);
        assert_eq!(list(&store, "log", "log").await, keys);
    }
    assert_eq!(list(&store, "log", &keys[100]).await, keys[101..]);
    assert_eq!(list(&store, "log", &keys[119]).await, keys[120..]);
    let first = store
        .list_first("log", "log")
        .await
        .expect("the store lists");
    assert_eq!(first.first(), keys.first());
    assert_eq!(list(&store, "elsewhere", "elsewhere").await, [""; 0]);
}

/// A range gives exactly its bytes; one past the end is damage and not a passing failure.
pub async fn ranges_are_exact(store: &Store) {
    let store = store.inside("ranges");
    create(&store, "packs/1", b"0123456789").await;
    for (range, expected) in [
        (0..10, &b"0123456789"[..]),
        (0..1, b"0"),
        (9..10, b"9"),
        (3..7, b"3456"),
    ] {
        let part = store.read_range("packs/1", range).await;
        assert_eq!(part.expect("the store reads a range"), expected);
    }
    for past in [5..11, 10..11, 20..30] {
        let part = store.read_range("packs/1", past.clone()).await;
        assert!(
            matches!(part, Err(Error::Damaged { .. })),
            "{past:?}: {part:?}"
        );
    }
}

/// Absence has an answer of its own.
pub async fn missing_objects_are_said_to_be_missing(store: &Store) {
    let store = store.inside("missing");
    assert_eq!(read(&store, "log/1").await, None);
    let part = store.read_range("log/1", 0..1).await;
    assert!(matches!(part, Err(Error::NotFound { .. })), "{part:?}");
    assert_eq!(list(&store, "log", "log").await, [""; 0]);
}

/// What lies in one prefix can't be seen from another, not even from one whose name it begins with.
pub async fn prefixes_are_apart(store: &Store) {
    let (one, longer) = (store.inside("tenant"), store.inside("tenant-2"));
    create(&one, "log/1", b"one").await;
    create(&longer, "log/2", b"two").await;
    assert_eq!(list(&one, "log", "log").await, ["log/1"]);
    assert_eq!(list(&longer, "log", "log").await, ["log/2"]);
    assert_eq!(read(&one, "log/2").await, None);
    create(&one, "logs/3", b"three").await;
    assert_eq!(list(&one, "log", "log").await, ["log/1"]);
}
