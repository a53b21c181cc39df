//! What a manager tells those who listen: every event of its life, typed, as a stream.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use serde::Serialize;

use crate::alarm::Alarm;
use crate::conflict::Conflict;
use crate::identity::Origin;
use crate::limits::EVENTS_WAITING_MAX;
use crate::node::{Key, NodeId};

/// What a manager is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing.
    #[default]
    Idle,
    /// It takes in what others sent.
    Syncing,
    /// The last exchange failed.
    Error,
    /// A conflict waits for somebody to resolve it.
    Conflict,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// The status is another one.
    StatusChanged {
        /// What it was.
        previous: Status,
        /// What it is.
        current: Status,
    },
    /// A state was created here.
    StateCreated {
        /// Which.
        key: Key,
    },
    /// A state was changed here.
    StateUpdated {
        /// Which.
        key: Key,
    },
    /// A state was deleted here.
    StateDeleted {
        /// Which.
        key: Key,
    },
    /// A state is another one by what came from elsewhere.
    StateSynced {
        /// Which.
        key: Key,
        /// Whose event it was.
        node: NodeId,
        /// Whether it is gone by it.
        is_deleted: bool,
    },
    /// Everything that another node exported was taken over.
    StateImported {
        /// How many states are there now that were not there before, or are other ones.
        states: usize,
    },
    /// Several nodes wrote one state at once.
    ConflictDetected {
        /// What contradicts what.
        conflict: Conflict,
    },
    /// A conflict is settled.
    ConflictResolved {
        /// Of which state.
        key: Key,
    },
    /// What was done is durable.
    Saved {
        /// How many events.
        events: usize,
    },
    /// The folder was read. Told to the first who listens.
    Loaded {
        /// Batches beyond the snapshot.
        batches: usize,
        /// Half written ends that were cut off.
        torn: usize,
    },
    /// An exchange in the background failed; it is tried again.
    Error {
        /// What it said.
        message: String,
    },
    /// It is time for an exchange.
    AutoSyncTick,
    /// This folder writes as another node from now on.
    NodeChanged {
        /// As which.
        node: NodeId,
        /// Why.
        origin: Origin,
    },
    /// An event is dated further ahead than clocks differ. It was taken.
    ClockAhead {
        /// Whose event.
        node: NodeId,
        /// By how many milliseconds.
        milliseconds: u64,
    },
    /// Two nodes cannot both be right.
    Alarm {
        /// About what.
        alarm: Alarm,
    },
    /// This listener was too slow, and so many notices before this one were dropped.
    Lagged {
        /// How many.
        dropped: u64,
    },
}

impl Notice {
    /// The state that it is about, if it is about one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::StateCreated { key }
            | Self::StateUpdated { key }
            | Self::StateDeleted { key }
            | Self::StateSynced { key, .. }
            | Self::ConflictResolved { key } => Some(key),
            Self::ConflictDetected { conflict } => Some(&conflict.key),
            _ => None,
        }
    }
}

/// Notices as they come: a stream, an iterator that waits, or one at a time.
///
/// Ends when its manager is closed. At most 4,096 wait; past that the oldest are dropped, and
/// [`Notice::Lagged`] says how many.
pub struct Notices {
    queue: Arc<Queue>,
}

impl Notices {
    /// The next notice if there is one.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.queue.lock().take()
    }

    /// The next notice, waited for at most this long.
    pub fn next_within(&mut self, patience: Duration) -> Option<Notice> {
        // Nothing where it lies beyond what the machine's clock can say: waited for without end.
        let end = Instant::now().checked_add(patience);
        let mut waiting = self.queue.lock();
        loop {
            if let Some(notice) = waiting.take() {
                return Some(notice);
            }
            let left = end.map_or(Duration::MAX, |end| {
                end.saturating_duration_since(Instant::now())
            });
            if waiting.is_closed || left.is_zero() {
                return None;
            }
            waiting = self
                .queue
                .arrived
                .wait_timeout(waiting, left)
                .map_or_else(|error| error.into_inner().0, |(guard, _)| guard);
        }
    }
}

impl Iterator for Notices {
    type Item = Notice;

    /// Waits for the next notice; nothing once the manager is closed.
    fn next(&mut self) -> Option<Notice> {
        let mut waiting = self.queue.lock();
        loop {
            if let Some(notice) = waiting.take() {
                return Some(notice);
            }
            if waiting.is_closed {
                return None;
            }
            waiting = self
                .queue
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut waiting = self.queue.lock();
        if let Some(notice) = waiting.take() {
            return Poll::Ready(Some(notice));
        }
        if waiting.is_closed {
            return Poll::Ready(None);
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// Only notices about this state, if it is for one.
    only: Option<Key>,
}

#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    dropped: u64,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Waiting {
    fn take(&mut self) -> Option<Notice> {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            return Some(Notice::Lagged { dropped });
        }
        self.notices.pop_front()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, notice: &Notice) {
        if self.only.is_some() && self.only.as_ref() != notice.key() {
            return;
        }
        let mut waiting = self.lock();
        if waiting.notices.len() >= EVENTS_WAITING_MAX {
            waiting.notices.pop_front();
            waiting.dropped += 1;
        }
        waiting.notices.push_back(notice.clone());
        self.wake(waiting);
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.wake(waiting);
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let waker = waiting.waker.take();
        drop(waiting);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Everybody who listens to a manager.
pub(crate) struct Listeners {
    queues: Mutex<Vec<Weak<Queue>>>,
    /// What happened before anybody could listen, for the first who does.
    earlier: Mutex<Option<Notice>>,
}

impl Listeners {
    pub(crate) fn after(earlier: Option<Notice>) -> Self {
        Self {
            queues: Mutex::default(),
            earlier: Mutex::new(earlier),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(&self, only: Option<Key>) -> Notices {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            only,
        });
        if queue.only.is_none() {
            let earlier = self
                .earlier
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(earlier) = earlier {
                queue.push(&earlier);
            }
        }
        self.lock().push(Arc::downgrade(&queue));
        Notices { queue }
    }

    /// Whether telling is worth the work.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn tell(&self, notice: &Notice) {
        self.lock().retain(|queue| {
            let queue = queue.upgrade();
            if let Some(queue) = &queue {
                queue.push(notice);
            }
            queue.is_some()
        });
    }

    pub(crate) fn close(&self) {
        for queue in self.lock().drain(..) {
            if let Some(queue) = queue.upgrade() {
                queue.close();
            }
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners")
            .field(&self.lock().len())
            .finish()
    }
}
