//! Never shipped: what Statehold's own tests run in.
//!
//! Reading order:
//!
//! 1. [`environment`]: a clock that is set, and randomness that follows from a seed.
//! 2. [`faulty_store`]: stores that misbehave in every way that a network store can.
//! 3. [`crash`]: a future dropped at one of its awaits.

pub mod crash;
pub mod environment;
pub mod faulty_store;
pub mod trace;
