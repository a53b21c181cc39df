//! Presets: what each kind of agent folder starts with, and where its rules and logs lie.
//!
//! Credentials are in the rules, which deny, and not only in the ignore file, which is the user's
//! to edit: a preset must not be the reason that a secret leaves a machine. Names that every folder
//! may hold are denied by [`statehold_core::rules`] itself; here are those of one tool.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use statehold_core::plan::Direction;
use statehold_core::rules::{SHARED_RULES_PATH, SyncRules};
use statehold_core::scope::Scope;

/// A kind of folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// An agent workspace with `state/`, `sources/` and `program.md`.
    Agent,
    /// The folder of Claude Code.
    ClaudeCode,
    /// The folder of Codex.
    Codex,
    /// The folder of Code Buddy.
    CodeBuddy,
    /// Any folder.
    #[default]
    Plain,
}

/// A name that is no preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no preset; there are agent, claude-code, codex, code-buddy and plain")]
pub struct UnknownPreset {
    /// What was typed.
    pub found: String,
}

impl FromStr for Preset {
    type Err = UnknownPreset;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == text)
            .ok_or_else(|| UnknownPreset {
                found: text.to_owned(),
            })
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a preset keeps the files that people and scripts read, relative to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The sync rules.
    pub rules: &'static str,
    /// The folder of manifest and events.
    pub logs: &'static str,
    /// The local manifest.
    pub manifest: &'static str,
    /// The event log.
    pub events: &'static str,
    /// The list of snapshots.
    pub snapshots: &'static str,
}

/// In the agent workspace the rules travel with everything else, and the logs lie where its own
/// tools look for them.
const AGENT_LAYOUT: Layout = Layout {
    rules: SHARED_RULES_PATH,
    logs: "state/log",
    manifest: "state/log/sync-manifest.json",
    events: "state/log/sync-events.ndjson",
    snapshots: "state/log/snapshots.ndjson",
};

/// Other tools' folders get nothing but the ignore file: they load what they find.
const OWN_LAYOUT: Layout = Layout {
    rules: ".statehold/sync-rules.json",
    logs: ".statehold/log",
    manifest: ".statehold/log/sync-manifest.json",
    events: ".statehold/log/sync-events.ndjson",
    snapshots: ".statehold/log/snapshots.ndjson",
};

/// Never worth sending, from any folder.
const IGNORED_EVERYWHERE: &str = "\
# What stays on this machine. The syntax is that of .gitignore.
.DS_Store
Thumbs.db
desktop.ini
*.swp
*~
.#*
node_modules/
__pycache__/
.venv/
";

const IGNORED_CLAUDE_CODE: &str = "
# Caches, locks and telemetry of Claude Code
/cache/
/debug/
/downloads/
/ide/
/local/
/paste-cache/
/plugins/cache/
/session-env/
/shell-snapshots/
/statsig/
/stats-cache.json
/telemetry/
*.lock

# Settings of one machine
settings.local.json
";

const IGNORED_CODEX: &str = "
# Caches, logs and scratch files of Codex
/cache/
/log/
/logs/
/tmp/
/.tmp/
/models_cache.json
/version.json
/installation_id
/internal_storage.json
/shell_snapshots/
*.lock
";

const IGNORED_CODE_BUDDY: &str = "
# Caches, logs and scratch files of Code Buddy
/cache/
/.cache/
/debug/
/ide/
/log/
/logs/
/shell-snapshots/
/telemetry/
/tmp/
*.lock

# Settings of one machine
settings.local.json
";

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Agent,
        Self::ClaudeCode,
        Self::Codex,
        Self::CodeBuddy,
        Self::Plain,
    ];

    /// The name as typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::CodeBuddy => "code-buddy",
            Self::Plain => "plain",
        }
    }

    /// What a call is about that names no scope. In an agent workspace the program and the sources
    /// are the owner's to publish, so they are sent only when they are asked for; what others
    /// published is received all the same.
    pub const fn default_scope(self, direction: Direction, auto: bool) -> Scope {
        match (self, direction) {
            _ if auto => Scope::State,
            (Self::Agent, Direction::Push | Direction::Bidirectional) => Scope::State,
            _ => Scope::All,
        }
    }

    /// Where its rules and logs lie.
    pub const fn layout(self) -> Layout {
        match self {
            Self::Agent => AGENT_LAYOUT,
            Self::ClaudeCode | Self::Codex | Self::CodeBuddy | Self::Plain => OWN_LAYOUT,
        }
    }

    /// What a new workspace's `.stateholdignore` holds.
    pub fn starter_ignore_file(self) -> String {
        let own = match self {
            Self::Agent | Self::Plain => "",
            Self::ClaudeCode => IGNORED_CLAUDE_CODE,
            Self::Codex => IGNORED_CODEX,
            Self::CodeBuddy => IGNORED_CODE_BUDDY,
        };
        format!("{IGNORED_EVERYWHERE}{own}")
    }

    /// The rules that hold as long as there is no rules file.
    pub fn default_rules(self) -> SyncRules {
        // Transcripts only grow, and reach gigabytes.
        let (own_credentials, append_only): (&[&str], &[&str]) = match self {
            Self::Agent => return SyncRules::default(),
            Self::ClaudeCode => (&[], &["history.jsonl", "projects/**/*.jsonl"]),
            Self::Codex => (&[], &["history.jsonl", "sessions/**/*.jsonl"]),
            Self::CodeBuddy => (
                &["auth/**", "**/*.token"],
                &[
                    "history.jsonl",
                    "projects/**/*.jsonl",
                    "sessions/**/*.jsonl",
                ],
            ),
            Self::Plain => (&[], &[]),
        };
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        SyncRules {
            allow: Vec::new(),
            deny: owned(own_credentials),
            strict_prefixes: Vec::new(),
            append_only: owned(append_only),
        }
    }
}

#[cfg(test)]
mod tests {
    use statehold_core::path::RepoPath;
    use statehold_core::rules::{RuleSet, Verdict};

    use super::*;
    use crate::ignore_file::IgnoreFile;

    #[test]
    fn what_every_preset_starts_with_can_be_used() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
            let json = serde_json::to_string(&preset).unwrap();
            assert_eq!(json, format!("\"{preset}\""));
            IgnoreFile::parse(&preset.starter_ignore_file()).unwrap();
            RuleSet::new(preset.default_rules()).unwrap();
            let layout = preset.layout();
            for file in [layout.manifest, layout.events] {
                assert!(file.starts_with(layout.logs));
            }
        }
        assert!("claude".parse::<Preset>().is_err());
    }

    #[test]
    fn what_the_owner_publishes_is_sent_only_when_asked_for() {
        use Direction::{Bidirectional, Pull, Push};
        for preset in Preset::ALL {
            for direction in [Push, Pull, Bidirectional] {
                assert_eq!(preset.default_scope(direction, true), Scope::State);
                let by_hand = preset.default_scope(direction, false);
                let is_narrow = preset == Preset::Agent && direction != Pull;
                assert_eq!(by_hand == Scope::State, is_narrow, "{preset} {direction:?}");
                assert_eq!(by_hand == Scope::All, !is_narrow, "{preset} {direction:?}");
            }
        }
    }

    #[test]
    fn transcripts_travel_and_credentials_do_not() {
        for (preset, path, travels) in [
            (Preset::ClaudeCode, "projects/-home-a/s.jsonl", true),
            (Preset::ClaudeCode, "skills/x/SKILL.md", true),
            (Preset::ClaudeCode, ".credentials.json", false),
            (Preset::ClaudeCode, "statsig/x", false),
            (Preset::ClaudeCode, "settings.local.json", false),
            (Preset::ClaudeCode, "settings.json", true),
            (Preset::Codex, "sessions/2026/01/02/r.jsonl", true),
            (Preset::Codex, "auth.json", false),
            (Preset::Codex, "config.toml", true),
            (Preset::CodeBuddy, "auth.json", false),
            (Preset::CodeBuddy, "rules/a.md", true),
            (Preset::Agent, "state/memory.md", true),
            (Preset::Agent, "state/bin/sync/sync-rules.json", true),
            (Preset::Agent, "state/log/sync-events.ndjson", false),
            (Preset::Agent, "state/.env", false),
            (Preset::Plain, "a/.DS_Store", false),
            (Preset::Plain, "state/log/x", true),
        ] {
            let rules = RuleSet::new(preset.default_rules()).unwrap();
            let ignore = IgnoreFile::parse(&preset.starter_ignore_file()).unwrap();
            let path = RepoPath::parse(path).unwrap();
            let allowed = rules.verdict(&path) == Verdict::Allowed;
            let seen = allowed && !ignore.ignores(&path, false);
            assert_eq!(seen, travels, "{preset}: {path}");
        }
        let rules = RuleSet::new(Preset::ClaudeCode.default_rules()).unwrap();
        assert!(rules.is_append_only(&RepoPath::parse("projects/p/s.jsonl").unwrap()));
    }
}
