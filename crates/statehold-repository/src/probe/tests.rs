//! The probe over stores that each do one thing wrong.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutPayload, PutResult,
};

use super::*;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Creates what exists.
    CreatesTwice,
    /// Looks first, and writes a moment later.
    LooksFirst,
    /// Knows nothing of creating.
    RefusesToCreate,
    /// Remembers for a while what wasn't there.
    RemembersAbsence,
    /// Lists what it had a write ago.
    ListsLate,
    /// Lists the last first.
    ListsBackwards,
    /// Answers a part with the whole.
    IgnoresRanges,
    /// Says "access denied" instead of "not found".
    HidesAbsence,
    /// Keeps no metadata.
    DropsMetadata,
    /// Never deletes.
    KeepsAll,
    /// Denies everything.
    Shut,
}

#[derive(Debug)]
struct Crooked {
    fault: Fault,
    latency: Duration,
    inner: InMemory,
    writes: AtomicU64,
    absent: Mutex<BTreeSet<Path>>,
}

impl fmt::Display for Crooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

fn denied(path: &Path) -> object_store::Error {
    object_store::Error::PermissionDenied {
        path: path.to_string(),
        source: "denied".into(),
    }
}

#[async_trait]
impl ObjectStore for Crooked {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        tokio::time::sleep(self.latency).await;
        let create = opts.mode == PutMode::Create;
        self.writes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Shut => return Err(denied(location)),
            Fault::CreatesTwice => opts.mode = PutMode::Overwrite,
            Fault::LooksFirst if create => {
                if self.inner.head(location).await.is_ok() {
                    return self.inner.put_opts(location, payload, opts).await;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                opts.mode = PutMode::Overwrite;
            }
            Fault::RefusesToCreate if create => {
                return Err(object_store::Error::NotImplemented {
                    operation: "create".into(),
                    implementer: self.to_string(),
                });
            }
            Fault::DropsMetadata => opts.attributes = Attributes::default(),
            _ => {}
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        mut options: GetOptions,
    ) -> object_store::Result<GetResult> {
        tokio::time::sleep(self.latency).await;
        let absent = || self.absent.lock().unwrap();
        if self.fault == Fault::RemembersAbsence && absent().contains(location) {
            return self.inner.get_opts(&Path::from("none"), options).await;
        }
        if self.fault == Fault::IgnoresRanges {
            options.range = None;
        }
        match self.inner.get_opts(location, options).await {
            Err(error @ object_store::Error::NotFound { .. }) => {
                absent().insert(location.clone());
                match self.fault {
                    Fault::HidesAbsence => Err(denied(location)),
                    _ => Err(error),
                }
            }
            found => found,
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.fault {
            Fault::KeepsAll => locations
                .map(|path| path.and_then(|path| Err(denied(&path))))
                .boxed(),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (fault, latency) = (self.fault, self.latency);
        let listed = self.inner.list(prefix);
        stream::once(async move {
            tokio::time::sleep(latency).await;
            let mut found: Vec<_> = listed.collect().await;
            match fault {
                Fault::ListsLate => drop(found.pop()),
                Fault::ListsBackwards => found.reverse(),
                _ => {}
            }
            stream::iter(found)
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_776_000_000_000)
    }
}

impl Entropy for Standing {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn crooked(fault: Fault, latency: Duration) -> (Arc<Crooked>, Store) {
    let crooked = Arc::new(Crooked {
        fault,
        latency,
        inner: InMemory::new(),
        writes: AtomicU64::new(0),
        absent: Mutex::default(),
    });
    let objects: Arc<dyn ObjectStore> = Arc::<Crooked>::clone(&crooked);
    (crooked, Store::new(objects, Listing::Sorted))
}

async fn check(fault: Fault, grade: Grade, reason: &str) {
    let (crooked, store) = crooked(fault, Duration::ZERO);
    let report = probe(&store, &Standing, &Standing).await.unwrap();
    let reasons = report.reasons().join("; ");
    assert_eq!(report.grade, grade, "{fault:?}: {reasons}");
    assert!(reasons.contains(reason), "{fault:?}: {reasons}");
    assert_eq!(
        reasons.is_empty(),
        grade == Grade::A,
        "{fault:?}: {reasons}"
    );
    let left = crooked.inner.list(None).count().await;
    assert_eq!(
        left == 0,
        fault != Fault::KeepsAll,
        "{fault:?} leaves {left}"
    );
    let strategy = match fault {
        Fault::DropsMetadata => ShaStrategy::Sidecar,
        _ => ShaStrategy::Header,
    };
    assert_eq!(report.sha_strategy, strategy, "{fault:?}");
    let admission = admit(&report);
    let store = Store::memory();
    let leased = admission
        .enter_with_lease(store, &Standing, Duration::from_millis(60))
        .await;
    let allowed = [admission.enter().is_ok(), leased.is_ok()];
    let expected = match grade {
        Grade::A => [true, true],
        Grade::B => [false, true],
        Grade::C => [false, false],
    };
    let has_lease = leased.is_ok_and(|store| store.lease().is_some());
    assert_eq!(has_lease, grade == Grade::B);
    assert_eq!(allowed, expected, "{fault:?}: {admission:?}");
}

#[tokio::test]
async fn each_fault_gets_its_grade() {
    check(Fault::Nothing, Grade::A, "").await;
    check(Fault::DropsMetadata, Grade::A, "").await;
    check(Fault::KeepsAll, Grade::A, "").await;
    check(Fault::CreatesTwice, Grade::B, "created twice").await;
    check(Fault::LooksFirst, Grade::B, "writers won").await;
    check(Fault::RefusesToCreate, Grade::B, "not accepted").await;
    check(
        Fault::RemembersAbsence,
        Grade::C,
        "object 1 of 6 was not there",
    )
    .await;
    check(Fault::ListsLate, Grade::C, "after 1 writes").await;
    check(Fault::ListsBackwards, Grade::C, "not in order").await;
    check(Fault::IgnoresRanges, Grade::C, "come back as others").await;
    check(Fault::HidesAbsence, Grade::C, "allowed to list the bucket").await;
}

#[tokio::test]
async fn a_store_that_lets_nobody_in_has_no_grade() {
    let (_, store) = crooked(Fault::Shut, Duration::ZERO);
    let error = probe(&store, &Standing, &Standing).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}

#[tokio::test]
async fn folders_and_memory_are_for_many_writers() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [
        (Store::memory(), ShaStrategy::Header),
        (Store::folder(folder.path()).unwrap(), ShaStrategy::Sidecar),
    ];
    for (store, strategy) in stores {
        let report = probe(&store, &Standing, &Standing).await.unwrap();
        assert_eq!((report.grade, report.sha_strategy), (Grade::A, strategy));
        assert_eq!(report.findings.len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_found_in_seconds_and_kept() {
    let (crooked, store) = crooked(Fault::Nothing, Duration::from_millis(20));
    let store = store.inside("team");
    assert_eq!(newest(&store).await.unwrap(), None);
    let first = newest_or_probe(&store, &Standing, &Standing).await.unwrap();
    assert!(first.took_ms < 10_000, "{} ms", first.took_ms);
    let writes = || crooked.writes.load(Ordering::Relaxed);
    let written = writes();
    let again = newest_or_probe(&store, &Standing, &Standing).await.unwrap();
    assert_eq!((&again, writes()), (&first, written));
    // A later one counts, and one that can't be read doesn't.
    let later = Report {
        at: Timestamp::from_millis(first.at.as_millis() + 5),
        grade: Grade::B,
        ..first
    };
    keep(&store, &later).await.unwrap();
    let odd = layout::verdict(Timestamp::from_millis(later.at.as_millis() + 5));
    store.create(&odd, "{}".into()).await.unwrap();
    assert_eq!(newest(&store).await.unwrap(), Some(later));
}
