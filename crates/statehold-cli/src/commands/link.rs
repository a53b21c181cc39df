//! `statehold link` and `unlink`: connect a workspace with a repository, and undo it.

use std::io::ErrorKind::NotFound;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use statehold_core::record::RecordRef;
use statehold_repository::Remote as _;
use statehold_repository::location::StoreLocation;
use statehold_repository::wire::bodies::{Info, NewInvite, Role};
use statehold_repository::wire::key::{INVITE_PREFIX, Invite, Key};
use statehold_sync::gateway_client::GatewayClient;
use statehold_sync::home::{KeyError, read_key_file};
use statehold_sync::journal::Journal;
use statehold_sync::pull_journal::PullJournal;
use statehold_sync::workspace::{Link, Workspace};
use zeroize::Zeroizing;

use super::{GlobalArgs, block_on};
use crate::connection::{
    Connection, client, find_workspace, forget_info, keep_description, keep_info, open_linked,
    open_repository, store_of, workspace_key,
};
use crate::environment::{SystemEntropy, home, variable};
use crate::exit::{Exit, WrongUsage};
use crate::output::{Output, complain, count};

/// Connect the workspace with a repository
#[derive(Debug, Args)]
#[command(
    after_help = "The key or invite is read from --key-file, from STATEHOLD_KEY, or from standard
input, so that it stands in no shell history and no process list. An invite, and a
key that may make others, give this machine a key of its own.

Examples:
  statehold link https://gateway.example.org          (asks for the invite)
  statehold link http://127.0.0.1:7411 --key-file operator.key
  statehold link file:///mnt/shared/state             (a folder, without a gateway)"
)]
pub(crate) struct LinkArgs {
    /// The gateway's address, or a store to work on straight: a folder, s3://, gs:// or az://
    url: String,
    /// A file that holds the key or the invite
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What this machine's own key may do, where it is made with an owner's or operator's key: read,
    /// push (unless given), maintain or own. The role of an invite was fixed when it was made
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
    /// The repository that the workspace is linked with lies in this place now, as after `promote`: key
    /// and everything known about it stay
    #[arg(long, conflicts_with_all = ["key_file", "role"])]
    moved: bool,
}

/// Disconnect the workspace; its files stay as they are
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold unlink
  statehold unlink --keep-key      (the key was copied, and goes on elsewhere)")]
pub(crate) struct UnlinkArgs {
    /// Leave this machine's key valid at the gateway
    #[arg(long)]
    keep_key: bool,
}

/// What proves who links.
enum Credential {
    Key(Key),
    Invite(Invite),
}

pub(super) fn run_link(args: LinkArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let mut workspace = find_workspace(&global.directory()?)?;
    if args.moved {
        return follow(&args, workspace, output);
    }
    if let Some(link) = &workspace.settings().link {
        bail!(
            "the workspace is linked with {} already; `statehold unlink` undoes that",
            link.url
        );
    }
    let config = std::path::absolute(home()?.config)?;
    if config.starts_with(workspace.root()) {
        bail!(
            "{}, where keys are kept, lies inside the workspace and would be shared with it; \
             set STATEHOLD_HOME or XDG_CONFIG_HOME to a folder outside",
            config.display()
        );
    }
    let link = block_on(async {
        match store_of(&args.url)? {
            Some(location) => {
                if let StoreLocation::Folder(folder) = &location {
                    check_apart(&workspace, folder)?;
                }
                link_store(&workspace, &location).await
            }
            None => link_gateway(&workspace, &args).await,
        }
    })?;
    workspace.change_settings(|settings| settings.link = Some(link.clone()))?;
    output.line(format!(
        "{} is linked with {}.",
        workspace.root().display(),
        link.url
    ));
    let joined = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        Ok(connection.engine.join().await?)
    });
    let (mut record, mut entries) = (None, None);
    match joined {
        Ok(joined) => {
            record = Some(joined.head.number);
            entries = Some(joined.entries);
            output.line(match joined.entries {
                0 => "The repository is empty.".to_owned(),
                entries => format!("The repository holds {}.", count(entries as u64, "path")),
            });
        }
        // The next command asks again, and says what it is about if it lasts.
        Err(error) => {
            forget_info(&workspace);
            complain(&format!("the repository could not be read yet: {error:#}"));
        }
    }
    output.line("Next: `statehold status`, then `statehold pull` and `statehold push`.");
    output.value(&json!({
        "url": link.url, "repository": link.repository, "key": link.key_id,
        "record": record, "entries": entries,
    }));
    Ok(Exit::Done.into())
}

/// Goes on with the same repository in another place.
fn follow(args: &LinkArgs, mut workspace: Workspace, output: Output) -> Result<ExitCode> {
    let Some(link) = workspace.settings().link.clone() else {
        bail!("the workspace is not linked, so nothing has moved; leave out --moved");
    };
    let moved = block_on(async {
        let (url, repository) = match store_of(&args.url)? {
            Some(location) => {
                if let StoreLocation::Folder(folder) = &location {
                    check_apart(&workspace, folder)?;
                }
                let found = open_linked(&workspace, &location, link.repository_id).await?;
                found
                    .confirm(RecordRef {
                        number: 0,
                        id: found.description().1,
                    })
                    .await?;
                (location.to_string(), Some(found.description().0.repository))
            }
            None => {
                let key = workspace_key(&workspace)?;
                let info = client(&args.url, Some(&key), link.repository_id)?
                    .info()
                    .await?;
                (args.url.clone(), Some(info.repository))
            }
        };
        if repository != link.repository_id {
            bail!(
                "{url} has another repository than the workspace is linked with; `statehold \
                 unlink`, then `statehold link` if that is meant"
            );
        }
        Ok(Link { url, ..link })
    })?;
    workspace.change_settings(|settings| settings.link = Some(moved.clone()))?;
    forget_info(&workspace);
    let root = workspace.root().display();
    output.line(format!("{root} is linked with {} now.", moved.url));
    let joined = block_on(async {
        let connection = Connection::of(workspace.clone(), output, None).await?;
        Ok(connection.engine.join().await?)
    })?;
    output.line("Next: `statehold sync`, which also pushes again what was lost on the way.");
    output.value(&json!({
        "url": moved.url, "repository": moved.repository, "key": moved.key_id,
        "record": joined.head.number, "entries": joined.entries,
    }));
    Ok(Exit::Done.into())
}

/// Refuses a store in the workspace, which would be pushed into itself, and a workspace in its store.
fn check_apart(workspace: &Workspace, store: &Path) -> Result<()> {
    // What of it is there yet may be behind a link.
    let there = store.ancestors().find(|folder| folder.exists());
    let there = there.unwrap_or(store);
    let mut place = there.canonicalize().unwrap_or_else(|_| there.to_owned());
    if let Ok(rest) = store.strip_prefix(there) {
        place.extend(rest);
    }
    let root = workspace.root();
    if place.starts_with(root) || root.starts_with(&place) {
        bail!(
            "the store {} and the workspace {} lie within each other, so the store would be pushed \
             into itself; link a folder outside the workspace",
            place.display(),
            root.display()
        );
    }
    Ok(())
}

async fn link_store(workspace: &Workspace, location: &StoreLocation) -> Result<Link> {
    let repository = open_repository(location).await?;
    keep_description(workspace, &repository);
    let id = repository.description().0.repository;
    Ok(Link {
        url: location.to_string(),
        repository: id.to_string(),
        repository_id: Some(id),
        key_id: None,
    })
}

async fn link_gateway(workspace: &Workspace, args: &LinkArgs) -> Result<Link> {
    // An address that can't be right is told before anybody pastes a secret.
    client(&args.url, None, None)?;
    let key = match read_credential(args)? {
        Credential::Invite(_) if args.role.is_some() => {
            return Err(WrongUsage::because(
                "--role goes with an owner's or operator's key; the role of an invite is fixed by \
                 whoever made it, with `statehold admin invite --role ROLE`",
            ));
        }
        Credential::Invite(invite) => redeem(workspace, &args.url, &invite).await?,
        Credential::Key(key) => {
            let client = client(&args.url, Some(&key), None)?;
            match client.info().await?.role {
                // Such a key is not this machine's alone, so it makes one that is.
                Role::Own | Role::Operator => {
                    let invite = own_invite(&client, args.role.unwrap_or(Role::Push)).await?;
                    redeem(workspace, &args.url, &invite).await?
                }
                role if args.role.is_some_and(|wanted| wanted != role) => {
                    return Err(WrongUsage::because(format!(
                        "the key has the role {role}, and --role changes no key"
                    )));
                }
                Role::Read | Role::Push | Role::Maintain => key,
            }
        }
    };
    let info: Info = client(&args.url, Some(&key), None)?.info().await?;
    home()?.write_key(workspace.settings().workspace, &key)?;
    keep_info(workspace, &info);
    Ok(Link {
        url: args.url.clone(),
        repository: info.name,
        repository_id: Some(info.repository),
        key_id: Some(info.key),
    })
}

async fn own_invite(client: &GatewayClient, role: Role) -> Result<Invite> {
    let invite = Invite::random(&SystemEntropy);
    let new = NewInvite {
        invite: invite.id(),
        hash: invite.hash(),
        role,
        label: "link".into(),
        repositories: Vec::new(),
        expires: None,
    };
    client.add_invite(&new).await?;
    Ok(invite)
}

/// Turns an invite into this machine's own key. The key is drawn and kept here first, so that a
/// lost answer costs neither.
async fn redeem(workspace: &Workspace, url: &str, invite: &Invite) -> Result<Key> {
    let settings = workspace.settings();
    let home = home()?;
    let key = match home.read_key(settings.workspace) {
        Ok(key) => key,
        Err(_) => Key::random(&SystemEntropy),
    };
    home.write_key(settings.workspace, &key)?;
    let machine = Some(settings.machine.id);
    client(url, None, None)?
        .redeem(invite, &key, &settings.machine.name, machine)
        .await?;
    Ok(key)
}

fn read_credential(args: &LinkArgs) -> Result<Credential> {
    let text = if let Some(path) = &args.key_file {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
            let unread = format!("{} cannot be read: {error}", path.display());
            match error.kind() {
                NotFound => anyhow::Error::from(KeyError::Absent).context(unread),
                _ => anyhow::Error::from(error).context(unread),
            }
        })?);
        let line = text.lines().next().unwrap_or_default().trim();
        if !line.is_empty() && !line.starts_with(INVITE_PREFIX) {
            return Ok(Credential::Key(read_key_file(path)?));
        }
        line.to_owned()
    } else if let Some(text) = variable("STATEHOLD_KEY") {
        text
    } else {
        if std::io::stdin().is_terminal() {
            complain("Paste the invite or key, then press Enter:");
        }
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("no key or invite could be read")?;
        line
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(anyhow::Error::from(KeyError::Absent).context(
            "no key or invite was given; an operator makes one with `statehold admin invite`",
        ));
    }
    if text.starts_with(INVITE_PREFIX) {
        return Ok(Credential::Invite(text.parse()?));
    }
    Ok(Credential::Key(text.parse()?))
}

pub(super) fn run_unlink(
    args: &UnlinkArgs,
    global: &GlobalArgs,
    output: Output,
) -> Result<ExitCode> {
    let mut workspace = find_workspace(&global.directory()?)?;
    let settings = workspace.settings().clone();
    let Some(link) = settings.link else {
        output.line("The workspace is not linked.");
        output.value(&json!({"unlinked": null}));
        return Ok(Exit::Done.into());
    };
    let home = home()?;
    if let (Some(id), Ok(key), false) = (
        link.key_id,
        home.read_key(settings.workspace),
        args.keep_key,
    ) {
        let revoked =
            block_on(async { Ok(client(&link.url, Some(&key), None)?.revoke(id).await?) });
        if let Err(error) = revoked {
            complain(&format!(
                "the key could not be revoked at the gateway: {error:#}"
            ));
            complain(&format!(
                "whoever owns the repository can: `statehold machines revoke {id}`"
            ));
        }
    }
    home.remove_key(settings.workspace)?;
    forget_info(&workspace);
    workspace.change_settings(|settings| settings.link = None)?;
    Journal::of(&workspace).clear()?;
    PullJournal::of(&workspace).clear()?;
    // Another repository shares no base with this one.
    match std::fs::remove_file(workspace.index_files().checkout) {
        Err(error) if error.kind() != NotFound => return Err(error.into()),
        _ => {}
    }
    output.line(format!(
        "The workspace is no longer linked with {}; its files are untouched.",
        link.url
    ));
    output.value(&json!({"unlinked": link.url}));
    Ok(Exit::Done.into())
}
