//! Finds out what a store can be trusted with, by trying it on the very bucket.
//!
//! Object stores that speak the same protocol differ in silence: some take the header that says
//! "create this only if it doesn't exist" and ignore it, some look first and write then, one does
//! it right until the bucket keeps versions. No answer tells; only doing it does, and only with
//! many writers at once.
//!
//! The objects of a run lie in a folder of their own and are deleted at its end. Besides removal
//! this is the one place that deletes, and it deletes what it made itself. A store that refuses
//! deletes keeps them, which does no harm.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStoreExt as _, PutMode, PutOptions,
};
use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::environment::{Clock, Entropy};
use statehold_core::limits::{
    PROBE_RACE_SECONDS, PROBE_ROUNDS_MAX, PROBE_ROUNDS_MIN, PROBE_SECONDS_MAX, PROBE_WRITERS,
};
use statehold_core::time::Timestamp;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::layout;
use crate::lease::Lease;
use crate::store::{Creation, Listing, Store};

/// The version of [`Report`]'s text.
const VERSION: u32 = 1;

/// What a store is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// Everything holds: any number of writers.
    A,
    /// Two writers can both be told that they made the same object: one writer alone.
    B,
    /// What was written can't be relied on to be read back: nothing.
    C,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// An object that doesn't exist is said not to.
    Missing,
    /// An object is there, whole, as soon as its write was acknowledged.
    ReadAfterWrite,
    /// It is listed as soon, in order, and from the middle on.
    ListAfterWrite,
    /// A part of an object is those bytes and no others.
    Ranges,
    /// A second create of the same object is refused.
    CreateOnly,
    /// Of many creates of the same object at once, one succeeds.
    Races,
}

impl Check {
    /// What a store is worth that fails at this.
    const fn grade(self) -> Grade {
        match self {
            Self::CreateOnly | Self::Races => Grade::B,
            Self::Missing | Self::ReadAfterWrite | Self::ListAfterWrite | Self::Ranges => Grade::C,
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was tried.
    pub check: Check,
    /// Whether it holds.
    pub holds: bool,
    /// What was seen, in words.
    pub seen: String,
}

/// How a file's digest is kept beside a plain object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShaStrategy {
    /// In the object's own metadata, which comes back as it was written.
    Header,
    /// In a second object, `<name>.sha256`.
    Sidecar,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    version: u32,
    /// When, by the clock of who probed.
    pub at: Timestamp,
    /// What the store is good for.
    pub grade: Grade,
    /// Whether it keeps metadata.
    pub sha_strategy: ShaStrategy,
    /// What each check found.
    pub findings: Vec<Finding>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Report {
    /// The findings that cost the store its better grade, in words.
    pub fn reasons(&self) -> Vec<String> {
        let failed = self.findings.iter().filter(|finding| !finding.holds);
        failed.map(|finding| finding.seen.clone()).collect()
    }

    /// What a check found.
    pub fn finding(&self, check: Check) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}

/// Who may write to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Anybody.
    ManyWriters,
    /// One writer at a time, which a lease sees to.
    OneWriter {
        /// Why.
        reasons: Vec<String>,
    },
    /// Nobody.
    Refused {
        /// Why.
        reasons: Vec<String>,
    },
}

/// Who may write to a store of which this is known.
pub fn admit(report: &Report) -> Admission {
    let reasons = report.reasons();
    match report.grade {
        Grade::A => Admission::ManyWriters,
        Grade::B => Admission::OneWriter { reasons },
        Grade::C => Admission::Refused { reasons },
    }
}

impl Admission {
    /// Lets one of many writers in, or says why not.
    pub fn enter(&self) -> Result<()> {
        match self {
            Self::ManyWriters => Ok(()),
            Self::OneWriter { reasons } => Err(Error::refused(format!(
                "this store is safe for one writer at a time only: {}; a gateway can be that one: \
                 `statehold serve --store …`",
                reasons.join("; ")
            ))),
            Self::Refused { reasons } => Err(Error::refused(format!(
                "this store can't hold a repository: {}",
                reasons.join("; ")
            ))),
        }
    }

    /// Lets a gateway in, or says why not. A store for one writer comes back with a lease that
    /// lasts so long without renewal, and is waited for.
    pub async fn enter_with_lease(
        &self,
        store: Store,
        entropy: &dyn Entropy,
        period: Duration,
    ) -> Result<Store> {
        match self {
            Self::OneWriter { .. } => {
                let lease = Lease::take(&store, entropy, period).await?;
                Ok(store.with_lease(Arc::new(lease)))
            }
            Self::ManyWriters | Self::Refused { .. } => self.enter().map(|()| store),
        }
    }
}

/// The newest verdict that is kept in the store, if there is one.
pub async fn newest(store: &Store) -> Result<Option<Report>> {
    for key in store.list_first(layout::PROBES, layout::PROBES).await? {
        let Some(bytes) = store.read(&key).await? else {
            continue;
        };
        match serde_json::from_slice::<Report>(&bytes) {
            Ok(report) if report.version == VERSION => return Ok(Some(report)),
            Ok(_) => tracing::info!(key, "a verdict of another version is passed over"),
            Err(error) => tracing::warn!(key, %error, "a verdict cannot be read"),
        }
    }
    Ok(None)
}

/// Keeps a verdict in the store, for whoever opens it next.
pub async fn keep(store: &Store, report: &Report) -> Result<()> {
    let bytes = serde_json::to_vec(report).map_err(Error::refused)?;
    // Another that was found in the same millisecond is as good.
    let (Creation::New | Creation::Exists) = store
        .create(&layout::verdict(report.at), bytes.into())
        .await?;
    Ok(())
}

/// The newest verdict; if there is none, probes and keeps what was found.
pub async fn newest_or_probe(
    store: &Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Report> {
    if let Some(report) = newest(store).await? {
        return Ok(report);
    }
    let report = probe(store, clock, entropy).await?;
    if let Err(error) = keep(store, &report).await {
        tracing::warn!(%error, "the verdict on the store could not be kept");
    }
    Ok(report)
}

/// Tries a store. An error says that it couldn't be tried: it doesn't answer, or not to these
/// credentials. Takes a few seconds, most of them for the races.
pub async fn probe(store: &Store, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Report> {
    let at = clock.now();
    let began = Instant::now();
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let run = Run {
        store: layout::probe(&run_name(&random))
            .split('/')
            .fold(store.clone(), |store, folder| store.inside(folder)),
        bytes: bytes_from(random),
        began,
        made: Mutex::default(),
    };
    let tried = tokio::time::timeout(Duration::from_secs(PROBE_SECONDS_MAX), run.all()).await;
    run.clean_up().await;
    let (findings, sha_strategy) = tried.map_err(|_| Error::Unavailable {
        what: "probing the store".to_owned(),
        source: format!("it took longer than {PROBE_SECONDS_MAX} s").into(),
    })??;
    let failed = findings.iter().filter(|finding| !finding.holds);
    let grade = failed.map(|finding| finding.check.grade()).max();
    Ok(Report {
        version: VERSION,
        at,
        grade: grade.unwrap_or(Grade::A),
        sha_strategy,
        findings,
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn run_name(random: &[u8]) -> String {
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that differ at every place, so that a range which is off by one shows.
fn bytes_from(random: [u8; 16]) -> Bytes {
    (0..BYTES as u64 / 32)
        .flat_map(|block| {
            let mut seed = random.to_vec();
            seed.extend(block.to_le_bytes());
            *Digest::of(&seed).as_bytes()
        })
        .collect()
}

/// Size of the object of which parts are read.
const BYTES: usize = 96 * 1024;
/// Sizes of the objects that are raced for, in turn: a small record, and one whose write takes long
/// enough for a server that looks first and writes then to look at nothing for all of that time.
const RACE_BYTES: [usize; 2] = [512, 24 * 1024];
/// Races with more than one winner after which the matter is clear.
const BAD_RACES: usize = 3;

/// What a check found, or that it couldn't be done.
type Seen = object_store::Result<(bool, String)>;

fn holds(seen: impl Into<String>) -> Seen {
    Ok((true, seen.into()))
}

fn fails(seen: impl Into<String>) -> Seen {
    Ok((false, seen.into()))
}

/// One run of the probe, in a folder of its own.
struct Run {
    store: Store,
    bytes: Bytes,
    began: Instant,
    made: Mutex<BTreeSet<Path>>,
}

impl Run {
    async fn all(&self) -> Result<(Vec<Finding>, ShaStrategy)> {
        // If this fails, nothing can be said about the store.
        self.put("first", &self.bytes)
            .await
            .map_err(|error| unusable("writing", error))?;
        self.alive().await?;
        let mut findings = Vec::new();
        for check in [
            Check::Missing,
            Check::ReadAfterWrite,
            Check::ListAfterWrite,
            Check::Ranges,
            Check::CreateOnly,
        ] {
            findings.push(self.finding(check).await?);
        }
        // Where one create after the other isn't kept apart, many at once are not either.
        if findings.last().is_some_and(|finding| finding.holds) {
            findings.push(self.finding(Check::Races).await?);
        }
        Ok((findings, self.sha_strategy().await))
    }

    async fn finding(&self, check: Check) -> Result<Finding> {
        let mut attempt = 0;
        let (holds, seen) = loop {
            let tried = match check {
                Check::Missing => self.missing().await,
                Check::ReadAfterWrite => self.read_after_write(attempt).await,
                Check::ListAfterWrite => self.list_after_write(attempt).await,
                Check::Ranges => self.ranges().await,
                Check::CreateOnly => self.create_only(attempt).await,
                Check::Races => self.races(attempt).await,
            };
            match tried {
                Ok(seen) => break seen,
                Err(error) => {
                    // A store that answers otherwise can't do this; one that doesn't may do it later.
                    self.alive().await?;
                    attempt += 1;
                    if attempt > 1 {
                        break (false, format!("{}: {}", failing(check), brief(&error)));
                    }
                }
            }
        };
        Ok(Finding { check, holds, seen })
    }

    /// Whether the store answers at all.
    async fn alive(&self) -> Result<()> {
        match self.get("first", None).await {
            Ok(Some(bytes)) if bytes == self.bytes => Ok(()),
            Ok(_) => Err(Error::damaged(
                "the probe's first object",
                "what was just written isn't there",
            )),
            Err(error) => Err(unusable("reading", error)),
        }
    }

    fn place(&self, name: &str) -> Path {
        let place = self.store.path(name);
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(place.clone());
        place
    }

    async fn put(&self, name: &str, bytes: &Bytes) -> object_store::Result<()> {
        let place = self.place(name);
        let put = self.store.objects().put(&place, bytes.clone().into());
        self.store.within(bytes.len() as u64, put).await.map(drop)
    }

    /// Creates an object; whether the store says that it was made now.
    async fn create(&self, name: &str, bytes: Bytes) -> object_store::Result<bool> {
        let place = self.place(name);
        let size = bytes.len() as u64;
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let put = self.store.objects().put_opts(&place, bytes.into(), options);
        match self.store.within(size, put).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn get(
        &self,
        name: &str,
        range: Option<Range<u64>>,
    ) -> object_store::Result<Option<Bytes>> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let path = self.store.path(name);
        let get = async {
            match self.store.objects().get_opts(&path, options).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
                Ok(found) => found.bytes().await.map(Some),
            }
        };
        self.store.within(BYTES as u64, get).await
    }

    async fn missing(&self) -> Seen {
        for range in [None, Some(0..10)] {
            match self.get("missing", range).await {
                Ok(None) => {}
                Ok(Some(_)) => return fails("an object that was never written can be read"),
                Err(
                    object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. },
                ) => {
                    return fails(
                        "an object that doesn't exist is answered with \"access denied\"; the \
                         credentials have to be allowed to list the bucket",
                    );
                }
                Err(error) => return Err(error),
            }
        }
        holds("an object that doesn't exist is said not to")
    }

    async fn read_after_write(&self, attempt: usize) -> Seen {
        const OBJECTS: usize = 6;
        for number in 0..OBJECTS {
            let name = format!("read/{attempt}-{number}");
            let bytes = self.bytes.slice(number..number + 1_000);
            // As a reader of the log does: it asks for the next record before there is one, and a
            // store that remembers the answer would hide the record.
            if self.get(&name, None).await?.is_some() {
                return fails("an object that was never written can be read");
            }
            self.put(&name, &bytes).await?;
            match self.get(&name, None).await? {
                Some(found) if found == bytes => {}
                Some(_) => return fails("an object reads back as something else"),
                None => {
                    return fails(format!(
                        "object {} of {OBJECTS} was not there after its write was acknowledged",
                        number + 1
                    ));
                }
            }
        }
        holds(format!(
            "{OBJECTS} objects were there, whole, after their writes were acknowledged"
        ))
    }

    async fn list_after_write(&self, attempt: usize) -> Seen {
        // Names such as a repository has, in another order than theirs.
        const NAMES: [&str; 6] = [
            "00000000000000000010",
            "99999999999999999998-0001",
            "00000000000000000002",
            "99999999999999999998",
            "00000000000000000001",
            "99999999999999999997",
        ];
        let folder = format!("list-{attempt}");
        let key = |name: &str| format!("{folder}/{name}");
        // What lies beside the folder, under a longer and a shorter name, is not in it.
        self.put(&format!("{folder}-beside/1"), &self.bytes.slice(..9))
            .await?;
        self.put(&format!("list/{attempt}"), &self.bytes.slice(..9))
            .await?;
        let mut written = BTreeSet::new();
        for name in NAMES {
            self.put(&key(name), &self.bytes.slice(..9)).await?;
            written.insert(key(name));
            let last = self.store.list_raw(&folder, &folder, usize::MAX).await?;
            let found: BTreeSet<String> = last.iter().cloned().collect();
            if found != written {
                return fails(format!(
                    "after {} writes were acknowledged the list has {} names",
                    written.len(),
                    last.len()
                ));
            }
        }
        let sorted: Vec<String> = written.into_iter().collect();
        for from in 0..sorted.len() {
            let after = &sorted[from];
            let mut found = self.store.list_raw(&folder, after, usize::MAX).await?;
            if self.store.listing() == Listing::Unsorted {
                found.sort_unstable();
            }
            if found != sorted[from + 1..] {
                return fails("a list from the middle on has other names, or not in order");
            }
        }
        let whole = self.store.list_raw(&folder, &folder, usize::MAX).await?;
        if self.store.listing() == Listing::Sorted && whole != sorted {
            return fails("a list is not in the order of its names");
        }
        holds("every object was listed after its write was acknowledged, in order where promised")
    }

    async fn ranges(&self) -> Seen {
        let end = BYTES as u64;
        for range in [0..1, 0..1_000, 4_095..8_193, 70_001..70_002, end - 700..end] {
            let from = usize::try_from(range.start).unwrap_or(BYTES);
            let to = usize::try_from(range.end).unwrap_or(BYTES);
            if self.get("first", Some(range.clone())).await? != Some(self.bytes.slice(from..to)) {
                return fails(format!("bytes {range:?} of an object come back as others"));
            }
        }
        holds("parts of an object are the bytes that were asked for")
    }

    async fn create_only(&self, attempt: usize) -> Seen {
        let name = format!("create/{attempt}");
        let (first, second) = (self.bytes.slice(..100), self.bytes.slice(100..200));
        // Refused, but standing: made by a request whose answer was lost, and that was sent again.
        if !self.create(&name, first.clone()).await?
            && self.get(&name, None).await? != Some(first.clone())
        {
            return fails("creating an object that doesn't exist is refused");
        }
        if self.create(&name, second).await? {
            return fails(
                "\"create this only if it doesn't exist\" is ignored: an object was created twice",
            );
        }
        if self.get(&name, None).await? != Some(first) {
            return fails("an object changed although the write was refused");
        }
        holds("an object that exists is not created again")
    }

    async fn races(&self, attempt: usize) -> Seen {
        // Connections first: a race between those that have one and those that don't is none.
        join_all((0..PROBE_WRITERS).map(|_| self.get("first", Some(0..1)))).await;
        let began = Instant::now();
        let (mut rounds, mut bad, mut unclear, mut seen) = (0, 0, 0, String::new());
        while rounds < PROBE_ROUNDS_MAX && bad < BAD_RACES {
            let late = began.elapsed() > Duration::from_secs(PROBE_RACE_SECONDS);
            if late && rounds >= PROBE_ROUNDS_MIN {
                break;
            }
            match self
                .race(&format!("race/{attempt}-{rounds}"), rounds)
                .await?
            {
                Race::OneWinner => {}
                Race::Unclear => unclear += 1,
                Race::Lost(reason) => {
                    bad += 1;
                    seen = reason;
                }
            }
            rounds += 1;
        }
        tracing::debug!(rounds, bad, unclear, elapsed = ?self.began.elapsed(), "races held");
        if bad > 0 {
            return fails(format!(
                "in {bad} of {rounds} races between {PROBE_WRITERS} writers for one object {seen}"
            ));
        }
        if unclear * 2 > rounds {
            return fails(format!(
                "{unclear} of {rounds} races between {PROBE_WRITERS} writers had no clear outcome"
            ));
        }
        holds(format!(
            "in {rounds} races between {PROBE_WRITERS} writers for one object, one won each"
        ))
    }

    async fn race(&self, name: &str, round: usize) -> object_store::Result<Race> {
        let size = RACE_BYTES[round % RACE_BYTES.len()];
        let entry = |writer: usize| self.bytes.slice(writer..writer + size);
        let answers =
            join_all((0..PROBE_WRITERS).map(|writer| self.create(name, entry(writer)))).await;
        let with = |wanted: fn(&object_store::Result<bool>) -> bool| -> Vec<usize> {
            (0..PROBE_WRITERS)
                .filter(|writer| wanted(&answers[*writer]))
                .collect()
        };
        let winners = with(|answer| matches!(answer, Ok(true)));
        let unanswered = with(Result::is_err).len();
        let stands = self.get(name, None).await?;
        let whose = (0..PROBE_WRITERS).find(|writer| stands.as_ref() == Some(&entry(*writer)));
        Ok(match (&winners[..], whose) {
            ([winner], Some(whose)) if *winner == whose => Race::OneWinner,
            ([_], _) => Race::Lost("the winner's bytes were replaced".to_owned()),
            ([], None) if unanswered == 0 => Race::Lost("nobody won".to_owned()),
            // A winner whose answer was lost, or who was told "exists" when it asked again.
            ([], _) => Race::Unclear,
            (many, _) => Race::Lost(format!("up to {} writers won", many.len())),
        })
    }

    /// Not finding out is finding out enough: the sidecar always works.
    async fn sha_strategy(&self) -> ShaStrategy {
        let name = Attribute::Metadata("sha256".into());
        let value = Digest::of(&self.bytes).to_string();
        let options = PutOptions {
            attributes: Attributes::from_iter([(name.clone(), value.clone())]),
            ..PutOptions::default()
        };
        let path = self.place("metadata");
        let payload = self.bytes.slice(..100);
        let round_trip = async {
            let objects = self.store.objects();
            objects.put_opts(&path, payload.into(), options).await?;
            objects.get(&path).await
        };
        match self.store.within(BYTES as u64, round_trip).await {
            Ok(found)
                if found
                    .attributes
                    .get(&name)
                    .is_some_and(|kept| **kept == *value) =>
            {
                ShaStrategy::Header
            }
            _ => ShaStrategy::Sidecar,
        }
    }

    /// Best effort: what stays behind is small, and nobody reads it.
    async fn clean_up(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let paths = stream::iter(made.into_iter().map(Ok)).boxed();
        let deleting = self
            .store
            .objects()
            .delete_stream(paths)
            .filter(|deleted| std::future::ready(deleted.is_err()))
            .count();
        match tokio::time::timeout(Duration::from_secs(10), deleting).await {
            Ok(0) => {}
            Ok(_) | Err(_) => tracing::info!("the store keeps some of the probe's objects"),
        }
    }
}

/// What came of many writers creating one object at once.
enum Race {
    OneWinner,
    Lost(String),
    Unclear,
}

const fn failing(check: Check) -> &'static str {
    match check {
        Check::Missing => "reading an object that doesn't exist fails",
        Check::ReadAfterWrite => "writing and reading objects fails",
        Check::ListAfterWrite => "listing objects fails",
        Check::Ranges => "reading a part of an object fails",
        Check::CreateOnly => "\"create this only if it doesn't exist\" is not accepted",
        Check::Races => "many writes at once fail",
    }
}

/// An error in one line: servers answer with whole pages.
fn brief(error: &object_store::Error) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(300).collect()
}

fn unusable(doing: &str, error: object_store::Error) -> Error {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Error::Denied {
            reason: format!("{doing} the probe's first object: {}", brief(&error)),
        },
        E::NotFound { .. } => Error::NotFound {
            object: "the bucket".to_owned(),
        },
        error => Error::Unavailable {
            what: format!("{doing} the probe's first object"),
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests;
