//! Exchange with other nodes: heads, what others lack, and what they sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::alarm::{self, Alarm};
use crate::arrival::{Change, ChangeKind, ConflictKind, Refused};
use crate::conflict::FoundConflict;
use crate::error::Result;
use crate::frame::{Frame, Mark};
use crate::hybrid_clock::Stamp;
use crate::identity::Identity;
use crate::limits::{CLOCK_AHEAD_MS_MAX, DELTA_BYTES_TARGET, HEAD_COLLECTIONS_MAX};
use crate::manager::{Manager, Writer, latest_stamp};
use crate::message::{self, CollectionHead, Head, Message};
use crate::node::{Dot, Key, NodeId};
use crate::notice::{Notice, Status};
use crate::replica::Replica;
use crate::revision::{Event, Revision};
use crate::root::Root;
use crate::siblings::{is_contested, kind_of};
use crate::strategy::{Rules, Strategy};
use crate::vector_clock::VectorClock;

/// What became of what somebody sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reconciled {
    /// States that are other ones now, in order.
    pub states: Vec<Key>,
    /// Conflicts that came to light, in the order of their states. [`Manager::conflict`] shows one.
    pub conflicts: Vec<FoundConflict>,
    /// States whose conflict this node settled.
    pub settled: Vec<Key>,
    /// Events that were new.
    pub operations: usize,
    /// Batches that were known already.
    pub known: usize,
    /// Nodes of which events are missing in between, with the last number that is known. What
    /// came after it was left; it comes again when this node's head is answered.
    pub missing: BTreeMap<NodeId, u64>,
    /// What cannot be right.
    pub alarms: Vec<Alarm>,
}

impl Reconciled {
    /// Adds what became of something that came later.
    pub(crate) fn add(&mut self, later: Self) {
        self.states.extend(later.states);
        self.states.sort_unstable();
        self.states.dedup();
        self.conflicts.extend(later.conflicts);
        self.settled.extend(later.settled);
        self.operations += later.operations;
        self.known += later.known;
        self.missing.extend(later.missing);
        for alarm in later.alarms {
            if !self.alarms.contains(&alarm) {
                self.alarms.push(alarm);
            }
        }
    }

    /// Whether everything was taken and nothing is wrong.
    pub fn is_success(&self) -> bool {
        self.missing.is_empty() && self.alarms.is_empty()
    }
}

impl Manager {
    /// How far this node is, for others to answer. They may see its events from now on.
    ///
    /// # Errors
    /// It could not be noted outside the folder that others may see them.
    pub fn head(&self) -> Result<Vec<u8>> {
        self.witness(&mut self.writer())?;
        Ok(Message::Head(self.own_head()?).encode())
    }

    /// Notes outside the folder that others may see this node's events, before they do.
    pub(crate) fn witness(&self, writer: &mut Writer) -> Result<()> {
        let known = self.known()?;
        let mark = known.replica.mark(known.node);
        match &mut writer.identity {
            Some(identity) if identity.node == known.node => identity.witness(mark),
            _ => Ok(()),
        }
    }

    pub(crate) fn own_head(&self) -> Result<Head> {
        let known = self.known()?;
        let collections = known.rules.iter().take(HEAD_COLLECTIONS_MAX);
        Ok(Head {
            node: known.node,
            marks: known.replica.marks().clone(),
            root: known.replica.root(),
            collections: collections
                .map(|(name, rules)| {
                    let head = CollectionHead {
                        fingerprint: rules.fingerprint(),
                        computed: computed(&known.replica, name, rules),
                    };
                    (name.as_ref().into(), head)
                })
                .collect(),
        })
    }

    /// What the node with this head lacks: the events, or everything if they are not kept any
    /// more. Also takes note of the head.
    ///
    /// # Errors
    /// The head is damaged or hostile, or the logs cannot be read.
    pub fn answer(&self, head: &[u8]) -> Result<Vec<u8>> {
        let Message::Head(head) = Message::decode(head)? else {
            return Err(crate::codec::Malformed::new("a head", "it is another message").into());
        };
        self.note_head(&head)?;
        self.export_since(&head.clock())
    }

    /// Everything that is known, for any other node or for a file.
    ///
    /// # Errors
    /// It could not be noted outside the folder that others may see it.
    pub fn export(&self) -> Result<Vec<u8>> {
        // Whoever holds the writer keeps nobody from reading.
        let mut writer = self.writer();
        self.witness(&mut writer)?;
        Ok(message::encode_snapshot(&self.known()?.replica))
    }

    /// What somebody who knows this much lacks, or the first 64 MiB of it.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn export_since(&self, clock: &VectorClock) -> Result<Vec<u8>> {
        let mut writer = self.writer();
        self.witness(&mut writer)?;
        let frames = writer.journal.frames_since(clock, &self.known()?.replica)?;
        drop(writer);
        match frames {
            Some(mut frames) => {
                let mut bytes = 0;
                frames.retain(|frame| {
                    let is_room = bytes < DELTA_BYTES_TARGET;
                    bytes += frame.bytes().len();
                    is_room
                });
                Ok(Message::Delta(frames).encode())
            }
            None => self.export(),
        }
    }

    /// Takes in what another node sent: a head, a delta or a snapshot. What is known already does
    /// no harm, and what does not fit yet is left and named.
    ///
    /// # Errors
    /// The bytes are damaged or hostile; nothing has changed. Or they could not be made durable.
    pub fn reconcile(&self, message: &[u8]) -> Result<Reconciled> {
        self.take(Message::decode(message)?)
    }

    pub(crate) fn take(&self, message: Message) -> Result<Reconciled> {
        self.set_status(Status::Syncing);
        let result = match message {
            Message::Head(head) => self.note_head(&head).map(|alarms| Reconciled {
                alarms,
                ..Reconciled::default()
            }),
            Message::Delta(frames) => self.take_frames(frames),
            Message::Snapshot(replica) => self.take_replica(*replica),
        };
        match result {
            Ok(result) => {
                self.refresh_status();
                Ok(result)
            }
            Err(error) => {
                self.set_status(Status::Error);
                self.tell(&Notice::Error {
                    message: error.to_string(),
                });
                Err(error)
            }
        }
    }

    /// Holds this node against another one's head, takes note of that, and tells what is wrong.
    fn note_head(&self, head: &Head) -> Result<Vec<Alarm>> {
        let alarms = self.note_peer(head)?;
        for alarm in &alarms {
            self.tell(&Notice::Alarm {
                alarm: alarm.clone(),
            });
        }
        Ok(alarms)
    }

    /// Takes note of another node's head, and finds what is wrong between the two.
    pub(crate) fn note_peer(&self, head: &Head) -> Result<Vec<Alarm>> {
        let own = self.own_head()?;
        let mut alarms = alarm::compare(&own, head);
        let is_fork =
            |alarm: &Alarm| matches!(alarm, Alarm::Forked { log, .. } if *log == own.node);
        let mut writer = self.writer();
        // Who says less of itself than is known of it said it long ago, or was put back and wrote since.
        let log = head.node;
        if let (Some(there), Some(here)) = (head.marks.get(&log), own.marks.get(&log))
            && writer.journal.contradicts(log, *there, *here)?
        {
            alarms.push(Alarm::Forked {
                node: log,
                log,
                sequence: there.sequence,
            });
        }
        writer.is_outrun |= head.clock().get(&own.node) > own.clock().get(&own.node);
        writer.is_outrun |= alarms.iter().any(is_fork);
        if head.node != own.node {
            self.change(|known| known.note_peer(head.node, head.clock()));
        }
        drop(writer);
        Ok(alarms)
    }

    fn take_frames(&self, frames: Vec<Frame>) -> Result<Reconciled> {
        let mut result = Reconciled::default();
        let mut writer = self.writer();
        let known = self.known()?;
        let mut marks: BTreeMap<NodeId, Mark> = BTreeMap::new();
        let mut runs: Vec<Run> = Vec::new();
        // All of it is looked at before any of it is taken.
        for frame in frames {
            let node = frame.node();
            let mark = marks
                .entry(node)
                .or_insert_with(|| known.replica.mark(node));
            match mark.is_followed_by(&frame) {
                Ok(true) => {
                    let before = std::mem::replace(mark, Mark::after(&frame)?);
                    if runs.last().is_none_or(|run| run.node != node) {
                        runs.push(Run::after(before, node));
                    }
                    if let Some(run) = runs.last_mut() {
                        frame.read_into(&mut run.events)?;
                        run.after = *mark;
                        run.frames.push(frame);
                    }
                }
                Ok(false) => result.known += 1,
                Err(Refused::Gap { known, .. }) => {
                    result.missing.insert(node, known);
                }
                Err(Refused::Forked { node, sequence }) => {
                    writer.is_outrun |= node == known.node;
                    let alarm = Alarm::Forked {
                        node,
                        log: node,
                        sequence,
                    };
                    if !result.alarms.contains(&alarm) {
                        result.alarms.push(alarm);
                    }
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        let new = runs.iter().map(|run| (run.node, run.events.as_slice()));
        known.replica.check_room(new)?;
        let me = known.node;
        drop(known);
        for alarm in &result.alarms {
            self.tell(&Notice::Alarm {
                alarm: alarm.clone(),
            });
        }
        for run in &mut runs {
            writer.is_outrun |= run.node == me || self.is_outrun_by(&run.events);
            self.observe(run.node, &run.events);
            // Durable first, with one flush for all that one node wrote, then seen.
            let frames = std::mem::take(&mut run.frames);
            writer.journal.append(frames, run.before)?;
        }
        let mut changes = Vec::with_capacity(runs.iter().map(|run| run.events.len()).sum());
        self.change(|known| {
            for run in runs {
                let changed = |change| changes.push(change);
                known.replica.take(run.node, run.after, run.events, changed);
            }
        });
        self.conclude(&mut writer, changes, &mut result)?;
        self.snapshot_if_due(&mut writer)?;
        Ok(result)
    }

    /// Whether events name some of this node that it does not know of.
    fn is_outrun_by(&self, events: &[Event]) -> bool {
        let known = self.peek();
        let own = known.replica.mark(known.node).sequence;
        let contexts = events.iter().filter_map(|event| {
            let context = event.revision.context.as_ref()?;
            Some(context.get(&known.node))
        });
        contexts.max().unwrap_or(0) > own
    }

    /// Follows another node's clock a little, and says when it is far ahead.
    fn observe(&self, node: NodeId, events: &[Event]) {
        let now = (self.inner.now)();
        let stamps = events.iter().map(|event| event.revision.stamp);
        let latest = stamps.max().unwrap_or_default();
        self.change(|known| known.clock.observe(latest, now));
        self.tell_if_ahead(node, latest, now);
    }

    /// Says when a stamp is further ahead than clocks differ.
    fn tell_if_ahead(&self, node: NodeId, stamp: Stamp, now: u64) {
        let ahead = stamp.milliseconds().saturating_sub(now);
        if ahead > CLOCK_AHEAD_MS_MAX {
            self.tell(&Notice::ClockAhead {
                node,
                milliseconds: ahead,
            });
        }
    }

    /// Says what changed, settles what is to be settled, and lists the conflicts.
    fn conclude(
        &self,
        writer: &mut Writer,
        mut changes: Vec<Change>,
        result: &mut Reconciled,
    ) -> Result<()> {
        result.operations = changes.len();
        let is_heard = !self.inner.listeners.is_empty();
        for change in changes.iter().filter(|_| is_heard) {
            if change.kind != ChangeKind::Superseded {
                self.tell(&Notice::StateSynced {
                    key: change.key.clone(),
                    node: change.dot.node,
                    is_deleted: change.kind == ChangeKind::Deleted,
                });
            }
        }
        changes.retain(|change| change.kind != ChangeKind::Superseded || change.conflict.is_some());
        changes.sort_by(|one, other| one.key.cmp(&other.key));
        // Of several conflicts of one state the last one says how it is now.
        changes.dedup_by(|later, kept| {
            let is_same = later.key == kept.key;
            if is_same {
                let is_over = later.kind != ChangeKind::Superseded;
                let was = kept.conflict;
                let was = was.filter(|was| !is_over || *was != ConflictKind::ConcurrentUpdate);
                kept.conflict = later.conflict.or(was);
            }
            is_same
        });
        let found = changes.iter().filter_map(|change| {
            let key = change.key.clone();
            change.conflict.map(|kind| FoundConflict { key, kind })
        });
        result.conflicts = found.collect();
        result.states = changes.into_iter().map(|change| change.key).collect();
        for found in result.conflicts.iter().filter(|_| is_heard) {
            let conflict = self.conflict(found)?;
            self.tell(&Notice::ConflictDetected { conflict });
        }
        result.settled = self.settle(writer, &result.states)?;
        Ok(())
    }

    /// Settles those of these states that the rules let this node settle.
    pub(crate) fn settle(&self, writer: &mut Writer, keys: &[Key]) -> Result<Vec<Key>> {
        let known = self.known()?;
        let settles =
            |rules: &Rules| matches!(rules.strategy, Strategy::LocalWins | Strategy::RemoteWins);
        if !known.rules.values().any(settles) {
            return Ok(Vec::new());
        }
        // A node that has to become another one first has no side of its own any more.
        let me = known.node;
        let decided: Vec<(Key, Revision)> = keys
            .iter()
            .filter_map(|key| {
                let siblings = known.replica.siblings(&key.collection, &key.id);
                let rules = known.rules.get(&key.collection)?;
                let winner = rules.settle(me, siblings.iter())?.clone();
                Some((key.clone(), winner))
            })
            .collect();
        drop(known);
        if decided.is_empty() {
            return Ok(Vec::new());
        }
        let settled: Vec<Key> = decided.iter().map(|(key, _)| key.clone()).collect();
        self.write(writer, |transaction| {
            for (key, winner) in decided {
                transaction.settle(key, winner.content);
            }
            Ok(())
        })?;
        for key in &settled {
            self.tell(&Notice::ConflictResolved { key: key.clone() });
        }
        Ok(settled)
    }

    fn take_replica(&self, other: Replica) -> Result<Reconciled> {
        let mut writer = self.writer();
        let known = self.known()?;
        let joined = if known.replica.knows_nothing() {
            Ok(other)
        } else {
            match hidden_fork(&writer, &known.replica, &other)? {
                Some(fork) => Err(fork),
                None => known.replica.joined(&other),
            }
        };
        let joined = match joined {
            Ok(joined) => joined,
            Err(Refused::Forked { node, sequence }) => {
                let alarm = Alarm::Forked {
                    node,
                    log: node,
                    sequence,
                };
                writer.is_outrun |= node == known.node;
                drop(known);
                self.tell(&Notice::Alarm {
                    alarm: alarm.clone(),
                });
                return Ok(Reconciled {
                    alarms: vec![alarm],
                    ..Reconciled::default()
                });
            }
            Err(refused) => return Err(refused.into()),
        };
        let changes = differences(&known.replica, &joined);
        let own = |replica: &Replica| replica.mark(known.node).sequence;
        writer.is_outrun |= own(&joined) > own(&known.replica);
        let is_new = joined.clock() != known.replica.clock();
        let latest = latest_new(&known.replica, &joined);
        drop(known);
        let mut result = Reconciled::default();
        if !is_new {
            result.known = 1;
            return Ok(result);
        }
        writer.journal.write_snapshot(&joined)?;
        let now = (self.inner.now)();
        self.change(|known| {
            known.clock.observe(latest_stamp(&joined), now);
            known.replica = joined;
        });
        for (node, stamp) in latest {
            self.tell_if_ahead(node, stamp, now);
        }
        self.conclude(&mut writer, changes, &mut result)?;
        drop(writer);
        self.tell(&Notice::StateImported {
            states: result.states.len(),
        });
        Ok(result)
    }
}

/// The latest stamp of each node among what is live in one replica and not known to another.
fn latest_new(before: &Replica, after: &Replica) -> BTreeMap<NodeId, Stamp> {
    let mut latest = BTreeMap::new();
    for revision in after.revisions() {
        let Dot { node, sequence } = revision.dot;
        if before.reached(node) < sequence {
            let stamp = latest.entry(node).or_insert(revision.stamp);
            *stamp = revision.stamp.max(*stamp);
        }
    }
    latest
}

/// A log of which the two replicas know different ends that cannot belong together, although one
/// knows more of it than the other and a join would go by that one.
fn hidden_fork(writer: &Writer, mine: &Replica, other: &Replica) -> Result<Option<Refused>> {
    for (node, there) in other.marks() {
        let here = mine.mark(*node);
        if writer.journal.contradicts(*node, *there, here)? {
            let (node, sequence) = (*node, there.sequence);
            return Ok(Some(Refused::Forked { node, sequence }));
        }
    }
    // Who knows events by numbers that this folder has given to others and shown to nobody knows them
    // from before it was put back.
    let identity = writer.identity.as_ref();
    for (node, shown) in identity.map_or(Ok(Vec::new()), Identity::shown)? {
        let sequence = mine.mark(node).sequence;
        if sequence > shown && other.mark(node).sequence > sequence {
            return Ok(Some(Refused::Forked { node, sequence }));
        }
    }
    Ok(None)
}

/// Batches that one node wrote one after the other and that are new here.
struct Run {
    node: NodeId,
    /// The end of its log as it is known, and with these.
    before: Mark,
    after: Mark,
    frames: Vec<Frame>,
    events: Vec<Event>,
}

impl Run {
    const fn after(before: Mark, node: NodeId) -> Self {
        Self {
            node,
            before,
            after: before,
            frames: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// The digest of every value that a strategy computed from several siblings.
fn computed(replica: &Replica, collection: &str, rules: &Rules) -> Root {
    let mut root = Root::default();
    if rules.strategy.computes() {
        for (id, siblings) in replica.several(collection) {
            if let Some(shown) = rules.show(siblings.iter()) {
                root.mix(id.as_bytes());
                root.mix(shown.value.as_str().as_bytes());
            }
        }
    }
    root
}

/// What joining changed, state by state.
fn differences(before: &Replica, after: &Replica) -> Vec<Change> {
    let mut changes = Vec::new();
    let collections: BTreeSet<_> = before.collections().chain(after.collections()).collect();
    for collection in collections {
        let there = after
            .entries(collection)
            .map(|(id, new)| (id, before.siblings(collection, id), new));
        let gone = before
            .entries(collection)
            .map(|(id, old)| (id, old, after.siblings(collection, id)))
            .filter(|(_, _, new)| new.is_empty());
        for (id, old, new) in there.chain(gone) {
            if old == new {
                continue;
            }
            let kind = match (old, new) {
                ([], _) => ChangeKind::Created,
                (_, []) => ChangeKind::Deleted,
                _ => ChangeKind::Updated,
            };
            let siblings = if new.is_empty() { old } else { new };
            let latest = siblings.iter().max_by_key(|sibling| sibling.rank());
            if let Some(latest) = latest {
                changes.push(Change {
                    key: Key {
                        collection: Arc::clone(collection),
                        id: id.clone(),
                    },
                    dot: latest.dot,
                    kind,
                    conflict: is_contested(new).then(|| kind_of(new)),
                });
            }
        }
    }
    changes
}
