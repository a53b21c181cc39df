//! Moments: milliseconds for records, nanoseconds for files.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2026-04-15T18:00:00Z, found {found:?}")]
pub struct InvalidTime {
    /// What stood there, cut to 80 characters.
    pub found: String,
}

fn parse_rfc3339(text: &str) -> Result<jiff::Timestamp, InvalidTime> {
    text.parse().map_err(|_| InvalidTime {
        found: text.chars().take(80).collect(),
    })
}

/// A moment in UTC with a resolution of one millisecond, as records carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many milliseconds after 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment to the second as part of a file's name, without colons: `2026-04-15T18-00-00Z`.
    pub fn to_file_name(self) -> String {
        let text = self.to_string();
        let seconds = text.split('.').next().unwrap_or(&text);
        format!("{}Z", seconds.replace(':', "-"))
    }

    /// Reads what [`Self::to_file_name`] wrote.
    pub fn from_file_name(text: &str) -> Option<Self> {
        let (date, time) = text.split_once('T')?;
        let time = time.strip_suffix('Z')?.replace('-', ":");
        let moment: Self = format!("{date}T{time}Z").parse().ok()?;
        (moment.to_file_name() == text).then_some(moment)
    }

    /// Months since the year 0, in UTC.
    pub fn month(self) -> i32 {
        let moment = self.to_jiff().to_zoned(jiff::tz::TimeZone::UTC);
        i32::from(moment.year()) * 12 + i32::from(moment.month()) - 1
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }

    /// The moment that the `Date` of an HTTP answer names, like `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let date = jiff::fmt::rfc2822::parse(text).ok()?;
        Some(Self(date.timestamp().as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_jiff())
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rfc3339(text).map(|moment| Self(moment.as_millisecond()))
    }
}

/// When a file was last changed, in nanoseconds. Carried along and shown; never decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    seconds: i64,
    nanoseconds: u32,
}

impl Mtime {
    /// The moment these seconds after 1970, plus these nanoseconds. Values outside the years
    /// -9999 to 9999 are moved to the nearest end, since text could not hold them.
    pub fn new(seconds: i64, nanoseconds: u32) -> Self {
        let seconds = seconds.clamp(
            jiff::Timestamp::MIN.as_second(),
            jiff::Timestamp::MAX.as_second(),
        );
        Self {
            seconds,
            nanoseconds: nanoseconds.min(999_999_999),
        }
    }

    /// Whole seconds since 1970, rounded towards the past.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after [`Self::seconds`].
    pub const fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }
}

impl fmt::Display for Mtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = i32::try_from(self.nanoseconds).unwrap_or(0);
        match jiff::Timestamp::new(self.seconds, nanoseconds) {
            Ok(moment) => write!(f, "{moment}"),
            Err(_) => write!(f, "{}", jiff::Timestamp::MAX),
        }
    }
}

impl FromStr for Mtime {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = parse_rfc3339(text)?;
        let nanoseconds = moment.as_nanosecond().rem_euclid(1_000_000_000);
        let seconds = moment.as_nanosecond().div_euclid(1_000_000_000);
        Ok(Self {
            seconds: i64::try_from(seconds).unwrap_or_default(),
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

impl Serialize for Mtime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.seconds, self.nanoseconds).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Mtime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            <(i64, u32)>::deserialize(deserializer).map(|(s, n)| Self::new(s, n))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_through_text() {
        for millis in [0, 1, -1, 1_776_268_800_123, 4_294_967_296_000] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(time.to_string().parse(), Ok(time), "{time}");
        }
        assert_eq!(
            Timestamp::from_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn times_can_be_part_of_a_file_name() {
        let time: Timestamp = "2026-04-15T18:00:00.123Z".parse().unwrap();
        assert_eq!(time.to_file_name(), "2026-04-15T18-00-00Z");
        let read = Timestamp::from_file_name("2026-04-15T18-00-00Z").unwrap();
        assert_eq!(read.to_string(), "2026-04-15T18:00:00.000Z");
        for wrong in [
            "",
            "T",
            "2026-04-15T18:00:00Z",
            "2026-04-15T18-00-00.1Z",
            "2026-04-15T18-00Z",
        ] {
            assert_eq!(Timestamp::from_file_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_of_answers_are_read() {
        let date = Timestamp::from_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date, Some(Timestamp::from_millis(784_111_777_000)));
        for wrong in ["", "yesterday", "784111777", "1994-11-06T08:49:37Z"] {
            assert_eq!(Timestamp::from_http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn file_times_keep_nanoseconds_in_every_century() {
        let years = [
            -62_135_596_800,
            -1,
            0,
            1_776_268_800,
            4_294_967_296,
            253_402_207_199,
        ];
        for seconds in years {
            for nanoseconds in [0, 1, 123_456_789, 999_999_999] {
                let time = Mtime::new(seconds, nanoseconds);
                assert_eq!(time.to_string().parse(), Ok(time), "{time}");
            }
        }
        assert!(Mtime::new(i64::MAX, 0).to_string().starts_with("9999-"));
        assert!(Mtime::new(i64::MIN, 0).to_string().parse::<Mtime>().is_ok());
    }
}
