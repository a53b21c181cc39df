//! Which repositories lie in a store: one at its root, or a gateway's with its control log.

use statehold_core::id::{RepositoryId, TenantId};

use crate::error::Result;
use crate::layout;
use crate::store::Store;

/// The folder of a gateway's control log.
pub const CONTROL: &str = "_control";

/// A repository in a store.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folders that it lies in; empty at the root, `_control` for a gateway's own log.
    pub prefix: String,
    /// The store, seen from there.
    pub store: Store,
}

impl Place {
    /// The place with this prefix in a store.
    pub fn at(store: &Store, prefix: String) -> Self {
        let store = inside(store, &prefix);
        Self { prefix, store }
    }

    /// The place with this prefix in another store, such as a replica.
    pub fn in_other(&self, store: &Store) -> Store {
        inside(store, &self.prefix)
    }
}

fn inside(store: &Store, prefix: &str) -> Store {
    let names = prefix.split('/').filter(|name| !name.is_empty());
    names.fold(store.clone(), |store, name| store.inside(name))
}

/// What was found in a store.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The repositories, by prefix.
    pub repositories: Vec<Place>,
    /// Keys and folders that mean nothing there.
    pub unknown: Vec<String>,
}

/// Looks for all repositories in a store. They are listed and not opened, so damaged ones are found.
pub async fn find(store: &Store) -> Result<Places> {
    const PARTS: [&str; 6] = [
        layout::LOG,
        layout::DRILLS,
        "packs",
        "trees",
        "segments",
        layout::CHECKPOINTS,
    ];
    let (folders, objects) = store.list_here().await?;
    let mut found = Places::default();
    let at = |prefix: &str| Place::at(store, prefix.to_owned());
    let is_root = objects.iter().any(|object| object == layout::REPOSITORY)
        || folders.iter().any(|folder| folder == layout::LOG);
    if is_root {
        found.repositories.push(at(""));
    } else {
        let strange = objects.into_iter().filter(|object| object != layout::LEASE);
        found.unknown.extend(strange);
    }
    for folder in folders {
        if folder == CONTROL {
            found.repositories.push(at(CONTROL));
        } else if folder.parse::<TenantId>().is_ok() {
            let (repositories, objects) = store.inside(&folder).list_here().await?;
            let unknown = objects.into_iter().map(|name| format!("{folder}/{name}"));
            found.unknown.extend(unknown);
            for name in repositories {
                let prefix = format!("{folder}/{name}");
                if name.parse::<RepositoryId>().is_ok() {
                    found.repositories.push(at(&prefix));
                } else {
                    found.unknown.push(prefix);
                }
            }
        } else if !is_root
            && ![layout::PROBES, "probe", layout::JOBS].contains(&folder.as_str())
            && !PARTS.contains(&folder.as_str())
        {
            found.unknown.push(folder);
        }
    }
    Ok(found)
}
