//! A way to a repository on which something happens before content is read or written, a record is appended or
//! the next one waited for: what others do just then.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::id::PackId;
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::content::Pack;
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, Opening};
use statehold_repository::{Remote, Result};

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Content is read.
    Read,
    /// A pack is written.
    Write,
    /// A record is appended.
    Append,
    /// The next head is waited for.
    NextHead,
}

type Hook = Box<dyn Fn(Before) -> BoxFuture<'static, ()> + Send + Sync>;

/// A remote with somebody beside it.
pub struct Hooked {
    inner: Arc<dyn Remote>,
    hook: Hook,
}

impl Hooked {
    /// The same remote; this happens before each reading, writing, appending and waiting.
    pub fn new(
        inner: Arc<dyn Remote>,
        hook: impl Fn(Before) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let hook = Box::new(hook);
        Self { inner, hook }
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooked({:?})", self.inner)
    }
}

#[async_trait]
impl Remote for Hooked {
    fn description(&self) -> (&Description, Digest) {
        self.inner.description()
    }

    async fn confirm(&self, known: RecordRef) -> Result<()> {
        self.inner.confirm(known).await
    }

    async fn open(&self, at: Point) -> Result<Opening> {
        self.inner.open(at).await
    }

    async fn records(&self, after: u64) -> Result<Batch> {
        self.inner.records(after).await
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        self.inner.records_until(after, until).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        (self.hook)(Before::Read).await;
        self.inner.read(places).await
    }

    fn time(&self) -> Option<Timestamp> {
        self.inner.time()
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        (self.hook)(Before::Write).await;
        self.inner.put_pack(id, bytes).await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        (self.hook)(Before::Append).await;
        self.inner.append(draft, known).await
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        self.inner.tend(state).await
    }

    async fn records_since(&self, known: RecordRef, content: Option<Scope>) -> Result<Batch> {
        self.inner.records_since(known, content).await
    }

    async fn next_head(&self, known: RecordRef) -> Result<RecordRef> {
        (self.hook)(Before::NextHead).await;
        self.inner.next_head(known).await
    }

    fn push_bytes_max(&self) -> u64 {
        self.inner.push_bytes_max()
    }

    async fn push(
        &self,
        packs: &[Pack],
        draft: &StoredDraft,
        known: &Arc<State>,
    ) -> Result<StoredRecord> {
        if !packs.is_empty() {
            (self.hook)(Before::Write).await;
        }
        (self.hook)(Before::Append).await;
        self.inner.push(packs, draft, known).await
    }
}
