//! Which content a reader needs that follows the log: what a run of records brings and what is still
//! in use after the last of them.

use std::collections::BTreeMap;

use crate::entry::{Chunk, ContentObject, Entry, Location};
use crate::path::RepoPath;
use crate::record::Record;
use crate::scope::Scope;

/// The new pieces of a file.
struct Pieces<'a> {
    /// How many pieces stand before them that the reader had already.
    before: u32,
    chunks: Vec<&'a Chunk>,
}

/// Where the content lies that consecutive records bring to a reader of the one before them. What
/// rides in the records themselves is left out, and so is what a later one of them replaces or
/// takes away. Each place once, in the order in which the objects hold them.
///
/// A record that turns out to be void brings nothing, which only the fold can tell. So a place
/// given here may hold nothing that anybody needs, or not exist.
pub fn content_brought<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    scope: Scope,
) -> Vec<Location> {
    let mut first = None;
    let mut latest: BTreeMap<&RepoPath, Pieces<'a>> = BTreeMap::new();
    for record in records {
        first.get_or_insert(record.envelope.number);
        let Some(push) = record.body.changes() else {
            continue;
        };
        let upserts = push.upserts.iter();
        for upsert in upserts.filter(|upsert| scope.contains(&upsert.path)) {
            let earlier = latest.remove(&upsert.path);
            let Entry::File(file) = &upsert.entry else {
                continue;
            };
            let mut pieces = Pieces {
                before: upsert.keep,
                chunks: Vec::new(),
            };
            if let Some(earlier) = earlier
                && let Some(kept) = upsert.keep.checked_sub(earlier.before)
            {
                pieces = earlier;
                pieces.chunks.truncate(kept as usize);
            }
            pieces.chunks.extend(&file.chunks);
            latest.insert(&upsert.path, pieces);
        }
        for path in &push.deletes {
            latest.remove(path);
        }
    }
    let is_apart = |object: ContentObject| match object {
        ContentObject::Pack(_) => true,
        ContentObject::Record(number) => first.is_some_and(|first| number < first),
    };
    let chunks = latest.into_values().flat_map(|pieces| pieces.chunks);
    let mut places: Vec<Location> = chunks
        .map(|chunk| chunk.at)
        .filter(|place| place.object.is_some_and(is_apart))
        .collect();
    places.sort_unstable_by_key(|place| (place.object, place.offset, place.stored));
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::entry::FileEntry;
    use crate::id::{MachineId, Nonce, PackId};
    use crate::record::{Body, DraftHead, Envelope, Kind, PushBody, RecordRef, Upsert};
    use crate::time::{Mtime, Timestamp};

    const PACK: ContentObject = ContentObject::Pack(PackId::from_bytes([1; 16]));

    fn chunk(object: Option<ContentObject>, offset: u64) -> Chunk {
        let stored = 10;
        Chunk {
            digest: Digest::of(&offset.to_le_bytes()),
            raw: 10,
            at: Location {
                object,
                offset,
                stored,
            },
        }
    }

    /// A record that puts in files, each with kept pieces and new ones, and takes paths away.
    fn record(number: u64, files: &[(&str, u32, Vec<Chunk>)], deletes: &[&str]) -> Record {
        let zero = Digest::of(b"");
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let upserts = files.iter().map(|(name, keep, chunks)| Upsert {
            path: path(name),
            entry: Entry::File(FileEntry {
                size: 0,
                mtime: Mtime::new(0, 0),
                executable: false,
                digest: zero,
                sha256: None,
                chunks: chunks.clone(),
            }),
            keep: *keep,
        });
        let base = RecordRef {
            number: 0,
            id: zero,
        };
        let body = Body::Push(PushBody {
            base,
            upserts: upserts.collect(),
            deletes: deletes.iter().map(|name| path(name)).collect(),
        });
        let draft = DraftHead {
            kind: Kind::Push,
            critical: true,
            machine: MachineId::from_bytes([0; 16]),
            nonce: Nonce::from_bytes([0; 16]),
            body: zero,
            body_bytes: 0,
            content_bytes: 0,
            packs: Vec::new(),
        };
        let envelope = Envelope {
            number,
            parent: zero,
            time: Timestamp::from_millis(0),
            draft,
            key: None,
        };
        Record {
            envelope,
            id: zero,
            body,
            content_start: 0,
        }
    }

    fn offsets(records: &[Record], scope: Scope) -> Vec<u64> {
        let places = content_brought(records, scope);
        places.into_iter().map(|place| place.offset).collect()
    }

    #[test]
    fn what_is_replaced_deleted_inline_or_out_of_scope_is_left_out() {
        let pack = |offset| chunk(Some(PACK), offset);
        let old = |number| chunk(Some(ContentObject::Record(number)), 7);
        let records = [
            record(
                5,
                &[
                    ("a", 0, vec![pack(50), pack(40)]),
                    ("gone", 0, vec![pack(60)]),
                    ("inline", 0, vec![chunk(None, 70)]),
                    ("copy", 0, vec![old(4)]),
                    ("sources/b", 0, vec![pack(80)]),
                ],
                &[],
            ),
            record(
                6,
                &[
                    ("a", 0, vec![pack(10)]),
                    ("twin", 0, vec![pack(10)]),
                    ("later copy", 0, vec![old(5)]),
                ],
                &["gone"],
            ),
        ];
        assert_eq!(offsets(&records, Scope::State), [10, 7]);
        assert_eq!(offsets(&records, Scope::All), [10, 80, 7]);
        assert_eq!(offsets(&records, Scope::Sources), [80]);
        assert!(offsets(&[], Scope::All).is_empty());
    }

    #[test]
    fn of_a_file_that_grows_its_new_pieces_come() {
        let pack = |offset| chunk(Some(PACK), offset);
        let grown = |keep, offsets: &[u64]| {
            let chunks = offsets.iter().map(|offset| pack(*offset)).collect();
            record(1, &[("log", keep, chunks)], &[])
        };
        // Three pieces were there. One comes on top, then another; then the last two are merged.
        let mut records = vec![grown(3, &[10]), grown(4, &[20])];
        assert_eq!(offsets(&records, Scope::All), [10, 20]);
        records.push(grown(4, &[30]));
        assert_eq!(offsets(&records, Scope::All), [10, 30]);
        records.push(grown(2, &[40]));
        assert_eq!(offsets(&records, Scope::All), [40]);
        records.push(grown(u32::MAX, &[50]));
        assert_eq!(offsets(&records, Scope::All), [40, 50]);
    }
}
