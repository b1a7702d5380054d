//! One lane of a consumer: recovers what is published, gathers epochs of its shards, waits in front of seals.
//!
//! What it reads is [`crate::reading`]'s, what an epoch is made of and how it is written `gathering`'s, what stops it
//! `seals`', how it ends for others `closing`'s.

mod closing;
mod gathering;
mod seals;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use headwater_lake::commit::{self, LaneWriter, Reached, Ready, Standing};
use headwater_lake::layout::{Epoch, Lane};

use crate::driver::{Consumer, Ended, Error};
use crate::epoch::{EpochBuffer, Settings as EpochSettings, Spilling};
use crate::follow::{Follower, Signals};
use crate::lease::keeper::Board;
use crate::policy::{self, Reason};
use crate::reading::{self, Gatherer, Reader};
use crate::recorded::{NextCut, RecordedCuts};
use crate::shards;

/// Encoded bytes per byte in memory that the first epoch is expected to need.
const FIRST_RATIO: f64 = 0.5;

/// Runs one lane.
pub(crate) struct LaneRunner {
    consumer: Consumer,
    lane: Lane,
    /// Looks for the next pointer; a candidate has none.
    follower: Option<Arc<Follower>>,
    reader: Reader,
    writer: LaneWriter,
    buffer: EpochBuffer,
    encoded_ratio: f64,
    /// Where its epochs are noted, when lanes are shared.
    board: Option<Arc<Board>>,
    /// Another writer was faster, and lanes are shared.
    is_fenced: bool,
    /// Whether the lane has nothing to do but to be closed.
    is_closing: bool,
}

impl LaneRunner {
    pub(crate) async fn start(
        consumer: Consumer,
        lane: Lane,
        standing: Standing,
        follower: Option<Arc<Follower>>,
    ) -> Result<Self, Error> {
        let settings = shards::Settings {
            source: Arc::clone(&consumer.source),
            generation: Arc::clone(&consumer.generation),
            lane,
            clock: Arc::clone(&consumer.clock),
        };
        let reader = Reader::start(settings, consumer.until.clone()).await?;
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
        Ok(Self {
            consumer,
            lane,
            follower,
            reader,
            writer,
            buffer,
            encoded_ratio: FIRST_RATIO,
            board: None,
            is_fenced: false,
            is_closing: false,
        })
    }

    /// Makes it one that shares lanes with other workers: it notes its epochs, and ends when another writer was faster.
    pub(crate) fn sharing(mut self, board: Option<Arc<Board>>) -> Self {
        self.board = board;
        self
    }

    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<Ended, Error> {
        // An epoch may have to be read again while the stream does not answer. To give that up is to crash, which the
        // next start makes good.
        let Ok(recovered) = signals.unless_stopped(self.recover_writer()).await else {
            return Ok(Ended::Done);
        };
        let recovered = recovered?;
        if let Some(ended) = self.unless_ready(recovered, &mut signals).await? {
            return Ok(ended);
        }
        if let Some(events) = self.reader.events_to_read(self.buffer.positions()) {
            self.consumer.progress.events_to_read.fetch_add(events, Ordering::Relaxed);
        }
        match self.consumer.recorded.clone() {
            Some(recorded) => self.follow(&recorded, &mut signals).await,
            None => reading::gather(&mut self, &mut signals).await,
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
            self.reader.begin_epoch();
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

    fn note(&self, epoch: Epoch) {
        if let Some(board) = &self.board {
            board.post(self.lane, epoch);
        }
    }

    fn resume(&mut self, ready: Ready) {
        self.note(ready.after);
        if let Some(positions) = ready.positions {
            self.buffer.resume(positions);
            self.reader.resume();
        }
    }
}
