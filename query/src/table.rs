//! A lake's table for DataFusion: its newest version, file by file.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, project_schema};
use headwater_common::event_time::Format;
use headwater_common::window::Key;
use headwater_lake::generation::PartitionKey;
use headwater_lake::reading::{LiveFile, TableView};
use object_store::ObjectMeta;
use serde_json::Value;

/// Values of an IN list up to which files are pruned by it.
const IN_LIST_MAX: usize = 100;

/// A table at one version.
#[derive(Debug)]
pub(crate) struct LakeTable {
    url: ObjectStoreUrl,
    schema: TableSchema,
    files: Vec<TableFile>,
}

#[derive(Debug)]
struct TableFile {
    meta: ObjectMeta,
    partition: Vec<ScalarValue>,
    /// Of the file's own columns, in order.
    statistics: Arc<Statistics>,
}

impl LakeTable {
    pub(crate) fn new(view: TableView, url: ObjectStoreUrl) -> Self {
        let file_schema: SchemaRef = Arc::new(view.schema.arrow_schema());
        let keys = view.keys.iter().map(|key| Arc::new(Field::new(&key.column, type_of(key), true)));
        let schema =
            TableSchema::builder(Arc::clone(&file_schema)).with_table_partition_cols(keys.collect::<Vec<_>>()).build();
        let files = view.files.into_iter().map(|file| table_file(file, &view.keys, &file_schema)).collect();
        Self { url, schema, files }
    }

    /// Returns how many files and bytes the table has.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.files.len() as u64, self.files.iter().map(|file| file.meta.size).sum())
    }
}

fn type_of(key: &PartitionKey) -> DataType {
    if key.kind == Key::Date { DataType::Date32 } else { DataType::Int32 }
}

fn table_file(file: LiveFile, keys: &[PartitionKey], schema: &SchemaRef) -> TableFile {
    let partition = keys.iter().map(|key| partition_value(key, file.partition.get(&key.column)));
    let last_modified = chrono::DateTime::from_timestamp_millis(file.modified_millis).unwrap_or_default();
    let partition = partition.collect();
    let statistics = Arc::new(statistics_of(&file, schema));
    let meta = ObjectMeta { location: file.key, last_modified, size: file.size, e_tag: None, version: None };
    TableFile { meta, partition, statistics }
}

fn partition_value(key: &PartitionKey, text: Option<&String>) -> ScalarValue {
    let Some(text) = text else {
        return ScalarValue::try_new_null(&type_of(key)).unwrap_or(ScalarValue::Null);
    };
    match key.kind {
        Key::Date => {
            let days = Format::Text.parse(text).map(|time| time.micros().div_euclid(86_400_000_000));
            ScalarValue::Date32(days.and_then(|days| i32::try_from(days).ok()))
        }
        _ => ScalarValue::Int32(text.parse().ok()),
    }
}

/// Takes over what the Delta log says. Bounds are marked inexact, so that no answer is taken from them: texts are cut
/// off, and floats know nothing of NaN.
fn statistics_of(file: &LiveFile, schema: &Schema) -> Statistics {
    let column = |field: &Arc<Field>| {
        let of = |what: &str| file.statistics.get(what).and_then(|values| values.get(field.name()));
        let bound = |what: &str| match of(what).and_then(|value| scalar(field.data_type(), value)) {
            Some(value) => Precision::Inexact(value),
            None => Precision::Absent,
        };
        let nulls = of("nullCount").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        ColumnStatistics {
            null_count: nulls.map_or(Precision::Absent, Precision::Exact),
            min_value: bound("minValues"),
            max_value: bound("maxValues"),
            ..ColumnStatistics::new_unknown()
        }
    };
    let rows = usize::try_from(file.rows).unwrap_or(usize::MAX);
    Statistics {
        num_rows: Precision::Exact(rows),
        total_byte_size: Precision::Absent,
        column_statistics: schema.fields().iter().map(column).collect(),
    }
}

fn scalar(kind: &DataType, value: &Value) -> Option<ScalarValue> {
    match kind {
        DataType::Int64 => value.as_i64().map(|integer| ScalarValue::Int64(Some(integer))),
        DataType::Float64 => value.as_f64().map(|float| ScalarValue::Float64(Some(float))),
        DataType::Utf8 => value.as_str().map(|text| ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Timestamp(_, zone) => {
            let time = Format::Text.parse(value.as_str()?)?;
            Some(ScalarValue::TimestampMicrosecond(Some(time.micros()), zone.clone()))
        }
        DataType::Date32 => {
            let days = Format::Text.parse(value.as_str()?)?.micros().div_euclid(86_400_000_000);
            i32::try_from(days).ok().map(|days| ScalarValue::Date32(Some(days)))
        }
        _ => None,
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let keep = self.prune(state, &schema, filters)?;
        let kept = self.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file);
        let files: Vec<PartitionedFile> = kept
            .map(|file| {
                PartitionedFile::new_from_meta(file.meta.clone())
                    .with_partition_values(file.partition.clone())
                    .with_statistics(Arc::clone(&file.statistics))
            })
            .collect();
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&schema, projection)?)));
        }
        let merged = Statistics::try_merge_iter(files.iter().filter_map(|file| file.statistics.as_deref()), &schema)?;
        let source = ParquetSource::new(self.schema.clone())
            .with_table_parquet_options(state.default_table_options().parquet)
            .with_metadata_size_hint(64 * 1024);
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let scan = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(merged)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

impl LakeTable {
    /// Says which files a filter can match.
    fn prune(&self, state: &dyn Session, schema: &SchemaRef, filters: &[Expr]) -> Result<Vec<bool>> {
        let all = vec![true; self.files.len()];
        let Some(filter) = conjunction(filters.iter().cloned()) else {
            return Ok(all);
        };
        let columns = DFSchema::try_from(Arc::clone(schema))?;
        let Ok(filter) = state.create_physical_expr(filter, &columns) else {
            return Ok(all);
        };
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(schema))
            .with_max_in_list_size(IN_LIST_MAX)
            .build(filter);
        let Some(predicate) = predicate else {
            return Ok(all);
        };
        Ok(predicate.prune(&FileStatistics { schema, files: &self.files }).unwrap_or(all))
    }
}

struct FileStatistics<'a> {
    schema: &'a SchemaRef,
    files: &'a [TableFile],
}

impl FileStatistics<'_> {
    fn bounds(&self, column: &Column, pick: impl Fn(&ColumnStatistics) -> &Precision<ScalarValue>) -> Option<ArrayRef> {
        let (index, field) = self.schema.column_with_name(&column.name)?;
        // A file of floats may hold NaN, which is above every bound.
        if field.data_type() == &DataType::Float64 {
            return None;
        }
        let unknown = ScalarValue::try_new_null(field.data_type()).ok()?;
        let values = self.files.iter().map(|file| {
            let own = file.statistics.column_statistics.len();
            let value = match file.statistics.column_statistics.get(index) {
                Some(statistics) => pick(statistics).get_value(),
                None => file.partition.get(index - own),
            };
            value.cloned().unwrap_or_else(|| unknown.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.min_value)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.max_value)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|file| file.statistics.num_rows.get_value().map(|rows| *rows as u64));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (index, _) = self.schema.column_with_name(&column.name)?;
        let counts = self.files.iter().map(|file| {
            let statistics = file.statistics.column_statistics.get(index)?;
            statistics.null_count.get_value().map(|count| *count as u64)
        });
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
