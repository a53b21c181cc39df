//! A push in one piece: the packs that a draft names and the draft itself, as a frame stream. A
//! client journals these bytes, and sends them to `POST /_push` as they are.

use bytes::Bytes;

use super::frames::{Decoder, End, Frame};
use crate::content::Pack;
use crate::error::{Error, Result};

/// What a push may be longer than its packs and its draft, in bytes: heads of frames, and the end.
pub const PUSH_OVERHEAD_BYTES_MAX: usize = 1024;

/// Most packs in one push. Their store writes are all under way at once.
pub const PUSH_PACKS_MAX: usize = 16;

/// The stream of these packs and this draft, in pieces.
pub fn write(packs: &[Pack], draft: &Bytes) -> Vec<Bytes> {
    let pack = |pack: &Pack| Frame::Pack {
        id: pack.id,
        bytes: pack.bytes.clone(),
    };
    let end = Frame::End(End {
        frames: packs.len() as u64 + 1,
        ..End::default()
    });
    let frames = packs.iter().map(pack);
    frames
        .chain([Frame::Draft(draft.clone()), end])
        .flat_map(|frame| frame.encode())
        .collect()
}

/// Takes such a stream apart: packs first, then one draft. What is in them is not looked at.
pub fn read(name: &'static str, bytes: Bytes) -> Result<(Vec<Pack>, Bytes)> {
    let mut decoder = Decoder::of(name, bytes);
    let (mut packs, mut draft) = (Vec::new(), None);
    while let Some(frame) = decoder.next_frame()? {
        match frame {
            Frame::Pack { id, bytes } if draft.is_none() && packs.len() < PUSH_PACKS_MAX => {
                packs.push(Pack { id, bytes });
            }
            Frame::Draft(bytes) if draft.is_none() => draft = Some(bytes),
            _ => {
                let reason = format!("it is not up to {PUSH_PACKS_MAX} packs and then one draft");
                return Err(Error::damaged(name, reason));
            }
        }
    }
    decoder.finish()?;
    let draft = draft.ok_or_else(|| Error::damaged(name, "it holds no draft"))?;
    Ok((packs, draft))
}

#[cfg(test)]
mod tests {
    use statehold_core::id::PackId;

    use super::*;

    fn pack(byte: u8, len: usize) -> Pack {
        let id = PackId::from_bytes([byte; 16]);
        let bytes = vec![byte; len].into();
        Pack { id, bytes }
    }

    #[test]
    fn a_push_comes_back_as_it_was_and_never_in_part() {
        let draft = Bytes::from_static(b"draft");
        let many: Vec<Pack> = (0..16).map(|byte| pack(byte, 3)).collect();
        for packs in [&[][..], &[pack(1, 0)], &many] {
            let bytes = Bytes::from(write(packs, &draft).concat());
            let content: usize = packs.iter().map(|pack| pack.bytes.len()).sum();
            assert!(bytes.len() <= content + draft.len() + PUSH_OVERHEAD_BYTES_MAX);
            let (found, found_draft) = read("x", bytes.clone()).unwrap();
            assert_eq!(found_draft, draft);
            let parts = |packs: &[Pack]| -> Vec<_> {
                packs.iter().map(|p| (p.id, p.bytes.clone())).collect()
            };
            assert_eq!(parts(&found), parts(packs));
            for cut in 0..bytes.len() {
                assert!(read("x", bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
        }
        let too_many: Vec<Pack> = (0..17).map(|byte| pack(byte, 3)).collect();
        let bytes = write(&too_many, &draft).concat();
        assert!(read("x", bytes.into()).is_err());
    }

    #[test]
    fn anything_else_than_packs_and_then_a_draft_is_an_error() {
        let draft = || Frame::Draft(Bytes::from_static(b"draft"));
        let pack = || Frame::Pack {
            id: PackId::from_bytes([1; 16]),
            bytes: Bytes::new(),
        };
        for frames in [
            vec![],
            vec![pack()],
            vec![draft(), draft()],
            vec![draft(), pack()],
            vec![Frame::Chunk(Bytes::new()), draft()],
        ] {
            let end = Frame::End(End {
                frames: frames.len() as u64,
                ..End::default()
            });
            let all = frames.iter().chain([&end]).flat_map(Frame::encode);
            let bytes: Vec<u8> = all.flatten().collect();
            assert!(read("x", bytes.into()).is_err(), "{frames:?}");
        }
    }
}
