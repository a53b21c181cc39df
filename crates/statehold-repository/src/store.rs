//! The few operations that a repository needs from an object store.
//!
//! Every answer to a create but success, "exists" and a definite refusal is *ambiguous*: the object
//! may or may not have been made. The same bytes are then sent to the same key until the store says
//! one or the other, so an ambiguous answer never becomes a wrong one.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use statehold_core::environment::Clock;
use statehold_core::limits::{
    CLOCK_AHEAD_MS_MAX, FAR_BEHIND_RECORDS, RECORD_BYTES_MAX, STAGING_SECONDS, STORE_ATTEMPTS_MAX,
    STORE_BACKOFF_MS_MAX, STORE_BACKOFF_MS_MIN, STORE_BYTES_PER_SECOND_MIN,
};
use statehold_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::folder_store::FolderStore;
use crate::layout;
use crate::lease::Lease;
use crate::meter::Meter;
use crate::store_clock::StoreClock;

/// An object store, seen from a prefix.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    listing: Listing,
    folder: Option<Arc<FolderStore>>,
    patience: Option<Duration>,
    clock: Option<Arc<StoreClock>>,
    lease: Option<Arc<Lease>>,
}

/// In which order a store lists keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// By key, so that the first answer is the smallest.
    Sorted,
    /// In any order, so that all have to be seen.
    Unsorted,
}

/// An object, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// What came of creating an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It was made now.
    New,
    /// An object is there already. It may be our own from an attempt whose answer was lost.
    Exists,
}

impl Store {
    /// A store in memory, gone with the process.
    pub fn memory() -> Self {
        Self::new(Arc::new(InMemory::new()), Listing::Sorted)
    }

    /// A store in a folder, which is made if need be. Everything written is durable before it is
    /// reported: file and folder are synced. A record that somebody else wrote is made durable before
    /// it is reported, too, so that nobody builds on what a crash can still take away.
    pub fn folder(path: &FilePath) -> Result<Self> {
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unavailable {
            what: format!("the folder {}", path.display()),
            source,
        };
        std::fs::create_dir_all(path).map_err(|error| unavailable(error.into()))?;
        let objects = LocalFileSystem::new_with_prefix(path)
            .map_err(|error| unavailable(error.into()))?
            .with_fsync(true);
        Ok(Self {
            folder: Some(Arc::new(FolderStore::new(path.to_path_buf()))),
            ..Self::new(Arc::new(objects), Listing::Unsorted)
        })
    }

    /// Any object store.
    pub fn new(objects: Arc<dyn ObjectStore>, listing: Listing) -> Self {
        Self {
            objects,
            prefix: Path::default(),
            listing,
            folder: None,
            patience: None,
            clock: None,
            lease: None,
        }
    }

    /// The same store, which does not keep two writers apart: a create looks first, and looks again
    /// afterwards whether what is there now is its own. Only while the lease is held.
    #[must_use]
    pub fn with_lease(self, lease: Arc<Lease>) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    /// The lease under which it is written to, if it needs one.
    pub const fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// The same store, which has a clock of its own.
    #[must_use]
    pub fn with_clock(self, clock: Arc<StoreClock>) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Refuses whoever has a clock that is too far ahead of the store's. A store without a clock of
    /// its own has this machine's.
    pub(crate) async fn check_clock(&self, own: &dyn Clock) -> Result<()> {
        let Some(clock) = &self.clock else {
            return Ok(());
        };
        let ahead = || {
            let there = clock.now()?;
            let ahead = own.now().as_millis().saturating_sub(there.as_millis());
            (ahead > CLOCK_AHEAD_MS_MAX).then_some(ahead)
        };
        if ahead().is_none() {
            return Ok(());
        }
        // The last answer may be from before this machine slept, so the store is asked once more.
        self.read(layout::REPOSITORY).await?;
        match ahead() {
            None => Ok(()),
            Some(ahead) => {
                let seconds = u64::try_from(ahead / 1_000).unwrap_or_default();
                Err(Error::ClockAhead { seconds })
            }
        }
    }

    /// The same store, where a request that has no answer after this long, and the time that its
    /// bytes may take besides, counts as unanswered and is sent again.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// The same store with every request counted.
    #[must_use]
    pub fn metered(self) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::new(self.objects));
        let objects: Arc<dyn ObjectStore> = Arc::<Meter>::clone(&meter);
        (Self { objects, ..self }, meter)
    }

    /// The same store, seen from further inside.
    #[must_use]
    pub fn inside(&self, name: &str) -> Self {
        Self {
            prefix: self.prefix.clone().join(name),
            ..self.clone()
        }
    }

    /// In which order it lists.
    pub const fn listing(&self) -> Listing {
        self.listing
    }

    /// Whether it is a folder of this machine.
    pub(crate) const fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// What the store is made of, for the probe, which asks more of it than a repository does.
    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Removes the staging files that writers who died long ago left in a folder, and gives how many.
    /// Nothing to do for any other store: there, what isn't finished isn't there.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64> {
        let Some(folder) = &self.folder else {
            return Ok(0);
        };
        let millis = u64::try_from(now.as_millis()).unwrap_or_default();
        let before = SystemTime::UNIX_EPOCH
            + Duration::from_millis(millis.saturating_sub(STAGING_SECONDS * 1_000));
        folder
            .sweep(self.prefix.as_ref(), before)
            .await
            .map_err(|error| Error::Unavailable {
                what: "sweeping the folder".to_owned(),
                source: error.into(),
            })
    }

    /// Waits for an answer as long as the store has patience.
    pub(crate) async fn within<T>(
        &self,
        bytes: u64,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let Some(patience) = self.patience else {
            return answer.await;
        };
        let limit = patience + Duration::from_secs(bytes / STORE_BYTES_PER_SECOND_MIN);
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| Err(failed(format!("no answer after {limit:?}").into())))
    }

    /// What has to happen before an object is reported that was found in a folder.
    async fn settle(&self, path: &Path, found: Found) -> object_store::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let path = path.as_ref();
        let settled = match found {
            Found::Record => folder.settle_record(path).await,
            Found::Existing => folder.settle(path).await,
        };
        settled.map_err(|error| failed(error.into()))
    }

    /// Creates an object, durably, unless one is there. [`Error::Unavailable`] says that it may have
    /// been made; after any other error it has not.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Creation> {
        let Some(lease) = &self.lease else {
            return self.put_new(key, bytes).await;
        };
        if self.read(key).await?.is_some() {
            return Ok(Creation::Exists);
        }
        lease.check()?;
        self.put_new(key, bytes.clone()).await?;
        // Acknowledged is what stands there, and only to whoever may still write.
        let there = self.read(key).await?;
        lease.check()?;
        Ok(if there == Some(bytes) {
            Creation::New
        } else {
            Creation::Exists
        })
    }

    /// Writes an object whatever is there. For the few that are not written once.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let put = self.objects.put(&path, bytes.clone().into());
            match self.within(bytes.len() as u64, put).await {
                Ok(_) => return Ok(()),
                Err(error) => again(&mut attempt, "writing", key, error).await?,
            }
        }
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Creation> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let options = PutOptions {
                mode: PutMode::Create,
                ..PutOptions::default()
            };
            let put = self.objects.put_opts(&path, bytes.clone().into(), options);
            let failed = match self.within(bytes.len() as u64, put).await {
                Ok(_) => {
                    if let Some(folder) = self.folder_of_record(key) {
                        folder.settled_record(path.as_ref());
                    }
                    return Ok(Creation::New);
                }
                // Some stores answer a lost create-only race with a failed precondition.
                Err(
                    error @ (object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }),
                ) if !is_undecided(&error) => match self.settle(&path, Found::Existing).await {
                    Ok(()) => return Ok(Creation::Exists),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match again(&mut attempt, "writing", key, failed).await {
                // A refusal speaks for its own attempt, not for the one before it.
                Err(
                    error @ (Error::Denied { .. } | Error::Refused { .. } | Error::NotFound { .. }),
                ) if attempt > 1 => {
                    return Err(Error::Unavailable {
                        what: format!("writing {key}"),
                        source: error.into(),
                    });
                }
                result => result?,
            }
        }
    }

    /// Reads an object; `None` when it isn't there.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let failed = match self.within(0, self.objects.get(&path)).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Ok(found) if found.meta.size > RECORD_BYTES_MAX as u64 => {
                    return Err(Error::damaged(key, "it is larger than objects are"));
                }
                Ok(found) => match self.within(found.meta.size, found.bytes()).await {
                    Ok(bytes) if self.folder_of_record(key).is_none() => return Ok(Some(bytes)),
                    Ok(bytes) => match self.settle(&path, Found::Record).await {
                        Ok(()) => return Ok(Some(bytes)),
                        Err(error) => error,
                    },
                    Err(error) => error,
                },
                Err(error) => error,
            };
            again(&mut attempt, "reading", key, failed).await?;
        }
    }

    /// Reads the beginning of an object, up to so many bytes; `None` when it isn't there.
    pub async fn read_beginning(&self, key: &str, bytes: u64) -> Result<Option<Bytes>> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let options = GetOptions {
                range: Some(GetRange::Bounded(0..bytes)),
                ..GetOptions::default()
            };
            let found = match self.within(0, self.objects.get_opts(&path, options)).await {
                Ok(found) => self.within(bytes, found.bytes()).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => return Ok(Some(found)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => again(&mut attempt, "reading", key, error).await?,
            }
        }
    }

    /// Reads a part of an object.
    pub async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(key);
        let want = range.end.saturating_sub(range.start);
        let mut attempt = 0;
        loop {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                ..GetOptions::default()
            };
            let found = match self.within(0, self.objects.get_opts(&path, options)).await {
                Ok(found) => self.within(want, found.bytes()).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(bytes) if bytes.len() as u64 == want => return Ok(bytes),
                Ok(bytes) => {
                    let reason = format!(
                        "bytes {range:?} were asked for and {} came back",
                        bytes.len()
                    );
                    return Err(Error::damaged(key, reason));
                }
                Err(object_store::Error::NotFound { .. }) => {
                    return Err(Error::NotFound {
                        object: key.to_owned(),
                    });
                }
                Err(error) => {
                    // Stores have no common word for a range past the end, which time doesn't mend.
                    if let Ok(meta) = self.objects.head(&path).await
                        && meta.size < range.end
                    {
                        let reason =
                            format!("bytes {range:?} were asked for and it has {}", meta.size);
                        return Err(Error::damaged(key, reason));
                    }
                    again(&mut attempt, "reading", key, error).await?;
                }
            }
        }
    }

    /// The keys in a folder that sort after `after`, in order.
    pub async fn list(&self, folder: &str, after: &str) -> Result<Vec<String>> {
        let mut attempt = 0;
        loop {
            match self.try_list(folder, after, usize::MAX).await {
                Ok(keys) => return Ok(keys),
                Err(error) => again(&mut attempt, "listing", folder, error).await?,
            }
        }
    }

    /// The first keys in a folder that sort after `after`, in order: at least one if there is one.
    /// One request where the store lists in order.
    pub async fn list_first(&self, folder: &str, after: &str) -> Result<Vec<String>> {
        let mut attempt = 0;
        loop {
            match self.try_list(folder, after, FIRST_KEYS).await {
                Ok(keys) => return Ok(keys),
                Err(error) => again(&mut attempt, "listing", folder, error).await?,
            }
        }
    }

    /// All objects, in order of keys.
    pub async fn list_objects(&self) -> Result<Vec<Listed>> {
        let mut attempt = 0;
        loop {
            match self.try_list_objects().await {
                Ok(found) => return Ok(found),
                Err(error) => again(&mut attempt, "listing", "the store", error).await?,
            }
        }
    }

    async fn try_list_objects(&self) -> object_store::Result<Vec<Listed>> {
        let base = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let mut listed = self.objects.list(base);
        let mut found = Vec::new();
        while let Some(meta) = self.within(0, listed.try_next()).await? {
            found.push(Listed {
                key: self.key_of(&meta.location),
                bytes: meta.size,
                modified: Timestamp::from_millis(meta.last_modified.timestamp_millis()),
            });
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// What time it is at the store, by the newest of its answers. A store without a clock of its own
    /// has this machine's.
    pub(crate) fn time(&self, own: &dyn Clock) -> Timestamp {
        let there = self.clock.as_ref().and_then(|clock| clock.now());
        there.unwrap_or_else(|| own.now())
    }

    /// Deletes an object; one that is gone already is no error. For removal alone.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            match self.within(0, self.objects.delete(&path)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) => again(&mut attempt, "deleting", key, error).await?,
            }
        }
    }

    /// The names of the folders that lie directly here, and then those of the objects.
    pub async fn list_here(&self) -> Result<(Vec<String>, Vec<String>)> {
        let base = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let mut attempt = 0;
        loop {
            let listed = self.objects.list_with_delimiter(base);
            match self.within(0, listed).await {
                Ok(listed) => {
                    let folders = listed.common_prefixes.iter();
                    let objects = listed.objects.iter();
                    let mut folders: Vec<_> = folders.map(|path| self.key_of(path)).collect();
                    let mut objects: Vec<_> =
                        objects.map(|meta| self.key_of(&meta.location)).collect();
                    folders.sort_unstable();
                    objects.sort_unstable();
                    return Ok((folders, objects));
                }
                Err(error) => again(&mut attempt, "listing", "the store", error).await?,
            }
        }
    }

    /// Length of an object in bytes; `None` when it isn't there.
    pub async fn length(&self, key: &str) -> Result<Option<u64>> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            match self.within(0, self.objects.head(&path)).await {
                Ok(meta) => return Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => again(&mut attempt, "looking at", key, error).await?,
            }
        }
    }

    /// The key of an object as it is seen from the prefix.
    fn key_of(&self, location: &Path) -> String {
        let names: Vec<_> = location
            .prefix_match(&self.prefix)
            .into_iter()
            .flatten()
            .collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        names.join("/")
    }

    fn folder_of_record(&self, key: &str) -> Option<&FolderStore> {
        layout::parse_record(key)?;
        self.folder.as_deref()
    }

    /// The keys in a folder that sort after `after`, as the store orders them, so many at most. One
    /// page of a cloud's listing is one request, and the next is asked for only when it is needed.
    pub(crate) async fn list_raw(
        &self,
        folder: &str,
        after: &str,
        limit: usize,
    ) -> object_store::Result<Vec<String>> {
        let base = self.path(folder);
        let offset = self.path(after);
        // Some stores give nothing for a start outside of the folder.
        let found = if offset.prefix_matches(&base) && offset != base {
            self.objects.list_with_offset(Some(&base), &offset)
        } else {
            self.objects.list(Some(&base))
        };
        // Others pay no heed to it.
        let mut found = found
            .try_filter(|meta| std::future::ready(meta.location > offset))
            .take(limit);
        let mut keys = Vec::new();
        while let Some(meta) = self.within(0, found.try_next()).await? {
            let location = meta.location;
            let name: Vec<_> = location.prefix_match(&base).into_iter().flatten().collect();
            let name: Vec<&str> = name.iter().map(AsRef::as_ref).collect();
            keys.push(format!("{folder}/{}", name.join("/")));
        }
        Ok(keys)
    }

    async fn try_list(
        &self,
        folder: &str,
        after: &str,
        limit: usize,
    ) -> object_store::Result<Vec<String>> {
        let limit = match self.listing {
            Listing::Sorted => limit,
            Listing::Unsorted => usize::MAX,
        };
        let mut keys = self.list_raw(folder, after, limit).await?;
        keys.sort_unstable();
        Ok(keys)
    }
}

/// How an object was found in a folder.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// A record was read.
    Record,
    /// An object stood where one was to be made.
    Existing,
}

/// How many keys [`Store::list_first`] looks at: some, in case the first is of no use, and enough of a log to
/// tell who is far behind.
const FIRST_KEYS: usize = 2 * FAR_BEHIND_RECORDS;

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic {
        store: "store",
        source,
    }
}

/// S3 answers like this while another write to the key is under way, and `object_store` can't tell it
/// from "exists". It is neither yes nor no: sent again, the request gets an answer that is.
fn is_undecided(error: &object_store::Error) -> bool {
    let text = error.to_string();
    text.contains("ConditionalRequestConflict") || text.contains("OperationAborted")
}

/// The status in an error that has no kind of its own: those of a listing have none.
fn status_of(error: &object_store::Error) -> Option<u16> {
    let object_store::Error::Generic { .. } = error else {
        return None;
    };
    let text = error.to_string();
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

fn denied(doing: &str, key: &str, error: &object_store::Error) -> Error {
    Error::Denied {
        reason: format!("{doing} {key}: {error}"),
    }
}

fn no_bucket(key: &str) -> Error {
    Error::NotFound {
        object: format!("the bucket for {key}"),
    }
}

/// Waits before the next attempt, or gives up: at once for a definite refusal.
async fn again(
    attempt: &mut u32,
    doing: &str,
    key: &str,
    error: object_store::Error,
) -> Result<()> {
    use object_store::Error as E;
    *attempt += 1;
    let status = status_of(&error);
    match &error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            return Err(denied(doing, key, &error));
        }
        // Whoever reads has dealt with this: here, what is missing is the bucket.
        E::NotFound { .. } => return Err(no_bucket(key)),
        _ if matches!(status, Some(401 | 403)) => return Err(denied(doing, key, &error)),
        _ if status == Some(404) => return Err(no_bucket(key)),
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => {
            return Err(Error::refused(format!("{doing} {key}: {error}")));
        }
        _ if *attempt >= STORE_ATTEMPTS_MAX || is_local_and_final(&error) => {
            return Err(Error::Unavailable {
                what: format!("{doing} {key}"),
                source: error.into(),
            });
        }
        _ => {}
    }
    tracing::debug!(key, attempt, %error, "the store did not answer; trying again");
    let wait = STORE_BACKOFF_MS_MIN.saturating_mul(1 << (*attempt - 1).min(16));
    tokio::time::sleep(Duration::from_millis(wait.min(STORE_BACKOFF_MS_MAX))).await;
    Ok(())
}

/// A full disk or a read-only folder doesn't get better by waiting some seconds.
fn is_local_and_final(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            let kinds = [
                PermissionDenied,
                QuotaExceeded,
                ReadOnlyFilesystem,
                StorageFull,
            ];
            return kinds.contains(&error.kind());
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_a_kind_still_have_a_status() {
        let text =
            "Error performing GET in 3 ms - Server returned non-2xx status code: 403 Forbidden: x";
        assert_eq!(status_of(&failed(text.into())), Some(403));
        assert_eq!(status_of(&failed("no answer after 30s".into())), None);
        assert_eq!(status_of(&failed("status code: ".into())), None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_grows_with_what_travels() {
        let store = Store::memory().with_patience(Duration::from_secs(30));
        let slow = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        };
        store.within(0, slow(29)).await.unwrap();
        store.within(0, slow(31)).await.unwrap_err();
        store.within(64 * 64 * 1024, slow(90)).await.unwrap();
        Store::memory().within(0, slow(9_000)).await.unwrap();
    }
}
