//! What every store holds, folded record by record behind the faults: the state after each record that ever stood
//! anywhere, by its id. So whatever anybody reads can be held against what the log says, in whichever store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, Signature};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::Nonce;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Kind, PushBody, RecordRef};
use statehold_core::state::{Applied, State};
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::{load, load_at};
use statehold_repository::replicate::position;
use statehold_repository::store::Store;
use statehold_repository::{Error, Repository, layout};

use crate::author::read_file;
use crate::environment::{EPOCH, SeededEntropy, SimulatedClock};
use crate::invariants::Violation;
use crate::locked;

type Checked<T = ()> = Result<T, Violation>;

/// What a directory holds.
pub(super) type Tree = BTreeMap<RepoPath, Signature>;

pub(super) fn tree_of(state: &State) -> Tree {
    let entries = state.tree.iter();
    entries
        .map(|(path, entry)| (path.clone(), entry.signature()))
        .collect()
}

fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if condition {
        Ok(())
    } else {
        Err(Violation(otherwise()))
    }
}

/// What is known of a record.
#[derive(Debug, Clone)]
struct Known {
    nonce: Nonce,
    kind: Kind,
    /// Whether it changed the state where it stands.
    is_in_effect: bool,
    /// What it puts at paths.
    puts: Vec<(RepoPath, Signature)>,
}

#[derive(Debug)]
struct Book {
    states: HashMap<Digest, Arc<State>>,
    known: HashMap<Digest, Known>,
    /// Every log, from record 0.
    logs: Vec<Vec<RecordRef>>,
    /// The newest mark of each that was looked at.
    marks: Vec<u64>,
}

/// Watches all stores.
#[derive(Debug)]
pub(super) struct Logbook {
    stores: Vec<Store>,
    description: Bytes,
    book: Mutex<Book>,
}

impl Logbook {
    pub(super) fn new(stores: Vec<Store>, description: Bytes, empty: State) -> Self {
        let first = empty.head;
        let logs = stores.iter().map(|_| vec![first]).collect();
        let marks = stores.iter().map(|_| 0).collect();
        Self {
            stores,
            description,
            book: Mutex::new(Book {
                states: HashMap::from([(first.id, Arc::new(empty))]),
                known: HashMap::new(),
                logs,
                marks,
            }),
        }
    }

    /// A store as a program without any memory sees it, on a day without faults.
    pub(super) fn fresh(&self, site: usize) -> Checked<Repository> {
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::standing(EPOCH));
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(77));
        let (store, description) = (self.stores[site].clone(), self.description.clone());
        Repository::described(store, description, clock, entropy)
            .map_err(|error| Violation(error.to_string()))
    }

    /// Takes in what is new in every store, and looks whether each can be read as far as it promises.
    pub(super) async fn check(&self) -> Checked {
        for site in 0..self.stores.len() {
            self.take_in(site).await?;
            self.check_mark(site).await?;
        }
        Ok(())
    }

    async fn take_in(&self, site: usize) -> Checked {
        loop {
            let number = locked(&self.book).logs[site].len() as u64;
            let key = layout::record(number);
            let read = self.stores[site].read(&key).await;
            let Some(bytes) = read.map_err(|error| Violation(error.to_string()))? else {
                return Ok(());
            };
            let stored = StoredRecord::read(number, bytes)
                .map_err(|error| Violation(format!("{key} at site {site}: {error}")))?;
            locked(&self.book).fold(site, &stored)?;
        }
    }

    /// A replica is readable up to its mark, content and all.
    async fn check_mark(&self, site: usize) -> Checked {
        let mark = position(&self.stores[site]).await;
        let Some(mark) = mark.map_err(|error| Violation(error.to_string()))? else {
            return Ok(());
        };
        if locked(&self.book).marks[site] == mark.number {
            return Ok(());
        }
        locked(&self.book).marks[site] = mark.number;
        let there = locked(&self.book).at(site, mark.number);
        holds(there == Some(mark), || {
            format!("site {site} is marked at {mark:?}, and has {there:?}")
        })?;
        let repository = self.fresh(site)?;
        let broken = |what: &str, error: &dyn std::fmt::Display| {
            Violation(format!(
                "site {site}, {what} its mark {}: {error}",
                mark.number
            ))
        };
        let state = load_at(&repository, Point::Then(mark.number)).await;
        let state = state.map_err(|error| broken("at", &error))?;
        self.check_view(&state)?;
        // The newest state may have let this one go, or left it behind.
        let newest = self.state(self.end(site));
        let is_kept = newest.is_none_or(|newest| {
            let is_expired = newest.collection.expired.contains(mark.number);
            !is_expired && !newest.is_left_behind(mark.number)
        });
        if !is_kept {
            return Ok(());
        }
        let state = match load_at(&repository, Point::Record(mark.number)).await {
            Err(Error::Expired { .. }) => return Ok(()),
            state => state.map_err(|error| broken("with where things lie at", &error))?,
        };
        self.check_content(&repository, &state)
            .await
            .map_err(|violation| broken("the content at", &violation))
    }

    /// Everything at the end of a log can be read.
    pub(super) async fn check_end(&self, site: usize) -> Checked<Arc<State>> {
        let repository = self.fresh(site)?;
        let state = load(&repository).await;
        let state = state.map_err(|error| Violation(format!("site {site}, its end: {error}")))?;
        self.check_view(&state.state)?;
        self.check_content(&repository, &state.state).await?;
        Ok(state.state)
    }

    async fn check_content(&self, repository: &Repository, state: &State) -> Checked {
        for (path, entry) in state.tree.iter() {
            let Entry::File(file) = entry else { continue };
            let read = read_file(repository, state, path.as_str()).await;
            let read = read.map_err(|error| Violation(format!("{path}: {error}")))?;
            holds(Digest::of(&read) == file.digest, || {
                format!("{path} is another")
            })?;
        }
        Ok(())
    }

    /// Whether a state that somebody read is the one after its record.
    pub(super) fn check_view(&self, state: &State) -> Checked {
        let book = locked(&self.book);
        let known = book.states.get(&state.head.id);
        let is_same = known.is_some_and(|known| {
            known.head == state.head
                && known.tree.root() == state.tree.root()
                && known.epochs == state.epochs
        });
        holds(is_same, || {
            format!(
                "a reader's state at {:?} is not the log's: {known:?}",
                state.head
            )
        })
    }

    /// The state after a record that anybody ever saw.
    pub(super) fn state(&self, record: RecordRef) -> Option<Arc<State>> {
        locked(&self.book).states.get(&record.id).cloned()
    }

    /// A record of a log.
    pub(super) fn at(&self, site: usize, number: u64) -> Option<RecordRef> {
        locked(&self.book).at(site, number)
    }

    /// The last record of a log.
    pub(super) fn end(&self, site: usize) -> RecordRef {
        let book = locked(&self.book);
        *book.logs[site].last().expect("record 0 is always there")
    }

    /// The first number at which two logs have different records.
    pub(super) fn parts(&self, one: usize, other: usize) -> Option<u64> {
        let book = locked(&self.book);
        let mut both = book.logs[one].iter().zip(&book.logs[other]);
        both.find(|(one, other)| one != other)
            .map(|(one, _)| one.number)
    }

    /// What was ever put at paths by what is in effect in a log, and that nothing is in effect twice.
    pub(super) fn history(&self, site: usize) -> Checked<BTreeSet<(RepoPath, Signature)>> {
        let end = self.end(site);
        let book = locked(&self.book);
        let state = &book.states[&end.id];
        let (mut nonces, mut history) = (BTreeMap::new(), BTreeSet::new());
        for record in book.logs[site].iter().skip(1) {
            let known = &book.known[&record.id];
            if !known.is_in_effect || state.is_left_behind(record.number) {
                continue;
            }
            if let Some(first) = nonces.insert(known.nonce, record.number) {
                let number = record.number;
                let what = format!("records {first} and {number} of site {site} are one draft");
                return Err(Violation(what));
            }
            history.extend(known.puts.iter().cloned());
        }
        Ok(history)
    }

    /// The records of a log after one of it that put something in place and are in effect.
    pub(super) fn pushes_after(&self, site: usize, after: u64) -> Vec<RecordRef> {
        let book = locked(&self.book);
        let later = book.logs[site]
            .iter()
            .filter(|record| record.number > after);
        let is_push = |record: &&RecordRef| {
            let known = &book.known[&record.id];
            known.is_in_effect && known.kind == Kind::Push
        };
        later.filter(is_push).copied().collect()
    }
}

impl Book {
    fn at(&self, site: usize, number: u64) -> Option<RecordRef> {
        self.logs[site].get(usize::try_from(number).ok()?).copied()
    }

    fn fold(&mut self, site: usize, stored: &StoredRecord) -> Checked {
        let record = &stored.record;
        let at = record.reference();
        let before = *self.logs[site].last().expect("record 0 is always there");
        holds(record.envelope.parent == before.id, || {
            format!(
                "record {} of site {site} does not follow the one before it",
                at.number
            )
        })?;
        if !self.states.contains_key(&at.id) {
            holds(!stored.is_retired(), || {
                format!(
                    "record {} of site {site} was retired before anybody saw it",
                    at.number
                )
            })?;
            let mut state = (*self.states[&before.id]).clone();
            let mut applied = state
                .apply(record)
                .map_err(|error| Violation(error.to_string()))?;
            if let Applied::ContinuesFrom(from) = applied {
                let earlier = self.states.get(&from.id);
                let earlier = earlier.ok_or_else(|| Violation(format!("nobody saw {from:?}")))?;
                applied = state.continue_from((**earlier).clone(), record);
            }
            let pushed = record.body.changes().into_iter();
            let upserts = pushed.flat_map(|push: &PushBody| &push.upserts);
            let puts = upserts.map(|upsert| {
                let path = upsert.path.clone();
                (path, upsert.entry.signature())
            });
            let known = Known {
                nonce: record.envelope.draft.nonce,
                kind: record.envelope.draft.kind.clone(),
                is_in_effect: applied == Applied::Changed,
                puts: puts.collect(),
            };
            self.known.insert(at.id, known);
            self.states.insert(at.id, Arc::new(state));
        }
        self.logs[site].push(at);
        Ok(())
    }
}
