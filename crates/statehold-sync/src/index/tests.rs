//! The index: bases that move path by path, and every kind of damage.

use statehold_core::digest::Sha256;
use statehold_core::entry::{Chunk, ContentObject, FileEntry, Location};
use statehold_core::time::Mtime;

use super::*;
use crate::folder::Stamp;
use crate::stat_cache::CachedFile;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

fn file(content: &str) -> Entry {
    let digest = Digest::of(content.as_bytes());
    Entry::File(FileEntry {
        size: content.len() as u64,
        mtime: Mtime::new(1, 2),
        executable: false,
        digest,
        sha256: Some(Sha256::of(content.as_bytes())),
        chunks: vec![Chunk {
            digest,
            raw: u32::try_from(content.len()).unwrap(),
            at: Location {
                object: Some(ContentObject::Record(1)),
                offset: 0,
                stored: 9,
            },
        }],
    })
}

/// A state with these paths, each with this content.
fn state(files: &[(&str, &str)]) -> Arc<State> {
    let mut state = State::empty(Digest::of(b"genesis"));
    for (name, content) in files {
        state.tree.insert(path(name), file(content));
    }
    Arc::new(state)
}

fn base(files: &[(&str, &str)]) -> BTreeMap<RepoPath, Signature> {
    let signature = |(name, content): &(&str, &str)| (path(name), file(content).signature());
    files.iter().map(signature).collect()
}

fn index(count: usize) -> Index {
    let names: Vec<String> = (0..count)
        .map(|index| {
            format!(
                "projects/some-project/{}/session-{index}.jsonl",
                index % 100
            )
        })
        .collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &**name)).collect();
    let stamp = Stamp {
        size: 5,
        mtime_ns: -1,
        ctime_ns: 1_776_268_800_123_456_789,
        inode: 77,
    };
    let cached = |name: &String| {
        let bytes = name.as_bytes();
        let file = CachedFile::new(stamp, Digest::of(bytes), Sha256::of(bytes), 0);
        (path(name), file)
    };
    let mut checkout = Checkout::settled(state(&files));
    checkout.set_base(&path("gone"), Some(Signature::Directory));
    Index {
        cache: names.iter().map(cached).collect(),
        checkout: Some(checkout),
    }
}

#[test]
fn an_index_round_trips_and_an_absent_one_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index");
    assert_eq!(Index::read(&file).unwrap(), Index::default());
    for index in [Index::default(), index(3)] {
        index.write(&file, folder.path()).unwrap();
        assert_eq!(Index::read(&file).unwrap(), index);
    }
    // Nothing but the index is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn every_flipped_byte_and_every_cut_is_an_error() {
    let bytes = index(3).encode().unwrap();
    assert!(Index::decode(&bytes).is_ok());
    for position in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            assert!(Index::decode(&damaged).is_err(), "byte {position}");
        }
        assert!(Index::decode(&bytes[..position]).is_err(), "cut {position}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(Index::decode(&longer).is_err());
}

#[test]
fn moving_on_keeps_every_base_and_agreeing_moves_it() {
    let mut checkout = Checkout::settled(state(&[("a", "1"), ("b", "1"), ("c", "1")]));
    let before = base(&[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!(checkout.base(), before);

    checkout.move_to(state(&[("a", "1"), ("b", "2"), ("d", "1")]));
    assert_eq!(checkout.base(), before);
    assert_eq!(checkout.pending.len(), 3);
    assert_eq!(checkout.base_of(&path("d")), None);

    checkout.agree(&path("b"));
    checkout.agree(&path("c"));
    assert_eq!(checkout.base(), base(&[("a", "1"), ("b", "2")]));

    // Further on, and back to where one path started.
    checkout.move_to(state(&[("a", "1"), ("b", "3")]));
    assert_eq!(checkout.base(), base(&[("a", "1"), ("b", "2")]));
    checkout.move_to(state(&[("a", "1"), ("b", "2")]));
    assert_eq!(checkout.base(), base(&[("a", "1"), ("b", "2")]));
    assert!(checkout.pending.is_empty());

    checkout.set_base(&path("a"), None);
    assert_eq!(checkout.base(), base(&[("b", "2")]));
    checkout.set_base(&path("a"), Some(file("1").signature()));
    assert!(checkout.pending.is_empty());
}

#[test]
fn who_joins_has_an_empty_base() {
    let checkout = Checkout::joining(state(&[("a", "1"), ("b", "1")]));
    assert!(checkout.base().is_empty());
    assert_eq!(checkout.pending.len(), 2);
}
