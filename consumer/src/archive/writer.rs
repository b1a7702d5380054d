//! Runs the archive's lanes: reads, decides when to cut, hands epochs to the commit protocol.
//!
//! Guarantees: those of the consumer's driver. It is a driver of its own because it does less: an archive has one
//! generation for ever, so there is no pointer to follow, nothing is decoded, nothing goes to disk early. What both do
//! alike, committing and deciding when to cut, is the same code. Relies on nothing local.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::event::Batch;
use headwater_common::hash;
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::archive::{self, ShardRecord};
use headwater_lake::commit::{self, LaneWriter, Reached, Ready, Standing};
use headwater_lake::generation::{OpenGeneration, StreamFacts};
use headwater_lake::layout::{self, Lane};
use headwater_lake::store::LakeStore;
use headwater_stream::{Source, StartAt};
use object_store::path::Path;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::records::RecordBuffer;
use crate::driver::{Error, Progress};
use crate::follow::{Signals, Told};
use crate::metrics;
use crate::policy::{self, Buffered, Limits, Reason};

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// How long a lane waits when none of its shards had anything new: doubles up to the maximum while nothing comes.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);

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
    let records: Vec<_> = shards
        .into_iter()
        .map(|shard| ShardRecord { id: shard.id, first_hash_key: shard.first_hash_key, parents: shard.parents })
        .collect();
    archive::know_shards(&archive, &records).await.map_err(lake_failed)?;
    Ok(archive)
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

    fn stream_error(&self, source: headwater_stream::Error) -> Error {
        Error::Stream { url: self.source.url(), source }
    }

    fn lake_error(&self, source: headwater_lake::Error) -> Error {
        Error::Lake { table: self.archive.table.to_string(), source }
    }
}

struct LaneRunner {
    archiver: Archiver,
    lane: Lane,
    shards: Vec<ShardId>,
    /// Where to stop in each shard.
    bounds: Option<BTreeMap<ShardId, Position>>,
    writer: LaneWriter,
    buffer: RecordBuffer,
    /// The shard that is read next.
    next: usize,
    /// Shards in a row that had nothing.
    empty: usize,
    first_read_at: Timestamp,
    last_read_at: Timestamp,
}

impl LaneRunner {
    async fn start(archiver: Archiver, lane: Lane) -> Result<Self, Error> {
        let all = archiver.source.shards().await.map_err(|error| archiver.stream_error(error))?;
        let mine = all.into_iter().filter(|shard| hash::slice_of(shard.first_hash_key, lane.count) == lane.index);
        let shards: Vec<_> = mine.map(|shard| shard.id).collect();
        let mut bounds = None;
        if archiver.until_caught_up {
            let mut newest = BTreeMap::new();
            for shard in &shards {
                let position = archiver.source.resolve(shard, StartAt::Latest).await;
                newest.insert(shard.clone(), position.map_err(|error| archiver.stream_error(error))?);
            }
            bounds = Some(newest);
        }
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
        let now = archiver.clock.now();
        let (first_read_at, last_read_at) = (now, now);
        Ok(Self { archiver, lane, shards, bounds, writer, buffer, next: 0, empty: 0, first_read_at, last_read_at })
    }

    async fn run(mut self, mut signals: Signals) -> Result<(), Error> {
        let recovered = self.writer.recover(&mut self.buffer).await;
        let ready = self.ready(recovered)?;
        self.resume(ready);
        let mut pause = POLL_FIRST;
        loop {
            if self.is_caught_up() {
                self.cut(Reason::Shutdown).await?;
                // When another writer was faster, the positions are the lake's again.
                if self.is_caught_up() {
                    return Ok(());
                }
                continue;
            }
            let idle = self.empty >= self.shards.len();
            let read = signals.unless_stopped(self.read(idle.then_some(pause))).await;
            match read {
                Err(_) => return self.cut(Reason::Shutdown).await,
                Ok(Err(error)) => {
                    // What was read before is good: it is committed before the error is told.
                    self.cut(Reason::Shutdown).await?;
                    return Err(self.archiver.stream_error(error));
                }
                Ok(Ok(Some(batch))) => {
                    pause = POLL_FIRST;
                    self.empty = 0;
                    self.add(batch);
                }
                Ok(Ok(None)) => {
                    self.empty += 1;
                    pause = if idle { (pause * 2).min(POLL_MAX) } else { pause };
                }
            }
            if let Some(reason) = self.decide() {
                self.cut(reason).await?;
            }
        }
    }

    /// Reads the next shard; after a pause, when all of them had nothing. Changes nothing when it is cancelled.
    async fn read(&self, pause: Option<Duration>) -> Result<Option<Batch>, headwater_stream::Error> {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let Some(shard) = self.shards.get((self.next + self.empty) % self.shards.len().max(1)) else {
            // A lane without shards has nothing to do but to wait for the end.
            return std::future::pending().await;
        };
        let mut read = self.archiver.source.read(shard, self.buffer.position(shard), READ_BYTES).await?;
        if let Some(bound) = self.bounds.as_ref().and_then(|bounds| bounds.get(shard)) {
            read.events.retain(|event| event.position <= *bound);
        }
        // An epoch has exactly as many records as it may; the rest of the read comes again.
        let room = self.archiver.limits.rows.saturating_sub(self.buffer.record_count()).max(1);
        read.events.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        Ok((!read.events.is_empty()).then(|| Batch { shard: shard.clone(), events: read.events }))
    }

    fn add(&mut self, batch: Batch) {
        let now = self.archiver.clock.now();
        if self.buffer.record_count() == 0 {
            self.first_read_at = now;
            let micros = u64::try_from(now.micros()).unwrap_or(0);
            self.archiver.progress.oldest_unflushed_micros.store(micros, Ordering::Relaxed);
        }
        self.last_read_at = now;
        // The next shard has its turn.
        self.next = self.shards.iter().position(|shard| *shard == batch.shard).map_or(0, |index| index + 1);
        self.archiver.progress.events_read.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
        self.buffer.add(batch);
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
        let buffered = Buffered {
            events: self.buffer.record_count(),
            memory_bytes,
            spilled_bytes: 0,
            file_bytes,
            // Row groups are bounded in bytes: a file never needs the memory of its rows.
            window_bytes: 0,
            segments: self.buffer.shard_count(),
            closed_window: false,
            first_read_at: self.first_read_at,
            last_read_at: self.last_read_at,
        };
        let lanes = self.archiver.archive.description.lanes as usize;
        policy::decide(&self.archiver.limits, lanes, &buffered, self.archiver.clock.now())
    }

    async fn cut(&mut self, reason: Reason) -> Result<(), Error> {
        let (records, bytes) = (self.buffer.record_count(), self.buffer.payload_bytes());
        if records == 0 {
            return Ok(());
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
        }
    }

    fn is_caught_up(&self) -> bool {
        self.bounds
            .as_ref()
            .is_some_and(|bounds| bounds.iter().all(|(shard, bound)| self.buffer.position(shard) >= *bound))
    }
}
