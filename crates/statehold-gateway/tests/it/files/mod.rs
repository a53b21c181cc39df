//! Single files over plain HTTP, as programs see them that know nothing else of the protocol.

mod by_curl;
mod forms;
mod hostile;
mod writing;

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use reqwest::{Method, RequestBuilder, Response};
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::key::Key;

use crate::world::Running;

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
