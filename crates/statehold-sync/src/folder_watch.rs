//! How changes in a folder are noticed: by what the system tells, which is taken as a hint and never as
//! the truth. Nothing is looked at here but names; a scan finds out what changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use statehold_core::path::RepoPath;
use statehold_core::rules::RuleSet;
use statehold_core::scope::Scope;
use tokio::sync::Notify;

use crate::ignore_file::IgnoreFile;
use crate::scan::is_left_out;

/// Which paths of a folder matter to whoever watches it.
#[derive(Debug)]
pub struct Interest {
    /// The rules.
    pub rules: RuleSet,
    /// What the user leaves out.
    pub ignore: IgnoreFile,
    /// The paths that it is about.
    pub scope: Scope,
}

impl Interest {
    /// Whether a path may travel. Those of Statehold's own, and names that can't travel, don't.
    fn includes(&self, path: &Path) -> bool {
        let path = path.to_str().and_then(|path| RepoPath::parse(path).ok());
        path.is_some_and(|path| {
            self.scope.contains(&path) && !is_left_out(&self.rules, &self.ignore, &path, false)
        })
    }
}

/// A folder whose changes the system tells, as far as it can.
pub struct FolderWatch {
    /// Tells for as long as this lives.
    watcher: Option<RecommendedWatcher>,
    heard: Arc<Heard>,
}

impl std::fmt::Debug for FolderWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FolderWatch")
            .field("is_told", &self.watcher.is_some())
            .finish_non_exhaustive()
    }
}

/// What the system told. One bit of it is kept, however much that is.
struct Heard {
    root: PathBuf,
    interest: Mutex<Interest>,
    changed: Notify,
    /// Why not everything is told any more.
    gap: Mutex<Option<String>>,
}

impl FolderWatch {
    /// Begins to listen for changes beneath a folder. Where the system won't tell, the reason is there to
    /// be [taken](Self::take_gap). Links are not followed.
    pub fn begin(root: &Path, interest: Interest) -> Self {
        let heard = Arc::new(Heard {
            root: root.to_owned(),
            interest: Mutex::new(interest),
            changed: Notify::new(),
            gap: Mutex::default(),
        });
        let listener = Arc::clone(&heard);
        let listen = || -> notify::Result<RecommendedWatcher> {
            let config = notify::Config::default().with_follow_symlinks(false);
            let hear = move |told: notify::Result<notify::Event>| match told {
                Ok(event) => listener.hear(&event),
                Err(error) => listener.lose(&error),
            };
            let mut watcher = RecommendedWatcher::new(hear, config)?;
            watcher.watch(root, RecursiveMode::Recursive)?;
            Ok(watcher)
        };
        let watcher = listen().map_err(|error| heard.lose(&error)).ok();
        Self { watcher, heard }
    }

    /// Waits for a change since the last one that was waited for.
    pub async fn changed(&self) {
        self.heard.changed.notified().await;
    }

    /// Why the system does not tell everything, once for each reason. From then on the folder has to be
    /// looked through.
    pub fn take_gap(&mut self) -> Option<String> {
        let gap = &self.heard.gap;
        let gap = gap.lock().unwrap_or_else(PoisonError::into_inner).take();
        if gap.is_some() {
            // Half of the folder's changes are no help, and cost the system as much as they did.
            self.watcher = None;
        }
        gap
    }

    /// Goes by these rules from now on.
    pub fn set_interest(&self, interest: Interest) {
        *self.heard.interest() = interest;
    }
}

impl Heard {
    fn interest(&self) -> std::sync::MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: &notify::Event) {
        let is_change = match event.kind {
            // Our own looking is told, too.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        let matters = |path: &PathBuf| {
            let inside = path.strip_prefix(&self.root);
            inside.is_ok_and(|inside| self.interest().includes(inside))
        };
        // It may have had more to tell than it could.
        if event.need_rescan() || (is_change && event.paths.iter().any(matters)) {
            self.changed.notify_one();
        }
    }

    fn lose(&self, error: &notify::Error) {
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        *gap = Some(advice(error));
        self.changed.notify_one();
    }
}

/// What went wrong, and what to do about it.
fn advice(error: &notify::Error) -> String {
    const TOO_MANY_OPEN: i32 = rustix::io::Errno::MFILE.raw_os_error();
    match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "the system tells the changes of no more folders; raise its limit with `sysctl -w \
             fs.inotify.max_user_watches=1048576`, in /etc/sysctl.d for good, and start again"
                .to_owned()
        }
        ErrorKind::Io(error) if error.raw_os_error() == Some(TOO_MANY_OPEN) => {
            "too many programs of this user wait for changes; raise the limit with `sysctl -w \
             fs.inotify.max_user_instances=1024`, in /etc/sysctl.d for good, and start again"
                .to_owned()
        }
        _ => format!("the system does not tell what changes in the folder: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::folder::Folder;
    use crate::preset::Preset;

    fn interest(root: &Path) -> Interest {
        let rules = RuleSet::new(Preset::Agent.default_rules()).unwrap();
        let ignore = IgnoreFile::read(&Folder::open(root).unwrap()).unwrap();
        Interest {
            rules,
            ignore,
            scope: Scope::State,
        }
    }

    async fn hears(watch: &FolderWatch) -> bool {
        let heard = timeout(Duration::from_secs(10), watch.changed()).await;
        heard.is_ok()
    }

    async fn is_silent(watch: &FolderWatch) -> bool {
        let heard = timeout(Duration::from_millis(300), watch.changed()).await;
        heard.is_err()
    }

    #[tokio::test]
    async fn changes_are_heard_at_any_depth_and_what_cannot_travel_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("state/log")).unwrap();
        fs::create_dir_all(root.join(".statehold")).unwrap();
        fs::write(root.join(".stateholdignore"), "*.tmp\n").unwrap();
        let mut watch = FolderWatch::begin(&root, interest(&root));
        assert_eq!(watch.take_gap(), None);
        for path in [
            ".statehold/index",
            "state/log/sync-manifest.json",
            "state/log/sync-events.ndjson",
            "program.md",
            "x.tmp",
        ] {
            fs::write(root.join(path), "x").unwrap();
            assert!(is_silent(&watch).await, "{path}");
        }
        // A folder that is made is listened to as well.
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        assert!(hears(&watch).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        while timeout(Duration::from_millis(100), watch.changed())
            .await
            .is_ok()
        {}
        fs::write(root.join("a/b/c/file"), "x").unwrap();
        assert!(hears(&watch).await);
        fs::rename(root.join("a/b/c/file"), root.join("a/file")).unwrap();
        assert!(hears(&watch).await);
        fs::remove_dir_all(root.join("a")).unwrap();
        assert!(hears(&watch).await);
        while timeout(Duration::from_millis(300), watch.changed())
            .await
            .is_ok()
        {}
        // Looking is no change.
        for item in fs::read_dir(&root).unwrap() {
            drop(fs::read(item.unwrap().path()));
        }
        assert!(is_silent(&watch).await);
    }

    #[test]
    fn what_a_system_runs_out_of_is_named() {
        let full = notify::Error::new(ErrorKind::MaxFilesWatch);
        assert!(advice(&full).contains("max_user_watches"));
        let open = notify::Error::io(std::io::Error::from_raw_os_error(24));
        assert!(advice(&open).contains("max_user_instances"));
    }
}
