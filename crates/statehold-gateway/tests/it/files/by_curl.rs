//! The same by curl alone.

use std::process::Stdio;

use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;

use super::{Plain, gunzip, gzip, text};
use crate::world::start;

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
