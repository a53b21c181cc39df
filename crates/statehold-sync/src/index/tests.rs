//! The index: bases that move path by path, and every kind of damage.

use statehold_core::collection::{Collection, Condemned, Listing};
use statehold_core::digest::Sha256;
use statehold_core::entry::{Chunk, ContentObject, FileEntry, Location};
use statehold_core::id::{PackId, TreeId};
use statehold_core::retention::Policy;
use statehold_core::time::{Mtime, Timestamp};
use statehold_core::tree::TreeRef;

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
    state.collection = collection();
    Arc::new(state)
}

/// Something in each table.
fn collection() -> Collection {
    let pack = PackId::from_bytes([1; 16]);
    let condemned = Condemned {
        by: 5,
        removed: false,
    };
    let listing = Listing {
        from: 1,
        to: 2,
        time: Timestamp::from_millis(3),
        tree: TreeRef {
            id: TreeId::from_bytes([2; 16]),
            others: Vec::new(),
            root: Digest::of(b"tree"),
        },
    };
    Collection {
        policy: Some(Policy::default()),
        expired: std::iter::once((3, 4)).collect(),
        condemned: BTreeMap::from([(pack, condemned)]),
        held: BTreeMap::from([(pack, 7)]),
        retiring: BTreeMap::from([(5, 4)]),
        cut: 3,
        listings: vec![listing],
        compacted: 5,
        collected: 6,
    }
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
    checkout.set_base(&path("gone"), Some(Signature::Directory), 0);
    Index {
        cache: names.iter().map(cached).collect(),
        checkout: Some(checkout),
        ..Index::default()
    }
}

fn files_in(folder: &Path) -> IndexFiles {
    IndexFiles {
        checkout: folder.join("index"),
        cache: folder.join("stat-cache"),
    }
}

fn read(files: &IndexFiles) -> Index {
    Index::read(files, |error| panic!("{error}"))
}

fn base_of(checkout: &Checkout) -> BTreeMap<RepoPath, Signature> {
    let base: Vec<_> = checkout.base().collect();
    assert!(base.is_sorted_by(|(left, _), (right, _)| left < right));
    base.into_iter()
        .map(|(path, base)| (path.clone(), base))
        .collect()
}

#[test]
fn an_index_round_trips_and_an_absent_one_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let files = files_in(folder.path());
    assert_eq!(read(&files), Index::default());
    assert_eq!(Index::read_heads(&files), None);
    for mut index in [index(3), index(5)] {
        for landed in [true, false] {
            if let (Some(checkout), false) = (&mut index.checkout, landed) {
                checkout.landed = None;
            }
            index.write(&files, folder.path()).unwrap();
            assert_eq!(read(&files), index);
            let heads = index.checkout.as_ref().map(|checkout| Heads {
                seen: checkout.state.head,
                landed: checkout.landed,
            });
            assert_eq!(Index::read_heads(&files), heads);
            assert_eq!(heads.unwrap().landed.is_some(), landed);
        }
    }
    // Nothing but the index is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn only_what_has_changed_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let files = files_in(folder.path());
    index(3).write(&files, folder.path()).unwrap();
    let written = |index: &mut Index| {
        let all = [&files.checkout, &files.cache];
        all.iter()
            .for_each(|file| std::fs::remove_file(file).unwrap());
        index.write(&files, folder.path()).unwrap();
        let written = all.map(|file| file.exists());
        self::index(3).write(&files, folder.path()).unwrap();
        written
    };
    let mut read = read(&files);
    assert_eq!(written(&mut read), [false, false]);
    let checkout = read.checkout.as_mut().unwrap();
    checkout.set_base(&path("gone"), None, 0);
    assert_eq!(written(&mut read), [true, false]);
    assert_eq!(written(&mut read), [false, false]);
    read.cache.merge(
        index(4)
            .cache
            .iter()
            .map(|(path, file)| (path.clone(), *file)),
    );
    assert_eq!(written(&mut read), [false, true]);
    read.checkout = None;
    assert_eq!(written(&mut read), [true, false]);
}

#[test]
fn every_flipped_byte_and_every_cut_is_an_error() {
    let index = index(3);
    let heads = index
        .checkout
        .as_ref()
        .map(|checkout| (checkout.state.head, checkout.landed));
    let checkout = encode(CHECKOUT_MAGIC, &(heads, &index.checkout)).unwrap();
    check_damage(&checkout, |bytes| {
        decode::<CheckoutFile>(CHECKOUT_MAGIC, bytes).is_ok()
    });
    let cache = encode(CACHE_MAGIC, &index.cache).unwrap();
    check_damage(&cache, |bytes| {
        decode::<StatCache>(CACHE_MAGIC, bytes).is_ok()
    });
}

fn check_damage(bytes: &[u8], is_fine: impl Fn(&[u8]) -> bool) {
    assert!(is_fine(bytes));
    for position in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= flip;
            assert!(!is_fine(&damaged), "byte {position}");
        }
        assert!(!is_fine(&bytes[..position]), "cut {position}");
    }
    assert!(!is_fine(&[bytes, b"x"].concat()));
}

#[test]
fn one_damaged_file_does_not_cost_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let files = files_in(folder.path());
    for damaged in [&files.checkout, &files.cache] {
        index(3).write(&files, folder.path()).unwrap();
        std::fs::write(damaged, b"SHINDEX\n").unwrap();
        let complaints = std::cell::Cell::new(0);
        let index = Index::read(&files, |_| complaints.set(complaints.get() + 1));
        assert_eq!(complaints.get(), 1);
        assert_eq!(index.checkout.is_none(), damaged == &files.checkout);
        assert_eq!(index.cache.is_empty(), damaged == &files.cache);
    }
}

#[test]
fn moving_on_keeps_every_base_and_agreeing_moves_it() {
    let mut checkout = Checkout::settled(state(&[("a", "1"), ("b", "1"), ("c", "1")]));
    let before = base(&[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!(base_of(&checkout), before);

    checkout.move_to(state(&[("a", "1"), ("b", "2"), ("d", "1")]));
    assert_eq!(base_of(&checkout), before);
    assert_eq!(checkout.pending.len(), 3);
    assert_eq!(checkout.base_of(&path("d")), None);

    checkout.agree(&path("b"));
    checkout.agree(&path("c"));
    assert_eq!(base_of(&checkout), base(&[("a", "1"), ("b", "2")]));

    // Further on, and back to where one path started.
    checkout.move_to(state(&[("a", "1"), ("b", "3")]));
    assert_eq!(base_of(&checkout), base(&[("a", "1"), ("b", "2")]));
    checkout.move_to(state(&[("a", "1"), ("b", "2")]));
    assert_eq!(base_of(&checkout), base(&[("a", "1"), ("b", "2")]));
    assert!(checkout.pending.is_empty());

    checkout.set_base(&path("a"), None, 0);
    assert_eq!(base_of(&checkout), base(&[("b", "2")]));
    checkout.set_base(&path("a"), Some(file("1").signature()), 0);
    assert!(checkout.pending.is_empty());
}

#[test]
fn who_joins_has_an_empty_base() {
    let checkout = Checkout::joining(state(&[("a", "1"), ("b", "1")]));
    assert!(base_of(&checkout).is_empty());
    assert_eq!(checkout.pending.len(), 2);
}

/// Goal: where a log parted, every path has the base that keeps what is newer on either side.
#[test]
fn behind_a_fork_what_was_agreed_on_later_is_no_base() {
    let at = |number: u64, files: &[(&str, &str)]| {
        let mut state = State::clone(&state(files));
        let id = Digest::of(&number.to_le_bytes());
        state.head = RecordRef { number, id };
        Arc::new(state)
    };
    let fork = at(
        5,
        &[("kept", "1"), ("edited", "1"), ("gone", "1"), ("lags", "2")],
    );
    let known = at(
        9,
        &[("kept", "1"), ("edited", "2"), ("new", "1"), ("lags", "3")],
    );
    let next = at(
        7,
        &[
            ("kept", "1"),
            ("edited", "1"),
            ("gone", "1"),
            ("lags", "2"),
            ("other", "1"),
        ],
    );
    for (agreed_at, lags) in [(4, "1"), (8, "2")] {
        let mut checkout = Checkout::settled(Arc::clone(&known));
        checkout.set_base(&path("lags"), Some(file("1").signature()), agreed_at);
        checkout.part(Arc::clone(&fork), Arc::clone(&next));
        let expected = [
            ("kept", "1"),
            ("edited", "1"),
            ("gone", "1"),
            ("lags", lags),
        ];
        assert_eq!(base_of(&checkout), base(&expected));
        assert_eq!(checkout.state.head, next.head);
        assert_eq!(checkout.landed, Some(fork.head));
    }
    // A path that was seen to move keeps the record at which it had what was agreed on.
    let mut checkout = Checkout::settled(at(3, &[("lags", "1")]));
    checkout.move_to(fork.clone());
    checkout.move_to(known.clone());
    assert_eq!(checkout.pending[&path("lags")].at, 3);
}
