//! Appends parsed events that fit to columns in memory.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Fields};
use headwater_common::event_time;
use headwater_lake::schema::{Column, ColumnType};

use super::shape::{Parsed, exact_float, find, join, parse_float, parse_integer, whole_float};
use super::tape::{Kind, unescape};

/// Values of one column. Rows that were not appended to are null: they are filled in when the next value comes.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    values: Values,
    nulls: NullBufferBuilder,
    /// Bytes that the values take, about.
    bytes: usize,
    /// Whether an integer was appended that no float equals.
    has_inexact: bool,
}

#[derive(Debug)]
enum Values {
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(BooleanBufferBuilder),
    Utf8 { offsets: Vec<i32>, text: Vec<u8> },
    Timestamp(Vec<i64>),
    Date(Vec<i32>),
    Struct(Vec<ColumnBuilder>),
    List { offsets: Vec<i32>, item: Box<ColumnBuilder> },
}

impl ColumnBuilder {
    pub(crate) fn new(kind: &ColumnType) -> Self {
        let values = match kind {
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Utf8 | ColumnType::Binary => Values::Utf8 { offsets: vec![0], text: Vec::new() },
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Struct(fields) => Values::Struct(fields.iter().map(|f| Self::new(&f.kind)).collect()),
            ColumnType::List(item) => Values::List { offsets: vec![0], item: Box::new(Self::new(item)) },
        };
        Self { values, nulls: NullBufferBuilder::new(0), bytes: 0, has_inexact: false }
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Adds nulls until there are `rows` rows.
    fn fill(&mut self, rows: usize) {
        let missing = rows - self.len();
        if missing == 0 {
            return;
        }
        self.nulls.append_n_nulls(missing);
        // Nulls take their place like values.
        self.bytes += missing * 8;
        match &mut self.values {
            Values::Int64(values) | Values::Timestamp(values) => values.resize(rows, 0),
            Values::Float64(values) => values.resize(rows, 0.0),
            Values::Date(values) => values.resize(rows, 0),
            Values::Boolean(values) => values.append_n(missing, false),
            Values::Utf8 { offsets, text } => offsets.resize(rows + 1, offset(text.len())),
            // Fields are filled up when they get a value or are finished.
            Values::Struct(_) => {}
            Values::List { offsets, item } => offsets.resize(rows + 1, offset(item.len())),
        }
    }

    /// Appends the value at row `row`; the column's earlier rows without a value become null.
    pub(crate) fn append(
        &mut self,
        kind: &ColumnType,
        row: usize,
        parsed: Parsed<'_>,
        at: usize,
        format: event_time::Format,
    ) {
        let node = parsed.node(at);
        if node.kind == Kind::Null {
            return;
        }
        self.fill(row);
        let fits = "the event was found to fit";
        match (&mut self.values, kind) {
            (Values::Int64(values), _) => {
                let literal = parsed.raw(node);
                let value = if node.kind == Kind::Integer { parse_integer(literal) } else { whole_float(literal) };
                let value = value.expect(fits);
                self.has_inexact |= value.unsigned_abs() > 1 << 53;
                values.push(value);
                self.bytes += 8;
            }
            (Values::Float64(values), _) => {
                let literal = parsed.raw(node);
                let value = if node.kind == Kind::Integer { exact_float(literal) } else { parse_float(literal) };
                values.push(value.expect(fits));
                self.bytes += 8;
            }
            (Values::Boolean(values), _) => {
                values.append(node.kind == Kind::True);
                self.bytes += 1;
            }
            (Values::Utf8 { offsets, text }, _) => {
                let before = text.len();
                if node.kind == Kind::EscapedText {
                    let mut content = String::new();
                    unescape(parsed.raw(node), &mut content);
                    text.extend_from_slice(content.as_bytes());
                } else {
                    text.extend_from_slice(parsed.tape.raw_bytes(node, parsed.event));
                }
                offsets.push(offset(text.len()));
                self.bytes += 4 + text.len() - before;
            }
            (Values::Timestamp(values), _) => {
                values.push(format.parse(parsed.raw(node)).expect(fits).micros());
                self.bytes += 8;
            }
            (Values::Date(values), _) => {
                let day = event_time::Format::Text.parse(parsed.raw(node)).expect(fits).micros();
                values.push(i32::try_from(day.div_euclid(86_400_000_000)).expect("the years 1 to 9999"));
                self.bytes += 4;
            }
            (Values::Struct(builders), ColumnType::Struct(columns)) => {
                append_object(builders, columns, row, parsed, at, format);
            }
            (Values::List { offsets, item }, ColumnType::List(item_kind)) => {
                let mut rows = item.len();
                let appended = parsed.elements(at, |element| {
                    item.append(item_kind, rows, parsed, element, format);
                    rows += 1;
                    item.fill(rows);
                    Ok::<_, std::convert::Infallible>(())
                });
                match appended {
                    Ok(()) => {}
                    Err(never) => match never {},
                }
                offsets.push(offset(item.len()));
                self.bytes += 4;
            }
            _ => unreachable!("builders are made from the columns' types"),
        }
        self.nulls.append_non_null();
    }

    /// Returns the bytes that the values take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
            + match &self.values {
                Values::Struct(fields) => fields.iter().map(Self::bytes).sum(),
                Values::List { item, .. } => item.bytes(),
                _ => 0,
            }
    }

    /// Adds the paths of integer columns in which a value equals no float.
    pub(crate) fn inexact_paths(&self, kind: &ColumnType, path: &str, out: &mut HashSet<String>) {
        match (&self.values, kind) {
            (Values::Int64(_), _) if self.has_inexact => _ = out.insert(path.to_owned()),
            (Values::Struct(builders), ColumnType::Struct(columns)) => {
                for (builder, column) in builders.iter().zip(columns) {
                    builder.inexact_paths(&column.kind, &join(path, column.source()), out);
                }
            }
            (Values::List { item, .. }, ColumnType::List(kind)) => {
                item.inexact_paths(kind, &format!("{path}[]"), out);
            }
            _ => {}
        }
    }

    /// Returns the column with `rows` rows and begins anew.
    pub(crate) fn finish(&mut self, kind: &ColumnType, rows: usize) -> ArrayRef {
        self.fill(rows);
        let nulls = self.nulls.finish();
        self.bytes = 0;
        match (&mut self.values, kind) {
            (Values::Int64(values), _) => Arc::new(Int64Array::new(std::mem::take(values).into(), nulls)),
            (Values::Float64(values), _) => Arc::new(Float64Array::new(std::mem::take(values).into(), nulls)),
            (Values::Boolean(values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::Timestamp(values), _) => {
                let values = TimestampMicrosecondArray::new(std::mem::take(values).into(), nulls);
                Arc::new(values.with_timezone("UTC"))
            }
            (Values::Date(values), _) => Arc::new(Date32Array::new(std::mem::take(values).into(), nulls)),
            (Values::Utf8 { offsets, text }, _) => {
                let offsets = finish_offsets(offsets);
                let text = Buffer::from_vec(std::mem::take(text));
                Arc::new(StringArray::new(offsets, text, nulls))
            }
            (Values::Struct(builders), ColumnType::Struct(columns)) => {
                let arrays = builders.iter_mut().zip(columns).map(|(b, column)| b.finish(&column.kind, rows));
                let arrays: Vec<ArrayRef> = arrays.collect();
                Arc::new(StructArray::new(fields_of(kind), arrays, nulls))
            }
            (Values::List { offsets, item }, ColumnType::List(item_kind)) => {
                let values = item.finish(item_kind, item.len());
                let DataType::List(field) = kind.arrow_type() else { unreachable!("a list's type is a list") };
                Arc::new(ListArray::new(field, finish_offsets(offsets), values, nulls))
            }
            _ => unreachable!("builders are made from the columns' types"),
        }
    }
}

/// Appends an object's fields to the builders of its columns.
pub(crate) fn append_object(
    builders: &mut [ColumnBuilder],
    columns: &[Column],
    row: usize,
    parsed: Parsed<'_>,
    object: usize,
    format: event_time::Format,
) {
    let mut hint = 0;
    let appended = parsed.fields(object, |name, value| {
        // A field without a column is null, or an empty object or array.
        if let Some(index) = find(columns, name, &mut hint) {
            builders[index].append(&columns[index].kind, row, parsed, value, format);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    match appended {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

fn fields_of(kind: &ColumnType) -> Fields {
    match kind.arrow_type() {
        DataType::Struct(fields) => fields,
        other => unreachable!("{other} has no fields"),
    }
}

fn finish_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

fn offset(length: usize) -> i32 {
    i32::try_from(length).expect("a batch is bounded far below 2 GiB")
}
