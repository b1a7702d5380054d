//! The transform: what a pipeline makes of decoded rows before they are put into windows.
//!
//! Guarantees: what becomes of an event (kept with these values, filtered, or a dead letter) is a function of the event
//! and of the schemas its cut names, however the rows were batched. It relies on expressions that are functions of one
//! row: a batch that fails is evaluated by halves, down to the rows that fail alone.
//!
//! `planner` says which columns the table has, `stage` makes the rows, `convert` gives values their column's type,
//! `waiting` keeps the events at hand whose rows may still fail. The expressions come from the query crate, behind
//! the feature `sql`.

pub(crate) mod convert;
pub(crate) mod planner;
#[cfg(feature = "sql")]
mod sql;
pub(crate) mod stage;
pub(crate) mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Schema, SchemaRef};
use headwater_lake::schema::{Column, ColumnType, SchemaVersion, TableSchema, holdable_name};

use crate::decode::{META_COLUMNS, meta_columns};

/// A transform that was read and is allowed. A trait, so that this crate builds without an engine.
pub trait Transform: std::fmt::Debug + Send + Sync {
    /// Returns the text in the one form that counts for the pipeline's hash.
    fn canonical(&self) -> &str;

    /// Plans it for rows with these columns; the columns of [`META_COLUMNS`] are among them.
    ///
    /// # Errors
    /// Why the types do not allow it. A function of the columns alone.
    fn plan(&self, input: &SchemaRef) -> Result<Box<dyn Plan>, String>;
}

/// A transform for rows of one schema. Every method gives for a row what the row alone would give.
pub trait Plan: std::fmt::Debug + Send + Sync {
    /// Returns the outputs, in order, without those of [`META_COLUMNS`].
    fn outputs(&self) -> Vec<Output>;

    /// Returns which rows are kept: those with `true`; `None` when all are.
    ///
    /// # Errors
    /// When it fails on a row. About the row itself only when there is just one.
    fn keeps(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>, String>;

    /// Returns the values of one output.
    ///
    /// # Errors
    /// As [`Plan::keeps`].
    fn column(&self, index: usize, rows: &RecordBatch) -> Result<ArrayRef, String>;
}

/// One output of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type; null while it is not known.
    pub kind: DataType,
}

/// Columns that were declared, with their types.
pub type Declared = BTreeMap<String, ColumnType>;

/// Reads a transform; without the feature `sql` there is nothing that could.
///
/// # Errors
/// Why it is refused, in one line.
pub fn read(sql: &str, declared: &Declared) -> Result<Arc<dyn Transform>, String> {
    #[cfg(feature = "sql")]
    {
        sql::read(sql, declared)
    }
    #[cfg(not(feature = "sql"))]
    {
        let _ = (sql, declared);
        Err("this build has no SQL engine; build headwater with its feature `sql`".to_owned())
    }
}

/// Returns the schema that events are decoded to before there is a table; `None` when nothing was declared.
pub(crate) fn declared_schema(declared: &Declared) -> Option<TableSchema> {
    if declared.is_empty() {
        return None;
    }
    let mut schema = TableSchema { version: SchemaVersion(0), columns: meta_columns().collect(), input: None };
    declare(&mut schema, declared);
    Some(schema)
}

/// Gives the declared fields their types, and columns where they have none.
pub(crate) fn declare(schema: &mut TableSchema, declared: &Declared) {
    let TableSchema { version, columns, .. } = schema;
    for (source, kind) in declared {
        if let Some(column) = columns.iter_mut().find(|column| column.source() == source) {
            column.kind.clone_from(kind);
            continue;
        }
        let name = holdable_name(source, |name| columns.iter().any(|column| column.name.to_lowercase() == name));
        let source = (name != *source).then(|| source.clone());
        columns.push(Column { name, source, kind: kind.clone(), since: *version });
    }
}

/// Returns the schema of the events that a table's rows were made of.
pub fn event_schema(table: &TableSchema) -> TableSchema {
    if table.input.is_some() { input_of(table) } else { table.clone() }
}

/// Returns the schema that events are decoded to where there is a table with a transform.
pub(crate) fn input_of(table: &TableSchema) -> TableSchema {
    let input = table.input.iter().flatten().cloned();
    TableSchema { version: table.version, columns: meta_columns().chain(input).collect(), input: None }
}

/// Returns the columns as the SQL knows them: a field by its own name, whatever a table would call it.
pub(crate) fn sql_schema(input: &TableSchema) -> Schema {
    let field = |column: &Column| {
        let is_carried = META_COLUMNS.iter().any(|(meta, _)| *meta == column.source());
        let name = if is_carried { &column.name } else { column.source() };
        column.arrow_field().with_name(name)
    };
    Schema::new(input.columns.iter().map(field).collect::<Vec<_>>())
}

/// Returns a schema's columns without those of [`META_COLUMNS`].
pub(crate) fn own_columns(schema: &TableSchema) -> &[Column] {
    &schema.columns[META_COLUMNS.len()..]
}

#[cfg(all(test, feature = "sql"))]
mod tests;
