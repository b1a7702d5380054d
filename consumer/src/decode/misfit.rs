//! Why an event cannot be a row of a table.

use std::fmt;

/// The closed set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not one JSON object.
    Parse,
    /// A value does not fit its column.
    SchemaConflict,
    /// Larger than an event may be.
    Oversize,
    /// The event time is too far after the arrival.
    FutureTimestamp,
    /// No event time where one must be, or one that cannot be read.
    NoTimestamp,
    /// An aggregated record that cannot be taken apart.
    Aggregation,
    /// The transform failed on it.
    Transform,
}

impl Reason {
    /// Returns the reason as it is written in the dead-letter table and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::SchemaConflict => "schema_conflict",
            Self::Oversize => "oversize",
            Self::FutureTimestamp => "future_timestamp",
            Self::NoTimestamp => "no_timestamp",
            Self::Aggregation => "aggregation",
            Self::Transform => "transform",
        }
    }

    /// Returns the error code in the style of Firehose.
    pub fn code(self) -> &'static str {
        match self {
            Self::Parse => "Headwater.ParseError",
            Self::SchemaConflict => "Headwater.SchemaConflict",
            Self::Oversize => "Headwater.Oversize",
            Self::FutureTimestamp => "Headwater.FutureTimestamp",
            Self::NoTimestamp => "Headwater.NoTimestamp",
            Self::Aggregation => "Headwater.AggregationError",
            Self::Transform => "Headwater.TransformError",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An event that cannot be a row, and why; a function of the event and the schema alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The kind.
    pub reason: Reason,
    /// What is wrong, for people.
    pub message: String,
}

/// How an aggregate of the Kinesis Producer Library begins. No JSON does: the source takes aggregates apart, and passes
/// on whole what begins like one and is broken.
/// <https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md>
const AGGREGATE_MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

impl Misfit {
    /// Returns why an event is not one JSON object.
    pub(crate) fn unreadable(event: &[u8], error: &impl fmt::Display) -> Self {
        if event.starts_with(&AGGREGATE_MAGIC) {
            let message = "a KPL aggregate whose digest or message is wrong".to_owned();
            return Self { reason: Reason::Aggregation, message };
        }
        Self { reason: Reason::Parse, message: error.to_string() }
    }

    pub(crate) fn conflict(path: &str, wanted: &str, found: &str) -> Self {
        let found: String = found.chars().take(80).collect();
        Self { reason: Reason::SchemaConflict, message: format!("field {path}: {found} does not fit {wanted}") }
    }
}
