//! One step of a repository's history, and the draft that a writer hands in.
//!
//! A record has two parts. The *envelope* says where it stands in the chain and is always
//! readable; the *body* says what changed. The record's id is the digest of its envelope line,
//! which holds the digest of the body, so an envelope alone keeps the chain provable.
//!
//! A writer makes a [`Draft`]: everything but number, parent and time, which belong to whoever
//! appends it. The nonce in it is drawn before the first attempt and lets any appender recognise a
//! draft that has landed already.

use serde::{Deserialize, Serialize};

use crate::collection::{CompactBody, HoldBody, RemoveBody, first_line};
use crate::digest::Digest;
use crate::entry::{Entry, EntryKind, EntryLine};
use crate::id::{KeyId, MachineId, Nonce, PackId};
use crate::path::RepoPath;
use crate::retention::Policy;
use crate::snapshot::SnapshotId;
use crate::time::Timestamp;
use crate::tree::write_line;

/// A record, named by number and id. Number 0 stands for the empty repository, with the digest of
/// `repository.json` as its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordRef {
    /// Its place in the log.
    pub number: u64,
    /// The digest of its envelope line.
    pub id: Digest,
}

/// What a record does. A reader that doesn't know a kind refuses it if it is critical and skips it
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Entries put in and taken away.
    Push,
    /// A name for the state at a record.
    Snapshot,
    /// Entries put back as they were at an earlier record, and a snapshot of how they were before.
    Rollback,
    /// A copy of the repository that was made elsewhere.
    Backup,
    /// Snapshots that are needed no longer, and how long points are kept.
    Forget,
    /// Points let go, packs condemned, and what is needed of them moved.
    Compact,
    /// What is deleted from now on.
    Remove,
    /// Packs of an upload that takes its time.
    Hold,
    /// A remark that the chain vouches for, without effect on the state.
    Note,
    /// A change to a gateway's registry of tenants and keys; found in control logs only.
    Registry,
    /// The end of a log: every record after it is void.
    Fence,
    /// The beginning of the next epoch, on a replica.
    Promote,
    /// A kind that this program doesn't know.
    #[serde(untagged)]
    Other(String),
}

impl Kind {
    /// Whether a reader that doesn't know the kind must refuse the log. It must where records of the
    /// kind have an effect on the state.
    pub const fn is_critical(&self) -> bool {
        match self {
            Self::Push
            | Self::Snapshot
            | Self::Rollback
            | Self::Backup
            | Self::Forget
            | Self::Compact
            | Self::Remove
            | Self::Hold
            | Self::Registry
            | Self::Fence
            | Self::Promote => true,
            Self::Note | Self::Other(_) => false,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Snapshot => "snapshot",
            Self::Rollback => "rollback",
            Self::Backup => "backup",
            Self::Forget => "forget",
            Self::Compact => "compact",
            Self::Remove => "remove",
            Self::Hold => "hold",
            Self::Note => "note",
            Self::Registry => "registry",
            Self::Fence => "fence",
            Self::Promote => "promote",
            Self::Other(name) => name,
        })
    }
}

/// The part of a record that is always in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Place in the log, from 1.
    pub number: u64,
    /// Id of the record before; for number 1 the digest of `repository.json`.
    pub parent: Digest,
    /// When it was appended, by the appender's clock; never before its parent's time.
    pub time: Timestamp,
    /// The writer's part.
    #[serde(flatten)]
    pub draft: DraftHead,
    /// The key it was appended with; absent where a machine writes to its own store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
}

/// What the writer decides about a record, apart from its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftHead {
    /// What it does.
    pub kind: Kind,
    /// Whether a reader that doesn't know the kind must refuse the log.
    pub critical: bool,
    /// The machine that wrote it.
    pub machine: MachineId,
    /// Drawn by the writer before its first attempt.
    pub nonce: Nonce,
    /// Digest of the stored body frame.
    pub body: Digest,
    /// Stored length of the body frame.
    pub body_bytes: u32,
    /// Stored length of the content frames after the body.
    pub content_bytes: u32,
    /// Packs that the record names for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<NewPack>,
}

impl DraftHead {
    /// The head of a draft of this kind. What follows from the body is filled in with it.
    pub const fn new(kind: Kind, machine: MachineId, nonce: Nonce, packs: Vec<NewPack>) -> Self {
        Self {
            critical: kind.is_critical(),
            kind,
            machine,
            nonce,
            body: Digest::from_bytes([0; 32]),
            body_bytes: 0,
            content_bytes: 0,
            packs,
        }
    }
}

/// A pack that a record names for the first time. Its length stands in the clear, so that whoever
/// can't read the body still knows what is stored, and a listing of the packs shows one cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPack {
    /// Its name.
    pub id: PackId,
    /// Its length, in stored bytes.
    pub bytes: u64,
}

/// A text that is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an envelope: {message}")]
pub struct InvalidEnvelope {
    /// What is wrong with it.
    pub message: String,
}

impl Envelope {
    /// The line that stands in the store, without a newline.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        write_line(&mut line, self);
        line.pop();
        line
    }

    /// Reads an envelope line and computes its id.
    pub fn from_line(line: &[u8]) -> Result<(Self, Digest), InvalidEnvelope> {
        let envelope = serde_json::from_slice(line).map_err(|error| InvalidEnvelope {
            message: error.to_string(),
        })?;
        Ok((envelope, Digest::of(line)))
    }
}

/// An entry put at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// The path.
    pub path: RepoPath,
    /// What is there from now on. With `keep`, its chunks are those after the kept ones.
    pub entry: Entry,
    /// How many chunks of the path's earlier entry stand before the chunks listed here. An
    /// append-only log that grew keeps all of them and lists one.
    pub keep: u32,
}

/// The body of a push: what changed against the base it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// Entries put in.
    pub upserts: Vec<Upsert>,
    /// Paths taken away.
    pub deletes: Vec<RepoPath>,
}

/// The body of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// The snapshot's name.
    pub id: SnapshotId,
    /// The record that it names the state at.
    pub at: u64,
    /// Files there, as the writer counted.
    pub files: u64,
    /// Their bytes, as the writer counted.
    pub bytes: u64,
}

/// The body of a rollback: one record that keeps the present under a name and brings back what was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackBody {
    /// The record whose state comes back.
    pub to: u64,
    /// The snapshot of the state at the base.
    pub before: SnapshotId,
    /// Files in that snapshot, as the writer counted.
    pub files: u64,
    /// Their bytes, as the writer counted.
    pub bytes: u64,
    /// What has to change for it. Entries name the objects that their content has been in all along.
    pub changes: PushBody,
}

/// The body of a backup: up to where the repository has been copied to another store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// What the copy is called.
    pub label: crate::snapshot::Label,
    /// Where it lies, without credentials.
    pub to: String,
    /// The newest record that it holds.
    pub at: u64,
    /// Objects that this run copied.
    pub objects: u64,
    /// Bytes that this run copied.
    pub bytes: u64,
}

/// The body of a forgetting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// Snapshots that are needed no longer.
    pub snapshots: Vec<SnapshotId>,
    /// How long points are kept from now on; absent where that stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// The body of a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// The remark.
    pub text: String,
}

/// The body of a registry record: what it says is the gateway's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
    /// Changes, in order.
    pub changes: Vec<serde_json::Value>,
}

/// The body of a fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceBody {
    /// The newest record that the writer had seen.
    pub base: RecordRef,
}

/// The body of a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteBody {
    /// The newest record of the replica, which it stands on.
    pub base: RecordRef,
    /// The epoch that it opens; 1 is the first that anybody opens.
    pub epoch: u64,
    /// The record whose state the epoch continues from.
    pub from: RecordRef,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Entries put in and taken away.
    Push(PushBody),
    /// A name for a state.
    Snapshot(SnapshotBody),
    /// Entries put back.
    Rollback(RollbackBody),
    /// A copy elsewhere.
    Backup(BackupBody),
    /// Snapshots taken away.
    Forget(ForgetBody),
    /// What is let go.
    Compact(CompactBody),
    /// What is deleted.
    Remove(RemoveBody),
    /// What an upload has written.
    Hold(HoldBody),
    /// A remark.
    Note(NoteBody),
    /// Changes to a gateway's registry.
    Registry(RegistryBody),
    /// The end of a log.
    Fence(FenceBody),
    /// The beginning of an epoch.
    Promote(PromoteBody),
    /// The body of a kind that this program doesn't know, unread.
    Unknown,
    /// The body of a record that is retired: the envelope alone is left.
    Retired,
}

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the record's body is damaged: {message}")]
pub struct InvalidBody {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// First line of a push body.
#[derive(Debug, Serialize, Deserialize)]
struct PushLine {
    base: RecordRef,
    /// How content is encoded. Known: `zstd`.
    codec: String,
    /// How content is named. Known: `blake3`.
    ids: String,
    upserts: usize,
    deletes: usize,
}

/// First line of a rollback's body.
#[derive(Debug, Serialize, Deserialize)]
struct RollbackLine {
    to: u64,
    before: SnapshotId,
    files: u64,
    bytes: u64,
    #[serde(flatten)]
    changes: PushLine,
}

const CODEC: &str = "zstd";
const IDS: &str = "blake3";

impl Body {
    /// The record kind that carries such a body.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Push(_) => Some(Kind::Push),
            Self::Snapshot(_) => Some(Kind::Snapshot),
            Self::Rollback(_) => Some(Kind::Rollback),
            Self::Backup(_) => Some(Kind::Backup),
            Self::Forget(_) => Some(Kind::Forget),
            Self::Compact(_) => Some(Kind::Compact),
            Self::Remove(_) => Some(Kind::Remove),
            Self::Hold(_) => Some(Kind::Hold),
            Self::Note(_) => Some(Kind::Note),
            Self::Registry(_) => Some(Kind::Registry),
            Self::Fence(_) => Some(Kind::Fence),
            Self::Promote(_) => Some(Kind::Promote),
            Self::Unknown | Self::Retired => None,
        }
    }

    /// The newest record that the writer had seen.
    pub const fn base(&self) -> Option<RecordRef> {
        match self {
            Self::Push(push) => Some(push.base),
            Self::Snapshot(snapshot) => Some(snapshot.base),
            Self::Rollback(rollback) => Some(rollback.changes.base),
            Self::Backup(backup) => Some(backup.base),
            Self::Forget(forget) => Some(forget.base),
            Self::Compact(compact) => Some(compact.base),
            Self::Remove(remove) => Some(remove.base),
            Self::Hold(hold) => Some(hold.base),
            Self::Note(note) => Some(note.base),
            Self::Registry(registry) => Some(registry.base),
            Self::Fence(fence) => Some(fence.base),
            Self::Promote(promote) => Some(promote.base),
            Self::Unknown | Self::Retired => None,
        }
    }

    /// What it puts in and takes away, if it is of a kind that does.
    pub const fn changes(&self) -> Option<&PushBody> {
        match self {
            Self::Push(changes) | Self::Rollback(RollbackBody { changes, .. }) => Some(changes),
            _ => None,
        }
    }

    /// The body as JSON lines.
    pub fn to_lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        match self {
            Self::Push(push) => {
                write_line(&mut lines, &push.first_line());
                push.write_lines(&mut lines);
            }
            Self::Rollback(rollback) => {
                let RollbackBody {
                    to,
                    before,
                    files,
                    bytes,
                    changes,
                } = rollback;
                let head = RollbackLine {
                    to: *to,
                    before: before.clone(),
                    files: *files,
                    bytes: *bytes,
                    changes: changes.first_line(),
                };
                write_line(&mut lines, &head);
                changes.write_lines(&mut lines);
            }
            Self::Snapshot(snapshot) => write_line(&mut lines, snapshot),
            Self::Backup(backup) => write_line(&mut lines, backup),
            Self::Forget(forget) => write_line(&mut lines, forget),
            Self::Compact(compact) => compact.write_lines(&mut lines),
            Self::Remove(remove) => remove.write_lines(&mut lines),
            Self::Hold(hold) => write_line(&mut lines, hold),
            Self::Note(note) => write_line(&mut lines, note),
            Self::Registry(registry) => write_line(&mut lines, registry),
            Self::Fence(fence) => write_line(&mut lines, fence),
            Self::Promote(promote) => write_line(&mut lines, promote),
            Self::Unknown | Self::Retired => {}
        }
        lines
    }

    /// Reads the body of a record of this kind.
    pub fn from_lines(kind: &Kind, lines: &[u8]) -> Result<Self, InvalidBody> {
        fn single<'a, T: Deserialize<'a>>(lines: &'a [u8]) -> Result<T, InvalidBody> {
            serde_json::from_slice(lines).map_err(|error| InvalidBody {
                line: 1,
                message: error.to_string(),
            })
        }
        match kind {
            Kind::Push => {
                let (head, rest) = first_line::<PushLine>(lines)?;
                PushBody::from_lines(&head, rest).map(Self::Push)
            }
            Kind::Rollback => {
                let (head, rest) = first_line::<RollbackLine>(lines)?;
                let changes = PushBody::from_lines(&head.changes, rest)?;
                let RollbackLine {
                    to,
                    before,
                    files,
                    bytes,
                    ..
                } = head;
                Ok(Self::Rollback(RollbackBody {
                    to,
                    before,
                    files,
                    bytes,
                    changes,
                }))
            }
            Kind::Snapshot => single(lines).map(Self::Snapshot),
            Kind::Backup => single(lines).map(Self::Backup),
            Kind::Forget => single(lines).map(Self::Forget),
            Kind::Compact => CompactBody::from_lines(lines).map(Self::Compact),
            Kind::Remove => RemoveBody::from_lines(lines).map(Self::Remove),
            Kind::Hold => single(lines).map(Self::Hold),
            Kind::Note => single(lines).map(Self::Note),
            Kind::Registry => single(lines).map(Self::Registry),
            Kind::Fence => single(lines).map(Self::Fence),
            Kind::Promote => single(lines).map(Self::Promote),
            Kind::Other(_) => Ok(Self::Unknown),
        }
    }
}

impl PushBody {
    fn first_line(&self) -> PushLine {
        PushLine {
            base: self.base,
            codec: CODEC.into(),
            ids: IDS.into(),
            upserts: self.upserts.len(),
            deletes: self.deletes.len(),
        }
    }

    fn write_lines(&self, lines: &mut Vec<u8>) {
        for upsert in &self.upserts {
            let line = EntryLine::new(&upsert.path, &upsert.entry, upsert.keep);
            write_line(lines, &line);
        }
        for path in &self.deletes {
            write_line(lines, &EntryLine::delete(path));
        }
    }

    /// Reads the lines after the first.
    fn from_lines(head: &PushLine, lines: &[u8]) -> Result<Self, InvalidBody> {
        let invalid = |line, message: String| InvalidBody { line, message };
        if head.codec != CODEC || head.ids != IDS {
            let message = format!(
                "codec {:?} with ids {:?} is not known",
                head.codec, head.ids
            );
            return Err(invalid(1, message));
        }
        let lines = lines
            .split(|byte| *byte == b'\n')
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.is_empty());
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let line: EntryLine =
                serde_json::from_slice(line).map_err(|error| invalid(number, error.to_string()))?;
            let (keep, kind) = (line.keep, line.kind);
            let (path, entry) = line
                .into_entry()
                .map_err(|error| invalid(number, error.to_string()))?;
            match entry {
                Some(entry) if kind != EntryKind::Delete => {
                    upserts.push(Upsert { path, entry, keep });
                }
                _ => deletes.push(path),
            }
        }
        if (upserts.len(), deletes.len()) != (head.upserts, head.deletes) {
            return Err(invalid(
                1,
                "it announces other counts than it has lines".into(),
            ));
        }
        Ok(Self {
            base: head.base,
            upserts,
            deletes,
        })
    }

    /// Every path the push touches.
    pub fn paths(&self) -> impl Iterator<Item = &RepoPath> {
        self.upserts
            .iter()
            .map(|upsert| &upsert.path)
            .chain(&self.deletes)
    }
}

/// A record, read and checked: what the fold takes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands in the chain.
    pub envelope: Envelope,
    /// The digest of its envelope line.
    pub id: Digest,
    /// What it says.
    pub body: Body,
    /// Where its content section begins in the record object, in bytes.
    pub content_start: u64,
}

impl Record {
    /// The record's name.
    pub const fn reference(&self) -> RecordRef {
        RecordRef {
            number: self.envelope.number,
            id: self.id,
        }
    }

    /// Stored length of envelope and body, in bytes: what a reader has to load to fold it.
    pub fn listing_bytes(&self) -> u64 {
        self.content_start
    }
}

/// A draft: what a writer hands to whoever appends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The writer's part of the envelope.
    pub head: DraftHead,
    /// What it says.
    pub body: Body,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::Listing;
    use crate::entry::ContentObject;
    use crate::id::TreeId;
    use crate::tree::TreeRef;

    #[test]
    fn an_unknown_kind_is_kept_by_name() {
        let kind: Kind = serde_json::from_str("\"teleport\"").unwrap();
        assert_eq!(kind, Kind::Other("teleport".into()));
        assert_eq!(serde_json::to_string(&kind).unwrap(), "\"teleport\"");
        assert_eq!(
            serde_json::from_str::<Kind>("\"push\"").unwrap(),
            Kind::Push
        );
    }

    #[test]
    fn bodies_of_every_kind_are_read_back() {
        let base = RecordRef {
            number: 7,
            id: Digest::of(b"base"),
        };
        let id: SnapshotId = "2026-04-16T09-30-00Z-first".parse().unwrap();
        let (files, bytes) = (2, 3);
        let (pack, other) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let tree = TreeRef {
            id: TreeId::from_bytes([3; 16]),
            others: Vec::new(),
            root: Digest::of(b"tree"),
        };
        let changes = PushBody {
            base,
            upserts: vec![Upsert {
                path: RepoPath::parse("a").unwrap(),
                entry: Entry::Directory,
                keep: 0,
            }],
            deletes: vec![RepoPath::parse("b").unwrap()],
        };
        let bodies = [
            Body::Push(changes.clone()),
            Body::Rollback(RollbackBody {
                to: 3,
                before: id.clone(),
                files,
                bytes,
                changes,
            }),
            Body::Snapshot(SnapshotBody {
                base,
                id: id.clone(),
                at: 6,
                files,
                bytes,
            }),
            Body::Backup(BackupBody {
                base,
                label: "cross-region-backup".parse().unwrap(),
                to: "s3://elsewhere/copy".into(),
                at: 7,
                objects: 12,
                bytes,
            }),
            Body::Forget(ForgetBody {
                base,
                snapshots: vec![id],
                policy: Some(Policy::default()),
            }),
            Body::Compact(CompactBody {
                base,
                expired: [(1, 3), (5, 5)].into_iter().collect(),
                condemned: vec![pack],
                records: 4,
                moves: [
                    ((ContentObject::Pack(pack), 16), Some((other, 20))),
                    ((ContentObject::Pack(pack), 40), None),
                    ((ContentObject::Record(4), 300), Some((other, 90))),
                ]
                .into_iter()
                .collect(),
            }),
            Body::Remove(RemoveBody {
                base,
                packs: vec![pack],
                cut: 4,
                listings: vec![Listing {
                    from: 2,
                    to: 3,
                    time: Timestamp::from_millis(5),
                    tree,
                }],
            }),
            Body::Hold(HoldBody {
                base,
                packs: vec![pack, other],
            }),
            Body::Note(NoteBody {
                base,
                text: "remark".into(),
            }),
            Body::Fence(FenceBody { base }),
            Body::Promote(PromoteBody {
                base,
                epoch: 1,
                from: base,
            }),
        ];
        for body in bodies {
            let kind = body.kind().unwrap();
            let lines = body.to_lines();
            assert_eq!(body.base(), Some(base));
            assert_eq!(Body::from_lines(&kind, &lines), Ok(body), "{kind}");
            assert!(Body::from_lines(&kind, b"").is_err());
            assert!(Body::from_lines(&kind, b"{}").is_err());
            let name = serde_json::to_string(&kind).unwrap();
            assert_eq!(name, format!("\"{kind}\""));
        }
    }

    #[test]
    fn a_body_with_missing_lines_is_refused() {
        let base = RecordRef {
            number: 0,
            id: Digest::of(b""),
        };
        let upserts = vec![Upsert {
            path: RepoPath::parse("a").unwrap(),
            entry: Entry::Directory,
            keep: 0,
        }];
        let deletes = vec![RepoPath::parse("b").unwrap()];
        let body = Body::Push(PushBody {
            base,
            upserts,
            deletes,
        });
        let lines = body.to_lines();
        assert_eq!(Body::from_lines(&Kind::Push, &lines), Ok(body));
        let cut = lines[..lines.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap();
        assert!(Body::from_lines(&Kind::Push, &lines[..=cut]).is_err());
        assert!(Body::from_lines(&Kind::Push, b"").is_err());
    }
}
