//! Exit codes, in one table, and the one function that finds the code of an error.

use std::process::ExitCode;

use statehold_core::event::Outcome;
use statehold_repository::Error as RepositoryError;
use statehold_repository::wire::key::InvalidKey;
use statehold_state::Error as StateError;
use statehold_sync::engine::EngineError;
use statehold_sync::gateway_client::CertificateError;
use statehold_sync::home::KeyError;
use statehold_sync::manifest_file::ManifestFileError;
use statehold_sync::workspace::WorkspaceError;

/// How a command ends. `docs/operations.md` shows the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Turned down by a rule; with `--exit-code`, differences were found.
    Refused = 1,
    /// The command line was wrong.
    Usage = 2,
    /// Both sides changed the same path.
    Conflict = 3,
    /// Done but for some paths, which are named.
    Partial = 4,
    /// The key is missing, wrong, expired or doesn't reach this far.
    Authentication = 5,
    /// The store or the gateway can't be reached.
    Unavailable = 6,
    /// Data is damaged.
    Damaged = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command line that is well formed and asks for what can't be.
#[derive(Debug)]
pub(crate) struct WrongUsage(String);

impl WrongUsage {
    /// The error with this explanation.
    pub(crate) fn because(reason: impl Into<String>) -> anyhow::Error {
        Self(reason.into()).into()
    }
}

impl std::fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

impl Exit {
    /// The code for what a run came to.
    pub(crate) const fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done | Outcome::Nothing | Outcome::Dry | Outcome::Deferred => Self::Done,
            Outcome::Refused => Self::Refused,
            Outcome::Conflict => Self::Conflict,
            Outcome::Partial => Self::Partial,
            Outcome::Failed => Self::Unavailable,
        }
    }

    /// The code for an error, by the first cause in the chain that has one.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if cause.is::<WrongUsage>() {
                return Self::Usage;
            }
            if let Some(error) = cause.downcast_ref::<RepositoryError>() {
                return Self::of_repository(error);
            }
            if cause.is::<KeyError>() || cause.is::<InvalidKey>() {
                return Self::Authentication;
            }
            if let Some(error) = cause.downcast_ref::<StateError>() {
                return Self::of_state(error);
            }
            if let Some(EngineError::Remote(error)) = cause.downcast_ref::<EngineError>() {
                return Self::of_repository(error);
            }
        }
        Self::Refused
    }

    /// The code for what went wrong with application state.
    const fn of_state(error: &StateError) -> Self {
        match error {
            StateError::InvalidName { .. } | StateError::Value { .. } => Self::Usage,
            StateError::InUse { .. } => Self::Unavailable,
            StateError::Damaged { .. } | StateError::Malformed(_) | StateError::Refused(_) => {
                Self::Damaged
            }
            _ => Self::Refused,
        }
    }

    /// The code for what went wrong in a repository.
    pub(crate) fn of_repository(error: &RepositoryError) -> Self {
        match error {
            RepositoryError::Denied { .. } => Self::Authentication,
            RepositoryError::Unavailable { .. }
            | RepositoryError::Unknown { .. }
            | RepositoryError::Retired { .. }
            | RepositoryError::ClockAhead { .. } => Self::Unavailable,
            RepositoryError::Damaged { .. } => Self::Damaged,
            RepositoryError::NotFound { object } if is_stored(object) => Self::Damaged,
            RepositoryError::NotFound { .. } => Self::Refused,
            RepositoryError::Conflict { .. } => Self::Conflict,
            RepositoryError::Refused { .. }
            | RepositoryError::Expired { .. }
            | RepositoryError::Diverged { .. }
            | RepositoryError::TooNew { .. } => Self::Refused,
        }
    }
}

/// Whether the name is that of an object that a repository needs, and not of a key or tenant that
/// somebody asked for.
fn is_stored(object: &str) -> bool {
    object.contains('/')
}

/// What a person can do about an error, where there is something.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&'static str> {
    hint_here(error).or_else(|| hint_there(error))
}

/// The same, where the cause lies on this machine.
fn hint_here(error: &anyhow::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{
        AddrInUse, AddrNotAvailable, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    const NEWER: &str = "install a newer statehold and run the command again";
    error.chain().find_map(|cause| {
        let engine = cause.downcast_ref::<EngineError>();
        let workspace = match engine {
            Some(EngineError::Workspace(error)) => Some(error),
            _ => cause.downcast_ref::<WorkspaceError>(),
        };
        match workspace {
            Some(WorkspaceError::Settings { .. }) => {
                return Some(
                    "restore the file from a copy, or `statehold init` in a fresh folder, link it \
                     and pull",
                );
            }
            Some(WorkspaceError::Rules { .. } | WorkspaceError::Ignore(_)) => {
                return Some("correct the file and run the command again; nothing moves before");
            }
            Some(WorkspaceError::TooNew { .. }) => return Some(NEWER),
            _ => {}
        }
        if let Some(EngineError::Manifest(ManifestFileError::Content { .. })) = engine {
            return Some(NEWER);
        }
        match cause.downcast_ref::<std::io::Error>()?.kind() {
            StorageFull | QuotaExceeded => Some(
                "make room on that disk and run the same command again; it goes on where it stopped",
            ),
            ReadOnlyFilesystem | PermissionDenied => Some(
                "make the place named writable for this user and run the same command again",
            ),
            AddrInUse => Some(
                "another program listens there, perhaps a gateway that runs already; stop it, or \
                 choose another address with --listen",
            ),
            AddrNotAvailable => {
                Some("this machine has no such address; choose another with --listen")
            }
            _ => None,
        }
    })
}

/// What to do about a gateway's certificate.
const fn certificate_hint(error: Option<&CertificateError>) -> &'static str {
    match error {
        Some(CertificateError::UnknownAuthority) => {
            "if an authority of your own made it, name the authority's PEM file in STATEHOLD_CA; if \
             not, somebody else may be answering"
        }
        Some(CertificateError::Authority) => {
            "whoever runs the gateway makes another one, with basicConstraints=CA:FALSE: \
             `openssl req -x509` makes an authority's unless it is told; once that serves, \
             STATEHOLD_CA names it here"
        }
        Some(CertificateError::Time { .. }) => {
            "whoever runs the gateway renews it; if it should be valid, set this machine's clock"
        }
        Some(CertificateError::Name { .. }) => {
            "use an address with a name that the certificate holds, or have one made for this name"
        }
        Some(CertificateError::Other { .. }) | None => {
            "ask whoever runs the gateway for a certificate that is accepted; STATEHOLD_CA names a \
             PEM file with an authority of your own"
        }
    }
}

/// The same, where the cause lies in the repository, its store or its gateway.
fn hint_there(error: &anyhow::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    error.chain().find_map(|cause| {
        let error = match cause.downcast_ref::<EngineError>() {
            Some(EngineError::Remote(error)) => Some(error),
            _ => cause.downcast_ref::<RepositoryError>(),
        };
        Some(match error? {
            RepositoryError::Conflict { .. } => "run `statehold pull`, then push again",
            // The operator's side: the message names the variables, and no access key would help.
            RepositoryError::Denied { reason } if reason.contains("credentials for the store") => {
                return None;
            }
            RepositoryError::Denied { reason } if reason.contains("role") => {
                "the key is right, and its role too low; an owner or operator makes an invite of the \
                 role it takes, with `--role`: `statehold unlink`, and link with that"
            }
            RepositoryError::Denied { .. } => {
                "check the key: `statehold unlink` and `statehold link URL` with a new invite give this \
                 machine another"
            }
            RepositoryError::Unavailable { source, .. } if source.is::<CertificateError>() => {
                certificate_hint(source.downcast_ref())
            }
            RepositoryError::Unavailable { source, .. }
                if source
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| matches!(error.kind(), NotFound | NotADirectory)) =>
            {
                "check the path named and run the command again"
            }
            RepositoryError::Unavailable { .. } => {
                "nothing is lost; run the same command again once that has passed"
            }
            RepositoryError::Expired { .. } => {
                "ask for one of the records named; `statehold snapshot` keeps a state for as long as \
                 it is wanted"
            }
            RepositoryError::Retired { .. } => "run the same command again",
            RepositoryError::Unknown { .. } => {
                "run the same command again; it settles what happened"
            }
            RepositoryError::ClockAhead { .. } => {
                "nothing is lost; set the clock of the gateway's machine, or of this one if there is \
                 no gateway, and run the same command again"
            }
            RepositoryError::NotFound { object } if !is_stored(object) => return None,
            RepositoryError::Damaged { .. } | RepositoryError::NotFound { .. } => {
                "the files that need it stay as they are here; `statehold verify` names them, and \
                 `statehold repair`, by whoever reaches the store, brings the object back from a \
                 copy or a workspace"
            }
            RepositoryError::TooNew { .. } => "install a newer statehold and run the command again",
            RepositoryError::Diverged { .. } => {
                "this workspace knows another history than the repository has; \
                 ask whoever runs the gateway before you go on"
            }
            RepositoryError::Refused { .. } => return None,
        })
    })
}
