//! `statehold doctor`: looks for what is wrong or will go wrong, and says what to do about it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use statehold_core::environment::Clock as _;
use statehold_core::id::RepositoryId;
use statehold_core::limits::CLOCK_AHEAD_MS_MAX;
use statehold_core::path::RepoPath;
use statehold_core::record::RecordRef;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_core::tree::Tree;
use statehold_repository::drill::receipt::{self, Receipt};
use statehold_repository::location::StoreLocation;
use statehold_repository::remote::load;
use statehold_repository::replicate::plan::{OVERDUE, is_older};
use statehold_repository::wire::version::OWN;
use statehold_repository::{Error, Remote as _};
use statehold_sync::checks::Checks;
use statehold_sync::drills;
use statehold_sync::home::KeyError;
use statehold_sync::index::Index;
use statehold_sync::journal::Journal;
use statehold_sync::scan::{ScanOptions, SkipReason, scan};
use statehold_sync::workspace::{Link, Workspace, WorkspaceError};

use super::drill::{Freshness, newer};
use super::{GlobalArgs, block_on};
use crate::connection::{known_records, linked_client, open_linked, store_of};
use crate::duration;
use crate::environment::{SystemClock, home, variable};
use crate::output::{Output, complain, count, with_causes};
use crate::places::name_of_linked;

/// Look for what is wrong with this workspace, and say what to do about it
#[derive(Debug, Args)]
#[command(
    after_help = "It ends with the number of checks that failed, 200 at most, and with 201 if it
could not run. With --quiet, also spelled --silent, it prints nothing if all is well.

Examples:
  statehold doctor
  statehold doctor --silent || notify 'statehold needs a look'"
)]
pub(crate) struct DoctorArgs {}

/// The largest number of failed checks that an exit code tells.
const FAILED_MAX: u8 = 200;
/// The exit code when nothing could be checked.
const COULD_NOT_RUN: u8 = 201;
/// Paths named in one finding.
const NAMED_MAX: usize = 5;

/// What one check found.
#[derive(Debug, Serialize)]
struct Check {
    /// What was looked at.
    check: &'static str,
    ok: bool,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'static str>,
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Check>);

impl Findings {
    fn good(&mut self, check: &'static str, found: impl Into<String>) {
        let (ok, found, next) = (true, found.into(), None);
        self.0.push(Check {
            check,
            ok,
            found,
            next,
        });
    }

    fn bad(&mut self, check: &'static str, found: impl Into<String>, next: &'static str) {
        let (ok, found, next) = (false, found.into(), Some(next));
        self.0.push(Check {
            check,
            ok,
            found,
            next,
        });
    }

    /// Something to know that is wrong only under a condition nobody here can see.
    fn note(&mut self, check: &'static str, found: impl Into<String>, next: &'static str) {
        let (ok, found, next) = (true, found.into(), Some(next));
        self.0.push(Check {
            check,
            ok,
            found,
            next,
        });
    }

    /// A check that lists what is wrong.
    fn list(&mut self, check: &'static str, wrong: &[String], good: &str, next: &'static str) {
        if wrong.is_empty() {
            self.good(check, good);
            return;
        }
        self.bad(check, some_of(wrong), next);
    }
}

/// A list of paths, short enough to be read.
fn some_of(paths: &[String]) -> String {
    let named: Vec<&str> = paths.iter().take(NAMED_MAX).map(String::as_str).collect();
    let mut text = named.join("; ");
    if let Some(more) = paths.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

pub(super) fn run(_args: &DoctorArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let mut findings = Findings::default();
    match Workspace::find(&global.directory()?) {
        Ok(workspace) => {
            findings.good("settings", workspace.root().display().to_string());
            block_on(async {
                check_link(&workspace, &mut findings).await;
                Ok(())
            })?;
            check_folder(&workspace, &mut findings);
            check_leftovers(&workspace, &mut findings);
        }
        Err(error @ (WorkspaceError::Settings { .. } | WorkspaceError::TooNew { .. })) => {
            let next =
                "restore the file from a copy, or `statehold init` in a fresh folder and pull";
            findings.bad("settings", with_causes(&error), next);
        }
        Err(error) => {
            complain(&format!(
                "statehold: nothing could be checked: {}",
                with_causes(&error)
            ));
            output.value(&serde_json::json!({"error": with_causes(&error), "exit": COULD_NOT_RUN}));
            return Ok(COULD_NOT_RUN.into());
        }
    }
    let Findings(checks) = findings;
    for check in &checks {
        match check.next {
            Some(next) if check.ok => {
                output.line(format!("note  {:<9} {}", check.check, check.found));
                output.line(format!("      {:<9} {next}", ""));
            }
            None => output.line(format!("ok    {:<9} {}", check.check, check.found)),
            Some(next) if !output.json => {
                complain(&format!("FAIL  {:<9} {}", check.check, check.found));
                complain(&format!("      {:<9} {next}", ""));
            }
            Some(_) => {}
        }
    }
    output.value(&checks);
    let failed = checks.iter().filter(|check| !check.ok).count();
    Ok(u8::try_from(failed)
        .unwrap_or(FAILED_MAX)
        .min(FAILED_MAX)
        .into())
}

/// Makes sure that the store holds the repository, and the newest record that was seen in it. Gives
/// the state there, and the newest receipt of a drill that lies beside it.
async fn look_at_store(
    workspace: &Workspace,
    location: &StoreLocation,
    id: Option<RepositoryId>,
) -> Result<(Arc<State>, Result<Option<Receipt>, Error>)> {
    let repository = open_linked(workspace, location, id).await?;
    let genesis = RecordRef {
        number: 0,
        id: repository.description().1,
    };
    repository.confirm(genesis).await?;
    if let Some(known) = known_records(workspace) {
        repository.confirm(known.seen).await?;
    }
    let drilled = Receipt::newest(repository.store()).await;
    Ok((load(&repository).await?.state, drilled))
}

/// Says how old the newest copy of each label is. A repository that was never copied is a note: that
/// may be done from outside, by whoever looks after the store.
fn check_copies(state: &State, now: Timestamp, findings: &mut Findings) {
    const NEXT: &str =
        "`statehold replicate --to WHERE` makes one now; have a schedule run it weekly";
    if state.backups.is_empty() {
        if state.head.number > 0 {
            findings.note("copies", "no copy of the repository is known", NEXT);
        }
        return;
    }
    for (label, backup) in &state.backups {
        let found = format!(
            "{label}: up to record {} of {}, {} ago",
            backup.at,
            state.head.number,
            duration::show(age(backup.time, now))
        );
        if is_older(backup.time, now, OVERDUE) {
            findings.bad("copies", found, NEXT);
        } else {
            findings.good("copies", found);
        }
    }
}

/// Says how the newest drill stands. A repository that was never drilled from here is a note: whoever
/// looks after its store may do that.
fn check_drills(newest: Result<Option<Receipt>, Error>, now: Timestamp, findings: &mut Findings) {
    const NEXT: &str = "`statehold drill` makes one now; have a schedule run it weekly";
    match newest {
        Ok(None) => findings.note("drill", "no drill from here is known", NEXT),
        Ok(Some(receipt)) => {
            let newest = Freshness::of(String::new(), Some(&receipt), now, receipt::OVERDUE);
            if newest.ok {
                findings.good("drill", newest.said);
            } else {
                findings.bad("drill", newest.said, NEXT);
            }
        }
        Err(error) => findings.bad("drill", with_causes(&error), NEXT),
    }
}

/// Says when the repository was last verified from here, and how it was.
fn check_verified(checks: &Checks, now: Timestamp, findings: &mut Findings) {
    const NEXT: &str = "`statehold verify --read-data` looks now; have a schedule run it weekly";
    let Some(last) = checks.structure else {
        findings.note("verify", "it was never verified from here", NEXT);
        return;
    };
    let found = format!("last verified {} ago", duration::show(age(last, now)));
    if checks.damaged > 0 {
        let found = format!(
            "{found}: {} damaged",
            count(checks.damaged as u64, "object")
        );
        findings.bad("verify", found, NEXT);
    } else if is_older(last, now, receipt::OVERDUE) {
        findings.bad("verify", found, NEXT);
    } else {
        findings.good("verify", found);
    }
}

/// How long ago a moment was.
fn age(time: Timestamp, now: Timestamp) -> Duration {
    let millis = now.as_millis().saturating_sub(time.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// What was tried out: drills and verifications, whoever made them as far as it can be told from here.
fn check_trials(
    workspace: &Workspace,
    link: &Link,
    in_store: Result<Option<Receipt>, Error>,
    findings: &mut Findings,
) {
    let now = SystemClock.now();
    let here = drills::newest(workspace);
    let newest = here.and_then(|here| Ok(newer(here, in_store?)));
    check_drills(newest, now, findings);
    if let Ok(home) = home() {
        let checks = Checks::read(&home, &name_of_linked(link));
        check_verified(&checks, now, findings);
    }
}

/// Link, key, gateway and clock.
async fn check_link(workspace: &Workspace, findings: &mut Findings) {
    let settings = workspace.settings();
    let Some(link) = &settings.link else {
        let next = "`statehold link URL` connects it";
        findings.bad("link", "the workspace is linked with no repository", next);
        return;
    };
    if let Ok(Some(location)) = store_of(&link.url) {
        match look_at_store(workspace, &location, link.repository_id).await {
            Ok((state, drilled)) => {
                findings.good("store", link.url.clone());
                check_copies(&state, SystemClock.now(), findings);
                check_trials(workspace, link, drilled, findings);
            }
            Err(error) => findings.bad(
                "store",
                format!("{error:#}"),
                "make the store reachable, for example mount the folder, and try again",
            ),
        }
        return;
    }
    if variable("STATEHOLD_KEY").is_some() {
        findings.good("key", "taken from STATEHOLD_KEY");
    } else {
        let read = home().map(|home| home.read_key(settings.workspace));
        match read {
            Ok(Ok(_)) => findings.good("key", "there, and for this user's eyes only"),
            Ok(Err(error @ KeyError::Exposed { .. })) => findings.bad(
                "key",
                with_causes(&error),
                "`chmod 600` the file, then `statehold unlink` and `link` for a new key",
            ),
            Ok(Err(error)) => findings.bad(
                "key",
                with_causes(&error),
                "`statehold unlink`, then `statehold link URL` with a new invite",
            ),
            Err(error) => findings.bad("key", format!("{error:#}"), "set HOME or STATEHOLD_HOME"),
        }
    }
    let Ok(client) = linked_client(workspace.root()) else {
        return;
    };
    check_trials(workspace, link, Ok(None), findings);
    match client.info().await {
        Ok(info) => {
            findings.good(
                "gateway",
                format!(
                    "{} answers, version {} here {OWN}, role {}",
                    link.url, info.version, info.role
                ),
            );
            check_clock(client.date().await.ok().flatten().as_deref(), findings);
        }
        Err(error) => {
            let found = with_causes(&error);
            let next = crate::exit::hint(&error.into()).unwrap_or("ask whoever runs the gateway");
            findings.bad("gateway", found, next);
        }
    }
}

/// Compares this machine's clock with what an answer of the gateway was dated.
fn check_clock(date: Option<&str>, findings: &mut Findings) {
    let Some(there) = date.and_then(Timestamp::from_http_date) else {
        findings.good("clock", "the gateway does not tell the time");
        return;
    };
    let off = (SystemClock.now().as_millis() - there.as_millis()).abs();
    let found = format!("{} s from the gateway's", off / 1_000);
    if off <= CLOCK_AHEAD_MS_MAX {
        findings.good("clock", found);
    } else {
        let next = "set this machine's clock; 300 s is the limit";
        findings.bad("clock", found, next);
    }
}

/// Rules, ignore file, index, and the names on both sides.
fn check_folder(workspace: &Workspace, findings: &mut Findings) {
    let folder = match workspace.folder() {
        Ok(folder) => folder,
        Err(error) => {
            findings.bad("folder", with_causes(&error), "make the folder readable");
            return;
        }
    };
    let rules = workspace.rules(&folder);
    match &rules {
        Ok(_) => findings.good("rules", "valid"),
        Err(error) => findings.bad(
            "rules",
            with_causes(error),
            "correct the file; nothing moves before",
        ),
    }
    let ignore = workspace.ignore_file(&folder);
    match &ignore {
        Ok(_) => findings.good("ignore", "valid"),
        Err(error) => findings.bad(
            "ignore",
            with_causes(error),
            "correct the line; nothing moves before",
        ),
    }
    let damage = RefCell::new(Vec::new());
    let index = Index::read(&workspace.index_files(), |error| {
        damage.borrow_mut().push(with_causes(&error));
    });
    let damage = damage.into_inner();
    if damage.is_empty() {
        findings.good("index", "readable");
    } else {
        let next = "the next pull or push makes a new one; both sides are united, nothing is lost";
        findings.bad("index", damage.join("; "), next);
    }
    if let (Ok(rules), Ok(ignore)) = (&rules, &ignore) {
        let options = ScanOptions {
            rules,
            ignore,
            cache: &index.cache,
            known_directories: &|_| false,
            keep_bytes: 0,
        };
        match scan(&folder, &options) {
            Ok(scan) => {
                let skipped = scan.skipped.iter();
                let uncovered: Vec<String> = skipped
                    .filter(|skipped| matches!(skipped.reason, SkipReason::Uncovered { .. }))
                    .map(|skipped| skipped.path.escape_debug().to_string())
                    .collect();
                findings.list(
                    "coverage",
                    &uncovered,
                    "the rules name every path beneath a strict prefix",
                    "name each in SYNC_ALLOW or SYNC_DENY; until then they stay here",
                );
            }
            Err(error) => findings.bad("folder", with_causes(&error), "make the folder readable"),
        }
    }
    if let Some(checkout) = &index.checkout {
        check_names(&checkout.state.tree, findings);
    }
}

/// Names that another machine would mix up or can't hold.
fn check_names(tree: &Tree, findings: &mut Findings) {
    let mut seen: BTreeMap<String, RepoPath> = BTreeMap::new();
    let mut twins = BTreeSet::new();
    let mut strange = Vec::new();
    for (path, _) in tree.iter() {
        for folder in path
            .ancestors()
            .filter_map(|text| RepoPath::parse(text).ok())
        {
            note_twin(&mut seen, &mut twins, folder);
        }
        note_twin(&mut seen, &mut twins, path.clone());
        if path.names().any(|name| !windows_holds(name)) {
            strange.push(path.as_str().escape_debug().to_string());
        }
    }
    findings.list(
        "twins",
        &twins.into_iter().collect::<Vec<_>>(),
        "no two names differ in case or composition alone",
        "rename one of each two: macOS and Windows would mix them up",
    );
    if strange.is_empty() {
        findings.good("windows", "Windows can hold every name");
    } else {
        let next = "rename them, if a machine with Windows is to share the repository";
        findings.note("windows", some_of(&strange), next);
    }
}

fn note_twin(seen: &mut BTreeMap<String, RepoPath>, twins: &mut BTreeSet<String>, path: RepoPath) {
    let other = seen
        .entry(path.folded().into_owned())
        .or_insert_with(|| path.clone());
    if *other != path {
        let shown = |path: &RepoPath| path.as_str().escape_debug().to_string();
        twins.insert(format!("{} and {}", shown(other), shown(&path)));
    }
}

/// Whether Windows can hold a name.
fn windows_holds(name: &str) -> bool {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    let base = name.split('.').next().unwrap_or(name).trim_end();
    let base = base.to_lowercase();
    let is_port = |kind: &str| {
        let number = base.strip_prefix(kind).unwrap_or_default();
        matches!(number.as_bytes(), [b'1'..=b'9'])
    };
    let is_device = DEVICES.contains(&base.as_str()) || is_port("com") || is_port("lpt");
    let strange = |c: char| c < ' ' || matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '\\');
    !is_device && !name.contains(strange) && !name.ends_with(['.', ' '])
}

/// What killed runs left.
fn check_leftovers(workspace: &Workspace, findings: &mut Findings) {
    let staged = std::fs::read_dir(workspace.staging())
        .map(Iterator::count)
        .unwrap_or(0);
    match staged {
        0 => findings.good("staging", "empty"),
        staged => findings.bad(
            "staging",
            format!(
                "{} of a pull that did not finish, or is running now",
                count(staged as u64, "file")
            ),
            "`statehold pull` uses them and clears up",
        ),
    }
    match Journal::of(workspace).read() {
        Ok(None) => findings.good("journal", "no push is pending"),
        Ok(Some(_)) => findings.bad(
            "journal",
            "a push was interrupted and may or may not have landed",
            "`statehold push` settles it",
        ),
        Err(error) => findings.bad("journal", with_causes(&error), "make the file readable"),
    }
}

#[cfg(test)]
mod tests {
    use statehold_core::digest::Digest;
    use statehold_core::state::{Backup, State};
    use statehold_core::time::Timestamp;

    use super::{Findings, check_clock, check_copies, windows_holds};

    #[test]
    fn a_clock_may_be_five_minutes_off() {
        for (seconds, ok) in [(0, true), (290, true), (310, false), (-310, false)] {
            let there = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            let there = jiff::fmt::rfc2822::to_string(&there.to_zoned(jiff::tz::TimeZone::UTC));
            let mut findings = Findings::default();
            check_clock(Some(&there.unwrap()), &mut findings);
            assert_eq!(findings.0[0].ok, ok, "{seconds} s off");
        }
    }

    /// Goal: a copy is overdue a day after the week, and not before.
    #[test]
    fn a_copy_may_be_eight_days_old() {
        let mut state = State::empty(Digest::of(b""));
        let mut findings = Findings::default();
        let day = 24 * 3_600_000;
        let at = Timestamp::from_millis;
        check_copies(&state, at(0), &mut findings);
        assert!(findings.0.is_empty());
        state.head.number = 9;
        check_copies(&state, at(0), &mut findings);
        assert!(findings.0[0].ok && findings.0[0].next.is_some());
        let backup = Backup {
            to: "s3://copy".into(),
            at: 7,
            by: 8,
            time: at(0),
            bytes: 1,
        };
        state.backups.insert("weekly".parse().unwrap(), backup);
        for (millis, ok) in [(0, true), (8 * day, true), (8 * day + 1, false)] {
            let mut findings = Findings::default();
            check_copies(&state, at(millis), &mut findings);
            assert_eq!(findings.0[0].ok, ok, "{millis}");
            assert!(findings.0[0].found.contains("weekly: up to record 7 of 9"));
        }
    }

    #[test]
    fn names_that_windows_cannot_hold() {
        for bad in [
            "con", "NUL.txt", "com1", "LPT9.md", "aux .x", "a:b", "a?", "a\nb", "a.", "a ", "q\"",
        ] {
            assert!(!windows_holds(bad), "{bad:?} was taken");
        }
        for good in [
            "console", "com", "com0", "com10", "a.b", ".git", "é", "null",
        ] {
            assert!(windows_holds(good), "{good:?} was refused");
        }
    }
}
