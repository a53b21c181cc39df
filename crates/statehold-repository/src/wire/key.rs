//! Access keys and invites: a random secret that the client draws, and the hash of it that the
//! gateway holds.
//!
//! The text form is `shk1_<id>_<secret>_<check>` in lower-case hexadecimal: the prefix lets secret
//! scanners find it, and the check refuses a typo before anything is looked up.

use std::fmt;
use std::str::FromStr;

use statehold_core::digest::Digest;
use statehold_core::environment::Entropy;
use statehold_core::id::KeyId;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It doesn't have the form.
    #[error("expected {prefix}_ and three groups of digits; is the key complete?")]
    Form {
        /// What it should begin with.
        prefix: &'static str,
    },
    /// It has the form, and a wrong letter somewhere.
    #[error("a letter of the key is wrong: its check does not match")]
    Check,
}

/// 256 random bits. They are never shown, and wiped from memory when dropped.
#[derive(Clone, ZeroizeOnDrop)]
struct Secret([u8; 32]);

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            id: KeyId,
            secret: Secret,
        }

        impl $name {
            /// Draws a new one.
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut secret = Secret([0; 32]);
                entropy.fill(&mut secret.0);
                Self { id: KeyId::random(entropy), secret }
            }

            /// Its name, which is no secret.
            pub const fn id(&self) -> KeyId {
                self.id
            }

            /// What a gateway holds of it.
            pub fn hash(&self) -> Digest {
                hash($prefix, self.id, &self.secret)
            }

            /// The text form, to be stored or sent, never logged.
            pub fn reveal(&self) -> Zeroizing<String> {
                reveal($prefix, self.id, &self.secret)
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse($prefix, text).map(|(id, secret)| Self { id, secret })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.id)
            }
        }
    };
}

token! {
    /// Proves to a gateway who calls.
    Key, "shk1"
}
token! {
    /// Lets its holder make one key.
    Invite, "shi1"
}

/// What every key's text begins with, for those who must not let one slip through.
pub const KEY_PREFIX: &str = "shk1_";
/// What every invite's text begins with.
pub const INVITE_PREFIX: &str = "shi1_";

fn hash(prefix: &str, id: KeyId, secret: &Secret) -> Digest {
    let mut text = Zeroizing::new(Vec::with_capacity(96));
    text.extend_from_slice(b"statehold ");
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(b"\n");
    text.extend_from_slice(id.as_bytes());
    text.extend_from_slice(&secret.0);
    Digest::of(&text)
}

fn reveal(prefix: &str, id: KeyId, secret: &Secret) -> Zeroizing<String> {
    use fmt::Write as _;
    // Large enough from the start, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(128));
    let digits = Zeroizing::new(secret.0);
    write!(text, "{prefix}_{id}_").expect("a string takes any text");
    for byte in digits.iter() {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    let check = check(&text);
    write!(text, "_{check}").expect("a string takes any text");
    text
}

fn check(text: &str) -> String {
    let mut check = Digest::of(text.as_bytes()).to_string();
    check.truncate(8);
    check
}

fn parse(prefix: &'static str, text: &str) -> Result<(KeyId, Secret), InvalidKey> {
    let form = || InvalidKey::Form { prefix };
    let (checked, given) = text.rsplit_once('_').ok_or_else(form)?;
    let mut parts = checked.split('_');
    let (Some(found), Some(id), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form());
    };
    if found != prefix || (id.len(), secret.len(), given.len()) != (32, 64, 8) {
        return Err(form());
    }
    if check(checked) != given {
        return Err(InvalidKey::Check);
    }
    let id = id.parse().map_err(|_| form())?;
    // A digest has the same text form as a secret: 32 bytes in hexadecimal.
    let digits: Digest = secret.parse().map_err(|_| form())?;
    let mut bytes = *digits.as_bytes();
    let secret = Secret(bytes);
    bytes.zeroize();
    Ok((id, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counting;
    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            for (byte, value) in buffer.iter_mut().zip(7..) {
                *byte = value;
            }
        }
    }

    #[test]
    fn keys_round_trip_and_every_typo_is_noticed() {
        let key = Key::random(&Counting);
        let text = key.reveal();
        assert!(text.starts_with(KEY_PREFIX));
        let back: Key = text.parse().unwrap();
        assert_eq!((back.id(), back.hash()), (key.id(), key.hash()));
        for at in 0..text.len() {
            for wrong in ["0", "f", "x", "_", "F"] {
                let mut typo = text.to_string();
                typo.replace_range(at..=at, wrong);
                assert!(
                    typo == *text || typo.parse::<Key>().is_err(),
                    "{at} {wrong}"
                );
            }
            assert!(text[..at].parse::<Key>().is_err());
        }
        assert!(text.parse::<Invite>().is_err());
        assert!("shk1_é_ü_ö".parse::<Key>().is_err());
    }

    #[test]
    fn a_key_and_an_invite_of_the_same_bits_have_other_hashes() {
        let (key, invite) = (Key::random(&Counting), Invite::random(&Counting));
        assert_ne!(key.hash(), invite.hash());
        assert!(invite.reveal().starts_with(INVITE_PREFIX));
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = Key::random(&Counting);
        let shown = format!("{key:?} {:?}", Invite::random(&Counting));
        assert!(shown.contains(&key.id().to_string()));
        assert!(
            !shown.contains("0708090a0b0c0d0e0f101112131415161718"),
            "{shown}"
        );
    }
}
