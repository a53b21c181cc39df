//! Histories of trees to replay as pushes: made up after a seed, or those of a Git repository.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use statehold_core::entry::link_stays_inside;
use statehold_core::path::RepoPath;

use crate::environment::SeededEntropy;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A file.
    File {
        /// What it holds.
        content: Vec<u8>,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link with its target.
    Link(String),
}

/// Everything that a commit has, by path. Folders follow from the paths.
pub type Items = BTreeMap<String, Item>;

/// How often each thing that is hard to get right happened in a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Happened {
    /// A file or a folder got another name.
    pub renames: u64,
    /// A file became executable, or was it no longer.
    pub modes: u64,
    /// Content that is no text came or changed.
    pub binaries: u64,
    /// A file went away.
    pub deletes: u64,
    /// A folder with files stands where a file was.
    pub files_to_folders: u64,
    /// A file stands where a folder was.
    pub folders_to_files: u64,
}

impl Happened {
    /// The thing that happened least often.
    pub fn least(&self) -> u64 {
        let all = [
            self.renames,
            self.modes,
            self.binaries,
            self.deletes,
            self.files_to_folders,
            self.folders_to_files,
        ];
        all.into_iter().min().unwrap_or_default()
    }
}

impl std::fmt::Display for Happened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} renames, {} mode changes, {} binary files, {} deletes, {} file-to-folder, {} \
             folder-to-file",
            self.renames,
            self.modes,
            self.binaries,
            self.deletes,
            self.files_to_folders,
            self.folders_to_files
        )
    }
}

/// A made-up history.
#[derive(Debug)]
pub struct MadeUp {
    entropy: SeededEntropy,
    items: Items,
    /// What has happened so far.
    pub happened: Happened,
    commits: u64,
    names: u64,
}

/// Files that a made-up tree begins with.
const FIRST_FILES: u64 = 40;
/// Bytes of most made-up files.
const FILE_BYTES: u64 = 6_000;
/// Bytes of the occasional large one, which takes several chunks and a pack.
const LARGE_BYTES: usize = 1_500_000;

impl MadeUp {
    /// The history of a seed.
    pub fn new(seed: u64) -> Self {
        let mut made = Self {
            entropy: SeededEntropy::new(seed),
            items: Items::new(),
            happened: Happened::default(),
            commits: 0,
            names: 0,
        };
        for _ in 0..FIRST_FILES {
            let path = made.new_path();
            let item = made.text();
            made.items.insert(path, item);
        }
        made
    }

    /// The next commit's tree. Every kind of change has its turn, and others come at random.
    pub fn next_commit(&mut self) -> &Items {
        let turn = self.commits % 6;
        self.commits += 1;
        self.change(turn);
        for _ in 0..self.entropy.below(4) {
            let kind = self.entropy.below(8);
            self.change(kind);
        }
        // A commit changes something, and a tree is never empty.
        let path = self.new_path();
        let item = self.text();
        self.items.insert(path, item);
        // Links that a rename would let lead outside are none that a push takes.
        for (path, item) in &mut self.items {
            if let Item::Link(target) = item
                && !RepoPath::parse(path).is_ok_and(|path| link_stays_inside(&path, target))
            {
                "nobody-there".clone_into(target);
            }
        }
        &self.items
    }

    fn change(&mut self, kind: u64) {
        let Some(path) = self.any_file() else { return };
        match kind {
            0 => self.rename(&path),
            1 => {
                if let Some(Item::File { executable, .. }) = self.items.get_mut(&path) {
                    *executable = !*executable;
                    self.happened.modes += 1;
                }
            }
            2 => {
                let length = match self.entropy.chance(50) {
                    true => LARGE_BYTES,
                    false => usize::try_from(self.entropy.below(FILE_BYTES)).unwrap_or(0) + 1,
                };
                let mut content = self.entropy.bytes(length);
                content.push(0);
                let executable = self.entropy.chance(100);
                self.items.insert(
                    path,
                    Item::File {
                        content,
                        executable,
                    },
                );
                self.happened.binaries += 1;
            }
            3 => {
                self.items.remove(&path);
                self.happened.deletes += 1;
            }
            4 => {
                self.items.remove(&path);
                for name in ["inner.md", "deep/er.md"] {
                    let item = self.text();
                    self.items.insert(format!("{path}/{name}"), item);
                }
                self.happened.files_to_folders += 1;
            }
            5 => {
                let Some((folder, _)) = path.rsplit_once('/') else {
                    return;
                };
                let folder = folder.to_owned();
                self.items.retain(|path, _| !is_inside(path, &folder));
                let item = self.text();
                self.items.insert(folder, item);
                self.happened.folders_to_files += 1;
            }
            6 => {
                // As logs do.
                let line = format!("{{\"line\":{}}}\n", self.entropy.number());
                if let Some(Item::File { content, .. }) = self.items.get_mut(&path) {
                    content.extend_from_slice(line.as_bytes());
                }
            }
            _ => {
                let path = self.new_path();
                let target = self.any_file().unwrap_or_default();
                let up = "../".repeat(path.matches('/').count());
                self.items.insert(path, Item::Link(format!("{up}{target}")));
            }
        }
    }

    /// Gives a file, or now and then the folder it lies in, another name.
    fn rename(&mut self, path: &str) {
        let to = self.new_path();
        match path.rsplit_once('/') {
            Some((folder, _)) if self.entropy.chance(300) => {
                let inside: Vec<String> = self
                    .items
                    .keys()
                    .filter(|path| is_inside(path, folder))
                    .cloned()
                    .collect();
                for path in inside {
                    let Some(item) = self.items.remove(&path) else {
                        continue;
                    };
                    let rest = path.strip_prefix(folder).unwrap_or(&path);
                    self.items.insert(format!("{to}{rest}"), item);
                }
            }
            _ => {
                if let Some(item) = self.items.remove(path) {
                    self.items.insert(to, item);
                }
            }
        }
        self.happened.renames += 1;
    }

    fn any_file(&self) -> Option<String> {
        let paths: Vec<&String> = self.items.keys().collect();
        self.entropy.pick(&paths).map(|path| (*path).clone())
    }

    /// A path that never was, in one of a few folders, with a name that is not always plain.
    fn new_path(&mut self) -> String {
        self.names += 1;
        let number = self.names;
        let odd = ["", "", "", " ", "'", "\n", "é", "日本", "-", "\\"];
        let odd = self.entropy.pick(&odd).copied().unwrap_or_default();
        // The number keeps folders from being files of another name: those have none.
        let folder = match self.entropy.below(8) {
            0 => String::new(),
            1 => "skills/image/".to_owned(),
            2 => "memory/".to_owned(),
            other => format!("area-{other}/topic-{}/", self.entropy.below(4)),
        };
        let path = format!("{folder}{odd}note{number}{odd}.md");
        // A folder may have become a file; then there is no room beneath it.
        let is_free = path
            .match_indices('/')
            .all(|(end, _)| !self.items.contains_key(&path[..end]));
        match is_free {
            true => path,
            false => format!("note{number}.md"),
        }
    }

    fn text(&self) -> Item {
        let lines = 1 + self.entropy.below(FILE_BYTES / 30);
        let line = |_| format!("a line with a number {}\n", self.entropy.below(1_000));
        Item::File {
            content: (0..lines).map(line).collect::<String>().into_bytes(),
            executable: self.entropy.chance(50),
        }
    }
}

fn is_inside(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// A Git repository's commits, read with `git`.
#[derive(Debug)]
pub struct GitHistory<'a> {
    root: &'a Path,
    /// The commits' names, oldest first.
    pub commits: Vec<String>,
    blobs: Child,
    cache: BTreeMap<String, Vec<u8>>,
}

impl<'a> GitHistory<'a> {
    /// The commits that what is checked out descends from, oldest first; the newest `count` of them. One
    /// after the other, whatever branch each was on.
    pub fn read(root: &'a Path, count: usize) -> Result<Self> {
        let said = git(root)
            .args(["log", "--topo-order", "--format=%H"])
            .output()
            .context("git could not be started")?;
        ensure!(said.status.success(), "git log: {said:?}");
        let said = String::from_utf8(said.stdout)?;
        let mut commits: Vec<String> = said.lines().take(count).map(str::to_owned).collect();
        commits.reverse();
        let blobs = git(root)
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            root,
            commits,
            blobs,
            cache: BTreeMap::new(),
        })
    }

    /// What a commit holds. Submodules are left out: Git keeps nothing of them.
    pub fn items(&mut self, commit: &str) -> Result<Items> {
        let said = git(self.root)
            .args(["ls-tree", "-r", "-z", commit])
            .output()?;
        ensure!(said.status.success(), "git ls-tree: {said:?}");
        let mut items = Items::new();
        for line in String::from_utf8(said.stdout)?.split_terminator('\0') {
            let (what, path) = line.split_once('\t').context("a line of git ls-tree")?;
            let mut words = what.split(' ');
            let (mode, kind, id) = (words.next(), words.next(), words.next());
            let (Some(mode), Some("blob"), Some(id)) = (mode, kind, id) else {
                continue;
            };
            let content = self.blob(id)?;
            let item = match mode {
                "120000" => Item::Link(String::from_utf8(content)?),
                mode => Item::File {
                    content,
                    executable: mode == "100755",
                },
            };
            // A folder with a repository in it is a store, which no scan goes into.
            let path = match path.strip_suffix("/repository.json") {
                Some(folder) => format!("{folder}/repository-of-a-test.json"),
                None => path.to_owned(),
            };
            items.insert(path, item);
        }
        Ok(items)
    }

    fn blob(&mut self, id: &str) -> Result<Vec<u8>> {
        if let Some(content) = self.cache.get(id) {
            return Ok(content.clone());
        }
        let input = self.blobs.stdin.as_mut().context("a pipe to git")?;
        writeln!(input, "{id}")?;
        input.flush()?;
        let output = self.blobs.stdout.as_mut().context("a pipe from git")?;
        // One byte of buffer: what follows is read straight.
        let mut head = Vec::new();
        BufReader::with_capacity(1, &mut *output).read_until(b'\n', &mut head)?;
        let head = String::from_utf8(head)?;
        let Some(size) = head.trim_end().rsplit(' ').next().map(str::parse::<usize>) else {
            bail!("git cat-file: {head}");
        };
        let mut content = vec![0; size? + 1];
        output.read_exact(&mut content)?;
        content.pop();
        self.cache.insert(id.to_owned(), content.clone());
        Ok(content)
    }
}

impl Drop for GitHistory<'_> {
    fn drop(&mut self) {
        // It ends by itself when its input does.
        drop(self.blobs.stdin.take());
        let _gone = self.blobs.wait();
    }
}

fn git(root: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(root);
    command
}

/// Makes a folder hold exactly these items, given what it holds now. What stays is not touched.
pub fn check_out(root: &Path, from: &Items, to: &Items) -> Result<()> {
    for (path, item) in from {
        if to.get(path) != Some(item) {
            let path = root.join(path);
            fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
            let mut folder = path.parent();
            while let Some(empty) = folder.filter(|folder| *folder != root) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
                folder = empty.parent();
            }
        }
    }
    for (path, item) in to {
        if from.get(path) == Some(item) {
            continue;
        }
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a path lies in a folder")?)?;
        match item {
            Item::Link(target) => symlink(target, &path)?,
            Item::File {
                content,
                executable,
            } => {
                fs::write(&path, content)?;
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
        }
    }
    Ok(())
}

/// What a folder holds. Empty folders are nothing.
pub fn items_in(root: &Path) -> Result<Items> {
    let mut items = Items::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder)? {
            let path = item?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root)?.as_os_str().as_bytes();
            let item = match meta.is_symlink() {
                true => Item::Link(fs::read_link(&path)?.display().to_string()),
                false => Item::File {
                    content: fs::read(&path)?,
                    executable: meta.permissions().mode() & 0o100 != 0,
                },
            };
            items.insert(String::from_utf8(name.to_vec())?, item);
        }
    }
    Ok(items)
}
