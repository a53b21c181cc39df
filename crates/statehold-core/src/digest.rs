//! Content digests: BLAKE3 for chunks, files, records and trees; SHA-256 for the manifest.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Text that is not the hexadecimal form of the expected number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct InvalidHex {
    /// Number of digits that a valid value has.
    pub expected: usize,
    /// What stood there, cut to 80 characters.
    pub found: String,
}

pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidHex> {
    let invalid = || InvalidHex {
        expected: N * 2,
        found: text.chars().take(80).collect(),
    };
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(invalid());
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        match (value(pair[0]), value(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(invalid()),
        }
    }
    Ok(bytes)
}

pub(crate) fn format_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; 64];
    let mut used = 0;
    for byte in bytes.iter().take(32) {
        text[used] = DIGITS[usize::from(byte >> 4)];
        text[used + 1] = DIGITS[usize::from(byte & 15)];
        used += 2;
    }
    f.pad(std::str::from_utf8(&text[..used]).unwrap_or_default())
}

/// Gives a fixed-size byte value its lower-case hexadecimal text form: `Display`, `Debug`,
/// `FromStr` and serde (text in JSON, bytes in binary formats).
macro_rules! hex_value {
    ($name:ident, $size:literal) => {
        impl $name {
            /// The value as bytes.
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }
            /// The value made of these bytes.
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $crate::digest::format_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = $crate::digest::InvalidHex;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::digest::parse_hex(text).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    deserializer
                        .deserialize_bytes($crate::digest::FixedBytes)
                        .map(Self)
                }
            }
        }
    };
}
pub(crate) use hex_value;

/// Reads so many bytes in one piece: element by element, an index of many files takes long.
pub(crate) struct FixedBytes<const N: usize>;

impl<const N: usize> Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        <[u8; N]>::try_from(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// A BLAKE3 digest: names chunks, whole files, records and listing pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

hex_value!(Digest, 32);

impl Digest {
    /// The BLAKE3 digest of these bytes.
    ///
    /// ```
    /// use statehold_core::digest::Digest;
    /// assert!(Digest::of(b"").to_string().starts_with("af1349b9f5f9a1a6"));
    /// ```
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// A SHA-256 digest, kept for synchronised files because the manifest speaks it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

hex_value!(Sha256, 32);

impl Sha256 {
    /// The SHA-256 digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// Computes both digests of a file in one pass, a block at a time.
#[derive(Debug, Clone, Default)]
pub struct FileHasher {
    blake3: blake3::Hasher,
    sha256: sha2::Sha256,
}

impl FileHasher {
    /// Takes in the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
    }

    /// The digests of everything taken in.
    pub fn finish(self) -> (Digest, Sha256) {
        (
            Digest(*self.blake3.finalize().as_bytes()),
            Sha256(self.sha256.finalize().into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_other_text() {
        let digest = Digest::of(b"statehold");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in [
            "",
            "00",
            &"g".repeat(64),
            &digest.to_string().to_uppercase(),
            &"é".repeat(32),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn hasher_agrees_with_one_shot_digests() {
        let mut hasher = FileHasher::default();
        hasher.update(b"state");
        hasher.update(b"hold");
        assert_eq!(
            hasher.finish(),
            (Digest::of(b"statehold"), Sha256::of(b"statehold"))
        );
    }
}
