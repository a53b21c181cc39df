//! `state = fold(log)`: the heart of the program.
//!
//! Applying a record is a pure function. A record that breaks a rule is *void*: it keeps its
//! number, it changes nothing, and it does so for every reader alike. Only two things stop a fold:
//! a record that doesn't continue the chain, and a critical kind that this program doesn't know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::collection::{Collection, check_compact, check_remove};
use crate::digest::Digest;
use crate::entry::{Chunk, ContentObject, Entry};
use crate::epoch::Epoch;
use crate::id::PackId;
use crate::limits::{
    BACKUPS_MAX, CHECKPOINT_RECORDS_MAX, CHECKPOINT_RECORDS_MIN, FORGOTTEN_MAX, SEGMENT_RECORDS,
    SNAPSHOTS_MAX,
};
use crate::path::RepoPath;
use crate::record::{
    BackupBody, Body, Envelope, ForgetBody, Kind, PushBody, Record, RecordRef, RollbackBody,
    SnapshotBody, Upsert,
};
use crate::snapshot::{Label, Snapshot, SnapshotId};
use crate::time::Timestamp;
use crate::tree::Tree;

/// Everything a repository says at one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The record it is the state at.
    pub head: RecordRef,
    /// That record's time.
    pub time: Timestamp,
    /// The shared directory.
    pub tree: Tree,
    /// Packs that records have named.
    pub packs: BTreeMap<PackId, PackState>,
    /// Names for earlier states.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// The newest copy of each label that was made elsewhere.
    pub backups: BTreeMap<Label, Backup>,
    /// How far the log has grown since a checkpoint was last due.
    pub growth: Growth,
    /// What is expired, condemned, removed, retired and held.
    pub collection: Collection,
    /// The epochs after the first, in order.
    pub epochs: Vec<Epoch>,
    /// The `fence` that ended the log, until a `promote` goes on from it.
    pub fenced: Option<u64>,
}

/// What the log says about a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackState {
    /// The record that named it first.
    pub since: u64,
    /// Its length, in stored bytes.
    pub bytes: u64,
}

/// What the log says about a copy elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where it lies, without credentials.
    pub to: String,
    /// The newest record that it holds.
    pub at: u64,
    /// The record that says so.
    pub by: u64,
    /// That record's time.
    pub time: Timestamp,
    /// Bytes that the run copied.
    pub bytes: u64,
}

/// Counts towards the next checkpoint. It is part of the fold, so everyone agrees on which
/// numbers have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// The number at which a checkpoint was last due; 0 before the first.
    pub checkpoint: u64,
    /// Length of the listing at that number, roughly, in bytes.
    pub listing_bytes: u64,
    /// Stored bytes of envelopes and bodies since.
    pub log_bytes: u64,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The state moved on.
    Changed,
    /// It breaks a rule and changed nothing but the head.
    Void(Violation),
    /// A kind this program doesn't know, and needn't.
    Skipped(String),
    /// A `promote` that goes on from this earlier record. Nothing has changed, the head neither: who holds
    /// the log hands the state there to [`State::continue_from`].
    ContinuesFrom(RecordRef),
}

/// The rule that a void record breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It was made from a record that doesn't precede it.
    #[error("its base {base} does not precede it")]
    Base {
        /// Number of the base.
        base: u64,
    },
    /// It names a pack that no record has introduced.
    #[error("{path} lies in a pack that is not known: {pack}")]
    UnknownPack {
        /// The path.
        path: RepoPath,
        /// The pack.
        pack: PackId,
    },
    /// It names a record that doesn't precede it, or bytes past its own content.
    #[error("{path} lies outside of {object}")]
    Outside {
        /// The path.
        path: RepoPath,
        /// The object.
        object: String,
    },
    /// It introduces a pack that is known already.
    #[error("the pack {pack} was introduced before")]
    PackAgain {
        /// The pack.
        pack: PackId,
    },
    /// It keeps chunks that the path doesn't have.
    #[error("{path} keeps {keep} chunks and has {has}")]
    Keep {
        /// The path.
        path: RepoPath,
        /// Chunks to keep.
        keep: u32,
        /// Chunks there are.
        has: usize,
    },
    /// It touches one path twice.
    #[error("{path} is changed twice")]
    Twice {
        /// The path.
        path: RepoPath,
    },
    /// It takes away a path that isn't there.
    #[error("{path} is taken away and was not there")]
    Absent {
        /// The path.
        path: RepoPath,
    },
    /// It gives a snapshot a name that another one has.
    #[error("there is a snapshot {id} already")]
    SnapshotAgain {
        /// The name.
        id: SnapshotId,
    },
    /// It takes away a snapshot that isn't there.
    #[error("there is no snapshot {id}")]
    NoSnapshot {
        /// The name.
        id: SnapshotId,
    },
    /// It names a state that didn't exist yet.
    #[error("it names the state at record {at}, which does not precede it")]
    NotYet {
        /// The record.
        at: u64,
    },
    /// There are as many snapshots as there may be.
    #[error("there are {SNAPSHOTS_MAX} snapshots already, which is the limit; delete some first")]
    Snapshots,
    /// It takes away more at once than may be.
    #[error("it takes away {found} snapshots at once, {FORGOTTEN_MAX} is the limit")]
    Forgotten {
        /// How many.
        found: usize,
    },
    /// There are as many copies as there may be.
    #[error("there are {BACKUPS_MAX} copies already, which is the limit")]
    Backups,
    /// It names or introduces a pack that was condemned.
    #[error("the pack {pack} was condemned: nobody may name it any more")]
    Condemned {
        /// The pack.
        pack: PackId,
    },
    /// It names content in a record that is retired, or is going to be.
    #[error("{path} lies in record {number}, whose content may not be named any more")]
    Retired {
        /// The path.
        path: RepoPath,
        /// The record.
        number: u64,
    },
    /// It names content that was purged.
    #[error("the content of {path} was purged")]
    Purged {
        /// The path.
        path: RepoPath,
    },
    /// It names a state that is kept no longer.
    #[error("the state at record {at} is kept no longer")]
    Expired {
        /// The record.
        at: u64,
    },
    /// Somebody else collected since its base.
    #[error("record {by} collected since its base")]
    CollectedSince {
        /// The record.
        by: u64,
    },
    /// It lets go of what was not superseded at its base.
    #[error("it lets go of the state at its base {base}, or of a later one")]
    TooNew {
        /// Number of the base.
        base: u64,
    },
    /// It lets go of what a snapshot keeps.
    #[error("it lets go of what the snapshot {id} keeps")]
    Named {
        /// The snapshot.
        id: SnapshotId,
    },
    /// It moves content from where it isn't condemned, or to where it can't lie.
    #[error("it moves content of {object} that is not condemned, or to where it cannot lie")]
    Move {
        /// The object.
        object: String,
    },
    /// It removes a pack that is not condemned, or was removed before.
    #[error("the pack {pack} is not condemned, or was removed before")]
    NotCondemned {
        /// The pack.
        pack: PackId,
    },
    /// It removes content that the directory has.
    #[error("it removes content of {path}, which is still there")]
    StillNamed {
        /// The path.
        path: RepoPath,
    },
    /// It retires records that a kept state needs.
    #[error("it retires what the state at record {at} needs, and has no listing of that")]
    StillNeeded {
        /// The record.
        at: u64,
    },
    /// It retires other records than those that are condemned.
    #[error("it cannot retire the records up to {cut}")]
    Cut {
        /// The last one.
        cut: u64,
    },
    /// It has more of something than there may be.
    #[error("too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// A fence came before it.
    #[error(
        "record {by}, a fence, ended this log; it goes on in another store, behind the same gateway or \
         where its owner says: `statehold link --moved` with the new place goes on there"
    )]
    Fenced {
        /// The record that ended the log.
        by: u64,
    },
    /// It was made in an earlier epoch.
    #[error("its base {base} is of an earlier epoch; this one began with record {began}")]
    EarlierEpoch {
        /// Number of the base.
        base: u64,
        /// The record that opened the epoch.
        began: u64,
    },
    /// It does not open the next epoch, or not from a record of this one.
    #[error("it does not open the next epoch of this log")]
    Epoch,
    /// It names a record that a promote left behind.
    #[error("it names record {at}, which was left behind when the log went on from another store")]
    LeftBehind {
        /// The record.
        at: u64,
    },
    /// One of its entries can't be.
    #[error(transparent)]
    Entry(#[from] crate::entry::InvalidEntry),
    /// It puts something beneath a file.
    #[error(transparent)]
    FileInTheWay(#[from] crate::tree::FileInTheWay),
}

impl Violation {
    /// Whether a record that was right where it was made may break this rule further on, because of
    /// what others did meanwhile. Then it has to be made anew.
    pub const fn is_overtaken(&self) -> bool {
        matches!(
            self,
            Self::Condemned { .. }
                | Self::Retired { .. }
                | Self::Expired { .. }
                | Self::CollectedSince { .. }
                | Self::Named { .. }
                | Self::StillNamed { .. }
        )
    }
}

/// Why a fold cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The record doesn't continue the chain.
    #[error(
        "record {number} does not continue the log: it follows {parent}, the head is {head_number} {head}"
    )]
    Chain {
        /// The record's number.
        number: u64,
        /// The parent it names.
        parent: Digest,
        /// Number of the head.
        head_number: u64,
        /// Id of the head.
        head: Digest,
    },
    /// The record is retired: what it said stands in a checkpoint.
    #[error("record {number} is retired; a checkpoint stands in for it")]
    Retired {
        /// The record's number.
        number: u64,
    },
    /// The record is of a critical kind that this program doesn't know.
    #[error("record {number} is of kind {kind:?}, which this version does not know")]
    UnknownKind {
        /// The record's number.
        number: u64,
        /// Its kind.
        kind: String,
    },
}

impl State {
    /// The state of a repository without records.
    pub fn empty(genesis: Digest) -> Self {
        Self {
            head: RecordRef {
                number: 0,
                id: genesis,
            },
            time: Timestamp::default(),
            tree: Tree::default(),
            packs: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            backups: BTreeMap::new(),
            growth: Growth::default(),
            collection: Collection::default(),
            epochs: Vec::new(),
            fenced: None,
        }
    }

    /// Takes in the next record.
    pub fn apply(&mut self, record: &Record) -> Result<Applied, FoldError> {
        self.check_follows(record)?;
        let envelope = &record.envelope;
        let applied = match (&envelope.draft.kind, &record.body) {
            (_, Body::Retired) => {
                let number = envelope.number;
                return Err(FoldError::Retired { number });
            }
            (Kind::Other(kind), _) if envelope.draft.critical => {
                let (number, kind) = (envelope.number, kind.clone());
                return Err(FoldError::UnknownKind { number, kind });
            }
            (Kind::Other(kind), _) => Applied::Skipped(kind.clone()),
            (_, body) => match self.changes_of(envelope, body) {
                Ok(changes) => {
                    if let Body::Promote(promote) = body
                        && promote.from != self.head
                    {
                        return Ok(Applied::ContinuesFrom(promote.from));
                    }
                    self.take_in(record, changes);
                    Applied::Changed
                }
                Err(violation) => Applied::Void(violation),
            },
        };
        self.move_head(record);
        Ok(applied)
    }

    /// Checks that a record continues the chain.
    pub(crate) fn check_follows(&self, record: &Record) -> Result<(), FoldError> {
        let envelope = &record.envelope;
        let follows = self.head.number.checked_add(1) == Some(envelope.number)
            && envelope.parent == self.head.id;
        if follows {
            return Ok(());
        }
        Err(FoldError::Chain {
            number: envelope.number,
            parent: envelope.parent,
            head_number: self.head.number,
            head: self.head.id,
        })
    }

    /// Moves on to a record, whatever became of it.
    pub(crate) fn move_head(&mut self, record: &Record) {
        self.head = record.reference();
        self.time = self.time.max(record.envelope.time);
        self.grow(record.listing_bytes());
    }

    /// Says whether a record that stands on this state keeps the rules, without taking it in.
    pub fn check(&self, envelope: &Envelope, body: &Body) -> Result<(), Violation> {
        self.changes_of(envelope, body).map(drop)
    }

    /// The entries that a record changes, if it keeps the rules.
    fn changes_of(&self, envelope: &Envelope, body: &Body) -> Result<Changes, Violation> {
        self.check_epoch(body)?;
        let mut packs = envelope.draft.packs.iter();
        if let Some(pack) = packs.find(|pack| self.packs.contains_key(&pack.id)) {
            return Err(Violation::PackAgain { pack: pack.id });
        }
        let mut packs = envelope.draft.packs.iter();
        if let Some(pack) = packs.find(|pack| self.collection.condemned.contains_key(&pack.id)) {
            return Err(Violation::Condemned { pack: pack.id });
        }
        match body {
            Body::Push(push) => return self.check_push(envelope, push),
            Body::Rollback(rollback) => {
                self.check_snapshot(&rollback.before)?;
                self.check_precedes(envelope, rollback.to)?;
                self.collection.check_kept(rollback.to)?;
                self.collection.check_kept(rollback.changes.base.number)?;
                check_not_purged(&rollback.changes)?;
                return self.check_push(envelope, &rollback.changes);
            }
            Body::Snapshot(snapshot) => {
                self.check_snapshot(&snapshot.id)?;
                self.check_precedes(envelope, snapshot.at)?;
                self.collection.check_kept(snapshot.at)?;
            }
            Body::Backup(backup) => {
                self.check_precedes(envelope, backup.at)?;
                if !self.backups.contains_key(&backup.label) && self.backups.len() >= BACKUPS_MAX {
                    return Err(Violation::Backups);
                }
            }
            Body::Forget(forget) => self.check_forget(forget)?,
            Body::Compact(compact) => {
                check_base(envelope, compact.base)?;
                check_compact(self, envelope, compact)?;
            }
            Body::Remove(remove) => {
                check_base(envelope, remove.base)?;
                check_remove(self, remove)?;
            }
            Body::Hold(hold) => {
                check_base(envelope, hold.base)?;
                self.collection.check_hold(hold)?;
            }
            Body::Note(_)
            | Body::Registry(_)
            | Body::Fence(_)
            | Body::Promote(_)
            | Body::Unknown
            | Body::Retired => {}
        }
        Ok(Changes::new())
    }

    fn check_snapshot(&self, id: &SnapshotId) -> Result<(), Violation> {
        if self.snapshots.contains_key(id) {
            let id = id.clone();
            return Err(Violation::SnapshotAgain { id });
        }
        if self.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(Violation::Snapshots);
        }
        Ok(())
    }

    /// Whether a record that another one names comes before it, and is in effect.
    fn check_precedes(&self, envelope: &Envelope, at: u64) -> Result<(), Violation> {
        if at >= envelope.number {
            return Err(Violation::NotYet { at });
        }
        if self.is_left_behind(at) {
            return Err(Violation::LeftBehind { at });
        }
        Ok(())
    }

    fn check_forget(&self, forget: &ForgetBody) -> Result<(), Violation> {
        let found = forget.snapshots.len();
        if found > FORGOTTEN_MAX {
            return Err(Violation::Forgotten { found });
        }
        let mut snapshots = forget.snapshots.iter();
        match snapshots.find(|id| !self.snapshots.contains_key(id)) {
            Some(id) => Err(Violation::NoSnapshot { id: id.clone() }),
            None => Ok(()),
        }
    }

    /// Whether a checkpoint is due at the head.
    pub const fn checkpoint_due(&self) -> bool {
        self.growth.checkpoint == self.head.number && self.head.number > 0
    }

    fn grow(&mut self, listing_bytes: u64) {
        self.growth.log_bytes += listing_bytes;
        let records = self.head.number - self.growth.checkpoint;
        let grown = self.growth.log_bytes.saturating_mul(4) >= self.growth.listing_bytes;
        let due = records >= CHECKPOINT_RECORDS_MAX || (records >= CHECKPOINT_RECORDS_MIN && grown);
        // Where a segment ends, so that what comes after a checkpoint begins with one.
        if due && self.head.number.is_multiple_of(SEGMENT_RECORDS) {
            // About what a listing line costs once compressed; the two digests don't shrink.
            let listing_bytes = self.tree.len() as u64 * 128;
            self.growth = Growth {
                checkpoint: self.head.number,
                listing_bytes,
                log_bytes: 0,
            };
        }
    }

    /// Checks a push against this state and gives the entries it results in.
    fn check_push(&self, envelope: &Envelope, push: &PushBody) -> Result<Changes, Violation> {
        check_base(envelope, push.base)?;
        let mut changes = Changes::new();
        for upsert in &push.upserts {
            let entry = self.whole_entry(envelope, upsert)?;
            entry.check(&upsert.path)?;
            if changes.insert(upsert.path.clone(), Some(entry)).is_some() {
                return Err(Violation::Twice {
                    path: upsert.path.clone(),
                });
            }
        }
        for path in &push.deletes {
            if self.tree.get(path.as_str()).is_none() {
                return Err(Violation::Absent { path: path.clone() });
            }
            if changes.insert(path.clone(), None).is_some() {
                return Err(Violation::Twice { path: path.clone() });
            }
        }
        self.check_places(&changes)?;
        Ok(changes)
    }

    /// The entry with kept chunks put in front and every location checked. Content in the record
    /// itself is left as `None`; its absolute place is filled in when the record is applied.
    fn whole_entry(&self, envelope: &Envelope, upsert: &Upsert) -> Result<Entry, Violation> {
        let Entry::File(file) = &upsert.entry else {
            return Ok(upsert.entry.clone());
        };
        let path = || upsert.path.clone();
        for chunk in &file.chunks {
            let end = chunk.at.offset.saturating_add(u64::from(chunk.at.stored));
            match chunk.at.object {
                None if end <= u64::from(envelope.draft.content_bytes) => {}
                None => {
                    let object = "its own record".into();
                    return Err(Violation::Outside {
                        path: path(),
                        object,
                    });
                }
                Some(object) if !self.collection.may_name(object) => {
                    return Err(match object {
                        ContentObject::Pack(pack) => Violation::Condemned { pack },
                        ContentObject::Record(number) => Violation::Retired {
                            path: path(),
                            number,
                        },
                    });
                }
                Some(ContentObject::Record(number))
                    if number < envelope.number && !self.is_left_behind(number) => {}
                Some(object @ ContentObject::Record(_)) => {
                    let object = object.to_string();
                    return Err(Violation::Outside {
                        path: path(),
                        object,
                    });
                }
                Some(ContentObject::Pack(pack)) => {
                    let known = self.packs.get(&pack).map(|known| known.bytes);
                    let new = || envelope.draft.packs.iter().find(|new| new.id == pack);
                    match known.or_else(|| new().map(|new| new.bytes)) {
                        Some(bytes) if end <= bytes => {}
                        Some(_) => {
                            let object = ContentObject::Pack(pack).to_string();
                            return Err(Violation::Outside {
                                path: path(),
                                object,
                            });
                        }
                        None => return Err(Violation::UnknownPack { path: path(), pack }),
                    }
                }
            }
        }
        if upsert.keep == 0 {
            return Ok(upsert.entry.clone());
        }
        let earlier: &[Chunk] = match self.tree.get(upsert.path.as_str()) {
            Some(Entry::File(earlier)) => &earlier.chunks,
            _ => &[],
        };
        let keep = upsert.keep;
        let kept = earlier
            .get(..keep as usize)
            .ok_or_else(|| Violation::Keep {
                path: path(),
                keep,
                has: earlier.len(),
            })?;
        let mut whole = file.clone();
        whole.chunks = kept.iter().chain(&file.chunks).copied().collect();
        Ok(Entry::File(whole))
    }

    /// Checks that after these changes nothing lies beneath a file or link.
    fn check_places(&self, changes: &Changes) -> Result<(), crate::tree::FileInTheWay> {
        let after = |path: &str| match changes.get(path) {
            Some(changed) => changed.as_ref(),
            None => self.tree.get(path),
        };
        let in_the_way = |entry: &Entry| !matches!(entry, Entry::Directory);
        for (path, change) in changes {
            let Some(entry) = change else { continue };
            for ancestor in path.ancestors() {
                if after(ancestor).is_some_and(in_the_way) {
                    let outer = RepoPath::parse(ancestor).unwrap_or_else(|_| path.clone());
                    return Err(crate::tree::FileInTheWay {
                        outer,
                        inner: path.clone(),
                    });
                }
            }
            if !in_the_way(entry) {
                continue;
            }
            let mut old = self.tree.beneath(path.as_str()).map(|(inner, _)| inner);
            if let Some(inner) = old.find(|inner| *inner != path && after(inner.as_str()).is_some())
            {
                let (outer, inner) = (path.clone(), inner.clone());
                return Err(crate::tree::FileInTheWay { outer, inner });
            }
        }
        Ok(())
    }

    /// Takes in what a record says, which has been checked.
    fn take_in(&mut self, record: &Record, changes: Changes) {
        let Envelope { number, time, .. } = record.envelope;
        match &record.body {
            Body::Snapshot(SnapshotBody {
                id,
                at,
                files,
                bytes,
                ..
            }) => self.name(record, id, *at, (*files, *bytes)),
            Body::Rollback(RollbackBody {
                before,
                files,
                bytes,
                changes,
                ..
            }) => self.name(record, before, changes.base.number, (*files, *bytes)),
            Body::Forget(forget) => {
                for id in &forget.snapshots {
                    self.snapshots.remove(id);
                }
                self.collection.policy = forget.policy.or(self.collection.policy);
            }
            Body::Backup(BackupBody {
                label,
                to,
                at,
                bytes,
                ..
            }) => {
                let backup = Backup {
                    to: to.clone(),
                    at: *at,
                    by: number,
                    time,
                    bytes: *bytes,
                };
                self.backups.insert(label.clone(), backup);
            }
            Body::Fence(_) => self.fenced = Some(number),
            Body::Promote(promote) => self.open_epoch(promote.from, record.reference()),
            Body::Compact(compact) => {
                self.tree.follow(&compact.moves);
                self.collection.compact(number, compact);
            }
            Body::Remove(remove) => {
                for pack in &remove.packs {
                    self.packs.remove(pack);
                }
                self.collection.remove(number, remove);
            }
            Body::Hold(hold) => {
                // A record has introduced the others by now.
                let packs = &self.packs;
                let held = hold.packs.iter().filter(|pack| !packs.contains_key(pack));
                let held = held.map(|pack| (*pack, number));
                self.collection.held.extend(held);
            }
            Body::Push(_) | Body::Note(_) | Body::Registry(_) | Body::Unknown | Body::Retired => {}
        }
        for (path, change) in changes {
            match change {
                None => {
                    self.tree.remove(path.as_str());
                }
                Some(mut entry) => {
                    if let Entry::File(file) = &mut entry {
                        for chunk in &mut file.chunks {
                            if chunk.at.object.is_none() {
                                chunk.at.object = Some(ContentObject::Record(number));
                                chunk.at.offset += record.content_start;
                            }
                        }
                    }
                    self.tree.insert(path, entry);
                }
            }
        }
        for pack in &record.envelope.draft.packs {
            let (since, bytes) = (number, pack.bytes);
            self.collection.held.remove(&pack.id);
            self.packs.insert(pack.id, PackState { since, bytes });
        }
    }

    fn name(&mut self, record: &Record, id: &SnapshotId, at: u64, (files, bytes): (u64, u64)) {
        let Envelope { number, time, .. } = record.envelope;
        let by = number;
        let snapshot = Snapshot {
            at,
            by,
            time,
            files,
            bytes,
        };
        self.snapshots.insert(id.clone(), snapshot);
    }
}

/// What a record makes of paths: an entry, or nothing.
type Changes = BTreeMap<RepoPath, Option<Entry>>;

fn check_base(envelope: &Envelope, base: RecordRef) -> Result<(), Violation> {
    if base.number < envelope.number {
        return Ok(());
    }
    Err(Violation::Base { base: base.number })
}

/// What a rollback brings back lies somewhere, and never in the rollback itself.
fn check_not_purged(changes: &PushBody) -> Result<(), Violation> {
    let is_gone = |entry: &Entry| match entry {
        Entry::File(file) => file.chunks.iter().any(|chunk| chunk.at.object.is_none()),
        Entry::Symlink { .. } | Entry::Directory => false,
    };
    let mut upserts = changes.upserts.iter();
    match upserts.find(|upsert| is_gone(&upsert.entry)) {
        Some(Upsert { path, .. }) => Err(Violation::Purged { path: path.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
