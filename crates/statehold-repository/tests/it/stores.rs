//! The stores that Statehold ships, against what a store has to do.

use std::sync::Arc;

use object_store::memory::InMemory;
use statehold_repository::store::{Listing, Store};
use statehold_testkit::conformance;
use statehold_testkit::faulty_store::WormStore;

#[tokio::test]
async fn memory() {
    conformance::all(&Store::memory()).await;
}

#[tokio::test]
async fn folder() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(&Store::folder(folder.path()).unwrap()).await;
}

/// Racing writers on several threads, as in a program.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn folder_on_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    conformance::one_of_many_racing_creates_wins(&store).await;
}

/// Nothing that a store has to do needs an overwrite or a delete.
#[tokio::test]
async fn write_once() {
    let worm = Arc::new(WormStore::new(Arc::new(InMemory::new())));
    let objects: Arc<dyn object_store::ObjectStore> = Arc::<WormStore>::clone(&worm);
    conformance::all(&Store::new(objects, Listing::Sorted)).await;
    assert_eq!(worm.refused(), 0);
}
