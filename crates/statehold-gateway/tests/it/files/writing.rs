//! Files that are written: each is a push like any other, done once, over what its writer has seen.

use futures::future::join_all;
use reqwest::Method;
use statehold_core::digest::Digest;
use statehold_core::entry::Entry;
use statehold_core::record::{Body, Kind};
use statehold_core::rules::SHARED_RULES_PATH;
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;

use super::{Plain, field, gzip, refusal, text};
use crate::world::{head, noise, push, start};

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
