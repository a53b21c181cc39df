//! How the engine tells a watching person where it is.

/// A stretch of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking at the folder.
    Scan,
    /// Asking what is new, and receiving what comes along with the answer.
    Ask,
    /// Sending content; counted in bytes before compression, once they have been taken over.
    Send,
    /// Receiving content; counted in stored bytes.
    Receive,
    /// Putting files in their places; counted in files.
    Place,
}

/// Told about each stretch of work. Every method may do nothing.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A phase begins, with so much to do.
    fn begin(&self, phase: Phase, total: u64);
    /// So much more of it is done.
    fn advance(&self, done: u64);
    /// The phase is over.
    fn end(&self);
}

/// Nobody is watching.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn begin(&self, _: Phase, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
