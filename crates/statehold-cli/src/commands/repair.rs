//! `statehold repair`: brings damaged and missing objects back from a copy, from the log, or from the
//! files of a workspace.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use statehold_core::environment::Clock as _;
use statehold_repository::lease::LEASE_PERIOD;
use statehold_repository::store::Store;
use statehold_repository::verify::places::{Place, Places, find};
use statehold_repository::verify::repair::{Held, Origin, Outcome, Sources, repair};
use statehold_repository::verify::subset::Share;
use statehold_repository::verify::{Unwatched, Watch};
use statehold_sync::held::HeldContent;
use statehold_sync::workspace::Workspace;

use super::verify::{remember, show_damaged};
use super::{GlobalArgs, block_on};
use crate::connection::open_store_to_serve;
use crate::environment::store_variable;
use crate::environment::{SystemClock, SystemEntropy};
use crate::exit::Exit;
use crate::output::{Output, complain, count};
use crate::places::{Addressed, addressed, name_of, named_store, open_to_look, remembered};
use crate::progress::Bars;

/// Bring damaged and missing objects of repositories back, and list what stays lost
#[derive(Debug, Args)]
#[command(
    after_help = "It reads everything, deletes nothing and touches nothing that is sound. An object is
replaced only by one that is proven; the damaged one is kept under damaged/ in the store.
Objects come from a copy (--from), from the log itself, or are made anew from the files of
the workspace you stand in. Stop the gateway first where a store is for one writer.

Examples:
  statehold repair                                    (a workspace on a folder or bucket)
  statehold repair --store s3://team-state/agents --from s3://other-region/agents
  statehold -C ~/project repair --store /srv/vault    (with that workspace's files)"
)]
pub(crate) struct RepairArgs {
    /// All repositories in this store instead of the workspace's: a folder, or a bucket as s3://,
    /// gs:// or az://; a gateway's included
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// A store that holds a copy
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
}

/// What a repair of one repository came to.
#[derive(Debug, Serialize)]
struct Row {
    /// Where it is.
    of: String,
    #[serde(flatten)]
    outcome: Outcome,
}

pub(super) fn run(args: &RepairArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let folder = global.directory()?;
    let workspace = Workspace::find(&folder).ok();
    let rows = block_on(async {
        let address = addressed(args.store.as_deref(), workspace.as_ref(), &folder, output);
        let Addressed::Straight { location, places } = address.await? else {
            bail!(
                "a gateway lets nobody replace objects; whoever runs it uses `statehold repair \
                 --store WHERE`, and this folder's files can help there"
            );
        };
        let replica = match &args.from {
            Some(text) => {
                let location = named_store(text)?;
                let store = open_to_look(&location, &store_variable)?;
                Some((find(&store).await?, store))
            }
            None => None,
        };
        let held = workspace.as_ref().map(HeldContent::of).transpose()?;
        // As a writer, which on a store for one writer needs the lease.
        let store = open_store_to_serve(&location, LEASE_PERIOD).await?;
        let lease = store.lease().cloned();
        let rows = repair_all(
            &store,
            &places,
            replica.as_ref(),
            held.as_ref(),
            |place| name_of(&location, place),
            workspace.as_ref(),
            output,
        )
        .await;
        if let Some(lease) = lease {
            lease.release().await?;
        }
        rows
    })?;
    for row in &rows {
        show(row, args.from.as_deref(), output);
    }
    let is_well = rows.iter().all(|row| row.outcome.left.is_well());
    output.value(&serde_json::json!({"well": is_well, "repositories": rows}));
    Ok(if is_well { Exit::Done } else { Exit::Damaged }.into())
}

async fn repair_all(
    store: &Store,
    places: &Places,
    replica: Option<&(Places, Store)>,
    held: Option<&HeldContent>,
    name: impl Fn(&Place) -> String,
    workspace: Option<&Workspace>,
    output: Output,
) -> Result<Vec<Row>> {
    let bars = Bars::default();
    let mut rows = Vec::new();
    for place in &places.repositories {
        let of = name(place);
        let (checks, known) = remembered(&of, workspace)?;
        let copy = replica.map(|(copies, root)| copy_of(place, places, copies, root));
        let sources = Sources {
            replica: copy.as_ref(),
            held: held.map(|held| held as &dyn Held),
        };
        let watch: &dyn Watch = if output.is_watched() {
            bars.begin_check();
            &bars
        } else {
            &Unwatched
        };
        let own = place.in_other(store);
        let outcome = repair(&own, sources, &known, &SystemEntropy, watch).await;
        bars.end_check();
        let outcome = outcome?;
        remember(checks, &outcome.left, Some(Share::WHOLE), SystemClock.now());
        rows.push(Row { of, outcome });
    }
    Ok(rows)
}

/// Where the copy of a repository lies: under the same prefix, or wherever the only one or the one of
/// that name is. What is taken from there is proven, so a wrong one does no harm.
fn copy_of(place: &Place, places: &Places, copies: &Places, root: &Store) -> Store {
    let copies = &copies.repositories;
    let name = place.prefix.rsplit('/').next().unwrap_or_default();
    let is_single = places.repositories.len() == 1 && copies.len() == 1;
    copies
        .iter()
        .find(|copy| copy.prefix == place.prefix)
        .or_else(|| {
            copies
                .iter()
                .find(|copy| !name.is_empty() && copy.prefix.ends_with(name))
        })
        .or_else(|| copies.first().filter(|_| is_single))
        .map_or_else(|| place.in_other(root), |copy| copy.store.clone())
}

fn show(row: &Row, from: Option<&str>, output: Output) {
    let Row { of, outcome } = row;
    for healed in &outcome.healed {
        let from = match healed.from {
            Origin::Replica => "from the copy",
            Origin::Segment => "from its segment",
            Origin::Workspace => "from this workspace's files",
            Origin::Log => "out of the repository itself",
        };
        let part = if healed.whole {
            "back     "
        } else {
            "partly   "
        };
        output.line(format!("{part}{} {from}", healed.key));
    }
    let left = &outcome.left;
    if !output.json {
        for damaged in &left.damaged {
            show_damaged(of, damaged);
            for version in &damaged.versions {
                let (path, record) = (version.path.as_str().escape_debug(), version.record);
                complain(&format!("lost     {path} as of record {record}"));
            }
        }
        for gap in &left.gaps {
            complain(&format!(
                "lost     the states at records {} to {}",
                gap.from, gap.to
            ));
        }
        for id in &left.lost_snapshots {
            complain(&format!("lost     the snapshot {id}, with that"));
        }
    }
    let found = outcome.found.damaged.len() + outcome.found.missing_caches.len();
    output.line(match (found, left.damaged.len()) {
        (0, _) => format!("{of}: all was well"),
        (found, 0) => format!(
            "{of}: {} brought back; all is well",
            count(found as u64, "object")
        ),
        (_, left) => {
            let left = count(left as u64, "object");
            let tried = from.map(|from| format!("{from} holds nothing that brings them back; another "));
            let tried = tried.unwrap_or_else(|| "a ".into());
            format!("{of}: {left} still damaged; {tried}copy (--from) or a workspace that holds the files may help")
        }
    });
}
