//! From a folder to an engine: the workspace, its link, its key, and the repository behind them.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::RepositoryId;
use statehold_gateway::CONTROL_PREFIX;
use statehold_gateway::switch::{Log, every_log};
use statehold_repository::format::description::Description;
use statehold_repository::lease::{LEASE_PERIOD, Lease, RESIDUAL_RISK};
use statehold_repository::location::StoreLocation;
use statehold_repository::probe::{Admission, admit, newest_or_probe};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Info;
use statehold_repository::wire::key::Key;
use statehold_repository::{Error, Remote, Repository, layout};
use statehold_sync::atomic::{Readers, replace_file};
use statehold_sync::engine::Engine;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_sync::home::KeyError;
use statehold_sync::index::{Heads, Index};
use statehold_sync::progress::{Progress, Unwatched};
use statehold_sync::rate_limit::RateLimited;
use statehold_sync::workspace::{Link, Workspace, WorkspaceError};

use crate::environment::{
    SystemClock, SystemEntropy, credentials_are_piped, home, replica_store_variable,
    store_variable, variable,
};
use crate::output::{Output, complain, is_watched};
use crate::places::named_store;
use crate::progress::Bars;

/// A workspace that is connected with its repository.
#[derive(Debug)]
pub(crate) struct Connection {
    /// What keeps the two alike.
    pub(crate) engine: Engine,
    /// The repository.
    pub(crate) remote: Arc<dyn Remote>,
    /// The gateway before it, if there is one.
    pub(crate) gateway: Option<Arc<GatewayRemote>>,
    /// Where it is.
    pub(crate) url: String,
    /// Whether its store is safe for one gateway at a time only.
    pub(crate) has_one_writer: bool,
}

impl Connection {
    /// Opens the workspace that a folder lies in, and its repository.
    pub(crate) async fn open(folder: &Path, output: Output) -> Result<Self> {
        Self::of(find_workspace(folder)?, output, None).await
    }

    /// Opens the repository of a workspace, with content moving at so many bytes per second at most.
    pub(crate) async fn of(
        workspace: Workspace,
        output: Output,
        bytes_per_second: Option<NonZeroU64>,
    ) -> Result<Self> {
        let Some(link) = workspace.settings().link.clone() else {
            bail!(
                "{} is not linked with a repository; `statehold link URL` does that",
                workspace.root().display()
            );
        };
        let (mut remote, gateway) = connect(&workspace, &link).await?;
        if let Some(rate) = bytes_per_second {
            remote = Arc::new(RateLimited::new(remote, rate));
        }
        let progress = progress(output);
        let (clock, entropy) = system();
        let mut engine = Engine::new(workspace, Arc::clone(&remote), clock, entropy, progress)?;
        let info = gateway.as_ref().map(|gateway| gateway.info());
        if let Some(info) = info {
            engine.keep_to(info.role);
        }
        let has_one_writer = info.is_some_and(|info| info.one_writer);
        Ok(Self {
            engine,
            remote,
            gateway,
            url: link.url,
            has_one_writer,
        })
    }
}

/// What shows a person how far things are, where there is one.
pub(crate) fn progress(output: Output) -> Arc<dyn Progress> {
    if is_watched() && !output.quiet && !output.json {
        Arc::new(Bars::default())
    } else {
        Arc::new(Unwatched)
    }
}

/// The workspace that a folder lies in.
pub(crate) fn find_workspace(folder: &Path) -> Result<Workspace> {
    match Workspace::find(folder) {
        Err(error @ WorkspaceError::NotFound { .. }) => Err(anyhow::Error::from(error)
            .context("this needs a workspace; `statehold init` makes a folder one")),
        found => Ok(found?),
    }
}

/// The records that a workspace stands at.
pub(crate) fn known_records(workspace: &Workspace) -> Option<Heads> {
    Index::read_heads(&workspace.index_files())
}

/// The system's clock and randomness.
pub(crate) fn system() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock), Arc::new(SystemEntropy))
}

/// The other side, and the gateway if it is one.
async fn connect(
    workspace: &Workspace,
    link: &Link,
) -> Result<(Arc<dyn Remote>, Option<Arc<GatewayRemote>>)> {
    if let Some(location) = store_of(&link.url)? {
        let remote = open_linked(workspace, &location, link.repository_id).await?;
        return Ok((Arc::new(remote), None));
    }
    let key = workspace_key(workspace)?;
    let client = client(&link.url, Some(&key), link.repository_id)?;
    let gateway = match known_info(workspace, link, &key) {
        Some(info) => GatewayRemote::with_info(client, info),
        None => {
            let gateway = GatewayRemote::connect(client).await?;
            keep_info(workspace, gateway.info());
            gateway
        }
    };
    let gateway = Arc::new(gateway);
    Ok((Arc::<GatewayRemote>::clone(&gateway), Some(gateway)))
}

/// What the gateway said about this key and repository before, so that nobody has to be contacted
/// before there is something to say, and none of it has changed since.
fn known_info(workspace: &Workspace, link: &Link, key: &Key) -> Option<Info> {
    let text = std::fs::read(workspace.gateway_path()).ok()?;
    let info: Info = serde_json::from_slice(&text).ok()?;
    let is_same = info.key == key.id() && Some(info.repository) == link.repository_id;
    is_same.then_some(info)
}

/// Keeps what the gateway said. It is a cache: without it the next command asks again.
pub(crate) fn keep_info(workspace: &Workspace, info: &Info) {
    let text = serde_json::to_vec(info);
    keep(
        workspace,
        &workspace.gateway_path(),
        text.map_err(Into::into),
    );
}

/// Keeps a repository's description, which never changes, so that the next command can look at the
/// store and the folder at once.
pub(crate) fn keep_description(workspace: &Workspace, repository: &Repository) {
    let description = repository.stored_description().to_vec();
    keep(workspace, &workspace.repository_path(), Ok(description));
}

fn keep(workspace: &Workspace, path: &Path, text: std::io::Result<Vec<u8>>) {
    let staging = workspace.staging();
    let kept = text.and_then(|text| replace_file(path, &text, Readers::Owner, &staging));
    if let Err(error) = kept {
        tracing::warn!(%error, "what the other side said was not kept");
    }
}

/// Forgets what the other side said, so that the next command asks again.
pub(crate) fn forget_info(workspace: &Workspace) {
    for path in [workspace.gateway_path(), workspace.repository_path()] {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!(%error, "nothing was kept");
        }
    }
}

/// The store that an address leads to straight, without a gateway; `None` for a gateway's address.
pub(crate) fn store_of(address: &str) -> Result<Option<StoreLocation>> {
    if address.starts_with("http://") || address.starts_with("https://") {
        if credentials_are_piped() {
            bail!("{address} is a gateway, which takes no credentials of a store; it has its own");
        }
        return Ok(None);
    }
    if address.contains(':') {
        return Ok(Some(address.parse()?));
    }
    Ok(Some(StoreLocation::Folder(std::path::absolute(address)?)))
}

/// Opens a store for one of many writers, and makes sure that it can be trusted: at its first use it
/// is probed.
pub(crate) async fn open_store(location: &StoreLocation) -> Result<Store> {
    let store = location.open(&store_variable)?;
    let report = newest_or_probe(&store, &SystemClock, &SystemEntropy).await?;
    admit(&report).enter()?;
    Ok(store)
}

/// Opens a store for a gateway. One that is safe for one writer at a time comes with a lease.
pub(crate) async fn open_store_to_serve(
    location: &StoreLocation,
    lease: Duration,
) -> Result<Store> {
    open_with_lease(location, &store_variable, "gateway", lease).await
}

/// Opens a store to copy to, with the credentials that are meant for it. One that is safe for one
/// writer at a time comes with a lease.
pub(crate) async fn open_replica(location: &StoreLocation, lease: Duration) -> Result<Store> {
    open_with_lease(location, &replica_store_variable, "replicator", lease)
        .await
        .with_context(|| format!("the replica {location} cannot be written to"))
}

async fn open_with_lease(
    location: &StoreLocation,
    environment: &(dyn Fn(&str) -> Option<String> + Sync),
    who: &str,
    lease: Duration,
) -> Result<Store> {
    let store = location.open(&environment)?;
    let report = newest_or_probe(&store, &SystemClock, &SystemEntropy).await?;
    let admission = admit(&report);
    if let Admission::OneWriter { reasons } = &admission {
        complain(&format!(
            "grade B, one {who} at a time: {}. Taking the lease; what it can't rule out: {RESIDUAL_RISK}.",
            reasons.join("; ")
        ));
    }
    Ok(admission
        .enter_with_lease(store, &SystemEntropy, lease)
        .await?)
}

/// A store that is there already and is read, and whether many may write to it.
pub(crate) async fn open_source(location: &StoreLocation) -> Result<(Store, bool)> {
    check_mounted(location)?;
    let store = location.open(&store_variable)?;
    let report = newest_or_probe(&store, &SystemClock, &SystemEntropy).await?;
    let takes_many = matches!(admit(&report), Admission::ManyWriters);
    Ok((store, takes_many))
}

/// The logs of a store that is there already, open for whoever ends them or goes on with them: one for a
/// repository, all for a gateway's store.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The logs, a gateway's registry last.
    pub(crate) logs: Vec<Log>,
    lease: Option<Arc<Lease>>,
}

impl Opened {
    /// Opens the store that this word names.
    pub(crate) async fn at(store: &str) -> Result<Self> {
        let location = named_store(store)?;
        check_mounted(&location)?;
        let store = open_store_to_serve(&location, LEASE_PERIOD).await?;
        let lease = store.lease().cloned();
        let logs = if holds_gateway(&store, &location).await? {
            every_log(&store, system()).await?
        } else {
            let (clock, entropy) = system();
            let repository = Repository::open_existing(store, clock, entropy).await?;
            let name = "the repository".to_owned();
            let log = |repository| Log { name, repository };
            repository.map(log).into_iter().collect()
        };
        Ok(Self { logs, lease })
    }

    /// Lets others write, where one may at a time.
    pub(crate) async fn release(&self) -> Result<()> {
        match &self.lease {
            Some(lease) => Ok(lease.release().await?),
            None => Ok(()),
        }
    }
}

/// Whether a store is a gateway's, with many repositories and a registry of them.
pub(crate) async fn holds_gateway(store: &Store, location: &StoreLocation) -> Result<bool> {
    let control = store.inside(CONTROL_PREFIX);
    if control.read(layout::REPOSITORY).await?.is_some() {
        return Ok(true);
    }
    if store.read(layout::REPOSITORY).await?.is_some() {
        return Ok(false);
    }
    let what = format!("{location} holds no repository and no gateway's registry; is it mounted?");
    Err(Error::refused(what).into())
}

/// Turns away a place for a copy that holds something of the other kind: a repository in a gateway's store, or the
/// reverse, would be taken for a part of it.
pub(crate) async fn check_kind(
    copy: &Store,
    location: &StoreLocation,
    is_gateway: bool,
) -> Result<()> {
    let (other, what) = match is_gateway {
        true => (copy.clone(), "a repository of its own"),
        false => (copy.inside(CONTROL_PREFIX), "a gateway's registry"),
    };
    match other.read(layout::REPOSITORY).await? {
        None => Ok(()),
        Some(_) => {
            let reason =
                format!("{location} holds {what}; a copy of something else lies in a place apart");
            Err(Error::refused(reason).into())
        }
    }
}

/// Turns away a folder that isn't there, which opening would make.
fn check_mounted(location: &StoreLocation) -> Result<()> {
    match location {
        StoreLocation::Folder(folder) if !folder.is_dir() => {
            let error = Error::Unavailable {
                what: format!("the store {location}"),
                source: "there is no such folder; is it mounted?".into(),
            };
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// The repository in a store, made if need be.
pub(crate) async fn open_repository(location: &StoreLocation) -> Result<Repository> {
    let (clock, entropy) = system();
    let id = RepositoryId::random(&*entropy);
    let store = open_store(location).await?;
    Ok(Repository::open_or_create(store, id, clock, entropy).await?)
}

/// The repository in the store that a workspace is linked with. It is never made anew: a folder
/// that isn't mounted looks empty, and must not become another repository.
pub(crate) async fn open_linked(
    workspace: &Workspace,
    location: &StoreLocation,
    id: Option<RepositoryId>,
) -> Result<Repository> {
    let unavailable = |source: &str| Error::Unavailable {
        what: format!("the repository in {location}"),
        source: source.into(),
    };
    if let StoreLocation::Folder(folder) = location
        && !folder.is_dir()
    {
        return Err(unavailable("there is no such folder; is it mounted?").into());
    }
    let store = location.open(&store_variable)?;
    let (clock, entropy) = system();
    if let Ok(kept) = std::fs::read(workspace.repository_path())
        && let Ok((description, _)) = Description::from_bytes(&kept)
        && id == Some(description.repository)
    {
        let repository = Repository::described(store, kept.into(), clock, entropy)?;
        if let Some(time) = workspace.last_look() {
            repository.looked_at(time);
        }
        return Ok(repository);
    }
    let found = Repository::open_existing(store, clock, entropy).await?;
    let Some(found) = found else {
        return Err(unavailable("the store holds none; is it mounted?").into());
    };
    let there = found.description().0.repository;
    if id.is_some_and(|id| id != there) {
        bail!(
            "{location} holds another repository than the workspace is linked with; \
             `statehold unlink`, then `statehold link` if that is meant"
        );
    }
    keep_description(workspace, &found);
    Ok(found)
}

/// A client for the gateway at an address. `STATEHOLD_CA` names a file with further authorities.
pub(crate) fn client(
    url: &str,
    key: Option<&Key>,
    repository: Option<RepositoryId>,
) -> Result<GatewayClient> {
    let mut address = GatewayAddress::parse(url)?;
    if let Some(path) = variable("STATEHOLD_CA") {
        let pem = std::fs::read(&path).with_context(|| format!("STATEHOLD_CA names {path}"))?;
        address.authorities.push(pem);
    }
    Ok(GatewayClient::new(&address, key, repository)?)
}

/// A client for the gateway that a folder's workspace is linked with.
pub(crate) fn linked_client(folder: &Path) -> Result<GatewayClient> {
    let workspace = find_workspace(folder)?;
    match &workspace.settings().link {
        Some(link) if store_of(&link.url)?.is_none() => client(
            &link.url,
            Some(&workspace_key(&workspace)?),
            link.repository_id,
        ),
        _ => bail!(
            "{} is not linked with a gateway",
            workspace.root().display()
        ),
    }
}

/// The key of a workspace: `STATEHOLD_KEY`, or the one that linking kept.
pub(crate) fn workspace_key(workspace: &Workspace) -> Result<Key> {
    if let Some(text) = variable("STATEHOLD_KEY") {
        return text.trim().parse().context("STATEHOLD_KEY holds no key");
    }
    match home()?.read_key(workspace.settings().workspace) {
        Ok(key) => Ok(key),
        Err(KeyError::Absent) => {
            let reason = "there is no key for this workspace on this machine".to_owned();
            Err(Error::Denied { reason }.into())
        }
        Err(error) => Err(error.into()),
    }
}
