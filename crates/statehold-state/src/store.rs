//! A folder that holds a replica: a log for each node, and a snapshot from which loading begins.
//!
//! ```text
//! logs/<node>/<first sequence number>   frames of one node, in its order
//! snapshot                              everything up to some clock; written beside and renamed
//! node                                  which node this folder is
//! lock                                  held while the folder is open
//! ```
//!
//! What a replica knows does not depend on the order of events, so the logs are read in any order.
//! A change appends its own bytes and no more.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::codec::{Malformed, Reader, Writer};
use crate::durable;
use crate::error::{Error, IoContext as _, Result};
use crate::frame::{Frame, Mark};
use crate::limits::{CLOCK_NODES_MAX, HISTORY_BYTES_MAX, SEGMENT_BYTES, SNAPSHOT_DUE_BYTES_MIN};
use crate::node::NodeId;
use crate::replica::Replica;
use crate::segment::{self, SegmentWriter};
use crate::snapshot::{self, Source};
use crate::vector_clock::VectorClock;

const SNAPSHOT_MAGIC: &[u8; 8] = b"SHSNAP02";
const SNAPSHOT_HEADER_BYTES: usize = 8 + 32;

/// A closed or open segment, by its first sequence number.
type Segments = BTreeMap<u64, PathBuf>;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    segments: BTreeMap<NodeId, Segments>,
    writers: HashMap<NodeId, SegmentWriter>,
    /// Bytes of log since the last snapshot.
    grown: u64,
    /// Length of the last snapshot.
    snapshot_bytes: u64,
    /// The last segment of each node when that snapshot was written, with its length.
    covered: BTreeMap<NodeId, (u64, u64)>,
    is_broken: bool,
    /// Held as long as the folder is open.
    lock: File,
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing is not enough: a process that is just being started may hold a copy of it.
        self.lock.unlock().ok();
    }
}

/// What was found when a folder was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Batches that were read from logs, after the snapshot.
    pub(crate) batches: usize,
    /// Half written ends that were cut off. Nothing in them had been acknowledged.
    pub(crate) torn: usize,
}

impl Store {
    /// Opens a folder, creating it if need be, and loads what it holds.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Replica, Loaded)> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs).on("create", &logs)?;
        let lock = lock(folder)?;
        let mut store = Self {
            folder: folder.to_owned(),
            segments: BTreeMap::new(),
            writers: HashMap::new(),
            grown: 0,
            snapshot_bytes: 0,
            covered: BTreeMap::new(),
            is_broken: false,
            lock,
        };
        let mut replica = store.read_snapshot()?;
        store.find_segments(&logs)?;
        let mut loaded = Loaded::default();
        let nodes: Vec<NodeId> = store.segments.keys().copied().collect();
        for node in nodes {
            store.load_log(node, &mut replica, &mut loaded)?;
        }
        Ok((store, replica, loaded))
    }

    fn snapshot_path(&self) -> PathBuf {
        self.folder.join("snapshot")
    }

    fn read_snapshot(&mut self) -> Result<Replica> {
        let path = self.snapshot_path();
        let Some(bytes) = durable::read(&path)? else {
            return Ok(Replica::new());
        };
        self.snapshot_bytes = bytes.len() as u64;
        let damaged = |why: String| Error::Damaged {
            path: path.clone(),
            offset: 0,
            why,
        };
        let body = bytes.get(SNAPSHOT_HEADER_BYTES..);
        let body = body.filter(|body| {
            bytes.starts_with(SNAPSHOT_MAGIC)
                && bytes[8..SNAPSHOT_HEADER_BYTES] == *blake3::hash(body).as_bytes()
        });
        let body = body.ok_or_else(|| damaged("its content is not what was written".to_owned()))?;
        let mut reader = Reader::new("a snapshot", body);
        let read = read_covered(&mut reader)
            .and_then(|covered| Ok((covered, reader.raw(reader.remaining())?)));
        let (covered, body) = read.map_err(|error| damaged(error.to_string()))?;
        self.covered = covered;
        snapshot::decode(body, Source::Own).map_err(|error| damaged(error.to_string()))
    }

    fn find_segments(&mut self, logs: &Path) -> Result<()> {
        for item in fs::read_dir(logs).on("list", logs)? {
            let path = item.on("list", logs)?.path();
            // What is not ours is left alone.
            let Some(node) = name_of(&path).and_then(|name| name.parse().ok()) else {
                continue;
            };
            let segments = self.segments.entry(node).or_default();
            for item in fs::read_dir(&path).on("list", &path)? {
                let path = item.on("list", &path)?.path();
                if let Some(first) = name_of(&path).and_then(|name| name.parse().ok()) {
                    segments.insert(first, path);
                }
            }
        }
        Ok(())
    }

    /// Reads what the snapshot does not cover of one node's log.
    fn load_log(&mut self, node: NodeId, replica: &mut Replica, loaded: &mut Loaded) -> Result<()> {
        let segments = self.segments.get(&node).cloned().unwrap_or_default();
        let known = replica.mark(node).sequence;
        for (index, (first, path)) in segments.iter().enumerate() {
            let next = segments.keys().nth(index + 1);
            // Whole segments behind the snapshot are history.
            if next.is_some_and(|next| *next <= known + 1) {
                continue;
            }
            if next.is_none() && self.is_covered(node, *first, path)? {
                continue;
            }
            let contents = segment::read(path, node, next.is_none())?;
            loaded.torn += usize::from(contents.is_torn);
            if contents.frames.is_empty() && next.is_none() {
                fs::remove_file(path).on("remove", path)?;
                if let Some(segments) = self.segments.get_mut(&node) {
                    segments.remove(first);
                }
                break;
            }
            for frame in &contents.frames {
                match replica.accept(frame) {
                    Ok(_) => loaded.batches += 1,
                    Err(refused) => {
                        return Err(Error::Damaged {
                            path: path.clone(),
                            offset: 0,
                            why: refused.to_string(),
                        });
                    }
                }
            }
            self.grown += contents.length;
            if next.is_none() {
                let is_covered = replica.mark(node).sequence == known;
                // After a snapshot each log begins a new segment, so that old ones are not read.
                if !is_covered || contents.is_torn {
                    let writer = SegmentWriter::resume(path, contents.length)?;
                    self.writers.insert(node, writer);
                }
            }
        }
        Ok(())
    }

    /// Whether nothing was added to the last segment of a log since the snapshot.
    fn is_covered(&self, node: NodeId, first: u64, path: &Path) -> Result<bool> {
        let length = fs::metadata(path).on("look at", path)?.len();
        Ok(self.covered.get(&node) == Some(&(first, length)))
    }

    /// Appends frames of one node to its log, whose end is at this mark.
    /// All of them are durable when this returns; if it fails, the folder has to be opened again.
    pub(crate) fn append(&mut self, frames: &[Frame], before: Mark) -> Result<()> {
        if self.is_broken {
            return Err(Error::Broken {
                path: self.folder.clone(),
            });
        }
        let Some(first) = frames.first() else {
            return Ok(());
        };
        let node = first.node();
        // Whatever goes wrong on the way, nobody knows how much of it is there.
        self.is_broken = true;
        let is_open = self
            .writers
            .get(&node)
            .is_some_and(|writer| writer.length < SEGMENT_BYTES);
        if !is_open {
            let path = self.new_segment(node, before.sequence + 1)?;
            let writer = SegmentWriter::create(&path, node, before)?;
            self.grown += writer.length;
            self.writers.insert(node, writer);
            let segments = self.segments.entry(node).or_default();
            segments.insert(before.sequence + 1, path);
        }
        if let Some(writer) = self.writers.get_mut(&node) {
            self.grown += writer.append(frames)?;
        }
        self.is_broken = false;
        Ok(())
    }

    fn new_segment(&self, node: NodeId, first: u64) -> Result<PathBuf> {
        let logs = self.folder.join("logs");
        let folder = logs.join(node.to_string());
        if !folder.is_dir() {
            fs::create_dir(&folder).on("create", &folder)?;
            durable::sync_folder(&logs)?;
        }
        Ok(folder.join(format!("{first:020}")))
    }

    /// Whether the logs have grown so much that a snapshot is worth its bytes.
    pub(crate) fn is_snapshot_due(&self) -> bool {
        self.grown >= SNAPSHOT_DUE_BYTES_MIN.max(self.snapshot_bytes)
    }

    /// Writes everything as a snapshot, and lets go of history beyond its bound.
    pub(crate) fn write_snapshot(&mut self, replica: &Replica) -> Result<()> {
        let mut covered = BTreeMap::new();
        for (node, segments) in &self.segments {
            if let Some((first, path)) = segments.last_key_value() {
                let length = fs::metadata(path).on("look at", path)?.len();
                covered.insert(*node, (*first, length));
            }
        }
        let mut body = Writer::default();
        body.count(covered.len());
        for (node, (first, length)) in &covered {
            body.raw(node.as_bytes());
            body.number(*first);
            body.number(*length);
        }
        body.raw(&snapshot::encode(replica));
        let digest = blake3::hash(&body.0);
        let parts: [&[u8]; 3] = [SNAPSHOT_MAGIC, digest.as_bytes(), &body.0];
        durable::replace(&self.snapshot_path(), &parts)?;
        self.snapshot_bytes = (SNAPSHOT_HEADER_BYTES + body.0.len()) as u64;
        self.covered = covered;
        self.grown = 0;
        // The next frame of each node begins a new segment.
        self.writers.clear();
        self.forget_history(HISTORY_BYTES_MAX)
    }

    /// Removes the oldest segments, all of them behind the snapshot, until no more bytes are left.
    pub(crate) fn forget_history(&mut self, most: u64) -> Result<()> {
        let mut found = Vec::new();
        let mut total = 0;
        for (node, segments) in &self.segments {
            for (first, path) in segments {
                let metadata = fs::metadata(path).on("look at", path)?;
                total += metadata.len();
                found.push((metadata.modified().ok(), *node, *first, metadata.len()));
            }
        }
        found.sort();
        for (_, node, first, bytes) in found {
            if total <= most {
                break;
            }
            let removed = self
                .segments
                .get_mut(&node)
                .and_then(|segments| segments.remove(&first));
            if let Some(path) = removed {
                fs::remove_file(&path).on("remove", &path)?;
                total -= bytes;
            }
        }
        Ok(())
    }

    /// All frames that somebody with this clock lacks; nothing if the history does not reach back
    /// so far, in which case a snapshot has to do.
    pub(crate) fn frames_since(
        &self,
        known: &VectorClock,
        replica: &Replica,
    ) -> Result<Option<Vec<Frame>>> {
        let mut frames = Vec::new();
        for (node, mark) in replica.marks() {
            let known = known.get(node);
            if known < mark.sequence && !self.node_frames(*node, known, *mark, &mut frames)? {
                return Ok(None);
            }
        }
        Ok(Some(frames))
    }

    /// The frames of one node after a number. Whether all of them are there.
    pub(crate) fn node_frames(
        &self,
        node: NodeId,
        known: u64,
        mark: Mark,
        frames: &mut Vec<Frame>,
    ) -> Result<bool> {
        let Some(segments) = self.segments.get(&node) else {
            return Ok(false);
        };
        let Some((from, _)) = segments.range(..=known + 1).next_back() else {
            return Ok(false);
        };
        let last = segments.keys().next_back();
        let mut reached = known;
        for (first, path) in segments.range(from..) {
            for frame in segment::read(path, node, Some(first) == last)?.frames {
                let (first, last) = frame.sequences()?;
                if last <= known {
                    continue;
                }
                if first != reached + 1 {
                    return Ok(false);
                }
                reached = last;
                frames.push(frame);
            }
        }
        Ok(reached == mark.sequence)
    }

    /// Every frame that is still kept, node by node.
    pub(crate) fn history(&self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        for (node, segments) in &self.segments {
            let last = segments.keys().next_back();
            for (first, path) in segments {
                frames.extend(segment::read(path, *node, Some(first) == last)?.frames);
            }
        }
        Ok(frames)
    }
}

fn read_covered(reader: &mut Reader<'_>) -> Result<BTreeMap<NodeId, (u64, u64)>, Malformed> {
    let mut covered = BTreeMap::new();
    for _ in 0..reader.count("the number of logs", CLOCK_NODES_MAX)? {
        let node = NodeId::from_bytes(reader.array()?);
        covered.insert(node, (reader.number()?, reader.number()?));
    }
    Ok(covered)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .on("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(error).on("lock", &path),
    }
}
