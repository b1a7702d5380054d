//! The digest of rows: equal rows give equal digests, whatever bytes they were written as.
//!
//! It does not depend on how rows were batched, encoded or compressed, nor on columns in which all values are null.
//! Each column is hashed as four streams (rows that are null, lengths, values, children), so that whole buffers are
//! fed at once. Described in `docs/formats/row-digest.md`; `x1:` names the version.

use std::fmt;
use std::str::FromStr;

use arrow_array::cast::AsArray;
use arrow_array::types::{ByteArrayType, Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, GenericByteArray, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

/// A digest of some rows, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowDigest(pub u128);

/// The text is not a digest of a known version.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a row digest")]
pub struct ParseError {
    text: String,
}

const PREFIX: &str = "x1:";

impl fmt::Display for RowDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.0)
    }
}

impl FromStr for RowDigest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text.strip_prefix(PREFIX).filter(|hex| hex.len() == 32);
        hex.and_then(|hex| u128::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| ParseError { text: text.to_owned() })
    }
}

impl Serialize for RowDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Digests rows, batch after batch.
pub struct RowHasher {
    names: Vec<String>,
    columns: Vec<ColumnHasher>,
    rows: u64,
}

impl RowHasher {
    /// Returns a hasher for rows of this schema.
    pub fn new(schema: &SchemaRef) -> Self {
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        let columns = schema.fields().iter().map(|field| ColumnHasher::new(field.data_type())).collect();
        Self { names, columns, rows: 0 }
    }

    /// Takes in the rows of a batch, which must have the hasher's schema.
    pub fn update(&mut self, batch: &RecordBatch) {
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            column.update(array);
        }
        self.rows += batch.num_rows() as u64;
    }

    /// Returns the digest of all rows taken in.
    pub fn finish(self) -> RowDigest {
        let mut whole = Xxh3::new();
        whole.update(&self.rows.to_le_bytes());
        for (name, column) in self.names.iter().zip(&self.columns) {
            if column.has_values() {
                whole.update(&(name.len() as u64).to_le_bytes());
                whole.update(name.as_bytes());
                whole.update(&column.finish().to_le_bytes());
            }
        }
        RowDigest(whole.digest128())
    }
}

struct ColumnHasher {
    /// One letter a type, so that equal bytes of different types differ.
    kind: u8,
    rows: u64,
    null_count: u64,
    nulls: Xxh3,
    lengths: Xxh3,
    values: Xxh3,
    children: Vec<(String, ColumnHasher)>,
}

impl ColumnHasher {
    fn new(data_type: &DataType) -> Self {
        let (kind, children) = match data_type {
            DataType::Int64 => (b'i', Vec::new()),
            DataType::Int32 => (b'h', Vec::new()),
            DataType::Float64 => (b'f', Vec::new()),
            DataType::Boolean => (b'b', Vec::new()),
            DataType::Utf8 => (b'u', Vec::new()),
            DataType::Binary => (b'y', Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => (b't', Vec::new()),
            DataType::Date32 => (b'd', Vec::new()),
            DataType::Struct(fields) => {
                let child = |field: &arrow_schema::FieldRef| (field.name().clone(), Self::new(field.data_type()));
                (b's', fields.iter().map(child).collect())
            }
            DataType::List(item) => (b'l', vec![("element".to_owned(), Self::new(item.data_type()))]),
            other => unreachable!("the lake has no columns of type {other}"),
        };
        let (nulls, lengths, values) = (Xxh3::new(), Xxh3::new(), Xxh3::new());
        Self { kind, rows: 0, null_count: 0, nulls, lengths, values, children }
    }

    fn update(&mut self, array: &ArrayRef) {
        self.update_nulls(array);
        self.rows += array.len() as u64;
        match self.kind {
            b'i' => self.update_primitive(array.as_primitive::<Int64Type>()),
            b'h' => self.update_primitive(array.as_primitive::<Int32Type>()),
            b'f' => self.update_primitive(array.as_primitive::<Float64Type>()),
            b't' => self.update_primitive(array.as_primitive::<TimestampMicrosecondType>()),
            b'd' => self.update_primitive(array.as_primitive::<Date32Type>()),
            b'b' => {
                let values = array.as_boolean();
                let bytes: Vec<u8> = values.iter().flatten().map(u8::from).collect();
                self.values.update(&bytes);
            }
            b'u' => self.update_bytes(array.as_string::<i32>()),
            b'y' => self.update_bytes(array.as_binary::<i32>()),
            b's' => {
                for ((_, child), column) in self.children.iter_mut().zip(array.as_struct().columns()) {
                    child.update(column);
                }
            }
            _ => self.update_list(array),
        }
    }

    fn update_nulls(&mut self, array: &ArrayRef) {
        let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
            return;
        };
        self.null_count += nulls.null_count() as u64;
        let mut places = Vec::with_capacity(nulls.null_count() * 8);
        for (index, valid) in nulls.iter().enumerate() {
            if !valid {
                places.extend_from_slice(&(self.rows + index as u64).to_le_bytes());
            }
        }
        self.nulls.update(&places);
    }

    fn update_primitive<T: ArrowPrimitiveType>(&mut self, array: &PrimitiveArray<T>) {
        let bytes = array.values().inner().as_slice();
        let width = size_of::<T::Native>();
        for (start, end) in valid_runs(array) {
            self.values.update(&bytes[start * width..end * width]);
        }
    }

    fn update_bytes<T: ByteArrayType<Offset = i32>>(&mut self, array: &GenericByteArray<T>) {
        let offsets = array.value_offsets();
        let mut lengths = Vec::with_capacity(array.len() * 4);
        for (start, end) in valid_runs(array) {
            for pair in offsets[start..=end].windows(2) {
                lengths.extend_from_slice(&(pair[1] - pair[0]).to_le_bytes());
            }
            self.values.update(&array.value_data()[index(offsets[start])..index(offsets[end])]);
        }
        self.lengths.update(&lengths);
    }

    fn update_list(&mut self, array: &ArrayRef) {
        let list = array.as_list::<i32>();
        let offsets = list.value_offsets();
        let mut lengths = Vec::with_capacity(list.len() * 4);
        for (start, end) in valid_runs(list) {
            for pair in offsets[start..=end].windows(2) {
                lengths.extend_from_slice(&(pair[1] - pair[0]).to_le_bytes());
            }
            let (first, last) = (index(offsets[start]), index(offsets[end]));
            self.children[0].1.update(&list.values().slice(first, last - first));
        }
        self.lengths.update(&lengths);
    }

    fn has_values(&self) -> bool {
        self.null_count < self.rows
    }

    fn finish(&self) -> u128 {
        let mut whole = Xxh3::new();
        whole.update(&[self.kind]);
        for stream in [&self.nulls, &self.lengths, &self.values] {
            whole.update(&stream.digest128().to_le_bytes());
        }
        for (name, child) in self.children.iter().filter(|(_, child)| child.has_values()) {
            whole.update(&(name.len() as u64).to_le_bytes());
            whole.update(name.as_bytes());
            whole.update(&child.finish().to_le_bytes());
        }
        whole.digest128()
    }
}

fn index(offset: i32) -> usize {
    usize::try_from(offset).expect("offsets are not negative")
}

/// Returns the stretches `[start, end)` of rows that are not null.
fn valid_runs(array: &dyn Array) -> Vec<(usize, usize)> {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => nulls.valid_slices().collect(),
        None if array.is_empty() => Vec::new(),
        None => vec![(0, array.len())],
    }
}

#[cfg(test)]
mod tests;
