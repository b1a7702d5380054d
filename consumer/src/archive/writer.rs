//! Runs the archive's lanes: reads, decides when to cut, hands epochs to the commit protocol.
//!
//! Guarantees: those of the consumer's driver; and the archive knows a shard before a cut names it. It is a driver of
//! its own because it does less: an archive has one generation for ever, so there is no pointer to follow, nothing is
//! decoded, nothing goes to disk early. What both do alike, reading shards in turn, deciding when to cut, committing,
//! is the same code. Relies on nothing local.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::event::Batch;
use headwater_common::position::ShardId;
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::archive::{self, ShardRecord};
use headwater_lake::commit::{self, LaneWriter, Reached, Ready, Standing};
use headwater_lake::generation::{OpenGeneration, StreamFacts};
use headwater_lake::layout::{self, Lane};
use headwater_lake::store::LakeStore;
use headwater_stream::{Shard, Source, StartAt};
use object_store::path::Path;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::records::RecordBuffer;
use crate::driver::{Ended, Error, Progress, Until};
use crate::follow::{Signals, Told};
use crate::metrics;
use crate::policy::{self, Buffered, Limits, Reason};
use crate::reading::{self, Gatherer, Reader};
use crate::shards::{self, Positions};

/// Encoded bytes per byte in memory that an epoch is expected to need: files are ended rather early than late.
const ENCODED_RATIO: f64 = 0.5;

/// What the archive of a stream is written with.
#[derive(Clone)]
pub struct Archiver {
    /// The stream.
    pub source: Arc<dyn Source>,
    /// Its archive; see [`open`].
    pub archive: Arc<OpenGeneration>,
    /// When to cut.
    pub limits: Limits,
    /// Whether to stop by itself, when the positions are committed that were newest when it started.
    pub until_caught_up: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often and how long apart an unclear answer of the lake is looked into.
    pub retry: Policy,
    /// Seeds the jitter of the pauses; each lane makes its own of it.
    pub seed: u64,
    /// What the archiver says of its work while it runs.
    pub progress: Arc<Progress>,
}

/// Opens the archive of a stream in a lake, and creates it where there is none. It begins with the oldest record that
/// the stream has. Notes the shards that the stream has now.
///
/// # Errors
/// When the stream or the lake does not answer.
pub async fn open(store: &LakeStore, source: &dyn Source, lanes: u32) -> Result<OpenGeneration, Error> {
    let stream_failed = |error| Error::Stream { url: source.url(), source: error };
    let shards = source.shards().await.map_err(stream_failed)?;
    let mut start = BTreeMap::new();
    for shard in &shards {
        let oldest = source.resolve(&shard.id, StartAt::TrimHorizon).await.map_err(stream_failed)?;
        start.insert(shard.id.clone(), oldest);
    }
    let identity = source.identity().0;
    let lake_failed = |error| Error::Lake { table: format!("archive of {}", source.url()), source: error };
    let facts =
        StreamFacts { identity, sequence_digits: source.sequence_digits(), gap_free: source.is_gap_free(), start };
    let archive = archive::open_or_create(store, lanes, facts).await.map_err(lake_failed)?;
    know_shards(&archive, &shards).await.map_err(lake_failed)?;
    Ok(archive)
}

async fn know_shards(archive: &OpenGeneration, shards: &[Shard]) -> Result<(), LakeError> {
    let record = |shard: &Shard| ShardRecord {
        id: shard.id.clone(),
        first_hash_key: shard.first_hash_key,
        parents: shard.parents.clone(),
    };
    let records: Vec<_> = shards.iter().map(record).collect();
    archive::know_shards(archive, &records).await
}

impl Archiver {
    /// Archives until the end that was asked for, or until `shutdown` turns true: then what is buffered is cut and
    /// committed.
    ///
    /// # Errors
    /// The first error of a lane; the other lanes are shut down in order before it is returned.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        // When a lane fails the others are told to stop; they cannot be told by `shutdown`, which is not ours.
        let (stop_lanes, stopped) = watch::channel(Told::GoOn);
        let mut lanes = JoinSet::new();
        for lane in self.archive.description.first_lanes() {
            let runner = LaneRunner::start(self.clone(), lane).await?;
            lanes.spawn(runner.run(Signals { shutdown: shutdown.clone(), told: stopped.clone() }));
        }
        let mut outcome = Ok(());
        while let Some(ended) = lanes.join_next().await {
            let result = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            if let Err(error) = result {
                let _ = stop_lanes.send(Told::Cut);
                match &outcome {
                    Ok(()) => outcome = Err(error),
                    Err(_) => tracing::error!(error = ?error, "another lane of the archive failed as well"),
                }
            }
        }
        outcome
    }

    fn lake_error(&self, source: headwater_lake::Error) -> Error {
        Error::Lake { table: self.archive.table.to_string(), source }
    }
}

struct LaneRunner {
    archiver: Archiver,
    lane: Lane,
    reader: Reader,
    writer: LaneWriter,
    buffer: RecordBuffer,
    /// The shards that this lane has made known to the archive.
    noted: Vec<Shard>,
}

impl LaneRunner {
    async fn start(archiver: Archiver, lane: Lane) -> Result<Self, Error> {
        let settings = shards::Settings {
            source: Arc::clone(&archiver.source),
            generation: Arc::clone(&archiver.archive),
            lane,
            clock: Arc::clone(&archiver.clock),
        };
        let until = if archiver.until_caught_up { Until::CaughtUp } else { Until::Forever };
        let reader = Reader::start(settings, until).await?;
        let writer = LaneWriter::new(commit::Settings {
            generation: Arc::clone(&archiver.archive),
            lane,
            clock: Arc::clone(&archiver.clock),
            retry: archiver.retry,
            seed: archiver.seed.wrapping_add(u64::from(lane.index)),
            standing: Standing::Live,
        })
        .map_err(|error| archiver.lake_error(error))?;
        let buffer = RecordBuffer::new(Arc::clone(&archiver.source), Arc::clone(&archiver.archive), lane);
        Ok(Self { archiver, lane, reader, writer, buffer, noted: Vec::new() })
    }

    async fn run(mut self, mut signals: Signals) -> Result<(), Error> {
        // To give up an epoch that is read again is to crash, which the next start makes good.
        let Ok(recovered) = signals.unless_stopped(self.writer.recover(&mut self.buffer)).await else {
            return Ok(());
        };
        let ready = self.ready(recovered)?;
        self.resume(ready);
        reading::gather(&mut self, &mut signals).await.map(drop)
    }

    async fn write(&mut self, reason: Reason) -> Result<(), Error> {
        let (records, bytes) = (self.buffer.record_count(), self.buffer.payload_bytes());
        if self.buffer.segment_count() == 0 {
            return Ok(());
        }
        if self.noted != self.reader.listed() {
            let noted = self.reader.listed().to_vec();
            let known = know_shards(&self.archiver.archive, &noted).await;
            known.map_err(|error| self.archiver.lake_error(error))?;
            self.noted = noted;
        }
        let began = self.archiver.clock.now();
        let written = self.writer.write(&mut self.buffer).await;
        let ready = self.ready(written)?;
        let took = self.archiver.clock.now().since(began);
        let progress = &self.archiver.progress;
        progress.oldest_unflushed_micros.store(0, Ordering::Relaxed);
        if ready.positions.is_some() {
            tracing::warn!(lane = %self.lane, after = %ready.after, "another archiver was faster; going on from the lake");
            self.resume(ready);
            return Ok(());
        }
        ::metrics::counter!(metrics::ARCHIVED_RECORDS).increment(records);
        ::metrics::counter!(metrics::ARCHIVED_BYTES).increment(bytes);
        progress.events_committed.fetch_add(records, Ordering::Relaxed);
        progress.bytes_committed.fetch_add(bytes, Ordering::Relaxed);
        progress.epochs.fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(lane = %self.lane, epoch = ready.after.0, records, ?reason, millis, "epoch archived");
        Ok(())
    }

    /// An archive has one generation, no cutover and one set of lanes, so nothing but damage ends a lane of it.
    fn ready(&self, reached: Result<Reached, LakeError>) -> Result<Ready, Error> {
        match reached.map_err(|error| self.archiver.lake_error(error))? {
            Reached::Ready(ready) => Ok(ready),
            Reached::Blocked(pointer) => {
                let key = layout::pointer(&self.archiver.archive.table, pointer);
                Err(self.damaged(key, "is sealed for it"))
            }
            Reached::Closed(set) => {
                let OpenGeneration { table, description, .. } = self.archiver.archive.as_ref();
                Err(self.damaged(layout::lane_set(table, description.number, set), "is closed for it"))
            }
        }
    }

    fn damaged(&self, key: Path, what: &str) -> Error {
        let source = format!("lane {} of an archive {what}", self.lane).into();
        self.archiver.lake_error(LakeError::Damaged { key, source })
    }

    fn resume(&mut self, ready: Ready) {
        if let Some(positions) = ready.positions {
            self.buffer.resume(positions);
            self.reader.resume();
        }
    }
}

#[async_trait]
impl Gatherer for LaneRunner {
    fn parts(&self) -> (&Reader, &Positions) {
        (&self.reader, self.buffer.positions())
    }

    fn parts_mut(&mut self) -> (&mut Reader, &Positions) {
        (&mut self.reader, self.buffer.positions())
    }

    fn progress(&self) -> &Progress {
        &self.archiver.progress
    }

    fn room(&self) -> u64 {
        self.archiver.limits.rows.saturating_sub(self.buffer.record_count()).max(1)
    }

    fn segment_count(&self) -> usize {
        self.buffer.segment_count()
    }

    fn add(&mut self, batch: Batch) -> Result<(), Error> {
        self.buffer.add(batch);
        Ok(())
    }

    fn end(&mut self, shard: &ShardId) {
        self.buffer.end(shard);
    }

    fn mark(&mut self, shard: &ShardId, time: Timestamp) {
        self.buffer.mark(shard, time);
    }

    fn decide(&self) -> Option<Reason> {
        let memory_bytes = self.buffer.memory_bytes();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate of a positive size"
        )]
        let file_bytes = (memory_bytes as f64 * ENCODED_RATIO) as usize;
        let segments = self.buffer.segment_count();
        let buffered = Buffered {
            events: self.buffer.record_count(),
            memory_bytes,
            spilled_bytes: 0,
            file_bytes,
            // Row groups are bounded in bytes: a file never needs the memory of its rows.
            window_bytes: 0,
            segments,
            ends_awaited: self.reader.are_ends_awaited(),
            marks_overdue: segments == 0 && self.reader.are_marks_overdue(self.buffer.positions()),
            closed_window: false,
            first_read_at: self.reader.first_read_at(),
            last_read_at: self.reader.last_read_at(),
        };
        let lanes = self.archiver.archive.description.lanes as usize;
        policy::decide(&self.archiver.limits, lanes, &buffered, self.archiver.clock.now())
    }

    async fn cut(&mut self, reason: Reason, _: &mut Signals) -> Result<Option<Ended>, Error> {
        self.write(reason).await.map(|()| None)
    }

    async fn finish(&mut self) -> Result<(), Error> {
        self.write(Reason::Shutdown).await
    }

    /// An archive has no pointer.
    async fn has_moved(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// An archive has one set of lanes.
    fn is_to_close(&self) -> bool {
        false
    }

    async fn close(&mut self, _: &mut Signals) -> Result<Ended, Error> {
        self.finish().await.map(|()| Ended::Done)
    }
}
