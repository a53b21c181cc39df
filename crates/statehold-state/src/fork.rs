//! A fork: two running copies of one machine wrote as one node. What only one of them wrote is written
//! again by another node, as the edits that they are: made without having seen the other copy's.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::frame::{Frame, Link, Mark};
use crate::hybrid_clock::Stamp;
use crate::manager::Manager;
use crate::node::{Dot, NodeId};
use crate::revision::{Batch, Content, Event, Revision};

impl Manager {
    /// Writes what `forked` wrote under a name that a copy of its machine used too, and that this
    /// manager, which took in what everybody else has, lacks: under this one's own name. How many
    /// events that were.
    ///
    /// This manager is a new one that has written nothing yet; if this fails or ends early, begin with
    /// another new one. The other one is not needed any more.
    ///
    /// # Errors
    /// History does not reach back to where the two parted, or it could not be made durable.
    pub fn adopt(&self, forked: &Self) -> Result<usize> {
        let old = forked.node();
        let lost = frames_of(forked, old)?;
        let known = frames_of(self, old)?;
        let mark = self.known()?.replica.mark(old);
        let parted = parting(&lost, &known, mark)?.ok_or(Error::PartedTooLongAgo { node: old })?;
        let mut writer = self.writer();
        let known = self.known()?;
        let (me, first) = (known.node, known.replica.mark(known.node).sequence + 1);
        let mut clock = known.clock;
        drop(known);
        let rename = Rename {
            old,
            parted,
            me,
            first,
        };
        let mut count = 0;
        let mut changes = Vec::new();
        for batch in rename.batches(lost)? {
            count += batch.events.len();
            let last = batch.events.iter().map(|event| event.revision.stamp).max();
            clock.observe(last.unwrap_or_default(), (self.inner.now)());
            changes.extend(self.commit(&mut writer, batch, clock)?);
        }
        drop(writer);
        self.tell_own(&changes);
        Ok(count)
    }
}

/// What a manager keeps of a node's log, in order.
fn frames_of(manager: &Manager, node: NodeId) -> Result<Vec<Frame>> {
    let mut frames = manager.writer().journal.history()?;
    frames.retain(|frame| frame.node() == node);
    Ok(frames)
}

/// The last event up to which two logs of one node are the same, of which the other ends at this mark;
/// nothing if that is not kept, as where a snapshot brought it: what was written again although it is
/// known would undo what others did since.
fn parting(one: &[Frame], other: &[Frame], end: Mark) -> Result<Option<u64>> {
    let marks = |frames: &[Frame]| -> Result<BTreeMap<u64, Link>> {
        let mut marks = BTreeMap::new();
        for frame in frames {
            let (first, last) = frame.sequences()?;
            marks.insert(first.saturating_sub(1), frame.previous());
            marks.insert(last, frame.link());
        }
        Ok(marks)
    };
    let (one, mut other) = (marks(one)?, marks(other)?);
    other.insert(end.sequence, end.link);
    let mut common = one.into_iter().rev();
    Ok(common
        .find(|(sequence, link)| other.get(sequence) == Some(link))
        .map(|(sequence, _)| sequence))
}

/// A batch of adopted events gets no further frame once those in it had this many bytes: no event
/// takes less than 8, so it holds fewer than a batch may.
const ADOPTED_BYTES_TARGET: usize = 4 * 1024 * 1024;

/// What events are called that one node made and another one adopts.
#[derive(Debug, Clone, Copy)]
struct Rename {
    old: NodeId,
    /// The last event that keeps its name.
    parted: u64,
    me: NodeId,
    /// The number of the first one that doesn't.
    first: u64,
}

impl Rename {
    /// What these frames hold after the parting, in as few batches as can be: within one, stamps never
    /// go back, as they may where a clock was set right between two starts.
    fn batches(self, lost: Vec<Frame>) -> Result<Vec<Batch>> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut next = self.first;
        let mut bytes = 0;
        let mut last = Stamp::default();
        for frame in lost {
            let mut events = frame.batch()?.events;
            events.retain(|event| event.revision.dot.sequence > self.parted);
            let Some(stamp) = events.first().map(|event| event.revision.stamp) else {
                continue;
            };
            bytes += frame.bytes().len();
            if batches.is_empty() || stamp < last || bytes > ADOPTED_BYTES_TARGET {
                bytes = frame.bytes().len();
                batches.push(Batch {
                    node: self.me,
                    first: next,
                    events: Vec::new(),
                });
            }
            for event in events {
                last = event.revision.stamp;
                if let Some(batch) = batches.last_mut() {
                    batch.events.push(self.event(event, next));
                }
                next += 1;
            }
        }
        Ok(batches)
    }

    fn dot(self, dot: Dot) -> Dot {
        if dot.node != self.old || dot.sequence <= self.parted {
            return dot;
        }
        Dot {
            node: self.me,
            sequence: self.first + (dot.sequence - self.parted - 1),
        }
    }

    fn event(self, event: Event, sequence: u64) -> Event {
        let Event { key, revision } = event;
        // Its author knew its own earlier events without naming them.
        let mut context = revision.context.unwrap_or_default();
        if self.parted > 0 {
            context.observe(self.old, self.parted);
        }
        let mut content = revision.content;
        if let Content::Value {
            origins: Some(origins),
            ..
        } = &mut content
        {
            for (dot, _) in &mut origins.events {
                *dot = self.dot(*dot);
            }
        }
        let revision = Revision {
            dot: Dot {
                node: self.me,
                sequence,
            },
            context: (!context.is_empty()).then_some(context),
            content,
            ..revision
        };
        Event { key, revision }
    }
}
