//! How fast rows go out: as fast as it goes, at a rate, or as their event times were apart.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use headwater_common::quantity::Rate;
use headwater_common::timestamp::Timestamp;

/// How often a second a paced run sends: a rate is kept within a twentieth of a second.
const SENDS_PER_SECOND: u32 = 20;

/// The pace that the user wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Unlimited,
    /// So many rows or bytes a second.
    Rate(Rate),
    /// As far apart as the event times are, so many times faster.
    EventTime {
        /// 60 sends an hour of events in a minute. Above 0.
        speedup: f64,
    },
}

/// Keeps the pace.
pub struct Pacer {
    pace: Pace,
    limiter: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
    began: Option<(tokio::time::Instant, Timestamp)>,
    pass: u32,
}

impl Pacer {
    /// Returns a pacer that begins now.
    pub fn new(pace: Pace) -> Self {
        let limiter = match pace {
            Pace::Rate(Rate::Rows(amount) | Rate::Bytes(amount)) => {
                let amount = NonZeroU32::new(amount).expect("a rate is above zero");
                let burst = NonZeroU32::new((amount.get() / SENDS_PER_SECOND).max(1)).expect("at least one");
                Some(RateLimiter::direct(Quota::per_second(amount).allow_burst(burst)))
            }
            _ => None,
        };
        Self { pace, limiter, clock: DefaultClock::default(), began: None, pass: 0 }
    }

    /// Returns the rows and bytes that a batch should have at most, to keep the pace evenly.
    pub fn batch_max(&self) -> (usize, usize) {
        let share = |amount: u32| (amount / SENDS_PER_SECOND).max(1) as usize;
        match self.pace {
            Pace::Unlimited => (usize::MAX, usize::MAX),
            Pace::Rate(Rate::Rows(amount)) => (share(amount), usize::MAX),
            Pace::Rate(Rate::Bytes(amount)) => (usize::MAX, share(amount)),
            Pace::EventTime { .. } => (usize::MAX, usize::MAX),
        }
    }

    /// Returns how far apart in event time the rows of a batch may be.
    pub fn batch_span(&self) -> Option<Duration> {
        match self.pace {
            Pace::EventTime { speedup } => Some(Duration::from_secs_f64(speedup / f64::from(SENDS_PER_SECOND))),
            _ => None,
        }
    }

    /// Waits until a batch may go out. With every pass over the inputs the event times begin anew.
    pub async fn wait(&mut self, rows: usize, bytes: usize, last_time: Option<Timestamp>, pass: u32) {
        if pass != self.pass {
            self.pass = pass;
            self.began = None;
        }
        match self.pace {
            Pace::Unlimited => {}
            Pace::Rate(Rate::Rows(_)) => self.wait_for(rows).await,
            Pace::Rate(Rate::Bytes(_)) => self.wait_for(bytes).await,
            Pace::EventTime { speedup } => {
                let Some(time) = last_time else { return };
                let (start, first) = *self.began.get_or_insert_with(|| (tokio::time::Instant::now(), time));
                let after = time.since(first).div_f64(speedup);
                tokio::time::sleep_until(start + after).await;
            }
        }
    }

    async fn wait_for(&self, amount: usize) {
        let limiter = self.limiter.as_ref().expect("a rate has a limiter");
        let mut left = u32::try_from(amount).unwrap_or(u32::MAX);
        while left > 0 {
            // A single row may be larger than the burst: it is paid for in parts.
            let mut part = left;
            loop {
                let cells = NonZeroU32::new(part).expect("above zero");
                match limiter.check_n(cells) {
                    Ok(Ok(())) => break,
                    Ok(Err(not_yet)) => tokio::time::sleep(not_yet.wait_time_from(self.clock.now())).await,
                    Err(too_many) => part = too_many.0,
                }
            }
            left -= part;
        }
    }
}
