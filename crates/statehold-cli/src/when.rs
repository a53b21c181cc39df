//! Points in history as people type them: a record's number, a snapshot, a moment.

use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp as Moment, Zoned};
use statehold_core::point::Point;
use statehold_core::snapshot::SnapshotId;
use statehold_core::state::State;
use statehold_core::time::Timestamp;

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// The number of a record.
    Record(u64),
    /// A moment, in whatever zone it was given.
    Time(Timestamp),
    /// A snapshot's name or label; only the repository knows whether there is one.
    Snapshot(String),
}

/// What `--help` says of it.
pub(crate) const FORMS: &str = "a record's number, a snapshot's name or label, a time like \
                                2026-04-15T18:00:00Z or \"2026-04-15 18:00\" (of your zone), or \
                                an age like \"2 hours ago\"";

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, &Zoned::now())
    }
}

impl When {
    fn parse(text: &str, now: &Zoned) -> Result<Self, String> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().map(Self::Record);
            return number.map_err(|_| format!("{text} is no record's number; they are smaller"));
        }
        if let Some(moment) = moment(text, now) {
            return Ok(Self::Time(Timestamp::from_millis(moment.as_millisecond())));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !text.is_empty() && text.bytes().all(is_name) {
            return Ok(Self::Snapshot(text.to_owned()));
        }
        Err(format!(
            "{text:?} names no point in history; that is {FORMS}"
        ))
    }

    /// The point that is meant in a repository.
    pub(crate) fn point(&self, state: &State) -> Result<Point> {
        match self {
            Self::Record(number) => Ok(Point::Record(*number)),
            Self::Time(time) => Ok(Point::Time(*time)),
            Self::Snapshot(name) => {
                let id = find_snapshot(state, name).map_err(|error| {
                    anyhow!("{error}; a time is written like 2026-04-15T18:00:00Z, an age like \"2 hours ago\"")
                })?;
                let at = state.snapshots.get(id).map(|snapshot| snapshot.at);
                Ok(Point::Record(at.unwrap_or_default()))
            }
        }
    }
}

/// The snapshot of this name, or the only one with this label.
pub(crate) fn find_snapshot<'a>(state: &'a State, name: &str) -> Result<&'a SnapshotId> {
    let mut named = state.snapshots.keys().filter(|id| id.as_str() == name);
    if let Some(id) = named.next() {
        return Ok(id);
    }
    let labelled: Vec<&SnapshotId> = state
        .snapshots
        .keys()
        .filter(|id| id.label() == name)
        .collect();
    match &labelled[..] {
        [id] => Ok(id),
        [] => bail!("there is no snapshot {name}; `statehold snapshot list` shows those there are"),
        [.., last] => bail!(
            "{} snapshots have the label {name}; name one in full, like {last}",
            labelled.len()
        ),
    }
}

/// The moment that a text means; times without a zone are of the user's. A second means its end: times are shown
/// without fractions, and what was shown as of a second is in the state at it.
fn moment(text: &str, now: &Zoned) -> Option<Moment> {
    let end_of_second = |moment: Moment| match text.contains(['.', ',']) {
        true => Some(moment),
        false => moment.checked_add(LAST_MILLISECOND).ok(),
    };
    if let Some(moment) = text
        .parse()
        .ok()
        .or_else(|| as_shown(text, now.time_zone()))
    {
        return end_of_second(moment);
    }
    if let Ok(local) = text.parse::<civil::DateTime>() {
        return end_of_second(local.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    }
    // Only ages: what is to come has no history.
    let age: Span = text.strip_suffix("ago")?.trim().parse().ok()?;
    let then = now.checked_sub(age).ok()?;
    (then < *now).then(|| then.timestamp())
}

/// How moments are shown.
const SHOWN: &str = "%F %T %Z";

/// What a second lasts beyond its first millisecond.
const LAST_MILLISECOND: SignedDuration = SignedDuration::from_millis(999);

/// The moment that is shown like this. Which zone an abbreviation means is known of the user's own only.
fn as_shown(text: &str, zone: &TimeZone) -> Option<Moment> {
    let (time, _) = text.rsplit_once(' ')?;
    let civil = civil::DateTime::strptime("%F %T", time).ok()?;
    let zoned = zone.to_ambiguous_zoned(civil);
    // An hour that comes twice has two abbreviations.
    let both = [zoned.clone().earlier(), zoned.later()];
    let mut both = both.into_iter().filter_map(Result::ok);
    let shown = both.find(|zoned| zoned.strftime(SHOWN).to_string() == text)?;
    Some(shown.timestamp())
}

/// A moment as the user's clocks show it.
pub(crate) fn local(time: Timestamp) -> String {
    match Moment::from_millisecond(time.as_millis()) {
        Ok(moment) => {
            let local = moment.to_zoned(TimeZone::system());
            local.strftime(SHOWN).to_string()
        }
        Err(_) => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-04-16T12:00:00+02:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn points_are_told_apart() {
        let time = |text: &str| When::Time(text.parse().unwrap());
        for (text, when) in [
            ("17", When::Record(17)),
            ("2026-04-15T18:00:00Z", time("2026-04-15T18:00:00.999Z")),
            ("2026-04-15T18:00:00.000Z", time("2026-04-15T18:00:00Z")),
            ("2026-04-15T18:00:00.5Z", time("2026-04-15T18:00:00.500Z")),
            (
                "2026-04-15T18:00:00+02:00",
                time("2026-04-15T16:00:00.999Z"),
            ),
            ("2026-04-15 18:00", time("2026-04-15T16:00:00.999Z")),
            ("2026-04-15", time("2026-04-14T22:00:00.999Z")),
            // As they are shown, also in the hour that comes twice.
            ("2026-04-15 18:00:00 CEST", time("2026-04-15T16:00:00.999Z")),
            ("2026-10-25 02:30:00 CEST", time("2026-10-25T00:30:00.999Z")),
            ("2026-10-25 02:30:00 CET", time("2026-10-25T01:30:00.999Z")),
            ("2 hours ago", time("2026-04-16T08:00:00Z")),
            ("1 day ago", time("2026-04-15T10:00:00Z")),
            ("90m ago", time("2026-04-16T08:30:00Z")),
            (
                "before-the-rewrite",
                When::Snapshot("before-the-rewrite".into()),
            ),
            (
                "2026-04-15T18-00-00Z-x",
                When::Snapshot("2026-04-15T18-00-00Z-x".into()),
            ),
        ] {
            assert_eq!(When::parse(text, &now()), Ok(when), "{text}");
        }
        for bad in [
            "",
            " ",
            "-1 hours ago",
            "a b",
            "99999999999999999999999",
            "2/3",
            "2026-04-15 18:00:00 EST",
        ] {
            assert!(When::parse(bad, &now()).is_err(), "{bad:?}");
        }
    }
}
