//! From a request to what it may do.
//!
//! [`Access`] has no constructor but extraction from a request, and [`Granted`], without which no
//! repository is handed out, none but a role check on an `Access`. A route that forgets to
//! authenticate has nothing to work with.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use statehold_core::id::{RepositoryId, TenantId};
use statehold_repository::wire::HEADER_REPOSITORY;
use statehold_repository::wire::bodies::{KeyInfo, Role};
use statehold_repository::wire::key::Key;
use statehold_repository::wire::problem::Problem;
use subtle::ConstantTimeEq as _;

use crate::control::FRESH;
use crate::gateway::Gateway;
use crate::hosted::HostedRepository;
use crate::refusal::Refusal;
use crate::registry::{KeyRow, Registry};

/// Somebody with a valid key.
#[derive(Debug)]
pub(crate) struct Access {
    gateway: Gateway,
    key: KeyInfo,
    repository: RepositoryId,
}

/// Proof that a key reaches a repository in a role.
#[derive(Debug)]
pub(crate) struct Granted {
    tenant: TenantId,
    repository: RepositoryId,
}

impl Granted {
    pub(crate) const fn tenant(&self) -> TenantId {
        self.tenant
    }

    pub(crate) const fn repository(&self) -> RepositoryId {
        self.repository
    }
}

impl Access {
    /// Who it is.
    pub(crate) const fn key(&self) -> &KeyInfo {
        &self.key
    }

    /// The repository meant.
    pub(crate) const fn repository_id(&self) -> RepositoryId {
        self.repository
    }

    /// Goes on only in this role or a higher one.
    pub(crate) fn require(&self, role: Role) -> Result<Granted, Refusal> {
        if self.key.role < role {
            let own = self.key.role;
            let reason = format!("the key has the role {own}; this takes the role {role}");
            return Err(Problem::denied(reason).into());
        }
        Ok(Granted {
            tenant: self.key.tenant,
            repository: self.repository,
        })
    }

    /// Whether the key still opens what it did when the request came: for answers that go on. `false` too
    /// when nobody can say so.
    pub(crate) async fn is_live(&self) -> bool {
        let registry = self.gateway.control().registry(FRESH).await;
        let now = self.gateway.now();
        registry.is_ok_and(|registry| {
            let row = registry.key(self.key.key);
            row.is_some_and(|row| row.is_live(now) && row.info.role >= self.key.role)
        })
    }

    /// The repository, in this role or a higher one.
    pub(crate) async fn repository(&self, role: Role) -> Result<HostedRepository, Refusal> {
        let granted = self.require(role)?;
        Ok(self.gateway.hosts().get(&granted).await?)
    }
}

impl FromRequestParts<Gateway> for Access {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Refusal> {
        let key = bearer(parts)?;
        let now = gateway.now();
        let registry = gateway.control().registry(FRESH).await?;
        let mut found = look_up(&registry, &key);
        if registry.key(key.id()).is_none() {
            let registry = gateway.control().registry_for_unknown().await?;
            found = look_up(&registry, &key);
        }
        let Some(row) = found.filter(|row| row.is_live(now)) else {
            tracing::info!(key = %key.id(), "a key that opens nothing");
            return Err(Refusal::unauthenticated());
        };
        let repository = repository_meant(parts, &row.info)?;
        Ok(Self {
            gateway: gateway.clone(),
            key: row.info,
            repository,
        })
    }
}

/// The key of the one `Authorization` header.
fn bearer(parts: &Parts) -> Result<Key, Refusal> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(Refusal::unauthenticated());
    };
    let text = header.to_str().ok().and_then(|text| text.split_once(' '));
    text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, key)| key.trim().parse().ok())
        .ok_or_else(|| {
            tracing::info!("something that is no key was sent as one");
            Refusal::unauthenticated()
        })
}

/// The key's row if the hash is right. An unknown key takes as long as a wrong one.
fn look_up(registry: &Registry, key: &Key) -> Option<KeyRow> {
    let hash = key.hash();
    let row = registry.key(key.id());
    let expected = row.map_or([0; 32], |row| *row.hash.as_bytes());
    let right: bool = hash.as_bytes().ct_eq(&expected).into();
    row.filter(|_| right).cloned()
}

/// The repository that a request means, always one of the key's own.
fn repository_meant(parts: &Parts, key: &KeyInfo) -> Result<RepositoryId, Refusal> {
    // The same for one that exists and one that doesn't: neither is this key's business.
    let none = || {
        let reason = "the key reaches no repository of that id";
        Refusal::from(Problem::denied(reason))
    };
    let Some(named) = parts.headers.get(HEADER_REPOSITORY) else {
        return key.repositories.first().copied().ok_or_else(none);
    };
    let id = named.to_str().ok().and_then(|text| text.parse().ok());
    id.filter(|id| key.repositories.contains(id))
        .ok_or_else(none)
}
