//! A run of which everything follows from a seed, and what is said of one in which something did not hold.

use std::fmt;

use crate::invariants::Violation;
use crate::trace::Trace;

/// A run in which something did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What runs it again.
    pub again: String,
    /// What doesn't hold.
    pub violation: Violation,
    /// The last lines of the trace.
    pub last: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        write!(f, "{}", self.again)
    }
}

impl std::error::Error for Failure {}

/// Runs a world of a seed on one thread, in time that passes only where everybody waits.
pub(crate) fn run_seeded<R>(
    seed: u64,
    again: impl FnOnce() -> String,
    world: impl AsyncFnOnce(Trace) -> Result<R, Violation>,
) -> Result<R, Failure> {
    let trace = Trace::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime
        .block_on(Box::pin(world(trace.clone())))
        .map_err(|violation| Failure {
            seed,
            again: again(),
            violation,
            last: trace.last(),
        })
}
