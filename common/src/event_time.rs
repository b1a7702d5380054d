//! Reads an event's time from its field, in the one format that was declared. Never guesses.

use serde::{Deserialize, Serialize};

use crate::timestamp::{CalendarHour, Timestamp};

/// How the time field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// RFC 3339, `YYYY-MM-DD HH:MM:SS` or `YYYY-MM-DD`; without an offset it is UTC. Digits below a microsecond are
    /// cut off: that is the resolution of the lake.
    #[default]
    Text,
    /// Seconds since the epoch; a fraction is allowed.
    EpochS,
    /// Milliseconds since the epoch.
    EpochMs,
    /// Microseconds since the epoch.
    EpochUs,
}

impl Format {
    /// Returns the time that `text` says in this format; `None` when it says none, or one outside the years 1 to 9999.
    /// `text` is the content of a JSON string, or the literal of a JSON number.
    pub fn parse(self, text: &str) -> Option<Timestamp> {
        let time = match self {
            Self::Text => parse_text(text.as_bytes())?,
            Self::EpochS => parse_epoch(text, 1_000_000)?,
            Self::EpochMs => parse_epoch(text, 1_000)?,
            Self::EpochUs => parse_epoch(text, 1)?,
        };
        time.is_representable().then_some(time)
    }

    /// Returns true when values of this format are JSON numbers rather than strings.
    pub fn is_epoch(self) -> bool {
        self != Self::Text
    }
}

/// Reads `[-]digits[.digits]` as a multiple of `micros_per_unit`, without rounding through a float.
fn parse_epoch(text: &str, micros_per_unit: i64) -> Option<Timestamp> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    let all_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(micros_per_unit)?;
    let mut weight = micros_per_unit / 10;
    for digit in fraction.bytes() {
        if weight == 0 {
            break;
        }
        micros = micros.checked_add(i64::from(digit - b'0') * weight)?;
        weight /= 10;
    }
    Some(Timestamp::from_micros(if negative { -micros } else { micros }))
}

fn parse_text(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else {
        return None;
    };
    let year = number(&[y1, y2, y3, y4])?;
    let (month, day) = (number(&[m1, m2])?, number(&[d1, d2])?);
    let hour_zero = CalendarHour { year: i32::try_from(year).ok()?, month, day, hour: 0 };
    let midnight = hour_zero.start()?.micros();
    if rest.is_empty() {
        return Some(Timestamp::from_micros(midnight));
    }
    let (time, rest) = rest.split_at_checked(9)?;
    let [b'T' | b't' | b' ', h1, h2, b':', i1, i2, b':', s1, s2] = *time else {
        return None;
    };
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?);
    // A leap second (…:60) is the first moment of the next minute, as in POSIX time.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, rest) = parse_fraction(rest)?;
    let offset_minutes = parse_offset(rest)?;
    let seconds = i64::from(hour * 3600 + minute * 60 + second) - offset_minutes * 60;
    Some(Timestamp::from_micros(midnight + seconds * 1_000_000 + fraction))
}

/// Returns the microseconds of `.digits` at the beginning, and what follows.
fn parse_fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.' | b',', digits @ ..] = text else {
        return Some((0, text));
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let (fraction, rest) = digits.split_at(count);
    let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some((padded.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

fn parse_offset(text: &[u8]) -> Option<i64> {
    match *text {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[h1, h2])?, number(&[m1, m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let total = i64::from(hours * 60 + minutes);
            Some(if sign == b'-' { -total } else { total })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: Format, text: &str, expect: Option<&str>) {
        assert_eq!(format.parse(text).map(|time| time.to_string()).as_deref(), expect, "{text}");
    }

    #[test]
    fn text_forms() {
        check(Format::Text, "2013-01-01T10:00:00Z", Some("2013-01-01T10:00:00Z"));
        check(Format::Text, "2013-01-01 10:00:00", Some("2013-01-01T10:00:00Z"));
        check(Format::Text, "2013-01-01", Some("2013-01-01T00:00:00Z"));
        check(Format::Text, "2016-12-26T09:28:48+02:30", Some("2016-12-26T06:58:48Z"));
        check(Format::Text, "2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00Z"));
        check(Format::Text, "2020-02-29T00:00:00.123456789Z", Some("2020-02-29T00:00:00.123456Z"));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        let bad =
            ["", "x", "2013", "2013-13-01", "2013-02-29", "2013-01-01T", "2013-01-01T24:00:00", "2013-01-01X10:00:00"];
        for text in
            bad.into_iter().chain(["2013-01-01T10:00:00+0200", "2013-01-01T10:00:00.Z", "0000-01-01", "1357034400"])
        {
            check(Format::Text, text, None);
        }
        for text in ["", "-", "1.", ".5", "1e3", "+1", "abc", "99999999999999999999"] {
            check(Format::EpochS, text, None);
        }
    }

    #[test]
    fn epochs_are_declared_never_guessed() {
        check(Format::EpochS, "1357034400", Some("2013-01-01T10:00:00Z"));
        check(Format::EpochS, "1357034400.25", Some("2013-01-01T10:00:00.250Z"));
        check(Format::EpochS, "-0.5", Some("1969-12-31T23:59:59.500Z"));
        check(Format::EpochMs, "1357034400000", Some("2013-01-01T10:00:00Z"));
        check(Format::EpochUs, "1357034400000000", Some("2013-01-01T10:00:00Z"));
        // Milliseconds read as seconds lie far beyond the year 9999.
        check(Format::EpochS, "1357034400000", None);
    }
}
