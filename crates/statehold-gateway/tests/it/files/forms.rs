//! A file in the form that is asked for: whole, in part, compressed, or not again.

use reqwest::{Method, StatusCode};
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind};
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;

use super::{Plain, field, gunzip, refusal, text};
use crate::world::{head, noise, push, start};

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
