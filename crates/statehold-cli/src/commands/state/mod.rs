//! `statehold state`: structured values that several machines change and that end up equal everywhere.

mod conflicts;
mod nodes;
mod opened;
mod place;
mod restore;
mod shown;
mod values;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::GlobalArgs;
use crate::output::Output;

/// Read and change application state: JSON values that converge on every machine
#[derive(Debug, Args)]
#[command(
    after_help = "States live in collections and are changed offline too. What is written here lies in state/app/
and travels with the next push; what a pull brought is there at the next command. Any folder
will do, linked or not; inside a workspace the states are the workspace's.

Examples:
  statehold state set app '{\"theme\":\"dark\",\"size\":14}' --collection settings --strategy merge
  statehold state get app --collection settings
  statehold state list --json
  statehold state conflicts --exit-code
  statehold state why app --collection settings"
)]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Get(values::GetArgs),
    Set(values::SetArgs),
    Delete(values::DeleteArgs),
    List(values::ListArgs),
    Log(values::LogArgs),
    Conflicts(conflicts::ConflictsArgs),
    Resolve(conflicts::ResolveArgs),
    Why(conflicts::WhyArgs),
    Nodes(nodes::NodesArgs),
    Retire(nodes::RetireArgs),
    Restore(restore::RestoreArgs),
}

/// Which state is meant.
#[derive(Debug, Args)]
struct StateName {
    /// The state's id
    id: String,
    #[command(flatten)]
    within: Within,
}

/// Which collection is meant.
#[derive(Debug, Args)]
struct Within {
    /// The collection it is in
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    collection: String,
}

pub(super) fn run(args: &StateArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    match &args.verb {
        Verb::Get(args) => values::get(args, global, output),
        Verb::Set(args) => values::set(args, global, output),
        Verb::Delete(args) => values::delete(args, global, output),
        Verb::List(args) => values::list(args, global, output),
        Verb::Log(args) => values::log(args, global, output),
        Verb::Conflicts(args) => conflicts::list(args, global, output),
        Verb::Resolve(args) => conflicts::resolve(args, global, output),
        Verb::Why(args) => conflicts::why(args, global, output),
        Verb::Nodes(args) => nodes::list(args, global, output),
        Verb::Retire(args) => nodes::retire(args, global, output),
        Verb::Restore(args) => restore::run(args, global, output),
    }
}
