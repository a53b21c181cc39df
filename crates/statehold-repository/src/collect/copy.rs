//! Copying what is still needed into new packs, frame by frame, as it is stored.

use std::collections::HashMap;

use statehold_core::collection::Place;
use statehold_core::entry::{Chunk, Location};
use statehold_core::id::PackId;
use statehold_core::limits::PACK_BYTES_TARGET;
use statehold_core::record::NewPack;

use super::look::Span;
use crate::Remote as _;
use crate::content::{OpenPack, Pack, open_chunk};
use crate::error::Result;
use crate::repository::Repository;

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Where each frame lies now.
    pub(super) places: HashMap<Place, (PackId, u64)>,
    /// The packs, all of them durable.
    pub(super) packs: Vec<NewPack>,
    /// Stored bytes of the frames.
    pub(super) bytes: u64,
}

/// Copies frames. Each is checked on the way, so that damage is named and not passed on. Two packs are in
/// memory at a time.
pub(super) async fn copy(repository: &Repository, frames: &[Span]) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut open = OpenPack::new(repository.entropy());
    let mut rest = frames;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |span: &&Span| {
            bytes += u64::from(span.stored);
            bytes <= PACK_BYTES_TARGET as u64
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, later) = rest.split_at(count);
        rest = later;
        let places: Vec<Location> = batch.iter().map(location).collect();
        for (span, frame) in batch.iter().zip(repository.read(&places).await?) {
            let chunk = Chunk {
                digest: span.digest,
                raw: span.raw,
                at: location(span),
            };
            open_chunk(&chunk, &frame)?;
            let now = open.push(span.digest, span.raw, &frame)?;
            copied.bytes += frame.len() as u64;
            if let Some(statehold_core::entry::ContentObject::Pack(pack)) = now.at.object {
                copied.places.insert(span.place, (pack, now.at.offset));
            }
            if open.len() >= PACK_BYTES_TARGET {
                let full = std::mem::replace(&mut open, OpenPack::new(repository.entropy()));
                put(repository, full.finish(), &mut copied).await?;
            }
        }
    }
    if !open.is_empty() {
        put(repository, open.finish(), &mut copied).await?;
    }
    Ok(copied)
}

async fn put(repository: &Repository, pack: Pack, copied: &mut Copied) -> Result<()> {
    copied.packs.push(pack.named());
    repository.put_checked_pack(pack.id, pack.bytes).await
}

const fn location(span: &Span) -> Location {
    Location {
        object: Some(span.place.0),
        offset: span.place.1,
        stored: span.stored,
    }
}
