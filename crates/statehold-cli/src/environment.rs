//! The operating system's clock, randomness and environment: read here and nowhere else.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use statehold_core::environment::{Clock, Entropy};
use statehold_core::time::Timestamp;
use statehold_repository::credentials::{CREDENTIALS_BYTES_MAX, Credentials};
use statehold_repository::location::replica_variable;
use statehold_sync::home::Home;
use zeroize::Zeroizing;

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The system's source of randomness.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // Without randomness there are no keys and no names, and no way to go on safely.
        getrandom::fill(buffer).expect("the operating system gives random bytes");
    }
}

/// Where the user's own files lie: `STATEHOLD_HOME`, or what the system's convention says.
pub(crate) fn home() -> Result<Home> {
    if let Some(home) = variable("STATEHOLD_HOME") {
        let home = PathBuf::from(home);
        return Ok(Home {
            config: home.join("config"),
            runtime: home.join("run"),
        });
    }
    let user = variable("HOME").map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(user.as_ref()?.join(".config")))
        .context("neither STATEHOLD_HOME nor HOME is set, so there is no place for keys")?;
    let runtime = variable("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| config.join("statehold/run"));
    Ok(Home { config, runtime })
}

/// An environment variable that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What standard input gave, where it was asked to hold the store's credentials.
static PIPED: OnceLock<Credentials> = OnceLock::new();

/// Takes the store's credentials from standard input. The environment is not asked for any then.
pub(crate) fn take_credentials() -> Result<()> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin()
        .take(CREDENTIALS_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .context("the credentials cannot be read from standard input")?;
    if read as u64 > CREDENTIALS_BYTES_MAX {
        bail!(
            "more than {CREDENTIALS_BYTES_MAX} bytes stand on standard input instead of credentials"
        );
    }
    let _first = PIPED.set(Credentials::parse(&text)?);
    Ok(())
}

/// Whether the store's credentials came over standard input.
pub(crate) fn credentials_are_piped() -> bool {
    PIPED.get().is_some()
}

/// A variable of a store, from standard input if that was asked for, otherwise from the environment.
pub(crate) fn store_variable(name: &str) -> Option<String> {
    match PIPED.get() {
        Some(piped) => piped.get(name),
        None => variable(name),
    }
}

/// The same for the store to copy to.
pub(crate) fn replica_store_variable(name: &str) -> Option<String> {
    replica_variable(&store_variable, name)
}

/// The machine's name, as other machines will show it.
pub(crate) fn machine_name() -> String {
    variable("STATEHOLD_MACHINE")
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .or_else(|| variable("HOSTNAME"))
        .or_else(|| variable("COMPUTERNAME"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "machine".into())
}
