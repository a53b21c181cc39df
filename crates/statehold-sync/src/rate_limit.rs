//! A repository that is spoken to at a bounded rate, so that others get their share of the line.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::id::PackId;
use statehold_core::point::Point;
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::format::description::Description;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, Opening};
use statehold_repository::{Remote, Result};
use tokio::time::Instant;

/// A remote whose content moves at so many bytes per second on average, both ways together.
///
/// Content is counted as it is stored. What is read is asked for in pieces of about a second's
/// worth; a pack or a draft goes in one piece and is paid for before the next one starts.
#[derive(Debug)]
pub struct RateLimited<R> {
    inner: R,
    bucket: Bucket,
}

/// A bucket that fills at a rate and may be overdrawn by one piece, which the next one waits for.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_second: NonZeroU64,
    /// When everything taken so far has been paid for.
    paid: Mutex<Instant>,
}

impl Bucket {
    /// A bucket that nothing was taken from yet.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Waits until what was taken before is paid for, and takes so many bytes.
    pub async fn take(&self, bytes: u64) {
        let turn = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            // What wasn't used is not saved up: an idle minute is no licence for a burst.
            let turn = (*paid).max(Instant::now());
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
            *paid = turn + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

impl<R> RateLimited<R> {
    /// Bounds what moves to and from a remote.
    pub fn new(inner: R, bytes_per_second: NonZeroU64) -> Self {
        let bucket = Bucket::new(bytes_per_second);
        Self { inner, bucket }
    }
}

#[async_trait]
impl Remote for RateLimited<Arc<dyn Remote>> {
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

    /// Content is read by itself, at the rate.
    async fn records_since(&self, known: RecordRef, _content: Option<Scope>) -> Result<Batch> {
        self.inner.records_since(known, None).await
    }

    async fn records_until(&self, after: u64, until: u64) -> Result<Vec<StoredRecord>> {
        self.inner.records_until(after, until).await
    }

    async fn read(&self, places: &[Location]) -> Result<Vec<Bytes>> {
        let mut frames = Vec::with_capacity(places.len());
        let mut rest = places;
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for place in rest {
                bytes += u64::from(place.stored);
                count += 1;
                if bytes >= self.bucket.bytes_per_second.get() {
                    break;
                }
            }
            self.bucket.take(bytes).await;
            let (piece, later) = rest.split_at(count);
            frames.extend(self.inner.read(piece).await?);
            rest = later;
        }
        Ok(frames)
    }

    fn time(&self) -> Option<Timestamp> {
        self.inner.time()
    }

    async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<()> {
        self.bucket.take(bytes.len() as u64).await;
        self.inner.put_pack(id, bytes).await
    }

    async fn append(&self, draft: &StoredDraft, known: &Arc<State>) -> Result<StoredRecord> {
        self.bucket.take(draft.bytes.len() as u64).await;
        self.inner.append(draft, known).await
    }

    async fn tend(&self, state: &Arc<State>) -> Result<()> {
        self.inner.tend(state).await
    }

    async fn next_head(&self, known: RecordRef) -> Result<RecordRef> {
        self.inner.next_head(known).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_average_is_kept_and_idle_time_is_not_saved_up() {
        let rate = NonZeroU64::new(1_000).unwrap();
        let remote = RateLimited::new((), rate);
        let started = Instant::now();
        for _ in 0..5 {
            remote.bucket.take(500).await;
        }
        // The first goes at once, and each waits for those before it.
        assert_eq!(started.elapsed().as_millis() / 10, 200);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        remote.bucket.take(3_000).await;
        remote.bucket.take(1).await;
        assert_eq!(started.elapsed().as_millis() / 10, 300);
    }

    #[tokio::test(start_paused = true)]
    async fn those_at_once_share_the_rate() {
        let remote = RateLimited::new((), NonZeroU64::new(1_000).unwrap());
        let started = Instant::now();
        let (bucket, take) = (&remote.bucket, 1_000);
        tokio::join!(bucket.take(take), bucket.take(take), bucket.take(take));
        bucket.take(0).await;
        assert_eq!(started.elapsed().as_secs(), 3);
    }
}
