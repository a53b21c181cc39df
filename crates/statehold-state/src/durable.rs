//! Files that are there after a power cut once a function here has returned.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::error::{IoContext as _, Result};

/// Makes what was created in or removed from a folder last.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    // Other systems write folders through, and cannot open them.
    if cfg!(unix) {
        File::open(path)
            .and_then(|folder| folder.sync_all())
            .on("flush the folder", path)?;
    }
    Ok(())
}

/// Replaces a file whole: whoever looks sees the old content or the new one.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let staged = path.with_extension("new");
    let mut file = File::create(&staged).on("create", &staged)?;
    for part in parts {
        file.write_all(part).on("write", &staged)?;
    }
    file.sync_all().on("flush", &staged)?;
    drop(file);
    fs::rename(&staged, path).on("put in place", path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// The content of a file, if there is one.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).on("read", path),
    }
}
