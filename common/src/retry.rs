//! Back-off for requests that may work later: exponential with full jitter, bounded in tries.

use std::time::Duration;

/// How often and how long apart a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Tries in all, the first included.
    pub tries_max: u32,
    /// The upper bound of the first pause; it doubles each time.
    pub pause_first: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
}

impl Policy {
    /// For a lake's store, whose answers may stay away for a minute when it is overloaded.
    pub const STORE: Self =
        Self { tries_max: 20, pause_first: Duration::from_millis(20), pause_max: Duration::from_secs(10) };

    /// Returns the pause before try number `next` (2 is the first repetition), or `None` when the tries are used up.
    /// `random` is uniform in `0.0..1.0`: "full jitter".
    pub fn pause_before(&self, next: u32, random: f64) -> Option<Duration> {
        if next > self.tries_max {
            return None;
        }
        let doubled = self.pause_first.saturating_mul(1_u32.checked_shl(next.saturating_sub(2)).unwrap_or(u32::MAX));
        Some(doubled.min(self.pause_max).mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fm50_pauses_double_up_to_a_bound_and_tries_end() {
        let policy =
            Policy { tries_max: 4, pause_first: Duration::from_millis(100), pause_max: Duration::from_millis(300) };
        let pauses: Vec<_> = (2..=5).map(|next| policy.pause_before(next, 1.0)).collect();
        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses, [millis(100), millis(200), millis(300), None]);
        assert_eq!(policy.pause_before(2, 0.0), Some(Duration::ZERO));
    }
}
