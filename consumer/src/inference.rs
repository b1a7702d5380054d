//! The widest schema of a history: what the table would have if all of it were one epoch.
//!
//! An epoch may turn a new column from integer to float; a later epoch may not. So a column that turned out to have
//! fractions after its first epoch is widened here, by the very rules of the decoder, and nothing else is.

use std::sync::Arc;

use headwater_common::event::Event;
use headwater_common::position::ShardId;
use headwater_lake::schema::TableSchema;

use crate::decode::{Decoder, Growing};
use crate::pipeline::Pipeline;
use crate::transform::declared_schema;
use crate::transform::planner::Planner;

/// Looks at the events of a history and keeps nothing of them but their schema.
#[derive(Debug)]
pub struct Inference {
    decoder: Decoder,
    events: u64,
    misfits: u64,
}

impl Inference {
    /// Returns an inference that has seen nothing.
    pub fn new(pipeline: &Pipeline, sequence_digits: usize) -> Self {
        let declared = declared_schema(&pipeline.columns);
        let mut decoder = Decoder::new(&pipeline.rules, declared.as_ref(), &[], sequence_digits, Growing::Allowed);
        if let Some(transform) = &pipeline.transform {
            decoder = decoder.accepting(Arc::new(Planner::new(Arc::clone(transform), None, &[])));
        }
        Self { decoder, events: 0, misfits: 0 }
    }

    /// Looks at some events of a shard. It takes as long as decoding them: not for a thread of the runtime.
    pub fn add(&mut self, shard: &ShardId, events: &[Event]) {
        for event in events {
            self.misfits += u64::from(self.decoder.push(shard.as_str(), event).is_err());
            // The rows themselves are of no use.
            drop(self.decoder.take(false));
        }
        self.events += events.len() as u64;
    }

    /// Returns how many events were looked at, and how many of them fit no schema.
    pub fn counts(&self) -> (u64, u64) {
        (self.events, self.misfits)
    }

    /// Returns the schema of the events; `None` when no event was a row, so that nothing is known.
    pub fn schema(&self) -> Option<TableSchema> {
        (self.events > self.misfits).then(|| self.decoder.schema())
    }
}

#[cfg(test)]
mod tests {
    use headwater_common::position::Position;
    use headwater_common::timestamp::Timestamp;
    use headwater_lake::schema::{ColumnType, SchemaVersion};

    use super::*;

    fn infer(payloads: &[&str]) -> Vec<(String, ColumnType)> {
        let mut inference = Inference::new(&Pipeline::default(), 20);
        for (number, payload) in (1_u64..).zip(payloads) {
            let event = Event {
                position: Position::of_record(number.into()),
                arrived_at: Timestamp::from_micros(0),
                partition_key: "k".into(),
                payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
            };
            inference.add(&"0".into(), &[event]);
        }
        let schema = inference.schema().unwrap();
        assert_eq!(schema.version, SchemaVersion::FIRST, "a table begins with it");
        let columns = schema.columns.into_iter().filter(|column| !column.name.starts_with('_'));
        columns.map(|column| (column.name, column.kind)).collect()
    }

    #[test]
    fn integers_are_widened_however_late_the_fraction_comes() {
        let check = |payloads: &[&str], expect: ColumnType| {
            assert_eq!(infer(payloads), [("a".to_owned(), expect)], "{payloads:?}");
        };
        let many: Vec<_> = (0..20_000).map(|n| format!("{{\"a\":{n}}}")).chain(["{\"a\":0.5}".to_owned()]).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), ColumnType::Float64);
        check(&["{\"a\":1}", "{\"a\":2.0}"], ColumnType::Float64);
        check(&["{\"a\":1}", "{\"a\":\"x\"}"], ColumnType::Int64);
        // An integer that no float equals stays what it is; the fraction is the conflict.
        check(&["{\"a\":9007199254740993}", "{\"a\":0.5}"], ColumnType::Int64);
        check(&["{\"a\":[]}", "{\"a\":[1]}", "{\"a\":[0.5]}"], ColumnType::List(Box::new(ColumnType::Float64)));
    }

    #[test]
    fn without_a_row_nothing_is_known() {
        let inference = Inference::new(&Pipeline::default(), 20);
        assert!(inference.schema().is_none());
    }
}
