//! Where frames are kept: in a folder, or in memory for as long as the manager lives.

use crate::error::Result;
use crate::frame::{Frame, Mark};
use crate::node::NodeId;
use crate::replica::Replica;
use crate::store::Store;
use crate::vector_clock::VectorClock;

/// Frames in the order in which they were taken.
#[derive(Debug)]
pub(crate) enum Journal {
    /// Durable.
    Folder(Box<Store>),
    /// Gone with the process.
    Memory(Vec<Frame>),
}

impl Journal {
    /// Appends frames of one node, whose log ends at this mark.
    pub(crate) fn append(&mut self, new: Vec<Frame>, before: Mark) -> Result<()> {
        match self {
            Self::Folder(store) => store.append(&new, before),
            Self::Memory(frames) => {
                frames.extend(new);
                Ok(())
            }
        }
    }

    pub(crate) fn is_snapshot_due(&self) -> bool {
        match self {
            Self::Folder(store) => store.is_snapshot_due(),
            Self::Memory(_) => false,
        }
    }

    pub(crate) fn write_snapshot(&mut self, replica: &Replica) -> Result<()> {
        match self {
            Self::Folder(store) => store.write_snapshot(replica),
            Self::Memory(_) => Ok(()),
        }
    }

    pub(crate) fn forget_history(&mut self, most: u64) -> Result<()> {
        match self {
            Self::Folder(store) => store.forget_history(most),
            Self::Memory(_) => Ok(()),
        }
    }

    /// All frames that somebody with this clock lacks, if all of them are kept.
    pub(crate) fn frames_since(
        &self,
        known: &VectorClock,
        replica: &Replica,
    ) -> Result<Option<Vec<Frame>>> {
        match self {
            Self::Folder(store) => store.frames_since(known, replica),
            Self::Memory(_) => {
                let mut found = Vec::new();
                for (node, mark) in replica.marks() {
                    let known = known.get(node);
                    if known < mark.sequence {
                        let Some(frames) = self.frames_of(*node, known, *mark)? else {
                            return Ok(None);
                        };
                        found.extend(frames);
                    }
                }
                Ok(Some(found))
            }
        }
    }

    /// The frames of one node after a number, if all of them are kept.
    pub(crate) fn frames_of(
        &self,
        node: NodeId,
        known: u64,
        mark: Mark,
    ) -> Result<Option<Vec<Frame>>> {
        let mut found = Vec::new();
        match self {
            Self::Folder(store) => {
                let is_whole = store.node_frames(node, known, mark, &mut found)?;
                Ok(is_whole.then_some(found))
            }
            Self::Memory(frames) => {
                let mut reached = known;
                for frame in frames.iter().filter(|frame| frame.node() == node) {
                    let (first, last) = frame.sequences()?;
                    if last <= known {
                        continue;
                    }
                    if first != reached + 1 {
                        return Ok(None);
                    }
                    reached = last;
                    found.push(frame.clone());
                }
                Ok((reached == mark.sequence).then_some(found))
            }
        }
    }

    /// Whether a log that ends there is another one than the longer one that is known here, as far as
    /// what is kept of that tells.
    pub(crate) fn contradicts(&self, node: NodeId, there: Mark, here: Mark) -> Result<bool> {
        if there.sequence >= here.sequence {
            return Ok(false);
        }
        let frames = self.frames_of(node, there.sequence, here)?;
        let next = frames.and_then(|frames| frames.into_iter().next());
        Ok(next.is_some_and(|next| next.previous() != there.link))
    }

    /// The frames of one node after a number, as many of the latest as are kept.
    pub(crate) fn own_frames(&self, node: NodeId, known: u64, mark: Mark) -> Result<Vec<Frame>> {
        if known >= mark.sequence {
            return Ok(Vec::new());
        }
        match self.frames_of(node, known, mark)? {
            Some(frames) => Ok(frames),
            None => {
                let mut frames = self.history()?;
                frames.retain(|frame| frame.node() == node);
                Ok(frames)
            }
        }
    }

    /// Every frame that is still kept.
    pub(crate) fn history(&self) -> Result<Vec<Frame>> {
        match self {
            Self::Folder(store) => store.history(),
            Self::Memory(frames) => Ok(frames.clone()),
        }
    }
}
