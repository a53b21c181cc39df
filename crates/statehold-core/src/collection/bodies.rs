//! What the records say that collect: `compact`, `remove` and `hold`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::moves::{Moves, MovesLine};
use crate::id::PackId;
use crate::limits::{COLLECTED_PACKS_MAX, LISTINGS_MAX, MOVES_MAX};
use crate::numbers::Numbers;
use crate::record::{InvalidBody, RecordRef};
use crate::time::Timestamp;
use crate::tree::{TreeRef, write_line};

/// The body of a compaction: what is let go, and where what lay beside it lies now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactBody {
    /// The newest record that the collector had seen.
    pub base: RecordRef,
    /// Records whose states are let go.
    pub expired: Numbers,
    /// Packs that nobody may name any more.
    pub condemned: Vec<PackId>,
    /// Content that rides in records up to this one may not be named any more either; 0 for none.
    pub records: u64,
    /// Where content lies now: all moves that any state before this record needs, earlier ones put
    /// together with its own.
    pub moves: Moves,
}

/// The body of a removal: what nothing names any more and is deleted from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveBody {
    /// The newest record that the collector had seen.
    pub base: RecordRef,
    /// Packs to delete.
    pub packs: Vec<PackId>,
    /// Records up to this one are cut down to their envelopes. A checkpoint stands at it.
    pub cut: u64,
    /// What is to be read in their place: all that is kept before `cut`.
    pub listings: Vec<Listing>,
}

/// The body of a hold: packs of an upload that takes its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// The packs.
    pub packs: Vec<PackId>,
}

/// A tree that stands in for records that are retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The first record at which the directory was so.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// The first one's time.
    pub time: Timestamp,
    /// The tree.
    pub tree: TreeRef,
}

/// First line of a compaction's body; a line for each object that moves leave follows.
#[derive(Debug, Serialize, Deserialize)]
struct CompactLine {
    base: RecordRef,
    expired: Numbers,
    condemned: Vec<PackId>,
    records: u64,
    /// Lines that follow.
    moves: usize,
}

/// First line of a removal's body; a line for each listing follows.
#[derive(Debug, Serialize, Deserialize)]
struct RemoveLine {
    base: RecordRef,
    packs: Vec<PackId>,
    cut: u64,
    /// Lines that follow.
    listings: usize,
}

impl CompactBody {
    pub(crate) fn write_lines(&self, lines: &mut Vec<u8>) {
        let moves = self.moves.lines();
        let head = CompactLine {
            base: self.base,
            expired: self.expired.clone(),
            condemned: self.condemned.clone(),
            records: self.records,
            moves: moves.len(),
        };
        write_line(lines, &head);
        for line in &moves {
            write_line(lines, line);
        }
    }

    pub(crate) fn from_lines(lines: &[u8]) -> Result<Self, InvalidBody> {
        let (head, rest) = first_line::<CompactLine>(lines)?;
        check_bound("packs", head.condemned.len(), COLLECTED_PACKS_MAX)?;
        let mut moves = Moves::default();
        for (number, line) in exactly::<MovesLine>(rest, head.moves)?
            .into_iter()
            .enumerate()
        {
            moves.take(line).map_err(|message| InvalidBody {
                line: number + 2,
                message,
            })?;
            check_bound("moves", moves.len(), MOVES_MAX)?;
        }
        Ok(Self {
            base: head.base,
            expired: head.expired,
            condemned: head.condemned,
            records: head.records,
            moves,
        })
    }
}

impl RemoveBody {
    pub(crate) fn write_lines(&self, lines: &mut Vec<u8>) {
        let head = RemoveLine {
            base: self.base,
            packs: self.packs.clone(),
            cut: self.cut,
            listings: self.listings.len(),
        };
        write_line(lines, &head);
        for listing in &self.listings {
            write_line(lines, listing);
        }
    }

    pub(crate) fn from_lines(lines: &[u8]) -> Result<Self, InvalidBody> {
        let (head, rest) = first_line::<RemoveLine>(lines)?;
        check_bound("packs", head.packs.len(), COLLECTED_PACKS_MAX)?;
        check_bound("listings", head.listings, LISTINGS_MAX)?;
        Ok(Self {
            base: head.base,
            packs: head.packs,
            cut: head.cut,
            listings: exactly(rest, head.listings)?,
        })
    }
}

fn check_bound(what: &str, found: usize, limit: usize) -> Result<(), InvalidBody> {
    if found <= limit {
        return Ok(());
    }
    Err(InvalidBody {
        line: 1,
        message: format!("it has {found} {what}, {limit} is the limit"),
    })
}

/// The line that says what a body of many lines is about, and the lines after it.
pub(crate) fn first_line<'a, T: Deserialize<'a>>(
    lines: &'a [u8],
) -> Result<(T, &'a [u8]), InvalidBody> {
    let invalid = |message: String| InvalidBody { line: 1, message };
    let end = lines.iter().position(|byte| *byte == b'\n');
    let (first, rest) = lines.split_at(end.unwrap_or(lines.len()));
    if first.is_empty() {
        return Err(invalid("it is empty".into()));
    }
    let head = serde_json::from_slice(first).map_err(|error| invalid(error.to_string()))?;
    Ok((head, rest))
}

/// The lines after the first, of which there have to be so many.
fn exactly<T: DeserializeOwned>(lines: &[u8], announced: usize) -> Result<Vec<T>, InvalidBody> {
    let lines = lines.split(|byte| *byte == b'\n');
    let mut found = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let line = serde_json::from_slice(line).map_err(|error| InvalidBody {
            line: found.len() + 2,
            message: error.to_string(),
        })?;
        found.push(line);
    }
    if found.len() != announced {
        return Err(InvalidBody {
            line: 1,
            message: "it announces another count than it has lines".into(),
        });
    }
    Ok(found)
}
