//! What a data file says of itself in its footer: the digest of its rows, and statistics for the Delta log.

use deltalake_core::kernel::Add;
use headwater_common::timestamp::Timestamp;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::basic::LogicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value, json};

use crate::cut::FileIntent;
use crate::digest::RowDigest;
use crate::error::Error;
use crate::generation::PartitionKey;
use crate::store::LakeStore;

/// The footer's key of the row digest.
pub const DIGEST_KEY: &str = "headwater.row_digest";

/// Columns that get statistics in the Delta log; a table with more gets them for its first ones (Delta's own default
/// is 32, `delta.dataSkippingNumIndexedCols`).
const STATISTICS_COLUMNS_MAX: usize = 64;

/// The stretch at the end of a file that is read first; most footers fit.
const FOOTER_GUESS_BYTES: u64 = 64 * 1024;

/// What the Delta log says of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileFacts {
    /// Its size in bytes.
    pub size: u64,
    /// Milliseconds since the epoch.
    pub modified_millis: i64,
    /// Its rows.
    pub rows: u64,
    /// Digest of its rows; `None` when the footer has none, so that no writer of this project made it.
    pub digest: Option<RowDigest>,
    /// Delta's statistics.
    statistics: Value,
}

impl FileFacts {
    /// Returns the facts of a file from its footer.
    pub fn of(footer: &ParquetMetaData, size: u64, modified_millis: i64) -> Self {
        let metadata = footer.file_metadata().key_value_metadata();
        let digest = metadata.into_iter().flatten().find(|entry| entry.key == DIGEST_KEY);
        let digest = digest.and_then(|entry| entry.value.as_deref()?.parse().ok());
        let rows = u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
        Self { size, modified_millis, rows, digest, statistics: statistics(footer, rows) }
    }

    /// Returns the Delta action that adds the file.
    pub fn add(&self, intent: &FileIntent, keys: &[PartitionKey]) -> Add {
        let values = keys.iter().map(|key| (key.column.clone(), Some(key.value(intent.window))));
        Add {
            path: intent.key.clone(),
            partition_values: values.collect(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            modification_time: self.modified_millis,
            data_change: true,
            stats: Some(self.statistics.to_string()),
            ..Add::default()
        }
    }
}

/// Reads a file's footer; `None` when there is no such object.
///
/// # Errors
/// When the store does not answer, or the object is no Parquet file.
pub async fn inspect(store: &LakeStore, key: &Path) -> Result<Option<FileFacts>, Error> {
    let Some(object) = store.head(key).await? else {
        return Ok(None);
    };
    let footer = read_footer(store, key, object.size).await?;
    Ok(Some(FileFacts::of(&footer, object.size, object.last_modified.timestamp_millis())))
}

/// Reads the footer of a file of that size.
///
/// # Errors
/// As [`inspect`].
pub async fn read_footer(store: &LakeStore, key: &Path, size: u64) -> Result<ParquetMetaData, Error> {
    let damaged = |source: ParquetError| Error::Damaged { key: key.clone(), source: Box::new(source) };
    let mut wanted = FOOTER_GUESS_BYTES.min(size);
    let mut reader = ParquetMetaDataReader::new();
    loop {
        let tail = store.objects().get_range(key, size - wanted..size).await;
        let tail = tail.map_err(|source| Error::Store { action: "read", key: key.clone(), source })?;
        match reader.try_parse_sized(&tail, size) {
            Ok(()) => return reader.finish().map_err(damaged),
            Err(ParquetError::NeedMoreData(needed)) if (needed as u64) > wanted && (needed as u64) <= size => {
                wanted = needed as u64;
            }
            Err(error) => return Err(damaged(error)),
        }
    }
}

fn statistics(footer: &ParquetMetaData, rows: u64) -> Value {
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    let columns = footer.file_metadata().schema_descr().columns();
    for (index, column) in columns.iter().enumerate().take(STATISTICS_COLUMNS_MAX) {
        // Delta has no statistics for what is inside lists.
        if column.max_rep_level() > 0 {
            continue;
        }
        let chunks: Vec<_> = footer.row_groups().iter().map(|group| group.column(index).statistics()).collect();
        let Some(chunks) = chunks.into_iter().collect::<Option<Vec<_>>>() else {
            continue;
        };
        let path = column.path().parts();
        let null_count = chunks.iter().try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.null_count_opt()?));
        if let Some(count) = null_count {
            insert(&mut nulls, path, count.into());
        }
        let bounds = chunks.into_iter().map(|chunk| Bounds::of(chunk, column)).reduce(Bounds::union);
        if let Some(Bounds::Known { least: low, most: high }) = bounds {
            insert(&mut least, path, low.to_json(false));
            insert(&mut most, path, high.to_json(true));
        }
    }
    json!({"numRecords": rows, "minValues": least, "maxValues": most, "nullCount": nulls})
}

fn insert(map: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => _ = map.insert(name.clone(), value),
        [name, rest @ ..] => {
            if let Value::Object(inner) = map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())) {
                insert(inner, rest, value);
            }
        }
    }
}

/// A bound of a column's values, comparable with one of the same column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Integer(i64),
    Float(f64),
    Text(String),
    Micros(i64),
    Days(i32),
}

#[derive(Debug)]
enum Bounds {
    /// All values are null.
    Empty,
    Known {
        least: Bound,
        most: Bound,
    },
    Unknown,
}

impl Bounds {
    fn of(chunk: &Statistics, column: &ColumnDescriptor) -> Self {
        let known = |pair: Option<(Bound, Bound)>| match pair {
            Some((least, most)) => Self::Known { least, most },
            None => Self::Empty,
        };
        match chunk {
            Statistics::Int64(s) => {
                let micros = matches!(column.logical_type_ref(), Some(LogicalType::Timestamp(_)));
                let bound = |value: &i64| {
                    if micros { Bound::Micros(*value) } else { Bound::Integer(*value) }
                };
                known(s.min_opt().zip(s.max_opt()).map(|(a, b)| (bound(a), bound(b))))
            }
            Statistics::Int32(s) => {
                known(s.min_opt().zip(s.max_opt()).map(|(a, b)| (Bound::Days(*a), Bound::Days(*b))))
            }
            Statistics::Double(s) => {
                let finite = s.min_opt().zip(s.max_opt()).filter(|(a, b)| a.is_finite() && b.is_finite());
                known(finite.map(|(a, b)| (Bound::Float(*a), Bound::Float(*b))))
            }
            Statistics::ByteArray(s) => match s.min_opt().zip(s.max_opt()) {
                Some((a, b)) => match (a.as_utf8(), b.as_utf8()) {
                    (Ok(a), Ok(b)) => known(Some((Bound::Text(a.into()), Bound::Text(b.into())))),
                    _ => Self::Unknown,
                },
                // Also a column of very long texts without a truncated upper bound has none.
                None if chunk.null_count_opt().is_some() => Self::Empty,
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Empty, known) | (known, Self::Empty) => known,
            (Self::Known { least: a, most: b }, Self::Known { least: c, most: d }) => {
                Self::Known { least: if c < a { c } else { a }, most: if d > b { d } else { b } }
            }
        }
    }
}

impl Bound {
    /// Returns the bound as Delta writes it; an upper bound of coarser resolution is rounded up.
    fn to_json(&self, upper: bool) -> Value {
        match self {
            Self::Integer(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Micros(micros) => {
                let millis = micros.div_euclid(1000) + i64::from(upper && micros.rem_euclid(1000) != 0);
                let time = Timestamp::from_micros(millis.saturating_mul(1000));
                chrono::DateTime::from_timestamp_micros(time.micros())
                    .map_or(Value::Null, |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into())
            }
            Self::Days(days) => {
                let micros = i64::from(*days).saturating_mul(86_400_000_000);
                chrono::DateTime::from_timestamp_micros(micros)
                    .map_or(Value::Null, |time| time.format("%Y-%m-%d").to_string().into())
            }
        }
    }
}
