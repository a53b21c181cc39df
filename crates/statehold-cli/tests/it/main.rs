//! The `statehold` command as its users run it.

#[cfg(test)]
mod recovery;
