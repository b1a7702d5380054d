//! Rows to the bytes of a Parquet file: the same rows give the same bytes.
//!
//! Rows come in chunks of [`BATCH_ROWS`], however the source batched them, so that no page depends on it. Nothing but
//! the rows, their digest and this version's name is in the file.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use headwater_lake::commit::EncodedFile;
use headwater_lake::digest::RowDigest;
use headwater_lake::file::DIGEST_KEY;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::decode::BATCH_ROWS;

/// Rows of a row group. It bounds the memory of a reader and of the writer.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Bytes of text that statistics keep.
const STATISTICS_BYTES: usize = 64;

/// Columns whose values all differ, so that a dictionary costs and gives nothing. Neighbours share their beginnings.
const DELTA_TEXT_COLUMNS: [&str; 2] = ["_event_id", "_sequence"];

/// Columns of numbers that grow slowly.
const DELTA_NUMBER_COLUMNS: [&str; 2] = ["_sub_sequence", "_arrived_at"];

/// Encodes chunks of rows, which must have `schema`, as one file.
///
/// # Errors
/// When Parquet refuses the rows, or they cannot be read.
pub fn encode(
    schema: &SchemaRef,
    chunks: impl Iterator<Item = std::io::Result<RecordBatch>>,
    digest: RowDigest,
) -> Result<EncodedFile, ParquetError> {
    let mut chunks = chunks.map(|chunk| chunk.map_err(|error| ParquetError::External(Box::new(error))));
    let first = chunks.next().transpose()?;
    let properties = properties(digest, first.as_ref())?;
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options)?;
    for chunk in first.map(Ok).into_iter().chain(chunks) {
        writer.write(&chunk?)?;
    }
    let footer = writer.finish()?;
    let bytes = std::mem::take(writer.inner_mut()).into();
    Ok(EncodedFile { bytes, footer })
}

fn properties(digest: RowDigest, first: Option<&RecordBatch>) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_offset_index_disabled(true)
        .set_created_by(format!("headwater {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![KeyValue::new(DIGEST_KEY.to_owned(), digest.to_string())]));
    for column in DELTA_TEXT_COLUMNS {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(column), false)
            .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BYTE_ARRAY);
    }
    for column in first.into_iter().flat_map(columns_without_repeats) {
        properties = properties.set_column_dictionary_enabled(column, false);
    }
    for column in DELTA_NUMBER_COLUMNS {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(column), false)
            .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// Returns the top-level columns in whose first full chunk hardly a value comes twice: a dictionary of them would be
/// made, found too large and thrown away.
fn columns_without_repeats(first: &RecordBatch) -> Vec<ColumnPath> {
    if first.num_rows() < BATCH_ROWS {
        return Vec::new();
    }
    let schema = first.schema_ref();
    let columns = schema.fields().iter().zip(first.columns()).filter(|(_, values)| has_no_repeats(values));
    columns.map(|(field, _)| ColumnPath::from(field.name().as_str())).collect()
}

fn has_no_repeats(values: &ArrayRef) -> bool {
    let distinct = match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().iter().flatten().collect::<HashSet<_>>().len(),
        DataType::Int64 => values.as_primitive::<Int64Type>().iter().flatten().collect::<HashSet<_>>().len(),
        _ => return false,
    };
    // Nulls take no place in a dictionary.
    let present = values.len() - values.null_count();
    present > 0 && distinct * 10 > present * 9
}
