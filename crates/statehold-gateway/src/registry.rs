//! Who may reach what: tenants, repositories, keys and invites, as the fold of the control log.
//!
//! A change that breaks a rule is passed over, by every gateway alike. A change that this program
//! doesn't know stops the fold: passing it over could open what a newer gateway has closed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::id::{KeyId, MachineId, RepositoryId, TenantId};
use statehold_core::time::Timestamp;
use statehold_repository::wire::bodies::{InviteInfo, KeyInfo, Role, TenantInfo};

/// How long an invite lasts at most, in milliseconds: seven days.
pub const INVITE_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;
/// Longest label or name, in bytes.
pub const LABEL_BYTES_MAX: usize = 200;
/// Most repositories that one key reaches.
pub const KEY_REPOSITORIES_MAX: usize = 64;

/// One change to the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// A tenant begins.
    AddTenant {
        /// Its id.
        tenant: TenantId,
        /// What it is called.
        name: String,
    },
    /// A repository begins.
    AddRepository {
        /// Its id.
        repository: RepositoryId,
        /// Its tenant.
        tenant: TenantId,
        /// What it is called.
        name: String,
    },
    /// A key begins.
    AddKey {
        /// Its id.
        key: KeyId,
        /// Hash of its secret.
        hash: Digest,
        /// Its tenant.
        tenant: TenantId,
        /// The repositories it reaches.
        repositories: Vec<RepositoryId>,
        /// What it may do.
        role: Role,
        /// What it is called.
        label: String,
        /// The machine it is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        machine: Option<MachineId>,
        /// When it ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<Timestamp>,
    },
    /// A key ends.
    RevokeKey {
        /// Its id.
        key: KeyId,
    },
    /// An invite begins.
    AddInvite {
        /// Its id.
        invite: KeyId,
        /// Hash of its secret.
        hash: Digest,
        /// Its tenant.
        tenant: TenantId,
        /// The repositories that the key will reach.
        repositories: Vec<RepositoryId>,
        /// What the key may do.
        role: Role,
        /// What it is for.
        label: String,
        /// When it ends.
        expires: Timestamp,
    },
    /// An invite becomes a key.
    RedeemInvite {
        /// The invite.
        invite: KeyId,
        /// The new key's id.
        key: KeyId,
        /// Hash of the new key's secret.
        hash: Digest,
        /// What the key is called.
        label: String,
        /// The machine it is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        machine: Option<MachineId>,
    },
    /// A key is called something else.
    RenameMachine {
        /// The key.
        key: KeyId,
        /// What it is called from now on.
        label: String,
    },
}

/// The rule that a change breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An id is taken.
    #[error("{what} {id} exists already and is another one")]
    Exists {
        /// A tenant, a key and so on.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// There is no such thing.
    #[error("there is no {what} {id}")]
    Missing {
        /// A tenant, a key and so on.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// An invite was used or is too old.
    #[error("the invite has been used or has expired")]
    InviteSpent,
    /// A name is empty or too long, or holds control characters.
    #[error("a name has 1 to {LABEL_BYTES_MAX} bytes and no control characters")]
    Label,
    /// A key reaches no repository, or too many.
    #[error("a key reaches 1 to {KEY_REPOSITORIES_MAX} repositories of one tenant")]
    Repositories,
    /// An invite would last too long.
    #[error("an invite lasts seven days at most and ends in the future")]
    InviteTooLong,
    /// Nobody could administer the gateway any more.
    #[error("it is the last operator key; make another one first")]
    LastOperator,
}

#[derive(Debug, Clone, PartialEq)]
struct Tenant {
    name: String,
    created: Timestamp,
}

/// A repository in the registry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RepositoryRow {
    pub(crate) tenant: TenantId,
    pub(crate) name: String,
}

/// A key in the registry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyRow {
    pub(crate) hash: Digest,
    pub(crate) info: KeyInfo,
}

impl KeyRow {
    /// Whether it opens anything at this moment.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.info.revoked.is_none() && self.info.expires.is_none_or(|expires| now < expires)
    }
}

/// An invite in the registry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InviteRow {
    pub(crate) hash: Digest,
    pub(crate) info: InviteInfo,
}

/// Everything the control log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    tenants: BTreeMap<TenantId, Tenant>,
    repositories: BTreeMap<RepositoryId, RepositoryRow>,
    keys: BTreeMap<KeyId, KeyRow>,
    invites: BTreeMap<KeyId, InviteRow>,
    /// The repository that was made first.
    first: Option<RepositoryId>,
}

impl Registry {
    /// Takes in a change made at this time. The same change again is no violation.
    pub fn apply(&mut self, change: &Change, time: Timestamp) -> Result<(), Violation> {
        match change {
            Change::AddTenant { tenant, name } => self.add_tenant(*tenant, name, time),
            Change::AddRepository {
                repository,
                tenant,
                name,
            } => self.add_repository(*repository, *tenant, name),
            Change::AddKey {
                key,
                hash,
                tenant,
                repositories,
                role,
                label,
                machine,
                expires,
            } => {
                let info = KeyInfo {
                    key: *key,
                    tenant: *tenant,
                    repositories: repositories.clone(),
                    role: *role,
                    label: label.clone(),
                    machine: *machine,
                    created: time,
                    expires: *expires,
                    revoked: None,
                    own: false,
                };
                self.add_key(KeyRow { hash: *hash, info })
            }
            Change::RevokeKey { key } => {
                let row = self.key_mut(*key)?;
                row.info.revoked.get_or_insert(time);
                Ok(())
            }
            Change::AddInvite {
                invite,
                hash,
                tenant,
                repositories,
                role,
                label,
                expires,
            } => {
                let info = InviteInfo {
                    invite: *invite,
                    tenant: *tenant,
                    repositories: repositories.clone(),
                    role: *role,
                    label: label.clone(),
                    expires: *expires,
                    redeemed: None,
                };
                self.add_invite(InviteRow { hash: *hash, info }, time)
            }
            Change::RedeemInvite {
                invite,
                key,
                hash,
                label,
                machine,
            } => {
                let info = &self.invite(*invite).ok_or(Violation::InviteSpent)?.info;
                if info.redeemed.is_some_and(|redeemed| redeemed != *key) || time >= info.expires {
                    return Err(Violation::InviteSpent);
                }
                let info = KeyInfo {
                    key: *key,
                    tenant: info.tenant,
                    repositories: info.repositories.clone(),
                    role: info.role,
                    label: label.clone(),
                    machine: *machine,
                    created: time,
                    expires: None,
                    revoked: None,
                    own: false,
                };
                self.add_key(KeyRow { hash: *hash, info })?;
                if let Some(row) = self.invites.get_mut(invite) {
                    row.info.redeemed = Some(*key);
                }
                Ok(())
            }
            Change::RenameMachine { key, label } => {
                check_label(label)?;
                self.key_mut(*key)?.info.label.clone_from(label);
                Ok(())
            }
        }
    }

    fn add_tenant(
        &mut self,
        tenant: TenantId,
        name: &str,
        created: Timestamp,
    ) -> Result<(), Violation> {
        check_label(name)?;
        let name = name.to_owned();
        if let Some(found) = self.tenants.get(&tenant) {
            return same("tenant", tenant, found.name == name);
        }
        self.tenants.insert(tenant, Tenant { name, created });
        Ok(())
    }

    fn add_repository(
        &mut self,
        repository: RepositoryId,
        tenant: TenantId,
        name: &str,
    ) -> Result<(), Violation> {
        check_label(name)?;
        if !self.tenants.contains_key(&tenant) {
            return missing("tenant", tenant);
        }
        if let Some(found) = self.repositories.get(&repository) {
            return same("repository", repository, found.tenant == tenant);
        }
        let name = name.to_owned();
        self.repositories
            .insert(repository, RepositoryRow { tenant, name });
        self.first.get_or_insert(repository);
        Ok(())
    }

    fn add_key(&mut self, row: KeyRow) -> Result<(), Violation> {
        let info = &row.info;
        check_label(&info.label)?;
        self.check_reach(info.tenant, &info.repositories)?;
        if let Some(found) = self.keys.get(&info.key) {
            let again = found.hash == row.hash
                && found.info.role == info.role
                && found.info.repositories == info.repositories;
            return same("key", info.key, again);
        }
        self.keys.insert(info.key, row);
        Ok(())
    }

    fn add_invite(&mut self, row: InviteRow, time: Timestamp) -> Result<(), Violation> {
        let info = &row.info;
        if !info.label.is_empty() {
            check_label(&info.label)?;
        }
        self.check_reach(info.tenant, &info.repositories)?;
        let lasts = info.expires.as_millis().saturating_sub(time.as_millis());
        if let Some(found) = self.invites.get(&info.invite) {
            return same("invite", info.invite, found.hash == row.hash);
        }
        if !(1..=INVITE_MS_MAX).contains(&lasts) {
            return Err(Violation::InviteTooLong);
        }
        self.invites.insert(info.invite, row);
        Ok(())
    }

    fn check_reach(
        &self,
        tenant: TenantId,
        repositories: &[RepositoryId],
    ) -> Result<(), Violation> {
        if repositories.is_empty() || repositories.len() > KEY_REPOSITORIES_MAX {
            return Err(Violation::Repositories);
        }
        for id in repositories {
            match self.repositories.get(id) {
                Some(row) if row.tenant == tenant => {}
                Some(_) => return Err(Violation::Repositories),
                None => return missing("repository", id),
            }
        }
        Ok(())
    }

    fn key_mut(&mut self, key: KeyId) -> Result<&mut KeyRow, Violation> {
        self.keys.get_mut(&key).ok_or_else(|| Violation::Missing {
            what: "key",
            id: key.to_string(),
        })
    }

    /// Whether anybody can administer the gateway without this key.
    pub(crate) fn has_operator_besides(&self, key: KeyId, now: Timestamp) -> bool {
        self.keys
            .values()
            .any(|row| row.info.key != key && row.info.role == Role::Operator && row.is_live(now))
    }

    /// Whether it has been set up.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The repository that was made first, and its tenant.
    pub fn first(&self) -> Option<(RepositoryId, TenantId)> {
        let id = self.first?;
        self.repositories.get(&id).map(|row| (id, row.tenant))
    }

    pub(crate) fn key(&self, key: KeyId) -> Option<&KeyRow> {
        self.keys.get(&key)
    }

    pub(crate) fn invite(&self, invite: KeyId) -> Option<&InviteRow> {
        self.invites.get(&invite)
    }

    pub(crate) fn repository(&self, repository: RepositoryId) -> Option<&RepositoryRow> {
        self.repositories.get(&repository)
    }

    /// All keys, oldest first.
    pub fn keys(&self) -> Vec<KeyInfo> {
        let mut keys: Vec<_> = self.keys.values().map(|row| row.info.clone()).collect();
        keys.sort_by_key(|info| (info.created, info.key));
        keys
    }

    /// All invites, those that end first at the front.
    pub fn invites(&self) -> Vec<InviteInfo> {
        let mut invites: Vec<_> = self.invites.values().map(|row| row.info.clone()).collect();
        invites.sort_by_key(|info| (info.expires, info.invite));
        invites
    }

    /// All tenants, oldest first.
    pub fn tenants(&self) -> Vec<TenantInfo> {
        let of = |tenant| {
            let own = self
                .repositories
                .iter()
                .filter(move |(_, row)| row.tenant == tenant);
            own.map(|(id, row)| (*id, row.name.clone())).collect()
        };
        let mut tenants: Vec<_> = self
            .tenants
            .iter()
            .map(|(id, row)| TenantInfo {
                tenant: *id,
                name: row.name.clone(),
                created: row.created,
                repositories: of(*id),
            })
            .collect();
        tenants.sort_by_key(|info| (info.created, info.tenant));
        tenants
    }
}

fn same(what: &'static str, id: impl ToString, same: bool) -> Result<(), Violation> {
    if same {
        return Ok(());
    }
    let id = id.to_string();
    Err(Violation::Exists { what, id })
}

fn missing(what: &'static str, id: impl ToString) -> Result<(), Violation> {
    let id = id.to_string();
    Err(Violation::Missing { what, id })
}

fn check_label(label: &str) -> Result<(), Violation> {
    let bad =
        label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control);
    if bad { Err(Violation::Label) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn registry() -> (Registry, TenantId, RepositoryId) {
        let (tenant, repository) = (
            TenantId::from_bytes([1; 16]),
            RepositoryId::from_bytes([2; 16]),
        );
        let mut registry = Registry::default();
        let name = "default".to_owned();
        let changes = [
            Change::AddTenant {
                tenant,
                name: name.clone(),
            },
            Change::AddRepository {
                repository,
                tenant,
                name,
            },
        ];
        for change in &changes {
            registry.apply(change, at(0)).unwrap();
            registry.apply(change, at(1)).unwrap();
        }
        (registry, tenant, repository)
    }

    fn invite(tenant: TenantId, repository: RepositoryId, expires: i64) -> Change {
        Change::AddInvite {
            invite: KeyId::from_bytes([3; 16]),
            hash: Digest::of(b"invite"),
            tenant,
            repositories: vec![repository],
            role: Role::Push,
            label: String::new(),
            expires: at(expires),
        }
    }

    fn redeem(key: u8) -> Change {
        Change::RedeemInvite {
            invite: KeyId::from_bytes([3; 16]),
            key: KeyId::from_bytes([key; 16]),
            hash: Digest::of(&[key]),
            label: "laptop".into(),
            machine: None,
        }
    }

    #[test]
    fn an_invite_is_good_for_one_key_and_seven_days() {
        let (mut registry, tenant, repository) = registry();
        let too_long = invite(tenant, repository, INVITE_MS_MAX + 1);
        assert_eq!(
            registry.apply(&too_long, at(0)),
            Err(Violation::InviteTooLong)
        );
        registry
            .apply(&invite(tenant, repository, 1_000), at(0))
            .unwrap();
        assert_eq!(
            registry.apply(&redeem(7), at(1_000)),
            Err(Violation::InviteSpent)
        );
        registry.apply(&redeem(7), at(10)).unwrap();
        // The same request again is the same key; another one is too late.
        registry.apply(&redeem(7), at(20)).unwrap();
        assert_eq!(
            registry.apply(&redeem(8), at(20)),
            Err(Violation::InviteSpent)
        );
        assert_eq!(registry.keys().len(), 1);
        assert_eq!(registry.keys()[0].role, Role::Push);
    }

    #[test]
    fn a_key_never_reaches_into_another_tenant() {
        let (mut registry, tenant, repository) = registry();
        let other = TenantId::from_bytes([9; 16]);
        let name = "other".to_owned();
        registry
            .apply(
                &Change::AddTenant {
                    tenant: other,
                    name,
                },
                at(0),
            )
            .unwrap();
        let add = |tenant, repositories| Change::AddKey {
            key: KeyId::from_bytes([5; 16]),
            hash: Digest::of(b"x"),
            tenant,
            repositories,
            role: Role::Own,
            label: "x".into(),
            machine: None,
            expires: None,
        };
        for (tenant, repositories) in [(other, vec![repository]), (tenant, vec![])] {
            let change = add(tenant, repositories);
            assert_eq!(registry.apply(&change, at(0)), Err(Violation::Repositories));
        }
        registry
            .apply(&add(tenant, vec![repository]), at(0))
            .unwrap();
    }

    #[test]
    fn a_change_of_a_newer_gateway_is_not_read_as_something_less() {
        let text = r#"{"change":"revoke-key","key":"05050505050505050505050505050505"}"#;
        assert!(serde_json::from_str::<Change>(text).is_ok());
        let newer = text.replace('}', r#","only_from":"10.0.0.0/8"}"#);
        assert!(serde_json::from_str::<Change>(&newer).is_err());
        assert!(serde_json::from_str::<Change>(r#"{"change":"fence"}"#).is_err());
    }

    #[test]
    fn labels_that_could_fool_a_terminal_are_refused() {
        let (mut registry, tenant, _) = registry();
        for name in ["", "a\nb", "\u{1b}[2J", &"x".repeat(LABEL_BYTES_MAX + 1)] {
            let change = Change::AddTenant {
                tenant,
                name: (*name).into(),
            };
            assert_eq!(
                registry.apply(&change, at(0)),
                Err(Violation::Label),
                "{name:?}"
            );
        }
    }
}
