//! Exchanges in the background: a tick at each interval, and again when one fails.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::manager::Manager;
use crate::notice::{Notice, Status};

/// How often exchanges are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoSyncOptions {
    /// From one exchange to the next.
    pub interval: Duration,
    /// How often a failed exchange is tried again before the next tick.
    pub retries: u32,
    /// How long before it is tried again.
    pub retry_delay: Duration,
}

impl Default for AutoSyncOptions {
    /// Every 30 s; a failed one three times more, 1 s apart.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            retries: 3,
            retry_delay: Duration::from_secs(1),
        }
    }
}

/// Exchanges in the background, until this is dropped.
pub struct AutoSync {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_asked: Mutex<bool>,
    asked: Condvar,
}

impl Stop {
    /// Waits so long, or until it is asked to stop. Whether it was.
    fn wait(&self, time: Duration) -> bool {
        let asked = self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .asked
            .wait_timeout_while(asked, time, |is_asked| !*is_asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Manager {
    /// Begins exchanges: the first at once, then one at each interval. The function moves bytes
    /// ([`head`](Self::head), [`answer`](Self::answer), [`reconcile`](Self::reconcile)) by
    /// whatever transport there is; what it returns as an error becomes a notice, and it is tried
    /// again.
    pub fn auto_sync<E>(
        &self,
        options: AutoSyncOptions,
        mut exchange: impl FnMut(&Self) -> Result<(), E> + Send + 'static,
    ) -> AutoSync
    where
        E: fmt::Display,
    {
        let stop = Arc::new(Stop::default());
        let manager = self.clone();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                loop {
                    manager.tell(&Notice::AutoSyncTick);
                    for attempt in 0..=options.retries {
                        let Err(error) = exchange(&manager) else {
                            manager.refresh_status();
                            break;
                        };
                        manager.set_status(Status::Error);
                        manager.tell(&Notice::Error {
                            message: error.to_string(),
                        });
                        let is_last = attempt == options.retries;
                        if !is_last && stop.wait(options.retry_delay) {
                            return;
                        }
                    }
                    if stop.wait(options.interval) {
                        return;
                    }
                }
            }
        });
        AutoSync {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for AutoSync {
    fn drop(&mut self) {
        *self
            .stop
            .is_asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.asked.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in the exchange was the exchange's; it ended the thread and nothing else.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for AutoSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoSync").finish_non_exhaustive()
    }
}
