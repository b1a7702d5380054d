//! Where a record stands in a shard. Positions are ordered inside one shard only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ten to the 38th: the weight of the upper half of a [`Sequence`].
const HALF: u128 = 10_u128.pow(38);

/// A sequence number: a decimal number of at most 76 digits, in numeric order.
///
/// Kinesis numbers have 56 digits and exceed 128 bits
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Record.html> allows up to 128 digits; 56 are used).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence {
    upper: u128,
    lower: u128,
}

/// The place of one event: its record's sequence number, and its place inside the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The record's sequence number.
    pub sequence: Sequence,
    /// The event's place among those aggregated in the record; 0 for a record that holds one.
    pub sub_sequence: u32,
}

/// The name of a shard, as its stream gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(std::sync::Arc<str>);

/// A stretch of one shard: after `from`, up to and including `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The shard.
    pub shard: ShardId,
    /// The last position that is *not* in the segment.
    pub from: Position,
    /// The last position that is in the segment.
    pub to: Position,
}

/// The text is not a position.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a position such as 1234:0")]
pub struct ParseError {
    text: String,
}

impl Sequence {
    /// Returns the number as a `u64`; `None` when it is larger.
    pub fn as_u64(self) -> Option<u64> {
        if self.upper == 0 { u64::try_from(self.lower).ok() } else { None }
    }

    /// Writes the number with leading zeros up to `width` digits.
    pub fn write_padded(self, width: usize, out: &mut String) {
        const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000000000000000";
        let mut number = itoa::Buffer::new();
        if let Some(small) = self.as_u64() {
            // Division by ten is far cheaper in 64 bits than in 128.
            let digits = number.format(small);
            out.push_str(&ZEROS[..width.saturating_sub(digits.len()).min(ZEROS.len())]);
            out.push_str(digits);
            return;
        }
        let mut lower = itoa::Buffer::new();
        let upper = if self.upper == 0 { "" } else { number.format(self.upper) };
        let lower = lower.format(self.lower);
        let between = if self.upper == 0 { 0 } else { 38 - lower.len() };
        let digits = upper.len() + between + lower.len();
        out.push_str(&ZEROS[..width.saturating_sub(digits).min(ZEROS.len())]);
        out.push_str(upper);
        out.push_str(&ZEROS[..between]);
        out.push_str(lower);
    }
}

impl From<u64> for Sequence {
    fn from(number: u64) -> Self {
        Self { upper: 0, lower: u128::from(number) }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.upper == 0 {
            f.pad(&self.lower.to_string())
        } else {
            f.pad(&format!("{}{:038}", self.upper, self.lower))
        }
    }
}

impl FromStr for Sequence {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned() };
        if text.is_empty() || text.len() > 76 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let (upper, lower) = text.split_at(text.len().saturating_sub(38));
        let upper = if upper.is_empty() { 0 } else { upper.parse().map_err(|_| error())? };
        let lower: u128 = lower.parse().map_err(|_| error())?;
        debug_assert!(lower < HALF, "38 digits are below 10^38");
        Ok(Self { upper, lower })
    }
}

impl Position {
    /// The position before every record of a shard.
    pub const START: Self = Self { sequence: Sequence { upper: 0, lower: 0 }, sub_sequence: 0 };

    /// Returns the position of the only event of a record.
    pub fn of_record(sequence: Sequence) -> Self {
        Self { sequence, sub_sequence: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.sub_sequence)
    }
}

impl FromStr for Position {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned() };
        let (sequence, sub_sequence) = text.split_once(':').ok_or_else(error)?;
        Ok(Self {
            sequence: sequence.parse().map_err(|_| error())?,
            sub_sequence: sub_sequence.parse().map_err(|_| error())?,
        })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl ShardId {
    /// Returns the shard's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ShardId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinesis_numbers_keep_their_digits_and_order() {
        let small: Sequence = "49543463076548007577105092703039560359975228518395019266".parse().unwrap();
        let large: Sequence = "49543463076570308322303623326179887152428262250726293522".parse().unwrap();
        assert!(small < large);
        assert!(Sequence::from(u64::MAX) < small);
        assert_eq!(small.to_string(), "49543463076548007577105092703039560359975228518395019266");
    }

    #[test]
    fn fm15_sub_sequence_orders_inside_a_record() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        assert!(at("7:1") < at("7:2"));
        assert!(at("7:9") < at("8:0"));
        assert!(at("9:0") < at("10:0"), "numeric, not alphabetic");
    }

    #[test]
    fn padding_is_to_a_fixed_width() {
        let mut text = String::new();
        Sequence::from(42).write_padded(20, &mut text);
        assert_eq!(text, "00000000000000000042");
    }

    #[test]
    fn bad_positions_are_refused() {
        for text in ["", "1", ":", "1:", ":1", "-1:0", "1:x", "1:2:3", &format!("{}:0", "9".repeat(77))] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
