//! Where the real program is.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

/// Which program is run.
#[derive(Debug, Args)]
pub(crate) struct ProgramArgs {
    /// The statehold program; by default the one that was built beside this one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

impl ProgramArgs {
    /// The program.
    pub(crate) fn binary(&self) -> Result<PathBuf> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?
                .parent()
                .context("a program lies in a folder")?
                .join("statehold"),
        };
        ensure!(
            binary.is_file(),
            "{} is not there; `cargo build --release -p statehold-cli` makes it",
            binary.display()
        );
        Ok(binary)
    }
}
