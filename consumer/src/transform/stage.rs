//! Makes rows of the table of decoded rows: leaves out what is filtered, and what fails alone.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use headwater_lake::schema::{Column, TableSchema};

use super::{Plan, convert};
use crate::decode::{Decoded, META_COLUMNS, Misfit, Reason, adapt};

/// A column of the table, and the output of the plan that fills it; one that no output fills any more is null.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) column: Column,
    pub(crate) source: Option<usize>,
}

/// A transform, planned for events with certain columns and a table with certain columns.
#[derive(Debug)]
pub(crate) struct Stage {
    plan: Box<dyn Plan>,
    input: TableSchema,
    input_schema: SchemaRef,
    table: TableSchema,
    table_schema: SchemaRef,
    slots: Vec<Slot>,
    was_used: bool,
}

/// What became of some rows.
#[derive(Debug)]
pub(crate) struct Transformed {
    /// Those that are rows of the table, in their order.
    pub(crate) rows: Decoded,
    /// How many were left out.
    pub(crate) filtered: u64,
    /// Those that failed, by their place among the rows that came in.
    pub(crate) failed: Vec<(usize, Misfit)>,
}

/// What becomes of each row, while it is found out.
#[derive(Debug, Default)]
struct Fates {
    kept: Vec<u32>,
    filtered: u64,
    failed: Vec<(usize, String)>,
}

impl Stage {
    pub(crate) fn new(plan: Box<dyn Plan>, input: TableSchema, table: TableSchema, slots: Vec<Slot>) -> Self {
        let (input_schema, table_schema) = (Arc::new(input.arrow_schema()), Arc::new(table.arrow_schema()));
        Self { plan, input, input_schema, table, table_schema, slots, was_used: false }
    }

    /// Returns the columns of the events that it was planned for.
    pub(crate) fn input(&self) -> &TableSchema {
        &self.input
    }

    /// Returns the table that the rows are for.
    pub(crate) fn table(&self) -> &TableSchema {
        &self.table
    }

    /// Returns the schema of the rows.
    pub(crate) fn table_schema(&self) -> &SchemaRef {
        &self.table_schema
    }

    /// Returns true when rows were made with it.
    pub(crate) fn was_used(&self) -> bool {
        self.was_used
    }

    /// Transforms decoded rows; they may be of an earlier state of the columns it was planned for.
    pub(crate) fn apply(&mut self, decoded: &Decoded) -> Transformed {
        self.was_used = true;
        let rows = adapt(&decoded.rows, &self.input_schema);
        let mut fates = Fates::default();
        self.select(&rows, 0, &mut fates);
        let chosen = if fates.kept.len() == rows.num_rows() {
            rows
        } else {
            let places = UInt32Array::from(fates.kept.clone());
            take_record_batch(&rows, &places).expect("the places are those of rows")
        };
        let mut made = Vec::new();
        let mut failed = Vec::new();
        self.project(&chosen, 0, &mut made, &mut failed);
        // Places among the chosen rows, in order, become places among all.
        let mut failing = failed.iter().map(|(at, _)| *at).peekable();
        let mut times = Vec::with_capacity(fates.kept.len());
        for (at, place) in fates.kept.iter().enumerate() {
            if failing.next_if_eq(&at).is_none() {
                times.push(decoded.times[*place as usize]);
            }
        }
        fates.failed.extend(failed.into_iter().map(|(at, message)| (fates.kept[at] as usize, message)));
        let rows = match made.as_slice() {
            [one] => one.clone(),
            all => concat_batches(&self.table_schema, all).expect("all rows have the table's columns"),
        };
        debug_assert_eq!(rows.num_rows(), times.len(), "every row of the table has its time");
        let bytes = rows.get_array_memory_size() + times.len() * 8;
        let misfit = |(at, message)| (at, Misfit { reason: Reason::Transform, message });
        let failed = fates.failed.into_iter().map(misfit).collect();
        Transformed { rows: Decoded { rows, times, bytes }, filtered: fates.filtered, failed }
    }

    /// Asks for each row whether it is kept. Where the answer fails for some, each half is asked alone.
    fn select(&self, rows: &RecordBatch, first: usize, fates: &mut Fates) {
        let count = rows.num_rows();
        let place = |at: usize| u32::try_from(first + at).expect("a batch has few rows");
        match guarded(|| self.plan.keeps(rows)) {
            Ok(None) => fates.kept.extend((0..count).map(place)),
            Ok(Some(keeps)) => {
                let before = fates.kept.len();
                fates.kept.extend((0..count).filter(|at| keeps.is_valid(*at) && keeps.value(*at)).map(place));
                fates.filtered += (count - (fates.kept.len() - before)) as u64;
            }
            Err(message) if count <= 1 => fates.failed.push((first, message)),
            Err(_) => {
                let half = count / 2;
                self.select(&copied(rows, 0, half), first, fates);
                self.select(&copied(rows, half, count), first + half, fates);
            }
        }
    }

    /// Makes the rows. Where that fails for some, each half is made alone.
    fn project(
        &self,
        rows: &RecordBatch,
        first: usize,
        made: &mut Vec<RecordBatch>,
        failed: &mut Vec<(usize, String)>,
    ) {
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        match guarded(|| self.make(rows)) {
            Ok(rows) => made.push(rows),
            Err(message) if count == 1 => failed.push((first, message)),
            Err(_) => {
                let half = count / 2;
                self.project(&copied(rows, 0, half), first, made, failed);
                self.project(&copied(rows, half, count), first + half, made, failed);
            }
        }
    }

    fn make(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let mut columns: Vec<ArrayRef> = rows.columns()[..META_COLUMNS.len()].to_vec();
        for slot in &self.slots {
            let named = |what: String| format!("column {}: {what}", slot.column.name);
            columns.push(match slot.source {
                Some(output) => {
                    let values = self.plan.column(output, rows).map_err(named)?;
                    convert::convert(&values, &slot.column.kind).map_err(named)?
                }
                None => new_null_array(&slot.column.kind.arrow_type(), rows.num_rows()),
            });
        }
        RecordBatch::try_new(Arc::clone(&self.table_schema), columns).map_err(|error| error.to_string())
    }
}

/// Returns rows `[start, end)` in arrays of their own. A slice would do for expressions that heed the offset of every
/// array in it; not all of the engine's do, and then rows get their neighbours' values.
fn copied(rows: &RecordBatch, start: usize, end: usize) -> RecordBatch {
    let place = |at: usize| u32::try_from(at).expect("a batch has few rows");
    let places = UInt32Array::from_iter_values(place(start)..place(end));
    take_record_batch(rows, &places).expect("the places are those of rows")
}

/// Makes an error of a panic inside the engine, so that it costs the row that it is about and not the process.
fn guarded<T>(evaluate: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let evaluated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(evaluate));
    evaluated.unwrap_or_else(|_| Err("the SQL engine failed on it".to_owned()))
}
