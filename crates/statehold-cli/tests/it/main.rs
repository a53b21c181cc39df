//! The `statehold` command as its users run it.

#[cfg(test)]
mod lost_host;
#[cfg(test)]
mod recovery;
