//! Folders that are full or can't be written to, also for root: file systems of their own, mounted
//! for as long as a test needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::is_root;

/// A file system that is mounted until it is dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// A file system in memory with room for so many bytes. An error says why none could be mounted,
    /// as without root's rights.
    pub fn small(at: &Path, bytes: u64) -> Result<Self, String> {
        let size = format!("size={bytes},mode=755");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], at)?;
        Ok(Self { at: at.to_owned() })
    }

    /// What lies in a folder already, and nothing of it can be changed.
    pub fn read_only(at: &Path) -> Result<Self, String> {
        mount(&["--bind", &at.to_string_lossy()], at)?;
        let mounted = Self { at: at.to_owned() };
        mount(&["-o", "remount,bind,ro"], at)?;
        Ok(mounted)
    }

    /// Makes room for so many bytes.
    pub fn grow(&self, bytes: u64) -> Result<(), String> {
        mount(&["-o", &format!("remount,size={bytes}")], &self.at)
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    if !is_root().map_err(|error| error.to_string())? {
        return Err("only root may mount".into());
    }
    let ended = Command::new("mount").args(arguments).arg(at).output();
    let ended = ended.map_err(|error| format!("mount: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned())
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, since a process of a failed test may still be in there.
        let ended = Command::new("umount").arg("--lazy").arg(&self.at).status();
        debug_assert!(ended.is_ok_and(|status| status.success()), "still mounted");
    }
}
