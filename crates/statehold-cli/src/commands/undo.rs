//! `statehold undo`: takes back the last push or pull of this machine.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::event::{Event, Outcome};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Kind, RecordRef};
use statehold_core::scope::Scope;
use statehold_core::state::State;
use statehold_repository::remote::load_at;
use statehold_sync::engine::Pulled;
use statehold_sync::workspace::Workspace;

use super::log::Backwards;
use super::rollback::{bring_here, done_value, finish, record, show_plan};
use super::{GlobalArgs, block_on};
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, complain, count};
use crate::report::{Appended, SHOWN_PATHS_MAX, record_append};
use crate::when::local;

/// Take back the last push or pull of this machine
#[derive(Debug, Args)]
#[command(
    after_help = "A push is taken back in the repository, by a record that can itself be undone, and then here. Paths
that others have changed since stay as they are.
A pull is taken back in this folder only: it is again as it was before, and the next push would send that.

Examples:
  statehold undo --dry
  statehold undo"
)]
pub(crate) struct UndoArgs {
    /// Show what would be taken back
    #[arg(long)]
    dry: bool,
}

/// Records looked at for the beginning and end of a call.
const RECORDS_BACK_MAX: u64 = 4_096;

/// What a call did.
struct Last {
    event: Event,
    /// The newest record before it.
    before: RecordRef,
    /// Records of this machine that it left, the newest first.
    own: Vec<(u64, BTreeSet<RepoPath>)>,
    /// The newest record after it.
    after: RecordRef,
}

pub(super) fn run(args: &UndoArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let Some(event) = last_call(&workspace)? else {
        bail!("nothing was pushed or pulled here, as far as the event log tells");
    };
    let last = block_on(find(&workspace, event))?;
    output.line(format!(
        "The {} of {}: record {} to {}.",
        last.event.op,
        local(last.event.ts),
        last.before.number,
        last.after.number
    ));
    if last.own.is_empty() {
        return undo_pull(&last, &workspace, args, output);
    }
    undo_push(&last, &workspace, args, output)
}

/// The newest row of something that moved files.
fn last_call(workspace: &Workspace) -> Result<Option<Event>> {
    let moved = |event: &Event| {
        matches!(
            event.op.as_str(),
            "push" | "pull" | "sync" | "rollback" | "undo"
        ) && matches!(
            event.outcome,
            Outcome::Done | Outcome::Partial | Outcome::Conflict
        ) && event.files > 0
            // A pull that was taken back is no call of its own.
            && (event.op != "undo" || event.manifest_before != event.manifest_after)
    };
    Ok(workspace.events().newest(moved)?)
}

/// Finds the records that a call began and ended with.
async fn find(workspace: &Workspace, event: Event) -> Result<Last> {
    let connection = Connection::of(workspace.clone(), Output::default(), None).await?;
    let own_machine = workspace.settings().machine.id;
    let newest = connection.engine.remote_state().await?.head.number;
    let genesis = connection.remote.description().1;
    let (wanted_after, wanted_before) = (event.manifest_after, event.manifest_before);
    let mut records = Backwards::from(&*connection.remote, newest);
    let (mut after, mut own) = (None, Vec::new());
    for _ in 0..RECORDS_BACK_MAX {
        let Some(stored) = records.next().await? else {
            break;
        };
        let reference = stored.record.reference();
        if is(wanted_after, reference.id) {
            after = Some(reference);
        }
        let Some(after) = after else { continue };
        if is(wanted_before, reference.id) {
            let before = reference;
            return Ok(Last {
                event,
                before,
                own,
                after,
            });
        }
        let envelope = &stored.record.envelope;
        let is_push = matches!(envelope.draft.kind, Kind::Push | Kind::Rollback);
        if let Some(changes) = stored.record.body.changes()
            && is_push
            && envelope.draft.machine == own_machine
        {
            own.push((envelope.number, changes.paths().cloned().collect()));
        }
        if reference.number == 1 && (wanted_before.is_none() || is(wanted_before, genesis)) {
            let before = RecordRef {
                number: 0,
                id: genesis,
            };
            return Ok(Last {
                event,
                before,
                own,
                after,
            });
        }
    }
    bail!(
        "the {} of {} is not among the newest {RECORDS_BACK_MAX} records; `statehold rollback --to` \
         brings back any of them",
        event.op,
        local(event.ts)
    )
}

fn is(wanted: Option<Digest>, id: Digest) -> bool {
    wanted == Some(id)
}

fn undo_push(
    last: &Last,
    workspace: &Workspace,
    args: &UndoArgs,
    output: Output,
) -> Result<ExitCode> {
    let started = Instant::now();
    let (Some((newest, _)), Some((oldest, _))) = (last.own.first(), last.own.last()) else {
        bail!("nothing was pushed");
    };
    let touched: BTreeSet<&RepoPath> = last.own.iter().flat_map(|(_, paths)| paths).collect();
    let planned = block_on(async {
        let connection = Connection::of(workspace.clone(), Output::default(), None).await?;
        let remote = &*connection.remote;
        let before = load_at(remote, Point::Record(oldest.saturating_sub(1))).await?;
        let after = load_at(remote, Point::Record(*newest)).await?;
        let present = connection.engine.remote_state().await?;
        // What others made of a path since is theirs.
        let is_ours = |path: &RepoPath| {
            let at = |state: &State| state.tree.get(path.as_str()).map(Entry::signature);
            at(&after) == at(&present)
        };
        let (ours, theirs): (Vec<&RepoPath>, Vec<&RepoPath>) =
            touched.iter().partition(|path| is_ours(path));
        let ours: BTreeSet<RepoPath> = ours.into_iter().cloned().collect();
        let theirs: Vec<RepoPath> = theirs.into_iter().cloned().collect();
        let engine = &connection.engine;
        let plan = engine.plan_rollback(&before, |path| ours.contains(path));
        Ok((plan.await?, before, ours, theirs))
    })?;
    let (plan, before, ours, theirs) = planned;
    show_plan(&plan, output);
    for path in &theirs {
        complain(&format!(
            "{}: changed since, left as it is",
            path.as_str().escape_debug()
        ));
    }
    if args.dry || plan.back.is_empty() {
        let outcome = if args.dry {
            Outcome::Dry
        } else {
            Outcome::Nothing
        };
        output.value(&json!({"outcome": outcome, "op": last.event.op, "changed_since": theirs}));
        return Ok(Exit::Done.into());
    }
    let result = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        let engine = &connection.engine;
        Ok(engine.rollback(&before, |path| ours.contains(path)).await?)
    });
    record(workspace, "undo", started, &result)?;
    let Some(done) = result? else {
        output.line("Nothing is left of it.");
        return Ok(Exit::Done.into());
    };
    output.line(format!(
        "Taken back with record {}. What was there before is the snapshot {}.",
        done.record.number, done.before
    ));
    let report = bring_here(workspace, output)?;
    output.value(&done_value(&plan, &done, &report));
    Ok(finish(&report, output))
}

fn undo_pull(
    last: &Last,
    workspace: &Workspace,
    args: &UndoArgs,
    output: Output,
) -> Result<ExitCode> {
    let started = Instant::now();
    let result = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        let remote = &*connection.remote;
        let pulled = Pulled {
            ts: last.event.ts,
            scope: last.event.scope.parse().unwrap_or(Scope::All),
            before: load_at(remote, Point::Record(last.before.number)).await?,
            after: load_at(remote, Point::Record(last.after.number)).await?,
        };
        Ok(connection.engine.take_back(&pulled, args.dry).await?)
    });
    if !args.dry {
        let appended = result.as_ref().map(|taken| Appended {
            files: taken.paths.len() as u64,
            before: Some(last.after),
            after: Some(last.after),
        });
        record_append(workspace, "undo", started.elapsed(), appended)?;
    }
    let taken = result?;
    for path in taken.paths.iter().take(SHOWN_PATHS_MAX) {
        output.line(format!("  as before     {}", path.as_str().escape_debug()));
    }
    for path in &taken.left {
        complain(&format!(
            "{}: changed here since, left as it is",
            path.as_str().escape_debug()
        ));
    }
    let paths = count(taken.paths.len() as u64, "path");
    output.line(match args.dry {
        _ if taken.paths.is_empty() => {
            "Nothing here is as that pull left it, so there is nothing to take back.".into()
        }
        true => format!("{paths} would be as before."),
        false => format!(
            "{paths} as before, in this folder only. `statehold push` would make that so for \
             every machine."
        ),
    });
    let outcome = if args.dry {
        Outcome::Dry
    } else {
        Outcome::Done
    };
    output.value(&json!({
        "outcome": outcome, "op": last.event.op, "paths": taken.paths, "changed_since": taken.left,
    }));
    Ok(Exit::Done.into())
}
