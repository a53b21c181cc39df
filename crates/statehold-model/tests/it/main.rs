//! The model, checked: all promises hold with all rules, and each rule is one that a promise needs.

mod flaws;
mod promises;

/// Threads that a check may use.
const THREADS: usize = 2;
