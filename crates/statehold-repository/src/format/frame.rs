//! Single zstd frames: compressing, storing, and expanding within a bound.

use statehold_core::limits::CHUNK_BYTES_MAX;

use crate::error::{Error, Result};

/// Level for content and listings: fast, and within a few percent of the next ones on text.
const LEVEL: i32 = 3;
/// Levels that are tried, one after the other, where a frame has to be shorter.
const FIT_LEVELS: [i32; 5] = [5, 9, 13, 17, 19];
/// Largest block of a zstd frame, in bytes (RFC 8878, 3.1.1.2.4).
const BLOCK_BYTES_MAX: usize = 128 * 1024;
/// Largest window a frame may ask for, as a power of two: what zstd itself accepts by default.
const WINDOW_LOG_MAX: u32 = 27;

/// Compresses many frames with one context.
pub struct FrameWriter {
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameWriter").finish_non_exhaustive()
    }
}

impl Default for FrameWriter {
    fn default() -> Self {
        let mut compressor =
            zstd::bulk::Compressor::new(LEVEL).expect("a context of a valid level can be made");
        compressor
            .include_checksum(true)
            .expect("the parameter exists");
        Self { compressor }
    }
}

impl FrameWriter {
    /// The frame of these bytes: compressed, or stored where compressing gains nothing.
    pub fn compress(&mut self, raw: &[u8]) -> Vec<u8> {
        match self.compressor.compress(raw) {
            Ok(frame) if frame.len() < stored_len(raw.len()) => frame,
            // The library fails only for lack of memory; a stored frame is right in any case.
            _ => store(raw),
        }
    }
}

/// Length of a stored frame of so many bytes.
const fn stored_len(raw: usize) -> usize {
    let blocks = if raw == 0 {
        1
    } else {
        raw.div_ceil(BLOCK_BYTES_MAX)
    };
    9 + raw + 3 * blocks
}

/// A frame whose blocks are the bytes as they are (RFC 8878, 3.1.1). At most 4 GiB.
pub fn store(raw: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(stored_len(raw.len()));
    frame.extend_from_slice(&0xFD2F_B528_u32.to_le_bytes());
    // Single segment, content size in four bytes, no checksum: the digest in the listing is one.
    frame.push(0b1010_0000);
    let size = u32::try_from(raw.len()).expect("no caller stores more than 4 GiB in a frame");
    frame.extend_from_slice(&size.to_le_bytes());
    let mut blocks = raw.chunks(BLOCK_BYTES_MAX).peekable();
    if blocks.peek().is_none() {
        frame.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = u32::try_from(block.len()).unwrap_or_default() << 3 | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// Frames that hold these bytes and are exactly so long, for a place that other objects name by offset
/// and length. The first ones are frames as they are written today; then follow shorter ones that
/// are filled up with a skippable frame, which every reader of zstd passes over.
pub fn fit(raw: &[u8], stored: usize) -> impl Iterator<Item = Vec<u8>> {
    let compress = |level: i32, checksum: bool| {
        let mut compressor = zstd::bulk::Compressor::new(level).ok()?;
        compressor.include_checksum(checksum).ok()?;
        compressor.compress(raw).ok()
    };
    let candidates = [(LEVEL, true)]
        .into_iter()
        .chain(FIT_LEVELS.map(|level| (level, true)))
        .chain(FIT_LEVELS.map(|level| (level, false)));
    // As they are written today: whichever is exactly as long is most likely the very frame.
    let own = [FrameWriter::default().compress(raw), store(raw)];
    own.into_iter()
        .filter(move |frame| frame.len() == stored)
        .chain(
            candidates
                .filter_map(move |(level, checksum)| compress(level, checksum))
                .chain(std::iter::once_with(move || store(raw)))
                .filter_map(move |frame| fill(frame, stored)),
        )
}

/// A frame, filled up to a length.
fn fill(mut frame: Vec<u8>, stored: usize) -> Option<Vec<u8>> {
    let rest = stored.checked_sub(frame.len())?;
    if rest > 0 {
        frame.extend_from_slice(&skippable(rest)?);
    }
    Some(frame)
}

/// A skippable frame of exactly this length, which is 8 bytes at least.
pub fn skippable(length: usize) -> Option<Vec<u8>> {
    let payload = u32::try_from(length.checked_sub(8)?).ok()?;
    let mut frame = 0x184D_2A50_u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&payload.to_le_bytes());
    frame.resize(length, 0);
    Some(frame)
}

/// Expands one frame that must hold exactly this many bytes.
pub fn expand_exact(object: &str, frame: &[u8], raw: usize) -> Result<Vec<u8>> {
    if raw > CHUNK_BYTES_MAX {
        return Err(Error::damaged(object, "a chunk is larger than chunks are"));
    }
    let bytes = zstd::bulk::decompress(frame, raw)
        .map_err(|error| Error::damaged(object, format!("a frame does not expand: {error}")))?;
    if bytes.len() != raw {
        let found = bytes.len();
        return Err(Error::damaged(
            object,
            format!("a frame holds {found} bytes, not {raw}"),
        ));
    }
    Ok(bytes)
}

/// Expands one frame of at most this many bytes. More than `limit` bytes are never held.
pub fn expand(object: &str, frame: &[u8], limit: usize) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let damaged =
        |error: std::io::Error| Error::damaged(object, format!("a frame does not expand: {error}"));
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame)
        .map_err(damaged)?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    let mut bytes = Vec::new();
    decoder
        .by_ref()
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    if bytes.len() > limit {
        return Err(Error::damaged(
            object,
            format!("a frame expands to more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Length of the frame that these bytes begin with.
pub fn frame_len(object: &str, bytes: &[u8]) -> Result<usize> {
    zstd::zstd_safe::find_frame_compressed_size(bytes)
        .ok()
        .filter(|len| *len <= bytes.len() && *len > 0)
        .ok_or_else(|| Error::damaged(object, "a frame is cut short or is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_frames_are_zstd_frames() {
        for len in [
            0,
            1,
            100,
            BLOCK_BYTES_MAX - 1,
            BLOCK_BYTES_MAX,
            BLOCK_BYTES_MAX + 1,
            400_000,
        ] {
            let raw: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let frame = store(&raw);
            assert_eq!(frame.len(), stored_len(len));
            assert_eq!(expand_exact("x", &frame, len).unwrap(), raw);
            assert_eq!(frame_len("x", &frame).unwrap(), frame.len());
        }
    }

    #[test]
    fn what_gains_nothing_is_stored() {
        let mut writer = FrameWriter::default();
        let noise: Vec<u8> = (0_u32..1_000)
            .flat_map(|i| *statehold_core::digest::Digest::of(&i.to_le_bytes()).as_bytes())
            .collect();
        assert_eq!(writer.compress(&noise).len(), stored_len(noise.len()));
        assert!(writer.compress(&[b'a'; 10_000]).len() < 100);
    }

    #[test]
    fn frames_are_made_to_fit() {
        let text: Vec<u8> = (0_u32..5_000)
            .flat_map(|i| format!("{} and {}\n", i * i % 977, i % 31).into_bytes())
            .collect();
        let own = FrameWriter::default().compress(&text);
        assert_eq!(fit(&text, own.len()).next(), Some(own.clone()));
        for more in [0, 8, 9, 100, 5_000] {
            let frame = fit(&text, own.len() + more).next().unwrap();
            assert_eq!(frame.len(), own.len() + more);
            assert_eq!(expand_exact("x", &frame, text.len()).unwrap(), text);
            assert_eq!(expand("x", &frame, text.len()).unwrap(), text);
        }
        assert_eq!(fit(&text, 20).next(), None);
        assert_eq!(skippable(7), None);
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = zstd::bulk::compress(&vec![0; 50_000_000], 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(expand("x", &bomb, 1_000_000).is_err());
        assert!(expand_exact("x", &bomb, 1_000).is_err());
        for cut in 0..40.min(bomb.len()) {
            assert!(expand("x", &bomb[..cut], 100_000_000).is_err());
        }
    }
}
