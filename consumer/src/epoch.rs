//! The rows of the epoch at hand: gathered from reads, proposed as a cut, encoded file by file; or read again by the
//! boundaries of a cut that is there already.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use headwater_common::accounts::Account;
use headwater_common::event::{Batch, Event};
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Start;
use headwater_lake::Error as LakeError;
use headwater_lake::commit::{EncodedFile, EpochRows, FileRef, Prepared, Tables, Violation};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent, POSITIONS_EVERY};
use headwater_lake::digest::{RowDigest, RowHasher};
use headwater_lake::generation::{OpenGeneration, PartitionKey};
use headwater_lake::layout::{self, Epoch, Lane, Output};
use headwater_lake::schema::TableSchema;
use headwater_stream::Source;

use crate::dead_letter::{self, DeadLetters, Origin};
use crate::decode::{Decoded, Decoder, Growing, Reason};
use crate::encode;
use crate::pipeline::Pipeline;
use crate::window::WindowIndex;

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

/// The rows of one epoch of one lane.
pub struct EpochBuffer {
    settings: Settings,
    origin: Origin,
    /// Where each shard of the lane stands, with what is buffered.
    positions: BTreeMap<ShardId, Position>,
    decoder: Option<Decoder>,
    events: Rows,
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
}

/// Rows of one output, by window.
#[derive(Debug, Default)]
struct Rows {
    batches: Vec<Decoded>,
    index: WindowIndex,
    /// The schema they are encoded with; known once they are proposed or read again.
    schema: Option<SchemaRef>,
    bytes: usize,
}

impl Rows {
    fn add(&mut self, settings: &Settings, decoded: Vec<Decoded>) {
        for batch in decoded {
            self.index.add(&settings.pipeline.partition_by, self.batches.len(), &batch.times);
            self.bytes += batch.bytes;
            self.batches.push(batch);
        }
    }

    fn digest(&self, window: Start, schema: &SchemaRef) -> RowDigest {
        let mut hasher = RowHasher::new(schema);
        self.index.chunks(window, &self.batches, schema).for_each(|chunk| hasher.update(&chunk));
        hasher.finish()
    }

    fn intents(&self, lane: Lane, epoch: Epoch, keys: &[PartitionKey], schema: &SchemaRef) -> Vec<FileIntent> {
        let intent = |(window, rows)| FileIntent {
            key: layout::data_file(keys, window, lane, epoch, 0),
            window,
            first_row: 0,
            rows,
            digest: self.digest(window, schema),
        };
        self.index.windows().map(intent).collect()
    }
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
            events: Rows::default(),
            letters: DeadLetters::default(),
            letter_rows: Rows::default(),
            segments: Vec::new(),
            account: Account::default(),
            payload_bytes: 0,
            newest_time: None,
            proposed: None,
            is_proposed: false,
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
        self.events.bytes + self.letters.bytes() + self.decoder.as_ref().map_or(0, Decoder::batch_bytes)
    }

    /// Returns how many stretches of shards are buffered.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Returns true when the newest event time is past the end of a window that has rows.
    pub fn has_closed_window(&self) -> bool {
        let oldest = self.events.index.windows().next();
        let end = oldest.map(|(window, _)| self.settings.pipeline.partition_by.end_of(window));
        end.zip(self.newest_time).is_some_and(|(end, newest)| newest >= end)
    }

    /// Adds what a read gave: every event becomes a row or a dead letter.
    pub fn add(&mut self, batch: &Batch, tables: &Tables) {
        let Some(last) = batch.events.last() else {
            return;
        };
        let from = self.position(&batch.shard);
        debug_assert!(from < last.position, "S1: positions of a shard only grow");
        match self.segments.last_mut() {
            Some(segment) if segment.shard == batch.shard => segment.to = last.position,
            _ => self.segments.push(Segment { shard: batch.shard.clone(), from, to: last.position }),
        }
        self.positions.insert(batch.shard.clone(), last.position);
        self.payload_bytes += batch.events.iter().map(|event| event.payload.len() as u64).sum::<u64>();
        if self.decoder.is_none() {
            self.decoder = Some(self.decoder_for(tables));
        }
        self.decode(batch.shard.as_str(), &batch.events);
    }

    fn decode(&mut self, shard: &str, events: &[Event]) {
        let decoder = self.decoder.as_mut().expect("there is one before events are decoded");
        for event in events {
            match decoder.push(shard, event) {
                Ok(time) => {
                    self.account.kept += 1;
                    self.newest_time = self.newest_time.max(Some(time));
                }
                Err(misfit) => {
                    self.account.dead_letters += 1;
                    self.letters.push(shard, event, misfit);
                }
            }
        }
        self.account.read += events.len() as u64;
        let full = decoder.take(false);
        self.events.add(&self.settings, full);
    }

    /// Returns a decoder that goes on from the table's schema, growing it.
    fn decoder_for(&self, tables: &Tables) -> Decoder {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let reserved: Vec<_> =
            base.map_or_else(Vec::new, |base| base.keys.iter().map(|key| key.column.clone()).collect());
        let rules = &self.settings.pipeline.rules;
        let digits = self.origin.sequence_digits;
        Decoder::new(rules, base.map(|base| &base.schema), &reserved, digits, Growing::Allowed)
    }

    /// Decodes the segments once more, from the log.
    async fn decode_again(&mut self, decoder: Decoder, segments: &[Segment]) -> Result<(), headwater_stream::Error> {
        self.decoder = Some(decoder);
        self.events = Rows::default();
        self.letters = DeadLetters::default();
        self.account = Account::default();
        let source = Arc::clone(&self.settings.source);
        for segment in segments {
            let mut after = segment.from;
            while after < segment.to {
                let mut read = source.read(&segment.shard, after, READ_BYTES).await?;
                read.events.retain(|event| event.position <= segment.to);
                let Some(last) = read.events.last() else {
                    let (shard, newest) = (segment.shard.clone(), after);
                    return Err(headwater_stream::Error::Ahead { shard, after: segment.to, newest });
                };
                after = last.position;
                self.decode(segment.shard.as_str(), &read.events);
            }
        }
        Ok(())
    }

    /// Makes the buffered rows those of a schema that will not change any more for this epoch, and returns it.
    async fn settle(&mut self, epoch: Epoch, tables: &Tables) -> Result<(TableSchema, bool), LakeError> {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let decoder = self.decoder.as_ref().expect("an epoch is proposed when there is something in it");
        let lane = self.settings.lane;
        let failed = |error| make_files_error(lane, epoch, error);
        let segments = self.segments.clone();
        if self.is_proposed || decoder.base_version() != base.map(|base| base.schema.version) {
            // Another writer changed the schema: decode as if it had been so from the beginning.
            let decoder = self.decoder_for(tables);
            self.decode_again(decoder, &segments).await.map_err(failed)?;
        }
        let decoder = self.decoder.as_ref().expect("there is one");
        let (schema, grown) = (decoder.schema(), decoder.has_grown());
        if decoder.must_read_again() {
            let decoder = self.fixed_decoder(&schema);
            self.decode_again(decoder, &segments).await.map_err(failed)?;
        }
        Ok((schema, grown))
    }

    fn fixed_decoder(&self, schema: &TableSchema) -> Decoder {
        let rules = &self.settings.pipeline.rules;
        Decoder::new(rules, Some(schema), &[], self.origin.sequence_digits, Growing::Fixed)
    }

    /// Takes the rows that do not fill a batch, and the letters, into the rows by window.
    fn complete(&mut self, schema: &TableSchema) {
        if let Some(decoder) = &mut self.decoder {
            let rest = decoder.take(true);
            self.events.add(&self.settings, rest);
        }
        self.events.schema = Some(Arc::new(schema.arrow_schema()));
        self.letter_rows = Rows::default();
        self.letter_rows.add(&self.settings, self.letters.rows(&self.origin).into_iter().collect());
        self.letter_rows.schema = Some(Arc::new(dead_letter::schema().arrow_schema()));
    }

    fn rows(&self, output: Output) -> &Rows {
        match output {
            Output::Events => &self.events,
            Output::DeadLetters => &self.letter_rows,
        }
    }

    fn intents(&self, output: Output, epoch: Epoch, keys: &[PartitionKey]) -> Vec<FileIntent> {
        let rows = self.rows(output);
        let schema = rows.schema.as_ref().expect("the rows are complete");
        rows.intents(self.settings.lane, epoch, keys, schema)
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
        }
    }
}

#[async_trait]
impl EpochRows for EpochBuffer {
    async fn propose(&mut self, epoch: Epoch, tables: &Tables) -> Result<Prepared, LakeError> {
        let (schema, grown) = self.settle(epoch, tables).await?;
        self.complete(&schema);
        self.is_proposed = true;
        let reasons = self.letters.count_by_reason();
        self.proposed = Some(Ledger { account: self.account, bytes: self.payload_bytes, reasons });
        let letters_schema = dead_letter::schema();
        let table = |output| tables.get(&output).and_then(Option::as_ref);
        let keys_of =
            |output, schema: &TableSchema| table(output).map_or_else(|| self.keys(schema), |base| base.keys.clone());
        let event_keys = keys_of(Output::Events, &schema);
        let letter_keys = keys_of(Output::DeadLetters, &letters_schema);
        let outputs = BTreeMap::from([
            (
                Output::Events,
                OutputIntent { schema: schema.version, files: self.intents(Output::Events, epoch, &event_keys) },
            ),
            (
                Output::DeadLetters,
                OutputIntent {
                    schema: letters_schema.version,
                    files: self.intents(Output::DeadLetters, epoch, &letter_keys),
                },
            ),
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
        let lane = self.settings.lane;
        let failed = |error| make_files_error(lane, cut.epoch, error);
        self.decode_again(decoder, &cut.segments).await.map_err(failed)?;
        self.complete(&schema);
        let violated = |what: String| {
            let violation = Violation::RedoDiffers { epoch: cut.epoch, what };
            LakeError::Violated { lane: self.settings.lane, violation }
        };
        if self.account != cut.account {
            return Err(violated(format!("{:?} instead of {:?}", self.account, cut.account)));
        }
        for output in Output::ALL {
            let keys = tables.get(&output).and_then(Option::as_ref).map_or(&[][..], |base| &base.keys);
            let found = self.intents(output, cut.epoch, keys);
            if found != cut.output(output).files {
                return Err(violated(format!("other rows or windows in {output}")));
            }
        }
        Ok(())
    }

    async fn encode(&mut self, cut: &Cut, file: FileRef) -> Result<EncodedFile, LakeError> {
        let intent = cut.output(file.output).files[file.index].clone();
        let slot = match file.output {
            Output::Events => &mut self.events,
            Output::DeadLetters => &mut self.letter_rows,
        };
        let rows = std::mem::take(slot);
        let window = intent.window;
        // The encoder takes far longer than a task may hold a thread of the runtime.
        let encoding = tokio::task::spawn_blocking(move || {
            let schema = rows.schema.as_ref().expect("the rows are complete");
            let chunks = rows.index.chunks(window, &rows.batches, schema);
            let encoded = encode::encode(schema, chunks, intent.digest);
            (rows, encoded)
        });
        let (rows, encoded) = encoding.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        *slot = rows;
        encoded.map_err(|source| LakeError::Parquet { action: "encode", key: intent.key, source })
    }

    fn forget(&mut self) {
        self.decoder = None;
        self.events = Rows::default();
        self.letters = DeadLetters::default();
        self.letter_rows = Rows::default();
        self.segments.clear();
        self.account = Account::default();
        self.payload_bytes = 0;
        self.newest_time = None;
        self.is_proposed = false;
    }
}

fn make_files_error(lane: Lane, epoch: Epoch, source: headwater_stream::Error) -> LakeError {
    LakeError::MakeFiles { lane, epoch, source: Box::new(source) }
}
