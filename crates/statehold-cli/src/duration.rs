//! Lengths of time as people type them: `8d`, `90m`.

use std::time::Duration;

/// Seconds of each unit.
const UNITS: [(char, u64); 5] = [
    ('s', 1),
    ('m', 60),
    ('h', 60 * 60),
    ('d', 24 * 60 * 60),
    ('w', 7 * 24 * 60 * 60),
];

/// Reads a number with a unit: seconds, minutes, hours, days or weeks.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let read = || {
        let (name, seconds) = UNITS.iter().find(|(name, _)| text.ends_with(*name))?;
        let number: u64 = text.strip_suffix(*name)?.parse().ok()?;
        let all = number.checked_mul(*seconds).filter(|all| *all > 0)?;
        Some(Duration::from_secs(all))
    };
    read().ok_or_else(|| format!("{text:?} is no length of time like 90m, 12h, 8d or 2w"))
}

/// A length of time for people, in the largest unit that it is at least two of.
pub(crate) fn show(length: Duration) -> String {
    const SHOWN: [(&str, u64); 4] = [
        ("days", 24 * 60 * 60),
        ("h", 60 * 60),
        ("min", 60),
        ("s", 1),
    ];
    let seconds = length.as_secs();
    let found = SHOWN.iter().find(|(_, unit)| seconds >= 2 * unit);
    let (name, unit) = found.unwrap_or(&("s", 1));
    format!("{} {name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("5s", 5, "5 s"),
            ("90s", 90, "90 s"),
            ("90m", 5_400, "90 min"),
            ("36h", 129_600, "36 h"),
            ("8d", 691_200, "8 days"),
            ("2w", 1_209_600, "14 days"),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
            assert_eq!(show(Duration::from_secs(seconds)), shown);
        }
        for bad in [
            "",
            "d",
            "8",
            "-1d",
            "0d",
            "8 days",
            "99999999999999999999d",
            "é",
        ] {
            assert!(parse(bad).unwrap_err().contains("8d"), "{bad}");
        }
    }
}
