//! Which paths may travel: `sync-rules.json` with its two lists.
//!
//! Deny wins. Beneath a strict prefix (`state/log/` by default) every path has to match one of the
//! lists; one that matches neither is refused, so that a new log is never shared by accident. What
//! must never travel is denied whatever the file says. Names under which tools keep credentials are
//! denied too, unless `SYNC_ALLOW` names that very path.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::node_logs::is_node_log;
use crate::path::RepoPath;

/// Where the rules of a repository lie, if it holds any: the agent workspace's own file, which
/// travels like every other and which a gateway goes by.
pub const SHARED_RULES_PATH: &str = "state/bin/sync/sync-rules.json";

/// Largest such file that counts, in bytes. A larger one counts as none.
pub const SHARED_RULES_BYTES_MAX: u64 = 1024 * 1024;

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
const ALWAYS_DENIED: [&str; 10] = [
    "state/log/sync-manifest.json",
    "state/log/sync-events.ndjson",
    "state/log/sync-events.ndjson.*",
    "state/log/alerts/**",
    "state/log/snapshots.ndjson",
    "state/log/secrets-rotation.ndjson",
    "_restore/**",
    "**/.statehold/**",
    "**/.git/**",
    "**/.git",
];

/// Names under which tools keep credentials. Certificates and settings files that hold one only now
/// and then are told by their content instead: [`crate::secrets`].
const SECRET_NAMES: [&str; 18] = [
    "**/.credentials.json",
    "**/credentials.json",
    "**/auth.json",
    "**/.env",
    "**/.env.*",
    "**/.netrc",
    "**/_netrc",
    "**/.pgpass",
    "**/.pypirc",
    "**/.git-credentials",
    "**/id_rsa",
    "**/id_dsa",
    "**/id_ecdsa",
    "**/id_ecdsa_sk",
    "**/id_ed25519",
    "**/id_ed25519_sk",
    "**/.aws/credentials",
    "**/.vault-token",
];

/// Ends of names that show what belongs into a file with credentials.
const TEMPLATE_ENDINGS: [&str; 4] = [".example", ".sample", ".template", ".dist"];

impl Default for SyncRules {
    fn default() -> Self {
        let logs = ["changelog.ndjson", "evals.aggregate.ndjson"];
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

/// Which rule decides about a path, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum Reason {
    /// It may travel since no rule says otherwise.
    NoRule,
    /// It may travel: `SYNC_ALLOW` names it.
    Allow {
        /// The glob.
        glob: String,
    },
    /// It may not, whatever the rules file says.
    AlwaysDenied {
        /// The glob.
        glob: String,
    },
    /// It may not: `SYNC_DENY` names it.
    Deny {
        /// The glob.
        glob: String,
    },
    /// It may not: tools keep credentials under this name. `SYNC_ALLOW` with the very path allows it.
    SecretName {
        /// The glob.
        glob: String,
    },
    /// It may not: beneath this prefix every path has to match a list.
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
    secret_names: GlobSet,
    /// Paths in the allow list that are no patterns.
    named: BTreeSet<String>,
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

impl Default for RuleSet {
    fn default() -> Self {
        Self::new(SyncRules::default())
            .expect("the globs in this file are globs; a test reads them")
    }
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
            secret_names: compile(SECRET_NAMES.map(str::to_owned).iter())?,
            named: rules.allow.iter().cloned().collect(),
            denied_globs,
            rules,
        })
    }

    /// The rules as they would stand in `sync-rules.json`.
    pub const fn rules(&self) -> &SyncRules {
        &self.rules
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
        // What is denied by name may change from one version of this program to the next.
        let version = env!("CARGO_PKG_VERSION");
        Digest::of(format!("{:?}", (version, &self.rules, &self.denied_globs)).as_bytes())
    }

    /// Says whether a path may travel.
    pub fn verdict(&self, path: &RepoPath) -> Verdict {
        match self.secret_name(path) {
            Some(glob) => match self.shared_verdict(path) {
                denied @ Verdict::Denied { .. } => denied,
                Verdict::Allowed | Verdict::Uncovered { .. } => {
                    Verdict::Denied { glob: glob.into() }
                }
            },
            None => self.shared_verdict(path),
        }
    }

    /// The same, but for names of credentials: what a gateway goes by. A path that may travel from
    /// one machine by its own rules file is no other's business, and the gateway doesn't see that
    /// file.
    pub fn shared_verdict(&self, path: &RepoPath) -> Verdict {
        // Most paths are not denied, and to see that is cheaper than to collect by what they are.
        if self.deny.is_match(path.as_str())
            && let Some(index) = self.deny.matches(path.as_str()).first()
        {
            return Verdict::Denied {
                glob: self.denied_globs[*index].clone(),
            };
        }
        match self.strict_prefix(path) {
            Some(prefix) if !self.allow.is_match(path.as_str()) => Verdict::Uncovered {
                prefix: prefix.to_owned(),
            },
            _ => Verdict::Allowed,
        }
    }

    /// Says which rule decides about a path.
    pub fn explain(&self, path: &RepoPath) -> Reason {
        if let Some(index) = self.deny.matches(path.as_str()).first() {
            let glob = self.denied_globs[*index].clone();
            return if *index < ALWAYS_DENIED.len() {
                Reason::AlwaysDenied { glob }
            } else {
                Reason::Deny { glob }
            };
        }
        if let Some(glob) = self.secret_name(path) {
            return Reason::SecretName { glob: glob.into() };
        }
        if let Some(index) = self.allow.matches(path.as_str()).first() {
            let glob = self.rules.allow[*index].clone();
            return Reason::Allow { glob };
        }
        match self.strict_prefix(path) {
            Some(prefix) => Reason::Uncovered {
                prefix: prefix.to_owned(),
            },
            None => Reason::NoRule,
        }
    }

    /// Folders, each ended by a slash, beneath which every path has to match a list.
    pub fn strict_prefixes(&self) -> &[String] {
        &self.rules.strict_prefixes
    }

    fn strict_prefix(&self, path: &RepoPath) -> Option<&str> {
        let mut strict = self.rules.strict_prefixes.iter();
        strict
            .rfind(|prefix| path.as_str().starts_with(prefix.as_str()))
            .map(String::as_str)
    }

    /// The glob by which a path has the name of credentials, unless the rules name that path.
    fn secret_name(&self, path: &RepoPath) -> Option<&'static str> {
        let path = path.as_str();
        let is_template = || TEMPLATE_ENDINGS.iter().any(|ending| path.ends_with(ending));
        if !self.secret_names.is_match(path) || self.named.contains(path) || is_template() {
            return None;
        }
        let index = *self.secret_names.matches(path).first()?;
        Some(SECRET_NAMES[index])
    }

    /// Whether the path is a log that only grows: one that the rules name, or a node's.
    pub fn is_append_only(&self, path: &RepoPath) -> bool {
        self.append_only.is_match(path.as_str()) || is_node_log(path)
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
    fn the_logs_that_the_rules_name_travel_and_only_grow() {
        let rules = RuleSet::default();
        for (name, is_named) in [
            ("changelog.ndjson", true),
            ("evals.aggregate.ndjson", true),
            // Computed on each machine.
            ("snapshots.ndjson", false),
            ("another.ndjson", false),
        ] {
            let path = RepoPath::parse(&format!("state/log/{name}")).unwrap();
            assert_eq!(rules.is_append_only(&path), is_named, "{name}");
            assert_eq!(rules.may_be_large(&path), is_named, "{name}");
            assert_eq!(rules.verdict(&path) == Verdict::Allowed, is_named, "{name}");
        }
    }

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
        let snapshot = format!("state/app/{}/snapshot", "0".repeat(32));
        assert!(rules.may_be_large(&RepoPath::parse(&snapshot).unwrap()));
    }

    #[test]
    fn names_of_credentials_are_denied_unless_the_very_path_is_allowed() {
        let rules = br#"{"SYNC_ALLOW":["a/.env","**/auth.json","state/log/x"],
            "SYNC_DENY":["b/**"],"strict_prefixes":["state/log/"]}"#;
        let rules = RuleSet::from_json(rules).unwrap();
        let secret = |glob: &str| Reason::SecretName { glob: glob.into() };
        let allow = |glob: &str| Reason::Allow { glob: glob.into() };
        for (path, reason) in [
            (".env", secret("**/.env")),
            ("x/.env.production", secret("**/.env.*")),
            ("x/.env.example", Reason::NoRule),
            ("x/.environment", Reason::NoRule),
            // The path itself is named; a pattern that happens to match is not enough.
            ("a/.env", allow("a/.env")),
            ("a/auth.json", secret("**/auth.json")),
            (
                "b/.env",
                Reason::Deny {
                    glob: "b/**".into(),
                },
            ),
            (".ssh/id_ed25519", secret("**/id_ed25519")),
            (".ssh/id_ed25519.pub", Reason::NoRule),
            ("home/.aws/credentials", secret("**/.aws/credentials")),
            ("docs/credentials", Reason::NoRule),
            ("state/log/x", allow("state/log/x")),
            ("state/log/.env", secret("**/.env")),
            (
                "state/log/y",
                Reason::Uncovered {
                    prefix: "state/log/".into(),
                },
            ),
            (
                "state/log/alerts/a",
                Reason::AlwaysDenied {
                    glob: "state/log/alerts/**".into(),
                },
            ),
        ] {
            let path = RepoPath::parse(path).unwrap();
            assert_eq!(rules.explain(&path), reason, "{path}");
            let travels = matches!(reason, Reason::NoRule | Reason::Allow { .. });
            assert_eq!(rules.verdict(&path) == Verdict::Allowed, travels, "{path}");
        }
        // A gateway leaves names alone.
        let path = RepoPath::parse("x/.env").unwrap();
        assert_eq!(rules.shared_verdict(&path), Verdict::Allowed);
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
        let path = RepoPath::parse("state/log/new").unwrap();
        assert_ne!(RuleSet::default().verdict(&path), Verdict::Allowed);
    }
}
