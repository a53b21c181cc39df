//! The user's folder: the only file of this crate that reads or changes what lies in it.
//!
//! Every path is reached name by name from one open directory handle, and no symbolic link is
//! followed on the way, so nothing outside the folder can be read or changed, whatever a
//! repository says and whoever swaps a directory for a link at the wrong moment. What replaces or
//! removes something first checks that it is still what was seen.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use statehold_core::entry::link_stays_within;
use statehold_core::path::RepoPath;
use statehold_core::time::Mtime;

/// An operation on the folder that didn't happen.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A folder on the way is a symbolic link. It is not followed.
    #[error("{path} is a symbolic link, and links are not followed")]
    LinkInTheWay {
        /// The link.
        path: RepoPath,
    },
    /// Something on the way is no directory.
    #[error("{path} is not a directory")]
    FileInTheWay {
        /// The file.
        path: RepoPath,
    },
    /// A directory that isn't empty stands where a file should go, or should be removed.
    #[error("{path} is a directory that is not empty")]
    DirectoryInTheWay {
        /// The directory.
        path: RepoPath,
    },
    /// What is there is not what was seen: it was left alone. Scan again and plan anew.
    #[error("{path} has changed since it was looked at")]
    Changed {
        /// The path.
        path: RepoPath,
    },
    /// A link was to be made that leads out of the folder.
    #[error("the link {path} would point outside the workspace, to {target:?}")]
    LinkOutside {
        /// The link.
        path: RepoPath,
        /// Its target.
        target: String,
    },
    /// A regular file was expected and something else is there.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: RepoPath,
    },
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

/// What a file system says about a file that changes whenever the file does.
///
/// Equal stamps mean equal content, unless the file was written within the resolution of its
/// clock; [`Self::is_settled`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// When the content was last changed, in nanoseconds since 1970. Programs can set it.
    pub mtime_ns: i64,
    /// When anything about the file was last changed, in nanoseconds since 1970. Nobody can set it.
    pub ctime_ns: i64,
    /// Which file it is, among those of its file system.
    pub inode: u64,
}

/// File systems stamp in steps; Linux takes the time of the last tick, of which there are at least
/// a hundred a second.
const CLOCK_STEP_NS: i64 = 20_000_000;
/// The step of file systems that keep whole seconds (or, like FAT, every other one).
const COARSE_CLOCK_STEP_NS: i64 = 2_000_000_000;
const NANOSECONDS: i64 = 1_000_000_000;

impl Stamp {
    /// Whether a later change is sure to show in the stamp: the last one lies further back from
    /// `now_ns` than one step of the file system's clock. The time of content doesn't count, since
    /// programs set it at will; a change always moves the other one.
    pub const fn is_settled(&self, now_ns: i64) -> bool {
        let whole_seconds = self.ctime_ns % NANOSECONDS == 0 && self.mtime_ns % NANOSECONDS == 0;
        let step = if whole_seconds {
            COARSE_CLOCK_STEP_NS
        } else {
            CLOCK_STEP_NS
        };
        self.ctime_ns < now_ns.saturating_sub(step)
    }

    fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, rest: u32| {
            seconds
                .saturating_mul(NANOSECONDS)
                .saturating_add(i64::from(rest))
        };
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            ctime_ns: nanoseconds(
                stat.st_ctime,
                u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
            inode: stat.st_ino,
        }
    }
}

/// The present moment on the clock that [`Stamp`]s are compared with. It is the system's and not
/// the program's own: a simulated time would make every file look young or old.
pub fn stamp_clock_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// What sort of thing is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A socket, a pipe or a device.
    Other,
}

impl FoundKind {
    const fn of(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::Directory => Self::Directory,
            _ => Self::Other,
        }
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What sort of thing.
    pub kind: FoundKind,
    /// Its stamp.
    pub stamp: Stamp,
    /// Whether its owner may execute it; false for what is no regular file.
    pub executable: bool,
    /// When its content last changed.
    pub mtime: Mtime,
    /// A link's target; `None` for everything else and for a target that isn't UTF-8.
    pub target: Option<String>,
}

impl Found {
    fn of(stat: &Stat) -> Self {
        let kind = FoundKind::of(FileType::from_raw_mode(stat.st_mode));
        let owner_may_execute = Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR);
        Self {
            kind,
            stamp: Stamp::of(stat),
            executable: kind == FoundKind::File && owner_may_execute,
            mtime: Mtime::new(
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            target: None,
        }
    }

    /// What an open file is at this moment.
    pub fn of_open(file: &File) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }
}

/// What a placed file gets besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Whether its owner may execute it.
    pub executable: bool,
    /// When its content last changed.
    pub mtime: Mtime,
}

/// A workspace's folder, held open.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
    /// How many folders it lies deep in the one that no link may lead out of; 0 for that one itself.
    depth: usize,
}

/// The directory that a path lies in, and the path's last name.
struct Parent<'a> {
    /// `None` for the root, which the folder holds open itself.
    handle: Option<OwnedFd>,
    root: BorrowedFd<'a>,
    name: &'a str,
}

impl Parent<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.handle
            .as_ref()
            .map_or(self.root, |handle| handle.as_fd())
    }

    fn stat(&self) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(self.fd(), self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// For passing through only: such a handle needs no permission to list the directory.
#[cfg(target_os = "linux")]
const PASS: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PASS: OFlags = OFlags::RDONLY;

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What new directories may be at most; the user's mask takes away from it.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const PERMISSIONS: Mode = Mode::from_raw_mode(0o777);
const EXECUTE: Mode = Mode::from_raw_mode(0o111);

impl Folder {
    /// Opens a folder. The way to it may lead over links; nothing inside it may.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(root, flags, Mode::empty()) {
            Ok(handle) => Ok(Self {
                root: handle,
                path: root.to_owned(),
                depth: 0,
            }),
            Err(errno) => Err(FolderError::Io {
                action: "open the folder",
                path: root.to_owned(),
                source: errno.into(),
            }),
        }
    }

    /// Opens a directory inside as a folder of its own, made if need be with those it lies in. Links
    /// that are placed in it may lead out of it, and not out of this one.
    pub fn folder_inside(&self, path: &RepoPath) -> Result<Self, FolderError> {
        let parent = self.make_parent(path)?;
        match rustix::fs::mkdirat(parent.fd(), parent.name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.io("make the directory", path)(errno)),
        }
        let flags = OFlags::RDONLY | DIRECTORY;
        match rustix::fs::openat(parent.fd(), parent.name, flags, Mode::empty()) {
            Ok(handle) => Ok(Self {
                root: handle,
                path: self.path.join(path.as_str()),
                depth: self.depth + path.names().count(),
            }),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let there = parent.stat().map_err(self.io("look at", path))?;
                let is_link = there
                    .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                let path = path.clone();
                Err(if is_link {
                    FolderError::LinkInTheWay { path }
                } else {
                    FolderError::FileInTheWay { path }
                })
            }
            Err(errno) => Err(self.io("open the folder", path)(errno)),
        }
    }

    /// Where the folder was when it was opened; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is at a path, if anything.
    pub fn stat(&self, path: &RepoPath) -> Result<Option<Found>, FolderError> {
        let parent = match self.parent(path) {
            Ok(Some(parent)) => parent,
            Ok(None) | Err(FolderError::FileInTheWay { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(stat) = parent.stat().map_err(self.io("look at", path))? else {
            return Ok(None);
        };
        let mut found = Found::of(&stat);
        if found.kind == FoundKind::Symlink {
            let target = rustix::fs::readlinkat(parent.fd(), parent.name, Vec::new())
                .map_err(self.io("read the link", path))?;
            found.target = target.into_string().ok();
        }
        Ok(Some(found))
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, path: &RepoPath) -> Result<File, FolderError> {
        let io = self.io("open", path);
        let Some(parent) = self.parent(path)? else {
            return Err(io(Errno::NOENT));
        };
        // Without NONBLOCK, opening a pipe that somebody put there would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent.fd(), parent.name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::LOOP) => return Err(FolderError::NotAFile { path: path.clone() }),
            Err(errno) => return Err(io(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(io)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FolderError::NotAFile { path: path.clone() });
        }
        Ok(file.into())
    }

    /// Moves a staged file to its place, and makes the directories it lies in.
    ///
    /// `expected` is the stamp of what was seen there, `None` for nothing; anything else is left
    /// alone ([`FolderError::Changed`]). An empty directory gives way. A replaced file hands its
    /// permissions on, apart from execution; a new one gets 0644. The staged file has to lie on the
    /// same file system. Call [`Self::barrier`] before, so that a crash cannot leave the name
    /// without the content, and after, so that the name lasts. Returns the file's new stamp.
    pub fn place(
        &self,
        staged: &Path,
        path: &RepoPath,
        expected: Option<&Stamp>,
        attributes: Attributes,
    ) -> Result<Stamp, FolderError> {
        let parent = self.make_parent(path)?;
        let there = self.check(&parent, path, expected)?;
        let mode = there
            .filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
            .map_or(FILE_MODE, |stat| {
                Mode::from_raw_mode(stat.st_mode) & PERMISSIONS
            });
        set_attributes(staged, mode, attributes).map_err(|errno| FolderError::Io {
            action: "set mode and time of",
            path: staged.to_owned(),
            source: errno.into(),
        })?;
        self.put(staged, &parent, path, there.as_ref())
    }

    /// Puts a symbolic link in its place, under the same conditions as [`Self::place`]. `staged`
    /// is a free name in the staging folder. A target outside the folder is refused.
    pub fn place_link(
        &self,
        staged: &Path,
        target: &str,
        path: &RepoPath,
        expected: Option<&Stamp>,
    ) -> Result<Stamp, FolderError> {
        if !link_stays_within(self.depth + path.ancestors().count(), target) {
            let (path, target) = (path.clone(), target.to_owned());
            return Err(FolderError::LinkOutside { path, target });
        }
        let parent = self.make_parent(path)?;
        let there = self.check(&parent, path, expected)?;
        rustix::fs::symlink(target, staged).map_err(|errno| FolderError::Io {
            action: "make the link",
            path: staged.to_owned(),
            source: errno.into(),
        })?;
        self.put(staged, &parent, path, there.as_ref())
    }

    /// Makes a directory and those it lies in. One that is there already is fine.
    pub fn make_directory(&self, path: &RepoPath) -> Result<(), FolderError> {
        let parent = self.make_parent(path)?;
        match rustix::fs::mkdirat(parent.fd(), parent.name, DIRECTORY_MODE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match parent.stat().map_err(self.io("look at", path))? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    Ok(())
                }
                _ => Err(FolderError::Changed { path: path.clone() }),
            },
            Err(errno) => Err(self.io("make the directory", path)(errno)),
        }
    }

    /// Removes what is at a path if it is what was seen there. A directory is removed if it is
    /// empty, whatever its stamp, since other files' comings and goings change that. Returns
    /// whether there was anything.
    pub fn remove(&self, path: &RepoPath, expected: &Stamp) -> Result<bool, FolderError> {
        let parent = match self.parent(path) {
            Ok(Some(parent)) => parent,
            Ok(None) | Err(FolderError::FileInTheWay { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(stat) = parent.stat().map_err(self.io("look at", path))? else {
            return Ok(false);
        };
        let flags = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            AtFlags::REMOVEDIR
        } else if Stamp::of(&stat) == *expected {
            AtFlags::empty()
        } else {
            return Err(FolderError::Changed { path: path.clone() });
        };
        match rustix::fs::unlinkat(parent.fd(), parent.name, flags) {
            Ok(()) => {
                #[cfg(not(target_os = "linux"))]
                rustix::fs::fsync(parent.fd()).map_err(self.io("flush the directory of", path))?;
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                Err(FolderError::DirectoryInTheWay { path: path.clone() })
            }
            Err(errno) => Err(self.io("remove", path)(errno)),
        }
    }

    /// Removes the directories that a path lay in, innermost first, as long as they are empty and
    /// `keep` doesn't say to keep them.
    pub fn prune_empty_parents(
        &self,
        path: &RepoPath,
        keep: &dyn Fn(&RepoPath) -> bool,
    ) -> Result<(), FolderError> {
        let mut ancestors: Vec<RepoPath> = path
            .ancestors()
            .filter_map(|text| RepoPath::parse(text).ok())
            .collect();
        while let Some(directory) = ancestors.pop() {
            if keep(&directory) {
                break;
            }
            let parent = match self.parent(&directory) {
                Ok(Some(parent)) => parent,
                Ok(None) | Err(FolderError::FileInTheWay { .. }) => continue,
                Err(error) => return Err(error),
            };
            match rustix::fs::unlinkat(parent.fd(), parent.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => break,
                Err(errno) => return Err(self.io("remove the directory", &directory)(errno)),
            }
        }
        Ok(())
    }

    /// Moves a file or link out of the folder to `into`, a free name on the same file system whose
    /// folder exists, if it is what was seen. For content that is about to be replaced or removed
    /// and exists nowhere else.
    pub fn set_aside(
        &self,
        path: &RepoPath,
        expected: &Stamp,
        into: &Path,
    ) -> Result<(), FolderError> {
        let Some(parent) = self.parent(path)? else {
            return Err(FolderError::Changed { path: path.clone() });
        };
        let there = parent.stat().map_err(self.io("look at", path))?;
        if there.is_none_or(|stat| Stamp::of(&stat) != *expected) {
            return Err(FolderError::Changed { path: path.clone() });
        }
        rename_to_free_name(parent.fd(), parent.name, CWD, into).map_err(self.io("set aside", path))
    }

    /// Makes everything placed and removed so far last through a crash of the machine, in one call
    /// for any number of files.
    pub fn barrier(&self) -> Result<(), FolderError> {
        #[cfg(target_os = "linux")]
        let done = rustix::fs::syncfs(&self.root);
        // Elsewhere the content was flushed file by file as it was placed.
        #[cfg(not(target_os = "linux"))]
        let done = rustix::fs::fsync(&self.root);
        done.map_err(|errno| FolderError::Io {
            action: "flush",
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    /// The root as a directory to list.
    pub(crate) fn list_root(&self) -> Result<Directory, FolderError> {
        let flags = OFlags::RDONLY | DIRECTORY;
        rustix::fs::openat(&self.root, ".", flags, Mode::empty())
            .and_then(Dir::new)
            .map(|dir| Directory { dir })
            .map_err(|errno| FolderError::Io {
                action: "list",
                path: self.path.clone(),
                source: errno.into(),
            })
    }

    fn io<'a>(&'a self, action: &'static str, path: &'a RepoPath) -> impl Fn(Errno) -> FolderError {
        move |errno| FolderError::Io {
            action,
            path: self.path.join(path.as_str()),
            source: errno.into(),
        }
    }

    /// The directory a path lies in; `None` if it isn't there.
    fn parent<'a>(&'a self, path: &'a RepoPath) -> Result<Option<Parent<'a>>, FolderError> {
        self.walk_to_parent(path, false)
    }

    fn make_parent<'a>(&'a self, path: &'a RepoPath) -> Result<Parent<'a>, FolderError> {
        let parent = self.walk_to_parent(path, true)?;
        parent.ok_or_else(|| self.io("make the directories of", path)(Errno::NOENT))
    }

    fn walk_to_parent<'a>(
        &'a self,
        path: &'a RepoPath,
        make: bool,
    ) -> Result<Option<Parent<'a>>, FolderError> {
        let mut parent = Parent {
            handle: None,
            root: self.root.as_fd(),
            name: path.file_name(),
        };
        for (ancestor, name) in path.ancestors().zip(path.names()) {
            let open = || rustix::fs::openat(parent.fd(), name, PASS | DIRECTORY, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(parent.fd(), name, DIRECTORY_MODE) {
                        Ok(()) | Err(Errno::EXIST) => open(),
                        Err(errno) => Err(errno),
                    }
                }
                opened => opened,
            };
            let handle = match opened {
                Ok(handle) => handle,
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                    let path = RepoPath::parse(ancestor).unwrap_or_else(|_| path.clone());
                    let stat = rustix::fs::statat(parent.fd(), name, AtFlags::SYMLINK_NOFOLLOW);
                    let is_link = stat.map_or(errno == Errno::LOOP, |stat| {
                        FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
                    });
                    return Err(if is_link {
                        FolderError::LinkInTheWay { path }
                    } else {
                        FolderError::FileInTheWay { path }
                    });
                }
                Err(errno) => return Err(self.io("reach", path)(errno)),
            };
            parent.handle = Some(handle);
        }
        Ok(Some(parent))
    }

    /// Checks that what is there is what was seen, and clears an empty directory away.
    fn check(
        &self,
        parent: &Parent<'_>,
        path: &RepoPath,
        expected: Option<&Stamp>,
    ) -> Result<Option<Stat>, FolderError> {
        let there = parent.stat().map_err(self.io("look at", path))?;
        if let Some(stat) = &there
            && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        {
            // Compared by inode alone: coming and going files change a directory's stamp.
            if expected.is_some_and(|stamp| stamp.inode != stat.st_ino) {
                return Err(FolderError::Changed { path: path.clone() });
            }
            return match rustix::fs::unlinkat(parent.fd(), parent.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(None),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    Err(FolderError::DirectoryInTheWay { path: path.clone() })
                }
                Err(errno) => Err(self.io("remove the directory", path)(errno)),
            };
        }
        if there.as_ref().map(Stamp::of).as_ref() == expected {
            Ok(there)
        } else {
            Err(FolderError::Changed { path: path.clone() })
        }
    }

    fn put(
        &self,
        staged: &Path,
        parent: &Parent<'_>,
        path: &RepoPath,
        there: Option<&Stat>,
    ) -> Result<Stamp, FolderError> {
        let moved = match there {
            Some(seen) => replace_what_was_seen(staged, parent, seen),
            None => rename_to_free_name(CWD, staged, parent.fd(), Path::new(parent.name)),
        };
        match moved {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => {
                return Err(FolderError::Changed { path: path.clone() });
            }
            Err(errno) => return Err(self.io("place", path)(errno)),
        }
        #[cfg(not(target_os = "linux"))]
        rustix::fs::fsync(parent.fd()).map_err(self.io("flush the directory of", path))?;
        // Asked again, because the move itself changes the stamp on most file systems.
        match parent.stat().map_err(self.io("look at", path))? {
            Some(stat) => Ok(Stamp::of(&stat)),
            None => Err(FolderError::Changed { path: path.clone() }),
        }
    }
}

/// Renames over something, and takes it back if that was no longer what had been seen: an edit
/// that was saved in the moment between the last look and the move.
fn replace_what_was_seen(staged: &Path, parent: &Parent<'_>, seen: &Stat) -> Result<(), Errno> {
    let exchange = || {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, staged, parent.fd(), parent.name, flags)
    };
    match exchange() {
        Ok(()) => {}
        // File systems that can't: the moment stays, as short as it is.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            return rustix::fs::renameat(CWD, staged, parent.fd(), parent.name);
        }
        // Removed in that moment.
        Err(Errno::NOENT) => return Err(Errno::EXIST),
        Err(errno) => return Err(errno),
    }
    let replaced = Stamp::of(&rustix::fs::lstat(staged)?);
    let as_seen = Stamp {
        // The move itself changes this one.
        ctime_ns: replaced.ctime_ns,
        ..Stamp::of(seen)
    };
    if replaced == as_seen {
        return rustix::fs::unlink(staged);
    }
    exchange()?;
    Err(Errno::EXIST)
}

/// Renames without replacing anything, even what appears at the last moment.
fn rename_to_free_name(
    from: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    to: BorrowedFd<'_>,
    new_name: &Path,
) -> Result<(), Errno> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(from, name, to, new_name, flags) {
        // File systems that can't (some network ones) get the check and the move in two steps.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return done,
    }
    match rustix::fs::statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new_name),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

fn set_attributes(staged: &Path, mode: Mode, attributes: Attributes) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(staged, flags, Mode::empty())?;
    let mode = if attributes.executable {
        // Whoever may read may execute.
        let readers = Mode::from_raw_mode((mode.as_raw_mode() & 0o444) >> 2);
        mode | readers | Mode::XUSR
    } else {
        mode - EXECUTE
    };
    rustix::fs::fchmod(&file, mode)?;
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    let mtime = Timespec {
        tv_sec: attributes.mtime.seconds(),
        tv_nsec: i64::from(attributes.mtime.nanoseconds()),
    };
    let times = Timestamps {
        last_access: omit,
        last_modification: mtime,
    };
    rustix::fs::futimens(&file, &times)?;
    #[cfg(not(target_os = "linux"))]
    rustix::fs::fsync(&file)?;
    Ok(())
}

/// A directory that a walk lists and descends from.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: Dir,
}

/// One thing in a directory.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: CString,
    /// `None` where the file system doesn't say so in its listing.
    pub(crate) kind: Option<FoundKind>,
}

impl Directory {
    pub(crate) fn items(&mut self) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        while let Some(item) = self.dir.read() {
            let item = item?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let file_type = item.file_type();
            items.push(Item {
                name: name.to_owned(),
                kind: (file_type != FileType::Unknown).then(|| FoundKind::of(file_type)),
            });
        }
        Ok(items)
    }

    /// What is at a name. The target of a link is left out; see [`Self::read_link`].
    pub(crate) fn stat(&self, name: &CStr) -> io::Result<Found> {
        let stat = rustix::fs::statat(self.dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Found::of(&stat))
    }

    pub(crate) fn read_link(&self, name: &CStr) -> io::Result<CString> {
        Ok(rustix::fs::readlinkat(self.dir.fd()?, name, Vec::new())?)
    }

    pub(crate) fn open_directory(&self, name: &CStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | DIRECTORY;
        let handle = rustix::fs::openat(self.dir.fd()?, name, flags, Mode::empty())?;
        Ok(Self {
            dir: Dir::new(handle)?,
        })
    }

    pub(crate) fn open_file(&self, name: &CStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir.fd()?, name, flags, Mode::empty())?;
        Ok(file.into())
    }
}

#[cfg(test)]
mod tests;
