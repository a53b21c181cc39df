//! Receipts of the drills that were made in a workspace: `.statehold/drills/<time>-<digest>.json`. The log
//! vouches for each by the digest of its bytes.

use std::io;
use std::path::{Path, PathBuf};

use statehold_core::digest::Digest;
use statehold_repository::Result;
use statehold_repository::drill::receipt::Receipt;

use crate::atomic::{Readers, replace_file};
use crate::home::make_private_folders;
use crate::workspace::Workspace;

/// Digits of the digest in a name.
const DIGITS: usize = 16;

/// Keeps a receipt, durably. Gives its path.
pub fn keep(workspace: &Workspace, receipt: &Receipt) -> io::Result<PathBuf> {
    let folder = workspace.drills();
    make_private_folders(&folder)?;
    let bytes = receipt.to_bytes().map_err(io::Error::other)?;
    let digest = Digest::of(&bytes).to_string();
    let digest = digest.get(..DIGITS).unwrap_or_default();
    let path = folder.join(format!("{}-{digest}.json", receipt.time.to_file_name()));
    replace_file(&path, &bytes, Readers::Owner, &folder)?;
    Ok(path)
}

/// The newest receipt; `None` where there is none.
pub fn newest(workspace: &Workspace) -> Result<Option<Receipt>> {
    let items = std::fs::read_dir(workspace.drills());
    let paths = items.into_iter().flatten().flatten().map(|it| it.path());
    let receipts = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    // Names begin with the time, to the second; several drills may have begun in the newest one.
    let mut newest: Option<(String, Vec<PathBuf>)> = None;
    for path in receipts {
        let name = path.file_stem().and_then(|name| name.to_str());
        let Some((second, _)) = name.and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        match &mut newest {
            Some((known, _)) if second < known.as_str() => {}
            Some((known, paths)) if second == known => paths.push(path),
            _ => newest = Some((second.to_owned(), vec![path])),
        }
    }
    let (_, paths) = newest.unwrap_or_default();
    let receipts: Vec<Receipt> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
    Ok(receipts.into_iter().max_by_key(|receipt| receipt.time))
}

fn read(path: &Path) -> Result<Receipt> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        statehold_repository::Error::damaged(&name, format!("it cannot be read: {error}"))
    })?;
    Receipt::from_bytes(&name, &bytes)
}
