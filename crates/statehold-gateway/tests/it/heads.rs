//! The stream of heads: what it tells, to whom, for how long, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Response;
use statehold_core::record::RecordRef;
use statehold_gateway::heads::WATCHERS_PER_KEY_MAX;
use statehold_repository::Remote as _;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::{Head, Role};
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_testkit::loopback::{Front, Manners};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::world::{Running, note, start};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream, as a program sees it that has no part of ours.
struct Watched {
    response: Response,
    text: String,
}

impl Watched {
    async fn begin(running: &Running, key: &Key, query: &str) -> Self {
        let response = ask(running, key, query).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let text = String::new();
        Self { response, text }
    }

    /// What comes next, comments included; none when the stream has ended as it should.
    async fn event(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let piece = timeout(PATIENCE, self.response.chunk()).await;
            let piece = piece.expect("the stream goes on").unwrap()?;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// The next head, and the id of its event.
    async fn head(&mut self) -> (Head, String) {
        loop {
            let event = self.event().await.expect("the stream goes on");
            let field = |name: &str| {
                let found = event.lines().find_map(|line| line.strip_prefix(name));
                found.map(|value| value.trim_start().to_owned())
            };
            if field("event:").as_deref() == Some("head") {
                let head = serde_json::from_str(&field("data:").unwrap()).unwrap();
                return (head, field("id:").unwrap());
            }
        }
    }

    /// Waits until it ends.
    async fn end(&mut self) {
        while self.event().await.is_some() {}
    }
}

async fn ask(running: &Running, key: &Key, query: &str) -> Response {
    let url = running.url(&format!("/v1/heads{query}"));
    let request = reqwest::Client::new().get(url);
    let request = request.bearer_auth(key.reveal().as_str());
    request.send().await.unwrap()
}

/// Appends a note.
async fn append(running: &Running, key: &Key) -> RecordRef {
    let remote = running.remote(key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let draft = note(&state, "something");
    remote.append(&draft, &state).await.unwrap();
    advance(&remote, &state).await.unwrap().head
}

#[tokio::test]
async fn a_head_is_told_whichever_gateway_appends() {
    let store = Store::memory();
    let (here, there) = (start(&store).await, start(&store).await);
    let key = here.key(Role::Push).await;
    let reader = here.key(Role::Read).await;
    let mut near = Watched::begin(&here, &reader, "").await;
    let mut far = Watched::begin(&there, &reader, "").await;
    for watched in [&mut near, &mut far] {
        let (head, _) = watched.head().await;
        assert_eq!((head.number, head.epoch), (0, 0));
    }
    for running in [&here, &there, &here] {
        let appended = append(running, &key).await;
        for watched in [&mut near, &mut far] {
            let (head, id) = watched.head().await;
            assert_eq!(head.record(), appended);
            assert_eq!(id, Head::event_id(appended));
        }
    }
}

#[tokio::test]
async fn who_comes_back_is_told_what_is_new_and_nothing_else() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let first = append(&running, &key).await;
    let since = format!("?since={}", Head::event_id(first));
    let mut watched = Watched::begin(&running, &key, &since).await;
    let greeting = watched.event().await.unwrap();
    assert!(!greeting.contains("event:"), "{greeting}");
    assert!(greeting.contains("retry:"), "{greeting}");
    let second = append(&running, &key).await;
    assert_eq!(watched.head().await.0.record(), second);
    drop(watched);
    // Whatever came in between is told at once, with the newest.
    append(&running, &key).await;
    let newest = append(&running, &key).await;
    for query in [&*since, "", "?since=nonsense"] {
        let mut again = Watched::begin(&running, &key, query).await;
        assert_eq!(again.head().await.0.record(), newest, "{query}");
    }
    // As a browser does, whose address stays the one that it began with.
    let request = reqwest::Client::new().get(running.url(&format!("/v1/heads{since}")));
    let request = request.bearer_auth(key.reveal().as_str());
    let request = request.header("last-event-id", Head::event_id(newest));
    let mut response = request.send().await.unwrap();
    let greeting = response.chunk().await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&greeting).contains("event:"));
}

#[tokio::test]
async fn heads_take_a_key_that_may_read() {
    let running = start(&Store::memory()).await;
    let response = reqwest::get(running.url("/v1/heads")).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams_within_five_seconds() {
    let store = Store::memory();
    let (here, there) = (start(&store).await, start(&store).await);
    let (gone, stays) = (here.key(Role::Read).await, here.key(Role::Read).await);
    let mut streams = [
        Watched::begin(&here, &gone, "").await,
        Watched::begin(&there, &gone, "").await,
    ];
    let mut other = Watched::begin(&there, &stays, "").await;
    here.gateway.revoke_key(gone.id()).await.unwrap();
    let revoked = Instant::now();
    for stream in &mut streams {
        stream.end().await;
        let took = revoked.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    assert_eq!(ask(&there, &gone, "").await.status(), 401);
    // Another one's goes on.
    let key = here.key(Role::Push).await;
    let appended = append(&here, &key).await;
    other.head().await;
    assert_eq!(other.head().await.0.record(), appended);
}

#[tokio::test]
async fn one_key_has_few_streams_and_gives_them_back() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Read).await;
    let mut streams = Vec::new();
    for _ in 0..WATCHERS_PER_KEY_MAX {
        streams.push(Watched::begin(&running, &key, "").await);
    }
    let refused = ask(&running, &key, "").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    let other = running.key(Role::Read).await;
    Watched::begin(&running, &other, "").await;
    streams.pop();
    timeout(PATIENCE, async {
        while ask(&running, &key, "").await.status() != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("a place is free again");
}

/// Goal: who watches keeps nobody from working.
/// Method: more streams than there may be requests at once.
#[tokio::test]
async fn streams_take_no_place_of_requests() {
    let running = start(&Store::memory()).await;
    let mut streams = Vec::new();
    for _ in 0..=256 / WATCHERS_PER_KEY_MAX {
        let key = running.key(Role::Read).await;
        for _ in 0..WATCHERS_PER_KEY_MAX {
            streams.push(Watched::begin(&running, &key, "").await);
        }
    }
    assert!(streams.len() > 256);
    let key = running.key(Role::Push).await;
    let appended = append(&running, &key).await;
    for stream in &mut streams {
        while stream.head().await.0.record() != appended {}
    }
}

#[tokio::test]
async fn a_gateway_that_stops_ends_its_streams_cleanly() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Read).await;
    let mut watched = Watched::begin(&running, &key, "").await;
    watched.head().await;
    running.stop.send(()).unwrap();
    watched.end().await;
    let stopped = timeout(PATIENCE, running.task).await;
    stopped.expect("it waits for no stream").unwrap().unwrap();
}

/// Goal: the log is looked at for those who watch, once for all of them, and for nobody else.
/// Method: a store that counts; what many streams cost, and what is asked once they are gone.
#[tokio::test]
async fn the_log_is_looked_at_once_for_all_who_watch_and_for_nobody_else() {
    let (store, meter) = Store::memory().metered();
    let running = start(&store).await;
    let key = running.key(Role::Push).await;
    append(&running, &key).await;
    let mut streams = Vec::new();
    for _ in 0..WATCHERS_PER_KEY_MAX {
        let mut stream = Watched::begin(&running, &key, "").await;
        stream.head().await;
        streams.push(stream);
    }
    let (before, began) = (meter.usage(), Instant::now());
    sleep(Duration::from_secs(3)).await;
    let asked = meter.usage().since(before);
    // Four looks at the log in a second, one at the registry every other second, and one of each that
    // was under way.
    let took = began.elapsed().as_secs_f64();
    let most = took * 4.0 + took / 2.0 + 3.0;
    assert!(asked.reads as f64 <= most, "{asked:?}, more than {most}");
    assert_eq!((asked.writes, asked.lists, asked.deletes), (0, 0, 0));

    drop(streams);
    // The loop ends with its next turn at the latest.
    timeout(PATIENCE, async {
        loop {
            let before = meter.usage();
            sleep(Duration::from_secs(1)).await;
            if meter.usage() == before {
                return;
            }
        }
    })
    .await
    .expect("nobody is asked any more");
    // And begins again.
    let mut stream = Watched::begin(&running, &key, "").await;
    stream.head().await;
    let other = start(&store).await;
    let appended = append(&other, &key).await;
    assert_eq!(stream.head().await.0.record(), appended);
}

async fn next_head(remote: &GatewayRemote, known: RecordRef) -> RecordRef {
    let head = timeout(PATIENCE, remote.next_head(known)).await;
    head.expect("it is told").unwrap()
}

async fn front(running: &Running) -> Front {
    Front::before(&running.url(""), Manners::default())
        .await
        .unwrap()
}

/// Hands on what comes as it comes, and counts the streams that were asked for.
async fn relay(running: &Running) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (gateway, streams) = (running.address, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&streams);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(gateway).await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                // A request has a connection of its own while the stream goes on.
                let mut start = [0; 16];
                let read = client.peek(&mut start).await.unwrap();
                if start[..read].starts_with(b"GET /v1/heads") {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                drop(copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    (endpoint, streams)
}

async fn through(endpoint: &str, key: &Key) -> GatewayRemote {
    let address = GatewayAddress::parse(endpoint).unwrap();
    let client = GatewayClient::new(&address, Some(key), None).unwrap();
    GatewayRemote::connect(client).await.unwrap()
}

#[tokio::test]
async fn a_client_waits_on_one_stream_however_often_it_asks() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let first = append(&running, &key).await;
    let (endpoint, streams) = relay(&running).await;
    // A client of its own has no connection yet that the stream could go over unseen.
    let info = through(&endpoint, &key).await.info().clone();
    let address = GatewayAddress::parse(&endpoint).unwrap();
    let client = GatewayClient::new(&address, Some(&key), None).unwrap();
    let remote = GatewayRemote::with_info(client, info);
    // Waiting may be broken off at any time.
    for _ in 0..5 {
        let waited = timeout(Duration::from_millis(50), remote.next_head(first));
        assert!(waited.await.is_err(), "nothing has happened");
    }
    let second = append(&running, &key).await;
    assert_eq!(next_head(&remote, first).await, second);
    // Told again to whoever did not take it in.
    assert_eq!(next_head(&remote, first).await, second);
    let third = append(&running, &key).await;
    // What one's own appending has outdated is no news.
    let waited = timeout(Duration::from_millis(200), remote.next_head(third));
    assert!(waited.await.is_err());
    assert_eq!(next_head(&remote, second).await, third);
    assert_eq!(streams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_gets_along_with_a_gateway_without_streams() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let first = append(&running, &key).await;
    let front = front(&running).await;
    let remote = through(&front.endpoint(), &key).await;
    front.behave(Manners {
        hides: Some("/v1/heads"),
        ..Manners::default()
    });
    let second = append(&running, &key).await;
    assert_eq!(next_head(&remote, first).await, second);
}

#[tokio::test]
async fn a_client_is_told_that_nobody_can_tell() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let first = append(&running, &key).await;
    let remote = running.remote(&key).await.unwrap();
    let waiting = tokio::spawn(async move {
        let ended = remote.next_head(first).await;
        (remote, ended)
    });
    sleep(Duration::from_millis(300)).await;
    running.stop.send(()).unwrap();
    let (remote, ended) = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    ended.expect_err("the gateway is gone");
    running.task.await.unwrap().unwrap();
    remote.next_head(first).await.expect_err("it still is");
}
