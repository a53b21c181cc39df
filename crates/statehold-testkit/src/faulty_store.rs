//! Stores that misbehave: one that fails in every way a network store can, and one that refuses
//! every overwrite and every delete.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::Instant;

use crate::environment::SeededEntropy;
use crate::trace::Trace;

/// How often each fault happens, in requests out of a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The request fails and has no effect.
    pub lost_requests: u64,
    /// The request takes effect and its answer is an error.
    pub lost_replies: u64,
    /// The store asks to slow down; no effect.
    pub throttled: u64,
    /// The store refuses the credentials; no effect.
    pub denied: u64,
    /// The answer takes up to a minute.
    pub late_replies: u64,
    /// The request fails, and takes effect up to a minute and a half later.
    pub zombies: u64,
    /// This request begins an outage of up to half a minute, in which all requests fail, some of
    /// them after taking effect.
    pub outages: u64,
    /// A write goes on although whoever sent it is gone.
    pub detached: u64,
}

impl Faults {
    /// A store on a bad day.
    pub const fn many() -> Self {
        Self {
            lost_requests: 20,
            lost_replies: 30,
            throttled: 20,
            denied: 2,
            late_replies: 10,
            zombies: 15,
            outages: 3,
            detached: 400,
        }
    }
}

/// How often each fault happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Requests of all kinds.
    pub requests: u64,
    /// Failed without effect.
    pub lost_requests: u64,
    /// Took effect and failed.
    pub lost_replies: u64,
    /// Asked to slow down.
    pub throttled: u64,
    /// Refused.
    pub denied: u64,
    /// Answered late.
    pub late_replies: u64,
    /// Failed and took effect later.
    pub zombies: u64,
    /// Outages that began.
    pub outages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LostRequest,
    LostReply,
    Throttled,
    Denied,
    Late,
    Zombie,
}

#[derive(Debug, Default)]
struct Mood {
    faults: Faults,
    counts: FaultCounts,
    outage_until: Option<Instant>,
    is_gone: bool,
}

/// A store that fails at random, after a seed. It waits on tokio's time, so it is made for runtimes
/// whose time is paused.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    entropy: SeededEntropy,
    trace: Trace,
    mood: Mutex<Mood>,
}

impl FaultyStore {
    /// Puts faults in front of a store. What happens is written to the trace.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        entropy: SeededEntropy,
        faults: Faults,
        trace: Trace,
    ) -> Self {
        let mood = Mutex::new(Mood {
            faults,
            ..Mood::default()
        });
        Self {
            inner,
            entropy,
            trace,
            mood,
        }
    }

    fn mood(&self) -> std::sync::MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how often faults happen from now on, and ends an outage.
    pub fn set_faults(&self, faults: Faults) {
        let mut mood = self.mood();
        mood.faults = faults;
        mood.outage_until = None;
    }

    /// Takes the store away, or gives it back: until then every request fails and has no effect.
    pub fn set_gone(&self, is_gone: bool) {
        self.mood().is_gone = is_gone;
    }

    /// How often each fault happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.mood().counts
    }

    /// Decides what goes wrong with a request, and counts it.
    fn draw(&self, is_write: bool) -> Option<Fault> {
        let mut mood = self.mood();
        mood.counts.requests += 1;
        let faults = mood.faults;
        let fault = if mood.is_gone {
            Some(Fault::LostRequest)
        } else if mood
            .outage_until
            .is_some_and(|until| Instant::now() < until)
        {
            let after_effect = is_write && self.entropy.chance(300);
            Some(if after_effect {
                Fault::LostReply
            } else {
                Fault::LostRequest
            })
        } else {
            if self.entropy.chance(faults.outages) {
                mood.counts.outages += 1;
                let length = Duration::from_millis(self.entropy.below(30_000));
                mood.outage_until = Some(Instant::now() + length);
            }
            let roll = self.entropy.below(1_000);
            let kinds = [
                (faults.lost_requests, Fault::LostRequest),
                (faults.lost_replies, Fault::LostReply),
                (faults.throttled, Fault::Throttled),
                (faults.denied, Fault::Denied),
                (faults.late_replies, Fault::Late),
                (faults.zombies, Fault::Zombie),
            ];
            let mut border = 0;
            kinds.into_iter().find_map(|(rate, fault)| {
                border += rate;
                (roll < border).then_some(fault)
            })
        };
        let counts = &mut mood.counts;
        match fault {
            Some(Fault::LostRequest) => counts.lost_requests += 1,
            Some(Fault::LostReply) => counts.lost_replies += 1,
            Some(Fault::Throttled) => counts.throttled += 1,
            Some(Fault::Denied) => counts.denied += 1,
            Some(Fault::Late) => counts.late_replies += 1,
            Some(Fault::Zombie) if is_write => counts.zombies += 1,
            Some(Fault::Zombie) | None => {}
        }
        fault
    }

    async fn wait(&self, millis_max: u64) {
        let millis = 1 + self.entropy.below(millis_max);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// What a read comes to: it has no effect, so half of the faults are one and the same.
    async fn before_read(&self, what: &str, location: &Path) -> Result<()> {
        let fault = self.draw(false);
        self.trace
            .line(format!("store: {what} {location} {fault:?}"));
        self.wait(40).await;
        match fault {
            None => Ok(()),
            Some(Fault::Late) => {
                self.wait(60_000).await;
                Ok(())
            }
            Some(fault) => Err(failure(fault, location)),
        }
    }
}

fn failure(fault: Fault, location: &Path) -> Error {
    let source = match fault {
        Fault::Denied => {
            return Error::PermissionDenied {
                path: location.to_string(),
                source: "simulated".into(),
            };
        }
        Fault::Throttled => "503 slow down",
        Fault::LostRequest => "connection refused",
        Fault::LostReply | Fault::Zombie | Fault::Late => "connection reset",
    };
    Error::Generic {
        store: "faulty",
        source: source.into(),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.draw(true);
        let detached = self.entropy.chance(self.mood().faults.detached);
        let bytes = payload.content_length();
        self.trace.line(format!(
            "store: put {location} of {bytes} bytes {fault:?} {detached}"
        ));
        self.wait(40).await;
        if let Some(fault @ (Fault::LostRequest | Fault::Throttled | Fault::Denied)) = fault {
            return Err(failure(fault, location));
        }
        let late = self.entropy.below(90_000);
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        let (trace, path) = (self.trace.clone(), location.clone());
        let effect = async move {
            if fault == Some(Fault::Zombie) {
                tokio::time::sleep(Duration::from_millis(late)).await;
            }
            let result = inner.put_opts(&path, payload, opts).await;
            let made = result.is_ok();
            trace.line(format!("store: put {path} took effect: {made}"));
            result
        };
        if fault == Some(Fault::Zombie) {
            drop(tokio::spawn(effect));
            self.wait(20_000).await;
            return Err(failure(Fault::Zombie, &location));
        }
        let result = if detached {
            let lost = |_| failure(Fault::LostReply, &location);
            tokio::spawn(effect).await.map_err(lost)?
        } else {
            effect.await
        };
        match fault {
            Some(Fault::LostReply) => {
                self.wait(20_000).await;
                Err(failure(Fault::LostReply, &location))
            }
            Some(Fault::Late) => {
                self.wait(60_000).await;
                result
            }
            _ => {
                self.wait(40).await;
                result
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("multipart uploads", location))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before_read("get", location).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.before_read("get ranges of", location).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_offset(prefix, &Path::default())
    }

    /// A listing that fails does so in its middle: some keys came, then the error.
    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.draw(false);
        let place = prefix.cloned().unwrap_or_default();
        self.trace.line(format!(
            "store: list {place} after {:?} {fault:?}",
            offset.filename()
        ));
        let wait = Duration::from_millis(1 + self.entropy.below(40));
        let whole = self.inner.list_with_offset(prefix, offset);
        let pause = stream::once(tokio::time::sleep(wait)).filter_map(|()| async { None });
        match fault {
            None | Some(Fault::Late) => pause.chain(whole).boxed(),
            Some(fault) => {
                let some = usize::try_from(self.entropy.below(4)).unwrap_or_default();
                let error = stream::once(async move { Err(failure(fault, &place)) });
                pause.chain(whole.take(some)).chain(error).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before_read("list", prefix.unwrap_or(&Path::default()))
            .await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copies", to))
    }
}

fn not_implemented(operation: &str, location: &Path) -> Error {
    Error::NotImplemented {
        operation: format!("{operation} ({location})"),
        implementer: "faulty".into(),
    }
}

/// A store that keeps everything: each overwrite and each delete is an error, and counted.
#[derive(Debug)]
pub struct WormStore {
    inner: Arc<dyn ObjectStore>,
    refused: AtomicU64,
}

impl WormStore {
    /// Refuses overwrites and deletes in front of a store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            refused: AtomicU64::new(0),
        }
    }

    /// How many overwrites and deletes were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn refuse(&self, location: &Path) -> Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Error::PermissionDenied {
            path: location.to_string(),
            source: "objects in this store are written once and kept".into(),
        }
    }
}

impl fmt::Display for WormStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write-once {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for WormStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        match opts.mode {
            PutMode::Create => self.inner.put_opts(location, payload, opts).await,
            PutMode::Update(_) => Err(self.refuse(location)),
            PutMode::Overwrite => {
                let mode = PutMode::Create;
                match self
                    .inner
                    .put_opts(location, payload, PutOptions { mode, ..opts })
                    .await
                {
                    Err(Error::AlreadyExists { .. }) => Err(self.refuse(location)),
                    result => result,
                }
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // A finished multipart upload overwrites, so it can't be let through.
        Err(self.refuse(location))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let refuse = |location: Result<Path>| {
            Err(Error::PermissionDenied {
                path: location?.to_string(),
                source: "objects in this store are written once and kept".into(),
            })
        };
        locations.map(refuse).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = CopyMode::Create;
        match self
            .inner
            .copy_opts(from, to, CopyOptions { mode, ..options })
            .await
        {
            Err(Error::AlreadyExists { .. }) => Err(self.refuse(to)),
            result => result,
        }
    }
}

/// A store that overwrites although it was asked to create only, as some servers do without a word.
/// Nothing can be built on it; the simulation has to notice.
#[derive(Debug)]
pub struct ForgetfulStore {
    inner: Arc<dyn ObjectStore>,
}

impl ForgetfulStore {
    /// Ignores conditions in front of a store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner }
    }
}

impl fmt::Display for ForgetfulStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forgetful {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for ForgetfulStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let mode = PutMode::Overwrite;
        self.inner
            .put_opts(location, payload, PutOptions { mode, ..opts })
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;

    fn faulty(faults: Faults) -> (FaultyStore, Arc<InMemory>) {
        let inner = Arc::new(InMemory::new());
        let store = FaultyStore::new(
            Arc::<InMemory>::clone(&inner),
            SeededEntropy::new(7),
            faults,
            Trace::default(),
        );
        (store, inner)
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_its_name_says() {
        let all = 1_000;
        let none = Faults::default();
        let path = Path::from("a");
        for (faults, fails, at_once, later) in [
            (none, false, true, true),
            (
                Faults {
                    lost_requests: all,
                    ..none
                },
                true,
                false,
                false,
            ),
            (
                Faults {
                    throttled: all,
                    ..none
                },
                true,
                false,
                false,
            ),
            (
                Faults {
                    denied: all,
                    ..none
                },
                true,
                false,
                false,
            ),
            (
                Faults {
                    lost_replies: all,
                    ..none
                },
                true,
                true,
                true,
            ),
            (
                Faults {
                    late_replies: all,
                    ..none
                },
                false,
                true,
                true,
            ),
        ] {
            let (store, inner) = faulty(faults);
            let result = store.put(&path, PutPayload::from_static(b"x")).await;
            assert_eq!(result.is_err(), fails, "{faults:?}");
            assert_eq!(inner.head(&path).await.is_ok(), at_once, "{faults:?}");
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(inner.head(&path).await.is_ok(), later, "{faults:?}");
        }
        // A zombie may take effect before or after its caller hears of the failure; it does at last.
        let (store, inner) = faulty(Faults {
            zombies: all,
            ..none
        });
        assert!(
            store
                .put(&path, PutPayload::from_static(b"x"))
                .await
                .is_err()
        );
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(inner.head(&path).await.is_ok());
        assert_eq!(store.counts().zombies, 1);
    }

    #[tokio::test]
    async fn what_was_written_stays() {
        let store = WormStore::new(Arc::new(InMemory::new()));
        let (a, b) = (Path::from("a"), Path::from("b"));
        store.put(&a, PutPayload::from_static(b"1")).await.unwrap();
        store.put(&b, PutPayload::from_static(b"2")).await.unwrap();
        assert!(store.put(&a, PutPayload::from_static(b"3")).await.is_err());
        assert!(store.delete(&a).await.is_err());
        assert!(store.copy(&b, &a).await.is_err());
        let kept = store.get(&a).await.unwrap().bytes().await.unwrap();
        assert_eq!(
            (&*kept, store.refused()),
            (&b"1"[..], 3),
            "the first write stays"
        );
    }
}
