//! Where content lies now that lay elsewhere before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entry::{ContentObject, Entry, Location};
use crate::id::PackId;

/// A frame, named by the object it lies in and its first byte there. Two frames never begin at one place.
pub type Place = (ContentObject, u64);

/// Frames that a `compact` copied, as they are, or let go of. About 64 bytes each in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// `None` stands for content that was purged.
    frames: BTreeMap<Place, Option<(PackId, u64)>>,
}

/// The frames that went from one object to one pack, as a line of a record's body.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MovesLine {
    /// The object's key.
    from: String,
    /// The pack; absent where content was purged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<PackId>,
    /// First byte of each frame: before, and now.
    frames: Vec<(u64, u64)>,
}

impl Moves {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Says where a frame lies from now on; nowhere if it was purged.
    pub fn insert(&mut self, from: Place, to: Option<(PackId, u64)>) {
        self.frames.insert(from, to);
    }

    /// Every frame, with where it lies now.
    pub fn iter(&self) -> impl Iterator<Item = (Place, Option<(PackId, u64)>)> {
        self.frames.iter().map(|(from, to)| (*from, *to))
    }

    /// Where a frame lies now: `None` if it stayed where it is.
    pub fn of(&self, from: Place) -> Option<Option<(PackId, u64)>> {
        self.frames.get(&from).copied()
    }

    /// Where frames of an object, by their first bytes in it, lie besides: now, and before they came to it.
    pub fn beside(&self, object: ContentObject) -> BTreeMap<u64, Vec<Place>> {
        let mut beside: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
        for (from, to) in self.iter() {
            let Some((pack, offset)) = to else { continue };
            let now = (ContentObject::Pack(pack), offset);
            if from.0 == object {
                beside.entry(from.1).or_default().push(now);
            } else if now.0 == object {
                beside.entry(now.1).or_default().push(from);
            }
        }
        beside
    }

    /// Where a location lies now. One that was purged lies nowhere: it names no object.
    pub fn moved(&self, at: Location) -> Location {
        let to = at.object.and_then(|object| self.of((object, at.offset)));
        match to {
            None => at,
            Some(to) => Location {
                object: to.map(|(pack, _)| ContentObject::Pack(pack)),
                offset: to.map_or(0, |(_, offset)| offset),
                stored: at.stored,
            },
        }
    }

    /// Makes an entry say where its content lies now.
    pub fn apply(&self, entry: &mut Entry) {
        if let Entry::File(file) = entry {
            for chunk in &mut file.chunks {
                chunk.at = self.moved(chunk.at);
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<MovesLine> {
        let mut lines = BTreeMap::new();
        for ((object, offset), to) in self.iter() {
            let (pack, now) = to.unzip();
            let line = lines.entry((object, pack)).or_insert_with(|| MovesLine {
                from: object.to_string(),
                to: pack,
                frames: Vec::new(),
            });
            line.frames.push((offset, now.unwrap_or(0)));
        }
        lines.into_values().collect()
    }

    pub(super) fn take(&mut self, line: MovesLine) -> Result<(), String> {
        let from: ContentObject = line
            .from
            .parse()
            .map_err(|error: crate::entry::InvalidContentObject| error.to_string())?;
        for (offset, now) in line.frames {
            self.insert((from, offset), line.to.map(|pack| (pack, now)));
        }
        Ok(())
    }
}

impl FromIterator<(Place, Option<(PackId, u64)>)> for Moves {
    fn from_iter<T: IntoIterator<Item = (Place, Option<(PackId, u64)>)>>(frames: T) -> Self {
        Self {
            frames: frames.into_iter().collect(),
        }
    }
}
