//! `statehold drill`: restores into scratch space, to see that it can be done.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use statehold_core::environment::Clock as _;
use statehold_core::time::Timestamp;
use statehold_gateway::drills::{Drills, NamedStore};
use statehold_repository::drill::receipt::{OVERDUE, Receipt, Restore, Side, What};
use statehold_repository::drill::stored::{Drilled, Driller, random_seed};
use statehold_repository::drill::{Drill, Replica, vouch};
use statehold_repository::location::StoreLocation;
use statehold_repository::replicate::plan::is_older;
use statehold_repository::store::Store;
use statehold_repository::verify::places::find;
use statehold_repository::verify::{Unwatched, Watch};
use statehold_repository::{Error, Remote, Repository};
use statehold_sync::drills;

use super::replicate::replica_of;
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace, holds_gateway, open_source, store_of, system};
use crate::duration;
use crate::environment::{SystemClock, SystemEntropy, replica_store_variable};
use crate::exit::Exit;
use crate::output::{Output, complain, count, size, with_causes};
use crate::places::{named_store, open_to_look};
use crate::progress::Bars;
use statehold_gateway::replication::every_repository;

/// Restore into scratch space and compare, to see that it can be done
#[derive(Debug, Args)]
#[command(
    after_help = "The newest state, an earlier one by chance and the newest snapshot are restored, from the
repository and from the copy that --replica names, and every file is read back and compared.
The scratch space is gone afterwards. The receipt lies in .statehold/drills/ of the workspace,
or with --store in the store, and a note in the log vouches for it.

Examples:
  statehold drill
  statehold drill --replica s3://team-state-copy/agents
  statehold drill --store s3://team-state/agents --replica s3://team-state-copy/agents
  statehold drill --check --max-age 8d      (ends with 1 if the newest one is older, or failed)"
)]
pub(crate) struct DrillArgs {
    /// All repositories in this store instead of the workspace's: a folder, or a bucket as s3://,
    /// gs:// or az://; a gateway's included
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// Restore from this copy as well
    #[arg(long, value_name = "WHERE", conflicts_with = "check")]
    replica: Option<String>,
    /// Make the scratch space in this folder instead of the system's one for temporary files
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    scratch: Option<PathBuf>,
    /// Draw the earlier state with this number, as in an earlier receipt
    #[arg(long, value_name = "N", conflicts_with = "check")]
    seed: Option<u64>,
    /// Restore nothing; say when the newest drill was made, and end with 1 if that is too long ago
    #[arg(long)]
    check: bool,
    /// How old the newest drill may be for --check, such as 36h or 8d
    #[arg(long, requires = "check", value_name = "AGE", value_parser = duration::parse)]
    max_age: Option<Duration>,
}

pub(super) fn run(args: &DrillArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let exit = match (&args.store, args.check) {
        (store, true) => block_on(check(args, store.as_deref(), global, output)),
        (Some(store), false) => block_on(drill_store(args, store, output)),
        (None, false) => block_on(drill_workspace(args, global, output)),
    };
    exit.map(Into::into)
}

/// A drill that was made, as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    /// Of what.
    of: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    /// Where the receipt is.
    kept: Option<String>,
    /// The record that vouches for it.
    note: Option<u64>,
    error: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

impl Row {
    fn of_drilled(of: String, drilled: Result<Option<Drilled>, Error>) -> Self {
        let mut row = Self {
            of,
            receipt: None,
            kept: None,
            note: None,
            error: None,
            exit: None,
        };
        let error = match drilled {
            Ok(None) => None,
            Ok(Some(drilled)) => {
                row.receipt = Some(drilled.receipt);
                row.kept = drilled.key;
                row.note = drilled.note.map(|note| note.number);
                drilled.unkept
            }
            Err(error) => Some(error),
        };
        row.exit = error.as_ref().map(Exit::of_repository);
        row.error = error.as_ref().map(|error| with_causes(error));
        row
    }

    fn has_failed(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| !receipt.passed)
    }
}

/// Drills what a store holds.
async fn drill_store(args: &DrillArgs, store: &str, output: Output) -> Result<Exit> {
    let location = named_store(store)?;
    let (store, takes_many) = open_source(&location).await?;
    let is_gateway = holds_gateway(&store, &location).await?;
    if !takes_many {
        complain(
            "the store takes one writer at a time, so no receipt is left in it; a gateway that runs \
             with --drill-every leaves them",
        );
    }
    let replica = args.replica.as_deref();
    let replica = replica.map(|to| open_copy(to, &location)).transpose()?;
    let source = NamedStore {
        store,
        at: location.to_string(),
    };
    let watch = watch(output);
    let scratch = scratch(args);
    let rows = if is_gateway {
        let drills = Drills::of_store(source, replica, scratch, system());
        let drills = drills.with_seed(args.seed).watched_by(watch);
        let drills = match takes_many {
            true => drills,
            false => drills.without_receipts(),
        };
        let done = drills.pass().await?.into_iter();
        done.map(|one| Row::of_drilled(one.name, one.drilled))
            .collect()
    } else {
        let (clock, entropy) = system();
        let machine = statehold_core::id::MachineId::random(&*entropy);
        let driller = Driller {
            scratch: &scratch,
            seed: args.seed,
            clock,
            entropy,
            watch: &*watch,
            machine: takes_many.then_some(machine),
        };
        let copy = replica.as_ref().map(|it| (&it.store, it.at.as_str()));
        let drilled = driller.drill((&source.store, &source.at), copy).await;
        vec![Row::of_drilled(source.at.clone(), drilled)]
    };
    Ok(tell(&rows, output))
}

/// Drills the repository of the workspace, by whatever way it reaches it.
async fn drill_workspace(args: &DrillArgs, global: &GlobalArgs, output: Output) -> Result<Exit> {
    let workspace = find_workspace(&global.directory()?)?;
    let connection = Connection::of(workspace.clone(), output, None).await?;
    let remote = &*connection.remote;
    let replica = match &args.replica {
        Some(to) => {
            let source = store_of(&connection.url)?;
            let copy = match &source {
                Some(source) => open_copy(to, source)?,
                None => named_copy(&named_store(to)?)?,
            };
            Some((open_in_copy(remote, &copy.store).await?, copy.at))
        }
        None => None,
    };
    let scratch = scratch(args);
    let watch = watch(output);
    let drill = Drill {
        primary: remote,
        at: &connection.url,
        replica: replica.as_ref().map(|(copy, at)| Replica {
            remote: copy.as_ref().map(|copy| copy as &dyn Remote),
            at,
        }),
        scratch: &scratch,
        seed: args.seed.unwrap_or_else(|| random_seed(&SystemEntropy)),
        clock: &SystemClock,
        watch: &*watch,
    };
    let receipt = drill.run().await?;
    drop(watch);
    if receipt.restores.is_empty() {
        return Ok(tell(&[Row::of_drilled(connection.url, Ok(None))], output));
    }
    let path = drills::keep(&workspace, &receipt)?;
    let machine = workspace.settings().machine.id;
    let note = vouch(remote, &receipt, machine, &SystemEntropy).await;
    let (note, unkept) = match note {
        Ok(note) => (Some(note), None),
        Err(error) => (None, Some(error)),
    };
    let drilled = Drilled {
        receipt,
        key: Some(path.display().to_string()),
        note,
        unkept,
    };
    let row = Row::of_drilled(connection.url, Ok(Some(drilled)));
    Ok(tell(&[row], output))
}

fn scratch(args: &DrillArgs) -> PathBuf {
    let scratch = args.scratch.clone();
    scratch.unwrap_or_else(std::env::temp_dir)
}

fn watch(output: Output) -> Arc<dyn Watch> {
    if !output.is_watched() {
        return Arc::new(Unwatched);
    }
    let bars = Bars::default();
    bars.begin_check();
    Arc::new(bars)
}

/// The copy of a store, which has to be apart from it.
fn open_copy(to: &str, source: &StoreLocation) -> Result<NamedStore> {
    named_copy(&replica_of(to, source)?)
}

/// A copy is read and never written to.
fn named_copy(location: &StoreLocation) -> Result<NamedStore> {
    Ok(NamedStore {
        store: open_to_look(location, &replica_store_variable)?,
        at: location.to_string(),
    })
}

/// The copy of a repository in a store: at its root, or in a gateway's by its id.
async fn open_in_copy(remote: &dyn Remote, store: &Store) -> Result<Option<Repository>> {
    let id = remote.description().0.repository.to_string();
    let places = find(store).await?.repositories.into_iter();
    let mut ours = places.filter(|place| place.prefix.is_empty() || place.prefix.ends_with(&id));
    let Some(place) = ours.next() else {
        return Ok(None);
    };
    let (clock, entropy) = system();
    Ok(Repository::open_existing(place.store, clock, entropy).await?)
}

fn tell(rows: &[Row], output: Output) -> Exit {
    for row in rows {
        show(row, output);
    }
    let failed = rows.iter().any(Row::has_failed);
    let error = rows.iter().find_map(|row| row.exit);
    output.value(&json!({"passed": !failed && error.is_none(), "drills": rows}));
    match error {
        _ if failed => Exit::Damaged,
        Some(exit) => exit,
        None => Exit::Done,
    }
}

fn show(row: &Row, output: Output) {
    let of = &row.of;
    let Some(receipt) = &row.receipt else {
        match &row.error {
            Some(error) => complain(&format!("statehold: {of}: {error}")),
            None => output.line(format!("{of}: nothing to restore yet")),
        }
        return;
    };
    for restore in &receipt.restores {
        show_restore(restore, output);
    }
    let verdict = if receipt.passed { "passed" } else { "FAILED" };
    let mut line = format!(
        "{of}: {verdict}, {} and {} restored and compared in {:.1} s, seed {}",
        count(receipt.entries, "entry").replace("entrys", "entries"),
        size(receipt.bytes),
        receipt.seconds,
        receipt.seed
    );
    if let Some(kept) = &row.kept {
        line.push_str(&format!("; receipt {kept}"));
    }
    if let Some(note) = row.note {
        line.push_str(&format!(", vouched for by record {note}"));
    }
    output.line(line);
    if let Some(error) = &row.error {
        complain(&format!(
            "statehold: {of}: no note vouches for the receipt: {error}"
        ));
    }
    if !receipt.passed {
        complain(
            "hint: `statehold verify --read-data` names what needs it, and `statehold repair` brings it \
             back from a copy or a workspace",
        );
    }
}

fn show_restore(restore: &Restore, output: Output) {
    let what = match restore.what {
        What::Newest => "the newest state".to_owned(),
        What::Random => "an earlier state".to_owned(),
        What::Snapshot => match &restore.snapshot {
            Some(id) => format!("the snapshot {id}"),
            None => "the newest snapshot".to_owned(),
        },
    };
    let what = match restore.record {
        Some(record) => format!("{what}, record {}", record.number),
        None => what,
    };
    let side = match restore.side {
        Side::Primary => "",
        Side::Replica => "the copy ",
    };
    let problems = restore.problems.len() as u64 + restore.more_problems;
    if problems == 0 {
        output.line(format!(
            "ok       {what}, from {side}{}: {}",
            restore.from,
            count(restore.entries, "entry").replace("entrys", "entries"),
        ));
        return;
    }
    if output.json {
        return;
    }
    complain(&format!(
        "DIFFERS  {what}, from {side}{}: {}",
        restore.from,
        count(problems, "problem")
    ));
    for problem in &restore.problems {
        let reason = problem.reason.escape_debug();
        complain(&match &problem.path {
            Some(path) => format!("         {}: {reason}", path.as_str().escape_debug()),
            None => format!("         {reason}"),
        });
    }
    if restore.more_problems > 0 {
        complain(&format!("         and {} more", restore.more_problems));
    }
}

/// How the newest drill of a repository stands.
#[derive(Debug, Serialize)]
pub(super) struct Freshness {
    of: String,
    /// Whether it passed and is new enough.
    pub(super) ok: bool,
    time: Option<Timestamp>,
    passed: Option<bool>,
    /// The same for people.
    pub(super) said: String,
}

impl Freshness {
    pub(super) fn of(of: String, newest: Option<&Receipt>, now: Timestamp, max: Duration) -> Self {
        let Some(receipt) = newest else {
            return Self {
                ok: false,
                time: None,
                passed: None,
                said: "no drill was ever made".to_owned(),
                of,
            };
        };
        let age = now.as_millis().saturating_sub(receipt.time.as_millis());
        let age = Duration::from_millis(u64::try_from(age).unwrap_or_default());
        let verdict = if receipt.passed { "passed" } else { "FAILED" };
        Self {
            ok: receipt.passed && !is_older(receipt.time, now, max),
            time: Some(receipt.time),
            passed: Some(receipt.passed),
            said: format!("the newest drill {verdict} {} ago", duration::show(age)),
            of,
        }
    }
}

/// The newer one of two.
pub(super) fn newer(one: Option<Receipt>, other: Option<Receipt>) -> Option<Receipt> {
    one.into_iter().chain(other).max_by_key(|it| it.time)
}

async fn check(
    args: &DrillArgs,
    store: Option<&str>,
    global: &GlobalArgs,
    output: Output,
) -> Result<Exit> {
    let max = args.max_age.unwrap_or(OVERDUE);
    let now = SystemClock.now();
    let fresh = |of, newest: Option<Receipt>| Freshness::of(of, newest.as_ref(), now, max);
    let mut found = Vec::new();
    if let Some(store) = store {
        let location = named_store(store)?;
        let (store, _) = open_source(&location).await?;
        if holds_gateway(&store, &location).await? {
            let (clock, entropy) = system();
            for (name, place) in every_repository(&store, clock, entropy).await? {
                // One that nobody has used yet has nothing to restore.
                if !place.store.list_first("log", "log").await?.is_empty() {
                    found.push(fresh(name, Receipt::newest(&place.store).await?));
                }
            }
        } else {
            found.push(fresh(location.to_string(), Receipt::newest(&store).await?));
        }
    } else {
        let workspace = find_workspace(&global.directory()?)?;
        let Some(link) = workspace.settings().link.clone() else {
            bail!(
                "{} is not linked with a repository; `statehold link URL` does that",
                workspace.root().display()
            );
        };
        let in_store = match store_of(&link.url)? {
            Some(location) => Receipt::newest(&open_source(&location).await?.0).await?,
            None => None,
        };
        let newest = newer(drills::newest(&workspace)?, in_store);
        found.push(fresh(link.url, newest));
    }
    for one in &found {
        let line = format!("{}: {}", one.of, one.said);
        if one.ok {
            output.line(format!("ok       {line}"));
        } else {
            complain(&format!("OVERDUE  {line}"));
        }
    }
    let is_good = found.iter().all(|one| one.ok);
    if !is_good {
        complain(&format!(
            "a drill may be {} old; `statehold drill` makes one now",
            duration::show(max)
        ));
    }
    output.value(&json!({"ok": is_good, "repositories": found}));
    Ok(if is_good { Exit::Done } else { Exit::Refused })
}
