//! What the tests stand on: gateways that listen, clients that speak to them, drafts to push.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use statehold_core::bands::Band;
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::{MachineId, Nonce};
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, DraftHead, Kind, NoteBody, PushBody, Upsert};
use statehold_core::state::State;
use statehold_core::time::{Mtime, Timestamp};
use statehold_gateway::{Gateway, Server};
use statehold_repository::content::{ContentWriter, Pack, open_chunk};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::{NewKey, Role};
use statehold_repository::wire::key::Key;
use statehold_repository::{Remote, Result};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[derive(Debug, Default)]
pub(crate) struct TestClock {
    pub(crate) ahead: AtomicI64,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let millis = i64::try_from(since.as_millis()).unwrap();
        Timestamp::from_millis(millis + self.ahead.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
pub(crate) struct Random;

impl Entropy for Random {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).unwrap();
    }
}

/// A gateway that listens.
pub(crate) struct Running {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<TestClock>,
    /// The operator's key, at the first gateway of a store.
    pub(crate) operator: Option<Key>,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<()>>,
}

pub(crate) async fn start(store: &Store) -> Running {
    let clock = Arc::new(TestClock::default());
    let (clock_, entropy) = (Arc::<TestClock>::clone(&clock), Arc::new(Random));
    let (gateway, operator) = Gateway::bootstrap(store.clone(), clock_, entropy)
        .await
        .unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(any, gateway.clone(), None).await.unwrap();
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.serve(async move { drop(stopped.await) }));
    Running {
        gateway,
        address,
        clock,
        operator,
        stop,
        task,
    }
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn client(&self, key: &Key) -> GatewayClient {
        let address = GatewayAddress::parse(&self.url("")).unwrap();
        GatewayClient::new(&address, Some(key), None).unwrap()
    }

    pub(crate) async fn remote(&self, key: &Key) -> Result<GatewayRemote> {
        GatewayRemote::connect(self.client(key)).await
    }

    pub(crate) async fn key(&self, role: Role) -> Key {
        self.key_until(role, None).await
    }

    pub(crate) async fn key_until(&self, role: Role, expires: Option<Timestamp>) -> Key {
        let key = Key::random(&Random);
        let new = new_key(&key, role, expires);
        self.gateway.add_key(&new).await.unwrap();
        key
    }
}

pub(crate) fn new_key(key: &Key, role: Role, expires: Option<Timestamp>) -> NewKey {
    NewKey {
        key: key.id(),
        hash: key.hash(),
        role,
        label: "test".into(),
        repositories: Vec::new(),
        machine: None,
        expires,
    }
}

pub(crate) fn head(kind: Kind) -> DraftHead {
    DraftHead {
        kind,
        critical: true,
        machine: MachineId::random(&Random),
        nonce: Nonce::random(&Random),
        body: Digest::of(b""),
        body_bytes: 0,
        content_bytes: 0,
        packs: Vec::new(),
    }
}

/// A push of these files on top of a state, and the pack it needs if its content is much.
pub(crate) fn push(state: &State, files: &[(&str, &[u8])]) -> (StoredDraft, Option<Pack>) {
    let mut writer = ContentWriter::new(&state.tree, &state.collection, &Random);
    let mut upserts = Vec::new();
    for (path, content) in files {
        let digest = Digest::of(content);
        let mut chunks = Vec::new();
        if !content.is_empty() {
            chunks.push(writer.add(digest, content, Band::Compressed).unwrap());
        }
        let entry = Entry::File(FileEntry {
            size: content.len() as u64,
            mtime: Mtime::new(0, 0),
            executable: false,
            digest,
            sha256: None,
            chunks,
        });
        let path = RepoPath::parse(path).unwrap();
        upserts.push(Upsert {
            path,
            entry,
            keep: 0,
        });
    }
    let finished = writer.finish();
    for upsert in &mut upserts {
        finished.settle(&mut upsert.entry);
    }
    let mut head = head(Kind::Push);
    head.packs.clone_from(&finished.introduced);
    let body = Body::Push(PushBody {
        base: state.head,
        upserts,
        deletes: Vec::new(),
    });
    let draft = StoredDraft::new(head, body, &finished.inline).unwrap();
    (draft, finished.pack)
}

/// A push that deletes a path.
pub(crate) fn delete(state: &State, path: &str) -> StoredDraft {
    let body = Body::Push(PushBody {
        base: state.head,
        upserts: Vec::new(),
        deletes: vec![RepoPath::parse(path).unwrap()],
    });
    StoredDraft::new(head(Kind::Push), body, &[]).unwrap()
}

pub(crate) fn note(state: &State, text: &str) -> StoredDraft {
    let text = text.to_owned();
    let body = Body::Note(NoteBody {
        base: state.head,
        text,
    });
    StoredDraft::new(head(Kind::Note), body, &[]).unwrap()
}

/// What a file holds, fetched through a remote.
pub(crate) async fn content(remote: &dyn Remote, state: &State, path: &str) -> Vec<u8> {
    let Some(Entry::File(file)) = state.tree.get(path) else {
        panic!("{path} is not there");
    };
    let places: Vec<_> = file.chunks.iter().map(|chunk| chunk.at).collect();
    let frames = remote.read(&places).await.unwrap();
    let chunks = file.chunks.iter().zip(&frames);
    chunks
        .flat_map(|(chunk, frame)| open_chunk(chunk, frame).unwrap())
        .collect()
}

/// Bytes that don't compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random.fill(&mut bytes);
    bytes
}
