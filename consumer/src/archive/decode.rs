//! A row group's bytes to the records in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch};
use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use headwater_common::event::Event;
use headwater_common::position::{Position, Sequence, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::archive::{ARRIVED_AT, PARTITION_KEY, PAYLOAD, SEQUENCE, SHARD, SUB_SEQUENCE};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

/// The records of a row group by shard, each shard's in the order of their positions.
pub(super) type GroupRecords = BTreeMap<ShardId, Vec<Event>>;

/// A part of a file, where Parquet expects the whole of it.
#[derive(Debug)]
pub(super) struct Part {
    start: u64,
    bytes: Bytes,
    file_bytes: u64,
}

impl Part {
    /// Returns the part that begins at `start` of a file of that size.
    pub(super) fn new(start: u64, bytes: Bytes, file_bytes: u64) -> Self {
        Self { start, bytes, file_bytes }
    }

    fn rest_from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let offset = start.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let offset = offset.filter(|offset| *offset <= self.bytes.len());
        let offset = offset.ok_or_else(|| ParquetError::EOF(format!("byte {start} is outside the row group")))?;
        Ok(self.bytes.slice(offset..))
    }
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Part {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.rest_from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let rest = self.rest_from(start)?;
        if length > rest.len() {
            return Err(ParquetError::EOF(format!("{length} bytes from {start} are more than the row group has")));
        }
        Ok(rest.slice(..length))
    }
}

/// Decodes a row group.
///
/// # Errors
/// When the bytes are not those of an archive's file.
pub(super) fn decode(footer: &Arc<ParquetMetaData>, group: usize, part: Part) -> Result<GroupRecords, ParquetError> {
    let rows = usize::try_from(footer.row_group(group).num_rows()).unwrap_or(0);
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(footer), ArrowReaderOptions::new())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(part, metadata);
    let reader = builder.with_row_groups(vec![group]).with_batch_size(rows.max(1)).build()?;
    let mut records = GroupRecords::new();
    for batch in reader {
        add(&batch.map_err(ParquetError::from)?, &mut records)?;
    }
    Ok(records)
}

fn add(batch: &RecordBatch, records: &mut GroupRecords) -> Result<(), ParquetError> {
    let shards = column(batch, SHARD)?.as_string_opt::<i32>().ok_or_else(|| foreign(SHARD))?;
    let sequences = column(batch, SEQUENCE)?.as_string_opt::<i32>().ok_or_else(|| foreign(SEQUENCE))?;
    let sub_sequences = column(batch, SUB_SEQUENCE)?.as_primitive_opt::<Int64Type>();
    let sub_sequences = sub_sequences.ok_or_else(|| foreign(SUB_SEQUENCE))?;
    let arrivals = column(batch, ARRIVED_AT)?.as_primitive_opt::<TimestampMicrosecondType>();
    let arrivals = arrivals.ok_or_else(|| foreign(ARRIVED_AT))?;
    let keys = Slices::of(batch, PARTITION_KEY)?;
    let payloads = Slices::of(batch, PAYLOAD)?;
    let event = |row: usize| -> Result<Event, ParquetError> {
        let sequence = sequences.value(row).parse::<Sequence>().map_err(|_| foreign(SEQUENCE))?;
        let sub_sequence = u32::try_from(sub_sequences.value(row)).map_err(|_| foreign(SUB_SEQUENCE))?;
        Ok(Event {
            position: Position::new(sequence, sub_sequence),
            arrived_at: Timestamp::from_micros(arrivals.value(row)),
            partition_key: keys.get(row),
            payload: payloads.get(row),
        })
    };
    let rows = batch.num_rows();
    let mut row = 0;
    while row < rows {
        let shard = shards.value(row);
        let end = (row..rows).find(|next| shards.value(*next) != shard).unwrap_or(rows);
        let events = records.entry(ShardId::from(shard)).or_default();
        for row in row..end {
            events.push(event(row)?);
        }
        row = end;
    }
    Ok(())
}

/// The values of a column of bytes, all in one allocation.
struct Slices<'a> {
    array: &'a BinaryArray,
    bytes: Bytes,
}

impl<'a> Slices<'a> {
    fn of(batch: &'a RecordBatch, name: &str) -> Result<Self, ParquetError> {
        let array = column(batch, name)?.as_binary_opt::<i32>().ok_or_else(|| foreign(name))?;
        Ok(Self { array, bytes: Bytes::copy_from_slice(array.value_data()) })
    }

    fn get(&self, row: usize) -> Bytes {
        let offsets = self.array.value_offsets();
        let at = |index: usize| usize::try_from(offsets[index]).expect("offsets are not negative");
        self.bytes.slice(at(row)..at(row + 1))
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ParquetError> {
    batch.column_by_name(name).filter(|column| column.null_count() == 0).ok_or_else(|| foreign(name))
}

fn foreign(column: &str) -> ParquetError {
    ParquetError::General(format!("the column {column} is not one that an archive has"))
}
