//! A store that is served, or copied to: a folder, or a bucket of a real S3 server that runs for as long.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::ValueEnum;
use statehold_repository::location::StoreLocation;
use statehold_repository::store::Store;
use statehold_testkit::process::Installation;
use statehold_testkit::servers::{self, Server};

/// What kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// A folder
    Folder,
    /// A bucket
    Bucket,
}

/// Such a store.
pub(crate) struct Target {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its location.
    pub(crate) to: String,
    server: Option<Server>,
}

impl Target {
    /// A store of this kind. `None` where the S3 server can't be had and need not be.
    pub(crate) fn new(
        kind: StoreKind,
        installation: &Installation,
        name: &str,
    ) -> Result<Option<Self>> {
        if kind == StoreKind::Folder {
            return Ok(Some(Self {
                name: "a folder",
                to: installation.path(name).to_string_lossy().into_owned(),
                server: None,
            }));
        }
        let server = match servers::moto() {
            Ok(server) => server,
            Err(absent) => {
                ensure!(!servers::installs_everything(), "the S3 server {absent}");
                println!("SKIP: the S3 server {absent}");
                return Ok(None);
            }
        };
        let made = tokio::runtime::Runtime::new()?.block_on(server.make_bucket(name));
        made.map_err(|reason| anyhow!("no bucket: {reason}"))?;
        Ok(Some(Self {
            name: "a bucket (moto)",
            to: format!("{}/team", server.location(name)),
            server: Some(server),
        }))
    }

    fn variable(&self, name: &str) -> Option<String> {
        let server = self.server.as_ref()?;
        server.variable(server.endpoint(), name)
    }

    /// The store, for a look at it.
    pub(crate) fn open(&self) -> Result<Store> {
        let location: StoreLocation = self.to.parse()?;
        Ok(location.open(&|name| self.variable(name))?)
    }

    /// What tells a gateway how to get there that serves another store and copies it to this one.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let names = [
            ("STATEHOLD_REPLICA_AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
            (
                "STATEHOLD_REPLICA_AWS_SECRET_ACCESS_KEY",
                "AWS_SECRET_ACCESS_KEY",
            ),
            ("STATEHOLD_REPLICA_AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
        ];
        let value = |(name, plain)| Some((name, self.variable(plain)?));
        names.into_iter().filter_map(value).collect()
    }

    /// The same for a program that serves or promotes it.
    pub(crate) fn plain_variables(&self) -> Vec<(&'static str, String)> {
        let server = self.server.as_ref();
        server.map(Server::variables).unwrap_or_default()
    }

    /// Takes the store away for good.
    pub(crate) fn lose(self) -> Result<()> {
        match self.server {
            Some(server) => drop(server),
            None => std::fs::remove_dir_all(PathBuf::from(&self.to))?,
        }
        Ok(())
    }
}
