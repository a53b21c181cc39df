//! How a file travels, by its size before compression.
//!
//! Edges are decimal: raw below 100,000 bytes, compressed from 100,000 to 10,000,000 inclusive,
//! refused above, unless the rules let the path be large.

use serde::{Deserialize, Serialize};

use crate::limits::{FILE_BYTES_MAX, LARGE_FILE_BYTES_MAX, RAW_BYTES_BELOW};

/// How strictly the size bands are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Compress whatever gains from it.
    #[default]
    Adaptive,
    /// Raw below 100 KB, compressed to 10 MB, literally.
    Classic,
}

/// What happens to a file of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Band {
    /// Sent as it is.
    Raw,
    /// Compressed first, and kept raw where that gains nothing.
    Compressed,
    /// Not sent.
    Refused {
        /// The limit it is over, in bytes.
        limit: u64,
    },
}

/// The message that goes with a refused file; it names the way round.
pub const TOO_LARGE: &str = "file too large for statehold sync; should this be in sources/?";

/// The band of a file. `may_be_large` says that the path lies under `sources/` or is an
/// append-only log named by the rules.
pub const fn band(size: u64, may_be_large: bool, profile: Profile) -> Band {
    let limit = if may_be_large {
        LARGE_FILE_BYTES_MAX
    } else {
        FILE_BYTES_MAX
    };
    if size > limit {
        return Band::Refused { limit };
    }
    match profile {
        Profile::Classic if size < RAW_BYTES_BELOW => Band::Raw,
        Profile::Classic | Profile::Adaptive => Band::Compressed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_border_at_minus_one_zero_and_plus_one() {
        let refused = Band::Refused { limit: 10_000_000 };
        for (size, classic, adaptive) in [
            (0, Band::Raw, Band::Compressed),
            (99_999, Band::Raw, Band::Compressed),
            (100_000, Band::Compressed, Band::Compressed),
            (100_001, Band::Compressed, Band::Compressed),
            (9_999_999, Band::Compressed, Band::Compressed),
            (10_000_000, Band::Compressed, Band::Compressed),
            (10_000_001, refused, refused),
        ] {
            assert_eq!(band(size, false, Profile::Classic), classic, "{size}");
            assert_eq!(band(size, false, Profile::Adaptive), adaptive, "{size}");
        }
        assert_eq!(band(10_000_001, true, Profile::Classic), Band::Compressed);
    }
}
