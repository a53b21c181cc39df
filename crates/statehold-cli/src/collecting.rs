//! Whoever collects in the repository of a workspace: its gateway, or this program where there is none.

use anyhow::{Result, bail};
use statehold_core::path::RepoPath;
use statehold_repository::Repository;
use statehold_repository::collect::{Collected, Collector, Settings, Usage};
use statehold_repository::wire::bodies::{CompactRequest, PurgeRequest};
use statehold_sync::gateway_client::GatewayClient;
use statehold_sync::workspace::Workspace;

use crate::connection::{linked_client, open_linked, store_of};

/// Who collects.
#[derive(Debug)]
pub(crate) enum Collecting {
    /// This program, straight on a store.
    Here(Box<Repository>),
    /// The gateway, by its own settings.
    There(GatewayClient),
}

impl Collecting {
    /// Whoever does it for this workspace.
    pub(crate) async fn of(workspace: &Workspace) -> Result<Self> {
        let Some(link) = &workspace.settings().link else {
            bail!(
                "{} is not linked with a repository; `statehold link URL` does that",
                workspace.root().display()
            );
        };
        match store_of(&link.url)? {
            Some(location) => {
                let repository = open_linked(workspace, &location, link.repository_id).await?;
                Ok(Self::Here(Box::new(repository)))
            }
            None => Ok(Self::There(linked_client(workspace.root())?)),
        }
    }

    pub(crate) async fn usage(&self, within_days: Option<u32>) -> Result<Usage> {
        Ok(match self {
            Self::Here(repository) => collector(repository).usage(within_days).await?,
            Self::There(gateway) => gateway.usage(within_days).await?,
        })
    }

    pub(crate) async fn compact(&self, request: CompactRequest) -> Result<Collected> {
        Ok(match self {
            Self::Here(repository) if request.dry => Collected {
                compacted: collector(repository).dry().await?,
                removed: None,
                untold: None,
            },
            Self::Here(repository) => collector(repository).collect(request.approve).await?,
            Self::There(gateway) => gateway.compact(request).await?,
        })
    }

    pub(crate) async fn purge(&self, path: RepoPath) -> Result<Collected> {
        Ok(match self {
            Self::Here(repository) => collector(repository).purge(&path).await?,
            Self::There(gateway) => gateway.purge(&PurgeRequest { path }).await?,
        })
    }
}

fn collector(repository: &Repository) -> Collector<'_> {
    Collector::new(repository, Settings::default())
}
