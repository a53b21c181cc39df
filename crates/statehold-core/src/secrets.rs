//! Content that looks like a password, a key or a token.
//!
//! Looking happens in two steps, so that the time it takes grows with the length of the text alone:
//! one pass for words that every secret of a kind has near its beginning, and at each of them one
//! anchored expression on a short window. What is found is told by the name of its kind and its
//! line. The secret itself is never part of a finding, so that no message or log repeats it.
//!
//! A detector that cries wolf is switched off. Placeholders are passed over, and what has no shape
//! of its own (`password = …`) has to look drawn at random.

use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::limits::SECRET_FINDINGS_MAX;

/// Something that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it looks like.
    pub rule: String,
    /// The line it begins on, from 1.
    pub line: u64,
}

/// What a value has to be, beyond having the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The shape is enough.
    Shape,
    /// It is named as a credential: a token of this shape alone may be long expired.
    Named,
    /// It looks drawn at random.
    Random,
}

struct Kind {
    name: &'static str,
    /// Words that begin every match, in any case.
    hints: &'static [&'static str],
    /// Matched at a hint. The last group that takes part is the value.
    pattern: &'static str,
    proof: Proof,
}

/// Words for what is assigned in configuration files and code.
const ASSIGNED: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "private_key",
    "secret_key",
    "token",
];

const KINDS: &[Kind] = &[
    Kind {
        name: "private key",
        hints: &["-----begin "],
        pattern: r#"^-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n|\\r|[>|"'+#*/,])*(?:[A-Za-z-]{3,20}: ?[^\n\\]{0,80}(?:\s|\\n|\\r)+){0,4}([A-Za-z0-9+/=]{40})"#,
        proof: Proof::Shape,
    },
    Kind {
        name: "age private key",
        hints: &["age-secret-key-1"],
        pattern: r"^AGE-SECRET-KEY-1([0-9A-Z]{58})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Statehold key or invite",
        hints: &["shk1_", "shi1_"],
        pattern: r"^sh[ki]1_([A-Za-z0-9_-]{32,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "AWS access key id",
        hints: &["akia", "asia"],
        pattern: r"^((?:AKIA|ASIA)[A-Z2-7]{16})(?:[^A-Za-z0-9]|$)",
        proof: Proof::Shape,
    },
    Kind {
        name: "AWS secret access key",
        hints: &["secret_access_key", "secretaccesskey", "secret_key"],
        pattern: r#"^(?i:secret_?(?:access_?)?key)[\\"'\s]{0,6}[=:][\\"'\s]{0,6}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
        proof: Proof::Random,
    },
    Kind {
        name: "GitHub token",
        hints: &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        pattern: r"^(?:gh[pousr]_([A-Za-z0-9]{36,})|github_pat_([A-Za-z0-9_]{60,}))",
        proof: Proof::Shape,
    },
    Kind {
        name: "GitLab token",
        hints: &["glpat-", "gldt-", "glrt-", "glptt-"],
        pattern: r"^gl(?:pat|dt|rt|ptt)-([A-Za-z0-9_-]{20,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Slack token",
        hints: &["xoxb-", "xoxa-", "xoxp-", "xoxr-", "xoxs-", "xoxe", "xapp-"],
        pattern: r"^(?:xox[abprs]-|xoxe(?:\.xox[bp])?-|xapp-)([0-9A-Za-z-]{20,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Slack webhook",
        hints: &["hooks.slack.com/services/"],
        pattern: r"^hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/([A-Za-z0-9]{20,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Stripe key",
        hints: &["sk_live_", "rk_live_", "whsec_"],
        pattern: r"^(?:sk_live_|rk_live_|whsec_)([A-Za-z0-9+/]{20,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Google API key",
        hints: &["aiza"],
        pattern: r"^AIza([0-9A-Za-z_-]{35})(?:[^0-9A-Za-z_-]|$)",
        proof: Proof::Shape,
    },
    Kind {
        name: "Google OAuth secret",
        hints: &["gocspx-"],
        pattern: r"^GOCSPX-([0-9A-Za-z_-]{28})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Anthropic key",
        hints: &["sk-ant-"],
        pattern: r"^sk-ant-[a-z]{3,8}[0-9]{2}-([A-Za-z0-9_-]{40,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "OpenAI key",
        hints: &["sk-"],
        pattern: r"^sk-(?:(?:proj|svcacct|admin|None)-([A-Za-z0-9_-]{40,})|([A-Za-z0-9]{48})(?:[^A-Za-z0-9]|$))",
        proof: Proof::Shape,
    },
    Kind {
        name: "OpenRouter key",
        hints: &["sk-or-v1-"],
        pattern: r"^sk-or-v1-([0-9a-f]{64})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Hugging Face token",
        hints: &["hf_"],
        pattern: r"^hf_([A-Za-z]{34})(?:[^A-Za-z0-9]|$)",
        proof: Proof::Shape,
    },
    Kind {
        name: "npm token",
        hints: &["npm_"],
        pattern: r"^npm_([A-Za-z0-9]{36})(?:[^A-Za-z0-9]|$)",
        proof: Proof::Shape,
    },
    Kind {
        name: "package registry credential",
        hints: &[":_authtoken", ":_password", "_auth="],
        pattern: r#"^(?i::_authToken|:_password|_auth)[ \t]{0,4}=[ \t]{0,4}"?([A-Za-z0-9_+/=.-]{8,})"#,
        proof: Proof::Shape,
    },
    Kind {
        name: "PyPI token",
        hints: &["pypi-ageichlwas5vcmc"],
        pattern: r"^pypi-AgEIcHlwaS5vcmc([A-Za-z0-9_-]{50,})",
        proof: Proof::Shape,
    },
    Kind {
        name: "SendGrid key",
        hints: &["sg."],
        pattern: r"^SG\.([A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})",
        proof: Proof::Shape,
    },
    Kind {
        name: "Azure storage key",
        hints: &["accountkey="],
        pattern: r"^AccountKey=([A-Za-z0-9+/]{86}==)",
        proof: Proof::Shape,
    },
    Kind {
        name: "JSON web token",
        hints: &["eyj"],
        pattern: r"^eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.([A-Za-z0-9_-]{32,})",
        proof: Proof::Named,
    },
    Kind {
        name: "password in an address",
        hints: &["://"],
        pattern: r#"^://[^\s/?#:@"'<>\\]*:([^\s/?#@:"'<>\\]{8,})@[A-Za-z0-9\[]"#,
        proof: Proof::Random,
    },
    Kind {
        name: "password or token",
        hints: &ASSIGNED,
        pattern: r#"^(?i:password|passwd|passphrase|secret|api[_-]?key|(?:access|private|secret)_key|token)(?:\\{0,3}["'`])?[ \t]{0,8}(?:=>|:=|=|:)[ \t]{0,8}(?:\\{0,3}["'`]([^"'`\\\s]{10,})\\{0,3}["'`]|([A-Za-z0-9_+/=-]{20,})(?:[\s,;"'\\]|$))"#,
        proof: Proof::Random,
    },
];

/// Bytes after a hint that an expression may look at.
const AFTER: usize = 3 * 1024;
/// Bytes before a hint that may say what it is about.
const BEFORE: usize = 128;
/// Texts are told from other files by their first bytes, so many of them.
const TEXT_SAMPLE: usize = 8 * 1024;

struct Detector {
    words: AhoCorasick,
    /// For each word, the kind it hints at.
    kinds: Vec<usize>,
    /// Made at the first hint: most texts have few kinds of them.
    patterns: Vec<OnceLock<Regex>>,
}

static DETECTOR: LazyLock<Detector> = LazyLock::new(|| {
    let hints = || {
        let kinds = KINDS.iter().enumerate();
        kinds.flat_map(|(at, kind)| kind.hints.iter().map(move |hint| (*hint, at)))
    };
    Detector {
        words: AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .build(hints().map(|(hint, _)| hint))
            .expect("a few dozen words make a small automaton"),
        kinds: hints().map(|(_, kind)| kind).collect(),
        patterns: KINDS.iter().map(|_| OnceLock::new()).collect(),
    }
});

impl Detector {
    fn pattern(&self, kind: usize) -> &Regex {
        self.patterns[kind].get_or_init(|| {
            RegexBuilder::new(KINDS[kind].pattern)
                .unicode(false)
                .build()
                .expect("the expressions stand in this file, and its tests compile them")
        })
    }
}

/// Searches a text piece by piece, so that a file of any length takes little memory.
#[derive(Debug)]
pub struct Search {
    /// What the next piece has to be seen together with.
    kept: Vec<u8>,
    /// How much of it was searched already.
    searched: usize,
    /// The line that `kept` begins on.
    line: u64,
    is_text: Option<bool>,
    findings: Vec<Finding>,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            searched: 0,
            line: 1,
            is_text: None,
            findings: Vec::new(),
        }
    }
}

/// Searches a whole text.
pub fn find_secrets(text: &[u8]) -> Vec<Finding> {
    let mut search = Search::default();
    search.add(text);
    search.finish()
}

impl Search {
    /// Takes in the next piece. Says whether further ones are of any use.
    pub fn add(&mut self, piece: &[u8]) -> bool {
        let is_text = *self.is_text.get_or_insert_with(|| {
            let sample = &piece[..piece.len().min(TEXT_SAMPLE)];
            !sample.contains(&0)
        });
        if !is_text {
            return false;
        }
        self.kept.extend_from_slice(piece);
        // What lies near the end is searched when more is known.
        let until = self.kept.len().saturating_sub(AFTER);
        self.search(until);
        self.findings.len() < SECRET_FINDINGS_MAX
    }

    /// Everything that was found.
    pub fn finish(mut self) -> Vec<Finding> {
        self.search(self.kept.len());
        self.findings
    }

    /// Looks at hints that begin before an offset, and lets go of what is done with.
    fn search(&mut self, until: usize) {
        if until <= self.searched {
            return;
        }
        let detector = &*DETECTOR;
        let text = &self.kept;
        let (mut line, mut counted) = (self.line, 0);
        // A word that begins before `until` may end after it.
        let end = text.len().min(until + AFTER);
        let from = self.searched;
        for found in detector.words.find_overlapping_iter(&text[from..end]) {
            let start = from + found.start();
            if start >= until {
                continue;
            }
            let kind = detector.kinds[found.pattern().as_usize()];
            if !is_secret(detector, kind, text, start) {
                continue;
            }
            if let Some(between) = text.get(counted..start) {
                line += count_lines(between);
                counted = start;
            }
            self.findings.push(Finding {
                rule: KINDS[kind].name.to_owned(),
                line,
            });
            if self.findings.len() >= 4 * SECRET_FINDINGS_MAX {
                break;
            }
        }
        self.findings = tidy(std::mem::take(&mut self.findings));
        let done = until.saturating_sub(BEFORE);
        self.line += count_lines(&self.kept[..done]);
        self.kept.drain(..done);
        self.searched = until - done;
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// One finding for each line and kind, and none of the vague kind where a precise one says it.
fn tidy(mut findings: Vec<Finding>) -> Vec<Finding> {
    let vague = KINDS.last().map_or("", |kind| kind.name);
    findings.sort_by(|left, right| (left.line, &left.rule).cmp(&(right.line, &right.rule)));
    findings.dedup();
    let precise: Vec<u64> = findings
        .iter()
        .filter(|finding| finding.rule != vague)
        .map(|finding| finding.line)
        .collect();
    findings
        .retain(|finding| finding.rule != vague || precise.binary_search(&finding.line).is_err());
    findings.truncate(SECRET_FINDINGS_MAX);
    findings
}

/// Whether there is a secret of this kind at a hint.
fn is_secret(detector: &Detector, kind: usize, text: &[u8], start: usize) -> bool {
    let window = &text[start..text.len().min(start + AFTER)];
    let Some(groups) = detector.pattern(kind).captures(window) else {
        return false;
    };
    let before = &text[start.saturating_sub(BEFORE)..start];
    let value = groups.iter().skip(1).flatten().last();
    let Some(value) = value.map(|value| value.as_bytes()) else {
        return false;
    };
    match KINDS[kind].proof {
        Proof::Shape => begins_a_word(before) && !is_placeholder(value),
        Proof::Named => {
            let before = before.to_ascii_lowercase();
            let named = [
                "bearer",
                "token",
                "authorization",
                "jwt",
                "secret",
                "cookie",
            ];
            let near = &before[before.len().saturating_sub(48)..];
            // The token that every explanation of the format shows.
            let is_well_known = value.starts_with(b"SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c");
            named.iter().any(|word| contains(near, word.as_bytes())) && !is_well_known
        }
        Proof::Random => {
            let bare = groups.len() > 2 && groups.get(1).is_none();
            !names_something_else(before) && looks_random(value, bare) && !is_placeholder(value)
        }
    }
}

/// Whether a word may begin here: not in the middle of another, but after `\\n` as text.
fn begins_a_word(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't'] => true,
        [.., last] => !last.is_ascii_alphanumeric(),
        [] => true,
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Words that stand for a value, or are part of one that somebody made up.
const PLACEHOLDERS: [&str; 21] = [
    "example",
    "sample",
    "placeholder",
    "changeme",
    "change-me",
    "change_me",
    "dummy",
    "fake",
    "redacted",
    "your",
    "xxxx",
    "****",
    "....",
    "${",
    "{{",
    "insert",
    "replace",
    "foobar",
    "12345678",
    "abcdefgh",
    "deadbeef",
];

/// Whether a value only shows where one belongs.
fn is_placeholder(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let mut seen = [false; 256];
    let (mut distinct, mut run, mut longest, mut last) = (0, 0, 0, None);
    for byte in &lower {
        distinct += usize::from(!std::mem::replace(&mut seen[usize::from(*byte)], true));
        run = if last == Some(byte) { run + 1 } else { 1 };
        longest = longest.max(run);
        last = Some(byte);
    }
    distinct < 6
        || longest >= 6
        || PLACEHOLDERS
            .iter()
            .any(|word| contains(&lower, word.as_bytes()))
}

/// Whether the name before the keyword says that it is no credential: a place in a listing, a
/// protection that is sent to everybody, a word of a language model.
fn names_something_else(before: &[u8]) -> bool {
    const OTHERS: [&str; 14] = [
        "next",
        "page",
        "continu",
        "cursor",
        "csrf",
        "xsrf",
        "sync",
        "cancel",
        "stop",
        "bos",
        "eos",
        "pad",
        "resume",
        "idempotency",
    ];
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let name: Vec<u8> = before
        .iter()
        .rev()
        .take_while(|byte| is_name(byte))
        .take(24)
        .map(u8::to_ascii_lowercase)
        .collect();
    let name: Vec<u8> = name.into_iter().rev().collect();
    OTHERS.iter().any(|word| contains(&name, word.as_bytes()))
}

/// Whether a value without a shape of its own looks drawn at random, and not like a word, a name in
/// code, a path or a reference to a value elsewhere. One that is not in quotes has to be longer.
fn looks_random(value: &[u8], bare: bool) -> bool {
    let letters = value.iter().filter(|byte| byte.is_ascii_alphabetic());
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_reference = value.starts_with(b"/")
        || value.starts_with(b"./")
        || value.starts_with(b"$")
        || value.starts_with(b"%")
        || value.starts_with(b"{")
        || [
            &b"://"[..],
            b"<",
            b">",
            b"process.env",
            b"environ",
            b"(",
            b"test",
            b"TEST",
        ]
        .iter()
        .any(|word| contains(value, word));
    let has_case = |is: fn(&u8) -> bool| value.iter().any(is);
    let mixed = has_case(u8::is_ascii_lowercase) && has_case(u8::is_ascii_uppercase);
    let (digits_min, bits_min) = match (bare, mixed) {
        (false, _) => (1, 3.0),
        (true, true) => (2, 3.5),
        (true, false) => (3, 3.5),
    };
    letters.count() > 0
        && digits >= digits_min
        && !is_reference
        && !is_uuid(value)
        && bits_per_byte(value) >= bits_min
}

/// Ids have the look of chance, and are no secrets.
fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(at, byte)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                *byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

fn bits_per_byte(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    let length: u32 = counts.iter().sum();
    let of = |count: &u32| {
        let share = f64::from(*count) / f64::from(length);
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(of).sum()
}

#[cfg(test)]
mod tests;
