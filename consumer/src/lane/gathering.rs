//! What a lane of a table gathers: rows. When it cuts, and what it says of an epoch.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::event::Batch;
use headwater_common::position::ShardId;
use headwater_common::timestamp::Timestamp;
use headwater_lake::commit::Reached;

use super::LaneRunner;
use crate::driver::{Ended, Error, Progress};
use crate::epoch::{Ledger, WindowRows};
use crate::follow::Signals;
use crate::metrics;
use crate::policy::{self, Buffered, Reason};
use crate::reading::{Gatherer, Reader};
use crate::shards::Positions;

#[async_trait]
impl Gatherer for LaneRunner {
    fn parts(&self) -> (&Reader, &Positions) {
        (&self.reader, self.buffer.positions())
    }

    fn parts_mut(&mut self) -> (&mut Reader, &Positions) {
        (&mut self.reader, self.buffer.positions())
    }

    fn progress(&self) -> &Progress {
        &self.consumer.progress
    }

    fn room(&self) -> u64 {
        self.consumer.limits.rows.saturating_sub(self.buffer.event_count()).max(1)
    }

    fn segment_count(&self) -> usize {
        self.buffer.segment_count()
    }

    fn add(&mut self, batch: Batch) -> Result<(), Error> {
        self.buffer.add(&batch, &self.writer.tables()).map_err(|error| self.consumer.lake_error(error))
    }

    fn end(&mut self, shard: &ShardId) {
        self.buffer.end(shard);
    }

    fn mark(&mut self, shard: &ShardId, time: Timestamp) {
        self.buffer.mark(shard, time);
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
        let segments = self.buffer.segment_count();
        let buffered = Buffered {
            events: self.buffer.event_count(),
            memory_bytes,
            spilled_bytes,
            file_bytes,
            // With few windows nothing is moved to disk, and the memory is what ends the epoch.
            window_bytes: if spilled_bytes > 0 { u64::try_from(window_bytes).unwrap_or(u64::MAX) } else { 0 },
            segments,
            ends_awaited: self.reader.are_ends_awaited(),
            marks_overdue: segments == 0 && self.reader.are_marks_overdue(self.buffer.positions()),
            closed_window: self.consumer.limits.window_close && self.buffer.has_closed_window(),
            first_read_at: self.reader.first_read_at(),
            last_read_at: self.reader.last_read_at(),
        };
        let lanes = self.lane.count as usize;
        policy::decide(&self.consumer.limits, lanes, &buffered, self.consumer.clock.now())
    }

    /// Cuts what is buffered, and looks for the next pointer.
    async fn cut(&mut self, reason: Reason, signals: &mut Signals) -> Result<Option<Ended>, Error> {
        if let Some(ended) = self.cut_and_wait(reason, signals).await? {
            return Ok(Some(ended));
        }
        if self.is_fenced {
            return Ok(Some(Ended::Fenced));
        }
        Ok(self.looks_moved(true).await?.then_some(Ended::Moved))
    }

    async fn finish(&mut self) -> Result<(), Error> {
        self.write(Reason::Shutdown).await.map(drop)
    }

    async fn has_moved(&self) -> Result<bool, Error> {
        self.looks_moved(false).await
    }

    fn is_to_close(&self) -> bool {
        self.is_asked_to_close()
    }

    async fn close(&mut self, signals: &mut Signals) -> Result<Ended, Error> {
        self.close_for_others(signals).await
    }
}

impl LaneRunner {
    /// Writes what is buffered as an epoch. Returns what stops the lane, if something does.
    pub(super) async fn write(&mut self, reason: Reason) -> Result<Option<Reached>, Error> {
        if self.buffer.segment_count() == 0 {
            return Ok(None);
        }
        let buffered_bytes = self.buffer.memory_bytes() as u64 + self.buffer.spilled_bytes();
        let began = self.consumer.clock.now();
        let reached = self.writer.write(&mut self.buffer).await.map_err(|error| self.consumer.lake_error(error))?;
        let took = self.consumer.clock.now().since(began);
        self.consumer.progress.oldest_unflushed_micros.store(0, Ordering::Relaxed);
        let ready = match reached {
            Reached::Ready(ready) => ready,
            stopped => return Ok(Some(stopped)),
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

    fn count(&mut self, ledger: &Ledger, buffered_bytes: u64, took: Duration) {
        metrics::count_epoch(ledger);
        ::metrics::histogram!(headwater_lake::metrics::COMMIT_SECONDS).record(took.as_secs_f64());
        if ledger.account.read > 0 {
            let waited = self.consumer.clock.now().since(self.reader.first_read_at());
            ::metrics::histogram!(metrics::END_TO_END_SECONDS).record(waited.as_secs_f64());
        }
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
}
