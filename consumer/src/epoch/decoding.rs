//! From events to rows of the table: decoded, transformed, and moved to disk when there are too many.
//!
//! With a transform, rows are made as soon as a batch is decoded, with the columns there are then. When the columns
//! grow later in the epoch, what was made may not be what the final columns give: it is `superseded`, and
//! the epoch is decoded once more with the schema that its cut will name.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use headwater_common::accounts::Account;
use headwater_common::event::Event;
use headwater_common::position::Segment;
use headwater_lake::Error as LakeError;
use headwater_lake::commit::Tables;
use headwater_lake::layout::{Epoch, Output};
use headwater_lake::schema::TableSchema;
use headwater_stream::stretch::Stretch;

use super::{EpochBuffer, READ_BYTES, make_files_error};
use crate::dead_letter::DeadLetters;
use crate::decode::{Decoded, Decoder, Growing};
use crate::rows::Rows;
use crate::transform::planner::Planner;
use crate::transform::{declared_schema, input_of};

impl EpochBuffer {
    /// Decodes and transforms events of one shard, and moves rows to disk when there are many.
    pub(super) fn decode(&mut self, shard: &str, events: &[Event]) -> Result<(), LakeError> {
        let decoder = self.decoder.as_mut().expect("there is one before events are decoded");
        let is_transformed = self.planner.is_some() && self.superseded.is_none();
        for event in events {
            let ordinal = self.account.read;
            self.account.read += 1;
            match decoder.push(shard, event) {
                Ok(time) => {
                    self.newest_time = self.newest_time.max(Some(time));
                    if is_transformed {
                        self.waiting.push(ordinal, shard, event);
                    } else {
                        self.account.kept += 1;
                    }
                }
                Err(misfit) => {
                    self.account.dead_letters += 1;
                    self.letters.push(ordinal, shard, event, misfit);
                }
            }
        }
        let spilling = self.settings.spilling.clone();
        let is_much = self.events.bytes() + decoder.batch_bytes() >= spilling.from_bytes;
        let windows = self.events.windows().len();
        // A batch that is not full is taken only when it is moved, or when nothing else tells the windows.
        let takes_all = is_much && (windows == 0 || windows >= spilling.from_windows);
        let taken = decoder.take(takes_all);
        let rows = self.transform(taken)?;
        self.events.add(&self.settings.pipeline.partition_by, rows);
        if !is_much || self.events.windows().len() < spilling.from_windows {
            return Ok(());
        }
        let schema = self.schema_of_rows();
        let spilled = self.events.spill(&spilling.folder, &schema);
        spilled.map_err(|source| LakeError::Folder { path: spilling.folder, source })
    }

    /// Returns the schema of the rows that are added now.
    fn schema_of_rows(&self) -> SchemaRef {
        match &self.stage {
            Some(stage) if self.superseded.is_none() => Arc::clone(stage.table_schema()),
            _ => Arc::new(self.decoder.as_ref().expect("there are rows").schema().arrow_schema()),
        }
    }

    /// Makes rows of the table of decoded ones, and counts what became of them. Once rows were made with columns that
    /// have grown since, what comes is left as it is: all of the epoch is decoded again.
    pub(super) fn transform(&mut self, decoded: Vec<Decoded>) -> Result<Vec<Decoded>, LakeError> {
        let Some(planner) = self.planner.as_ref().filter(|_| self.superseded.is_none() && !decoded.is_empty()) else {
            return Ok(decoded);
        };
        let input = self.decoder.as_ref().expect("it has decoded").schema();
        let fitting = self.stage.take().filter(|stage| *stage.input() == input || stage.was_used());
        let mut stage = match fitting {
            Some(stage) => stage,
            None => planner.stage(&input).map_err(|what| LakeError::Rows { lane: self.settings.lane, what })?,
        };
        if *stage.input() != input {
            self.superseded = Some(std::mem::take(&mut self.events));
            self.waiting.clear();
            self.stage = Some(stage);
            return Ok(decoded);
        }
        let mut rows = Vec::with_capacity(decoded.len());
        for batch in decoded {
            let events = self.waiting.take(batch.times.len());
            let transformed = stage.apply(&batch);
            self.account.kept += transformed.rows.times.len() as u64;
            self.account.filtered += transformed.filtered;
            self.account.dead_letters += transformed.failed.len() as u64;
            for (at, misfit) in transformed.failed {
                let failed = &events[at];
                self.letters.push(failed.ordinal, &failed.shard, &failed.event, misfit);
            }
            if !transformed.rows.times.is_empty() {
                rows.push(transformed.rows);
            }
        }
        self.stage = Some(stage);
        Ok(rows)
    }

    /// Returns a decoder that goes on from the table's schema, growing it.
    pub(super) fn decoder_for(&mut self, tables: &Tables) -> Decoder {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let reserved: Vec<_> =
            base.map_or_else(Vec::new, |base| base.keys.iter().map(|key| key.column.clone()).collect());
        self.decoder(base.map(|base| &base.schema), &reserved, Growing::Allowed)
    }

    /// Returns a decoder for exactly the schema that a cut names, or will name.
    pub(super) fn fixed_decoder(&mut self, schema: &TableSchema) -> Decoder {
        self.decoder(Some(schema), &[], Growing::Fixed)
    }

    /// Returns a decoder for a table's schema, and plans the transform anew from there. With a transform the decoder is
    /// directed by the event's columns, and no name of theirs can collide with a partition key's.
    fn decoder(&mut self, table: Option<&TableSchema>, reserved: &[String], growing: Growing) -> Decoder {
        let (rules, declared) = (&self.settings.pipeline.rules, &self.settings.pipeline.columns);
        let digits = self.origin.sequence_digits;
        self.stage = None;
        let Some(transform) = &self.settings.pipeline.transform else {
            let schema = table.cloned().or_else(|| declared_schema(declared));
            return Decoder::new(rules, schema.as_ref(), reserved, digits, growing);
        };
        let planner = Arc::new(Planner::new(Arc::clone(transform), table.cloned(), reserved));
        self.planner = Some(Arc::clone(&planner));
        let schema = table.map(input_of).or_else(|| declared_schema(declared));
        Decoder::new(rules, schema.as_ref(), &[], digits, growing).accepting(planner)
    }

    /// Decodes the segments once more, from the log. Waits while the log does not answer; a segment without events is
    /// passed over.
    pub(super) async fn decode_again(
        &mut self,
        epoch: Epoch,
        decoder: Decoder,
        segments: &[Segment],
    ) -> Result<(), LakeError> {
        let lane = self.settings.lane;
        let failed = |error| make_files_error(lane, epoch, error);
        self.decoder = Some(decoder);
        self.events = Rows::default();
        self.superseded = None;
        self.waiting.clear();
        self.letters = DeadLetters::default();
        self.account = Account::default();
        let source = Arc::clone(&self.settings.source);
        for segment in segments {
            let mut stretch = Stretch::of_segment(source.as_ref(), segment);
            loop {
                let events = stretch.next(READ_BYTES).await.map_err(failed)?;
                if events.is_empty() {
                    break;
                }
                self.decode(segment.shard.as_str(), &events)?;
            }
        }
        Ok(())
    }
}
