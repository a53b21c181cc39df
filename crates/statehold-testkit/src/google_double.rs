//! A double of Google Cloud Storage, written after its published XML API: no server of that kind can
//! be run in a test. It shows that our requests say what they should, not that Google's servers do
//! what they say.
//!
//! It knows what a store asks: objects are put (with `x-goog-if-generation-match: 0` only where none
//! is), read whole or in part, described, deleted and listed in pages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, LAST_MODIFIED, RANGE,
};
use hyper::{Method, Request, Response, StatusCode};
use object_store::path::Path;

use crate::locked;
use crate::loopback::{Loopback, plain};

/// The only bucket.
pub const BUCKET: &str = "double";
/// The token that it lets in.
pub const TOKEN: &str = "token-of-the-double";
const PRECONDITION: &str = "x-goog-if-generation-match";
/// Keys on one page; the real one has a thousand.
const PAGE: usize = 500;
const MOMENT: &str = "Sun, 12 Apr 2026 13:20:00 GMT";

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    generation: u64,
    metadata: HeaderMap,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    generation: u64,
    requests: Vec<String>,
}

/// The double, on loopback until it is dropped.
#[derive(Debug)]
pub struct GoogleDouble {
    loopback: Loopback,
    bucket: Arc<Mutex<Bucket>>,
}

impl GoogleDouble {
    /// Starts one with an empty bucket.
    pub async fn start() -> std::io::Result<Self> {
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        let shared = Arc::clone(&bucket);
        let answer = move |request: Request<Bytes>| {
            let response = answer(&mut locked(&shared), &request);
            std::future::ready(response)
        };
        let loopback = Loopback::serve(answer).await?;
        Ok(Self { loopback, bucket })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        self.loopback.endpoint()
    }

    /// Method and target of every request since the last time.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.bucket).requests)
    }
}

fn answer(bucket: &mut Bucket, request: &Request<Bytes>) -> Response<Bytes> {
    let line = format!("{} {}", request.method(), request.uri());
    bucket.requests.push(line);
    let bearer = format!("Bearer {TOKEN}");
    if request.headers().get(AUTHORIZATION) != HeaderValue::from_str(&bearer).ok().as_ref() {
        return plain(StatusCode::UNAUTHORIZED, "");
    }
    let Some(key) = request.uri().path().strip_prefix(&format!("/{BUCKET}")) else {
        return plain(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    let Some(key) = key.strip_prefix('/').filter(|key| !key.is_empty()) else {
        return list(bucket, request.uri().query().unwrap_or_default());
    };
    let Ok(key) = Path::from_url_path(key).map(String::from) else {
        return plain(StatusCode::BAD_REQUEST, "");
    };
    match *request.method() {
        Method::PUT => put(bucket, key, request),
        Method::GET | Method::HEAD => get(bucket, &key, request),
        Method::DELETE => match bucket.objects.remove(&key) {
            Some(_) => plain(StatusCode::NO_CONTENT, ""),
            None => plain(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
    }
}

fn put(bucket: &mut Bucket, key: String, request: &Request<Bytes>) -> Response<Bytes> {
    let stands = bucket
        .objects
        .get(&key)
        .map_or(0, |object| object.generation);
    if let Some(wanted) = request.headers().get(PRECONDITION)
        && wanted.as_bytes() != stands.to_string().as_bytes()
    {
        return plain(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let kept = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-goog-meta-") || *name == CONTENT_TYPE);
    let metadata = kept
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    bucket.generation += 1;
    let object = Object {
        bytes: request.body().clone(),
        generation: bucket.generation,
        metadata,
    };
    let mut response = plain(StatusCode::OK, "");
    describe(response.headers_mut(), &object);
    bucket.objects.insert(key, object);
    response
}

fn describe(headers: &mut HeaderMap, object: &Object) {
    let tag = format!("\"{}\"", object.generation);
    for (name, value) in [
        ("etag", tag),
        ("x-goog-generation", object.generation.to_string()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

fn get(bucket: &Bucket, key: &str, request: &Request<Bytes>) -> Response<Bytes> {
    let Some(object) = bucket.objects.get(key) else {
        return plain(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let size = object.bytes.len();
    let range = request.headers().get(RANGE).map(|range| {
        let range = range.to_str().ok()?.strip_prefix("bytes=")?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = match (from, to) {
            ("", last) => (size.saturating_sub(last.parse().ok()?), size),
            (from, "") => (from.parse().ok()?, size),
            (from, to) => (from.parse().ok()?, size.min(to.parse::<usize>().ok()? + 1)),
        };
        (from < to).then_some((from, to))
    });
    let mut response = match range {
        None => plain(StatusCode::OK, object.bytes.clone()),
        Some(None) => return plain(StatusCode::RANGE_NOT_SATISFIABLE, ""),
        Some(Some((from, to))) => {
            let mut part = plain(StatusCode::PARTIAL_CONTENT, object.bytes.slice(from..to));
            let range = format!("bytes {from}-{}/{size}", to - 1);
            if let Ok(range) = HeaderValue::from_str(&range) {
                part.headers_mut().insert(CONTENT_RANGE, range);
            }
            part
        }
    };
    let headers = response.headers_mut();
    headers.extend(object.metadata.clone());
    headers.insert(LAST_MODIFIED, HeaderValue::from_static(MOMENT));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    describe(headers, object);
    debug_assert!(headers.contains_key(ETAG));
    if request.method() == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        *response.body_mut() = Bytes::new();
    }
    response
}

fn list(bucket: &Bucket, query: &str) -> Response<Bytes> {
    let parameter = |name: &str| {
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Path::from_url_path(value).ok().map(|decoded| {
            // Paths have no slash at their end, prefixes do.
            let slash = value.ends_with("%2F") || value.ends_with('/');
            format!("{decoded}{}", if slash { "/" } else { "" })
        })
    };
    if parameter("list-type").as_deref() != Some("2") {
        return plain(StatusCode::BAD_REQUEST, "list-type");
    }
    let prefix = parameter("prefix").unwrap_or_default();
    let after = parameter("continuation-token")
        .or_else(|| parameter("start-after"))
        .unwrap_or_default();
    let size = parameter("max-keys").and_then(|size| size.parse().ok());
    let size = size.unwrap_or(PAGE).min(PAGE);
    let mut found = bucket
        .objects
        .range::<str, _>((Bound::Excluded(after.as_str()), Bound::Unbounded))
        .filter(|(key, _)| key.starts_with(&prefix));
    let mut text = String::from("<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>");
    let mut last = None;
    for (key, object) in found.by_ref().take(size) {
        last = Some(key);
        let written = write!(
            text,
            "<Contents><Key>{key}</Key><Generation>{}</Generation><LastModified>\
             2026-04-12T13:20:00.000Z</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
            object.generation,
            object.generation,
            object.bytes.len()
        );
        debug_assert!(written.is_ok(), "text takes everything");
    }
    if let Some(last) = last.filter(|_| found.next().is_some()) {
        text += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    text += "</ListBucketResult>";
    plain(StatusCode::OK, text)
}
