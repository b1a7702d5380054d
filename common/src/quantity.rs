//! Sizes, rates and durations in human form: `128MiB`, `5000/s`, `4MiB/s`, `30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written with a binary (`KiB`, `MiB`, `GiB`, `TiB`) or decimal (`kB`, `MB`, `GB`, `TB`) unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A pace: so many rows or bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Rows a second.
    Rows(u32),
    /// Bytes a second.
    Bytes(u32),
}

/// The text is not a quantity of the wanted kind.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct ParseError {
    text: String,
    wanted: &'static str,
}

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// Returns so many mebibytes.
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// Returns the number of bytes as a `usize`, as far as it goes.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Bytes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wanted = "a size such as 128MiB";
        let error = || ParseError { text: text.to_owned(), wanted };
        let (number, weight) =
            UNITS.iter().find_map(|(unit, weight)| Some((text.strip_suffix(unit)?, *weight))).unwrap_or((text, 1));
        let number: u64 = number.trim_end().parse().map_err(|_| error())?;
        number.checked_mul(weight).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, weight) in &UNITS[..4] {
            if self.0 >= *weight {
                return if self.0.is_multiple_of(*weight) {
                    write!(f, "{}{unit}", self.0 / weight)
                } else {
                    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
                    let scaled = self.0 as f64 / *weight as f64;
                    write!(f, "{scaled:.1}{unit}")
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), wanted: "a rate such as 5000/s or 4MiB/s, above zero" };
        let amount = text.strip_suffix("/s").ok_or_else(error)?.trim_end();
        let rate = match amount.parse::<u32>() {
            Ok(rows) => Self::Rows(rows),
            Err(_) => {
                let bytes: Bytes = amount.parse().map_err(|_| error())?;
                Self::Bytes(u32::try_from(bytes.0).map_err(|_| error())?)
            }
        };
        match rate {
            Self::Rows(0) | Self::Bytes(0) => Err(error()),
            _ => Ok(rate),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}/s"),
            Self::Bytes(bytes) => write!(f, "{}/s", Bytes(u64::from(*bytes))),
        }
    }
}

/// Reads a duration such as `30s`, `15m`, `1h 30m` or `100ms`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    // Longer numbers mean nothing to a clock, and humantime panics on some of them.
    const DIGITS_MAX: usize = 15;
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    let readable = numbers.all(|number| number.len() <= DIGITS_MAX);
    let parsed = readable.then(|| humantime::parse_duration(text).ok()).flatten();
    parsed.ok_or_else(|| ParseError { text: text.to_owned(), wanted: "a duration such as 30s, 15m or 100ms" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("17B", 17), ("128MiB", 128 << 20), ("4 kB", 4000), ("1TiB", 1 << 40)] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1 mib", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(128 << 20).to_string(), "128MiB");
        assert_eq!(Bytes(1536).to_string(), "1.5KiB");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5400));
        for text in ["", "5", "soon", "18446744073709551615s 1000ms"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("5000/s".parse::<Rate>().unwrap(), Rate::Rows(5000));
        assert_eq!("5000 /s".parse::<Rate>().unwrap(), Rate::Rows(5000));
        assert_eq!("4MiB/s".parse::<Rate>().unwrap(), Rate::Bytes(4 << 20));
        for text in ["5000", "0/s", "x/s", "5/m", "9GiB/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
