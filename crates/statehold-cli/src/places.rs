//! Which repositories `verify` and `repair` are about: those of a store, or the one that the workspace
//! is linked with.

use std::sync::Arc;

use anyhow::{Result, bail};
use statehold_core::record::RecordRef;
use statehold_repository::Error;
use statehold_repository::Remote;
use statehold_repository::location::StoreLocation;
use statehold_repository::store::Store;
use statehold_repository::verify::places::{Place, Places, find};
use statehold_sync::checks::Checks;
use statehold_sync::workspace::{Link, Workspace};

use crate::connection::{Connection, find_workspace, known_records, store_of};
use crate::environment::{home, store_variable};
use crate::output::Output;

/// What was addressed.
pub(crate) enum Addressed {
    /// Repositories that can be reached straight.
    Straight {
        /// Where the store is.
        location: StoreLocation,
        /// What lies in it.
        places: Places,
    },
    /// A repository behind a gateway.
    Gateway {
        /// What it hands out.
        remote: Arc<dyn Remote>,
        /// Where it is, for people.
        of: String,
    },
}

/// The store that an option names.
pub(crate) fn named_store(text: &str) -> Result<StoreLocation> {
    match store_of(text)? {
        Some(location) => Ok(location),
        None => bail!("{text}: a store is a folder, or a bucket as s3://, gs:// or az://"),
    }
}

/// Opens a store with the credentials that these variables hold, without making anything in it: a
/// folder that isn't mounted is not made.
pub(crate) fn open_to_look(
    location: &StoreLocation,
    variable: &(dyn Fn(&str) -> Option<String> + Sync),
) -> Result<Store> {
    if let StoreLocation::Folder(folder) = location
        && !folder.is_dir()
    {
        let what = format!("the store in {location}");
        let source = "there is no such folder; is it mounted?".into();
        return Err(Error::Unavailable { what, source }.into());
    }
    Ok(location.open(&variable)?)
}

/// All repositories in a store.
pub(crate) async fn places_in(location: &StoreLocation, store: &Store) -> Result<Places> {
    let places = find(store).await?;
    if places.repositories.is_empty() {
        bail!("{location} holds no repository; is it the right prefix?");
    }
    Ok(places)
}

/// What `--store` names, or the workspace's repository.
pub(crate) async fn addressed(
    store: Option<&str>,
    workspace: Option<&Workspace>,
    folder: &std::path::Path,
    output: Output,
) -> Result<Addressed> {
    if let Some(text) = store {
        let location = named_store(text)?;
        let store = open_to_look(&location, &store_variable)?;
        let places = places_in(&location, &store).await?;
        return Ok(Addressed::Straight { location, places });
    }
    let workspace = match workspace {
        Some(workspace) => workspace.clone(),
        None => find_workspace(folder)?,
    };
    let url = workspace
        .settings()
        .link
        .as_ref()
        .map(|link| link.url.clone());
    let Some(location) = url.as_deref().map(store_of).transpose()?.flatten() else {
        let link = workspace.settings().link.clone();
        let remote = Connection::of(workspace, output, None).await?.remote;
        let of = link.as_ref().map(name_of_linked).unwrap_or_default();
        return Ok(Addressed::Gateway { remote, of });
    };
    let places = Places {
        repositories: vec![Place {
            prefix: String::new(),
            store: open_to_look(&location, &store_variable)?,
        }],
        unknown: Vec::new(),
    };
    Ok(Addressed::Straight { location, places })
}

/// What a repository is called in what is remembered and shown.
pub(crate) fn name_of(location: &StoreLocation, place: &Place) -> String {
    match place.prefix.as_str() {
        "" => location.to_string(),
        prefix => format!("{location}/{prefix}"),
    }
}

/// The same for the repository that a workspace is linked with.
pub(crate) fn name_of_linked(link: &Link) -> String {
    if let Ok(Some(location)) = store_of(&link.url) {
        return location.to_string();
    }
    let id = link.repository_id.map(|id| id.to_string());
    format!("{} {}", link.url, id.unwrap_or_default())
}

/// What is remembered of a repository, and the records that are known to have been in its log.
pub(crate) fn remembered(
    of: &str,
    workspace: Option<&Workspace>,
) -> Result<(Checks, Vec<RecordRef>)> {
    let checks = Checks::read(&home()?, of);
    let mut known: Vec<RecordRef> = checks.head.into_iter().collect();
    if let Some(workspace) = workspace
        && let Some(link) = &workspace.settings().link
    {
        let id = link.repository_id.map(|id| id.to_string());
        let is_same = id.is_some_and(|id| of.ends_with(&id))
            || store_of(&link.url)
                .ok()
                .flatten()
                .is_some_and(|there| there.to_string() == of);
        let seen = known_records(workspace).map(|heads| heads.seen);
        known.extend(seen.filter(|seen| is_same && seen.number > 0));
    }
    Ok((checks, known))
}
