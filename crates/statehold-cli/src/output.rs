//! The only place that prints.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;
use tracing_subscriber::fmt::format;

use crate::exit::Exit;

/// How a command speaks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Output {
    /// One JSON value on standard output instead of text.
    pub(crate) json: bool,
    /// Errors only.
    pub(crate) quiet: bool,
}

impl Output {
    /// A line for people.
    pub(crate) fn line(self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            print(text.as_ref());
        }
    }

    /// Whether a person is looking and wants more than the result.
    pub(crate) fn is_watched(self) -> bool {
        is_watched() && !self.quiet && !self.json
    }

    /// The result for scripts.
    pub(crate) fn value(self, value: &impl Serialize) {
        if self.json {
            print(&serde_json::to_string(value).unwrap_or_else(|error| error.to_string()));
        }
    }

    /// The plan of something that was not confirmed, with why it was not done: one value for scripts, too.
    pub(crate) fn refuse(self, mut plan: Value, why: &str) -> Exit {
        plan["error"] = why.into();
        self.value(&plan);
        complain(&format!("statehold: {why}"));
        Exit::Refused
    }
}

/// A line on standard output. A reader that has gone away is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Bytes on standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// An error with its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A line on standard error.
pub(crate) fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    let _gone = writeln!(out, "{text}");
}

/// Warnings, but for those that say what a command's own messages say too: its report names files
/// that were left as they were, and its error what is wrong with a certificate.
const LOGGED: &str = "warn,statehold_sync::engine::fetch=error,rustls_platform_verifier=off";

/// Logs to standard error, as much as `STATEHOLD_LOG` says. If it says nothing, the warnings are
/// notes for people, unless they are a server's log.
pub(crate) fn start_logging(output: Output, is_server: bool) {
    let asked = tracing_subscriber::EnvFilter::try_from_env("STATEHOLD_LOG");
    let is_for_people = asked.is_err() && !is_server;
    let filter = asked.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_watched())
        .with_writer(std::io::stderr);
    if output.json {
        builder.json().init();
    } else if is_for_people {
        let note = format::debug_fn(|writer, field, value| match field.name() {
            "message" => write!(writer, "note: {value:?}"),
            "error" => write!(writer, ": {value:?}"),
            name => write!(writer, "; {name} {value:?}"),
        });
        builder
            .without_time()
            .with_level(false)
            .with_target(false)
            .fmt_fields(note)
            .init();
    } else {
        builder.init();
    }
}

/// Whether a person is looking at standard error.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// A number of things for people.
pub(crate) fn count(number: u64, what: &str) -> String {
    let many = if number == 1 { "" } else { "s" };
    format!("{number} {what}{many}")
}

/// A size for people: decimal, as the limits are.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut rest = 0;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1_000 {
            return if unit == "B" || value >= 100 {
                format!("{value} {unit}")
            } else {
                format!("{value}.{} {unit}", rest / 100)
            };
        }
        rest = value % 1_000;
        value /= 1_000;
    }
    format!("{value}.{} TB", rest / 100)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_550, "1.5 kB"),
            (123_456, "123 kB"),
            (10_000_000, "10.0 MB"),
            (2_500_000_000_000, "2.5 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
