//! Where a record stands in a shard. Positions are ordered inside one shard only.
//!
//! Besides those of events there are two kinds that no event has. A *mark* says that everything which arrived before
//! a moment is at or before the position: it is how a reader notes that a shard was quiet, and, before every event,
//! how it begins at a time where the stream has no numbers to say so. [`Position::SHARD_END`] is behind all events of
//! a shard that was closed by a split or a merge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::timestamp::Timestamp;

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
    /// Microseconds since 1970: what arrived before is at or before this position. 0 says nothing.
    complete_until_micros: u64,
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
    pub const START: Self =
        Self { sequence: Sequence { upper: 0, lower: 0 }, sub_sequence: 0, complete_until_micros: 0 };

    /// The position behind the last event of a shard that takes no more.
    pub const SHARD_END: Self = Self {
        sequence: Sequence { upper: u128::MAX, lower: u128::MAX },
        sub_sequence: u32::MAX,
        complete_until_micros: u64::MAX,
    };

    /// Returns the position of an event inside a record.
    pub fn new(sequence: Sequence, sub_sequence: u32) -> Self {
        Self { sequence, sub_sequence, complete_until_micros: 0 }
    }

    /// Returns the position of the only event of a record.
    pub fn of_record(sequence: Sequence) -> Self {
        Self::new(sequence, 0)
    }

    /// Returns the mark before the first event that arrives at `time` or later, wherever that will be.
    pub fn before(time: Timestamp) -> Self {
        Self::START.marked(time)
    }

    /// Returns the mark that says of this position that all which arrived before `time` is at or before it.
    #[must_use]
    pub fn marked(self, time: Timestamp) -> Self {
        Self { complete_until_micros: u64::try_from(time.micros()).unwrap_or(0), ..self }
    }

    /// Returns the moment before which everything is at or before this position, where it is a mark.
    pub fn complete_until(self) -> Option<Timestamp> {
        let micros = i64::try_from(self.complete_until_micros).ok().filter(|micros| *micros > 0)?;
        Some(Timestamp::from_micros(micros))
    }

    /// Returns true when the position is an event's or [`Position::START`]: neither a mark nor a shard's end.
    pub fn is_plain(self) -> bool {
        self.complete_until_micros == 0
    }

    /// Returns the position without its mark: that of an event, [`Position::START`] or [`Position::SHARD_END`].
    #[must_use]
    pub fn unmarked(self) -> Self {
        if self == Self::SHARD_END { self } else { Self::new(self.sequence, self.sub_sequence) }
    }
}

impl Segment {
    /// Returns true when the segment says how far its shard is known and holds no event: it goes to a mark or to the
    /// shard's end, which are segments of their own.
    pub fn is_without_events(&self) -> bool {
        self.to == Position::SHARD_END || self.to.unmarked() == self.from.unmarked()
    }
}

/// How the end of a shard is written, KCL's word for it.
const SHARD_END: &str = "SHARD_END";

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::SHARD_END {
            return f.write_str(SHARD_END);
        }
        write!(f, "{}:{}", self.sequence, self.sub_sequence)?;
        if self.complete_until_micros > 0 { write!(f, "@{}", self.complete_until_micros) } else { Ok(()) }
    }
}

impl FromStr for Position {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == SHARD_END {
            return Ok(Self::SHARD_END);
        }
        let error = || ParseError { text: text.to_owned() };
        let (sequence, rest) = text.split_once(':').ok_or_else(error)?;
        let (sub_sequence, mark) = rest.split_once('@').map_or((rest, None), |(sub, mark)| (sub, Some(mark)));
        let complete_until_micros = match mark {
            Some(mark) => mark.parse().ok().filter(|micros| i64::try_from(*micros).is_ok_and(|micros| micros > 0)),
            None => Some(0),
        };
        Ok(Self {
            sequence: sequence.parse().map_err(|_| error())?,
            sub_sequence: sub_sequence.parse().map_err(|_| error())?,
            complete_until_micros: complete_until_micros.ok_or_else(error)?,
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
    fn marks_stand_between_an_event_and_the_next_and_the_end_is_last() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        let ascending = ["0:0", "0:0@5", "7:1", "7:1@5", "7:1@6", "7:2", "8:0", "SHARD_END"];
        assert!(ascending.map(at).is_sorted_by(|one, other| one < other));
        for text in ascending {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!(at("7:1@5").unmarked(), at("7:1"));
        assert_eq!(at("SHARD_END").unmarked(), Position::SHARD_END);
        assert_eq!(Position::before(Timestamp::from_micros(5)), at("0:0@5"));
        assert_eq!(at("7:1@5").complete_until(), Some(Timestamp::from_micros(5)));
        assert_eq!(ascending.map(|text| at(text).is_plain()), [true, false, true, false, false, true, true, false]);
        assert_eq!((at("7:1").complete_until(), Position::SHARD_END.complete_until()), (None, None));
    }

    #[test]
    fn a_segment_to_a_mark_or_to_the_end_holds_no_event() {
        let check = |from: &str, to: &str, expect: bool| {
            let segment = Segment { shard: "0".into(), from: from.parse().unwrap(), to: to.parse().unwrap() };
            assert_eq!(segment.is_without_events(), expect, "{segment:?}");
        };
        check("7:1", "7:1@5", true);
        check("7:1@5", "7:1@6", true);
        check("7:1@5", "SHARD_END", true);
        check("7:1@5", "8:0", false);
        check("0:0", "1:0", false);
    }

    #[test]
    fn bad_positions_are_refused() {
        for text in [
            "",
            "1",
            ":",
            "1:",
            ":1",
            "-1:0",
            "1:x",
            "1:2:3",
            "1:2@",
            "1:2@0",
            "1:2@x",
            "1:2@18446744073709551615",
            "shard_end",
            &format!("{}:0", "9".repeat(77)),
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
