//! What a store in a folder needs besides `object_store`'s: proof that what others wrote is durable,
//! and the removal of its own staging files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A folder that is a store.
#[derive(Debug)]
pub(crate) struct FolderStore {
    root: PathBuf,
    /// Per folder of records, the greatest name that is known to be durable, and with it all smaller
    /// ones: nobody creates record n + 1 before record n stands.
    durable: Mutex<HashMap<PathBuf, String>>,
}

impl FolderStore {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            durable: Mutex::default(),
        }
    }

    fn place(&self, key: &str) -> PathBuf {
        key.split('/')
            .fold(self.root.clone(), |path, name| path.join(name))
    }

    /// Makes an object durable that was seen under this key, whoever wrote it: the writer may have
    /// died, or may still be waiting, between its link and its sync of the folder.
    pub(crate) async fn settle(&self, key: &str) -> Result<()> {
        let place = self.place(key);
        let folder = place.parent().unwrap_or(&self.root).to_path_buf();
        tokio::task::spawn_blocking(move || sync_folder(&folder))
            .await
            .unwrap_or_else(|error| Err(Error::other(error)))
    }

    /// The same for a record that was read, once: most records were settled before.
    pub(crate) async fn settle_record(&self, key: &str) -> Result<()> {
        if self.is_settled(key) {
            return Ok(());
        }
        self.settle(key).await?;
        self.settled_record(key);
        Ok(())
    }

    fn is_settled(&self, key: &str) -> bool {
        let place = self.place(key);
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let known = place.parent().and_then(|folder| durable.get(folder));
        known.is_some_and(|known| name_of(&place) <= known.as_str())
    }

    /// Takes note that a record is durable.
    pub(crate) fn settled_record(&self, key: &str) {
        let place = self.place(key);
        let Some(folder) = place.parent() else {
            return;
        };
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let known = durable.entry(folder.to_path_buf()).or_default();
        if known.as_str() < name_of(&place) {
            name_of(&place).clone_into(known);
        }
    }

    /// Removes the staging files under a key that were last written before a moment, and gives how
    /// many there were. Only what a write left behind that never ended is that old.
    pub(crate) async fn sweep(&self, under: &str, before: SystemTime) -> Result<u64> {
        let root = if under.is_empty() {
            self.root.clone()
        } else {
            self.place(under)
        };
        tokio::task::spawn_blocking(move || sweep(root, before))
            .await
            .unwrap_or_else(|error| Err(Error::other(error)))
    }
}

fn name_of(place: &FilePath) -> &str {
    place
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn sync_folder(folder: &FilePath) -> Result<()> {
    if cfg!(windows) {
        // Folders can't be opened there, and the file system journals their entries itself.
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        // A file system that has no such call has no better promise to give.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Whether a name is one that `object_store` gives to what it has not finished writing.
fn is_staging(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(object, count)| {
        !object.is_empty() && !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn sweep(root: PathBuf, before: SystemTime) -> Result<u64> {
    // Another process may be sweeping, or finishing a write, at the same time.
    fn vanished(error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound
    }
    let mut swept = 0;
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let items = match std::fs::read_dir(&folder) {
            Err(error) if vanished(&error) => continue,
            items => items?,
        };
        for item in items {
            let item = item?;
            // Not followed: what a link points to is not ours.
            let kind = item.file_type()?;
            if kind.is_dir() {
                folders.push(item.path());
                continue;
            }
            let name = item.file_name();
            if !kind.is_file() || !name.to_str().is_some_and(is_staging) {
                continue;
            }
            let written = match item.metadata() {
                Err(error) if vanished(&error) => continue,
                meta => meta?.modified()?,
            };
            if written < before {
                match std::fs::remove_file(item.path()) {
                    Err(error) if vanished(&error) => {}
                    result => {
                        result?;
                        swept += 1;
                    }
                }
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_old_staging_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a/log");
        std::fs::create_dir_all(&log).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let write = |name: &str, age: Duration| {
            let file = File::create(log.join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        write("00000000000000000001", day * 9);
        write("00000000000000000001#1", day * 2);
        write("00000000000000000002#17", day * 2);
        write("00000000000000000002#18", day / 2);
        write("notes#x", day * 2);
        write("#1", day * 2);
        let store = FolderStore::new(folder.path().to_path_buf());
        let before = SystemTime::now() - day;
        assert_eq!(store.sweep("b", before).await.unwrap(), 0);
        assert_eq!(store.sweep("a", before).await.unwrap(), 2);
        let mut left: Vec<_> = std::fs::read_dir(&log)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [
            "#1",
            "00000000000000000001",
            "00000000000000000002#18",
            "notes#x",
        ];
        assert_eq!(left, expected);
        assert_eq!(store.sweep("", before).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_record_is_settled_once_and_with_it_all_before() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/log")).unwrap();
        let store = FolderStore::new(folder.path().to_path_buf());
        let key = |number: u64| format!("a/{}", crate::layout::record(number));
        assert!(!store.is_settled(&key(7)));
        store.settle_record(&key(7)).await.unwrap();
        assert!(store.is_settled(&key(7)) && store.is_settled(&key(1)));
        assert!(!store.is_settled(&key(8)));
        assert!(!store.is_settled("b/log/00000000000000000001"));
        store.settled_record(&key(2));
        assert!(store.is_settled(&key(7)));
        // A folder that can't be synced is an error, not a durable record.
        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
        store.settle_record(&key(9)).await.unwrap_err();
        assert!(!store.is_settled(&key(9)));
    }
}
