//! Which drafts may still land after others came first.
//!
//! A lost race is no conflict when the two sides touch different things. For pushes that means:
//! no path of one equals or contains a path of the other, not even under NFC and case folding,
//! since some machine's file system would take the two for one.

use std::collections::BTreeMap;

use crate::path::RepoPath;
use crate::record::{Body, PushBody};

/// A draft that cannot be moved behind a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Pairs of paths that are in each other's way: the draft's, the record's. Empty when the two
    /// kinds exclude each other whatever they touch.
    pub paths: Vec<(RepoPath, RepoPath)>,
}

/// Says whether a draft made without knowledge of a record may be appended after it.
pub fn may_follow(draft: &Body, record: &Body) -> Result<(), Overlap> {
    match (draft, record) {
        (Body::Push(draft), Body::Push(record)) => disjoint(draft, record),
        // A note says nothing about the state, so it is in nobody's way.
        (Body::Note(_), _) | (_, Body::Note(_)) => Ok(()),
        // What this program doesn't know and may skip has no effect on the state either.
        (_, Body::Unknown) => Ok(()),
        (Body::Unknown | Body::Registry(_), _) | (_, Body::Registry(_)) => {
            Err(Overlap { paths: Vec::new() })
        }
    }
}

fn disjoint(draft: &PushBody, record: &PushBody) -> Result<(), Overlap> {
    let theirs: BTreeMap<String, &RepoPath> = record
        .paths()
        .map(|path| (path.folded().into_owned(), path))
        .collect();
    let mut paths = Vec::new();
    for ours in draft.paths() {
        let folded = ours.folded();
        let ancestors = folded.match_indices('/').map(|(end, _)| &folded[..end]);
        let above = ancestors.filter_map(|folder| theirs.get(folder));
        let equal = theirs.get(folded.as_ref());
        let (from, to) = (format!("{folded}/"), format!("{folded}0"));
        let beneath = theirs.range(from..to).map(|(_, path)| path);
        paths.extend(
            above
                .chain(equal)
                .chain(beneath)
                .map(|their| (ours.clone(), (*their).clone())),
        );
    }
    if paths.is_empty() {
        Ok(())
    } else {
        Err(Overlap { paths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::record::RecordRef;

    fn push(paths: &[&str]) -> Body {
        Body::Push(PushBody {
            base: RecordRef {
                number: 0,
                id: Digest::of(b""),
            },
            upserts: Vec::new(),
            deletes: paths
                .iter()
                .map(|path| RepoPath::parse(path).unwrap())
                .collect(),
        })
    }

    #[test]
    fn pushes_are_disjoint_when_no_path_equals_or_contains_another() {
        for (ours, theirs, disjoint) in [
            (&["a"][..], &["b"][..], true),
            (&["a/x"], &["a/y"], true),
            (&["ab"], &["a"], true),
            (&["a-b"], &["a/b"], true),
            (&["a"], &["a"], false),
            (&["a"], &["a/b/c"], false),
            (&["a/b/c"], &["a"], false),
            (&["README"], &["readme"], false),
            (&["cafe\u{301}/x"], &["CAFÉ"], false),
            (&["x", "y", "z/1"], &["w", "z"], false),
        ] {
            let verdict = may_follow(&push(ours), &push(theirs));
            assert_eq!(verdict.is_ok(), disjoint, "{ours:?} after {theirs:?}");
            assert_eq!(may_follow(&push(theirs), &push(ours)).is_ok(), disjoint);
        }
    }
}
