//! Random names: 128 bits, drawn once, never derived from content.
//!
//! A pack's name in particular is unique per upload, so that a delayed delete can never hit an
//! object that was uploaded again.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::hex_value;
use crate::environment::Entropy;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        hex_value!($name, 16);

        impl $name {
            /// Draws a new one.
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut bytes = [0; 16];
                entropy.fill(&mut bytes);
                Self(bytes)
            }
        }
    };
}

id! {
    /// Names a tenant for as long as it exists, whatever its keys and its label.
    TenantId
}
id! {
    /// Names a repository for as long as it exists.
    RepositoryId
}
id! {
    /// Names a workspace folder on one machine.
    WorkspaceId
}
id! {
    /// Names a machine that shares a repository.
    MachineId
}
id! {
    /// Names an access key without revealing it.
    KeyId
}
id! {
    /// Names one uploaded pack.
    PackId
}
id! {
    /// Names one uploaded tree object.
    TreeId
}
id! {
    /// Drawn by the writer of a record before its first attempt, so that it recognises its own
    /// record after a lost answer.
    Nonce
}
