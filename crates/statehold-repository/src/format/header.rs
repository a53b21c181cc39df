//! The skippable frame at the start of every object: what it is, and how it is encrypted.

use crate::error::{Error, Result};

/// Length of the header of an unencrypted object, in bytes.
pub const HEADER_BYTES: usize = 16;

/// The magic number of the first skippable frame kind of zstd.
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const MARK: [u8; 4] = *b"SHLD";
const FORMAT: u8 = 1;
/// No encryption. The salt is empty then.
const CIPHER_NONE: u8 = 0;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A record of the log.
    Record = 1,
    /// A listing.
    Tree = 2,
    /// Content.
    Pack = 3,
    /// Sixteen records.
    Segment = 4,
    /// The state at a record.
    Checkpoint = 5,
    /// A draft on its way to whoever appends it; never stored in a repository.
    Draft = 6,
    /// The envelope of a record whose body was cut away.
    Retired = 7,
}

/// The header of an unencrypted object.
pub fn write(kind: ObjectKind) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&SKIPPABLE);
    header[4..8].copy_from_slice(&8_u32.to_le_bytes());
    header[8..12].copy_from_slice(&MARK);
    header[12..16].copy_from_slice(&[FORMAT, kind as u8, CIPHER_NONE, 0]);
    header
}

/// Whether an object says that it is a record whose body was cut away.
pub fn is_retired(bytes: &[u8]) -> bool {
    bytes.get(13) == Some(&(ObjectKind::Retired as u8))
}

/// Checks that the object is of this kind and gives what follows the header.
pub fn read<'a>(object: &str, bytes: &'a [u8], kind: ObjectKind) -> Result<&'a [u8]> {
    let (header, rest) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| Error::damaged(object, "it is too short to be an object"))?;
    if header[..4] != SKIPPABLE || header[8..12] != MARK {
        return Err(Error::damaged(
            object,
            "it does not begin like an object of a repository",
        ));
    }
    let [format, found, cipher, salt] = [header[12], header[13], header[14], header[15]];
    if format > FORMAT {
        return Err(Error::TooNew {
            what: format!("{object} of format {format}"),
        });
    }
    if cipher != CIPHER_NONE || salt != 0 {
        return Err(Error::TooNew {
            what: format!("{object}, encrypted with cipher {cipher},"),
        });
    }
    if found != kind as u8 || header[4..8] != 8_u32.to_le_bytes() || format == 0 {
        return Err(Error::damaged(
            object,
            format!("it is of kind {found}, not {}", kind as u8),
        ));
    }
    Ok(rest)
}
