//! Problems as HTTP answers: the one place where causes become status codes and headers.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headers::{ContentRange, HeaderMapExt as _};
use statehold_repository::Error;
use statehold_repository::wire::MEDIA_PROBLEM;
use statehold_repository::wire::problem::{Fault, Problem};

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    pub(crate) fn new(fault: Fault, detail: impl ToString) -> Self {
        Self(Box::new(Problem::new(fault, detail)))
    }

    /// The one answer to every key that opens nothing, whatever the reason.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(Fault::Unauthenticated, "a valid key is needed")
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let fault = Fault::TooLarge {
            limit: limit as u64,
        };
        Self::new(fault, format!("the body is larger than {limit} bytes"))
    }

    pub(crate) fn busy() -> Self {
        Self::new(Fault::Busy, "the gateway is busy; try again")
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

/// As much of a cause as clients may know.
fn public_cause(source: &(dyn std::error::Error + 'static)) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut cause = Some(source);
    while let Some(error) = cause {
        match error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
        {
            Some(StorageFull | QuotaExceeded) => return "the store's disk is full",
            Some(ReadOnlyFilesystem | PermissionDenied) => {
                return "the gateway may not write to its store";
            }
            _ => cause = error.source(),
        }
    }
    "see the gateway's log"
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if let Error::Unavailable { source, what } = &error {
            tracing::warn!(what, cause = %source, "something is not available");
        } else if let Error::ClockAhead { .. } = &error {
            tracing::error!(%error, "an append was refused; set this machine's clock");
        } else if let Error::Damaged { .. } | Error::TooNew { .. } = &error {
            tracing::error!(%error, "a request met something that cannot be read");
        }
        // What the store says can name its places and credentials, which is not for clients.
        Self::from(Problem::from(match error {
            Error::Unavailable { what, source } => Error::Unavailable {
                what,
                source: public_cause(&*source).into(),
            },
            Error::Denied { .. } => Error::Unavailable {
                what: "the store".into(),
                source: "it denies access to the gateway; see the gateway's log".into(),
            },
            other => other,
        }))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(MEDIA_PROBLEM),
        );
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                let codings = HeaderValue::from_static("gzip, zstd");
                headers.insert(header::ACCEPT_ENCODING, codings);
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Fault::UnsatisfiableRange { size } = problem.fault {
            headers.typed_insert(ContentRange::unsatisfied_bytes(size));
        }
        response
    }
}
