//! Reading the shards of a lane in turn, for a table and for an archive alike: what a lane gathers between two cuts.
//!
//! Guarantees: every readable shard has its turn; nothing beyond a bound is taken; an ended shard is noted as ended
//! behind its last event, and its children follow it. What is not taken of a read comes again. Relies on the lane for
//! what becomes of the events, and on [`crate::shards`] for which shards may be read.
//!
//! ```text
//! look, when it is due: which shards -> read the next one -> events, its end -> cut, when there is a reason
//!                       ^                                                        | with the marks of quiet shards
//!                       +--------------------------------------------------------+
//! ```

mod bounds;
mod marks;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::event::{Batch, Event};
use headwater_common::position::ShardId;
use headwater_common::timestamp::Timestamp;
use headwater_stream::{Error as StreamError, Shard, Source};

pub(crate) use self::bounds::newest;
use self::bounds::{Bounds, LeftOut};
use self::marks::Marks;
use crate::driver::{Ended, Error, Progress, Until};
use crate::follow::{Signals, Told};
use crate::metrics;
use crate::policy::Reason;
use crate::shards::{LaneShards, Look, Positions, Settings, position_of};

/// Bytes that one read asks for.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// How long a lane waits when none of its shards had anything new: doubles up to the maximum while nothing comes. It is
/// also how late the age of what is buffered may be noticed.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);

/// What gathers what is read of a lane, and writes it.
#[async_trait]
pub(crate) trait Gatherer: Send + Sync {
    /// Returns the reader, and where each shard stands with what is buffered.
    fn parts(&self) -> (&Reader, &Positions);

    /// As [`Gatherer::parts`], to change the reader.
    fn parts_mut(&mut self) -> (&mut Reader, &Positions);

    /// Returns the counters for people who watch.
    fn progress(&self) -> &Progress;

    /// Returns how many events the epoch at hand may still have; at least 1.
    fn room(&self) -> u64;

    /// Returns how many stretches of shards are buffered.
    fn segment_count(&self) -> usize;

    /// Adds what a read gave.
    fn add(&mut self, batch: Batch) -> Result<(), Error>;

    /// Notes that a shard is read to its end.
    fn end(&mut self, shard: &ShardId);

    /// Notes that all of a shard that arrived before a time is read.
    fn mark(&mut self, shard: &ShardId, time: Timestamp);

    /// Returns why the epoch ends now, or `None` when it goes on.
    fn decide(&self) -> Option<Reason>;

    /// Writes what is buffered, if anything is. Returns how the lane ends when it ends by that.
    async fn cut(&mut self, reason: Reason, signals: &mut Signals) -> Result<Option<Ended>, Error>;

    /// Writes what is buffered, if anything is; nothing is read after it.
    async fn finish(&mut self) -> Result<(), Error>;

    /// Looks, at times, whether the lane is to go on elsewhere.
    async fn has_moved(&self) -> Result<bool, Error>;

    /// Returns true when the lane is to end because other lanes go on.
    fn is_to_close(&self) -> bool;

    /// Writes what is buffered and ends the lane for others.
    async fn close(&mut self, signals: &mut Signals) -> Result<Ended, Error>;
}

/// Reads the shards of a lane.
pub(crate) struct Reader {
    source: Arc<dyn Source>,
    clock: Arc<dyn Clock>,
    shards: LaneShards,
    until: Until,
    bounds: Option<Bounds>,
    marks: Marks,
    /// The shards that are read, in their order.
    turn: Vec<ShardId>,
    /// The shard that is read next.
    next: usize,
    /// Shards in a row that had nothing.
    empty: usize,
    pause: Duration,
    /// Shards whose end is buffered.
    ended: Vec<ShardId>,
    first_read_at: Timestamp,
    last_read_at: Timestamp,
}

/// What a read gave.
struct Found {
    shard: ShardId,
    events: Vec<Event>,
    /// Whether the shard is closed and nothing follows these events.
    ended: bool,
    complete_until: Option<Timestamp>,
    /// Whether nothing up to the shard's bound follows these events.
    is_reached: bool,
}

impl Reader {
    /// Finds out where to stop. Nothing is read before the first look.
    pub(crate) async fn start(settings: Settings, until: Until) -> Result<Self, Error> {
        let (source, clock) = (Arc::clone(&settings.source), Arc::clone(&settings.clock));
        let mut shards = LaneShards::start(settings).await?;
        let bounds = match &until {
            Until::Forever => None,
            Until::Reached(positions) => {
                shards.want(positions);
                Some(Bounds::given(positions, &shards.own()))
            }
            Until::Newest(found) => Some(Bounds::of_own(found, &shards.own())),
            Until::CaughtUp => {
                let bounds = Bounds::caught_up(source.as_ref(), shards.listed(), &shards.own()).await;
                Some(bounds.map_err(|error| Error::Stream { url: source.url(), source: error })?)
            }
        };
        let now = clock.now();
        Ok(Self {
            source,
            clock,
            shards,
            until,
            bounds,
            marks: Marks::new(now),
            turn: Vec::new(),
            next: 0,
            empty: 0,
            pause: POLL_FIRST,
            ended: Vec::new(),
            first_read_at: now,
            last_read_at: now,
        })
    }

    /// Returns all shards of the stream as they were listed last.
    pub(crate) fn listed(&self) -> &[Shard] {
        self.shards.listed()
    }

    /// Returns when the first of what is buffered was read.
    pub(crate) fn first_read_at(&self) -> Timestamp {
        self.first_read_at
    }

    /// Returns when the last of what is buffered was read.
    pub(crate) fn last_read_at(&self) -> Timestamp {
        self.last_read_at
    }

    /// Notes that the first of what is buffered is read now.
    pub(crate) fn begin_epoch(&mut self) {
        self.first_read_at = self.clock.now();
        self.last_read_at = self.first_read_at;
    }

    /// Forgets what reads have said: the positions are others.
    pub(crate) fn resume(&mut self) {
        self.bounds.iter_mut().for_each(Bounds::forget);
        self.marks.forget();
        self.ended.clear();
        self.shards.must_look();
    }

    /// Returns true when another lane waits for the end of a shard that is buffered here.
    pub(crate) fn are_ends_awaited(&self) -> bool {
        self.ended.iter().any(|shard| self.shards.is_awaited_elsewhere(shard))
    }

    /// Returns true when a mark is reason enough for a cut.
    pub(crate) fn are_marks_overdue(&self, positions: &Positions) -> bool {
        self.marks.are_overdue(positions)
    }

    /// Returns how many events there are to be read, where that can be told.
    pub(crate) fn events_to_read(&self, positions: &Positions) -> Option<u64> {
        let bounds = self.bounds.as_ref().filter(|_| self.source.is_gap_free())?;
        Some(bounds.events_after(positions))
    }

    fn is_caught_up(&self, positions: &Positions) -> bool {
        self.bounds.as_ref().is_some_and(|bounds| bounds.are_reached(positions))
    }

    fn is_idle(&self) -> bool {
        self.empty >= self.turn.len()
    }

    /// Takes what a look found: the shards that have their turn now.
    ///
    /// # Errors
    /// When one of them can never have its turn.
    fn see(&mut self, look: Look, positions: &Positions) -> Result<(), Error> {
        let last = self.next.checked_sub(1).and_then(|index| self.turn.get(index)).cloned();
        let has_changed = self.shards.see(look, positions);
        let mut turn = self.shards.readable().to_vec();
        if let Some(bounds) = &mut self.bounds {
            if let Until::Reached(wanted) = &self.until {
                let found = bounds.find_behind(self.shards.listed(), wanted, &self.shards.known(positions));
                found.map_err(|LeftOut { shard, parent }| Error::ParentLeftOut { shard, parent })?;
            }
            turn.retain(|shard| bounds.get(shard).is_some());
        }
        self.turn = turn;
        self.next =
            last.and_then(|last| self.turn.iter().position(|shard| *shard == last)).map_or(0, |index| index + 1);
        if has_changed {
            self.empty = 0;
        }
        Ok(())
    }

    /// Reads the next shard; after a pause, when all of them had nothing. Changes nothing when it is cancelled. Returns
    /// within the pause and one read, so that the driver can look at what time it is.
    async fn read(&self, positions: &Positions, room: u64) -> Result<Option<Found>, StreamError> {
        if self.is_idle() {
            tokio::time::sleep(self.pause).await;
        }
        let Some(shard) = self.turn.get((self.next + self.empty) % self.turn.len().max(1)) else {
            return Ok(None);
        };
        let after = position_of(positions, shard);
        // What is after the bound may be gone by now, and is not asked for.
        if self.bounds.as_ref().is_some_and(|bounds| bounds.is_reached(shard, after)) {
            return Ok(None);
        }
        let mut read = self.source.read(shard, after, READ_BYTES).await?;
        ::metrics::gauge!(metrics::MILLIS_BEHIND, "shard" => shard.to_string())
            .set(read.behind_latest.as_secs_f64() * 1000.0);
        let bound = self.bounds.as_ref().and_then(|bounds| bounds.get(shard));
        let mut is_reached = bound.is_some_and(|bound| bound.limit(&mut read));
        // An epoch has exactly as many events as it may; the rest of the read comes again.
        let room = usize::try_from(room.max(1)).unwrap_or(usize::MAX);
        if read.events.len() > room {
            read.events.truncate(room);
            (read.ended, read.complete_until, is_reached) = (false, None, false);
        }
        let (events, ended, complete_until) = (read.events, read.ended, read.complete_until);
        Ok(Some(Found { shard: shard.clone(), events, ended, complete_until, is_reached }))
    }

    /// Notes what a read gave, and whose turn is next.
    fn took(&mut self, found: &Found) {
        let Found { shard, events, ended, complete_until, is_reached } = found;
        self.marks.saw(shard, events.last().map(|event| event.arrived_at), *complete_until);
        if let Some(bounds) = self.bounds.as_mut().filter(|_| *is_reached) {
            bounds.reach(shard);
        }
        if *ended {
            self.marks.end(shard);
            self.ended.push(shard.clone());
            self.shards.must_look();
        }
        if events.is_empty() {
            return self.rest();
        }
        self.last_read_at = self.clock.now();
        self.pause = POLL_FIRST;
        self.empty = 0;
        self.next = self.turn.iter().position(|known| known == shard).map_or(0, |index| index + 1);
    }

    /// Notes that a shard had nothing.
    fn rest(&mut self) {
        if self.is_idle() {
            self.pause = (self.pause * 2).min(POLL_MAX);
        }
        self.empty += 1;
    }
}

/// Reads and cuts until the end that was asked for, or until the lane is told to stop: then what is buffered is cut.
///
/// # Errors
/// When the stream or the lake cannot be used. What was read before an error of the stream is good: it is committed
/// before the error is told.
pub(crate) async fn gather<G: Gatherer>(lane: &mut G, signals: &mut Signals) -> Result<Ended, Error> {
    loop {
        if lane.is_to_close() {
            return lane.close(signals).await;
        }
        let (reader, positions) = lane.parts();
        if reader.shards.is_due() {
            let looked = signals.unless_stopped(reader.shards.look(positions)).await;
            let looked = match looked {
                Err(told) => return stop(lane, told).await,
                Ok(looked) => looked,
            };
            let (reader, positions) = lane.parts_mut();
            if let Err(error) = looked.and_then(|look| reader.see(look, positions)) {
                finish(lane).await?;
                return Err(error);
            }
        }
        if is_caught_up(lane) {
            if let Some(ended) = cut(lane, Reason::Shutdown, signals).await? {
                return Ok(ended);
            }
            // When another writer was faster, the positions are the lake's again.
            if is_caught_up(lane) {
                return Ok(Ended::Done);
            }
            continue;
        }
        let (reader, positions) = lane.parts();
        let was_idle = reader.is_idle();
        let read = signals.unless_stopped(reader.read(positions, lane.room())).await;
        let found = match read {
            Err(told) => return stop(lane, told).await,
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let url = lane.parts().0.source.url();
                finish(lane).await?;
                return Err(Error::Stream { url, source: error });
            }
        };
        let is_nothing = found.as_ref().is_none_or(|found| found.events.is_empty());
        take(lane, found)?;
        if was_idle && is_nothing && lane.has_moved().await? {
            return Ok(Ended::Moved);
        }
        if let Some(reason) = lane.decide()
            && let Some(ended) = cut(lane, reason, signals).await?
        {
            return Ok(ended);
        }
    }
}

fn is_caught_up<G: Gatherer>(lane: &G) -> bool {
    let (reader, positions) = lane.parts();
    reader.is_caught_up(positions)
}

async fn stop<G: Gatherer>(lane: &mut G, told: Told) -> Result<Ended, Error> {
    if told != Told::Leave {
        finish(lane).await?;
    }
    Ok(Ended::Done)
}

/// Takes what a read gave.
fn take<G: Gatherer>(lane: &mut G, found: Option<Found>) -> Result<(), Error> {
    let Some(mut found) = found else {
        lane.parts_mut().0.rest();
        return Ok(());
    };
    let is_first = lane.segment_count() == 0 && (found.ended || !found.events.is_empty());
    if is_first {
        lane.parts_mut().0.begin_epoch();
        let micros = u64::try_from(lane.parts().0.first_read_at.micros()).unwrap_or(0);
        lane.progress().oldest_unflushed_micros.store(micros, Ordering::Relaxed);
    }
    lane.parts_mut().0.took(&found);
    if !found.events.is_empty() {
        let events = std::mem::take(&mut found.events);
        lane.progress().events_read.fetch_add(events.len() as u64, Ordering::Relaxed);
        lane.add(Batch { shard: found.shard.clone(), events })?;
    }
    if found.ended {
        lane.end(&found.shard);
    }
    Ok(())
}

async fn cut<G: Gatherer>(lane: &mut G, reason: Reason, signals: &mut Signals) -> Result<Option<Ended>, Error> {
    mark_quiet_shards(lane);
    let ended = lane.cut(reason, signals).await?;
    forget_written(lane);
    Ok(ended)
}

async fn finish<G: Gatherer>(lane: &mut G) -> Result<(), Error> {
    mark_quiet_shards(lane);
    lane.finish().await?;
    forget_written(lane);
    Ok(())
}

fn mark_quiet_shards<G: Gatherer>(lane: &mut G) {
    let (reader, positions) = lane.parts();
    let due = reader.marks.due(positions);
    if !due.is_empty() && lane.segment_count() == 0 {
        lane.parts_mut().0.begin_epoch();
    }
    for (shard, time) in due {
        lane.mark(&shard, time);
    }
}

fn forget_written<G: Gatherer>(lane: &mut G) {
    if lane.segment_count() == 0 {
        lane.parts_mut().0.ended.clear();
    }
}
