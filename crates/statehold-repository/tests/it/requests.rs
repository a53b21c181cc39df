//! What a push, a pull and a clone cost, in requests to the store.

use std::sync::Arc;

use object_store::memory::InMemory;
use statehold_core::entry::{Entry, Location};
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::remote::{advance, load};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote as _, Repository};
use statehold_testkit::author::Author;
use statehold_testkit::environment::SeededEntropy;

use crate::scene::open;

async fn metered() -> (Store, Arc<Meter>, Repository) {
    let store = Store::new(Arc::new(InMemory::new()), Listing::Sorted);
    let (store, meter) = store.metered();
    let repository = open(&store).await;
    (store, meter, repository)
}

fn counts(usage: Usage) -> (u64, u64, u64) {
    (usage.writes, usage.reads, usage.lists)
}

/// A push of up to 256 KiB of new content is one write, however many files; a pull that finds
/// nothing is one read.
#[tokio::test]
async fn a_small_push_is_one_write_and_an_empty_pull_one_read() {
    let (_, meter, repository) = metered().await;
    let author = Author::new(1);
    let mut state = Arc::new(repository.empty_state());
    let files: Vec<(String, Vec<u8>)> = (0..250)
        .map(|i| {
            (
                format!("d{}/f{i}", i % 9),
                SeededEntropy::new(i).bytes(1_000),
            )
        })
        .collect();
    for round in 0..5 {
        let before = meter.usage();
        let changes = files
            .iter()
            .skip(round * 50)
            .take(if round == 0 { 250 } else { 1 })
            .map(|(path, content)| (&**path, Some(&content[round..])));
        let drafted = author.draft(&state, changes).unwrap();
        assert!(drafted.packs.is_empty());
        state = repository
            .append_as(&drafted.draft, &state, None)
            .await
            .unwrap()
            .1;
        assert_eq!(
            counts(meter.usage().since(before)),
            (1, 0, 0),
            "push {round}"
        );
        let before = meter.usage();
        let same = advance(&repository, &state).await.unwrap();
        assert!(Arc::ptr_eq(&same, &state));
        assert_eq!(
            counts(meter.usage().since(before)),
            (0, 1, 0),
            "pull {round}"
        );
    }
}

/// 5,000 files of 4 KB are at most 4 writes, and a clone of them at most 8 reads and one per 16 MiB.
#[tokio::test]
async fn a_first_push_and_its_clone() {
    let (store, meter, repository) = metered().await;
    let author = Author::new(1);
    let state = Arc::new(repository.empty_state());
    let files: Vec<(String, Vec<u8>)> = (0..5_000)
        .map(|i| {
            (
                format!("d{}/f{i}", i % 61),
                SeededEntropy::new(i).bytes(4_000),
            )
        })
        .collect();
    let changes = files
        .iter()
        .map(|(path, content)| (&**path, Some(&**content)));
    let before = meter.usage();
    let stored = author.push(&repository, &state, changes).await.unwrap();
    let push = meter.usage().since(before);
    println!("first push: {push:?}");
    assert!(push.writes <= 4, "{push:?}");
    assert_eq!((push.reads, push.lists), (0, 0));
    assert_eq!(stored.record.envelope.number, 1);

    let before = meter.usage();
    let (fresh, state) = clone(&store).await;
    let clone = meter.usage().since(before);
    println!("clone: {clone:?}");
    let per_size = clone.bytes_out.div_ceil(16 << 20);
    assert!(clone.reads + clone.lists <= 8 + per_size, "{clone:?}");
    assert_eq!(clone.writes, 0);
    assert_eq!(state.tree.len(), 5_000);
    drop(fresh);
}

/// Opens a repository, loads its state and reads all of its content.
async fn clone(store: &Store) -> (Repository, Arc<statehold_core::state::State>) {
    let fresh = open(store).await;
    let state = load(&fresh).await.unwrap().state;
    let places: Vec<Location> = state
        .tree
        .iter()
        .filter_map(|(_, entry)| match entry {
            Entry::File(file) => Some(&file.chunks),
            Entry::Symlink { .. } | Entry::Directory => None,
        })
        .flatten()
        .map(|chunk| chunk.at)
        .collect();
    let frames = fresh.read(&places).await.unwrap();
    assert_eq!(frames.len(), places.len());
    (fresh, state)
}

/// The state at the head costs at most 24 requests, wherever the head stands, and the caches that
/// make it so cost at most one write per 8 pushes.
#[tokio::test]
async fn loading_is_bounded_and_so_is_what_bounds_it() {
    let (store, meter, repository) = metered().await;
    let author = Author::new(1);
    let mut state = Arc::new(repository.empty_state());
    // A listing of several pages, so that checkpoints lie in several objects.
    let mut names: Vec<String> = (0..6_000).map(|i| format!("d{}/f{i}", i % 61)).collect();
    names.sort_unstable();
    let changes = names.iter().map(|name| (&**name, Some(&b"the same"[..])));
    let drafted = author.draft(&state, changes).unwrap();
    state = repository
        .append_as(&drafted.draft, &state, None)
        .await
        .unwrap()
        .1;
    let before = meter.usage();
    let (mut worst, mut worst_at) = (0, 0);
    for number in 2..=1_000_u64 {
        let content = format!("{number}");
        // Between two checkpoints a part of the listing changes, so that each shares pages with
        // several others, and at times all of it.
        let part = if number / 64 % 8 == 7 {
            7_919 * number
        } else {
            number % 64
        };
        let name = &names[usize::try_from((number / 64 * 1_500 + part) % 6_000).unwrap()];
        let change = [(&**name, Some(content.as_bytes()))];
        let drafted = author.draft(&state, change).unwrap();
        state = repository
            .append_as(&drafted.draft, &state, None)
            .await
            .unwrap()
            .1;
        repository.tend(&state).await.unwrap();
        let since = number - state.growth.checkpoint;
        if !(2..=60).contains(&since) || number.is_multiple_of(97) {
            let loading = meter.usage();
            let fresh = open(&store).await;
            assert_eq!(load(&fresh).await.unwrap().state.head, state.head);
            let cost = meter.usage().since(loading);
            assert_eq!(cost.writes, 0);
            let requests = cost.reads + cost.lists;
            if requests > worst {
                (worst, worst_at) = (requests, number);
            }
        }
    }
    let writes = meter.usage().since(before).writes;
    // Far behind: the next record, how far it is, and then as whoever begins anew.
    let mut old = repository.empty_state();
    for number in 1..=5 {
        let stored = repository.record(number).await.unwrap().unwrap();
        old.apply(&stored.record).unwrap();
    }
    let reading = meter.usage();
    let fresh = open(&store).await;
    let caught_up = advance(&fresh, &Arc::new(old)).await.unwrap();
    assert_eq!(caught_up.head, state.head);
    let cost = meter.usage().since(reading);
    println!(
        "995 records behind: {} reads, {} lists",
        cost.reads, cost.lists
    );
    assert!(cost.reads + cost.lists <= 24, "{cost:?}");
    // Every record after that one may be as near as a machine gets; none takes more.
    let mut known = Arc::new(repository.empty_state());
    let (mut most, mut most_at) = (0, 0);
    for number in 1..=state.head.number {
        let stored = repository.record(number).await.unwrap().unwrap();
        Arc::make_mut(&mut known).apply(&stored.record).unwrap();
        let behind = state.head.number - number;
        if behind > 200 && !number.is_multiple_of(50) {
            continue;
        }
        let before = meter.usage();
        let fresh = open(&store).await;
        let caught_up = advance(&fresh, &known).await.unwrap();
        assert_eq!(*caught_up, *state);
        let cost = meter.usage().since(before);
        if cost.reads + cost.lists > most {
            (most, most_at) = (cost.reads + cost.lists, behind);
        }
    }
    println!("at most {most} requests, {most_at} behind");
    assert!(most <= 24, "{most} requests for who is {most_at} behind");
    println!("worst load: {worst} requests, at {worst_at}; 999 pushes: {writes} writes");
    assert!(
        worst <= 24,
        "{worst} requests to load the state at {worst_at}"
    );
    let extra = writes - 999;
    assert!(extra * 8 <= 1_000, "{extra} writes besides 999 records");
}
