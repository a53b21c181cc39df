//! Errors on the wire: `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! Every variant of [`Error`] has one code and comes out of the other end as the same variant with
//! the same fields. The codes that only a gateway gives become the variant that asks the same of
//! the caller.

use serde::{Deserialize, Serialize};
use statehold_core::digest::Digest;
use statehold_core::path::RepoPath;
use statehold_core::rebase::Overlap;

use crate::error::Error;

/// Most bytes of paths that a conflict lists; a longer list is cut and says so.
const CONFLICT_BYTES_MAX: usize = 1024 * 1024;
/// Largest problem, in bytes: what a client reads of one.
pub const PROBLEM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An error as a gateway sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A name for the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status code, once more.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// What happened, for programs.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What went wrong, by stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Fault {
    /// [`Error::NotFound`]
    NotFound {
        /// Its key.
        object: String,
    },
    /// [`Error::Damaged`]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// [`Error::Conflict`]
    Conflict {
        /// The record that came first.
        number: u64,
        /// The paths, ours and theirs.
        paths: Vec<(RepoPath, RepoPath)>,
        /// Whether there are more than are listed.
        #[serde(default)]
        cut: bool,
    },
    /// [`Error::Refused`]
    Refused {
        /// Which rule.
        reason: String,
    },
    /// [`Error::Denied`]: no valid key.
    Unauthenticated,
    /// [`Error::Denied`]: a valid key that doesn't reach this far.
    Denied {
        /// What is missing.
        reason: String,
    },
    /// [`Error::Unavailable`]
    Unavailable {
        /// What was asked.
        what: String,
        /// Why it failed.
        reason: String,
    },
    /// [`Error::Unknown`]
    Unknown {
        /// The number it would have.
        number: u64,
    },
    /// [`Error::ClockAhead`]
    ClockAhead {
        /// How far, in seconds.
        seconds: u64,
    },
    /// [`Error::Diverged`]
    Diverged {
        /// Where they differ.
        number: u64,
        /// The id that the caller knows.
        expected: Digest,
        /// The id in the log.
        found: Digest,
    },
    /// [`Error::Expired`]
    Expired {
        /// The record.
        number: u64,
        /// The nearest one before it whose state is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// The nearest one after it.
        after: u64,
    },
    /// [`Error::TooNew`]
    TooNew {
        /// What was met.
        what: String,
    },
    /// There is something at the path that is no regular file.
    NotAFile {
        /// What it is.
        what: String,
    },
    /// The file is not, or no longer, what the request says it should be.
    PreconditionFailed,
    /// No part of the file lies in the range asked for.
    UnsatisfiableRange {
        /// Length of the file, in bytes.
        size: u64,
    },
    /// No form that the file can be sent in is acceptable.
    NotAcceptable,
    /// The body comes in a form that is not understood.
    UnsupportedMedia,
    /// The two programs are too far apart.
    VersionMismatch {
        /// The client's version.
        client: String,
        /// The gateway's version.
        gateway: String,
    },
    /// The body is past a limit.
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The body came too slowly, or the answer took too long.
    Timeout,
    /// There is no such address.
    NoRoute,
    /// The address doesn't know the method.
    NoMethod,
    /// A length has to be given in advance.
    LengthRequired,
    /// The gateway has more to do than it can hold.
    Busy,
    /// The gateway failed in a way it has no name for.
    Internal,
    /// A code that this program doesn't know.
    #[serde(other)]
    Other,
}

impl Fault {
    /// The status code, which follows from the code alone.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Refused { .. } => 422,
            Self::Unauthenticated => 401,
            Self::Denied { .. } => 403,
            Self::NotFound { .. } | Self::NoRoute => 404,
            Self::NoMethod => 405,
            Self::NotAcceptable => 406,
            Self::Timeout => 408,
            Self::Conflict { .. } | Self::Diverged { .. } | Self::NotAFile { .. } => 409,
            Self::Expired { .. } => 410,
            Self::LengthRequired => 411,
            Self::PreconditionFailed => 412,
            Self::TooLarge { .. } => 413,
            Self::UnsupportedMedia => 415,
            Self::UnsatisfiableRange { .. } => 416,
            Self::VersionMismatch { .. } => 426,
            Self::Damaged { .. } | Self::Internal | Self::Other => 500,
            Self::TooNew { .. } => 501,
            Self::Unavailable { .. }
            | Self::Unknown { .. }
            | Self::ClockAhead { .. }
            | Self::Busy => 503,
        }
    }

    fn code(&self) -> String {
        let tagged = serde_json::to_value(self).unwrap_or_default();
        tagged["code"].as_str().unwrap_or("other").to_owned()
    }
}

impl Problem {
    /// The problem with the given explanation for people.
    pub fn new(fault: Fault, detail: impl ToString) -> Self {
        Self {
            kind: format!("urn:statehold:problem:{}", fault.code()),
            status: fault.status(),
            detail: detail.to_string(),
            fault,
        }
    }

    /// A request that breaks a rule.
    pub fn refused(reason: impl ToString) -> Self {
        Error::refused(reason).into()
    }

    /// A valid key that doesn't reach this far.
    pub fn denied(reason: impl ToString) -> Self {
        let reason = reason.to_string();
        Error::Denied { reason }.into()
    }

    /// Whether an answer's body says for certain that nothing was done: a gateway that gave up before
    /// it acted explains itself like this. What is no problem is from something in between.
    pub fn says_undone(body: &[u8]) -> bool {
        let fault = serde_json::from_slice(body).map(|problem: Self| problem.fault);
        matches!(
            fault,
            Ok(Fault::Unavailable { .. } | Fault::Busy | Fault::ClockAhead { .. })
        )
    }

    /// The error that a client reports, from the answer's status and body. A body that is no
    /// problem comes from something between client and gateway.
    pub fn read(status: u16, body: &[u8]) -> Error {
        match serde_json::from_slice::<Self>(body) {
            Ok(problem) => problem.into(),
            Err(_) => {
                let what = format!("the gateway (status {status} without an explanation)");
                let source = "something between here and the gateway answered".into();
                match status {
                    401 | 403 => Error::Denied {
                        reason: format!("status {status} without an explanation"),
                    },
                    404 => Error::NotFound { object: what },
                    _ => Error::Unavailable { what, source },
                }
            }
        }
    }

    /// Whether an answer says that there is no such address: an older gateway, or something in front
    /// of it that passes other addresses on.
    pub fn says_no_route(status: u16, body: &[u8]) -> bool {
        status == Fault::NoRoute.status()
            && serde_json::from_slice::<Self>(body)
                .map_or(true, |problem| problem.fault == Fault::NoRoute)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = match &error {
            // The chain behind it is for the operator's log.
            Error::Unavailable { what, .. } => format!("{what} is not available; try again"),
            other => other.to_string(),
        };
        let fault = match error {
            Error::NotFound { object } => Fault::NotFound { object },
            Error::Damaged { object, reason } => Fault::Damaged { object, reason },
            Error::Conflict { number, overlap } => {
                let mut left = CONFLICT_BYTES_MAX;
                let all = overlap.paths.len();
                let fits = |(ours, theirs): &(RepoPath, RepoPath)| {
                    let bytes = ours.as_str().len() + theirs.as_str().len();
                    left.checked_sub(bytes).map(|rest| left = rest).is_some()
                };
                let paths: Vec<_> = overlap.paths.into_iter().take_while(fits).collect();
                let cut = paths.len() < all;
                Fault::Conflict { number, paths, cut }
            }
            Error::Refused { reason } => Fault::Refused { reason },
            Error::Denied { reason } => Fault::Denied { reason },
            Error::Unavailable { what, source } => Fault::Unavailable {
                what,
                reason: source.to_string(),
            },
            Error::Unknown { number } => Fault::Unknown { number },
            Error::ClockAhead { seconds } => Fault::ClockAhead { seconds },
            Error::Diverged {
                number,
                expected,
                found,
            } => Fault::Diverged {
                number,
                expected,
                found,
            },
            // Whoever asks again is given a newer checkpoint.
            error @ Error::Retired { .. } => Fault::Unavailable {
                what: "the newest state".into(),
                reason: error.to_string(),
            },
            Error::Expired {
                number,
                before,
                after,
            } => Fault::Expired {
                number,
                before,
                after,
            },
            Error::TooNew { what } => Fault::TooNew { what },
        };
        Self::new(fault, detail)
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let Problem { detail, fault, .. } = problem;
        match fault {
            Fault::NotFound { object } => Self::NotFound { object },
            Fault::Damaged { object, reason } => Self::Damaged { object, reason },
            Fault::Conflict { number, paths, .. } => Self::Conflict {
                number,
                overlap: Overlap { paths },
            },
            Fault::Refused { reason } => Self::Refused { reason },
            Fault::Denied { reason } => Self::Denied { reason },
            Fault::Unauthenticated => Self::Denied { reason: detail },
            Fault::Unavailable { what, reason } => Self::Unavailable {
                what,
                source: reason.into(),
            },
            Fault::Unknown { number } => Self::Unknown { number },
            Fault::ClockAhead { seconds } => Self::ClockAhead { seconds },
            Fault::Diverged {
                number,
                expected,
                found,
            } => Self::Diverged {
                number,
                expected,
                found,
            },
            Fault::Expired {
                number,
                before,
                after,
            } => Self::Expired {
                number,
                before,
                after,
            },
            Fault::TooNew { what } => Self::TooNew { what },
            Fault::VersionMismatch { .. }
            | Fault::TooLarge { .. }
            | Fault::NotAFile { .. }
            | Fault::PreconditionFailed
            | Fault::UnsatisfiableRange { .. }
            | Fault::NotAcceptable
            | Fault::UnsupportedMedia
            | Fault::LengthRequired
            | Fault::NoRoute
            | Fault::NoMethod => Self::Refused { reason: detail },
            Fault::Timeout | Fault::Busy | Fault::Internal | Fault::Other => Self::Unavailable {
                what: "the gateway".into(),
                source: detail.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(error: Error) -> Error {
        let problem = Problem::from(error);
        let bytes = serde_json::to_vec(&problem).unwrap();
        Problem::read(problem.status, &bytes)
    }

    #[test]
    fn every_error_comes_back_as_itself() {
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let errors = [
            (
                404,
                Error::NotFound {
                    object: "packs/x".into(),
                },
            ),
            (500, Error::damaged("log/1", "it is cut short")),
            (422, Error::refused("a rule")),
            (
                403,
                Error::Denied {
                    reason: "the key may only read".into(),
                },
            ),
            (
                503,
                Error::Unavailable {
                    what: "the store".into(),
                    source: "no answer".into(),
                },
            ),
            (503, Error::Unknown { number: u64::MAX }),
            (503, Error::ClockAhead { seconds: 301 }),
            (
                501,
                Error::TooNew {
                    what: "record 7".into(),
                },
            ),
            (
                409,
                Error::Diverged {
                    number: 3,
                    expected: Digest::of(b"a"),
                    found: Digest::of(b"b"),
                },
            ),
            (
                409,
                Error::Conflict {
                    number: 12,
                    overlap: Overlap {
                        paths: vec![(path("a/ü"), path("A/Ü")), (path("b"), path("b/c"))],
                    },
                },
            ),
        ];
        for (status, error) in errors {
            let expected = format!("{error:?}");
            assert_eq!(
                Problem::from(there_and_back(error)).status,
                status,
                "{expected}"
            );
        }
        let conflict = Error::Conflict {
            number: 12,
            overlap: Overlap {
                paths: vec![(path("a"), path("A"))],
            },
        };
        let expected = format!("{conflict:?}");
        assert_eq!(format!("{:?}", there_and_back(conflict)), expected);
    }

    #[test]
    fn a_long_conflict_is_cut() {
        let long = RepoPath::parse("abcdefg/".repeat(100).trim_end_matches('/')).unwrap();
        let paths = vec![(long.clone(), long); 10_000];
        let overlap = Overlap { paths };
        let problem = Problem::from(Error::Conflict { number: 1, overlap });
        assert!(serde_json::to_vec(&problem).unwrap().len() < PROBLEM_BYTES_MAX);
        assert!(matches!(problem.fault, Fault::Conflict { cut: true, .. }));
    }

    #[test]
    fn unknown_codes_and_strange_answers_are_errors_too() {
        let text = br#"{"type":"x","status":418,"detail":"tea","code":"teapot","size":3}"#;
        assert!(matches!(
            Problem::read(418, text),
            Error::Unavailable { .. }
        ));
        for (status, body) in [
            (502, &b"<html>"[..]),
            (200, b""),
            (500, b"{}"),
            (302, b"[]"),
        ] {
            assert!(matches!(
                Problem::read(status, body),
                Error::Unavailable { .. }
            ));
        }
        assert!(matches!(Problem::read(401, b"no"), Error::Denied { .. }));
        let said = |fault: Fault| {
            let problem = Problem::new(fault, "x");
            let body = serde_json::to_vec(&problem).unwrap();
            Problem::says_no_route(problem.status, &body)
        };
        let object = "packs/x".to_owned();
        assert!(said(Fault::NoRoute) && Problem::says_no_route(404, b"<html>"));
        assert!(!said(Fault::NotFound { object }) && !said(Fault::NoMethod));
        assert!(!Problem::says_no_route(200, b""));
    }

    #[test]
    fn only_an_explanation_says_that_nothing_was_done() {
        let said = |error: Error| serde_json::to_vec(&Problem::from(error)).unwrap();
        let unavailable = Error::Unavailable {
            what: "writing log/1".into(),
            source: "the store's disk is full".into(),
        };
        assert!(Problem::says_undone(&said(unavailable)));
        assert!(Problem::says_undone(&said(Error::ClockAhead {
            seconds: 301
        })));
        assert!(!Problem::says_undone(&said(Error::Unknown { number: 1 })));
        for body in [&b""[..], b"<html>", b"{}"] {
            assert!(!Problem::says_undone(body));
        }
    }
}
