//! `statehold serve`: the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use statehold_core::snapshot::Label;
use statehold_gateway::drills::NamedStore;
use statehold_gateway::replication::Rhythm;
use statehold_gateway::tls::TlsFiles;
use statehold_gateway::{Gateway, Server};
use statehold_repository::collect::Settings;
use statehold_repository::lease::LEASE_PERIOD;
use statehold_repository::replicate::plan::{DEFAULT_LABEL, Row};
use statehold_repository::store::Store;
use statehold_sync::home::{Home, OperatorKey};

use super::block_on;
use super::replicate::replica_of;
use crate::connection::{open_replica, open_store_to_serve, store_of, system};
use crate::duration;
use crate::environment::home;
use crate::exit::Exit;
use crate::output::{Output, complain};

/// Where a gateway listens unless it is told otherwise.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:7411";
const DEFAULT_LISTEN: &str = "127.0.0.1:7411";

/// Run a gateway in front of a store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold serve --store ./vault
  statehold serve --store s3://team-state/agents
  pass show bucket | statehold serve --store s3://team-state/agents --credentials-stdin
  statehold serve --store s3://team-state/agents --replicate-to s3://team-copy/agents \\
      --drill-every weekly --compact-every daily
  statehold serve --store s3://locked-state/agents --compact-every never    (it deletes nothing)
  statehold serve --store /srv/statehold --listen 0.0.0.0:7411 \\
      --tls-cert fullchain.pem --tls-key privkey.pem")]
pub(crate) struct ServeArgs {
    /// Where everything is kept: a folder, which is made if need be, or a bucket as s3://BUCKET,
    /// gs://BUCKET or az://CONTAINER, with credentials from the cloud's usual variables
    #[arg(long, value_name = "WHERE")]
    store: String,
    /// The address to listen at; port 0 takes any that is free
    #[arg(long, default_value = DEFAULT_LISTEN, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The certificate chain, as PEM; read again when it changes
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Keep a copy of the whole store there, so that losing the store loses little
    #[arg(long, value_name = "WHERE")]
    replicate_to: Option<String>,
    /// How often: weekly, daily, a length of time such as 6h, or continuous
    #[arg(long, requires = "replicate_to", value_name = "RHYTHM", default_value = "weekly",
          value_parser = rhythm)]
    replicate_every: Rhythm,
    /// What the copy is called in the logs
    #[arg(long, requires = "replicate_to", value_name = "LABEL", default_value = DEFAULT_LABEL)]
    replicate_label: Label,
    /// Restore from the store, and from its copy, into scratch space and compare, so often: weekly,
    /// daily or a length of time such as 6h
    #[arg(long, value_name = "RHYTHM", value_parser = every)]
    drill_every: Option<Duration>,
    /// Let earlier states go that nothing keeps any more, and delete what only they needed, so often:
    /// weekly, daily, a length of time such as 6h, or never
    #[arg(long, value_name = "RHYTHM", value_parser = compacting, default_value = "weekly")]
    compact_every: Compacting,
    /// Hold what was condemned for so long before it is deleted; less than a day is for tests
    #[arg(long, value_name = "LENGTH", value_parser = duration::parse, default_value = "7d")]
    retention_floor: Duration,
    /// How long the lease lasts on a store for one writer
    #[arg(long, hide = true, value_name = "N", default_value_t = LEASE_PERIOD.as_secs())]
    lease_seconds: u64,
    /// Serve without TLS on an address that other machines reach, because a proxy in front has it
    #[arg(long)]
    behind_proxy: bool,
}

/// How often something is done, as it is typed.
fn every(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    match text {
        "weekly" => Ok(7 * DAY),
        "daily" => Ok(DAY),
        length => duration::parse(length).map_err(|error| format!("{error}, nor weekly or daily")),
    }
}

/// How often a gateway collects, if it does.
#[derive(Debug, Clone, Copy)]
struct Compacting(Option<Duration>);

fn compacting(text: &str) -> Result<Compacting, String> {
    match text {
        "never" => Ok(Compacting(None)),
        text => every(text)
            .map(|every| Compacting(Some(every)))
            .map_err(|error| format!("{error}, nor never")),
    }
}

/// A rhythm as it is typed.
fn rhythm(text: &str) -> Result<Rhythm, String> {
    match text {
        "continuous" => Ok(Rhythm::Continuous),
        text => every(text)
            .map(Rhythm::Every)
            .map_err(|error| format!("{error}, nor continuous")),
    }
}

pub(super) fn run(args: ServeArgs, output: Output) -> Result<ExitCode> {
    let Some(location) = store_of(&args.store)? else {
        bail!(
            "{}: a store is a folder, or a bucket as s3://, gs:// or az://",
            args.store
        );
    };
    let tls = match (args.tls_cert, args.tls_key) {
        (Some(certificates), Some(key)) => Some(TlsFiles { certificates, key }),
        _ => None,
    };
    if tls.is_none() && !args.listen.ip().is_loopback() && !args.behind_proxy {
        bail!(
            "{} can be reached by other machines, and keys would travel in the clear; give \
             --tls-cert and --tls-key, or --behind-proxy if a proxy in front has TLS",
            args.listen
        );
    }
    let lease_period = Duration::from_secs(args.lease_seconds.max(1));
    let replica = args.replicate_to.as_deref();
    let replica = replica.map(|to| replica_of(to, &location)).transpose()?;
    block_on(async {
        let store = open_store_to_serve(&location, lease_period).await?;
        let lease = store.lease().cloned();
        let target = match &replica {
            Some(to) => Some((to, open_replica(to, lease_period).await?)),
            None => None,
        };
        let settings = Settings::default();
        let floor = args.retention_floor;
        let settings = Settings {
            floor,
            upload: settings.upload.min(floor),
        };
        let started = Started::on(store, args.listen, tls, &home()?, settings).await?;
        started.announce(output);
        if started.gateway.awaits_promotion().await? {
            complain(&format!(
                "this store is a replica that nobody has gone on with; if the first store is lost, stop \
                 and run `statehold promote {location}`, so that machines push again what it lacks"
            ));
        }
        let collecting = args.compact_every.0.map(|every| {
            let gateway = started.gateway.clone();
            tokio::spawn(async move { gateway.keep_collecting(every).await })
        });
        let drilling = args.drill_every.map(|every| {
            let copy = target.as_ref().map(|(to, target)| NamedStore {
                store: target.clone(),
                at: to.to_string(),
            });
            let scratch = std::env::temp_dir();
            let drills = started.gateway.drills(location.to_string(), copy, scratch);
            tokio::spawn(async move { drills.keep(every).await })
        });
        let replication = target.map(|(to, target)| {
            let row = Row {
                label: args.replicate_label,
                to: to.to_string(),
            };
            let replica_lease = target.lease().cloned();
            let replication = Arc::new(started.gateway.replication(target, row));
            let (keeping, rhythm) = (Arc::clone(&replication), args.replicate_every);
            // Apart from the loop that takes connections.
            let keeping = tokio::spawn(async move { keeping.keep(rhythm).await });
            (replication, keeping, replica_lease)
        });
        let served = started.server.serve(stop_signal()).await;
        if let Some(collecting) = collecting {
            // It may end anywhere: the next one goes on.
            collecting.abort();
            drop(collecting.await);
        }
        if let Some(drilling) = drilling {
            // Nothing of a drill is of use before its end, and its scratch space goes with it.
            drilling.abort();
            drop(drilling.await);
        }
        if let Some((replication, keeping, replica_lease)) = replication {
            // A pass may be ended anywhere; what it was at is handed to the last one.
            keeping.abort();
            drop(keeping.await);
            replication.finish().await;
            if let Some(lease) = replica_lease {
                lease.release().await?;
            }
        }
        if let Some(lease) = lease {
            lease.release().await?;
        }
        served.context("the gateway stopped")
    })?;
    Ok(Exit::Done.into())
}

/// A gateway that listens and doesn't serve yet.
pub(super) struct Started {
    /// The gateway.
    pub(super) gateway: Gateway,
    /// Where it listens.
    pub(super) server: Server,
    /// Where it can be reached.
    pub(super) url: String,
    /// Where the first operator's key was left, if this was the first start.
    pub(super) operator_key: Option<OperatorKey>,
}

impl Started {
    /// Opens a store and listens. The first operator's key is left in `home`.
    pub(super) async fn on(
        store: Store,
        listen: SocketAddr,
        tls: Option<TlsFiles>,
        home: &Home,
        collecting: Settings,
    ) -> Result<Self> {
        let (clock, entropy) = system();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (gateway, key) = Gateway::bootstrap_with(store, clock, entropy, collecting).await?;
        // Kept at once: it is not to be had a second time.
        let operator_key = match key {
            Some(key) => Some(home.write_operator_key(&key)?),
            None => None,
        };
        let server = Server::bind(listen, gateway.clone(), tls).await?;
        let url = format!("{scheme}://{}", server.local_addr());
        Ok(Self {
            gateway,
            server,
            url,
            operator_key,
        })
    }

    fn announce(&self, output: Output) {
        output.line(format!("listening at {}", self.url));
        if let Some(key) = &self.operator_key {
            output.line(format!(
                "first start: the operator's key is in {}",
                key.path.display()
            ));
            if let Some(earlier) = &key.earlier {
                output.line(format!(
                    "the key of another gateway was there; it is now in {}, for --key-file",
                    earlier.display()
                ));
            }
            let url = self.url_to_type();
            output.line("in another terminal, as the same user:");
            for (what, command) in [
                ("let a machine in", "invite --label laptop"),
                ("add a tenant", "tenant add NAME"),
                ("a key for a script", "key --label ci --to ci.key"),
            ] {
                output.line(format!(
                    "  {what:<18}  statehold admin {command} --gateway {url}"
                ));
            }
        }
        let key = self.operator_key.as_ref();
        output.value(&json!({
            "url": self.url,
            "operator_key": key.map(|key| &key.path),
            "earlier_operator_key": key.and_then(|key| key.earlier.as_ref()),
        }));
    }

    /// An address that can be typed as it stands: listening at all addresses is none to connect to.
    fn url_to_type(&self) -> String {
        let address = self.server.local_addr();
        match (
            address.ip().is_unspecified(),
            self.url.starts_with("https:"),
        ) {
            (false, _) => self.url.clone(),
            (true, false) => format!("http://127.0.0.1:{}", address.port()),
            // Only whoever had the certificate made knows its name.
            (true, true) => format!("https://NAME-IN-THE-CERTIFICATE:{}", address.port()),
        }
    }
}

/// Over when the process is asked to stop.
pub(super) async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    let mut terminate =
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => {
                complain(&format!("the signal to stop cannot be heard: {error}"));
                return;
            }
        };
    tokio::select! {
        _ = interrupt => {}
        _ = terminate.recv() => {}
    }
}
