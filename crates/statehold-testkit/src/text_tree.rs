//! Trees of small text files, as workspaces of agents are: many, short, a few long ones.

use std::io;
use std::path::Path;

use crate::environment::SeededEntropy;

/// The middle length of a file, in bytes.
const LENGTH_MIDDLE: f64 = 1_200.0;
/// How far lengths spread around it: one in six files is longer than e times the middle.
const LENGTH_SPREAD: f64 = 1.0;
/// No file is longer, in bytes.
const LENGTH_MAX: usize = 90_000;

const WORDS: [&str; 32] = [
    "agent", "answer", "and", "bucket", "branch", "change", "compare", "digest", "every", "file",
    "folder", "gateway", "history", "is", "journal", "keeps", "list", "machine", "merge", "note",
    "of", "plan", "push", "read", "record", "rule", "session", "state", "the", "to", "tree",
    "write",
];

/// Makes `count` text files in a tenth as many folders beneath `root`. Lengths are log-normal;
/// the same seed makes the same tree.
pub fn write_text_tree(root: &Path, count: usize, entropy: &SeededEntropy) -> io::Result<()> {
    let folders = count.div_ceil(10);
    for index in 0..count {
        let folder = index % folders;
        let parent = root.join(format!("area-{}/topic-{folder}", folder % 32));
        if index < folders {
            std::fs::create_dir_all(&parent)?;
        }
        let text = text(length(entropy), entropy);
        std::fs::write(parent.join(format!("note-{index}.md")), text)?;
    }
    Ok(())
}

/// A log-normal length. The sum of twelve uniform numbers stands in for a normal one.
fn length(entropy: &SeededEntropy) -> usize {
    let sum: f64 = entropy
        .bytes(12)
        .into_iter()
        .map(|byte| (f64::from(byte) + 0.5) / 256.0)
        .sum();
    let length = LENGTH_MIDDLE * (LENGTH_SPREAD * (sum - 6.0)).exp();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and bounded"
    )]
    let length = length as usize;
    length.min(LENGTH_MAX)
}

fn text(length: usize, entropy: &SeededEntropy) -> String {
    let mut text = String::with_capacity(length + 16);
    let choices = entropy.bytes(length / 3 + 1);
    for (index, choice) in choices.into_iter().enumerate() {
        if text.len() >= length {
            break;
        }
        text.push_str(WORDS[usize::from(choice) % WORDS.len()]);
        text.push(if index % 12 == 11 { '\n' } else { ' ' });
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_as_many_files_as_asked_for_and_is_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        for root in [&one, &other] {
            write_text_tree(root, 25, &SeededEntropy::new(1)).unwrap();
        }
        let listing = |root: &Path| {
            let mut files = Vec::new();
            for area in std::fs::read_dir(root).unwrap() {
                for topic in std::fs::read_dir(area.unwrap().path()).unwrap() {
                    for file in std::fs::read_dir(topic.unwrap().path()).unwrap() {
                        let file = file.unwrap();
                        files.push((file.file_name(), std::fs::read(file.path()).unwrap()));
                    }
                }
            }
            files.sort();
            files
        };
        assert_eq!(listing(&one).len(), 25);
        assert_eq!(listing(&one), listing(&other));
    }
}
