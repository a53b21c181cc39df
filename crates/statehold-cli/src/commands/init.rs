//! `statehold init`: make a folder a workspace.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use statehold_core::bands::Profile;
use statehold_sync::preset::Preset;
use statehold_sync::workspace::{InitOptions, Workspace};

use super::GlobalArgs;
use crate::environment::{SystemEntropy, machine_name};
use crate::exit::Exit;
use crate::output::Output;

/// Make the present folder a workspace
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold init
  statehold -C ~/.claude init --preset claude-code")]
pub(crate) struct InitArgs {
    /// What kind of folder it is: agent, claude-code, codex, code-buddy or plain
    #[arg(long, default_value = "plain", value_name = "NAME")]
    preset: Preset,
    /// Keep the size bands literally: raw below 100 KB, compressed to 10 MB
    #[arg(long)]
    classic: bool,
    /// The name that other machines will see
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
}

pub(super) fn run(args: &InitArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let options = InitOptions {
        preset: args.preset,
        profile: if args.classic {
            Profile::Classic
        } else {
            Profile::Adaptive
        },
        machine_name: args.machine.clone().unwrap_or_else(machine_name),
        machine_id: None,
    };
    let workspace = Workspace::init(&global.directory()?, options, &SystemEntropy)?;
    let settings = workspace.settings();
    let is_agent = settings.preset == Preset::Agent;
    let git_ignores = is_agent && workspace.keep_restored_out_of_git()?;
    output.line(format!(
        "{} is a workspace now.",
        workspace.root().display()
    ));
    output.line("What stays on this machine is listed in .stateholdignore; look through it once.");
    if git_ignores {
        output.line("Git ignores _restore/ from now on: .gitignore has a line for it.");
    }
    if is_agent {
        output.line("Which paths travel is said by the rules; `statehold rules show` prints them.");
    }
    output.line("Next: `statehold link URL` connects it with a gateway.");
    output.value(&json!({
        "root": workspace.root(),
        "workspace": settings.workspace,
        "machine": settings.machine.name,
        "preset": settings.preset,
    }));
    Ok(Exit::Done.into())
}
