//! Which programs understand each other: client and gateway may be one minor version apart.

use std::fmt;
use std::str::FromStr;

/// The version of this program.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

/// Major and minor number of a version. Patches never change what crosses the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when older programs are left behind.
    pub major: u32,
    /// Changes with every release that adds something.
    pub minor: u32,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a version like 1.2.3, found {found:?}")]
pub struct InvalidVersion {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl FromStr for Version {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(InvalidVersion {
                found: text.chars().take(80).collect(),
            }),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// The version of this program.
    pub fn own() -> Self {
        OWN.parse().unwrap_or(Self { major: 0, minor: 0 })
    }

    /// Whether programs of the two versions can work together.
    pub const fn understands(self, other: Self) -> bool {
        self.major == other.major && self.minor.abs_diff(other.minor) <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_apart_is_understood() {
        let at = |text: &str| text.parse::<Version>().unwrap();
        assert!(at("0.3.9").understands(at("0.4.0")));
        assert!(at("0.4.0").understands(at("0.3")));
        assert!(!at("0.3.0").understands(at("0.5.0")));
        assert!(!at("0.9.0").understands(at("1.0.0")));
        assert!(Version::own().understands(at(OWN)));
        for bad in ["", "1", "x.y", "-1.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad} was taken");
        }
    }
}
