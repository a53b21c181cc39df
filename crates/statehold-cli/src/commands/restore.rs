//! `statehold restore`: brings back what was, into a folder beside what is live.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use statehold_core::entry::Entry;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_core::time::Timestamp;
use statehold_repository::remote::load_at;
use statehold_sync::engine::{Restored, place_in_holding};
use statehold_sync::workspace::{RESTORED, Workspace};

use super::{GlobalArgs, block_on};
use crate::comparison::{Change, Difference, compare, folder_side, look_at, restored_side, show};
use crate::connection::{Connection, find_workspace};
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count, size};
use crate::typed_path;
use crate::when::{self, When};

/// Bring back a file, a folder or everything as it was, beside what is live
#[derive(Debug, Args)]
#[command(
    after_help = "What comes back lies in _restore/<name>-<time>/ and is never synchronised; nothing live is
touched. To look at it and to take it over is yours: the commands for that are printed.
Run the same restore again to go on with one that was interrupted.

WHEN is a record's number, a snapshot's name or label, a time like 2026-04-15T18:00:00Z or
\"2026-04-15 18:00\" (of your zone), or an age like \"2 hours ago\". Without it: the newest.

Examples:
  statehold restore snappy-image 2026-04-15T18:00:00Z     (a skill, by its bare name)
  statehold restore memory/notes.md 17 --diff
  statehold restore memory --at \"2 hours ago\"
  statehold restore --all before-the-rewrite"
)]
pub(crate) struct RestoreArgs {
    /// A file or folder, from the folder you are in, or the bare name of a skill or another item
    #[arg(value_name = "NAME|PATH", required_unless_present = "all")]
    what: Option<String>,
    /// As it was then
    #[arg(value_name = "WHEN")]
    when: Option<When>,
    /// The same, by name
    #[arg(long, value_name = "WHEN", conflicts_with = "when")]
    at: Option<When>,
    /// Everything
    #[arg(long)]
    all: bool,
    /// Show the lines that differ from what is live
    #[arg(long)]
    diff: bool,
}

/// Differences that are listed one by one.
const LISTED_MAX: usize = 50;

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The path, or `null` for everything.
    path: Option<&'a RepoPath>,
    record: u64,
    time: Timestamp,
    /// Where it lies, from the workspace.
    folder: &'a RepoPath,
    placed: u64,
    kept: u64,
    /// Stored bytes that were fetched.
    fetched: u64,
    /// Paths in the folder at which something else stood, which was left alone.
    occupied: &'a [RepoPath],
    failed: Vec<Problem>,
    damaged: Vec<Problem>,
    /// From what is live to what was restored.
    differences: &'a [Difference],
    /// Commands that look at it and take it over.
    take_over: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Problem {
    path: String,
    reason: String,
}

pub(super) fn run(args: &RestoreArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let (what, when) = asked(args)?;
    block_on(async {
        let here = global.directory()?;
        let workspace = find_workspace(&here)?;
        let connection = Connection::of(workspace, output, None).await?;
        let (state, moment) = state_at(&connection, when.as_ref()).await?;
        if state.head.number == 0 {
            bail!("at record 0 nothing had been pushed yet, so there is nothing to restore");
        }
        let path = match what {
            Some(typed) => Some(find(connection.engine.workspace(), &here, typed, &state)?),
            None => None,
        };
        let restored = connection
            .engine
            .restore(&state, path.as_ref(), moment)
            .await?;
        let differences = differences(&connection, &state, path.as_ref(), &restored)?;
        let target = Target {
            path: path.as_ref(),
            is_folder: path
                .as_ref()
                .is_none_or(|path| !is_leaf(state.tree.get(path.as_str()))),
            holding: &restored.holding,
        };
        let root = connection.engine.workspace().root().to_owned();
        tell(&state, &target, &restored, &differences, &root, output);
        if args.diff && !output.json && !output.quiet {
            for difference in &differences.list {
                let sides = (&differences.live, &differences.restored);
                show(difference, sides, &*connection.remote).await?;
            }
        }
        Ok(exit_of(&restored).into())
    })
}

/// What and when; with `--all` the only word is the time.
fn asked(args: &RestoreArgs) -> Result<(Option<&str>, Option<When>)> {
    let when = args.when.clone().or_else(|| args.at.clone());
    match (&args.what, args.all) {
        (what, false) => Ok((what.as_deref(), when)),
        (None, true) => Ok((None, when)),
        (Some(word), true) if when.is_none() => {
            let when = word
                .parse()
                .map_err(|why: String| WrongUsage::because(why))?;
            Ok((None, Some(when)))
        }
        (Some(word), true) => Err(WrongUsage::because(format!(
            "--all takes everything, so {word} has no place beside it"
        ))),
    }
}

/// The state that is meant, and the moment that the holding folder is called after.
async fn state_at(connection: &Connection, when: Option<&When>) -> Result<(Arc<State>, Timestamp)> {
    let point = match when {
        // Neither has to know the newest state, which would be a reading more.
        Some(When::Record(number)) => Point::Record(*number),
        Some(When::Time(time)) => Point::Time(*time),
        Some(when @ When::Snapshot(_)) => when.point(&*connection.engine.remote_state().await?)?,
        None => {
            let newest = connection.engine.remote_state().await?;
            let time = newest.time;
            return Ok((newest, time));
        }
    };
    let state = load_at(&*connection.remote, point).await?;
    let moment = match point {
        Point::Time(time) => time,
        Point::Newest | Point::Record(_) | Point::Then(_) => state.time,
    };
    Ok((state, moment))
}

/// The path that was typed, or the item of that name.
fn find(workspace: &Workspace, here: &Path, typed: &str, state: &State) -> Result<RepoPath> {
    let is_there = |path: &RepoPath| state.tree.beneath(path.as_str()).next().is_some();
    if typed_path::within(workspace, here, typed).is_ok_and(|path| path.is_none()) {
        let why = format!("{typed} is everything, and `statehold restore --all` brings that back");
        return Err(WrongUsage::because(why));
    }
    let path = typed_path::inside(workspace, here, typed);
    let mut found: Vec<RepoPath> = Vec::new();
    found.extend(path.as_ref().ok().filter(|path| is_there(path)).cloned());
    if !typed.contains('/') {
        let roots = workspace.item_roots();
        let items = roots.iter().filter_map(|root| item(root, typed, state));
        found.extend(items);
        found.sort();
        found.dedup();
    }
    match (&found[..], path) {
        ([found], _) => Ok(found.clone()),
        ([], Err(error)) => Err(error),
        ([], Ok(path)) => bail!(
            "{path} is not in record {}, nor is an item of that name; `statehold log {typed}` shows \
             the records that touched it, and `statehold versions {typed}` the versions there are",
            state.head.number
        ),
        ([first, ..], _) => {
            let names: Vec<&str> = found.iter().map(RepoPath::as_str).collect();
            Err(WrongUsage::because(format!(
                "{typed} may be {}; name the one you mean by its path, like ./{first} from the \
                 workspace's folder",
                names.join(" or ")
            )))
        }
    }
}

/// The item of a name beneath a root: a folder or file, the latter also without its `.md`.
fn item(root: &RepoPath, name: &str, state: &State) -> Option<RepoPath> {
    let candidates = [name.to_owned(), format!("{name}.md")];
    let mut paths = candidates
        .iter()
        .filter_map(|name| RepoPath::parse(&format!("{root}/{name}")).ok());
    paths.find(|path| state.tree.beneath(path.as_str()).next().is_some())
}

const fn is_leaf(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::File(_) | Entry::Symlink { .. }))
}

/// What differs, and the two sides.
struct Differences {
    list: Vec<Difference>,
    live: crate::comparison::Side,
    restored: crate::comparison::Side,
}

/// Compares what is live with what came back, path by path.
fn differences(
    connection: &Connection,
    state: &State,
    path: Option<&RepoPath>,
    restored: &Restored,
) -> Result<Differences> {
    // What did not come back, or is somebody's work, is told on its own.
    let came = &restored.entries;
    let occupied = came.occupied.iter().map(RepoPath::as_str);
    let failed = came.failed.iter().map(|(path, _)| path.as_str());
    let damaged = came.damaged.iter().map(|(path, _)| path.as_str());
    let missing: BTreeSet<&str> = occupied.chain(failed).chain(damaged).collect();
    let left_out = |full: &RepoPath| match place_in_holding(full, path) {
        Some(Ok(place)) => missing.contains(place.as_str()),
        Some(Err(_)) | None => true,
    };
    let entries = || -> Box<dyn Iterator<Item = (&RepoPath, &Entry)>> {
        match path {
            Some(path) => Box::new(state.tree.beneath(path.as_str())),
            None => Box::new(state.tree.iter()),
        }
    };
    let mut live = folder_side(connection)?;
    look_at(&mut live, entries().map(|(path, _)| path))?;
    let skipped: BTreeSet<RepoPath> = entries()
        .map(|(path, _)| path)
        .filter(|full| left_out(full))
        .cloned()
        .collect();
    let wanted = entries().filter(|(path, _)| !skipped.contains(*path));
    let holding = connection
        .engine
        .workspace()
        .folder()?
        .folder_inside(&restored.holding)?;
    let restored = restored_side(state, wanted, holding, path);
    let mut list = compare(&live, &restored, path);
    list.retain(|difference| !skipped.contains(&difference.path));
    Ok(Differences {
        list,
        live,
        restored,
    })
}

/// What was restored, for the commands that take it over.
struct Target<'a> {
    path: Option<&'a RepoPath>,
    is_folder: bool,
    holding: &'a RepoPath,
}

impl Target<'_> {
    /// Commands that look at what came back, and that take it over.
    fn commands(&self) -> Vec<String> {
        let holding = quote(self.holding.as_str());
        let Some(path) = self.path else {
            return vec![
                format!("diff -r --exclude=.statehold --exclude={RESTORED} . {holding}"),
                format!("cp -a {holding}/. ."),
            ];
        };
        let live = quote(path.as_str());
        if self.is_folder {
            return vec![
                format!("diff -r {live} {holding}"),
                format!("mkdir -p {live} && cp -a {holding}/. {live}/"),
            ];
        }
        let file = quote(&format!("{}/{}", self.holding, path.file_name()));
        let folder = match path.as_str().rsplit_once('/') {
            Some((folder, _)) => format!("mkdir -p {} && ", quote(folder)),
            None => String::new(),
        };
        vec![
            format!("diff -u {live} {file}"),
            format!("{folder}cp -a {file} {live}"),
        ]
    }
}

/// A path as a shell takes it for one word, whatever is in it.
fn quote(path: &str) -> String {
    let path = match path.starts_with('-') {
        true => format!("./{path}"),
        false => path.to_owned(),
    };
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,@%=".contains(c);
    if path.chars().all(is_plain) {
        return path;
    }
    if !path.chars().any(char::is_control) {
        return format!("'{}'", path.replace('\'', r"'\''"));
    }
    // What would steer a terminal is spelled out.
    let mut quoted = String::from("$'");
    for c in path.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    // Writing into a text can't fail.
                    let _infallible = write!(quoted, "\\{byte:03o}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted + "'"
}

fn tell(
    state: &State,
    target: &Target<'_>,
    restored: &Restored,
    differences: &Differences,
    root: &Path,
    output: Output,
) {
    let came = &restored.entries;
    let problems = |list: Vec<(String, String)>| -> Vec<Problem> {
        let problem = |(path, reason)| Problem { path, reason };
        list.into_iter().map(problem).collect()
    };
    let damaged: Vec<(String, String)> = came
        .damaged
        .iter()
        .map(|(path, error)| (path.to_string(), error.to_string()))
        .collect();
    for (path, reason) in damaged.iter().chain(&came.failed) {
        complain(&format!("not restored  {}: {reason}", path.escape_debug()));
    }
    for path in &came.occupied {
        complain(&format!(
            "left alone    {}/{}: something else stands there",
            restored.holding.as_str().escape_debug(),
            path.as_str().escape_debug()
        ));
    }
    let what = target.path.map_or("everything", RepoPath::as_str);
    output.line(format!(
        "{} as of record {} ({}) is in {}: {}, {}",
        what.escape_debug(),
        state.head.number,
        when::local(state.time),
        restored.holding.as_str().escape_debug(),
        count(came.placed + came.kept, "entry").replace("entrys", "entries"),
        match came.kept {
            0 => format!("{} fetched", size(came.bytes)),
            kept => format!(
                "of which {kept} were there already; {} fetched",
                size(came.bytes)
            ),
        }
    ));
    output.line(match differences.list.len() {
        0 => "What is live is no different.".to_owned(),
        number => format!("{} from what is live:", count(number as u64, "difference")),
    });
    for difference in differences.list.iter().take(LISTED_MAX) {
        let word = match difference.change {
            Change::Added => "only restored",
            Change::Deleted => "only live",
            Change::Modified => "differs",
        };
        let path = difference.path.as_str().escape_debug();
        output.line(format!("  {word:<14}{path}"));
    }
    if let Some(more) = differences.list.len().checked_sub(LISTED_MAX + 1) {
        output.line(format!("  and {} more; --json lists all", more + 1));
    }
    output.line(format!(
        "Nothing live was touched. To look closer and to take it over, by hand, in {}:",
        root.display()
    ));
    for command in target.commands() {
        output.line(format!("  {command}"));
    }
    output.value(&Report {
        path: target.path,
        record: state.head.number,
        time: state.time,
        folder: &restored.holding,
        placed: came.placed,
        kept: came.kept,
        fetched: came.bytes,
        occupied: &came.occupied,
        failed: problems(came.failed.clone()),
        damaged: problems(damaged),
        differences: &differences.list,
        take_over: target.commands(),
    });
}

fn exit_of(restored: &Restored) -> Exit {
    let came = &restored.entries;
    if !came.damaged.is_empty() {
        Exit::Damaged
    } else if came.is_whole() {
        Exit::Done
    } else {
        Exit::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_path_is_one_word_to_a_shell() {
        for (path, quoted) in [
            ("skills/a-b_c.md", "skills/a-b_c.md"),
            ("-rf", "./-rf"),
            ("it's here", r"'it'\''s here'"),
            ("$(id)`;", "'$(id)`;'"),
            ("a\nb\u{1b}'\\", r"$'a\012b\033\'\\'"),
        ] {
            assert_eq!(quote(path), quoted);
            let mut shell = std::process::Command::new("bash");
            let said = shell.arg("-c").arg(format!("printf %s {quoted}")).output();
            let expected = path
                .strip_prefix("-rf")
                .map_or(path.to_owned(), |_| "./-rf".into());
            assert_eq!(said.unwrap().stdout, expected.as_bytes());
        }
    }
}
