//! The schema that a new generation begins with.
//!
//! Within a generation a column's type never changes. So what the new one begins with decides what its columns are: the
//! live one's final schema (the same columns again), the widest one of the whole history (`--infer`), or the live
//! one's with all its versions (`--same-cuts`).

use std::collections::BTreeMap;

use headwater_common::position::ShardId;
use headwater_consumer::decode::META_COLUMNS;
use headwater_consumer::inference::Inference;
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::transform::event_schema;
use headwater_lake::generation::PartitionKey;
use headwater_lake::schema::{Column, TableSchema};
use headwater_lake::table::TableState;
use headwater_stream::Source;
use headwater_stream::stretch::{Bound, Stretch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::range::Positions;

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// How a new generation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beginning {
    /// With the live generation's final schema.
    FinalSchema,
    /// With the widest schema of the whole range.
    InferredSchema,
    /// With the live generation's schema and all its versions, and its cuts.
    RecordedCuts,
}

/// Returns the schema of a generation that begins with another one's final schema.
///
/// Under the same pipeline that is all of it. Under another one the events' columns are what stays: what a transform
/// makes of them is made anew, a declared type counts, and a column whose type the pipeline decides (the event time's)
/// is inferred anew where the two decide it otherwise.
///
/// # Errors
/// When the new transform cannot be planned with these columns.
pub fn final_schema(live: &TableState, old: &BTreeMap<String, Value>, new: &Pipeline) -> Result<TableSchema, Error> {
    let canonical = new.canonical();
    if *old == canonical {
        return Ok(live.schema.as_first());
    }
    let mut events = event_schema(&live.schema);
    let same = |key: &str| old.get(key) == canonical.get(key);
    if !same("time_field") || !same("time_format") {
        let old_time = old.get("time_field").and_then(Value::as_str);
        let new_time = new.rules.time_field.as_deref();
        let is_time = |column: &Column| [old_time, new_time].contains(&Some(column.source()));
        let data = events.columns.split_off(META_COLUMNS.len());
        events.columns.extend(data.into_iter().filter(|column| !is_time(column)));
    }
    new.first_schema(&events).map_err(Error::Transform)
}

/// Returns the partition keys of a new table: those of the live one where it is partitioned alike.
pub fn keys(schema: &TableSchema, pipeline: &Pipeline, live: Option<&TableState>) -> Vec<PartitionKey> {
    let columns = live.map(|live| live.keys.iter().map(|key| key.column.clone()).collect::<Vec<_>>());
    let named = columns.and_then(|columns| PartitionKey::named(&pipeline.partition_by, &columns));
    named.unwrap_or_else(|| {
        let taken = |name: &str| schema.columns.iter().any(|column| column.name.to_lowercase() == name);
        PartitionKey::of(&pipeline.partition_by, taken)
    })
}

/// Reads a range once and returns the widest schema of its events, as if they were one epoch; `None` when none of them
/// is a row. Calls `seen` with the number of events of each read.
///
/// # Errors
/// When the stream no longer has the range.
pub async fn infer(
    source: &dyn Source,
    pipeline: &Pipeline,
    range: (&Positions, &Positions),
    seen: &(dyn Fn(u64) + Send + Sync),
) -> Result<Option<TableSchema>, Error> {
    let failed = |error| Error::Stream { url: source.url(), source: error };
    let mut inference = Inference::new(pipeline, source.sequence_digits());
    let (from, until) = range;
    for (shard, last) in until {
        let after = from.get(shard).copied().unwrap_or_default();
        let mut stretch = Stretch::new(source, shard.clone(), after, Bound::from(*last));
        loop {
            let events = stretch.next(READ_BYTES).await.map_err(failed)?;
            if events.is_empty() {
                break;
            }
            let count = events.len() as u64;
            inference = look(inference, shard.clone(), events).await;
            seen(count);
        }
    }
    let (events, misfits) = inference.counts();
    tracing::info!(events, misfits, "schema inferred from the whole range");
    let first = inference.schema().map(|events| pipeline.first_schema(&events)).transpose();
    first.map_err(Error::Transform)
}

async fn look(mut inference: Inference, shard: ShardId, events: Vec<headwater_common::event::Event>) -> Inference {
    let looking = tokio::task::spawn_blocking(move || {
        inference.add(&shard, &events);
        inference
    });
    looking.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use headwater_lake::schema::{ColumnType, SchemaVersion};

    use super::*;

    #[test]
    fn partition_keys_get_out_of_the_way_of_columns() {
        let column = |name: &str| Column::new(name, ColumnType::Int64, SchemaVersion::FIRST);
        let schema =
            TableSchema { version: SchemaVersion::FIRST, columns: vec![column("Hour"), column("n")], input: None };
        let partition_by = "year,month,day,hour".parse().unwrap();
        let pipeline = Pipeline { partition_by, ..Pipeline::default() };
        let names: Vec<_> = keys(&schema, &pipeline, None).into_iter().map(|key| key.column).collect();
        assert_eq!(names, ["year", "month", "day", "event_hour"]);
    }
}
