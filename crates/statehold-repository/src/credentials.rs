//! A store's credentials as text, as an operator pipes them into one command.
//!
//! They are the same variables that the environment would hold ([`crate::location`]), as lines of
//! `NAME=VALUE` or as one JSON object. Errors name a line and never repeat what stands there: it may
//! be a secret without its name.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::location::is_variable;

/// Longest text that is read, in bytes: room for a service account's key many times over.
pub const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;

/// Variables of a store by name. Shown without their values.
#[derive(Default)]
pub struct Credentials(BTreeMap<String, Zeroizing<String>>);

/// Text that holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the credentials cannot be used: {reason}")]
pub struct InvalidCredentials {
    /// What is wrong with them, without anything that may be a secret.
    pub reason: String,
}

fn invalid(reason: impl Into<String>) -> InvalidCredentials {
    let reason = reason.into();
    InvalidCredentials { reason }
}

impl Credentials {
    /// Reads `NAME=VALUE` lines, as files of variables have them, or a JSON object of strings.
    pub fn parse(text: &str) -> Result<Self, InvalidCredentials> {
        let found: BTreeMap<_, _> = if text.trim_start().starts_with('{') {
            let read: BTreeMap<String, String> = serde_json::from_str(text)
                .map_err(|_| invalid("this is no JSON object of strings"))?;
            let kept = |(name, value)| (name, Zeroizing::new(value));
            read.into_iter().map(kept).collect()
        } else {
            let lines = text.lines().enumerate();
            let lines = lines.map(|(number, line)| (number + 1, line.trim()));
            lines
                .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
                .map(|(number, line)| {
                    let line = line.strip_prefix("export ").unwrap_or(line);
                    let (name, value) = line
                        .split_once('=')
                        .ok_or_else(|| invalid(format!("line {number} is no NAME=VALUE")))?;
                    let value = Zeroizing::new(unquoted(value.trim()).to_owned());
                    Ok((name.trim().to_owned(), value))
                })
                .collect::<Result<_, _>>()?
        };
        if found.is_empty() {
            return Err(invalid("there are none"));
        }
        if !found.keys().all(|name| is_variable(name)) {
            let reason = "a name among them is not a variable that a store knows; names are like \
                          AWS_ACCESS_KEY_ID, and docs/stores.md lists them";
            return Err(invalid(reason));
        }
        Ok(Self(found))
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| value.as_str().to_owned())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn unquoted(value: &str) -> &str {
    let inside = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_say_the_same() {
        for text in [
            "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=se=cret\n",
            "# the team's\r\nexport AWS_ACCESS_KEY_ID=\"id\"\r\n\r\n AWS_SECRET_ACCESS_KEY = 'se=cret'",
            r#" {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "se=cret"}"#,
        ] {
            let read = Credentials::parse(text).unwrap();
            assert_eq!(read.get("AWS_ACCESS_KEY_ID").as_deref(), Some("id"));
            let secret = read.get("AWS_SECRET_ACCESS_KEY");
            assert_eq!(secret.as_deref(), Some("se=cret"), "{text}");
            assert_eq!(read.get("AWS_REGION"), None);
            assert!(!format!("{read:?}").contains("cret"));
        }
    }

    #[test]
    fn what_holds_none_is_refused_without_being_repeated() {
        for (text, said) in [
            ("", "there are none"),
            ("# nothing\n", "there are none"),
            ("hunter2", "line 1 is no NAME=VALUE"),
            ("AWS_REGION=x\nhunter2", "line 2 is no NAME=VALUE"),
            ("hunter2==", "not a variable"),
            ("PATH=/bin", "not a variable"),
            ("{\"AWS_REGION\": hunter2}", "no JSON object"),
            ("{\"AWS_REGION\": {\"x\": \"hunter2\"}}", "no JSON object"),
            ("{\"hunter2\": \"x\"}", "not a variable"),
        ] {
            let refused = Credentials::parse(text).unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
