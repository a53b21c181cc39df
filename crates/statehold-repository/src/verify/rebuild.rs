//! Making content objects anew from the content itself: the same frames in the same places.
//!
//! Listings name a frame by object, offset and length. So what is made anew satisfies them if each
//! frame stands where it stood, is as long as it was and holds what it held. The same program makes the
//! same bytes; another version of zstd may make others, which are then filled up to the length.

use std::collections::BTreeSet;

use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::ContentObject;
use statehold_core::id::PackId;
use statehold_core::limits::PACK_BYTES_MAX;

use super::content::{Frame, check_content};
use crate::content::{FrameLine, read_pack};
use crate::format::container::{Container, TRAILER_BYTES, trailer_of};
use crate::format::frame::{fit, skippable};
use crate::format::header::{HEADER_BYTES, ObjectKind, write};
use crate::format::record::StoredRecord;

/// Length of the checksum of a frame in a pack's table, in hexadecimal digits.
const CHECK_CHARS: usize = 32;

/// How many lines a table is shortened by at most, one after the other.
const TABLE_ATTEMPTS: usize = 8;

/// Puts frames that an object has lost back into their places. Gives the offsets of those that are
/// there afterwards and were not before.
fn fill_in(
    object: ContentObject,
    bytes: &mut [u8],
    frames: &BTreeSet<Frame>,
    held: &dyn Fn(&Digest, u32) -> Option<Vec<u8>>,
) -> BTreeSet<u64> {
    let mut healed = BTreeSet::new();
    for frame in frames {
        if frame.open(object, bytes).is_ok() {
            continue;
        }
        let Some(raw) = held(&frame.digest, frame.raw) else {
            continue;
        };
        let place = usize::try_from(frame.offset)
            .ok()
            .and_then(|start| bytes.get_mut(start..start.checked_add(frame.stored as usize)?));
        if let Some(place) = place
            && let Some(made) = fit(&raw, place.len()).next()
        {
            place.copy_from_slice(&made);
            healed.insert(frame.offset);
        }
    }
    healed
}

/// A record whose envelope and body are sound, with content put back. `None` when nothing was.
pub(super) fn record(
    stored: &StoredRecord,
    frames: &BTreeSet<Frame>,
    held: &dyn Fn(&Digest, u32) -> Option<Vec<u8>>,
) -> Option<Bytes> {
    let record = &stored.record;
    let end = record.content_start + u64::from(record.envelope.draft.content_bytes);
    let mut bytes = stored.bytes.to_vec();
    bytes.resize(usize::try_from(end).ok()?, 0);
    let object = ContentObject::Record(record.envelope.number);
    let healed = fill_in(object, &mut bytes, frames, held);
    (!healed.is_empty()).then(|| bytes.into())
}

/// A pack made anew.
pub(super) struct MadePack {
    pub(super) bytes: Bytes,
    /// Whether nothing is missing.
    pub(super) is_whole: bool,
    /// Whether anything came from outside.
    pub(super) has_filled: bool,
}

/// A pack with content put back into what is left of it. `None` when nothing is gained.
pub(super) fn pack(
    id: PackId,
    left: Option<&Bytes>,
    announced: u64,
    frames: &BTreeSet<Frame>,
    held: &dyn Fn(&Digest, u32) -> Option<Vec<u8>>,
) -> Option<MadePack> {
    let object = ContentObject::Pack(id);
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| *length <= PACK_BYTES_MAX)?;
    let rest = left.map(|left| left.to_vec()).unwrap_or_default();
    let mut bytes = rest.clone();
    bytes.resize(length, 0);
    bytes
        .get_mut(..HEADER_BYTES)?
        .copy_from_slice(&write(ObjectKind::Pack));
    let has_filled = !fill_in(object, &mut bytes, frames, held).is_empty();
    let made = |bytes: Bytes, is_whole| MadePack {
        bytes,
        is_whole,
        has_filled,
    };
    // Its own table may have survived, and then everything may be as it was.
    let whole: Bytes = bytes.clone().into();
    if check_content(id, &whole, announced, frames).is_ok() {
        return Some(made(whole, true));
    }
    let sound = frames
        .iter()
        .filter(|frame| frame.open(object, &bytes).is_ok());
    let mut sound: BTreeSet<Frame> = sound.copied().collect();
    // Of those that no record is known to name, what the old table has and is as it says.
    let table = Container::<FrameLine>::read(&object.to_string(), whole, ObjectKind::Pack);
    let unnamed = table
        .into_iter()
        .flat_map(|table| table.table)
        .map(|line| Frame {
            offset: line.offset,
            stored: line.stored,
            raw: line.raw,
            digest: line.blake3,
        });
    sound.extend(unnamed.filter(|frame| frame.open(object, &bytes).is_ok()));
    let whole = write_table(bytes, rest.len(), &sound)?;
    let is_whole = check_content(id, &whole, announced, frames).is_ok();
    let is_sound = read_pack(id, whole.clone()).is_ok();
    ((has_filled && is_sound) || is_whole).then(|| made(whole, is_whole))
}

/// Writes a table of these frames behind the last one. Beyond what was left of the object, what lies
/// between frames becomes something that readers of zstd pass over.
fn write_table(mut bytes: Vec<u8>, left: usize, frames: &BTreeSet<Frame>) -> Option<Bytes> {
    let mut lines = Vec::new();
    let mut end = HEADER_BYTES;
    for frame in frames {
        let start = usize::try_from(frame.offset).ok()?;
        let next = start.checked_add(frame.stored as usize)?;
        let mut check = Digest::of(bytes.get(start..next)?).to_string();
        check.truncate(CHECK_CHARS);
        let line = FrameLine {
            blake3: frame.digest,
            offset: frame.offset,
            stored: frame.stored,
            raw: frame.raw,
            check,
        };
        serde_json::to_writer(&mut lines, &line).ok()?;
        lines.push(b'\n');
        if end >= left && end < start {
            let stretch = bytes.get_mut(end..start)?;
            if let Some(frame) = skippable(stretch.len()) {
                stretch.copy_from_slice(&frame);
            }
        }
        end = end.max(next);
    }
    let trailer = bytes.len().checked_sub(TRAILER_BYTES)?;
    let room = trailer.checked_sub(end)?;
    // Checksums of other frames may not compress to the same length. A line less leaves room to fill,
    // and readers find frames by listings.
    let ends = lines
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    let ends = ends.map(|(at, _)| at + 1).chain([0]).take(TABLE_ATTEMPTS);
    let table = ends
        .filter_map(|end| fit(lines.get(..end)?, room).next())
        .next()?;
    bytes.get_mut(end..trailer)?.copy_from_slice(&table);
    let (offset, length) = (u64::try_from(end).ok()?, u32::try_from(table.len()).ok()?);
    bytes
        .get_mut(trailer..)?
        .copy_from_slice(&trailer_of(offset, length));
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::container::ContainerWriter;
    use crate::format::frame::store;

    fn text(seed: u64) -> Vec<u8> {
        let lines = (0..3_000_u64).map(|i| format!("{seed} {}\n", i.wrapping_mul(seed) % 97));
        lines.collect::<String>().into_bytes()
    }

    /// A pack as another program would write it: frames that this one would make shorter.
    fn foreign_pack(contents: &[Vec<u8>]) -> (Bytes, BTreeSet<Frame>) {
        let mut writer = ContainerWriter::new(ObjectKind::Pack);
        let (mut frames, mut table) = (BTreeSet::new(), Vec::new());
        for content in contents {
            let stored = store(content);
            let offset = writer.push(&stored);
            let digest = Digest::of(content);
            let (length, raw) = (
                u32::try_from(stored.len()).unwrap(),
                u32::try_from(content.len()).unwrap(),
            );
            frames.insert(Frame {
                offset,
                stored: length,
                raw,
                digest,
            });
            let mut check = Digest::of(&stored).to_string();
            check.truncate(CHECK_CHARS);
            table.push(FrameLine {
                blake3: digest,
                offset,
                stored: length - 9,
                raw,
                check,
            });
        }
        // Its table says something that ours would not.
        (writer.finish(&table), frames)
    }

    #[test]
    fn frames_of_another_program_get_their_places_back() {
        let id = PackId::from_bytes([3; 16]);
        let contents = [text(5), text(7), text(11)];
        let (bytes, frames) = foreign_pack(&contents);
        let announced = bytes.len() as u64;
        let held = |digest: &Digest, _: u32| {
            let mut contents = contents.iter();
            contents
                .find(|content| Digest::of(content) == *digest)
                .cloned()
        };
        let cut = bytes.slice(..bytes.len() / 2);
        for left in [None, Some(&cut), Some(&bytes)] {
            let made = pack(id, left, announced, &frames, &held).unwrap();
            assert!(made.is_whole);
            check_content(id, &made.bytes, announced, &frames).unwrap();
        }
        // Only what is held comes back, and what is left stays.
        let one = Digest::of(&contents[2]);
        let some =
            |digest: &Digest, raw: u32| (*digest == one).then(|| held(digest, raw)).flatten();
        let made = pack(id, Some(&cut), announced, &frames, &some).unwrap();
        assert!(!made.is_whole && made.has_filled);
        let object = ContentObject::Pack(id);
        let there: Vec<bool> = frames
            .iter()
            .map(|frame| frame.open(object, &made.bytes).is_ok())
            .collect();
        assert_eq!(there, [true, false, true]);
        let nothing = |_: &Digest, _: u32| None;
        assert!(pack(id, None, announced, &frames, &nothing).is_none());
        assert!(pack(id, Some(&cut), announced, &frames, &nothing).is_none());
        assert!(pack(id, None, u64::MAX, &frames, &held).is_none());
    }
}
