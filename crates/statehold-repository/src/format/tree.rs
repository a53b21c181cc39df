//! Tree objects: listing pages, and a table that names all pages of the tree, those that earlier
//! tree objects hold included.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::id::TreeId;
use statehold_core::limits::{PAGE_RAW_BYTES_MAX, TREE_OBJECTS_MAX};
use statehold_core::path::RepoPath;
pub use statehold_core::tree::TreeRef;
use statehold_core::tree::{Tree, root_of};

use super::container::{Container, ContainerWriter};
use super::frame::{FrameWriter, expand};
use super::header::ObjectKind;
use crate::error::{Error, Result};
use crate::layout;

/// One page of a tree: where it lies and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageLine {
    /// The first path in it.
    pub first: RepoPath,
    /// Number of entries.
    pub entries: usize,
    /// The tree object that holds it; absent for the object the table stands in.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub object: Option<TreeId>,
    /// Where its frame begins.
    pub offset: u64,
    /// Length of its frame.
    pub stored: u64,
    /// Digest of its lines.
    pub blake3: Digest,
}

/// Writes a tree under this id. Pages that stand in `earlier`, the table of an earlier tree, are
/// shared, as long as the whole lies in few objects.
pub fn write(id: TreeId, tree: &Tree, earlier: &[(TreeId, PageLine)]) -> (TreeRef, Bytes) {
    let known: HashMap<Digest, &(TreeId, PageLine)> =
        earlier.iter().map(|page| (page.1.blake3, page)).collect();
    let pages = tree.pages();
    let shared = |digest: &Digest| known.get(digest).copied();
    let others: BTreeSet<TreeId> = pages
        .iter()
        .filter_map(|page| shared(&page.digest))
        .map(|(id, _)| *id)
        .collect();
    // Too many objects would make reading the tree dear, so it is written anew.
    let share = others.len() < TREE_OBJECTS_MAX;
    let mut writer = ContainerWriter::new(ObjectKind::Tree);
    let mut frames = FrameWriter::default();
    let mut table = Vec::new();
    for page in &pages {
        let line = match shared(&page.digest).filter(|_| share) {
            Some((object, line)) => PageLine {
                object: Some(*object),
                ..line.clone()
            },
            None => {
                let frame = frames.compress(&page.lines);
                let stored = frame.len() as u64;
                let (first, entries, blake3) = (page.first.clone(), page.entries, page.digest);
                let offset = writer.push(&frame);
                PageLine {
                    first,
                    entries,
                    object: None,
                    offset,
                    stored,
                    blake3,
                }
            }
        };
        table.push(line);
    }
    let others = if share {
        others.into_iter().collect()
    } else {
        Vec::new()
    };
    let root = root_of(pages.iter().map(|page| page.digest));
    (TreeRef { id, others, root }, writer.finish(table))
}

/// The pages of a tree with the objects they lie in, from the object with its table.
pub fn page_table(id: TreeId, bytes: Bytes) -> Result<Vec<(TreeId, PageLine)>> {
    let container = Container::<PageLine>::read(&layout::tree(id), bytes, ObjectKind::Tree)?;
    Ok(container
        .table
        .into_iter()
        .map(|line| (line.object.unwrap_or(id), line))
        .collect())
}

/// Reads a tree from all the objects that a [`TreeRef`] names, and checks it against its root.
pub fn read(reference: &TreeRef, objects: &HashMap<TreeId, Bytes>) -> Result<Tree> {
    let name = layout::tree(reference.id);
    let object = |id: TreeId| {
        let key = layout::tree(id);
        let bytes = objects.get(&id);
        let bytes = bytes.ok_or_else(|| Error::damaged(&key, "it is missing"))?;
        Container::<PageLine>::read(&key, bytes.clone(), ObjectKind::Tree)
    };
    let main = object(reference.id)?;
    let mut containers = HashMap::new();
    let mut tree = Tree::default();
    for line in &main.table {
        let container = match line.object {
            None => &main,
            Some(id) => match containers.entry(id) {
                std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::hash_map::Entry::Vacant(empty) => empty.insert(object(id)?),
            },
        };
        let holder = layout::tree(line.object.unwrap_or(reference.id));
        let frame = container.frames(line.offset, line.stored)?;
        let lines = expand(&holder, &frame, PAGE_RAW_BYTES_MAX)?;
        if Digest::of(&lines) != line.blake3 {
            return Err(Error::damaged(
                &holder,
                "a page does not have the digest it should have",
            ));
        }
        let count = tree
            .read_page(&lines)
            .map_err(|error| Error::damaged(&holder, error))?;
        if count != line.entries {
            return Err(Error::damaged(
                &holder,
                "a page does not have the entries it should have",
            ));
        }
    }
    let root = root_of(main.table.iter().map(|line| line.blake3));
    let entries: usize = main.table.iter().map(|line| line.entries).sum();
    if root != reference.root || entries != tree.len() {
        return Err(Error::damaged(
            &name,
            "it is another tree than the one asked for",
        ));
    }
    if let Some((path, _)) = tree
        .iter()
        .find(|(path, entry)| !matches!(entry, Entry::Directory) && tree.check_place(path).is_err())
    {
        return Err(Error::damaged(
            &name,
            format!("something lies beneath the file {path}"),
        ));
    }
    Ok(tree)
}
