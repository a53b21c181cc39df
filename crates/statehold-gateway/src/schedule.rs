//! What a gateway does without being asked, and not more often than once for all gateways of a store.
//!
//! Time is cut into slots of a job's length, counted from the beginning of 1970 in UTC. Whoever creates
//! the object of a slot does the work in it; the others see that it is taken and wait for the next one.
//! A gateway that dies with a slot leaves it undone: the next slot is claimed independently of it, and
//! what the work itself leaves, such as a mark or a row, says whether it was finished.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::Nonce;
use statehold_core::time::Timestamp;
use statehold_repository::store::{Creation, Store};
use statehold_repository::{Error, Result, layout};

/// How often the clock is looked at, so that one that was set, or slept, is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After work that failed, its gateway tries again after this long, as long as the slot lasts.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// The shortest slot.
pub const SLOT_MIN: Duration = Duration::from_secs(1);

/// Something that is done once in each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    name: String,
    every: Duration,
}

impl Job {
    /// A job with slots of this length. Its name is part of a key: fixed words and digits only.
    pub fn new(name: String, every: Duration) -> Self {
        let every = every.max(SLOT_MIN);
        Self { name, every }
    }

    fn every_millis(&self) -> u64 {
        u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX)
    }

    /// The slot of a moment.
    fn slot(&self, now: Timestamp) -> u64 {
        millis(now) / self.every_millis()
    }

    /// How long it is to the next slot.
    fn left(&self, now: Timestamp) -> Duration {
        let every = self.every_millis();
        Duration::from_millis(every - millis(now) % every)
    }
}

fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or_default()
}

/// What stands in the object of a slot. Nothing reads it but people, and whoever wrote it.
#[derive(Debug, Serialize)]
struct Claim<'a> {
    job: &'a str,
    slot: u64,
    time: Timestamp,
    /// Drawn by whoever claims, so that it knows its own claim after an answer was lost.
    by: Nonce,
}

/// The jobs of one store, as one of its gateways sees them.
#[derive(Debug)]
pub struct Schedule {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Schedule {
    /// The schedule of a store.
    pub fn new(store: Store, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            store,
            clock,
            entropy,
        }
    }

    /// Claims a slot. Says whether it is ours.
    async fn claim(&self, job: &Job, slot: u64) -> Result<bool> {
        let claim = Claim {
            job: &job.name,
            slot,
            time: self.clock.now(),
            by: Nonce::random(&*self.entropy),
        };
        let mut text = serde_json::to_vec(&claim).map_err(Error::refused)?;
        text.push(b'\n');
        let key = layout::job(&job.name, slot);
        match self.store.create(&key, text.clone().into()).await? {
            Creation::New => Ok(true),
            Creation::Exists => Ok(self.store.read(&key).await?.is_some_and(|it| it == text)),
        }
    }

    /// Does the work in every slot that nobody else has claimed, for ever. The work is told its slot
    /// and says whether it succeeded.
    pub async fn run<'a>(&self, job: &Job, work: impl Fn(u64) -> BoxFuture<'a, bool> + Send) {
        let (mut looked_at, mut owed) = (None, None);
        loop {
            let slot = job.slot(self.clock.now());
            if looked_at != Some(slot) {
                match self.claim(job, slot).await {
                    Ok(is_ours) => {
                        looked_at = Some(slot);
                        owed = is_ours.then_some(slot);
                    }
                    Err(error) => {
                        tracing::warn!(job = job.name, slot, %error, "a slot could not be claimed");
                    }
                }
            }
            let mut pause = LOOK_EVERY;
            if owed == Some(slot) {
                if work(slot).await {
                    owed = None;
                } else {
                    pause = RETRY;
                }
            }
            // Past the beginning of the next slot, whatever it took.
            let left = job.left(self.clock.now());
            tokio::time::sleep(pause.min(left)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;
    use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn schedule(store: &Store, clock: &Arc<SimulatedClock>, seed: u64) -> Schedule {
        let clock = Arc::<SimulatedClock>::clone(clock);
        Schedule::new(store.clone(), clock, Arc::new(SeededEntropy::new(seed)))
    }

    /// Goal: of several gateways one does the work of each slot, and a dead one's slot is followed by
    /// a slot that is done.
    /// Method: three of them for ten days of simulated time; one dies with each slot that it gets.
    #[tokio::test(start_paused = true)]
    async fn each_slot_is_done_once() {
        let store = Store::memory();
        let clock = Arc::new(SimulatedClock::following(EPOCH));
        let job = Job::new("job".into(), DAY);
        let done = Mutex::new(Vec::new());
        let gateways = [1, 2, 3].map(|seed| schedule(&store, &clock, seed));
        let works = gateways.each_ref().map(|gateway| {
            gateway.run(&job, |slot| {
                let done = &done;
                async move {
                    tokio::time::sleep(Duration::from_secs(300)).await;
                    done.lock().unwrap().push(slot);
                    true
                }
                .boxed()
            })
        });
        let all = futures::future::join_all(works);
        let ended = tokio::time::timeout(DAY * 10, all).await;
        assert!(ended.is_err());
        let done = done.into_inner().unwrap();
        let first = job.slot(EPOCH);
        let expected: Vec<u64> = (first..first + done.len() as u64).collect();
        assert_eq!(done, expected);
        assert!((10..=11).contains(&done.len()), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_slot_of_a_dead_gateway_is_not_retaken_and_the_next_one_is() {
        let store = Store::memory();
        let clock = Arc::new(SimulatedClock::following(EPOCH));
        let job = Job::new("job".into(), DAY);
        let dying = schedule(&store, &clock, 1);
        let forever = dying.run(&job, |_| std::future::pending().boxed());
        drop(tokio::time::timeout(Duration::from_secs(1), forever).await);
        let done = Mutex::new(Vec::new());
        let other = schedule(&store, &clock, 2);
        let work = other.run(&job, |slot| {
            done.lock().unwrap().push(slot);
            std::future::ready(true).boxed()
        });
        drop(tokio::time::timeout(DAY * 2, work).await);
        let first = job.slot(EPOCH);
        assert_eq!(*done.lock().unwrap(), [first + 1, first + 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_in_its_slot() {
        let store = Store::memory();
        let clock = Arc::new(SimulatedClock::following(EPOCH));
        let job = Job::new("job".into(), DAY);
        let tries = Mutex::new(Vec::new());
        let schedule = schedule(&store, &clock, 1);
        let work = schedule.run(&job, |slot| {
            let mut tries = tries.lock().unwrap();
            tries.push(slot);
            std::future::ready(tries.len() == 3).boxed()
        });
        drop(tokio::time::timeout(Duration::from_secs(3_600), work).await);
        assert_eq!(*tries.lock().unwrap(), [job.slot(EPOCH); 3]);
    }
}
