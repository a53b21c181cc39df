//! Time and randomness for tests: a clock that is set or follows simulated time, and random bytes
//! that are the same for the same seed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::time::Timestamp;
use tokio::time::Instant;

/// Noon on a day in spring: where simulated time begins.
pub const EPOCH: Timestamp = Timestamp::from_millis(1_776_000_000_000);

/// A clock that moves only when it is told to, or together with tokio's paused time.
#[derive(Debug)]
pub struct SimulatedClock {
    millis: AtomicI64,
    follows: Option<Instant>,
}

impl SimulatedClock {
    /// A clock that stands at this moment until it is moved.
    pub const fn standing(at: Timestamp) -> Self {
        Self {
            millis: AtomicI64::new(at.as_millis()),
            follows: None,
        }
    }

    /// A clock that shows this moment now and moves with tokio's time. Made and read inside a
    /// runtime whose time is paused; outside of one it would show real time.
    pub fn following(at: Timestamp) -> Self {
        Self {
            millis: AtomicI64::new(at.as_millis()),
            follows: Some(Instant::now()),
        }
    }

    /// Puts the clock forward.
    pub fn advance(&self, by: Duration) {
        self.shift(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// Puts the clock forward by so many milliseconds, or back if there are fewer than none.
    pub fn shift(&self, millis: i64) {
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// Sets the clock.
    pub fn set(&self, at: Timestamp) {
        let passed = self.passed();
        self.millis
            .store(at.as_millis() - passed, Ordering::Relaxed);
    }

    fn passed(&self) -> i64 {
        let passed = self.follows.map_or(Duration::ZERO, |from| from.elapsed());
        i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(
            self.millis
                .load(Ordering::Relaxed)
                .saturating_add(self.passed()),
        )
    }
}

/// Random bytes that follow from a seed. Clones draw from the same stream.
#[derive(Debug, Clone)]
pub struct SeededEntropy {
    stream: Arc<Mutex<ChaCha8Rng>>,
}

impl SeededEntropy {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            stream: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
        }
    }

    /// A stream of its own, which follows from this one's next bytes.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self::new(self.number())
    }

    fn stream(&self) -> std::sync::MutexGuard<'_, ChaCha8Rng> {
        // A panic elsewhere leaves the stream where it was; any place in it is as good.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next 64 bits.
    pub fn number(&self) -> u64 {
        self.stream().next_u64()
    }

    /// A number below `end`, and 0 if that is 0. The bias of the remainder is of no matter here.
    pub fn below(&self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// Yes, so many times out of a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of these, or none if there are none.
    pub fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).ok()?)
    }

    /// So many bytes that no codec makes smaller.
    pub fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.stream().fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_stream_and_another_seed_another() {
        let draw = |seed| SeededEntropy::new(seed).bytes(64);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_stand_or_follow_paused_time() {
        let (standing, following) = (
            SimulatedClock::standing(EPOCH),
            SimulatedClock::following(EPOCH),
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(standing.now(), EPOCH);
        assert_eq!(following.now().as_millis() - EPOCH.as_millis(), 5_000);
        standing.advance(Duration::from_secs(2));
        following.set(EPOCH);
        assert_eq!(standing.now().as_millis() - EPOCH.as_millis(), 2_000);
        assert_eq!(following.now(), EPOCH);
    }
}
