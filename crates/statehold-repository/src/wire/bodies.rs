//! The JSON bodies of requests and answers. Fields may be added; readers pass over what they don't
//! know.

use std::fmt;

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::id::{KeyId, MachineId, RepositoryId, TenantId};
use statehold_core::limits::{PACK_BYTES_MAX, READ_RANGES_MAX};
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_core::time::Timestamp;

use super::{DRAFT_BYTES_MAX, PULL_CONTENT_BYTES_MAX, PUSH_BYTES_MAX, READ_BYTES_MAX};
use crate::error::{Error, Result};
use crate::format::description::Description;

/// What a key may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Pull and restore.
    Read,
    /// Push too. What a machine has.
    Push,
    /// Clean up too.
    Maintain,
    /// Decide about the repository and its keys too.
    Own,
    /// Decide about the whole gateway.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Push => "push",
            Self::Maintain => "maintain",
            Self::Own => "own",
            Self::Operator => "operator",
        })
    }
}

/// A name of a role that doesn't exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the roles are read, push, maintain, own and operator; found {found:?}")]
pub struct InvalidRole {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

impl std::str::FromStr for Role {
    type Err = InvalidRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Read,
            Self::Push,
            Self::Maintain,
            Self::Own,
            Self::Operator,
        ]
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| InvalidRole {
            found: text.chars().take(80).collect(),
        })
    }
}

/// `GET /v1/info`: what the key reaches, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The gateway's version.
    pub version: String,
    /// The repository.
    pub repository: RepositoryId,
    /// What the operator calls it.
    pub name: String,
    /// The key that asks.
    pub key: KeyId,
    /// What it is called.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What every reader has to know.
    pub description: Description,
    /// The id of record 0.
    pub genesis: Digest,
    /// The gateway's bounds.
    pub limits: Limits,
    /// Whether its store is safe for one gateway at a time only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_writer: bool,
}

/// Bounds of one request, in bytes or pieces. A bound that is absent or 0 stands for a request that
/// the gateway doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a draft.
    pub draft_bytes: u64,
    /// Bytes of a pack.
    pub pack_bytes: u64,
    /// Stored bytes that one batched read may ask for.
    pub read_bytes: u64,
    /// Ranges in one batched read.
    pub read_ranges: u64,
    /// Bytes of a push in one piece.
    #[serde(default)]
    pub push_bytes: u64,
    /// Stored bytes of content that come along with the records of one pull.
    #[serde(default)]
    pub pull_content_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            draft_bytes: DRAFT_BYTES_MAX as u64,
            pack_bytes: PACK_BYTES_MAX as u64,
            read_bytes: READ_BYTES_MAX,
            read_ranges: READ_RANGES_MAX as u64,
            push_bytes: PUSH_BYTES_MAX as u64,
            pull_content_bytes: PULL_CONTENT_BYTES_MAX,
        }
    }
}

/// `POST /v1/read`: which stored frames are wanted, answered in the same order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Where they lie.
    pub places: Vec<Place>,
}

/// Where a stored frame lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The object.
    #[serde(rename = "in")]
    pub object: String,
    /// First byte of the frame.
    pub offset: u64,
    /// Length of the frame.
    pub stored: u32,
}

impl Place {
    /// A location as it is sent. Locations in a state always name an object.
    pub fn of(location: &Location) -> Result<Self> {
        let object = crate::remote::object_of(location)?.to_string();
        let (offset, stored) = (location.offset, location.stored);
        Ok(Self {
            object,
            offset,
            stored,
        })
    }

    /// The location meant.
    pub fn location(&self) -> Result<Location> {
        let object: ContentObject = self.object.parse().map_err(Error::refused)?;
        let (offset, stored) = (self.offset, self.stored);
        Ok(Location {
            object: Some(object),
            offset,
            stored,
        })
    }
}

/// `POST /v1/redeem`: turns an invite into a key that the client has drawn.
#[derive(Clone, Serialize, Deserialize)]
pub struct RedeemRequest {
    /// The invite's text.
    pub invite: String,
    /// The new key's id.
    pub key: KeyId,
    /// The new key's hash; its secret stays with the client.
    pub hash: Digest,
    /// What the key is to be called.
    pub label: String,
    /// The machine it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
}

impl fmt::Debug for RedeemRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedeemRequest")
            .field("key", &self.key)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// A key, as those who may see it do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its id.
    pub key: KeyId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The repositories it reaches.
    pub repositories: Vec<RepositoryId>,
    /// What it may do.
    pub role: Role,
    /// What it is called: the machine's name, as a rule.
    pub label: String,
    /// The machine it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// Whether it is the key that asks.
    #[serde(default)]
    pub own: bool,
}

/// `GET /v1/machines` and `GET /v1/admin/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The keys, oldest first.
    pub keys: Vec<KeyInfo>,
}

/// `POST /v1/machines/{key}/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameRequest {
    /// What it is called from now on.
    pub label: String,
}

/// `POST /v1/admin/keys`: a key whose secret the caller has drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Its id.
    pub key: KeyId,
    /// Its hash.
    pub hash: Digest,
    /// What it may do.
    pub role: Role,
    /// What it is called.
    pub label: String,
    /// The repositories it reaches, all of one tenant; the caller's own when empty.
    #[serde(default)]
    pub repositories: Vec<RepositoryId>,
    /// The machine it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// When it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// `POST /v1/invites` and `POST /v1/admin/invites`: an invite whose secret the caller has drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInvite {
    /// Its id.
    pub invite: KeyId,
    /// Its hash.
    pub hash: Digest,
    /// What the key made with it may do.
    pub role: Role,
    /// What it is for.
    #[serde(default)]
    pub label: String,
    /// The repositories that the key will reach; the caller's own when empty.
    #[serde(default)]
    pub repositories: Vec<RepositoryId>,
    /// When it ends: in seven days if absent, and never later than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// An invite, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteInfo {
    /// Its id.
    pub invite: KeyId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The repositories that the key will reach.
    pub repositories: Vec<RepositoryId>,
    /// What the key made with it may do.
    pub role: Role,
    /// What it is for.
    pub label: String,
    /// When it ends.
    pub expires: Timestamp,
    /// The key that was made with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redeemed: Option<KeyId>,
}

/// `GET /v1/admin/invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteList {
    /// The invites, oldest first.
    pub invites: Vec<InviteInfo>,
}

/// `POST /v1/admin/tenants`: a tenant with one repository. The caller draws the ids, so that the
/// request can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTenant {
    /// Its id.
    pub tenant: TenantId,
    /// The repository's id.
    pub repository: RepositoryId,
    /// What both are called.
    pub name: String,
}

/// A tenant, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantInfo {
    /// Its id.
    pub tenant: TenantId,
    /// What it is called.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its repositories, with their names.
    pub repositories: Vec<(RepositoryId, String)>,
}

/// `GET /v1/admin/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantList {
    /// The tenants, oldest first.
    pub tenants: Vec<TenantInfo>,
}

/// The newest record of a repository, as whoever watches it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number; 0 if there is none yet.
    pub number: u64,
    /// Its id.
    pub id: Digest,
    /// The epoch that the log is in.
    pub epoch: u64,
}

impl Head {
    /// What names a record in a stream of heads. To be compared, and not to be taken apart.
    pub fn event_id(record: RecordRef) -> String {
        format!("{}-{}", record.number, record.id)
    }

    /// The record.
    pub const fn record(self) -> RecordRef {
        RecordRef {
            number: self.number,
            id: self.id,
        }
    }
}

/// `POST /v1/compact`: lets go of what the policy lets go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactRequest {
    /// Whether only to say what would be done.
    #[serde(default)]
    pub dry: bool,
    /// Whether an expiry of over half of all points is meant. Takes the role `own`.
    #[serde(default)]
    pub approve: bool,
}

/// `POST /v1/purge`: makes what was ever at a path unreadable, and deletes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeRequest {
    /// A file, or a folder with all beneath it.
    pub path: RepoPath,
}
