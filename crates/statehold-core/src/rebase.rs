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
///
/// | draft \\ record | push | rollback | snapshot, backup, forget, hold | compact, remove | note, skipped | registry | retired |
/// |---|---|---|---|---|---|---|---|
/// | push | if disjoint | no | yes | yes | yes | no | no |
/// | rollback | no | no | yes | yes | yes | no | no |
/// | snapshot, backup, forget, hold, note | yes | yes | yes | yes | yes | no, a note yes | no, a note yes |
/// | compact, remove | yes | yes | yes | no | yes | no | no |
/// | registry, unknown | no | no | no | no | yes | no | no |
///
/// Whether what a draft names was condemned, or has expired, is seen where it is taken in.
///
/// Nothing follows a promote that its writer did not know, nor does a promote follow anything: it is planned
/// anew. A fence may follow everything else, and what may follow a fence the fold makes void.
pub fn may_follow(draft: &Body, record: &Body) -> Result<(), Overlap> {
    match (draft, record) {
        (Body::Promote(_), _) | (_, Body::Promote(_)) => Err(Overlap { paths: Vec::new() }),
        (Body::Fence(_), _) | (_, Body::Fence(_)) => Ok(()),
        (Body::Push(draft), Body::Push(record)) => disjoint(draft, record),
        // A note says nothing about the state, so it is in nobody's way, and neither is what this
        // program doesn't know and may skip.
        (Body::Note(_), _) | (_, Body::Note(_) | Body::Unknown) => Ok(()),
        // What a retired record changed nobody knows any more.
        (Body::Unknown | Body::Registry(_) | Body::Retired, _)
        | (_, Body::Registry(_) | Body::Retired)
        // One collector goes on from what the other one made.
        | (Body::Compact(_) | Body::Remove(_), Body::Compact(_) | Body::Remove(_)) => {
            Err(Overlap { paths: Vec::new() })
        }
        // They speak of records that don't change any more. That two snapshots don't have one name
        // is seen to where they are taken in.
        (
            Body::Snapshot(_)
            | Body::Backup(_)
            | Body::Forget(_)
            | Body::Hold(_)
            | Body::Compact(_)
            | Body::Remove(_),
            _,
        )
        | (
            _,
            Body::Snapshot(_)
            | Body::Backup(_)
            | Body::Forget(_)
            | Body::Hold(_)
            | Body::Compact(_)
            | Body::Remove(_),
        ) => Ok(()),
        // It is about the whole directory as its writer saw it.
        (Body::Rollback(_), Body::Push(_))
        | (Body::Push(_) | Body::Rollback(_), Body::Rollback(_)) => {
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
    use crate::collection::{CompactBody, Moves};
    use crate::digest::Digest;
    use crate::numbers::Numbers;
    use crate::record::{NoteBody, RecordRef, RollbackBody, SnapshotBody};

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

    fn base() -> RecordRef {
        RecordRef {
            number: 0,
            id: Digest::of(b""),
        }
    }

    fn snapshot() -> Body {
        Body::Snapshot(SnapshotBody {
            base: base(),
            id: "2026-04-16T09-30-00Z-x".parse().unwrap(),
            at: 0,
            files: 0,
            bytes: 0,
        })
    }

    fn compact() -> Body {
        Body::Compact(CompactBody {
            base: base(),
            expired: Numbers::default(),
            condemned: Vec::new(),
            records: 0,
            moves: Moves::default(),
        })
    }

    fn rollback() -> Body {
        let Body::Push(changes) = push(&["a"]) else {
            unreachable!()
        };
        Body::Rollback(RollbackBody {
            to: 0,
            before: "2026-04-16T09-30-00Z-x".parse().unwrap(),
            files: 0,
            bytes: 0,
            changes,
        })
    }

    #[test]
    fn a_rollback_gives_way_to_every_change() {
        let text = String::new();
        let note = Body::Note(NoteBody { base: base(), text });
        for (draft, record, may) in [
            (rollback(), push(&["b"]), false),
            (push(&["b"]), rollback(), false),
            (rollback(), rollback(), false),
            (rollback(), snapshot(), true),
            (snapshot(), rollback(), true),
            (snapshot(), push(&["b"]), true),
            (push(&["b"]), snapshot(), true),
            (snapshot(), snapshot(), true),
            (rollback(), note.clone(), true),
            (note, rollback(), true),
            (rollback(), Body::Unknown, true),
            // A collector waits for nobody and nobody for it, but for another one.
            (compact(), push(&["b"]), true),
            (compact(), rollback(), true),
            (push(&["b"]), compact(), true),
            (rollback(), compact(), true),
            (compact(), compact(), false),
            (push(&["b"]), Body::Retired, false),
        ] {
            let verdict = may_follow(&draft, &record).is_ok();
            assert_eq!(verdict, may, "{draft:?} after {record:?}");
        }
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
