//! `statehold admin`: what an operator does at a gateway: tenants, keys, invites.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use statehold_core::environment::Clock as _;
use statehold_core::id::{KeyId, RepositoryId, TenantId};
use statehold_repository::wire::bodies::{NewInvite, NewKey, NewTenant, Role, TenantInfo};
use statehold_repository::wire::key::{Invite, Key};
use statehold_sync::gateway_client::GatewayClient;
use statehold_sync::home::{KeyError, read_key_file, write_key_file};

use super::machines::describe;
use super::{block_on, serve::DEFAULT_URL};
use crate::connection::client;
use crate::environment::{SystemClock, SystemEntropy, home};
use crate::exit::Exit;
use crate::output::{Output, complain, print};

/// Look after a gateway: tenants, keys and invites
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold admin invite --label laptop
  statehold admin tenant add acme
  statehold admin keys")]
pub(crate) struct AdminArgs {
    /// The gateway's address
    #[arg(long, global = true, default_value = DEFAULT_URL, value_name = "URL")]
    gateway: String,
    /// A file that holds an operator's key; by default the one that `statehold serve` left
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an invite: it gives one machine a key of its own, once, within seven days
    #[command(
        after_help = "The invite alone goes to standard output, so that it can go to a file or a pipe.

Examples:
  statehold admin invite --label laptop
  (umask 077; statehold admin invite --label laptop > invite)   (for link --key-file invite)
  statehold admin invite --role own --label boss"
    )]
    Invite {
        /// What the machine's key may do: read, push, maintain or own
        #[arg(long, default_value = "push", value_name = "ROLE")]
        role: Role,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        label: String,
        /// The repository it is for, by id; by default the operator's own
        #[arg(long, value_name = "ID")]
        repository: Option<RepositoryId>,
    },
    /// Show the invites that are open: neither used nor over
    Invites,
    /// Make a key and write it to a file that only you can read
    #[command(after_help = "Examples:
  statehold admin key --label ci --role read --to ci.key
  statehold admin key --label spare --role operator --to spare.key")]
    Key {
        /// What it may do: read, push, maintain, own or operator
        #[arg(long, default_value = "push", value_name = "ROLE")]
        role: Role,
        /// What it is called
        #[arg(long, value_name = "TEXT")]
        label: String,
        /// The repository it is for, by id; by default the operator's own
        #[arg(long, value_name = "ID")]
        repository: Option<RepositoryId>,
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Show all keys
    Keys,
    /// Shut out a key
    Revoke {
        /// The key's id
        key: KeyId,
    },
    /// Show or add tenants
    Tenant {
        #[command(subcommand)]
        action: TenantAction,
    },
}

#[derive(Debug, Subcommand)]
enum TenantAction {
    /// Show the tenants and their repositories
    List,
    /// Add a tenant with one repository
    Add {
        /// What it is called
        name: String,
    },
}

pub(super) fn run(args: AdminArgs, output: Output) -> Result<ExitCode> {
    let key = match &args.key_file {
        Some(path) => read_key_file(path)?,
        None => {
            let path = home()?.operator_key_file();
            match read_key_file(&path) {
                Err(KeyError::Absent) => bail!(
                    "there is no operator's key in {}; run this where the gateway was first \
                     started, or name the key with --key-file",
                    path.display()
                ),
                key => key?,
            }
        }
    };
    let client = client(&args.gateway, Some(&key), None)?;
    block_on(act(args, client, output))?;
    Ok(Exit::Done.into())
}

async fn act(args: AdminArgs, client: GatewayClient, output: Output) -> Result<()> {
    match args.action {
        Action::Invite {
            role,
            label,
            repository,
        } => {
            let invite = Invite::random(&SystemEntropy);
            let new = NewInvite {
                invite: invite.id(),
                hash: invite.hash(),
                role,
                label,
                repositories: repository.into_iter().collect(),
                expires: None,
            };
            let info = client.admin_add_invite(&new).await?;
            if output.json {
                let text = invite.reveal();
                output.value(&serde_json::json!({"invite": text.as_str(), "info": info}));
            } else {
                // The invite is what was asked for, and all that a file or a pipe gets.
                print(&invite.reveal());
                if !output.quiet {
                    complain(&format!("It is good once, until {}.", info.expires));
                    complain("On the other machine, in the folder that is to be shared:");
                    complain("  statehold init");
                    complain(&format!(
                        "  statehold link {}     (and paste the invite)",
                        args.gateway
                    ));
                }
            }
        }
        Action::Invites => {
            let now = SystemClock.now();
            let mut invites = client.admin_invites().await?;
            invites.retain(|invite| invite.redeemed.is_none() && invite.expires > now);
            if invites.is_empty() {
                output.line("no invite is open");
            }
            for invite in &invites {
                output.line(format!(
                    "{}  {:<9} until {}  {}",
                    invite.invite,
                    invite.role.to_string(),
                    invite.expires,
                    invite.label
                ));
            }
            output.value(&invites);
        }
        Action::Key {
            role,
            label,
            repository,
            to,
        } => {
            let key = Key::random(&SystemEntropy);
            // Kept before it is known to the gateway, so that a lost answer loses nothing.
            write_key_file(&to, &key)?;
            let new = NewKey {
                key: key.id(),
                hash: key.hash(),
                role,
                label,
                repositories: repository.into_iter().collect(),
                machine: None,
                expires: None,
            };
            let info = client.admin_add_key(&new).await?;
            output.line(format!("{} is in {}.", describe(&info), to.display()));
            output.value(&info);
        }
        Action::Keys => {
            let keys = client.admin_keys().await?;
            keys.iter().for_each(|key| output.line(describe(key)));
            output.value(&keys);
        }
        Action::Revoke { key } => {
            let key = client.revoke(key).await?;
            output.line(format!("{} is shut out.", key.label));
            output.value(&key);
        }
        Action::Tenant {
            action: TenantAction::List,
        } => {
            let tenants = client.admin_tenants().await?;
            tenants
                .iter()
                .for_each(|tenant| show_tenant(tenant, output));
            output.value(&tenants);
        }
        Action::Tenant {
            action: TenantAction::Add { name },
        } => {
            let new = NewTenant {
                tenant: TenantId::random(&SystemEntropy),
                repository: RepositoryId::random(&SystemEntropy),
                name,
            };
            let tenant = client.admin_add_tenant(&new).await?;
            show_tenant(&tenant, output);
            output.value(&tenant);
        }
    }
    Ok(())
}

/// A tenant, and its repositories beneath it.
fn show_tenant(tenant: &TenantInfo, output: Output) {
    output.line(format!(
        "{}  since {}  {}",
        tenant.tenant, tenant.created, tenant.name
    ));
    for (repository, name) in &tenant.repositories {
        output.line(format!("  repository {repository}  {name}"));
    }
}
