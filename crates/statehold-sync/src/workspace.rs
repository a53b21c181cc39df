//! `.statehold/`: what makes a folder a workspace.
//!
//! ```text
//! .statehold/
//!   .gitignore       "*": nothing in here belongs into a Git repository either
//!   settings.json    who this workspace is and what it is linked to; no secrets
//!   index            stat cache and base (crate::index)
//!   lock             held while a command works on the folder (crate::locks)
//!   staging/         files on their way into the folder
//!   conflicts/       local content that gave way and exists nowhere else
//!   allowed-secrets.json  files that may be sent although they seem to hold secrets
//!   journal/         what a killed pull resumes from
//!   states/          what this machine keeps of application state
//!   restoring/       what each folder beneath `_restore` holds, and content on its way there
//!   log/             manifest and events, unless the preset keeps them elsewhere
//! ```

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use statehold_core::bands::Profile;
use statehold_core::environment::Entropy;
use statehold_core::id::{KeyId, MachineId, RepositoryId, WorkspaceId};
use statehold_core::path::{RESERVED_NAME, RepoPath};
use statehold_core::rules::{InvalidRules, RuleSet};
use statehold_core::time::Timestamp;

use crate::atomic::{Readers, replace_file};
use crate::events::EventLog;
use crate::folder::{Attributes, Folder, FolderError, Found};
use crate::home::make_private_folders;
use crate::ignore_file::{IGNORE_FILE, IgnoreFile, IgnoreFileError};
use crate::index::IndexFiles;
use crate::preset::Preset;

/// The version of `settings.json` that this program writes and the highest it understands.
pub const SETTINGS_VERSION: u32 = 1;

/// Largest file of settings or rules that is read, in bytes.
const SETTINGS_BYTES_MAX: u64 = 1024 * 1024;

/// Where earlier versions are restored to, beside what is live. The rules keep it from travelling.
pub const RESTORED: &str = "_restore";

/// The content of `settings.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Raised by incompatible changes only.
    pub version: u32,
    /// Names this folder on this machine.
    pub workspace: WorkspaceId,
    /// The machine it is on.
    pub machine: Machine,
    /// What kind of folder it is.
    pub preset: Preset,
    /// How strictly the size bands are kept.
    #[serde(default)]
    pub profile: Profile,
    /// The repository it is kept the same with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Folders whose folders and files go by their bare names, as in `statehold restore NAME`; where
    /// it is absent, those of the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_roots: Option<Vec<RepoPath>>,
}

/// A machine that shares a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Names it for records.
    pub id: MachineId,
    /// Names it for people.
    pub name: String,
}

/// Where a workspace's repository is. The access key lies elsewhere: [`crate::home::Home`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Address of the gateway, or of the bucket.
    pub url: String,
    /// The repository's name there.
    pub repository: String,
    /// Which repository that was when it was linked: one of the same name that was made anew is
    /// another one, and must not be taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<RepositoryId>,
    /// Which access key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
}

/// What a new workspace is made with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitOptions {
    /// What kind of folder it is.
    pub preset: Preset,
    /// How strictly the size bands are kept.
    pub profile: Profile,
    /// The machine's name.
    pub machine_name: String,
    /// The machine's id; drawn when there is none yet.
    pub machine_id: Option<MachineId>,
}

/// A workspace that cannot be made, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// There is one already.
    #[error("{} is a workspace already", root.display())]
    AlreadyThere {
        /// Its root.
        root: PathBuf,
    },
    /// Two workspaces would send the same files.
    #[error("{} lies inside the workspace {}", root.display(), outer.display())]
    InsideAnother {
        /// Where one was to be made.
        root: PathBuf,
        /// The workspace around it.
        outer: PathBuf,
    },
    /// There is none.
    #[error("neither {} nor any folder above it is a workspace", start.display())]
    NotFound {
        /// Where the search began.
        start: PathBuf,
    },
    /// Its settings are not what they should be.
    #[error("the settings in {} are not valid: {message}", path.display())]
    Settings {
        /// Where they lie.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A newer program wrote the settings.
    #[error("the settings in {} have version {found}, this program understands {SETTINGS_VERSION}", path.display())]
    TooNew {
        /// Where they lie.
        path: PathBuf,
        /// The version found.
        found: u64,
    },
    /// The rules file is not what it should be. Going on without it would send what it denies.
    #[error("could not use the rules file {}", path.display())]
    Rules {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        source: InvalidRules,
    },
    /// The ignore file can't be used.
    #[error(transparent)]
    Ignore(#[from] IgnoreFileError),
    /// The folder can't be worked with.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> WorkspaceError + use<'a> {
    move |source| WorkspaceError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// A folder with its settings.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    settings: Settings,
}

impl Workspace {
    /// Makes a folder a workspace. The settings are written last, so that what is half made is
    /// none, and making it again finishes it.
    pub fn init(
        root: &Path,
        options: InitOptions,
        entropy: &dyn Entropy,
    ) -> Result<Self, WorkspaceError> {
        let root = fs::canonicalize(root).map_err(io_error("find", root))?;
        if is_workspace(&root) {
            return Err(WorkspaceError::AlreadyThere { root });
        }
        if let Some(outer) = root.ancestors().skip(1).find(|above| is_workspace(above)) {
            let outer = outer.to_owned();
            return Err(WorkspaceError::InsideAnother { root, outer });
        }
        let workspace = Self {
            root,
            settings: Settings {
                version: SETTINGS_VERSION,
                workspace: WorkspaceId::random(entropy),
                machine: Machine {
                    id: options
                        .machine_id
                        .unwrap_or_else(|| MachineId::random(entropy)),
                    name: options.machine_name,
                },
                preset: options.preset,
                profile: options.profile,
                link: None,
                item_roots: None,
            },
        };
        for folder in [
            workspace.staging(),
            workspace.conflicts(),
            workspace.journal(),
        ] {
            make_private_folders(&folder).map_err(io_error("make the folder", &folder))?;
        }
        let git_ignore = workspace.own(".gitignore");
        replace_file(&git_ignore, b"*\n", Readers::Owner, &workspace.staging())
            .map_err(io_error("write", &git_ignore))?;
        workspace.write_starter_ignore_file()?;
        workspace.write_settings()?;
        Ok(workspace)
    }

    /// Where the folder lies in a Git work tree: names what is restored into it in its `.gitignore`,
    /// so that it is committed by nobody. Adds a line if there is none for it, and touches no other.
    /// Says whether it did.
    pub fn keep_restored_out_of_git(&self) -> Result<bool, WorkspaceError> {
        let is_git = |folder: &Path| folder.join(".git").exists();
        if !self.root.ancestors().any(is_git) {
            return Ok(false);
        }
        let path = self.root.join(".gitignore");
        let append = || -> io::Result<bool> {
            let mut file = fs::File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let names_it = |line: &[u8]| {
                let line = line.trim_ascii();
                let line = line.strip_prefix(b"/").unwrap_or(line);
                line.strip_suffix(b"/").unwrap_or(line) == RESTORED.as_bytes()
            };
            if text.split(|byte| *byte == b'\n').any(names_it) {
                return Ok(false);
            }
            let break_first = match text.last() {
                None | Some(b'\n') => "",
                Some(_) => "\n",
            };
            // In one write, so that it is there whole or not at all.
            file.write_all(format!("{break_first}{RESTORED}/\n").as_bytes())?;
            Ok(true)
        };
        append().map_err(io_error("add a line to", &path))
    }

    /// Opens the workspace whose root this is.
    pub fn open(root: &Path) -> Result<Self, WorkspaceError> {
        let root = fs::canonicalize(root).map_err(io_error("find", root))?;
        if !is_workspace(&root) {
            return Err(WorkspaceError::NotFound { start: root });
        }
        let path = settings_of(&root);
        let invalid = |message: String| WorkspaceError::Settings {
            path: path.clone(),
            message,
        };
        let text = read_bounded(&path).map_err(io_error("read", &path))?;
        // Through a map, so that a newer version is told apart before anything else is read.
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        let version = fields.get("version").and_then(serde_json::Value::as_u64);
        if let Some(found) = version
            && found > u64::from(SETTINGS_VERSION)
        {
            return Err(WorkspaceError::TooNew { path, found });
        }
        let settings =
            serde_json::from_value(fields.into()).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { root, settings })
    }

    /// Opens the workspace that a folder lies in.
    pub fn find(start: &Path) -> Result<Self, WorkspaceError> {
        let start = fs::canonicalize(start).map_err(io_error("find", start))?;
        match start.ancestors().find(|folder| is_workspace(folder)) {
            Some(root) => Self::open(root),
            None => Err(WorkspaceError::NotFound { start }),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings as they were read or last changed.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the settings and writes them.
    pub fn change_settings(
        &mut self,
        change: impl FnOnce(&mut Settings),
    ) -> Result<(), WorkspaceError> {
        let mut changed = self.clone();
        change(&mut changed.settings);
        changed.write_settings()?;
        *self = changed;
        Ok(())
    }

    /// Opens the folder for work on its files.
    pub fn folder(&self) -> Result<Folder, WorkspaceError> {
        Ok(Folder::open(&self.root)?)
    }

    /// The base and the stat cache.
    pub fn index_files(&self) -> IndexFiles {
        IndexFiles {
            checkout: self.own("index"),
            cache: self.own("stat-cache"),
        }
    }

    /// Where what a gateway said about the link is kept between runs. A cache.
    pub fn gateway_path(&self) -> PathBuf {
        self.own("gateway.json")
    }

    /// Where the description of a repository that is worked on straight is kept between runs. It never
    /// changes. A cache.
    pub fn repository_path(&self) -> PathBuf {
        self.own("repository.json")
    }

    /// When this workspace last looked at the repository that it works on straight, as far as is known: the time of
    /// the file in which its description is kept.
    pub fn last_look(&self) -> Option<Timestamp> {
        let modified = fs::metadata(self.repository_path()).ok()?.modified().ok()?;
        let since = modified.duration_since(UNIX_EPOCH).ok()?;
        Some(Timestamp::from_millis(
            i64::try_from(since.as_millis()).ok()?,
        ))
    }

    /// Takes note that it has looked now, if it works on the repository straight. Losing that costs a listing.
    pub(crate) fn note_look(&self, now: Timestamp) {
        let Ok(millis) = u64::try_from(now.as_millis()) else {
            return;
        };
        let time = UNIX_EPOCH + Duration::from_millis(millis);
        let file = fs::File::options().write(true).open(self.repository_path());
        if let Err(error) = file.and_then(|file| file.set_modified(time)) {
            tracing::debug!(%error, "when the repository was looked at is not kept");
        }
    }

    /// What the last pull replaced, for whoever takes it back. A cache.
    pub fn replaced_path(&self) -> PathBuf {
        self.own("replaced.json")
    }

    /// What is held while a command works on the folder.
    pub fn lock_path(&self) -> PathBuf {
        self.own("lock")
    }

    /// The lock that whoever watches the folder holds.
    pub fn watch_lock_path(&self) -> PathBuf {
        self.own("watch.lock")
    }

    /// Files on their way into the folder.
    pub fn staging(&self) -> PathBuf {
        self.own("staging")
    }

    /// Local content that gave way and exists nowhere else.
    pub fn conflicts(&self) -> PathBuf {
        self.own("conflicts")
    }

    /// What a push and a pull under way keep, for the next run if they die.
    pub fn journal(&self) -> PathBuf {
        self.own("journal")
    }

    /// What each folder of restored files holds, and content on its way into it.
    pub fn restoring(&self) -> PathBuf {
        self.own("restoring")
    }

    /// Receipts of the drills that were made here.
    pub fn drills(&self) -> PathBuf {
        self.own("drills")
    }

    /// Folders whose folders and files go by their bare names.
    pub fn item_roots(&self) -> Vec<RepoPath> {
        match &self.settings.item_roots {
            Some(roots) => roots.clone(),
            None => {
                let roots = self.settings.preset.layout().item_roots.iter();
                roots
                    .filter_map(|root| RepoPath::parse(root).ok())
                    .collect()
            }
        }
    }

    /// Which files may be sent although they seem to hold secrets.
    pub fn allowed_secrets_path(&self) -> PathBuf {
        self.own("allowed-secrets.json")
    }

    /// The local manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.root.join(self.settings.preset.layout().manifest)
    }

    /// The rules file, there or not.
    pub fn rules_path(&self) -> PathBuf {
        self.root.join(self.settings.preset.layout().rules)
    }

    /// The list of snapshots, there or not.
    pub fn snapshot_index_path(&self) -> PathBuf {
        self.root.join(self.settings.preset.layout().snapshots)
    }

    /// The event log.
    pub fn events(&self) -> EventLog {
        EventLog::at(self.root.join(self.settings.preset.layout().events))
    }

    /// Makes the folder of manifest and events. To be called before either is written.
    pub fn make_log_folder(&self, folder: &Folder) -> Result<(), WorkspaceError> {
        let logs = self.settings.preset.layout().logs;
        // Inside the user's tree, no link may lead the logs elsewhere.
        if let Ok(path) = RepoPath::parse(logs) {
            return Ok(folder.make_directory(&path)?);
        }
        let path = self.root.join(logs);
        make_private_folders(&path).map_err(io_error("make the folder", &path))
    }

    /// The rules: those of the rules file if there is one, otherwise the preset's.
    pub fn rules(&self, folder: &Folder) -> Result<RuleSet, WorkspaceError> {
        let path = self.rules_path();
        let invalid = |source| WorkspaceError::Rules {
            path: path.clone(),
            source,
        };
        let text = match RepoPath::parse(self.settings.preset.layout().rules) {
            Ok(inside) => match folder.stat(&inside)? {
                Some(_) => {
                    let mut text = Vec::new();
                    let file = folder.open_file(&inside)?;
                    file.take(SETTINGS_BYTES_MAX)
                        .read_to_end(&mut text)
                        .map_err(io_error("read", &path))?;
                    Some(text)
                }
                None => None,
            },
            Err(_) => match read_bounded(&path) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(io_error("read", &path)(error)),
            },
        };
        match text {
            Some(text) => RuleSet::from_json(&text).map_err(invalid),
            None => RuleSet::new(self.settings.preset.default_rules()).map_err(invalid),
        }
    }

    /// What the user leaves out.
    pub fn ignore_file(&self, folder: &Folder) -> Result<IgnoreFile, WorkspaceError> {
        Ok(IgnoreFile::read(folder)?)
    }

    fn own(&self, name: &str) -> PathBuf {
        self.root.join(RESERVED_NAME).join(name)
    }

    fn write_settings(&self) -> Result<(), WorkspaceError> {
        let path = settings_of(&self.root);
        let mut text = serde_json::to_vec_pretty(&self.settings)
            .map_err(io::Error::from)
            .map_err(io_error("write", &path))?;
        text.push(b'\n');
        replace_file(&path, &text, Readers::Owner, &self.staging())
            .map_err(io_error("write", &path))
    }

    /// Written only where there is none: it is the user's from the first moment.
    fn write_starter_ignore_file(&self) -> Result<(), WorkspaceError> {
        let folder = self.folder()?;
        let Ok(path) = RepoPath::parse(IGNORE_FILE) else {
            return Ok(());
        };
        if folder.stat(&path)?.is_some() {
            return Ok(());
        }
        let staged = self.staging().join("ignore-file");
        let write = io_error("write", &staged);
        fs::write(&staged, self.settings.preset.starter_ignore_file()).map_err(&write)?;
        let now = fs::File::open(&staged).and_then(|file| Found::of_open(&file));
        let attributes = Attributes {
            executable: false,
            mtime: now.map_err(&write)?.mtime,
        };
        folder.place(&staged, &path, None, attributes)?;
        Ok(())
    }
}

fn settings_of(root: &Path) -> PathBuf {
    root.join(RESERVED_NAME).join("settings.json")
}

fn is_workspace(folder: &Path) -> bool {
    settings_of(folder).is_file()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?
        .take(SETTINGS_BYTES_MAX)
        .read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests;
