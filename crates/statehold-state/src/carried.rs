//! Exchange through a folder that something else keeps the same on several machines: a workspace, or
//! any program that moves files.
//!
//! Each node has a folder of its own in it, and writes nowhere else. So no two machines ever change
//! the same file, whatever moves them and in whatever order. All of it can be made again from what
//! the nodes keep themselves: what is damaged or taken away there is lost to nobody.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::alarm::{self, Alarm};
use crate::arrival::Refused;
use crate::error::{Error, IoContext as _, Result};
use crate::exchange::Reconciled;
use crate::frame::{Frame, Mark};
use crate::limits::{CARRIED_LOG_BYTES_MAX, CLOCK_NODES_MAX};
use crate::manager::{Manager, Writer};
use crate::message::{Head, Message};
use crate::node::NodeId;
use crate::node_folder::{LogEnd, NodeFolder, is_folder};
use crate::notice::Notice;
use crate::segment::Contents;

/// A folder that something else carries from machine to machine.
///
/// ```
/// use statehold_state::{CarriedFolder, Manager, Options, Strategy};
///
/// # let home = tempfile::tempdir()?;
/// # let open = |name: &str| {
/// #     Manager::open(Options::new(home.path().join(name), home.path().join("witness")))
/// # };
/// let (desk, phone) = (open("desk")?, open("phone")?);
/// // One folder here; on two machines, two that are kept the same.
/// let carried = CarriedFolder::at(home.path().join("carried"));
/// desk.collection::<String>("settings", Strategy::default())?.put("theme", &"dark".into())?;
/// carried.exchange(&desk)?;
/// let received = carried.exchange(&phone)?;
/// assert!(received.is_success());
/// let theme = phone.collection::<String>("settings", Strategy::default())?.get("theme")?;
/// assert_eq!(theme.ok_or("not here")?.data, "dark");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CarriedFolder {
    path: PathBuf,
}

/// What became of what was carried here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// What changed.
    pub reconciled: Reconciled,
    /// What was not taken, and why. Nothing of it has changed anything.
    pub refused: Vec<RefusedFile>,
}

impl Received {
    /// Whether a copy of its machine writes under this node's name too.
    pub fn is_forked(&self, node: NodeId) -> bool {
        let is_own = |alarm: &Alarm| matches!(alarm, Alarm::Forked { log, .. } if *log == node);
        self.reconciled.alarms.iter().any(is_own)
    }

    /// Whether everything that is there was taken and nothing is wrong.
    pub fn is_success(&self) -> bool {
        self.refused.is_empty() && self.reconciled.is_success()
    }
}

/// A file of a node that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedFile {
    /// Whose it is.
    pub node: NodeId,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A node that has a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CarriedNode {
    /// Which.
    pub node: NodeId,
    /// How many events it has written, by its own word; nothing if its head cannot be read.
    pub events: Option<u64>,
    /// How many of those are known here.
    pub known: u64,
    /// Whether it knows everything that is known here.
    pub is_current: bool,
}

impl CarriedFolder {
    /// The folder at a path. It is made when something is written.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Takes in what was carried here, and puts there what others lack: for whoever has all of their
    /// collections open. What an exchange in the background calls at each tick
    /// ([`Manager::auto_sync`]).
    ///
    /// If a running copy of this machine writes under the same name ([`Received::is_forked`]), nothing
    /// is put there: open a new folder, [`receive`](Self::receive) with its manager, and let that
    /// [`adopt`](Manager::adopt) what only this one wrote.
    ///
    /// # Errors
    /// As of [`receive`](Self::receive) and [`publish`](Self::publish).
    pub fn exchange(&self, manager: &Manager) -> Result<Received> {
        let mut received = self.receive(manager)?;
        if received.is_forked(manager.node()) {
            return Ok(received);
        }
        for alarm in self.publish(manager)? {
            if !received.reconciled.alarms.contains(&alarm) {
                received.reconciled.alarms.push(alarm);
            }
        }
        Ok(received)
    }

    /// Takes in what was carried here. What is damaged or hostile is refused file by file, and named.
    ///
    /// # Errors
    /// The folder cannot be listed, or what came could not be made durable.
    pub fn receive(&self, manager: &Manager) -> Result<Received> {
        let mut received = Received::default();
        // First, since a snapshot of somebody who knows the other log would pass over it.
        if let Some(alarm) = self.own_fork(manager)? {
            received.reconciled.alarms.push(alarm);
            return Ok(received);
        }
        let mut heads = Vec::new();
        for folder in self.folders()? {
            match folder.head() {
                Ok(head) => heads.push((folder, head)),
                Err(error) => {
                    received.refuse(folder.node, folder.head_path(), &error);
                    heads.push((folder, None));
                }
            }
        }
        for (folder, head) in &heads {
            receive_log(manager, folder, head.as_ref(), &mut received)?;
        }
        let mut has_joined = false;
        for (folder, _) in &heads {
            has_joined |= receive_snapshot(manager, folder, &mut received)?;
        }
        if has_joined {
            received.reconciled.missing.clear();
            for (folder, head) in &heads {
                receive_log(manager, folder, head.as_ref(), &mut received)?;
            }
        }
        for (_, head) in &heads {
            if let Some(head) = head {
                for alarm in manager.note_peer(head)? {
                    if is_about_itself(&alarm) && !received.reconciled.alarms.contains(&alarm) {
                        received.reconciled.alarms.push(alarm);
                    }
                }
                note_missing(manager, head, &mut received)?;
            }
        }
        Ok(received)
    }

    /// Finds out whether what lies in this node's folder goes on otherwise than its own log: then a
    /// copy of this machine writes under the same name, and this one has to take another. Nothing else
    /// is taken in before, so that it stays known what only this one wrote.
    fn own_fork(&self, manager: &Manager) -> Result<Option<Alarm>> {
        let mut writer = manager.writer();
        let node = manager.node();
        let mark = manager.known()?.replica.mark(node);
        let own = NodeFolder::new(&self.path, node);
        let Some(end) = own.log_end()? else {
            return Ok(None);
        };
        let end = end.mark;
        let is_other = if end.sequence < mark.sequence {
            let frames = writer.journal.frames_of(node, end.sequence, mark)?;
            frames.is_some_and(|frames| {
                frames
                    .first()
                    .is_some_and(|next| next.previous() != end.link)
            })
        } else {
            !own.goes_through(mark)?
        };
        writer.is_outrun |= is_other;
        Ok(is_other.then_some(Alarm::Forked {
            node,
            log: node,
            sequence: end.sequence.min(mark.sequence),
        }))
    }

    /// Puts there what others lack of what this node knows, once it is noted outside of the manager's
    /// folder that they may see it; and holds this node against what the others say of themselves.
    ///
    /// # Errors
    /// It could not be written.
    pub fn publish(&self, manager: &Manager) -> Result<Vec<Alarm>> {
        let mut writer = manager.writer();
        manager.renew_if_outrun(&mut writer)?;
        manager.witness(&mut writer)?;
        let own = NodeFolder::new(&self.path, manager.node());
        let others = self.folders()?;
        let head = manager.own_head()?;
        let mark = manager.known()?.replica.mark(own.node);
        let is_held = self.is_held(&others, &head)?;
        if mark.sequence > 0 || !is_held {
            let missing = missing_frames(&own, &writer, mark)?;
            let is_long = || -> Result<bool> {
                let most = CARRIED_LOG_BYTES_MAX.max(own.snapshot_bytes()?);
                Ok(own.log_bytes()? > most)
            };
            match missing {
                Some((end, frames)) if own.is_whole()? && !is_long()? => {
                    own.append(end, &frames)?;
                    if !is_held {
                        // The log stays: a copy of this machine finds in it where the two parted.
                        own.write_snapshot(head.clone(), &manager.known()?.replica)?;
                    }
                }
                _ => {
                    own.replace_log(head.clone(), &manager.known()?.replica)?;
                }
            }
            own.write_head(head.clone())?;
        }
        drop(writer);
        let mut alarms = Vec::new();
        for folder in others {
            let other = folder.head().ok().flatten();
            if let Some(other) = other.filter(|other| other.node != head.node) {
                alarms.extend(compare(&head, &other));
            }
        }
        for alarm in &alarms {
            manager.tell(&Notice::Alarm {
                alarm: alarm.clone(),
            });
        }
        Ok(alarms)
    }

    /// The nodes that have a folder, in order.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn nodes(&self, manager: &Manager) -> Result<Vec<CarriedNode>> {
        let here = manager.clock();
        let folders = self.folders()?.into_iter();
        Ok(folders
            .map(|folder| {
                let head = folder.head().ok().flatten();
                let clock = head.map(|head| head.clock());
                CarriedNode {
                    node: folder.node,
                    events: clock.as_ref().map(|clock| clock.get(&folder.node)),
                    known: here.get(&folder.node),
                    is_current: clock.is_some_and(|clock| clock.dominates(&here)),
                }
            })
            .collect())
    }

    /// Lets go of a node that doesn't come back: this node's snapshot takes the place of its folder.
    /// Whether it had one. Should it come back all the same, it is a node like any other.
    ///
    /// # Errors
    /// It is this node, or knows of events that haven't come here; or it could not be written.
    pub fn retire(&self, manager: &Manager, node: NodeId) -> Result<bool> {
        let folder = NodeFolder::new(&self.path, node);
        if node == manager.node() {
            return Err(Error::OwnNode);
        }
        if !folder.is_there() {
            return Ok(false);
        }
        if let Some(head) = folder.head()?
            && !manager.clock().dominates(&head.clock())
        {
            return Err(Error::Ahead { node });
        }
        folder.remove()?;
        // What only that folder held is missing now, and goes into this node's snapshot.
        self.publish(manager)?;
        Ok(true)
    }

    /// The folders of all nodes, in order.
    fn folders(&self) -> Result<Vec<NodeFolder>> {
        if !is_folder(&self.path) {
            return Ok(Vec::new());
        }
        let mut nodes = Vec::new();
        for item in fs::read_dir(&self.path).on("list", &self.path)? {
            let name = item.on("list", &self.path)?.file_name();
            // What is not ours is left alone.
            let node = name.to_str().and_then(|name| name.parse().ok());
            let Some(node) = node else { continue };
            let folder = NodeFolder::new(&self.path, node);
            if folder.is_there() {
                nodes.push(folder);
            }
            if nodes.len() > CLOCK_NODES_MAX {
                return Err(Refused::TooManyNodes.into());
            }
        }
        nodes.sort_by_key(|folder| folder.node);
        Ok(nodes)
    }

    /// Whether everything that this node knows of others lies in somebody's folder: in that of who
    /// wrote it, or in a snapshot.
    fn is_held(&self, folders: &[NodeFolder], own: &Head) -> Result<bool> {
        let mut lacking: BTreeMap<NodeId, u64> = own
            .marks
            .iter()
            .filter(|(node, _)| **node != own.node)
            .map(|(node, mark)| (*node, mark.sequence))
            .collect();
        for folder in folders {
            let said = folder.head().ok().flatten();
            let said = said.and_then(|head| head.marks.get(&folder.node).copied());
            if let Some(said) = said {
                lacking.retain(|node, known| *node != folder.node || *known > said.sequence);
            }
        }
        if lacking.is_empty() {
            return Ok(true);
        }
        for folder in folders {
            if let Some(head) = folder.snapshot_head().ok().flatten() {
                let clock = head.clock();
                lacking.retain(|node, known| *known > clock.get(node));
            }
        }
        Ok(lacking.is_empty())
    }
}

impl Received {
    fn refuse(&mut self, node: NodeId, path: PathBuf, error: &Error) {
        let why = match error {
            Error::Damaged { offset: 0, why, .. } => why.clone(),
            Error::Damaged { offset, why, .. } => format!("byte {offset}: {why}"),
            other => other.to_string(),
        };
        let refused = RefusedFile { node, path, why };
        if !self.refused.contains(&refused) {
            self.refused.push(refused);
        }
    }

    /// Takes something in, or notes why not. What went wrong here is an error.
    fn take(
        &mut self,
        manager: &Manager,
        node: NodeId,
        path: PathBuf,
        message: Message,
    ) -> Result<bool> {
        match manager.take(message) {
            Ok(taken) => {
                let is_whole = taken.missing.is_empty() && taken.alarms.is_empty();
                self.reconciled.add(taken);
                Ok(is_whole)
            }
            Err(error @ (Error::Malformed(_) | Error::Refused(_))) => {
                self.refuse(node, path, &error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a node's own word about its log is not what is known of that. All else that heads tell is
/// found when this node's own is written, after what came was taken in.
fn is_about_itself(alarm: &Alarm) -> bool {
    matches!(alarm, Alarm::Forked { node, log, .. } if node == log)
}

/// Takes what is new in a node's log.
fn receive_log(
    manager: &Manager,
    folder: &NodeFolder,
    head: Option<&Head>,
    received: &mut Received,
) -> Result<()> {
    let known = || manager.clock().get(&folder.node);
    // Where the head can't be read, the log speaks for itself.
    let is_known = |head: &Head| head.clock().get(&folder.node) <= known();
    if head.is_some_and(is_known) {
        return Ok(());
    }
    let segments = match folder.segments() {
        Ok(segments) => segments,
        Err(error) => {
            received.refuse(folder.node, folder.head_path(), &error);
            return Ok(());
        }
    };
    let said = [head.cloned(), folder.snapshot_head().ok().flatten()];
    let said = said.iter().flatten();
    let said: Vec<Mark> = said
        .filter_map(|head| head.marks.get(&folder.node).copied())
        .collect();
    let mut ahead = None;
    for (index, (_, path)) in segments.iter().enumerate() {
        let read_ahead = ahead.take();
        let next = segments.get(index + 1);
        if next.is_some_and(|(first, _)| *first <= known() + 1) {
            continue;
        }
        let contents = match read_ahead.map_or_else(|| folder.contents(path, next.is_none()), Ok) {
            Ok(contents) => contents,
            Err(error) => {
                received.refuse(folder.node, path.clone(), &error);
                return Ok(());
            }
        };
        if let Some((_, next)) = next {
            ahead = folder.contents(next, index + 2 == segments.len()).ok();
        }
        if is_left_over(&contents, ahead.as_ref(), &said) {
            continue;
        }
        let message = Message::Delta(contents.frames);
        if !received.take(manager, folder.node, path.clone(), message)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a segment is none of the log that a node says it wrote: a copy of its machine wrote it, and whatever moves
/// the files kept it beside what replaced it. Were it taken, nobody would know any more what only that copy wrote. One that
/// the next one doesn't follow yet is left for when the files have come.
fn is_left_over(contents: &Contents, next: Option<&Contents>, said: &[Mark]) -> bool {
    let Ok(end) = contents.end() else {
        // Taking it says what is wrong.
        return false;
    };
    let goes_on_in = |next: &Contents| next.before.is_none() || next.before == end;
    !next.is_none_or(goes_on_in)
        || said
            .iter()
            .any(|mark| !contents.goes_through(*mark).unwrap_or(true))
}

/// Takes a node's snapshot, if it says to know what isn't known here. Whether it was taken.
fn receive_snapshot(
    manager: &Manager,
    folder: &NodeFolder,
    received: &mut Received,
) -> Result<bool> {
    let path = folder.snapshot_path();
    let read = || -> Result<Option<Message>> {
        match folder.snapshot_head()? {
            Some(head) if !manager.clock().dominates(&head.clock()) => folder.snapshot(),
            _ => Ok(None),
        }
    };
    match read() {
        Ok(Some(message)) => received.take(manager, folder.node, path, message),
        Ok(None) => Ok(false),
        Err(error) => {
            received.refuse(folder.node, path, &error);
            Ok(false)
        }
    }
}

/// Notes of which nodes somebody knows more than has come here.
fn note_missing(manager: &Manager, head: &Head, received: &mut Received) -> Result<()> {
    let known = manager.known()?;
    for (node, mark) in &head.marks {
        let here = known.replica.mark(*node).sequence;
        if here < mark.sequence {
            received.reconciled.missing.insert(*node, here);
        }
    }
    Ok(())
}

/// What others lack of a node's log, and behind which end it goes; nothing if the two can't be
/// joined, so that a snapshot has to do.
fn missing_frames(
    own: &NodeFolder,
    writer: &Writer,
    mark: Mark,
) -> Result<Option<(LogEnd, Vec<Frame>)>> {
    let Some(end) = own.log_end()? else {
        return Ok(None);
    };
    if end.mark.sequence == mark.sequence {
        return Ok((end.mark.link == mark.link).then(|| (end, Vec::new())));
    }
    if end.mark.sequence > mark.sequence {
        return Ok(None);
    }
    let journal = &writer.journal;
    let frames = journal.frames_of(own.node, end.mark.sequence, mark)?;
    Ok(frames
        .filter(|frames| {
            let first = frames.first();
            first.is_some_and(|first| first.previous() == end.mark.link)
        })
        .map(|frames| (end, frames)))
}

/// What cannot be right between this node and another one. That rules differ says something only of
/// a head that was made since all that is known here was known there: they may have changed in between.
fn compare(own: &Head, other: &Head) -> Vec<Alarm> {
    let is_current = other.clock().dominates(&own.clock());
    let mut alarms = alarm::compare(own, other);
    alarms.retain(|alarm| is_current || !matches!(alarm, Alarm::OtherRules { .. }));
    alarms
}
