//! `statehold completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use crate::exit::Exit;
use crate::output::print_bytes;

/// Print a script that completes the command line in a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  statehold completions bash > ~/.local/share/bash-completion/completions/statehold")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "statehold", &mut script);
    print_bytes(&script)?;
    Ok(Exit::Done.into())
}
