//! A fork: two running copies of one machine wrote as one node. What only one of them wrote is written
//! again by another node, as the edits that they are: made without having seen the other copy's.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::frame::{Frame, Link, first_link};
use crate::manager::Manager;
use crate::node::{Dot, NodeId};
use crate::revision::{Batch, Content, Event, Revision};

impl Manager {
    /// Writes what `forked` wrote under a name that a copy of its machine used too, and that this
    /// manager, which took in what everybody else has, lacks: under this one's own name, in one
    /// batch. How many events that were.
    ///
    /// This manager is a new one that has written nothing yet. The other one is not needed any more.
    ///
    /// # Errors
    /// History does not reach back to where the two parted, or it could not be made durable.
    pub fn adopt(&self, forked: &Self) -> Result<usize> {
        let old = forked.node();
        let lost = frames_of(forked, old)?;
        let known = frames_of(self, old)?;
        let parted = parting(old, &lost, &known)?.ok_or(Error::PartedTooLongAgo { node: old })?;
        let mut writer = self.writer();
        let known = self.known()?;
        let (me, first) = (known.node, known.replica.mark(known.node).sequence + 1);
        let mut clock = known.clock;
        drop(known);
        let mut events = Vec::new();
        for frame in lost {
            for event in frame.batch()?.events {
                if event.revision.dot.sequence > parted {
                    let sequence = first + events.len() as u64;
                    events.push(
                        Rename {
                            old,
                            parted,
                            me,
                            first,
                        }
                        .event(event, sequence),
                    );
                }
            }
        }
        let count = events.len();
        let Some(last) = events.last() else {
            return Ok(0);
        };
        clock.observe(last.revision.stamp, (self.inner.now)());
        let batch = Batch {
            node: me,
            first,
            events,
        };
        let changes = self.commit(&mut writer, batch, clock)?;
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

/// The last event up to which two logs of one node are the same; nothing if that is not kept.
fn parting(node: NodeId, one: &[Frame], other: &[Frame]) -> Result<Option<u64>> {
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
    other.entry(0).or_insert_with(|| first_link(node));
    let mut common = one.into_iter().rev();
    Ok(common
        .find(|(sequence, link)| other.get(sequence) == Some(link))
        .map(|(sequence, _)| sequence))
}

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
