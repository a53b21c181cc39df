//! One node's folder among those that are carried. Only that node writes there.
//!
//! ```text
//! head                          how far the node is
//! log/<first sequence number>   its events, in segments as in its own logs
//! snapshot                      its head at some time, and everything that it knew then
//! ```
//!
//! What is read here came from elsewhere: every read is bounded, no link is followed, and what is
//! wrong is an error that names the file.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{Error, IoContext as _, Result};
use crate::frame::{Frame, Mark, first_link};
use crate::limits::{
    CARRIED_SEGMENT_BYTES, CARRIED_SEGMENT_BYTES_MAX, HEAD_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use crate::message::{self, Head, Message};
use crate::node::NodeId;
use crate::replica::Replica;
use crate::segment::{self, Contents, SegmentWriter};

/// Bytes of a snapshot before the head in it: that head's length.
const SNAPSHOT_PREFIX_BYTES: usize = 4;

/// The folder of one node.
#[derive(Debug)]
pub(crate) struct NodeFolder {
    pub(crate) node: NodeId,
    path: PathBuf,
}

/// A segment of the log: the number of its first event, and where it is.
pub(crate) type CarriedSegment = (u64, PathBuf);

/// The end of a log, to which more is added.
#[derive(Debug, Clone)]
pub(crate) struct LogEnd {
    /// Up to where the log goes.
    pub mark: Mark,
    /// The last segment, with the bytes of what is whole in it.
    last: Option<(PathBuf, u64)>,
}

impl NodeFolder {
    pub(crate) fn new(all: &Path, node: NodeId) -> Self {
        let path = all.join(node.to_string());
        Self { node, path }
    }

    pub(crate) fn is_there(&self) -> bool {
        is_folder(&self.path)
    }

    pub(crate) fn head_path(&self) -> PathBuf {
        self.path.join("head")
    }

    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.path.join("snapshot")
    }

    fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// How far the node is, by its own word.
    pub(crate) fn head(&self) -> Result<Option<Head>> {
        let path = self.head_path();
        match read(&path, HEAD_BYTES_MAX as u64)? {
            Some(bytes) => self.parse_head(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    fn parse_head(&self, bytes: &[u8], path: &Path) -> Result<Head> {
        match Message::decode(bytes) {
            Ok(Message::Head(head)) if head.node == self.node => Ok(head),
            Ok(Message::Head(_)) => damaged(path, "it is the head of another node"),
            Ok(_) => damaged(path, "it is no head"),
            Err(malformed) => damaged(path, &malformed.to_string()),
        }
    }

    /// The segments of its log, in order.
    pub(crate) fn segments(&self) -> Result<Vec<CarriedSegment>> {
        let path = self.log_path();
        if !is_folder(&path) {
            return Ok(Vec::new());
        }
        let mut segments = Vec::new();
        for item in fs::read_dir(&path).on("list", &path)? {
            let path = item.on("list", &path)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(first) = name.and_then(|name| name.parse().ok()) {
                segments.push((first, path));
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// What a segment of its log holds. Of the last one, the end may not have come whole.
    pub(crate) fn contents(&self, segment: &Path, is_last: bool) -> Result<Contents> {
        let bytes = read(segment, CARRIED_SEGMENT_BYTES_MAX)?.unwrap_or_default();
        segment::parse(&bytes, segment, self.node, is_last)
    }

    /// What its snapshot says to know, without reading all of it.
    pub(crate) fn snapshot_head(&self) -> Result<Option<Head>> {
        let path = self.snapshot_path();
        if length(&path)?.is_none() {
            return Ok(None);
        }
        let mut file = fs::File::open(&path).on("open", &path)?;
        let mut length = [0; SNAPSHOT_PREFIX_BYTES];
        if file.read_exact(&mut length).is_err() {
            return damaged(&path, "it ends too early");
        }
        let length = u64::from(u32::from_le_bytes(length)).min(HEAD_BYTES_MAX as u64);
        let mut head = Vec::new();
        file.take(length).read_to_end(&mut head).on("read", &path)?;
        self.parse_head(&head, &path).map(Some)
    }

    /// Everything that it knew once, if that is there.
    pub(crate) fn snapshot(&self) -> Result<Option<Message>> {
        let path = self.snapshot_path();
        let Some(bytes) = read(&path, MESSAGE_BYTES_MAX as u64)? else {
            return Ok(None);
        };
        let rest = bytes.split_first_chunk().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            rest.get(length..)
        });
        let Some(rest) = rest else {
            return damaged(&path, "it ends too early");
        };
        match Message::decode(rest) {
            Ok(message @ Message::Snapshot(_)) => Ok(Some(message)),
            Ok(_) => damaged(&path, "it is no snapshot"),
            Err(malformed) => damaged(&path, &malformed.to_string()),
        }
    }

    /// Whether the log begins at the first event, or where the snapshot ends.
    pub(crate) fn is_whole(&self) -> Result<bool> {
        let Some((first, _)) = self.segments()?.into_iter().next() else {
            return Ok(true);
        };
        let snapshot = || self.snapshot_head().ok().flatten();
        Ok(first <= 1 || snapshot().is_some_and(|head| head.clock().get(&self.node) + 1 >= first))
    }

    /// How long the log is, in bytes.
    pub(crate) fn log_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for (_, path) in self.segments()? {
            bytes += length(&path)?.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// How long the snapshot is, in bytes; 0 if there is none.
    pub(crate) fn snapshot_bytes(&self) -> Result<u64> {
        Ok(length(&self.snapshot_path())?.unwrap_or(0))
    }

    /// Where the log ends; nothing if its last segment cannot be gone on with.
    pub(crate) fn log_end(&self) -> Result<Option<LogEnd>> {
        let Some((_, path)) = self.segments()?.pop() else {
            return Ok(Some(LogEnd {
                mark: Mark {
                    sequence: 0,
                    link: first_link(self.node),
                },
                last: None,
            }));
        };
        let contents = match self.contents(&path, true) {
            Ok(contents) => contents,
            Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = contents.end()?;
        Ok(end.map(|mark| LogEnd {
            mark,
            last: Some((path, contents.length)),
        }))
    }

    /// Whether the log goes through this mark, as far as what is there tells.
    pub(crate) fn goes_through(&self, mark: Mark) -> Result<bool> {
        let segments = self.segments()?;
        let is_before = |(first, _): &CarriedSegment| *first <= mark.sequence + 1;
        let Some(place) = segments.iter().rposition(is_before) else {
            return Ok(true);
        };
        let is_last = place + 1 == segments.len();
        // What is damaged says nothing.
        let Ok(contents) = self.contents(&segments[place].1, is_last) else {
            return Ok(true);
        };
        Ok(contents.goes_through(mark)?)
    }

    /// Adds frames behind the end of the log.
    pub(crate) fn append(&self, end: LogEnd, frames: &[Frame]) -> Result<()> {
        let mut mark = end.mark;
        let mut writer = match &end.last {
            Some((path, length)) => Some(SegmentWriter::resume(path, *length)?),
            None => None,
        };
        let mut rest = frames;
        while !rest.is_empty() {
            let mut open = match writer.take() {
                Some(writer) if writer.length < CARRIED_SEGMENT_BYTES => writer,
                _ => self.new_segment(mark)?,
            };
            // As many as fill the segment, in one record.
            let mut bytes = open.length;
            let count = rest
                .iter()
                .position(|frame| {
                    bytes += frame.bytes().len() as u64;
                    bytes >= CARRIED_SEGMENT_BYTES
                })
                .map_or(rest.len(), |place| place + 1);
            let (now, later) = rest.split_at(count);
            if let Some(last) = now.last() {
                mark = Mark {
                    sequence: last.sequences()?.1,
                    link: last.link(),
                };
            }
            open.append(now)?;
            rest = later;
            writer = Some(open);
        }
        Ok(())
    }

    fn new_segment(&self, before: Mark) -> Result<SegmentWriter> {
        let log = self.log_path();
        fs::create_dir_all(&log).on("create", &log)?;
        let path = log.join(format!("{:020}", before.sequence + 1));
        SegmentWriter::create(&path, self.node, before)
    }

    /// Puts there everything that is known. The log stays beside it.
    pub(crate) fn write_snapshot(&self, head: Head, replica: &Replica) -> Result<()> {
        let head = Message::Head(head).encode();
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let snapshot = message::encode_snapshot(replica);
        fs::create_dir_all(&self.path).on("create", &self.path)?;
        let parts: [&[u8]; 3] = [&length.to_le_bytes(), &head, &snapshot];
        durable::replace(&self.snapshot_path(), &parts)
    }

    /// The same in the place of the log so far.
    pub(crate) fn replace_log(&self, head: Head, replica: &Replica) -> Result<()> {
        self.write_snapshot(head, replica)?;
        for (_, path) in self.segments()? {
            fs::remove_file(&path).on("remove", &path)?;
        }
        // Empty, so that it is known behind what the log goes on.
        self.new_segment(replica.mark(self.node)).map(drop)
    }

    /// Says how far the node is, unless that is said already.
    pub(crate) fn write_head(&self, head: Head) -> Result<()> {
        let bytes = Message::Head(head).encode();
        let path = self.head_path();
        let is_said = matches!(read(&path, HEAD_BYTES_MAX as u64), Ok(Some(said)) if said == bytes);
        if is_said {
            return Ok(());
        }
        durable::replace(&path, &[&bytes])
    }

    /// Takes all of it away.
    pub(crate) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path).on("remove", &self.path)
    }
}

/// Whether there is a folder, and no link to one.
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// How long a file is, in bytes; an error if it is something else.
fn length(path: &Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => damaged(path, "it is no file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).on("look at", path),
    }
}

/// The content of a file of no more than this many bytes.
fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    match length(path)? {
        Some(length) if length > most => damaged(path, "it is longer than any can be"),
        Some(_) => durable::read(path),
        None => Ok(None),
    }
}

fn damaged<T>(path: &Path, why: &str) -> Result<T> {
    Err(Error::Damaged {
        path: path.to_owned(),
        offset: 0,
        why: why.to_owned(),
    })
}
