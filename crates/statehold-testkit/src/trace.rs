//! What happened in a run, line by line, and the digest that two runs of one seed share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use statehold_core::digest::Digest;

/// Lines that are kept to be shown with a failure.
const KEPT_LINES: usize = 60000;

/// A growing trace. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    digest: Digest,
    last: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Self {
        let (digest, last) = (Digest::of(b""), VecDeque::new());
        Self {
            inner: Arc::new(Mutex::new(Inner { digest, last })),
        }
    }
}

impl Trace {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the lines before it, which is what one wants to see.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub fn line(&self, line: String) {
        let mut inner = self.inner();
        let mut chained = inner.digest.as_bytes().to_vec();
        chained.extend_from_slice(line.as_bytes());
        inner.digest = Digest::of(&chained);
        if inner.last.len() == KEPT_LINES {
            inner.last.pop_front();
        }
        inner.last.push_back(line);
    }

    /// Digest of every line so far, in order.
    pub fn digest(&self) -> Digest {
        self.inner().digest
    }

    /// The newest lines.
    pub fn last(&self) -> Vec<String> {
        self.inner().last.iter().cloned().collect()
    }
}
