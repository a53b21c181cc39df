//! Real servers on real stores, and the client that ships.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod files;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod moved;
#[cfg(test)]
mod one_request;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod owned;
#[cfg(test)]
mod replication;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod world;
