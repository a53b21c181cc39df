//! The manager: one folder of states, opened, with everything that is done to it.
//!
//! Writes go one after another: a change is made up on top of what is known, appended to this
//! node's log, flushed, and only then seen by readers, who never wait for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::arrival::{Change, ChangeKind};
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::frame::{Frame, Mark};
use crate::hybrid_clock::{HybridClock, Stamp};
use crate::identity::{Identity, Origin, random_node};
use crate::journal::Journal;
use crate::limits::{BATCH_BYTES_MAX, COLLECTION_BYTES_MAX, READERS_MAX};
use crate::node::{Key, NodeId};
use crate::notice::{Listeners, Notice, Notices, Status};
use crate::replica::Replica;
use crate::revision::{Batch, Revision};
use crate::root::Root;
use crate::store::Store;
use crate::strategy::Rules;
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
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Held by whoever changes something, until it is done.
    writer: Mutex<Writer>,
    /// What readers see. Changed only while the writer is held.
    known: RwLock<Known>,
    status: Mutex<Status>,
    pub(crate) listeners: Listeners,
    pub(crate) now: fn() -> u64,
}

/// What is needed to change something.
pub(crate) struct Writer {
    pub(crate) journal: Journal,
    /// Nothing for states in memory only.
    pub(crate) identity: Option<Identity>,
    /// Others know more of this node than it does: it has to become another one.
    pub(crate) is_outrun: bool,
}

/// What is known.
pub(crate) struct Known {
    pub node: NodeId,
    pub replica: Replica,
    pub(crate) clock: HybridClock,
    pub(crate) rules: BTreeMap<Arc<str>, Rules>,
    /// What the others know, as far as they said.
    pub(crate) peers: BTreeMap<NodeId, VectorClock>,
    is_closed: bool,
}

impl Known {
    /// The rules of a collection; last-write-wins where none were named.
    pub(crate) fn rules(&self, collection: &str) -> &Rules {
        static USUAL: LazyLock<Rules> = LazyLock::new(Rules::default);
        self.rules.get(collection).unwrap_or(&USUAL)
    }

    /// Notes what another node knows. Heads of nodes that never wrote cost nothing to make up, so only
    /// so many of those are remembered.
    pub(crate) fn note_peer(&mut self, node: NodeId, clock: VectorClock) {
        let is_known = self.replica.reached(node) > 0 || self.peers.contains_key(&node);
        if is_known || self.peers.len() < READERS_MAX + self.replica.marks().len() {
            self.peers.insert(node, clock);
        }
    }

    /// How many of this node's own events somebody else is known to have.
    pub(crate) fn acknowledged(&self) -> u64 {
        let clocks = self.peers.values();
        clocks.map(|clock| clock.get(&self.node)).max().unwrap_or(0)
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

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        // Whoever panicked had changed nothing: what is durable comes first, and all at once.
        self.inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn peek(&self) -> RwLockReadGuard<'_, Known> {
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

    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Known) -> R) -> R {
        let mut known = self
            .inner
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut known)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.peek().is_closed
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
                    let several = known.replica.several(&name).into_iter();
                    let keys: Vec<Key> = several.map(|(id, _)| Key::new(&name, id)).collect();
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
    pub(crate) fn write<R>(
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
        drop(known);
        let changes = self.commit(writer, batch, clock)?;
        Ok((result, changes))
    }

    /// Makes a batch of this node's own durable, and shows it to readers.
    pub(crate) fn commit(
        &self,
        writer: &mut Writer,
        batch: Batch,
        clock: HybridClock,
    ) -> Result<Vec<Change>> {
        let known = self.known()?;
        let before = known.replica.mark(batch.node);
        let new = std::iter::once((batch.node, batch.events.as_slice()));
        known.replica.check_room(new)?;
        drop(known);
        let frame = Frame::of(&batch, before.link);
        if frame.bytes().len() > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge);
        }
        let mark = Mark::after(&frame)?;
        let is_told = !self.inner.listeners.is_empty();
        let mut changes = Vec::new();
        writer.journal.append(vec![frame], before)?;
        self.change(|known| {
            known.clock = clock;
            known
                .replica
                .take(batch.node, mark, batch.events, |change| {
                    if is_told {
                        changes.push(change);
                    }
                });
        });
        self.snapshot_if_due(writer)?;
        Ok(changes)
    }

    pub(crate) fn snapshot_if_due(&self, writer: &mut Writer) -> Result<()> {
        if writer.journal.is_snapshot_due() {
            writer.journal.write_snapshot(&self.peek().replica)?;
        }
        Ok(())
    }

    /// Becomes another node if others know more of this one than it does itself.
    pub(crate) fn renew_if_outrun(&self, writer: &mut Writer) -> Result<()> {
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

    pub(crate) fn tell_own(&self, changes: &[Change]) {
        // None are noted where nobody listens.
        if !changes.is_empty() {
            for change in changes {
                let key = change.key.clone();
                match change.kind {
                    ChangeKind::Created => self.tell(&Notice::StateCreated { key }),
                    ChangeKind::Updated => self.tell(&Notice::StateUpdated { key }),
                    ChangeKind::Deleted => self.tell(&Notice::StateDeleted { key }),
                    ChangeKind::Superseded => {}
                }
            }
            self.tell(&Notice::Saved {
                events: changes.len(),
            });
        }
        self.refresh_status();
    }

    /// The names of all collections that hold anything, in order.
    ///
    /// # Errors
    /// The manager is closed.
    pub fn collections(&self) -> Result<Vec<String>> {
        let known = self.known()?;
        let names = known.replica.collections();
        Ok(names.map(ToString::to_string).collect())
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
        known.rules.iter().any(|(name, rules)| {
            let several = || known.replica.several(name).into_iter();
            rules.strategy.may_leave_open()
                && several().any(|(_, siblings)| rules.leaves_open(siblings))
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

pub(crate) fn latest_stamp(replica: &Replica) -> Stamp {
    let stamps = replica.revisions().map(|revision| revision.stamp);
    stamps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_are_made_up_fill_no_memory() {
        let manager = Manager::in_memory().unwrap();
        let real = Manager::in_memory().unwrap();
        for number in 0..2 * READERS_MAX as u64 {
            let mut name = [0; 16];
            name[..8].copy_from_slice(&number.to_le_bytes());
            let node = NodeId::from_bytes(name);
            let clock: VectorClock = [(node, number + 1)].into_iter().collect();
            manager.change(|known| known.note_peer(node, clock));
        }
        assert_eq!(manager.peek().peers.len(), READERS_MAX);
        // Who has written is remembered all the same.
        let all = real.collection::<u8>("all", crate::Strategy::default());
        all.unwrap().put("x", &1).unwrap();
        manager.reconcile(&real.export().unwrap()).unwrap();
        manager.reconcile(&real.head().unwrap()).unwrap();
        assert!(manager.peek().peers.contains_key(&real.node()));
    }
}
