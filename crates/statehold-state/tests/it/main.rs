//! The crate seen from outside: laws of the core, storage that is killed, the typed manager.

#[cfg(test)]
mod carried;
#[cfg(test)]
mod convergence;
#[cfg(test)]
mod flaws;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod managers;
#[cfg(test)]
mod model;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod world;
