//! A recorded directory: paths in order, each with its entry.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::collection::Moves;
use crate::digest::Digest;
use crate::entry::{Entry, EntryLine};
use crate::id::TreeId;
use crate::limits::{PAGE_ENTRIES_AVERAGE, PAGE_ENTRIES_MAX};
use crate::path::RepoPath;

/// A listing of a directory at one moment, ordered by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    #[serde(deserialize_with = "entries_in_bulk")]
    entries: BTreeMap<RepoPath, Entry>,
}

/// Builds the map from all entries at once, which costs no search for each.
fn entries_in_bulk<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<RepoPath, Entry>, D::Error> {
    struct Bulk;

    impl<'de> Visitor<'de> for Bulk {
        type Value = BTreeMap<RepoPath, Entry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("entries by path")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            // The number is only a claim, so it is not relied on for more than a beginning.
            let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0).min(4_096));
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries.into_iter().collect())
        }
    }

    deserializer.deserialize_map(Bulk)
}

/// A path that cannot stand beside another: a file has nothing beneath it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{inner} would lie beneath {outer}, which is not a directory")]
pub struct FileInTheWay {
    /// The file or link.
    pub outer: RepoPath,
    /// The path beneath it.
    pub inner: RepoPath,
}

impl Tree {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at a path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// All entries, by path.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&RepoPath, &Entry)> {
        self.entries.iter()
    }

    /// The entries at or beneath a folder or at a file's path.
    pub fn beneath<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a RepoPath, &'a Entry)> {
        let own = self.entries.get_key_value(path);
        own.into_iter().chain(self.inside(path))
    }

    fn inside<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a RepoPath, &'a Entry)> {
        // `0` is the character after `/`, so this range is everything that begins with `folder/`.
        let (from, to) = (format!("{folder}/"), format!("{folder}0"));
        self.entries
            .range::<str, _>((Bound::Included(&*from), Bound::Excluded(&*to)))
    }

    /// Puts an entry at a path, and gives back the one that was there.
    pub fn insert(&mut self, path: RepoPath, entry: Entry) -> Option<Entry> {
        self.entries.insert(path, entry)
    }

    /// Makes every entry say where its content lies now.
    pub fn follow(&mut self, moves: &Moves) {
        if !moves.is_empty() {
            self.entries
                .values_mut()
                .for_each(|entry| moves.apply(entry));
        }
    }

    /// Takes away the entry at a path.
    pub fn remove(&mut self, path: &str) -> Option<Entry> {
        self.entries.remove(path)
    }

    /// Checks that nothing lies beneath a file or link, for one path that has just been put in.
    pub fn check_place(&self, path: &RepoPath) -> Result<(), FileInTheWay> {
        for ancestor in path.ancestors() {
            if let Some((outer, Entry::File(_) | Entry::Symlink { .. })) =
                self.entries.get_key_value(ancestor)
            {
                return Err(FileInTheWay {
                    outer: outer.clone(),
                    inner: path.clone(),
                });
            }
        }
        let is_leaf = !matches!(self.get(path.as_str()), None | Some(Entry::Directory));
        match self.inside(path.as_str()).next() {
            Some((inner, _)) if is_leaf => Err(FileInTheWay {
                outer: path.clone(),
                inner: inner.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Another path that would be in the way of a file at this one, on some machine at least: file
    /// systems take names for one that differ in case or composition alone. Looks at every path.
    pub fn in_the_way_of(&self, path: &RepoPath) -> Option<&RepoPath> {
        let folded = path.folded();
        let lies_in = |inner: &str, outer: &str| {
            let rest = inner.strip_prefix(outer);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let in_the_way = |(there, entry): &(&RepoPath, &Entry)| {
            let other = there.folded();
            let is_leaf = !matches!(entry, Entry::Directory);
            *there != path
                && (other == folded
                    || lies_in(&other, &folded)
                    || (is_leaf && lies_in(&folded, &other)))
        };
        self.iter().find(in_the_way).map(|(there, _)| there)
    }

    /// The tree cut into listing pages. Borders depend on the paths alone, so two trees that
    /// differ in one place differ in one page.
    pub fn pages(&self) -> Vec<Page> {
        let mut pages = Vec::new();
        let mut lines = PageLines::default();
        for (path, entry) in &self.entries {
            lines.push(path, entry);
            if lines.count == PAGE_ENTRIES_MAX || ends_page(path) {
                pages.push(std::mem::take(&mut lines).finish());
            }
        }
        if lines.count > 0 {
            pages.push(lines.finish());
        }
        pages
    }

    /// Digest of the whole listing: two machines whose trees have the same root are equal.
    pub fn root(&self) -> Digest {
        root_of(self.pages().iter().map(|page| page.digest))
    }

    /// The same, wherever content lies: it stays as it is when content is moved.
    pub fn root_wherever(&self) -> Digest {
        let entries = self.entries.iter().map(|(path, entry)| {
            let mut entry = entry.clone();
            if let Entry::File(file) = &mut entry {
                file.chunks.clear();
            }
            (path.clone(), entry)
        });
        entries.collect::<Self>().root()
    }

    /// Puts in the entries of a listing page.
    pub fn read_page(&mut self, lines: &[u8]) -> Result<usize, InvalidListing> {
        let mut count = 0;
        for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let invalid = |message: String| InvalidListing {
                line: index + 1,
                message,
            };
            let line: EntryLine =
                serde_json::from_slice(line).map_err(|error| invalid(error.to_string()))?;
            let (path, entry) = line
                .into_entry()
                .map_err(|error| invalid(error.to_string()))?;
            let entry = entry.ok_or_else(|| invalid("a deletion in a listing".into()))?;
            entry
                .check(&path)
                .map_err(|error| invalid(error.to_string()))?;
            self.entries.insert(path, entry);
            count += 1;
        }
        Ok(count)
    }
}

impl FromIterator<(RepoPath, Entry)> for Tree {
    fn from_iter<T: IntoIterator<Item = (RepoPath, Entry)>>(entries: T) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

/// A listing that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the listing is damaged: {message}")]
pub struct InvalidListing {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// A stored tree, named: the object with its table, and every object its pages lie in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRef {
    /// The object with the table.
    pub id: TreeId,
    /// Further objects that hold pages of it.
    #[serde(default)]
    pub others: Vec<TreeId>,
    /// Digest of the whole listing.
    pub root: Digest,
}

/// A run of a tree's entries as JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The first path in it.
    pub first: RepoPath,
    /// Number of entries.
    pub entries: usize,
    /// The lines, each ended by a newline.
    pub lines: Vec<u8>,
    /// Digest of the lines.
    pub digest: Digest,
}

/// The root digest of a tree whose pages have these digests.
pub fn root_of(pages: impl IntoIterator<Item = Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for digest in pages {
        hasher.update(digest.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

fn ends_page(path: &RepoPath) -> bool {
    let digest = blake3::hash(path.as_str().as_bytes());
    let head = u16::from_le_bytes([digest.as_bytes()[0], digest.as_bytes()[1]]);
    head.is_multiple_of(PAGE_ENTRIES_AVERAGE)
}

#[derive(Default)]
struct PageLines {
    first: Option<RepoPath>,
    count: usize,
    lines: Vec<u8>,
}

impl PageLines {
    fn push(&mut self, path: &RepoPath, entry: &Entry) {
        if self.first.is_none() {
            self.first = Some(path.clone());
        }
        self.count += 1;
        write_line(&mut self.lines, &EntryLine::new(path, entry, 0));
    }

    fn finish(self) -> Page {
        let digest = Digest::of(&self.lines);
        let first = self
            .first
            .expect("a page is finished only when something was put in");
        Page {
            first,
            entries: self.count,
            lines: self.lines,
            digest,
        }
    }
}

/// Appends a value as one line of JSON.
pub(crate) fn write_line(lines: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *lines, value).expect("these values have a JSON form");
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::FileEntry;
    use crate::time::Mtime;

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text).unwrap()
    }

    fn empty_file() -> Entry {
        Entry::File(FileEntry {
            size: 0,
            mtime: Mtime::default(),
            executable: false,
            digest: Digest::of(b""),
            sha256: None,
            chunks: Vec::new(),
        })
    }

    #[test]
    fn pages_rebuild_the_tree_and_share_what_did_not_change() {
        let tree: Tree = (0..10_000)
            .map(|i| (path(&format!("d{}/f{i}", i % 7)), empty_file()))
            .collect();
        let pages = tree.pages();
        assert!(pages.len() > 3);
        let mut read = Tree::default();
        for page in &pages {
            assert_eq!(read.read_page(&page.lines), Ok(page.entries));
        }
        assert_eq!(read, tree);
        assert_eq!(read.root(), tree.root());

        let mut changed = tree.clone();
        changed.insert(path("d3/f3"), Entry::Directory);
        let before: Vec<_> = pages.iter().map(|page| page.digest).collect();
        let new = changed
            .pages()
            .iter()
            .filter(|page| !before.contains(&page.digest))
            .count();
        assert_eq!(new, 1);
        assert_ne!(changed.root(), tree.root());
    }

    #[test]
    fn twins_and_files_above_or_beneath_are_in_the_way() {
        let mut tree: Tree = ["README.md", "caf\u{e9}/menu", "x/y/z"]
            .into_iter()
            .map(|text| (path(text), empty_file()))
            .collect();
        tree.insert(path("Empty"), Entry::Directory);
        for (new, way) in [
            ("README.md", None),
            ("readme.md", Some("README.md")),
            ("ReadMe.md/x", Some("README.md")),
            ("CAFE\u{301}/MENU", Some("caf\u{e9}/menu")),
            ("CAFE\u{301}/other", None),
            ("x/y/z/0", Some("x/y/z")),
            ("X/y", Some("x/y/z")),
            ("x/y-z", None),
            ("empty/file", None),
            ("empty", Some("Empty")),
        ] {
            let found = tree.in_the_way_of(&path(new)).map(RepoPath::as_str);
            assert_eq!(found, way, "{new}");
        }
    }

    #[test]
    fn nothing_lies_beneath_a_file() {
        let mut tree: Tree = [(path("a/b"), empty_file())].into_iter().collect();
        tree.insert(path("a"), Entry::Directory);
        assert_eq!(tree.check_place(&path("a")), Ok(()));
        tree.insert(path("a"), empty_file());
        assert!(tree.check_place(&path("a")).is_err());
        assert!(tree.check_place(&path("a/b")).is_err());
        let beneath: Vec<_> = tree.beneath("a").map(|(path, _)| path.as_str()).collect();
        assert_eq!(beneath, ["a", "a/b"]);
    }
}
