//! What has to change for a directory to be again as it was.

use crate::entry::{Chunk, Entry};
use crate::path::RepoPath;
use crate::record::Upsert;
use crate::tree::Tree;

/// The changes that make the present like the past.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WayBack {
    /// Entries put back, by path.
    pub upserts: Vec<Upsert>,
    /// Paths that were not there, by path.
    pub deletes: Vec<RepoPath>,
}

impl WayBack {
    /// Compares two trees at the paths that are wanted. Where both hold the same content in the same
    /// places, nothing changes, not even a time. Where the places differ, those of the past come back:
    /// whoever wrote since may have named places at which the content is not.
    pub fn between(present: &Tree, past: &Tree, wanted: impl Fn(&RepoPath) -> bool) -> Self {
        let differs = |path: &RepoPath| {
            let signature = |tree: &Tree| tree.get(path.as_str()).map(Entry::signature);
            signature(present) != signature(past) || places(present, path) != places(past, path)
        };
        let upserts = past
            .iter()
            .filter(|(path, _)| wanted(path) && differs(path))
            .map(|(path, entry)| Upsert {
                path: path.clone(),
                entry: entry.clone(),
                keep: 0,
            });
        let deletes = present
            .iter()
            .map(|(path, _)| path)
            .filter(|path| wanted(path) && past.get(path.as_str()).is_none());
        Self {
            upserts: upserts.collect(),
            deletes: deletes.cloned().collect(),
        }
    }

    /// Leaves paths as they are.
    pub fn leave_out(&mut self, is_left: impl Fn(&RepoPath) -> bool) {
        self.upserts.retain(|upsert| !is_left(&upsert.path));
        self.deletes.retain(|path| !is_left(path));
    }

    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    /// Every path that changes.
    pub fn paths(&self) -> impl Iterator<Item = &RepoPath> {
        let upserts = self.upserts.iter().map(|upsert| &upsert.path);
        upserts.chain(&self.deletes)
    }
}

/// The pieces of a path's content, with the places that they lie in.
fn places<'t>(tree: &'t Tree, path: &RepoPath) -> &'t [Chunk] {
    match tree.get(path.as_str()) {
        Some(Entry::File(file)) => &file.chunks,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;
    use crate::entry::{ContentObject, FileEntry, Location};
    use crate::time::Mtime;

    fn tree(entries: &[(u8, u8)]) -> Tree {
        let mut tree = Tree::default();
        for (path, target) in entries {
            let path = RepoPath::parse(&format!("f{path}")).unwrap();
            let target = format!("t{target}");
            tree.insert(path, Entry::Symlink { target });
        }
        tree
    }

    /// The same file with its content elsewhere: whoever wrote that may have lied.
    #[test]
    fn content_goes_back_to_where_it_was() {
        let file = |offset| {
            let chunk = Chunk {
                digest: Digest::of(b"x"),
                raw: 1,
                at: Location {
                    object: Some(ContentObject::Record(1)),
                    offset,
                    stored: 9,
                },
            };
            let mut tree = Tree::default();
            let entry = Entry::File(FileEntry {
                size: 1,
                mtime: Mtime::new(0, 0),
                executable: false,
                digest: Digest::of(b"x"),
                sha256: None,
                chunks: vec![chunk],
            });
            tree.insert(RepoPath::parse("f").unwrap(), entry);
            tree
        };
        let (present, past) = (file(7), file(100));
        let back = WayBack::between(&present, &past, |_| true);
        assert_eq!(Some(&back.upserts[0].entry), past.get("f"));
        assert!(WayBack::between(&past, &past, |_| true).is_empty());
    }

    proptest! {
        /// Carried out, the changes give the past, and each of them is needed.
        #[test]
        fn the_way_back_leads_back(
            present in proptest::collection::vec((0..8_u8, 0..3_u8), 0..10),
            past in proptest::collection::vec((0..8_u8, 0..3_u8), 0..10),
        ) {
            let (mut present, past) = (tree(&present), tree(&past));
            let back = WayBack::between(&present, &past, |_| true);
            for Upsert { path, entry, .. } in &back.upserts {
                prop_assert_ne!(present.insert(path.clone(), entry.clone()), Some(entry.clone()));
            }
            for path in &back.deletes {
                prop_assert!(present.remove(path.as_str()).is_some());
            }
            prop_assert_eq!(&present, &past);
            prop_assert!(WayBack::between(&present, &past, |_| true).is_empty());
        }
    }
}
