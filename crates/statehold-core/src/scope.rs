//! Named groups of paths. `--auto` takes `state` alone; the others have to be asked for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::path::RepoPath;

/// A group of paths that one call works on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything but the program and the sources.
    State,
    /// The program file, `program.md`.
    Program,
    /// The folder `sources/`.
    Sources,
    /// Everything.
    #[default]
    All,
}

impl Scope {
    /// Whether the path belongs to the group.
    pub fn contains(self, path: &RepoPath) -> bool {
        let own = if path.as_str() == "program.md" {
            Self::Program
        } else if path.as_str() == "sources" || path.is_inside("sources") {
            Self::Sources
        } else {
            Self::State
        };
        self == Self::All || self == own
    }

    /// The name as typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Program => "program",
            Self::Sources => "sources",
            Self::All => "all",
        }
    }
}

/// A name that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no scope; there are state, program, sources and all")]
pub struct UnknownScope {
    /// What was typed.
    pub found: String,
}

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::State, Self::Program, Self::Sources, Self::All]
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| UnknownScope {
                found: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_sources_have_to_be_asked_for() {
        for (path, state, program, sources) in [
            ("state/memory.md", true, false, false),
            ("program.md", false, true, false),
            ("docs/program.md", true, false, false),
            ("sources/a/b.pdf", false, false, true),
            ("sources2/a", true, false, false),
        ] {
            let path = RepoPath::parse(path).unwrap();
            assert_eq!(Scope::State.contains(&path), state, "{path}");
            assert_eq!(Scope::Program.contains(&path), program, "{path}");
            assert_eq!(Scope::Sources.contains(&path), sources, "{path}");
            assert!(Scope::All.contains(&path));
        }
        assert!("everything".parse::<Scope>().is_err());
    }
}
