//! The manager: one folder of states, opened, with everything that is done to it.
//!
//! Writes go one after another: a change is made up on top of what is known, appended to this
//! node's log, flushed, and only then seen by readers, who never wait for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::alarm::{self, Alarm};
use crate::collection::Collection;
use crate::conflict::Conflict;
use crate::error::{Error, Result};
use crate::hybrid_clock::{HybridClock, Stamp};
use crate::identity::{Identity, Origin, random_node};
use crate::journal::Journal;
use crate::limits::{
    BATCH_BYTES_MAX, CLOCK_AHEAD_MS_MAX, COLLECTION_BYTES_MAX, DELTA_BYTES_TARGET,
    HEAD_COLLECTIONS_MAX,
};
use crate::message::{CollectionHead, Head, Message};
use crate::node::{Key, NodeId};
use crate::notice::{Listeners, Notice, Notices, Status};
use crate::operation::Operation;
use crate::replica::{Arrival, Change, ChangeKind, ConflictKind, Frame, Mark, Refused, Replica};
use crate::revision::{Batch, Revision};
use crate::root::Root;
use crate::store::Store;
use crate::strategy::{Rules, Strategy, is_settled};
use crate::transaction::Transaction;
use crate::vector_clock::VectorClock;

/// Where a manager keeps what it knows.
#[derive(Debug, Clone)]
pub struct Options {
    folder: PathBuf,
    witnesses: PathBuf,
    machine: Option<String>,
    now: fn() -> u64,
}

impl Options {
    /// A folder for the states, and a folder of this machine's own for what tells copies apart:
    /// outside of the first, not synchronised and not part of the same backup. `~/.local/state`
    /// holds such things on Linux.
    pub fn new(folder: impl Into<PathBuf>, witnesses: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            witnesses: witnesses.into(),
            machine: None,
            now: time_of_day,
        }
    }

    /// What this machine is called, where the system does not say (`/etc/machine-id`).
    #[must_use]
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.machine = Some(name.into());
        self
    }

    /// Another clock than the machine's, in milliseconds since 1970.
    #[must_use]
    pub const fn clock(mut self, now: fn() -> u64) -> Self {
        self.now = now;
        self
    }
}

fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// States of an application, kept in a folder and the same on every node in the end.
///
/// A handle: clones are the same manager. Every call that changes something is durable when it
/// returns.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use statehold_state::{Manager, Options, Strategy};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Settings {
///     theme: String,
///     font_size: u8,
/// }
///
/// # let home = tempfile::tempdir()?;
/// let open = |name: &str| {
///     let place = home.path();
///     Manager::open(Options::new(place.join(name), place.join("witness")))
/// };
/// let (desk, phone) = (open("desk")?, open("phone")?);
///
/// // Both edit, neither sees the other.
/// let on_desk = desk.collection::<Settings>("settings", Strategy::Merge)?;
/// on_desk.put("app", &Settings { theme: "dark".into(), font_size: 14 })?;
/// phone.reconcile(&desk.answer(&phone.head()?)?)?;
/// let on_phone = phone.collection::<Settings>("settings", Strategy::Merge)?;
/// on_phone.update("app", |settings| settings.font_size = 16)?;
/// on_desk.update("app", |settings| settings.theme = "light".into())?;
///
/// // Bytes go both ways, by any transport, and both are equal.
/// desk.reconcile(&phone.answer(&desk.head()?)?)?;
/// phone.reconcile(&desk.answer(&phone.head()?)?)?;
/// let app = on_phone.get("app")?.ok_or("gone")?;
/// assert_eq!(app.data, Settings { theme: "light".into(), font_size: 16 });
/// assert_eq!(on_desk.get("app")?.ok_or("gone")?.data, app.data);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

struct Inner {
    /// Held by whoever changes something, until it is done.
    writer: Mutex<Writer>,
    /// What readers see. Changed only while the writer is held.
    known: RwLock<Known>,
    status: Mutex<Status>,
    listeners: Listeners,
    now: fn() -> u64,
}

/// What is needed to change something.
struct Writer {
    journal: Journal,
    /// Nothing for states in memory only.
    identity: Option<Identity>,
    /// Others know more of this node than it does: it has to become another one.
    is_outrun: bool,
}

/// What is known.
pub(crate) struct Known {
    pub node: NodeId,
    pub replica: Replica,
    clock: HybridClock,
    rules: BTreeMap<Arc<str>, Rules>,
    /// What the others know, as far as they said.
    peers: BTreeMap<NodeId, VectorClock>,
    is_closed: bool,
}

impl Known {
    /// The rules of a collection; last-write-wins where none were named.
    pub(crate) fn rules(&self, collection: &str) -> &Rules {
        static USUAL: LazyLock<Rules> = LazyLock::new(Rules::default);
        self.rules.get(collection).unwrap_or(&USUAL)
    }

    /// How many of this node's own events somebody else is known to have.
    fn acknowledged(&self) -> u64 {
        let clocks = self.peers.values();
        clocks.map(|clock| clock.get(&self.node)).max().unwrap_or(0)
    }
}

/// What became of what somebody sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reconciled {
    /// States that are other ones now, in order.
    pub states: Vec<Key>,
    /// Conflicts that came to light.
    pub conflicts: Vec<Conflict>,
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
    /// Whether everything was taken and nothing is wrong.
    pub fn is_success(&self) -> bool {
        self.missing.is_empty() && self.alarms.is_empty()
    }
}

impl Manager {
    /// Opens a folder, creating it if need be, and loads what it holds.
    ///
    /// # Errors
    /// Another process has it open, it is damaged, or the operating system refuses.
    pub fn open(options: Options) -> Result<Self> {
        let (store, replica, loaded) = Store::open(&options.folder)?;
        let identity = Identity::establish(
            &options.folder,
            &options.witnesses,
            options.machine,
            &replica,
        )?;
        let node = identity.node;
        let journal = Journal::Folder(Box::new(store));
        let earlier = Notice::Loaded {
            batches: loaded.batches,
            torn: loaded.torn,
        };
        let listeners = Listeners::after(Some(earlier));
        Ok(Self::new(
            node,
            replica,
            journal,
            Some(identity),
            listeners,
            options.now,
        ))
    }

    /// States in memory only, for tests and for what may be lost.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn in_memory() -> Result<Self> {
        let journal = Journal::Memory(Vec::new());
        Ok(Self::new(
            random_node()?,
            Replica::new(),
            journal,
            None,
            Listeners::after(None),
            time_of_day,
        ))
    }

    fn new(
        node: NodeId,
        replica: Replica,
        journal: Journal,
        identity: Option<Identity>,
        listeners: Listeners,
        now: fn() -> u64,
    ) -> Self {
        let mut clock = HybridClock::default();
        clock.observe(latest_stamp(&replica), now());
        Self {
            inner: Arc::new(Inner {
                writer: Mutex::new(Writer {
                    journal,
                    identity,
                    is_outrun: false,
                }),
                known: RwLock::new(Known {
                    node,
                    replica,
                    clock,
                    rules: BTreeMap::new(),
                    peers: BTreeMap::new(),
                    is_closed: false,
                }),
                status: Mutex::default(),
                listeners,
                now,
            }),
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // Whoever panicked had changed nothing: what is durable comes first, and all at once.
        self.inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn peek(&self) -> RwLockReadGuard<'_, Known> {
        self.inner
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, for reading.
    pub(crate) fn known(&self) -> Result<RwLockReadGuard<'_, Known>> {
        let known = self.peek();
        if known.is_closed {
            return Err(Error::Closed);
        }
        Ok(known)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Known) -> R) -> R {
        let mut known = self
            .inner
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut known)
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.peek().node
    }

    /// Why the folder has the node it has; nothing for states in memory.
    pub fn origin(&self) -> Option<Origin> {
        let writer = self.writer();
        writer.identity.as_ref().map(|identity| identity.origin)
    }

    /// How much of each node's log is known.
    pub fn clock(&self) -> VectorClock {
        self.peek().replica.clock()
    }

    /// The digest of everything that is live: equal on nodes that know the same.
    pub fn root(&self) -> Root {
        self.peek().replica.root()
    }

    /// What the manager is at.
    pub fn status(&self) -> Status {
        *self
            .inner
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that happens from now on.
    pub fn listen(&self) -> Notices {
        self.inner.listeners.listen(None)
    }

    pub(crate) fn watch(&self, key: Key) -> Notices {
        self.inner.listeners.listen(Some(key))
    }

    pub(crate) fn tell(&self, notice: &Notice) {
        self.inner.listeners.tell(notice);
    }

    /// A collection of states of one type, decided by these rules (or by a strategy, with the
    /// usual rule for deletes). Opening it again needs the same rules.
    ///
    /// # Errors
    /// The name is too long, or the collection is open with other rules.
    pub fn collection<T>(&self, name: &str, rules: impl Into<Rules>) -> Result<Collection<T>> {
        if name.is_empty() || name.len() > COLLECTION_BYTES_MAX {
            return Err(Error::invalid_name(name));
        }
        let rules = rules.into();
        let name: Arc<str> = name.into();
        {
            let mut writer = self.writer();
            let known = self.known()?;
            let open = known.rules.get(&name).cloned();
            drop(known);
            match open {
                Some(open) if open.fingerprint() != rules.fingerprint() => {
                    return Err(Error::OtherRules {
                        collection: name.to_string(),
                        open: format!("{open:?}"),
                        asked: format!("{rules:?}"),
                    });
                }
                Some(_) => {}
                None => {
                    self.change(|known| known.rules.insert(Arc::clone(&name), rules));
                    // What a crash left unsettled.
                    let known = self.peek();
                    let states = known.replica.states(&name);
                    let keys: Vec<Key> = states
                        .filter(|(_, siblings)| siblings.len() > 1)
                        .map(|(id, _)| Key::new(&name, id))
                        .collect();
                    drop(known);
                    self.settle(&mut writer, &keys)?;
                }
            }
        }
        self.refresh_status();
        Ok(Collection::new(self.clone(), name))
    }

    /// Changes several states at once: others see all of it or nothing, and it is one write. The
    /// function reads and writes through its argument; calling the manager's own verbs in it would
    /// wait for ever. If it fails, nothing has happened.
    ///
    /// # Errors
    /// The function's, or the change could not be made durable.
    pub fn batch<R>(&self, change: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut writer = self.writer();
        let (result, changes) = self.write(&mut writer, change)?;
        drop(writer);
        self.tell_own(&changes);
        Ok(result)
    }

    /// Makes up a batch, makes it durable, and shows it to readers.
    fn write<R>(
        &self,
        writer: &mut Writer,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Vec<Change>)> {
        self.renew_if_outrun(writer)?;
        let known = self.known()?;
        let draft = known
            .replica
            .draft(known.node, known.clock, (self.inner.now)());
        let mut transaction = Transaction::new(draft, &known);
        let result = change(&mut transaction)?;
        let Some((batch, clock)) = transaction.finish()? else {
            return Ok((result, Vec::new()));
        };
        let before = known.replica.mark(known.node);
        drop(known);
        let frame = Frame::of(&batch, before.link);
        if frame.bytes.len() > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge);
        }
        writer.journal.append(&[&frame], before)?;
        let link = frame.link();
        let arrival = self.change(|known| {
            known.clock = clock;
            known.replica.accept_batch(batch, before.link, link)
        })?;
        self.snapshot_if_due(writer)?;
        match arrival {
            Arrival::New(changes) => Ok((result, changes)),
            Arrival::Known => Ok((result, Vec::new())),
        }
    }

    fn snapshot_if_due(&self, writer: &mut Writer) -> Result<()> {
        if writer.journal.is_snapshot_due() {
            writer.journal.write_snapshot(&self.peek().replica)?;
        }
        Ok(())
    }

    /// Becomes another node if others know more of this one than it does itself.
    fn renew_if_outrun(&self, writer: &mut Writer) -> Result<()> {
        if !writer.is_outrun {
            return Ok(());
        }
        let node = match &mut writer.identity {
            Some(identity) => {
                identity.renew(Origin::RolledBack)?;
                identity.node
            }
            None => random_node()?,
        };
        writer.is_outrun = false;
        self.change(|known| known.node = node);
        self.tell(&Notice::NodeChanged {
            node,
            origin: Origin::RolledBack,
        });
        Ok(())
    }

    fn tell_own(&self, changes: &[Change]) {
        if !self.inner.listeners.is_empty() {
            for change in changes {
                let key = change.key.clone();
                match change.kind {
                    ChangeKind::Created => self.tell(&Notice::StateCreated { key }),
                    ChangeKind::Updated => self.tell(&Notice::StateUpdated { key }),
                    ChangeKind::Deleted => self.tell(&Notice::StateDeleted { key }),
                    ChangeKind::Superseded => {}
                }
            }
            if !changes.is_empty() {
                self.tell(&Notice::Saved {
                    events: changes.len(),
                });
            }
        }
        self.refresh_status();
    }

    /// How far this node is, for others to answer. They may see its events from now on.
    ///
    /// # Errors
    /// It could not be noted outside the folder that others may see them.
    pub fn head(&self) -> Result<Vec<u8>> {
        self.publish(&mut self.writer())?;
        Ok(Message::Head(self.own_head()?).encode())
    }

    /// Notes that others may see this node's events, before they do.
    fn publish(&self, writer: &mut Writer) -> Result<()> {
        let known = self.known()?;
        let mark = known.replica.mark(known.node);
        match &mut writer.identity {
            Some(identity) if identity.node == known.node => identity.witness(mark),
            _ => Ok(()),
        }
    }

    fn own_head(&self) -> Result<Head> {
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
        self.publish(&mut self.writer())?;
        let replica = self.known()?.replica.clone();
        Ok(Message::Snapshot(Box::new(replica)).encode())
    }

    /// What somebody who knows this much lacks, or the first 64 MiB of it.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn export_since(&self, clock: &VectorClock) -> Result<Vec<u8>> {
        let mut writer = self.writer();
        self.publish(&mut writer)?;
        let frames = writer.journal.frames_since(clock, &self.known()?.replica)?;
        drop(writer);
        match frames {
            Some(mut frames) => {
                let mut bytes = 0;
                frames.retain(|frame| {
                    let is_room = bytes < DELTA_BYTES_TARGET;
                    bytes += frame.bytes.len();
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
        let message = Message::decode(message)?;
        self.set_status(Status::Syncing);
        let result = match message {
            Message::Head(head) => self.note_head(&head).map(|alarms| Reconciled {
                alarms,
                ..Reconciled::default()
            }),
            Message::Delta(frames) => self.take_frames(&frames),
            Message::Snapshot(replica) => self.take_replica(&replica),
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

    fn note_head(&self, head: &Head) -> Result<Vec<Alarm>> {
        let own = self.own_head()?;
        let alarms = alarm::compare(&own, head);
        let mut writer = self.writer();
        writer.is_outrun |= head.clock().get(&own.node) > own.clock().get(&own.node);
        if head.node != own.node {
            self.change(|known| known.peers.insert(head.node, head.clock()));
        }
        drop(writer);
        for alarm in &alarms {
            self.tell(&Notice::Alarm {
                alarm: alarm.clone(),
            });
        }
        Ok(alarms)
    }

    fn take_frames(&self, frames: &[Frame]) -> Result<Reconciled> {
        // All of it is looked at before any of it is taken.
        let batches: Vec<Batch> = frames.iter().map(Frame::batch).collect::<Result<_, _>>()?;
        let mut result = Reconciled::default();
        let mut writer = self.writer();
        let known = self.known()?;
        let mut marks: BTreeMap<NodeId, Mark> = BTreeMap::new();
        let mut fitting = Vec::new();
        for (frame, batch) in frames.iter().zip(batches) {
            let node = frame.node;
            let mark = marks
                .entry(node)
                .or_insert_with(|| known.replica.mark(node));
            let link = frame.link();
            match mark.is_followed_by(&batch, frame.previous, link) {
                Ok(true) => {
                    let sequence = batch.last();
                    *mark = Mark { sequence, link };
                    fitting.push((frame, batch, link));
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
        let new = fitting.iter().map(|(_, batch, _)| batch);
        known.replica.check_room(new)?;
        let me = known.node;
        drop(known);
        for alarm in &result.alarms {
            self.tell(&Notice::Alarm {
                alarm: alarm.clone(),
            });
        }
        for (_, batch, _) in &fitting {
            writer.is_outrun |= batch.node == me || self.is_outrun_by(batch);
            self.observe(batch);
        }
        // Durable first, with one flush for all that one node wrote, then seen.
        for run in fitting.chunk_by(|(one, ..), (next, ..)| one.node == next.node) {
            let frames: Vec<&Frame> = run.iter().map(|(frame, ..)| *frame).collect();
            let before = Mark {
                sequence: run[0].1.first - 1,
                link: run[0].0.previous,
            };
            writer.journal.append(&frames, before)?;
        }
        let mut changes = Vec::new();
        self.change(|known| {
            for (frame, batch, link) in fitting {
                if let Arrival::New(new) =
                    known.replica.accept_batch(batch, frame.previous, link)?
                {
                    changes.extend(new);
                }
            }
            Ok::<_, Refused>(())
        })?;
        result.operations = changes.len();
        self.conclude(&mut writer, &changes, &mut result)?;
        self.snapshot_if_due(&mut writer)?;
        Ok(result)
    }

    /// Whether a batch names events of this node that it does not know of.
    fn is_outrun_by(&self, batch: &Batch) -> bool {
        let known = self.peek();
        let own = known.replica.mark(known.node).sequence;
        let contexts = batch.events.iter().filter_map(|event| {
            let context = event.revision.context.as_ref()?;
            Some(context.get(&known.node))
        });
        contexts.max().unwrap_or(0) > own
    }

    /// Follows another node's clock a little, and says when it is far ahead.
    fn observe(&self, batch: &Batch) {
        let node = batch.node;
        let now = (self.inner.now)();
        let stamps = batch.events.iter().map(|event| event.revision.stamp);
        let latest = stamps.max().unwrap_or_default();
        self.change(|known| known.clock.observe(latest, now));
        let ahead = latest.milliseconds().saturating_sub(now);
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
        changes: &[Change],
        result: &mut Reconciled,
    ) -> Result<()> {
        let is_told =
            |change: &&Change| change.kind != ChangeKind::Superseded || change.conflict.is_some();
        let mut states: Vec<Key> = changes
            .iter()
            .filter(is_told)
            .map(|change| change.key.clone())
            .collect();
        states.sort_unstable();
        states.dedup();
        let mut contested: Vec<(Key, ConflictKind)> = changes
            .iter()
            .filter_map(|change| Some((change.key.clone(), change.conflict?)))
            .collect();
        // Of several about one state the last one says how it is now.
        contested.sort_by(|(one, _), (other, _)| one.cmp(other));
        contested.reverse();
        contested.dedup_by(|(one, _), (other, _)| one == other);
        contested.reverse();
        {
            let known = self.known()?;
            for (key, kind) in contested {
                let siblings = known.replica.siblings(&key.collection, &key.id);
                if kind == ConflictKind::ConcurrentUpdate && !is_contested(siblings) {
                    continue;
                }
                let rules = known.rules(&key.collection);
                let conflict = Conflict::of(key, kind, known.node, siblings, rules);
                result.conflicts.push(conflict);
            }
        }
        if !self.inner.listeners.is_empty() {
            for change in changes {
                if change.kind != ChangeKind::Superseded {
                    self.tell(&Notice::StateSynced {
                        key: change.key.clone(),
                        node: change.dot.node,
                        is_deleted: change.kind == ChangeKind::Deleted,
                    });
                }
            }
            for conflict in &result.conflicts {
                self.tell(&Notice::ConflictDetected {
                    conflict: conflict.clone(),
                });
            }
        }
        result.states = states;
        result.settled = self.settle(writer, &result.states)?;
        Ok(())
    }

    /// Settles those of these states that the rules let this node settle.
    fn settle(&self, writer: &mut Writer, keys: &[Key]) -> Result<Vec<Key>> {
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

    fn take_replica(&self, other: &Replica) -> Result<Reconciled> {
        let mut writer = self.writer();
        let known = self.known()?;
        let mut joined = known.replica.clone();
        if let Err(refused) = joined.join(other) {
            let Refused::Forked { node, sequence } = refused else {
                return Err(refused.into());
            };
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
        let changes = differences(&known.replica, &joined);
        let own = |replica: &Replica| replica.mark(known.node).sequence;
        writer.is_outrun |= own(&joined) > own(&known.replica);
        let is_new = joined.clock() != known.replica.clock();
        drop(known);
        let mut result = Reconciled {
            operations: changes.len(),
            ..Reconciled::default()
        };
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
        self.conclude(&mut writer, &changes, &mut result)?;
        drop(writer);
        self.tell(&Notice::StateImported {
            states: result.states.len(),
        });
        Ok(result)
    }

    /// This node's operations that no other node is known to have, in order. They are consumed
    /// when a head comes that covers them.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn pending(&self) -> Result<Vec<Operation>> {
        let writer = self.writer();
        let known = self.known()?;
        let mark = known.replica.mark(known.node);
        let acknowledged = known.acknowledged();
        let frames = writer.journal.own_frames(known.node, acknowledged, mark)?;
        let mut operations = Vec::new();
        for frame in frames {
            let events = frame.batch()?.events;
            let events = events.iter();
            operations.extend(
                events
                    .filter(|event| event.revision.dot.sequence > acknowledged)
                    .map(Operation::of),
            );
        }
        Ok(operations)
    }

    /// Every event of a state that is still kept, by whichever node, oldest first.
    pub(crate) fn history(&self, key: &Key) -> Result<Vec<Operation>> {
        let writer = self.writer();
        let mut operations = Vec::new();
        for frame in writer.journal.history()? {
            let events = frame.batch()?.events;
            let events = events.iter().filter(|event| event.key == *key);
            operations.extend(events.map(Operation::of));
        }
        operations.sort_by_key(|operation| (operation.stamp, operation.dot));
        Ok(operations)
    }

    /// All states that several nodes wrote at once and nobody has written since.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let known = self.known()?;
        let mut conflicts = Vec::new();
        if known.replica.conflicts() > 0 {
            for collection in known.replica.collections() {
                let rules = known.rules(collection);
                for (id, siblings) in known.replica.states(collection) {
                    if is_contested(siblings) {
                        let key = Key::new(collection, id);
                        let kind = kind_of(siblings);
                        conflicts.push(Conflict::of(key, kind, known.node, siblings, rules));
                    }
                }
            }
        }
        Ok(conflicts)
    }

    /// Lets go of the marks that deletes leave where they win over edits ([`DeleteRule`]), as far
    /// as every node that is known has seen them, by the heads that came since this manager was
    /// opened. Nodes that never come back are named, and nobody waits for them. How many marks
    /// are gone.
    ///
    /// # Errors
    /// It could not be made durable.
    ///
    /// [`DeleteRule`]: crate::DeleteRule
    pub fn bury(&self, retired: &[NodeId]) -> Result<usize> {
        let mut writer = self.writer();
        let known = self.known()?;
        let replica = &known.replica;
        let others: BTreeSet<&NodeId> = replica.marks().keys().chain(known.peers.keys()).collect();
        let others: Vec<&NodeId> = others
            .into_iter()
            .filter(|node| **node != known.node && !retired.contains(node))
            .collect();
        // What a node wrote before it saw a delete has come, if all has come that it had written
        // when it said that it knows of the delete.
        let has_seen = |node: &NodeId, revision: &Revision| {
            known.peers.get(node).is_some_and(|clock| {
                clock.contains(revision.dot) && replica.mark(*node).sequence >= clock.get(node)
            })
        };
        let mut buried = Vec::new();
        for collection in replica.collections() {
            for (id, siblings) in replica.states(collection) {
                let mut graves = siblings.iter().filter(|sibling| sibling.value().is_none());
                let is_grave = graves.clone().next().is_some();
                let is_seen = |grave| others.iter().all(|node| has_seen(node, grave));
                if is_grave && graves.all(is_seen) {
                    buried.push(Key::new(collection, id));
                }
            }
        }
        drop(known);
        let count = buried.len();
        let (_, changes) = self.write(&mut writer, |transaction| {
            for key in buried {
                transaction.bury(key);
            }
            Ok(())
        })?;
        drop(writer);
        self.tell_own(&changes);
        Ok(count)
    }

    /// Writes a snapshot now, so that loading is quick, and keeps no more history than this many
    /// bytes of log.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn compact(&self, history_bytes: u64) -> Result<()> {
        let mut writer = self.writer();
        let known = self.known()?;
        writer.journal.write_snapshot(&known.replica)?;
        writer.journal.forget_history(history_bytes)
    }

    /// Ends everything: listeners get no more notices, the folder is free, and every later call
    /// on this manager says so. Everything that was done is durable already.
    pub fn close(&self) {
        let mut writer = self.writer();
        writer.journal = Journal::Memory(Vec::new());
        writer.identity = None;
        self.change(|known| {
            known.is_closed = true;
            known.replica = Replica::new();
            known.rules.clear();
            known.peers.clear();
        });
        drop(writer);
        self.inner.listeners.close();
    }

    pub(crate) fn set_status(&self, current: Status) {
        let mut status = self
            .inner
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let previous = std::mem::replace(&mut *status, current);
        drop(status);
        if previous != current {
            self.tell(&Notice::StatusChanged { previous, current });
        }
    }

    pub(crate) fn refresh_status(&self) {
        let current = if self.has_open_conflict() {
            Status::Conflict
        } else {
            Status::Idle
        };
        self.set_status(current);
    }

    fn has_open_conflict(&self) -> bool {
        let known = self.peek();
        // Only these leave anything open, and looking takes time.
        let may_leave_open =
            |rules: &Rules| matches!(rules.strategy, Strategy::Manual) || rules.strategy.computes();
        known.replica.conflicts() > 0
            && known.rules.iter().any(|(name, rules)| {
                may_leave_open(rules)
                    && known.replica.states(name).any(|(_, siblings)| {
                        siblings.len() > 1
                            && rules
                                .show(siblings.iter())
                                .is_some_and(|shown| shown.is_open)
                    })
            })
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("node", &self.node())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Whether siblings say different things and nobody has settled it.
pub(crate) fn is_contested(siblings: &[Revision]) -> bool {
    let all: Vec<&Revision> = siblings.iter().collect();
    all.len() > 1 && !is_settled(&all)
}

fn kind_of(siblings: &[Revision]) -> ConflictKind {
    if siblings.iter().any(|sibling| sibling.value().is_none()) {
        return ConflictKind::UpdateDelete;
    }
    ConflictKind::ConcurrentUpdate
}

fn latest_stamp(replica: &Replica) -> Stamp {
    let collections = replica.collections();
    collections
        .flat_map(|collection| replica.states(collection))
        .flat_map(|(_, siblings)| siblings)
        .map(|revision| revision.stamp)
        .max()
        .unwrap_or_default()
}

/// The digest of every value that a strategy computed from several siblings.
fn computed(replica: &Replica, collection: &str, rules: &Rules) -> Root {
    let mut root = Root::default();
    if replica.conflicts() > 0 && rules.strategy.computes() {
        for (id, siblings) in replica.states(collection) {
            if siblings.len() > 1
                && let Some(shown) = rules.show(siblings.iter())
            {
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
        let old: BTreeMap<&str, &[Revision]> = before.states(collection).collect();
        let new: BTreeMap<&str, &[Revision]> = after.states(collection).collect();
        let ids: BTreeSet<&&str> = old.keys().chain(new.keys()).collect();
        for id in ids {
            let (old, new) = (old.get(*id), new.get(*id));
            if old == new {
                continue;
            }
            let kind = match (old, new) {
                (None, _) => ChangeKind::Created,
                (Some(_), Some(_)) => ChangeKind::Updated,
                (Some(_), None) => ChangeKind::Deleted,
            };
            let siblings = new.or(old).copied().unwrap_or_default();
            let latest = siblings.iter().max_by_key(|sibling| sibling.rank());
            if let Some(latest) = latest {
                changes.push(Change {
                    key: Key::new(collection, id),
                    dot: latest.dot,
                    kind,
                    conflict: new
                        .is_some_and(|siblings| is_contested(siblings))
                        .then(|| kind_of(siblings)),
                });
            }
        }
    }
    changes
}
