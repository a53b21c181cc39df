//! The engine on real folders, over a repository in memory.

#[cfg(test)]
mod bandwidth;
#[cfg(test)]
mod collected;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod moved;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod switch;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod watch;
