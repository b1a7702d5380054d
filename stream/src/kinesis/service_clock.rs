//! The service's time, as far as its answers tell: positions that are times (`latest`, and "nothing came until then")
//! are compared with arrival times, which are the service's. A machine whose clock is minutes off reads right.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use headwater_common::clock::Clock;
use headwater_common::timestamp::Timestamp;

/// How far the two clocks may be apart without a correction: answers name whole seconds, and take a while.
const AGREE: Duration = Duration::from_secs(2);

/// Tells the service's time.
pub(super) struct ServiceClock {
    clock: Arc<dyn Clock>,
    /// How far the service's clock is ahead of ours.
    ahead_micros: AtomicI64,
}

impl ServiceClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead_micros: AtomicI64::new(0) }
    }

    /// Returns the service's time; where that is not ours, rather too early than too late.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.now().micros().saturating_add(self.ahead_micros.load(Ordering::Relaxed)))
    }

    /// Learns the whole second in which an answer was made that has just come.
    fn answered_at(&self, date: Timestamp) {
        let ours = self.clock.now();
        let ahead = if ours.since(date).max(date.since(ours)) <= AGREE {
            0
        } else {
            date.micros().saturating_sub(ours.micros())
        };
        self.ahead_micros.store(ahead, Ordering::Relaxed);
    }
}

impl fmt::Debug for ServiceClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceClock").field("ahead_micros", &self.ahead_micros).finish_non_exhaustive()
    }
}

/// Reads the date of every answer of a client.
#[derive(Debug, Clone)]
pub(super) struct AnswerDates(pub(super) Arc<ServiceClock>);

#[dyn_dispatch_hint]
impl Intercept for AnswerDates {
    fn name(&self) -> &'static str {
        "headwater answer dates"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok()) {
            self.0.answered_at(Timestamp::from_micros(date.secs().saturating_mul(1_000_000)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use headwater_common::clock::ManualClock;

    use super::*;

    #[test]
    fn a_clock_that_is_minutes_off_tells_the_services_time() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let ours = Arc::new(ManualClock::at(at(1000)));
        let clock = ServiceClock::new(Arc::clone(&ours) as Arc<dyn Clock>);
        let check = |date: i64, expect: i64| {
            clock.answered_at(at(date));
            assert_eq!(clock.now(), at(expect), "answered at {date}");
        };
        check(1000, 1000);
        check(998, 1000);
        check(1002, 1000);
        check(1180, 1180);
        check(880, 880);
        ours.advance(Duration::from_secs(5));
        assert_eq!(clock.now(), at(885));
        check(1004, 1005);
    }
}
