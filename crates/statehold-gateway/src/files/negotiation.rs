//! What a request's headers ask for: a coding, a range, and what has to hold first. Decisions about
//! texts alone, nothing is read here.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// How the bytes of a file are written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// Its name in `Content-Encoding`; none for the bytes as they are.
    pub(crate) const fn token(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    fn named(token: &str) -> Option<Self> {
        // RFC 9110, 8.4.1.3: `x-gzip` is the same.
        let known = [
            ("zstd", Self::Zstd),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("identity", Self::Identity),
        ];
        let found = known
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(token));
        found.map(|(_, coding)| coding)
    }
}

/// The coding of a body that was sent: the one that `Content-Encoding` names. `None` when that is
/// none of ours, or more than one.
pub(crate) fn coding_of_body(headers: &HeaderMap) -> Option<Coding> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    match (named.next(), named.next()) {
        (None, _) => Some(Coding::Identity),
        (Some(value), None) => Coding::named(value.to_str().ok()?.trim()),
        (Some(_), Some(_)) => None,
    }
}

/// The coding to answer in, of those that can be had; `None` when none of them is acceptable.
///
/// What weighs most wins, and the earlier of `codings` among equals (RFC 9110, 12.5.3). A
/// compressed form is sent to those that name it: `*` comes from programs that take what they get
/// and then can't read it. The bytes as they are may be sent unless they are ruled out.
pub(crate) fn choose(headers: &HeaderMap, codings: &[Coding]) -> Option<Coding> {
    let asked = Asked::read(headers);
    let weigh = |coding: &Coding| (asked.weight(*coding), *coding);
    let (weight, best) = codings
        .iter()
        .map(weigh)
        .reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    (weight > 0).then_some(best)
}

/// The weights of `Accept-Encoding`, in thousandths.
#[derive(Debug, Default)]
struct Asked {
    named: Vec<(Coding, u16)>,
    any: Option<u16>,
}

impl Asked {
    fn read(headers: &HeaderMap) -> Self {
        let mut asked = Self::default();
        let values = headers.get_all(header::ACCEPT_ENCODING).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for item in texts.flat_map(|text| text.split(',')) {
            let (token, parameter) = match item.split_once(';') {
                Some((token, parameter)) => (token.trim(), Some(parameter.trim())),
                None => (item.trim(), None),
            };
            // Something that can't be read asks for nothing.
            let Some(weight) = parameter.map_or(Some(1_000), weight) else {
                continue;
            };
            if token == "*" {
                asked.any = Some(weight);
            } else if let Some(coding) = Coding::named(token) {
                asked.named.push((coding, weight));
            }
        }
        asked
    }

    /// How welcome a coding is; 0 when it is not acceptable.
    fn weight(&self, coding: Coding) -> u16 {
        let named = self.named.iter().find(|(named, _)| *named == coding);
        match (named, coding) {
            (Some((_, weight)), _) => *weight,
            (None, Coding::Identity) if self.any == Some(0) => 0,
            // Not ruled out, and less welcome than whatever is asked for.
            (None, Coding::Identity) => 1,
            (None, Coding::Gzip | Coding::Zstd) => 0,
        }
    }
}

/// `q=0.125` in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, rest) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if rest.len() > 3 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{rest:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

/// Which bytes of a file a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of them: no range is named, or none that is understood, or several (RFC 9110, 14.2
    /// leaves that to the server).
    Whole,
    /// These.
    Bytes(Range<u64>),
    /// Bytes that the file doesn't have.
    Beyond,
}

/// The part of a file of this length that `Range` names.
pub(crate) fn part(headers: &HeaderMap, size: u64) -> Part {
    let mut ranges = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else {
        return Part::Whole;
    };
    let set = range.to_str().ok().and_then(|text| text.split_once('='));
    let Some((unit, set)) = set else {
        return Part::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Part::Whole;
    };
    let is_number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if !unit.eq_ignore_ascii_case("bytes") || !is_number(first) || !is_number(last) {
        return Part::Whole;
    }
    // A number past 64 bits is past every file.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let range = match (first, last) {
        ("", "") => return Part::Whole,
        ("", last) => size.saturating_sub(number(last))..size,
        (first, "") => number(first)..size,
        (first, last) if number(last) < number(first) => return Part::Whole,
        (first, last) => number(first)..size.min(number(last).saturating_add(1)),
    };
    if range.is_empty() {
        Part::Beyond
    } else {
        Part::Bytes(range)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_most_welcome_coding_is_chosen() {
        let (identity, gzip, zstd) = (Coding::Identity, Coding::Gzip, Coding::Zstd);
        for (accept, chosen) in [
            (&[][..], Some(identity)),
            (&[""], Some(identity)),
            (&["gzip"], Some(gzip)),
            (&["x-gzip"], Some(gzip)),
            (&["GZIP, deflate, br"], Some(gzip)),
            (&["gzip, deflate, br, zstd"], Some(zstd)),
            (&["gzip", "zstd"], Some(zstd)),
            (&["gzip;q=1.0, zstd;q=0.5"], Some(gzip)),
            (&["gzip;q=0.2,identity;q=0.5"], Some(identity)),
            (&["gzip;q=0"], Some(identity)),
            (&["gzip;q=0.001"], Some(gzip)),
            (&["zstd;q=0, gzip ; q=0.5"], Some(gzip)),
            (&["*"], Some(identity)),
            (&["br"], Some(identity)),
            (&["identity;q=0"], None),
            (&["*;q=0"], None),
            (&["br, *;q=0"], None),
            (&["identity;q=0, gzip;q=0.1"], Some(gzip)),
            (&["*;q=0, identity;q=0.1"], Some(identity)),
            (&["*;q=0, zstd"], Some(zstd)),
            // What can't be read asks for nothing.
            (&["gzip;q=2"], Some(identity)),
            (&["gzip;q=0.1234"], Some(identity)),
            (&["gzip;q=-1, gzip;q=, gzip;level=9"], Some(identity)),
            (&["gzip;q=+1"], Some(identity)),
            (&[",,;,=,;q=1"], Some(identity)),
        ] {
            let headers = headers(header::ACCEPT_ENCODING, accept);
            let found = choose(&headers, &[zstd, gzip, identity]);
            assert_eq!(found, chosen, "{accept:?}");
        }
        // Where compressing gains nothing, the bytes as they are come first among equals.
        let plain_first = [identity, zstd, gzip];
        let all = headers(header::ACCEPT_ENCODING, &["gzip, zstd, identity"]);
        assert_eq!(choose(&all, &plain_first), Some(identity));
    }

    #[test]
    fn one_range_is_understood() {
        let whole = || Part::Whole;
        for (range, size, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0..1)),
            ("bytes=2-4", 10, Part::Bytes(2..5)),
            ("bytes=2-", 10, Part::Bytes(2..10)),
            ("bytes=-3", 10, Part::Bytes(7..10)),
            // More than there is, from the end or to the end, is what there is.
            ("bytes=-30", 10, Part::Bytes(0..10)),
            ("bytes=9-99999999999999999999", 10, Part::Bytes(9..10)),
            ("BYTES=0-1", 10, Part::Bytes(0..2)),
            ("bytes=10-", 10, Part::Beyond),
            ("bytes=10-20", 10, Part::Beyond),
            ("bytes=-0", 10, Part::Beyond),
            ("bytes=0-", 0, Part::Beyond),
            ("bytes=99999999999999999999-", 10, Part::Beyond),
            ("bytes=0-1,3-4", 10, whole()),
            ("bytes=4-2", 10, whole()),
            ("bytes=", 10, whole()),
            ("bytes=-", 10, whole()),
            ("bytes=+1-2", 10, whole()),
            ("bytes=a-b", 10, whole()),
            ("lines=1-2", 10, whole()),
            ("bytes 1-2", 10, whole()),
        ] {
            let headers = headers(header::RANGE, &[range]);
            assert_eq!(part(&headers, size), expected, "{range}");
        }
        let twice = headers(header::RANGE, &["bytes=0-1", "bytes=2-3"]);
        assert_eq!(part(&twice, 10), Part::Whole);
        assert_eq!(part(&HeaderMap::new(), 10), Part::Whole);
    }

    #[test]
    fn a_body_has_one_coding_or_none() {
        for (values, coding) in [
            (&[][..], Some(Coding::Identity)),
            (&["identity"], Some(Coding::Identity)),
            (&["gzip"], Some(Coding::Gzip)),
            (&["ZSTD"], Some(Coding::Zstd)),
            (&["br"], None),
            (&["gzip, zstd"], None),
            (&["gzip", "gzip"], None),
        ] {
            let headers = headers(header::CONTENT_ENCODING, values);
            assert_eq!(coding_of_body(&headers), coding, "{values:?}");
        }
    }
}
