//! Time that passes only when something happens, and clocks that show it wrongly.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::timestamp::Timestamp;
use headwater_consumer::lease::machine::Moment;

/// The time since the world began.
pub(super) type Time = Duration;

/// What is going to happen, and when.
pub(super) struct Queue<H> {
    happenings: BTreeMap<(Time, u64), H>,
    count: u64,
    now: Time,
}

impl<H> Queue<H> {
    pub(super) fn new() -> Self {
        Self { happenings: BTreeMap::new(), count: 0, now: Time::ZERO }
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn at(&mut self, time: Time, happening: H) {
        self.count += 1;
        self.happenings.insert((time.max(self.now), self.count), happening);
    }

    pub(super) fn after(&mut self, pause: Duration, happening: H) {
        self.at(self.now + pause, happening);
    }

    /// Goes to the next happening up to that time, or to that time.
    pub(super) fn next(&mut self, until: Time) -> Option<H> {
        let entry = self.happenings.first_entry().filter(|entry| entry.key().0 <= until);
        let Some(entry) = entry else {
            self.now = until;
            return None;
        };
        let ((time, _), happening) = entry.remove_entry();
        self.now = time;
        Some(happening)
    }
}

/// The clock of one worker: it began anywhere, and goes too fast or too slowly.
pub(super) struct Clock {
    /// When it showed `offset`.
    since: Time,
    offset: Duration,
    /// Thousandths of the true rate.
    rate: u32,
}

/// The slowest clock's rate.
pub(super) const RATE_MIN: u32 = 970;
/// The fastest clock's rate.
pub(super) const RATE_MAX: u32 = 1030;

impl Clock {
    pub(super) fn new(since: Time, offset: Duration, rate: u32) -> Self {
        Self { since, offset, rate }
    }

    pub(super) fn shows(&self, now: Time) -> Moment {
        Moment(self.offset + (now - self.since) * self.rate / 1000)
    }

    /// Returns a time at which it shows the moment or a little more; `None` for a moment that never comes.
    pub(super) fn when(&self, moment: Moment) -> Option<Time> {
        let ahead = moment.0.saturating_sub(self.offset).checked_mul(1000)?;
        self.since.checked_add(ahead / self.rate + Duration::from_micros(1))
    }

    /// The whole machine was suspended, and the clock with it.
    pub(super) fn stood_still(&mut self, pause: Duration) {
        self.since += pause;
    }
}

/// Returns the time as the stream and its readers write it.
pub(super) fn timestamp(time: Time) -> Timestamp {
    Timestamp::from_micros(0).plus(time + Duration::from_micros(1))
}
