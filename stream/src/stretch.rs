//! A part of one shard, read up to a bound.
//!
//! Guarantees: every event after a position up to the bound, in order. A read that gives nothing is no end: the stream
//! may be throttled, or its answer empty; only what a read says of itself ends the stretch. A bound that cannot be
//! reached any more is an error where its event was there once. Relies on the contract of [`Source`].

use std::time::Duration;

use headwater_common::event::Event;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;

use crate::{Error, Read, Source, StartAt};

/// How long to wait after a read that gave nothing: doubles up to some sixty times as much.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// Reads that end with the newest event and without the bound, in a row, until the bound counts as never written: the
/// servers of a stream need not agree at once on what is newest.
const COMPLETE_READS_MAX: u32 = 5;

/// Where reading of a shard ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// With the event at this position.
    At(Position),
    /// With the last event that arrived before that time.
    Before(Timestamp),
    /// With the newest event that a read finds which is asked at that time or later.
    Tip(Timestamp),
    /// With the last event of a shard that is closed, or will be.
    End,
}

/// How far the reader's clock may be behind the stream's: an event that seems to have arrived so much later than a time
/// did arrive after it.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

impl From<Position> for Bound {
    /// A mark before every event is a time: the stream has no number for its end. A mark on an event's position says
    /// nothing more of where that is.
    fn from(position: Position) -> Self {
        match position.complete_until() {
            _ if position == Position::SHARD_END => Self::End,
            Some(time) if position.unmarked() == Position::START => Self::Before(time),
            _ => Self::At(position.unmarked()),
        }
    }
}

impl Bound {
    /// Returns true when a reader that stands there has nothing more to read.
    pub fn is_reached_at(self, position: Position) -> bool {
        match self {
            Self::At(last) => position.unmarked() >= last,
            Self::Before(time) => {
                position == Position::SHARD_END || position.complete_until().is_some_and(|until| until >= time)
            }
            // Only a read can tell: a mark is of an earlier one.
            Self::Tip(_) => position == Position::SHARD_END,
            Self::End => position == Position::SHARD_END,
        }
    }

    /// Takes out of a read what lies beyond the bound; true when nothing up to the bound follows what is left.
    pub fn limit(self, read: &mut Read) -> bool {
        // Arrival times may go back a little inside a shard: the first late one ends it.
        let before = |time| read.events.iter().position(|event| event.arrived_at >= time).unwrap_or(read.events.len());
        let inside = match self {
            Self::At(last) => read.events.partition_point(|event| event.position <= last),
            Self::Before(time) => before(time),
            Self::Tip(time) => before(time.plus(CLOCKS_APART_MAX)),
            Self::End => read.events.len(),
        };
        if inside < read.events.len() {
            read.events.truncate(inside);
            // What was said of the whole read does not hold for a part of it.
            (read.ended, read.complete_until) = (false, None);
            return true;
        }
        read.ended
            || match self {
                Self::At(last) => read.events.last().is_some_and(|event| event.position >= last),
                Self::Before(time) | Self::Tip(time) => read.complete_until.is_some_and(|until| until >= time),
                Self::End => false,
            }
    }
}

/// Reads one shard up to a bound, part by part.
#[derive(Debug)]
pub struct Stretch<'a> {
    source: &'a dyn Source,
    shard: ShardId,
    after: Position,
    bound: Bound,
    /// Whether the bound is an event that was there when somebody read it.
    is_exact: bool,
    is_done: bool,
    /// Reads in a row that gave nothing.
    empty: u32,
    empty_max: u32,
    /// Reads since the last event that came to the newest one.
    complete: u32,
}

impl<'a> Stretch<'a> {
    /// Returns the stretch of a shard after a position, up to a bound.
    pub fn new(source: &'a dyn Source, shard: ShardId, after: Position, bound: Bound) -> Self {
        Self {
            source,
            shard,
            after,
            bound,
            is_exact: false,
            is_done: false,
            empty: 0,
            empty_max: u32::MAX,
            complete: 0,
        }
    }

    /// Returns the stretch that a segment names. Its last event was read before: that it is not there any more is an
    /// error. A segment without events is over at once.
    pub fn of_segment(source: &'a dyn Source, segment: &Segment) -> Self {
        let stretch = Self::new(source, segment.shard.clone(), segment.from, Bound::At(segment.to.unmarked()));
        Self { is_exact: true, is_done: segment.is_without_events(), ..stretch }
    }

    /// Returns the stretch that ends early when so many reads in a row gave nothing: for who needs no more than some of
    /// the events.
    #[must_use]
    pub fn giving_up_after(self, empty_max: u32) -> Self {
        Self { empty_max, ..self }
    }

    /// Returns the next events, at most `bytes_max` of payload but at least one event; none when the bound is reached.
    /// Waits while the stream has nothing to give and does not say that this is all.
    ///
    /// # Errors
    /// [`Error::Expired`] when retention was faster, [`Error::Ahead`] when the last event of a segment was never
    /// written.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Vec<Event>, Error> {
        while !self.is_done && !self.bound.is_reached_at(self.after) {
            let mut read = self.source.read(&self.shard, self.after, bytes_max).await?;
            self.is_done = self.bound.limit(&mut read);
            if let Some(last) = read.events.last() {
                (self.after, self.empty, self.complete) = (last.position, 0, 0);
                return Ok(read.events);
            }
            if self.is_done {
                break;
            }
            self.empty = self.empty.saturating_add(1);
            // The mark that was asked with says nothing of what is there now.
            self.complete += u32::from(read.complete_until > self.after.complete_until());
            if self.empty > self.empty_max || self.is_beyond(read.complete_until.is_some()).await? {
                self.is_done = true;
                break;
            }
            tokio::time::sleep(PAUSE_FIRST * (1_u32 << (self.empty - 1).min(PAUSE_DOUBLINGS_MAX))).await;
        }
        match self.bound {
            Bound::At(last) if self.is_exact && self.after.unmarked() < last && last != Position::SHARD_END => {
                Err(Error::Ahead { shard: self.shard.clone(), after: last, newest: self.after })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns true when the bound is after everything that the stream has: waiting would be for ever.
    async fn is_beyond(&self, is_numberless: bool) -> Result<bool, Error> {
        let Bound::At(last) = self.bound else {
            return Ok(false);
        };
        if is_numberless {
            return Ok(self.complete >= COMPLETE_READS_MAX);
        }
        let newest = self.source.resolve(&self.shard, StartAt::Latest).await?;
        Ok(newest.complete_until().is_none() && newest < last)
    }
}

#[cfg(test)]
mod tests;
