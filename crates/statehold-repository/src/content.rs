//! New content on its way into a repository: inline in the record while it is little, in packs
//! when it is more.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use statehold_core::bands::Band;
use statehold_core::collection::Collection;
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, Entry, Location};
use statehold_core::environment::Entropy;
use statehold_core::id::PackId;
use statehold_core::limits::{
    CHUNK_BYTES_MAX, INLINE_BYTES_MAX, PACK_BYTES_EARLY, PACK_BYTES_TARGET, PACKS_EARLY,
};
use statehold_core::record::NewPack;
use statehold_core::tree::Tree;

use crate::error::{Error, Result};
use crate::format::container::{Container, ContainerWriter};
use crate::format::frame::{FrameWriter, expand_exact, store};
use crate::format::header::{HEADER_BYTES, ObjectKind};
use crate::layout;

/// A line of a pack's frame table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameLine {
    /// Digest of the content.
    pub blake3: Digest,
    /// Where the frame begins.
    pub offset: u64,
    /// Length of the frame.
    pub stored: u32,
    /// Length of the content.
    pub raw: u32,
    /// First half of the BLAKE3 digest of the stored frame, for checks without expanding.
    pub check: String,
}

/// A pack that is ready to be written.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Pack {
    /// How a record names it.
    pub fn named(&self) -> NewPack {
        NewPack {
            id: self.id,
            bytes: self.bytes.len() as u64,
        }
    }
}

/// Takes in the chunks of a push and decides where each lies. Equal chunks are stored once.
#[derive(Debug)]
pub struct ContentWriter {
    known: HashMap<Digest, Chunk>,
    frames: FrameWriter,
    open: OpenPack,
    /// Stored bytes at which the open pack is full.
    target: usize,
    /// A buffer for the next pack, where packs are known to become full.
    spare: Option<Vec<u8>>,
    introduced: Vec<NewPack>,
    /// Packs that an earlier attempt has written, until one of their chunks is used.
    written: HashMap<PackId, NewPack>,
}

/// A pack that is being filled.
#[derive(Debug)]
pub(crate) struct OpenPack {
    id: PackId,
    container: ContainerWriter,
    table: Vec<FrameLine>,
}

impl OpenPack {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let container = ContainerWriter::new(ObjectKind::Pack);
        Self {
            id: PackId::random(entropy),
            container,
            table: Vec::new(),
        }
    }

    /// Stored bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.container.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.container.is_empty()
    }

    /// Takes in the stored frame of a chunk, and says where it lies.
    pub(crate) fn push(&mut self, digest: Digest, raw: u32, frame: &[u8]) -> Result<Chunk> {
        let stored = length(frame.len())?;
        let offset = self.container.push(frame);
        let mut check = Digest::of(frame).to_string();
        check.truncate(32);
        self.table.push(FrameLine {
            blake3: digest,
            offset,
            stored,
            raw,
            check,
        });
        let object = Some(ContentObject::Pack(self.id));
        let at = Location {
            object,
            offset,
            stored,
        };
        Ok(Chunk { digest, raw, at })
    }

    pub(crate) fn finish(self) -> Pack {
        Pack {
            id: self.id,
            bytes: self.container.finish(&self.table),
        }
    }
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::refused("a chunk is too large"))
}

/// The end of a [`ContentWriter`]: what is left to write, and where everything lies.
#[derive(Debug)]
pub struct Finished {
    /// The last pack, unless its content rides in the record.
    pub pack: Option<Pack>,
    /// The content that rides in the record.
    pub inline: Vec<u8>,
    /// The packs that the record has to introduce.
    pub introduced: Vec<NewPack>,
    /// The pack that never was, because its content is inline.
    inline_id: PackId,
}

impl ContentWriter {
    /// A writer that reuses the content of a directory, as far as it may be named again.
    pub fn new(known: &Tree, collection: &Collection, entropy: &dyn Entropy) -> Self {
        let may_name = |chunk: &&Chunk| {
            let object = chunk.at.object;
            object.is_some_and(|object| collection.may_name(object))
        };
        let known = known
            .iter()
            .filter_map(|(_, entry)| match entry {
                Entry::File(file) => Some(&file.chunks),
                Entry::Symlink { .. } | Entry::Directory => None,
            })
            .flatten()
            .filter(may_name)
            .map(|chunk| (chunk.digest, *chunk))
            .collect();
        let open = OpenPack::new(entropy);
        Self {
            known,
            frames: FrameWriter::default(),
            open,
            target: PACK_BYTES_TARGET,
            spare: None,
            introduced: Vec::new(),
            written: HashMap::new(),
        }
    }

    /// Makes use of a pack that an earlier attempt has written and no record has introduced: what it holds is not
    /// stored again.
    pub fn resume(&mut self, pack: NewPack, frames: &[FrameLine]) {
        let object = Some(ContentObject::Pack(pack.id));
        for line in frames {
            let chunk = Chunk {
                digest: line.blake3,
                raw: line.raw,
                at: Location {
                    object,
                    offset: line.offset,
                    stored: line.stored,
                },
            };
            self.known.entry(line.blake3).or_insert(chunk);
        }
        self.written.insert(pack.id, pack);
    }

    /// Cuts this many bytes into packs that are about equal, so that each is sent while the next one
    /// fills, and little is left to send at the end.
    pub fn send_early(&mut self, total: u64) {
        let equal = usize::try_from(total / PACKS_EARLY).unwrap_or(usize::MAX);
        self.target = equal.clamp(PACK_BYTES_EARLY, PACK_BYTES_TARGET);
        self.spare = Some(Vec::new());
    }

    /// Gives back the buffer of a pack that was sent, for another one. Packs are large, and an
    /// allocator may hold on to what is freed for longer than it takes to fill the next.
    pub fn reuse(&mut self, buffer: Vec<u8>) {
        if let Some(spare) = &mut self.spare {
            *spare = buffer;
        }
    }

    /// Takes in a chunk. `band` says whether it may be compressed.
    pub fn add(&mut self, digest: Digest, raw: &[u8], band: Band) -> Result<Chunk> {
        if let Some(known) = self.known.get(&digest) {
            if let Some(ContentObject::Pack(id)) = known.at.object {
                self.introduced.extend(self.written.remove(&id));
            }
            return Ok(*known);
        }
        // The first chunk of a pack that will be full: by now an earlier one may be through.
        if self.open.is_empty()
            && let Some(spare) = &mut self.spare
        {
            let (buffer, room) = (std::mem::take(spare), self.target + CHUNK_BYTES_MAX);
            self.open.container = ContainerWriter::in_buffer(ObjectKind::Pack, buffer, room);
        }
        let frame = match band {
            Band::Raw => store(raw),
            Band::Compressed => self.frames.compress(raw),
            Band::Refused { limit } => {
                return Err(Error::refused(format!(
                    "the file is over the limit of {limit} bytes"
                )));
            }
        };
        let chunk = self.open.push(digest, length(raw.len())?, &frame)?;
        self.known.insert(digest, chunk);
        Ok(chunk)
    }

    /// A pack that is full and can be written while more content comes in.
    pub fn take_full_pack(&mut self, entropy: &dyn Entropy) -> Option<Pack> {
        if self.open.len() < self.target {
            return None;
        }
        let full = std::mem::replace(&mut self.open, OpenPack::new(entropy));
        let full = full.finish();
        self.introduced.push(full.named());
        Some(full)
    }

    /// Ends the content of a push. What is left goes into the record if it is little.
    pub fn finish(mut self) -> Finished {
        let inline_id = self.open.id;
        let (mut pack, mut inline) = (None, Vec::new());
        if self.open.len() - HEADER_BYTES <= INLINE_BYTES_MAX {
            inline = self.open.container.into_frames();
        } else {
            let last = self.open.finish();
            self.introduced.push(last.named());
            pack = Some(last);
        }
        Finished {
            pack,
            inline,
            introduced: self.introduced,
            inline_id,
        }
    }
}

impl Finished {
    /// Makes an entry built from the writer's chunks say where they lie in the end.
    pub fn settle(&self, entry: &mut Entry) {
        let Entry::File(file) = entry else { return };
        let inline = Some(ContentObject::Pack(self.inline_id));
        if self.pack.is_some() {
            return;
        }
        for chunk in file
            .chunks
            .iter_mut()
            .filter(|chunk| chunk.at.object == inline)
        {
            chunk.at.object = None;
            chunk.at.offset -= HEADER_BYTES as u64;
        }
    }
}

/// Expands the stored frame of a chunk and checks its digest.
pub fn open_chunk(chunk: &Chunk, frame: &[u8]) -> Result<Vec<u8>> {
    let object = chunk
        .at
        .object
        .map(|object| object.to_string())
        .unwrap_or_default();
    let raw = expand_exact(&object, frame, chunk.raw as usize)?;
    if Digest::of(&raw) != chunk.digest {
        return Err(Error::damaged(
            object,
            format!("it does not hold the chunk {}", chunk.digest),
        ));
    }
    Ok(raw)
}

/// Checks that every frame of a pack holds the content that its table says.
pub fn check_pack(id: PackId, bytes: Bytes) -> Result<()> {
    let object = layout::pack(id);
    for line in read_pack(id, bytes.clone())? {
        let start = usize::try_from(line.offset).unwrap_or(usize::MAX);
        let frame = bytes.get(start..start.saturating_add(line.stored as usize));
        let frame =
            frame.ok_or_else(|| Error::damaged(&object, "its table points past its end"))?;
        if Digest::of(&expand_exact(&object, frame, line.raw as usize)?) != line.blake3 {
            let reason = format!("it does not hold the chunk {}", line.blake3);
            return Err(Error::damaged(&object, reason));
        }
    }
    Ok(())
}

/// A pack's frame table, as it is.
pub fn frames_of(pack: &Pack) -> Result<Vec<FrameLine>> {
    let (object, bytes) = (layout::pack(pack.id), pack.bytes.clone());
    Ok(Container::read(&object, bytes, ObjectKind::Pack)?.table)
}

/// Reads a pack's frame table, and checks each frame against it.
pub fn read_pack(id: PackId, bytes: Bytes) -> Result<Vec<FrameLine>> {
    let object = layout::pack(id);
    let container = Container::<FrameLine>::read(&object, bytes, ObjectKind::Pack)?;
    for line in &container.table {
        let frame = container.frames(line.offset, u64::from(line.stored))?;
        if !Digest::of(&frame).to_string().starts_with(&line.check) || line.check.len() != 32 {
            let reason = format!("the frame of {} does not have its checksum", line.blake3);
            return Err(Error::damaged(&object, reason));
        }
    }
    Ok(container.table)
}
