//! Real servers on real stores, and the client that ships.

mod bounds;
mod keys;
mod transfer;
mod world;
