//! The rows that two generations are compared by: those between the same positions.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType};
use arrow_select::filter::filter_record_batch;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::layout::Output;

use crate::range::Positions;

/// A position as a table has it: the padded sequence number, which text orders as numbers do, and the sub-sequence.
type Place = (String, i64);

/// For each shard the rows after the one place, up to and including the other.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    shards: BTreeMap<String, ShardBounds>,
}

/// The rows of one shard that are compared.
#[derive(Debug, Clone)]
struct ShardBounds {
    after: Place,
    /// Microseconds: earlier arrivals are left out, where one of the two begins with a time.
    arrived_from: Option<i64>,
    to: Place,
}

/// The columns that say where a row's event stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceColumns {
    shard: &'static str,
    sequence: &'static str,
    sub_sequence: &'static str,
    arrived_at: &'static str,
}

impl PlaceColumns {
    /// Returns the columns of an output.
    pub(crate) fn of(output: Output) -> Self {
        match output {
            Output::Events => Self {
                shard: "_shard",
                sequence: "_sequence",
                sub_sequence: "_sub_sequence",
                arrived_at: "_arrived_at",
            },
            Output::DeadLetters => Self {
                shard: "shardId",
                sequence: "sequenceNumber",
                sub_sequence: "subSequenceNumber",
                arrived_at: "arrivalTimestamp",
            },
        }
    }
}

impl Bounds {
    /// Returns the bounds `(from, to]`; shards without an end have no rows.
    pub(crate) fn new(from: &Positions, to: &Positions, sequence_digits: usize) -> Self {
        let place = |position: Position| {
            if position == Position::SHARD_END {
                // Behind every number, as text.
                return ("~".to_owned(), i64::MAX);
            }
            let mut digits = String::new();
            position.sequence.write_padded(sequence_digits, &mut digits);
            (digits, i64::from(position.sub_sequence))
        };
        let bound = |(shard, to): (&ShardId, &Position)| {
            let from = from.get(shard).copied().unwrap_or(Position::START);
            let begins_with_time = from.unmarked() == Position::START;
            let arrived_from = from.complete_until().filter(|_| begins_with_time).map(Timestamp::micros);
            (shard.as_str().to_owned(), ShardBounds { after: place(from), arrived_from, to: place(*to) })
        };
        Self { shards: to.iter().map(bound).collect() }
    }

    /// Returns the rows of a batch that are inside.
    ///
    /// # Errors
    /// When the batch lacks the columns that say where its rows stand.
    pub(crate) fn rows(&self, batch: &RecordBatch, columns: PlaceColumns) -> Result<RecordBatch, ArrowError> {
        let shards = text(batch, columns.shard)?;
        let sequences = text(batch, columns.sequence)?;
        let sub_sequences = column(batch, columns.sub_sequence, &DataType::Int64)?.as_primitive::<Int64Type>();
        let has_times = self.shards.values().any(|bounds| bounds.arrived_from.is_some());
        let arrivals = if has_times { Some(arrivals(batch, columns.arrived_at)?) } else { None };
        // Neighbours are mostly of one shard.
        let mut known: Option<(&str, Option<&ShardBounds>)> = None;
        let mut is_inside = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let shard = shards.value(row);
            let bounds = match known {
                Some((name, bounds)) if name == shard => bounds,
                _ => {
                    let bounds = self.shards.get(shard);
                    known = Some((shard, bounds));
                    bounds
                }
            };
            let place = (sequences.value(row), sub_sequences.value(row));
            is_inside.push(bounds.is_some_and(|bounds| {
                let is_late_enough = match (bounds.arrived_from, arrivals) {
                    (Some(from), Some(arrivals)) => arrivals.value(row) >= from,
                    _ => true,
                };
                is_late_enough && as_ref(&bounds.after) < place && place <= as_ref(&bounds.to)
            }));
        }
        if is_inside.iter().all(|inside| *inside) {
            return Ok(batch.clone());
        }
        filter_record_batch(batch, &BooleanArray::from(is_inside))
    }
}

fn as_ref((digits, sub_sequence): &Place) -> (&str, i64) {
    (digits.as_str(), *sub_sequence)
}

fn arrivals<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<TimestampMicrosecondType>, ArrowError> {
    let found = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    found.ok_or_else(|| ArrowError::SchemaError(format!("it has no column {name} that says when its rows arrived")))
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    Ok(column(batch, name, &DataType::Utf8)?.as_string::<i32>())
}

fn column<'a>(batch: &'a RecordBatch, name: &str, kind: &DataType) -> Result<&'a ArrayRef, ArrowError> {
    let found = batch.column_by_name(name).filter(|column| column.data_type() == kind);
    found.ok_or_else(|| ArrowError::SchemaError(format!("it has no column {name} that says where its rows stand")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn rows_are_taken_after_the_one_place_up_to_the_other() {
        let places = [("0", 8, 0), ("0", 9, 0), ("0", 9, 1), ("0", 10, 0), ("0", 10, 1), ("1", 3, 0), ("2", 1, 0)];
        let text = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([
            ("_shard", text(places.iter().map(|place| place.0.to_owned()).collect())),
            ("_sequence", text(places.iter().map(|place| format!("{:020}", place.1)).collect())),
            ("_sub_sequence", Arc::new(Int64Array::from_iter_values(places.iter().map(|place| place.2))) as ArrayRef),
            (
                "_arrived_at",
                Arc::new(TimestampMicrosecondArray::from_iter_values(1..=7).with_timezone("UTC")) as ArrayRef,
            ),
        ])
        .unwrap();
        let positions = |text: &str| match text.parse::<crate::range::Since>().unwrap() {
            crate::range::Since::Positions(positions) => positions,
            other => panic!("{other} is no position"),
        };
        let bounds = Bounds::new(&positions("0=9:0,1=2:0"), &positions("0=10:0,1=99:0"), 20);
        let rows = bounds.rows(&batch, PlaceColumns::of(Output::Events)).unwrap();
        assert_eq!(text_of(&rows), ["0 9:1", "0 10:0", "1 3:0"]);
        assert!(bounds.rows(&batch, PlaceColumns::of(Output::DeadLetters)).is_err());
        // From a time on, up to a shard's end, and nothing of a shard that was quiet.
        let bounds = Bounds::new(&positions("0=0:0@3"), &positions("0=SHARD_END,1=3:0@9,2=0:0@9"), 20);
        let rows = bounds.rows(&batch, PlaceColumns::of(Output::Events)).unwrap();
        assert_eq!(text_of(&rows), ["0 9:1", "0 10:0", "0 10:1", "1 3:0"]);
    }

    fn text_of(rows: &RecordBatch) -> Vec<String> {
        let (shards, sequences) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
        let sub_sequences = rows.column(2).as_primitive::<Int64Type>();
        let row = |row| {
            let digits = sequences.value(row).trim_start_matches('0');
            format!("{} {digits}:{}", shards.value(row), sub_sequences.value(row))
        };
        (0..rows.num_rows()).map(row).collect()
    }
}
