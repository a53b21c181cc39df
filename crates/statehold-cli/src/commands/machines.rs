//! `statehold machines`: who shares the repository, and ending a lost laptop's access.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use statehold_core::id::KeyId;
use statehold_repository::wire::bodies::KeyInfo;

use super::{GlobalArgs, block_on};
use crate::connection::linked_client;
use crate::exit::Exit;
use crate::output::Output;

/// Show, rename or shut out the machines that share the repository
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold machines list
  statehold machines revoke 3f0c…   (a lost laptop: one command)")]
pub(crate) struct MachinesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the machines and what each may do
    List,
    /// Shut a machine out; every gateway refuses its key within five seconds
    Revoke {
        /// The key's id, as the list shows it
        key: KeyId,
    },
    /// Call a machine something else
    Rename {
        /// The key's id, as the list shows it
        key: KeyId,
        /// The new name
        name: String,
    },
}

pub(super) fn run(args: &MachinesArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let client = linked_client(&global.directory()?)?;
    match &args.action {
        Action::List => {
            let keys = block_on(async { Ok(client.machines().await?) })?;
            keys.iter().for_each(|key| output.line(describe(key)));
            output.value(&keys);
        }
        Action::Revoke { key } => {
            let key = block_on(async { Ok(client.revoke(*key).await?) })?;
            output.line(format!("{} is shut out.", key.label));
            output.value(&key);
        }
        Action::Rename { key, name } => {
            let key = block_on(async { Ok(client.rename(*key, name).await?) })?;
            output.line(format!("It is called {} now.", key.label));
            output.value(&key);
        }
    }
    Ok(Exit::Done.into())
}

/// A key on a line of its own.
pub(super) fn describe(key: &KeyInfo) -> String {
    let state = match (key.revoked, key.expires) {
        (Some(when), _) => format!("revoked {when}"),
        (None, Some(when)) => format!("until {when}"),
        (None, None) => format!("since {}", key.created),
    };
    let own = if key.own { "  (this one)" } else { "" };
    format!(
        "{}  {:<9} {state}  {}{own}",
        key.key,
        key.role.to_string(),
        key.label
    )
}
