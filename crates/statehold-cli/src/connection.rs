//! From a folder to an engine: the workspace, its link, its key, and the repository behind them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::RepositoryId;
use statehold_core::record::RecordRef;
use statehold_repository::store::Store;
use statehold_repository::wire::key::Key;
use statehold_repository::{Error, Remote, Repository};
use statehold_sync::engine::Engine;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_sync::home::KeyError;
use statehold_sync::index::Index;
use statehold_sync::progress::{Progress, Unwatched};
use statehold_sync::workspace::{Link, Workspace};

use crate::environment::{SystemClock, SystemEntropy, home, variable};
use crate::output::{Output, is_watched};
use crate::progress::Bars;

/// A workspace that is connected with its repository.
#[derive(Debug)]
pub(crate) struct Connection {
    /// What keeps the two alike.
    pub(crate) engine: Engine,
    /// The repository.
    pub(crate) remote: Arc<dyn Remote>,
    /// Where it is.
    pub(crate) url: String,
    /// The newest record that the workspace had seen when it was opened.
    pub(crate) known: Option<RecordRef>,
}

impl Connection {
    /// Opens the workspace that a folder lies in, and its repository.
    pub(crate) async fn open(folder: &Path, output: Output) -> Result<Self> {
        let workspace = Workspace::find(folder)
            .context("this needs a workspace; `statehold init` makes a folder one")?;
        let Some(link) = workspace.settings().link.clone() else {
            bail!(
                "{} is not linked with a repository; `statehold link URL` does that",
                workspace.root().display()
            );
        };
        let remote = connect(&workspace, &link).await?;
        let progress: Arc<dyn Progress> = if is_watched() && !output.quiet && !output.json {
            Arc::new(Bars::default())
        } else {
            Arc::new(Unwatched)
        };
        let known = Index::read_head(&workspace.index_files());
        let (clock, entropy) = system();
        let engine = Engine::new(workspace, Arc::clone(&remote), clock, entropy, progress)?;
        Ok(Self {
            engine,
            remote,
            url: link.url,
            known,
        })
    }
}

/// The system's clock and randomness.
pub(crate) fn system() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock), Arc::new(SystemEntropy))
}

async fn connect(workspace: &Workspace, link: &Link) -> Result<Arc<dyn Remote>> {
    if let Some(folder) = folder_of(&link.url) {
        return Ok(Arc::new(open_folder(&folder).await?));
    }
    let key = workspace_key(workspace)?;
    let client = client(&link.url, Some(&key), link.repository_id)?;
    Ok(Arc::new(GatewayRemote::connect(client).await?))
}

/// The folder that a link without a gateway leads to.
pub(crate) fn folder_of(url: &str) -> Option<PathBuf> {
    match url.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(path)),
        None => (!url.contains("://")).then(|| PathBuf::from(url)),
    }
}

/// The repository in a folder, made if need be.
pub(crate) async fn open_folder(folder: &Path) -> Result<Repository> {
    let (clock, entropy) = system();
    let id = RepositoryId::random(&*entropy);
    Ok(Repository::open_or_create(Store::folder(folder)?, id, clock, entropy).await?)
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
    let workspace = Workspace::find(folder)
        .context("this needs a workspace; `statehold init` makes a folder one")?;
    match &workspace.settings().link {
        Some(link) if folder_of(&link.url).is_none() => client(
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
fn workspace_key(workspace: &Workspace) -> Result<Key> {
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
