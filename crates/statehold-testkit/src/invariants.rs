//! What has to be true after every step of a simulated run, checked against the store behind the
//! faults.
//!
//! The auditor keeps a model of its own: what each client meant to change, what it was told became
//! of it, and what the directory holds record by record. It reads the log as it stands and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::ObjectStore;
use object_store::path::Path;
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, Signature};
use statehold_core::id::Nonce;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, RecordRef};
use statehold_core::state::{Applied, State};
use statehold_core::time::Timestamp;
use statehold_repository::content::open_chunk;
use statehold_repository::format::checkpoint::Checkpoint;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::format::{segment, tree};
use statehold_repository::layout;
use statehold_repository::store::{Listing, Store};

use crate::locked;

/// A change that a client set out to make, whatever it takes to make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Intention(pub u64);

/// What paths a draft changes, and into what; `None` for a deletion.
pub type Changes = BTreeMap<RepoPath, Option<Signature>>;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Checked<T = ()> = Result<T, Violation>;

fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if condition {
        Ok(())
    } else {
        Err(Violation(otherwise()))
    }
}

/// Checks a run.
#[derive(Debug)]
pub struct Auditor {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    store: Store,
    model: Mutex<Model>,
}

/// Figures about what was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audited {
    /// Records in the log.
    pub records: u64,
    /// Drafts that a client was told have landed.
    pub acknowledged: u64,
    /// Drafts that a client was told have not landed and never will.
    pub failed: u64,
    /// Segments found and compared with the log.
    pub segments: u64,
    /// Checkpoints found and compared with the log.
    pub checkpoints: u64,
    /// Packs found.
    pub packs: u64,
}

#[derive(Debug)]
struct Model {
    state: State,
    /// Record and root by number, from 0.
    log: Vec<(RecordRef, Digest)>,
    /// States at which a checkpoint is due.
    due: BTreeMap<u64, State>,
    tree: BTreeMap<RepoPath, Signature>,
    /// What the directory held after each record, from 0.
    trees: Vec<BTreeMap<RepoPath, Signature>>,
    nonces: BTreeMap<Nonce, u64>,
    intended: BTreeMap<Nonce, (Intention, Changes)>,
    landed: BTreeMap<Intention, u64>,
    acknowledged: BTreeMap<Intention, RecordRef>,
    failed: BTreeSet<Intention>,
    /// Version of every object seen.
    versions: BTreeMap<String, Option<String>>,
    audited: Audited,
}

impl Auditor {
    /// Watches the repository under a prefix of a store that has no faults.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str, genesis: Digest) -> Self {
        let state = State::empty(genesis);
        let log = vec![(state.head, state.tree.root())];
        let store = Store::new(Arc::clone(&objects), Listing::Sorted).inside(prefix);
        Self {
            objects,
            prefix: Path::from(prefix),
            store,
            model: Mutex::new(Model {
                state,
                log,
                due: BTreeMap::new(),
                tree: BTreeMap::new(),
                trees: vec![BTreeMap::new()],
                nonces: BTreeMap::new(),
                intended: BTreeMap::new(),
                landed: BTreeMap::new(),
                acknowledged: BTreeMap::new(),
                failed: BTreeSet::new(),
                versions: BTreeMap::new(),
                audited: Audited::default(),
            }),
        }
    }

    /// A client sets out to change this, with a draft of this nonce.
    pub fn intended(&self, intention: Intention, nonce: Nonce, changes: Changes) {
        locked(&self.model)
            .intended
            .insert(nonce, (intention, changes));
    }

    /// A client was told that its change is this record.
    pub fn acknowledged(&self, intention: Intention, record: RecordRef) {
        locked(&self.model).acknowledged.insert(intention, record);
    }

    /// A client was told that its change has not landed and never will, or concluded it.
    pub fn failed(&self, intention: Intention) {
        locked(&self.model).failed.insert(intention);
    }

    /// The newest record that a client was told of: whoever reads from now on has to see it.
    pub fn floor(&self) -> u64 {
        let model = locked(&self.model);
        let numbers = model.acknowledged.values().map(|record| record.number);
        numbers.max().unwrap_or(0)
    }

    /// Figures about what was checked.
    pub fn audited(&self) -> Audited {
        let model = locked(&self.model);
        Audited {
            records: model.state.head.number,
            acknowledged: model.acknowledged.len() as u64,
            failed: model.failed.len() as u64,
            ..model.audited
        }
    }

    /// The newest record in the log.
    pub fn head(&self) -> RecordRef {
        locked(&self.model).state.head
    }

    /// A client has read this state, and had to see at least the record `floor`. To be asked after
    /// [`Self::check`].
    pub fn check_view(&self, state: &State, floor: u64) -> Checked {
        let (number, root) = (state.head.number, state.tree.root());
        holds(number >= floor, || {
            format!("a reader saw record {number} after {floor} was acknowledged")
        })?;
        let model = locked(&self.model);
        let known = usize::try_from(number)
            .ok()
            .and_then(|index| model.log.get(index));
        holds(known == Some(&(state.head, root)), || {
            format!("a reader's tree at record {number} is {root}, and the log's is {known:?}")
        })
    }

    /// A client has read this earlier state.
    pub fn check_earlier(&self, state: &State) -> Checked {
        let number = state.head.number;
        let model = locked(&self.model);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let record = model.log.get(index).map(|(record, _)| *record);
        holds(record == Some(state.head), || {
            format!("a reader of record {number} was given {:?}", state.head)
        })?;
        let held = state.tree.iter();
        let held = held.map(|(path, entry)| (path.clone(), entry.signature()));
        let meant = model.trees.get(index);
        holds(meant == Some(&held.collect()), || {
            format!("a reader was given another directory at record {number}")
        })
    }

    /// Whether the state at a record is kept no longer, by the newest record that was checked.
    fn has_expired(&self, number: u64) -> bool {
        locked(&self.model)
            .state
            .collection
            .expired
            .contains(number)
    }

    /// A client was told that the state at a record is kept no longer.
    pub fn check_expired(&self, number: u64) -> Checked {
        holds(self.has_expired(number), || {
            format!("record {number} is said to have expired, and has not")
        })
    }

    /// Checks everything that is new in the store, and that nothing old has changed.
    pub async fn check(&self) -> Checked {
        self.check_log().await?;
        self.check_objects().await?;
        let model = locked(&self.model);
        for (intention, record) in &model.acknowledged {
            let landed = model.landed.get(intention);
            holds(landed == Some(&record.number), || {
                format!("{intention:?} was acknowledged as {record:?} and is at {landed:?}")
            })?;
            let in_log = usize::try_from(record.number)
                .ok()
                .and_then(|at| model.log.get(at));
            holds(in_log.is_some_and(|(found, _)| found == record), || {
                format!("{intention:?} was acknowledged as {record:?}; there stands {in_log:?}")
            })?;
        }
        for intention in &model.failed {
            let landed = model.landed.get(intention);
            holds(landed.is_none(), || {
                format!("{intention:?} was given up as failed and is record {landed:?}")
            })?;
        }
        Ok(())
    }

    async fn check_log(&self) -> Checked {
        loop {
            let number = locked(&self.model).state.head.number + 1;
            let key = layout::record(number);
            let read = self.store.read(&key).await;
            let Some(bytes) = read.map_err(|error| Violation(error.to_string()))? else {
                return Ok(());
            };
            let stored = StoredRecord::read(number, bytes)
                .map_err(|error| Violation(format!("{key} can't be read: {error}")))?;
            holds(stored.has_content(), || format!("{key} lacks its content"))?;
            let new = locked(&self.model).take_in(&stored)?;
            for (path, entry) in new {
                self.content(&path, &entry).await?;
            }
        }
    }

    /// Reads a file's content chunk by chunk, and compares it with its digest.
    async fn content(&self, path: &RepoPath, entry: &Entry) -> Checked<Bytes> {
        let Entry::File(file) = entry else {
            return Ok(Bytes::new());
        };
        let broken = |what: String| Violation(format!("the content of {path}: {what}"));
        let mut whole = Vec::new();
        for chunk in &file.chunks {
            let object = chunk
                .at
                .object
                .ok_or_else(|| broken("it lies nowhere".into()))?;
            let range = chunk.at.offset..chunk.at.offset + u64::from(chunk.at.stored);
            let frame = self.store.read_range(&object.to_string(), range).await;
            let frame = frame.map_err(|error| broken(error.to_string()))?;
            let raw = open_chunk(chunk, &frame).map_err(|error| broken(error.to_string()))?;
            whole.extend_from_slice(&raw);
        }
        holds(Digest::of(&whole) == file.digest, || {
            broken("it has another digest".into()).0
        })?;
        Ok(whole.into())
    }

    /// Reads every file of the newest tree.
    pub async fn check_all_content(&self) -> Checked {
        let tree = locked(&self.model).state.tree.clone();
        for (path, entry) in tree.iter() {
            self.content(path, entry).await?;
        }
        Ok(())
    }

    /// Objects are written once; segments and checkpoints say what the log says.
    async fn check_objects(&self) -> Checked {
        let mut found = self.objects.list(Some(&self.prefix));
        let mut keys = Vec::new();
        while let Some(meta) = found.next().await {
            let meta = meta.map_err(|error| Violation(error.to_string()))?;
            let parts = meta.location.prefix_match(&self.prefix);
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            keys.push((names.join("/"), meta.e_tag));
        }
        let mut new = Vec::new();
        {
            let mut model = locked(&self.model);
            let lost = model.versions.len();
            let mut kept = 0;
            let mut there = BTreeSet::new();
            for (key, version) in keys {
                match model.versions.get(&key) {
                    Some(known) => {
                        kept += 1;
                        // A late request may write what was deleted once more.
                        let may_come_back =
                            key.starts_with("trees/") && model.state.collection.collected > 0;
                        let is_same = *known == version || may_come_back || model.was_removed(&key);
                        holds(is_same, || format!("{key} was overwritten"))?;
                        there.insert(key);
                    }
                    None => {
                        new.push(key.clone());
                        there.insert(key.clone());
                        model.versions.insert(key, version);
                    }
                }
            }
            if kept != lost {
                let gone = model.versions.keys().filter(|key| !there.contains(*key));
                let gone: Vec<String> = gone.cloned().collect();
                for key in gone {
                    // Which trees anything needs is seen where they are read.
                    let may_go = model.was_removed(&key) || key.starts_with("trees/");
                    let is_collected = model.state.collection.collected > 0;
                    holds(may_go && is_collected, || format!("{key} is gone"))?;
                    model.versions.remove(&key);
                }
            }
        }
        for key in new {
            self.check_cache(&key).await?;
        }
        Ok(())
    }

    async fn check_cache(&self, key: &str) -> Checked {
        let broken = |what: String| Violation(format!("{key}: {what}"));
        let bytes = self.store.read(key).await;
        let bytes = bytes.map_err(|error| broken(error.to_string()))?;
        if bytes.is_none() && locked(&self.model).was_removed(key) {
            return Ok(());
        }
        let bytes = bytes.unwrap_or_default();
        if key.starts_with("packs/") {
            locked(&self.model).audited.packs += 1;
        } else if let Some(range) = key.strip_prefix("segments/") {
            let numbers = range.split_once('-').map(|(from, to)| {
                let parse = |text: &str| text.parse::<u64>().unwrap_or_default();
                (parse(from), parse(to))
            });
            let (from, to) = numbers.ok_or_else(|| broken("an odd name".into()))?;
            let records =
                segment::read(key, bytes, from, to).map_err(|error| broken(error.to_string()))?;
            let mut model = locked(&self.model);
            model.audited.segments += 1;
            let of_log = |number: u64| {
                let index = usize::try_from(number).ok()?;
                model.log.get(index).map(|(record, _)| *record)
            };
            let same = records.iter().all(|found| {
                of_log(found.record.envelope.number) == Some(found.record.reference())
            });
            holds(same, || broken("it isn't the log's".into()).0)?;
        } else if key.starts_with("checkpoints/") {
            let checkpoint =
                Checkpoint::read(key, &bytes).map_err(|error| broken(error.to_string()))?;
            let mut objects = std::collections::HashMap::new();
            for id in std::iter::once(&checkpoint.tree.id).chain(&checkpoint.tree.others) {
                let bytes = self.store.read(&layout::tree(*id)).await;
                let bytes = bytes.map_err(|error| broken(error.to_string()))?;
                // Whoever wrote it was slower than a collector that waits for nothing; readers pass it over.
                if bytes.is_none() && locked(&self.model).state.collection.collected > 0 {
                    return Ok(());
                }
                objects.insert(
                    *id,
                    bytes.ok_or_else(|| broken("its tree is missing".into()))?,
                );
            }
            let tree = tree::read(&checkpoint.tree, &objects)
                .map_err(|error| broken(error.to_string()))?;
            let mut model = locked(&self.model);
            model.audited.checkpoints += 1;
            let state = checkpoint.into_state(tree);
            let is_fold = match model.due.get(&state.head.number) {
                Some(due) => *due == state,
                // A collector writes one where it needs it.
                None => {
                    let index = usize::try_from(state.head.number).unwrap_or(usize::MAX);
                    let known = model.log.get(index);
                    model.state.collection.compacted > 0
                        && known == Some(&(state.head, state.tree.root()))
                }
            };
            holds(is_fold, || broken("it is not the fold of the log".into()).0)?;
        }
        Ok(())
    }
}

impl Model {
    fn was_removed(&self, key: &str) -> bool {
        let collection = &self.state.collection;
        let cut = collection.cut;
        if let Some(pack) = layout::parse_pack(key) {
            let condemned = collection.condemned.get(&pack);
            return condemned.is_some_and(|condemned| condemned.removed);
        }
        layout::parse_record(key).is_some_and(|number| number <= cut)
            || layout::parse_segment(key).is_some_and(|(from, _)| from <= cut)
            || layout::parse_checkpoint(key).is_some_and(|(number, _)| number < cut)
    }

    /// Folds a record and compares what it did with what its writer meant. Gives the entries that
    /// it put in.
    fn take_in(&mut self, stored: &StoredRecord) -> Checked<Vec<(RepoPath, Entry)>> {
        let (envelope, number) = (&stored.record.envelope, stored.record.envelope.number);
        let before: Timestamp = self.state.time;
        holds(envelope.time >= before, || {
            format!(
                "record {number} is of {}, its parent of {before}",
                envelope.time
            )
        })?;
        let applied = self.state.apply(&stored.record);
        holds(applied == Ok(Applied::Changed), || {
            format!("record {number} does not apply: {applied:?}")
        })?;
        let nonce = envelope.draft.nonce;
        if let Some(first) = self.nonces.insert(nonce, number) {
            return Err(Violation(format!(
                "records {first} and {number} are one draft"
            )));
        }
        let nothing = Changes::new();
        let changes = match (&stored.record.body, self.intended.get(&nonce)) {
            (_, Some((intention, changes))) => {
                if let Some(first) = self.landed.insert(*intention, number) {
                    return Err(Violation(format!(
                        "{intention:?} landed twice, as {first} and {number}"
                    )));
                }
                changes
            }
            (Body::Compact(_) | Body::Remove(_), None) => &nothing,
            (_, None) => {
                return Err(Violation(format!("nobody meant to write record {number}")));
            }
        };
        for (path, change) in changes {
            match change {
                Some(signature) => self.tree.insert(path.clone(), *signature),
                None => self.tree.remove(path),
            };
        }
        let folded = self.state.tree.iter();
        let folded = folded.map(|(path, entry)| (path, entry.signature()));
        let meant = self.tree.iter().map(|(path, signature)| (path, *signature));
        holds(folded.eq(meant), || {
            format!("the tree after record {number} is not the one before with its changes")
        })?;
        let root = self.state.tree.root();
        self.log.push((self.state.head, root));
        self.trees.push(self.tree.clone());
        if self.state.checkpoint_due() {
            self.due.insert(number, self.state.clone());
        }
        let new = changes.iter().filter(|(_, change)| change.is_some());
        Ok(new
            .filter_map(|(path, _)| {
                let entry = self.state.tree.get(path.as_str())?;
                Some((path.clone(), entry.clone()))
            })
            .collect())
    }
}
