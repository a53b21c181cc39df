//! A repository in memory with an author in front of it: what most tests begin with.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::id::RepositoryId;
use statehold_core::record::{Body, Kind, SnapshotBody};
use statehold_core::state::State;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{advance, load};
use statehold_repository::store::{Listing, Store};
use statehold_repository::{Remote as _, Repository, Result, layout};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

/// A repository, what it lies in, and who writes to it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) store: Store,
    pub(crate) repository: Repository,
    pub(crate) author: Author,
    pub(crate) state: Arc<State>,
}

/// The repository in a store, made if need be, as a program that has just started sees it.
pub(crate) async fn open(store: &Store) -> Repository {
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = SeededEntropy::new(store_seed());
    let id = RepositoryId::from_bytes([7; 16]);
    Repository::open_or_create(store.clone(), id, clock, Arc::new(entropy))
        .await
        .unwrap()
}

/// Instances of one test must not draw the same names, as they wouldn't outside.
fn store_seed() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(InMemory::new())).await
    }

    pub(crate) async fn over(objects: Arc<dyn ObjectStore>) -> Self {
        let store = Store::new(Arc::clone(&objects), Listing::Sorted);
        let repository = open(&store).await;
        let state = Arc::new(repository.empty_state());
        Self {
            objects,
            store,
            repository,
            author: Author::new(1),
            state,
        }
    }

    /// A log with a little of everything: records with and without content, packs, trees, segments,
    /// checkpoints.
    pub(crate) async fn of_everything() -> Self {
        let mut scene = Self::new().await;
        let noise = SeededEntropy::new(9).bytes(700_000);
        scene
            .push(&[("large", Some(&noise)), ("small", Some(b"hello"))])
            .await;
        scene.push_many(70).await;
        scene
    }

    /// Pushes these contents, and takes the record in.
    pub(crate) async fn push(&mut self, changes: &[(&str, Option<&[u8]>)]) -> StoredRecord {
        let changes = changes.iter().copied();
        let stored = self
            .author
            .push(&self.repository, &self.state, changes)
            .await;
        let stored = stored.unwrap();
        self.state = advance(&self.repository, &self.state).await.unwrap();
        self.repository.tend(&self.state).await.unwrap();
        stored
    }

    /// A snapshot of the present.
    pub(crate) async fn snapshot(&mut self) {
        let base = self.state.head;
        let body = Body::Snapshot(SnapshotBody {
            base,
            id: "2026-04-16T09-30-00Z-before".parse().unwrap(),
            at: base.number,
            files: 1,
            bytes: 1,
        });
        let head = self.author.head(Kind::Snapshot, Vec::new());
        let draft = StoredDraft::new(head, body, &[]).unwrap();
        self.repository.append(&draft, &self.state).await.unwrap();
        self.state = advance(&self.repository, &self.state).await.unwrap();
    }

    /// So many pushes of small files, some of them changed again and again, some deleted.
    pub(crate) async fn push_many(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.state.head.number + 1;
            let (one, other) = (
                format!("d{}/f{}", number % 5, number % 37),
                format!("n{number}"),
            );
            let gone = format!("n{}", number.saturating_sub(3));
            let content = format!("content {number}");
            let mut changes = vec![(&*one, Some(content.as_bytes())), (&*other, Some(b"new"))];
            if self.state.tree.get(&gone).is_some() && number.is_multiple_of(2) {
                changes.push((&*gone, None));
            }
            self.push(&changes).await;
        }
    }

    /// The state that a program without any memory loads.
    pub(crate) async fn load_cold(&self) -> Result<Arc<State>> {
        let repository = open(&self.store).await;
        Ok(load(&repository).await?.state)
    }

    /// The state folded from the records themselves, first to last.
    pub(crate) async fn fold_from_scratch(&self) -> State {
        let mut state = self.repository.empty_state();
        for number in 1.. {
            let Some(bytes) = self.store.read(&layout::record(number)).await.unwrap() else {
                break;
            };
            let stored = StoredRecord::read(number, bytes).unwrap();
            state.apply(&stored.record).unwrap();
        }
        state
    }

    /// Puts other bytes in an object's place, as no program of ours ever would.
    pub(crate) async fn overwrite(&self, key: &str, bytes: impl Into<Bytes>) {
        let bytes: Bytes = bytes.into();
        self.objects
            .put(&Path::from(key), bytes.into())
            .await
            .unwrap();
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.objects.delete(&Path::from(key)).await.unwrap();
    }

    pub(crate) async fn bytes(&self, key: &str) -> Bytes {
        self.store.read(key).await.unwrap().unwrap()
    }

    pub(crate) async fn keys(&self, folder: &str) -> Vec<String> {
        self.store.list(folder, folder).await.unwrap()
    }
}
