//! Sums over rows that do not depend on the rows' order, nor on how they were cut into files.
//!
//! A value's hash is XXH3-128 of its type and bytes, seeded by its column's name; a null has none. The checksum of a
//! column is the wrapping sum of its values' hashes. A row's hash is XXH3-128 of the wrapping sum over its columns, and
//! the digest is the wrapping sum over the rows. So the order of columns and rows does not matter, which value is in a
//! row with which does, and a column of nulls is as good as none.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128, xxh3_128_with_seed};

/// Sums over some rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// Rows.
    pub rows: u64,
    /// Digest of the rows, as a multiset.
    pub digest: u128,
    /// Sums of each column that a file had.
    pub columns: BTreeMap<String, ColumnSums>,
}

/// Sums over the values of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColumnSums {
    /// Values that are not null.
    pub values: u64,
    /// Their checksum.
    pub checksum: u128,
}

/// A column of a type that the lake never has.
#[derive(Debug, thiserror::Error)]
#[error("column {column} has the type {kind}, which no version of Headwater writes")]
pub struct UnknownType {
    column: String,
    kind: DataType,
}

impl Sums {
    /// Adds rows, without the columns in `left_out`.
    ///
    /// # Errors
    /// When a column has a type that the lake never has; then the sums are of no use.
    pub fn add(&mut self, batch: &RecordBatch, left_out: &[&str]) -> Result<(), UnknownType> {
        let mut rows = vec![0_u128; batch.num_rows()];
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let name = field.name();
            if left_out.contains(&name.as_str()) {
                continue;
            }
            let unknown = |kind: DataType| UnknownType { column: name.clone(), kind };
            let hashes = hashes(array, seed_of(0, name)).map_err(unknown)?;
            let sums = self.columns.entry(name.clone()).or_default();
            for (row, hash) in rows.iter_mut().zip(hashes) {
                if let Some(hash) = hash {
                    *row = row.wrapping_add(hash);
                    sums.values += 1;
                    sums.checksum = sums.checksum.wrapping_add(hash);
                }
            }
        }
        for row in &rows {
            self.digest = self.digest.wrapping_add(xxh3_128(&row.to_le_bytes()));
        }
        self.rows += rows.len() as u64;
        Ok(())
    }

    /// Adds the sums of other rows.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.digest = self.digest.wrapping_add(other.digest);
        for (name, sums) in &other.columns {
            let mine = self.columns.entry(name.clone()).or_default();
            mine.values += sums.values;
            mine.checksum = mine.checksum.wrapping_add(sums.checksum);
        }
    }

    /// Returns the sums of a column; zero when no file had it.
    pub fn column(&self, name: &str) -> ColumnSums {
        self.columns.get(name).copied().unwrap_or_default()
    }
}

fn seed_of(outer: u64, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), outer)
}

/// Returns the hash of every value; `None` for a null.
fn hashes(array: &ArrayRef, seed: u64) -> Result<Vec<Option<u128>>, DataType> {
    let of = |letter: u8| Hasher { seed: xxh3_64_with_seed(&[letter], seed) };
    Ok(match array.data_type() {
        DataType::Int64 => of(b'i').primitive::<Int64Type, _>(array, |value| value.to_le_bytes()),
        DataType::Int32 => of(b'h').primitive::<Int32Type, _>(array, |value| value.to_le_bytes()),
        DataType::Float64 => of(b'f').primitive::<Float64Type, _>(array, |value| value.to_le_bytes()),
        DataType::Date32 => of(b'd').primitive::<Date32Type, _>(array, |value| value.to_le_bytes()),
        DataType::Decimal128(_, _) => of(b'c').primitive::<Decimal128Type, _>(array, |value| value.to_le_bytes()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            of(b't').primitive::<TimestampMicrosecondType, _>(array, |value| value.to_le_bytes())
        }
        DataType::Boolean => {
            let hasher = of(b'b');
            array.as_boolean().iter().map(|value| value.map(|value| hasher.hash(&[u8::from(value)]))).collect()
        }
        DataType::Utf8 => {
            let hasher = of(b'u');
            array.as_string::<i32>().iter().map(|value| value.map(|value| hasher.hash(value.as_bytes()))).collect()
        }
        DataType::Binary => {
            let hasher = of(b'y');
            array.as_binary::<i32>().iter().map(|value| value.map(|value| hasher.hash(value))).collect()
        }
        DataType::Struct(_) => of(b's').object(array)?,
        DataType::List(_) => of(b'l').list(array)?,
        other => return Err(other.clone()),
    })
}

#[derive(Debug, Clone, Copy)]
struct Hasher {
    seed: u64,
}

impl Hasher {
    fn hash(self, bytes: &[u8]) -> u128 {
        xxh3_128_with_seed(bytes, self.seed)
    }

    fn primitive<T: ArrowPrimitiveType, B: AsRef<[u8]>>(
        self,
        array: &ArrayRef,
        bytes: impl Fn(T::Native) -> B,
    ) -> Vec<Option<u128>> {
        let values = array.as_primitive::<T>().iter();
        values.map(|value| value.map(|value| self.hash(bytes(value).as_ref()))).collect()
    }

    fn object(self, array: &ArrayRef) -> Result<Vec<Option<u128>>, DataType> {
        let object = array.as_struct();
        let mut sums = vec![0_u128; object.len()];
        for (field, column) in object.fields().iter().zip(object.columns()) {
            let hashes = hashes(column, seed_of(self.seed, field.name()))?;
            for (sum, hash) in sums.iter_mut().zip(hashes) {
                *sum = sum.wrapping_add(hash.unwrap_or(0));
            }
        }
        let valid = |(row, sum): (usize, u128)| object.is_valid(row).then(|| self.hash(&sum.to_le_bytes()));
        Ok(sums.into_iter().enumerate().map(valid).collect())
    }

    fn list(self, array: &ArrayRef) -> Result<Vec<Option<u128>>, DataType> {
        let list = array.as_list::<i32>();
        let items = hashes(list.values(), self.seed)?;
        let mut bytes = Vec::new();
        let mut hashes = Vec::with_capacity(list.len());
        for (row, bounds) in list.value_offsets().windows(2).enumerate() {
            let index = |offset: i32| usize::try_from(offset).expect("offsets are not negative");
            bytes.clear();
            for item in &items[index(bounds[0])..index(bounds[1])] {
                bytes.push(u8::from(item.is_some()));
                bytes.extend_from_slice(&item.unwrap_or(0).to_le_bytes());
            }
            hashes.push(list.is_valid(row).then(|| self.hash(&bytes)));
        }
        Ok(hashes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Int64Type;
    use arrow_array::{Float64Array, Int64Array, ListArray, StringArray};

    use super::*;

    fn batch(numbers: &[Option<i64>], texts: &[&str]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap()
    }

    fn sums(batches: &[&RecordBatch]) -> Sums {
        let mut sums = Sums::default();
        for batch in batches {
            sums.add(batch, &[]).unwrap();
        }
        sums
    }

    #[test]
    fn order_batches_and_columns_of_nulls_do_not_matter() {
        let whole = batch(&[Some(1), None, Some(3)], &["a", "b", "c"]);
        let turned = batch(&[Some(3), Some(1), None], &["c", "a", "b"]);
        assert_eq!(sums(&[&whole]), sums(&[&turned]));
        assert_eq!(sums(&[&whole]), sums(&[&whole.slice(2, 1), &whole.slice(0, 2)]));
        let mut merged = sums(&[&whole.slice(0, 1)]);
        merged.merge(&sums(&[&whole.slice(1, 2)]));
        assert_eq!(merged, sums(&[&whole]));
        let mut columns: Vec<(&str, ArrayRef, bool)> =
            vec![("t", Arc::clone(whole.column(1)), true), ("n", Arc::clone(whole.column(0)), true)];
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None; 3]));
        columns.push(("x", nulls, true));
        let wider = sums(&[&RecordBatch::try_from_iter_with_nullable(columns).unwrap()]);
        assert_eq!(wider.digest, sums(&[&whole]).digest);
        assert_eq!(wider.column("x"), ColumnSums::default());
        assert_eq!(wider.column("n"), sums(&[&whole]).column("n"));
    }

    #[test]
    fn whatever_else_differs_is_seen() {
        let base = sums(&[&batch(&[Some(1), Some(2)], &["a", "b"])]);
        let others = [
            batch(&[Some(2), Some(1)], &["a", "b"]),
            batch(&[Some(1), None], &["a", "b"]),
            batch(&[Some(1), Some(2)], &["a", "B"]),
            batch(&[Some(1), Some(2), Some(2)], &["a", "b", "b"]),
            batch(&[Some(1), Some(1)], &["a", "a"]),
        ];
        for other in &others {
            assert_ne!(sums(&[other]).digest, base.digest, "{other:?}");
        }
        // Values that only changed places leave the columns' checksums as they are.
        assert_eq!(sums(&[&others[0]]).columns, base.columns);
        let one = |array: ArrayRef| sums(&[&RecordBatch::try_from_iter([("a", array)]).unwrap()]).digest;
        let integer = one(Arc::new(Int64Array::from(vec![1])));
        assert_ne!(integer, one(Arc::new(Float64Array::from(vec![1.0]))), "1 is not 1.0");
        let list = |items: &[&[i64]]| {
            let items = items.iter().map(|items| Some(items.iter().map(|item| Some(*item)).collect::<Vec<_>>()));
            one(Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(items)))
        };
        assert_ne!(list(&[&[1, 2], &[]]), list(&[&[1], &[2]]));
        assert_ne!(list(&[&[1, 2]]), list(&[&[2, 1]]));
    }
}
