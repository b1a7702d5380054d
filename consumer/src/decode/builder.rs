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

use super::scan::unescape;
use super::shape::{Parsed, exact_float, find, join, parse_float, parse_integer, whole_float};
use super::tape::Kind;

/// Integers up to here, either way, are floats without loss.
const EXACT_AS_FLOAT_MAX: u64 = 1 << 53;

/// Values of one column. Rows that were not appended to are null: they are filled in when the next value comes.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    label: Label,
    pub(super) values: Values,
    rows: usize,
    /// Which rows are null, up to the last one that is.
    nulls: NullBufferBuilder,
}

/// A field's name as it is mostly written before its value: quoted, with the colon. Empty in a list.
#[derive(Debug, Default)]
struct Label {
    text: Vec<u8>,
    /// Its first eight bytes, or fewer, and which bits of them count.
    head: u64,
    mask: u64,
}

impl Label {
    fn of(source: &str) -> Self {
        let mut text = serde_json::to_vec(source).expect("a string is always JSON");
        text.push(b':');
        let mut head = [0; 8];
        let count = text.len().min(8);
        head[..count].copy_from_slice(&text[..count]);
        let mask = u64::MAX >> (64 - 8 * count);
        Self { text, head: u64::from_le_bytes(head), mask }
    }

    /// The same as `starts_with`, which for a few bytes takes longer to be called than to answer.
    #[inline]
    fn begins(&self, text: &[u8]) -> bool {
        match text.first_chunk::<8>() {
            Some(head) if u64::from_le_bytes(*head) & self.mask != self.head => false,
            Some(_) if self.text.len() <= 8 => true,
            _ => text.starts_with(&self.text),
        }
    }
}

#[derive(Debug)]
pub(super) enum Values {
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
    /// Returns an empty builder for a column.
    pub(crate) fn of(column: &Column) -> Self {
        Self { label: Label::of(column.source()), ..Self::new(&column.kind) }
    }

    fn new(kind: &ColumnType) -> Self {
        let values = match kind {
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Utf8 | ColumnType::Binary => Values::Utf8 { offsets: vec![0], text: Vec::new() },
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Struct(fields) => Values::Struct(fields.iter().map(Self::of).collect()),
            ColumnType::List(item) => Values::List { offsets: vec![0], item: Box::new(Self::new(item)) },
        };
        Self { label: Label::default(), values, rows: 0, nulls: NullBufferBuilder::new(0) }
    }

    /// Returns the length of the column's label when the text begins with it.
    #[inline]
    pub(super) fn label_at(&self, text: &[u8]) -> Option<usize> {
        self.label.begins(text).then_some(self.label.text.len())
    }

    /// Returns how many rows there are, with the nulls that were filled in so far.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Counts the value that was appended to the values.
    #[inline]
    pub(super) fn count_value(&mut self) {
        self.rows += 1;
    }

    /// Adds nulls until there are `rows` rows.
    #[inline]
    pub(super) fn fill(&mut self, rows: usize) {
        if rows > self.len() {
            self.fill_up(rows);
        }
    }

    fn fill_up(&mut self, rows: usize) {
        let missing = rows - self.len();
        self.nulls.append_n_non_nulls(self.rows - self.nulls.len());
        self.nulls.append_n_nulls(missing);
        self.rows = rows;
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

    /// Appends a value of the tape at row `row`; the column's earlier rows without a value become null.
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
                values.push(value);
            }
            (Values::Float64(values), _) => {
                let literal = parsed.raw(node);
                let value = if node.kind == Kind::Integer { exact_float(literal) } else { parse_float(literal) };
                values.push(value.expect(fits));
            }
            (Values::Boolean(values), _) => {
                values.append(node.kind == Kind::True);
            }
            (Values::Utf8 { offsets, text }, _) => {
                if node.kind == Kind::EscapedText {
                    let mut content = String::new();
                    unescape(parsed.raw(node), &mut content);
                    text.extend_from_slice(content.as_bytes());
                } else {
                    text.extend_from_slice(parsed.tape.raw_bytes(node, parsed.event));
                }
                offsets.push(offset(text.len()));
            }
            (Values::Timestamp(values), _) => {
                values.push(format.parse(parsed.raw(node)).expect(fits).micros());
            }
            (Values::Date(values), _) => {
                let day = event_time::Format::Text.parse(parsed.raw(node)).expect(fits).micros();
                values.push(i32::try_from(day.div_euclid(86_400_000_000)).expect("the years 1 to 9999"));
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
            }
            _ => unreachable!("builders are made from the columns' types"),
        }
        self.count_value();
    }

    /// Forgets the rows from `rows` on, also those that were begun and did not get further.
    pub(super) fn truncate(&mut self, rows: usize) {
        let kept = rows.min(self.len());
        self.rows = kept;
        self.nulls.truncate(kept.min(self.nulls.len()));
        match &mut self.values {
            Values::Int64(values) | Values::Timestamp(values) => values.truncate(kept),
            Values::Float64(values) => values.truncate(kept),
            Values::Date(values) => values.truncate(kept),
            Values::Boolean(values) => values.truncate(kept),
            Values::Utf8 { offsets, text } => {
                offsets.truncate(kept + 1);
                text.truncate(length(offsets));
            }
            Values::Struct(fields) => fields.iter_mut().for_each(|field| field.truncate(rows)),
            Values::List { offsets, item } => {
                offsets.truncate(kept + 1);
                item.truncate(length(offsets));
            }
        }
    }

    /// Returns the bytes that the elements of lists take besides their text, about.
    pub(super) fn list_bytes(&self) -> usize {
        match &self.values {
            Values::Struct(fields) => fields.iter().map(Self::list_bytes).sum(),
            Values::List { item, .. } => item.len() * item.leaves() * size_of::<i64>() + item.list_bytes(),
            _ => 0,
        }
    }

    fn leaves(&self) -> usize {
        match &self.values {
            Values::Struct(fields) => fields.iter().map(Self::leaves).sum(),
            _ => 1,
        }
    }

    /// Adds the paths of integer columns in which a value equals no float.
    pub(crate) fn inexact_paths(&self, kind: &ColumnType, path: &str, out: &mut HashSet<String>) {
        match (&self.values, kind) {
            (Values::Int64(values), _) if values.iter().any(|value| value.unsigned_abs() > EXACT_AS_FLOAT_MAX) => {
                out.insert(path.to_owned());
            }
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

    /// Returns the column with `rows` rows and begins anew, with room for as much again: batches are much alike.
    pub(crate) fn finish(&mut self, kind: &ColumnType, rows: usize) -> ArrayRef {
        self.fill(rows);
        self.nulls.append_n_non_nulls(rows - self.nulls.len());
        self.rows = 0;
        let nulls = self.nulls.finish();
        match (&mut self.values, kind) {
            (Values::Int64(values), _) => Arc::new(Int64Array::new(take_all(values).into(), nulls)),
            (Values::Float64(values), _) => Arc::new(Float64Array::new(take_all(values).into(), nulls)),
            (Values::Boolean(values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::Timestamp(values), _) => {
                let values = TimestampMicrosecondArray::new(take_all(values).into(), nulls);
                Arc::new(values.with_timezone("UTC"))
            }
            (Values::Date(values), _) => Arc::new(Date32Array::new(take_all(values).into(), nulls)),
            (Values::Utf8 { offsets, text }, _) => {
                let offsets = finish_offsets(offsets);
                let text = Buffer::from_vec(take_all(text));
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

/// Takes a column's values and leaves room for as many.
pub(super) fn take_all<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}

/// Takes a column's offsets and leaves the first, with room for as many.
pub(super) fn finish_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = take_all(offsets);
    offsets.push(0);
    OffsetBuffer::new(ScalarBuffer::from(taken))
}

fn length(offsets: &[i32]) -> usize {
    usize::try_from(*offsets.last().expect("the first is always there")).expect("offsets are not negative")
}

pub(super) fn offset(length: usize) -> i32 {
    i32::try_from(length).expect("a batch is bounded far below 2 GiB")
}
