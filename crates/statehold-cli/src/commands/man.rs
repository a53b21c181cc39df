//! `statehold man`: the manual, one page for each command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use serde_json::json;

use super::Cli;
use crate::exit::Exit;
use crate::output::Output;

/// Write the manual's pages into a folder
#[derive(Debug, Args)]
#[command(after_help = "Example:
  statehold man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder, which is made if need be
    #[arg(value_name = "FOLDER")]
    into: PathBuf,
}

pub(super) fn run(args: &ManArgs, output: Output) -> Result<ExitCode> {
    let into = &args.into;
    std::fs::create_dir_all(into)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), into))
        .with_context(|| format!("the manual could not be written into {}", into.display()))?;
    output.line(format!("The manual is in {}.", into.display()));
    output.value(&json!({"folder": into}));
    Ok(Exit::Done.into())
}
