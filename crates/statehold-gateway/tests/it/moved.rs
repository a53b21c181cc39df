//! Readers through a gateway, beside a collector that moves and deletes what they are about to read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use statehold_core::bands::Profile;
use statehold_core::event::Outcome;
use statehold_core::record::{Body, ForgetBody, Kind};
use statehold_core::retention::Policy;
use statehold_core::state::State;
use statehold_repository::collect::{Collector, Settings};
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::Store;
use statehold_repository::verify::places;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::frames::{Decoder, Frame};
use statehold_repository::wire::key::Key;
use statehold_repository::{Remote as _, Repository};
use statehold_sync::gateway_client::GatewayRemote;
use statehold_sync::preset::Preset;
use statehold_testkit::author::Author;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::hooked::{Before, Hooked};
use statehold_testkit::machine::Shared;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::world::{Random, Running, TestClock, head, start};

/// More than lies on the way between a gateway and a client that does not read.
const LARGE_BYTES: usize = 13_000_000;
/// What a client that reads slowly lets come, in bytes.
const RECEIVED_BYTES: u32 = 64 * 1024;

/// A gateway with somebody who pushes.
struct Scene {
    store: Store,
    running: Running,
    owner: Key,
    remote: Arc<GatewayRemote>,
    author: Author,
    state: Arc<State>,
}

impl Scene {
    async fn new() -> Self {
        let store = Store::memory();
        let running = start(&store).await;
        let owner = running.key(Role::Own).await;
        let remote = Arc::new(running.remote(&owner).await.unwrap());
        let state = load(&*remote).await.unwrap().state;
        Self {
            store,
            running,
            owner,
            remote,
            author: Author::new(4),
            state,
        }
    }

    async fn push(&mut self, changes: &[(&str, Option<&[u8]>)]) {
        let changes = changes.iter().copied();
        let pushed = self.author.push(&*self.remote, &self.state, changes).await;
        pushed.unwrap();
        self.state = advance(&*self.remote, &self.state).await.unwrap();
    }

    /// Keeps the newest state alone.
    async fn keep_few(&mut self) {
        let policy = Policy {
            within_days: 0,
            last: 1,
            ..Policy::default()
        };
        let body = Body::Forget(ForgetBody {
            base: self.state.head,
            snapshots: Vec::new(),
            policy: Some(policy),
        });
        let draft = StoredDraft::new(head(Kind::Forget), body, &[]).unwrap();
        self.remote.append(&draft, &self.state).await.unwrap();
        self.state = advance(&*self.remote, &self.state).await.unwrap();
    }

    /// A client that lets little come until it reads.
    async fn ask(&self, path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVED_BYTES).unwrap();
        let mut stream = socket.connect(self.running.address).await.unwrap();
        let key = self.owner.reveal();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\n\r\n",
            key.as_str()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Deletes all that can go, waiting for nothing, and says how many packs went.
async fn collect(store: &Store) -> u64 {
    let found = places::find(store).await.unwrap();
    let place = found
        .repositories
        .into_iter()
        .find(|place| place.prefix != places::CONTROL)
        .unwrap();
    let clock = Arc::new(TestClock::default());
    clock.ahead.store(3_600_000, Ordering::Relaxed);
    let opened = Repository::open_existing(place.store, clock, Arc::new(Random)).await;
    let repository = opened.unwrap().unwrap();
    let at_once = Settings {
        floor: Duration::ZERO,
        upload: Duration::ZERO,
    };
    let collected = Collector::new(&repository, at_once).collect(true).await;
    collected.unwrap().removed.unwrap().deleted.packs
}

/// Everything up to the end of the connection, and where the body begins.
async fn rest(mut stream: TcpStream, mut begun: Vec<u8>) -> (Vec<u8>, usize) {
    stream.read_to_end(&mut begun).await.unwrap();
    let end = begun.windows(4).position(|four| four == b"\r\n\r\n");
    (begun, end.unwrap() + 4)
}

/// A file whose pack is deleted while it is sent arrives whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_while_it_is_sent_arrives_whole() {
    let mut scene = Scene::new().await;
    let noise = SeededEntropy::new(5);
    let (large, passing) = (noise.bytes(LARGE_BYTES), noise.bytes(LARGE_BYTES + 100_000));
    scene.push(&[("large", Some(&large))]).await;
    scene.push(&[("large", None)]).await;
    // In packs of which less than half stays.
    scene
        .push(&[("large", Some(&large)), ("passing", Some(&passing))])
        .await;
    scene.push(&[("passing", None)]).await;
    scene.keep_few().await;

    let mut stream = scene.ask("/v1/files/large").await;
    let mut begun = vec![0; 100_000];
    let read = stream.read(&mut begun).await.unwrap();
    begun.truncate(read);
    assert!(collect(&scene.store).await > 0);
    let (answer, body) = rest(stream, begun).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer[body..] == large, "{} bytes", answer.len() - body);

    // So does one that this gateway still believes to lie elsewhere.
    scene
        .push(&[
            ("passing", Some(&passing)),
            ("small", Some(&passing[..300_000])),
        ])
        .await;
    scene.push(&[("passing", None)]).await;
    collect(&scene.store).await;
    let (answer, body) = rest(scene.ask("/v1/files/small").await, Vec::new()).await;
    assert!(answer[body..] == passing[..300_000]);
}

/// A pull over a gateway goes on where content was moved and deleted between the listing and the reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_what_is_moved_goes_on() {
    let mut scene = Scene::new().await;
    let noise = SeededEntropy::new(6);
    for number in 0..24 {
        let (kept, passing) = (noise.bytes(600_000), noise.bytes(900_000));
        let path = format!("kept/{number}");
        scene
            .push(&[(&path, Some(&kept)), ("passing", Some(&passing))])
            .await;
    }
    scene.keep_few().await;
    // What comes along in one answer leaves out what is gone, and is whole all the same.
    let mut stream = scene.ask("/_pull?since=0").await;
    let mut begun = vec![0; 100_000];
    let read = stream.read(&mut begun).await.unwrap();
    begun.truncate(read);

    let reader = scene.running.key(Role::Read).await;
    let reader = Arc::new(scene.running.remote(&reader).await.unwrap());
    let store = scene.store.clone();
    let moved = Arc::new(tokio::sync::Mutex::new(0));
    let count = Arc::clone(&moved);
    let overtaken = Hooked::new(reader, move |before| {
        let (store, count) = (store.clone(), Arc::clone(&count));
        async move {
            if before == Before::Read {
                *count.lock().await += collect(&store).await;
            }
        }
        .boxed()
    });
    let shared = Shared::in_memory();
    let machine = shared
        .machine_over(
            "reader",
            Preset::Plain,
            Profile::Adaptive,
            Arc::new(overtaken),
        )
        .unwrap();
    let pulled = machine.pull().await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Done, "{pulled:?}");
    assert!(*moved.lock().await > 20);
    for (path, entry) in scene.state.tree.iter() {
        let there = std::fs::metadata(machine.path(path.as_str())).unwrap();
        assert!(there.is_dir() || there.len() == entry.size(), "{path}");
    }

    let (answer, body) = rest(stream, begun).await;
    let mut decoder = Decoder::default();
    decoder.push(&unchunked(&answer[body..]));
    let mut contents = 0;
    while let Some(frame) = decoder.next_frame().unwrap() {
        contents += u64::from(matches!(frame, Frame::Content { .. }));
    }
    decoder.finish().unwrap();
    assert!(contents < 25, "{contents}");
}

/// A body that came in chunks (RFC 9112, 7.1).
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let begin = end + 2;
        body.extend_from_slice(&rest[begin..begin + length]);
        rest = &rest[begin + length + 2..];
        if length == 0 {
            break;
        }
    }
    body
}
