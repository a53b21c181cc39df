//! The two traits through which time and randomness enter the program.
//!
//! The product passes the operating system's; the simulation passes seeded ones, which is what
//! makes a failing run repeatable.

use std::fmt;

use crate::time::Timestamp;

/// Tells the time of day. Used for ages and for display, never for order.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Gives random bytes fit for keys.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}
