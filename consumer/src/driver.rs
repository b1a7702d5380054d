//! Runs the lanes: reads, decides when to cut, hands epochs to the commit protocol. The only `select!` is here.
//!
//! Guarantees: nothing is read that is not buffered or committed; when the budget is full reading stops; a shutdown
//! cuts and commits what is buffered. Relies on nothing local: after a crash the lake says where to go on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::event::Batch;
use headwater_common::hash;
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_lake::commit::{self, LaneWriter, Ready};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{Epoch, Lane};
use headwater_stream::{Source, StartAt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::epoch::{EpochBuffer, Settings as EpochSettings, Spilling, WindowRows};
use crate::metrics;
use crate::pipeline::Pipeline;
use crate::policy::{self, Buffered, Limits, Reason};
use crate::recorded::{NextCut, RecordedCuts};

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// How long a lane waits when none of its shards had anything new: doubles up to the maximum while nothing comes. It is
/// also how late the age of what is buffered may be noticed.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);

/// Encoded bytes per byte in memory that the first epoch is expected to need.
const FIRST_RATIO: f64 = 0.5;

/// What the consumer is run with.
#[derive(Clone)]
pub struct Consumer {
    /// Where the events come from.
    pub source: Arc<dyn Source>,
    /// Where the rows go.
    pub generation: Arc<OpenGeneration>,
    /// How events become rows.
    pub pipeline: Pipeline,
    /// When to cut.
    pub limits: Limits,
    /// Where rows go that are too many for the memory, in files without names.
    pub spill_folder: PathBuf,
    /// When to stop by itself.
    pub until: Until,
    /// Says where epochs end in place of the limits: the cuts of another generation.
    pub recorded: Option<Arc<RecordedCuts>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often and how long apart an unclear answer of the lake is looked into.
    pub retry: Policy,
    /// Seeds the jitter of the pauses; each lane makes its own of it.
    pub seed: u64,
    /// What the consumer says of its work while it runs.
    pub progress: Arc<Progress>,
}

/// When a consumer stops by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Forever,
    /// When the positions are committed that were newest when it started.
    CaughtUp,
    /// When these positions are committed, which are the last to be read. Other shards are not read at all.
    Positions(BTreeMap<ShardId, Position>),
}

/// Counters for people who watch; the lake's own account is in the cuts.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events read in this run.
    pub events_read: AtomicU64,
    /// Events committed in this run.
    pub events_committed: AtomicU64,
    /// Dead letters committed in this run.
    pub dead_letters: AtomicU64,
    /// Payload bytes committed in this run.
    pub bytes_committed: AtomicU64,
    /// Epochs committed in this run.
    pub epochs: AtomicU64,
    /// When the oldest event that is read and not committed was read, microseconds; 0 when there is none.
    pub oldest_unflushed_micros: AtomicU64,
    /// Events there were to read at the start, when that is known.
    pub events_to_read: AtomicU64,
}

/// What goes wrong while consuming.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream.
    #[error("cannot read {url}")]
    Stream {
        /// The stream's URL.
        url: String,
        /// Why not.
        #[source]
        source: headwater_stream::Error,
    },
    /// The lake.
    #[error("cannot write table {table}")]
    Lake {
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: headwater_lake::Error,
    },
    /// The lane is not where a recorded cut begins.
    #[error(
        "lane {lane} stands in the midst of recorded cut {epoch}: its epochs so far were not those of the recorded cuts"
    )]
    BetweenCuts {
        /// The lane.
        lane: Lane,
        /// The recorded cut's epoch.
        epoch: Epoch,
    },
}

impl Consumer {
    /// Consumes until the end that was asked for, or until `shutdown` turns true: then what is buffered is cut and
    /// committed.
    ///
    /// # Errors
    /// The first error of a lane; the other lanes are shut down in order before it is returned.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        // When a lane fails the others are told to stop; they cannot be told by `shutdown`, which is not ours.
        let (stop_lanes, stopped) = watch::channel(false);
        let mut lanes = JoinSet::new();
        for lane in self.generation.description.lane_set() {
            let runner = LaneRunner::start(self.clone(), lane).await?;
            lanes.spawn(runner.run(shutdown.clone(), stopped.clone()));
        }
        let mut outcome = Ok(());
        while let Some(ended) = lanes.join_next().await {
            let result = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            if let Err(error) = result {
                let _ = stop_lanes.send(true);
                match &outcome {
                    Ok(()) => outcome = Err(error),
                    Err(_) => tracing::error!(error = ?error, "another lane failed as well"),
                }
            }
        }
        outcome
    }

    fn stream_error(&self, source: headwater_stream::Error) -> Error {
        Error::Stream { url: self.source.url(), source }
    }

    fn lake_error(&self, source: headwater_lake::Error) -> Error {
        Error::Lake { table: self.generation.table.to_string(), source }
    }
}

struct LaneRunner {
    consumer: Consumer,
    lane: Lane,
    shards: Vec<ShardId>,
    /// Where to stop in each shard.
    bounds: Option<BTreeMap<ShardId, Position>>,
    writer: LaneWriter,
    buffer: EpochBuffer,
    /// The shard that is read next.
    next: usize,
    /// Shards in a row that had nothing.
    empty: usize,
    first_read_at: Timestamp,
    last_read_at: Timestamp,
    encoded_ratio: f64,
}

/// What woke the driver.
enum Wake {
    Shutdown,
    Read(Result<Option<Batch>, headwater_stream::Error>),
}

impl LaneRunner {
    async fn start(consumer: Consumer, lane: Lane) -> Result<Self, Error> {
        let all = consumer.source.shards().await.map_err(|error| consumer.stream_error(error))?;
        let mine = all.into_iter().filter(|shard| hash::slice_of(shard.first_hash_key, lane.count) == lane.index);
        let mut shards: Vec<_> = mine.map(|shard| shard.id).collect();
        let bounds = match &consumer.until {
            Until::Forever => None,
            Until::Positions(positions) => {
                shards.retain(|shard| positions.contains_key(shard));
                let bound = |shard: &ShardId| positions.get(shard).map(|position| (shard.clone(), *position));
                Some(shards.iter().filter_map(bound).collect())
            }
            Until::CaughtUp => {
                let mut bounds = BTreeMap::new();
                for shard in &shards {
                    let newest = consumer.source.resolve(shard, StartAt::Latest).await;
                    bounds.insert(shard.clone(), newest.map_err(|error| consumer.stream_error(error))?);
                }
                Some(bounds)
            }
        };
        let writer = LaneWriter::new(commit::Settings {
            generation: Arc::clone(&consumer.generation),
            lane,
            clock: Arc::clone(&consumer.clock),
            retry: consumer.retry,
            seed: consumer.seed.wrapping_add(u64::from(lane.index)),
        })
        .map_err(|error| consumer.lake_error(error))?;
        let buffer = EpochBuffer::new(EpochSettings {
            source: Arc::clone(&consumer.source),
            generation: Arc::clone(&consumer.generation),
            lane,
            pipeline: consumer.pipeline.clone(),
            spilling: Spilling {
                folder: consumer.spill_folder.clone(),
                // Half of what ends an epoch: one read may add a quarter before this is looked at again.
                from_bytes: policy::rows_in_memory_max(&consumer.limits, lane.count as usize) / 2,
                from_windows: policy::SPILL_WINDOWS_MIN,
            },
        });
        let now = consumer.clock.now();
        Ok(Self {
            consumer,
            lane,
            shards,
            bounds,
            writer,
            buffer,
            next: 0,
            empty: 0,
            first_read_at: now,
            last_read_at: now,
            encoded_ratio: FIRST_RATIO,
        })
    }

    async fn run(
        mut self,
        mut shutdown: watch::Receiver<bool>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let ready = self.writer.recover(&mut self.buffer).await.map_err(|error| self.consumer.lake_error(error))?;
        self.resume(ready);
        self.count_what_is_to_read();
        if let Some(recorded) = self.consumer.recorded.clone() {
            return self.follow(&recorded, &shutdown, &stopped).await;
        }
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
            let wake = tokio::select! {
                biased;
                () = is_true(&mut shutdown) => Wake::Shutdown,
                () = is_true(&mut stopped) => Wake::Shutdown,
                read = self.read(idle.then_some(pause)) => Wake::Read(read),
            };
            match wake {
                Wake::Shutdown => return self.cut(Reason::Shutdown).await,
                Wake::Read(Err(error)) => {
                    // What was read before is good: it is committed before the error is told.
                    self.cut(Reason::Shutdown).await?;
                    return Err(self.consumer.stream_error(error));
                }
                Wake::Read(Ok(Some(batch))) => {
                    pause = POLL_FIRST;
                    self.empty = 0;
                    self.add(&batch)?;
                }
                Wake::Read(Ok(None)) => {
                    self.empty += 1;
                    pause = if idle { (pause * 2).min(POLL_MAX) } else { pause };
                }
            }
            if let Some(reason) = self.decide() {
                self.cut(reason).await?;
            }
        }
    }

    /// Takes epoch after epoch as the recorded cuts say. A signal is looked for between two of them.
    async fn follow(
        &mut self,
        recorded: &RecordedCuts,
        shutdown: &watch::Receiver<bool>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let mut after = Epoch(0);
        while !*shutdown.borrow() && !*stopped.borrow() {
            let next = recorded.next(self.lane, after, self.buffer.positions()).await;
            let cut = match next.map_err(|error| self.consumer.lake_error(error))? {
                NextCut::Here(cut) => cut,
                NextCut::NoMore => return Ok(()),
                NextCut::Elsewhere(epoch) => return Err(Error::BetweenCuts { lane: self.lane, epoch }),
            };
            self.first_read_at = self.consumer.clock.now();
            let taken = self.buffer.take_recorded(&cut, &self.writer.tables()).await;
            taken.map_err(|error| self.consumer.lake_error(error))?;
            self.consumer.progress.events_read.fetch_add(self.buffer.event_count(), Ordering::Relaxed);
            self.cut(Reason::Recorded).await?;
            after = cut.epoch;
        }
        Ok(())
    }

    /// Reads the next shard; after a pause, when all of them had nothing. Changes nothing when it is cancelled. Returns
    /// within the pause and one read, so that the driver can look at what time it is.
    async fn read(&self, pause: Option<Duration>) -> Result<Option<Batch>, headwater_stream::Error> {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let Some(shard) = self.shards.get((self.next + self.empty) % self.shards.len().max(1)) else {
            // A lane without shards has nothing to do but to wait for the end.
            return std::future::pending().await;
        };
        let after = self.buffer.position(shard);
        // What is after the bound may be gone by now, and is not asked for.
        if self.bounds.as_ref().and_then(|bounds| bounds.get(shard)).is_some_and(|bound| after >= *bound) {
            return Ok(None);
        }
        let mut read = self.consumer.source.read(shard, after, READ_BYTES).await?;
        ::metrics::gauge!(metrics::MILLIS_BEHIND, "shard" => shard.to_string())
            .set(read.behind_latest.as_secs_f64() * 1000.0);
        if let Some(bound) = self.bounds.as_ref().and_then(|bounds| bounds.get(shard)) {
            read.events.retain(|event| event.position <= *bound);
        }
        // An epoch has exactly as many events as it may; the rest of the read comes again.
        let room = self.consumer.limits.rows.saturating_sub(self.buffer.event_count()).max(1);
        read.events.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        Ok((!read.events.is_empty()).then(|| Batch { shard: shard.clone(), events: read.events }))
    }

    fn add(&mut self, batch: &Batch) -> Result<(), Error> {
        let now = self.consumer.clock.now();
        if self.buffer.event_count() == 0 {
            self.first_read_at = now;
            let micros = u64::try_from(now.micros()).unwrap_or(0);
            self.consumer.progress.oldest_unflushed_micros.store(micros, Ordering::Relaxed);
        }
        self.last_read_at = now;
        // The next shard has its turn.
        self.next = self.shards.iter().position(|shard| *shard == batch.shard).map_or(0, |index| index + 1);
        self.buffer.add(batch, &self.writer.tables()).map_err(|error| self.consumer.lake_error(error))?;
        self.consumer.progress.events_read.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn decide(&self) -> Option<Reason> {
        let (memory_bytes, spilled_bytes) = (self.buffer.memory_bytes(), self.buffer.spilled_bytes());
        let buffered_bytes = memory_bytes as u64 + spilled_bytes;
        let WindowRows { windows, rows, largest } = self.buffer.window_rows();
        let windows = windows.max(1);
        // Rows of one table are about as large as each other.
        let window_bytes = u128::from(buffered_bytes) * u128::from(largest) / u128::from(rows.max(1));
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate of a positive size"
        )]
        let file_bytes = (buffered_bytes as f64 * self.encoded_ratio / windows as f64) as usize;
        let buffered = Buffered {
            events: self.buffer.event_count(),
            memory_bytes,
            spilled_bytes,
            file_bytes,
            // With few windows nothing is moved to disk, and the memory is what ends the epoch.
            window_bytes: if spilled_bytes > 0 { u64::try_from(window_bytes).unwrap_or(u64::MAX) } else { 0 },
            segments: self.buffer.segment_count(),
            closed_window: self.consumer.limits.window_close && self.buffer.has_closed_window(),
            first_read_at: self.first_read_at,
            last_read_at: self.last_read_at,
        };
        let lanes = self.consumer.generation.description.lanes as usize;
        policy::decide(&self.consumer.limits, lanes, &buffered, self.consumer.clock.now())
    }

    async fn cut(&mut self, reason: Reason) -> Result<(), Error> {
        if self.buffer.event_count() == 0 {
            return Ok(());
        }
        let buffered_bytes = self.buffer.memory_bytes() as u64 + self.buffer.spilled_bytes();
        let began = self.consumer.clock.now();
        let ready = self.writer.write(&mut self.buffer).await.map_err(|error| self.consumer.lake_error(error))?;
        let took = self.consumer.clock.now().since(began);
        self.consumer.progress.oldest_unflushed_micros.store(0, Ordering::Relaxed);
        if ready.positions.is_some() {
            tracing::warn!(lane = %self.lane, after = %ready.after, "another writer was faster; going on from the lake");
            self.resume(ready);
            return Ok(());
        }
        let ledger = self.buffer.proposed().expect("what was written was proposed").clone();
        self.count(&ledger, buffered_bytes, took);
        let account = &ledger.account;
        tracing::info!(
            lane = %self.lane,
            epoch = ready.after.0,
            events = account.read,
            dead_letters = account.dead_letters,
            ?reason,
            millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "epoch committed"
        );
        Ok(())
    }

    fn count(&mut self, ledger: &crate::epoch::Ledger, buffered_bytes: u64, took: Duration) {
        metrics::count_epoch(ledger);
        ::metrics::histogram!(headwater_lake::metrics::COMMIT_SECONDS).record(took.as_secs_f64());
        let waited = self.consumer.clock.now().since(self.first_read_at);
        ::metrics::histogram!(metrics::END_TO_END_SECONDS).record(waited.as_secs_f64());
        let progress = &self.consumer.progress;
        progress.events_committed.fetch_add(ledger.account.read, Ordering::Relaxed);
        progress.dead_letters.fetch_add(ledger.account.dead_letters, Ordering::Relaxed);
        progress.bytes_committed.fetch_add(ledger.bytes, Ordering::Relaxed);
        progress.epochs.fetch_add(1, Ordering::Relaxed);
        let encoded = self.writer.encoded_bytes();
        if buffered_bytes > 0 && encoded > 0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let ratio = encoded as f64 / buffered_bytes as f64;
            self.encoded_ratio = ratio;
        }
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

    /// Where sequence numbers have no gaps, the bounds say how many events there are to read.
    fn count_what_is_to_read(&self) {
        let Some(bounds) = self.bounds.as_ref().filter(|_| self.consumer.source.is_gap_free()) else {
            return;
        };
        let number = |position: Position| position.sequence.as_u64().unwrap_or(0);
        let left =
            |(shard, bound): (&ShardId, &Position)| number(*bound).saturating_sub(number(self.buffer.position(shard)));
        self.consumer.progress.events_to_read.fetch_add(bounds.iter().map(left).sum(), Ordering::Relaxed);
    }
}

/// Waits until the value turns true; for ever when its sender is gone.
async fn is_true(value: &mut watch::Receiver<bool>) {
    if value.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}
