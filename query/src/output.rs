//! Writes an answer as a table for people, as CSV, or as JSON.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::pretty::pretty_format_batches_with_options;
use arrow_json::WriterBuilder;
use arrow_json::writer::JsonArray;
use arrow_schema::SchemaRef;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use crate::engine::Error;

/// Rows that a table for people shows; CSV and JSON have no such bound.
pub const TABLE_ROWS_MAX: usize = 10_000;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// With lines around, for people.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON array of objects.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not one of table, csv, json")),
        }
    }
}

/// What stops the writing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The query failed on its way.
    #[error(transparent)]
    Query(#[from] Error),
    /// The rows cannot be shown.
    #[error("cannot show the rows")]
    Rows(#[from] arrow_schema::ArrowError),
    /// The output is closed or full.
    #[error("cannot write the rows")]
    Output(#[from] io::Error),
}

/// Writes all rows and returns how many there were.
///
/// # Errors
/// When the query fails on its way or the output is closed.
pub async fn write(
    mut rows: SendableRecordBatchStream,
    format: Format,
    out: &mut (dyn Write + Send),
) -> Result<u64, WriteError> {
    let schema = rows.schema();
    let mut count = 0;
    match format {
        Format::Table => {
            let mut shown: Vec<RecordBatch> = Vec::new();
            let mut kept = 0;
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(Error::from)?;
                count += batch.num_rows() as u64;
                let room = TABLE_ROWS_MAX - kept;
                let batch = batch.slice(0, batch.num_rows().min(room));
                kept += batch.num_rows();
                // An empty slice would keep the whole batch in memory.
                if room > 0 {
                    shown.push(batch);
                }
            }
            if shown.is_empty() {
                shown.push(RecordBatch::new_empty(schema));
            }
            writeln!(out, "{}", pretty_format_batches_with_options(&shown, &FormatOptions::default())?)?;
            if count > kept as u64 {
                writeln!(out, "… and {} more rows; --output csv or json writes all", count - kept as u64)?;
            }
        }
        Format::Csv => {
            let flat = flat_schema(&schema);
            // The header is there even when no row is.
            write_csv(&RecordBatch::new_empty(Arc::clone(&flat)), true, out)?;
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(Error::from)?;
                count += batch.num_rows() as u64;
                write_csv(&flatten(&batch, &flat)?, false, out)?;
            }
        }
        Format::Json => {
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut *out);
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(Error::from)?;
                count += batch.num_rows() as u64;
                writer.write(&batch)?;
            }
            writer.finish()?;
            drop(writer);
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(count)
}

/// Writes a batch as CSV, by way of a buffer: arrow's writer keeps only the text of what the output said, and who
/// tells a closed pipe from a full disk needs the error itself.
fn write_csv(batch: &RecordBatch, with_header: bool, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut text = Vec::new();
    arrow_csv::WriterBuilder::new().with_header(with_header).build(&mut text).write(batch)?;
    out.write_all(&text)?;
    Ok(())
}

/// CSV cells hold no lists and no objects: they are written as text.
fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    use arrow_schema::{DataType, Field, Schema};
    let field = |field: &Arc<Field>| {
        if field.data_type().is_nested() {
            Arc::new(Field::new(field.name(), DataType::Utf8, true))
        } else {
            Arc::clone(field)
        }
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn flatten(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let flat = |column: &ArrayRef| -> Result<ArrayRef, arrow_schema::ArrowError> {
        if !column.data_type().is_nested() {
            return Ok(Arc::clone(column));
        }
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let text = |row| (!column.is_null(row)).then(|| formatter.value(row).to_string());
        Ok(Arc::new((0..column.len()).map(text).collect::<StringArray>()))
    };
    let columns = batch.columns().iter().map(flat).collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}
