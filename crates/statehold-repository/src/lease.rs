//! The one writer of a store that can't keep two apart.
//!
//! Some stores take the header that says "create this only if it doesn't exist" and ignore it. On
//! such a store one process at a time writes: it holds the lease, an object that it writes again and
//! again. Whoever wants it next waits until nobody has renewed it for its whole length, by its own
//! clock, so no two clocks are compared.
//!
//! The lease is the one object that is overwritten in turn. It can't rule everything out: see
//! [`RESIDUAL_RISK`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use statehold_core::environment::Entropy;
use statehold_core::id::Nonce;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::layout;
use crate::store::Store;

/// What a lease on a store without create-only writes leaves open, in words for its owner.
pub const RESIDUAL_RISK: &str = "a write that is delayed on its way, or made by a process that was \
    paused past the end of its lease, can still replace a record";

/// How long a lease lasts that nobody renews.
pub const LEASE_PERIOD: Duration = Duration::from_secs(30);

/// The version of the object's text.
const VERSION: u32 = 1;
/// A lease is renewed so often within its period.
const RENEWALS: u32 = 3;

/// The object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    version: u32,
    /// Drawn by the process that holds it.
    holder: Nonce,
    /// Raised by each renewal.
    beat: u64,
    /// How long it lasts without one.
    period_ms: u64,
    /// Given back: nobody has to wait.
    released: bool,
}

/// A lease that this process holds, renewed in the background until it is dropped.
#[derive(Debug)]
pub struct Lease {
    held: Arc<Held>,
    renewing: JoinHandle<()>,
}

#[derive(Debug)]
struct Held {
    store: Store,
    holder: Nonce,
    period: Duration,
    until: Mutex<Until>,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    /// Good till then.
    Then(Instant),
    /// Somebody else has it.
    Lost,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Lease {
    /// Takes the lease of a store, and waits for that as long as a holder that is gone had it. While
    /// another process renews it this is refused.
    pub async fn take(store: &Store, entropy: &dyn Entropy, period: Duration) -> Result<Self> {
        wait_for_end(store).await?;
        let held = Held {
            store: store.clone(),
            holder: Nonce::random(entropy),
            period,
            until: Mutex::new(Until::Lost),
        };
        let begun = Instant::now();
        held.write(0, false).await?;
        // Two that begin together both write; after a while only one of them reads its own.
        sleep(period / RENEWALS / 2).await;
        if !held.is_ours().await? {
            return Err(taken());
        }
        held.set(Until::Then(begun + period));
        let held = Arc::new(held);
        let renewing = tokio::spawn(renew(Arc::clone(&held)));
        Ok(Self { held, renewing })
    }

    /// Refuses to go on once the lease has ended or is somebody else's.
    pub fn check(&self) -> Result<()> {
        let until = *self.held.until();
        let unavailable = |source: &str| Error::Unavailable {
            what: "the lease of the store".into(),
            source: source.into(),
        };
        match until {
            Until::Then(until) if Instant::now() < until => Ok(()),
            Until::Then(_) => Err(unavailable("it could not be renewed in time")),
            Until::Lost => Err(unavailable("another process has taken it")),
        }
    }

    /// Gives the lease back, so that the next process doesn't have to wait.
    pub async fn release(&self) -> Result<()> {
        self.renewing.abort();
        let is_held = self.check().is_ok();
        self.held.set(Until::Lost);
        if is_held && self.held.is_ours().await? {
            self.held.write(u64::MAX, true).await?;
        }
        Ok(())
    }
}

impl Held {
    fn until(&self) -> std::sync::MutexGuard<'_, Until> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Until) {
        *self.until() = until;
    }

    async fn write(&self, beat: u64, released: bool) -> Result<()> {
        let text = Text {
            version: VERSION,
            holder: self.holder,
            beat,
            period_ms: u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX),
            released,
        };
        let bytes = serde_json::to_vec(&text).map_err(Error::refused)?;
        self.store.replace(layout::LEASE, bytes.into()).await
    }

    async fn is_ours(&self) -> Result<bool> {
        let found = read(&self.store).await?;
        Ok(found.is_some_and(|found| found.holder == self.holder && !found.released))
    }
}

/// Renews a lease until it is lost.
async fn renew(held: Arc<Held>) {
    for beat in 1.. {
        sleep(held.period / RENEWALS).await;
        // From before the write, so that whoever waits for its end waits longer than we go on.
        let begun = Instant::now();
        let renewed = match held.is_ours().await {
            Ok(true) => held.write(beat, false).await,
            Ok(false) => {
                tracing::error!(
                    "the lease of the store is somebody else's; nothing is written any more"
                );
                held.set(Until::Lost);
                return;
            }
            Err(error) => Err(error),
        };
        match renewed {
            Ok(()) => held.set(Until::Then(begun + held.period)),
            Err(error) => tracing::warn!(%error, "the lease of the store could not be renewed"),
        }
    }
}

async fn read(store: &Store) -> Result<Option<Text>> {
    let Some(bytes) = store.read(layout::LEASE).await? else {
        return Ok(None);
    };
    match serde_json::from_slice::<Text>(&bytes) {
        Ok(text) if text.version == VERSION => Ok(Some(text)),
        Ok(text) => Err(Error::TooNew {
            what: format!("the lease of the store (version {})", text.version),
        }),
        Err(error) => Err(Error::damaged(layout::LEASE, error)),
    }
}

fn taken() -> Error {
    Error::refused(
        "another gateway holds the lease of this store, which is safe for one writer at a time; \
         stop it first",
    )
}

/// Waits until nobody has renewed a lease for as long as it lasts.
async fn wait_for_end(store: &Store) -> Result<()> {
    let Some(found) = read(store).await?.filter(|found| !found.released) else {
        return Ok(());
    };
    // As the clocks of two machines run, give or take a tenth.
    let period = Duration::from_millis(found.period_ms);
    let end = Instant::now() + period + period / 10;
    tracing::info!(?period, "waiting for the end of an earlier lease");
    while Instant::now() < end {
        sleep((period / RENEWALS).min(end - Instant::now())).await;
        match read(store).await? {
            Some(now) if now.released => return Ok(()),
            Some(now) if now != found => return Err(taken()),
            Some(_) => {}
            None => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Creation;

    /// Randomness enough for tests: each nonce differs.
    #[derive(Debug, Default)]
    struct Counting(std::sync::atomic::AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    const PERIOD: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn one_process_at_a_time_holds_it() {
        let (store, entropy) = (Store::memory(), Counting::default());
        let first = Lease::take(&store, &entropy, PERIOD).await.unwrap();
        let refused = Lease::take(&store, &entropy, PERIOD).await.unwrap_err();
        assert!(refused.to_string().contains("stop it first"), "{refused}");
        sleep(PERIOD * 10).await;
        first.check().unwrap();

        // Given back, it is there for the next at once; of one that died it is waited out.
        first.release().await.unwrap();
        let begun = Instant::now();
        let second = Lease::take(&store, &entropy, PERIOD).await.unwrap();
        assert!(begun.elapsed() < PERIOD / 2);
        drop(second);
        let begun = Instant::now();
        let third = Lease::take(&store, &entropy, PERIOD).await.unwrap();
        assert!(begun.elapsed() >= PERIOD);
        third.check().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_begin_together_one_gets_it() {
        let (store, entropy) = (Store::memory(), Counting::default());
        let begin = || Lease::take(&store, &entropy, PERIOD);
        let (a, b, c) = tokio::join!(begin(), begin(), begin());
        let got = [a, b, c].into_iter().filter(Result::is_ok).count();
        assert_eq!(got, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_lost_it_writes_nothing_any_more() {
        let (store, entropy) = (Store::memory(), Counting::default());
        let lease = Arc::new(Lease::take(&store, &entropy, PERIOD).await.unwrap());
        let leased = store.clone().with_lease(Arc::clone(&lease));
        let made = leased.create("a", "1".into()).await.unwrap();
        assert_eq!(made, Creation::New);
        // Without the store's help, what is there is found by looking.
        let again = leased.create("a", "2".into()).await.unwrap();
        assert_eq!(again, Creation::Exists);

        let other = Held {
            store: store.clone(),
            holder: Nonce::random(&entropy),
            period: PERIOD,
            until: Mutex::new(Until::Lost),
        };
        other.write(0, false).await.unwrap();
        sleep(PERIOD / 2).await;
        lease.check().unwrap_err();
        let refused = leased.create("b", "1".into()).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
        assert_eq!(store.read("b").await.unwrap(), None);
    }
}
