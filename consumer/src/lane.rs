//! One lane of a consumer: reads its shards in turn, decides when to cut, hands epochs to the commit protocol, waits in
//! front of seals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_common::event::Batch;
use headwater_common::hash;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::commit::{self, LaneWriter, Reached, Ready, Standing, Unblock};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{Epoch, Lane, PointerNumber};
use headwater_lake::pointer;
use headwater_stream::StartAt;

use crate::driver::{Consumer, Ended, Error, Until};
use crate::epoch::{EpochBuffer, Settings as EpochSettings, Spilling, WindowRows};
use crate::follow::{Follower, Signals, Told};
use crate::lease::keeper::Board;
use crate::metrics;
use crate::policy::{self, Buffered, Reason};
use crate::recorded::{NextCut, RecordedCuts};

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// How long a lane waits when none of its shards had anything new: doubles up to the maximum while nothing comes. It is
/// also how late the age of what is buffered may be noticed.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);

/// How long apart a blocked lane looks whether its seal is decided.
const BLOCKED_POLL: Duration = Duration::from_millis(500);

/// Encoded bytes per byte in memory that the first epoch is expected to need.
const FIRST_RATIO: f64 = 0.5;

/// What a read gave.
enum Found {
    /// Events up to the bound.
    Events(Batch),
    /// Nothing new.
    Nothing,
    /// The shard's next event is after its bound.
    End(ShardId),
}

/// Runs one lane.
pub(crate) struct LaneRunner {
    consumer: Consumer,
    lane: Lane,
    /// Looks for the next pointer; a candidate has none.
    follower: Option<Arc<Follower>>,
    shards: Vec<ShardId>,
    /// Where to stop in each shard.
    bounds: Option<BTreeMap<ShardId, Position>>,
    writer: LaneWriter,
    buffer: EpochBuffer,
    /// The shard that is read next.
    next: usize,
    /// Shards in a row that had nothing.
    empty: usize,
    /// Shards that have no event up to their bound any more, although they do not stand at it.
    ended: BTreeSet<ShardId>,
    first_read_at: Timestamp,
    last_read_at: Timestamp,
    encoded_ratio: f64,
    /// Where its epochs are noted, when lanes are shared.
    board: Option<Arc<Board>>,
    /// Another writer was faster, and lanes are shared.
    is_fenced: bool,
}

impl LaneRunner {
    pub(crate) async fn start(
        consumer: Consumer,
        lane: Lane,
        standing: Standing,
        follower: Option<Arc<Follower>>,
    ) -> Result<Self, Error> {
        let all = consumer.source.shards().await.map_err(|error| consumer.stream_error(error))?;
        let mine = all.into_iter().filter(|shard| hash::slice_of(shard.first_hash_key, lane.count) == lane.index);
        let mut shards: Vec<_> = mine.map(|shard| shard.id).collect();
        let bounds = match &consumer.until {
            Until::Forever => None,
            Until::Reached(positions) => {
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
            standing,
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
            follower,
            shards,
            bounds,
            writer,
            buffer,
            next: 0,
            empty: 0,
            ended: BTreeSet::new(),
            first_read_at: now,
            last_read_at: now,
            encoded_ratio: FIRST_RATIO,
            board: None,
            is_fenced: false,
        })
    }

    /// Makes it one that shares lanes with other workers: it notes its epochs, and ends when another writer was faster.
    pub(crate) fn sharing(mut self, board: Option<Arc<Board>>) -> Self {
        self.board = board;
        self
    }

    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<Ended, Error> {
        if let Reached::Blocked(seal) = self.recover_writer().await?
            && let Some(ended) = self.unblock(seal, &mut signals).await?
        {
            return Ok(ended);
        }
        self.count_what_is_to_read();
        if let Some(recorded) = self.consumer.recorded.clone() {
            return self.follow(&recorded, &mut signals).await;
        }
        let mut pause = POLL_FIRST;
        loop {
            if self.is_caught_up() {
                if let Some(ended) = self.cut(Reason::Shutdown, &mut signals).await? {
                    return Ok(ended);
                }
                // When another writer was faster, the positions are the lake's again.
                if self.is_caught_up() {
                    return Ok(Ended::Done);
                }
                continue;
            }
            let idle = self.empty >= self.shards.len();
            let woken = signals.unless_stopped(self.read(idle.then_some(pause))).await;
            match woken {
                Err(Told::Leave) => return Ok(Ended::Done),
                Err(_) => {
                    self.write(Reason::Shutdown).await?;
                    return Ok(Ended::Done);
                }
                Ok(Err(error)) => {
                    // What was read before is good: it is committed before the error is told.
                    self.write(Reason::Shutdown).await?;
                    return Err(self.consumer.stream_error(error));
                }
                Ok(Ok(Found::Events(batch))) => {
                    pause = POLL_FIRST;
                    self.empty = 0;
                    self.add(&batch)?;
                }
                Ok(Ok(Found::End(shard))) => {
                    self.ended.insert(shard);
                    self.empty += 1;
                }
                Ok(Ok(Found::Nothing)) => {
                    self.empty += 1;
                    if idle {
                        pause = (pause * 2).min(POLL_MAX);
                        if self.has_moved(false).await? {
                            return Ok(Ended::Moved);
                        }
                    }
                }
            }
            if let Some(reason) = self.decide()
                && let Some(ended) = self.cut(reason, &mut signals).await?
            {
                return Ok(ended);
            }
        }
    }

    /// Cuts what is buffered, and looks for the next pointer. Returns how the lane ends when it ends by that.
    async fn cut(&mut self, reason: Reason, signals: &mut Signals) -> Result<Option<Ended>, Error> {
        if let Some(seal) = self.write(reason).await? {
            return self.unblock(seal, signals).await;
        }
        if self.is_fenced {
            return Ok(Some(Ended::Fenced));
        }
        Ok(self.has_moved(true).await?.then_some(Ended::Moved))
    }

    /// Looks for the next pointer, now or when it is time again; true when another generation is live.
    async fn has_moved(&self, now: bool) -> Result<bool, Error> {
        let Some(follower) = &self.follower else {
            return Ok(false);
        };
        let time = self.consumer.clock.now();
        let moved = if now { follower.has_moved(time).await } else { follower.has_moved_at_times(time).await };
        moved.map_err(|error| self.consumer.lake_error(error))
    }

    /// Waits in front of a seal until its pointer is decided, and decides it when the seal is overdue. `None` when the
    /// lane goes on in this generation.
    async fn unblock(&mut self, seal: PointerNumber, signals: &mut Signals) -> Result<Option<Ended>, Error> {
        if self.follower.is_none() {
            return Ok(Some(Ended::Overtaken));
        }
        let own = self.consumer.generation.description.number;
        let (mut seal, mut since) = (seal, self.consumer.clock.now());
        tracing::info!(lane = %self.lane, pointer = %seal, "the lane is sealed; waiting for the pointer");
        loop {
            let highest = self.consumer.highest_pointer().await?;
            let waited = self.consumer.clock.now().since(since);
            match commit::unblock(seal, own, &highest, waited, self.consumer.seal_wait) {
                Unblock::MoveTo(_) => return Ok(Some(Ended::Moved)),
                Unblock::Pass => match self.recover_writer().await? {
                    Reached::Ready(_) => return Ok(None),
                    Reached::Blocked(next) if next != seal => (seal, since) = (next, self.consumer.clock.now()),
                    // The pointer has moved between the two looks.
                    Reached::Blocked(_) => {}
                },
                Unblock::Break(pointer) => {
                    tracing::warn!(lane = %self.lane, pointer = %seal, "the seal is overdue; its tool counts as dead");
                    let OpenGeneration { store, table, .. } = self.consumer.generation.as_ref();
                    // Whoever wins: the next look tells.
                    let created = pointer::create(store, table, &pointer).await;
                    created.map_err(|error| self.consumer.lake_error(error))?;
                }
                Unblock::Wait => {
                    if signals.unless_stopped(tokio::time::sleep(BLOCKED_POLL)).await.is_err() {
                        return Ok(Some(Ended::Done));
                    }
                }
            }
        }
    }

    /// Finds out where the lane stands, finishes what is published, and takes up the positions.
    pub(crate) async fn recover_writer(&mut self) -> Result<Reached, Error> {
        let recovered = self.writer.recover(&mut self.buffer).await;
        let reached = recovered.map_err(|error| self.consumer.lake_error(error))?;
        if let Reached::Ready(ready) = &reached {
            self.resume(ready.clone());
        }
        Ok(reached)
    }

    /// Takes epoch after epoch as the recorded cuts say. A signal is looked for between two of them.
    async fn follow(&mut self, recorded: &RecordedCuts, signals: &mut Signals) -> Result<Ended, Error> {
        let mut after = Epoch(0);
        while !signals.is_stopped() {
            let next = recorded.next(self.lane, after, self.buffer.positions()).await;
            let cut = match next.map_err(|error| self.consumer.lake_error(error))? {
                NextCut::Here(cut) => cut,
                NextCut::NoMore => return Ok(Ended::Done),
                NextCut::Elsewhere(epoch) => return Err(Error::BetweenCuts { lane: self.lane, epoch }),
            };
            self.first_read_at = self.consumer.clock.now();
            let taken = self.buffer.take_recorded(&cut, &self.writer.tables()).await;
            taken.map_err(|error| self.consumer.lake_error(error))?;
            self.consumer.progress.events_read.fetch_add(self.buffer.event_count(), Ordering::Relaxed);
            if let Some(ended) = self.cut(Reason::Recorded, signals).await? {
                return Ok(ended);
            }
            after = cut.epoch;
        }
        Ok(Ended::Done)
    }

    /// Reads the next shard; after a pause, when all of them had nothing. Changes nothing when it is cancelled. Returns
    /// within the pause and one read, so that the driver can look at what time it is.
    async fn read(&self, pause: Option<Duration>) -> Result<Found, headwater_stream::Error> {
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
            return Ok(Found::Nothing);
        }
        let mut read = self.consumer.source.read(shard, after, READ_BYTES).await?;
        ::metrics::gauge!(metrics::MILLIS_BEHIND, "shard" => shard.to_string())
            .set(read.behind_latest.as_secs_f64() * 1000.0);
        if let Some(bound) = self.bounds.as_ref().and_then(|bounds| bounds.get(shard)) {
            let count = read.events.len();
            read.events.retain(|event| event.position <= *bound);
            if read.events.is_empty() && count > 0 {
                // The bound is no event's position: the next event is after it.
                return Ok(Found::End(shard.clone()));
            }
        }
        // An epoch has exactly as many events as it may; the rest of the read comes again.
        let room = self.consumer.limits.rows.saturating_sub(self.buffer.event_count()).max(1);
        read.events.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let batch = Batch { shard: shard.clone(), events: read.events };
        Ok(if batch.events.is_empty() { Found::Nothing } else { Found::Events(batch) })
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

    /// Writes what is buffered as an epoch. Returns the seal that blocks the lane, if one does.
    async fn write(&mut self, reason: Reason) -> Result<Option<PointerNumber>, Error> {
        if self.buffer.event_count() == 0 {
            return Ok(None);
        }
        let buffered_bytes = self.buffer.memory_bytes() as u64 + self.buffer.spilled_bytes();
        let began = self.consumer.clock.now();
        let reached = self.writer.write(&mut self.buffer).await.map_err(|error| self.consumer.lake_error(error))?;
        let took = self.consumer.clock.now().since(began);
        self.consumer.progress.oldest_unflushed_micros.store(0, Ordering::Relaxed);
        let ready = match reached {
            Reached::Ready(ready) => ready,
            Reached::Blocked(seal) => return Ok(Some(seal)),
        };
        if ready.positions.is_some() {
            tracing::warn!(lane = %self.lane, after = %ready.after, "another writer was faster; going on from the lake");
            self.is_fenced = self.board.is_some();
            self.resume(ready);
            return Ok(None);
        }
        self.note(ready.after);
        let ledger = self.buffer.proposed().expect("what was written was proposed").clone();
        self.count(&ledger, buffered_bytes, took);
        let account = &ledger.account;
        tracing::info!(
            lane = %self.lane,
            epoch = ready.after.0,
            events = account.read,
            filtered = account.filtered,
            dead_letters = account.dead_letters,
            ?reason,
            millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "epoch committed"
        );
        Ok(None)
    }

    fn count(&mut self, ledger: &crate::epoch::Ledger, buffered_bytes: u64, took: Duration) {
        metrics::count_epoch(ledger);
        ::metrics::histogram!(headwater_lake::metrics::COMMIT_SECONDS).record(took.as_secs_f64());
        let waited = self.consumer.clock.now().since(self.first_read_at);
        ::metrics::histogram!(metrics::END_TO_END_SECONDS).record(waited.as_secs_f64());
        let progress = &self.consumer.progress;
        progress.events_committed.fetch_add(ledger.account.read, Ordering::Relaxed);
        progress.dead_letters.fetch_add(ledger.account.dead_letters, Ordering::Relaxed);
        progress.filtered.fetch_add(ledger.account.filtered, Ordering::Relaxed);
        progress.bytes_committed.fetch_add(ledger.bytes, Ordering::Relaxed);
        progress.epochs.fetch_add(1, Ordering::Relaxed);
        let encoded = self.writer.encoded_bytes();
        if buffered_bytes > 0 && encoded > 0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let ratio = encoded as f64 / buffered_bytes as f64;
            self.encoded_ratio = ratio;
        }
    }

    fn note(&self, epoch: Epoch) {
        if let Some(board) = &self.board {
            board.post(self.lane, epoch);
        }
    }

    fn resume(&mut self, ready: Ready) {
        self.note(ready.after);
        if let Some(positions) = ready.positions {
            self.ended.clear();
            self.buffer.resume(positions);
        }
    }

    fn is_caught_up(&self) -> bool {
        self.bounds.as_ref().is_some_and(|bounds| bounds.iter().all(|(shard, bound)| self.is_at_end(shard, *bound)))
    }

    fn is_at_end(&self, shard: &ShardId, bound: Position) -> bool {
        self.buffer.position(shard) >= bound || self.ended.contains(shard)
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
