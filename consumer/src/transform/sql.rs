//! The query crate's expressions as a transform.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use headwater_lake::schema::TableSchema;
use headwater_query::expressions::{Expressions, Planned};

use super::planner::Planner;
use super::{Declared, Output, Plan, Transform, declared_schema, sql_schema};
use crate::decode::{META_COLUMNS, meta_columns};

/// Reads a transform.
pub(super) fn read(sql: &str, declared: &Declared) -> Result<Arc<dyn Transform>, String> {
    let carried = META_COLUMNS.map(|(name, _)| name);
    let input = declared_schema(declared).map_or_else(|| meta_columns().collect(), |schema| schema.columns);
    let input = TableSchema { version: headwater_lake::schema::SchemaVersion(0), columns: input, input: None };
    let expressions = Expressions::parse(sql, &carried, &Arc::new(sql_schema(&input)));
    let transform: Arc<dyn Transform> = Arc::new(expressions.map_err(|refused| refused.to_string())?);
    // What no column can hold whatever the events are is said now, and not when there is a table.
    Planner::new(Arc::clone(&transform), None, &[]).stage(&input)?;
    Ok(transform)
}

impl Transform for Expressions {
    fn canonical(&self) -> &str {
        Self::canonical(self)
    }

    fn plan(&self, input: &SchemaRef) -> Result<Box<dyn Plan>, String> {
        let planned = Self::plan(self, input).map_err(|refused| refused.to_string())?;
        Ok(Box::new(planned))
    }
}

impl Plan for Planned {
    fn outputs(&self) -> Vec<Output> {
        let output = |column: &headwater_query::expressions::PlannedColumn| Output {
            name: column.name.clone(),
            kind: column.kind.clone(),
        };
        Self::outputs(self).iter().map(output).collect()
    }

    fn keeps(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>, String> {
        Self::keeps(self, rows)
    }

    fn column(&self, index: usize, rows: &RecordBatch) -> Result<ArrayRef, String> {
        Self::column(self, index, rows)
    }
}
