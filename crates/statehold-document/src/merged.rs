//! The Loro document in memory, and which of the saved updates are in it.
//!
//! Bytes from outside reach Loro here and nowhere else: checked first, and behind a net for panics.
//! A Loro document that refused something is not used any more; another one is made of what had
//! been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use loro::{
    EncodedBlobMode, ExpandType, ExportMode, LoroDoc, LoroResult, StyleConfig, VersionVector,
};
use statehold_state::Root;

use crate::document::DOCUMENT_BYTES_MAX;
use crate::error::{Error, Result};

/// Saved updates are put together once there are so many beside the largest of them...
const UPDATES_MIN: usize = 64;
/// ...and they are as long as that one: so putting together writes less than saving did, in all.
const fn is_worth_it(count: usize, largest: usize, total: usize) -> bool {
    count > UPDATES_MIN && total - largest >= largest
}

/// The part of Loro's header that is zero: room for a check longer than the one in use.
const BLANK_HEADER: std::ops::Range<usize> = 4..16;

/// Why an import was not taken.
pub(crate) type Why = String;

/// One document in memory.
pub(crate) struct Merged {
    pub(crate) doc: LoroDoc,
    /// The updates that are in it, each with its length in bytes.
    pub(crate) taken: BTreeMap<String, usize>,
    /// Those of them that build on updates that have not come yet.
    pub(crate) waiting: BTreeSet<String>,
    /// Updates that are none.
    pub(crate) refused: BTreeMap<String, Why>,
    /// The state root up to which updates were looked for.
    pub(crate) root: Option<Root>,
    /// Whether an edit began and did not end well: what is in memory was never saved.
    pub(crate) is_torn: bool,
}

impl Merged {
    pub(crate) fn new() -> Self {
        Self {
            doc: empty(),
            taken: BTreeMap::new(),
            waiting: BTreeSet::new(),
            refused: BTreeMap::new(),
            root: None,
            is_torn: false,
        }
    }

    /// Takes in saved updates, each with its name. Those that are none are noted and left.
    pub(crate) fn take(&mut self, updates: Vec<(String, Vec<u8>)>) {
        for (name, bytes) in updates {
            let checked = match Checked::new(&bytes) {
                Ok(checked) => checked,
                Err(why) => {
                    self.refused.insert(name, why);
                    continue;
                }
            };
            match checked.import(&self.doc) {
                Ok(is_whole) => {
                    self.taken.insert(name.clone(), bytes.len());
                    if !is_whole {
                        self.waiting.insert(name);
                    }
                }
                Err(why) => {
                    self.refused.insert(name, why);
                    // What a failed import leaves behind is not to be relied on: all is taken
                    // anew, without this one.
                    self.abandon();
                    return;
                }
            }
        }
    }

    /// Notes of which updates all that they build on has come by now.
    pub(crate) fn recheck(&mut self, updates: &[(String, Vec<u8>)]) {
        for (name, bytes) in updates {
            let imported = Checked::new(bytes).and_then(|checked| checked.import(&self.doc));
            if imported.is_ok_and(|is_whole| is_whole) {
                self.waiting.remove(name);
            }
        }
    }

    /// Goes back to what is saved. What was refused stays so.
    pub(crate) fn abandon(&mut self) {
        let refused = std::mem::take(&mut self.refused);
        let torn = std::mem::replace(self, Self::new());
        self.refused = refused;
        // Loro may be half way through something, and end with another panic.
        drop(guarded(|| {
            drop(torn);
            Ok(())
        }));
    }

    /// Whether the next save is one of the whole document, given how long the next update is.
    pub(crate) fn is_compaction_due(&self, next: usize) -> bool {
        let largest = self.taken.values().copied().max().unwrap_or(0);
        let total = self.taken.values().sum::<usize>() + next;
        is_worth_it(self.taken.len(), largest, total) || total > DOCUMENT_BYTES_MAX
    }

    /// Everything as bytes, history included.
    pub(crate) fn snapshot(&self) -> Result<Vec<u8>> {
        export(&self.doc, ExportMode::Snapshot)
    }

    /// What came since a version.
    pub(crate) fn since(&self, version: &VersionVector) -> Result<Vec<u8>> {
        export(&self.doc, ExportMode::updates(version))
    }
}

fn empty() -> LoroDoc {
    let doc = LoroDoc::new();
    doc.config_default_text_style(Some(StyleConfig {
        expand: ExpandType::After,
    }));
    doc.set_hide_empty_root_containers(true);
    doc
}

/// Bytes that are worth handing to Loro: whole, and with all their history.
pub(crate) struct Checked<'a> {
    bytes: &'a [u8],
    is_snapshot: bool,
}

impl<'a> Checked<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Why> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("they are longer than {DOCUMENT_BYTES_MAX} bytes"));
        }
        // The check does not cover this part of the header.
        if bytes.get(BLANK_HEADER) != Some(&[0; BLANK_HEADER.end - BLANK_HEADER.start]) {
            return Err("their header is none of Loro's".to_owned());
        }
        let meta = guarded(|| LoroDoc::decode_import_blob_meta(bytes, true))?;
        match meta.mode {
            EncodedBlobMode::Snapshot | EncodedBlobMode::Updates => Ok(Self {
                bytes,
                is_snapshot: meta.mode.is_snapshot(),
            }),
            other => Err(format!(
                "their form is {other:?}, and not the whole history"
            )),
        }
    }

    /// Imports them. Whether all that they build on is there.
    pub(crate) fn import(&self, doc: &LoroDoc) -> Result<bool, Why> {
        let status = guarded(|| {
            let status = doc.import(self.bytes)?;
            if self.is_snapshot {
                // Loro looks at the content of a snapshot when it is asked for: here.
                doc.get_deep_value();
            }
            Ok(status)
        })?;
        let waiting = status.pending;
        Ok(waiting.is_none_or(|range| range.iter().next().is_none()))
    }
}

fn export(doc: &LoroDoc, mode: ExportMode<'_>) -> Result<Vec<u8>> {
    let exported = guarded(|| Ok(doc.export(mode)));
    let exported = exported.and_then(|result| result.map_err(|error| error.to_string()));
    exported.map_err(|why| Error::Refused { why })
}

fn guarded<R>(work: impl FnOnce() -> LoroResult<R>) -> Result<R, Why> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("Loro cannot read them".to_owned()),
    }
}
