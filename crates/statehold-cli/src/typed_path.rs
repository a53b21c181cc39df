//! Paths as people type them: relative to the folder that they are in, as with Git, or absolute.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use statehold_core::path::RepoPath;
use statehold_sync::workspace::Workspace;

use crate::exit::WrongUsage;

/// The path in a workspace that was typed in a folder of it, there or not; `None` is the workspace
/// itself.
pub(crate) fn within(
    workspace: &Workspace,
    folder: &Path,
    typed: &str,
) -> Result<Option<RepoPath>> {
    let folder = fs::canonicalize(folder)
        .with_context(|| format!("the folder {} cannot be found", folder.display()))?;
    let full = normal(&folder.join(typed));
    let root = workspace.root();
    let inside = match full.strip_prefix(root) {
        Ok(inside) => inside.to_owned(),
        // The root is known by its real name; what was typed may lead there by links.
        Err(_) => {
            let real = full.parent().and_then(|above| fs::canonicalize(above).ok());
            let real = real
                .zip(full.file_name())
                .map(|(above, name)| above.join(name));
            let inside = real.and_then(|real| Some(real.strip_prefix(root).ok()?.to_owned()));
            inside.ok_or_else(|| {
                WrongUsage::because(format!(
                    "{typed} is not inside the workspace {}",
                    root.display()
                ))
            })?
        }
    };
    let names: Option<Vec<&str>> = inside.iter().map(|name| name.to_str()).collect();
    let path = names.unwrap_or_default().join("/");
    if path.is_empty() {
        return Ok(None);
    }
    match RepoPath::parse(&path) {
        Ok(path) => Ok(Some(path)),
        Err(error) => Err(WrongUsage::because(error.to_string())),
    }
}

/// The same where only something inside will do.
pub(crate) fn inside(workspace: &Workspace, folder: &Path, typed: &str) -> Result<RepoPath> {
    within(workspace, folder, typed)?.ok_or_else(|| {
        WrongUsage::because(format!(
            "{typed} is the workspace itself, and no path inside"
        ))
    })
}

/// A path without `.` and `..`, as it reads: what it names need not be there.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}
