//! Reading one shard: what was fetched is handed out, and the next request is under way meanwhile.
//!
//! ```text
//! read(after) --> buffer has events after it?  hand them out
//!             --> the request is done?         admit its answer (cursor), hand it out
//!             --> else                         nothing yet: the caller comes again
//! all handed out --> start the next request, at the shard's pace
//! ```

use std::sync::Arc;
use std::time::Duration;

use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::cursor::{Ask, Cursor};
use super::fan_out::{self, Subscription};
use super::fetch::{self, Page, Trouble};
use super::limits::SUBSCRIBE_APART;
use super::pace::Pace;
use super::plan::{Begin, Trimmed};
use super::running::{Died, Running};
use super::stream::Stream;
use crate::{Error, Read};

/// How far apart it is looked whether a time has come that reading begins with.
const NOT_YET_APART: Duration = Duration::from_secs(1);

/// A request is waited for when it was due no longer ago: its answer may come any moment. Others have their turn
/// meanwhile when it takes longer, as an event of a quiet subscription does.
const SOON: Duration = Duration::from_millis(50);

/// A reader that was not asked for so long gives its memory to others that need it.
const ABANDONED: Duration = Duration::from_secs(30);

/// A request under way.
type Request = Running<Result<Page, Trouble>>;

/// What a step comes to.
#[derive(Debug)]
pub(super) enum Step {
    /// This is the read.
    Read(Read),
    /// Nothing is there, and a request is under way whose answer this tells.
    Wait(Arc<Notify>),
}

/// The reader of one shard.
#[derive(Debug)]
pub(super) struct ShardReader {
    shard: ShardId,
    /// What was taken: everything up to there. A place before every event keeps its mark.
    taken: Position,
    /// A time that a read without events named for `taken`: a mark with it is the same place.
    quiet_until: Option<Timestamp>,
    /// What was fetched after `taken`.
    buffer: Buffer,
    /// Where fetching goes on.
    cursor: Cursor,
    /// The subscription that goes on there.
    subscription: Option<Box<Subscription>>,
    /// When one was asked for last.
    subscribed_at: Option<Instant>,
    request: Option<Request>,
    /// When the next request may be made.
    due: Instant,
    pace: Pace,
    asked_at: Instant,
    random: SmallRng,
}

impl ShardReader {
    /// Returns a reader that has asked for nothing yet.
    pub(super) fn new(shard: ShardId, now: Instant, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            shard,
            taken: Position::START,
            quiet_until: None,
            buffer: Buffer::default(),
            cursor: Cursor::new(Position::START),
            subscription: None,
            subscribed_at: None,
            request: None,
            due: now,
            pace: Pace::default(),
            asked_at: now,
            random,
        }
    }

    /// Gives back the memory of a reader that nobody asks any more. Asked again, it fetches again.
    pub(super) fn leave_if_abandoned(&mut self, now: Instant) {
        if now.duration_since(self.asked_at) >= ABANDONED {
            let known = if self.buffer.is_empty() { self.cursor.complete_until() } else { None };
            self.begin_anew(self.taken);
            self.cursor.note_complete_until(known);
        }
    }

    /// Hands out what is there after `after`, and sees to it that there will be more.
    pub(super) fn step(
        &mut self,
        stream: &Arc<Stream>,
        after: Position,
        bytes_max: usize,
        now: Instant,
    ) -> Result<Step, Error> {
        self.asked_at = now;
        self.take_up(after);
        if self.buffer.is_empty()
            && let Some(result) = self.request.as_mut().and_then(Running::result)
        {
            self.request = None;
            self.take_answer(stream, result, now)?;
        }
        let served = self.buffer.serve(after, bytes_max);
        if served.events.is_empty() {
            // The rest of the record that was read in part: there was none.
            self.buffer.clear();
        }
        let is_all = served.is_all;
        let ended = is_all && self.cursor.has_ended();
        let waits = if is_all && !ended {
            match self.request_more(stream, now) {
                Err(error) if served.events.is_empty() => return Err(error),
                // What there is comes first; the error comes again.
                Err(_) => None,
                Ok(waits) => waits,
            }
        } else {
            None
        };
        if served.events.is_empty()
            && !ended
            && let Some(ready) = waits
        {
            return Ok(Step::Wait(ready));
        }
        Ok(Step::Read(self.read(served.events, is_all, served.behind_last)))
    }

    /// Returns a read without events, while an answer is under way.
    pub(super) fn nothing_yet(&mut self) -> Read {
        self.read(Vec::new(), true, Duration::ZERO)
    }

    fn read(&mut self, events: Vec<Event>, is_all: bool, behind_last: Duration) -> Read {
        let complete_until = if is_all { self.cursor.complete_until() } else { None };
        if events.is_empty() {
            self.quiet_until = self.quiet_until.max(complete_until);
        }
        let behind_latest = self.cursor.behind() + behind_last;
        Read { events, behind_latest, ended: is_all && self.cursor.has_ended(), complete_until }
    }

    /// Learns how far the caller is: it took what it was given, or some of it, or stands elsewhere.
    fn take_up(&mut self, after: Position) {
        let place = after.unmarked();
        let same = if place == Position::START {
            // `START` is the oldest record there is, and a mark before every event begins with a time.
            let (began, named) = (self.taken.complete_until(), after.complete_until());
            self.taken.unmarked() == place && (began == named || (began < named && named <= self.quiet_until))
        } else {
            self.taken.unmarked() == place || self.buffer.holds(place.sequence)
        };
        if !same {
            self.begin_anew(after);
            return;
        }
        if self.taken.unmarked() != place {
            (self.taken, self.quiet_until) = (place, None);
        }
        self.buffer.drop_taken(place);
        if self.buffer.is_empty() {
            self.cursor.note_complete_until(after.complete_until());
        }
    }

    fn begin_anew(&mut self, after: Position) {
        let is_start = after.unmarked() == Position::START;
        self.taken = if is_start { after } else { after.unmarked() };
        self.quiet_until = None;
        self.buffer.clear();
        self.cursor = Cursor::new(after);
        self.subscription = None;
        self.request = None;
    }

    fn take_answer(
        &mut self,
        stream: &Stream,
        result: Result<Result<Page, Trouble>, Died>,
        now: Instant,
    ) -> Result<(), Error> {
        let random = self.random.random();
        match result {
            Ok(Ok(page)) => return self.admit(stream, page),
            Ok(Err(Trouble::Over)) => self.due = now,
            Ok(Err(Trouble::NotYet)) => self.due = now + NOT_YET_APART,
            Ok(Err(Trouble::Lost(error))) => {
                self.cursor.lose_token();
                self.due = now + self.pace.after_failure(random);
                // Once is an ordinary day.
                if self.pace.fails_again() {
                    stream.warn(&self.shard, &error);
                }
            }
            Ok(Err(Trouble::Later(error))) => {
                stream.warn(&self.shard, &error);
                self.due = now + self.pace.after_failure(random);
            }
            Ok(Err(Trouble::Fatal(error))) => {
                self.begin_anew(self.taken);
                self.due = now + self.pace.after_failure(random);
                return Err(*error);
            }
            Err(Died) => {
                tracing::error!(shard = %self.shard, "a request for records ended without an answer");
                self.cursor.lose_token();
                self.due = now + self.pace.after_failure(random);
            }
        }
        Ok(())
    }

    fn admit(&mut self, stream: &Stream, page: Page) -> Result<(), Error> {
        let Page { answer, bytes, asked, subscription, room } = page;
        let is_idle = answer.records.is_empty() && answer.behind.is_zero();
        self.due = asked + self.pace.after_answer(bytes, is_idle);
        match self.cursor.admit(answer, asked, stream.facts()) {
            Ok(records) => {
                self.buffer.fill(records, Some(room));
                self.subscription = subscription.filter(|_| self.cursor.goes_on());
                Ok(())
            }
            Err(trimmed) => {
                let error = self.expired(trimmed);
                self.begin_anew(self.taken);
                Err(error)
            }
        }
    }

    fn expired(&self, Trimmed { oldest }: Trimmed) -> Error {
        Error::Expired { shard: self.shard.clone(), after: self.taken, oldest }
    }

    /// Sees to it that a request is under way, and returns what tells of its answer; `None` when that may take longer.
    fn request_more(&mut self, stream: &Arc<Stream>, now: Instant) -> Result<Option<Arc<Notify>>, Error> {
        if self.request.is_none() {
            self.request = self.start(stream, now)?;
        }
        let is_soon = self.due <= now && now.duration_since(self.due) < SOON;
        Ok(self.request.as_ref().filter(|_| is_soon).map(Running::ready))
    }

    fn start(&mut self, stream: &Arc<Stream>, now: Instant) -> Result<Option<Request>, Error> {
        let (stream, shard) = (Arc::clone(stream), self.shard.clone());
        if let Some(subscription) = self.subscription.take() {
            // It is in the service's hands when the next event comes.
            self.due = now;
            return Ok(Some(Running::start(async move { fan_out::receive(&stream, subscription).await })));
        }
        let facts = stream.facts();
        let ask = self.cursor.ask(now, facts).map_err(|trimmed| self.expired(trimmed))?;
        if matches!(&ask, Ask::Begin(Begin::AtTime(time)) if *time > facts.now) {
            return Ok(None);
        }
        if stream.consumer.is_some()
            && let Some(at) = self.subscribed_at
        {
            self.due = self.due.max(at + SUBSCRIBE_APART);
        }
        self.due = self.due.max(now);
        let due = self.due;
        self.subscribed_at = Some(due);
        Ok(Some(Running::start(async move {
            tokio::time::sleep_until(due).await;
            match &stream.consumer {
                None => fetch::poll(&stream, &shard, ask).await,
                Some(consumer) => match fan_out::subscribe(&stream, consumer, &shard, &ask).await {
                    Ok(subscription) => fan_out::receive(&stream, subscription).await,
                    Err(trouble) => Err(trouble),
                },
            }
        })))
    }
}
