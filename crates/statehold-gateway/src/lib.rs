//! The HTTP service in front of a store. It alone holds the store's credentials; its clients hold
//! keys, and a key says whose data it opens.
//!
//! Reading order:
//!
//! 1. [`registry`]: tenants, repositories, keys and invites as the fold of a log.
//! 2. `control`: that log, and the copy of the registry that requests are checked against.
//! 3. `auth`: from a request to what it may do; the only way to a repository.
//! 4. [`hosted`]: a repository as a gateway serves it: appends stand in a queue.
//! 5. [`gateway`]: all of it on one store, and what its operator can do.
//! 6. `routes`, `handlers`, `files`: the HTTP interface, and [`openapi`], its description; `push`,
//!    `pull`: the two that move most; `heads`: the one that goes on. `guard`: what every request passes first.
//! 7. [`schedule`]: what is done without being asked, once for all gateways of a store;
//!    [`replication`]: the whole store, copied to another one; [`drills`]: restored, to see that it can be;
//!    `collections`: what nobody needs any more is let go and deleted.
//! 8. [`server`]: listening, limits of connections, stopping. [`tls`]: certificates.
//!
//! # Invariants
//!
//! - Nothing is kept in a gateway that is not in the store: any number of them serve one store, and
//!   any request may be repeated at any of them.
//! - A handler gets a repository through `auth::Access` or not at all.
//! - No tenant or key is ever named by anything in a request but its key, and a repository only
//!   among the key's own.
//! - A success is not reported before the store has confirmed it.
//! - Secrets are neither stored nor logged: the gateway knows hashes.

mod auth;
mod collections;
mod control;
pub mod drills;
mod files;
pub mod gateway;
mod guard;
mod handlers;
pub mod heads;
pub mod hosted;
pub mod openapi;
mod pull;
mod push;
mod refusal;
pub mod registry;
mod registry_log;
pub mod replication;
mod routes;
pub mod schedule;
pub mod server;
mod stream;
pub mod switch;
pub mod tls;

pub use control::CONTROL_PREFIX;
pub use gateway::Gateway;
pub use hosted::HostedRepository;
pub use server::Server;
