//! The few operations that a repository needs from an object store.
//!
//! Every answer to a create but success, "exists" and a definite refusal is *ambiguous*: the object
//! may or may not have been made. The same bytes are then sent to the same key until the store says
//! one or the other, so an ambiguous answer never becomes a wrong one.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use statehold_core::limits::{
    RECORD_BYTES_MAX, STORE_ATTEMPTS_MAX, STORE_BACKOFF_MS_MAX, STORE_BACKOFF_MS_MIN,
};

use crate::error::{Error, Result};
use crate::meter::Meter;

/// An object store, seen from a prefix.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    listing: Listing,
}

/// In which order a store lists keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// By key, so that the first answer is the smallest.
    Sorted,
    /// In any order, so that all have to be seen.
    Unsorted,
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
    /// reported: file and folder are synced.
    pub fn folder(path: &FilePath) -> Result<Self> {
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unavailable {
            what: format!("the folder {}", path.display()),
            source,
        };
        std::fs::create_dir_all(path).map_err(|error| unavailable(error.into()))?;
        let objects = LocalFileSystem::new_with_prefix(path)
            .map_err(|error| unavailable(error.into()))?
            .with_fsync(true);
        Ok(Self::new(Arc::new(objects), Listing::Unsorted))
    }

    /// Any object store.
    pub fn new(objects: Arc<dyn ObjectStore>, listing: Listing) -> Self {
        Self {
            objects,
            prefix: Path::default(),
            listing,
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

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Creates an object, durably, unless one is there. [`Error::Unavailable`] says that it may have
    /// been made; after any other error it has not.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Creation> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let options = PutOptions {
                mode: PutMode::Create,
                ..PutOptions::default()
            };
            match self
                .objects
                .put_opts(&path, bytes.clone().into(), options)
                .await
            {
                Ok(_) => return Ok(Creation::New),
                // Some stores answer a lost create-only race with a failed precondition.
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => return Ok(Creation::Exists),
                Err(error) => match again(&mut attempt, "writing", key, error).await {
                    // A refusal speaks for its own attempt, not for the one before it.
                    Err(error @ (Error::Denied { .. } | Error::Refused { .. })) if attempt > 1 => {
                        return Err(Error::Unavailable {
                            what: format!("writing {key}"),
                            source: error.into(),
                        });
                    }
                    result => result?,
                },
            }
        }
    }

    /// Reads an object; `None` when it isn't there.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key);
        let mut attempt = 0;
        loop {
            let failed = match self.objects.get(&path).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Ok(found) if found.meta.size > RECORD_BYTES_MAX as u64 => {
                    return Err(Error::damaged(key, "it is larger than objects are"));
                }
                Ok(found) => match found.bytes().await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            again(&mut attempt, "reading", key, failed).await?;
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
            let found = match self.objects.get_opts(&path, options).await {
                Ok(found) => found.bytes().await,
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

    async fn try_list(
        &self,
        folder: &str,
        after: &str,
        limit: usize,
    ) -> object_store::Result<Vec<String>> {
        let base = self.path(folder);
        let offset = self.path(after);
        let limit = if self.listing == Listing::Sorted {
            limit
        } else {
            usize::MAX
        };
        let mut found = self
            .objects
            .list_with_offset(Some(&base), &offset)
            .take(limit);
        let mut keys = Vec::new();
        while let Some(meta) = found.next().await {
            let location = meta?.location;
            let name: Vec<_> = location.prefix_match(&base).into_iter().flatten().collect();
            let name: Vec<&str> = name.iter().map(AsRef::as_ref).collect();
            keys.push(format!("{folder}/{}", name.join("/")));
        }
        keys.sort_unstable();
        Ok(keys)
    }
}

/// How many keys [`Store::list_first`] looks at: some, in case the first is of no use.
const FIRST_KEYS: usize = 8;

/// Waits before the next attempt, or gives up: at once for a definite refusal.
async fn again(
    attempt: &mut u32,
    doing: &str,
    key: &str,
    error: object_store::Error,
) -> Result<()> {
    use object_store::Error as E;
    *attempt += 1;
    match &error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            return Err(Error::Denied {
                reason: format!("{doing} {key}: {error}"),
            });
        }
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
