//! Workspaces: keeping a folder of this machine and a repository the same.
//!
//! The local half, in reading order:
//!
//! 1. [`folder`]: the user's folder; the only file that reads or changes what lies in it.
//! 2. [`ignore_file`], [`scan`]: what the folder holds, without reading what hasn't changed.
//! 3. [`stat_cache`], [`index`]: what is remembered between runs: digests by stamps, and the base
//!    of comparisons.
//! 4. [`preset`], [`workspace`], [`home`]: where settings, keys, rules and logs lie.
//! 5. [`coverage`]: whether the rules name everything that they have to;
//!    [`locks`]: who may work at the same time, and how often.
//! 6. [`events`], [`manifest_file`]: the two files that people and scripts read.
//! 7. [`atomic`]: replacing a file of Statehold's own whole or not at all.
//! 8. [`checks`]: what was verified and when; [`drills`]: what was restored to see that it can be.
//!
//! And the half that reaches out:
//!
//! 9. [`gateway_client`]: a repository behind a gateway; [`rate_limit`]: at a bounded rate.
//! 10. [`secrets`]: what is searched before it is sent.
//! 11. [`engine`]: scan, plan, carry out; [`journal`] and [`pull_journal`]: what a killed push
//!     and a killed pull left; `uploads`: what it had sent
//!     before; [`progress`]: what a watching person sees.
//!     [`watch`]: all of that whenever something changes; [`folder_watch`]: how that is noticed here.
//! 12. [`export`]: a tree as an archive or as a plain folder. [`held`]: content that a repository has lost, out of the folder.
//!
//! # Invariants
//!
//! - No symbolic link inside a workspace is ever followed.
//! - Nothing in a user's folder is replaced or removed unless it is what a scan saw there.
//! - What a scan could not look at never counts as deleted.
//! - Nothing here reads the environment or prints; places are handed in.

#[cfg(not(unix))]
compile_error!(
    "statehold-sync works on folders through directory handles, which it has for Unix only so far"
);

pub mod atomic;
pub mod checks;
pub mod coverage;
pub mod drills;
pub mod engine;
pub mod events;
pub mod export;
pub mod folder;
pub mod folder_watch;
pub mod gateway_client;
pub mod held;
pub mod home;
pub mod ignore_file;
pub mod index;
pub mod journal;
pub mod locks;
pub mod manifest_file;
pub mod path_map;
mod prefetched;
pub mod preset;
pub mod progress;
pub mod pull_journal;
pub mod rate_limit;
pub mod scan;
pub mod secrets;
pub mod stat_cache;
mod uploads;
pub mod watch;
pub mod workspace;
