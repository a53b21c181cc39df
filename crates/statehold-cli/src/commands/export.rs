//! `statehold export`: the repository as an archive or as a plain folder, now or as it was.

use std::io::{BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use statehold_core::state::State;
use statehold_repository::location::StoreLocation;
use statehold_repository::remote::{load, load_at};
use statehold_repository::{Remote, Repository};
use statehold_sync::engine::Retrieved;
use statehold_sync::export::{Exported, beside, sync_folder_of, write_archive, write_folder};
use statehold_sync::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};

use super::{GlobalArgs, block_on};
use crate::connection::{Connection, progress, store_of, system};
use crate::environment::store_variable;
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count, size};
use crate::when::When;

/// Write the repository as an archive or a plain folder
#[derive(Debug, Args)]
#[command(
    after_help = "An export is whole or not there: it is made beside its name and gets that last. The same record
gives the same archive, byte for byte. GNU tar and bsdtar read it: tar --zstd -xf OUT.

Examples:
  statehold export backup.tar.zst
  statehold export --at before-the-rewrite backup.tar.zst
  statehold export --at 17 --format folder /tmp/as-it-was
  statehold export - | ssh elsewhere 'cat >backup.tar.zst'
  statehold export --store s3://team-state/agents/<tenant>/<repository> backup.tar.zst"
)]
pub(crate) struct ExportArgs {
    /// As it was then: a record's number, a snapshot, a time or an age
    #[arg(long, value_name = "WHEN")]
    at: Option<When>,
    /// What is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Straight from the store of a repository, without a workspace: a folder, s3://, gs:// or az://
    #[arg(long, value_name = "WHERE")]
    store: Option<String>,
    /// The file, or - for standard output; the folder, which must be absent or empty
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One archive
    #[default]
    #[value(name = "tar.zst")]
    TarZst,
    /// A plain folder
    Folder,
}

pub(super) fn run(args: &ExportArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let is_piped = args.out.as_os_str() == "-";
    if is_piped && args.format == Format::Folder {
        return Err(WrongUsage::because(
            "a folder does not go to standard output; name one, or take --format tar.zst",
        ));
    }
    let out = global.directory()?.join(&args.out);
    block_on(async {
        let (remote, newest) = open(args, global, output).await?;
        let state = match (&args.at, newest) {
            (None, newest) => newest,
            (Some(when), newest) => load_at(&*remote, when.point(&newest)?).await?,
        };
        let mut entries = state.tree.iter();
        if let Some((path, _)) = entries.find(|(_, entry)| entry.is_purged()) {
            bail!(
                "content of {path} was purged, so record {} cannot be exported whole; in a workspace, \
                 `statehold restore --all` brings everything else",
                state.head.number
            );
        }
        let progress = progress(output);
        // Listened for from here on, so that nothing half made is left by an end that was asked for.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let export = async {
            match args.format {
                Format::TarZst if is_piped => {
                    let stdout = std::io::stdout();
                    let name = Path::new("standard output");
                    Ok(write_archive(&*remote, &state, stdout, name, &*progress).await?)
                }
                Format::TarZst => archive(&*remote, &state, &out, &*progress).await,
                Format::Folder => {
                    let (done, retrieved) =
                        write_folder(&*remote, &state, &out, &*progress).await?;
                    check(&retrieved)?;
                    Ok(done)
                }
            }
        };
        // Dropped here, what is half made is removed.
        let done: Exported = tokio::select! {
            done = export => done?,
            _ = interrupt.recv() => bail!("interrupted; nothing was exported"),
            _ = terminate.recv() => bail!("interrupted; nothing was exported"),
        };
        if is_piped {
            return Ok(Exit::Done.into());
        }
        output.line(format!(
            "record {} is in {}: {}, {}",
            state.head.number,
            args.out.display(),
            count(done.entries, "path"),
            size(done.bytes)
        ));
        output.value(&json!({
            "record": state.head.number, "time": state.time, "out": args.out,
            "paths": done.entries, "bytes": done.bytes,
        }));
        Ok(Exit::Done.into())
    })
}

/// The repository and its newest state.
async fn open(
    args: &ExportArgs,
    global: &GlobalArgs,
    output: Output,
) -> Result<(Arc<dyn Remote>, Arc<State>)> {
    let Some(store) = &args.store else {
        let connection = Connection::open(&global.directory()?, output).await?;
        let newest = connection.engine.remote_state().await?;
        return Ok((connection.remote, newest));
    };
    let Some(location) = store_of(store)? else {
        return Err(WrongUsage::because(format!(
            "{store} is a gateway; a store is a folder, or a bucket as s3://, gs:// or az://"
        )));
    };
    if let StoreLocation::Folder(folder) = &location
        && !folder.is_dir()
    {
        bail!("{location}: there is no such folder; is it mounted?");
    }
    let (clock, entropy) = system();
    let opened = location.open(&store_variable)?;
    // Read only, so the store need not be trusted with anything.
    let Some(found) = Repository::open_existing(opened, clock, entropy).await? else {
        bail!(
            "{location} holds no repository; of a gateway's store, name the folder \
             <tenant>/<repository> in it"
        );
    };
    let remote: Arc<dyn Remote> = Arc::new(found);
    let newest = load(&*remote).await?.state;
    Ok((remote, newest))
}

/// Refuses to put an archive where something else is: with a path in its place, as other commands take one, a live
/// file would be gone.
fn check_replaceable(out: &Path) -> Result<()> {
    const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut first = Vec::new();
    let read = std::fs::File::open(out).and_then(|file| file.take(4).read_to_end(&mut first));
    match read {
        Ok(_) if !first.is_empty() && first != ZSTD_MAGIC => bail!(
            "{} is there and is no archive; name another file, or remove it",
            out.display()
        ),
        // What cannot be read fails where it is written.
        _ => Ok(()),
    }
}

/// Writes an archive beside its name and then gives it that. Only its owner may read it, since it
/// holds what the folder's own modes would keep from others.
async fn archive(
    remote: &dyn Remote,
    state: &State,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Exported> {
    if out.is_dir() {
        return Err(WrongUsage::because(format!(
            "{} is a folder; name a file in it, or take --format folder",
            out.display()
        )));
    }
    check_replaceable(out)?;
    let (folder, name) = beside(out).with_context(|| format!("{}", out.display()))?;
    let made = tempfile::Builder::new()
        .prefix(&name)
        .suffix(".part")
        .tempfile_in(&folder)
        .with_context(|| format!("could not write in {}", folder.display()))?;
    let writer = BufWriter::with_capacity(1 << 20, made.as_file());
    let done = write_archive(remote, state, writer, out, progress).await?;
    let named = || -> std::io::Result<()> {
        made.as_file().sync_all()?;
        made.persist(out).map_err(|error| error.error)?;
        sync_folder_of(out)
    };
    named().with_context(|| format!("could not write {}", out.display()))?;
    Ok(done)
}

/// Names everything that could not be had.
fn check(retrieved: &Retrieved) -> Result<()> {
    if retrieved.is_whole() {
        return Ok(());
    }
    for (path, error) in &retrieved.damaged {
        complain(&format!(
            "damaged  {}: {error}",
            path.as_str().escape_debug()
        ));
    }
    for (path, reason) in &retrieved.failed {
        complain(&format!("failed   {}: {reason}", path.escape_debug()));
    }
    for path in &retrieved.occupied {
        let path = path.as_str().escape_debug();
        complain(&format!("failed   {path}: another path is in its way here"));
    }
    let reason = "an export is whole or not there; in a workspace, `statehold restore --all` brings \
                  everything else";
    match retrieved.damaged.first() {
        Some((_, error)) => {
            let error = statehold_repository::Error::damaged("the content", error.to_string());
            Err(error).context(reason)
        }
        None => bail!("{reason}"),
    }
}
