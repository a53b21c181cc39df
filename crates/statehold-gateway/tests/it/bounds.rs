//! Bounds of the service, on the wire.

use std::time::Duration;

use bytes::Bytes;
use statehold_core::entry::{ContentObject, Location};
use statehold_core::limits::PACK_BYTES_MAX;
use statehold_core::scope::Scope;
use statehold_gateway::hosted::QUEUE_MAX;
use statehold_repository::store::{Listing, Store};
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::frames::Frame;
use statehold_repository::{Error, Remote as _, remote::load};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::world::{Running, noise, note, push, start};

/// Sends bytes as they are and reads until the connection ends.
pub(crate) async fn raw(running: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("the connection ends")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let running = start(&Store::memory()).await;
    let http = reqwest::Client::new();
    for (method, path, status, code) in [
        ("GET", "/", 404, "no-route"),
        ("GET", "/v1/nothing", 404, "no-route"),
        ("DELETE", "/v1/log", 405, "no-method"),
        ("POST", "/livez", 405, "no-method"),
    ] {
        let request = http.request(method.parse().unwrap(), running.url(path));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers().contains_key("allow"), status == 405);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let problem: serde_json::Value =
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(
            http.get(running.url(path)).send().await.unwrap().status(),
            200
        );
    }
}

#[tokio::test]
async fn odd_questions_are_refused() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let http = reqwest::Client::new();
    for path in [
        "/v1/log",
        "/v1/log?after=-1",
        "/v1/log?after=18446744073709551615",
        "/v1/log?after=x",
        "/v1/open?at_most=x",
    ] {
        let request = http
            .get(running.url(path))
            .bearer_auth(key.reveal().as_str());
        assert_eq!(request.send().await.unwrap().status(), 422, "{path}");
    }
    for body in [
        "",
        "[]",
        r#"{"places":[{"in":"keys/1","offset":0,"stored":1}]}"#,
        r#"{"places":[{"in":"log/00000000000000000001","offset":18446744073709551615,"stored":9}]}"#,
        r#"{"places":[{"in":"../_control/log/00000000000000000001","offset":0,"stored":9}]}"#,
        r#"{"places":[{"in":"log/00000000000000000001","offset":0,"stored":4294967295}]}"#,
    ] {
        let request = http.post(running.url("/v1/read")).body(body);
        let response = request
            .bearer_auth(key.reveal().as_str())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 422, "{body}");
    }
    let request = http.put(running.url("/v1/packs/..%2f..%2fx")).body("x");
    let response = request
        .bearer_auth(key.reveal().as_str())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 422);
}

#[tokio::test]
async fn a_body_past_its_limit_is_refused() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    // By what it announces, before anything of it is read; and sent in full, the answer arrives.
    let head = format!(
        "PUT /v1/packs/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 99999999999\r\n\r\n",
        "0".repeat(32),
        key.reveal().as_str()
    );
    let answer = raw(&running, &head).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"code\":\"too-large\""), "{answer}");
    let url = running.url(&format!("/v1/packs/{}", "0".repeat(32)));
    let request = reqwest::Client::new().put(url);
    let request = request.bearer_auth(key.reveal().as_str());
    let response = request
        .body(vec![0; PACK_BYTES_MAX + 1])
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn bodies_that_two_programs_could_read_differently_are_refused() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let head = format!(
        "POST /v1/log HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n",
        key.reveal().as_str()
    );
    for framing in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        "Content-Length: +5\r\n\r\n12345",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Content-Length : 5\r\n\r\n12345",
    ] {
        let answer = raw(&running, &format!("{head}Connection: close\r\n{framing}")).await;
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 411 "]
            .iter()
            .any(|line| answer.starts_with(line));
        assert!(refused, "{framing:?}: {answer:?}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_number() {
    let running = start(&Store::memory()).await;
    let long = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert!(raw(&running, &long).await.starts_with("HTTP/1.1 431 "));
    let many = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: y\r\n".repeat(70)
    );
    assert!(raw(&running, &many).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn who_sends_headers_slowly_or_nothing_is_cut_off() {
    let running = start(&Store::memory()).await;
    let started = Instant::now();
    let slow = async {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // A byte a second never ends a head.
        for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\nX" {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            let mut answer = [0; 512];
            let wait = timeout(Duration::from_secs(1), stream.read(&mut answer));
            if let Ok(Ok(0) | Err(_)) = wait.await {
                break;
            }
        }
    };
    tokio::join!(slow, async { drop(raw(&running, "").await) });
    let took = started.elapsed();
    assert!(
        took >= Duration::from_secs(9) && took < Duration::from_secs(15),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_body_that_hardly_comes_is_given_up() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let request = format!(
        "POST /v1/log HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 1000\r\n\r\nabc",
        key.reveal().as_str()
    );
    let answer = raw(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_takes_nothing_new() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let draft = note(&state, "just in time");
    let (first, last) = draft.bytes.split_at(draft.bytes.len() / 2);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "POST /v1/log HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        key.reveal().as_str(),
        draft.bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(first).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(TcpStream::connect(running.address).await.is_err());
    assert!(!running.task.is_finished());
    stream.write_all(last).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let done = timeout(Duration::from_secs(5), running.task).await;
    done.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn programs_too_far_apart_are_told_what_to_do() {
    let running = start(&Store::memory()).await;
    let http = reqwest::Client::new();
    for (version, status, said) in [
        ("0.1.0", 401, ""),
        ("0.2.7", 401, ""),
        (
            "0.3.0",
            426,
            "install statehold 0.3 (this machine's version) on the gateway's",
        ),
        (
            "1.0.0",
            426,
            "install statehold 1.0 (this machine's version) on the gateway's",
        ),
    ] {
        let request = http.get(running.url("/v1/info"));
        let response = request
            .header("x-statehold-version", version)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{version}");
        let text = String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap();
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn appends_past_the_queue_are_asked_to_come_back() {
    // Slow enough that all requests are there before the first few are done.
    let slow = object_store::throttle::ThrottledStore::new(
        object_store::memory::InMemory::new(),
        object_store::throttle::ThrottleConfig {
            wait_put_per_call: Duration::from_millis(40),
            ..Default::default()
        },
    );
    let store = Store::new(std::sync::Arc::new(slow), Listing::Sorted);
    let running = start(&store).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let http = reqwest::Client::new();
    let sent = (0..QUEUE_MAX + 20).map(|_| {
        let request = http.post(running.url("/v1/log"));
        let request = request.bearer_auth(key.reveal().as_str());
        request.body(note(&state, "one of many").bytes).send()
    });
    let answers = futures::future::join_all(sent).await;
    let mut taken = 0;
    for answer in answers.into_iter().map(Result::unwrap) {
        if answer.status() == 200 {
            taken += 1;
            continue;
        }
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    assert!((QUEUE_MAX..QUEUE_MAX + 20).contains(&taken), "{taken}");
    // What was answered with success is there, and nothing else.
    let head = load(&remote).await.unwrap().state.head.number;
    assert_eq!(head, u64::try_from(taken).unwrap());
    // The client that ships waits and comes back by itself.
    let many = (0..QUEUE_MAX + 20).map(|_| async {
        remote
            .append(&note(&state, "patient"), &state)
            .await
            .unwrap();
    });
    futures::future::join_all(many).await;
}

/// A listener that gives everyone the same answer and hangs up.
async fn parrot(answer: Vec<u8>) -> GatewayAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 64 * 1024];
                drop(stream.read(&mut request).await);
                drop(stream.write_all(&answer).await);
            });
        }
    });
    GatewayAddress::parse(&format!("http://{address}")).unwrap()
}

#[tokio::test]
async fn an_answer_that_is_cut_short_is_never_taken_for_whole() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, _) = push(&state, &[("a", b"1")]);
    let stored = remote.append(&draft, &state).await.unwrap();
    let (draft, pack) = push(&state, &[("b", &noise(400_000))]);
    let packs = [pack.unwrap()];
    let (object, bytes) = (ContentObject::Record(9), Bytes::from_static(b"content"));
    let place = Location {
        object: Some(object),
        offset: 0,
        stored: 7,
    };
    let frames = [
        Frame::Record {
            number: 1,
            bytes: stored.bytes,
        },
        Frame::Content {
            object,
            offset: 0,
            bytes,
        },
    ];
    let body: Vec<u8> = frames.iter().flat_map(Frame::encode).flatten().collect();
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let more = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len() + 20
    );
    let answers = [whole, more].map(|head| [head.as_bytes(), &body].concat());
    // Without its end frame it is an error, whether HTTP sees the cut or not.
    let tries = answers.map(|answer| async {
        let address = parrot(answer).await;
        let client = GatewayClient::new(&address, Some(&key), None).unwrap();
        let remote = GatewayRemote::with_info(client, remote.info().clone());
        let cut = |error| {
            let known = matches!(error, Error::Damaged { .. } | Error::Unavailable { .. });
            assert!(known, "{error:?}");
        };
        let looking = async {
            cut(remote.records(0).await.unwrap_err());
        };
        let pulling = async {
            let pulled = remote.records_since(state.head, Some(Scope::All)).await;
            cut(pulled.unwrap_err());
            // Nor is any of the content that came with it.
            cut(remote.read(&[place]).await.unwrap_err());
        };
        // For an append that means: nobody knows.
        let draft_ = note(&state, "?");
        let appending = async {
            let error = remote.append(&draft_, &state).await.unwrap_err();
            assert!(matches!(error, Error::Unknown { number: 1 }), "{error:?}");
        };
        let pushing = async {
            let error = remote.push(&packs, &draft, &state).await.unwrap_err();
            assert!(matches!(error, Error::Unknown { number: 1 }), "{error:?}");
        };
        tokio::join!(looking, pulling, appending, pushing);
    });
    futures::future::join_all(tries).await;
}

#[tokio::test]
async fn a_gateway_that_is_away_for_a_moment_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gone = GatewayAddress::parse(&format!("http://{address}")).unwrap();
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let client = GatewayClient::new(&gone, Some(&key), None).unwrap();
    let away = GatewayRemote::with_info(client, remote.info().clone());
    let state = load(&remote).await.unwrap().state;
    // Nothing was sent, so nothing is unknown.
    let draft = note(&state, "later");
    let error = away.append(&draft, &state).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let gateway = running.gateway.clone();
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let server = statehold_gateway::Server::bind(address, gateway, None)
            .await
            .unwrap();
        drop(tokio::spawn(server.serve(std::future::pending())));
    };
    let (sent, ()) = tokio::join!(away.append(&draft, &state), back);
    assert_eq!(sent.unwrap().record.envelope.number, 1);
}

#[tokio::test]
async fn keys_travel_over_tls_to_whoever_the_client_trusts() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = statehold_gateway::tls::TlsFiles {
        certificates: folder.path().join("certificate.pem"),
        key: folder.path().join("key.pem"),
    };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = running.gateway.clone();
    let server = statehold_gateway::Server::bind(any, gateway, Some(files))
        .await
        .unwrap();
    let port = server.local_addr().port();
    let task = tokio::spawn(server.serve(std::future::pending()));
    let mut address = GatewayAddress::parse(&format!("https://localhost:{port}")).unwrap();
    let stranger = GatewayClient::new(&address, Some(&key), None).unwrap();
    assert!(matches!(
        stranger.info().await,
        Err(Error::Unavailable { .. })
    ));
    address.authorities.push(made.cert.pem().into_bytes());
    let client = GatewayClient::new(&address, Some(&key), None).unwrap();
    let remote = GatewayRemote::connect(client).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    remote
        .append(&note(&state, "sealed on its way"), &state)
        .await
        .unwrap();
    task.abort();
}
