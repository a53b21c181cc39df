//! What every request passes before a handler sees it, and every answer after.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use statehold_repository::wire::HEADER_VERSION;
use statehold_repository::wire::key::{INVITE_PREFIX, KEY_PREFIX};
use statehold_repository::wire::problem::{Fault, Problem};
use statehold_repository::wire::version::{OWN, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Requests under way at once; further ones are asked to come back.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Memory for request bodies is given out in units of this many bytes.
const BODY_UNIT_BYTES: usize = 64 * 1024;
/// Units of memory for request bodies: 512 MiB.
pub(crate) const BODY_UNITS_MAX: usize = 8 * 1024;
/// Units of memory for files on their way out, 512 MiB: separate, so that nobody who reads slowly
/// keeps others from writing.
pub(crate) const ANSWER_UNITS_MAX: usize = 8 * 1024;
/// How long a request waits for memory for its body or its answer.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// How long a request may take in all, its body included. The largest body passes in this time
/// over a line of one megabit per second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// A body is watched over windows of this length.
const BODY_WINDOW: Duration = Duration::from_secs(10);
/// What has to arrive in each window, in bytes: one KiB per second.
const BODY_WINDOW_BYTES: usize = 10 * 1024;

/// Passes a request on, or refuses it.
pub(crate) async fn guard(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    // The pattern, not the address itself: what a client puts there is not for the log.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let probe = route
        .as_ref()
        .is_some_and(|route| matches!(route.as_str(), "/livez" | "/readyz"));
    let permit = match Arc::clone(gateway.requests()).try_acquire_owned() {
        Ok(permit) => Some(permit),
        // Whether it is alive and ready has to be known when it is busy above all.
        Err(_) if probe => None,
        Err(_) => return dress(Refusal::busy().into_response(), None),
    };
    let response = match check(&request) {
        Err(refusal) => refusal.into_response(),
        Ok(()) => {
            let run = AssertUnwindSafe(next.run(request)).catch_unwind();
            match timeout(REQUEST_TIMEOUT, run).await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) => {
                    tracing::error!(%method, "a handler panicked");
                    Refusal::new(Fault::Internal, "the gateway failed; see its log").into_response()
                }
                Err(_) => Refusal::new(Fault::Timeout, "it took too long").into_response(),
            }
        }
    };
    // One that goes on has a bound of its own, and takes nobody's place here.
    let goes_on = response.extensions().get::<GoesOn>().is_some();
    let permit = permit.filter(|_| !goes_on);
    let route = route.as_ref().map_or("none", |route| route.as_str());
    let (status, took) = (response.status().as_u16(), started.elapsed());
    tracing::info!(%method, route, status, took_ms = took.as_millis(), "request");
    dress(response, permit)
}

/// Marks an answer that goes on for longer than a request may, and is counted where it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoesOn;

/// Headers that every answer has. The permit is given back when the answer has been sent.
fn dress(response: Response, permit: Option<OwnedSemaphorePermit>) -> Response {
    let mut response = response.map(|body| {
        Body::new(Held {
            body,
            _permit: permit,
        })
    });
    let headers = response.headers_mut();
    headers.insert(HEADER_VERSION, HeaderValue::from_static(OWN));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn check(request: &Request) -> Result<(), Refusal> {
    // hyper drops Content-Length when both are sent and reads the body by chunks, while something
    // in front may have read it by length. Every body here has a length known in advance, so
    // chunked ones are refused altogether, and with them every request that two programs could
    // take for different ones.
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        let fault = Fault::LengthRequired;
        return Err(Refusal::new(fault, "send the body with a Content-Length"));
    }
    let query = request.uri().query().unwrap_or_default();
    if query.contains(KEY_PREFIX) || query.contains(INVITE_PREFIX) {
        let reason = "a key belongs into the Authorization header; \
                      the one in this address may have been logged on its way: revoke it";
        return Err(Problem::refused(reason).into());
    }
    check_version(request.headers())
}

/// A client that doesn't say its version is no program of ours, and takes what it gets.
fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(header) = headers.get(HEADER_VERSION) else {
        return Ok(());
    };
    let text = header.to_str().unwrap_or_default();
    let version: Version = text.parse().map_err(Problem::refused)?;
    if version.understands(Version::own()) {
        return Ok(());
    }
    let own = Version::own();
    let next = if version < own {
        format!("install statehold {own} (the gateway's version) on this machine")
    } else {
        format!("install statehold {version} (this machine's version) on the gateway's machine")
    };
    let detail = format!("this client is version {version} and the gateway is {own}; {next}");
    let fault = Fault::VersionMismatch {
        client: version.to_string(),
        gateway: OWN.to_owned(),
    };
    Err(Refusal::new(fault, detail))
}

/// A body in memory, and the memory it was given.
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    pub(crate) memory: OwnedSemaphorePermit,
}

/// Reads a body of at most so many bytes. It has to come at a minimum rate.
pub(crate) async fn take_body(
    gateway: &Gateway,
    body: Body,
    limit: usize,
) -> Result<Taken, Refusal> {
    let announced = body.size_hint().exact().ok_or_else(|| {
        Refusal::new(Fault::LengthRequired, "send the body with a Content-Length")
    })?;
    let len = usize::try_from(announced).ok().filter(|len| *len <= limit);
    let len = len.ok_or_else(|| Refusal::too_large(limit))?;
    let memory = memory_for(gateway.bodies(), len).await?;
    let mut body = body;
    let mut bytes = BytesMut::with_capacity(len);
    let (mut window, mut window_bytes) = (Instant::now(), 0);
    while bytes.len() < len || !body.is_end_stream() {
        let deadline = window + BODY_WINDOW;
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => Some(frame),
            Ok(Some(Err(_))) => return Err(Problem::refused("the body was cut short").into()),
            Err(_) => None,
        };
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            window_bytes += data.len();
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > limit {
            return Err(Refusal::too_large(limit));
        }
        if Instant::now() >= deadline {
            if window_bytes < BODY_WINDOW_BYTES {
                let detail = "the body came too slowly";
                return Err(Refusal::new(Fault::Timeout, detail));
            }
            (window, window_bytes) = (Instant::now(), 0);
        }
    }
    if bytes.len() != len {
        return Err(Problem::refused("the body was cut short").into());
    }
    Ok(Taken {
        bytes: bytes.freeze(),
        memory,
    })
}

pub(crate) async fn memory_for(
    bodies: &Arc<Semaphore>,
    len: usize,
) -> Result<OwnedSemaphorePermit, Refusal> {
    let units = u32::try_from(len.div_ceil(BODY_UNIT_BYTES)).unwrap_or(u32::MAX);
    let wait = Arc::clone(bodies).acquire_many_owned(units);
    match timeout(BODY_WAIT, wait).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::busy()),
    }
}

/// A body that holds a permit until it has been sent or given up.
struct Held {
    body: Body,
    _permit: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What answers addresses that don't exist.
pub(crate) async fn no_route() -> Result<Infallible, Refusal> {
    Err(Refusal::new(Fault::NoRoute, "there is nothing here"))
}

/// What answers methods that an address doesn't know.
pub(crate) async fn no_method() -> Result<Infallible, Refusal> {
    Err(Refusal::new(
        Fault::NoMethod,
        "this address does not know the method",
    ))
}
