//! Which paths may travel: `sync-rules.json` with its two lists.
//!
//! Deny wins. Beneath a strict prefix (`state/log/` by default) every path has to match one of the
//! lists; one that matches neither is refused, so that a new log is never shared by accident. What
//! must never travel is denied whatever the file says.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::path::RepoPath;

/// The rules as they stand in `sync-rules.json`. Globs match whole paths; `*` stays within a name
/// and `**` crosses folders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRules {
    /// Paths that may travel beneath a strict prefix.
    #[serde(rename = "SYNC_ALLOW", default)]
    pub allow: Vec<String>,
    /// Paths that may not travel anywhere.
    #[serde(rename = "SYNC_DENY", default)]
    pub deny: Vec<String>,
    /// Folders, each ended by a slash, beneath which every path has to match a list.
    #[serde(default = "strict_prefixes")]
    pub strict_prefixes: Vec<String>,
    /// Logs that only grow: they may be large, and only their tail is sent.
    #[serde(default)]
    pub append_only: Vec<String>,
}

fn strict_prefixes() -> Vec<String> {
    vec!["state/log/".into()]
}

/// Denied whatever the rules say: what belongs to one machine, and what must not leave it.
const ALWAYS_DENIED: [&str; 9] = [
    "state/log/sync-manifest.json",
    "state/log/sync-events.ndjson",
    "state/log/sync-events.ndjson.*",
    "state/log/alerts/**",
    "state/log/secrets-rotation.ndjson",
    "_restore/**",
    "**/.statehold/**",
    "**/.git/**",
    "**/.git",
];

impl Default for SyncRules {
    fn default() -> Self {
        let logs = [
            "changelog.ndjson",
            "evals.aggregate.ndjson",
            "snapshots.ndjson",
        ];
        let logs: Vec<String> = logs
            .iter()
            .map(|name| format!("state/log/{name}"))
            .collect();
        let mut allow = logs.clone();
        allow.push("state/log/regen-queue/**".into());
        Self {
            allow,
            deny: Vec::new(),
            strict_prefixes: strict_prefixes(),
            append_only: logs,
        }
    }
}

/// What the rules say about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may travel.
    Allowed,
    /// A glob forbids it.
    Denied {
        /// The glob.
        glob: String,
    },
    /// It lies beneath a strict prefix and matches neither list.
    Uncovered {
        /// The prefix.
        prefix: String,
    },
}

/// Rules that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// The file is not what it should be.
    #[error("the sync rules are not valid: {message}")]
    Syntax {
        /// What is wrong.
        message: String,
    },
    /// A pattern is no glob.
    #[error("{glob:?} in the sync rules is no glob: {message}")]
    Glob {
        /// The pattern.
        glob: String,
        /// What is wrong.
        message: String,
    },
}

/// Rules made ready to match paths.
#[derive(Debug, Clone)]
pub struct RuleSet {
    rules: SyncRules,
    allow: GlobSet,
    deny: GlobSet,
    denied_globs: Vec<String>,
    append_only: GlobSet,
}

fn compile<'a>(globs: impl Iterator<Item = &'a String>) -> Result<GlobSet, InvalidRules> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let invalid = |error: globset::Error| InvalidRules::Glob {
            glob: glob.clone(),
            message: error.kind().to_string(),
        };
        set.add(
            GlobBuilder::new(glob)
                .literal_separator(true)
                .build()
                .map_err(invalid)?,
        );
    }
    set.build().map_err(|error| InvalidRules::Syntax {
        message: error.to_string(),
    })
}

impl RuleSet {
    /// Compiles the rules.
    pub fn new(rules: SyncRules) -> Result<Self, InvalidRules> {
        let fixed = ALWAYS_DENIED.iter().map(|glob| (*glob).to_owned());
        let denied_globs: Vec<String> = fixed.chain(rules.deny.iter().cloned()).collect();
        Ok(Self {
            allow: compile(rules.allow.iter())?,
            deny: compile(denied_globs.iter())?,
            append_only: compile(rules.append_only.iter())?,
            denied_globs,
            rules,
        })
    }

    /// Reads `sync-rules.json`.
    pub fn from_json(text: &[u8]) -> Result<Self, InvalidRules> {
        let syntax = |error: serde_json::Error| InvalidRules::Syntax {
            message: error.to_string(),
        };
        // Through a map first: serde would take a bare list for the fields in order.
        let fields: serde_json::Map<_, _> = serde_json::from_slice(text).map_err(syntax)?;
        let rules = serde_json::from_value(fields.into()).map_err(syntax)?;
        Self::new(rules)
    }

    /// Digest of all that [`Self::verdict`] goes by: rules of the same digest say the same of
    /// every path.
    pub fn digest(&self) -> Digest {
        Digest::of(format!("{:?}", (&self.rules, &self.denied_globs)).as_bytes())
    }

    /// Says whether a path may travel.
    pub fn verdict(&self, path: &RepoPath) -> Verdict {
        // Most paths are not denied, and to see that is cheaper than to collect by what they are.
        if self.deny.is_match(path.as_str())
            && let Some(index) = self.deny.matches(path.as_str()).first()
        {
            return Verdict::Denied {
                glob: self.denied_globs[*index].clone(),
            };
        }
        let mut strict = self.rules.strict_prefixes.iter();
        match strict.rfind(|prefix| path.as_str().starts_with(prefix.as_str())) {
            Some(prefix) if !self.allow.is_match(path.as_str()) => Verdict::Uncovered {
                prefix: prefix.clone(),
            },
            _ => Verdict::Allowed,
        }
    }

    /// Whether the path is a log that only grows.
    pub fn is_append_only(&self, path: &RepoPath) -> bool {
        self.append_only.is_match(path.as_str())
    }

    /// Whether the path may be larger than an ordinary file.
    pub fn may_be_large(&self, path: &RepoPath) -> bool {
        path.is_inside("sources") || self.is_append_only(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_and_strict_prefixes_need_a_match() {
        let rules = br#"{"SYNC_ALLOW":["state/log/a.ndjson","state/log/x/**"],
            "SYNC_DENY":["state/log/x/secret*","**/*.key"],"append_only":["state/log/a.ndjson"]}"#;
        let rules = RuleSet::from_json(rules).unwrap();
        let verdict = |text| rules.verdict(&RepoPath::parse(text).unwrap());
        let denied = |glob: &str| Verdict::Denied { glob: glob.into() };
        assert_eq!(verdict("state/log/a.ndjson"), Verdict::Allowed);
        assert_eq!(verdict("state/log/x/y/z"), Verdict::Allowed);
        assert_eq!(
            verdict("state/log/x/secret-1"),
            denied("state/log/x/secret*")
        );
        assert_eq!(verdict("a/b/c.key"), denied("**/*.key"));
        assert_eq!(
            verdict("state/log/new"),
            Verdict::Uncovered {
                prefix: "state/log/".into()
            }
        );
        assert_eq!(verdict("state/logs"), Verdict::Allowed);
        assert_eq!(verdict("_restore/x/y"), denied("_restore/**"));
        assert_eq!(
            verdict("state/log/alerts/a.md"),
            denied("state/log/alerts/**")
        );
        assert_eq!(verdict("nested/.git/config"), denied("**/.git/**"));
        assert!(rules.may_be_large(&RepoPath::parse("sources/a").unwrap()));
        assert!(!rules.may_be_large(&RepoPath::parse("a").unwrap()));
    }

    #[test]
    fn wrong_rules_are_refused() {
        for bad in [
            &b"{"[..],
            b"[]",
            br#"{"SYNC_ALLOWED":[]}"#,
            br#"{"SYNC_DENY":["a[b"]}"#,
        ] {
            assert!(RuleSet::from_json(bad).is_err());
        }
        assert!(RuleSet::new(SyncRules::default()).is_ok());
    }
}
