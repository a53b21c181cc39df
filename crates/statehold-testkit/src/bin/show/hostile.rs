//! What somebody can send who holds a machine's push key and keeps no rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use object_store::client::{HttpClient, HttpRequest};
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, Entry, FileEntry, Location};
use statehold_core::id::{PackId, RepositoryId};
use statehold_core::path::RepoPath;
use statehold_core::record::{
    BackupBody, Body, ForgetBody, Kind, NewPack, NoteBody, PushBody, RegistryBody, RollbackBody,
    SnapshotBody, Upsert,
};
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::{Mtime, Timestamp};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::wire::key::Key;
use statehold_repository::{Error, Remote as _};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_testkit::author::Author;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::loopback;

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How often each answer came.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Records that were appended.
    pub(crate) taken: u64,
}

/// An owned machine.
pub(crate) struct Attacker {
    entropy: SeededEntropy,
    author: Author,
    remote: GatewayRemote,
    http: HttpClient,
    url: String,
    key: Key,
    other: RepositoryId,
    state: Arc<State>,
    /// Drafts that were sent before.
    sent: Vec<StoredDraft>,
    pub(crate) tally: Tally,
}

/// Drafts that are kept to be sent again.
const SENT_MAX: usize = 50;
/// The ways to be hostile.
const WAYS: u64 = 20;

/// A path as an address takes it; what is encoded already stays.
fn encoded(path: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-?=&:%".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing into a text can't fail.
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    text
}

impl Attacker {
    pub(crate) async fn new(seed: u64, url: &str, key: &Key, other: RepositoryId) -> Result<Self> {
        let client = GatewayClient::new(&GatewayAddress::parse(url)?, Some(key), None)?;
        let remote = GatewayRemote::connect(client).await?;
        let state = load(&remote).await?.state;
        Ok(Self {
            entropy: SeededEntropy::new(seed),
            author: Author::new(seed + 1),
            remote,
            http: loopback::client()?,
            url: url.to_owned(),
            key: key.clone(),
            other,
            state,
            sent: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Sends so many requests.
    pub(crate) async fn attack(&mut self, requests: u64) -> Result<()> {
        for _ in 0..requests {
            let way = self.entropy.below(WAYS);
            self.one(way).await?;
        }
        Ok(())
    }

    /// Whether the key opens nothing any more.
    pub(crate) async fn is_shut_out(&mut self) -> bool {
        // Every gateway knows within five seconds.
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        matches!(load(&self.remote).await, Err(Error::Denied { .. }))
    }

    async fn one(&mut self, way: u64) -> Result<()> {
        match way {
            0 => self.push(&[self.path(), self.path()], None).await,
            1 => self.push(&[], self.some_file()).await,
            2 => {
                let deep = format!("{}x", "d/".repeat(self.number(120)));
                let wide = format!("w/{}", "é".repeat(1 + self.number(120)));
                let odd = format!("odd/{}\u{202e}\n'\"$(x)", self.entropy.below(99));
                self.push(&[deep, wide, odd], None).await
            }
            3 => self.false_file().await,
            4 => self.false_places().await,
            5 => self.unknown_pack().await,
            6 => {
                let id = PackId::random(&self.entropy);
                let body = self.noise(2_000);
                self.http("PUT", &format!("/v1/packs/{id}"), body).await
            }
            7 => self.other_tenant().await,
            8 => self.not_its_role().await,
            9 => self.again().await,
            10 => self.rollback().await,
            11 => self.snapshot().await,
            12 => self.backup().await,
            13 => {
                let path = ["/_push", "/v1/log", "/v1/read", "/v1/redeem"];
                let path = path[self.number(path.len())];
                let body = self.noise(3_000);
                self.http("POST", path, body).await
            }
            14 => self.torn_draft().await,
            15 => {
                let path = self.path();
                let body = self.noise(500);
                self.http("PUT", &format!("/v1/files/{path}"), body).await
            }
            16 => {
                let path = self.some_file().unwrap_or_else(|| self.path());
                let path = format!("/v1/files/{path}");
                self.http("DELETE", &path, Vec::new()).await
            }
            17 => {
                let paths = [
                    "..%2f..%2f_control%2flog%2f1".to_owned(),
                    "%00".to_owned(),
                    "a%2f%2fb".to_owned(),
                    "x".repeat(5_000),
                    ".statehold/settings.json".to_owned(),
                    "state/bin/sync/sync-rules.json".to_owned(),
                    "_restore/x".to_owned(),
                ];
                let path = format!("/v1/files/{}", paths[self.number(paths.len())]);
                let verb = ["PUT", "GET", "DELETE"][self.number(3)];
                self.http(verb, &path, b"x".to_vec()).await
            }
            18 => {
                let number = u64::MAX / (1 + self.entropy.below(9));
                let paths = [
                    format!("/v1/log?after={number}"),
                    format!("/v1/log?after=0&until={number}"),
                    format!("/v1/open?at_most={number}"),
                    "/v1/open?time=9999-12-31T23:59:59Z".to_owned(),
                    format!("/_pull?after={number}"),
                    "/v1/admin/keys".to_owned(),
                    "/v1/machines".to_owned(),
                ];
                let path = paths[self.number(paths.len())].clone();
                self.http("GET", &path, Vec::new()).await
            }
            _ => self.note().await,
        }
    }

    fn number(&self, end: usize) -> usize {
        usize::try_from(self.entropy.below(end as u64)).unwrap_or_default()
    }

    fn noise(&self, most: usize) -> Vec<u8> {
        self.entropy.bytes(self.number(most))
    }

    fn path(&self) -> String {
        match self.entropy.below(3) {
            0 => format!("notes/{}.md", self.entropy.below(7)),
            1 => format!("data/{}", self.entropy.below(40)),
            _ => format!("junk/{}", self.entropy.below(500)),
        }
    }

    /// A file that is there.
    fn some_file(&self) -> Option<String> {
        let at = self.number(self.state.tree.len().max(1));
        let found = self.state.tree.iter().nth(at);
        found.map(|(path, _)| path.to_string())
    }

    fn note_answer(&mut self, answer: impl ToString) {
        *self.tally.answers.entry(answer.to_string()).or_default() += 1;
    }

    /// Sends a draft, and takes in what came of it.
    async fn send(&mut self, draft: StoredDraft) -> Result<()> {
        let answer = self.remote.append(&draft, &self.state).await;
        self.heard(answer.map(drop));
        if self.sent.len() < SENT_MAX || self.entropy.chance(100) {
            let at = self.number(SENT_MAX);
            match self.sent.get_mut(at) {
                Some(old) => *old = draft,
                None => self.sent.push(draft),
            }
        }
        self.look().await
    }

    fn heard(&mut self, answer: Result<(), Error>) {
        let word = match answer {
            Ok(()) => {
                self.tally.taken += 1;
                "taken"
            }
            Err(Error::Refused { .. }) => "refused",
            Err(Error::Conflict { .. }) => "conflict",
            Err(Error::Denied { .. }) => "denied",
            Err(Error::Diverged { .. }) => "diverged",
            Err(Error::NotFound { .. }) => "not found",
            Err(Error::Damaged { .. }) => "damaged",
            Err(Error::TooNew { .. }) => "too new",
            Err(error) => return self.note_answer(format!("{error:?}")),
        };
        self.note_answer(word);
    }

    async fn look(&mut self) -> Result<()> {
        self.state = advance(&self.remote, &self.state).await?;
        Ok(())
    }

    /// A request that no client of ours makes.
    async fn http(&mut self, method: &str, path: &str, body: Vec<u8>) -> Result<()> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{}", self.url, encoded(path)))
            .header("authorization", format!("Bearer {}", *self.key.reveal()));
        let request: HttpRequest = request.body(Bytes::from(body).into())?;
        let answer = self.http.execute(request).await;
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        self.note_answer(match status {
            0 => "no answer".to_owned(),
            500.. => format!("{status} to {method} {path}"),
            _ => status.to_string(),
        });
        Ok(())
    }

    fn base(&self) -> statehold_core::record::RecordRef {
        self.state.head
    }

    async fn push(&mut self, paths: &[String], gone: Option<String>) -> Result<()> {
        let content = self.noise(2_000);
        let valid = |path: &&String| RepoPath::parse(path).is_ok();
        let mut changes: Vec<(&str, Option<&[u8]>)> = paths
            .iter()
            .filter(valid)
            .map(|path| (path.as_str(), Some(&content[..])))
            .collect();
        changes.extend(gone.as_deref().map(|path| (path, None)));
        changes.sort();
        changes.dedup_by_key(|change| change.0);
        let drafted = self.author.draft(&self.state, changes)?;
        self.send(drafted.draft).await
    }

    /// A draft with a body of its own.
    async fn say(&mut self, kind: Kind, body: Body, packs: Vec<NewPack>) -> Result<()> {
        let head = self.author.head(kind, packs);
        let draft = StoredDraft::new(head, body, &[])?;
        self.send(draft).await
    }

    async fn upsert(&mut self, path: String, entry: Entry, packs: Vec<NewPack>) -> Result<()> {
        let upsert = Upsert {
            path: RepoPath::parse(&path)?,
            entry,
            keep: 0,
        };
        let body = Body::Push(PushBody {
            base: self.base(),
            upserts: vec![upsert],
            deletes: Vec::new(),
        });
        self.say(Kind::Push, body, packs).await
    }

    /// A file that claims to be something else than its pieces, or to be of another time.
    async fn false_file(&mut self) -> Result<()> {
        let path = self.some_file().unwrap_or_else(|| self.path());
        let Some(Entry::File(file)) = self.state.tree.get(&path).cloned() else {
            return self.push(&[path], None).await;
        };
        let seconds = i64::from_ne_bytes(self.entropy.number().to_ne_bytes());
        let entry = Entry::File(FileEntry {
            digest: Digest::of(&self.noise(9)),
            mtime: Mtime::new(seconds, 7),
            ..file
        });
        self.upsert(path, entry, Vec::new()).await
    }

    /// A file that is what it was, said to lie where it does not.
    async fn false_places(&mut self) -> Result<()> {
        let path = self.some_file().unwrap_or_else(|| self.path());
        let Some(Entry::File(file)) = self.state.tree.get(&path).cloned() else {
            return self.push(&[path], None).await;
        };
        let number = 1 + self.entropy.below(self.state.head.number);
        let mut packs = self.state.packs.keys().copied();
        let object = match packs.next() {
            Some(pack) if self.entropy.chance(500) => ContentObject::Pack(pack),
            _ => ContentObject::Record(number),
        };
        let elsewhere = |chunk: &Chunk| Chunk {
            at: Location {
                object: Some(object),
                offset: chunk.at.offset / 2 + 1,
                ..chunk.at
            },
            ..*chunk
        };
        let chunks = file.chunks.iter().map(elsewhere).collect();
        let entry = Entry::File(FileEntry { chunks, ..file });
        self.upsert(path, entry, Vec::new()).await
    }

    async fn unknown_pack(&mut self) -> Result<()> {
        let id = PackId::random(&self.entropy);
        let bytes = 1_000 + self.entropy.below(1 << 20);
        let chunk = Chunk {
            digest: Digest::of(b"never there"),
            raw: 500,
            at: Location {
                object: Some(ContentObject::Pack(id)),
                offset: 16,
                stored: 400,
            },
        };
        let entry = Entry::File(FileEntry {
            size: 500,
            mtime: Mtime::new(0, 0),
            executable: false,
            digest: chunk.digest,
            sha256: None,
            chunks: vec![chunk],
        });
        let path = self.path();
        self.upsert(path, entry, vec![NewPack { id, bytes }]).await
    }

    async fn other_tenant(&mut self) -> Result<()> {
        let address = GatewayAddress::parse(&self.url)?;
        let client = GatewayClient::new(&address, Some(&self.key), Some(self.other))?;
        let answer = GatewayRemote::connect(client).await.map(drop);
        let answer = answer.map_err(|error| match error {
            error @ Error::Denied { .. } => error,
            error => Error::refused(error),
        });
        self.heard(answer);
        Ok(())
    }

    async fn not_its_role(&mut self) -> Result<()> {
        let base = self.base();
        let body = match self.entropy.below(3) {
            0 => Body::Forget(ForgetBody {
                base,
                snapshots: self.state.snapshots.keys().take(3).cloned().collect(),
                policy: None,
            }),
            1 => Body::Registry(RegistryBody {
                base,
                changes: vec![serde_json::json!({"revoke": "everybody"})],
            }),
            _ => {
                let words = ["promote", "fence", "compact", "remove", "hold", "upgrade"];
                let kind = Kind::Other(words[self.number(words.len())].to_owned());
                let text = "let me".to_owned();
                let body = Body::Note(NoteBody { base, text });
                return self.say(kind, body, Vec::new()).await;
            }
        };
        let kind = body.kind().context("a kind")?;
        self.say(kind, body, Vec::new()).await
    }

    /// A draft that was sent before, or another one with its nonce.
    async fn again(&mut self) -> Result<()> {
        let at = self.number(self.sent.len().max(1));
        let Some(old) = self.sent.get(at).cloned() else {
            return self.note().await;
        };
        if self.entropy.chance(500) {
            return self.send(old).await;
        }
        let mut head = self.author.head(Kind::Note, Vec::new());
        head.nonce = old.draft.head.nonce;
        let text = "not what it was".to_owned();
        let base = self.base();
        let draft = StoredDraft::new(head, Body::Note(NoteBody { base, text }), &[])?;
        self.send(draft).await
    }

    fn time(&self) -> Timestamp {
        // From long ago to far ahead.
        let seconds = i64::try_from(self.entropy.below(200_000_000_000)).unwrap_or_default();
        Timestamp::from_millis((seconds - 50_000_000_000) * 1_000)
    }

    fn name(&self) -> Result<SnapshotId> {
        let label = format!("x{}", self.entropy.below(1_000_000)).parse()?;
        let known = SnapshotId::new(self.time(), &label);
        let plain = || SnapshotId::new(self.state.time, &label);
        known.or_else(plain).context("a name")
    }

    async fn rollback(&mut self) -> Result<()> {
        let path = self.some_file();
        let deletes = path.and_then(|path| RepoPath::parse(&path).ok());
        let body = Body::Rollback(RollbackBody {
            to: self.entropy.below(self.state.head.number + 2),
            before: self.name()?,
            files: self.entropy.number(),
            bytes: self.entropy.number(),
            changes: PushBody {
                base: self.base(),
                upserts: Vec::new(),
                deletes: deletes.into_iter().collect(),
            },
        });
        self.say(Kind::Rollback, body, Vec::new()).await
    }

    async fn snapshot(&mut self) -> Result<()> {
        let body = Body::Snapshot(SnapshotBody {
            base: self.base(),
            id: self.name()?,
            at: self.entropy.below(self.state.head.number + 2),
            files: self.entropy.number(),
            bytes: self.entropy.number(),
        });
        self.say(Kind::Snapshot, body, Vec::new()).await
    }

    async fn backup(&mut self) -> Result<()> {
        let body = Body::Backup(BackupBody {
            base: self.base(),
            label: "cross-region-backup".parse()?,
            to: "s3://nowhere".into(),
            at: self.state.head.number,
            objects: 1,
            bytes: 1,
        });
        self.say(Kind::Backup, body, Vec::new()).await
    }

    async fn note(&mut self) -> Result<()> {
        let text = "x".repeat(self.number(5_000));
        let base = self.base();
        let body = Body::Note(NoteBody { base, text });
        self.say(Kind::Note, body, Vec::new()).await
    }

    /// A good draft, cut or with a bit flipped.
    async fn torn_draft(&mut self) -> Result<()> {
        let path = self.path();
        let content = self.noise(2_000);
        let changes = [(path.as_str(), Some(&content[..]))];
        let mut bytes = self
            .author
            .draft(&self.state, changes)?
            .draft
            .bytes
            .to_vec();
        let at = self.number(bytes.len());
        match self.entropy.below(2) {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << self.entropy.below(8),
        }
        self.http("POST", "/v1/log", bytes).await?;
        self.look().await
    }
}
