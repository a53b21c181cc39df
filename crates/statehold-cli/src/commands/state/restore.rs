//! `statehold state restore`: values as they were at an earlier record, brought back by new events.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use statehold_core::entry::Entry;
use statehold_core::node_logs::{NODE_LOGS, is_node_log};
use statehold_core::state::State;
use statehold_repository::remote::load_at;
use statehold_repository::{Remote, Whereabouts};
use statehold_state::{CarriedFolder, Collection, Manager};

use super::super::{GlobalArgs, block_on};
use super::opened::{Make, Opened, strategies};
use super::shown;
use crate::comparison::content_of;
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, complain};
use crate::when::When;

/// Bring states back as they were at an earlier record
#[derive(Debug, Args)]
#[command(
    after_help = "It makes new edits, which the next push sends; no log is ever shortened, so this too can be taken
back. `statehold rollback` and `statehold undo` leave states as they are.

Examples:
  statehold state restore --at before-the-rewrite --dry
  statehold state restore app --collection settings --at \"2 hours ago\""
)]
pub(super) struct RestoreArgs {
    /// One state only
    id: Option<String>,
    /// One collection only; that of the state if one is named
    #[arg(short, long, value_name = "NAME")]
    collection: Option<String>,
    /// As it was then: a record's number, a snapshot, a time or an age
    #[arg(long, value_name = "WHEN")]
    at: When,
    /// Show what would change
    #[arg(long)]
    dry: bool,
}

/// A state that is another one than it was.
#[derive(Debug, Serialize)]
struct Difference {
    collection: String,
    id: String,
    /// What comes back; nothing where there was no such state.
    value: Option<Value>,
}

pub(super) fn run(args: &RestoreArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let brought = tempfile::tempdir().context("there is no place for what was")?;
    let number = block_on(async {
        let connection = Connection::of(workspace, output, None).await?;
        let newest = connection.engine.remote_state().await?;
        let state = load_at(&*connection.remote, args.at.point(&newest)?).await?;
        bring(&state, &*connection.remote, brought.path()).await?;
        Ok(state.head.number)
    })?;
    let past = Manager::in_memory()?;
    let received = CarriedFolder::at(brought.path().join(NODE_LOGS)).receive(&past)?;
    for file in received.refused {
        complain(&format!(
            "note: at record {number} {} was damaged: {}",
            file.path.display(),
            file.why
        ));
    }
    let opened = Opened::open(global, Make::Yes)?;
    let differences = compare(args, &past, &opened)?;
    for difference in &differences {
        let verb = match difference.value {
            Some(_) => "put back",
            None => "take away",
        };
        output.line(format!(
            "  {verb:<13} {}  {}",
            shown::key(&difference.collection, &difference.id),
            shown::value(difference.value.as_ref())
        ));
    }
    if differences.is_empty() {
        output.line(format!("nothing is other than at record {number}"));
    }
    if !args.dry && !differences.is_empty() {
        write(&differences, &opened)?;
    }
    opened.publish()?;
    output.value(&differences);
    Ok(Exit::Done.into())
}

/// Brings what was carried at a record into a folder.
async fn bring(state: &State, remote: &dyn Remote, folder: &Path) -> Result<()> {
    let whereabouts = Whereabouts::of(state.head);
    for (path, entry) in state.tree.iter() {
        let Entry::File(file) = entry else { continue };
        if !is_node_log(path) {
            continue;
        }
        let place = folder.join(path.as_str());
        let make = || -> std::io::Result<fs::File> {
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::File::create(&place)
        };
        let mut copy = make().with_context(|| format!("could not write {}", place.display()))?;
        content_of(file, remote, &whereabouts, |piece| {
            copy.write_all(piece)
                .with_context(|| format!("could not write {}", place.display()))
        })
        .await?;
    }
    Ok(())
}

/// What is wanted and other than it was.
fn compare(args: &RestoreArgs, past: &Manager, opened: &Opened) -> Result<Vec<Difference>> {
    let only = match (&args.collection, &args.id) {
        (Some(collection), _) => Some(collection.as_str()),
        (None, Some(_)) => Some("default"),
        (None, None) => None,
    };
    let then = strategies(past)?;
    let names: BTreeSet<String> = past
        .collections()?
        .into_iter()
        .chain(opened.manager.collections()?)
        .filter(|name| !name.starts_with('.') && only.is_none_or(|only| only == name))
        .collect();
    let mut differences = Vec::new();
    for name in names {
        let strategy = then.get(&name).cloned().unwrap_or_default();
        let was: Collection<Value> = past.collection(&name, strategy)?;
        let is = opened.existing(&name);
        let ids_now = is.map_or_else(|| Ok(Vec::new()), Collection::ids)?;
        let ids: BTreeSet<String> = was.ids()?.into_iter().chain(ids_now).collect();
        for id in ids {
            if args.id.as_ref().is_some_and(|only| *only != id) {
                continue;
            }
            let value = was.get(&id)?.map(|state| state.data);
            let now = is.map_or(Ok(None), |is| is.get(&id))?;
            if value != now.map(|state| state.data) {
                let collection = name.clone();
                differences.push(Difference {
                    collection,
                    id,
                    value,
                });
            }
        }
    }
    Ok(differences)
}

/// Writes all of it at once.
fn write(differences: &[Difference], opened: &Opened) -> Result<()> {
    let mut changes = Vec::new();
    for difference in differences {
        changes.push((opened.collection(&difference.collection)?, difference));
    }
    opened.manager.batch(|batch| {
        for (collection, Difference { id, value, .. }) in &changes {
            match value {
                Some(value) => batch.put(collection, id, value)?,
                None => batch.delete(collection, id).map(drop)?,
            }
        }
        Ok(())
    })?;
    Ok(())
}
