//! `statehold completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use super::Cli;
use crate::exit::Exit;
use crate::output::{Output, print_bytes};

/// Print a script that completes the command line in a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  statehold completions bash > ~/.local/share/bash-completion/completions/statehold")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, output: Output) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "statehold", &mut script);
    if output.json {
        let script = String::from_utf8_lossy(&script);
        output.value(&json!({"shell": args.shell.to_string(), "script": script}));
    } else {
        print_bytes(&script)?;
    }
    Ok(Exit::Done.into())
}
