//! The rows of the epoch at hand: gathered from reads, proposed as a cut, encoded file by file; or read again by the
//! boundaries of a cut that is there already.

mod decoding;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use headwater_common::accounts::Account;
use headwater_common::event::Batch;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::commit::{EncodedFile, EpochRows, FileRef, Prepared, Tables, Violation};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent, POSITIONS_EVERY};
use headwater_lake::generation::{OpenGeneration, PartitionKey};
use headwater_lake::layout::{Epoch, Lane, Output};
use headwater_lake::schema::TableSchema;
use headwater_stream::Source;

use crate::dead_letter::{self, DeadLetters, Origin};
use crate::decode::{Decoder, Reason};
use crate::pipeline::Pipeline;
use crate::rows::Rows;
use crate::transform::planner::Planner;
use crate::transform::stage::Stage;
use crate::transform::waiting::Waiting;

/// Bytes that one read asks for when an epoch is read again.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// What a buffer is made with.
#[derive(Clone)]
pub struct Settings {
    /// Where the events come from, also when an epoch is read again.
    pub source: Arc<dyn Source>,
    /// Where the rows go.
    pub generation: Arc<OpenGeneration>,
    /// The lane.
    pub lane: Lane,
    /// How events become rows.
    pub pipeline: Pipeline,
    /// When rows go to disk.
    pub spilling: Spilling,
}

/// When rows of an epoch go to disk, so that it can go on.
#[derive(Debug, Clone)]
pub struct Spilling {
    /// Where the file is made; it has no name.
    pub folder: PathBuf,
    /// Bytes of rows in memory from which on they are moved.
    pub from_bytes: usize,
    /// Windows that must be open: with few of them a cut makes files that are large enough.
    pub from_windows: usize,
}

/// What an epoch adds to the counters once it is committed.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// What became of the events.
    pub account: Account,
    /// Their bytes.
    pub bytes: u64,
    /// The dead letters by reason.
    pub reasons: BTreeMap<Reason, u64>,
}

/// How the rows that are in full batches are spread over the windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRows {
    /// Windows that have rows.
    pub windows: usize,
    /// Their rows.
    pub rows: u64,
    /// Rows of the window that has most.
    pub largest: u64,
}

/// The rows of one epoch of one lane.
pub struct EpochBuffer {
    settings: Settings,
    origin: Origin,
    /// Where each shard of the lane stands, with what is buffered.
    positions: BTreeMap<ShardId, Position>,
    decoder: Option<Decoder>,
    /// Plans the transform from what the table was when the decoder began; `None` without a transform.
    planner: Option<Arc<Planner>>,
    /// The transform for the columns that the decoder had when rows were last taken from it.
    stage: Option<Stage>,
    /// Events of rows that are not transformed yet.
    waiting: Waiting,
    events: Rows,
    /// Rows that were transformed before the columns grew. The epoch is decoded again before it is proposed; until then
    /// they count as what it will take.
    superseded: Option<Rows>,
    letters: DeadLetters,
    letter_rows: Rows,
    segments: Vec<Segment>,
    account: Account,
    payload_bytes: u64,
    newest_time: Option<Timestamp>,
    /// What was proposed for the epoch at hand, or for the one before.
    proposed: Option<Ledger>,
    /// Whether the epoch at hand was proposed already: then a schema has changed meanwhile.
    is_proposed: bool,
    /// The schema of the epoch at hand, where a recorded cut names it.
    recorded: Option<TableSchema>,
}

impl EpochBuffer {
    /// Returns an empty buffer; [`EpochBuffer::resume`] says where it begins.
    pub fn new(settings: Settings) -> Self {
        let description = &settings.generation.description;
        let origin = Origin {
            stream: description.stream.clone(),
            pipeline: description.pipeline_hash.clone(),
            sequence_digits: description.sequence_digits,
        };
        Self {
            settings,
            origin,
            positions: BTreeMap::new(),
            decoder: None,
            planner: None,
            stage: None,
            waiting: Waiting::default(),
            events: Rows::default(),
            superseded: None,
            letters: DeadLetters::default(),
            letter_rows: Rows::default(),
            segments: Vec::new(),
            account: Account::default(),
            payload_bytes: 0,
            newest_time: None,
            proposed: None,
            is_proposed: false,
            recorded: None,
        }
    }

    /// Forgets everything and goes on after these positions.
    pub fn resume(&mut self, positions: BTreeMap<ShardId, Position>) {
        self.forget();
        self.positions = positions;
    }

    /// Returns where a shard stands, with what is buffered.
    pub fn position(&self, shard: &ShardId) -> Position {
        self.positions.get(shard).copied().unwrap_or(Position::START)
    }

    /// Returns where all shards stand, with what is buffered.
    pub fn positions(&self) -> &BTreeMap<ShardId, Position> {
        &self.positions
    }

    /// Returns what the cut that was proposed last said of its events, for the counters.
    pub fn proposed(&self) -> Option<&Ledger> {
        self.proposed.as_ref()
    }

    /// Returns how many events are buffered.
    pub fn event_count(&self) -> u64 {
        self.account.read
    }

    /// Returns the bytes of memory that the buffered rows take, about.
    pub fn memory_bytes(&self) -> usize {
        let superseded = self.superseded.as_ref().map_or(0, Rows::bytes);
        let decoding = self.decoder.as_ref().map_or(0, Decoder::batch_bytes);
        self.events.bytes() + superseded + self.letters.bytes() + decoding + self.waiting.bytes()
    }

    /// Returns the bytes of rows that are buffered on disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.events.spilled_bytes() + self.superseded.as_ref().map_or(0, Rows::spilled_bytes)
    }

    /// Returns how many windows have rows, how many rows there are, and how many the largest window has.
    pub fn window_rows(&self) -> WindowRows {
        let windows = self.events.windows();
        let largest = windows.values().copied().max().unwrap_or(0);
        WindowRows { windows: windows.len(), rows: windows.values().sum(), largest }
    }

    /// Returns how many stretches of shards are buffered.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Returns true when the newest event time is past the end of a window that has rows.
    pub fn has_closed_window(&self) -> bool {
        let oldest = self.events.windows().into_keys().next();
        let end = oldest.map(|window| self.settings.pipeline.partition_by.end_of(window));
        end.zip(self.newest_time).is_some_and(|(end, newest)| newest >= end)
    }

    /// Adds what a read gave: every event becomes a row or a dead letter.
    ///
    /// # Errors
    /// When rows cannot be moved to disk.
    pub fn add(&mut self, batch: &Batch, tables: &Tables) -> Result<(), LakeError> {
        let Some(last) = batch.events.last() else {
            return Ok(());
        };
        let from = self.position(&batch.shard);
        debug_assert!(from < last.position, "S1: positions of a shard only grow");
        match self.segments.last_mut() {
            Some(segment) if segment.shard == batch.shard && !segment.is_without_events() => {
                segment.to = last.position;
                self.positions.insert(batch.shard.clone(), last.position);
            }
            _ => self.go_to(&batch.shard, last.position),
        }
        self.payload_bytes += batch.events.iter().map(|event| event.payload.len() as u64).sum::<u64>();
        if self.decoder.is_none() {
            let decoder = self.decoder_for(tables);
            self.decoder = Some(decoder);
        }
        self.decode(batch.shard.as_str(), &batch.events)
    }

    /// Notes that a shard is read to its end.
    pub fn end(&mut self, shard: &ShardId) {
        if self.position(shard) != Position::SHARD_END {
            self.go_to(shard, Position::SHARD_END);
        }
    }

    /// Notes that all of a shard that arrived before a time is read.
    pub fn mark(&mut self, shard: &ShardId, time: Timestamp) {
        let (from, to) = (self.position(shard), self.position(shard).unmarked().marked(time));
        if from != Position::SHARD_END && to > from {
            self.go_to(shard, to);
        }
    }

    /// Begins a segment of its own, which goes to a position.
    fn go_to(&mut self, shard: &ShardId, to: Position) {
        let from = self.position(shard);
        self.segments.push(Segment { shard: shard.clone(), from, to });
        self.positions.insert(shard.clone(), to);
    }

    /// Takes what a recorded cut took, with the schema that it names: the next epoch is that cut's, row for row. The
    /// buffer is empty, and the shards stand where the cut begins.
    ///
    /// # Errors
    /// When the log no longer has the events, or rows cannot be moved to disk.
    pub async fn take_recorded(&mut self, cut: &Cut, tables: &Tables) -> Result<(), LakeError> {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let newest = base.map(|base| base.schema.clone()).expect("a rebuild by cuts begins with a schema");
        let schema = newest.at(cut.output(Output::Events).schema);
        let decoder = self.fixed_decoder(&schema);
        self.decode_again(cut.epoch, decoder, &cut.segments).await?;
        self.segments = cut.segments.clone();
        cut::advance(&mut self.positions, &cut.segments);
        self.payload_bytes = cut.bytes;
        self.recorded = Some(schema);
        Ok(())
    }

    /// Makes the buffered rows those of a schema that will not change any more for this epoch, and returns it.
    async fn settle(&mut self, epoch: Epoch, tables: &Tables) -> Result<(TableSchema, bool), LakeError> {
        if let Some(schema) = &self.recorded {
            return Ok((schema.clone(), false));
        }
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let segments = self.segments.clone();
        let decoded_for = self.decoder.as_ref().map(Decoder::base_version);
        if decoded_for.is_none() {
            // Nothing but shards' ends and marks. The first epoch makes the table all the same.
            let decoder = self.decoder_for(tables);
            self.decoder = Some(decoder);
        } else if self.is_proposed || decoded_for != Some(base.map(|base| base.schema.version)) {
            // Another writer changed the schema: decode as if it had been so from the beginning.
            let decoder = self.decoder_for(tables);
            self.decode_again(epoch, decoder, &segments).await?;
        }
        let decoder = self.decoder.as_ref().expect("there is one");
        let (decoded, grown) = (decoder.schema(), decoder.has_grown());
        // Rows that were transformed with fewer columns may be others with all of them.
        let was_used_before = |stage: &Stage| stage.was_used() && *stage.input() != decoded;
        let is_outdated = self.superseded.is_some() || self.stage.as_ref().is_some_and(was_used_before);
        let must_read_again = decoder.must_read_again() || is_outdated;
        let schema = match &self.planner {
            None => decoded,
            Some(planner) => {
                let stage = planner.stage(&decoded);
                let stage = stage.map_err(|what| LakeError::Rows { lane: self.settings.lane, what })?;
                stage.table().clone()
            }
        };
        if must_read_again {
            let decoder = self.fixed_decoder(&schema);
            self.decode_again(epoch, decoder, &segments).await?;
        }
        Ok((schema, grown))
    }

    /// Takes the rows that do not fill a batch, and the letters, into the rows by window.
    fn complete(&mut self, schema: &TableSchema) -> Result<(), LakeError> {
        let rest = self.decoder.as_mut().map_or_else(Vec::new, |decoder| decoder.take(true));
        let rest = self.transform(rest)?;
        debug_assert!(self.superseded.is_none() && self.waiting.is_empty(), "T1: every event's fate is known");
        let partitioning = &self.settings.pipeline.partition_by;
        self.events.add(partitioning, rest);
        self.events.complete(schema);
        self.letter_rows = Rows::default();
        self.letter_rows.add(partitioning, self.letters.rows(&self.origin).into_iter().collect());
        self.letter_rows.complete(&dead_letter::schema());
        Ok(())
    }

    /// Does work on the rows of an output that takes longer than a task may hold a thread of the runtime.
    async fn with_rows<T: Send + 'static>(
        &mut self,
        output: Output,
        work: impl FnOnce(&Rows) -> T + Send + 'static,
    ) -> T {
        let slot = match output {
            Output::Events => &mut self.events,
            Output::DeadLetters => &mut self.letter_rows,
        };
        let rows = std::mem::take(slot);
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&rows);
            (rows, result)
        });
        let (rows, result) = working.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        *slot = rows;
        result
    }

    async fn intents(
        &mut self,
        output: Output,
        epoch: Epoch,
        keys: &[PartitionKey],
    ) -> Result<Vec<FileIntent>, LakeError> {
        let (lane, keys) = (self.settings.lane, keys.to_vec());
        let intents = self.with_rows(output, move |rows| rows.intents(lane, epoch, &keys)).await;
        intents.map_err(|source| LakeError::Folder { path: self.settings.spilling.folder.clone(), source })
    }

    fn keys(&self, schema: &TableSchema) -> Vec<PartitionKey> {
        let taken = |name: &str| schema.columns.iter().any(|column| column.name.to_lowercase() == name);
        PartitionKey::of(&self.settings.pipeline.partition_by, taken)
    }

    fn cut(&self, epoch: Epoch, outputs: BTreeMap<Output, OutputIntent>) -> Cut {
        let description = &self.settings.generation.description;
        let lists_all = epoch.0.is_multiple_of(POSITIONS_EVERY);
        Cut {
            version: cut::VERSION,
            generation: description.number,
            lane: self.settings.lane,
            epoch,
            pipeline: description.pipeline_hash.clone(),
            segments: self.segments.clone(),
            account: self.account,
            bytes: self.payload_bytes,
            outputs,
            positions: lists_all.then(|| self.positions.clone()),
            seal: None,
            closes: None,
        }
        .versioned()
    }
}

#[async_trait]
impl EpochRows for EpochBuffer {
    async fn propose(&mut self, epoch: Epoch, tables: &Tables) -> Result<Prepared, LakeError> {
        let (schema, grown) = self.settle(epoch, tables).await?;
        self.complete(&schema)?;
        self.is_proposed = true;
        let reasons = self.letters.count_by_reason();
        self.proposed = Some(Ledger { account: self.account, bytes: self.payload_bytes, reasons });
        let letters_schema = dead_letter::schema();
        let table = |output| tables.get(&output).and_then(Option::as_ref);
        let keys_of =
            |output, schema: &TableSchema| table(output).map_or_else(|| self.keys(schema), |base| base.keys.clone());
        let event_keys = keys_of(Output::Events, &schema);
        let letter_keys = keys_of(Output::DeadLetters, &letters_schema);
        let event_files = self.intents(Output::Events, epoch, &event_keys).await?;
        let letter_files = self.intents(Output::DeadLetters, epoch, &letter_keys).await?;
        let outputs = BTreeMap::from([
            (Output::Events, OutputIntent { schema: schema.version, files: event_files }),
            (Output::DeadLetters, OutputIntent { schema: letters_schema.version, files: letter_files }),
        ]);
        let mut schemas = BTreeMap::new();
        if grown {
            schemas.insert(Output::Events, (schema, event_keys));
        }
        if table(Output::DeadLetters).is_none() {
            schemas.insert(Output::DeadLetters, (letters_schema, letter_keys));
        }
        Ok(Prepared { cut: self.cut(epoch, outputs), schemas })
    }

    async fn read_again(&mut self, cut: &Cut, tables: &Tables) -> Result<(), LakeError> {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let newest = base.map(|base| base.schema.clone()).expect("a cut is published after its schema");
        let schema = newest.at(cut.output(Output::Events).schema);
        let decoder = self.fixed_decoder(&schema);
        self.decode_again(cut.epoch, decoder, &cut.segments).await?;
        self.complete(&schema)?;
        let lane = self.settings.lane;
        let violated = |what: String| {
            let violation = Violation::RedoDiffers { epoch: cut.epoch, what };
            LakeError::Violated { lane, violation }
        };
        if self.account != cut.account {
            return Err(violated(format!("{:?} instead of {:?}", self.account, cut.account)));
        }
        for output in Output::ALL {
            let keys = tables.get(&output).and_then(Option::as_ref).map_or(&[][..], |base| &base.keys);
            let found = self.intents(output, cut.epoch, keys).await?;
            if found != cut.output(output).files {
                return Err(violated(format!("other rows or windows in {output}")));
            }
        }
        Ok(())
    }

    async fn encode(&mut self, cut: &Cut, file: FileRef) -> Result<EncodedFile, LakeError> {
        let intent = cut.output(file.output).files[file.index].clone();
        let (window, digest) = (intent.window, intent.digest);
        let encoded = self.with_rows(file.output, move |rows| rows.encode(window, digest)).await;
        encoded.map_err(|source| LakeError::Parquet { action: "encode", key: intent.key, source })
    }

    fn forget(&mut self) {
        self.decoder = None;
        self.planner = None;
        self.stage = None;
        self.waiting.clear();
        self.superseded = None;
        self.events = Rows::default();
        self.letters = DeadLetters::default();
        self.letter_rows = Rows::default();
        self.segments.clear();
        self.account = Account::default();
        self.payload_bytes = 0;
        self.newest_time = None;
        self.is_proposed = false;
        self.recorded = None;
    }
}

fn make_files_error(lane: Lane, epoch: Epoch, source: headwater_stream::Error) -> LakeError {
    LakeError::MakeFiles { lane, epoch, source: Box::new(source) }
}
