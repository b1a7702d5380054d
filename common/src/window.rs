//! Event-time tumbling windows and the Hive partitions they are stored in.
//!
//! A window is `[start, end)`, aligned to the epoch, and as long as the smallest time unit of the partitioning. It is
//! named by its start. Years and months follow the Gregorian calendar in UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::timestamp::{CalendarHour, Timestamp};

const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// The length of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// A clock hour.
    Hour,
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

/// The first moment of a window; with the partitioning it says the window whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Start(pub Timestamp);

/// One key of the partition path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `year=2026`
    Year,
    /// `month=11`
    Month,
    /// `day=21`
    Day,
    /// `hour=04`
    Hour,
    /// `date=2026-11-21`
    Date,
}

/// How the lake is partitioned by event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitioning {
    keys: Vec<Key>,
    unit: Unit,
}

/// The text is not a partitioning.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a partitioning; use one of {}", CHOICES.join(" | "))]
pub struct ParseError {
    text: String,
}

const CHOICES: [&str; 5] = ["year", "year,month", "year,month,day", "year,month,day,hour", "date"];

impl Key {
    /// Returns the key's name as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Date => "date",
        }
    }

    /// Returns the key's value in a window, padded as in a path.
    pub fn path_value(self, window: Start) -> String {
        let CalendarHour { year, month, day, hour } = window.0.calendar_hour();
        match self {
            Self::Year => format!("{year:04}"),
            Self::Month => format!("{month:02}"),
            Self::Day => format!("{day:02}"),
            Self::Hour => format!("{hour:02}"),
            Self::Date => format!("{year:04}-{month:02}-{day:02}"),
        }
    }

    /// Returns the key's value in a window as Delta writes it: integers without padding, dates as `YYYY-MM-DD`.
    pub fn table_value(self, window: Start) -> String {
        let padded = self.path_value(window);
        if self == Self::Date {
            return padded;
        }
        match padded.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        }
    }
}

impl Partitioning {
    /// Returns the keys, coarse to fine.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Returns the length of a window.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns the window that an event time is in.
    pub fn window_of(&self, event_time: Timestamp) -> Start {
        let micros = event_time.micros();
        let aligned = |unit: i64| Start(Timestamp::from_micros(micros - micros.rem_euclid(unit)));
        let calendar = event_time.calendar_hour();
        let calendar_start = |month| {
            let first = CalendarHour { year: calendar.year, month, day: 1, hour: 0 };
            Start(first.start().expect("every month has a first day"))
        };
        match self.unit {
            Unit::Hour => aligned(HOUR_MICROS),
            Unit::Day => aligned(DAY_MICROS),
            Unit::Month => calendar_start(calendar.month),
            Unit::Year => calendar_start(1),
        }
    }

    /// Returns the first moment after the window.
    pub fn end_of(&self, window: Start) -> Timestamp {
        let CalendarHour { year, month, .. } = window.0.calendar_hour();
        let calendar_start = |year, month| {
            let first = CalendarHour { year, month, day: 1, hour: 0 };
            first.start().expect("every month has a first day")
        };
        match self.unit {
            Unit::Hour => Timestamp::from_micros(window.0.micros() + HOUR_MICROS),
            Unit::Day => Timestamp::from_micros(window.0.micros() + DAY_MICROS),
            Unit::Month if month == 12 => calendar_start(year + 1, 1),
            Unit::Month => calendar_start(year, month + 1),
            Unit::Year => calendar_start(year + 1, 1),
        }
    }
}

impl Default for Partitioning {
    fn default() -> Self {
        Self { keys: vec![Key::Year, Key::Month, Key::Day], unit: Unit::Day }
    }
}

impl FromStr for Partitioning {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hierarchy = [Key::Year, Key::Month, Key::Day, Key::Hour];
        let (keys, unit) = match text {
            "year" => (hierarchy[..1].to_vec(), Unit::Year),
            "year,month" => (hierarchy[..2].to_vec(), Unit::Month),
            "year,month,day" => (hierarchy[..3].to_vec(), Unit::Day),
            "year,month,day,hour" => (hierarchy.to_vec(), Unit::Hour),
            "date" => (vec![Key::Date], Unit::Day),
            _ => {
                return Err(ParseError { text: text.to_owned() });
            }
        };
        Ok(Self { keys, unit })
    }
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.keys.iter().map(|key| key.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for Partitioning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Partitioning {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(partitioning: &str, time: &str, start: &str, end: &str, path: &str) {
        let partitioning: Partitioning = partitioning.parse().unwrap();
        let window = partitioning.window_of(time.parse().unwrap());
        assert_eq!(window.0.to_string(), start);
        assert_eq!(partitioning.end_of(window).to_string(), end);
        let values: Vec<_> = partitioning.keys().iter().map(|key| key.path_value(window)).collect();
        assert_eq!(values.join("/"), path);
    }

    #[test]
    fn windows_are_half_open_and_aligned() {
        let day = "year,month,day";
        check(day, "2026-11-21T23:59:59.999999Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026/11/21");
        check(day, "2026-11-22T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z", "2026/11/22");
        check(day, "1969-12-31T12:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z", "1969/12/31");
        check("year", "2026-11-21T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026");
        check("year,month", "2026-12-31T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026/12");
        check("date", "2026-02-03T04:05:06Z", "2026-02-03T00:00:00Z", "2026-02-04T00:00:00Z", "2026-02-03");
        let hour = "year,month,day,hour";
        check(hour, "2026-02-03T04:05:06Z", "2026-02-03T04:00:00Z", "2026-02-03T05:00:00Z", "2026/02/03/04");
    }

    #[test]
    fn table_values_are_not_padded() {
        let window = Start("2026-02-03T00:00:00Z".parse().unwrap());
        assert_eq!(Key::Month.table_value(window), "2");
        assert_eq!(Key::Hour.table_value(window), "0");
        assert_eq!(Key::Date.table_value(window), "2026-02-03");
    }
}
