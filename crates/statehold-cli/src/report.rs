//! What a run came to, for people, for scripts and for the event log.

use std::time::Duration;

use anyhow::Result;
use statehold_core::bands::TOO_LARGE;
use statehold_core::environment::Clock as _;
use statehold_core::event::{Event, Outcome};
use statehold_core::path::RepoPath;
use statehold_core::plan::{Action, Conflict, ConflictKind};
use statehold_core::record::RecordRef;
use statehold_core::rules::SHARED_RULES_PATH;
use statehold_core::scope::Scope;
use statehold_core::secrets::Finding;
use statehold_core::time::Timestamp;
use statehold_repository::Error as RepositoryError;
use statehold_sync::engine::{EngineError, Report, RunOptions};
use statehold_sync::scan::{SkipReason, Skipped};
use statehold_sync::workspace::Workspace;

use crate::connection::known_records;
use crate::environment::SystemClock;
use crate::output::{Output, complain, count, size};

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

/// Most bytes of a path that a line shows.
const SHOWN_PATH_BYTES_MAX: usize = 200;

/// The end of a path that is too long to be read on a line.
fn shortened(path: &str) -> String {
    let start = path.len().saturating_sub(SHOWN_PATH_BYTES_MAX);
    match start {
        0 => path.to_owned(),
        start => format!("…{}", &path[path.ceil_char_boundary(start)..]),
    }
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
        SkipReason::Store => "a store of repositories; keep it outside the workspace".into(),
        SkipReason::NotAFile => "a socket, a pipe or a device".into(),
        SkipReason::LinkOutside { target } => format!(
            "a link that leads outside the workspace, to {}",
            target.escape_debug()
        ),
        SkipReason::Unreadable { message } => message.clone(),
    };
    Some(format!(
        "  left out      {}: {why}",
        shortened(&skipped.path).escape_debug()
    ))
}

/// A secret, on a line of its own. What it is stays where it was found.
fn show_finding(path: &RepoPath, finding: &Finding) -> String {
    let rule = &finding.rule;
    let article = match rule.as_bytes().first() {
        Some(b'A' | b'E' | b'I' | b'O' | b'a') => "an",
        _ => "a",
    };
    let path = path.as_str().escape_debug();
    format!("{path}:{}: looks like {article} {rule}", finding.line)
}

/// What was kept from being sent for one reason, and what to do about it.
pub(crate) struct KeptBack {
    /// A line for each.
    pub(crate) lines: Vec<String>,
    /// The next step.
    pub(crate) advice: String,
}

/// What was kept from being sent by what it is.
pub(crate) fn kept_back(report: &Report) -> Vec<KeptBack> {
    let too_large = report.too_large.iter().map(|file| {
        format!(
            "{}: {} bytes, the limit is {}",
            file.path.as_str().escape_debug(),
            file.size,
            file.limit
        )
    });
    let reserved = report.reserved.iter().map(|path| {
        format!(
            "{}: changed with a key of role own only",
            path.as_str().escape_debug()
        )
    });
    let against_rules = report
        .against_rules
        .iter()
        .filter_map(|Skipped { path, reason }| {
            let why = match reason {
                SkipReason::Denied { glob } => format!("{glob} denies it"),
                SkipReason::Uncovered { prefix } => {
                    format!("beneath {prefix} only what they name is sent")
                }
                _ => return None,
            };
            Some(format!(
                "{}: against the rules of the repository: {why}",
                shortened(path).escape_debug()
            ))
        });
    let secrets = report.secrets.iter().flat_map(|file| {
        let findings = file.findings.iter();
        findings.map(|finding| show_finding(&file.path, finding))
    });
    let group = |lines: Vec<String>, advice: &str| KeptBack {
        lines,
        advice: advice.to_owned(),
    };
    let mut groups = vec![
        group(too_large.collect(), TOO_LARGE),
        group(
            reserved.collect(),
            "push it with STATEHOLD_KEY set to such a key, or link this machine anew with an invite \
             of that role: `statehold admin invite --role own`",
        ),
        group(
            against_rules.collect(),
            &format!(
                "ask an owner of the repository to allow it in {SHARED_RULES_PATH}, \
                 or name it in .stateholdignore to keep it on this machine"
            ),
        ),
        group(
            secrets.collect(),
            "take the secrets out, or send a file all the same with `--allow-secret PATH`, \
             or name it in .stateholdignore to keep it on this machine",
        ),
    ];
    groups.retain(|group| !group.lines.is_empty());
    groups
}

/// Shows what a run came to.
pub(crate) fn show_report(verb: &str, report: &Report, output: Output) {
    if !output.json {
        for KeptBack { lines, advice } in kept_back(report) {
            lines.iter().for_each(|line| complain(line));
            complain(&advice);
        }
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
    if let Some(first) = report.out_of_scope.first() {
        output.line(format!(
            "  out of scope  {}: not sent; --scope program, sources or all sends {}",
            match report.out_of_scope.len() {
                1 => first.as_str().escape_debug().to_string(),
                more => format!("{} and {} more", first.as_str().escape_debug(), more - 1),
            },
            if report.out_of_scope.len() == 1 {
                "it"
            } else {
                "them"
            }
        ));
    }
    if let (Some(why), false) = (&report.unsent, output.json) {
        complain(&format!("nothing was sent: {why}"));
    }
    let at = report.after.map_or(0, |record| record.number);
    output.line(match report.outcome {
        Outcome::Nothing => format!("{verb}: nothing to do, at record {at}"),
        Outcome::Done => {
            format!(
                "{verb}: {}, {}, now at record {at}",
                count(report.files, "file"),
                size(report.bytes)
            )
        }
        Outcome::Dry if report.would_end == Some(Outcome::Refused) => {
            format!("{verb}: would be refused, nothing would be sent")
        }
        Outcome::Dry if report.would_end.is_some() => format!(
            "{verb}: {}; nothing would be sent",
            count(report.conflicts.len() as u64, "conflict")
        ),
        Outcome::Dry => format!("{verb}: {} would move", count(report.files, "file")),
        Outcome::Refused => format!("{verb}: refused, nothing was sent"),
        Outcome::Conflict => {
            let conflicts = count(report.conflicts.len() as u64, "conflict");
            let decides = "`statehold sync --on-conflict local|remote|newest` decides";
            match report.files {
                0 => format!("{verb}: {conflicts}; both sides are as they were. {decides}"),
                files => format!(
                    "{verb}: {}, {}, now at record {at}; {conflicts}, and there both sides are as \
                     they were. {decides}",
                    count(files, "file"),
                    size(report.bytes)
                ),
            }
        }
        Outcome::Partial => format!(
            "{verb}: {}, {}, some were left out, now at record {at}",
            count(report.files, "file"),
            size(report.bytes)
        ),
        Outcome::Deferred => format!("{verb}: left to a later run"),
        Outcome::Failed => format!("{verb}: failed"),
    });
    output.value(report);
}

/// What a row says about the call itself, whatever it came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The verb.
    pub(crate) verb: &'a str,
    /// What was to be done.
    pub(crate) options: &'a RunOptions,
    /// What set it off.
    pub(crate) trigger: &'a str,
    /// The record that had landed before.
    pub(crate) landed: Option<RecordRef>,
}

/// The newest record when something last landed in a workspace or was sent.
pub(crate) fn landed(workspace: &Workspace) -> Option<RecordRef> {
    known_records(workspace)?.landed
}

/// How a call ended.
pub(crate) enum Ended<'a> {
    /// With a report.
    Reported(&'a Report),
    /// Early.
    Failed(&'a anyhow::Error),
    /// Before it began: another one came shortly before.
    Deferred,
}

/// What a call left in the log that is no push.
#[derive(Default)]
pub(crate) struct Appended {
    /// Files that it is about.
    pub(crate) files: u64,
    /// The newest record before.
    pub(crate) before: Option<RecordRef>,
    /// The record it left.
    pub(crate) after: Option<RecordRef>,
}

/// Adds the row of a call that works on the repository alone.
pub(crate) fn record_append(
    workspace: &Workspace,
    verb: &str,
    took: Duration,
    result: Result<Appended, &anyhow::Error>,
) -> Result<()> {
    let mut event = row(workspace, verb, took);
    let id = |record: Option<RecordRef>| record.map(|record| record.id);
    match result {
        Ok(appended) => {
            event.files = appended.files;
            event.manifest_before = id(appended.before);
            event.manifest_after = id(appended.after);
            event.outcome = match appended.before == appended.after {
                true => Outcome::Nothing,
                false => Outcome::Done,
            };
        }
        Err(error) => {
            event.outcome = outcome_of_error(error);
            event.error = Some(format!("{error:#}"));
        }
    }
    write(workspace, &event)
}

/// A row that says nothing yet about what the call came to.
fn row(workspace: &Workspace, verb: &str, took: Duration) -> Event {
    let settings = workspace.settings();
    let now = SystemClock.now().as_millis();
    let began = now.saturating_sub(i64::try_from(took.as_millis()).unwrap_or(0));
    let link = settings.link.as_ref();
    Event {
        ts: Timestamp::from_millis(began),
        op: verb.into(),
        repo: link.map(|link| link.repository.clone()).unwrap_or_default(),
        scope: Scope::All.name().into(),
        files: 0,
        bytes: 0,
        dur_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        manifest_before: None,
        manifest_after: None,
        trigger: "manual".into(),
        machine: settings.machine.name.clone(),
        outcome: Outcome::Deferred,
        error: None,
        paths: None,
    }
}

fn write(workspace: &Workspace, event: &Event) -> Result<()> {
    workspace.make_log_folder(&workspace.folder()?)?;
    workspace.events().append(event)?;
    Ok(())
}

/// Adds the call's row to the event log of the workspace.
pub(crate) fn record_event(
    workspace: &Workspace,
    call: Call<'_>,
    took: Duration,
    ended: &Ended<'_>,
) -> Result<()> {
    let id = |record: Option<RecordRef>| record.map(|record| record.id);
    let mut event = row(workspace, call.verb, took);
    event.scope = call.options.scope.name().into();
    event.trigger = call.trigger.into();
    match ended {
        Ended::Reported(report) => {
            event.files = report.files;
            event.bytes = report.bytes;
            event.manifest_before = id(report.before);
            let moved = report.outcome != Outcome::Dry && report.files > 0;
            event.manifest_after = id(if moved {
                landed(workspace)
            } else {
                report.before
            });
            event.outcome = report.outcome;
            event.error = problem(report);
            let paths = report
                .actions
                .iter()
                .map(|action| action.path().to_string());
            event.paths = (report.outcome == Outcome::Dry).then(|| paths.collect());
        }
        Ended::Failed(error) => {
            // What had landed before it failed stays.
            event.manifest_before = id(call.landed);
            event.manifest_after = id(landed(workspace));
            event.outcome = outcome_of_error(error);
            event.error = Some(format!("{error:#}"));
        }
        // It has to be quick, so nobody looked what the workspace knows.
        Ended::Deferred => {}
    }
    write(workspace, &event)
}

fn outcome_of_error(error: &anyhow::Error) -> Outcome {
    let found = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<EngineError>() {
            Some(EngineError::Remote(error)) => Some(error),
            _ => cause.downcast_ref::<RepositoryError>(),
        });
    match found {
        Some(RepositoryError::Refused { .. } | RepositoryError::Denied { .. }) => Outcome::Refused,
        Some(RepositoryError::Conflict { .. }) => Outcome::Conflict,
        _ => Outcome::Failed,
    }
}

/// What a row's `error` says about a run that ended with a report.
fn problem(report: &Report) -> Option<String> {
    let mut problems = Vec::new();
    let mut add = |number: usize, one: &str, rest: &str| {
        if number > 0 {
            problems.push(format!("{}{rest}", count(number as u64, one)));
        }
    };
    add(report.conflicts.len(), "conflict", "");
    add(report.too_large.len(), "file", " too large");
    add(
        report.secrets.len(),
        "file",
        " with what looks like a secret",
    );
    add(
        report.reserved.len(),
        "file",
        " that only an owner may change",
    );
    add(
        report.against_rules.len(),
        "path",
        " against the rules of the repository",
    );
    add(report.busy.len(), "file", " busy");
    add(report.failed.len(), "path", " failed");
    if let Some(why) = &report.unsent {
        problems.push(format!("nothing was sent: {why}"));
    }
    (!problems.is_empty()).then(|| problems.join(", "))
}
