//! Points in time, microseconds since the Unix epoch, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: microseconds since 1970-01-01T00:00:00Z. Written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// A calendar hour in UTC, the finest unit that partitions use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CalendarHour {
    /// Year of the Gregorian calendar.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u32,
    /// Day of the month, 1 to 31.
    pub day: u32,
    /// Hour of the day, 0 to 23.
    pub hour: u32,
}

/// The text is not an RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not an RFC 3339 time such as 2026-11-21T00:00:00Z")]
pub struct ParseError {
    text: String,
}

impl Timestamp {
    /// 0001-01-01T00:00:00Z: the earliest time that every reader of the lake can show.
    pub const EARLIEST: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z: the latest time that every reader of the lake can show.
    pub const LATEST: Self = Self(253_402_300_799_999_999);

    /// Returns the time that many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Returns the time elapsed since `earlier`, zero when the clock went back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns this time moved forward.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Returns this time moved back.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Returns true for times that every reader of the lake can show (years 1 to 9999).
    pub fn is_representable(self) -> bool {
        (Self::EARLIEST..=Self::LATEST).contains(&self)
    }

    /// Returns the calendar hour that this time lies in. Times outside the years 1 to 9999 are clamped.
    pub fn calendar_hour(self) -> CalendarHour {
        let time = self.date_time();
        CalendarHour { year: time.year(), month: time.month(), day: time.day(), hour: time.hour() }
    }

    fn date_time(self) -> DateTime<Utc> {
        let clamped = self.clamp(Self::EARLIEST, Self::LATEST);
        DateTime::from_timestamp_micros(clamped.0).expect("the years 1 to 9999 are inside chrono's range")
    }
}

impl CalendarHour {
    /// Returns the first moment of this hour; `None` when no calendar has such a day.
    pub fn start(self) -> Option<Timestamp> {
        let day = NaiveDate::from_ymd_opt(self.year, self.month, self.day)?;
        Some(Timestamp(day.and_hms_opt(self.hour, 0, 0)?.and_utc().timestamp_micros()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.date_time().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl FromStr for Timestamp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let time = DateTime::parse_from_rfc3339(text).ok().map(|time| Self(time.timestamp_micros()));
        time.filter(|time| time.is_representable()).ok_or_else(|| ParseError { text: text.to_owned() })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_micros_agree() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-01T10:00:00Z", 1_357_034_400_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(micros));
            assert_eq!(Timestamp(micros).to_string(), text);
        }
    }
}
