//! `statehold rules`: whether the rules are complete, and which of them decides about a path.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use statehold_core::rules::Reason;
use statehold_sync::coverage::coverage;
use statehold_sync::ignore_file::IGNORE_FILE;

use super::GlobalArgs;
use crate::connection::find_workspace;
use crate::exit::Exit;
use crate::output::Output;
use crate::typed_path;

/// Look at the rules that say which paths travel
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold rules show
  statehold rules check
  statehold rules explain state/log/changelog.ndjson")]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Print the rules that hold here, as a rules file would have them: those of the file, or the
    /// default ones as long as there is none
    #[command(after_help = "Example:
  statehold rules show > rules.json      (a beginning for a rules file of one's own)")]
    Show,
    /// End with 1 if a file beneath a strict prefix matches neither list; made for CI
    #[command(after_help = "Examples:
  statehold rules check
  statehold rules check --json")]
    Check,
    /// Say which rule, or which line of the ignore file, decides about a path
    #[command(after_help = "Examples:
  statehold rules explain state/log/changelog.ndjson
  statehold rules explain .env --json")]
    Explain {
        /// The path, from the folder you are in, there or not
        path: String,
    },
}

pub(super) fn run(args: &RulesArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    match &args.command {
        RulesCommand::Show => show(global, output),
        RulesCommand::Check => check(global, output),
        RulesCommand::Explain { path } => explain(path, global, output),
    }
}

/// The rules file is not written by `init`: in an agent workspace it travels, and only an owner may
/// push it, so one that every machine makes would get in the way of its first push.
fn show(global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let rules = workspace.rules(&workspace.folder()?)?;
    output.line(serde_json::to_string_pretty(rules.rules())?);
    output.value(rules.rules());
    Ok(Exit::Done.into())
}

fn check(global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let workspace = find_workspace(&global.directory()?)?;
    let uncovered = coverage(&workspace)?;
    for one in &uncovered {
        output.line(format!(
            "{}: matches neither SYNC_ALLOW nor SYNC_DENY, which every path beneath {} has to",
            one.path.as_str().escape_debug(),
            one.prefix
        ));
    }
    let rules = workspace.rules_path();
    output.line(if uncovered.is_empty() {
        "every path beneath a strict prefix matches a list".to_owned()
    } else {
        let start = if rules.exists() {
            ""
        } else {
            "; `statehold rules show` prints the default ones to start it with"
        };
        format!(
            "name them in one of the lists of {}{start}",
            rules.display()
        )
    });
    output.value(&json!({"uncovered": uncovered}));
    Ok(if uncovered.is_empty() {
        Exit::Done
    } else {
        Exit::Refused
    }
    .into())
}

fn explain(typed: &str, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let directory = global.directory()?;
    let workspace = find_workspace(&directory)?;
    let path = &typed_path::inside(&workspace, &directory, typed)?;
    let folder = workspace.folder()?;
    let reason = workspace.rules(&folder)?.explain(path);
    let is_directory = workspace.root().join(path.as_str()).is_dir();
    let ignored = workspace
        .ignore_file(&folder)?
        .ignoring_line(path, is_directory);
    let allowed = matches!(reason, Reason::NoRule | Reason::Allow { .. });
    let why = match (&reason, &ignored) {
        (Reason::AlwaysDenied { glob }, _) => {
            format!("{glob} never travels, whatever the rules say")
        }
        (Reason::Deny { glob }, _) => format!("SYNC_DENY has {glob}"),
        (Reason::SecretName { glob }, _) => format!(
            "{glob} is a name under which tools keep credentials; SYNC_ALLOW with this very path allows it"
        ),
        (Reason::Uncovered { prefix }, _) => {
            format!("beneath {prefix} every path has to match SYNC_ALLOW")
        }
        (_, Some(line)) => format!("{IGNORE_FILE} has {line}"),
        (Reason::Allow { glob }, None) => format!("SYNC_ALLOW has {glob}"),
        (Reason::NoRule, None) => "no rule says otherwise".to_owned(),
    };
    let travels = allowed && ignored.is_none();
    let verb = if travels { "travels" } else { "stays here" };
    output.line(format!("{}: {verb}; {why}", path.as_str().escape_debug()));
    output.value(&json!({
        "path": path, "travels": travels, "reason": reason, "ignored_by": ignored,
    }));
    Ok(Exit::Done.into())
}
