//! Single files over plain HTTP, as programs see them that know nothing else of the protocol.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind, PushBody, Upsert};
use statehold_core::rules::SHARED_RULES_PATH;
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::GatewayRemote;

use crate::bounds::raw;
use crate::world::{Running, head, noise, push, start};

/// Somebody with a key and nothing but HTTP.
struct Plain<'a> {
    running: &'a Running,
    key: Key,
    http: reqwest::Client,
}

impl<'a> Plain<'a> {
    async fn new(running: &'a Running, role: Role) -> Self {
        Self {
            running,
            key: running.key(role).await,
            http: reqwest::Client::new(),
        }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.running.url(&format!("/v1/files/{path}"));
        let request = self.http.request(method, url);
        request.bearer_auth(self.key.reveal().as_str())
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.ask(Method::GET, path)
    }

    async fn read(&self, path: &str) -> Vec<u8> {
        let answer = self.get(path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.unwrap().into()
    }

    fn put(&self, path: &str, content: impl Into<reqwest::Body>) -> RequestBuilder {
        self.ask(Method::PUT, path).body(content)
    }

    async fn write(&self, path: &str, content: &[u8]) -> Response {
        let answer = self.put(path, content.to_vec()).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer
    }
}

/// A header of an answer.
fn field<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Status and code of a refusal, which has to be a problem; and what it says.
async fn refusal(request: RequestBuilder) -> (u16, String, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(field(&answer, "content-type"), "application/problem+json");
    let problem: serde_json::Value =
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(problem["status"], status);
    let text = |name: &str| problem[name].as_str().unwrap().to_owned();
    (status, text("code"), text("detail"))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(content).read_to_end(&mut plain).unwrap();
    plain
}

/// Text that compresses well, and differs from place to place.
fn text(lines: usize) -> Vec<u8> {
    let line = |i: usize| format!("{{\"line\":{i},\"words\":\"the state of an agent at work\"}}\n");
    (0..lines).map(line).collect::<String>().into_bytes()
}

#[tokio::test]
async fn a_file_is_served_in_the_form_that_is_asked_for() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    // One chunk, several chunks, and something that does not compress.
    let (short, long, dense) = (text(2_000), text(60_000), noise(700_000));
    assert!(long.len() > 3_000_000);
    for (path, content) in [("short.ndjson", &short), ("logs/long.ndjson", &long)] {
        plain.write(path, content).await;
        let sizes: Vec<usize> = {
            let mut sizes = Vec::new();
            for (accept, coding) in [
                (None, ""),
                (Some("identity"), ""),
                (Some("gzip, deflate, br"), "gzip"),
                (Some("gzip, zstd"), "zstd"),
                (Some("zstd;q=0.5, gzip"), "gzip"),
                (Some("zstd;q=0, gzip;q=0, br"), ""),
            ] {
                let mut request = plain.get(path);
                if let Some(accept) = accept {
                    request = request.header("Accept-Encoding", accept);
                }
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(field(&answer, "content-encoding"), coding, "{accept:?}");
                assert_eq!(
                    field(&answer, "vary"),
                    "Accept-Encoding, X-Statehold-Repository"
                );
                assert_eq!(field(&answer, "content-type"), "application/x-ndjson");
                assert_eq!(field(&answer, "x-content-type-options"), "nosniff");
                assert!(field(&answer, "content-disposition").starts_with("attachment"));
                assert!(field(&answer, "content-security-policy").contains("sandbox"));
                let announced = field(&answer, "content-length").to_owned();
                let body = answer.bytes().await.unwrap();
                if announced.is_empty() {
                    assert_eq!(coding, "gzip", "only what is made on the way has no length");
                } else {
                    assert_eq!(announced, body.len().to_string());
                }
                let got = match coding {
                    "gzip" => gunzip(&body),
                    // Frame after frame, as any program expands them.
                    "zstd" => zstd::decode_all(body.as_ref()).unwrap(),
                    _ => body.to_vec(),
                };
                assert!(got == *content, "{path} as {coding:?}");
                sizes.push(body.len());
            }
            sizes
        };
        assert!(sizes[2] * 4 < content.len() && sizes[3] * 4 < content.len());
    }
    // What does not compress goes as it is, unless that is ruled out.
    plain.write("dense.bin", &dense).await;
    for (accept, coding) in [
        ("gzip, zstd", ""),
        ("identity;q=0, zstd", "zstd"),
        ("identity;q=0, gzip", "gzip"),
    ] {
        let request = plain.get("dense.bin").header("Accept-Encoding", accept);
        let answer = request.send().await.unwrap();
        assert_eq!(field(&answer, "content-encoding"), coding, "{accept}");
        let body = answer.bytes().await.unwrap();
        let got = match coding {
            "gzip" => gunzip(&body),
            "zstd" => zstd::decode_all(body.as_ref()).unwrap(),
            _ => body.to_vec(),
        };
        assert!(got == dense);
    }
    // Nothing at all is a file too.
    let empty = plain.put("empty", "").header("Content-Length", "0");
    assert_eq!(empty.send().await.unwrap().status(), 201);
    for (accept, len) in [("gzip, zstd", 20), ("identity", 0)] {
        let request = plain.get("empty").header("Accept-Encoding", accept);
        let body = request.send().await.unwrap().bytes().await.unwrap();
        assert_eq!(body.len(), len, "{accept}");
    }
    let request = plain.get("short.ndjson");
    let request = request.header("Accept-Encoding", "br, identity;q=0");
    let (status, code, _) = refusal(request).await;
    assert_eq!((status, code.as_str()), (406, "not-acceptable"));
}

/// Goal: what is stored compressed is served compressed, without being compressed again.
/// Method: the bytes of a zstd answer are found in the store as they are.
#[tokio::test]
async fn zstd_is_served_as_it_is_stored() {
    let store = Store::memory();
    let running = start(&store).await;
    let plain = Plain::new(&running, Role::Push).await;
    plain.write("notes.md", &text(900)).await;
    let request = plain.get("notes.md").header("Accept-Encoding", "zstd");
    let sent = request.send().await.unwrap().bytes().await.unwrap();
    let mut found = false;
    for key in store.list("", "").await.unwrap() {
        let object = store.read(&key).await.unwrap().unwrap();
        found |= object.windows(sent.len()).any(|bytes| bytes == sent);
    }
    assert!(found, "the frame is in no object of the store");
}

#[tokio::test]
async fn a_tag_names_one_version_in_one_form() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let written = plain.write("a/b.txt", &text(1_000)).await;
    assert_eq!(written.status(), 201);
    let tag_of = async |accept: &str| {
        let request = plain.get("a/b.txt").header("Accept-Encoding", accept);
        field(&request.send().await.unwrap(), "etag").to_owned()
    };
    let accepts = ["identity", "gzip", "zstd"];
    let mut tags = Vec::new();
    for accept in accepts {
        tags.push(tag_of(accept).await);
    }
    assert_eq!(tags[0], field(&written, "etag"));
    assert!(tags.iter().all(|tag| tag.starts_with('"')), "{tags:?}");
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
    for (accept, own) in accepts.iter().zip(&tags) {
        for tag in &tags {
            let request = plain.get("a/b.txt").header("Accept-Encoding", *accept);
            let request = request.header("If-None-Match", format!("\"other\", W/{tag}"));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status() == 304, tag == own, "{accept} {tag}");
            assert_eq!(field(&answer, "etag"), own);
            assert_eq!(field(&answer, "cache-control"), "private, no-cache");
            assert!(
                !field(&answer, "vary").is_empty() && !field(&answer, "last-modified").is_empty()
            );
        }
    }
    let any = plain.get("a/b.txt").header("If-None-Match", "*");
    let any = any.send().await.unwrap();
    assert_eq!(any.status(), 304);
    assert_eq!(any.bytes().await.unwrap().len(), 0);
    // New content, new tags.
    plain.write("a/b.txt", b"other").await;
    assert_ne!(tag_of("identity").await, tags[0]);
}

/// The same content cut another way is other bytes in its stored form, and there alone.
#[tokio::test]
async fn a_tag_of_the_stored_form_names_how_the_file_is_cut() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let remote = running.remote(&plain.key).await.unwrap();
    let content = text(3_000);
    plain.write("whole.txt", &content).await;
    let state = load(&remote).await.unwrap().state;
    let (left, right) = content.split_at(100_000);
    let (draft, _) = push(&state, &[("left", left), ("right", right)]);
    let Body::Push(mut body) = draft.draft.body.clone() else {
        panic!("it is a push");
    };
    let Some(Entry::File(right)) = body.upserts.pop().map(|upsert| upsert.entry) else {
        panic!("it is a file");
    };
    let Entry::File(joined) = &mut body.upserts[0].entry else {
        panic!("it is a file");
    };
    joined.chunks.extend(right.chunks);
    joined.size = content.len() as u64;
    joined.digest = Digest::of(&content);
    body.upserts[0].path = RepoPath::parse("joined.txt").unwrap();
    let inline = &draft.bytes[draft.bytes.len() - draft.draft.head.content_bytes as usize..];
    let draft = StoredDraft::new(head(Kind::Push), Body::Push(body), inline).unwrap();
    remote.append(&draft, &state).await.unwrap();
    for (accept, same) in [("identity", true), ("gzip", true), ("zstd", false)] {
        let mut seen = Vec::new();
        for path in ["whole.txt", "joined.txt"] {
            let request = plain.get(path).header("Accept-Encoding", accept);
            let answer = request.send().await.unwrap();
            let tag = field(&answer, "etag").to_owned();
            seen.push((tag, answer.bytes().await.unwrap()));
        }
        assert_eq!(seen[0].0 == seen[1].0, same, "{accept}");
        assert_eq!(seen[0].1 == seen[1].1, same, "{accept}");
    }
}

#[tokio::test]
async fn a_range_of_a_file_is_served() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let content = text(60_000);
    let size = content.len();
    plain.write("long.txt", &content).await;
    let tag = field(&plain.get("long.txt").send().await.unwrap(), "etag").to_owned();
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=-100".to_owned(), size - 100, size),
        (format!("bytes={}-", size - 1), size - 1, size),
        // Across the borders of chunks.
        (format!("bytes=1000-{}", size - 1_000), 1_000, size - 999),
        ("bytes=-99999999".to_owned(), 0, size),
    ] {
        let request = plain.get("long.txt").header("Range", &range);
        // A range is of the bytes as they are, whatever else is welcome.
        let request = request.header("Accept-Encoding", "gzip, zstd");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 206, "{range}");
        let expected = format!("bytes {from}-{}/{size}", to - 1);
        assert_eq!(field(&answer, "content-range"), expected);
        assert_eq!(field(&answer, "content-length"), (to - from).to_string());
        assert_eq!(field(&answer, "content-encoding"), "");
        assert_eq!(field(&answer, "etag"), tag);
        assert!(
            answer.bytes().await.unwrap() == content[from..to],
            "{range}"
        );
    }
    let beyond = plain
        .get("long.txt")
        .header("Range", format!("bytes={size}-"));
    let answer = beyond.send().await.unwrap();
    assert_eq!(answer.status(), 416);
    assert_eq!(field(&answer, "content-range"), format!("bytes */{size}"));
    // Not understood, or more than one: all of it.
    for range in ["bytes=0-1,5-6", "bytes=5-1", "lines=0-1", "bytes=x"] {
        let request = plain.get("long.txt").header("Range", range);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{range}");
        assert_eq!(answer.bytes().await.unwrap().len(), size);
    }
    // A range of a version that is no longer there is not mixed with this one.
    for (condition, status) in [
        (tag.as_str(), 206),
        ("\"other\"", 200),
        ("W/\"weak\"", 200),
        ("Sat, 29 Oct 2033 19:43:31 GMT", 200),
        ("nonsense", 200),
    ] {
        let request = plain.get("long.txt").header("Range", "bytes=0-9");
        let request = request.header("If-Range", condition);
        assert_eq!(
            request.send().await.unwrap().status(),
            status,
            "{condition}"
        );
    }
}

#[tokio::test]
async fn head_says_what_get_would() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    plain.write("x.md", &text(3_000)).await;
    for accept in ["identity", "gzip", "zstd"] {
        let request = |method| plain.ask(method, "x.md").header("Accept-Encoding", accept);
        let get = request(Method::GET).send().await.unwrap();
        let head = request(Method::HEAD).send().await.unwrap();
        assert_eq!(
            (get.status(), head.status()),
            (StatusCode::OK, StatusCode::OK)
        );
        for (name, value) in head.headers() {
            if name != "date" {
                assert_eq!(get.headers().get(name), Some(value), "{accept}: {name}");
            }
        }
        assert!(head.bytes().await.unwrap().is_empty());
    }
    let missing = plain.ask(Method::HEAD, "none").send().await.unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(field(&missing, "content-type"), "application/problem+json");
}

#[tokio::test]
async fn an_earlier_version_is_read_by_its_record() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    for number in 1..=40 {
        let answer = plain.write("counter", format!("{number}").as_bytes()).await;
        assert_eq!(field(&answer, "x-statehold-record"), number.to_string());
    }
    for number in [1, 7, 31, 32, 33, 40] {
        let answer = plain.get(&format!("counter?at={number}"));
        let answer = answer.send().await.unwrap();
        assert_eq!(field(&answer, "x-statehold-record"), number.to_string());
        assert_eq!(answer.text().await.unwrap(), number.to_string());
    }
    for (query, status) in [("0", 404), ("41", 404), ("-1", 422), ("x", 422), ("", 422)] {
        let (found, _, detail) = refusal(plain.get(&format!("counter?at={query}"))).await;
        assert_eq!(found, status, "{query}: {detail}");
    }
}

#[tokio::test]
async fn what_is_written_is_a_push_like_any_other() {
    let store = Store::memory();
    let running = start(&store).await;
    let other = start(&store).await;
    let plain = Plain::new(&running, Role::Push).await;
    let remote = running.remote(&plain.key).await.unwrap();
    // Small and inline, large and in packs, compressed on its way, and to any gateway.
    let (small, large) = (b"hello".to_vec(), noise(3_000_000));
    assert_eq!(plain.write("small", &small).await.status(), 201);
    assert_eq!(plain.write("large", &large).await.status(), 201);
    let log = text(20_000);
    for (path, coding, body) in [
        ("log-1.txt", "gzip", gzip(&log)),
        ("log-2.txt", "zstd", zstd::encode_all(&log[..], 3).unwrap()),
        ("log-3.txt", "identity", log.clone()),
    ] {
        let request = plain.put(path, body).header("Content-Encoding", coding);
        assert_eq!(request.send().await.unwrap().status(), 201, "{coding}");
    }
    // The client that ships sees all of it, with both digests.
    let state = load(&remote).await.unwrap().state;
    assert_eq!(state.tree.len(), 5);
    assert_eq!(crate::world::content(&remote, &state, "large").await, large);
    assert_eq!(
        crate::world::content(&remote, &state, "log-1.txt").await,
        log
    );
    let Some(Entry::File(file)) = state.tree.get("log-2.txt") else {
        panic!("it is not there");
    };
    assert_eq!(file.digest, Digest::of(&log));
    assert!(file.sha256.is_some());
    // The same content under another name is stored once.
    let Some(Entry::File(again)) = state.tree.get("log-3.txt") else {
        panic!("it is not there");
    };
    assert_eq!(file.chunks, again.chunks);
    let records = remote.records(0).await.unwrap().records;
    assert!(
        records
            .iter()
            .all(|stored| stored.record.envelope.key == Some(plain.key.id()))
    );
    // Another gateway serves it at once.
    let url = other.url("/v1/files/small");
    let answer = plain.http.get(url).bearer_auth(plain.key.reveal().as_str());
    assert_eq!(answer.send().await.unwrap().text().await.unwrap(), "hello");
    // The same again is no news; other content is.
    let before = field(
        &plain.get("small").send().await.unwrap(),
        "x-statehold-record",
    )
    .to_owned();
    let same = plain.write("small", &small).await;
    assert_eq!(
        (same.status().as_u16(), field(&same, "x-statehold-record")),
        (204, &*before)
    );
    let changed = plain.write("small", b"hello again").await;
    assert_eq!(changed.status(), 204);
    assert_ne!(field(&changed, "x-statehold-record"), before);
    // Taken away; what was there before is still to be had.
    let deleted = plain.ask(Method::DELETE, "small").send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    assert_eq!(plain.get("small").send().await.unwrap().status(), 404);
    assert_eq!(plain.read(&format!("small?at={before}")).await, small);
    let again = refusal(plain.ask(Method::DELETE, "small")).await;
    assert_eq!(again.0, 404);
}

#[tokio::test]
async fn a_file_stays_executable() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let remote = running.remote(&plain.key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, _) = push(&state, &[("run.sh", b"#!/bin/sh\n")]);
    let Body::Push(mut body) = draft.draft.body.clone() else {
        panic!("it is a push");
    };
    let Entry::File(file) = &mut body.upserts[0].entry else {
        panic!("it is a file");
    };
    file.executable = true;
    let content = &draft.bytes[draft.bytes.len() - draft.draft.head.content_bytes as usize..];
    let draft = StoredDraft::new(head(Kind::Push), Body::Push(body), content).unwrap();
    remote.append(&draft, &state).await.unwrap();
    plain.write("run.sh", b"#!/bin/sh\necho new\n").await;
    let state = load(&remote).await.unwrap().state;
    let Some(Entry::File(file)) = state.tree.get("run.sh") else {
        panic!("it is not there");
    };
    assert!(file.executable);
    assert_eq!(plain.read("run.sh").await, b"#!/bin/sh\necho new\n");
}

#[tokio::test]
async fn nobody_overwrites_what_they_have_not_seen() {
    let store = Store::memory();
    let (running, other) = (start(&store).await, start(&store).await);
    let plain = Plain::new(&running, Role::Push).await;
    let create = || plain.put("plan.md", "one").header("If-None-Match", "*");
    assert_eq!(create().send().await.unwrap().status(), 201);
    let (status, code, _) = refusal(create()).await;
    assert_eq!((status, code.as_str()), (412, "precondition-failed"));
    // Any form's tag will do.
    for accept in ["identity", "gzip", "zstd"] {
        plain.write("plan.md", &text(50)).await;
        let request = plain.get("plan.md").header("Accept-Encoding", accept);
        let tag = field(&request.send().await.unwrap(), "etag").to_owned();
        let change = || plain.put("plan.md", "two").header("If-Match", &tag);
        assert_eq!(change().send().await.unwrap().status(), 204, "{accept}");
        assert_eq!(refusal(change()).await.0, 412);
        let delete = plain
            .ask(Method::DELETE, "plan.md")
            .header("If-Match", &tag);
        assert_eq!(refusal(delete).await.0, 412);
    }
    for (path, condition) in [("none", "*"), ("none", "\"x\""), ("plan.md", "nonsense")] {
        let change = plain.put(path, "three").header("If-Match", condition);
        assert_eq!(refusal(change).await.0, 412, "{condition}");
    }
    assert_eq!(plain.read("plan.md").await, b"two");

    // Of many at once, at any gateway, one wins, and the others are told.
    let tag = field(&plain.get("plan.md").send().await.unwrap(), "etag").to_owned();
    let attempts = (0..12).map(|i| {
        let url = [&running, &other][i % 2].url("/v1/files/plan.md");
        let request = plain.http.put(url).body(format!("writer {i}"));
        let request = request.bearer_auth(plain.key.reveal().as_str());
        request.header("If-Match", &tag).send()
    });
    let answers = join_all(attempts).await;
    let statuses: Vec<u16> = answers
        .into_iter()
        .map(|answer| answer.unwrap().status().as_u16())
        .collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 204).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 412).count(),
        11,
        "{statuses:?}"
    );
    // Without a condition the last one wins, and nobody is turned away.
    let attempts = (0..6).map(|i| plain.put("free", format!("writer {i}")).send());
    for answer in join_all(attempts).await {
        let status = answer.unwrap().status().as_u16();
        assert!(matches!(status, 201 | 204), "{status}");
    }
}

#[tokio::test]
async fn a_request_sent_again_with_its_key_is_done_once() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let send = |body: &'static str| plain.put("a", body).header("Idempotency-Key", "run-17");
    let first = send("one").send().await.unwrap();
    assert_eq!(first.status(), 201);
    let number = field(&first, "x-statehold-record").to_owned();
    // Somebody else goes on. The repeated request does not undo that.
    plain.write("a", b"two").await;
    let again = send("one")
        .header("If-None-Match", "*")
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 204);
    assert_eq!(field(&again, "x-statehold-record"), number);
    assert_eq!(plain.read("a").await, b"two");
    for other in [
        send("three"),
        plain.put("b", "one").header("Idempotency-Key", "run-17"),
        plain
            .ask(Method::DELETE, "a")
            .header("Idempotency-Key", "run-17"),
        plain.put("b", "one").header("Idempotency-Key", ""),
        plain
            .put("b", "one")
            .header("Idempotency-Key", "x".repeat(256)),
    ] {
        assert_eq!(refusal(other).await.0, 422);
    }
    // The key is its owner's own.
    let another = Plain::new(&running, Role::Push).await;
    let request = another.put("b", "one").header("Idempotency-Key", "run-17");
    assert_eq!(request.send().await.unwrap().status(), 201);
    // At once, it lands once too.
    let delete = || {
        let request = plain.ask(Method::DELETE, "a");
        request.header("Idempotency-Key", "run-18").send()
    };
    let mut numbers = Vec::new();
    for answer in join_all((0..8).map(|_| delete())).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 204);
        numbers.push(field(&answer, "x-statehold-record").to_owned());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
}

#[tokio::test]
async fn files_too_large_are_refused_in_the_words_of_the_client() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let at = |bytes: usize| vec![b'x'; bytes];
    for (bytes, status) in [(9_999_999, 201), (10_000_000, 204), (10_000_001, 413)] {
        let answer = plain.put("big", at(bytes)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{bytes}");
        // Measured before compression, however it comes.
        for body in [
            gzip(&at(bytes)),
            zstd::encode_all(&at(bytes)[..], 1).unwrap(),
        ] {
            let coding = if body.starts_with(&[0x1f]) {
                "gzip"
            } else {
                "zstd"
            };
            let request = plain.put("big", body).header("Content-Encoding", coding);
            let answer = request.send().await.unwrap();
            let expected = if status == 413 { 413 } else { 204 };
            assert_eq!(answer.status(), expected, "{bytes} {coding}");
        }
    }
    let (_, code, detail) = refusal(plain.put("big", at(10_000_001))).await;
    assert_eq!(code, "too-large");
    assert!(
        detail.contains("big: 10000001 bytes, the limit is 10000000"),
        "{detail}"
    );
    assert!(
        detail.contains("file too large for statehold sync; should this be in sources/?"),
        "{detail}"
    );
    // A bomb is stopped at the limit, and a body is bounded before it is expanded.
    let bomb = gzip(&vec![0; 200_000_000]);
    let request = plain.put("bomb", bomb).header("Content-Encoding", "gzip");
    assert_eq!(refusal(request).await.0, 413);
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0x98, 0][..],
        &vec![0; 0x98_0000],
    ]
    .concat();
    let request = plain.put("bomb", skippable.repeat(2));
    assert_eq!(
        refusal(request.header("Content-Encoding", "zstd")).await.0,
        413
    );
    // Where files may be large, they may.
    assert_eq!(
        plain.write("sources/big", &at(10_000_001)).await.status(),
        201
    );
    assert_eq!(plain.read("sources/big").await.len(), 10_000_001);
}

#[tokio::test]
async fn bodies_that_are_not_the_file_are_refused() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let put = || plain.put("x", "content");
    for (request, status) in [
        (put().header("Content-Encoding", "br"), 415),
        (put().header("Content-Encoding", "gzip, gzip"), 415),
        (put().header("Content-Encoding", "gzip"), 422),
        (put().header("Content-Encoding", "zstd"), 422),
        (
            put().header("Content-Type", "multipart/form-data; boundary=x"),
            415,
        ),
        (put().header("Content-Range", "bytes 0-6/7"), 422),
        (put().header("X-Statehold-Allow-Secret", "yes"), 422),
        // No body is not an empty one.
        (plain.ask(Method::PUT, "x"), 411),
        // A window of 128 MiB.
        (
            plain
                .put("x", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 1, 0, 0])
                .header("Content-Encoding", "zstd"),
            422,
        ),
    ] {
        let (found, _, detail) = refusal(request).await;
        assert_eq!(found, status, "{detail}");
    }
    assert_eq!(plain.get("x").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn rules_and_roles_hold_for_files_too() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    for path in [
        "state/log/sync-events.ndjson",
        "a/.git/config",
        "state/log/unlisted",
    ] {
        let (status, _, detail) = refusal(plain.put(path, "x")).await;
        assert_eq!(status, 422);
        assert!(detail.contains(path), "{detail}");
    }
    plain.write("state/log/changelog.ndjson", b"{}\n").await;
    let owner = Plain::new(&running, Role::Own).await;
    let rules = r#"{"SYNC_DENY":["private/**"]}"#;
    for request in [
        plain.put(SHARED_RULES_PATH, rules),
        plain.ask(Method::DELETE, SHARED_RULES_PATH),
    ] {
        let (status, _, detail) = refusal(request).await;
        assert!(status == 422 && detail.contains("role own"), "{detail}");
    }
    owner.write(SHARED_RULES_PATH, rules.as_bytes()).await;
    assert_eq!(refusal(plain.put("private/x", "x")).await.0, 422);
    assert_eq!(refusal(plain.put("private/../private/x", "x")).await.0, 422);
    owner.write("private/x", b"x").await;
    assert_eq!(plain.read("private/x").await, b"x");

    let reader = Plain::new(&running, Role::Read).await;
    assert_eq!(reader.read("private/x").await, b"x");
    assert_eq!(refusal(reader.put("y", "y")).await.0, 403);
    assert_eq!(
        refusal(reader.ask(Method::DELETE, "private/x")).await.0,
        403
    );
    let url = running.url("/v1/files/private/x");
    let nobody = reader.http.get(url);
    assert_eq!(refusal(nobody).await.0, 401);
    // Another tenant's repository is not there, not even its paths.
    let stranger = start(&Store::memory()).await;
    let stranger = stranger.key(Role::Own).await;
    let request = reader.http.get(running.url("/v1/files/private/x"));
    assert_eq!(
        refusal(request.bearer_auth(stranger.reveal().as_str()))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn what_looks_like_a_secret_is_refused_unless_allowed() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let secret = format!("ghp_{}", "Zk3vQ9xT1bLm8Rw2Yc6Nd4Hs7Fj5Ga0PuE1i");
    let content = format!("# notes\nGITHUB_TOKEN={secret}\n");
    for body in [content.clone().into_bytes(), gzip(content.as_bytes())] {
        let coding = if body.starts_with(&[0x1f]) {
            "gzip"
        } else {
            "identity"
        };
        let put = || {
            let request = plain.put("notes", body.clone());
            request.header("Content-Encoding", coding)
        };
        let (status, _, detail) = refusal(put()).await;
        assert_eq!(status, 422);
        assert!(detail.contains("line 2: GitHub token"), "{detail}");
        assert!(!detail.contains(&secret), "the secret is in the answer");
        let allowed = put().header("X-Statehold-Allow-Secret", "1");
        assert!(allowed.send().await.unwrap().status().is_success());
    }
    // So is what has the name of one.
    let (status, _, detail) = refusal(plain.put("home/.env", "A=1")).await;
    assert_eq!(status, 422);
    assert!(detail.contains("credentials"), "{detail}");
    let allowed = plain.put("home/.env", "A=1");
    let allowed = allowed.header("X-Statehold-Allow-Secret", "1");
    assert_eq!(allowed.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn hostile_and_odd_paths() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    for path in [
        "%2e%2e/x",
        "a/%2e%2e/b",
        "a%2f..%2fb",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "a//b",
        "a/",
        "a%00b",
        "%ff",
        ".statehold/config.json",
        ".StateHold/x",
        "a/../b",
        "..",
    ] {
        // By hand: a client tidies up addresses before it sends them.
        for method in ["GET", "PUT", "DELETE"] {
            let request = format!(
                "{method} /v1/files/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                 Authorization: Bearer {}\r\nContent-Length: 1\r\n\r\nx",
                plain.key.reveal().as_str()
            );
            let answer = raw(&running, &request).await;
            assert!(
                answer.starts_with("HTTP/1.1 422 "),
                "{method} {path}: {answer}"
            );
        }
    }
    let long = "a/".repeat(2_500) + "b";
    assert_eq!(refusal(plain.get(&long)).await.0, 422);
    // Odd, and a file all the same; decoded once.
    for (path, name) in [
        ("a%20b%3f%23", "a b?#"),
        ("%252e%252e", "%2e%2e"),
        ("caf%C3%A9/%F0%9F%98%80", "caf\u{e9}/\u{1f600}"),
        ("plus+sign&x=y;z", "plus+sign&x=y;z"),
        ("new%0Aline%22quote", "new\nline\"quote"),
        ("x%2fy", "x/y"),
    ] {
        plain.write(path, name.as_bytes()).await;
        assert_eq!(plain.read(path).await, name.as_bytes());
    }
    let remote = running.remote(&plain.key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    assert!(state.tree.get("new\nline\"quote").is_some());
    assert!(state.tree.get("x/y").is_some());
    // What some machine would take for the same file, or for a folder that is a file, is refused.
    for path in [
        "CAFE%CC%81/%F0%9F%98%80",
        "X/Y",
        "x/y/z",
        "plus+sign&x=y;z/a",
    ] {
        let (status, _, detail) = refusal(plain.put(path, "x")).await;
        assert_eq!(status, 422, "{path}");
        assert!(detail.contains("in the way"), "{detail}");
    }
}

/// Pushes entries that are no files.
async fn push_entries(remote: &GatewayRemote, entries: Vec<(&str, Entry)>) {
    let state = load(remote).await.unwrap().state;
    let upsert = |(path, entry): (&str, Entry)| Upsert {
        path: RepoPath::parse(path).unwrap(),
        entry,
        keep: 0,
    };
    let body = Body::Push(PushBody {
        base: state.head,
        upserts: entries.into_iter().map(upsert).collect(),
        deletes: Vec::new(),
    });
    let draft = StoredDraft::new(head(Kind::Push), body, &[]).unwrap();
    remote.append(&draft, &state).await.unwrap();
}

#[tokio::test]
async fn links_and_directories_are_told_apart_from_files() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let remote = running.remote(&plain.key).await.unwrap();
    let target = "docs/a".to_owned();
    let entries = vec![
        ("link", Entry::Symlink { target }),
        ("empty", Entry::Directory),
    ];
    push_entries(&remote, entries).await;
    plain.write("docs/a", b"a").await;
    for (path, says) in [
        ("link", "symbolic link to \"docs/a\""),
        ("empty", "is a directory"),
        ("docs", "is a directory"),
    ] {
        for request in [plain.get(path), plain.put(path, "x")] {
            let (status, code, detail) = refusal(request).await;
            assert_eq!((status, code.as_str()), (409, "not-a-file"), "{path}");
            assert!(detail.contains(says), "{detail}");
        }
    }
    assert_eq!(refusal(plain.ask(Method::DELETE, "docs")).await.0, 409);
    for path in ["link", "empty"] {
        let deleted = plain.ask(Method::DELETE, path).send().await.unwrap();
        assert_eq!(deleted.status(), 204, "{path}");
    }
    let state = advance(&remote, &load(&remote).await.unwrap().state)
        .await
        .unwrap();
    assert_eq!(state.tree.len(), 1);
}

#[tokio::test]
async fn hostile_content_is_never_run_by_a_browser() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let content = b"<script>fetch('/v1/machines')</script>";
    for path in ["x.html", "x.svg", "x.xhtml", "x", "x.js", "x.pdf"] {
        plain.write(path, content).await;
        let answer = plain.get(path).send().await.unwrap();
        assert_eq!(field(&answer, "content-type"), "application/octet-stream");
        assert_eq!(field(&answer, "x-content-type-options"), "nosniff");
        let policy = field(&answer, "content-security-policy");
        assert_eq!(
            policy,
            "default-src 'none'; frame-ancestors 'none'; sandbox"
        );
        let disposition = field(&answer, "content-disposition");
        assert_eq!(disposition, format!("attachment; filename*=UTF-8''{path}"));
        assert_eq!(field(&answer, "referrer-policy"), "no-referrer");
        assert!(
            answer
                .headers()
                .get("access-control-allow-origin")
                .is_none()
        );
    }
}

/// Goal: no wrong byte is ever sent as a file's, and who gets too few of them notices.
/// Method: packs in the store are damaged behind the gateway's back.
#[tokio::test]
async fn damage_in_the_store_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    let running = start(&store).await;
    let plain = Plain::new(&running, Role::Push).await;
    let content = noise(6_000_000);
    plain.write("large.bin", &content).await;
    assert!(plain.read("large.bin").await == content);
    let mut packs = Vec::new();
    for key in store.list("", "").await.unwrap() {
        if key.contains("/packs/") {
            packs.push(folder.path().join(key.trim_start_matches('/')));
        }
    }
    let [pack] = &packs[..] else {
        panic!("{packs:?}");
    };
    let whole = std::fs::read(pack).unwrap();
    let damage = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::remove_file(pack).unwrap();
        std::fs::write(pack, bytes).unwrap();
    };
    for accept in ["identity", "zstd, identity;q=0", "gzip, identity;q=0"] {
        let get = || plain.get("large.bin").header("Accept-Encoding", accept);
        // At the beginning: a problem. Further on: too late for one, so the answer is cut.
        damage(1_000);
        assert_eq!(refusal(get()).await.0, 500, "{accept}");
        damage(5_000_000);
        let answer = get().send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{accept}: taken for whole");
    }
    damage(5_000_000);
    let range = plain.get("large.bin").header("Range", "bytes=0-999");
    let answer = range.send().await.unwrap();
    assert_eq!(answer.status(), 206);
    assert!(answer.bytes().await.unwrap() == content[..1_000]);
    std::fs::remove_file(pack).unwrap();
    assert_eq!(refusal(plain.get("large.bin")).await.0, 404);
}

/// Goal: who goes away in the middle of an answer takes nothing along.
/// Method: more answers are begun and left than there is memory for at once.
#[tokio::test]
async fn answers_that_nobody_reads_give_their_memory_back() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let content = noise(4_000_000);
    plain.write("large.bin", &content).await;
    for _ in 0..300 {
        let answer = plain.get("large.bin").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        drop(answer);
    }
    assert!(plain.read("large.bin").await == content);
}

#[tokio::test]
async fn other_methods_are_answered_with_those_there_are() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    for method in ["POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
        let answer = plain.ask(method.parse().unwrap(), "x");
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        let mut allowed: Vec<&str> = field(&answer, "allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
        assert_eq!(field(&answer, "content-type"), "application/problem+json");
    }
    for path in ["/v1/files", "/v1/files/"] {
        let request = plain.http.get(running.url(path));
        assert_eq!(refusal(request).await.0, 404);
    }
}

/// Runs curl with a key, which goes over its standard input and so into no list of processes.
async fn curl(plain: &Plain<'_>, arguments: &[&str]) -> Vec<u8> {
    let mut child = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--config", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let header = format!(
        "header = \"Authorization: Bearer {}\"\n",
        plain.key.reveal().as_str()
    );
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, header.as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {said}");
    output.stdout
}

#[tokio::test]
async fn curl_is_all_it_takes() {
    let running = start(&Store::memory()).await;
    let plain = Plain::new(&running, Role::Push).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let content = text(40_000);
    std::fs::write(at("log.ndjson"), &content).unwrap();
    let url = running.url("/v1/files/notes/log.ndjson");

    let sent = [
        "--upload-file",
        &at("log.ndjson"),
        &url,
        "--write-out",
        "%{http_code}",
    ];
    assert_eq!(curl(&plain, &sent).await, b"201");
    assert!(curl(&plain, &[&url]).await == content);
    // Every form that this curl can read, and the one it prefers.
    let compressed = ["--compressed", &url, "--dump-header", &at("head")];
    assert!(curl(&plain, &compressed).await == content);
    let head = std::fs::read_to_string(at("head")).unwrap().to_lowercase();
    assert!(head.contains("content-encoding: "), "{head}");
    let gzipped = ["--header", "Accept-Encoding: gzip", &url];
    let gzipped = curl(&plain, &gzipped).await;
    assert!(gzipped.len() * 4 < content.len());
    assert!(gunzip(&gzipped) == content);
    // A download that was cut is taken up where it ended.
    std::fs::write(at("part"), &content[..1_234_567]).unwrap();
    curl(
        &plain,
        &["--continue-at", "-", "--output", &at("part"), &url],
    )
    .await;
    assert!(std::fs::read(at("part")).unwrap() == content);
    // Nothing new is nothing sent.
    let save = ["--etag-save", &at("tag"), "--output", &at("out"), &url];
    curl(&plain, &save).await;
    let compare = [
        "--etag-compare",
        &at("tag"),
        &url,
        "--write-out",
        "%{http_code}",
    ];
    assert_eq!(curl(&plain, &compare).await, b"304");
    // Compressed on the way up.
    std::fs::write(at("log.gz"), gzip(&content[..500_000])).unwrap();
    let gzipped = [
        "--header",
        "Content-Encoding: gzip",
        "--upload-file",
        &at("log.gz"),
        &url,
    ];
    curl(&plain, &gzipped).await;
    assert!(curl(&plain, &[&url]).await == content[..500_000]);
    curl(&plain, &["--request", "DELETE", &url]).await;
    let status = [
        "--head",
        "--no-fail",
        "--write-out",
        "%{http_code}",
        "--output",
        &at("none"),
        &url,
    ];
    assert_eq!(curl(&plain, &status).await, b"404");
}
