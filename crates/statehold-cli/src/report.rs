//! What a run came to, for people, for scripts and for the event log.

use std::time::Duration;

use anyhow::Result;
use statehold_core::bands::TOO_LARGE;
use statehold_core::environment::Clock as _;
use statehold_core::event::{Event, Outcome};
use statehold_core::plan::{Action, Conflict, ConflictKind};
use statehold_sync::engine::{EngineError, Report, RunOptions};
use statehold_sync::scan::{SkipReason, Skipped};

use crate::connection::Connection;
use crate::environment::SystemClock;
use crate::output::{Output, complain, size};

/// Paths that are shown before "and so many more".
pub(crate) const SHOWN_PATHS_MAX: usize = 20;

/// A step, on a line of its own.
pub(crate) fn show_action(action: &Action) -> String {
    let verb = match action {
        Action::Upload(_) => "send",
        Action::DeleteRemote(_) => "delete there",
        Action::Download(_) => "receive",
        Action::DeleteLocal(_) => "delete here",
    };
    format!("  {verb:<13} {}", action.path().as_str().escape_debug())
}

/// A conflict, on a line of its own.
pub(crate) fn show_conflict(conflict: &Conflict) -> String {
    let kind = match conflict.kind {
        ConflictKind::BothChanged => "changed on both sides",
        ConflictKind::ChangedHereDeletedThere => "changed here, deleted there",
        ConflictKind::DeletedHereChangedThere => "deleted here, changed there",
        ConflictKind::FileInTheWay => "a file on one side, a folder on the other",
    };
    format!(
        "  conflict      {}: {kind}",
        conflict.path.as_str().escape_debug()
    )
}

/// Something that can't travel although no rule says so, on a line of its own. What the user's own
/// rules leave out is no news.
pub(crate) fn show_skipped(skipped: &Skipped) -> Option<String> {
    let why = match &skipped.reason {
        SkipReason::Denied { .. } | SkipReason::Ignored | SkipReason::DatabaseSidecar => {
            return None;
        }
        SkipReason::Uncovered { prefix } => {
            format!("beneath {prefix}, and sync-rules.json does not name it")
        }
        SkipReason::NotUtf8 => "its name is not UTF-8; rename it".into(),
        SkipReason::InvalidPath { message } => message.clone(),
        SkipReason::NotAFile => "a socket, a pipe or a device".into(),
        SkipReason::LinkOutside { target } => format!(
            "a link that leads outside the workspace, to {}",
            target.escape_debug()
        ),
        SkipReason::Unreadable { message } => message.clone(),
    };
    Some(format!(
        "  left out      {}: {why}",
        skipped.path.escape_debug()
    ))
}

/// Shows what a run came to.
pub(crate) fn show_report(verb: &str, report: &Report, output: Output) {
    if !report.too_large.is_empty() && !output.json {
        for file in &report.too_large {
            complain(&format!(
                "{}: {} bytes, the limit is {}",
                file.path.as_str().escape_debug(),
                file.size,
                file.limit
            ));
        }
        complain(TOO_LARGE);
    }
    for action in report.actions.iter().take(SHOWN_PATHS_MAX) {
        output.line(show_action(action));
    }
    if report.actions.len() > SHOWN_PATHS_MAX {
        output.line(format!(
            "  … and {} more",
            report.actions.len() - SHOWN_PATHS_MAX
        ));
    }
    report
        .conflicts
        .iter()
        .for_each(|conflict| output.line(show_conflict(conflict)));
    for path in &report.busy {
        output.line(format!(
            "  busy          {}: changed meanwhile; the next run takes it",
            path.as_str().escape_debug()
        ));
    }
    for (path, why) in &report.failed {
        output.line(format!(
            "  failed        {}: {why}",
            path.as_str().escape_debug()
        ));
    }
    let skipped: Vec<String> = report.skipped.iter().filter_map(show_skipped).collect();
    skipped
        .iter()
        .take(SHOWN_PATHS_MAX)
        .for_each(|line| output.line(line));
    for path in &report.set_aside {
        output.line(format!("  set aside     {}", path.display()));
    }
    let at = report.after.map_or(0, |record| record.number);
    output.line(match report.outcome {
        Outcome::Nothing => format!("{verb}: nothing to do, at record {at}"),
        Outcome::Done => {
            format!(
                "{verb}: {} files, {}, now at record {at}",
                report.files,
                size(report.bytes)
            )
        }
        Outcome::Dry => format!("{verb}: {} files would move", report.files),
        Outcome::Refused => format!("{verb}: refused, nothing was sent"),
        Outcome::Conflict => format!(
            "{verb}: {} conflicts; both sides are as they were. \
             `statehold pull --on-conflict local|remote|newest` decides",
            report.conflicts.len()
        ),
        Outcome::Partial => format!(
            "{verb}: {} files, {}, some were left out, now at record {at}",
            report.files,
            size(report.bytes)
        ),
        Outcome::Deferred => format!("{verb}: left to a later run"),
        Outcome::Failed => format!("{verb}: failed"),
    });
    output.value(report);
}

/// Adds the call's row to the event log.
pub(crate) fn record_event(
    connection: &Connection,
    verb: &str,
    options: &RunOptions,
    trigger: &str,
    took: Duration,
    result: Result<&Report, &EngineError>,
) -> Result<()> {
    let workspace = connection.engine.workspace();
    let settings = workspace.settings();
    let id = |record: Option<statehold_core::record::RecordRef>| record.map(|record| record.id);
    let mut event = Event {
        ts: SystemClock.now(),
        op: verb.into(),
        repo: settings
            .link
            .as_ref()
            .map(|link| link.repository.clone())
            .unwrap_or_default(),
        scope: options.scope.name().into(),
        files: 0,
        bytes: 0,
        dur_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        manifest_before: None,
        manifest_after: None,
        trigger: trigger.into(),
        machine: settings.machine.name.clone(),
        outcome: Outcome::Failed,
        error: None,
        paths: None,
    };
    match result {
        Ok(report) => {
            event.files = report.files;
            event.bytes = report.bytes;
            event.manifest_before = id(report.before);
            event.manifest_after = id(report.after);
            event.outcome = report.outcome;
            event.error = problem(report);
            let paths = report
                .actions
                .iter()
                .map(|action| action.path().to_string());
            event.paths = (report.outcome == Outcome::Dry).then(|| paths.collect());
        }
        Err(error) => {
            let before = connection.known;
            (event.manifest_before, event.manifest_after) = (id(before), id(before));
            event.error = Some(format!("{error:#}"));
            if matches!(
                error,
                EngineError::Remote(statehold_repository::Error::Refused { .. })
            ) {
                event.outcome = Outcome::Refused;
            }
        }
    }
    workspace.make_log_folder(&workspace.folder()?)?;
    workspace.events().append(&event)?;
    Ok(())
}

/// What a row's `error` says about a run that ended with a report.
fn problem(report: &Report) -> Option<String> {
    let mut problems = Vec::new();
    let mut count = |number: usize, what: &str| {
        if number > 0 {
            problems.push(format!("{number} {what}"));
        }
    };
    count(report.conflicts.len(), "conflicts");
    count(report.too_large.len(), "files too large");
    count(report.busy.len(), "files busy");
    count(report.failed.len(), "paths failed");
    (!problems.is_empty()).then(|| problems.join(", "))
}
