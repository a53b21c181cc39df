//! What was verified and when: a small file beside the user's keys, for each repository that was looked
//! at. It is also a witness: it knows the newest record that was seen, which the log alone can't
//! miss.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::record::RecordRef;
use statehold_core::time::Timestamp;
use statehold_repository::verify::report::Report;
use statehold_repository::verify::subset::{Day, PARTS, Share};

use crate::atomic::{Readers, replace_file};
use crate::home::{Home, make_private_folders};

/// The version of the file that this program writes.
const VERSION: u32 = 1;
/// A larger file is none of ours, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// What is remembered of the verifications of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    version: u32,
    /// Where the repository is, for people.
    pub of: String,
    /// The newest record when all was well.
    pub head: Option<RecordRef>,
    /// When the structure was last looked at.
    pub structure: Option<Timestamp>,
    /// Damaged objects then.
    pub damaged: usize,
    /// When each part of the content was last read.
    parts: Vec<Option<Timestamp>>,
}

impl Checks {
    fn new(of: &str) -> Self {
        Self {
            version: VERSION,
            of: of.to_owned(),
            head: None,
            structure: None,
            damaged: 0,
            parts: vec![None; usize::from(PARTS)],
        }
    }

    /// What is remembered of the repository at a place. A file that can't be read counts as none.
    pub fn read(home: &Home, of: &str) -> Self {
        let path = path(home, of);
        let is_small = std::fs::metadata(&path).is_ok_and(|file| file.len() <= BYTES_MAX);
        let text = is_small.then(|| std::fs::read(&path).ok()).flatten();
        let found: Option<Self> = text.and_then(|text| serde_json::from_slice(&text).ok());
        found
            .filter(|found| found.version == VERSION && found.of == of)
            .filter(|found| found.parts.len() == usize::from(PARTS))
            .unwrap_or_else(|| Self::new(of))
    }

    /// Takes note of a verification.
    pub fn note(&mut self, report: &Report, read: Option<Share>, now: Timestamp) {
        self.structure = Some(now);
        self.damaged = report.damaged.len();
        if report.is_well() {
            self.head = report.head;
        }
        let due = read
            .into_iter()
            .flat_map(|share| share.parts_on(Day::of(now)));
        for part in due {
            if let Some(last) = self.parts.get_mut(usize::from(part)) {
                *last = Some(now);
            }
        }
    }

    /// The moment since which all content has been read; `None` if some never was.
    pub fn whole(&self) -> Option<Timestamp> {
        self.parts.iter().copied().min().flatten()
    }

    /// Keeps it, durably.
    pub fn write(&self, home: &Home) -> io::Result<()> {
        let path = path(home, &self.of);
        let folder = folder(home);
        make_private_folders(&folder)?;
        let text = serde_json::to_vec_pretty(self)?;
        replace_file(&path, &text, Readers::Owner, &folder)
    }
}

fn folder(home: &Home) -> PathBuf {
    home.config.join("statehold").join("checks")
}

/// The name holds nothing of the place, which may be long or have any characters.
fn path(home: &Home, of: &str) -> PathBuf {
    let mut name = Digest::of(of.as_bytes()).to_string();
    name.truncate(32);
    folder(home).join(name).with_extension("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_adds_up() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home {
            config: folder.path().to_owned(),
            runtime: folder.path().to_owned(),
        };
        let mut checks = Checks::read(&home, "s3://x/y");
        assert_eq!((checks.whole(), checks.structure), (None, None));
        let day = 24 * 60 * 60 * 1_000;
        let at = |days: i64| Timestamp::from_millis(1_776_000_000_000 + days * day);
        let report = Report::default();
        for days in 0..4 {
            assert_eq!(checks.whole(), None);
            checks.note(&report, Some("25%".parse().unwrap()), at(days));
            checks.write(&home).unwrap();
            checks = Checks::read(&home, "s3://x/y");
        }
        assert_eq!(checks.whole(), Some(at(0)));
        checks.note(&report, None, at(9));
        assert_eq!(
            (checks.whole(), checks.structure),
            (Some(at(0)), Some(at(9)))
        );
        checks.note(&report, Some(Share::WHOLE), at(10));
        assert_eq!(checks.whole(), Some(at(10)));
        assert_eq!(Checks::read(&home, "s3://x/z"), Checks::new("s3://x/z"));
    }
}
