//! A tree as one archive or as a plain folder, whole or not at all.
//!
//! The same tree gives the same archive, byte for byte: paths in order, one owner, times as the tree
//! has them. It is a POSIX tar (pax) in one zstd frame, which GNU tar and bsdtar read; what does not
//! fit into a plain header stands in an extended one before it.

use std::io::{self, Write};
use std::path::Path;

use statehold_core::digest::FileHasher;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::path::RepoPath;
use statehold_core::state::State;
use statehold_core::time::Mtime;
use statehold_core::tree::Tree;
use statehold_repository::batches::{
    BATCH_BYTES, CHUNKS_AT_ONCE, TOGETHER_BYTES_MAX, stored_bytes,
};
use statehold_repository::content::open_chunk;
use statehold_repository::{Error, Remote, Whereabouts};
use tar::{EntryType, Header};

use crate::engine::retrieve::{Retrieval, Retrieved};
use crate::engine::{Result, own_error};
use crate::folder::Folder;
use crate::progress::{Phase, Progress};

/// How hard archives are compressed.
const LEVEL: i32 = 3;
/// Bytes of a block in an archive.
const BLOCK: usize = 512;
/// Bytes of a name that fit into a plain header.
const NAME_BYTES_MAX: usize = 100;
/// Entries that are written from one round of reading.
const ENTRIES_AT_ONCE: usize = 4_096;

/// What was exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Files, links and empty directories.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Exported {
    fn of(tree: &Tree) -> Self {
        let sizes = tree.iter().map(|(_, entry)| entry.size());
        Self {
            entries: tree.len() as u64,
            bytes: sizes.fold(0, u64::saturating_add),
        }
    }
}

/// Writes a state's tree as a tar archive in one zstd frame. Damage ends it, as half an archive is none; so
/// the caller gives `out` its name when this has returned. `name` is what errors call it.
pub async fn write_archive(
    remote: &dyn Remote,
    state: &State,
    out: impl Write + Send,
    name: &Path,
    progress: &dyn Progress,
) -> Result<Exported> {
    let failed = |error| own_error("write", name, error);
    let encoder = zstd::stream::write::Encoder::new(out, LEVEL).map_err(failed)?;
    let tree = &state.tree;
    let mut archive = Archive {
        out: encoder,
        name,
        remote,
        whereabouts: Whereabouts::of(state.head),
    };
    let files = tree.iter().filter_map(|(_, entry)| file_of(entry));
    progress.begin(Phase::Receive, files.map(stored_bytes).sum());
    let mut entries = tree.iter().peekable();
    while entries.peek().is_some() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((_, entry)) = entries.peek() {
            let more = file_of(entry).map_or(0, stored_bytes);
            let is_full = bytes + more > BATCH_BYTES || batch.len() >= ENTRIES_AT_ONCE;
            if is_full && !batch.is_empty() {
                break;
            }
            bytes += more;
            batch.extend(entries.next());
        }
        archive.add(&batch, progress).await?;
    }
    progress.end();
    archive.write(&[0; 2 * BLOCK])?;
    let mut out = archive.out.finish().map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(Exported::of(tree))
}

const fn file_of(entry: &Entry) -> Option<&FileEntry> {
    match entry {
        Entry::File(file) => Some(file),
        Entry::Symlink { .. } | Entry::Directory => None,
    }
}

struct Archive<'a, W: Write> {
    out: zstd::stream::write::Encoder<'static, W>,
    name: &'a Path,
    remote: &'a dyn Remote,
    whereabouts: Whereabouts,
}

impl<W: Write> Archive<'_, W> {
    /// Adds entries whose content is read in one go, or one whose content is too much for that.
    async fn add(&mut self, batch: &[(&RepoPath, &Entry)], progress: &dyn Progress) -> Result<()> {
        let files = || batch.iter().filter_map(|(_, entry)| file_of(entry));
        if let [(path, Entry::File(file))] = batch
            && stored_bytes(file) > TOGETHER_BYTES_MAX
        {
            return self.add_large(path, file, progress).await;
        }
        let chunks: Vec<_> = files().flat_map(|file| &file.chunks).copied().collect();
        let frames = self.whereabouts.read(self.remote, &chunks).await?;
        let mut frames = frames.into_iter();
        for (path, entry) in batch {
            self.header(path, entry)?;
            let Some(file) = file_of(entry) else { continue };
            let mut content = Content::of(path, file);
            for (chunk, frame) in file.chunks.iter().zip(frames.by_ref()) {
                let piece = open_chunk(chunk, &frame)?;
                content.hasher.update(&piece);
                self.write(&piece)?;
            }
            content.check()?;
            self.pad(file.size)?;
            progress.advance(stored_bytes(file));
        }
        Ok(())
    }

    async fn add_large(
        &mut self,
        path: &RepoPath,
        file: &FileEntry,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.header(path, &Entry::File(file.clone()))?;
        let mut content = Content::of(path, file);
        for group in file.chunks.chunks(CHUNKS_AT_ONCE) {
            let frames = self.whereabouts.read(self.remote, group).await?;
            for (chunk, frame) in group.iter().zip(&frames) {
                let piece = open_chunk(chunk, frame)?;
                content.hasher.update(&piece);
                self.write(&piece)?;
                progress.advance(u64::from(chunk.at.stored));
            }
        }
        content.check()?;
        self.pad(file.size)
    }

    fn header(&mut self, path: &RepoPath, entry: &Entry) -> Result<()> {
        let mut header = Header::new_ustar();
        let mut extended = Vec::new();
        let mut name = path.to_string();
        let mtime = match entry {
            Entry::File(file) => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if file.executable { 0o755 } else { 0o644 });
                header.set_size(file.size);
                file.mtime
            }
            Entry::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                let fits = put_name(&mut header.as_old_mut().linkname, target);
                if !fits {
                    extended.extend(extended_field("linkpath", target));
                }
                Mtime::default()
            }
            Entry::Directory => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                name.push('/');
                Mtime::default()
            }
        };
        if !put_name(&mut header.as_old_mut().name, &name) {
            extended.extend(extended_field("path", &name));
        }
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(mtime.seconds()).unwrap_or(0));
        if mtime.nanoseconds() != 0 || mtime.seconds() < 0 {
            extended.extend(extended_field("mtime", &decimal(mtime)));
        }
        header.set_cksum();
        if !extended.is_empty() {
            let mut before = Header::new_ustar();
            put_name(&mut before.as_old_mut().name, "PaxHeaders/entry");
            before.set_entry_type(EntryType::XHeader);
            before.set_mode(0o644);
            before.set_uid(0);
            before.set_gid(0);
            before.set_size(extended.len() as u64);
            before.set_cksum();
            self.write(before.as_bytes())?;
            self.write(&extended)?;
            self.pad(extended.len() as u64)?;
        }
        self.write(header.as_bytes())
    }

    /// Fills up the last block.
    fn pad(&mut self, bytes: u64) -> Result<()> {
        let rest = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
        let missing = if rest == 0 { 0 } else { BLOCK - rest };
        self.write(&[0; BLOCK][..missing])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(|error| own_error("write", self.name, error))
    }
}

/// A file's content on its way, to be what the tree says at its end.
struct Content<'a> {
    path: &'a RepoPath,
    file: &'a FileEntry,
    hasher: FileHasher,
}

impl<'a> Content<'a> {
    fn of(path: &'a RepoPath, file: &'a FileEntry) -> Self {
        Self {
            path,
            file,
            hasher: FileHasher::default(),
        }
    }

    fn check(self) -> Result<()> {
        let found = self.hasher.finish().0;
        if found == self.file.digest {
            return Ok(());
        }
        let reason = format!("{} is {found}, not {}", self.path, self.file.digest);
        Err(Error::damaged("the listing", reason).into())
    }
}

/// Puts a name into a header, as much of it as there is room for; says whether nothing is lost.
fn put_name(field: &mut [u8; NAME_BYTES_MAX], name: &str) -> bool {
    let bytes = name.bytes().filter(u8::is_ascii);
    field
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, byte)| *to = byte);
    name.is_ascii() && name.len() <= NAME_BYTES_MAX
}

/// A field of an extended header: its length, itself included, then name and value.
fn extended_field(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    // The length's own digits count too, and may become one more by it.
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

/// Seconds since 1970 as a decimal number.
fn decimal(mtime: Mtime) -> String {
    match (mtime.seconds(), mtime.nanoseconds()) {
        (seconds, 0) => seconds.to_string(),
        // The nanoseconds count upwards from the second before.
        (seconds, nanoseconds) if seconds < 0 => {
            let rest = 1_000_000_000 - nanoseconds;
            format!("-{}.{rest:09}", (seconds + 1).unsigned_abs())
        }
        (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
    }
}

/// Writes a state's tree as a plain folder, which must be absent or empty. It is made beside and then gets its
/// name. Where an entry could not be had, the folder isn't made, and what is said names them all.
pub async fn write_folder(
    remote: &dyn Remote,
    state: &State,
    out: &Path,
    progress: &dyn Progress,
) -> Result<(Exported, Retrieved)> {
    let tree = &state.tree;
    let failed = |action| move |error| own_error(action, out, error);
    check_is_free(out).map_err(failed("export to"))?;
    let made = beside(out).and_then(|(folder, name)| {
        let made = tempfile::Builder::new()
            .prefix(&name)
            .suffix(".part")
            .tempdir_in(folder)?;
        for part in ["files", "staging"] {
            std::fs::create_dir(made.path().join(part))?;
        }
        Ok(made)
    });
    let made = made.map_err(failed("make a folder beside"))?;
    let files = made.path().join("files");
    let folder = Folder::open(&files)?;
    let entries: Vec<(RepoPath, &Entry)> = tree
        .iter()
        .map(|(path, entry)| (path.clone(), entry))
        .collect();
    let retrieval = Retrieval {
        remote,
        whereabouts: &Whereabouts::of(state.head),
        folder: &folder,
        staging: &made.path().join("staging"),
        progress,
    };
    let retrieved = retrieval.run(&entries).await?;
    if retrieved.is_whole() {
        folder.barrier()?;
        // An empty folder gives way, and nothing else does.
        std::fs::rename(&files, out).map_err(failed("name"))?;
        sync_folder_of(out).map_err(failed("flush the folder of"))?;
    }
    Ok((Exported::of(tree), retrieved))
}

/// Refuses what is no empty folder.
fn check_is_free(out: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => match std::fs::read_dir(out)?.next() {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        },
    }
}

/// The folder that a path lies in, and how what is made beside it begins.
pub fn beside(out: &Path) -> io::Result<(std::path::PathBuf, String)> {
    let out = std::path::absolute(out)?;
    let (Some(folder), Some(name)) = (out.parent(), out.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((folder.to_owned(), format!(".{}.", name.to_string_lossy())))
}

/// Makes a new name last.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_extended_fields_count_themselves() {
        for length in [1, 80, 88, 89, 90, 91, 92, 989, 990, 991] {
            let field = extended_field("path", &"x".repeat(length));
            let digits = field.iter().take_while(|byte| byte.is_ascii_digit());
            let digits: Vec<u8> = digits.copied().collect();
            let said = String::from_utf8(digits).unwrap().parse::<usize>();
            assert_eq!(said, Ok(field.len()));
        }
    }

    #[test]
    fn times_before_1970_are_decimal_numbers_too() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.500000000"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 250_000_000, "-1.750000000"),
            (-2, 0, "-2"),
        ] {
            assert_eq!(decimal(Mtime::new(seconds, nanoseconds)), text);
        }
    }
}
