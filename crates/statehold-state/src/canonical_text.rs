//! Whether a text is canonical JSON: what nodes take from each other, and nothing else.
//!
//! One look at each byte, without parsing numbers that are whole or copying texts. Numbers may be
//! written in any way that JSON has, since versions of libraries differ there.

use crate::limits::VALUE_DEPTH_MAX;

/// Why a text is not canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotCanonical {
    /// It is not JSON, or JSON in another form; the byte from which on.
    At(usize),
    /// It is nested too deeply.
    TooDeep,
}

/// Checks that a text is one JSON value in its canonical form.
pub(crate) fn check(text: &str) -> Result<(), NotCanonical> {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        place: 0,
    };
    scan.value(0)?;
    if scan.place == scan.bytes.len() {
        return Ok(());
    }
    scan.wrong()
}

struct Scan<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Scan<'a> {
    const fn wrong<T>(&self) -> Result<T, NotCanonical> {
        Err(NotCanonical::At(self.place))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.place).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.place += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotCanonical> {
        if self.take(byte) {
            return Ok(());
        }
        self.wrong()
    }

    fn value(&mut self, depth: usize) -> Result<(), NotCanonical> {
        match self.peek() {
            Some(b'"') => self.text().map(drop),
            Some(b'{' | b'[') if depth >= VALUE_DEPTH_MAX => Err(NotCanonical::TooDeep),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotCanonical> {
        if self.bytes[self.place..].starts_with(word) {
            self.place += word.len();
            return Ok(());
        }
        self.wrong()
    }

    fn array(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    /// Each name once, in the order of their bytes.
    fn object(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        let mut last: Option<&[u8]> = None;
        loop {
            let start = self.place;
            let name = self.text()?;
            if last.is_some_and(|last| !is_before(last, name)) {
                return Err(NotCanonical::At(start));
            }
            last = Some(name);
            self.expect(b':')?;
            self.value(depth)?;
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// A text, and what stands between its quotation marks.
    fn text(&mut self) -> Result<&'a [u8], NotCanonical> {
        self.expect(b'"')?;
        let start = self.place;
        loop {
            let rest = &self.bytes[self.place..];
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
            let Some(plain) = rest.iter().position(is_special) else {
                return self.wrong();
            };
            self.place += plain;
            match rest[plain] {
                b'"' => {
                    let inner = &self.bytes[start..self.place];
                    self.place += 1;
                    return Ok(inner);
                }
                b'\\' => match escaped(&rest[plain..]) {
                    Some((_, length)) => self.place += length,
                    None => return self.wrong(),
                },
                _ => return self.wrong(),
            }
        }
    }

    fn digits(&mut self) -> Result<usize, NotCanonical> {
        let start = self.place;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.place += 1;
        }
        match self.place - start {
            0 => self.wrong(),
            count => Ok(count),
        }
    }

    fn number(&mut self) -> Result<(), NotCanonical> {
        /// Fewer digits are never beyond the largest finite number.
        const DIGITS_SAFE: usize = 300;
        let start = self.place;
        self.take(b'-');
        let is_zero = self.peek() == Some(b'0');
        let digits = self.digits()?;
        if is_zero && digits > 1 {
            return Err(NotCanonical::At(start));
        }
        let mut is_sure = digits < DIGITS_SAFE;
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            is_sure = false;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = || std::str::from_utf8(&self.bytes[start..self.place]).ok();
        // What is beyond the largest number could not be read by anybody.
        if is_sure
            || text()
                .and_then(|text| text.parse().ok())
                .is_some_and(f64::is_finite)
        {
            return Ok(());
        }
        Err(NotCanonical::At(start))
    }
}

/// The character that an escape stands for, and how long the escape is, if it is the one in which
/// the canonical form writes that character.
fn escaped(bytes: &[u8]) -> Option<(u8, usize)> {
    let short = |byte| Some((byte, 2));
    match bytes.get(1)? {
        b'"' => short(b'"'),
        b'\\' => short(b'\\'),
        b'b' => short(0x08),
        b't' => short(b'\t'),
        b'n' => short(b'\n'),
        b'f' => short(0x0c),
        b'r' => short(b'\r'),
        b'u' => {
            let digits = bytes.get(2..6)?;
            let is_lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let text = std::str::from_utf8(digits.strip_prefix(b"00")?).ok()?;
            let byte = u8::from_str_radix(text, 16).ok()?;
            let has_short = matches!(byte, 0x08 | b'\t' | b'\n' | 0x0c | b'\r');
            (digits.iter().all(is_lower) && byte < 0x20 && !has_short).then_some((byte, 6))
        }
        _ => None,
    }
}

/// Whether one name comes before another, by the bytes that they stand for.
fn is_before(one: &[u8], other: &[u8]) -> bool {
    if one.contains(&b'\\') || other.contains(&b'\\') {
        return plain(one) < plain(other);
    }
    one < other
}

/// What stands between quotation marks, without its escapes.
fn plain(inner: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(inner.len());
    let mut place = 0;
    while let Some(byte) = inner.get(place) {
        let (byte, length) = match byte {
            b'\\' => escaped(&inner[place..]).unwrap_or((b'\\', 1)),
            byte => (*byte, 1),
        };
        plain.push(byte);
        place += length;
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::canonical::Canonical;

    #[test]
    fn what_nobody_could_read_or_equals_something_else_is_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "+1",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e999",
            "-1e999",
            "tru",
            "nul",
            "NaN",
            "[1,]",
            "[,1]",
            "[1 ]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" :1}",
            "\"\n\"",
            "\"",
            "\"\\ud800\"",
            "\"\\u0041\"",
            "\"\\u000A\"",
            "\"\\u000a\"",
            "\"\\/\"",
            "\"\\x\"",
            "\"\\u00",
            "{\"b\":1,\"a\":2}",
            "{\"a\":1,\"a\":2}",
            "{\"a\\n\":1,\"a\\t\":2}",
            "1 2",
        ] {
            assert!(check(text).is_err(), "{text:?}");
        }
        assert!(check(&"9".repeat(400)).is_err());
        for text in [
            "0",
            "-0",
            "1.50",
            "1E5",
            "1e-999",
            "18446744073709551615",
            "1e300",
            "{\"\\u0000\":1,\"\\t\":2,\" \":3,\"a\\\"\":{},\"aa\":[]}",
            "\"\u{7f}ä😀/\"",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        assert!(check(&"9".repeat(309 - 1)).is_ok());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x7f]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            let names = prop_oneof![any::<String>(), "[\\x00-\\x7f]{0,3}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(names, inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_kept_is_taken_elsewhere(value in values()) {
            let canonical = Canonical::of(&value).unwrap();
            prop_assert_eq!(check(canonical.as_str()), Ok(()));
        }

        /// What passes is JSON that everybody can read, and reading it loses nothing.
        #[test]
        fn whatever_is_taken_can_be_read(
            value in values(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut text = Canonical::of(&value).unwrap().as_str().as_bytes().to_vec();
            for (place, byte) in edits {
                let place = place.index(text.len());
                text[place] = byte;
            }
            if let Ok(text) = std::str::from_utf8(&text) && check(text).is_ok() {
                let read: Value = serde_json::from_str(text).unwrap();
                let again = Canonical::of(&json!(read)).unwrap();
                let numbers = |text: &str| text.contains(|c: char| c.is_ascii_digit());
                prop_assert!(again.as_str() == text || numbers(text), "{text}");
            }
        }
    }
}
