//! Records to the bytes of a Parquet file: the same records give the same bytes.
//!
//! Row groups are bounded in bytes, not only in rows, because one record may have 10 MiB: a reader needs the memory of
//! one group, whatever the records are like.

use std::iter::Peekable;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use headwater_common::event::Event;
use headwater_common::position::ShardId;
use headwater_lake::archive::{self, ARRIVED_AT, PARTITION_KEY, PAYLOAD, SEQUENCE, SUB_SEQUENCE};
use headwater_lake::commit::EncodedFile;
use headwater_lake::digest::{RowDigest, RowHasher};
use headwater_lake::file::DIGEST_KEY;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// Bytes of keys and payloads in a row group, unless it has a single record.
pub(super) const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Records of a row group.
const GROUP_RECORDS: usize = 1 << 16;

/// Bytes that statistics keep of a text: more than any sequence number has digits.
const STATISTICS_BYTES: usize = 128;

/// The level is that of a store that is written once and hardly read.
const ZSTD_LEVEL: i32 = 3;

/// A record and the shard it came from.
pub(super) type Placed<'a> = (&'a ShardId, &'a Event);

/// Returns the digest of records, in their order.
pub(super) fn digest<'a>(records: impl Iterator<Item = Placed<'a>>, sequence_digits: usize) -> RowDigest {
    let schema = arrow_schema();
    let mut hasher = RowHasher::new(&schema);
    for group in groups(records, &schema, sequence_digits) {
        hasher.update(&group);
    }
    hasher.finish()
}

/// Encodes records, in their order, as one file.
///
/// # Errors
/// When Parquet refuses them.
pub(super) fn encode<'a>(
    records: impl Iterator<Item = Placed<'a>>,
    sequence_digits: usize,
    digest: RowDigest,
) -> Result<EncodedFile, ParquetError> {
    let schema = arrow_schema();
    let options = ArrowWriterOptions::new().with_properties(properties(digest)?).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
    for group in groups(records, &schema, sequence_digits) {
        writer.write(&group)?;
        writer.flush()?;
    }
    let footer = writer.finish()?;
    let bytes = std::mem::take(writer.inner_mut()).into();
    Ok(EncodedFile { bytes, footer })
}

fn arrow_schema() -> SchemaRef {
    Arc::new(archive::schema().arrow_schema())
}

fn properties(digest: RowDigest) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_max_row_group_row_count(Some(GROUP_RECORDS))
        .set_offset_index_disabled(true)
        .set_created_by(format!("headwater {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![KeyValue::new(DIGEST_KEY.to_owned(), digest.to_string())]));
    // Numbers that grow slowly, and texts that share their beginnings.
    let delta = [
        (SEQUENCE, Encoding::DELTA_BYTE_ARRAY),
        (SUB_SEQUENCE, Encoding::DELTA_BINARY_PACKED),
        (ARRIVED_AT, Encoding::DELTA_BINARY_PACKED),
        (PAYLOAD, Encoding::DELTA_LENGTH_BYTE_ARRAY),
    ];
    for (column, encoding) in delta {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(column), false)
            .set_column_encoding(ColumnPath::from(column), encoding);
    }
    // Nobody looks for bytes by their order.
    for column in [PARTITION_KEY, PAYLOAD] {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::None);
    }
    Ok(properties.build())
}

/// Returns the row groups that records make, whatever they were batched like before.
fn groups<'a>(
    records: impl Iterator<Item = Placed<'a>>,
    schema: &SchemaRef,
    sequence_digits: usize,
) -> impl Iterator<Item = RecordBatch> {
    let mut records = records.peekable();
    std::iter::from_fn(move || {
        let group = next_group(&mut records);
        (!group.is_empty()).then(|| batch(&group, schema, sequence_digits))
    })
}

fn next_group<'a>(records: &mut Peekable<impl Iterator<Item = Placed<'a>>>) -> Vec<Placed<'a>> {
    let mut group: Vec<Placed<'a>> = Vec::new();
    let mut bytes = 0;
    while let Some((_, event)) = records.peek() {
        let size = event.partition_key.len() + event.payload.len();
        let is_full = bytes + size > GROUP_BYTES || group.len() == GROUP_RECORDS;
        if is_full && !group.is_empty() {
            break;
        }
        bytes += size;
        group.extend(records.next());
    }
    group
}

/// Returns records as rows: the columns of the archive, in their order.
fn batch(group: &[Placed<'_>], schema: &SchemaRef, sequence_digits: usize) -> RecordBatch {
    let sequence = |(_, event): &Placed<'_>| {
        let mut number = String::with_capacity(sequence_digits);
        event.position.sequence.write_padded(sequence_digits, &mut number);
        number
    };
    let arrived: TimestampMicrosecondArray = group.iter().map(|(_, event)| Some(event.arrived_at.micros())).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(group.iter().map(|(shard, _)| shard.as_str()))),
        Arc::new(StringArray::from_iter_values(group.iter().map(sequence))),
        Arc::new(Int64Array::from_iter_values(group.iter().map(|(_, event)| i64::from(event.position.sub_sequence)))),
        Arc::new(arrived.with_timezone("UTC")),
        Arc::new(BinaryArray::from_iter_values(group.iter().map(|(_, event)| &event.partition_key))),
        Arc::new(BinaryArray::from_iter_values(group.iter().map(|(_, event)| &event.payload))),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are those of the schema")
}
