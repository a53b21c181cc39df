//! A store whose objects are as old as a test's clock says, so that days pass in no time.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use statehold_core::environment::Clock;
use statehold_repository::store::{Listing, Store};

/// Dates objects by a clock.
#[derive(Debug)]
pub struct DatedStore {
    inner: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    written: Arc<Mutex<HashMap<Path, u64>>>,
}

impl DatedStore {
    /// The same store, by this clock.
    pub fn new(inner: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            clock,
            written: Arc::default(),
        }
    }

    /// A store in memory, by this clock.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Store {
        let dated = Self::new(Arc::new(InMemory::new()), clock);
        Store::new(Arc::new(dated), Listing::Sorted)
    }

    /// A copy of the store in which the copied objects are as old as they are here.
    pub fn fork(&self, inner: Arc<dyn ObjectStore>) -> Self {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            inner,
            clock: Arc::clone(&self.clock),
            written: Arc::new(Mutex::new(written.clone())),
        }
    }

    fn dated(written: &Mutex<HashMap<Path, u64>>, mut meta: ObjectMeta) -> ObjectMeta {
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = written.get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = (SystemTime::UNIX_EPOCH + Duration::from_millis(millis)).into();
        meta
    }
}

impl fmt::Display for DatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dated {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for DatedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, opts).await?;
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or_default();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(location.clone(), now);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(location, options).await?;
        found.meta = Self::dated(&self.written, found.meta);
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let written = Arc::clone(&self.written);
        let dated = move |meta: Result<ObjectMeta>| Ok(Self::dated(&written, meta?));
        self.inner.list(prefix).map(dated).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let written = Arc::clone(&self.written);
        let dated = move |meta: Result<ObjectMeta>| Ok(Self::dated(&written, meta?));
        self.inner
            .list_with_offset(prefix, offset)
            .map(dated)
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
