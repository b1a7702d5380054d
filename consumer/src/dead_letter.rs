//! Events that cannot be rows, as rows of the dead-letter table.
//!
//! The columns have Firehose's names where it has some
//! (<https://docs.aws.amazon.com/firehose/latest/dev/retry.html>), and ours. Everything in a row is a function of the
//! event, its position and the pipeline: `attemptEndingTimestamp` is the arrival time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use headwater_common::event::Event;
use headwater_common::timestamp::Timestamp;
use headwater_lake::schema::{Column, ColumnType, SchemaVersion, TableSchema};

use crate::decode::{Decoded, Misfit, Reason};

/// Returns the schema of every dead-letter table.
pub fn schema() -> TableSchema {
    use ColumnType::{Binary, Int64, Timestamp, Utf8};
    let column = |name, kind| Column::new(name, kind, SchemaVersion::FIRST);
    TableSchema {
        version: SchemaVersion::FIRST,
        columns: vec![
            column("attemptsMade", Int64),
            column("arrivalTimestamp", Timestamp),
            column("attemptEndingTimestamp", Timestamp),
            column("reason", Utf8),
            column("errorCode", Utf8),
            column("errorMessage", Utf8),
            column("rawData", Binary),
            column("stream", Utf8),
            column("shardId", Utf8),
            column("sequenceNumber", Utf8),
            column("subSequenceNumber", Int64),
            column("partitionKey", Binary),
            column("eventId", Utf8),
            column("pipeline", Utf8),
        ],
        input: None,
    }
}

/// One event that cannot be a row.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its number among the events of the epoch.
    ordinal: u64,
    event: Event,
    shard: String,
    misfit: Misfit,
}

/// The dead letters of an epoch.
#[derive(Debug, Default)]
pub struct DeadLetters {
    letters: Vec<DeadLetter>,
    bytes: usize,
}

/// What all letters of a lane have in common.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Identity of the stream.
    pub stream: String,
    /// Hash of the pipeline.
    pub pipeline: String,
    /// Digits that sequence numbers are padded to.
    pub sequence_digits: usize,
}

impl DeadLetters {
    /// Adds an event with its original bytes; `ordinal` is its number among the events of the epoch. A stage may find
    /// out later than another that an event is no row, so letters may come out of order.
    pub fn push(&mut self, ordinal: u64, shard: &str, event: &Event, misfit: Misfit) {
        // The event shares the memory of the whole read; a letter must not keep that alive.
        let event = Event {
            payload: bytes::Bytes::copy_from_slice(&event.payload),
            partition_key: bytes::Bytes::copy_from_slice(&event.partition_key),
            ..event.clone()
        };
        self.bytes += event.payload.len() + event.partition_key.len() + misfit.message.len() + 128;
        self.letters.push(DeadLetter { ordinal, event, shard: shard.to_owned(), misfit });
    }

    /// Returns how many letters there are.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Returns the bytes that they take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many letters there are of each reason.
    pub fn count_by_reason(&self) -> BTreeMap<Reason, u64> {
        let mut counts = BTreeMap::new();
        for letter in &self.letters {
            *counts.entry(letter.misfit.reason).or_default() += 1;
        }
        counts
    }

    /// Returns the letters as rows, in the order of the events; a letter's time is its arrival.
    pub fn rows(&mut self, origin: &Origin) -> Option<Decoded> {
        if self.is_empty() {
            return None;
        }
        self.letters.sort_by_key(|letter| letter.ordinal);
        let letters = &self.letters;
        let text = |value: &dyn Fn(&DeadLetter) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(letters.iter().map(value)))
        };
        let arrived: TimestampMicrosecondArray = letters.iter().map(|l| Some(l.event.arrived_at.micros())).collect();
        let arrived: ArrayRef = Arc::new(arrived.with_timezone("UTC"));
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1; letters.len()])),
            Arc::clone(&arrived),
            arrived,
            text(&|letter| letter.misfit.reason.as_str().to_owned()),
            text(&|letter| letter.misfit.reason.code().to_owned()),
            text(&|letter| letter.misfit.message.clone()),
            Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.event.payload))),
            text(&|_| origin.stream.clone()),
            text(&|letter| letter.shard.clone()),
            text(&|letter| {
                let mut number = String::new();
                letter.event.position.sequence.write_padded(origin.sequence_digits, &mut number);
                number
            }),
            Arc::new(Int64Array::from_iter_values(letters.iter().map(|l| i64::from(l.event.position.sub_sequence)))),
            Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.event.partition_key))),
            text(&|letter| format!("{}:{}", letter.shard, letter.event.position)),
            text(&|_| origin.pipeline.clone()),
        ];
        let schema = Arc::new(schema().arrow_schema());
        let rows = RecordBatch::try_new(schema, arrays).expect("the columns are those of the schema");
        let times: Vec<Timestamp> = letters.iter().map(|letter| letter.event.arrived_at).collect();
        Some(Decoded { rows, times, bytes: self.bytes })
    }
}
