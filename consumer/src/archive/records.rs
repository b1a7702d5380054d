//! The records of the epoch at hand: gathered from reads, proposed as a cut, encoded file by file; or read again by
//! the boundaries of a cut that is there already.
//!
//! A cut of an archive has one segment with records a shard, and after it one that says that the shard ended or was
//! quiet, where it did or was. Its rows are in the order of the shards, then of the positions: so a reader of one shard
//! finds its records together. A file holds the records of one day; a record is in the day of
//! the newest arrival so far in its shard and epoch, so that a shard's files follow one another as its positions do.
//! In the embedded log arrival times never go back, and that is simply the day of its own arrival.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use headwater_common::accounts::Account;
use headwater_common::event::{Batch, Event};
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Start;
use headwater_lake::Error as LakeError;
use headwater_lake::archive;
use headwater_lake::commit::{EncodedFile, EpochRows, FileRef, Prepared, Tables, Violation};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent, POSITIONS_EVERY};
use headwater_lake::digest::RowDigest;
use headwater_lake::generation::{OpenGeneration, PartitionKey};
use headwater_lake::layout::{self, Epoch, Lane, Output};
use headwater_stream::Source;
use headwater_stream::stretch::Stretch;
use parquet::errors::ParquetError;

use super::encode;

/// Bytes that one read asks for when an epoch is read again.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a record takes besides its key and payload.
const RECORD_BYTES: usize = size_of::<Event>();

/// The records of one epoch of one lane.
pub(super) struct RecordBuffer {
    source: Arc<dyn Source>,
    archive: Arc<OpenGeneration>,
    lane: Lane,
    /// Where each shard of the lane stands, with what is buffered.
    positions: BTreeMap<ShardId, Position>,
    records: Records,
}

/// Records by shard.
#[derive(Debug, Default)]
struct Records {
    shards: BTreeMap<ShardId, Gathered>,
    count: u64,
    /// Of the payloads.
    payload_bytes: u64,
    memory_bytes: usize,
}

/// Records of one shard, without a gap after `from`.
#[derive(Debug)]
struct Gathered {
    from: Position,
    events: Vec<Event>,
    /// The mark or the shard's end that follows them.
    closing: Option<Position>,
}

impl RecordBuffer {
    /// Returns an empty buffer; [`RecordBuffer::resume`] says where it begins.
    pub(super) fn new(source: Arc<dyn Source>, archive: Arc<OpenGeneration>, lane: Lane) -> Self {
        Self { source, archive, lane, positions: BTreeMap::new(), records: Records::default() }
    }

    /// Forgets everything and goes on after these positions.
    pub(super) fn resume(&mut self, positions: BTreeMap<ShardId, Position>) {
        self.forget();
        self.positions = positions;
    }

    /// Returns where a shard stands, with what is buffered.
    pub(super) fn position(&self, shard: &ShardId) -> Position {
        self.positions.get(shard).copied().unwrap_or(Position::START)
    }

    /// Returns where all shards stand, with what is buffered.
    pub(super) fn positions(&self) -> &BTreeMap<ShardId, Position> {
        &self.positions
    }

    /// Returns how many records are buffered.
    pub(super) fn record_count(&self) -> u64 {
        self.records.count
    }

    /// Returns the bytes of their payloads.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.records.payload_bytes
    }

    /// Returns the bytes of memory that they take, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.records.memory_bytes
    }

    /// Returns how many stretches of shards are buffered.
    pub(super) fn segment_count(&self) -> usize {
        self.records.shards.len()
    }

    /// Adds what a read gave.
    pub(super) fn add(&mut self, batch: Batch) {
        let Some(last) = batch.events.last().map(|event| event.position) else {
            return;
        };
        let from = self.position(&batch.shard);
        debug_assert!(from < last, "S1: positions of a shard only grow");
        self.positions.insert(batch.shard.clone(), last);
        self.records.add(batch.shard, from, batch.events);
    }

    /// Notes that a shard is read to its end.
    pub(super) fn end(&mut self, shard: &ShardId) {
        self.close(shard, Position::SHARD_END);
    }

    /// Notes that all of a shard that arrived before a time is read. Nothing of it is added to the epoch after that.
    pub(super) fn mark(&mut self, shard: &ShardId, time: Timestamp) {
        self.close(shard, self.position(shard).unmarked().marked(time));
    }

    fn close(&mut self, shard: &ShardId, to: Position) {
        let from = self.position(shard);
        if from < to && from != Position::SHARD_END {
            self.positions.insert(shard.clone(), to);
            self.records.close(shard.clone(), from, to);
        }
    }

    fn digits(&self) -> usize {
        self.archive.description.sequence_digits
    }

    /// Does work on the records that takes longer than a task may hold a thread of the runtime.
    async fn with_records<T: Send + 'static>(&mut self, work: impl FnOnce(&Records) -> T + Send + 'static) -> T {
        let records = std::mem::take(&mut self.records);
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&records);
            (records, result)
        });
        let (records, result) = working.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.records = records;
        result
    }

    async fn intents(&mut self, epoch: Epoch, keys: Vec<PartitionKey>) -> Vec<FileIntent> {
        let (lane, digits) = (self.lane, self.digits());
        self.with_records(move |records| records.intents(lane, epoch, &keys, digits)).await
    }

    fn cut(&self, epoch: Epoch, files: Vec<FileIntent>) -> Cut {
        let description = &self.archive.description;
        let lists_all = epoch.0.is_multiple_of(POSITIONS_EVERY);
        let intent = OutputIntent { schema: archive::schema().version, files };
        Cut {
            version: cut::VERSION,
            generation: description.number,
            lane: self.lane,
            epoch,
            pipeline: description.pipeline_hash.clone(),
            segments: self.records.segments(),
            account: self.records.account(),
            bytes: self.records.payload_bytes,
            outputs: BTreeMap::from([(Output::Events, intent)]),
            positions: lists_all.then(|| self.positions.clone()),
            seal: None,
            closes: None,
        }
        .versioned()
    }

    /// Reads a stretch of a shard again, whole.
    async fn read_segment(&self, segment: &Segment) -> Result<Vec<Event>, headwater_stream::Error> {
        let mut events = Vec::new();
        let mut stretch = Stretch::of_segment(self.source.as_ref(), segment);
        loop {
            let mut read = stretch.next(READ_BYTES).await?;
            if read.is_empty() {
                return Ok(events);
            }
            events.append(&mut read);
        }
    }
}

impl Records {
    fn add(&mut self, shard: ShardId, from: Position, mut events: Vec<Event>) {
        self.count += events.len() as u64;
        for event in &events {
            self.payload_bytes += event.payload.len() as u64;
            self.memory_bytes += event.payload.len() + event.partition_key.len() + RECORD_BYTES;
        }
        self.gathered(shard, from).events.append(&mut events);
    }

    fn close(&mut self, shard: ShardId, from: Position, to: Position) {
        self.gathered(shard, from).closing = Some(to);
    }

    fn gathered(&mut self, shard: ShardId, from: Position) -> &mut Gathered {
        self.shards.entry(shard).or_insert_with(|| Gathered { from, events: Vec::new(), closing: None })
    }

    fn account(&self) -> Account {
        Account { read: self.count, kept: self.count, ..Account::default() }
    }

    fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::with_capacity(self.shards.len());
        for (shard, Gathered { from, events, closing }) in &self.shards {
            let last = events.last().map(|event| event.position);
            let mut from = *from;
            for to in last.into_iter().chain(*closing) {
                segments.push(Segment { shard: shard.clone(), from, to });
                from = to;
            }
        }
        segments
    }

    /// Returns for each day the records of each shard that are in it, as ranges of the shard's.
    fn days(&self) -> BTreeMap<Start, Vec<(&ShardId, Range<usize>)>> {
        let mut days: BTreeMap<Start, Vec<(&ShardId, Range<usize>)>> = BTreeMap::new();
        for (shard, gathered) in &self.shards {
            let mut start = 0;
            while start < gathered.events.len() {
                let (day, end) = day_at(&gathered.events, start);
                days.entry(day).or_default().push((shard, start..end));
                start = end;
            }
        }
        days
    }

    fn in_day<'a>(&'a self, ranges: &'a [(&'a ShardId, Range<usize>)]) -> impl Iterator<Item = encode::Placed<'a>> {
        ranges.iter().flat_map(move |(shard, range)| {
            let events = &self.shards[*shard].events[range.clone()];
            events.iter().map(move |event| (*shard, event))
        })
    }

    fn intents(&self, lane: Lane, epoch: Epoch, keys: &[PartitionKey], digits: usize) -> Vec<FileIntent> {
        let intent = |(day, ranges): (Start, Vec<(&ShardId, Range<usize>)>)| FileIntent {
            key: layout::data_file(keys, day, lane, epoch, 0),
            window: day,
            first_row: 0,
            rows: ranges.iter().map(|(_, range)| range.len() as u64).sum(),
            digest: encode::digest(self.in_day(&ranges), digits),
        };
        self.days().into_iter().map(intent).collect()
    }

    fn encode(&self, day: Start, digits: usize, digest: RowDigest) -> Result<EncodedFile, ParquetError> {
        let days = self.days();
        let ranges = days.get(&day).map(Vec::as_slice).unwrap_or_default();
        encode::encode(self.in_day(ranges), digits, digest)
    }
}

/// Returns the day of the record at `start`, and where the records end that go into the same day: with the first one
/// that arrived later.
fn day_at(events: &[Event], start: usize) -> (Start, usize) {
    let partitioning = archive::partitioning();
    let day = partitioning.window_of(events[start].arrived_at);
    let end_of_day = partitioning.end_of(day);
    let rest = &events[start + 1..];
    let later = rest.iter().position(|event| event.arrived_at >= end_of_day).unwrap_or(rest.len());
    (day, start + 1 + later)
}

#[async_trait]
impl EpochRows for RecordBuffer {
    async fn propose(&mut self, epoch: Epoch, tables: &Tables) -> Result<Prepared, LakeError> {
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let keys = base.map_or_else(archive::partition_keys, |base| base.keys.clone());
        let mut schemas = BTreeMap::new();
        if base.is_none() {
            schemas.insert(Output::Events, (archive::schema(), keys.clone()));
        }
        let files = self.intents(epoch, keys).await;
        Ok(Prepared { cut: self.cut(epoch, files), schemas })
    }

    async fn read_again(&mut self, cut: &Cut, tables: &Tables) -> Result<(), LakeError> {
        let lane = self.lane;
        self.records = Records::default();
        for segment in &cut.segments {
            if segment.is_without_events() {
                self.records.close(segment.shard.clone(), segment.from, segment.to);
                continue;
            }
            let events = self.read_segment(segment).await.map_err(|error| LakeError::MakeFiles {
                lane,
                epoch: cut.epoch,
                source: Box::new(error),
            })?;
            self.records.add(segment.shard.clone(), segment.from, events);
        }
        let base = tables.get(&Output::Events).and_then(Option::as_ref);
        let keys = base.map(|base| base.keys.clone()).expect("a cut is published after its schema");
        let files = self.intents(cut.epoch, keys).await;
        if self.records.account() != cut.account || files != cut.output(Output::Events).files {
            let what = "other records, or records that arrived at another time".to_owned();
            let violation = Violation::RedoDiffers { epoch: cut.epoch, what };
            return Err(LakeError::Violated { lane, violation });
        }
        Ok(())
    }

    async fn encode(&mut self, cut: &Cut, file: FileRef) -> Result<EncodedFile, LakeError> {
        let intent = &cut.output(file.output).files[file.index];
        let (key, day, digest, digits) = (intent.key.clone(), intent.window, intent.digest, self.digits());
        let encoded = self.with_records(move |records| records.encode(day, digits, digest)).await;
        encoded.map_err(|source| LakeError::Parquet { action: "encode", key, source })
    }

    fn forget(&mut self) {
        self.records = Records::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn event(number: u64, second: i64) -> Event {
        Event {
            position: Position::of_record(number.into()),
            arrived_at: Timestamp::from_micros(second * 1_000_000),
            partition_key: "k".into(),
            payload: format!("record {number}").into(),
        }
    }

    fn records(shards: &[(&str, &[i64])]) -> Records {
        let mut records = Records::default();
        for (shard, seconds) in shards {
            let events = (1..).zip(*seconds).map(|(number, second)| event(number, *second)).collect();
            records.add(ShardId::from(*shard), Position::START, events);
        }
        records
    }

    #[test]
    fn a_record_is_in_the_day_of_the_newest_arrival_so_far() {
        let records = records(&[("a", &[5, 6, DAY + 1, 7, 3 * DAY]), ("b", &[DAY])]);
        let days: Vec<_> = records
            .days()
            .into_iter()
            .map(|(day, ranges)| {
                let ranges: Vec<_> = ranges.into_iter().map(|(shard, range)| (shard.to_string(), range)).collect();
                (day.0.micros() / 1_000_000 / DAY, ranges)
            })
            .collect();
        let a = |range| ("a".to_owned(), range);
        assert_eq!(days, [(0, vec![a(0..2)]), (1, vec![a(2..4), ("b".to_owned(), 0..1)]), (3, vec![a(4..5)])]);
    }

    #[test]
    fn a_shard_that_ends_or_is_quiet_has_a_segment_of_its_own_for_that_and_no_row() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        let mut records = records(&[("a", &[5, 6])]);
        records.close("a".into(), at("2:0"), Position::SHARD_END);
        records.close("b".into(), at("7:0"), at("7:0@5"));
        let segment = |shard: &str, from, to| Segment { shard: shard.into(), from: at(from), to: at(to) };
        let expected = [segment("a", "0:0", "2:0"), segment("a", "2:0", "SHARD_END"), segment("b", "7:0", "7:0@5")];
        assert_eq!(records.segments(), expected);
        let lane = Lane::of_first_set(0, 1);
        let files = records.intents(lane, Epoch(1), &archive::partition_keys(), 20);
        assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn p10_the_files_do_not_depend_on_how_records_were_read() {
        let whole = records(&[("a", &[1, 2, 3, 4]), ("b", &[1, 2])]);
        let mut parts = Records::default();
        for (shard, numbers) in [("b", 1_u64..2), ("a", 1..4), ("b", 2..3), ("a", 4..5)] {
            let from = Position::of_record((numbers.start - 1).into());
            let events = numbers.map(|number| event(number, i64::try_from(number).unwrap())).collect();
            parts.add(ShardId::from(shard), from, events);
        }
        let lane = Lane::of_first_set(0, 1);
        let keys = archive::partition_keys();
        let intents = |records: &Records| records.intents(lane, Epoch(1), &keys, 20);
        assert_eq!(intents(&whole), intents(&parts));
        assert_eq!(whole.segments(), parts.segments());
        let file = &intents(&whole)[0];
        let bytes = |records: &Records| records.encode(file.window, 20, file.digest).unwrap().bytes;
        assert_eq!(bytes(&whole), bytes(&parts));
    }
}
