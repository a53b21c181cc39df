//! `statehold cat`: a file as the repository has it, now or at a record.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use statehold_core::entry::Entry;
use statehold_repository::Whereabouts;
use statehold_repository::remote::load_at;

use super::{GlobalArgs, block_on};
use crate::comparison::content_of;
use crate::connection::{Connection, find_workspace};
use crate::exit::Exit;
use crate::output::{Output, print_bytes};
use crate::typed_path;
use crate::when::When;

/// Print a file as the repository has it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold cat memory/notes.md
  statehold cat memory/notes.md --at 17 > notes-then.md
  statehold cat memory/notes.md --at \"2 hours ago\"")]
pub(crate) struct CatArgs {
    /// The file, from the folder you are in
    path: String,
    /// As it was then: a record's number, a snapshot, a time or an age
    #[arg(long, value_name = "WHEN")]
    at: Option<When>,
}

pub(super) fn run(args: &CatArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    block_on(async {
        let folder = global.directory()?;
        let workspace = find_workspace(&folder)?;
        let path = typed_path::inside(&workspace, &folder, &args.path)?;
        let connection = Connection::of(workspace, Output::default(), None).await?;
        let remote = &*connection.remote;
        let newest = connection.engine.remote_state().await?;
        let state = match &args.at {
            Some(when) => load_at(remote, when.point(&newest)?).await?,
            None => newest,
        };
        let entry = state.tree.get(path.as_str());
        let number = state.head.number;
        let whereabouts = Whereabouts::of(state.head);
        match entry {
            Some(Entry::File(file)) => {
                if output.json {
                    let mut content = Vec::new();
                    content_of(file, remote, &whereabouts, |piece| {
                        content.extend_from_slice(piece);
                        Ok(())
                    })
                    .await?;
                    // JSON holds text only; whoever wants bytes takes the plain form.
                    let content = String::from_utf8(content).ok();
                    output.value(&json!({
                        "path": path, "record": number, "size": file.size,
                        "digest": file.digest, "executable": file.executable, "content": content,
                    }));
                    return Ok(Exit::Done.into());
                }
                content_of(file, remote, &whereabouts, |piece| {
                    print_bytes(piece).context("the output could not be written")
                })
                .await?;
                Ok(Exit::Done.into())
            }
            Some(Entry::Symlink { target }) => bail!("{path} is a link to {target}"),
            _ if state.tree.beneath(path.as_str()).next().is_some() => bail!(
                "{path} is a folder; `statehold restore` brings it back as it was at record {number}"
            ),
            _ => bail!(
                "{path} is not in the repository at record {number}; \
                 `statehold log {}` shows when it was",
                args.path
            ),
        }
    })
}
