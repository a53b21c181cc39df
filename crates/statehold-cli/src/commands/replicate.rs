//! `statehold replicate`: copies a repository, or a gateway's whole store, to another store.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use statehold_core::environment::Clock as _;
use statehold_core::snapshot::Label;
use statehold_core::state::State;
use statehold_gateway::replication::{Replication, StoreReport, every_repository};
use statehold_repository::lease::LEASE_PERIOD;
use statehold_repository::location::StoreLocation;
use statehold_repository::meter::{Meter, Usage};
use statehold_repository::remote::load;
use statehold_repository::replicate::plan::{DEFAULT_LABEL, OVERDUE, Row, is_older};
use statehold_repository::replicate::{Copied, Replicator, Watch};
use statehold_repository::verify::places::Place;
use statehold_repository::{Error, Repository};
use statehold_sync::rate_limit::Bucket;

use super::{GlobalArgs, block_on};
use crate::connection::{
    check_kind, find_workspace, holds_gateway, open_replica, open_source, store_of, system,
};
use crate::duration;
use crate::environment::{SystemClock, replica_store_variable, store_variable};
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count, is_watched, size, with_causes};
use crate::progress::copying;

/// Copy a repository, or a gateway's whole store, to another store
#[derive(Debug, Args)]
#[command(
    after_help = "What is new is copied, and the copy is a valid repository at every moment. A run that was
interrupted is simply started again. Credentials for the second store come from the usual
variables with STATEHOLD_REPLICA_ before them, such as STATEHOLD_REPLICA_AWS_REGION, and from
the plain ones where there is none of those.

Examples:
  statehold replicate --to s3://team-state-copy/agents
  statehold replicate --store /srv/statehold --to /mnt/other/statehold --limit-rate 2M
  statehold replicate --check --max-age 8d      (ends with 1 if the newest copy is older)"
)]
pub(crate) struct ReplicateArgs {
    /// Where to copy to: a folder, which is made if need be, or a bucket
    #[arg(long, value_name = "WHERE", required_unless_present = "check")]
    to: Option<String>,
    /// What to copy, unless it is the store that this workspace is linked with
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// What the copy is called in the log
    #[arg(long, value_name = "LABEL", default_value = DEFAULT_LABEL)]
    label: Label,
    /// Send so many bytes per second at most, such as 800k or 2M
    #[arg(long, value_name = "RATE", value_parser = super::sync::rate)]
    limit_rate: Option<NonZeroU64>,
    /// Copy nothing; say when the newest copy was made, and end with 1 if that is too long ago
    #[arg(long, conflicts_with_all = ["to", "limit_rate"])]
    check: bool,
    /// How old the newest copy may be for --check, such as 36h or 8d
    #[arg(long, requires = "check", value_name = "AGE", value_parser = duration::parse)]
    max_age: Option<Duration>,
}

pub(super) fn run(args: &ReplicateArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let source = source(args, global)?;
    if args.check {
        return block_on(check(args, &source, output)).map(Into::into);
    }
    let Some(to) = &args.to else {
        return Err(WrongUsage::because("--to says where to copy to"));
    };
    let target = replica_of(to, &source)?;
    block_on(copy(args, &source, &target, output)).map(Into::into)
}

/// Where what is to be copied lies.
fn source(args: &ReplicateArgs, global: &GlobalArgs) -> Result<StoreLocation> {
    if let Some(store) = &args.store {
        return match store_of(store)? {
            Some(location) => Ok(location),
            None => bail!("{store}: a store is a folder, or a bucket as s3://, gs:// or az://"),
        };
    }
    let workspace = find_workspace(&global.directory()?)?;
    let link = workspace.settings().link.as_ref();
    let location = link.map(|link| store_of(&link.url)).transpose()?.flatten();
    match location {
        Some(location) => Ok(location),
        None => bail!(
            "{} is not linked with a store of its own; whoever runs its gateway replicates it, with \
             `statehold serve --replicate-to`, or name the store with --store",
            workspace.root().display()
        ),
    }
}

/// The place to copy to, which has to be apart from the source.
pub(super) fn replica_of(to: &str, source: &StoreLocation) -> Result<StoreLocation> {
    let Some(target) = store_of(to)? else {
        bail!("{to}: a store is a folder, or a bucket as s3://, gs:// or az://");
    };
    if overlap(source, &target) {
        bail!("{target} and {source} overlap; a copy lies in a place of its own");
    }
    Ok(target)
}

/// Whether one of two stores lies in the other.
fn overlap(source: &StoreLocation, target: &StoreLocation) -> bool {
    /// What tells two buckets of one name apart.
    const PLACES: [&str; 6] = [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_ENDPOINT",
        "GOOGLE_BASE_URL",
    ];
    use StoreLocation::{Bucket, Folder, Memory};
    match (source, target) {
        (Folder(one), Folder(other)) => {
            let real = |path: &std::path::PathBuf| {
                std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())
            };
            let (one, other) = (real(one), real(other));
            one.starts_with(&other) || other.starts_with(&one)
        }
        (
            Bucket {
                cloud,
                bucket,
                prefix,
            },
            Bucket {
                cloud: other_cloud,
                bucket: other_bucket,
                prefix: other_prefix,
            },
        ) => {
            let is_same_place = PLACES
                .iter()
                .all(|name| store_variable(name) == replica_store_variable(name));
            is_same_place
                && (cloud, bucket) == (other_cloud, other_bucket)
                && (prefix.starts_with(other_prefix) || other_prefix.starts_with(prefix))
        }
        (Memory, _) | (_, Memory) => true,
        _ => false,
    }
}

/// Shows what is copied, and keeps to a rate.
#[derive(Debug)]
struct Shown {
    bar: Option<ProgressBar>,
    rate: Option<Bucket>,
}

#[async_trait]
impl Watch for Shown {
    fn found(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
    }

    async fn pace(&self, bytes: u64) {
        if let Some(rate) = &self.rate {
            rate.take(bytes).await;
        }
    }

    fn copied(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }
}

/// A repository as it is shown.
#[derive(Debug, Serialize)]
struct Shape<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    name: &'a str,
    before: Option<u64>,
    at: Option<u64>,
    records: u64,
    packs: u64,
    objects: u64,
    bytes: u64,
    row: Option<u64>,
    passed_over: &'a [String],
    error: Option<String>,
}

impl<'a> Shape<'a> {
    fn of(name: &'a str, copied: &'a Copied, row: Option<u64>, error: Option<&Error>) -> Self {
        let number = |at: Option<statehold_core::record::RecordRef>| at.map(|at| at.number);
        Self {
            tenant: None,
            repository: None,
            name,
            before: number(copied.before),
            at: number(copied.at),
            records: copied.records,
            packs: copied.packs,
            objects: copied.objects,
            bytes: copied.bytes,
            row,
            passed_over: &copied.passed_over,
            error: copied.stopped.as_ref().or(error).map(said),
        }
    }

    fn say(&self, output: Output) {
        let name = self.name;
        output.line(match self.at {
            None if self.error.is_some() => format!("{name}: not copied"),
            None => format!("{name}: never used"),
            Some(at) if self.objects == 0 => {
                format!("{name}: nothing new; complete up to record {at}")
            }
            Some(at) => format!(
                "{name}: {}, {}, {}; complete up to record {at}",
                count(self.records, "record"),
                count(self.packs, "pack"),
                size(self.bytes)
            ),
        });
        for passed in self.passed_over {
            output.line(format!("  left out, since readers do without it: {passed}"));
        }
        if let Some(error) = &self.error {
            complain(&format!("statehold: {name}: {error}"));
        }
    }
}

/// An error with its causes; one of a history that splits says where.
fn said(error: &Error) -> String {
    let text = with_causes(error);
    match error {
        Error::Diverged { number, .. } => format!(
            "diverged at {number}: {text}. Where one of them has gone on from a copy, `statehold \
             bring-over` says what the other has beyond it; then copy to a fresh prefix"
        ),
        _ => text,
    }
}

async fn copy(
    args: &ReplicateArgs,
    source: &StoreLocation,
    target: &StoreLocation,
    output: Output,
) -> Result<Exit> {
    let (from, takes_many) = open_source(source).await?;
    let (from, from_meter) = from.metered();
    let is_gateway = holds_gateway(&from, source).await?;
    let to = open_replica(target, LEASE_PERIOD).await?;
    let lease = to.lease().cloned();
    let (to, to_meter) = to.metered();
    check_kind(&to, target, is_gateway).await?;
    if !takes_many {
        complain(
            "the source takes one writer at a time, so no row is left in its log; a gateway that \
             runs with --replicate-to leaves them",
        );
    }
    let is_shown = is_watched() && !output.quiet && !output.json;
    let watch = Arc::new(Shown {
        bar: is_shown.then(copying),
        rate: args.limit_rate.map(Bucket::new),
    });
    let row = Row {
        label: args.label.clone(),
        to: target.to_string(),
    };
    let report = if is_gateway {
        let watch = Arc::<Shown>::clone(&watch);
        let replication = Replication::of_store(from, to, row, system(), watch);
        Done::Store(replication.pass(takes_many).await?)
    } else {
        let (clock, entropy) = system();
        let replicator = Replicator::new(clock, entropy, Arc::<Shown>::clone(&watch) as _);
        let copied = replicator.copy(&from, &to, None, None).await;
        let row = if takes_many {
            replicator.leave_row(&from, &row, &copied).await
        } else {
            Ok(None)
        };
        let (row, row_failed) = match row {
            Ok(row) => (row.map(|row| row.number), None),
            Err(error) => (None, Some(error)),
        };
        Done::Repository {
            copied,
            row,
            row_failed,
        }
    };
    if let Some(bar) = &watch.bar {
        bar.finish_and_clear();
    }
    if let Some(lease) = lease {
        lease.release().await?;
    }
    Ok(report.tell(target, (&from_meter, &to_meter), output))
}

/// What a run came to.
enum Done {
    Store(StoreReport),
    Repository {
        copied: Copied,
        row: Option<u64>,
        row_failed: Option<Error>,
    },
}

impl Done {
    fn tell(&self, to: &StoreLocation, meters: (&Arc<Meter>, &Arc<Meter>), output: Output) -> Exit {
        let (shapes, registry, error) = match self {
            Self::Store(report) => {
                let shapes: Vec<Shape<'_>> = report
                    .repositories
                    .iter()
                    .map(|one| Shape {
                        tenant: Some(one.tenant.to_string()),
                        repository: Some(one.repository.to_string()),
                        ..Shape::of(
                            &one.name,
                            &one.copied,
                            one.row.map(|row| row.number),
                            one.row_failed.as_ref(),
                        )
                    })
                    .collect();
                let registry = report.registry.as_ref();
                let registry = registry.map(|it| Shape::of("the registry", it, None, None));
                (shapes, registry, report.first_error())
            }
            Self::Repository {
                copied,
                row,
                row_failed,
            } => {
                let shape = Shape::of("the repository", copied, *row, row_failed.as_ref());
                let error = copied.stopped.as_ref().or(row_failed.as_ref());
                (vec![shape], None, error)
            }
        };
        for shape in shapes.iter().chain(&registry) {
            shape.say(output);
        }
        let usage = |meter: &Arc<Meter>| -> Usage { meter.usage() };
        output.value(&json!({
            "to": to.to_string(),
            "repositories": shapes,
            "registry": registry,
            "requests": {"source": usage(meters.0), "replica": usage(meters.1)},
            "error": error.map(said),
        }));
        error.map_or(Exit::Done, Exit::of_repository)
    }
}

/// How old the newest copy of a repository is.
#[derive(Debug, Serialize)]
struct Age {
    name: String,
    ok: bool,
    head: u64,
    at: Option<u64>,
    to: Option<String>,
    age_seconds: Option<u64>,
}

impl Age {
    fn of(name: String, state: &State, label: &Label, max: Duration) -> Self {
        let now = SystemClock.now();
        let backup = state.backups.get(label);
        let age = |time: statehold_core::time::Timestamp| {
            let millis = now.as_millis().saturating_sub(time.as_millis());
            u64::try_from(millis / 1_000).unwrap_or_default()
        };
        Self {
            name,
            ok: state.head.number == 0
                || backup.is_some_and(|backup| !is_older(backup.time, now, max)),
            head: state.head.number,
            at: backup.map(|backup| backup.at),
            to: backup.map(|backup| backup.to.clone()),
            age_seconds: backup.map(|backup| age(backup.time)),
        }
    }

    fn line(&self) -> String {
        let name = &self.name;
        match (&self.to, self.at, self.age_seconds) {
            (Some(to), Some(at), Some(age)) => format!(
                "{name}: copied up to record {at} of {} {} ago, to {to}",
                self.head,
                duration::show(Duration::from_secs(age))
            ),
            _ if self.head == 0 => format!("{name}: nothing in it yet"),
            _ => format!("{name}: no copy was ever made"),
        }
    }
}

async fn check(args: &ReplicateArgs, source: &StoreLocation, output: Output) -> Result<Exit> {
    let (store, _) = open_source(source).await?;
    let max = args.max_age.unwrap_or(OVERDUE);
    let (clock, entropy) = system();
    let stores = if holds_gateway(&store, source).await? {
        every_repository(&store, Arc::clone(&clock), Arc::clone(&entropy)).await?
    } else {
        vec![(
            "the repository".to_owned(),
            Place::at(&store, String::new()),
        )]
    };
    let mut ages = Vec::new();
    for (name, place) in stores {
        let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
        if let Some(repository) = Repository::open_existing(place.store, clock, entropy).await? {
            let state = load(&repository).await?.state;
            ages.push(Age::of(name, &state, &args.label, max));
        }
    }
    for age in &ages {
        if age.ok {
            output.line(format!("ok       {}", age.line()));
        } else {
            complain(&format!("OVERDUE  {}", age.line()));
        }
    }
    let is_good = ages.iter().all(|age| age.ok);
    if !is_good {
        complain(&format!(
            "a copy may be {} old; `statehold replicate --to WHERE` makes one now",
            duration::show(max)
        ));
    }
    output.value(&json!({"ok": is_good, "repositories": ages}));
    Ok(if is_good { Exit::Done } else { Exit::Refused })
}
