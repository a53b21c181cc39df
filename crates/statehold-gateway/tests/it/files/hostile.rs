//! Hostile paths, content and readers, and damage in the store.

use reqwest::Method;
use statehold_core::entry::Entry;
use statehold_core::path::RepoPath;
use statehold_core::record::{Body, Kind, PushBody, Upsert};
use statehold_repository::Remote as _;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_sync::gateway_client::GatewayRemote;

use super::{Plain, field, refusal};
use crate::bounds::raw;
use crate::world::{head, noise, start};

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
