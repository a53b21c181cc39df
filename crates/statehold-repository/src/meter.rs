//! Counts what a store is asked: the figures in which object storage is paid.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A store that counts its requests.
#[derive(Debug)]
pub struct Meter {
    inner: Arc<dyn ObjectStore>,
    writes: AtomicU64,
    reads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What was asked so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Requests that write an object.
    pub writes: u64,
    /// Requests that read an object or a part of one, found or not.
    pub reads: u64,
    /// Requests that list keys, one per call.
    pub lists: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Bytes sent to the store.
    pub bytes_in: u64,
    /// Bytes that the store sent.
    pub bytes_out: u64,
}

impl Usage {
    /// What was asked since an earlier reading.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            writes: self.writes - earlier.writes,
            reads: self.reads - earlier.reads,
            lists: self.lists - earlier.lists,
            deletes: self.deletes - earlier.deletes,
            bytes_in: self.bytes_in - earlier.bytes_in,
            bytes_out: self.bytes_out - earlier.bytes_out,
        }
    }
}

impl Meter {
    /// Counts the requests to this store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            inner,
            writes: zero(),
            reads: zero(),
            lists: zero(),
            deletes: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
        }
    }

    /// What was asked so far.
    pub fn usage(&self) -> Usage {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            writes: get(&self.writes),
            reads: get(&self.reads),
            lists: get(&self.lists),
            deletes: get(&self.deletes),
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metered {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Meter {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        add(&self.writes, 1);
        add(&self.bytes_in, payload.content_length() as u64);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        add(&self.writes, 1);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        add(&self.reads, 1);
        let head = options.head;
        let found = self.inner.get_opts(location, options).await?;
        if !head {
            add(&self.bytes_out, found.range.end - found.range.start);
        }
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        add(&self.reads, 1);
        let found = self.inner.get_ranges(location, ranges).await?;
        add(
            &self.bytes_out,
            found.iter().map(|bytes| bytes.len() as u64).sum(),
        );
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        // Counted when asked for; the stream itself outlives this borrow.
        add(&self.deletes, 1);
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        add(&self.lists, 1);
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        add(&self.lists, 1);
        self.inner.list_with_offset(prefix, offset).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        add(&self.lists, 1);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        add(&self.writes, 1);
        self.inner.copy_opts(from, to, options).await
    }
}
