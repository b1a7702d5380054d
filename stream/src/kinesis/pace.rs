//! When a shard may be asked again: within the service's limits, seldom while nothing comes, later after a refusal.

use std::time::Duration;

use headwater_common::retry::Policy;

use super::limits::{READ_BYTES_PER_SECOND, READS_PER_SECOND};

/// How far apart a shard is asked at least.
pub(super) const READS_APART: Duration = Duration::from_millis(1000 / READS_PER_SECOND as u64);

/// How far apart a shard is asked while nothing comes.
const IDLE_APART_MAX: Duration = Duration::from_secs(1);

/// Pauses after refusals and lost connections. Tries do not end: the stream comes back, or the user stops.
pub(super) const LATER: Policy =
    Policy { tries_max: u32::MAX, pause_first: Duration::from_millis(500), pause_max: Duration::from_secs(10) };

/// The pace of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pace {
    /// Answers in a row that were the tip without a record.
    idle: u32,
    /// Requests in a row that failed.
    failures: u32,
}

impl Pace {
    /// Returns how long after a request the next may follow, when it was answered with so many bytes. `is_idle` says
    /// that there was nothing to give.
    pub(super) fn after_answer(&mut self, bytes: usize, is_idle: bool) -> Duration {
        self.failures = 0;
        self.idle = if is_idle { self.idle.saturating_add(1) } else { 0 };
        let doubled = READS_APART.saturating_mul(1_u32.checked_shl(self.idle.saturating_sub(1)).unwrap_or(u32::MAX));
        let millis = bytes.saturating_mul(1000) / READ_BYTES_PER_SECOND;
        doubled.min(IDLE_APART_MAX).max(Duration::from_millis(millis as u64))
    }

    /// Returns true when more than the last request failed.
    pub(super) fn fails_again(&self) -> bool {
        self.failures > 1
    }

    /// Returns how long after a failure the next request may follow; `random` is uniform in `0.0..1.0`.
    pub(super) fn after_failure(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = LATER.pause_before(self.failures.saturating_add(1), random);
        pause.unwrap_or(LATER.pause_max).max(READS_APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn five_reads_a_second_and_two_mebibytes_a_second() {
        let mut pace = Pace::default();
        for (bytes, expect) in [(0, 200), (MIB / 10, 200), (MIB, 500), (10 * MIB, 5000)] {
            assert_eq!(pace.after_answer(bytes, false), millis(expect), "{bytes}");
        }
    }

    #[test]
    fn an_idle_shard_is_asked_every_second_and_a_busy_one_at_once_again() {
        let mut pace = Pace::default();
        let idle: Vec<_> = (0..5).map(|_| pace.after_answer(0, true)).collect();
        assert_eq!(idle, [200, 400, 800, 1000, 1000].map(millis));
        assert_eq!(pace.after_answer(100, false), millis(200));
        assert_eq!(pace.after_answer(0, true), millis(200));
    }

    #[test]
    fn fm50_throttles_spread_the_requests_up_to_ten_seconds() {
        let mut pace = Pace::default();
        let longest: Vec<_> = (0..7).map(|_| pace.after_failure(1.0)).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 10_000, 10_000].map(millis));
        assert_eq!(pace.after_failure(0.0), READS_APART, "the limit holds however the dice fall");
        pace.after_answer(0, false);
        assert_eq!(pace.after_failure(1.0), millis(500), "an answer ends the row");
        for _ in 0..100 {
            pace.after_failure(1.0);
        }
        assert_eq!(pace.after_failure(1.0), millis(10_000));
    }
}
