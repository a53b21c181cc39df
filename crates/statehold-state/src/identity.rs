//! Which node a folder is, and whether it still is that node.
//!
//! A node's log only grows, and no two programs write to it. A folder that was copied, restored
//! from a backup or moved into another machine's image breaks that without knowing. So a *witness*
//! is kept outside the folder, on the machine: which folder this node is in, on which machine, and
//! the last event that others may have seen. If it does not match, the folder takes a new name
//! before it writes. The witness is written when events are handed out and not at each write:
//! numbers that nobody has seen may be given again.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, IoContext as _, Result};
use crate::frame::{Link, Mark};
use crate::node::{NodeId, hex, unhex};
use crate::replica::Replica;

/// Why a folder has the node it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It is the node it was.
    Continued,
    /// It had none: the folder is new.
    New,
    /// The folder was copied or moved: its node belongs to another place or machine.
    Copied,
    /// The folder is older than what others have seen of it: a backup or an image was restored.
    RolledBack,
}

/// The file in the folder.
#[derive(Debug, Serialize, Deserialize)]
struct NodeFile {
    format: u32,
    node: NodeId,
    /// Nodes that this folder was before, the latest last.
    #[serde(default)]
    former: Vec<NodeId>,
}

/// The file outside of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Witness {
    node: NodeId,
    machine: String,
    place: Place,
    /// The last event that others may have seen.
    sequence: u64,
    /// The link after it, in hexadecimal digits.
    link: String,
}

/// Where a folder is. A copy has another inode, a move within a disk keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    path: String,
    device: u64,
    inode: u64,
}

const FORMAT: u32 = 1;

/// A folder's node, with its witness.
#[derive(Debug)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub origin: Origin,
    pub former: Vec<NodeId>,
    folder: PathBuf,
    witnesses: PathBuf,
    machine: String,
    witnessed: u64,
}

impl Identity {
    /// Finds out which node a folder is, given what is in its logs.
    pub(crate) fn establish(
        folder: &Path,
        witnesses: &Path,
        machine: Option<String>,
        replica: &Replica,
    ) -> Result<Self> {
        fs::create_dir_all(witnesses).on("create", witnesses)?;
        let machine = machine.or_else(machine_id).unwrap_or_default();
        let mut identity = Self {
            node: NodeId::from_bytes([0; 16]),
            origin: Origin::New,
            former: Vec::new(),
            folder: folder.to_owned(),
            witnesses: witnesses.to_owned(),
            machine,
            witnessed: 0,
        };
        let path = folder.join("node");
        let Some(bytes) = durable::read(&path)? else {
            identity.renew(Origin::New)?;
            return Ok(identity);
        };
        let file: NodeFile = serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
            path: path.clone(),
            offset: 0,
            why: error.to_string(),
        })?;
        identity.node = file.node;
        identity.former = file.former;
        match identity.doubt(replica.mark(file.node))? {
            Origin::Continued => identity.origin = Origin::Continued,
            doubt => identity.renew(doubt)?,
        }
        Ok(identity)
    }

    /// Whether the witness says that this folder is still this node.
    fn doubt(&mut self, mark: Mark) -> Result<Origin> {
        let Some(witness) = self.read_witness(self.node)? else {
            return Ok(Origin::Copied);
        };
        let here = place(&self.folder)?;
        let there = &witness.place;
        // Numbers of devices may change when a machine starts, paths when a folder is moved.
        let is_here =
            here.inode == there.inode && (here.device == there.device || here.path == there.path);
        if witness.machine != self.machine || !is_here {
            return Ok(Origin::Copied);
        }
        let link = unhex::<16>(&witness.link);
        let is_other = mark.sequence == witness.sequence && link != Some(mark.link);
        if mark.sequence < witness.sequence || (witness.sequence > 0 && is_other) {
            return Ok(Origin::RolledBack);
        }
        self.witnessed = witness.sequence;
        if here != witness.place {
            self.write_witness(witness.sequence, mark.link)?;
        }
        Ok(Origin::Continued)
    }

    /// Takes a new name, durably, before anything is written under it.
    pub(crate) fn renew(&mut self, origin: Origin) -> Result<()> {
        if origin != Origin::New {
            self.former.push(self.node);
        }
        self.node = random_node()?;
        self.origin = origin;
        self.witnessed = 0;
        self.write_witness(0, Link::default())?;
        let file = NodeFile {
            format: FORMAT,
            node: self.node,
            former: self.former.clone(),
        };
        write_json(&self.folder.join("node"), &file)
    }

    /// Notes that others may see this node's events up to this mark, before they do.
    pub(crate) fn witness(&mut self, mark: Mark) -> Result<()> {
        if mark.sequence > self.witnessed {
            self.write_witness(mark.sequence, mark.link)?;
            self.witnessed = mark.sequence;
        }
        Ok(())
    }

    /// The names that this folder has and had, each with the last event that it showed to others
    /// under it.
    pub(crate) fn shown(&self) -> Result<Vec<(NodeId, u64)>> {
        let mut shown = vec![(self.node, self.witnessed)];
        for former in &self.former {
            if let Some(witness) = self.read_witness(*former)? {
                shown.push((*former, witness.sequence));
            }
        }
        Ok(shown)
    }

    fn read_witness(&self, node: NodeId) -> Result<Option<Witness>> {
        let bytes = durable::read(&self.witness_path(node))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn write_witness(&self, sequence: u64, link: Link) -> Result<()> {
        let witness = Witness {
            node: self.node,
            machine: self.machine.clone(),
            place: place(&self.folder)?,
            sequence,
            link: hex(&link),
        };
        write_json(&self.witness_path(self.node), &witness)
    }

    fn witness_path(&self, node: NodeId) -> PathBuf {
        self.witnesses.join(format!("{node}.json"))
    }
}

/// A name that no other node has.
pub(crate) fn random_node() -> Result<NodeId> {
    random().map(NodeId::from_bytes)
}

/// So many random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::NoRandomness(error.to_string()))?;
    Ok(bytes)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).unwrap_or_default();
    durable::replace(path, &[&json])
}

/// What a machine calls itself, where the system keeps such a name.
fn machine_id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

fn place(folder: &Path) -> Result<Place> {
    let path = folder.canonicalize().on("find", folder)?;
    let (device, inode) = numbers(&path)?;
    Ok(Place {
        path: path.to_string_lossy().into_owned(),
        device,
        inode,
    })
}

#[cfg(unix)]
fn numbers(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).on("look at", path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn numbers(_: &Path) -> Result<(u64, u64)> {
    Ok((0, 0))
}
