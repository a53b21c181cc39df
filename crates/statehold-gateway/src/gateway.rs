//! A gateway on one store, and what whoever runs it can do without going over the network.

use std::sync::Arc;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{KeyId, RepositoryId, TenantId};
use statehold_core::time::Timestamp;
use statehold_repository::collect::Settings;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::{
    InviteInfo, KeyInfo, NewInvite, NewKey, NewTenant, RedeemRequest, Role, TenantInfo,
};
use statehold_repository::wire::key::{Invite, Key};
use statehold_repository::{Error, Result};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::control::{Control, FRESH};
use crate::files::HISTORY_READERS_MAX;
use crate::guard::{ANSWER_UNITS_MAX, BODY_UNITS_MAX, REQUESTS_MAX};
use crate::handlers::DRAFT_READERS_MAX;
use crate::heads::Watchers;
use crate::hosted::Hosts;
use crate::registry::{Change, INVITE_MS_MAX, Registry};

/// What the first tenant and its repository are called.
const DEFAULT_NAME: &str = "default";

/// A gateway. Cloning it gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    control: Control,
    hosts: Hosts,
    tasks: TaskTracker,
    /// Requests under way.
    requests: Arc<Semaphore>,
    /// Memory for request bodies, in units.
    bodies: Arc<Semaphore>,
    /// Drafts being expanded.
    drafts: Arc<Semaphore>,
    /// Memory for files on their way out, in units.
    answers: Arc<Semaphore>,
    /// Earlier states being read.
    histories: Arc<Semaphore>,
    /// Streams of heads.
    watchers: Arc<Watchers>,
    /// How long a collector waits.
    collecting: Settings,
}

impl Gateway {
    /// Opens the gateway of a store. The first one on a store makes a tenant, a repository and an
    /// operator's key, which is returned then and never again.
    pub async fn bootstrap(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, Option<Key>)> {
        Self::bootstrap_with(store, clock, entropy, Settings::default()).await
    }

    /// The same with collectors that wait as these settings say.
    pub async fn bootstrap_with(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        collecting: Settings,
    ) -> Result<(Self, Option<Key>)> {
        let control = Control::open(&store, Arc::clone(&clock), Arc::clone(&entropy)).await?;
        let tasks = TaskTracker::new();
        let changes = Arc::clone(control.changes());
        let (clock_, entropy_) = (Arc::clone(&clock), Arc::clone(&entropy));
        let gateway = Self {
            inner: Arc::new(Inner {
                clock,
                entropy,
                control,
                hosts: Hosts::new(store, clock_, entropy_, tasks.clone(), changes),
                tasks,
                requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
                bodies: Arc::new(Semaphore::new(BODY_UNITS_MAX)),
                drafts: Arc::new(Semaphore::new(DRAFT_READERS_MAX)),
                answers: Arc::new(Semaphore::new(ANSWER_UNITS_MAX)),
                histories: Arc::new(Semaphore::new(HISTORY_READERS_MAX)),
                watchers: Arc::default(),
                collecting,
            }),
        };
        let key = gateway.set_up().await?;
        Ok((gateway, key))
    }

    async fn set_up(&self) -> Result<Option<Key>> {
        let entropy = &*self.inner.entropy;
        let (tenant, repository) = (TenantId::random(entropy), RepositoryId::random(entropy));
        let key = Key::random(entropy);
        let decide = |registry: &Registry, _| {
            if !registry.is_empty() {
                return Ok(Vec::new());
            }
            let name = DEFAULT_NAME.to_owned();
            Ok(vec![
                Change::AddTenant {
                    tenant,
                    name: name.clone(),
                },
                Change::AddRepository {
                    repository,
                    tenant,
                    name,
                },
                Change::AddKey {
                    key: key.id(),
                    hash: key.hash(),
                    tenant,
                    repositories: vec![repository],
                    role: Role::Operator,
                    label: "operator".into(),
                    machine: None,
                    expires: None,
                },
            ])
        };
        let registry = self.control().submit(decide).await?;
        Ok(registry.key(key.id()).is_some().then_some(key))
    }

    pub(crate) fn control(&self) -> &Control {
        &self.inner.control
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.inner.hosts
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(crate) fn requests(&self) -> &Arc<Semaphore> {
        &self.inner.requests
    }

    pub(crate) fn bodies(&self) -> &Arc<Semaphore> {
        &self.inner.bodies
    }

    pub(crate) fn answers(&self) -> &Arc<Semaphore> {
        &self.inner.answers
    }

    pub(crate) fn histories(&self) -> &Arc<Semaphore> {
        &self.inner.histories
    }

    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.inner.watchers
    }

    /// How long collectors wait.
    pub(crate) fn collecting(&self) -> Settings {
        self.inner.collecting
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.entropy
    }

    pub(crate) fn environment(&self) -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
        let inner = &self.inner;
        (Arc::clone(&inner.clock), Arc::clone(&inner.entropy))
    }

    pub(crate) fn drafts(&self) -> &Arc<Semaphore> {
        &self.inner.drafts
    }

    /// Waits for what goes on after answers: appends whose callers went away, caches.
    pub async fn finish(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.tasks.reopen();
    }

    /// Whether the registry can be read, and the lease of a store that needs one is held.
    pub async fn is_ready(&self) -> Result<()> {
        self.hosts().check_lease()?;
        self.control().registry(FRESH).await.map(drop)
    }

    /// Whether the store is a replica that was not promoted: another store may go on beside it, and a later
    /// `promote` leaves behind what is appended here.
    pub async fn awaits_promotion(&self) -> Result<bool> {
        self.control().awaits_promotion().await
    }

    /// The registry, up to two seconds old.
    pub async fn registry(&self) -> Result<Arc<Registry>> {
        self.control().registry(FRESH).await
    }

    /// Makes a key for a new operator, for when the others are lost. Whoever can call this holds
    /// the store's credentials already.
    pub async fn add_operator(&self, label: &str) -> Result<Key> {
        let key = Key::random(&*self.inner.entropy);
        let new = NewKey {
            key: key.id(),
            hash: key.hash(),
            role: Role::Operator,
            label: label.to_owned(),
            repositories: Vec::new(),
            machine: None,
            expires: None,
        };
        self.add_key(&new).await?;
        Ok(key)
    }

    /// Adds a key whose secret the caller has drawn. Adding it again gives the same key.
    pub async fn add_key(&self, new: &NewKey) -> Result<KeyInfo> {
        let decide = |registry: &Registry, _| {
            let (tenant, repositories) = reach(registry, &new.repositories)?;
            Ok(vec![Change::AddKey {
                key: new.key,
                hash: new.hash,
                tenant,
                repositories,
                role: new.role,
                label: new.label.clone(),
                machine: new.machine,
                expires: new.expires,
            }])
        };
        let again = |registry: &Registry| registry.key(new.key).is_some();
        let registry = self.submit_once(decide, again).await?;
        key_info(&registry, new.key)
    }

    /// Ends a key. Every gateway on the store refuses it within five seconds. The last operator's
    /// key stays.
    pub async fn revoke_key(&self, key: KeyId) -> Result<KeyInfo> {
        let decide = |registry: &Registry, now| {
            let info = key_info(registry, key)?;
            if info.revoked.is_some() {
                return Ok(Vec::new());
            }
            if info.role == Role::Operator && !registry.has_operator_besides(key, now) {
                return Err(Error::refused(crate::registry::Violation::LastOperator));
            }
            Ok(vec![Change::RevokeKey { key }])
        };
        let registry = self.control().submit(decide).await?;
        key_info(&registry, key)
    }

    /// Calls a key, and with it a machine, something else.
    pub async fn rename_key(&self, key: KeyId, label: &str) -> Result<KeyInfo> {
        let decide = |registry: &Registry, _| {
            if key_info(registry, key)?.label == label {
                return Ok(Vec::new());
            }
            let label = label.to_owned();
            Ok(vec![Change::RenameMachine { key, label }])
        };
        let registry = self.control().submit(decide).await?;
        key_info(&registry, key)
    }

    /// Adds an invite whose secret the caller has drawn. Adding it again gives the same invite.
    pub async fn add_invite(&self, new: &NewInvite) -> Result<InviteInfo> {
        let decide = |registry: &Registry, now: Timestamp| {
            let (tenant, repositories) = reach(registry, &new.repositories)?;
            let week = Timestamp::from_millis(now.as_millis().saturating_add(INVITE_MS_MAX));
            Ok(vec![Change::AddInvite {
                invite: new.invite,
                hash: new.hash,
                tenant,
                repositories,
                role: new.role,
                label: new.label.clone(),
                expires: new.expires.unwrap_or(week).min(week),
            }])
        };
        let again = |registry: &Registry| registry.invite(new.invite).is_some();
        let registry = self.submit_once(decide, again).await?;
        let row = registry
            .invite(new.invite)
            .ok_or_else(|| not_found("the invite"))?;
        Ok(row.info.clone())
    }

    /// Turns an invite into a key. Doing so again with the same key gives the same key; the secret
    /// stays with the caller, so a lost answer costs nothing.
    pub async fn redeem(&self, request: &RedeemRequest) -> Result<KeyInfo> {
        let denied = || Error::Denied {
            reason: "the invite is unknown, has been used or has expired".into(),
        };
        let invite: Invite = request.invite.parse().map_err(|_| denied())?;
        let decide = |registry: &Registry, now| {
            let row = registry.invite(invite.id()).ok_or_else(denied)?;
            if !bool::from(row.hash.as_bytes().ct_eq(invite.hash().as_bytes())) {
                return Err(denied());
            }
            if let Some(key) = row.info.redeemed {
                let again = key == request.key
                    && registry
                        .key(key)
                        .is_some_and(|row| row.hash == request.hash);
                return if again { Ok(Vec::new()) } else { Err(denied()) };
            }
            if now >= row.info.expires {
                return Err(denied());
            }
            Ok(vec![Change::RedeemInvite {
                invite: invite.id(),
                key: request.key,
                hash: request.hash,
                label: request.label.clone(),
                machine: request.machine,
            }])
        };
        let registry = self.control().submit(decide).await?;
        key_info(&registry, request.key)
    }

    /// Adds a tenant with one repository. Adding it again gives the same tenant.
    pub async fn add_tenant(&self, new: &NewTenant) -> Result<TenantInfo> {
        let decide = |_: &Registry, _| {
            Ok(vec![
                Change::AddTenant {
                    tenant: new.tenant,
                    name: new.name.clone(),
                },
                Change::AddRepository {
                    repository: new.repository,
                    tenant: new.tenant,
                    name: new.name.clone(),
                },
            ])
        };
        let again = |registry: &Registry| registry.repository(new.repository).is_some();
        let registry = self.submit_once(decide, again).await?;
        let mut tenants = registry.tenants().into_iter();
        let found = tenants.find(|info| info.tenant == new.tenant);
        found.ok_or_else(|| not_found("the tenant"))
    }

    /// Appends changes unless the registry holds what they make already, and as they make it.
    async fn submit_once(
        &self,
        decide: impl Fn(&Registry, Timestamp) -> Result<Vec<Change>> + Send + Sync,
        again: impl Fn(&Registry) -> bool + Send + Sync,
    ) -> Result<Arc<Registry>> {
        let decide = |registry: &Registry, now| {
            let changes = decide(registry, now)?;
            if !again(registry) {
                return Ok(changes);
            }
            let mut after = registry.clone();
            for change in &changes {
                after.apply(change, now).map_err(Error::refused)?;
            }
            Ok(Vec::new())
        };
        self.control().submit(decide).await
    }
}

fn not_found(what: &str) -> Error {
    Error::NotFound {
        object: what.to_owned(),
    }
}

fn key_info(registry: &Registry, key: KeyId) -> Result<KeyInfo> {
    let row = registry.key(key).ok_or_else(|| not_found("the key"))?;
    Ok(row.info.clone())
}

/// The tenant of these repositories; of the first one ever made if there are none.
fn reach(
    registry: &Registry,
    repositories: &[RepositoryId],
) -> Result<(TenantId, Vec<RepositoryId>)> {
    match repositories.first() {
        Some(id) => {
            let row = registry
                .repository(*id)
                .ok_or_else(|| not_found("the repository"))?;
            Ok((row.tenant, repositories.to_vec()))
        }
        None => {
            let (id, tenant) = registry
                .first()
                .ok_or_else(|| not_found("the repository"))?;
            Ok((tenant, vec![id]))
        }
    }
}
