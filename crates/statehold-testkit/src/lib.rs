//! Never shipped: what Statehold's own tests run in.
//!
//! Reading order:
//!
//! 1. [`environment`]: a clock that is set, and randomness that follows from a seed.
//! 2. [`faulty_store`]: stores that misbehave in every way that a network store can.
//! 3. [`crash`]: a future dropped at one of its awaits.
//! 4. [`gateway`]: a gateway without HTTP, which can be killed, and the connection to it.
//! 5. [`client`]: random pushes and pulls, and what survives a crash.
//! 6. [`invariants`]: what has to be true after every step.
//! 7. [`world`]: all of it together, after one seed: [`simulate`].
//!    [`switching`]: the log changes stores meanwhile. [`compacting`]: hours of compaction in no time.
//!    [`seeded`]: how each is run again.
//! 8. [`trace`]: what happened, and its digest.
//! 9. [`machine`]: machines with real folders that share a repository.
//! 10. [`conformance`]: what every store has to do.
//! 11. [`author`]: pushes from plain lists of paths and contents; [`hooked`]: what others do just then.
//! 12. [`servers`]: real object stores, installed and started by the tests that need them.
//! 13. [`loopback`], [`google_double`]: a front before a real server, and a double of one that can't
//!     be had.
//! 14. [`process`]: the real program, with gateways and machines as processes.
//! 15. [`killing`]: the real program under `kill -9`.
//! 16. [`mount`]: folders that are full or can't be written to, also for root.
//! 17. [`histories`]: random histories of application state.
//! 18. [`state_killing`]: a process that writes application state under `kill -9`.
//! 19. [`carrying`]: application state on real machines, carried by push and pull.
//!     [`watching`]: by `statehold watch`, while it is measured, left alone and killed.
//! 20. [`commits`]: histories of trees; [`replay`]: pushed and restored again.
//!
//! And for measurements:
//!
//! - [`text_tree`]: folders full of small text files.
//! - [`delay_proxy`]: a server seen from further away; [`slow_store`]: rounds of requests.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod author;
pub mod carrying;
pub mod client;
pub mod collecting;
pub mod commits;
pub mod compacting;
pub mod conformance;
pub mod crash;
pub mod dated_store;
pub mod delay_proxy;
pub mod environment;
pub mod faulty_store;
pub mod gateway;
pub mod google_double;
pub mod histories;
pub mod hooked;
pub mod invariants;
pub mod killing;
pub mod loopback;
pub mod machine;
pub mod mount;
pub mod process;
pub mod replay;
pub mod seeded;
pub mod servers;
pub mod slow_store;
pub mod state_killing;
pub mod switching;
pub mod text_tree;
pub mod trace;
pub mod watching;
pub mod world;

pub use seeded::Failure;
pub use world::{Report, simulate, simulate_many};

/// Everything runs on one thread and no guard is held across an await, so a poisoned lock only
/// says that a test is failing already.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
